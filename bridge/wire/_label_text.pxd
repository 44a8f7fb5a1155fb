# cython: language_level=3
"""Labels of registered series as text: Arrow buffers, protobuf messages, sort keys."""

from libc.stddef cimport size_t
from libc.stdint cimport int32_t, uint8_t, uint32_t
from libc.string cimport memchr, memcmp, memcpy

from bridge.wire._labels cimport Text
from bridge.wire._registry cimport Registry, SeriesRow, registry_pairs, registry_row
from bridge.wire._symbols cimport Pair, put_varint, symbols_text


ctypedef struct LabelSizes:
    # What the labels of some series take as Arrow buffers.
    size_t pair_count
    size_t name_length
    size_t value_length


ctypedef struct LabelBuffers:
    # The buffers of an Arrow MAP<string, string> column; offsets begin with 0 already.
    int32_t* label_offsets
    int32_t* name_offsets
    uint8_t* names
    int32_t* value_offsets
    uint8_t* values


cdef inline uint32_t value_length(const Pair* pair) noexcept nogil:
    return pair.length - pair.name_length - 1


cdef inline const uint8_t* value_text(const Pair* pair) noexcept nogil:
    return pair.text + pair.name_length + 1


cdef inline LabelSizes measure_labels(
    const Registry* registry, const uint32_t* refs, size_t count
) noexcept nogil:
    cdef LabelSizes sizes
    cdef const SeriesRow* row
    cdef const uint32_t* ids
    cdef size_t at
    cdef uint32_t number
    cdef Pair pair
    sizes.pair_count = sizes.name_length = sizes.value_length = 0
    for at in range(count):
        row = registry_row(registry, refs[at])
        ids = registry_pairs(registry, row)
        sizes.pair_count += row.pair_count
        for number in range(row.pair_count):
            symbols_text(&registry.symbols, ids[number], &pair)
            sizes.name_length += pair.name_length
            sizes.value_length += value_length(&pair)
    return sizes


cdef inline void fill_labels(
    const Registry* registry, const uint32_t* refs, size_t count, LabelBuffers* buffers
) noexcept nogil:
    """Fills buffers of the measured sizes."""
    cdef const SeriesRow* row
    cdef const uint32_t* ids
    cdef size_t at, pair_count = 0, name_end = 0, value_end = 0
    cdef uint32_t number
    cdef Pair pair
    for at in range(count):
        row = registry_row(registry, refs[at])
        ids = registry_pairs(registry, row)
        for number in range(row.pair_count):
            symbols_text(&registry.symbols, ids[number], &pair)
            memcpy(buffers.names + name_end, pair.text, pair.name_length)
            memcpy(buffers.values + value_end, value_text(&pair), value_length(&pair))
            name_end += pair.name_length
            value_end += value_length(&pair)
            pair_count += 1
            buffers.name_offsets[pair_count] = <int32_t>name_end
            buffers.value_offsets[pair_count] = <int32_t>value_end
        buffers.label_offsets[at + 1] = <int32_t>pair_count


# -- protobuf -------------------------------------------------------------------------------------

cdef inline uint32_t varint_length(uint32_t value) noexcept nogil:
    cdef uint32_t length = 1
    while value >= 0x80:
        value >>= 7
        length += 1
    return length


cdef inline uint32_t label_length(const Pair* pair) noexcept nogil:
    """Length of the label message: two tags, two lengths, name and value."""
    return (
        2
        + varint_length(pair.name_length)
        + pair.name_length
        + varint_length(value_length(pair))
        + value_length(pair)
    )


cdef inline size_t label_messages_length(
    const Registry* registry, uint32_t ref
) noexcept nogil:
    cdef const SeriesRow* row = registry_row(registry, ref)
    cdef const uint32_t* ids = registry_pairs(registry, row)
    cdef size_t needed = 0
    cdef uint32_t number
    cdef Pair pair
    for number in range(row.pair_count):
        symbols_text(&registry.symbols, ids[number], &pair)
        needed += 1 + varint_length(label_length(&pair)) + label_length(&pair)
    return needed


