from collections.abc import Sequence

from bridge.lake.grouped import GroupedRows
from bridge.wire.columns import F64Array, I32Array, I64Array, U32Array

def assign_slots(series_ids: I64Array, sorted_ids: I64Array, slots_of_sorted: I32Array) -> I32Array:
    """The slot of each row's series.

    Args:
        series_ids: (rows,) int64, best in runs of equal ids.
        sorted_ids: (m,) int64, strictly ascending.
        slots_of_sorted: (m,) int32, the slot of each of them.

    Returns:
        (rows,) int32; -1 where the id is not among `sorted_ids`.
    """

def filter_rows(
    refs: U32Array,
    timestamps_ms: I64Array,
    values: F64Array,
    slot_of_ref: I32Array,
    after_ms: int,
    until_ms: int,
) -> tuple[I32Array, I64Array, F64Array]:
    """Slots, times and values of the rows whose series has a slot, in (after_ms, until_ms].

    Args:
        refs: (rows,) uint32; those beyond `slot_of_ref` have no slot.
        timestamps_ms: (rows,) int64.
        values: (rows,) float64.
        slot_of_ref: (m,) int32, -1 for none.
        after_ms: exclusive.
        until_ms: inclusive.
    """

def group_rows(
    slots: I32Array,
    timestamps_ms: I64Array,
    values: F64Array,
    slot_count: int,
    *,
    want_order: bool = False,
) -> GroupedRows:
    """Rows by (slot, time), stable; rows without a slot (-1) are left out.

    Raises:
        ValueError: a slot is not below `slot_count`, or the columns differ in length.
    """

def sort_head_rows(
    blocks: Sequence[tuple[U32Array, I64Array, F64Array]],
    rank_of_ref: I32Array,
    rank_count: int,
    after_ms: int,
    until_ms: int,
    *,
    want_order: bool = False,
) -> GroupedRows:
    """Rows of head blocks (refs, times, values) in (after_ms, until_ms] by (rank, time), stable.

    The blocks are read in place: the peak is the result, 16 bytes a row and 8 a rank, 24 a row with
    `order`. Only a series whose rows are far from the order of time needs 48 bytes a row of its own
    for a moment.

    Args:
        blocks: columns of equal length each.
        rank_of_ref: (refs,) int32, -1 for none; several refs may share a rank.
        rank_count: above every rank.
        after_ms: exclusive.
        until_ms: inclusive.
        want_order: whether to give `order`, which counts rows through all blocks.

    Raises:
        ValueError: a ref or a rank is out of bounds, or the columns of a block differ in length.
    """

def merge_duplicates(grouped: GroupedRows) -> GroupedRows:
    """One row for each slot and time; no copy where there is only one already.

    The greatest value stays, in the order: stale marker, other NaN by their bits, numbers, where
    -0.0 is below 0.0. So the answer does not depend on what came first. `order` is dropped.

    Raises:
        ValueError: the offsets do not ascend within the columns.
    """
