"""What the row kernels promise, case by case; the property tests hold them to their twins."""

import itertools
from types import ModuleType

import numpy as np
import pytest

from bridge.lake import _rows
from bridge.lake.grouped import GroupedRows
from bridge.lake.twins import rows as twin
from bridge.model.staleness import STALE_BITS
from bridge.wire.columns import F64Array, I32Array, I64Array, U32Array

IMPLEMENTATIONS = pytest.mark.parametrize("rows", [_rows, twin], ids=["compiled", "twin"])
NAN_BITS = 0x7FF8_0000_0000_0001
PAYLOAD_BITS = 0x7FF4_DEAD_BEEF_0001
INFINITY_BITS = 0x7FF0 << 48
SIGN = 1 << 63


def slots_of(*numbers: int) -> I32Array:
    return np.array(numbers, np.int32)


def times_of(*numbers: int) -> I64Array:
    return np.array(numbers, np.int64)


def values_of(*bits: int) -> F64Array:
    return np.array(bits, np.uint64).view(np.float64)


def contents(grouped: GroupedRows) -> list[list[tuple[int, int]]]:
    """(time, bits) of each slot."""
    rows = list(
        zip(
            grouped.timestamps_ms.tolist(),
            grouped.values.view(np.uint64).tolist(),
            strict=True,
        )
    )
    bounds = grouped.offsets.tolist()
    assert bounds[0] == 0
    assert bounds[-1] == len(rows)
    return [rows[begin:end] for begin, end in itertools.pairwise(bounds)]


@IMPLEMENTATIONS
def test_rows_go_by_slot_and_time_and_those_without_a_slot_go_away(rows: ModuleType) -> None:
    grouped = rows.group_rows(
        slots_of(2, 0, -1, 2, 0, -7), times_of(30, 10, 1, 20, 40, 2), values_of(1, 2, 3, 4, 5, 6), 4
    )
    assert contents(grouped) == [[(10, 2), (40, 5)], [], [(20, 4), (30, 1)], []]
    assert grouped.order is None


@IMPLEMENTATIONS
def test_rows_of_one_time_stay_in_the_order_of_arrival(rows: ModuleType) -> None:
    times = times_of(5, 5, 4, 5, 4)
    grouped = rows.group_rows(
        slots_of(0, 0, 0, 0, 0), times, values_of(1, 2, 3, 4, 5), 1, want_order=True
    )
    assert contents(grouped) == [[(4, 3), (4, 5), (5, 1), (5, 2), (5, 4)]]
    assert grouped.order.tolist() == [2, 4, 0, 1, 3]


