# cython: language_level=3
"""From walked series to rows, refusals and metadata; the order of the rules is told in `series`."""

from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint32_t, uint64_t, uint8_t

from bridge.wire._admit cimport judge_labels, register_series
from bridge.wire._decode cimport (
    ACCEPTED,
    COMPLAINT_COUNT_MAX,
    CORRUPT,
    DONE,
    HAS_BAD_REF,
    HAS_EXEMPLAR,
    HAS_HISTOGRAM,
    HAS_METADATA,
    HAS_NO_FINGERPRINT,
    HISTOGRAM_UNSUPPORTED,
    IS_GUESS,
    MISGUESSED,
    NO_MEMORY,
    NO_SAMPLES,
    ROWS_FULL,
    TIMESTAMP_OUT_OF_RANGE,
    TOO_FAR_IN_FUTURE,
    TOO_MANY,
    Complaint,
    Decode,
    Pending,
    Reason,
    Status,
    Symbol,
    Told,
    decode_reset,
    is_recording,
    next_field,
    reserve,
)
from bridge.wire._hashing cimport fingerprint_of, series_hash
from bridge.wire._labels cimport Text, is_utf8
from bridge.wire._registry cimport metadata_is_news
from bridge.wire._tables cimport NOT_FOUND, fingerprint_find
from bridge.wire._walk_v1 cimport check_guess, check_labels, walk_metadata_v1, walk_v1
from bridge.wire._walk_v2 cimport walk_v2


cdef inline Status look_up(Decode* decode) noexcept nogil:
    cdef size_t at
    cdef uint64_t row = 0
    cdef Pending* pending
    cdef const uint8_t* start
    cdef Status status
    for at in range(decode.pending_count):
        pending = &decode.pending[at]
        pending.ref = NOT_FOUND
        if not pending.flags & HAS_NO_FINGERPRINT:
            pending.ref = fingerprint_find(&decode.registry.fingerprints, &pending.key)
        if pending.ref == NOT_FOUND and decode.version == 1:
            if pending.flags & IS_GUESS:
                status = check_guess(decode, at, row)
                if status != DONE:
                    return status
                pending = &decode.pending[at]
            start = decode.body + pending.start
            if check_labels(decode, start, start + pending.length) != DONE:
                return CORRUPT
        row += pending.sample_count
    if not is_recording(decode):
        return TOO_MANY
    if decode.sample_count > decode.capacity:
        return ROWS_FULL
    return DONE


cdef inline void reject(
    Decode* decode, Reason reason, size_t pending, uint64_t count, int64_t timestamp_ms
) noexcept nogil:
    cdef Complaint* complaint
    decode.rejected[<int>reason] += count
    if decode.complaint_count < COMPLAINT_COUNT_MAX:
        complaint = &decode.complaints[decode.complaint_count]
        complaint.reason = reason
        complaint.pending = pending
        complaint.timestamp_ms = timestamp_ms
        decode.complaint_count += 1


cdef inline bint refuse(Decode* decode, uint64_t first, uint64_t count) noexcept nogil:
    """Notes refused ordinals, which come in ascending order; False where there is no memory."""
    cdef uint32_t* last
    if decode.refused_count:
        last = &decode.refused[2 * (decode.refused_count - 1)]
        if <uint64_t>last[0] + last[1] == first:
            last[1] += <uint32_t>count
            return True
    if not reserve(
        <void**>&decode.refused, &decode.refused_capacity, decode.refused_count,
        2 * sizeof(uint32_t),
    ):
        return False
    decode.refused[2 * decode.refused_count] = <uint32_t>first
    decode.refused[2 * decode.refused_count + 1] = <uint32_t>count
    decode.refused_count += 1
    return True


cdef inline bint is_refused_in_replay(Decode* decode, uint64_t ordinal) noexcept nogil:
    """Whether the receipt refused it; ordinals are asked for in ascending order."""
    cdef const uint32_t* one
    while decode.replay_at < decode.replay_count:
        one = &decode.replay[2 * decode.replay_at]
        if ordinal < <uint64_t>one[0] + one[1]:
            return ordinal >= one[0]
        decode.replay_at += 1
    return False


cdef inline Reason judge_sample(Decode* decode, uint64_t ordinal) noexcept nogil:
    cdef int64_t timestamp_ms = decode.timestamps_ms[ordinal]
    if timestamp_ms < decode.timestamp_ms_min or timestamp_ms > decode.timestamp_ms_max:
        return TIMESTAMP_OUT_OF_RANGE
    if timestamp_ms > decode.future_ms_max:
        return TOO_FAR_IN_FUTURE
    return ACCEPTED


