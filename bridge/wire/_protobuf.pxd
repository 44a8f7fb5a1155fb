# cython: language_level=3
"""Protobuf's wire format, read from bytes that nobody vouches for.

Every function takes the place to read at and the end of what may be read, moves the place behind
what it read, and gives False, the place unmoved, where the bytes do not hold it.

What is legal is what Google's own parser takes: varints of at most ten bytes, whose bits above the
64th are dropped; tags and lengths of at most five bytes and 32 bits. Groups are refused.
"""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef enum:
    WIRE_VARINT = 0
    WIRE_FIXED64 = 1
    WIRE_BYTES = 2
    WIRE_FIXED32 = 5

cdef extern from * nogil:
    """
    static inline uint64_t load_u64(const uint8_t *at) {
        uint64_t value;
        memcpy(&value, at, 8);
    #if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
        value = __builtin_bswap64(value);
    #endif
        return value;
    }
    """
    uint64_t load_u64(const uint8_t* at)


cdef inline bint read_varint(
    const uint8_t** place, const uint8_t* end, uint64_t* value
) noexcept nogil:
    cdef const uint8_t* at = place[0]
    cdef uint64_t result = 0
    cdef uint64_t byte
    cdef int shift = 0
    while at < end and shift < 70:
        byte = at[0]
        at += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            value[0] = result
            place[0] = at
            return True
        shift += 7
    return False


cdef inline bint read_varint32(
    const uint8_t** place, const uint8_t* end, uint32_t* value
) noexcept nogil:
    """A varint of at most five bytes and 32 bits: tags and lengths."""
    cdef const uint8_t* at = place[0]
    cdef uint64_t result = 0
    cdef uint64_t byte
    cdef int shift = 0
    while at < end and shift < 35:
        byte = at[0]
        at += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            if result >> 32 != 0:
                return False
            value[0] = <uint32_t>result
            place[0] = at
            return True
        shift += 7
    return False


cdef inline bint read_tag(
    const uint8_t** place, const uint8_t* end, uint32_t* tag
) noexcept nogil:
    """Field number << 3 | wire type; there is no field 0."""
    cdef const uint8_t* at = place[0]
    if at < end and at[0] < 0x80:
        tag[0] = at[0]
        place[0] = at + 1
        return at[0] >= 8
    return read_varint32(place, end, tag) and tag[0] >= 8


cdef inline bint read_length(
    const uint8_t** place, const uint8_t* end, size_t* length
) noexcept nogil:
    """The length of a field whose bytes all lie before `end`."""
    cdef const uint8_t* at = place[0]
    cdef uint32_t found
    if at < end and at[0] < 0x80:
        found = at[0]
        at += 1
    elif not read_varint32(&at, end, &found):
        return False
    if found > <size_t>(end - at):
        return False
    length[0] = found
    place[0] = at
    return True


cdef inline bint skip_field(
    const uint8_t** place, const uint8_t* end, uint32_t tag
) noexcept nogil:
    """Passes over the content of a field that is not known."""
    cdef size_t length
    cdef uint64_t value
    cdef uint32_t wire = tag & 7
    if wire == WIRE_VARINT:
        return read_varint(place, end, &value)
    if wire == WIRE_BYTES:
        if not read_length(place, end, &length):
            return False
    elif wire == WIRE_FIXED64:
        length = 8
    elif wire == WIRE_FIXED32:
        length = 4
    else:
        return False
    if length > <size_t>(end - place[0]):
        return False
    place[0] += length
    return True
