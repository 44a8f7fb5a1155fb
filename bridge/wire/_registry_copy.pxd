# cython: language_level=3
"""A copy of a registry with fewer series: how series that fell silent are forgotten.

Pairs are interned anew, in the order of the series that are kept; fingerprints move along, so that
the copy knows every series by its bytes at once.
"""

from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memset

from bridge.wire._pages cimport growable_reserve, zeroed_free, zeroed_new
from bridge.wire._registry cimport (
    Registry,
    SeriesRow,
    key_hash,
    metadata_copy,
    registry_pairs,
    registry_row,
)
from bridge.wire._symbols cimport Pair, Symbols, pair_hash, symbols_intern, symbols_text
from bridge.wire._tables cimport (
    NOT_FOUND,
    SEGMENT_COUNT,
    SEGMENT_SHIFT,
    FingerprintSegment,
    FingerprintSlot,
    IdSegment,
    capacity_for,
    fingerprint_place,
    id_insert,
    slot_of,
)


cdef inline uint32_t copied_pair(
    const Symbols* source, Symbols* target, uint32_t pair_id, uint32_t* copied
) noexcept nogil:
    """The id in `target` of a pair of `source`; NOT_FOUND where there is no memory."""
    cdef Pair pair
    if copied[pair_id] == NOT_FOUND:
        symbols_text(source, pair_id, &pair)
        pair_hash(target, &pair)
        copied[pair_id] = symbols_intern(target, &pair)
    return copied[pair_id]


cdef inline uint32_t find_sibling(
    const Registry* registry, int64_t series_id, uint32_t metric_pair
) noexcept nogil:
    """Any series of this key, or NOT_FOUND."""
    cdef uint64_t hashed = key_hash(registry, series_id, metric_pair)
    cdef const IdSegment* segment = &registry.series.segments[hashed >> SEGMENT_SHIFT]
    cdef const SeriesRow* row
    cdef uint32_t at
    if segment.capacity == 0:
        return NOT_FOUND
    at = slot_of(<uint32_t>hashed, segment.capacity)
    while segment.slots[at] != 0:
        if <uint32_t>(segment.slots[at] >> 32) == <uint32_t>hashed:
            row = registry_row(registry, <uint32_t>segment.slots[at] - 1)
            if row.series_id == series_id and row.metric_pair == metric_pair:
                return <uint32_t>segment.slots[at] - 1
        at += 1
        if at == segment.capacity:
            at = 0
    return NOT_FOUND


cdef inline bint copy_row(
    const Registry* source, Registry* target, uint32_t ref, uint32_t* copied_pairs,
    uint32_t* copied_replicas,
) noexcept nogil:
    cdef SeriesRow row = registry_row(source, ref)[0]
    cdef const uint32_t* ids = registry_pairs(source, &row)
    cdef uint32_t* own
    cdef uint32_t at, sibling = NOT_FOUND
    if not growable_reserve(&target.rows, sizeof(SeriesRow)):
        return False
    if not growable_reserve(&target.pair_ids, row.pair_count * sizeof(uint32_t)):
        return False
    own = <uint32_t*>(target.pair_ids.data + target.pair_ids.used)
    for at in range(row.pair_count):
        own[at] = copied_pair(&source.symbols, &target.symbols, ids[at], copied_pairs)
        if own[at] == NOT_FOUND:
            return False
    row.metric_pair = copied_pairs[row.metric_pair]
    if source.replicas.count:
        sibling = find_sibling(target, row.series_id, row.metric_pair)
    if sibling != NOT_FOUND:
        row.pairs_at = registry_row(target, sibling).pairs_at
    else:
        row.pairs_at = <uint32_t>(target.pair_ids.used // sizeof(uint32_t))
        target.pair_ids.used += row.pair_count * sizeof(uint32_t)
    if row.replica:
        row.replica = copied_pair(
            &source.replicas, &target.replicas, row.replica - 1, copied_replicas
        )
        if row.replica == NOT_FOUND:
            return False
        row.replica += 1
    if not id_insert(
        &target.series, key_hash(target, row.series_id, row.metric_pair), target.count
    ):
        return False
    registry_row(target, target.count)[0] = row
    target.rows.used += sizeof(SeriesRow)
    target.count += 1
    return True


cdef inline bint is_kept(const FingerprintSlot* slot, const uint32_t* remap) noexcept nogil:
    return slot.ref_plus_one != 0 and remap[slot.ref_plus_one - 1] != NOT_FOUND


cdef inline bint copy_fingerprints(
    const Registry* source, Registry* target, const uint32_t* remap
) noexcept nogil:
    """Segment by segment, each made in its size: if it grew while it is filled in the order of its
    slots, all would crowd at its beginning.
    """
    cdef const FingerprintSegment* segment
    cdef FingerprintSegment* made
    cdef FingerprintSlot slot
    cdef uint64_t number
    cdef uint32_t at, kept
    for number in range(<uint64_t>SEGMENT_COUNT):
        segment = &source.fingerprints.segments[number]
        kept = 0
        for at in range(segment.capacity):
            kept += is_kept(&segment.slots[at], remap)
        if kept == 0:
            continue
        made = &target.fingerprints.segments[number]
        made.slots = <FingerprintSlot*>zeroed_new(
            <size_t>capacity_for(kept) * sizeof(FingerprintSlot)
        )
        if made.slots == NULL:
            return False
        made.capacity = capacity_for(kept)
        for at in range(segment.capacity):
            if is_kept(&segment.slots[at], remap):
                slot = segment.slots[at]
                slot.ref_plus_one = remap[slot.ref_plus_one - 1] + 1
                fingerprint_place(made, &slot)
        target.fingerprints.count += kept
    return True


cdef inline bint copy_kept(
    const Registry* source, Registry* target, const uint8_t* keep, size_t keep_count,
    uint32_t* remap,
) noexcept nogil:
    """Copies series whose keep byte is not 0, or that have none, into an empty registry.

    Args:
        remap: as many as series, all NOT_FOUND; gets the ref that each has in `target`.
    Returns:
        False where there is no memory.
    """
    cdef uint32_t pair_count = source.symbols.count
    cdef uint32_t replica_count = source.replicas.count
    cdef size_t copied_bytes = (<size_t>pair_count + replica_count + 1) * sizeof(uint32_t)
    cdef uint32_t* copied = <uint32_t*>zeroed_new(copied_bytes)
    cdef uint32_t ref
    cdef bint is_done = True
    if copied == NULL:
        return False
    memset(copied, 0xFF, copied_bytes)
    for ref in range(source.count):
        if ref < keep_count and keep[ref] == 0:
            continue
        if not copy_row(source, target, ref, copied, copied + pair_count):
            is_done = False
            break
        remap[ref] = target.count - 1
    zeroed_free(copied, copied_bytes)
    return is_done and copy_fingerprints(source, target, remap) and metadata_copy(source, target)