cdef inline void write_row(Decode* decode, uint64_t ordinal, uint32_t ref) noexcept nogil:
    """Moves an accepted sample from its ordinal's row to the next row that counts."""
    cdef uint64_t row = decode.row_count
    decode.refs[row] = ref
    if row != ordinal:
        decode.timestamps_ms[row] = decode.timestamps_ms[ordinal]
        decode.values[row] = decode.values[ordinal]
        if decode.has_start_seen:
            decode.starts_ms[row] = decode.starts_ms[ordinal]
    if decode.has_start_seen and decode.starts_ms[row] != 0:
        decode.has_start = True
    decode.row_count += 1


cdef inline uint64_t text_hash(const Decode* decode, const Text* text) noexcept nogil:
    """The hash that the same text would have as a symbol of a 2.0 body."""
    return fingerprint_of(&decode.registry.v2_key, text.data, text.length).low


cdef inline Status tell_metadata(
    Decode* decode, const Told* told, uint64_t metric, uint64_t help, uint64_t unit
) noexcept nogil:
    """Passes metadata on if it is news; the last three are hashes of the texts."""
    cdef uint64_t[3] content
    cdef int is_news
    if told.metric.length == 0 or not is_utf8(&told.metric):
        return DONE
    content[0] = <uint64_t><uint32_t>told.type
    content[1] = help
    content[2] = unit
    is_news = metadata_is_news(decode.registry, metric, series_hash(content, sizeof(content)))
    if is_news < 0:
        return NO_MEMORY
    if is_news:
        if not reserve(
            <void**>&decode.told, &decode.told_capacity, decode.told_count, sizeof(Told)
        ):
            return NO_MEMORY
        decode.told[decode.told_count] = told[0]
        decode.told_count += 1
    return DONE


cdef inline Status settle_metadata_v1(Decode* decode) noexcept nogil:
    cdef const uint8_t* at = decode.body
    cdef const uint8_t* inner = NULL
    cdef size_t length = 0
    cdef Told told
    cdef Status status
    while next_field(&at, decode.body_end, 0x1A, &inner, &length):
        status = walk_metadata_v1(decode, inner, inner + length, &told)
        if status == DONE and (told.type or told.help.length or told.unit.length):
            status = tell_metadata(
                decode,
                &told,
                text_hash(decode, &told.metric),
                text_hash(decode, &told.help),
                text_hash(decode, &told.unit),
            )
        if status != DONE:
            return status
    return DONE


cdef inline bint says_something(const Decode* decode, const Pending* pending) noexcept nogil:
    """Whether a 2.0 series has a type, a help or a unit."""
    return (
        pending.metadata_type != 0
        or decode.symbols[pending.help_ref].text.length != 0
        or decode.symbols[pending.unit_ref].text.length != 0
    )


cdef inline Status settle_metadata_v2(Decode* decode, const Pending* pending) noexcept nogil:
    cdef Symbol* metric = &decode.symbols[pending.metric_ref]
    cdef const Symbol* help = &decode.symbols[pending.help_ref]
    cdef const Symbol* unit = &decode.symbols[pending.unit_ref]
    cdef Told told
    if metric.is_told or not says_something(decode, pending):
        return DONE
    metric.is_told = True
    told.metric = metric.text
    told.help = help.text
    told.unit = unit.text
    told.type = pending.metadata_type
    return tell_metadata(decode, &told, metric.key.low, help.key.low, unit.key.low)


cdef inline Status settle_samples(
    Decode* decode, size_t number, uint64_t first, bint* is_refused
) noexcept nogil:
    """Rows of a series whose labels are good; it is registered if one of them is kept."""
    cdef Pending* pending = &decode.pending[number]
    cdef uint64_t count = pending.sample_count
    cdef uint64_t kept = 0, ordinal
    cdef size_t replay_at = decode.replay_at
    cdef Reason reason
    cdef Status status
    for ordinal in range(first, first + count):
        if is_refused_in_replay(decode, ordinal):
            continue
        reason = judge_sample(decode, ordinal)
        if reason == ACCEPTED:
            kept += 1
        else:
            reject(decode, reason, number, 1, decode.timestamps_ms[ordinal])
    is_refused[0] = kept == 0
    if kept and pending.ref == NOT_FOUND:
        status = register_series(decode, pending, &reason)
        if status != DONE:
            return status
        if reason != ACCEPTED:
            reject(decode, reason, number, kept, 0)
            is_refused[0] = True
    if is_refused[0]:
        return DONE if refuse(decode, first, count) else NO_MEMORY
    decode.replay_at = replay_at
    for ordinal in range(first, first + count):
        if is_refused_in_replay(decode, ordinal) or judge_sample(decode, ordinal) != ACCEPTED:
            if not refuse(decode, ordinal, 1):
                return NO_MEMORY
        else:
            write_row(decode, ordinal, pending.ref)
    return DONE


