"""Rows of windows, told by hand. All of it runs against the kernel and its twin."""

import math
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Protocol

import numpy as np
import pytest

from bridge.model.staleness import STALE_BITS
from bridge.wire.columns import F64Array, I64Array
from downsample import _rollup
from downsample.rollup_rows import HOUR_MS, NAN_BITS, TIMESTAMP_MS_MAX, RollupRows
from downsample.twins import rollup as twin
from tests.oracle.rollup import bits_of

END_MS = 1_763_683_200_000
"""A full hour; the windows of 5 m that the tests fill are the one that ends here, and the next."""
MINUTE_MS = 60_000
FIVE_MS = 5 * MINUTE_MS
STALE = float(np.uint64(STALE_BITS).view(np.float64))
NAN = math.nan
INF = math.inf
GREATEST = 1.7976931348623157e308


class Kernel(Protocol):
    """The compiled module, or its twin."""

    roll_up: Callable[[I64Array, I64Array, F64Array], tuple[RollupRows, RollupRows]]
    roll_up_again: Callable[[RollupRows], RollupRows]
    merge_rollups: Callable[[RollupRows, RollupRows], RollupRows]


@pytest.fixture(params=[_rollup, twin], ids=["compiled", "twin"])
def kernel(request: pytest.FixtureRequest) -> Kernel:
    module: Kernel = request.param
    return module


def columns(*ranks: dict[int, float]) -> tuple[I64Array, I64Array, F64Array]:
    """Offsets, times and values; a marker is written as `STALE`."""
    offsets = np.cumsum([0, *map(len, ranks)]).astype(np.int64)
    times = np.array([time for rank in ranks for time in rank], np.int64)
    bits = [
        STALE_BITS if value is STALE else bits_of(value)
        for rank in ranks
        for value in rank.values()
    ]
    return offsets, times, np.array(bits, np.uint64).view(np.float64)


def minutes(*values: float, end_ms: int = END_MS) -> dict[int, float]:
    """A sample a minute, the last at the end of the window."""
    return {
        end_ms + MINUTE_MS * (place - len(values)): value for place, value in enumerate(values, 1)
    }


def one(rows: RollupRows) -> dict[str, float]:
    """The only row."""
    assert len(rows.window_end_ms) == 1
    return {
        field.name: getattr(rows, field.name)[0].item()
        for field in fields(RollupRows)
        if field.name != "offsets"
    }


def five(kernel: Kernel, samples: dict[int, float]) -> dict[str, float]:
    return one(kernel.roll_up(*columns(samples))[0])


def test_a_window_is_open_on_the_left_and_closed_on_the_right(kernel: Kernel) -> None:
    samples = {END_MS - FIVE_MS: 1.0, END_MS - FIVE_MS + 1: 2.0, END_MS: 3.0, END_MS + 1: 4.0}
    fives, hours = kernel.roll_up(*columns(samples))
    assert fives.window_end_ms.tolist() == [END_MS - FIVE_MS, END_MS, END_MS + FIVE_MS]
    assert fives.count.tolist() == [1, 2, 1]
    assert hours.window_end_ms.tolist() == [END_MS, END_MS + HOUR_MS]
    assert hours.count.tolist() == [3, 1]


def test_a_row_tells_all_of_its_window(kernel: Kernel) -> None:
    assert five(kernel, minutes(3.0, 5.0, 1.0, 2.0, 0.5)) == {
        "window_end_ms": END_MS,
        "count": 5,
        "sum": 11.5,
        "min": 0.5,
        "max": 5.0,
        "first": 3.0,
        "last": 0.5,
        "first_timestamp_ms": END_MS - 4 * MINUTE_MS,
        "last_timestamp_ms": END_MS,
        "reset_drop": 7.0,
        "resets": 2,
        "stale_timestamp_ms": 0,
    }


