"""What it costs to make one sorted file of many, beside DuckDB, which sorts their rows again.

    python -m benchmarks.compaction [hours minutes thin day rollups] [--rows N] [--data FOLDER]

The samples of the fleet (`fleet.py`), as the bridge writes them:

- `hours`: a day at a scrape a minute, in 24 files of an hour, as the compaction of a day finds them
- `minutes`: an hour at a scrape every 15 s, in 60 flushes of a minute
- `thin`: an hour at a scrape a minute, in 60 flushes of a minute: one row of each series in a file
- `day`: a day at a scrape a minute, in 1440 flushes of a minute: nothing was compacted for a day
- `rollups`: the 5m rows of a day at a scrape a minute, written

Every measurement is a process of its own: CPU time of all its threads, peak memory, bytes of the
result, decoding and encoding counted in. Rows of both results have to be the same. DuckDB has one
thread, 1 GB and a folder to spill to, and writes zstd 3.
"""

import argparse
import multiprocessing
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import xxhash
from numpy.typing import NDArray

from benchmarks.fleet import DEFAULT_DATA, SEED, Samples
from benchmarks.targets import Fleet, Profile
from bridge.lake.parquet import RollupWriter, SampleWriter, write_samples
from bridge.lake.schema import SAMPLES_5M
from downsample.merged import merge_files
from downsample.rollup import roll_up
from downsample.rows import RawFile

DAY = "2026-11-21"
DAY_START_MS = 1_795_219_200_000
MINUTE_MS, HOUR_MS, DAY_MS = 60_000, 3_600_000, 86_400_000
BATCH_ROWS = 1 << 21


@dataclass(frozen=True, slots=True)
class Shape:
    """How the samples lie in files.

    Attributes:
        file_count: files.
        file_ms: span of each.
        interval_ms: between scrapes.
        is_compacted: whether they were rewritten before.
    """

    file_count: int
    file_ms: int
    interval_ms: int
    is_compacted: bool = False


SHAPES = {
    "hours": Shape(24, HOUR_MS, 60_000, is_compacted=True),
    "minutes": Shape(60, MINUTE_MS, 15_000),
    "thin": Shape(60, MINUTE_MS, 60_000),
    "day": Shape(1440, MINUTE_MS, 60_000),
    "rollups": Shape(1, DAY_MS, 60_000, is_compacted=True),
}


@dataclass(frozen=True, slots=True)
class Cost:
    """What a process used.

    Attributes:
        row_count: rows that it wrote.
        cpu_s: user and system time.
        rss_mib: peak memory.
        size_bytes: of what it wrote.
    """

    row_count: int
    cpu_s: float
    rss_mib: int
    size_bytes: int


def metric_of(labels: bytes) -> str:
    """`__name__` of protobuf labels; names are shorter than 128 bytes."""
    place = labels.index(b"__name__") + len(b"__name__") + 1
    return labels[place + 1 : place + 1 + labels[place]].decode()


