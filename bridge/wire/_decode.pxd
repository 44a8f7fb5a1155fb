# cython: language_level=3
"""One remote-write body on its way to rows: what is known of it, and what both versions share.

A body is gone through three times, so that nothing is registered from one that turns out broken:

    walk      checks the framing; every series becomes a Pending with the fingerprint of its raw
              labels, every sample a row (`_walk_v1`, `_walk_v2`)
    look up   finds the series by their fingerprints, which the walk has prefetched; the labels of
              those that are not found are checked (`_settle`)
    settle    gives rows their refs; series not found are judged and registered (`_admit`); rows
              that are refused are closed up (`_settle`)

Sample n of the body, its ordinal, is row n after the walk.
"""

from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t, uint8_t
from libc.stdlib cimport free, realloc
from libc.string cimport memset

from bridge.wire._labels cimport LabelSet, Text, labels_free
from bridge.wire._protobuf cimport load_u64, read_length, read_tag, read_varint, skip_field
from bridge.wire._registry cimport Registry
from bridge.wire._tables cimport Fingerprint

cdef enum:
    SYMBOL_COUNT_MAX = 1 << 21   # 40 bytes each: 80 MiB
    GATHERED_BYTES_MAX = 1 << 14  # labels in pieces and label refs; larger ones go the slow way
    COMPLAINT_COUNT_MAX = 10
    REASON_COUNT = 13

cdef enum Status:
    # How decoding ended.
    DONE
    CORRUPT
    TOO_MANY
    ROWS_FULL
    NO_MEMORY
    MISGUESSED

cdef enum Reason:
    # In the order of rejections.REASONS.
    ACCEPTED
    BAD_SYMBOL_REF
    LABEL_LIMIT
    INVALID_NAME
    INVALID_UTF8
    DUPLICATE_LABEL
    MISSING_NAME
    NO_SAMPLES
    SERIES_LIMIT
    SERIES_ID_COLLISION
    TIMESTAMP_OUT_OF_RANGE
    TOO_FAR_IN_FUTURE
    HISTOGRAM_UNSUPPORTED

cdef enum PendingFlag:
    HAS_HISTOGRAM = 1
    HAS_EXEMPLAR = 2
    HAS_METADATA = 4
    HAS_BAD_REF = 8
    HAS_NO_FINGERPRINT = 16
    IS_GUESS = 32

ctypedef struct Pending:
    # One TimeSeries of the body.
    Fingerprint key
    uint32_t start       # in the body
    uint32_t length
    uint32_t sample_count
    uint32_t ref
    uint32_t flags
    int32_t metadata_type
    uint32_t help_ref
    uint32_t unit_ref
    uint32_t metric_ref  # symbol of the metric's name


ctypedef struct Symbol:
    Text text
    Fingerprint key
    bint is_name_label
    bint is_told  # metadata of the metric of this name, in this request


ctypedef struct Complaint:
    # One refused thing that a message is written about.
    Reason reason
    size_t pending
    int64_t timestamp_ms


ctypedef struct Told:
    # Metadata that is passed on.
    Text metric
    Text help
    Text unit
    int32_t type


ctypedef struct Decode:
    Registry* registry
    int version
    const uint8_t* body
    const uint8_t* body_end
    const Text* replica_labels
    size_t replica_label_count
    # limits
    bint is_replay
    int64_t timestamp_ms_min
    int64_t timestamp_ms_max
    int64_t future_ms_max  # the last moment that is not too far in the future
    uint64_t item_count_max
    uint64_t series_count_max
    uint64_t label_count_max
    uint64_t name_length_max
    uint64_t value_length_max
    uint64_t series_length_max
    const uint32_t* replay
    size_t replay_count  # ranges
    size_t replay_at
    # rows
    uint32_t* refs
    int64_t* timestamps_ms
    uint64_t* values
    int64_t* starts_ms
    uint64_t capacity
    uint64_t row_count
    # counts
    uint64_t sample_count
    uint64_t item_count
    uint64_t histogram_count
    uint64_t exemplar_count
    bint may_guess
    bint has_start_seen
    bint has_start
    bint has_v1_metadata
    # scratch
    Pending* pending
    size_t pending_count
    size_t pending_capacity
    Symbol* symbols
    size_t symbol_count
    size_t symbol_capacity
    LabelSet labels
    uint8_t[GATHERED_BYTES_MAX] gathered
    # results
    uint64_t[REASON_COUNT] rejected
    Complaint[COMPLAINT_COUNT_MAX] complaints
    int complaint_count
    uint32_t* refused
    size_t refused_count  # ranges
    size_t refused_capacity
    Told* told
    size_t told_count
    size_t told_capacity
    const uint8_t* fault_at
    const char* fault


