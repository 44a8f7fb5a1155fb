"""The rollup kernel does what its SQL says, and both do what the oracle says."""

import math
from collections.abc import Callable, Sequence
from dataclasses import fields
from random import Random

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bridge.lake.merge import choose_replicas
from bridge.lake.rows import group_rows, merge_duplicates
from bridge.model.staleness import STALE_BITS
from bridge.wire.columns import F64Array, I64Array
from downsample import _rollup
from downsample.rollup_rows import RollupRows
from downsample.twins import rollup as twin
from tests.oracle.rollup import (
    FIVE_MINUTES_MS,
    HOUR_MS,
    Row,
    bits_of,
    float_of,
    roll_up,
    rows_of,
)
from tests.oracle.tsdb import Sample, merge_replicas

YEAR_1_MS = -62_135_596_800_000
YEAR_9999_MS = 253_402_300_799_999
NAN_BITS = 0x7FF8_0000_0000_0001
# Around the ends of windows, hours, days and the epoch, and the first and last year of a calendar.
BORDERS_MS = [YEAR_1_MS, -HOUR_MS, 0, 1_763_683_200_000, YEAR_9999_MS - 10 * HOUR_MS]
STEPS_MS = st.one_of(
    st.sampled_from(
        [
            1,
            15_000,
            60_000,
            FIVE_MINUTES_MS - 1,
            FIVE_MINUTES_MS,
            FIVE_MINUTES_MS + 1,
            HOUR_MS - 1,
            HOUR_MS,
            HOUR_MS + 1,
        ]
    ),
    st.integers(1, 20_000_000),
)
STARTS_MS = st.builds(
    int.__add__,
    st.sampled_from(BORDERS_MS),
    st.one_of(st.sampled_from([-1, 0, 1]), st.integers(0, 2 * HOUR_MS)),
)
PLAIN = st.one_of(st.integers(-3, 8).map(float), st.floats(-1e6, 1e6)).map(bits_of)
ODD = st.sampled_from(
    [
        STALE_BITS,
        STALE_BITS | 1 << 63,
        NAN_BITS,
        0x7FF0_0000_0000_0007,
        bits_of(math.inf),
        bits_of(-math.inf),
        bits_of(1.7976931348623157e308),
        bits_of(-1.7976931348623157e308),
        bits_of(5e-324),
        bits_of(-0.0),
        0,
    ]
)
ANY = st.one_of(PLAIN, PLAIN, ODD, st.integers(0, 2**64 - 1))
MARKED = st.one_of(PLAIN, PLAIN, PLAIN, st.just(STALE_BITS), st.just(NAN_BITS))
COUNTED = st.one_of(st.integers(0, 50).map(lambda n: bits_of(float(n))), st.just(STALE_BITS))


def series(values: st.SearchStrategy[int], size_max: int = 40) -> st.SearchStrategy[list[Sample]]:
    """Samples of one series, times strictly ascending."""

    def place(start_ms: int, steps: list[tuple[int, int]]) -> list[Sample]:
        times = start_ms + np.cumsum([step_ms for step_ms, _ in steps], dtype=np.int64)
        # A marker at 0 is the one that cannot be stored.
        return [
            (time_ms, 0 if bits == STALE_BITS and time_ms == 0 else bits)
            for time_ms, (_, bits) in zip(times.tolist(), steps, strict=True)
        ]

    return st.builds(place, STARTS_MS, st.lists(st.tuples(STEPS_MS, values), max_size=size_max))


def fleet(values: st.SearchStrategy[int]) -> st.SearchStrategy[list[list[Sample]]]:
    """Several series, some of them without a sample."""
    return st.lists(series(values), max_size=4)


def columns(ranks: Sequence[Sequence[Sample]]) -> tuple[I64Array, I64Array, F64Array]:
    offsets = np.cumsum([0, *map(len, ranks)]).astype(np.int64)
    samples = [sample for rank in ranks for sample in rank]
    times = np.array([time_ms for time_ms, _ in samples], np.int64)
    return offsets, times, np.array([bits for _, bits in samples], np.uint64).view(np.float64)


def same(left: RollupRows, right: RollupRows) -> None:
    for field in fields(RollupRows):
        first, second = getattr(left, field.name), getattr(right, field.name)
        assert first.dtype == second.dtype, field.name
        assert first.tobytes() == second.tobytes(), (field.name, first, second)


