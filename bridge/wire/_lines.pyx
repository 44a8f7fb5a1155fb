# distutils: language = c++
"""Line protocol; `bridge.wire.lines` says what is written, `twins/lines.py` is the definition."""

from libc.math cimport isfinite
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy

import numpy as np

from cpython.object cimport PyObject

from bridge.wire._protobuf_write cimport new_bytes, shrink_bytes, start_of

from bridge.wire.encoded import EncodedSeries

cdef extern from * nogil:
    """
    #include <charconv>
    #include <cmath>
    #include <cstdint>

    // Most numbers of a Prometheus are whole: 10 ns against 18 (and 45 of Arrow's cast). Above
    // 2**53 a double is still the integer that it shows, so 1e15 only keeps the digits few.
    static inline uint8_t* put_number(uint8_t* at, double value) {
        char* text = reinterpret_cast<char*>(at);
        if (value > -1e15 && value < 1e15) {
            const int64_t whole = static_cast<int64_t>(value);
            if (static_cast<double>(whole) == value && (whole != 0 || !std::signbit(value)))
                return reinterpret_cast<uint8_t*>(std::to_chars(text, text + 20, whole).ptr);
        }
        return reinterpret_cast<uint8_t*>(std::to_chars(text, text + 24, value).ptr);
    }
    static inline uint8_t* put_integer(uint8_t* at, int64_t value) {
        char* text = reinterpret_cast<char*>(at);
        return reinterpret_cast<uint8_t*>(std::to_chars(text, text + 20, value).ptr);
    }
    """
    uint8_t* put_number(uint8_t* at, double value)
    uint8_t* put_integer(uint8_t* at, int64_t value)

cdef enum:
    # "-2.2250738585072014e-308", a space, "-9223372036854775808", a newline.
    ROW_BYTES_MAX = 24 + 1 + 20 + 1
    # exported_, a backslash before, an underscore behind.
    NAME_BYTES_MAX = 9 + 1 + 1
    # A comma, an equals sign, and both names.
    TAG_BYTES_MAX = 2 + 2 * NAME_BYTES_MAX
    # Measurement and field of one series, a space and an equals sign.
    SERIES_BYTES_MAX = 2 * NAME_BYTES_MAX + 2 + 5
    # A byte, an underscore and a backslash before it.
    GROWTH_MAX = 3

cdef enum:
    MEASUREMENT
    FIELD
    TAG

ctypedef struct Text:
    const uint8_t* data
    size_t length

ctypedef struct Tag:
    # Where a tag begins, where its key ends, where it ends; its comma is at `start`.
    size_t start
    size_t key_end
    size_t end


# -- escapes --

cdef inline uint8_t* put_text(uint8_t* at, const uint8_t* text, size_t length) noexcept nogil:
    memcpy(at, text, length)
    return at + length


cdef inline uint8_t* put_escaped(uint8_t* at, Text text, int place) noexcept nogil:
    """Writes at most three bytes for one."""
    cdef size_t i
    cdef uint8_t byte
    for i in range(text.length):
        byte = text.data[i]
        if byte == b"," or byte == b" " or byte == b"=" or byte == b'"':
            if (place != TAG or byte == b" ") and i and text.data[i - 1] == b"\\":
                at[0] = b"_"
                at += 1
            if (
                byte == b"," or byte == b" "
                or (byte == b"=" and place != MEASUREMENT)
                or (byte == b'"' and place == FIELD)
            ):
                at[0] = b"\\"
                at += 1
        elif byte == b"\n":
            at[0] = b"\\"
            at += 1
            byte = b"n"
        at[0] = byte
        at += 1
    if text.length and text.data[text.length - 1] == b"\\":
        at[0] = b"_"
        at += 1
    return at


