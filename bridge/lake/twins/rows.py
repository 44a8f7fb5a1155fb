"""The row kernels in numpy: what they mean, not how fast they are."""

from collections.abc import Sequence

import numpy as np

from bridge.lake.grouped import GroupedRows
from bridge.model.staleness import STALE_BITS
from bridge.wire.columns import F64Array, I32Array, I64Array, U32Array


def assign_slots(series_ids: I64Array, sorted_ids: I64Array, slots_of_sorted: I32Array) -> I32Array:
    """The slot of each row's series, -1 where it has none."""
    if not len(sorted_ids):
        return np.full(len(series_ids), -1, np.int32)
    place = np.minimum(np.searchsorted(sorted_ids, series_ids), len(sorted_ids) - 1)
    slots = slots_of_sorted[place].astype(np.int32)
    slots[sorted_ids[place] != series_ids] = -1
    return slots


def filter_rows(
    refs: U32Array,
    timestamps_ms: I64Array,
    values: F64Array,
    slot_of_ref: I32Array,
    after_ms: int,
    until_ms: int,
) -> tuple[I32Array, I64Array, F64Array]:
    """The rows of series that have a slot, with after_ms < time <= until_ms, and their slots."""
    known = refs < len(slot_of_ref)
    slots = np.full(len(refs), -1, np.int32)
    slots[known] = slot_of_ref[refs[known]]
    keep = (slots >= 0) & (timestamps_ms > after_ms) & (timestamps_ms <= until_ms)
    return slots[keep], timestamps_ms[keep], values[keep]


def group_rows(
    slots: I32Array,
    timestamps_ms: I64Array,
    values: F64Array,
    slot_count: int,
    *,
    want_order: bool = False,
) -> GroupedRows:
    """Rows by (slot, time), stable; rows without a slot are left out."""
    if len(slots) and slots.max() >= slot_count:
        raise ValueError(f"slot {slots.max()} of {slot_count}")
    kept = np.flatnonzero(slots >= 0)
    order = kept[np.lexsort((timestamps_ms[kept], slots[kept]))].astype(np.int64)
    offsets = np.zeros(slot_count + 1, np.int64)
    np.cumsum(np.bincount(slots[kept], minlength=slot_count), out=offsets[1:])
    bits = values.view(np.int64)[order].view(np.float64)
    return GroupedRows(offsets, timestamps_ms[order], bits, order if want_order else None)


def sort_head_rows(
    blocks: Sequence[tuple[U32Array, I64Array, F64Array]],
    rank_of_ref: I32Array,
    rank_count: int,
    after_ms: int,
    until_ms: int,
    *,
    want_order: bool = False,
) -> GroupedRows:
    """The rows of head blocks in (after_ms, until_ms] by (rank, time), stable."""
    refs = np.concatenate([np.empty(0, np.uint32), *(block[0] for block in blocks)])
    times = np.concatenate([np.empty(0, np.int64), *(block[1] for block in blocks)])
    bits = np.concatenate([np.empty(0, np.int64), *(block[2].view(np.int64) for block in blocks)])
    if len(refs) and (refs.max() >= len(rank_of_ref) or rank_of_ref[refs].max() >= rank_count):
        raise ValueError("a ref or its rank is out of bounds")
    ranks = rank_of_ref[refs]
    ranks[(times <= after_ms) | (times > until_ms)] = -1
    return group_rows(ranks, times, bits.view(np.float64), rank_count, want_order=want_order)


def merge_duplicates(grouped: GroupedRows) -> GroupedRows:
    """One row for each slot and time: the greatest value, a stale marker least of all."""
    slots = np.repeat(np.arange(len(grouped.offsets) - 1), np.diff(grouped.offsets))
    best: dict[tuple[int, int], int] = {}
    bits = grouped.values.view(np.int64).tolist()
    for slot, time, pattern in zip(
        slots.tolist(), grouped.timestamps_ms.tolist(), bits, strict=True
    ):
        key = (slot, time)
        if key not in best or _rank(pattern) > _rank(best[key]):
            best[key] = pattern
    keys = list(best)
    offsets = np.searchsorted([slot for slot, _ in keys], np.arange(len(grouped.offsets)))
    return GroupedRows(
        offsets.astype(np.int64),
        np.array([time for _, time in keys], np.int64),
        np.array(list(best.values()), np.int64).view(np.float64),
    )


def _rank(pattern: int) -> tuple[int, int]:
    """A total order of bit patterns: stale marker < other NaN < numbers, -0.0 < 0.0."""
    unsigned = pattern & 0xFFFF_FFFF_FFFF_FFFF
    magnitude = unsigned & 0x7FFF_FFFF_FFFF_FFFF
    if unsigned == STALE_BITS:
        return (0, 0)
    if magnitude > 0x7FF0_0000_0000_0000:
        return (1, unsigned)
    return (2, magnitude if unsigned == magnitude else -1 - magnitude)