cdef inline void decode_free(Decode* decode) noexcept nogil:
    free(decode.pending)
    free(decode.symbols)
    free(decode.refused)
    free(decode.told)
    labels_free(&decode.labels)


cdef inline void decode_reset(Decode* decode) noexcept nogil:
    """Forgets the last body; the memory it took stays."""
    decode.replay_at = 0
    decode.row_count = decode.sample_count = decode.item_count = 0
    decode.histogram_count = decode.exemplar_count = 0
    decode.has_start_seen = decode.has_start = decode.has_v1_metadata = False
    decode.pending_count = decode.symbol_count = 0
    decode.refused_count = decode.told_count = 0
    decode.complaint_count = 0
    memset(decode.rejected, 0, sizeof(decode.rejected))


cdef inline Status corrupt(Decode* decode, const uint8_t* at, const char* fault) noexcept nogil:
    decode.fault_at = at
    decode.fault = fault
    return CORRUPT


cdef inline bint reserve(
    void** items, size_t* capacity, size_t count, size_t item_bytes
) noexcept nogil:
    """Makes room for item number `count`; False where there is no memory."""
    cdef void* grown
    if count < capacity[0]:
        return True
    grown = realloc(items[0], (2 * capacity[0] + 64) * item_bytes)
    if grown == NULL:
        return False
    items[0] = grown
    capacity[0] = 2 * capacity[0] + 64
    return True


cdef inline bint is_recording(const Decode* decode) noexcept nogil:
    """Whether series are kept, or only counted because there are too many."""
    return decode.is_replay or decode.item_count <= decode.item_count_max


cdef inline Status add_pending(Decode* decode, Pending* pending) noexcept nogil:
    decode.item_count += max(<uint32_t>1, pending.sample_count)
    if not is_recording(decode):
        return DONE
    if not reserve(
        <void**>&decode.pending, &decode.pending_capacity, decode.pending_count, sizeof(Pending)
    ):
        return NO_MEMORY
    decode.pending[decode.pending_count] = pending[0]
    decode.pending_count += 1
    return DONE


cdef inline bint next_field(
    const uint8_t** place, const uint8_t* end, uint32_t wanted, const uint8_t** at, size_t* length
) noexcept nogil:
    """The next field with this tag of a message whose framing is known to be right."""
    cdef uint32_t tag
    while place[0] < end:
        if not read_tag(place, end, &tag):
            return False
        if tag == wanted:
            if not read_length(place, end, length):
                return False
            at[0] = place[0]
            place[0] += length[0]
            return True
        if not skip_field(place, end, tag):
            return False
    return False


cdef inline Status walk_sample(
    Decode* decode, const uint8_t* at, const uint8_t* end
) noexcept nogil:
    """One sample message into the next row."""
    cdef uint64_t value = 0
    cdef uint64_t timestamp_ms = 0
    cdef uint64_t started_ms = 0
    cdef uint64_t row = decode.sample_count
    cdef uint32_t tag
    cdef const uint8_t* field
    while at < end:
        field = at
        if not read_tag(&at, end, &tag):
            return corrupt(decode, field, b"a sample's tag")
        if tag == 0x09:
            if end - at < 8:
                return corrupt(decode, field, b"a sample's value")
            value = load_u64(at)
            at += 8
        elif tag == 0x10:
            if not read_varint(&at, end, &timestamp_ms):
                return corrupt(decode, field, b"a sample's timestamp")
        elif tag == 0x18 and decode.version == 2:
            if not read_varint(&at, end, &started_ms):
                return corrupt(decode, field, b"a sample's start timestamp")
        elif tag >> 3 <= 2 or (tag >> 3 == 3 and decode.version == 2):
            return corrupt(decode, field, b"wire type of a sample's field")
        elif not skip_field(&at, end, tag):
            return corrupt(decode, field, b"a sample's unknown field")
    if row < decode.capacity:
        decode.values[row] = value
        decode.timestamps_ms[row] = <int64_t>timestamp_ms
        if decode.starts_ms[row] != <int64_t>started_ms:
            decode.starts_ms[row] = <int64_t>started_ms
        decode.has_start_seen = decode.has_start_seen or started_ms != 0
    decode.sample_count += 1
    return DONE
