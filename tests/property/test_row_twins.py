"""The compiled row kernels do what their twins do."""

from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.lake import _rows
from bridge.lake.grouped import GroupedRows
from bridge.lake.twins import rows as twin
from bridge.model.staleness import STALE_BITS
from bridge.wire.columns import F64Array, I64Array, U32Array

INT64 = st.integers(-(2**63), 2**63 - 1)
TIMES = st.one_of(st.integers(0, 5), INT64)
BITS = st.one_of(
    st.sampled_from(
        [
            0,
            1 << 63,
            STALE_BITS,
            STALE_BITS | 1 << 63,
            0x7FF8_0000_0000_0001,
            0x7FF0_0000_0000_0000,
            0xFFF0_0000_0000_0000,
        ]
    ),
    st.integers(0, 2**64 - 1),
)
ROWS = st.lists(st.tuples(st.integers(-1, 4), TIMES, BITS), max_size=60)


def columns(rows: list[tuple[int, int, int]]) -> tuple[list[int], I64Array, F64Array]:
    keys = [row[0] for row in rows]
    times = np.array([row[1] for row in rows], np.int64)
    return keys, times, np.array([row[2] for row in rows], np.uint64).view(np.float64)


def same(left: GroupedRows, right: GroupedRows) -> bool:
    orders = (left.order is None) == (right.order is None)
    if left.order is not None and right.order is not None:
        orders = left.order.tolist() == right.order.tolist()
    return (
        orders
        and left.offsets.tolist() == right.offsets.tolist()
        and left.timestamps_ms.tolist() == right.timestamps_ms.tolist()
        and left.values.view(np.uint64).tolist() == right.values.view(np.uint64).tolist()
    )


@given(ROWS, st.booleans())
def test_group_rows_is_its_twin(rows: list[tuple[int, int, int]], want_order: bool) -> None:
    keys, times, values = columns(rows)
    slots = np.array(keys, np.int32)
    assert same(
        _rows.group_rows(slots, times, values, 5, want_order=want_order),
        twin.group_rows(slots, times, values, 5, want_order=want_order),
    )


@given(st.randoms(use_true_random=False), st.integers(1, 300), st.integers(1, 300))
def test_late_rows_of_long_series_are_sorted_as_by_the_twin(
    random: Random, count: int, apart: int
) -> None:
    times = sorted(random.randrange(200) for _ in range(count))
    for place in range(0, count, apart):
        other = random.randrange(count)
        times[place], times[other] = times[other], times[place]
    rows = [(random.randrange(2), time, place) for place, time in enumerate(times)]
    keys, columned, values = columns(rows)
    slots = np.array(keys, np.int32)
    assert same(
        _rows.group_rows(slots, columned, values, 2, want_order=True),
        twin.group_rows(slots, columned, values, 2, want_order=True),
    )


@given(st.lists(ROWS, max_size=4), TIMES, TIMES, st.booleans())
def test_sort_head_rows_is_its_twin(
    parts: list[list[tuple[int, int, int]]], after_ms: int, until_ms: int, want_order: bool
) -> None:
    blocks: list[tuple[U32Array, I64Array, F64Array]] = []
    for rows in parts:
        keys, times, values = columns(rows)
        blocks.append((np.array(keys, np.int64).astype(np.uint32) % 6, times, values))
    rank_of_ref = np.array([2, 0, -1, 1, 0, 2], np.int32)
    assert same(
        _rows.sort_head_rows(blocks, rank_of_ref, 3, after_ms, until_ms, want_order=want_order),
        twin.sort_head_rows(blocks, rank_of_ref, 3, after_ms, until_ms, want_order=want_order),
    )


@given(ROWS)
def test_merge_duplicates_is_its_twin(rows: list[tuple[int, int, int]]) -> None:
    keys, times, values = columns(rows)
    grouped = twin.group_rows(np.array(keys, np.int32), times, values, 5)
    assert same(_rows.merge_duplicates(grouped), twin.merge_duplicates(grouped))


@given(ROWS, st.randoms(use_true_random=False))
def test_merging_does_not_depend_on_what_came_first(
    rows: list[tuple[int, int, int]], random: object
) -> None:
    def merged(some: list[tuple[int, int, int]]) -> GroupedRows:
        keys, times, values = columns(some)
        grouped = _rows.group_rows(np.array(keys, np.int32), times, values, 5)
        return _rows.merge_duplicates(grouped)

    shuffled = list(rows)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert same(merged(rows), merged(shuffled))


@given(st.lists(st.integers(-5, 30), max_size=40), st.sets(st.integers(0, 25), max_size=20))
def test_assign_slots_is_its_twin(ids: list[int], known: set[int]) -> None:
    series_ids = np.array(ids, np.int64)
    sorted_ids = np.array(sorted(known), np.int64)
    slots = np.arange(len(known), dtype=np.int32)[::-1].copy()
    found = _rows.assign_slots(series_ids, sorted_ids, slots)
    assert found.tolist() == twin.assign_slots(series_ids, sorted_ids, slots).tolist()


@given(ROWS, TIMES, TIMES)
def test_filter_rows_is_its_twin(
    rows: list[tuple[int, int, int]], after_ms: int, until_ms: int
) -> None:
    keys, times, values = columns(rows)
    refs = np.array(keys, np.int64).astype(np.uint32)
    slots = np.array([3, -1, 0, 7], np.int32)
    found = _rows.filter_rows(refs, times, values, slots, after_ms, until_ms)
    expected = twin.filter_rows(refs, times, values, slots, after_ms, until_ms)
    assert [part.tobytes() for part in found] == [part.tobytes() for part in expected]


@pytest.mark.parametrize("slots", [[0, 5], [7]])
def test_a_slot_out_of_bounds_is_refused(slots: list[int]) -> None:
    rows = np.array(slots, np.int32)
    zeros = np.zeros(len(slots), np.int64)
    with pytest.raises(ValueError, match="slot"):
        _rows.group_rows(rows, zeros, zeros.view(np.float64), 5)


def test_columns_of_different_length_are_refused() -> None:
    zeros = np.zeros(3, np.int64)
    with pytest.raises(ValueError, match="equal length"):
        _rows.group_rows(np.zeros(2, np.int32), zeros, zeros.view(np.float64), 5)
