"""What leaves for windows where evaluations take the newest sample, case by case."""

from types import ModuleType

import numpy as np
import pytest

from bridge.lake.grouped import GroupedRows
from bridge.model.staleness import STALE_BITS
from bridge.read.emission import Grid, Kind
from tests.unit.read.made_windows import Row, Sent, W, drops, emission, rows, sent


def instants(kernel: ModuleType, grid: Grid | None, row: Row, counter: int) -> Sent:
    counters = np.array([counter], np.int8)
    found: GroupedRows = kernel.emit(rows([row]), emission(Kind.INSTANT, grid), counters)
    return sent(found)


def test_an_instant_takes_the_last_sample_it_can_see(kernel: ModuleType) -> None:
    row = {"end": 10 * W}
    assert instants(kernel, Grid(9_900, 0, 100), row, 0) == [(9_900, 10.0)]
    assert instants(kernel, Grid(9_999, 0, 100), row, 0) == [(9_900, 10.0)]
    assert instants(kernel, Grid(10_000, 0, 100), row, 0) == []
    assert instants(kernel, Grid(10_000, 0, 100, is_closed=True), row, 0) == [(9_900, 10.0)]


def test_an_instant_within_a_window_takes_what_was_about_then(kernel: ModuleType) -> None:
    row = {"end": 10 * W}
    assert instants(kernel, Grid(9_100, 0, 100), row, 0) == [(9_100, 1.0)]
    assert instants(kernel, Grid(9_300, 0, 100), row, 0) == [(9_299, 1.0)]
    assert instants(kernel, Grid(9_700, 0, 100), row, 0) == [(9_699, 10.0)]
    assert instants(kernel, Grid(9_700, 0, 100), row, 1) == [(9_699, 1 + 9 * 0.75)]


def test_counters_climb_between_first_and_last(kernel: ModuleType) -> None:
    row = {"end": 10 * W, "last": 5.0, "reset_drop": 5.0, "resets": 1}
    assert instants(kernel, Grid(9_300, 0, 100), row, 1) == [(9_299, 1 + 9 * 0.25)]
    assert instants(kernel, Grid(9_700, 0, 100), row, 1) == [(9_699, 1 + 9 * 0.75 - 5)]
    # One window does not show what it is.
    assert instants(kernel, Grid(9_300, 0, 100), row, -1) == [(9_299, 1.0)]


@pytest.mark.parametrize(
    ("first", "last", "drop", "resets"),
    [(1.0, 4.0, 30.0, 3), (15.0, 4.0, 35.0, 3), (15.0, 0.0, 15.0, 2), (0.0, 0.0, 1e-300, 2)],
)
def test_counters_fall_as_often_as_they_did_and_from_no_higher(
    kernel: ModuleType, first: float, last: float, drop: float, resets: int
) -> None:
    row = {"end": W, "first": first, "last": last, "reset_drop": drop, "resets": resets}
    made = rows([{**row, "count": 800}])
    every = emission(Kind.INSTANT, None, spacing_ms=1)
    found = sent(kernel.emit(made, every, np.ones(1, np.int8)))
    assert len(found) == 800
    assert len(drops(found)) == (1 if drop == first else resets)
    assert max(value for _, value in found) <= max(first, drop / resets, last)
    assert sum(drops(found)) == pytest.approx(drop, rel=0.05)


def behaving(kernel: ModuleType, *windows: tuple[float, float, int]) -> bool:
    """Whether values between the ends of windows are made up, where nothing is known."""
    made = rows(
        [
            {"end": place * W, "first": first, "last": last, "resets": resets}
            for place, (first, last, resets) in enumerate(windows, 1)
        ]
    )
    found = sent(kernel.emit(made, emission(Kind.INSTANT, Grid(0, 10, 100), spacing_ms=50)))
    real = {value for first, last, _ in windows for value in (first, last)}
    return any(value not in real for _, value in found)


def test_what_climbs_and_hardly_falls_is_a_counter(kernel: ModuleType) -> None:
    climbs = [(10.0 * place, 10.0 * place + 9, 0) for place in range(8)]
    assert behaving(kernel, *climbs)
    assert behaving(kernel, *climbs, (3.0, 9.0, 0))
    assert behaving(kernel, *climbs[:3], (35.0, 3.0, 1))


def test_all_else_is_a_gauge(kernel: ModuleType) -> None:
    up = (1.0, 1.0, 0)
    climbs = [(10.0 * place, 10.0 * place + 9, 0) for place in range(8)]
    assert not behaving(kernel, up, up, (1.0, 0.0, 1), (0.0, 1.0, 0), up, up)
    assert not behaving(kernel, *climbs[:2])
    assert not behaving(kernel, *climbs, (70.0, 75.0, 0))  # falls by less than half
    assert not behaving(kernel, (-5.0, 5.0, 0), *climbs[1:])
    assert not behaving(kernel, *[(1.0, 3.0, 1)] * 8)


def test_series_scraped_less_often_than_the_lookback_are_seen_as_they_were(
    kernel: ModuleType,
) -> None:
    row = {"end": 10 * W, "count": 5}  # at 9100, 9300 ... 9900
    for now_ms, seen in ((9_299, []), (9_300, [9_300]), (9_349, [9_300]), (9_400, [])):
        found = instants(kernel, Grid(now_ms, 0, 100), row, 0)
        assert [time_ms for time_ms, _ in found] == seen
    closed = Grid(9_400, 0, 100, is_closed=True)
    assert [time_ms for time_ms, _ in instants(kernel, closed, row, 0)] == [9_300]


def test_markers_end_what_an_instant_would_see(kernel: ModuleType) -> None:
    marked: Row = {"end": 10 * W, "stale_timestamp_ms": 950}
    nothing: Row = {"count": 0, "first_timestamp_ms": 0, "last_timestamp_ms": 0}
    for row, count in ((marked, 2), ({**marked, **nothing}, 1)):
        found = kernel.emit(rows([row]), emission(Kind.INSTANT, Grid(10 * W, 0, 500)))
        assert found.timestamps_ms[-1] == 9_950
        assert found.values.view(np.uint64)[-1] == STALE_BITS
        assert len(found.values) == count


def test_repeats_are_nearer_than_the_lookback(kernel: ModuleType) -> None:
    found = instants(kernel, Grid(9_300, 100, 300), {"end": 10 * W}, 0)
    assert [time_ms for time_ms, _ in found] == [
        9100, 9233, 9366, 9499, 9632, 9765, 9900
    ]  # fmt: skip
    assert [value for _, value in found] == [1, 1, 1, 1, 10, 10, 10]


@pytest.mark.parametrize(
    ("grid", "count"),
    [
        (Grid(5 * W, W, 150), 1),  # at ends of windows, which see the last sample
        (Grid(5 * W, 500, 450), 2),  # in the middle, too, which sees neither first nor last
        (Grid(5_001, 500, 300), 3),  # of a query and of a subquery
        (Grid(5 * W, 500, 510), 10),  # nearer to each other than what they look back over
    ],
)
def test_a_sample_leaves_for_each_evaluation_that_is_far_from_the_next(
    kernel: ModuleType, grid: Grid, count: int
) -> None:
    made = rows([{"end": 10 * W, "count": 60}])
    thinned = emission(Kind.INSTANT, grid, spacing_ms=90)
    found = sent(kernel.emit(made, thinned))
    assert len(found) == count
    assert kernel.count_points(made, thinned)[0] >= count
