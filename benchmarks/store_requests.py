"""Requests to the store, CPU and time of reads and flushes, cold and warm.

    python -m benchmarks.store_requests [--latency-ms 20] [--blocks 16,64,256]
        [--fsspec PYTHON] [--extensions PYTHON]

Two lakes, each in a folder and in a bucket of a versitygw: `minutes`, 60 files of a minute of
100 000 series every 15 s, and `day`, one file of 5000 series a minute. Requests are those in the
server's own access log, so that delta-rs' are in them. CPU is that of the reading process, all its
threads; the server has its own. Medians of ROUNDS, in turns.

- `cold`: an empty cache, a reader that has parsed nothing.
- `restarted`: the cache of an earlier process, a reader that has parsed nothing.
- `warm`: the same reader again.

With `--latency-ms` the store is reached through a proxy that waits so long before each request, and
times are taken; CPU is not, because the proxy runs in the same process.

Beside it DuckDB reads the same samples of the same files, and does nothing with them: from the
folder, through our cache (what its filters leave is held, then it opens the sparse files), from
Arrow tables that pyarrow decoded out of our cache or out of its own S3 file system; and the ways
that need nothing of the bridge, in processes of their own: `benchmarks/duckdb_ways.py`. Some of
these need an interpreter of their own, too. A cold one begins with a new connection, so that the
log is read in it where the way reads it.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import cramjam
import duckdb
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs as pafs

from benchmarks.read_client import Question
from benchmarks.scan import DAY_START_MS, MINUTE_MS, Fleet, MadeLake, make_fleet
from bridge.lake import file_cache
from bridge.lake.block_file import DATA_SUFFIX, name_of
from bridge.lake.file_cache import FileCache, Part, fetch_from
from bridge.lake.files import Files
from bridge.lake.footers import Footer, FooterCache
from bridge.lake.lake import Lake
from bridge.lake.snapshot import LakeFile, Snapshot
from bridge.lake.store import Store, open_store
from bridge.read.budget import Budget
from bridge.read.reader import Reader
from bridge.read.request import IgnoredMatchers, decode_request
from bridge.read.settings import ReadSettings
from bridge.telemetry import configure_logging
from tests.integration.faulty_proxy import FaultyProxy, Slow
from tests.integration.object_stores import VersityGw

ROUNDS = 5
METRICS = [f"http_requests_{place:02}_total" for place in range(100)]
METRIC = METRICS[44]
COLUMNS = ["metric", "series_id", "timestamp_ms", "value"]
SETTINGS = ReadSettings()


@dataclass(frozen=True)
class Case:
    """A query of one of the lakes.

    Attributes:
        name: in the table.
        series_ids: those asked for; None for all of METRIC.
        matchers: the same for the bridge.
        until_ms: after DAY_START_MS.
    """

    name: str
    series_ids: Sequence[int] | None
    matchers: Sequence[tuple[str, str, str]]
    until_ms: int

    def body(self) -> bytes:
        question = Question(self.matchers, DAY_START_MS + 1, self.until_ms, is_streamed=True)
        return question.encode()

    def sql(self, source: str) -> str:
        ids = "" if self.series_ids is None else ", ".join(map(str, self.series_ids))
        return (
            f"SELECT series_id, timestamp_ms, value FROM {source} WHERE metric = '{METRIC}'"
            f" AND timestamp_ms > {DAY_START_MS} AND timestamp_ms <= {self.until_ms}"
            + (f" AND series_id IN ({ids})" if ids else "")
        )


def cases_of(fleet: Fleet) -> list[Case]:
    own = [
        (int(series_id), {name.decode(): value.decode() for name, value in labels})
        for series_id, labels in zip(fleet.series_ids, fleet.labels, strict=True)
    ]
    own = [one for one in own if one[1]["__name__"] == METRIC]
    name = ("=", "__name__", METRIC)
    one_id, one = own[len(own) // 2 + 7]
    hundred = [one for one in own if one[1]["instance"] in {f"10.0.0.{n}:8443" for n in range(100)}]
    day_ms = DAY_START_MS + 86_400_000
    return [
        Case("1 series, a day", [one_id], [name, ("=", "instance", one["instance"])], day_ms),
        Case(
            "100 series, an hour",
            [series_id for series_id, _ in hundred],
            [name, ("=~", "instance", r"10\.0\.0\.\d{1,2}:8443")],
            DAY_START_MS + 3_600_000,
        ),
        Case("1 metric, a day", None, [name], day_ms),
    ]


@dataclass(frozen=True)
class Measured:
    """One run."""

    wall_s: float
    cpu_s: float
    count: int
    data_requests: int
    log_requests: int


class Bench:
    """A server, and lakes in it and beside it."""

    def __init__(self, folder: Path, server: VersityGw) -> None:
        self.folder = folder
        self.server = server
        self.bucket = server.access.make_bucket("lakes")
        self.endpoint = ""
        self._cache_count = 0

    def store(self, name: str) -> Store:
        """A lake's bucket."""
        return open_store(f"s3://{self.bucket}/{name}", self.options())

    def options(self) -> dict[str, str]:
        access = self.server.access
        return (access.through(self.endpoint) if self.endpoint else access).storage_options()

    def requests(self) -> Counter[str]:
        """Since the last call: operation and whether of the log or of files."""
        return Counter(
            f"{request.operation} "
            + (
                "log"
                if "_delta_log" in request.key
                else "files"
                if request.key.endswith(".parquet")
                else "other"
            )
            for request in self.server.requests()
        )

    def run(self, work: Callable[[], int]) -> Measured:
        self.requests()
        wall_s, cpu_s = time.perf_counter(), time.process_time()
        count = work()
        wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
        return self.measured(wall_s, cpu_s, count)

    def measured(self, wall_s: float, cpu_s: float, count: int) -> Measured:
        """With the requests since the last call."""
        requests = self.requests()
        data_requests = sum(n for kind, n in requests.items() if kind.endswith("files"))
        return Measured(wall_s, cpu_s, count, data_requests, requests.total() - data_requests)

    @contextmanager
    def cache(self, store: Store, path: Path | None = None) -> Iterator[FileCache]:
        """A cache; an empty one, if no path is given."""
        self._cache_count += 1
        path = path or self.folder / f"cache-{self._cache_count}"
        cache = FileCache(path, 10 << 30, fetch_from(store), block_bytes=file_cache.BLOCK_BYTES)
        try:
            yield cache
        finally:
            cache.close()


