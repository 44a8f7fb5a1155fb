"""Answers do not depend on where a span is cut into slices."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from bridge.lake.footers import FooterCache
from bridge.lake.schema import SAMPLES_5M
from bridge.lake.slicer import ScanFile
from bridge.model.time_range import TimeRange
from bridge.read.emission import Emission, Grid, Kind
from bridge.read.resolution import Level, Reason, Span
from bridge.read.spans import RollupRead
from tests.oracle.promql import FUNCTIONS, select_range
from tests.oracle.rollup import FIVE_MINUTES_MS, roll_up
from tests.oracle.rollup_files import Key, select_keys, write_windows
from tests.oracle.tsdb import Sample

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
BEGIN_MS = 1_780_272_000_000  # 2026-06-01T00:00Z
KEYS: list[Key] = [("made", number) for number in range(6)]
KINDS = {
    "rate": Kind.RATE,
    "increase": Kind.RATE,
    "delta": Kind.DELTA,
    "resets": Kind.RESETS,
    "min_over_time": Kind.MIN,
    "max_over_time": Kind.MAX,
    "sum_over_time": Kind.SUM,
    "avg_over_time": Kind.MEAN,
    "last_over_time": Kind.LAST,
    "count_over_time": Kind.SPREAD,
}


def bits_of(value: float) -> int:
    return int(np.float64(value).view(np.uint64))


def made(number: int) -> list[Sample]:
    """A counter with resets and a hole, that begins late and ends early; late at whole hours."""
    samples, value = [], 0.0
    for step in range(17 * number, 24 * 60 - 23 * number):
        value = 0.0 if step % (311 + number) == 0 else value + step % 7
        if not 580 + 20 * number < step < 690:
            jitter_ms = 40_000 if step % 60 == 0 else 0
            samples.append((BEGIN_MS + step * 60_000 + 17_000 + jitter_ms, bits_of(value)))
    return samples


def answer(
    tmp_path: Path, emission: Emission, rows_max: int
) -> tuple[dict[int, list[Sample]], int]:
    """What leaves, by series, and in how many slices."""
    path = tmp_path / f"{rows_max}.parquet"
    rows = [(key, row) for key in KEYS for row in roll_up(made(key[1]), FIVE_MINUTES_MS)]
    file = write_windows(path, SAMPLES_5M, "2026-06-01", rows).lake_file()
    span = Span(
        TimeRange(emission.after_ms, emission.until_ms), Level.FIVE_M, (Reason.HINTS,), emission
    )
    read = RollupRead(
        span,
        select_keys(KEYS),
        [ScanFile(file, len(KEYS))],
        None,
        FooterCache(1 << 20),
        lambda: None,
        rows_max,
    )
    got: dict[int, list[Sample]] = {key[1]: [] for key in KEYS}
    slice_count = 0
    for part in read.slices():
        slice_count += 1
        bounds = part.rows.offsets.tolist()
        for slot, (begin, end) in enumerate(pairwise(bounds)):
            times = part.rows.timestamps_ms[begin:end].tolist()
            bits = part.rows.values[begin:end].view(np.uint64).tolist()
            own = got[KEYS[part.rank_begin + slot][1]]
            assert not own or not times or times[0] > own[-1][0], "READ-3"
            own += zip(times, bits, strict=True)
    return got, slice_count


def evaluate(func: str, samples: Sequence[Sample], grid: Grid, until_ms: int) -> dict[int, float]:
    """Results by time, where there are any."""
    results = {
        at_ms: FUNCTIONS[func](
            select_range(samples, at_ms, grid.range_ms, is_closed=grid.is_closed)
        )
        for at_ms in range(grid.first_ms, until_ms + 1, grid.step_ms)
    }
    return {at_ms: value for at_ms, value in results.items() if value is not None}


@pytest.mark.parametrize("is_closed", [False, True])
@pytest.mark.parametrize("range_ms", [HOUR_MS, 5 * HOUR_MS])
@pytest.mark.parametrize("func", sorted(KINDS))
def test_a_cut_changes_no_answer(
    tmp_path: Path, func: str, range_ms: int, *, is_closed: bool
) -> None:
    first_ms, until_ms = BEGIN_MS + 2 * HOUR_MS, BEGIN_MS + DAY_MS
    grid = Grid(first_ms, HOUR_MS, range_ms, is_closed)
    after_ms = first_ms - range_ms - is_closed
    emission = Emission(KINDS[func], FIVE_MINUTES_MS, after_ms, until_ms, grid)
    for rows_max in (1 << 20, 200, 100, 40):
        got, slice_count = answer(tmp_path, emission, rows_max)
        assert (slice_count > 1) == (rows_max < 1 << 20)
        for key in KEYS:
            truth = evaluate(func, made(key[1]), grid, until_ms)
            found = evaluate(func, got[key[1]], grid, until_ms)
            assert found.keys() == truth.keys(), (key, rows_max)
            assert found == pytest.approx(truth, rel=1e-9, abs=1e-9), (key, rows_max)
