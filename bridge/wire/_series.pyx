"""The registry of series and the remote-write decoder, compiled; `series` says what they do."""

import threading

import numpy as np

from bridge.errors import CorruptBody, RowsFull, TooManySamples
from bridge.wire.decoded import (
    TIMESTAMP_MS_MAX,
    TIMESTAMP_MS_MIN,
    Decoded,
    LabelRows,
    MetadataEntry,
)
from bridge.wire.rejections import (
    LABEL_COUNT_SHOWN,
    LABEL_TEXT_MAX,
    MESSAGE_COUNT_MAX,
    REASONS,
    describe_rejection,
)

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset

from bridge.wire._admit cimport collect_labels
from bridge.wire._decode cimport (
    COMPLAINT_COUNT_MAX,
    CORRUPT,
    DONE,
    NO_MEMORY,
    REASON_COUNT,
    ROWS_FULL,
    TOO_MANY,
    Complaint,
    Decode,
    Status,
    Told,
    decode_free,
)
from bridge.wire._labels cimport (
    Label,
    LabelSet,
    Text,
    labels_free,
    labels_lay_out,
    labels_push,
)
from bridge.wire._label_text cimport (
    LabelBuffers,
    LabelSizes,
    fill_labels,
    label_messages_length,
    label_text_length,
    measure_labels,
    put_label_messages,
    put_sort_key,
    sort_key_length_max,
)
from bridge.wire._registry cimport (
    Found,
    Registry,
    SeriesRow,
    registry_add,
    registry_bytes,
    registry_find,
    registry_free,
    registry_init,
    registry_pairs,
    registry_row,
)
from bridge.wire._registry_copy cimport copy_kept
from bridge.wire._settle cimport decode_body
from bridge.wire._symbols cimport (
    Pair,
    is_metric_pair,
    pair_hash,
    symbols_find,
    symbols_text,
)
from bridge.wire._tables cimport NOT_FOUND

assert len(REASONS) == REASON_COUNT, "reason codes are those of rejections.REASONS"
assert MESSAGE_COUNT_MAX == COMPLAINT_COUNT_MAX

cdef size_t SCRATCH_BYTES_KEPT = 4 << 20
"""What one request may leave behind for the next: 75_000 series of 56 bytes."""


