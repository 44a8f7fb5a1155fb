# cython: language_level=3
"""The tables of the series registry.

    rows          ref -> series id, metric pair, replica, where its pair ids are: 24 bytes
    pair_ids      the pair ids of all series, one series after another: 4 bytes a label; series
                  that differ in their replica alone share them
    series        hash of (metric pair, series id) -> ref: 8 bytes / load
    fingerprints  hash of a label set's raw bytes -> ref: 16 bytes / load
    symbols       the pairs
    replicas      replica values, as pairs without a name; replica 0 is none, n is pair n - 1
    metadata      hash of a metric's name -> hash of what was last told about it

A series of ten labels takes 24 + 40 + 14 + 26 = 104 bytes beside the text of its pairs.
"""

from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from bridge.wire._hashing cimport HashKey, hash_key_make, mix_u64
from bridge.wire._pages cimport Growable, growable_free, growable_reserve
from bridge.wire._symbols cimport (
    LENGTHS_BYTES_MAX,
    Pair,
    Symbols,
    symbols_bytes,
    symbols_equal,
    symbols_find,
    symbols_free,
    symbols_have_room,
    symbols_intern,
)
from bridge.wire._tables cimport (
    NOT_FOUND,
    SEGMENT_SHIFT,
    Fingerprint,
    FingerprintTable,
    IdSegment,
    IdTable,
    fingerprint_bytes,
    fingerprint_clear,
    fingerprint_insert,
    id_bytes,
    id_free,
    id_insert,
    id_prefetch,
    slot_of,
)

cdef enum:
    FINGERPRINT_COUNT_MIN = 65_536
    METADATA_COUNT_MAX = 262_144
    METADATA_CAPACITY_MIN = 64


ctypedef struct SeriesRow:
    int64_t series_id
    uint32_t metric_pair
    uint32_t replica
    uint32_t pairs_at
    uint32_t pair_count


ctypedef struct MetadataSlot:
    uint64_t metric
    uint64_t content
    uint32_t generation


ctypedef struct Registry:
    HashKey v1_key
    HashKey v2_key
    Symbols symbols
    Symbols replicas
    Growable rows
    Growable pair_ids
    IdTable series
    FingerprintTable fingerprints
    MetadataSlot* metadata
    uint32_t metadata_capacity
    uint32_t metadata_count
    uint32_t generation
    uint32_t count
    uint64_t collision_count


ctypedef struct Found:
    uint32_t ref       # NOT_FOUND where it is new
    uint32_t sibling   # some series of the same key, NOT_FOUND where there is none
    bint is_collision  # the sibling has another label set


cdef inline void registry_init(Registry* registry, uint64_t seed) noexcept nogil:
    memset(registry, 0, sizeof(Registry))
    hash_key_make(&registry.v1_key, seed)
    hash_key_make(&registry.v2_key, ~seed)
    registry.symbols.key = registry.v1_key
    registry.replicas.key = registry.v1_key


cdef inline void registry_free(Registry* registry) noexcept nogil:
    symbols_free(&registry.symbols)
    symbols_free(&registry.replicas)
    growable_free(&registry.rows)
    growable_free(&registry.pair_ids)
    id_free(&registry.series)
    fingerprint_clear(&registry.fingerprints)
    free(registry.metadata)
    registry.metadata = NULL


cdef inline size_t registry_bytes(const Registry* registry) noexcept nogil:
    return (
        symbols_bytes(&registry.symbols)
        + symbols_bytes(&registry.replicas)
        + registry.rows.used
        + registry.pair_ids.used
        + id_bytes(&registry.series)
        + fingerprint_bytes(&registry.fingerprints)
        + registry.metadata_capacity * sizeof(MetadataSlot)
    )


cdef inline SeriesRow* registry_row(const Registry* registry, uint32_t ref) noexcept nogil:
    return &(<SeriesRow*>registry.rows.data)[ref]


cdef inline const uint32_t* registry_pairs(
    const Registry* registry, const SeriesRow* row
) noexcept nogil:
    return <const uint32_t*>registry.pair_ids.data + row.pairs_at


