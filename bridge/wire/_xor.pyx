"""XOR chunks, 64 bits at a time; `bridge.wire.xor` tells the format.

Written bytes are bounded before: a sample takes at most 19, since its time takes at most 68 bits
(4 and 64; the first two 80, but nothing else of theirs is longer) and its value at most 77 (2, 5, 6
and 64).
"""

from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memmove

import numpy as np

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.object cimport PyObject

from bridge.wire._columns cimport check_offsets
from bridge.wire._protobuf_write cimport (
    load_be64,
    new_bytes,
    put_varint,
    shrink_bytes,
    start_of,
    store_be64,
    varint_size,
)

from bridge.wire.encoded import EncodedSeries

cdef extern from *:
    int leading_zeros "__builtin_clzll"(unsigned long long) noexcept nogil
    int trailing_zeros "__builtin_ctzll"(unsigned long long) noexcept nogil

cdef enum:
    COUNT_MAX = 65_535
    SAMPLE_BYTES_MAX = 19
    # The chunk's count, the first two times' excess, and the fields around the bits: four tags,
    # two lengths of at most 4 bytes, two times of 10, the type.
    CHUNK_EXTRA_BYTES_MAX = 64
    NO_WINDOW = 255
    # Errors of the decoder.
    TRUNCATED = -1
    VARINT_TOO_LONG = -2
    WINDOW_MALFORMED = -3


# -- encode --

cdef struct BitWriter:
    uint8_t* at
    uint64_t word  # bits not written yet, at its upper end
    int used  # their number, 0 to 63


cdef inline void put_bits(BitWriter* writer, uint64_t bits, int count) noexcept nogil:
    """Appends the low `count` bits, 1 to 64; those above are 0."""
    cdef int free = 64 - writer.used
    if count < free:
        writer.word |= bits << (free - count)
        writer.used += count
        return
    count -= free
    store_be64(writer.at, writer.word | bits >> count)
    writer.at += 8
    writer.used = count
    writer.word = bits << (64 - count) if count else 0


cdef inline uint8_t* finish_bits(BitWriter* writer) noexcept nogil:
    """Writes what is left; gives the place behind it."""
    cdef int left = writer.used
    while left > 0:
        writer.at[0] = <uint8_t> (writer.word >> 56)
        writer.at += 1
        writer.word <<= 8
        left -= 8
    return writer.at


cdef inline void put_delta_change(BitWriter* writer, uint64_t change) noexcept nogil:
    if change == 0:
        put_bits(writer, 0, 1)
    elif change + 8_191 < 1 << 14:
        put_bits(writer, 0b10 << 14 | change & 0x3FFF, 16)
    elif change + 65_535 < 1 << 17:
        put_bits(writer, 0b110 << 17 | change & 0x1FFFF, 20)
    elif change + 524_287 < 1 << 20:
        put_bits(writer, 0b1110 << 20 | change & 0xFFFFF, 24)
    else:
        put_bits(writer, 0b1111, 4)
        put_bits(writer, change, 64)


cdef inline uint8_t* put_chunk(
    uint8_t* at, const int64_t* times, const uint64_t* bits, Py_ssize_t count
) noexcept nogil:
    """A chunk of 1 to COUNT_MAX samples; gives the place behind it."""
    cdef BitWriter writer
    cdef Py_ssize_t i = 1
    cdef uint64_t delta, next_delta, change
    cdef int leading = NO_WINDOW, trailing = 0, width, change_leading, change_trailing
    at[0] = <uint8_t> (count >> 8)
    at[1] = <uint8_t> count
    at = put_varint(at + 2, <uint64_t> times[0] << 1 ^ <uint64_t> (times[0] >> 63))
    store_be64(at, bits[0])
    at += 8
    if count == 1:
        return at
    delta = <uint64_t> times[1] - <uint64_t> times[0]
    writer.at = put_varint(at, delta)
    writer.word = 0
    writer.used = 0
    while True:
        change = bits[i] ^ bits[i - 1]
        if change == 0:
            put_bits(&writer, 0, 1)
        else:
            change_leading = leading_zeros(change)
            if change_leading > 31:
                change_leading = 31
            change_trailing = trailing_zeros(change)
            if leading != NO_WINDOW and change_leading >= leading and change_trailing >= trailing:
                width = 64 - leading - trailing
                put_bits(&writer, 0b10, 2)
            else:
                leading, trailing = change_leading, change_trailing
                width = 64 - leading - trailing
                put_bits(&writer, 0b11 << 11 | leading << 6 | width & 63, 13)
            put_bits(&writer, change >> trailing, width)
        i += 1
        if i == count:
            return finish_bits(&writer)
        next_delta = <uint64_t> times[i] - <uint64_t> times[i - 1]
        put_delta_change(&writer, next_delta - delta)
        delta = next_delta


