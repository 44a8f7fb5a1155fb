# cython: language_level=3
"""The walk through a remote write 1.0 body.

WriteRequest {1 timeseries {1 labels {1 name, 2 value}, 2 samples, 3 exemplars, 4 histograms},
3 metadata {1 type, 2 metric, 4 help, 5 unit}}.
"""

from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t, uint8_t
from libc.string cimport memcpy

from bridge.wire._decode cimport (
    CORRUPT,
    DONE,
    GATHERED_BYTES_MAX,
    HAS_EXEMPLAR,
    HAS_HISTOGRAM,
    HAS_NO_FINGERPRINT,
    IS_GUESS,
    MISGUESSED,
    Decode,
    Pending,
    Status,
    Told,
    add_pending,
    corrupt,
    is_recording,
    next_field,
    reserve,
    walk_sample,
)
from bridge.wire._hashing cimport fingerprint_of
from bridge.wire._labels cimport Label, Text
from bridge.wire._protobuf cimport (
    WIRE_BYTES,
    load_u64,
    read_length,
    read_tag,
    read_varint,
    skip_field,
)
from bridge.wire._tables cimport fingerprint_prefetch


cdef inline Status read_label(
    Decode* decode, const uint8_t* at, const uint8_t* end, Label* label
) noexcept nogil:
    """One label message of 1.0."""
    cdef const uint8_t* field
    cdef uint32_t tag
    cdef size_t length
    label.name.data = at
    label.name.length = 0
    label.value.data = at
    label.value.length = 0
    while at < end:
        field = at
        if not read_tag(&at, end, &tag):
            return corrupt(decode, field, b"a label's tag")
        if tag == 0x0A or tag == 0x12:
            if not read_length(&at, end, &length):
                return corrupt(decode, field, b"a label's text")
            if tag == 0x0A:
                label.name.data = at
                label.name.length = <uint32_t>length
            else:
                label.value.data = at
                label.value.length = <uint32_t>length
            at += length
        elif tag >> 3 <= 2:
            return corrupt(decode, field, b"wire type of a label's field")
        elif not skip_field(&at, end, tag):
            return corrupt(decode, field, b"a label's unknown field")
    return DONE


cdef inline Status check_labels(
    Decode* decode, const uint8_t* at, const uint8_t* end
) noexcept nogil:
    """Whether every label message of a 1.0 series is well-formed."""
    cdef const uint8_t* inner = NULL
    cdef size_t length = 0
    cdef Label label
    while next_field(&at, end, 0x0A, &inner, &length):
        if read_label(decode, inner, inner + length, &label) != DONE:
            return CORRUPT
    return DONE


cdef inline Status gather_labels(
    Decode* decode, const uint8_t* at, const uint8_t* end, Pending* pending
) noexcept nogil:
    """Fingerprint of labels that do not stand side by side."""
    cdef const uint8_t* inner = NULL
    cdef size_t length = 0, used = 0
    while next_field(&at, end, 0x0A, &inner, &length):
        if used + length + 8 > GATHERED_BYTES_MAX:
            pending.flags |= HAS_NO_FINGERPRINT
            return DONE
        decode.gathered[used] = 0x0A
        decode.gathered[used + 1] = 0x80 | <uint8_t>(length & 0x7F)
        decode.gathered[used + 2] = <uint8_t>(length >> 7)  # below 2^14: two bytes
        memcpy(&decode.gathered[used + 3], inner, length)
        used += length + 3
    pending.key = fingerprint_of(&decode.registry.v1_key, decode.gathered, used)
    return DONE