cdef inline uint8_t* put_opening(uint8_t* at, Text text) noexcept nogil:
    """A backslash before what the server would skip."""
    if text.length and (
        text.data[0] == b"#" or text.data[0] == b"\t" or text.data[0] == 0
    ):
        at[0] = b"\\"
        at += 1
    return at


cdef inline bint is_text(Text text, const char* other, size_t length) noexcept nogil:
    return text.length == length and memcmp(text.data, other, length) == 0


cdef inline bint is_reserved(Text name) noexcept nogil:
    if name.length == 0:
        return False
    if name.data[0] == b"_":
        return (
            is_text(name, b"_time", 5)
            or is_text(name, b"_start", 6)
            or is_text(name, b"_stop", 5)
            or is_text(name, b"_value", 6)
            or is_text(name, b"_field", 6)
            or is_text(name, b"_measurement", 12)
        )
    return is_text(name, b"time", 4) or (name.length == 1 and name.data[0] == 0)


# -- prefixes --

cdef struct Columns:
    const int32_t* label_offsets
    const int32_t* name_offsets
    const uint8_t* names
    const int32_t* value_offsets
    const uint8_t* values


cdef inline Text text_of(const int32_t* offsets, const uint8_t* data, int32_t at) noexcept nogil:
    cdef Text text
    text.data = data + offsets[at]
    text.length = <size_t> (offsets[at + 1] - offsets[at])
    return text


cdef inline uint8_t* put_tag(
    uint8_t* at, const uint8_t* start, Text name, Text value, Tag* tag
) noexcept nogil:
    tag.start = at - start
    at[0] = b","
    at += 1
    if is_reserved(name):
        at = put_text(at, <const uint8_t*> b"exported_", 9)
    at = put_escaped(at, name, TAG)
    tag.key_end = at - start
    at[0] = b"="
    at = put_escaped(at + 1, value, TAG)
    tag.end = at - start
    return at


cdef inline bint is_before(const uint8_t* start, const Tag* left, const Tag* right) noexcept nogil:
    """Whether `left` goes first: by key, equal keys by value."""
    cdef size_t left_length = left.key_end - left.start
    cdef size_t right_length = right.key_end - right.start
    cdef int order = memcmp(
        start + left.start, start + right.start, min(left_length, right_length)
    )
    if order == 0 and left_length == right_length:
        left_length = left.end - left.key_end
        right_length = right.end - right.key_end
        order = memcmp(
            start + left.key_end, start + right.key_end, min(left_length, right_length)
        )
    return order < 0 or (order == 0 and left_length <= right_length)


cdef inline bint sort_tags(
    uint8_t* start, Tag* tags, size_t count, uint8_t* scratch
) noexcept nogil:
    """Brings tags that stand one behind another into order; they mostly are."""
    cdef size_t i, j, first
    cdef uint8_t* at = scratch
    cdef Tag tag
    cdef bint is_sorted = True
    for i in range(1, count):
        tag = tags[i]
        j = i
        while j and not is_before(start, &tags[j - 1], &tag):
            tags[j] = tags[j - 1]
            j -= 1
            is_sorted = False
        tags[j] = tag
    if is_sorted:
        return True
    first = tags[0].start
    for i in range(count):
        first = min(first, tags[i].start)
        at = put_text(at, start + tags[i].start, tags[i].end - tags[i].start)
    memcpy(start + first, scratch, at - scratch)
    return False


cdef int check(const int32_t[::1] offsets, Py_ssize_t end) except -1:
    """Refuses offsets that do not ascend within 0 and `end`."""
    cdef Py_ssize_t i
    cdef int32_t previous = 0
    cdef bint is_ascending = offsets.shape[0] > 0
    for i in range(offsets.shape[0]):
        is_ascending = is_ascending and offsets[i] >= previous
        previous = offsets[i]
    if not is_ascending or previous > end:
        raise ValueError("offsets ascend within their buffer")
    return 0