cdef inline uint8_t* put_chunk_field(
    uint8_t* at, const int64_t* times, const uint64_t* bits, Py_ssize_t count
) noexcept nogil:
    """Field 2 of ChunkedSeries with a Chunk in it; gives the place behind it."""
    cdef int64_t first = times[0], last = times[count - 1]
    cdef uint8_t* chunk
    cdef uint8_t* chunk_end
    cdef size_t size, fields_size
    cdef int head_size
    # Fields before the bits: min_time_ms and max_time_ms unless 0, type, tag and length of data.
    fields_size = 3
    if first:
        fields_size += 1 + varint_size(<uint64_t> first)
    if last:
        fields_size += 1 + varint_size(<uint64_t> last)
    # Lengths are known only afterwards; nearly all have 2 bytes.
    chunk = at + 1 + 2 + fields_size + 2
    chunk_end = put_chunk(chunk, times, bits, count)
    size = chunk_end - chunk
    fields_size += varint_size(size)
    head_size = 1 + varint_size(fields_size + size) + <int> fields_size
    if at + head_size != chunk:
        memmove(at + head_size, chunk, size)
    at[0] = 0x12
    at = put_varint(at + 1, fields_size + size)
    if first:
        at[0] = 0x08
        at = put_varint(at + 1, <uint64_t> first)
    if last:
        at[0] = 0x10
        at = put_varint(at + 1, <uint64_t> last)
    at[0] = 0x18
    at[1] = 1
    at[2] = 0x22
    return put_varint(at + 3, size) + size


def encode_chunks(
    const int64_t[::1] offsets not None,
    const int64_t[::1] timestamps_ms not None,
    const double[::1] values not None,
    Py_ssize_t samples_per_chunk,
):
    cdef Py_ssize_t series_count = offsets.shape[0] - 1, i
    cdef int64_t first, last, end, chunk_count = 0
    cdef const int64_t* times
    cdef const uint64_t* bits
    cdef uint8_t* start
    cdef uint8_t* at
    cdef PyObject* room
    if not 1 <= samples_per_chunk <= COUNT_MAX:
        raise ValueError(f"{samples_per_chunk} samples in a chunk, 1 to {COUNT_MAX} are possible")
    check_offsets(offsets, timestamps_ms.shape[0], values.shape[0])
    ends = np.zeros(series_count + 1, np.int64)
    if offsets[0] == offsets[series_count]:
        return EncodedSeries(b"", ends)
    cdef int64_t[::1] series_ends = ends
    times, bits = &timestamps_ms[0], <const uint64_t*> &values[0]
    with nogil:
        for i in range(series_count):
            chunk_count += (
                offsets[i + 1] - offsets[i] + samples_per_chunk - 1
            ) // samples_per_chunk
    room = new_bytes(
        NULL,
        (offsets[series_count] - offsets[0]) * SAMPLE_BYTES_MAX
        + chunk_count * CHUNK_EXTRA_BYTES_MAX,
    )
    start = at = <uint8_t*> start_of(room)
    with nogil:
        for i in range(series_count):
            first, end = offsets[i], offsets[i + 1]
            while first < end:
                last = min(first + samples_per_chunk, end)
                at = put_chunk_field(at, times + first, bits + first, last - first)
                first = last
            series_ends[i + 1] = at - start
    return EncodedSeries(shrink_bytes(room, at - start), ends)


# -- decode --

cdef struct BitReader:
    const uint8_t* start
    size_t place  # in bits
    size_t end  # in bits