cdef inline bint is_passed_over_in_replay(
    Decode* decode, uint64_t first, uint64_t count
) noexcept nogil:
    """Whether the receipt refused all samples of a series that has some."""
    cdef size_t replay_at = decode.replay_at
    cdef uint64_t ordinal
    cdef bint is_passed_over = decode.is_replay and count > 0
    for ordinal in range(first, first + count):
        if not is_passed_over:
            break
        is_passed_over = is_refused_in_replay(decode, ordinal)
    decode.replay_at = replay_at
    return is_passed_over


cdef inline Status settle_series(Decode* decode, size_t number, uint64_t first) noexcept nogil:
    """One series, whatever it holds."""
    cdef Pending* pending = &decode.pending[number]
    cdef uint64_t count = pending.sample_count
    cdef Reason reason = ACCEPTED
    cdef Status status = DONE
    cdef bint is_refused = False
    if pending.flags & HAS_HISTOGRAM:
        reject(decode, HISTOGRAM_UNSUPPORTED, number, 0, 0)  # counted as histograms
    if is_passed_over_in_replay(decode, first, count):
        return DONE if refuse(decode, first, count) else NO_MEMORY
    if pending.ref == NOT_FOUND and not pending.flags & HAS_NO_FINGERPRINT:
        # Perhaps this very request has registered it.
        pending.ref = fingerprint_find(&decode.registry.fingerprints, &pending.key)
    if pending.ref == NOT_FOUND:
        status = judge_labels(decode, pending, &reason)
        if status != DONE:
            return status
        if reason != ACCEPTED:
            reject(decode, reason, number, max(count, <uint64_t>1), 0)
            if count and not refuse(decode, first, count):
                return NO_MEMORY
            return DONE
    if count:
        status = settle_samples(decode, number, first, &is_refused)
        if status != DONE or is_refused:
            return status
    elif not pending.flags & (HAS_HISTOGRAM | HAS_EXEMPLAR):
        reject(decode, NO_SAMPLES, number, 1, 0)
    if pending.flags & HAS_METADATA:
        status = settle_metadata_v2(decode, pending)
    return status


cdef inline bint is_plain(
    const Decode* decode, const Pending* pending, uint64_t first
) noexcept nogil:
    """Whether this is a known series with one good sample and nothing new to tell."""
    return (
        pending.ref != NOT_FOUND
        and pending.sample_count == 1
        and not pending.flags & (HAS_HISTOGRAM | HAS_BAD_REF)
        and (
            not pending.flags & HAS_METADATA or decode.symbols[pending.metric_ref].is_told
        )
        and decode.replay_at >= decode.replay_count
        and decode.timestamps_ms[first] >= decode.timestamp_ms_min
        and decode.timestamps_ms[first] <= decode.timestamp_ms_max
        and decode.timestamps_ms[first] <= decode.future_ms_max
    )


cdef inline Status settle(Decode* decode) noexcept nogil:
    cdef size_t number
    cdef uint64_t first = 0
    cdef Status status
    cdef Pending* pending
    decode.registry.generation += 1
    if decode.has_v1_metadata:
        status = settle_metadata_v1(decode)
        if status != DONE:
            return status
    for number in range(decode.pending_count):
        pending = &decode.pending[number]
        if is_plain(decode, pending, first):
            write_row(decode, first, pending.ref)
        else:
            status = settle_series(decode, number, first)
            if status != DONE:
                return status
        first += pending.sample_count
    decode.rejected[<int>HISTOGRAM_UNSUPPORTED] = decode.histogram_count
    return DONE


cdef inline Status decode_once(Decode* decode) noexcept nogil:
    cdef Status status
    decode_reset(decode)
    status = walk_v1(decode) if decode.version == 1 else walk_v2(decode)
    if status == DONE:
        status = look_up(decode)
    if status == DONE:
        status = settle(decode)
    return status


cdef inline Status decode_body(Decode* decode) noexcept nogil:
    """Everything; nothing has been registered where this is not DONE, nor NO_MEMORY."""
    cdef Status status
    decode.may_guess = True
    status = decode_once(decode)
    if status == MISGUESSED:
        decode.may_guess = False
        status = decode_once(decode)
    return status
