"""What rolling samples up costs, 5 m and 1 h together, beside SQL on DuckDB in the same run.

    .venv/bin/python -m benchmarks.rollup [--rows 30000000] [--sql-rows 1000000] [--repeats 3]

A day of made series (`waveforms.py`, the mix of `kernels.py`) at a scrape a minute and at one every
15 s, batch by batch, as sorted files give them. Everything is in memory: reading and writing files
is not counted, here or there. CPU seconds of the process, the best of the repeats for each batch.

    kernel      `downsample/_rollup.pyx`
    definition  `downsample/sql/rollup_5m.sql`, once for each level; the rows have to be equal
    plain SQL   what one would write without a thought of PromQL: sum() is not compensated, NaN and
                stale markers are as any number
"""

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import fields

import duckdb
import numpy as np
import pyarrow as pa

from benchmarks.kernels import MIX, Columns, is_same
from benchmarks.waveforms import draw
from downsample import _rollup
from downsample.rollup_rows import FIVE_MINUTES_MS, HOUR_MS, RollupRows
from downsample.twins import rollup as twin

START_MS = 1_763_683_200_000
"""A midnight."""
DAY_MS = 24 * HOUR_MS
BATCH_ROWS = 1_000_000
LATE_RATIO = 0.15
LATE_MS_MAX = 8
PLAIN_SQL = """
    SELECT metric, series_id, window_end_ms, count(*) AS count, sum(value) AS sum,
        min(value) AS min, max(value) AS max, arg_min(value, timestamp_ms) AS first,
        arg_max(value, timestamp_ms) AS last, min(timestamp_ms) AS first_timestamp_ms,
        max(timestamp_ms) AS last_timestamp_ms,
        sum(before) FILTER (value < before) AS reset_drop,
        count(*) FILTER (value < before) AS resets
    FROM (
        SELECT *, lag(value) OVER (
            PARTITION BY metric, series_id, window_end_ms ORDER BY timestamp_ms
        ) AS before
        FROM (
            SELECT *, (timestamp_ms + $window_ms - 1) // $window_ms * $window_ms AS window_end_ms
            FROM samples
        )
    )
    GROUP BY ALL
    ORDER BY metric, series_id, window_end_ms
"""
Measured = tuple[float, int]
"""CPU seconds and rows."""


def batches(row_count: int, interval_ms: int) -> Iterator[Columns]:
    """Offsets, times and values of whole series, until there are so many rows."""
    per_series = DAY_MS // interval_ms
    series_count = max(1, BATCH_ROWS // per_series)
    seed = 0
    while row_count > 0:
        rng = np.random.default_rng(seed)
        kinds = rng.choice(list(MIX), series_count, p=list(MIX.values()))
        values = draw(kinds, per_series, interval_ms / 1000, seed)
        phases_ms = rng.integers(1, interval_ms - LATE_MS_MAX, series_count)
        times = START_MS + phases_ms[:, None] + np.arange(per_series) * interval_ms
        is_late = rng.random(times.shape) < LATE_RATIO
        times += is_late * rng.integers(1, LATE_MS_MAX + 1, times.shape)
        offsets = np.arange(series_count + 1, dtype=np.int64) * per_series
        yield offsets, times.ravel(), values.ravel()
        row_count -= times.size
        seed += 1


def least_cpu_s(call: Callable[[], object], repeats: int) -> float:
    """CPU seconds of the process, all its threads."""
    best = float("inf")
    for _ in range(repeats):
        began = time.process_time()
        call()
        best = min(best, time.process_time() - began)
    return best


def measure_kernel(
    row_count: int, interval_ms: int, repeats: int
) -> tuple[Measured, tuple[int, int]]:
    """The kernel over all batches, and the rows that it made of each level."""
    cpu_s, rows, made = 0.0, 0, [0, 0]
    for batch in batches(row_count, interval_ms):
        cpu_s += least_cpu_s(lambda batch=batch: _rollup.roll_up(*batch), repeats)  # type: ignore[misc]
        rows += len(batch[1])
        for level, found in enumerate(_rollup.roll_up(*batch)):
            made[level] += len(found.count)
    return (cpu_s, rows), (made[0], made[1])


def measure_again(row_count: int, interval_ms: int, repeats: int) -> tuple[Measured, Measured]:
    """5 m to 1 h, and a merge of 5 m rows with as many late ones, over rows that are read."""
    again = merge = 0.0
    rows = 0
    for batch in batches(row_count, interval_ms):
        fives, _ = _rollup.roll_up(*batch)
        again += least_cpu_s(lambda fives=fives: _rollup.roll_up_again(fives), repeats)  # type: ignore[misc]
        merge += least_cpu_s(lambda fives=fives: _rollup.merge_rollups(fives, fives), repeats)  # type: ignore[misc]
        rows += len(fives.count)
    return (again, rows), (merge, 2 * rows)


def measure_sql(row_count: int, interval_ms: int) -> tuple[Measured, Measured, bool]:
    """The definition and the plain SQL over the first batches; whether kernel and SQL agree."""
    definition = plain = 0.0
    rows, agree = 0, True
    for batch in batches(row_count, interval_ms):
        began = time.process_time()
        found = twin.roll_up(*batch)
        definition += time.process_time() - began
        expected = _rollup.roll_up(*batch)
        agree &= all(
            is_same(getattr(left, field.name), getattr(right, field.name))
            for left, right in zip(found, expected, strict=True)
            for field in fields(RollupRows)
        )
        samples = arrow_samples(batch)
        plain += least_cpu_s(lambda samples=samples: run_plain(samples), 1)  # type: ignore[misc]
        rows += len(batch[1])
    return (definition, rows), (plain, rows), agree


def arrow_samples(batch: Columns) -> pa.Table:
    offsets, times, values = batch
    series = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    metrics = pa.array(["0"] * len(times))
    return pa.table(
        {"metric": metrics, "series_id": series, "timestamp_ms": times, "value": values}
    )


def run_plain(samples: pa.Table) -> None:
    with duckdb.connect(":memory:", config={"threads": 1}) as connection:
        connection.register("samples", samples)
        for window_ms in (FIVE_MINUTES_MS, HOUR_MS):
            connection.sql(PLAIN_SQL, params={"window_ms": window_ms}).to_arrow_table()


def show(name: str, measured: Measured, unit: str = "samples") -> None:
    cpu_s, rows = measured
    print(
        f"  {name:28} {rows / cpu_s / 1e6:8.2f} M {unit}/CPU-s {cpu_s / rows * 1e9:8.2f} ns",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=30_000_000)
    parser.add_argument("--sql-rows", type=int, default=BATCH_ROWS, help="0 leaves SQL out")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    for interval_ms in (60_000, 15_000):
        kernel, (fives, hours) = measure_kernel(options.rows, interval_ms, options.repeats)
        print(
            f"a scrape every {interval_ms // 1000} s: {kernel[1] / 1e6:.1f} M samples into "
            f"{fives / 1e6:.2f} M rows of 5 m and {hours / 1e6:.2f} M of 1 h"
        )
        show("kernel", kernel)
        again, merge = measure_again(BATCH_ROWS, interval_ms, options.repeats)
        if options.sql_rows:
            definition, plain, agree = measure_sql(options.sql_rows, interval_ms)
            show("definition in SQL", definition)
            show("plain SQL", plain)
            if not agree:
                print("  kernel and definition DIFFER")
        show("5 m rows into 1 h", again, "rows")
        show("late rows into stored ones", merge, "rows")


if __name__ == "__main__":
    main()