@pytest.mark.parametrize(
    ("time_ms", "end_ms", "hour_end_ms"),
    [
        (0, 0, 0),
        (1, FIVE_MS, HOUR_MS),
        (-1, 0, 0),
        (-FIVE_MS, -FIVE_MS, 0),
        (-HOUR_MS - 1, -HOUR_MS, -HOUR_MS),
        (-62_135_596_800_000, -62_135_596_800_000, -62_135_596_800_000),
        (-62_135_596_799_999, -62_135_596_500_000, -62_135_593_200_000),
        (253_402_300_799_999, 253_402_300_800_000, 253_402_300_800_000),
        (TIMESTAMP_MS_MAX, 9_223_372_036_851_300_000, 9_223_372_036_854_000_000),
        (-(2**63), -9_223_372_036_854_600_000, -9_223_372_036_854_000_000),
    ],
)
def test_windows_end_at_multiples_on_both_sides_of_the_epoch(
    kernel: Kernel, time_ms: int, end_ms: int, hour_end_ms: int
) -> None:
    fives, hours = kernel.roll_up(*columns({time_ms: 1.0}))
    assert fives.window_end_ms.tolist() == [end_ms]
    assert hours.window_end_ms.tolist() == [hour_end_ms]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((1.0, 1e100, 1.0, -1e100), 2.0),
        ((0.1,) * 10, 1.0),
        ((INF, 1.0), INF),
        ((INF, -INF), NAN),
        ((1.0, NAN), NAN),
        ((GREATEST, GREATEST, -GREATEST), INF),
        ((GREATEST, -GREATEST, 1.0), 1.0),
        ((-1.0, GREATEST), GREATEST),
        ((GREATEST, -1.0, -GREATEST), -1.0),
        ((5e-324, 5e-324), 1e-323),
        ((-0.0,), 0.0),
    ],
)
def test_a_sum_is_compensated(kernel: Kernel, values: tuple[float, ...], expected: float) -> None:
    samples = {END_MS - 1000 * place: value for place, value in enumerate(reversed(values))}
    fives, hours = kernel.roll_up(*columns(dict(sorted(samples.items()))))
    for rows in (fives, hours):
        assert repr(one(rows)["sum"]) == repr(expected)


def test_an_hour_adds_samples_and_not_sums(kernel: Kernel) -> None:
    """ROLL-1."""
    samples = {END_MS - 2 * FIVE_MS: 1e100, END_MS - FIVE_MS: 1.0, END_MS: -1e100}
    fives, hours = kernel.roll_up(*columns(samples))
    assert fives.sum.tolist() == [1e100, 1.0, -1e100]
    assert hours.sum.tolist() == [1.0]


def test_every_sum_that_is_no_number_is_the_same_nan(kernel: Kernel) -> None:
    nans = np.array([0xFFF8_0000_0000_0003, 0x7FF0_0000_0000_0007], np.uint64).view(np.float64)
    times = np.array([END_MS - 1, END_MS], np.int64)
    fives, _ = kernel.roll_up(np.array([0, 2], np.int64), times, nans)
    assert fives.sum.view(np.uint64).tolist() == [NAN_BITS]
    # …but what is a sample keeps its bits; of many NaN the last is the least and the greatest.
    assert fives.first.view(np.uint64).tolist() == [0xFFF8_0000_0000_0003]
    for column in (fives.min, fives.max, fives.last):
        assert column.view(np.uint64).tolist() == [0x7FF0_0000_0000_0007]


@pytest.mark.parametrize(
    ("values", "least", "greatest"),
    [
        ((NAN, 2.0, NAN, 1.0), 1.0, 2.0),
        ((3.0, NAN), 3.0, 3.0),
        ((NAN, NAN), NAN, NAN),
        ((INF, NAN, -INF), -INF, INF),
        ((NAN, INF), INF, INF),
        ((NAN, -INF), -INF, -INF),
        ((0.0, -0.0), 0.0, 0.0),
        ((-0.0, 0.0), -0.0, -0.0),
    ],
)
def test_least_and_greatest_leave_nan_out(
    kernel: Kernel, values: tuple[float, ...], least: float, greatest: float
) -> None:
    row = five(kernel, minutes(*values))
    assert (repr(row["min"]), repr(row["max"])) == (repr(least), repr(greatest))


@pytest.mark.parametrize(
    ("values", "drop", "resets"),
    [
        ((1.0, 2.0, 2.0), 0.0, 0),
        ((5.0, 1.0, 4.0, 3.0), 9.0, 2),
        ((5.0, STALE, 1.0), 5.0, 1),
        ((5.0, NAN, 1.0), 0.0, 0),
        ((NAN, 1.0, NAN, 0.0), 0.0, 0),
        ((-1.0, -2.0, -5.0), -3.0, 2),
        ((INF, 1.0, 0.0), INF, 2),
        ((0.0, -0.0), 0.0, 0),
        ((1.0, -INF, 3.0), 1.0, 1),
        ((1e100, 1.0, 0.0), 1e100, 2),
    ],
)
def test_a_drop_is_a_sample_below_the_one_before_it(
    kernel: Kernel, values: tuple[float, ...], drop: float, resets: int
) -> None:
    row = five(kernel, minutes(*values))
    assert (row["reset_drop"], row["resets"]) == (drop, resets)