cdef class SeriesRegistry:
    cdef Registry registry
    cdef Decode* decode
    cdef object lock
    cdef tuple replica_labels
    cdef Text* replica_texts
    cdef uint64_t seed

    def __cinit__(self, replica_labels=(), *, seed=0):
        self.seed = seed & 0xFFFF_FFFF_FFFF_FFFF
        registry_init(&self.registry, self.seed)
        self.lock = threading.Lock()
        self.replica_labels = tuple(bytes(label) for label in replica_labels)
        self.replica_texts = texts_of(self.replica_labels)
        self.decode = <Decode*>calloc(1, sizeof(Decode))
        if self.decode == NULL:
            raise MemoryError("no memory for a registry")

    def __dealloc__(self):
        registry_free(&self.registry)
        free(self.replica_texts)
        if self.decode != NULL:
            decode_free(self.decode)
            free(self.decode)

    def __len__(self):
        return self.registry.count

    @property
    def memory_bytes(self):
        with self.lock:
            return registry_bytes(&self.registry) + scratch_bytes(self.decode) + sizeof(Decode)

    @property
    def symbol_count(self):
        return self.registry.symbols.count

    @property
    def pair_count(self):
        return self.registry.symbols.count

    @property
    def collision_count(self):
        return self.registry.collision_count

    # -- remote write -----------------------------------------------------------------------------

    def decode_v1(
        self, body, limits, receive_ms, refused, refs, timestamps_ms, values, start_timestamps_ms,
        offset,
    ):
        with self.lock:
            return self.decode_rows(
                1, body, limits, receive_ms, refused, refs, timestamps_ms, values,
                start_timestamps_ms, offset,
            )

    def decode_v2(
        self, body, limits, receive_ms, refused, refs, timestamps_ms, values, start_timestamps_ms,
        offset,
    ):
        with self.lock:
            return self.decode_rows(
                2, body, limits, receive_ms, refused, refs, timestamps_ms, values,
                start_timestamps_ms, offset,
            )

    cdef decode_rows(
        self,
        int version,
        object body,
        object limits,
        object receive_ms,
        const uint32_t[::1] refused,
        uint32_t[::1] refs,
        int64_t[::1] timestamps_ms,
        double[::1] values,
        int64_t[::1] start_timestamps_ms,
        Py_ssize_t offset,
    ):
        cdef Decode* decode = self.decode
        cdef Py_buffer view
        cdef Status status
        cdef uint32_t count_before = self.registry.count
        if not (
            refs.shape[0] == timestamps_ms.shape[0] == values.shape[0]
            == start_timestamps_ms.shape[0]
        ) or not 0 <= offset <= refs.shape[0]:
            raise ValueError(
                f"row arrays of {refs.shape[0]}, {timestamps_ms.shape[0]}, {values.shape[0]} and "
                f"{start_timestamps_ms.shape[0]} rows, offset {offset}"
            )
        decode.registry = &self.registry
        decode.version = version
        decode.replica_labels = self.replica_texts
        decode.replica_label_count = len(self.replica_labels)
        decode.is_replay = refused is not None
        decode.timestamp_ms_min = TIMESTAMP_MS_MIN
        decode.timestamp_ms_max = TIMESTAMP_MS_MAX
        decode.future_ms_max = TIMESTAMP_MS_MAX if decode.is_replay else max(
            TIMESTAMP_MS_MIN - 1, min(TIMESTAMP_MS_MAX, receive_ms + limits.future_ms_max)
        )
        decode.item_count_max = limits.sample_count_max
        decode.series_count_max = limits.series_count_max
        decode.label_count_max = limits.label_count_max
        decode.name_length_max = limits.label_name_bytes_max
        decode.value_length_max = limits.label_value_bytes_max
        decode.series_length_max = limits.series_bytes_max
        decode.replay = &refused[0] if decode.is_replay and refused.shape[0] else NULL
        decode.replay_count = refused.shape[0] // 2 if decode.is_replay else 0
        decode.capacity = refs.shape[0] - offset
        if decode.capacity:
            decode.refs = &refs[offset]
            decode.timestamps_ms = &timestamps_ms[offset]
            decode.values = <uint64_t*>&values[offset]
            decode.starts_ms = &start_timestamps_ms[offset]
        PyObject_GetBuffer(body, &view, PyBUF_SIMPLE)
        try:
            if view.len >= 1 << 31:
                raise CorruptBody(f"a body of {view.len} bytes, at most 2 GiB")
            decode.body = <const uint8_t*>view.buf
            decode.body_end = decode.body + view.len
            with nogil:
                status = decode_body(decode)
            if status == DONE:
                return made_decoded(decode, limits, receive_ms, count_before)
            if status == CORRUPT:
                raise CorruptBody(
                    f"malformed protobuf at byte {decode.fault_at - decode.body} of {view.len}: "
                    f"{decode.fault.decode()}"
                )
            if status == TOO_MANY:
                raise TooManySamples(
                    f"{decode.item_count} samples in one request, at most "
                    f"{limits.sample_count_max}"
                )
            if status == ROWS_FULL:
                raise RowsFull(decode.sample_count)
            raise MemoryError(f"no memory for a body of {view.len} bytes")
        finally:
            PyBuffer_Release(&view)
            if scratch_bytes(decode) > SCRATCH_BYTES_KEPT:
                decode_free(decode)
                memset(decode, 0, sizeof(Decode))

    # -- rows of the series table -----------------------------------------------------------------

    def add_rows(
        self,
        const int64_t[::1] series_ids,
        const int32_t[::1] label_offsets,
        const int32_t[::1] name_offsets,
        name_bytes,
        const int32_t[::1] value_offsets,
        value_bytes,
    ):
        cdef const uint8_t[::1] names = memoryview(name_bytes).cast("B")
        cdef const uint8_t[::1] values = memoryview(value_bytes).cast("B")
        cdef Py_ssize_t row_count = series_ids.shape[0]
        cdef Py_ssize_t pair_count = name_offsets.shape[0] - 1
        cdef uint32_t[::1] refs = np.empty(row_count, np.uint32)
        cdef LabelSet labels
        cdef Label label
        cdef Py_ssize_t row = 0, at
        cdef Status status = DONE
        if (
            label_offsets.shape[0] != row_count + 1
            or value_offsets.shape[0] != pair_count + 1
            or not are_offsets(label_offsets, pair_count)
            or not are_offsets(name_offsets, names.shape[0])
            or not are_offsets(value_offsets, values.shape[0])
        ):
            raise ValueError(f"offsets of {row_count} series do not fit their buffers")
        memset(&labels, 0, sizeof(labels))
        with self.lock, nogil:
            for row in range(row_count):
                labels.count = 0
                for at in range(label_offsets[row], label_offsets[row + 1]):
                    label.name.data = &names[name_offsets[at]]
                    label.name.length = <uint32_t>(name_offsets[at + 1] - name_offsets[at])
                    label.value.data = &values[value_offsets[at]]
                    label.value.length = <uint32_t>(value_offsets[at + 1] - value_offsets[at])
                    if not labels_push(&labels, &label):
                        status = NO_MEMORY
                        break
                if status == DONE:
                    status = add_row(&self.registry, series_ids[row], &labels, &refs[row])
                if status != DONE:
                    break
            labels_free(&labels)
        if status == NO_MEMORY:
            raise MemoryError(f"no memory for row {row} of {row_count}")
        if status == CORRUPT:
            raise ValueError(f"row {row} of {row_count} has no __name__")
        return np.asarray(refs)

    # -- by ref -----------------------------------------------------------------------------------

    def series_ids(self, const uint32_t[::1] refs=None):
        cdef int64_t[::1] out
        cdef Py_ssize_t at
        with self.lock:
            out = np.empty(self.checked_count(refs), np.int64)
            for at in range(out.shape[0]):
                out[at] = registry_row(
                    &self.registry, <uint32_t>at if refs is None else refs[at]
                ).series_id
        return np.asarray(out)

    def metric_ids(self, const uint32_t[::1] refs=None):
        cdef uint32_t[::1] out
        cdef Py_ssize_t at
        with self.lock:
            out = np.empty(self.checked_count(refs), np.uint32)
            for at in range(out.shape[0]):
                out[at] = registry_row(
                    &self.registry, <uint32_t>at if refs is None else refs[at]
                ).metric_pair
        return np.asarray(out)

    def replica_ids(self, const uint32_t[::1] refs=None):
        cdef uint32_t[::1] out
        cdef Py_ssize_t at
        with self.lock:
            out = np.empty(self.checked_count(refs), np.uint32)
            for at in range(out.shape[0]):
                out[at] = registry_row(
                    &self.registry, <uint32_t>at if refs is None else refs[at]
                ).replica
        return np.asarray(out)

    def replicas(self):
        cdef Pair pair
        cdef uint32_t at
        cdef list texts = [b""]
        with self.lock:
            for at in range(self.registry.replicas.count):
                symbols_text(&self.registry.replicas, at, &pair)
                texts.append((<const char*>pair.text + 1)[:pair.length - 1])
        return texts

    cdef Py_ssize_t checked_count(self, const uint32_t[::1] refs) except -1:
        """How many series are asked for; all without refs."""
        cdef Py_ssize_t at
        if refs is None:
            return self.registry.count
        for at in range(refs.shape[0]):
            if refs[at] >= self.registry.count:
                raise IndexError(f"ref {refs[at]} of {self.registry.count} series")
        return refs.shape[0]

    # -- selection --------------------------------------------------------------------------------

    def select(self, const uint32_t[::1] metric_ids):
        cdef uint32_t[::1] refs
        cdef int64_t[::1] offsets
        cdef uint32_t[::1] pairs
        cdef uint8_t[::1] is_wanted
        cdef SeriesRow* row
        cdef uint32_t ref
        cdef Py_ssize_t at, ref_count = 0, pair_count = 0
        with self.lock:
            is_wanted = np.full(self.registry.symbols.count + 1, metric_ids is None, np.uint8)
            if metric_ids is not None:
                for at in range(metric_ids.shape[0]):
                    if metric_ids[at] < self.registry.symbols.count:
                        is_wanted[metric_ids[at]] = 1
            for ref in range(self.registry.count):
                row = registry_row(&self.registry, ref)
                if is_wanted[row.metric_pair]:
                    ref_count += 1
                    pair_count += row.pair_count
            refs = np.empty(ref_count, np.uint32)
            offsets = np.zeros(ref_count + 1, np.int64)
            pairs = np.empty(pair_count, np.uint32)
            with nogil:
                ref_count = pair_count = 0
                for ref in range(self.registry.count):
                    row = registry_row(&self.registry, ref)
                    if is_wanted[row.metric_pair]:
                        refs[ref_count] = ref
                        memcpy(
                            &pairs[pair_count],
                            registry_pairs(&self.registry, row),
                            row.pair_count * sizeof(uint32_t),
                        )
                        ref_count += 1
                        pair_count += row.pair_count
                        offsets[ref_count] = pair_count
        return np.asarray(refs), np.asarray(offsets), np.asarray(pairs)

    def find_pair(self, bytes name, bytes value):
        cdef bytes text = name + b"\xff" + value
        cdef Pair pair
        cdef uint32_t found
        pair.text = <const uint8_t*>PyBytes_AS_STRING(text)
        pair.name_length = <uint32_t>len(name)
        pair.length = <uint32_t>len(text)
        with self.lock:
            pair_hash(&self.registry.symbols, &pair)
            found = symbols_find(&self.registry.symbols, &pair)
        return -1 if found == NOT_FOUND else found

    def pair_texts(self, const uint32_t[::1] pair_ids):
        cdef Py_ssize_t at
        cdef Pair pair
        cdef list texts = []
        with self.lock:
            for at in range(pair_ids.shape[0]):
                if pair_ids[at] >= self.registry.symbols.count:
                    raise IndexError(f"pair {pair_ids[at]} of {self.registry.symbols.count}")
                symbols_text(&self.registry.symbols, pair_ids[at], &pair)
                texts.append(
                    (
                        (<const char*>pair.text)[:pair.name_length],
                        (<const char*>pair.text)[pair.name_length + 1:pair.length],
                    )
                )
        return texts

    def metric_pairs(self):
        cdef Pair pair
        cdef uint32_t at
        cdef list found = []
        with self.lock:
            for at in range(self.registry.symbols.count):
                symbols_text(&self.registry.symbols, at, &pair)
                if is_metric_pair(&pair):
                    found.append(at)
        return np.array(found, np.uint32)

    # -- labels as text ---------------------------------------------------------------------------

    def label_rows(self, const uint32_t[::1] refs not None):
        cdef const uint32_t* wanted = &refs[0] if refs.shape[0] else NULL
        cdef int32_t[::1] label_offsets, name_offsets, value_offsets
        cdef bytes name_bytes, value_bytes
        cdef LabelSizes sizes
        cdef LabelBuffers buffers
        with self.lock:
            self.checked_count(refs)
            with nogil:
                sizes = measure_labels(&self.registry, wanted, refs.shape[0])
            if max(sizes.pair_count, sizes.name_length, sizes.value_length) >= 1 << 31:
                raise OverflowError(f"labels of {refs.shape[0]} series pass the 2 GiB of one array")
            label_offsets = np.zeros(refs.shape[0] + 1, np.int32)
            name_offsets = np.zeros(sizes.pair_count + 1, np.int32)
            value_offsets = np.zeros(sizes.pair_count + 1, np.int32)
            name_bytes = PyBytes_FromStringAndSize(NULL, sizes.name_length)
            value_bytes = PyBytes_FromStringAndSize(NULL, sizes.value_length)
            buffers.label_offsets = &label_offsets[0]
            buffers.name_offsets = &name_offsets[0]
            buffers.value_offsets = &value_offsets[0]
            buffers.names = <uint8_t*>PyBytes_AS_STRING(name_bytes)
            buffers.values = <uint8_t*>PyBytes_AS_STRING(value_bytes)
            with nogil:
                fill_labels(&self.registry, wanted, refs.shape[0], &buffers)
        return LabelRows(
            np.asarray(label_offsets),
            np.asarray(name_offsets),
            name_bytes,
            np.asarray(value_offsets),
            value_bytes,
        )

    def label_lengths(self, const uint32_t[::1] refs not None):
        cdef int64_t[::1] out
        cdef Py_ssize_t at
        with self.lock:
            out = np.empty(self.checked_count(refs), np.int64)
            for at in range(out.shape[0]):
                out[at] = <int64_t>label_text_length(&self.registry, refs[at])
        return np.asarray(out)

    def label_bytes(self, const uint32_t[::1] refs not None):
        cdef list out = []
        cdef Py_ssize_t at
        cdef bytes text
        with self.lock:
            self.checked_count(refs)
            for at in range(refs.shape[0]):
                text = PyBytes_FromStringAndSize(
                    NULL, label_messages_length(&self.registry, refs[at])
                )
                put_label_messages(&self.registry, refs[at], <uint8_t*>PyBytes_AS_STRING(text))
                out.append(text)
        return out

    def sort_keys(self, const uint32_t[::1] refs not None, stripped):
        cdef list out = []
        cdef list names = [bytes(name) for name in stripped]
        cdef Text* left_out
        cdef uint8_t* key = NULL
        cdef size_t key_capacity = 0, length
        cdef Py_ssize_t at
        left_out = texts_of(names)
        try:
            with self.lock:
                self.checked_count(refs)
                for at in range(refs.shape[0]):
                    length = sort_key_length_max(&self.registry, refs[at])
                    if length > key_capacity:
                        free(key)
                        key_capacity = 2 * length
                        key = <uint8_t*>malloc(key_capacity)
                        if key == NULL:
                            raise MemoryError(f"no memory for a key of {length} bytes")
                    length = put_sort_key(
                        &self.registry, refs[at], left_out, <size_t>len(names), key
                    )
                    out.append((<const char*>key)[:length])
        finally:
            free(key)
            free(left_out)
        return out

    # -- forgetting -------------------------------------------------------------------------------

    def compacted(self, const uint8_t[::1] keep not None):
        cdef SeriesRegistry other = SeriesRegistry(self.replica_labels, seed=self.seed)
        cdef uint32_t[::1] remap
        cdef bint is_done = False
        with self.lock:
            remap = np.full(self.registry.count, NOT_FOUND, np.uint32)
            with nogil:
                is_done = copy_kept(
                    &self.registry,
                    &other.registry,
                    &keep[0] if keep.shape[0] else NULL,
                    keep.shape[0],
                    &remap[0] if remap.shape[0] else NULL,
                )
        if not is_done:
            raise MemoryError(f"no memory for a copy of {len(self)} series")
        return other, np.asarray(remap)


