"""What leaves for windows, case by case; the property tests compare with an engine."""

import math
from collections.abc import Sequence
from itertools import pairwise
from types import ModuleType

import numpy as np
import pytest

from bridge.lake.window_rows import WindowRows
from bridge.read.emission import Emission, Grid, Kind, columns_of, emit_parts
from tests.unit.read.made_windows import (
    CLOSED,
    FIVE,
    Row,
    Sent,
    W,
    drops,
    emission,
    regular,
    rows,
    sent,
)

NAN_BITS = 0x7FF8_0000_0000_0001


# -- counters --


def test_rate_gets_first_and_last(kernel: ModuleType) -> None:
    made = regular(*range(W, 6 * W, W))
    found = sent(kernel.emit(rows(made), emission(Kind.RATE, Grid(5 * W, 0, 5 * W))))
    assert found == [
        (end - W + time_ms, value)
        for end in range(W, 6 * W, W)
        for time_ms, value in ((100, 1.0), (1000, 10.0))
    ]


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"reset_drop": 10.0, "last": 5.0}, [1.0, 10.0, 5.0]),
        ({"reset_drop": 10.0, "last": 12.0}, [1.0, 10.0, 0.0, 12.0]),
        ({"reset_drop": 1.0, "last": 5.0}, [1.0, 0.0, 5.0]),
        ({"reset_drop": 1.0, "last": 0.5}, [1.0, 0.5]),
        ({"reset_drop": 30.0, "last": 7.0, "resets": 3}, [1.0, 30.0, 7.0]),
    ],
)
@pytest.mark.parametrize("kind", [Kind.RATE, Kind.IRATE])
def test_one_fall_is_worth_all_drops(
    kernel: ModuleType, kind: Kind, more: Row, expected: list[float]
) -> None:
    found = sent(kernel.emit(rows([{"end": W, **more}]), emission(kind, None)))
    assert [value for _, value in found] == expected
    assert sum(drops(found)) == more["reset_drop"]


def test_a_nan_hides_a_drop_from_rate_and_resets(kernel: ModuleType) -> None:
    made = rows([{"end": W, "first": 7.0, "last": 5.0}])
    for kind in (Kind.RATE, Kind.RESETS):
        found = sent(kernel.emit(made, emission(kind, None)))
        assert drops(found) == []
        assert [found[0], found[-1]] == [(100, 7.0), (900, 5.0)]


@pytest.mark.parametrize("kind", [Kind.RATE, Kind.DELTA])
def test_windows_before_a_hole_keep_their_count(kernel: ModuleType, kind: Kind) -> None:
    made = rows(regular(*range(W, 9 * W, W), count=9))
    grid = Grid(5 * W, 5 * W, 5 * W)
    found = sent(kernel.emit(made, emission(kind, grid)))
    # The range (0, 5 s] is whole; of (5 s, 10 s] the last two windows are missing.
    assert sum(time_ms <= 5 * W for time_ms, _ in found) == 10
    assert sum(time_ms > 5 * W for time_ms, _ in found) == 27
    assert found[10:19] == [
        (5100, 1.0),
        *((6000 - place, 1.0) for place in range(7, 0, -1)),
        (6000, 10.0),
    ]


def test_windows_at_a_seam_keep_their_count(kernel: ModuleType) -> None:
    made = rows(regular(*range(W, 11 * W, W), count=9))
    for is_after_edge, is_until_edge in ((False, False), (True, False), (False, True)):
        seam = Emission(
            Kind.RATE,
            W,
            0,
            10 * W,
            Grid(0, W, 3 * W),
            is_after_edge=is_after_edge,
            is_until_edge=is_until_edge,
        )
        times = kernel.emit(made, seam).timestamps_ms
        per_window = np.histogram(times, bins=np.arange(1, 10 * W + 2, W))[0].tolist()
        assert per_window[3:7] == [2, 2, 2, 2]
        assert per_window[:2] == ([9, 9] if is_after_edge else per_window[:2])
        assert per_window[8:] == ([9, 9] if is_until_edge else [2, 2])


def test_irate_is_never_filled(kernel: ModuleType) -> None:
    found = sent(kernel.emit(rows([{"end": 7 * W}]), emission(Kind.IRATE)))
    assert found == [(6100, 1.0), (6900, 10.0)]


