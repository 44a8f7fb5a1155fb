"""What remote reads cost a server: CPU, latency, bytes, memory.

    python -m benchmarks.reads --repeats 3 --results RESULTS.jsonl

Each server is filled, made to write everything down (the bridge into the lake, Prometheus into
blocks) and started anew on that, so that both answer from disk with a warm page cache. The first
answer to each question is compared sample by sample with what was sent, all others by their counts.

- `reads`: one metric of 10 000 series, 61 scrapes: one series, 100 series, all of them.
- `day`: one series of a whole day of 2000 series; `--flushes 24` makes so many files of it.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from benchmarks.command_line import command_line
from benchmarks.contestants import Contestant, Server, find, running
from benchmarks.fleet import Expected, Workload, open_workload
from benchmarks.load import send
from benchmarks.meter import MIB
from benchmarks.read_client import Question, ReadClient, differences
from benchmarks.report import Row, record, table
from bridge.wire.remote_read_pb2 import TimeSeries

REPEATS_MIN = 5
ASK_S_MIN = 3.0
"""So long each question is asked again: CPU is counted in ticks of 10 ms."""
HOUR_MS = 3_600_000
ASKED = ["SAMPLES", "STREAMED_XOR_CHUNKS"]


def questions(workload: Workload, expected: Expected) -> Iterator[tuple[str, Question]]:
    """What is asked of a workload, by name."""
    whole = (workload.start_ms, workload.end_ms)
    middle = TimeSeries.FromString(expected.labels[len(expected.labels) // 2]).labels
    one = [("=", label.name, label.value) for label in middle]
    yield "1 series", Question(one, *whole)
    if workload.name != "reads":
        yield "1 series, 1 h of it", Question(one, whole[1] - HOUR_MS + 1, whole[1])
        return
    name = ("=", "__name__", "http_requests_total")
    # 50 series each, see catalogue.ONE_METRIC
    rows = (0, len(expected.labels) // 2)
    pods = [
        label.value
        for row in rows
        for label in TimeSeries.FromString(expected.labels[row]).labels
        if label.name == "pod"
    ]
    yield "100 series", Question([name, ("=~", "pod", "|".join(pods))], *whole)
    yield "10 k series", Question([name], *whole)


def measure(server: Server, question: Question, expected: Expected) -> tuple[Row, list[str]]:
    """Asks one question again and again; returns what was measured, and what was wrong."""
    body = question.encode()
    right = question.select(expected)
    right_counts = (len(right), sum(len(times) for times, _ in right.values()))
    with ReadClient(server.url) as client, server.meter.watch_rss() as peak:
        answer = client.ask(body)
        wrong = differences(right, answer.decode())
        latencies_s: list[float] = []
        cpu_s = server.meter.cpu_s()
        began_s = time.monotonic()
        while len(latencies_s) < REPEATS_MIN or time.monotonic() - began_s < ASK_S_MIN:
            answer = client.ask(body)
            latencies_s.append(answer.latency_s)
            if answer.count() != right_counts:
                wrong.append(f"{answer.count()} series and samples, not {right_counts}")
        cpu_s = server.meter.cpu_s() - cpu_s
    if answer.is_streamed != question.is_streamed:
        wrong.append("the other response type came")
    row = {
        "series": right_counts[0],
        "samples": right_counts[1],
        "asked": ASKED[question.is_streamed] + (" with hints" if question.has_hints else ""),
        "cpu_ms": cpu_s / len(latencies_s) * 1000,
        "samples_per_cpu_s": right_counts[1] * len(latencies_s) / max(cpu_s, 0.01),
        "bytes": len(answer.body),
        "p50_ms": statistics.median(latencies_s) * 1000,
        "max_ms": max(latencies_s) * 1000,
        "rss_mib": peak[0] / MIB,
        "repeats": len(latencies_s),
        "wrong": wrong,
    }
    return row, wrong


def fill(contestant: Contestant, workload: Workload, flush_count: int, folder: Path) -> Path:
    """Sends a workload, has it written down in so many pieces; returns the folder to reopen."""
    with running(contestant, folder) as server:
        for number in range(flush_count):
            sent = send(workload, f"{server.url}/api/v1/write", 4, (number, flush_count))
            if sent.refused_count:
                raise SystemExit(f"{contestant.name} refused samples: {sent.error}")
            server.flush()
        return server.settle_at_rest().reopened


def run(
    contestant: Contestant, workload: Workload, flush_count: int, work: Path | None
) -> Iterator[tuple[Row, list[str]]]:
    """All questions to one server."""
    expected = workload.expected()
    profile = workload.name if flush_count == 1 else f"{workload.name}, {flush_count} flushes"
    with tempfile.TemporaryDirectory(prefix="prombridge-reads-", dir=work) as temporary:
        folder = fill(contestant, workload, flush_count, Path(temporary) / contestant.name)
        with running(contestant, folder) as server:
            for name, question in questions(workload, expected):
                for is_streamed in (False, True):
                    for has_hints in (False, True):
                        asked = replace(question, is_streamed=is_streamed, has_hints=has_hints)
                        row, wrong = measure(server, asked, expected)
                        described = {
                            "benchmark": "reads",
                            "server": contestant.name,
                            "version": contestant.version,
                            "profile": profile,
                            "case": name,
                        }
                        yield described | row, wrong


def main() -> int:
    """Measures, prints a table; 1 if any answer was wrong."""
    parser = command_line(__doc__, ["reads", "day"])
    parser.add_argument("--flushes", type=int, default=1, help="a workload comes in so many parts")
    arguments = parser.parse_args()
    contestants = find(arguments.servers.split(","), arguments.bridge_flag)
    workloads = [open_workload(arguments.data, name) for name in arguments.profile]
    rows: list[Row] = []
    is_right = True
    for _ in range(arguments.repeats):
        for workload in workloads:
            for contestant in contestants:
                for row, wrong in run(contestant, workload, arguments.flushes, arguments.work):
                    place = f"{contestant.name}, {row['profile']}, {row['case']}, {row['asked']}"
                    for finding in wrong[:5]:
                        print(f"WRONG: {place}: {finding}", file=sys.stderr)
                    is_right = is_right and not wrong
                    record(arguments.results, row)
                    rows.append(row)
    print(table("reads", rows))
    return 0 if is_right else 1


if __name__ == "__main__":
    sys.exit(main())
