# cython: language_level=3
"""The symbol table: every (name, value) pair once, known by a number.

    text     varint name length, varint value length, name, 0xFF, value; one after another
    places   pair id -> where its text begins
    ids      hash of `name 0xFF value` -> pair id

Limits: 2^32 - 2 pairs, 4 GiB of text; past them `symbols_intern` says NOT_FOUND.
"""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from bridge.wire._hashing cimport HashKey, keyed_hash
from bridge.wire._pages cimport Growable, growable_free, growable_reserve
from bridge.wire._tables cimport (
    NOT_FOUND,
    SEGMENT_SHIFT,
    IdSegment,
    IdTable,
    id_bytes,
    id_free,
    id_insert,
    slot_of,
)

cdef enum:
    SEPARATOR = 0xFF      # never part of UTF-8
    LENGTHS_BYTES_MAX = 10  # two varints of 32 bits


ctypedef struct Pair:
    # `text` is name 0xFF value, `length` bytes in all.
    const uint8_t* text
    uint32_t name_length
    uint32_t length
    uint64_t hashed


cdef extern from *:
    """
    static const char NAME_LABEL[] = "__name__";
    """
    const char* NAME_LABEL  # 8 bytes


ctypedef struct Symbols:
    HashKey key
    Growable text
    Growable places
    IdTable ids
    uint32_t count


cdef inline uint32_t put_varint(uint8_t* at, uint32_t value) noexcept nogil:
    cdef uint32_t length = 0
    while value >= 0x80:
        at[length] = <uint8_t>(value | 0x80)
        value >>= 7
        length += 1
    at[length] = <uint8_t>value
    return length + 1


cdef inline uint32_t take_varint(const uint8_t** place) noexcept nogil:
    """A varint that put_varint wrote."""
    cdef const uint8_t* at = place[0]
    cdef uint32_t value = at[0] & 0x7F
    cdef int shift = 7
    while at[0] >= 0x80:
        at += 1
        value |= <uint32_t>(at[0] & 0x7F) << shift
        shift += 7
    place[0] = at + 1
    return value


cdef inline void symbols_free(Symbols* symbols) noexcept nogil:
    growable_free(&symbols.text)
    growable_free(&symbols.places)
    id_free(&symbols.ids)
    symbols.count = 0


cdef inline size_t symbols_bytes(const Symbols* symbols) noexcept nogil:
    return symbols.text.used + symbols.places.used + id_bytes(&symbols.ids)


cdef inline bint is_metric_pair(const Pair* pair) noexcept nogil:
    return pair.name_length == 8 and memcmp(pair.text, NAME_LABEL, 8) == 0


cdef inline void pair_hash(const Symbols* symbols, Pair* pair) noexcept nogil:
    pair.hashed = keyed_hash(&symbols.key, pair.text, pair.length)


cdef inline void symbols_text(const Symbols* symbols, uint32_t pair_id, Pair* pair) noexcept nogil:
    """The text of a pair that is there; valid until the next one is interned."""
    cdef const uint8_t* at = symbols.text.data + (<const uint32_t*>symbols.places.data)[pair_id]
    pair.name_length = take_varint(&at)
    pair.length = take_varint(&at) + pair.name_length + 1
    pair.text = at


cdef inline bint symbols_equal(
    const Symbols* symbols, uint32_t pair_id, const Pair* pair
) noexcept nogil:
    cdef Pair own
    symbols_text(symbols, pair_id, &own)
    return (
        own.length == pair.length
        and own.name_length == pair.name_length
        and memcmp(own.text, pair.text, own.length) == 0
    )


cdef inline uint32_t symbols_find(const Symbols* symbols, const Pair* pair) noexcept nogil:
    """The id of a pair, or NOT_FOUND."""
    cdef const IdSegment* segment = &symbols.ids.segments[pair.hashed >> SEGMENT_SHIFT]
    cdef uint32_t tag = <uint32_t>pair.hashed
    cdef uint32_t at
    cdef uint64_t slot
    if segment.capacity == 0:
        return NOT_FOUND
    at = slot_of(tag, segment.capacity)
    while True:
        slot = segment.slots[at]
        if slot == 0:
            return NOT_FOUND
        if <uint32_t>(slot >> 32) == tag and symbols_equal(symbols, <uint32_t>slot - 1, pair):
            return <uint32_t>slot - 1
        at += 1
        if at == segment.capacity:
            at = 0


cdef inline bint symbols_have_room(const Symbols* symbols, size_t length) noexcept nogil:
    """Whether `length` more bytes of text keep every number within 32 bits."""
    return (
        symbols.text.used + length <= <size_t>0xFFFFFFFF
        and symbols.count < <uint32_t>0xFFFFFFF0
    )


cdef inline uint32_t symbols_intern(Symbols* symbols, const Pair* pair) noexcept nogil:
    """The id of a pair, new or not; NOT_FOUND where there is no memory or no number left."""
    cdef uint32_t found = symbols_find(symbols, pair)
    cdef size_t needed = <size_t>pair.length + LENGTHS_BYTES_MAX
    cdef uint8_t* at
    if found != NOT_FOUND:
        return found
    if not symbols_have_room(symbols, needed):
        return NOT_FOUND
    if not growable_reserve(&symbols.text, needed):
        return NOT_FOUND
    if not growable_reserve(&symbols.places, sizeof(uint32_t)):
        return NOT_FOUND
    if not id_insert(&symbols.ids, pair.hashed, symbols.count):
        return NOT_FOUND
    (<uint32_t*>(symbols.places.data + symbols.places.used))[0] = <uint32_t>symbols.text.used
    symbols.places.used += sizeof(uint32_t)
    at = symbols.text.data + symbols.text.used
    at += put_varint(at, pair.name_length)
    at += put_varint(at, pair.length - pair.name_length - 1)
    memcpy(at, pair.text, pair.length)
    symbols.text.used = <size_t>(at - symbols.text.data) + pair.length
    symbols.count += 1
    return symbols.count - 1