def test_a_drop_between_windows_counts_in_the_hour_alone(kernel: Kernel) -> None:
    samples = {END_MS - FIVE_MS: 7.0, END_MS: 2.0, END_MS + 1: 1.0}
    fives, hours = kernel.roll_up(*columns(samples))
    assert fives.resets.tolist() == [0, 0, 0]
    assert (hours.reset_drop.tolist(), hours.resets.tolist()) == ([7.0, 0.0], [1, 0])
    again = kernel.roll_up_again(fives)
    assert (again.reset_drop.tolist(), again.resets.tolist()) == ([7.0, 0.0], [1, 0])


def test_a_drop_over_a_window_of_markers_counts_in_the_hour(kernel: Kernel) -> None:
    samples = {END_MS - 2 * FIVE_MS: 7.0, END_MS - FIVE_MS: STALE, END_MS: 2.0}
    fives, hours = kernel.roll_up(*columns(samples))
    assert fives.count.tolist() == [1, 0, 1]
    for rows in (hours, kernel.roll_up_again(fives)):
        assert (rows.reset_drop.tolist(), rows.resets.tolist()) == ([7.0], [1])


@pytest.mark.parametrize(
    ("values", "count", "stale_ms"),
    [
        ((1.0, STALE), 1, END_MS),
        ((STALE, 1.0), 1, 0),
        ((1.0, STALE, 2.0), 2, 0),
        ((STALE, STALE), 0, END_MS),
        ((NAN, STALE), 1, END_MS),
        ((STALE, NAN), 1, 0),
    ],
)
def test_a_marker_counts_where_no_sample_follows(
    kernel: Kernel, values: tuple[float, ...], count: int, stale_ms: int
) -> None:
    row = five(kernel, minutes(*values))
    assert (row["count"], row["stale_timestamp_ms"]) == (count, stale_ms)


def test_another_nan_that_looks_like_a_marker_is_a_sample(kernel: Kernel) -> None:
    values = np.array([STALE_BITS | 1 << 63, STALE_BITS + 1], np.uint64).view(np.float64)
    times = np.array([END_MS - 1, END_MS], np.int64)
    fives, _ = kernel.roll_up(np.array([0, 2], np.int64), times, values)
    assert (one(fives)["count"], one(fives)["stale_timestamp_ms"]) == (2, 0)


def test_a_window_of_markers_alone_is_a_row_of_zeros(kernel: Kernel) -> None:
    row = five(kernel, minutes(STALE, STALE))
    assert row.pop("window_end_ms") == END_MS
    assert row.pop("stale_timestamp_ms") == END_MS
    assert set(row.values()) == {0}


def test_the_marker_of_the_last_window_is_that_of_the_hour(kernel: Kernel) -> None:
    fives, hours = kernel.roll_up(
        *columns(
            {
                END_MS - FIVE_MS: STALE,
                END_MS: 1.0,
                END_MS + FIVE_MS: 2.0,
                END_MS + 2 * FIVE_MS: STALE,
            }
        )
    )
    for rows in (hours, kernel.roll_up_again(fives)):
        assert rows.stale_timestamp_ms.tolist() == [0, END_MS + 2 * FIVE_MS]


def test_series_do_not_see_one_another(kernel: Kernel) -> None:
    ranks = [minutes(9.0), {}, minutes(1.0, 2.0), {}, {}, minutes(STALE), {}]
    fives, hours = kernel.roll_up(*columns(*ranks))
    for rows in (fives, hours, kernel.roll_up_again(fives)):
        assert rows.offsets.tolist() == [0, 1, 1, 2, 2, 2, 3, 3]
        assert rows.count.tolist() == [1, 2, 0]
        assert rows.resets.tolist() == [0, 0, 0]


def test_nothing_gives_nothing(kernel: Kernel) -> None:
    for rank_count in range(3):
        nothing: list[dict[int, float]] = [{}] * rank_count
        fives, hours = kernel.roll_up(*columns(*nothing))
        for rows in (fives, hours, kernel.roll_up_again(fives), kernel.merge_rollups(fives, fives)):
            assert rows.offsets.tolist() == [0] * (rank_count + 1)
            assert not len(rows.count)


