"""What a read costs by the shape of the files that it is read from.

    python -m benchmarks.scan [--series 10000] [--flushes 0,1,10,60]

Lakes are made file by file, without a receiver, so that their shape is known; the read endpoint
serves each from a process of its own, over HTTP. Beside it stands DuckDB, which scans the same
files in this process, one thread, and joins the series, but merges, encodes and sends nothing.

- `hour`: one metric, 61 samples a series, one file: the bulk of an hour.
- `minutes`: the same series every 15 s in 60 files of a minute: an hour before its compaction.
- `day`: one series out of a day of 5000, and of as many flushes of a minute of 100 000 series.
"""

import argparse
import asyncio
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np
import uvloop
import xxhash
from aiohttp import web
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

from benchmarks.meter import Meter
from benchmarks.read_client import Question, ReadClient
from benchmarks.waveforms import KINDS, draw
from bridge.lake.lake import Lake
from bridge.lake.parquet import SeriesBatch, write_samples, write_series
from bridge.lake.schema import SAMPLES, SERIES
from bridge.lake.store import Store, open_store
from bridge.read.endpoint import ReadEndpoint
from bridge.read.settings import ReadSettings
from bridge.telemetry import configure_logging
from bridge.wire.decoded import LabelRows

DAY = "2026-11-21"
DAY_START_MS = 1_795_219_200_000
MINUTE_MS = 60_000
ASK_S_MIN = 3.0
"""So long each question is asked: CPU is counted in ticks of 10 ms."""
ROUNDS = 3
BATCH = 32_768
SHARES = {
    "constant": 31, "idle": 21, "counter": 19, "gauge": 17, "nanosecond": 4, "centisecond": 3,
    "noise": 5, "decimal": 1,
}  # fmt: skip


@dataclass(frozen=True)
class Fleet:
    """Series sorted as files are.

    Attributes:
        metrics: names, ascending.
        metric_of_rank: (n,) int32.
        series_ids: (n,) int64.
        labels: of each series.
    """

    metrics: list[str]
    metric_of_rank: NDArray[np.int32]
    series_ids: NDArray[np.int64]
    labels: list[list[tuple[bytes, bytes]]]


def make_fleet(metrics: Sequence[str], series_per_metric: int) -> Fleet:
    """Series with ten labels of 400 bytes."""
    series = []
    for place, metric in enumerate(metrics):
        own = []
        for index in range(series_per_metric):
            labels = make_labels(metric, index)
            text = b"".join(part + b"\xff" for label in labels for part in label)
            own.append((int(np.uint64(xxhash.xxh3_64_intdigest(text)).view(np.int64)), labels))
        series += [(place, *one) for one in sorted(own, key=lambda one: one[0])]
    return Fleet(
        list(metrics),
        np.array([one[0] for one in series], np.int32),
        np.array([one[1] for one in series], np.int64),
        [one[2] for one in series],
    )


def make_labels(metric: str, index: int) -> list[tuple[bytes, bytes]]:
    """Labels of a series as a Kubernetes fleet has them."""
    namespace, pod = f"team-{index % 20:02}-checkout", f"checkout-{index % 20}-api-{index:07x}"
    labels = {
        "__name__": metric,
        "cluster": "prod-eu-west-1",
        "container": f"checkout-{index % 20}-api",
        "endpoint": "https-metrics",
        "handler": f"/api/v1/orders/{{id}}/items/{index % 11}",
        "image": f"482910337765.dkr.ecr.eu-west-1.amazonaws.com/checkout-api:v4.{index % 30}.7",
        "instance": f"10.{index >> 16 & 255}.{index >> 8 & 255}.{index & 255}:8443",
        "job": namespace,
        "namespace": namespace,
        "node": f"ip-10-4-{index % 7}-{index % 50}.eu-west-1.compute.internal",
        "pod": f"{pod}-{index * 7919 % 99991:05}",
    }
    return [(name.encode(), value.encode()) for name, value in sorted(labels.items())]