def make_files(folder: Path, shape: Shape, row_count: int) -> list[Path]:
    """Files of a fleet of so many rows in all, made if they are not there yet."""
    span_ms = shape.file_count * shape.file_ms
    scrapes = span_ms // shape.interval_ms
    paths = [folder / f"f-{number}.parquet" for number in range(shape.file_count)]
    if (folder / "done").exists():
        return paths
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    fleet = Fleet(Profile(row_count // scrapes, scrapes, shape.interval_ms, churn_ratio=0), SEED)
    profile = Profile(len(fleet.labels), scrapes, shape.interval_ms, churn_ratio=0)
    # 1 ms later: a sample at midnight sharp belongs to the day before.
    samples = Samples(fleet, profile, DAY_START_MS + span_ms + 1, SEED)
    names = [metric_of(labels) for labels in fleet.labels]
    ids = np.array([xxhash.xxh3_64_intdigest(labels) for labels in fleet.labels], np.uint64).view(
        np.int64
    )
    rows = np.array(sorted(range(len(names)), key=lambda row: (names[row], ids[row])))
    metrics = [name for name, _ in groupby(sorted(names))]
    place_of = {name: place for place, name in enumerate(metrics)}
    series = {
        "metrics": metrics,
        "metric_of_rank": np.array([place_of[names[row]] for row in rows], np.int32),
        "series_id_of_rank": ids[rows],
    }
    per_file = shape.file_ms // shape.interval_ms
    for number, path in enumerate(paths):
        span = slice(number * per_file, (number + 1) * per_file)
        write_samples(
            path,
            DAY,
            **series,
            offsets=np.arange(len(rows) + 1, dtype=np.int64) * per_file,
            timestamps_ms=samples.times_ms[samples.targets[rows], span].ravel(),
            values=samples.bits[rows, span].ravel().view(np.float64),
        )
        if shape.is_compacted:
            compact([path], path.with_suffix(".again"))
            path.with_suffix(".again").replace(path)
    (folder / "done").touch()
    return paths


def compact(paths: list[Path], target: Path) -> int:
    """One sorted file of many, by the bridge."""
    batches = merge_files(
        [RawFile(path) for path in paths],
        DAY_START_MS,
        DAY_START_MS + DAY_MS,
        batch_rows=BATCH_ROWS,
    )
    with SampleWriter(lambda _: target, DAY, expected_rows=1 << 30, bytes_max=1 << 40) as writer:
        for batch in batches:
            writer.write(batch)
        return sum(file.row_count for file in writer.finish())


def merge_alone(paths: list[Path], _target: Path) -> int:
    """The same without writing."""
    batches = merge_files(
        [RawFile(path) for path in paths],
        DAY_START_MS,
        DAY_START_MS + DAY_MS,
        batch_rows=BATCH_ROWS,
    )
    return sum(len(batch.values) for batch in batches)


def sort_again(paths: list[Path], target: Path) -> int:
    """One sorted file of many, by DuckDB."""
    connection = duckdb.connect(
        config={
            "threads": 1,
            "memory_limit": "1GB",
            "temp_directory": str(target.with_suffix(".spill")),
        }
    )
    connection.execute("SET enable_progress_bar = false")
    files = ", ".join(f"'{path}'" for path in paths)
    copied = connection.execute(
        f"COPY (SELECT * FROM read_parquet([{files}], hive_partitioning = false) "
        f"ORDER BY metric, series_id, timestamp_ms) TO '{target}' "
        "(FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 3, PARQUET_VERSION v2, "
        "ROW_GROUP_SIZE 131072)"
    ).fetchone()
    return int(copied[0]) if copied else 0


def write_rollups(paths: list[Path], target: Path) -> tuple[int, float]:
    """5m rows, and the CPU time of writing them."""
    batches = merge_files(
        [RawFile(path) for path in paths],
        DAY_START_MS,
        DAY_START_MS + DAY_MS,
        batch_rows=BATCH_ROWS,
    )
    spent_s = 0.0
    with RollupWriter(lambda _: target, SAMPLES_5M, DAY, bytes_max=1 << 40) as writer:
        for batch in batches:
            rows, _ = roll_up(batch.offsets, batch.timestamps_ms, batch.values)
            began_s = time.process_time()
            writer.write(batch, rows)
            spent_s += time.process_time() - began_s
        began_s = time.process_time()
        files = writer.finish()
        spent_s += time.process_time() - began_s
    return sum(file.row_count for file in files), spent_s


def measure(work: Callable[[list[Path], Path], Any], paths: list[Path], target: Path) -> Cost:
    """Runs a piece of work in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measure, (work, paths, target))


def _measure(work: Callable[[list[Path], Path], Any], paths: list[Path], target: Path) -> Cost:
    began_s = time.process_time()
    done = work(paths, target)
    spent_s = time.process_time() - began_s
    row_count, spent_s = done if isinstance(done, tuple) else (done, spent_s)
    size_bytes = target.stat().st_size if target.exists() else 0
    return Cost(row_count, spent_s, peak_rss_mib(), size_bytes)


def peak_rss_mib() -> int:
    """Of this process alone: getrusage begins with the peak of the parent."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) >> 10


def show(case: str, who: str, cost: Cost) -> None:
    print(
        f"| {case} | {who} | {cost.row_count / 1e6:.1f} M | "
        f"{cost.row_count / cost.cpu_s / 1e6:.2f} M | {cost.rss_mib} | "
        f"{cost.size_bytes / cost.row_count:.3f} |",
        flush=True,
    )


def fingerprint(path: Path) -> NDArray[Any] | tuple[Any, ...] | None:
    """What two files with the same rows have in common."""
    return duckdb.execute(
        "SELECT count(*), sum(hash(metric, series_id, timestamp_ms, value::BIT::VARCHAR)) "
        f"FROM read_parquet('{path}')"
    ).fetchone()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("cases", nargs="*", choices=[*SHAPES, []], default=list(SHAPES))
    parser.add_argument("--rows", type=int, default=30_000_000)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA)
    parser.add_argument("--alone", action="store_true", help="without DuckDB and the comparison")
    options = parser.parse_args()
    print("| case | who | rows | rows per CPU-s | peak RSS, MiB | B/row |")
    print("|---|---|---:|---:|---:|---:|")
    for case in options.cases:
        folder = options.data / f"compaction-{case}-{options.rows}"
        paths = make_files(folder, SHAPES[case], options.rows)
        ours, theirs = folder / "merged.parquet", folder / "sorted.parquet"
        if case == "rollups":
            show(case, "prombridge, writing alone", measure(write_rollups, paths, ours))
            continue
        show(case, "prombridge", measure(compact, paths, ours))
        show(case, "prombridge, without writing", measure(merge_alone, paths, folder / "none"))
        if not options.alone:
            show(case, "DuckDB, sorting", measure(sort_again, paths, theirs))
            if fingerprint(ours) != fingerprint(theirs):
                raise SystemExit(f"{case}: the rows differ")


if __name__ == "__main__":
    main()
