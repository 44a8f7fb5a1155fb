# cython: language_level=3
"""Hash tables of the series registry.

    IdTable           hash -> ids, 8 bytes a slot: 32 bits of the hash, id + 1. Whoever asks compares
                      what the ids stand for.
    FingerprintTable  128-bit fingerprint -> ref, 16 bytes a slot. 96 bits are stored and 6 more
                      choose the segment: 102 bits decide, 2^-62 for any clash among 2^20 series.

Both are 64 segments, chosen by the top bits of the hash, each with open addressing and linear
probing at a load of 0.56 to 0.7 (six slots looked at, on average, for what is not there). A
segment grows by a quarter alone, so that no moment needs old and new memory of a whole table. The
slot is the hash scaled to the capacity: growing reads and writes in the same order.

Limits: 2^32 - 2 ids.
"""

from libc.stddef cimport size_t
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset

from bridge.wire._pages cimport zeroed_free, zeroed_new

cdef extern from * nogil:
    """
    #define TABLE_NOT_FOUND 0xFFFFFFFFu
    #define table_prefetch(address) __builtin_prefetch(address)
    """
    const uint32_t NOT_FOUND "TABLE_NOT_FOUND"
    void table_prefetch(const void* address)

cdef enum:
    SEGMENT_COUNT = 64
    SEGMENT_SHIFT = 58
    SEGMENT_CAPACITY_MIN = 8


ctypedef struct IdSegment:
    uint64_t* slots
    uint32_t capacity
    uint32_t count


ctypedef struct IdTable:
    IdSegment[SEGMENT_COUNT] segments


ctypedef struct Fingerprint:
    uint64_t low
    uint64_t high


ctypedef struct FingerprintSlot:
    uint64_t high
    uint32_t low
    uint32_t ref_plus_one


ctypedef struct FingerprintSegment:
    FingerprintSlot* slots
    uint32_t capacity
    uint32_t count


ctypedef struct FingerprintTable:
    FingerprintSegment[SEGMENT_COUNT] segments
    uint64_t count


cdef inline uint32_t slot_of(uint32_t hash_low, uint32_t capacity) noexcept nogil:
    return <uint32_t>((<uint64_t>hash_low * capacity) >> 32)


cdef inline bint is_segment_full(uint32_t count, uint32_t capacity) noexcept nogil:
    return <uint64_t>(count + 1) * 10 > <uint64_t>capacity * 7