cdef inline Status walk_series_v1(
    Decode* decode, const uint8_t* at, const uint8_t* end
) noexcept nogil:
    cdef const uint8_t* start = at
    cdef const uint8_t* field
    cdef const uint8_t* span = at
    cdef const uint8_t* span_end = NULL
    cdef bint is_scattered = False
    cdef uint64_t first = decode.sample_count
    cdef uint32_t tag
    cdef size_t length
    cdef Status status
    cdef Pending pending
    pending.flags = 0
    while at < end:
        field = at
        tag = at[0]
        if tag == 0x0A or tag == 0x12:
            at += 1
        elif not read_tag(&at, end, &tag):
            return corrupt(decode, field, b"a series' tag")
        if tag == 0x0A:
            if not read_length(&at, end, &length):
                return corrupt(decode, field, b"a label")
            at += length
            if span_end == field:
                span_end = at
            elif span_end == NULL:
                span = field
                span_end = at
            else:
                is_scattered = True
        elif tag == 0x12:
            if not read_length(&at, end, &length):
                return corrupt(decode, field, b"a sample")
            status = walk_sample(decode, at, at + length)
            if status != DONE:
                return status
            at += length
        elif tag == 0x1A or tag == 0x22:
            if not read_length(&at, end, &length):
                return corrupt(decode, field, b"an exemplar or a histogram")
            at += length
            if tag == 0x1A:
                decode.exemplar_count += 1
                pending.flags |= HAS_EXEMPLAR
            else:
                decode.histogram_count += 1
                pending.flags |= HAS_HISTOGRAM
        elif tag >> 3 <= 4:
            return corrupt(decode, field, b"wire type of a series' field")
        elif not skip_field(&at, end, tag):
            return corrupt(decode, field, b"a series' unknown field")
    pending.sample_count = <uint32_t>(decode.sample_count - first)
    if pending.sample_count == 0 and pending.flags == 0:
        decode.item_count += 1
        return check_labels(decode, start, end)
    pending.start = <uint32_t>(start - decode.body)
    pending.length = <uint32_t>(end - start)
    if span_end == NULL:
        pending.flags |= HAS_NO_FINGERPRINT
    elif is_scattered:
        status = gather_labels(decode, start, end, &pending)
        if status != DONE:
            return status
    else:
        pending.key = fingerprint_of(
            &decode.registry.v1_key, span, <size_t>(span_end - span)
        )
    if not pending.flags & HAS_NO_FINGERPRINT:
        fingerprint_prefetch(&decode.registry.fingerprints, &pending.key)
    status = add_pending(decode, &pending)
    if status == DONE and not is_recording(decode):
        return check_labels(decode, start, end)
    return status


cdef inline bint has_bytes(const uint8_t* at, uint8_t first, uint8_t second) noexcept nogil:
    return at[0] == first and at[1] == second


cdef inline bint guess_series_v1(
    Decode* decode, const uint8_t* at, const uint8_t* end
) noexcept nogil:
    """Takes a series for labels and one sample at its end, if its last bytes look like that.

    What nearly every series of 1.0 is: then its labels need not be gone through one by one. A
    guess is right if the fingerprint of the labels is known, for that was made of whole label
    fields; otherwise it is checked.

        0 9 | 18 bytes before the end: 12 07 | 12 10 09 and 8 of the value; then 10 and six bytes
        of timestamp, as it has from 1971 to 2109
    """
    cdef uint64_t row = decode.sample_count
    cdef uint64_t value = 0
    cdef uint64_t bytes_
    cdef const uint8_t* tail
    cdef Pending pending
    if end - at > 18 and has_bytes(end - 18, 0x12, 0x10) and (end - 16)[0] == 0x09:
        tail = end - 18
        value = load_u64(end - 15)
    elif end - at > 9 and has_bytes(end - 9, 0x12, 0x07):
        tail = end - 9
    else:
        return False
    bytes_ = load_u64(end - 8) >> 8  # 10, then the timestamp
    if (
        at[0] != 0x0A
        or (bytes_ & 0xFF) != 0x10
        or (bytes_ & <uint64_t>0x80808080808000) != <uint64_t>0x00808080808000
    ):
        return False
    bytes_ >>= 8
    if row < decode.capacity:
        decode.values[row] = value
        decode.timestamps_ms[row] = <int64_t>(
            (bytes_ & 0x7F)
            | (bytes_ >> 1 & 0x3F80)
            | (bytes_ >> 2 & 0x1FC000)
            | (bytes_ >> 3 & 0xFE00000)
            | (bytes_ >> 4 & <uint64_t>0x7F0000000)
            | (bytes_ >> 5 & <uint64_t>0x3F800000000)
        )
        if decode.starts_ms[row] != 0:
            decode.starts_ms[row] = 0
    pending.flags = IS_GUESS
    pending.sample_count = 1
    pending.start = <uint32_t>(at - decode.body)
    pending.length = <uint32_t>(end - at)
    pending.key = fingerprint_of(&decode.registry.v1_key, at, <size_t>(tail - at))
    if not reserve(
        <void**>&decode.pending, &decode.pending_capacity, decode.pending_count, sizeof(Pending)
    ):
        return False
    fingerprint_prefetch(&decode.registry.fingerprints, &pending.key)
    decode.pending[decode.pending_count] = pending
    decode.pending_count += 1
    decode.sample_count += 1
    decode.item_count += 1
    return True