def test_rows_outside_of_the_offsets_are_left_alone(kernel: Kernel) -> None:
    _, times, values = columns(minutes(1.0, 2.0, 3.0, 4.0))
    fives, _ = kernel.roll_up(np.array([1, 3], np.int64), times, values)
    assert (one(fives)["count"], one(fives)["sum"]) == (2, 5.0)


def test_columns_that_may_not_be_written_to_are_read(kernel: Kernel) -> None:
    arguments = columns(minutes(1.0, 2.0))
    for column in arguments:
        column.flags.writeable = False
    fives, _ = kernel.roll_up(*arguments)
    for field in fields(RollupRows):
        getattr(fives, field.name).flags.writeable = False
    assert kernel.roll_up_again(fives).count.tolist() == [2]
    assert kernel.merge_rollups(fives, fives).count.tolist() == [4]


def test_what_cannot_be_rolled_up_is_refused(kernel: Kernel) -> None:
    offsets, times, values = columns(minutes(1.0, 2.0, 3.0))
    with pytest.raises(ValueError, match="equal length"):
        kernel.roll_up(offsets, times, values[1:])
    with pytest.raises(ValueError, match="offsets"):
        kernel.roll_up(np.array([0, 4], np.int64), times, values)
    with pytest.raises(ValueError, match="offsets"):
        kernel.roll_up(np.array([0, 2, 1], np.int64), times, values)
    for wrong in ([2, 1, 3], [1, 1, 2], [1, 2, TIMESTAMP_MS_MAX + 1], [2**63 - 1, 1, 2]):
        with pytest.raises(ValueError, match="ascend"):
            kernel.roll_up(offsets, np.array(wrong, np.int64), values)


def test_rows_that_do_not_fit_together_are_refused(kernel: Kernel) -> None:
    fives, _ = kernel.roll_up(*columns(minutes(1.0), minutes(2.0)))
    shuffled = replace(fives, offsets=np.array([0, 2], np.int64))
    for wrong in (replace(fives, resets=fives.resets[1:]), shuffled):
        with pytest.raises(ValueError, match=r"length|ascend"):
            kernel.roll_up_again(wrong)
        with pytest.raises(ValueError, match=r"length|ascend"):
            kernel.merge_rollups(fives, wrong)
    with pytest.raises(ValueError, match="2 ranks and 1"):
        kernel.merge_rollups(fives, kernel.roll_up(*columns(minutes(1.0)))[0])


# -- late samples --


def merged(kernel: Kernel, old: dict[int, float], late: dict[int, float]) -> dict[str, float]:
    """The one row of two sets of samples, and that their order does not matter."""
    rows = [kernel.roll_up(*columns(samples))[0] for samples in (old, late)]
    found = one(kernel.merge_rollups(rows[0], rows[1]))
    assert repr(found) == repr(one(kernel.merge_rollups(rows[1], rows[0])))
    return found


def test_windows_of_one_side_are_kept_as_they_are(kernel: Kernel) -> None:
    old, _ = kernel.roll_up(*columns(minutes(1.0), minutes(2.0)))
    late, _ = kernel.roll_up(
        *columns(minutes(3.0, end_ms=END_MS - FIVE_MS), minutes(4.0, end_ms=END_MS + FIVE_MS))
    )
    rows = kernel.merge_rollups(old, late)
    assert rows.offsets.tolist() == [0, 2, 4]
    assert rows.window_end_ms.tolist() == [END_MS - FIVE_MS, END_MS, END_MS, END_MS + FIVE_MS]
    assert rows.sum.tolist() == [3.0, 1.0, 2.0, 4.0]


@pytest.mark.parametrize(
    "values", [(5.0, 1.0, 7.0, 2.0), (5.0, 1.0, 7.0, 7.0), (1.0, 2.0, 3.0, 4.0)]
)
def test_samples_that_follow_add_the_drop_at_the_join(
    kernel: Kernel, values: tuple[float, ...]
) -> None:
    samples = minutes(*values)
    times = list(samples)
    row = merged(
        kernel,
        {time: samples[time] for time in times[:3]},
        {time: samples[time] for time in times[3:]},
    )
    assert row == five(kernel, samples)