@pytest.mark.parametrize(
    ("first", "last", "expected"),
    [
        (1.0, 5.0, [1, 10, 0, 10, 0, 5]),
        (10.0, 5.0, [10, 0, 10, 0, 5]),
        (1.0, 10.0, [1, 10, 0, 10, 0, 10]),
        (10.0, 10.0, [10, 0, 10, 0, 10]),
    ],
)
def test_resets_fall_as_often_as_they_did(
    kernel: ModuleType, first: float, last: float, expected: list[float]
) -> None:
    made = rows([{"end": W, "first": first, "last": last, "min": 0.0, "resets": 2}])
    full = expected if last == 10.0 else [*expected[:-2], expected[-1]]
    found = sent(kernel.emit(made, emission(Kind.RESETS, None)))
    assert [value for _, value in found] == full
    assert len(drops(found)) == 2
    spaced = sent(kernel.emit(made, emission(Kind.RESETS, None, spacing_ms=90)))
    assert len(drops(spaced)) == 2
    assert len(spaced) == 10


@pytest.mark.parametrize("last", [5.0, 12.0, 10.0, 0.0])
def test_points_of_a_counter_fall_once_by_its_drop(kernel: ModuleType, last: float) -> None:
    made = rows([{"end": W, "last": last, "reset_drop": 10.0, "resets": 1, "count": 100}])
    found = sent(kernel.emit(made, emission(Kind.RATE, spacing_ms=50)))
    assert drops(found) == [10.0]
    assert max(after - before for (before, _), (after, _) in pairwise(found)) <= 50
    assert [found[0], found[-1]] == [(100, 1.0), (900, last)]


def test_points_of_a_counter_never_fall_through_rounding(kernel: ModuleType) -> None:
    rng = np.random.default_rng(7)
    for first, rise in rng.random((200, 2)).tolist():
        made = rows([{"end": W, "first": first, "last": first + rise * 1e-13, "count": 500}])
        assert not drops(sent(kernel.emit(made, emission(Kind.RATE, spacing_ms=3))))


def test_windows_at_an_end_that_ranges_cut_keep_their_count(kernel: ModuleType) -> None:
    ends = [*range(W, 21 * W, W), 30 * W]
    made = rows(regular(*ends))
    cut = emission(Kind.RATE, Grid(5_500, 500, 3 * W), spacing_ms=450)
    times = kernel.emit(made, cut).timestamps_ms
    counts = np.histogram(times, bins=np.arange(1, 30 * W + 2, W))[0].tolist()
    # So many before the hole as a range of 3 s sees together with it.
    assert counts[:20] == [3] * 17 + [10] * 3
    assert counts[29] == 10


def test_a_fall_that_ranges_cut_takes_the_place_of_samples(kernel: ModuleType) -> None:
    made = rows([{"end": W, "last": 5.0, "reset_drop": 10.0, "resets": 1}])
    found = sent(kernel.emit(made, emission(Kind.RATE, Grid(1_500, 100, W), spacing_ms=50)))
    assert len(found) == 10
    assert drops(found) == [10.0]


def test_irate_never_falls_by_more_than_one_drop(kernel: ModuleType) -> None:
    row = {"end": W, "last": 4.0, "reset_drop": 30.0, "resets": 3, "count": 800}
    found = sent(kernel.emit(rows([row]), emission(Kind.IRATE, spacing_ms=1)))
    assert len(drops(found)) == 3
    assert all(9.9 < value <= 10 for value in drops(found))


# -- trends --


def test_trends_go_through_means(kernel: ModuleType) -> None:
    made = rows([{"end": W, "sum": 40.0}])
    near_ms = 800 // 64
    found = sent(kernel.emit(made, emission(Kind.TREND)))
    assert [time_ms for time_ms, _ in found] == [500 - near_ms, 500 + near_ms]
    assert [value for _, value in found] == pytest.approx(
        [4 - 9 * near_ms / 800, 4 + 9 * near_ms / 800]
    )
    made = rows([{"end": W, "sum": 12.0, "count": 3}])
    line = sent(kernel.emit(made, emission(Kind.TREND, None, spacing_ms=400)))
    assert line == [(100, 4 - 4.5), (500, 4.0), (900, 4 + 4.5)]
    close = rows([{"end": W, "first_timestamp_ms": 1, "last_timestamp_ms": 2, "sum": 40.0}])
    assert [time_ms for time_ms, _ in sent(kernel.emit(close, emission(Kind.TREND)))] == [1, 2]


def least_squares(samples: Sent) -> tuple[float, float]:
    """Value in the middle of a window of 1 s, and slope per ms."""
    times, values = np.array(samples).T
    slope, value = np.polyfit(times - 500, values, 1).tolist()
    return value, slope


