# cython: language_level=3
"""The walk through a remote write 2.0 body.

Request {4 symbols, 5 timeseries {1 label refs, 2 samples, 3 histograms, 4 exemplars,
5 metadata {1 type, 3 help ref, 4 unit ref}, 6 created timestamp}}.
"""

from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t, uint8_t
from libc.string cimport memcmp

from bridge.wire._decode cimport (
    DONE,
    GATHERED_BYTES_MAX,
    HAS_BAD_REF,
    HAS_EXEMPLAR,
    HAS_HISTOGRAM,
    HAS_METADATA,
    HAS_NO_FINGERPRINT,
    NO_MEMORY,
    SYMBOL_COUNT_MAX,
    Decode,
    Pending,
    Status,
    Symbol,
    add_pending,
    corrupt,
    next_field,
    reserve,
    walk_sample,
)
from bridge.wire._hashing cimport fingerprint_of
from bridge.wire._protobuf cimport read_length, read_tag, read_varint, skip_field
from bridge.wire._symbols cimport NAME_LABEL
from bridge.wire._tables cimport Fingerprint, fingerprint_prefetch


cdef inline Status walk_symbol(
    Decode* decode, const uint8_t* at, size_t length
) noexcept nogil:
    cdef Symbol* symbol
    if decode.symbol_count >= SYMBOL_COUNT_MAX:
        return corrupt(decode, at, b"too many symbols")
    if not reserve(
        <void**>&decode.symbols, &decode.symbol_capacity, decode.symbol_count, sizeof(Symbol)
    ):
        return NO_MEMORY
    symbol = &decode.symbols[decode.symbol_count]
    symbol.text.data = at
    symbol.text.length = <uint32_t>length
    symbol.key = fingerprint_of(&decode.registry.v2_key, at, length)
    symbol.is_told = False
    symbol.is_name_label = length == 8 and memcmp(at, NAME_LABEL, 8) == 0
    decode.symbol_count += 1
    return DONE


cdef inline void take_ref(
    Decode* decode, Pending* pending, uint32_t ref, size_t number, bint* is_metric
) noexcept nogil:
    """Ref number `number` of a 2.0 series: even ones are names, odd ones values."""
    cdef const Symbol* symbol
    if ref >= decode.symbol_count:
        pending.flags |= HAS_BAD_REF
        return
    symbol = &decode.symbols[ref]
    if (number + 1) * sizeof(Fingerprint) <= GATHERED_BYTES_MAX:
        (<Fingerprint*>decode.gathered)[number] = symbol.key
    if number & 1 == 0:
        is_metric[0] = symbol.is_name_label
    elif is_metric[0]:
        pending.metric_ref = ref


cdef inline Status walk_metadata_v2(
    Decode* decode, const uint8_t* at, const uint8_t* end, Pending* pending
) noexcept nogil:
    cdef const uint8_t* field
    cdef uint32_t tag
    cdef uint64_t value
    while at < end:
        field = at
        if not read_tag(&at, end, &tag):
            return corrupt(decode, field, b"metadata's tag")
        if tag == 0x08 or tag == 0x18 or tag == 0x20:
            if not read_varint(&at, end, &value):
                return corrupt(decode, field, b"metadata's field")
            if tag == 0x08:
                pending.metadata_type = <int32_t><uint32_t>value
            elif tag == 0x18:
                pending.help_ref = <uint32_t>value
            else:
                pending.unit_ref = <uint32_t>value
        elif tag >> 3 == 1 or tag >> 3 == 3 or tag >> 3 == 4:
            return corrupt(decode, field, b"wire type of metadata's field")
        elif not skip_field(&at, end, tag):
            return corrupt(decode, field, b"metadata's unknown field")
    return DONE


cdef inline void fall_back_start(
    Decode* decode, uint64_t first, int64_t created_ms
) noexcept nogil:
    """Gives a series' samples without a start timestamp the one of the series."""
    cdef uint64_t row
    for row in range(first, min(decode.sample_count, decode.capacity)):
        if decode.starts_ms[row] == 0:
            decode.starts_ms[row] = created_ms
            decode.has_start_seen = True