def make_lakes(bench: Bench) -> None:
    """Fills both lakes, in the folder and in the bucket, and prints what a flush asks for."""
    fleets = {"minutes": make_fleet(METRICS, 1000), "day": make_fleet(METRICS[42:47], 1000)}
    for where in ("folder", "bucket"):
        for name, fleet in fleets.items():
            store = bench.store(name) if where == "bucket" else None
            lake = MadeLake(
                bench.folder / name if store is None else bench.folder / where / name, store
            )
            start = bench.requests()
            lake.add_series(fleet)
            if name == "day":
                lake.add_samples(fleet, DAY_START_MS, MINUTE_MS, 1440)
            else:
                flushes = []
                for minute in range(60):
                    bench.requests()
                    lake.add_samples(fleet, DAY_START_MS + minute * MINUTE_MS, MINUTE_MS // 4, 4)
                    flushes.append(bench.requests())
                if where == "bucket":
                    show_flushes(start, flushes)
            lake.close()


def show_flushes(start: Counter[str], flushes: Sequence[Counter[str]]) -> None:
    every = sum(flushes, Counter())
    print(
        "\n| requests | start of a receiver | a flush, mean of 60 | the flush with a checkpoint |"
    )
    print("|---|--:|--:|--:|")
    largest = max(flushes, key=Counter.total)
    for kind in sorted(every.keys() | start.keys()):
        print(f"| {kind} | {start[kind]} | {every[kind] / len(flushes):.2f} | {largest[kind]} |")


def show_refreshes(bench: Bench, name: str) -> None:
    """What a reader asks for to know what there is."""
    store = bench.store(name)
    bench.requests()
    lake = Lake(store, refresh_interval_s=5, is_read_only=True)
    lake.connect()
    started = bench.requests()
    lake.snapshot(force=True)
    idle = bench.requests()
    lake.close()
    print(f"\n| requests of a reader, {name} | start | a refresh, nothing new |\n|---|--:|--:|")
    for kind in sorted(started.keys() | idle.keys()):
        print(f"| {kind} | {started[kind]} | {idle[kind]} |")


def snapshot_of(store: Store) -> Snapshot:
    lake = Lake(store, refresh_interval_s=5, is_read_only=True)
    lake.connect()
    return lake.snapshot()


class Fixed:
    """A lake that does not move, so that no refresh is measured."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def snapshot(self, *, force: bool = False) -> Snapshot:  # noqa: ARG002
        return self._snapshot


def ask(reader: Reader, body: bytes) -> int:
    message = bytes(cramjam.snappy.decompress_raw(body))
    request = decode_request(message, IgnoredMatchers((), ()))
    sizes = SETTINGS.max_samples, SETTINGS.max_query_bytes
    budget = Budget(*sizes, SETTINGS.timeout, time.monotonic)
    reply = reader.run(request, budget)
    for _ in reply.pieces:
        pass
    return reply.sample_count


def bridge_rounds(
    bench: Bench, case: Case, remote: Store, folder: Store
) -> dict[str, list[Measured]]:
    """The bridge's reader: every way in turns."""
    found: dict[str, list[Measured]] = {}
    far, near = Fixed(snapshot_of(remote)), Fixed(snapshot_of(folder))
    body = case.body()

    def run(way: str, reader: Reader) -> None:
        found.setdefault(way, []).append(bench.run(lambda: ask(reader, body)))

    for number in range(ROUNDS):
        path = bench.folder / f"kept-{case.name}-{number}-{time.monotonic_ns()}"
        with bench.cache(remote, path) as cache:
            reader = Reader(SETTINGS, far, None, Files(remote, cache))
            run("bucket, cold", reader)
            run("bucket, warm", reader)
            assert cache.unforeseen_count == 0
            fetched_bytes = cache.miss_bytes
        with bench.cache(remote, path) as cache:
            run("bucket, restarted", Reader(SETTINGS, far, None, Files(remote, cache)))
        reader = Reader(SETTINGS, near, None)
        run("folder, cold", reader)
        run("folder, warm", reader)
    print(f"{case.name}: {fetched_bytes} bytes fetched")
    return found


def held_groups(footer: Footer, case: Case) -> list[int]:
    """Row groups that DuckDB's filters leave, by their bounds."""
    return [
        group
        for group in range(len(footer.row_counts))
        if footer.metric_minima[group] <= METRIC <= footer.metric_maxima[group]
        and footer.timestamp_ms_minima[group] <= case.until_ms
        and (
            case.series_ids is None
            or any(
                footer.series_id_minima[group] <= one <= footer.series_id_maxima[group]
                for one in case.series_ids
            )
        )
    ]


def held_parts(file: LakeFile, footer: Footer, case: Case) -> Part:
    """Their columns, and the footer."""
    groups = held_groups(footer, case)
    footer_bytes = int(footer.parsed.serialized_size) + 8
    tail = (file.size_bytes - footer_bytes, footer_bytes)
    return Part(file.path, file.size_bytes, [*footer.chunk_ranges(groups, COLUMNS), tail])


@dataclass
class Scanner:
    """DuckDB in this process, on one way."""

    case: Case
    far: Sequence[LakeFile]
    near: Sequence[LakeFile]
    files: Files
    options: Mapping[str, str]

    def __post_init__(self) -> None:
        self._connection = duckdb.connect(config={"threads": 1, "memory_limit": "1GB"})
        self._connection.execute("SET parquet_metadata_cache = true")
        self._footers = FooterCache(1 << 28, self.files)

    def local(self) -> int:
        return self._scan([file.path for file in self.near])

    def sparse(self) -> int:
        """Not safe as it is: what DuckDB reads beyond what is held would be zeros."""
        cache = self.files.cache
        assert cache is not None
        found = self._footers.fetch(self.far, nothing)
        parts = [held_parts(*one, self.case) for one in zip(self.far, found, strict=True)]
        with cache.hold(parts, nothing):
            # The class hands out no paths, because nobody else may read these files.
            folder = cache._folder  # noqa: SLF001
            return self._scan([str(folder / (name_of(part.key) + DATA_SUFFIX)) for part in parts])

    def arrow(self) -> int:
        found = self._footers.fetch(self.far, nothing)
        parts = [held_parts(*one, self.case) for one in zip(self.far, found, strict=True)]
        tables = []
        reads = list(zip(parts, self.far, found, strict=True))
        for (_, file, footer), opened in self.files.in_steps(reads, lambda one: one[0], nothing):
            groups = held_groups(footer, self.case)
            with opened.parquet(file.path, footer.parsed, ["metric"]) as source:
                tables.append(source.read_row_groups(groups, columns=COLUMNS, use_threads=False))
        rows_read = pa.concat_tables(tables)
        self._connection.register("rows_read", rows_read)
        return self._count(self.case.sql("rows_read"))

    def pyarrow(self) -> int:
        system = pafs.S3FileSystem(
            access_key=self.options["AWS_ACCESS_KEY_ID"],
            secret_key=self.options["AWS_SECRET_ACCESS_KEY"],
            region=self.options["AWS_REGION"],
            endpoint_override=self.options["AWS_ENDPOINT_URL"],
        )
        paths = [file.path.removeprefix("s3://") for file in self.far]
        self._connection.register("far", ds.dataset(paths, filesystem=system, format="parquet"))
        return self._count(self.case.sql("far"))

    def _scan(self, paths: Sequence[str]) -> int:
        sql = self.case.sql("read_parquet(?, hive_partitioning = false)")
        return self._count(sql, list(paths))

    def _count(self, sql: str, *parameters: object) -> int:
        table = self._connection.sql(sql, params=parameters).to_arrow_table()
        assert table is not None
        return int(table.num_rows)


WAYS: dict[str, Callable[[Scanner], int]] = {
    "the folder": Scanner.local,
    "our cache, sparse files": Scanner.sparse,
    "our cache, pyarrow, Arrow": Scanner.arrow,
    "pyarrow's S3 file system, Arrow": Scanner.pyarrow,
}


def duckdb_rounds(
    bench: Bench, case: Case, remote: Store, folder: Store
) -> dict[str, list[Measured]]:
    """DuckDB 2 in this process: every way in turns."""
    found: dict[str, list[Measured]] = {}
    far = snapshot_of(remote).sample_files(METRIC, DAY_START_MS, case.until_ms)
    near = snapshot_of(folder).sample_files(METRIC, DAY_START_MS, case.until_ms)
    for _ in range(ROUNDS):
        for name, way in WAYS.items():
            with bench.cache(remote) as cache:
                files = Files(remote, cache)
                scanner = Scanner(case, far, near, files, bench.options())
                for kind in ("cold", "warm"):
                    measured = bench.run(lambda way=way, one=scanner: way(one))  # type: ignore[misc]
                    found.setdefault(f"DuckDB, {name}, {kind}", []).append(measured)
    return found


def foreign_rounds(
    bench: Bench, case: Case, remote: Store, folder: Store, python: str, way: str, name: str
) -> dict[str, list[Measured]]:
    """A way without the bridge, in a process of its own."""
    found: dict[str, list[Measured]] = {}
    asked = METRIC, DAY_START_MS, case.until_ms
    job = {
        "table": remote.uri_of("samples"),
        "files": [file.path for file in snapshot_of(remote).sample_files(*asked)],
        "local_files": [file.path for file in snapshot_of(folder).sample_files(*asked)],
        "folder": str(bench.folder),
        "sql": case.sql("{source}"),
        "options": bench.options(),
    }
    script = str(Path(__file__).with_name("duckdb_ways.py"))
    with subprocess.Popen(
        [python, script, way], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(job) + "\n")
        # The first one imports what it needs.
        for number in range(-1, ROUNDS):
            for kind in ("cold", "warm"):
                bench.requests()
                process.stdin.write(json.dumps(kind == "cold") + "\n")
                process.stdin.flush()
                wall_s, cpu_s, count = json.loads(process.stdout.readline())
                if number >= 0:
                    measured = bench.measured(wall_s, cpu_s, count)
                    found.setdefault(f"{name}, {kind}", []).append(measured)
        process.stdin.close()
    return found


def show(lake: str, case: Case, found: Mapping[str, list[Measured]], *, has_cpu: bool) -> None:
    for way, rounds in found.items():
        wall_ms = statistics.median(one.wall_s for one in rounds) * 1e3
        cpu_ms = statistics.median(one.cpu_s for one in rounds) * 1e3
        requests = statistics.median(one.data_requests for one in rounds)
        log = statistics.median(one.log_requests for one in rounds)
        cpu = f"{cpu_ms:.1f}" if has_cpu else "-"
        failures = sum(one.count < 0 for one in rounds)
        count = max(one.count for one in rounds)
        note = f" (failed {failures} of {len(rounds)} times)" if failures else ""
        print(
            f"| {lake} | {case.name} | {way}{note} | {count} | {requests:.0f} | {log:.0f} | "
            f"{cpu} | {wall_ms:.1f} |",
            flush=True,
        )


def nothing() -> None:
    pass


def measure(bench: Bench, options: argparse.Namespace) -> None:
    """All queries of both lakes, by all ways."""
    fleets = {"minutes": make_fleet(METRICS, 1000), "day": make_fleet(METRICS[42:47], 1000)}
    print("\n| lake | query | way | rows | requests: data | log | CPU, ms | wall, ms |")
    print("|---|---|---|--:|--:|--:|--:|--:|")
    for lake, fleet in fleets.items():
        remote, folder = bench.store(lake), open_store(str(bench.folder / lake / "lake"))
        for case in cases_of(fleet):
            found = bridge_rounds(bench, case, remote, folder)
            if not options.blocks:
                found |= duckdb_rounds(bench, case, remote, folder)
                for way, python, name in (
                    ("dataset", sys.executable, "DuckDB, deltalake's dataset"),
                    ("datafusion", sys.executable, "deltalake's SQL"),
                    ("copy", sys.executable, "DuckDB, whole files copied"),
                    ("fsspec", options.fsspec, "DuckDB, fsspec"),
                    ("local", options.extensions, "DuckDB 1.5, the folder"),
                    ("httpfs", options.extensions, "DuckDB 1.5, httpfs"),
                    ("delta_scan", options.extensions, "DuckDB 1.5, delta_scan"),
                ):
                    if python:
                        found |= foreign_rounds(bench, case, remote, folder, python, way, name)
            counts = {one.count for rounds in found.values() for one in rounds if one.count >= 0}
            assert len(counts) == 1, {way: rounds[0].count for way, rounds in found.items()}
            show(lake, case, found, has_cpu=not bench.endpoint)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--latency-ms", type=float, default=0.0)
    parser.add_argument("--blocks", default="", help="block sizes of the cache to compare, KiB")
    parser.add_argument("--fsspec", default="", help="interpreter with duckdb, fsspec, obstore")
    parser.add_argument(
        "--extensions", default="", help="interpreter with duckdb-extension-httpfs and -delta"
    )
    options = parser.parse_args()
    configure_logging("warn", "logfmt")
    folder = Path(tempfile.mkdtemp(prefix="prombridge-store-"))
    try:
        with ExitStack() as stack:
            server = stack.enter_context(VersityGw(folder / "s3"))
            bench = Bench(folder, server)
            make_lakes(bench)
            for lake in ("minutes", "day"):
                show_refreshes(bench, lake)
            if options.latency_ms:
                proxy = stack.enter_context(FaultyProxy(server.url))
                proxy.inject(Slow(latency_s=options.latency_ms / 1e3))
                bench.endpoint = proxy.url
            for block_kib in options.blocks.split(",") if options.blocks else [""]:
                if block_kib:
                    file_cache.BLOCK_BYTES = int(block_kib) << 10
                    print(f"\nBlocks of {block_kib} KiB.")
                measure(bench, options)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
