"""Bodies of read answers, copied together; `bridge.wire.frames` tells what they look like."""

from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

import cramjam
import numpy as np

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.object cimport PyObject
from cpython.ref cimport Py_XDECREF

from bridge.wire._columns cimport check_offsets
from bridge.wire._crc32c cimport sum_bytes
from bridge.wire._protobuf_write cimport (
    VARINT_BYTES_MAX,
    new_bytes,
    put_varint,
    resize_bytes,
    shrink_bytes,
    start_of,
    store_le64,
    varint_size,
)

from bridge.wire.encoded import EncodedSeries

cdef enum:
    # Tag and length, tag and 8 bytes of value, tag and varint of the time.
    SAMPLE_BYTES_MAX = 2 + 9 + 11
    CRC_BYTES = 4
    PIECE_BYTES = 1 << 20


cdef class _Buffers:
    """Holds the bytes of many objects in place."""

    cdef Py_buffer* views
    cdef Py_ssize_t count

    def __cinit__(self, objects):
        cdef Py_ssize_t length = len(objects)
        self.views = <Py_buffer*> calloc(length + 1, sizeof(Py_buffer))
        if self.views == NULL:
            raise MemoryError
        for one in objects:
            if self.count == length:
                raise ValueError("the sequence has more entries than it says")
            PyObject_GetBuffer(one, &self.views[self.count], PyBUF_SIMPLE)
            self.count += 1

    def __dealloc__(self):
        cdef Py_ssize_t i
        for i in range(self.count):
            PyBuffer_Release(&self.views[i])
        free(self.views)


cdef inline uint8_t* put_buffer(uint8_t* at, const Py_buffer* view) noexcept nogil:
    memcpy(at, view.buf, <size_t> view.len)
    return at + view.len


# -- frames --

def encode_frames(label_bytes, chunks, int64_t query_index):
    cdef _Buffers labels = _Buffers(label_bytes), data = _Buffers(chunks)
    cdef Py_ssize_t i, count = labels.count
    cdef uint64_t series_size, message_size, total = 0
    cdef int index_size
    cdef uint8_t* at
    cdef uint8_t* message
    cdef PyObject* room
    if data.count != count:
        raise ValueError(f"{count} label sets and chunks of {data.count} series")
    if query_index < 0:
        raise ValueError(f"query {query_index}")
    index_size = 1 + varint_size(<uint64_t> query_index) if query_index else 0
    for i in range(count):
        series_size = <uint64_t> (labels.views[i].len + data.views[i].len)
        message_size = 1 + varint_size(series_size) + series_size + index_size
        total += varint_size(message_size) + CRC_BYTES + message_size
    room = new_bytes(NULL, <Py_ssize_t> total)
    at = <uint8_t*> start_of(room)
    with nogil:
        for i in range(count):
            series_size = <uint64_t> (labels.views[i].len + data.views[i].len)
            message_size = 1 + varint_size(series_size) + series_size + index_size
            at = put_varint(at, message_size) + CRC_BYTES
            message = at
            at[0] = 0x0A
            at = put_varint(at + 1, series_size)
            at = put_buffer(at, &labels.views[i])
            at = put_buffer(at, &data.views[i])
            if index_size:
                at[0] = 0x10
                at = put_varint(at + 1, <uint64_t> query_index)
            put_be32(message - CRC_BYTES, sum_bytes(message, message_size, 0))
    return shrink_bytes(room, <Py_ssize_t> total)


cdef inline void put_be32(uint8_t* at, uint32_t value) noexcept nogil:
    cdef int i
    for i in range(4):
        at[i] = <uint8_t> (value >> (24 - 8 * i))


# -- samples --

cdef inline uint8_t* put_sample(uint8_t* at, int64_t time, uint64_t bits) noexcept nogil:
    """Field 2 of TimeSeries with a Sample in it; room for SAMPLE_BYTES_MAX is needed."""
    cdef uint64_t t = <uint64_t> time
    cdef uint8_t* head = at
    cdef int i
    at[0] = 0x12
    if bits and t >> 35 and not t >> 42:
        # A time between 1971 and 2109: a varint of six bytes.
        at[1] = 16
        at[2] = 0x09
        store_le64(at + 3, bits)
        at[11] = 0x10
        for i in range(5):
            at[12 + i] = <uint8_t> (t >> (7 * i) | 0x80)
        at[17] = <uint8_t> (t >> 35)
        return at + 18
    at += 2
    if bits:
        at[0] = 0x09
        store_le64(at + 1, bits)
        at += 9
    if t:
        at[0] = 0x10
        at = put_varint(at + 1, t)
    head[1] = <uint8_t> (at - head - 2)
    return at