def is_close(found: int | None, expected: int | None, scale: float) -> bool:
    """Equal but for what rounding a few hundred additions of such numbers can make of it."""
    if found is None or expected is None:
        return found == expected
    left, right = float_of(found), float_of(expected)
    return (math.isnan(left) and math.isnan(right)) or abs(left - right) <= 1e-13 * scale


def same_but_for_last_bits(found: Sequence[Row], expected: Sequence[Row]) -> None:
    assert len(found) == len(expected)
    for left, right in zip(found, expected, strict=True):
        scale = max(1.0, 1e6 * right.count)
        assert is_close(left.sum, right.sum, scale)
        assert is_close(left.reset_drop, right.reset_drop, scale)
        for field in fields(Row):
            if field.name not in {"sum", "reset_drop"}:
                assert getattr(left, field.name) == getattr(right, field.name), field.name


@settings(deadline=None, max_examples=60)
@given(fleet(ANY))
def test_rolling_up_is_what_its_sql_says(ranks: list[list[Sample]]) -> None:
    for found, expected in zip(
        _rollup.roll_up(*columns(ranks)), twin.roll_up(*columns(ranks)), strict=True
    ):
        same(found, expected)


@settings(deadline=None, max_examples=400)
@given(fleet(ANY))
def test_a_row_is_what_the_oracle_says(ranks: list[list[Sample]]) -> None:
    """ROLL-1, ROLL-2."""
    fives, hours = _rollup.roll_up(*columns(ranks))
    assert rows_of(fives) == [roll_up(rank, FIVE_MINUTES_MS) for rank in ranks]
    assert rows_of(hours) == [roll_up(rank, HOUR_MS) for rank in ranks]


@settings(deadline=None)
@given(st.integers(200, 1500), st.sampled_from([7, 900]), st.lists(ANY, min_size=1, max_size=9))
def test_windows_of_many_samples_are_what_the_oracle_says(
    count: int, step_ms: int, odd: list[int]
) -> None:
    """Windows longer than what the kernel takes at a time, with drops and odd values anywhere."""
    rng = np.random.default_rng(count)
    patterns = rng.normal(size=count).view(np.uint64).tolist()
    for place, bits in zip(rng.integers(0, count, len(odd)).tolist(), odd, strict=True):
        patterns[place] = bits
    start_ms = 1_763_683_200_000 - count
    rank = [(start_ms + step_ms * index, bits) for index, bits in enumerate(patterns)]
    fives, hours = _rollup.roll_up(*columns([rank]))
    assert rows_of(fives) == [roll_up(rank, FIVE_MINUTES_MS)]
    assert rows_of(hours) == [roll_up(rank, HOUR_MS)]


@settings(deadline=None, max_examples=60)
@given(fleet(ANY))
def test_rolling_up_again_is_what_its_sql_says(ranks: list[list[Sample]]) -> None:
    fives, _ = _rollup.roll_up(*columns(ranks))
    same(_rollup.roll_up_again(fives), twin.roll_up_again(fives))


@settings(deadline=None, max_examples=300)
@given(fleet(MARKED))
def test_an_hour_of_windows_is_an_hour_of_samples(ranks: list[list[Sample]]) -> None:
    fives, hours = _rollup.roll_up(*columns(ranks))
    for found, expected in zip(rows_of(_rollup.roll_up_again(fives)), rows_of(hours), strict=True):
        same_but_for_last_bits(found, expected)


