# cython: language_level=3
"""Label sets that the registry does not know by their bytes: judged, and registered."""

from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint32_t, uint64_t, uint8_t
from libc.string cimport memcpy

from bridge.wire._decode cimport (
    ACCEPTED,
    BAD_SYMBOL_REF,
    CORRUPT,
    DONE,
    DUPLICATE_LABEL,
    HAS_BAD_REF,
    HAS_NO_FINGERPRINT,
    INVALID_NAME,
    INVALID_UTF8,
    LABEL_LIMIT,
    MISSING_NAME,
    NO_MEMORY,
    SERIES_ID_COLLISION,
    SERIES_LIMIT,
    Decode,
    Pending,
    Reason,
    Status,
)
from bridge.wire._hashing cimport series_hash
from bridge.wire._labels cimport (
    Label,
    LabelSet,
    Text,
    is_utf8,
    labels_find,
    labels_lay_out,
    labels_push,
    labels_sort,
    labels_strip,
)
from bridge.wire._protobuf cimport read_length, read_tag, read_varint, skip_field
from bridge.wire._registry cimport (
    Found,
    Registry,
    registry_add,
    registry_find,
    registry_has_room,
    registry_remember,
)
from bridge.wire._symbols cimport (
    NAME_LABEL,
    SEPARATOR,
    Pair,
    is_metric_pair,
    pair_hash,
    symbols_find,
    symbols_intern,
)
from bridge.wire._tables cimport NOT_FOUND
from bridge.wire._walk_v1 cimport read_label


cdef inline Status collect_labels(
    Decode* decode, const Pending* pending, uint64_t count_max, bint* is_over
) noexcept nogil:
    """Fills the label set with a series' labels as sent, up to a number of them.

    Of a 2.0 series those whose refs exist.
    """
    cdef const uint8_t* at = decode.body + pending.start
    cdef const uint8_t* end = at + pending.length
    cdef const uint8_t* inner_end
    cdef uint32_t tag
    cdef uint64_t value
    cdef uint32_t name = NOT_FOUND
    cdef bint is_value = False
    cdef size_t length
    cdef Label label
    decode.labels.count = 0
    is_over[0] = False
    while at < end:
        if not read_tag(&at, end, &tag):
            return CORRUPT
        if tag == 0x0A and decode.version == 1:
            if not read_length(&at, end, &length):
                return CORRUPT
            if decode.labels.count == count_max:
                is_over[0] = True
                return DONE
            if read_label(decode, at, at + length, &label) != DONE:
                return CORRUPT
            if not labels_push(&decode.labels, &label):
                return NO_MEMORY
            at += length
            continue
        if decode.version == 1 or (tag != 0x0A and tag != 0x08):
            if not skip_field(&at, end, tag):
                return CORRUPT
            continue
        inner_end = end
        if tag == 0x0A:
            if not read_length(&at, end, &length):
                return CORRUPT
            inner_end = at + length
        while at < inner_end:
            if not read_varint(&at, inner_end, &value):
                return CORRUPT
            if not is_value:
                name = <uint32_t>value
            elif name < decode.symbol_count and <uint32_t>value < decode.symbol_count:
                if decode.labels.count == count_max:
                    is_over[0] = True
                    return DONE
                label.name = decode.symbols[name].text
                label.value = decode.symbols[<uint32_t>value].text
                if not labels_push(&decode.labels, &label):
                    return NO_MEMORY
            is_value = not is_value
            if tag == 0x08:
                break
    return DONE


