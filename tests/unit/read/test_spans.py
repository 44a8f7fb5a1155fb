"""Windows that no evaluation looks at, and raw samples averaged by window."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bridge.lake.grouped import GroupedRows
from bridge.lake.window_rows import WindowRows
from bridge.model.staleness import STALE_BITS
from bridge.read.emission import Emission, Grid, Kind
from bridge.read.spans import average, touched_windows, windows_of
from downsample.rollup import RollupRows, roll_up

FIVE_M = 300_000


@given(
    first_ms=st.integers(0, 50_000_000),
    step_ms=st.integers(1_000, 40_000_000),
    range_ms=st.integers(1_000, 10_000_000),
    is_closed=st.booleans(),
)
def test_what_is_touched(*, first_ms: int, step_ms: int, range_ms: int, is_closed: bool) -> None:
    grid = Grid(first_ms, step_ms, range_ms, is_closed)
    emission = Emission(Kind.RATE, FIVE_M, 0, 100_000_000, grid)
    touched = touched_windows(emission)
    assert (touched is None) == (step_ms <= range_ms + FIVE_M)
    if touched is None:
        return
    ends = np.arange(1, 300, dtype=np.int64) * FIVE_M
    evaluations = {
        base + step_ms * number
        for base in (first_ms % step_ms, 0)
        for number in range(-1, 100_000_000 // step_ms + 2)
    }
    expected = [
        any(
            end - FIVE_M < at and at - range_ms - is_closed < end
            for at in evaluations
            if abs(at - end) <= range_ms + FIVE_M + 1
        )
        for end in ends.tolist()
    ]
    assert touched(ends).tolist() == expected


@given(
    series=st.lists(
        st.lists(
            st.tuples(
                st.integers(1, 20_000_000),
                st.sampled_from([0.0, 1.5, -2.0, 1e9, float("nan"), None]),
            ),
            unique_by=lambda sample: sample[0],
            max_size=30,
        ),
        min_size=1,
        max_size=4,
    )
)
def test_windows_are_those_of_rollups(series: list[list[tuple[int, float | None]]]) -> None:
    stale = np.array([STALE_BITS], np.uint64).view(np.float64)[0]
    samples = [sample for one in series for sample in sorted(one, key=lambda part: part[0])]
    offsets = np.cumsum([0, *map(len, series)], dtype=np.int64)
    times = np.array([time_ms for time_ms, _ in samples], np.int64)
    values = np.array([stale if value is None else value for _, value in samples], np.float64)
    fives, rolled = roll_up(offsets, times, values)
    raw = average(windows_of(GroupedRows(offsets, times, values)), FIVE_M)
    check_joined(raw, fives)
    check_joined(average(raw, 12 * FIVE_M), rolled)


def check_joined(found: WindowRows, rolled: RollupRows) -> None:
    """Windows are those of a rollup, as far as means need them."""
    has_samples = rolled.count > 0
    kept_before = np.concatenate([[0], np.cumsum(has_samples)])
    assert found.offsets.tolist() == kept_before[rolled.offsets].tolist()
    for name in ("window_end_ms", "count", "first_timestamp_ms", "last_timestamp_ms"):
        assert getattr(found, name).tolist() == getattr(rolled, name)[has_samples].tolist(), name
    assert found.count is not None
    assert found.count.dtype == np.int32
    assert found.sum is not None
    assert found.first is not None
    assert found.last is not None
    np.testing.assert_allclose(found.sum, rolled.sum[has_samples], rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(found.first, rolled.first[has_samples])
    np.testing.assert_array_equal(found.last, rolled.last[has_samples])