cdef inline size_t label_text_length(
    const Registry* registry, uint32_t ref
) noexcept nogil:
    """Bytes of all names and values."""
    cdef const SeriesRow* row = registry_row(registry, ref)
    cdef const uint32_t* ids = registry_pairs(registry, row)
    cdef size_t length = 0
    cdef uint32_t number
    cdef Pair pair
    for number in range(row.pair_count):
        symbols_text(&registry.symbols, ids[number], &pair)
        length += pair.name_length + value_length(&pair)
    return length


cdef inline uint8_t* put_text(
    uint8_t* to, uint8_t tag, const uint8_t* text, uint32_t length
) noexcept nogil:
    to[0] = tag
    to += 1
    to += put_varint(to, length)
    memcpy(to, text, length)
    return to + length


cdef inline void put_label_messages(
    const Registry* registry, uint32_t ref, uint8_t* to
) noexcept nogil:
    """Label messages as field 1, name as their field 1, value as 2."""
    cdef const SeriesRow* row = registry_row(registry, ref)
    cdef const uint32_t* ids = registry_pairs(registry, row)
    cdef uint32_t number
    cdef Pair pair
    for number in range(row.pair_count):
        symbols_text(&registry.symbols, ids[number], &pair)
        to[0] = 0x0A
        to += 1
        to += put_varint(to, label_length(&pair))
        to = put_text(to, 0x0A, pair.text, pair.name_length)
        to = put_text(to, 0x12, value_text(&pair), value_length(&pair))


# -- sort keys ------------------------------------------------------------------------------------

cdef inline uint8_t* put_escaped(
    uint8_t* to, const uint8_t* text, size_t length
) noexcept nogil:
    """The text with 00 as 00 FF, ended by 00 01: compares like the text, shorter ones first."""
    cdef const uint8_t* zero = <const uint8_t*>memchr(text, 0, length)
    cdef size_t run
    while zero != NULL:
        run = <size_t>(zero - text) + 1
        memcpy(to, text, run)
        to[run] = 0xFF
        to += run + 1
        text += run
        length -= run
        zero = <const uint8_t*>memchr(text, 0, length)
    memcpy(to, text, length)
    to += length
    to[0] = 0x00
    to[1] = 0x01
    return to + 2


cdef inline size_t sort_key_length_max(const Registry* registry, uint32_t ref) noexcept nogil:
    cdef const SeriesRow* row = registry_row(registry, ref)
    cdef const uint32_t* ids = registry_pairs(registry, row)
    cdef size_t needed = 0
    cdef uint32_t number
    cdef Pair pair
    for number in range(row.pair_count):
        symbols_text(&registry.symbols, ids[number], &pair)
        needed += 2 * <size_t>pair.length + 4
    return needed


cdef inline size_t put_sort_key(
    const Registry* registry, uint32_t ref, const Text* stripped, size_t stripped_count,
    uint8_t* key,
) noexcept nogil:
    """Writes the key and gives its length."""
    cdef const SeriesRow* row = registry_row(registry, ref)
    cdef const uint32_t* ids = registry_pairs(registry, row)
    cdef uint8_t* to = key
    cdef uint32_t number
    cdef size_t at
    cdef bint is_stripped
    cdef Pair pair
    for number in range(row.pair_count):
        symbols_text(&registry.symbols, ids[number], &pair)
        is_stripped = False
        for at in range(stripped_count):
            is_stripped = is_stripped or (
                stripped[at].length == pair.name_length
                and memcmp(stripped[at].data, pair.text, pair.name_length) == 0
            )
        if not is_stripped:
            to = put_escaped(to, pair.text, pair.name_length)
            to = put_escaped(to, value_text(&pair), value_length(&pair))
    return <size_t>(to - key)
