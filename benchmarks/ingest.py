"""What it costs a server to take a workload in: CPU, memory, bytes.

    python -m benchmarks.ingest 10k-x-600 --repeats 3 --results RESULTS.jsonl

Each server in turn gets the same bodies, over and over if repeated, so that the servers are
interleaved. It is charged the user and system CPU of its process tree from the first request until
it is idle again; the bridge's flush into the lake lies within. A 2xx is no proof: the server's own
counter and its files have to say what was sent, and some series are read back and compared bit by
bit.
"""

import sys
import tempfile
from pathlib import Path

from benchmarks.command_line import command_line
from benchmarks.contestants import Contestant, Server, find, running
from benchmarks.fleet import Workload, open_workload
from benchmarks.load import Sent, send
from benchmarks.meter import MIB, disk_bytes
from benchmarks.read_client import Question, ReadClient, differences
from benchmarks.report import Row, record, table
from bridge.wire.remote_read_pb2 import TimeSeries

SETTLE_S_MAX = 180.0
READ_BACK_SERIES = 16


def measure(
    contestant: Contestant, workload: Workload, connection_count: int, work: Path | None
) -> tuple[Row, list[str]]:
    """One run on an empty folder; returns what was measured, and what was wrong."""
    with (
        tempfile.TemporaryDirectory(prefix="prombridge-ingest-", dir=work) as temporary,
        running(contestant, Path(temporary) / contestant.name) as server,
    ):
        meter = server.meter
        with meter.watch_rss() as peak:
            cpu_s, written_bytes = meter.cpu_s(), meter.written_bytes()
            sent = send(workload, f"{server.url}/api/v1/write", connection_count)
            cpu_answered_s = meter.cpu_s() - cpu_s
            server.flush()
            is_idle = meter.wait_idle(SETTLE_S_MAX)
            cpu_settled_s = meter.cpu_s() - cpu_s
            written_bytes = meter.written_bytes() - written_bytes
        at_rest = server.settle_at_rest()
        wrong = [] if is_idle else [f"not idle {SETTLE_S_MAX:g} s after the last request"]
        wrong += check(server, workload, sent, at_rest.sample_count)
        count = workload.sample_count
        samples_alone = at_rest.stored / "samples"
        row = {
            "benchmark": "ingest",
            "server": contestant.name,
            "version": contestant.version,
            "profile": workload.name,
            "samples": count,
            "cpu_s": cpu_settled_s,
            "samples_per_cpu_s": count / cpu_settled_s,
            "samples_per_cpu_s_until_answered": count / cpu_answered_s,
            "rss_mib": peak[0] / MIB,
            "bytes_at_rest_per_sample": disk_bytes(at_rest.stored) / count,
            "bytes_of_samples_per_sample": (
                disk_bytes(samples_alone) / count if samples_alone.exists() else None
            ),
            "bytes_written_per_sample": written_bytes / count,
            "p50_ms": sent.quantile_ms(0.5),
            "p99_ms": sent.quantile_ms(0.99),
            "samples_per_s": count / (sent.ended_s - sent.started_s),
            "codes": dict(sent.codes),
            "wrong": wrong,
        }
        return row, wrong


def check(server: Server, workload: Workload, sent: Sent, at_rest_count: int) -> list[str]:
    """Whether all that was sent is there: by status, counter, files, and by reading some of it."""
    wrong = []
    if sent.sample_count != workload.sample_count or sent.refused_count:
        wrong.append(f"{sent.refused_count} answers were not 2xx; the first: {sent.error}")
    counts = {"the server counts": server.stored_count(), "its files hold": at_rest_count}
    for place, count in counts.items():
        if count != workload.sample_count:
            wrong.append(f"{place} {count} samples of {workload.sample_count}")
    expected = workload.expected()
    step = max(1, len(expected.labels) // READ_BACK_SERIES)
    with ReadClient(server.url) as client:
        for labels in expected.labels[::step]:
            pairs = TimeSeries.FromString(labels).labels
            question = Question(
                [("=", pair.name, pair.value) for pair in pairs],
                workload.start_ms,
                workload.end_ms,
            )
            try:
                answer = client.ask(question.encode())
            except ValueError as error:
                return [*wrong, f"cannot be read back: {error}"]
            wrong += differences(question.select(expected), answer.decode())
    return wrong


def main() -> int:
    """Measures, prints a table; 1 if any run lost or changed something."""
    parser = command_line(__doc__, ["100k-x-60", "10k-x-600", "1m-x-5"])
    parser.add_argument("--connections", type=int, default=4)
    arguments = parser.parse_args()
    contestants = find(arguments.servers.split(","), arguments.bridge_flag)
    workloads = [open_workload(arguments.data, name) for name in arguments.profile]
    rows: list[Row] = []
    is_right = True
    for _ in range(arguments.repeats):
        for workload in workloads:
            for contestant in contestants:
                row, wrong = measure(contestant, workload, arguments.connections, arguments.work)
                for finding in wrong:
                    print(f"WRONG: {contestant.name}, {workload.name}: {finding}", file=sys.stderr)
                is_right = is_right and not wrong
                record(arguments.results, row)
                rows.append(row)
    print(table("ingest", rows))
    return 0 if is_right else 1


if __name__ == "__main__":
    sys.exit(main())
