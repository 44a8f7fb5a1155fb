"""Where a query is cut."""

import numpy as np

from bridge.lake.slices import CHUNK_COST_ROWS, TORN_COST_ROWS, Box, Units, cheapest_cut

DAY = 86_400_000
Unit = tuple[int, int, int, int, int]
"""rank_begin, rank_end, after_ms, until_ms, rows."""


def units_of(*units: Unit) -> Units:
    columns = np.array(units, np.int64).reshape(-1, 5).T
    numbers = np.arange(len(units), dtype=np.int32)
    return Units(
        numbers, numbers, columns[4], columns[0], columns[1], columns[2], columns[3],
        columns[4].astype(np.float64),
    )  # fmt: skip


def days(count: int, groups: int, rows: int) -> Units:
    """Files of a day, their row groups side by side."""
    return units_of(
        *(
            (group * 100, group * 100 + 100, day * DAY, (day + 1) * DAY, rows)
            for day in range(count)
            for group in range(groups)
        )
    )


def minutes(count: int, ranks: int, rows: int) -> Units:
    """Files of a minute, every series in one row group."""
    return units_of(*((0, ranks, at * 60_000, at * 60_000 + 60_000, rows) for at in range(count)))


def test_a_day_of_many_series_is_cut_between_row_groups() -> None:
    box = Box(0, 800, 0, DAY)
    cut = cheapest_cut(box, days(1, 8, 131_072), 1, 0)
    assert cut is not None
    assert (cut.first, cut.second) == (Box(0, 400, 0, DAY), Box(400, 800, 0, DAY))
    assert cut.cost_rows == 0


def test_days_of_few_series_are_cut_at_midnight() -> None:
    box = Box(0, 100, 0, 30 * DAY)
    cut = cheapest_cut(box, days(30, 1, 131_072), 1, 0)
    assert cut is not None
    assert (cut.first.until_ms, cut.second.after_ms) == (15 * DAY, 15 * DAY)
    assert cut.cost_rows == CHUNK_COST_ROWS * 100


def test_minutes_of_many_series_are_cut_in_time() -> None:
    box = Box(0, 1000, 0, 60 * 60_000)
    cut = cheapest_cut(box, minutes(60, 1000, 131_072), 1, 0)
    assert cut is not None
    assert cut.first.until_ms == 30 * 60_000


def test_row_groups_that_are_kept_cost_a_second_look_alone() -> None:
    units = units_of((0, 1000, 0, DAY, 100_000))
    cut = cheapest_cut(Box(0, 1000, 0, 1), units, 1, 100_000)
    assert cut is not None
    assert cut.cost_rows == TORN_COST_ROWS


def test_cuts_in_time_lie_on_the_grid() -> None:
    units = units_of((0, 1, 0, 10_000_000, 1000))
    cut = cheapest_cut(Box(0, 1, 0, 10_000_000), units, 3_600_000, 0)
    assert cut is not None
    assert cut.first.until_ms == 3_600_000
    assert cheapest_cut(Box(0, 1, 0, 3_600_000), units, 3_600_000, 0) is None


def test_one_millisecond_of_one_series_cannot_be_cut() -> None:
    assert cheapest_cut(Box(0, 1, 5, 6), units_of((0, 1, 0, 10, 100)), 1, 0) is None


def test_absurd_ranges_are_cut_where_the_data_is() -> None:
    box = Box(0, 1, -(10**14), 10**14)
    cut = cheapest_cut(box, units_of((0, 1, 0, 1000, 100)), 1, 0)
    assert cut is not None
    assert 0 < cut.first.until_ms < 1000


def test_expected_rows_are_spread_over_rank_and_time() -> None:
    units = units_of((0, 100, 0, 1000, 8000), (100, 200, 0, 1000, 800))
    whole = Box(0, 200, 0, 1000)
    assert units.expected_rows(whole, units.within(whole)) == 8800
    part = Box(50, 150, 0, 500)
    assert units.expected_rows(part, units.within(part)) == 2000 + 200
    assert units.within(Box(0, 100, 1000, 2000)).tolist() == []