cdef inline Status judge_labels(
    Decode* decode, const Pending* pending, Reason* reason
) noexcept nogil:
    """Whether a label set can be stored; if so the label set is sorted by name."""
    cdef LabelSet* labels = &decode.labels
    cdef Label* label
    cdef size_t at
    cdef bint is_over
    cdef Status status
    cdef Text name_label
    cdef uint64_t count_max = ~<uint64_t>0, length = 0
    if pending.flags & HAS_BAD_REF:
        reason[0] = BAD_SYMBOL_REF
        return DONE
    if not decode.is_replay:
        count_max = decode.label_count_max
    status = collect_labels(decode, pending, count_max, &is_over)
    if status != DONE:
        return status
    if is_over:
        reason[0] = LABEL_LIMIT
        return DONE
    if not decode.is_replay:
        # Before any text is looked at: in 2.0 a long one costs its sender two bytes a label.
        for at in range(labels.count):
            length += labels.labels[at].name.length + labels.labels[at].value.length
        if length > decode.series_length_max:
            reason[0] = LABEL_LIMIT
            return DONE
    for at in range(labels.count):
        label = &labels.labels[at]
        if label.name.length == 0:
            reason[0] = INVALID_NAME
            return DONE
        if not decode.is_replay and (
            label.name.length > decode.name_length_max
            or label.value.length > decode.value_length_max
        ):
            reason[0] = LABEL_LIMIT
            return DONE
        if not (is_utf8(&label.name) and is_utf8(&label.value)):
            reason[0] = INVALID_UTF8
            return DONE
    if not labels_sort(labels):
        reason[0] = DUPLICATE_LABEL
        return DONE
    name_label.data = <const uint8_t*>NAME_LABEL
    name_label.length = 8
    reason[0] = ACCEPTED if labels_find(labels, &name_label).length else MISSING_NAME
    return DONE


cdef inline Text replica_of(const Decode* decode) noexcept nogil:
    """The value of the first configured replica label that the sorted label set has."""
    cdef Text found
    cdef size_t at
    found.data = NULL
    found.length = 0
    for at in range(decode.replica_label_count):
        found = labels_find(&decode.labels, &decode.replica_labels[at])
        if found.length:
            break
    return found


cdef inline Status register_series(
    Decode* decode, Pending* pending, Reason* reason
) noexcept nogil:
    """The ref of the series whose judged labels are in the label set, registered if it is new."""
    cdef LabelSet* labels = &decode.labels
    cdef Registry* registry = decode.registry
    cdef Text replica_text = replica_of(decode)
    cdef Pair replica
    cdef uint32_t replica_id = 0
    cdef size_t at, metric = 0
    cdef int64_t series_id
    cdef Found found
    labels_strip(labels, decode.replica_labels, decode.replica_label_count)
    if not labels_lay_out(labels, <size_t>replica_text.length + 1):
        return NO_MEMORY
    series_id = <int64_t>series_hash(labels.text, labels.text_length)
    for at in range(labels.count):
        pair_hash(&registry.symbols, &labels.pairs[at])
        if is_metric_pair(&labels.pairs[at]):
            metric = at
    if replica_text.length:
        # A pair without a name, laid out behind the others.
        replica.text = labels.text + labels.text_length
        replica.name_length = 0
        replica.length = replica_text.length + 1
        labels.text[labels.text_length] = SEPARATOR
        memcpy(labels.text + labels.text_length + 1, replica_text.data, replica_text.length)
        pair_hash(&registry.replicas, &replica)
        replica_id = symbols_find(&registry.replicas, &replica)
        if replica_id != NOT_FOUND:
            replica_id += 1
    found = registry_find(registry, series_id, labels.pairs, labels.count, metric, replica_id)
    reason[0] = ACCEPTED
    if found.is_collision:
        reason[0] = SERIES_ID_COLLISION
        return DONE
    if found.ref == NOT_FOUND:
        if not decode.is_replay and registry.count >= decode.series_count_max:
            reason[0] = SERIES_LIMIT
            return DONE
        if not registry_has_room(registry, labels.text_length, labels.count):
            reason[0] = SERIES_LIMIT
            return DONE
        if replica_id == NOT_FOUND:
            replica_id = symbols_intern(&registry.replicas, &replica)
            if replica_id == NOT_FOUND:
                return NO_MEMORY
            replica_id += 1
        found.ref = registry_add(
            registry, series_id, labels.pairs, labels.count, metric, replica_id, found.sibling
        )
        if found.ref == NOT_FOUND:
            return NO_MEMORY
    pending.ref = found.ref
    if not pending.flags & HAS_NO_FINGERPRINT:
        if not registry_remember(registry, &pending.key, found.ref):
            return NO_MEMORY
    return DONE