@given(
    st.dictionaries(
        st.sampled_from(["", "a", "b"]),
        st.lists(st.tuples(st.integers(0, 240), st.integers(0, 4), ANY), max_size=60),
        max_size=3,
    ),
    st.randoms(use_true_random=False),
)
def test_what_came_twice_late_and_from_replicas_is_rolled_up_once(
    scrapes: dict[str, list[tuple[int, int, int]]], random: Random
) -> None:
    by_replica = {
        replica: [
            (HOUR_MS * 490_000 + 60_000 * step + 700 * late, bits) for step, late, bits in own
        ]
        for replica, own in scrapes.items()
    }
    arrived = [
        (place, sample)
        for place, replica in enumerate(sorted(by_replica))
        for sample in by_replica[replica]
    ]
    arrived += arrived[: len(arrived) // 2]
    random.shuffle(arrived)
    _, times, values = columns([[sample for _, sample in arrived]])
    slots = np.array([place for place, _ in arrived], np.int32)
    merged = merge_duplicates(group_rows(slots, times, values, len(by_replica)))
    replicas = np.repeat(np.arange(len(by_replica), dtype=np.int32), np.diff(merged.offsets))
    order = np.lexsort((replicas, merged.timestamps_ms))
    offsets = np.array([0, len(order)], np.int64)
    keep = order[choose_replicas(offsets, merged.timestamps_ms[order], replicas[order])]
    bits = merged.values.view(np.int64)[keep].view(np.float64)
    fives, hours = _rollup.roll_up(
        np.array([0, len(keep)], np.int64), merged.timestamps_ms[keep], bits
    )
    expected = merge_replicas(by_replica)
    assert rows_of(fives) == [roll_up(expected, FIVE_MINUTES_MS)]
    assert rows_of(hours) == [roll_up(expected, HOUR_MS)]


# -- late samples --

LEVELS: list[Callable[[Sequence[Sequence[Sample]]], RollupRows]] = [
    lambda ranks: _rollup.roll_up(*columns(ranks))[0],
    lambda ranks: _rollup.roll_up(*columns(ranks))[1],
]


@given(fleet(ANY), st.randoms(use_true_random=False), st.sampled_from(LEVELS))
def test_merging_is_its_twin(
    ranks: list[list[Sample]],
    random: Random,
    level: Callable[[Sequence[Sequence[Sample]]], RollupRows],
) -> None:
    """Also where old and late have samples at the same times, with other values."""
    old, late = (
        [[sample for sample in rank if random.random() < 0.6] for rank in ranks] for _ in range(2)
    )
    late = [
        [(time_ms, bits ^ random.choice([0, 0, 1 << 63])) for time_ms, bits in rank]
        for rank in late
    ]
    same(
        _rollup.merge_rollups(level(old), level(late)),
        twin.merge_rollups(level(old), level(late)),
    )


@settings(deadline=None, max_examples=300)
@given(series(MARKED), st.integers(0, 40), st.booleans(), st.sampled_from(LEVELS))
def test_what_follows_in_time_merges_to_the_row_of_all(
    rank: list[Sample],
    cut: int,
    is_late_older: bool,
    level: Callable[[Sequence[Sequence[Sample]]], RollupRows],
) -> None:
    parts = [level([rank[:cut]]), level([rank[cut:]])]
    if is_late_older:
        parts.reverse()
    (found,) = rows_of(_rollup.merge_rollups(*parts))
    (expected,) = rows_of(level([rank]))
    same_but_for_last_bits(found, expected)


@settings(deadline=None, max_examples=300)
@given(series(COUNTED), st.lists(st.booleans(), min_size=40, max_size=40), st.sampled_from(LEVELS))
def test_what_is_in_between_merges_to_the_row_of_all_and_to_no_drop_too_many(
    rank: list[Sample],
    is_late: list[bool],
    level: Callable[[Sequence[Sequence[Sample]]], RollupRows],
) -> None:
    old = [sample for sample, late in zip(rank, is_late, strict=False) if not late]
    late = [sample for sample, late in zip(rank, is_late, strict=False) if late]
    both = [level([old]), level([late])]
    (found,) = rows_of(_rollup.merge_rollups(*both))
    (expected,) = rows_of(level([rank]))
    seen: dict[int, int] = {}
    for row in (row for part in both for row in rows_of(part)[0]):
        seen[row.window_end_ms] = max(seen.get(row.window_end_ms, 0), row.resets)
    assert len(found) == len(expected)
    for left, right in zip(found, expected, strict=True):
        for field in fields(Row):
            if field.name not in {"reset_drop", "resets"}:
                assert getattr(left, field.name) == getattr(right, field.name), field.name
        assert seen[left.window_end_ms] <= left.resets <= right.resets
        if left.reset_drop is not None and right.reset_drop is not None:
            assert float_of(left.reset_drop) <= float_of(right.reset_drop)
    same(_rollup.merge_rollups(both[0], both[1]), _rollup.merge_rollups(both[1], both[0]))


# -- what is refused --


@given(series(ANY), st.data())
def test_times_that_do_not_ascend_are_refused_by_both(
    rank: list[Sample], data: st.DataObject
) -> None:
    assume(len(rank) > 1)
    place = data.draw(st.integers(1, len(rank) - 1))
    rank[place] = (rank[data.draw(st.integers(0, place - 1))][0], rank[place][1])
    for kernel in (_rollup.roll_up, twin.roll_up):
        with pytest.raises(ValueError, match="ascend"):
            kernel(*columns([rank]))