def encode_prefixes(
    labels, const uint32_t[::1] replica_ids not None, replicas, bytes replica_label, measurement
):
    cdef const int32_t[::1] label_offsets = labels.label_offsets
    cdef const int32_t[::1] name_offsets = labels.name_offsets
    cdef const int32_t[::1] value_offsets = labels.value_offsets
    cdef const uint8_t[::1] names = labels.name_bytes
    cdef const uint8_t[::1] values = labels.value_bytes
    cdef list replica_texts = [bytes(text) for text in replicas]
    cdef bytes where = b"" if measurement is None else bytes(measurement)
    cdef bint has_own = measurement is None
    cdef Py_ssize_t series_count = label_offsets.shape[0] - 1, i
    cdef Text* replica_values = NULL
    cdef Tag* tags = NULL
    cdef uint8_t* scratch = NULL
    cdef uint8_t* start
    cdef uint8_t* at
    cdef uint8_t* first
    cdef int32_t label, metric_label
    cdef size_t count, tag_count_max = 1, room_bytes, replica_bytes_max = 0
    cdef size_t series_bytes, series_bytes_max = 0
    cdef Columns columns
    cdef Text metric, name, field, where_text, replica_name
    cdef PyObject* room
    cdef Py_ssize_t nameless = -1
    if name_offsets.shape[0] != value_offsets.shape[0] or replica_ids.shape[0] != series_count:
        raise ValueError("columns of different length")
    check(name_offsets, names.shape[0])
    check(value_offsets, values.shape[0])
    check(label_offsets, name_offsets.shape[0] - 1)
    for i in range(series_count):
        if replica_ids[i] >= <size_t> len(replica_texts):
            raise ValueError(f"replica {replica_ids[i]} of {len(replica_texts)}")
    columns.label_offsets = &label_offsets[0]
    columns.name_offsets = &name_offsets[0]
    columns.value_offsets = &value_offsets[0]
    columns.names = &names[0] if names.shape[0] else NULL
    columns.values = &values[0] if values.shape[0] else NULL
    where_text.data = where
    where_text.length = <size_t> len(where)
    replica_name.data = replica_label
    replica_name.length = <size_t> len(replica_label)
    for text in replica_texts:
        replica_bytes_max = max(replica_bytes_max, <size_t> len(text))
    ends = np.zeros(series_count + 1, np.int64)
    cdef int64_t[::1] series_ends = ends
    room_bytes = 1
    with nogil:
        for i in range(series_count):
            count = <size_t> (columns.label_offsets[i + 1] - columns.label_offsets[i])
            tag_count_max = max(tag_count_max, count + 1)
            series_bytes = (
                <size_t> (
                    columns.name_offsets[columns.label_offsets[i + 1]]
                    - columns.name_offsets[columns.label_offsets[i]]
                    + columns.value_offsets[columns.label_offsets[i + 1]]
                    - columns.value_offsets[columns.label_offsets[i]]
                )
                + replica_name.length + replica_bytes_max
            ) * GROWTH_MAX + (count + 1) * TAG_BYTES_MAX + SERIES_BYTES_MAX + where_text.length
            series_bytes_max = max(series_bytes_max, series_bytes)
            room_bytes += series_bytes
    replica_values = <Text*> malloc((len(replica_texts) + 1) * sizeof(Text))
    tags = <Tag*> malloc(tag_count_max * sizeof(Tag))
    scratch = <uint8_t*> malloc(series_bytes_max + 1)
    try:
        if replica_values == NULL or tags == NULL or scratch == NULL:
            raise MemoryError(f"no memory for the tags of {series_count} series")
        for i in range(len(replica_texts)):
            replica_values[i].data = <const uint8_t*> <char*> <bytes> replica_texts[i]
            replica_values[i].length = <size_t> len(<bytes> replica_texts[i])
        room = new_bytes(NULL, <Py_ssize_t> room_bytes)
        start = at = <uint8_t*> start_of(room)
        with nogil:
            for i in range(series_count):
                metric_label = -1
                for label in range(columns.label_offsets[i], columns.label_offsets[i + 1]):
                    name = text_of(columns.name_offsets, columns.names, label)
                    if is_text(name, b"__name__", 8):
                        metric_label = label
                        break
                if metric_label < 0:
                    nameless = i
                    break
                metric = text_of(columns.value_offsets, columns.values, metric_label)
                if has_own:
                    at = put_escaped(put_opening(at, metric), metric, MEASUREMENT)
                else:
                    at = put_text(at, where_text.data, where_text.length)
                first = at
                count = 0
                for label in range(columns.label_offsets[i], columns.label_offsets[i + 1]):
                    if label == metric_label:
                        continue
                    at = put_tag(
                        at,
                        first,
                        text_of(columns.name_offsets, columns.names, label),
                        text_of(columns.value_offsets, columns.values, label),
                        &tags[count],
                    )
                    count += 1
                if replica_ids[i]:
                    at = put_tag(
                        at, first, replica_name, replica_values[replica_ids[i]], &tags[count]
                    )
                    count += 1
                sort_tags(first, tags, count, scratch)
                at[0] = b" "
                at += 1
                if has_own:
                    at = put_text(at, <const uint8_t*> b"value", 5)
                else:
                    if is_text(metric, b"time", 4):
                        at = put_text(at, <const uint8_t*> b"exported_", 9)
                    at = put_escaped(put_opening(at, metric), metric, FIELD)
                at[0] = b"="
                at += 1
                series_ends[i + 1] = at - start
        data = shrink_bytes(room, at - start)
    finally:
        free(replica_values)
        free(tags)
        free(scratch)
    if nameless >= 0:
        raise ValueError("a series without __name__")
    return EncodedSeries(data, ends)