cdef inline uint32_t grown_capacity(uint32_t capacity) noexcept nogil:
    return capacity + max(<uint32_t>SEGMENT_CAPACITY_MIN, capacity // 4)


cdef inline uint32_t capacity_for(uint32_t count) noexcept nogil:
    """Slots for a segment of so many, at a load of about 0.63."""
    return SEGMENT_CAPACITY_MIN + <uint32_t>(<uint64_t>count * 8 // 5)


# -- IdTable --------------------------------------------------------------------------------------

cdef inline void id_prefetch(IdTable* table, uint64_t hashed) noexcept nogil:
    cdef IdSegment* segment = &table.segments[hashed >> SEGMENT_SHIFT]
    if segment.capacity:
        table_prefetch(&segment.slots[slot_of(<uint32_t>hashed, segment.capacity)])


cdef inline void id_place(IdSegment* segment, uint64_t slot) noexcept nogil:
    cdef uint32_t at = slot_of(<uint32_t>(slot >> 32), segment.capacity)
    while segment.slots[at] != 0:
        at += 1
        if at == segment.capacity:
            at = 0
    segment.slots[at] = slot
    segment.count += 1


cdef inline bint id_insert(IdTable* table, uint64_t hashed, uint32_t number) noexcept nogil:
    """Adds an id under a hash; False where there is no memory."""
    cdef IdSegment* segment = &table.segments[hashed >> SEGMENT_SHIFT]
    cdef IdSegment grown
    cdef uint32_t at
    if is_segment_full(segment.count, segment.capacity):
        grown.capacity = grown_capacity(segment.capacity)
        grown.count = 0
        grown.slots = <uint64_t*>zeroed_new(<size_t>grown.capacity * sizeof(uint64_t))
        if grown.slots == NULL:
            return False
        for at in range(segment.capacity):
            if segment.slots[at] != 0:
                id_place(&grown, segment.slots[at])
        zeroed_free(segment.slots, <size_t>segment.capacity * sizeof(uint64_t))
        segment[0] = grown
    id_place(segment, <uint64_t><uint32_t>hashed << 32 | <uint64_t>(number + 1))
    return True


cdef inline void id_free(IdTable* table) noexcept nogil:
    cdef int number
    for number in range(SEGMENT_COUNT):
        zeroed_free(
            table.segments[number].slots,
            <size_t>table.segments[number].capacity * sizeof(uint64_t),
        )
    memset(table, 0, sizeof(IdTable))


cdef inline size_t id_bytes(const IdTable* table) noexcept nogil:
    cdef size_t total = sizeof(IdTable)
    cdef int number
    for number in range(SEGMENT_COUNT):
        total += <size_t>table.segments[number].capacity * sizeof(uint64_t)
    return total


# -- FingerprintTable -----------------------------------------------------------------------------

cdef inline void fingerprint_prefetch(
    FingerprintTable* table, const Fingerprint* key
) noexcept nogil:
    cdef FingerprintSegment* segment = &table.segments[key.low >> SEGMENT_SHIFT]
    if segment.capacity:
        table_prefetch(&segment.slots[slot_of(<uint32_t>key.low, segment.capacity)])


cdef inline uint32_t fingerprint_find(
    FingerprintTable* table, const Fingerprint* key
) noexcept nogil:
    """The ref, or NOT_FOUND."""
    cdef FingerprintSegment* segment = &table.segments[key.low >> SEGMENT_SHIFT]
    cdef uint32_t low = <uint32_t>key.low
    cdef uint32_t at
    cdef FingerprintSlot* slot
    if segment.capacity == 0:
        return NOT_FOUND
    at = slot_of(low, segment.capacity)
    while True:
        slot = &segment.slots[at]
        if slot.ref_plus_one == 0:
            return NOT_FOUND
        if slot.high == key.high and slot.low == low:
            return slot.ref_plus_one - 1
        at += 1
        if at == segment.capacity:
            at = 0


cdef inline void fingerprint_place(
    FingerprintSegment* segment, const FingerprintSlot* slot
) noexcept nogil:
    cdef uint32_t at = slot_of(slot.low, segment.capacity)
    while segment.slots[at].ref_plus_one != 0:
        at += 1
        if at == segment.capacity:
            at = 0
    segment.slots[at] = slot[0]
    segment.count += 1


cdef inline bint fingerprint_insert(
    FingerprintTable* table, const Fingerprint* key, uint32_t ref
) noexcept nogil:
    """Adds a ref under a key that is not there yet; False where there is no memory."""
    cdef FingerprintSegment* segment = &table.segments[key.low >> SEGMENT_SHIFT]
    cdef FingerprintSegment grown
    cdef FingerprintSlot slot
    cdef uint32_t at
    if is_segment_full(segment.count, segment.capacity):
        grown.capacity = grown_capacity(segment.capacity)
        grown.count = 0
        grown.slots = <FingerprintSlot*>zeroed_new(
            <size_t>grown.capacity * sizeof(FingerprintSlot)
        )
        if grown.slots == NULL:
            return False
        for at in range(segment.capacity):
            if segment.slots[at].ref_plus_one != 0:
                fingerprint_place(&grown, &segment.slots[at])
        zeroed_free(segment.slots, <size_t>segment.capacity * sizeof(FingerprintSlot))
        segment[0] = grown
    slot.high = key.high
    slot.low = <uint32_t>key.low
    slot.ref_plus_one = ref + 1
    fingerprint_place(segment, &slot)
    table.count += 1
    return True


cdef inline void fingerprint_clear(FingerprintTable* table) noexcept nogil:
    """Empties the table and gives its memory back."""
    cdef int number
    for number in range(SEGMENT_COUNT):
        zeroed_free(
            table.segments[number].slots,
            <size_t>table.segments[number].capacity * sizeof(FingerprintSlot),
        )
    memset(table, 0, sizeof(FingerprintTable))


cdef inline size_t fingerprint_bytes(const FingerprintTable* table) noexcept nogil:
    cdef size_t total = sizeof(FingerprintTable)
    cdef int number
    for number in range(SEGMENT_COUNT):
        total += <size_t>table.segments[number].capacity * sizeof(FingerprintSlot)
    return total