class MadeLake:
    """A lake that grows file by file; in `folder`, if no store is given."""

    def __init__(self, folder: Path, store: Store | None = None) -> None:
        self._scratch = folder / "scratch"
        self._scratch.mkdir(parents=True)
        store = store or open_store(str(folder / "lake"))
        self.uri = store.uri
        self._lake = Lake.open(store, single_writer=False, refresh_interval_s=5)
        self._count = 0

    def add_series(self, fleet: Fleet) -> None:
        """Commits the series of a fleet."""
        self._count += 1
        batches = (
            SeriesBatch(
                [fleet.metrics[place] for place in fleet.metric_of_rank[begin : begin + BATCH]],
                fleet.series_ids[begin : begin + BATCH],
                label_rows(fleet.labels[begin : begin + BATCH]),
            )
            for begin in range(0, len(fleet.labels), BATCH)
        )
        path = self._scratch / f"f-{self._count}.parquet"
        file = write_series(path, batches, partition=DAY[:7])
        self._lake.commit(SERIES, [file], receiver_id="made", position=self._count)

    def add_samples(self, fleet: Fleet, after_ms: int, step_ms: int, count: int) -> None:
        """Commits `count` samples of each series as one file."""
        self._count += 1
        rng = np.random.default_rng(self._count)
        kinds = rng.choice(list(KINDS), len(fleet.labels), p=[SHARES[kind] / 101 for kind in KINDS])
        phases = rng.integers(1, step_ms, len(fleet.labels))
        times = after_ms + phases[:, None] + step_ms * np.arange(count)
        times += np.where(rng.random(times.shape) < 0.15, rng.integers(1, 9, times.shape), 0)
        file = write_samples(
            self._scratch / f"f-{self._count}.parquet",
            DAY,
            metrics=fleet.metrics,
            metric_of_rank=fleet.metric_of_rank,
            series_id_of_rank=fleet.series_ids,
            offsets=np.arange(len(fleet.labels) + 1, dtype=np.int64) * count,
            timestamps_ms=times.ravel(),
            values=draw(kinds, count, step_ms / 1000, self._count).ravel(),
        )
        self._lake.commit(SAMPLES, [file], receiver_id="made", position=self._count)

    def sample_paths(self) -> list[str]:
        """All files of samples."""
        return [file.path for file in self._lake.snapshot().sample_files(None, 0, 1 << 45)]

    def close(self) -> None:
        """Gives the lake to whoever reads it."""
        self._lake.close()
        shutil.rmtree(self._scratch)


def label_rows(series: Sequence[list[tuple[bytes, bytes]]]) -> LabelRows:
    """Labels as the buffers of a MAP column."""
    names = [name for labels in series for name, _ in labels]
    values = [value for labels in series for _, value in labels]
    return LabelRows(
        np.cumsum([0, *map(len, series)], dtype=np.int32),
        np.cumsum([0, *map(len, names)], dtype=np.int32),
        b"".join(names),
        np.cumsum([0, *map(len, values)], dtype=np.int32),
        b"".join(values),
    )