# -- what the methods are made of -----------------------------------------------------------------

cdef size_t scratch_bytes(const Decode* decode) noexcept nogil:
    return (
        decode.pending_capacity * sizeof(decode.pending[0])
        + decode.symbol_capacity * sizeof(decode.symbols[0])
        + decode.refused_capacity * 2 * sizeof(uint32_t)
        + decode.told_capacity * sizeof(Told)
        + decode.labels.capacity * sizeof(Label)
        + decode.labels.text_capacity
        + decode.labels.pair_capacity * sizeof(Pair)
    )


cdef made_decoded(Decode* decode, object limits, object receive_ms, uint32_t count_before):
    cdef uint32_t[::1] refused = np.empty(2 * decode.refused_count, np.uint32)
    cdef int at
    cdef size_t number
    cdef Told* told
    cdef dict rejections = {}
    cdef list messages = []
    cdef list metadata = []
    if decode.refused_count:
        memcpy(&refused[0], decode.refused, 2 * decode.refused_count * sizeof(uint32_t))
    for at in range(REASON_COUNT):
        if decode.rejected[at]:
            rejections[REASONS[at]] = decode.rejected[at]
    for at in range(decode.complaint_count):
        messages.append(made_message(decode, &decode.complaints[at], limits, receive_ms))
    for number in range(decode.told_count):
        told = &decode.told[number]
        metadata.append(
            MetadataEntry(
                text_bytes(&told.metric).decode(),
                told.type,
                text_bytes(&told.help).decode(errors="replace"),
                text_bytes(&told.unit).decode(errors="replace"),
            )
        )
    return Decoded(
        decode.row_count,
        decode.sample_count,
        decode.histogram_count,
        decode.exemplar_count,
        decode.registry.count - count_before,
        np.asarray(refused),
        rejections,
        messages,
        metadata,
        bool(decode.has_start),
    )


