"""What a line into InfluxDB costs this process, from the WAL record to the server's answer.

    python -m benchmarks.lines [PROFILE] [-n 3] [--batch-lines 5000,20000]

A workload is put into a WAL; then the InfluxDB sink follows it into a real influxd on loopback,
which starts with an empty bucket. Charged is all CPU of this process from the sink's first look at
the log until the last line is stored: reading, decompressing, decoding, rendering, gzip, HTTP, the
cursor. The rival gets the same samples as Python values, so that it is charged for no decoding: the
official client's `Point` and `WriteApi`, synchronous, gzip on, 5000 lines a request, as its
documentation advises. Both are believed only when Flux counts what was sent.

The stages are measured by a renderer of their own, apart from the run; `other` is what is left:
HTTP, reading and checking the log, the cursor.
"""

import argparse
import json
import resource
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cramjam
import numpy as np
from influxdb_client.client.influxdb_client import InfluxDBClient
from influxdb_client.client.write.point import Point
from influxdb_client.client.write_api import SYNCHRONOUS
from isal import igzip_lib

from benchmarks.fleet import DEFAULT_DATA, PROFILES, Workload, open_workload
from benchmarks.meter import machine
from bridge.wire import remote_write_pb2
from bridge.wire.decoded import Limits
from bridge.write.sinks.influxdb.client import GZIP_LEVEL, InfluxdbClient
from bridge.write.sinks.influxdb.renderer import Renderer
from bridge.write.sinks.influxdb.settings import InfluxdbSettings
from bridge.write.sinks.influxdb.sink import READ_BYTES, InfluxdbSink
from bridge.write.wal.log import ReplayReport, WalSettings, WriteAheadLog
from bridge.write.wal.tail import WalTail
from tests.integration.influxdb import InfluxDb

RIVAL_LINES = 100_000
RIVAL_BATCH = 5000
SETTLED_S_MAX = 900.0
REPLICA_LABELS = (b"__replica__",)