# -- lines --

def encode_lines(
    const uint8_t[::1] prefixes not None,
    const int64_t[::1] starts not None,
    const int64_t[::1] ends not None,
    const uint32_t[::1] refs not None,
    const int64_t[::1] timestamps_ms not None,
    const double[::1] values not None,
):
    cdef Py_ssize_t row_count = refs.shape[0], row, wrong = -1, unwritable = -1
    cdef int64_t room_bytes = 0, prefix_bytes = prefixes.shape[0], length
    cdef uint32_t ref
    cdef uint8_t* start
    cdef uint8_t* at
    cdef PyObject* room
    if (
        starts.shape[0] != ends.shape[0]
        or timestamps_ms.shape[0] != row_count
        or values.shape[0] != row_count
    ):
        raise ValueError("columns of different length")
    offsets = np.zeros(row_count + 1, np.int64)
    cdef int64_t[::1] line_offsets = offsets
    with nogil:
        for row in range(row_count):
            ref = refs[row]
            if not (
                ref < <size_t> starts.shape[0]
                and 0 <= starts[ref] <= ends[ref] <= prefix_bytes
            ):
                wrong = row
                break
            if not isfinite(values[row]):
                unwritable = row
                break
            room_bytes += ends[ref] - starts[ref] + ROW_BYTES_MAX
    if wrong >= 0:
        raise ValueError(f"series {refs[wrong]} has no prefix")
    if unwritable >= 0:
        raise ValueError(f"{values[unwritable]} cannot be written")
    room = new_bytes(NULL, room_bytes)
    start = at = <uint8_t*> start_of(room)
    with nogil:
        for row in range(row_count):
            ref = refs[row]
            length = ends[ref] - starts[ref]
            if length:
                memcpy(at, &prefixes[starts[ref]], <size_t> length)
            at = put_number(at + length, values[row])
            at[0] = b" "
            at = put_integer(at + 1, timestamps_ms[row])
            at[0] = b"\n"
            at += 1
            line_offsets[row + 1] = at - start
    return EncodedSeries(shrink_bytes(room, at - start), offsets)