cdef made_message(Decode* decode, const Complaint* complaint, object limits, object receive_ms):
    cdef bint is_over
    cdef list labels = []
    cdef size_t at
    cdef Label* label
    collect_labels(decode, &decode.pending[complaint.pending], LABEL_COUNT_SHOWN, &is_over)
    for at in range(decode.labels.count):
        label = &decode.labels.labels[at]
        label.name.length = min(label.name.length, <uint32_t>LABEL_TEXT_MAX)
        label.value.length = min(label.value.length, <uint32_t>LABEL_TEXT_MAX)
        labels.append((text_bytes(&label.name), text_bytes(&label.value)))
    return describe_rejection(
        REASONS[<int>complaint.reason], labels, limits, complaint.timestamp_ms, receive_ms
    )


cdef bytes text_bytes(const Text* text):
    return PyBytes_FromStringAndSize(<const char*>text.data, text.length)


cdef bint are_offsets(const int32_t[::1] offsets, Py_ssize_t end) noexcept:
    """Whether offsets ascend from 0 or more to no more than `end`."""
    cdef Py_ssize_t at
    cdef int32_t last = 0
    for at in range(offsets.shape[0]):
        if offsets[at] < last:
            return False
        last = offsets[at]
    return offsets.shape[0] > 0 and last <= end