cdef inline Status walk_series_v2(
    Decode* decode, const uint8_t* at, const uint8_t* end
) noexcept nogil:
    cdef const uint8_t* start = at
    cdef const uint8_t* field
    cdef const uint8_t* inner_end
    cdef uint64_t first = decode.sample_count
    cdef uint64_t value
    cdef int64_t created_ms = 0
    cdef uint32_t tag
    cdef size_t length
    cdef size_t ref_count = 0
    cdef bint is_metric = False
    cdef Status status
    cdef Pending pending
    pending.flags = 0
    pending.metadata_type = 0
    pending.help_ref = 0
    pending.unit_ref = 0
    pending.metric_ref = 0
    while at < end:
        field = at
        if not read_tag(&at, end, &tag):
            return corrupt(decode, field, b"a series' tag")
        if tag == 0x0A:
            if not read_length(&at, end, &length):
                return corrupt(decode, field, b"label refs")
            inner_end = at + length
            while at < inner_end:
                if at[0] < 0x80:
                    value = at[0]
                    at += 1
                elif not read_varint(&at, inner_end, &value):
                    return corrupt(decode, at, b"a label ref")
                take_ref(decode, &pending, <uint32_t>value, ref_count, &is_metric)
                ref_count += 1
        elif tag == 0x08:
            if not read_varint(&at, end, &value):
                return corrupt(decode, field, b"a label ref")
            take_ref(decode, &pending, <uint32_t>value, ref_count, &is_metric)
            ref_count += 1
        elif tag == 0x12 or tag == 0x1A or tag == 0x22 or tag == 0x2A:
            if not read_length(&at, end, &length):
                return corrupt(decode, field, b"a message in a series")
            if tag == 0x12:
                status = walk_sample(decode, at, at + length)
                if status != DONE:
                    return status
            elif tag == 0x1A:
                decode.histogram_count += 1
                pending.flags |= HAS_HISTOGRAM
            elif tag == 0x22:
                decode.exemplar_count += 1
                pending.flags |= HAS_EXEMPLAR
            else:
                pending.flags |= HAS_METADATA
                status = walk_metadata_v2(decode, at, at + length, &pending)
                if status != DONE:
                    return status
            at += length
        elif tag == 0x30:
            if not read_varint(&at, end, &value):
                return corrupt(decode, field, b"a created timestamp")
            created_ms = <int64_t>value
        elif tag >> 3 <= 6:
            return corrupt(decode, field, b"wire type of a series' field")
        elif not skip_field(&at, end, tag):
            return corrupt(decode, field, b"a series' unknown field")
    if created_ms != 0:
        fall_back_start(decode, first, created_ms)
    pending.sample_count = <uint32_t>(decode.sample_count - first)
    pending.start = <uint32_t>(start - decode.body)
    pending.length = <uint32_t>(end - start)
    if ref_count & 1 or (
        pending.flags & HAS_METADATA
        and max(pending.help_ref, pending.unit_ref) >= decode.symbol_count
    ):
        pending.flags |= HAS_BAD_REF
    length = ref_count * sizeof(Fingerprint)
    if pending.flags & HAS_BAD_REF or length > GATHERED_BYTES_MAX:
        pending.flags |= HAS_NO_FINGERPRINT
    else:
        pending.key = fingerprint_of(&decode.registry.v2_key, decode.gathered, length)
        fingerprint_prefetch(&decode.registry.fingerprints, &pending.key)
    return add_pending(decode, &pending)


cdef inline Status walk_v2(Decode* decode) noexcept nogil:
    """Symbols first, wherever they stand; then the series that refer to them."""
    cdef const uint8_t* at = decode.body
    cdef const uint8_t* end = decode.body_end
    cdef const uint8_t* field
    cdef const uint8_t* inner = NULL
    cdef uint32_t tag
    cdef size_t length = 0
    cdef Status status
    while at < end:
        field = at
        if not read_tag(&at, end, &tag):
            return corrupt(decode, field, b"a request's tag")
        if tag == 0x22 or tag == 0x2A:
            if not read_length(&at, end, &length):
                return corrupt(decode, field, b"a symbol or a series")
            if tag == 0x22:
                status = walk_symbol(decode, at, length)
                if status != DONE:
                    return status
            at += length
        elif tag >> 3 == 4 or tag >> 3 == 5:
            return corrupt(decode, field, b"wire type of a request's field")
        elif not skip_field(&at, end, tag):
            return corrupt(decode, field, b"a request's unknown field")
    at = decode.body
    while next_field(&at, end, 0x2A, &inner, &length):
        status = walk_series_v2(decode, inner, inner + length)
        if status != DONE:
            return status
    return DONE