cdef inline uint64_t key_hash(
    const Registry* registry, int64_t series_id, uint32_t metric_pair
) noexcept nogil:
    return mix_u64(
        <uint64_t>series_id ^ registry.v1_key.seed
        ^ <uint64_t>metric_pair * <uint64_t>0x9E3779B97F4A7C15
    )


cdef inline bint has_labels(
    const Registry* registry, const SeriesRow* row, const Pair* pairs, size_t count
) noexcept nogil:
    cdef const uint32_t* own = registry_pairs(registry, row)
    cdef size_t at
    if row.pair_count != count:
        return False
    for at in range(count):
        if not symbols_equal(&registry.symbols, own[at], &pairs[at]):
            return False
    return True


cdef inline Found registry_find(
    const Registry* registry,
    int64_t series_id,
    const Pair* pairs,
    size_t count,
    size_t metric,
    uint32_t replica,
) noexcept nogil:
    """Looks a series up by its key; `metric` is the index of the __name__ pair, hashed."""
    cdef Found found
    cdef uint32_t metric_pair = symbols_find(&registry.symbols, &pairs[metric])
    cdef uint64_t hashed, slot
    cdef uint32_t at, ref
    cdef const IdSegment* segment
    cdef const SeriesRow* row
    found.ref = NOT_FOUND
    found.sibling = NOT_FOUND
    found.is_collision = False
    if metric_pair == NOT_FOUND:
        return found
    hashed = key_hash(registry, series_id, metric_pair)
    segment = &registry.series.segments[hashed >> SEGMENT_SHIFT]
    if segment.capacity == 0:
        return found
    at = slot_of(<uint32_t>hashed, segment.capacity)
    while True:
        slot = segment.slots[at]
        if slot == 0:
            return found
        if <uint32_t>(slot >> 32) == <uint32_t>hashed:
            ref = <uint32_t>slot - 1
            row = registry_row(registry, ref)
            if row.series_id == series_id and row.metric_pair == metric_pair:
                if found.sibling == NOT_FOUND:
                    found.sibling = ref
                    if not has_labels(registry, row, pairs, count):
                        found.is_collision = True
                        return found
                if row.replica == replica:
                    found.ref = ref
                    return found
        at += 1
        if at == segment.capacity:
            at = 0


cdef inline bint registry_has_room(
    const Registry* registry, size_t text_length, size_t count
) noexcept nogil:
    """Whether one more series keeps every number within 32 bits."""
    return (
        symbols_have_room(&registry.symbols, text_length + count * LENGTHS_BYTES_MAX)
        and registry.pair_ids.used // sizeof(uint32_t) + count <= <size_t>0xFFFFFFFF
        and registry.count < <uint32_t>0xFFFFFFF0
    )