cdef inline bint take_bits(BitReader* reader, int count, uint64_t* bits) noexcept nogil:
    """Reads 1 to 64 bits; False where the chunk has less left."""
    cdef const uint8_t* at = reader.start + (reader.place >> 3)
    cdef int skip = reader.place & 7, missing
    cdef size_t left = reader.end - reader.place
    cdef uint64_t word = 0
    cdef size_t i
    if left < <size_t> count:
        return False
    if left + skip >= 72:
        word = load_be64(at) << skip
        if count > 64 - skip:
            word |= at[8] >> (8 - skip)
    else:
        # Near the end of the chunk; up to 9 bytes are left.
        for i in range((left + skip) >> 3):
            missing = 56 + skip - 8 * <int> i
            if missing >= 0:
                word |= <uint64_t> at[i] << missing
            else:
                word |= at[i] >> -missing
    bits[0] = word >> (64 - count)
    reader.place += count
    return True


cdef inline int take_varint(BitReader* reader, uint64_t* value) noexcept nogil:
    cdef uint64_t result = 0, byte = 0
    cdef int shift = 0
    while shift < 70:
        if not take_bits(reader, 8, &byte):
            return TRUNCATED
        if shift == 63 and byte > 1:
            break
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            value[0] = result
            return 0
        shift += 7
    return VARINT_TOO_LONG


cdef inline bint take_delta_change(BitReader* reader, uint64_t* change) noexcept nogil:
    """Reads the change of the delta; False where the chunk has less left."""
    cdef uint64_t bit = 0
    cdef int width
    if not take_bits(reader, 1, &bit):
        return False
    change[0] = 0
    if bit == 0:
        return True
    for width in range(14, 21, 3):
        if not take_bits(reader, 1, &bit):
            return False
        if bit == 0:
            if not take_bits(reader, width, change):
                return False
            if change[0] > <uint64_t> 1 << (width - 1):
                change[0] -= <uint64_t> 1 << width
            return True
    return take_bits(reader, 64, change)


cdef int take_samples(
    BitReader* reader, int64_t* times, uint64_t* values, Py_ssize_t count
) noexcept nogil:
    cdef uint64_t coded = 0, delta = 0, change = 0, bit = 0, bits = 0
    cdef int leading = NO_WINDOW, trailing = 0, width, failed
    cdef Py_ssize_t i
    for i in range(count):
        if i == 0:
            failed = take_varint(reader, &coded)
            if failed:
                return failed
            times[0] = <int64_t> (coded >> 1 ^ (~(coded & 1) + 1))
            if not take_bits(reader, 64, &values[0]):
                return TRUNCATED
            continue
        if i == 1:
            failed = take_varint(reader, &delta)
            if failed:
                return failed
        else:
            if not take_delta_change(reader, &change):
                return TRUNCATED
            delta += change
        times[i] = <int64_t> (<uint64_t> times[i - 1] + delta)
        if not take_bits(reader, 1, &bit):
            return TRUNCATED
        if bit == 0:
            values[i] = values[i - 1]
            continue
        if not take_bits(reader, 1, &bit):
            return TRUNCATED
        if bit:
            if not take_bits(reader, 11, &bits):
                return TRUNCATED
            leading = <int> (bits >> 6)
            width = <int> (bits & 63) or 64
            trailing = 64 - leading - width
            if trailing < 0:
                return WINDOW_MALFORMED
        elif leading == NO_WINDOW:
            return WINDOW_MALFORMED
        if not take_bits(reader, 64 - leading - trailing, &bits):
            return TRUNCATED
        values[i] = values[i - 1] ^ bits << trailing
    return 0


def decode_chunk(data):
    cdef Py_buffer view
    cdef BitReader reader
    cdef Py_ssize_t count
    cdef int failed = 0
    cdef int64_t[::1] out_times
    cdef double[::1] out_values
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        if view.len < 2:
            raise ValueError(f"a chunk of {view.len} bytes has no sample count")
        reader.start = <const uint8_t*> view.buf
        reader.place = 16
        reader.end = <size_t> view.len * 8
        count = reader.start[0] << 8 | reader.start[1]
        times, values = np.empty(count, np.int64), np.empty(count, np.float64)
        if count:
            out_times, out_values = times, values
            with nogil:
                failed = take_samples(&reader, &out_times[0], <uint64_t*> &out_values[0], count)
        if failed == TRUNCATED:
            raise ValueError(f"the chunk ends, after {view.len} bytes, within its {count} samples")
        if failed == VARINT_TOO_LONG:
            raise ValueError("a varint of the chunk is longer than 64 bits")
        if failed == WINDOW_MALFORMED:
            raise ValueError("a value of the chunk has no window, or one of more than 64 bits")
    finally:
        PyBuffer_Release(&view)
    return times, values