def encode_samples(
    const int64_t[::1] offsets not None,
    const int64_t[::1] timestamps_ms not None,
    const double[::1] values not None,
):
    cdef Py_ssize_t series_count = offsets.shape[0] - 1, i
    cdef int64_t row
    cdef const uint64_t* bits
    cdef uint8_t* start
    cdef uint8_t* at
    cdef PyObject* room
    check_offsets(offsets, timestamps_ms.shape[0], values.shape[0])
    ends = np.zeros(series_count + 1, np.int64)
    if offsets[0] == offsets[series_count]:
        return EncodedSeries(b"", ends)
    cdef int64_t[::1] series_ends = ends
    bits = <const uint64_t*> &values[0]
    room = new_bytes(NULL, (offsets[series_count] - offsets[0]) * SAMPLE_BYTES_MAX)
    start = at = <uint8_t*> start_of(room)
    with nogil:
        for i in range(series_count):
            for row in range(offsets[i], offsets[i + 1]):
                at = put_sample(at, timestamps_ms[row], bits[row])
            series_ends[i + 1] = at - start
    return EncodedSeries(shrink_bytes(room, at - start), ends)


# -- one snappy block --

cdef class _SnappyBlock:
    """A block whose length is known, of bytes that come bit by bit."""

    cdef object piece  # bytearray, not compressed yet
    cdef object compressed  # bytearray, reused
    cdef uint8_t* piece_start
    cdef size_t piece_size, piece_used
    cdef PyObject* room
    cdef size_t room_size, room_used

    def __cinit__(self, uint64_t length):
        cdef uint8_t* start
        self.piece_size = <size_t> min(length, <uint64_t> PIECE_BYTES)
        self.piece = bytearray(self.piece_size)
        self.piece_start = <uint8_t*> <char*> self.piece
        self.compressed = bytearray(cramjam.snappy.compress_raw_max_len(self.piece))
        self.room_size = VARINT_BYTES_MAX + <size_t> (length >> 2)
        self.room = new_bytes(NULL, <Py_ssize_t> self.room_size)
        start = <uint8_t*> start_of(self.room)
        self.room_used = put_varint(start, length) - start

    def __dealloc__(self):
        Py_XDECREF(self.room)

    cdef int add(self, const uint8_t* start, size_t length) except -1:
        cdef size_t taken
        while length:
            taken = min(length, self.piece_size - self.piece_used)
            memcpy(self.piece_start + self.piece_used, start, taken)
            self.piece_used += taken
            start += taken
            length -= taken
            if self.piece_used == self.piece_size:
                self.compress()
        return 0

    cdef int add_field(self, uint64_t length) except -1:
        """Tag of field 1, and its length."""
        cdef uint8_t head[1 + VARINT_BYTES_MAX]
        head[0] = 0x0A
        return self.add(head, put_varint(head + 1, length) - head)

    cdef int compress(self) except -1:
        """Elements of the piece go to the room, their own length is left away."""
        cdef size_t used, skipped = 0
        cdef const uint8_t* elements
        if not self.piece_used:
            return 0
        used = <size_t> cramjam.snappy.compress_raw_into(
            memoryview(self.piece)[: self.piece_used], self.compressed
        )
        elements = <const uint8_t*> <char*> self.compressed
        while elements[skipped] >= 0x80:
            skipped += 1
        skipped += 1
        used -= skipped
        if self.room_size - self.room_used < used:
            # A block compresses about evenly: one more growth is rare.
            self.room_size = max(self.room_size + self.room_size // 2, self.room_used + used)
            resize_bytes(&self.room, <Py_ssize_t> self.room_size)
        memcpy(<uint8_t*> start_of(self.room) + self.room_used, elements + skipped, used)
        self.room_used += used
        self.piece_used = 0
        return 0

    cdef object finish(self):
        cdef PyObject* room = self.room
        self.compress()
        room, self.room = self.room, NULL
        return shrink_bytes(room, <Py_ssize_t> self.room_used)


cdef class _Result:
    """The series of one query."""

    cdef _Buffers labels
    cdef _Buffers samples
    cdef uint64_t size

    def __cinit__(self, series):
        cdef Py_ssize_t i
        cdef uint64_t series_size
        self.labels = _Buffers([labels for labels, _ in series])
        self.samples = _Buffers([samples for _, samples in series])
        for i in range(self.labels.count):
            series_size = self.series_size(i)
            self.size += 1 + varint_size(series_size) + series_size

    cdef inline uint64_t series_size(self, Py_ssize_t i) noexcept:
        return <uint64_t> (self.labels.views[i].len + self.samples.views[i].len)

    cdef int write(self, _SnappyBlock block) except -1:
        cdef Py_ssize_t i
        block.add_field(self.size)
        for i in range(self.labels.count):
            block.add_field(self.series_size(i))
            block.add(<const uint8_t*> self.labels.views[i].buf, self.labels.views[i].len)
            block.add(<const uint8_t*> self.samples.views[i].buf, self.samples.views[i].len)
        return 0


def encode_read_response(results):
    cdef list held = [_Result(series) for series in results]
    cdef _Result result
    cdef _SnappyBlock block
    cdef uint64_t total = 0
    for result in held:
        total += 1 + varint_size(result.size) + result.size
    if total >> 32:
        raise ValueError(f"an answer of {total} bytes; a snappy block has at most 4 GiB")
    block = _SnappyBlock(total)
    for result in held:
        result.write(block)
    return block.finish()