@pytest.mark.parametrize(
    ("values", "late_places", "drop", "resets"),
    [
        # One restart in a gap that both see: it counts once.
        ((10.0, 20.0, 3.0, 4.0), {1, 2}, 20.0, 1),
        # The old samples climbed over it.
        ((10.0, 20.0, 3.0, 14.0), {1, 2}, 20.0, 1),
        # A restart before the late ones, of which the old ones saw nothing.
        ((10.0, 3.0, 4.0, 14.0), {1, 2}, 10.0, 1),
        # By turns: the last of one lies outside the other.
        ((10.0, 11.0, 12.0, 1.0), {1, 3}, 12.0, 1),
        # Two restarts; both saw the first, and late.last to old.last is the second.
        ((5.0, 6.0, 1.0, 2.0, 0.0), {1, 3}, 8.0, 2),
    ],
)
def test_drops_among_interleaved_samples_are_those_that_are_proven(
    kernel: Kernel, values: tuple[float, ...], late_places: set[int], drop: float, resets: int
) -> None:
    samples = list(minutes(*values).items())
    row = merged(
        kernel,
        dict(sample for place, sample in enumerate(samples) if place not in late_places),
        dict(sample for place, sample in enumerate(samples) if place in late_places),
    )
    assert (row["reset_drop"], row["resets"]) == (drop, resets)
    assert (row["count"], row["first"], row["last"]) == (len(values), values[0], values[-1])


@pytest.mark.parametrize(
    ("old", "late", "stale_ms"),
    [
        ({-3: 1.0, -2: STALE}, {-1: 1.0}, 0),
        ({-3: 1.0, -1: STALE}, {-2: 1.0}, END_MS - 1),
        ({-1: STALE}, {-2: 1.0}, END_MS - 1),
        ({-1: STALE}, {-2: STALE}, END_MS - 1),
        ({-1: STALE}, {-1: 1.0}, 0),
        ({-3: STALE, -2: 1.0}, {-1: STALE}, END_MS - 1),
    ],
)
def test_a_marker_lasts_until_a_late_sample_follows(
    kernel: Kernel, old: dict[int, float], late: dict[int, float], stale_ms: int
) -> None:
    row = merged(
        kernel,
        {END_MS + time: value for time, value in old.items()},
        {END_MS + time: value for time, value in late.items()},
    )
    assert row["stale_timestamp_ms"] == stale_ms


def test_of_two_samples_at_one_time_the_greater_is_first_and_last(kernel: Kernel) -> None:
    row = merged(kernel, {END_MS: 1.0}, {END_MS: 2.0})
    assert (row["first"], row["last"], row["count"]) == (2.0, 2.0, 2)
    assert merged(kernel, {END_MS: NAN}, {END_MS: 2.0})["last"] == 2.0


def test_counts_stop_at_what_a_column_holds(kernel: Kernel) -> None:
    rows, _ = kernel.roll_up(*columns(minutes(2.0, 1.0)))
    full = replace(
        rows, count=np.array([2**31 - 1], np.int32), resets=np.array([2**31 - 1], np.int32)
    )
    later, _ = kernel.roll_up(*columns({END_MS - 10 * MINUTE_MS: 9.0, END_MS - FIVE_MS: 8.0}))
    assert kernel.merge_rollups(full, rows).count.tolist() == [2**31 - 1]
    again = kernel.roll_up_again(kernel.merge_rollups(full, later))
    assert (again.count.tolist(), again.resets.tolist()) == ([2**31 - 1], [2**31 - 1])


def test_values_of_rows_without_samples_mean_nothing(kernel: Kernel) -> None:
    rows, _ = kernel.roll_up(*columns({END_MS - FIVE_MS: 1.0, END_MS: STALE}))
    anything = np.where(rows.count > 0, rows.sum, 77.0)
    assert (rows.sum == rows.last).all()  # a sample a window: one column stands for all
    odd = replace(
        rows,
        sum=anything,
        min=anything,
        max=anything,
        first=anything,
        last=anything,
        reset_drop=np.where(rows.count > 0, 0.0, 77.0),
    )
    for left, right in (
        (kernel.roll_up_again(odd), kernel.roll_up_again(rows)),
        (kernel.merge_rollups(odd, rows), kernel.merge_rollups(rows, rows)),
    ):
        for field in fields(RollupRows):
            assert getattr(left, field.name).tobytes() == getattr(right, field.name).tobytes()
