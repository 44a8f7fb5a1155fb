"""The replica rule against its obvious version, and what it promises."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bridge.lake.merge import HOUR_MS, choose_replicas
from tests.oracle.tsdb import merge_replicas

S = 1000
H = 1_795_219_200_000  # a full hour

Row = tuple[int, int, int]
"""(series, timestamp_ms, replica)."""


def choose(rows: list[Row], series_count: int = 1) -> list[Row]:
    rows = sorted(rows)
    offsets = np.searchsorted([row[0] for row in rows], np.arange(series_count + 1))
    keep = choose_replicas(
        offsets.astype(np.int64),
        np.array([row[1] for row in rows], np.int64),
        np.array([row[2] for row in rows], np.int32),
    )
    return [row for row, kept in zip(rows, keep.tolist(), strict=True) if kept]


def scrapes(replica: int, first_s: float, last_s: float, step_s: float = 15) -> list[Row]:
    return [
        (0, H + round(at * S), replica)
        for at in np.arange(first_s, last_s + 0.001, step_s).tolist()
    ]


def test_lowest_replica_alone_is_read_while_it_has_no_gap() -> None:
    one, two = scrapes(0, 3, 3590), scrapes(1, 1, 3595)
    assert choose(one + two) == one


def test_single_replica_is_kept_whole() -> None:
    rows = scrapes(4, 3, 100) + scrapes(4, 900, 1000)
    assert choose(rows) == rows


def test_one_missed_scrape_is_borne_and_a_second_one_is_filled() -> None:
    other = scrapes(1, 8, 600)
    borne = scrapes(0, 5, 95) + scrapes(0, 125, 605)
    assert choose(borne + other) == borne
    filled = scrapes(0, 5, 95) + scrapes(0, 140, 605)
    # 98 lies close behind 95: the same scrape.
    assert choose(filled + other) == scrapes(0, 5, 95) + scrapes(1, 113, 600)


def test_replicas_in_step_are_not_taken_for_gaps() -> None:
    one = [(0, H + at * 15 * S + (at * 7) % 5, 0) for at in range(1, 200)]
    two = [(0, H + at * 15 * S + (at * 3) % 5, 1) for at in range(1, 200)]
    assert choose(one + two) == one


def test_failover_stays_on_the_second_replica_until_the_hour_ends() -> None:
    first = scrapes(0, 5, 300) + scrapes(0, 900, 3600 + 300)
    second = scrapes(1, 12, 3600 + 300)
    chosen = choose(first + second)
    after_hour = [row for row in chosen if row[1] > H + HOUR_MS]
    assert {row[2] for row in after_hour} == {0}
    within = [row for row in chosen if H + 330 * S < row[1] <= H + HOUR_MS]
    assert {row[2] for row in within} == {1}


def test_sample_at_the_full_hour_belongs_to_the_hour_that_ends() -> None:
    rows = [(0, H, 1), (0, H + 15 * S, 0), (0, H + 30 * S, 0)]
    assert choose(rows) == rows


def test_replica_that_comes_late_does_not_hide_what_was_there_before() -> None:
    early, late = scrapes(1, 1, 3590), scrapes(0, 3000, 3590)
    assert choose(early + late) == early


def test_series_are_judged_each_for_itself() -> None:
    rows = [(0, H + 1, 0), (0, H + 2, 1), (1, H + 1, 1), (1, H + 3, 1), (2, H + 1, 0)]
    assert choose(rows, 4) == [(0, H + 1, 0), (1, H + 1, 1), (1, H + 3, 1), (2, H + 1, 0)]


def test_no_rows() -> None:
    assert choose([], 3) == []


times = st.one_of(
    st.integers(0, 2 * 240).map(lambda step: H + step * 15 * S),
    st.integers(0, 2 * HOUR_MS).map(lambda offset: H + offset),
)
some_rows = st.lists(st.tuples(st.integers(0, 2), times, st.integers(0, 2)), max_size=60)


@given(some_rows)
def test_kernel_equals_the_obvious_rule(rows: list[Row]) -> None:
    expected = []
    for series in sorted({row[0] for row in rows}):
        by_replica: dict[str, list[tuple[int, int]]] = {}
        for own, time, replica in rows:
            if own == series:
                # The replica goes along as the value, so that it is seen which one was taken.
                by_replica.setdefault(str(replica), []).append((time, replica))
        expected += [(series, time, replica) for time, replica in merge_replicas(by_replica)]
    assert sorted(set(choose(rows, 3))) == expected


@given(some_rows.map(lambda rows: [(one, at, min(replica, 1)) for one, at, replica in rows]))
def test_rule_keeps_all_that_it_chose(rows: list[Row]) -> None:
    """READ-5."""
    chosen = choose(rows, 3)
    assert choose(chosen, 3) == chosen


@given(some_rows)
def test_hours_do_not_depend_on_one_another(rows: list[Row]) -> None:
    chosen = choose(rows, 3)
    for hour in {(row[1] - 1) // HOUR_MS for row in rows}:
        alone = [row for row in rows if (row[1] - 1) // HOUR_MS == hour]
        assert choose(alone, 3) == [row for row in chosen if (row[1] - 1) // HOUR_MS == hour]