cdef Status add_row(
    Registry* registry, int64_t series_id, LabelSet* labels, uint32_t* ref
) noexcept nogil:
    """The ref of a canonical label set; CORRUPT where it has no name."""
    cdef size_t at, metric = labels.count
    cdef Found found
    if not labels_lay_out(labels, 0):
        return NO_MEMORY
    for at in range(labels.count):
        pair_hash(&registry.symbols, &labels.pairs[at])
        if is_metric_pair(&labels.pairs[at]):
            metric = at
    if metric == labels.count:
        return CORRUPT
    found = registry_find(registry, series_id, labels.pairs, labels.count, metric, 0)
    if found.is_collision:
        registry.collision_count += 1
        ref[0] = found.sibling
    elif found.ref != NOT_FOUND:
        ref[0] = found.ref
    else:
        ref[0] = registry_add(
            registry, series_id, labels.pairs, labels.count, metric, 0, found.sibling
        )
        if ref[0] == NOT_FOUND:
            return NO_MEMORY
    return DONE


cdef Text* texts_of(object names) except NULL:
    """Where these bytes objects have their bytes, which must outlive it; to be freed."""
    cdef Text* texts = <Text*>malloc((len(names) + 1) * sizeof(Text))
    cdef size_t at
    cdef bytes name
    if texts == NULL:
        raise MemoryError(f"no memory for {len(names)} names")
    for at, name in enumerate(names):
        texts[at].data = <const uint8_t*>PyBytes_AS_STRING(name)
        texts[at].length = <uint32_t>len(name)
    return texts