def cpu_s() -> float:
    """User and system CPU seconds of this process and all its threads."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


@contextmanager
def filled_log(folder: Path, workload: Workload) -> Iterator[WriteAheadLog]:
    """A WAL with the whole workload, shards in turns as they come from a Prometheus."""
    wal = WriteAheadLog(WalSettings(folder / "wal"))
    for _ in wal.replay(0, ReplayReport()):
        pass
    shards = [workload.read_shard(shard) for shard in range(len(workload.index["shards"]))]
    for at in range(max(map(len, shards))):
        for shard in shards:
            if at < len(shard):
                body, count = shard[at]
                wal.append(
                    receive_ms=workload.end_ms, fmt=1, refused=b"", body=body, sample_count=count
                )
        wal.sync()
    del shards
    try:
        yield wal
    finally:
        wal.close()


def count_points(server: InfluxDb, bucket: str) -> int:
    """What Flux counts."""
    flux = f'from(bucket: "{bucket}") |> range(start: 0) |> count() |> group() |> sum()'
    return int(server.query(flux)[0]["_value"])


def follow(
    server: InfluxDb, wal: WriteAheadLog, folder: Path, batch_lines: int
) -> dict[str, float]:
    """Runs the sink over the whole log."""
    bucket = server.make_bucket()
    token = folder / "token"
    token.write_text(server.token)
    settings = InfluxdbSettings(
        url=server.url,
        org=server.org,
        bucket=bucket,
        token_file=token,
        start="oldest",
        batch_lines=batch_lines,
        dead_letter_path=folder / "letters.lp",
    )
    cursor_path = folder / f"{bucket}.cursor"
    sink = InfluxdbSink(
        settings,
        wal,
        InfluxdbClient(settings),
        Renderer(REPLICA_LABELS, settings.mapping, Limits()),
        cursor_path,
    )
    thread = threading.Thread(target=sink.run)
    started_s, started_cpu_s = time.monotonic(), cpu_s()
    sink.recover()
    thread.start()
    while sink.cursor.sample_total < wal.safe_sample_total:
        assert time.monotonic() - started_s < SETTLED_S_MAX, sink.last_error
        time.sleep(0.05)
    spent_cpu_s, spent_s = cpu_s() - started_cpu_s, time.monotonic() - started_s
    sink.stop()
    thread.join()
    cursor = sink.cursor
    assert cursor.delivered + sum(cursor.dropped.values()) == wal.safe_sample_total
    assert count_points(server, bucket) == cursor.delivered, "Flux counts something else"
    server.delete_bucket(bucket)
    return {
        "lines": cursor.delivered,
        "lines_per_cpu_s": cursor.delivered / spent_cpu_s,
        "ns_per_line": spent_cpu_s / cursor.delivered * 1e9,
        "lines_per_s": cursor.delivered / spent_s,
        "requests": sum(sink.request_counts.values()),
    }


def stages(wal: WriteAheadLog, batch_lines: int) -> dict[str, float]:
    """CPU ns a line of what the sink does to it before it is sent."""
    renderer = Renderer(REPLICA_LABELS, "measurement-per-metric", Limits())
    tail = WalTail(wal)
    seconds = dict.fromkeys(("decode", "render", "gzip"), 0.0)
    line_count = text_bytes = sent_bytes = after = 0
    while records := tail.read(after, READ_BYTES):
        started_s = time.thread_time()
        for record in records:
            renderer.add(record)
        seconds["decode"] += time.thread_time() - started_s
        started_s = time.thread_time()
        for lines in renderer.render(batch_lines, {}):
            seconds["render"] += time.thread_time() - started_s
            started_s = time.thread_time()
            body = igzip_lib.compress(lines.text.data, GZIP_LEVEL, igzip_lib.COMP_GZIP)
            seconds["gzip"] += time.thread_time() - started_s
            line_count += len(lines)
            text_bytes += len(lines.text.data)
            sent_bytes += len(body)
            started_s = time.thread_time()
        renderer.clear()
        after = records[-1].number
    tail.close()
    found = {stage: spent_s / line_count * 1e9 for stage, spent_s in seconds.items()}
    return {
        **found,
        "text_bytes_per_line": text_bytes / line_count,
        "sent_bytes_per_line": sent_bytes / line_count,
    }


def rival_samples(workload: Workload) -> list[tuple[str, list[tuple[str, str]], int, float]]:
    """Metric, tags, time and value of the first lines, as a Python program would have them."""
    samples: list[tuple[str, list[tuple[str, str]], int, float]] = []
    for body, _ in workload.read_shard(0):
        request = remote_write_pb2.WriteRequest.FromString(
            bytes(cramjam.snappy.decompress_raw(body))
        )
        for series in request.timeseries:
            labels = {label.name.decode(): label.value.decode() for label in series.labels}
            metric = labels.pop("__name__")
            samples += [
                (metric, list(labels.items()), sample.timestamp, sample.value)
                for sample in series.samples
                if np.isfinite(sample.value)
            ]
        if len(samples) >= RIVAL_LINES:
            break
    return samples[:RIVAL_LINES]


def run_rival(server: InfluxDb, workload: Workload) -> dict[str, float]:
    """The official client, point by point."""
    bucket = server.make_bucket()
    samples = rival_samples(workload)
    with InfluxDBClient(server.url, server.token, org=server.org, enable_gzip=True) as client:
        writes = client.write_api(write_options=SYNCHRONOUS)
        started_s, started_cpu_s = time.monotonic(), cpu_s()
        for first in range(0, len(samples), RIVAL_BATCH):
            points = []
            for metric, labels, timestamp_ms, value in samples[first : first + RIVAL_BATCH]:
                point = Point(metric).field("value", value).time(timestamp_ms)
                for name, text in labels:
                    point.tag(name, text)
                points.append(point)
            writes.write(bucket, record=points, write_precision="ms")
        spent_cpu_s, spent_s = cpu_s() - started_cpu_s, time.monotonic() - started_s
    assert count_points(server, bucket) == len(samples), "Flux counts something else"
    server.delete_bucket(bucket)
    return {
        "lines": len(samples),
        "lines_per_cpu_s": len(samples) / spent_cpu_s,
        "ns_per_line": spent_cpu_s / len(samples) * 1e9,
        "lines_per_s": len(samples) / spent_s,
        "requests": -(-len(samples) // RIVAL_BATCH),
    }


def show(name: str, runs: list[dict[str, float]]) -> None:
    """A line of medians."""
    medians = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
    print(f"{name:28}", json.dumps({key: round(value, 1) for key, value in medians.items()}))


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("profile", nargs="?", default="10k-x-600", choices=PROFILES)
    parser.add_argument("--repeats", "-n", type=int, default=1)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA, help="where bodies are cached")
    parser.add_argument("--work", type=Path, help="where WAL and InfluxDB store, on a real disk")
    parser.add_argument(
        "--batch-lines", default="20000", help="lines of a request, several by comma"
    )
    arguments = parser.parse_args()
    workload = open_workload(arguments.data, arguments.profile)
    print(machine())
    sizes = [int(text) for text in arguments.batch_lines.split(",")]
    with (
        tempfile.TemporaryDirectory(dir=arguments.work) as made,
        filled_log(Path(made), workload) as wal,
        InfluxDb(Path(made) / "influxdb") as server,
    ):
        show("stages, ns a line", [stages(wal, sizes[0]) for _ in range(arguments.repeats)])
        runs: dict[str, list[dict[str, float]]] = {}
        for _ in range(arguments.repeats):
            for size in sizes:
                name = f"sink, batches of {size}"
                runs.setdefault(name, []).append(follow(server, wal, Path(made), size))
            runs.setdefault("influxdb-client", []).append(run_rival(server, workload))
        for name, found in runs.items():
            show(name, found)


if __name__ == "__main__":
    main()