async def serve(uri: str) -> None:
    """The read endpoint alone, until it is killed."""
    configure_logging("warn", "logfmt")
    lake = Lake.open(open_store(uri), single_writer=False, refresh_interval_s=5)
    endpoint = ReadEndpoint(
        ReadSettings(), lake, None, replica_labels=(), registry=CollectorRegistry()
    )
    app = web.Application(client_max_size=0)
    app.router.add_post("/api/v1/read", endpoint.handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


def measure(uri: str, case: str, questions: Sequence[Question], sample_count: int) -> None:
    """Asks in turns until it is enough, and prints medians."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.scan", "--serve", uri], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        url = f"http://127.0.0.1:{process.stdout.readline().strip()}"
        meter = Meter(process.pid)
        for question in questions:
            body = question.encode()
            with ReadClient(url) as client:
                answer = client.ask(body)
                assert answer.count()[1] == sample_count, answer.count()
                rounds = []
                latencies_s: list[float] = []
                for _ in range(ROUNDS):
                    count, cpu_s, began_s = 0, meter.cpu_s(), time.monotonic()
                    while time.monotonic() - began_s < ASK_S_MIN:
                        latencies_s.append(client.ask(body).latency_s)
                        count += 1
                    rounds.append((meter.cpu_s() - cpu_s) / count)
            cpu_s = statistics.median(rounds)
            show(
                case,
                "streamed" if question.is_streamed else "samples",
                cpu_s,
                statistics.median(latencies_s),
                sample_count,
                len(answer.body),
            )
    finally:
        process.kill()
        process.wait()


def measure_duckdb(case: str, paths: Sequence[str], fleet: Fleet, where: str) -> None:
    """Scans the same files and joins the series."""
    connection = duckdb.connect(config={"threads": 1, "memory_limit": "1GB"})
    connection.execute("SET parquet_metadata_cache = true")
    connection.execute("CREATE TABLE wanted (metric VARCHAR, series_id BIGINT, slot INTEGER)")
    metrics = [fleet.metrics[place] for place in fleet.metric_of_rank]
    slots = np.arange(len(metrics))
    connection.execute(
        "INSERT INTO wanted SELECT unnest($1), unnest($2), unnest($3)",
        [metrics, fleet.series_ids.tolist(), slots.tolist()],
    )
    files = ", ".join(f"'{path}'" for path in paths)
    query = f"""
        SELECT slot, timestamp_ms, value FROM read_parquet([{files}], hive_partitioning = false)
        JOIN wanted USING (metric, series_id) WHERE {where}
    """
    rounds, rows = [], 0
    for _ in range(5):
        cpu_s = time.process_time()
        rows = connection.sql(query).to_arrow_table().num_rows
        rounds.append(time.process_time() - cpu_s)
    cpu_s = statistics.median(rounds)
    show(case, "DuckDB, scan and join", cpu_s, cpu_s, rows, 0)


def show(
    case: str, what: str, cpu_s: float, latency_s: float, sample_count: int, size: int
) -> None:
    """One row of the table."""
    print(
        f"| {case} | {what} | {sample_count} | {cpu_s * 1e3:.2f} | "
        f"{sample_count / cpu_s / 1e6:.2f} M | {latency_s * 1e3:.2f} | {size} |",
        flush=True,
    )


def ask(metric: str, after_ms: int, until_ms: int, **labels: str) -> Iterator[Question]:
    """The same question for both kinds of answer."""
    matchers = [("=", "__name__", metric), *(("=", name, value) for name, value in labels.items())]
    for is_streamed in (True, False):
        yield Question(matchers, after_ms + 1, until_ms, is_streamed, has_hints=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--series", type=int, default=10_000)
    parser.add_argument("--flushes", default="0,1,10,60")
    parser.add_argument("--cases", default="hour,minutes,day")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        uvloop.run(serve(options.serve))
        return
    print("| case | answer | samples | CPU ms | samples per CPU-s | p50, ms | bytes |")
    print("|---|---|--:|--:|--:|--:|--:|")
    folder = Path(tempfile.mkdtemp(prefix="prombridge-scan-"))
    try:
        for case in options.cases.split(","):
            {"hour": hour, "minutes": minutes, "day": day}[case](folder / case, options)
    finally:
        shutil.rmtree(folder)


def hour(folder: Path, options: argparse.Namespace) -> None:
    fleet = make_fleet(["http_requests_total"], options.series)
    lake = MadeLake(folder)
    lake.add_series(fleet)
    lake.add_samples(fleet, DAY_START_MS, MINUTE_MS, 61)
    until_ms = DAY_START_MS + 2 * 3_600_000
    questions = list(ask("http_requests_total", DAY_START_MS, until_ms))
    paths = lake.sample_paths()
    lake.close()
    measure(lake.uri, "hour", questions, 61 * options.series)
    measure_duckdb("hour", paths, fleet, f"timestamp_ms > {DAY_START_MS}")


def minutes(folder: Path, options: argparse.Namespace) -> None:
    fleet = make_fleet(["http_requests_total"], options.series)
    lake = MadeLake(folder)
    lake.add_series(fleet)
    for minute in range(60):
        lake.add_samples(fleet, DAY_START_MS + minute * MINUTE_MS, MINUTE_MS // 4, 4)
    until_ms = DAY_START_MS + 2 * 3_600_000
    questions = list(ask("http_requests_total", DAY_START_MS, until_ms))
    paths = lake.sample_paths()
    lake.close()
    measure(lake.uri, "minutes", questions, 240 * options.series)
    measure_duckdb("minutes", paths, fleet, f"timestamp_ms > {DAY_START_MS}")


def day(folder: Path, options: argparse.Namespace) -> None:
    fleet = make_fleet([f"metric_{place:03}" for place in range(50)], 100)
    flushed = make_fleet([f"metric_{place:03}" for place in range(170)], 588)
    rank = len(fleet.labels) // 2 + 7
    labels = {name.decode(): value.decode() for name, value in fleet.labels[rank]}
    metric = labels.pop("__name__")
    for count in map(int, options.flushes.split(",")):
        lake = MadeLake(folder / str(count))
        lake.add_series(flushed)
        lake.add_samples(fleet, DAY_START_MS, MINUTE_MS, 1440)
        for minute in range(count):
            lake.add_samples(flushed, DAY_START_MS + minute * MINUTE_MS + 1, MINUTE_MS // 4, 4)
        questions = list(ask(metric, DAY_START_MS, DAY_START_MS + 86_400_000, **labels))
        paths = lake.sample_paths()
        lake.close()
        case = f"day, 1 series, {count} flushes"
        measure(lake.uri, case, questions, 1440 + 4 * count)
        one = Fleet(fleet.metrics, fleet.metric_of_rank[[rank]], fleet.series_ids[[rank]], [])
        where = f"metric = '{metric}' AND series_id = {fleet.series_ids[rank]}"
        measure_duckdb(case, paths, one, where)
        shutil.rmtree(folder / str(count))


if __name__ == "__main__":
    main()