cdef inline uint32_t registry_add(
    Registry* registry,
    int64_t series_id,
    const Pair* pairs,
    size_t count,
    size_t metric,
    uint32_t replica,
    uint32_t sibling,
) noexcept nogil:
    """The ref of a series that registry_find did not find; NOT_FOUND where there is no memory."""
    cdef SeriesRow row
    cdef uint32_t* ids
    cdef uint32_t pair_id
    cdef size_t at
    if not growable_reserve(&registry.rows, sizeof(SeriesRow)):
        return NOT_FOUND
    row.series_id = series_id
    row.replica = replica
    row.pair_count = <uint32_t>count
    if sibling != NOT_FOUND:
        row.metric_pair = registry_row(registry, sibling).metric_pair
        row.pairs_at = registry_row(registry, sibling).pairs_at
    else:
        if not growable_reserve(&registry.pair_ids, count * sizeof(uint32_t)):
            return NOT_FOUND
        for at in range(count):
            id_prefetch(&registry.symbols.ids, pairs[at].hashed)
        row.pairs_at = <uint32_t>(registry.pair_ids.used // sizeof(uint32_t))
        ids = <uint32_t*>registry.pair_ids.data + row.pairs_at
        for at in range(count):
            pair_id = symbols_intern(&registry.symbols, &pairs[at])
            if pair_id == NOT_FOUND:
                return NOT_FOUND
            ids[at] = pair_id
        row.metric_pair = ids[metric]
    if not id_insert(
        &registry.series, key_hash(registry, series_id, row.metric_pair), registry.count
    ):
        return NOT_FOUND
    if sibling == NOT_FOUND:
        registry.pair_ids.used += count * sizeof(uint32_t)
    registry_row(registry, registry.count)[0] = row
    registry.rows.used += sizeof(SeriesRow)
    registry.count += 1
    return registry.count - 1


cdef inline bint registry_remember(
    Registry* registry, const Fingerprint* key, uint32_t ref
) noexcept nogil:
    """Caches a fingerprint that is not there; False where there is no memory."""
    if registry.fingerprints.count >= max(
        <uint64_t>FINGERPRINT_COUNT_MIN, 4 * <uint64_t>registry.count
    ):
        fingerprint_clear(&registry.fingerprints)
    return fingerprint_insert(&registry.fingerprints, key, ref)


# -- metadata -------------------------------------------------------------------------------------

cdef inline MetadataSlot* metadata_slot(
    MetadataSlot* slots, uint32_t capacity, uint64_t metric
) noexcept nogil:
    """Where a metric is, or would be."""
    cdef uint32_t at = <uint32_t>metric & (capacity - 1)
    while slots[at].metric != 0 and slots[at].metric != metric:
        at = (at + 1) & (capacity - 1)
    return &slots[at]


cdef inline bint metadata_grow(Registry* registry) noexcept nogil:
    cdef uint32_t capacity = max(
        <uint32_t>METADATA_CAPACITY_MIN, 2 * registry.metadata_capacity
    )
    cdef MetadataSlot* slots = <MetadataSlot*>calloc(capacity, sizeof(MetadataSlot))
    cdef MetadataSlot* old
    cdef uint32_t at
    if slots == NULL:
        return False
    for at in range(registry.metadata_capacity):
        old = &registry.metadata[at]
        if old.metric != 0:
            metadata_slot(slots, capacity, old.metric)[0] = old[0]
    free(registry.metadata)
    registry.metadata = slots
    registry.metadata_capacity = capacity
    return True


cdef inline int metadata_is_news(
    Registry* registry, uint64_t metric, uint64_t content
) noexcept nogil:
    """1 where this is not what was last told about the metric, which it is from now on.

    The first word on a metric in a request (`registry.generation`) is the only one. -1 where there
    is no memory.
    """
    cdef MetadataSlot* slot
    metric |= metric == 0  # 0 marks a free slot
    if (
        2 * registry.metadata_count >= registry.metadata_capacity
        and registry.metadata_capacity < 2 * METADATA_COUNT_MAX
        and not metadata_grow(registry)
    ):
        return -1
    slot = metadata_slot(registry.metadata, registry.metadata_capacity, metric)
    if slot.metric == 0:
        if registry.metadata_count >= METADATA_COUNT_MAX:
            memset(registry.metadata, 0, registry.metadata_capacity * sizeof(MetadataSlot))
            registry.metadata_count = 0
            slot = metadata_slot(registry.metadata, registry.metadata_capacity, metric)
        slot.metric = metric
        registry.metadata_count += 1
    elif slot.generation == registry.generation:
        return 0
    elif slot.content == content:
        slot.generation = registry.generation
        return 0
    slot.content = content
    slot.generation = registry.generation
    return 1


cdef inline bint metadata_copy(const Registry* source, Registry* target) noexcept nogil:
    """Lets `target` know what `source` has told; False where there is no memory."""
    if source.metadata_capacity == 0:
        return True
    target.metadata = <MetadataSlot*>calloc(source.metadata_capacity, sizeof(MetadataSlot))
    if target.metadata == NULL:
        return False
    memcpy(
        target.metadata, source.metadata, source.metadata_capacity * sizeof(MetadataSlot)
    )
    target.metadata_capacity = source.metadata_capacity
    target.metadata_count = source.metadata_count
    target.generation = source.generation
    return True