cdef inline Status check_guess(Decode* decode, size_t number, uint64_t row) noexcept nogil:
    """Goes through a series that was guessed and whose labels are not known."""
    cdef uint64_t sample_count = decode.sample_count
    cdef uint64_t item_count = decode.item_count
    cdef size_t pending_count = decode.pending_count
    cdef const uint8_t* start = decode.body + decode.pending[number].start
    cdef const Pending* made
    cdef Status status
    decode.sample_count = row
    decode.item_count = 0
    status = walk_series_v1(decode, start, start + decode.pending[number].length)
    if status == DONE:
        made = &decode.pending[pending_count]
        if (
            decode.pending_count != pending_count + 1
            or made.sample_count != 1
            or made.flags != 0
            or made.key.high != decode.pending[number].key.high
            or made.key.low != decode.pending[number].key.low
        ):
            status = MISGUESSED
    decode.sample_count = sample_count
    decode.item_count = item_count
    decode.pending_count = pending_count
    return status


cdef inline Status walk_metadata_v1(
    Decode* decode, const uint8_t* at, const uint8_t* end, Told* told
) noexcept nogil:
    """One metadata message of 1.0."""
    cdef const uint8_t* field
    cdef uint32_t tag, number
    cdef uint64_t value
    cdef size_t length
    cdef Text text
    told.metric.data = told.help.data = told.unit.data = at
    told.metric.length = told.help.length = told.unit.length = 0
    told.type = 0
    while at < end:
        field = at
        if not read_tag(&at, end, &tag):
            return corrupt(decode, field, b"metadata's tag")
        number = tag >> 3
        if tag == 0x08:
            if not read_varint(&at, end, &value):
                return corrupt(decode, field, b"metadata's type")
            told.type = <int32_t><uint32_t>value
        elif number == 2 or number == 4 or number == 5:
            if tag & 7 != WIRE_BYTES:
                return corrupt(decode, field, b"wire type of metadata's field")
            if not read_length(&at, end, &length):
                return corrupt(decode, field, b"metadata's text")
            text.data = at
            text.length = <uint32_t>length
            at += length
            if number == 2:
                told.metric = text
            elif number == 4:
                told.help = text
            else:
                told.unit = text
        elif number == 1:
            return corrupt(decode, field, b"wire type of metadata's field")
        elif not skip_field(&at, end, tag):
            return corrupt(decode, field, b"metadata's unknown field")
    return DONE


cdef inline Status walk_v1(Decode* decode) noexcept nogil:
    cdef const uint8_t* at = decode.body
    cdef const uint8_t* end = decode.body_end
    cdef const uint8_t* field
    cdef uint32_t tag
    cdef size_t length
    cdef Status status
    cdef Told told
    while at < end:
        field = at
        if not read_tag(&at, end, &tag):
            return corrupt(decode, field, b"a request's tag")
        if tag == 0x0A or tag == 0x1A:
            if not read_length(&at, end, &length):
                return corrupt(decode, field, b"a series or metadata")
            if tag == 0x0A:
                status = DONE
                if not (
                    decode.may_guess
                    and decode.item_count < decode.item_count_max
                    and guess_series_v1(decode, at, at + length)
                ):
                    status = walk_series_v1(decode, at, at + length)
            else:
                decode.has_v1_metadata = True
                status = walk_metadata_v1(decode, at, at + length, &told)
            if status != DONE:
                return status
            at += length
        elif tag >> 3 == 1 or tag >> 3 == 3:
            return corrupt(decode, field, b"wire type of a request's field")
        elif not skip_field(&at, end, tag):
            return corrupt(decode, field, b"a request's unknown field")
    return DONE