@pytest.mark.parametrize("want_order", [False, True])
@pytest.mark.parametrize(
    "times",
    [
        pytest.param(list(range(500, 0, -1)), id="backwards"),
        pytest.param([*range(100, 200), *range(100), *range(50, 250)], id="three runs"),
        pytest.param([time ^ 1 for time in range(400)], id="neighbours swapped"),
        pytest.param([*range(1, 400), 0], id="one very late"),
        pytest.param([time * 7919 % 1009 // 3 for time in range(1000)], id="all over"),
        pytest.param([-(2**63), 2**63 - 1, 0, -(2**63), 2**63 - 1], id="as far as it goes"),
    ],
)
def test_late_rows_are_sorted_whatever_their_order(times: list[int], want_order: bool) -> None:
    # A slot before and one behind it, which must stay as they are.
    count = len(times)
    slots = np.tile(slots_of(0, 1, 2), count)
    columns = np.repeat(np.array(times, np.int64), 3)
    columns[::3], columns[2::3] = np.arange(count), np.arange(count)
    values = np.arange(3 * count).astype(np.float64)
    grouped = _rows.group_rows(slots, columns, values, 3, want_order=want_order)
    expected = sorted(range(count), key=times.__getitem__)
    middle = slice(count, 2 * count)
    assert grouped.timestamps_ms[middle].tolist() == [times[row] for row in expected]
    assert grouped.values[middle].tolist() == [3 * row + 1.0 for row in expected]
    assert grouped.values[:count].tolist() == values[::3].tolist()
    assert grouped.values[2 * count :].tolist() == values[2::3].tolist()
    if want_order:
        assert grouped.order is not None
        assert grouped.order[middle].tolist() == [3 * row + 1 for row in expected]
    else:
        assert grouped.order is None


@IMPLEMENTATIONS
@pytest.mark.parametrize("bits", [STALE_BITS, PAYLOAD_BITS, SIGN, SIGN | STALE_BITS])
def test_no_bit_of_a_value_is_lost_on_any_way(rows: ModuleType, bits: int) -> None:
    values = values_of(bits, 1, bits)
    times = times_of(3, 2, 1)
    grouped = rows.group_rows(slots_of(0, 0, 0), times, values, 1)
    assert contents(rows.merge_duplicates(grouped)) == [[(1, bits), (2, 1), (3, bits)]]
    refs = np.zeros(3, np.uint32)
    kept = rows.filter_rows(refs, times, values, slots_of(0), 0, 9)
    assert kept[2].view(np.uint64).tolist() == [bits, 1, bits]
    head = rows.sort_head_rows([(refs, times, values)], slots_of(0), 1, 0, 9)
    assert contents(head) == [[(1, bits), (2, 1), (3, bits)]]


@IMPLEMENTATIONS
def test_the_greatest_value_of_one_time_stays_in_an_order_without_ties(rows: ModuleType) -> None:
    ascending = [
        STALE_BITS,
        PAYLOAD_BITS,
        NAN_BITS,
        SIGN | STALE_BITS,
        SIGN | NAN_BITS,
        SIGN | INFINITY_BITS,
        SIGN | 0x3FF0 << 48,
        SIGN | 1,
        SIGN,
        0,
        1,
        0x3FF0 << 48,
        INFINITY_BITS,
    ]
    for less, greater in itertools.pairwise(ascending):
        for pair in ((less, greater), (greater, less), (greater, greater), (less, less, greater)):
            times = np.full(len(pair), 7, np.int64)
            grouped = GroupedRows(times_of(0, len(pair)), times, values_of(*pair))
            assert contents(rows.merge_duplicates(grouped)) == [[(7, greater)]]


@IMPLEMENTATIONS
def test_equal_times_of_different_slots_are_no_duplicates(rows: ModuleType) -> None:
    grouped = GroupedRows(times_of(0, 1, 1, 3), times_of(7, 7, 8), values_of(1, 2, 3))
    assert contents(rows.merge_duplicates(grouped)) == [[(7, 1)], [], [(7, 2), (8, 3)]]


def test_rows_without_duplicates_are_not_copied() -> None:
    grouped = GroupedRows(times_of(0, 2), times_of(7, 8), values_of(1, 2))
    assert _rows.merge_duplicates(grouped).timestamps_ms is grouped.timestamps_ms


@IMPLEMENTATIONS
def test_a_range_is_open_on_the_left_and_closed_on_the_right(rows: ModuleType) -> None:
    refs, times = np.zeros(4, np.uint32), times_of(10, 11, 20, 21)
    values = values_of(1, 2, 3, 4)
    assert rows.filter_rows(refs, times, values, slots_of(5), 10, 20)[1].tolist() == [11, 20]
    head = rows.sort_head_rows([(refs, times, values)], slots_of(0), 1, 10, 20)
    assert head.timestamps_ms.tolist() == [11, 20]


@IMPLEMENTATIONS
def test_refs_that_came_after_the_selection_are_passed_over(rows: ModuleType) -> None:
    refs = np.array([0, 1, 2, 0xFFFF_FFFF], np.uint32)
    slots, times, _ = rows.filter_rows(
        refs, times_of(1, 2, 3, 4), values_of(1, 2, 3, 4), slots_of(-1, 6), 0, 9
    )
    assert (slots.tolist(), times.tolist()) == ([6], [2])
    slots, _, _ = rows.filter_rows(
        refs, times_of(1, 2, 3, 4), values_of(1, 2, 3, 4), slots_of(), 0, 9
    )
    assert slots.tolist() == []


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 1.0])
def test_a_block_of_many_tiles_is_filtered_as_by_the_twin(share: float) -> None:
    rng = np.random.default_rng(7)
    count = 50_001
    refs = rng.integers(0, 1000, count).astype(np.uint32)
    # Nothing at first, then everything: the room for what is kept cannot be foreseen.
    refs[: count // 2] = 0
    slots = np.where(rng.random(1000) < share, np.arange(1000), -1).astype(np.int32)
    slots[0] = -1
    times = rng.integers(0, 100, count)
    values = rng.integers(0, 2**63, count).view(np.float64)
    for after_ms, until_ms in ((-1, 100), (30, 60), (60, 30)):
        found = _rows.filter_rows(refs, times, values, slots, after_ms, until_ms)
        expected = twin.filter_rows(refs, times, values, slots, after_ms, until_ms)
        for left, right in zip(found, expected, strict=True):
            assert np.asarray(left).dtype == np.asarray(right).dtype
            assert np.asarray(left).tobytes() == np.asarray(right).tobytes()


@IMPLEMENTATIONS
def test_refs_may_share_a_rank_and_order_counts_through_all_blocks(rows: ModuleType) -> None:
    def block(*some: tuple[int, int, int]) -> tuple[U32Array, I64Array, F64Array]:
        refs, times, bits = zip(*some, strict=True) if some else ((), (), ())
        return np.array(refs, np.uint32), times_of(*times), values_of(*bits)

    blocks = [
        block((0, 10, 1), (1, 10, 2), (2, 10, 3)),
        block(),
        block((0, 20, 4), (1, 15, 5), (3, 15, 6)),
    ]
    head = rows.sort_head_rows(blocks, slots_of(1, 1, -1, 0), 2, 0, 99, want_order=True)
    assert contents(head) == [[(15, 6)], [(10, 1), (10, 2), (15, 5), (20, 4)]]
    assert head.order.tolist() == [5, 0, 1, 4, 3]


@IMPLEMENTATIONS
@pytest.mark.parametrize("ranks", [[0], [0, 2], [0, 1_000_000]], ids=["no ref", "rank", "far"])
def test_refs_and_ranks_out_of_bounds_are_refused(rows: ModuleType, ranks: list[int]) -> None:
    block = (np.array([1], np.uint32), times_of(1), values_of(1))
    with pytest.raises(ValueError, match="out of bounds"):
        rows.sort_head_rows([block], slots_of(*ranks), 2, 0, 9)


@IMPLEMENTATIONS
def test_a_slot_out_of_bounds_is_refused(rows: ModuleType) -> None:
    for slots in (slots_of(5), slots_of(0, 5), slots_of(6, 0)):
        times = np.zeros(len(slots), np.int64)
        with pytest.raises(ValueError, match=r"slot \d of 5"):
            rows.group_rows(slots, times, times.view(np.float64), 5)


def test_columns_of_different_length_and_offsets_beyond_them_are_refused() -> None:
    two, three = np.zeros(2, np.int64), np.zeros(3, np.int64)
    values = three.view(np.float64)
    with pytest.raises(ValueError, match="equal length"):
        _rows.group_rows(np.zeros(3, np.int32), two, values, 1)
    with pytest.raises(ValueError, match="equal length"):
        _rows.filter_rows(np.zeros(2, np.uint32), three, values, slots_of(0), 0, 1)
    with pytest.raises(ValueError, match="equal length"):
        _rows.sort_head_rows([(np.zeros(3, np.uint32), two, values)], slots_of(0), 1, 0, 1)
    with pytest.raises(ValueError, match="offsets"):
        _rows.merge_duplicates(GroupedRows(times_of(0, 4), three, values))
    with pytest.raises(ValueError, match="one slot for each id"):
        _rows.assign_slots(three, two, slots_of(0))


@IMPLEMENTATIONS
def test_ids_find_their_slot_wherever_their_run_stands(rows: ModuleType) -> None:
    known = times_of(-(2**63), -5, 0, 7, 2**63 - 1)
    slots = slots_of(4, 3, 9, 1, 0)
    ids = times_of(7, 7, -5, 2**63 - 1, 1, -(2**63), -6, 0, 7)
    assert rows.assign_slots(ids, known, slots).tolist() == [1, 1, 3, 0, -1, 4, -1, 9, 1]
    assert rows.assign_slots(ids, times_of(), slots_of()).tolist() == [-1] * len(ids)
    assert rows.assign_slots(times_of(), known, slots).tolist() == []


@IMPLEMENTATIONS
def test_nothing_in_gives_nothing_out(rows: ModuleType) -> None:
    none = (slots_of(), times_of(), values_of())
    assert contents(rows.group_rows(*none, 0)) == []
    assert contents(rows.group_rows(*none, 2, want_order=True)) == [[], []]
    assert contents(rows.sort_head_rows([], slots_of(), 2, 0, 9)) == [[], []]
    assert contents(rows.merge_duplicates(rows.group_rows(*none, 2))) == [[], []]