@pytest.mark.parametrize("spacing_ms", [0, 160])
@pytest.mark.parametrize("count", [3, 4, 5, 16, 17])
@pytest.mark.parametrize("is_after_edge", [True, False])
def test_windows_beside_raw_samples_weigh_in_trends_as_those_do(
    kernel: ModuleType, spacing_ms: int, count: int, is_after_edge: bool
) -> None:
    made = rows([{"end": W, "count": count, "sum": 4.0 * count}])
    edges = {"is_after_edge": is_after_edge, "is_until_edge": not is_after_edge}
    found = sent(kernel.emit(made, emission(Kind.TREND, None, spacing_ms=spacing_ms, **edges)))
    assert len(found) == count
    assert least_squares(found) == pytest.approx((4, 9 / 800), rel=0.01)


def test_trends_weigh_less_where_they_would_be_too_many(kernel: ModuleType) -> None:
    made = rows([{"end": W, "count": 240}])
    for divisor, count in ((1, 240), (60, 4), (240, 2), (1000, 2)):
        beside = emission(Kind.TREND, None, weight_divisor=divisor, is_until_edge=True)
        assert len(sent(kernel.emit(made, beside))) == count
    assert len(sent(kernel.emit(made, emission(Kind.TREND, None)))) == 2


# -- values --


@pytest.mark.parametrize(("kind", "value"), [(Kind.MIN, 1.0), (Kind.MAX, 10.0), (Kind.SUM, 55.0)])
def test_one_sample_per_window(kernel: ModuleType, kind: Kind, value: float) -> None:
    assert sent(kernel.emit(rows([{"end": W}]), emission(kind))) == [(900, value)]


def test_a_sample_at_the_end_counts_for_both_closed_ranges(kernel: ModuleType) -> None:
    made = rows([{"end": W, "last_timestamp_ms": 1000, "last": 4.0}])
    by_kind = {
        kind: sent(kernel.emit(made, emission(kind, CLOSED)))
        for kind in (Kind.MIN, Kind.SUM, Kind.LAST, Kind.MEAN)
    }
    assert by_kind[Kind.MIN] == [(999, 1.0), (1000, 4.0)]
    assert by_kind[Kind.SUM] == [(999, 51.0), (1000, 4.0)]
    assert by_kind[Kind.LAST] == [(1000, 4.0)]
    assert by_kind[Kind.MEAN] == [*((100 * place, 51 / 9) for place in range(1, 10)), (1000, 4.0)]


def test_a_mean_weighs_what_its_samples_do(kernel: ModuleType) -> None:
    made = rows([{"end": W, "count": 240, "sum": 480.0}])
    for divisor, count in ((1, 240), (60, 4), (240, 1), (1000, 1)):
        found = sent(kernel.emit(made, emission(Kind.MEAN, weight_divisor=divisor)))
        assert [value for _, value in found] == [2.0] * count
        assert found[-1][0] == 900


def test_spread_samples_have_the_windows_aggregates(kernel: ModuleType) -> None:
    for count in range(4, 12):
        made = rows([{"end": W, "first": 3.0, "last": 4.0, "count": count, "sum": 5.0 * count}])
        values = [value for _, value in sent(kernel.emit(made, emission(Kind.SPREAD)))]
        assert len(values) == count
        assert (values[0], values[-1], min(values), max(values)) == (3.0, 4.0, 1.0, 10.0)
        assert count < 6 or math.isclose(sum(values), 5.0 * count)


@pytest.mark.parametrize(
    ("first", "last", "high_count", "expected"),
    [
        (0.0, 1.0, 3, [0] * 7 + [1] * 3),
        (1.0, 0.0, 3, [1] * 3 + [0] * 7),
        (1.0, 1.0, 9, [1] * 5 + [0] + [1] * 4),
        (0.0, 0.0, 7, [0, 0] + [1] * 7 + [0]),
    ],
)
def test_spread_samples_of_two_values_are_those(
    kernel: ModuleType, first: float, last: float, high_count: int, expected: Sequence[float]
) -> None:
    flag = {"first": first, "last": last, "min": 0.0, "max": 1.0, "sum": float(high_count)}
    found = sent(kernel.emit(rows([{"end": W, **flag}]), emission(Kind.SPREAD)))
    assert [value for _, value in found] == expected


def test_spread_samples_of_a_slope_are_no_step(kernel: ModuleType) -> None:
    values = [value for _, value in sent(kernel.emit(rows([{"end": W}]), emission(Kind.SPREAD)))]
    assert values == [1.0, *[5.5] * 8, 10.0]


def test_real_values_keep_their_bits(kernel: ModuleType) -> None:
    made = rows([{"end": W}])
    for column in (made.first, made.last):
        assert column is not None
        column.view(np.uint64)[:] = NAN_BITS | 0xBEEF
    for kind in (Kind.RATE, Kind.DELTA, Kind.RESETS, Kind.LAST, Kind.INSTANT):
        bits = kernel.emit(made, emission(kind, None)).values.view(np.uint64).tolist()
        assert bits[-1] == NAN_BITS | 0xBEEF


# -- what is sent at all --


def test_windows_that_no_evaluation_sees_are_not_sent(kernel: ModuleType) -> None:
    made = rows([{"end": end} for end in range(W, 41 * W, W)])
    found = kernel.emit(made, emission(Kind.LAST, Grid(12 * W, 12 * W, 4 * W)))
    ends = [9, 10, 11, 12, 21, 22, 23, 24, 33, 34, 35, 36]
    assert found.timestamps_ms.tolist() == [*(W * end - 100 for end in [*ends])]
    assert kernel.count_points(made, emission(Kind.LAST, Grid(12 * W, 12 * W, 4 * W))) == [12]
    # Evaluations of a subquery take place at the multiples of its step.
    shifted = kernel.emit(made, emission(Kind.LAST, Grid(18 * W, 12 * W, W)))
    assert shifted.timestamps_ms.tolist() == [W * end - 100 for end in (12, 18, 24, 30, 36)]


def test_nothing_leaves_outside_of_the_span(kernel: ModuleType) -> None:
    span = Emission(Kind.SPREAD, W, 500, 1400, None)
    times = kernel.emit(rows(regular(W, 2 * W)), span).timestamps_ms
    assert times.tolist() == [600, 700, 800, 900, 1000, 1100, 1200, 1300, 1400]


def test_counts_are_known_before_anything_is_made(kernel: ModuleType) -> None:
    made = rows([{"end": W, "count": 2**31 - 1, "resets": 2**31 - 1}, {"end": 2 * W}])
    assert kernel.count_points(made, emission(Kind.SPREAD)).tolist() == [801 + 10]
    assert kernel.count_points(made, emission(Kind.RESETS)).tolist() == [801 + 3]


def test_parts_hold_few_samples_or_one_slot() -> None:
    made = rows([{"end": W}], [], [{"end": W}, {"end": 2 * W}], [{"end": W}])
    parts = list(emit_parts(made, emission(Kind.TREND, None), np.zeros(4, np.int8), 3))
    assert [first for first, _ in parts] == [0, 2, 3]
    assert [len(part.values) for _, part in parts] == [2, 4, 2]


# -- columns --


def test_instants_at_window_ends_need_the_last_sample_alone() -> None:
    assert set(columns_of(emission(Kind.INSTANT, Grid(6 * W, 12 * W, 300)))) == {
        "last",
        "last_timestamp_ms",
        "stale_timestamp_ms",
    }


def test_columns_that_were_not_read_are_missed(kernel: ModuleType) -> None:
    for kind in Kind:
        for grid in (None, FIVE, CLOSED, Grid(0, 4 * W, W), Grid(1, 4 * W, W)):
            for spacing_ms in (0, 100):
                one = emission(kind, grid, spacing_ms=spacing_ms)
                made = rows([{"end": W}])
                for name in columns_of(one):
                    bare = WindowRows(
                        made.offsets,
                        made.window_end_ms,
                        **{
                            other: getattr(made, other)
                            for other in columns_of(one)
                            if other != name
                        },
                    )
                    with pytest.raises(ValueError, match=name):
                        kernel.emit(bare, one)


@pytest.mark.parametrize(
    "row",
    [
        {"end": W, "last_timestamp_ms": 1001},
        {"end": W, "first_timestamp_ms": 901},
        {"end": W, "stale_timestamp_ms": 900},
    ],
)
def test_windows_that_do_not_hold_their_samples_are_refused(kernel: ModuleType, row: Row) -> None:
    with pytest.raises(ValueError, match="hold their samples"):
        kernel.emit(rows([row]), emission(Kind.INSTANT, None))


def test_windows_that_do_not_ascend_are_refused(kernel: ModuleType) -> None:
    with pytest.raises(ValueError, match="ascend"):
        kernel.emit(rows([{"end": 2 * W}, {"end": W}]), emission(Kind.LAST))
    with pytest.raises(ValueError, match="one counter"):
        kernel.emit(rows([{"end": W}]), emission(Kind.LAST), np.zeros(2, np.int8))
