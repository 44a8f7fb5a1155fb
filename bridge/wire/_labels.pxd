# cython: language_level=3
"""One series' labels on their way from a sender's bytes to canonical text.

A LabelSet points into the body; it is sorted, judged and stripped in place, then laid out as
`name 0xFF value 0xFF ...`, the text that the series id is the hash of and whose pieces are pairs.
"""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, qsort, realloc
from libc.string cimport memcmp, memcpy

from bridge.wire._protobuf cimport load_u64
from bridge.wire._symbols cimport SEPARATOR, Pair

cdef enum:
    INSERTION_SORT_MAX = 64  # labels; beyond it quadratic time would be a gift to a hostile sender


ctypedef struct Text:
    const uint8_t* data
    uint32_t length


ctypedef struct Label:
    Text name
    Text value


ctypedef struct LabelSet:
    Label* labels
    size_t count
    size_t capacity
    uint8_t* text
    size_t text_length
    size_t text_capacity
    Pair* pairs
    size_t pair_capacity


cdef inline bint labels_push(LabelSet* set_, const Label* label) noexcept nogil:
    """Appends; False where there is no memory."""
    cdef Label* grown
    cdef size_t capacity
    if set_.count == set_.capacity:
        capacity = 2 * set_.capacity + 32
        grown = <Label*>realloc(set_.labels, capacity * sizeof(Label))
        if grown == NULL:
            return False
        set_.labels = grown
        set_.capacity = capacity
    set_.labels[set_.count] = label[0]
    set_.count += 1
    return True


cdef inline void labels_free(LabelSet* set_) noexcept nogil:
    free(set_.labels)
    free(set_.text)
    free(set_.pairs)


cdef inline bint text_equal(const Text* one, const Text* other) noexcept nogil:
    return one.length == other.length and memcmp(one.data, other.data, one.length) == 0


cdef inline int text_compare(const Text* one, const Text* other) noexcept nogil:
    cdef int order = memcmp(one.data, other.data, min(one.length, other.length))
    if order != 0:
        return order
    return (one.length > other.length) - (one.length < other.length)


cdef inline int label_compare(const void* one, const void* other) noexcept nogil:
    return text_compare(&(<const Label*>one).name, &(<const Label*>other).name)


cdef inline bint labels_sort(LabelSet* set_) noexcept nogil:
    """Sorts by name; False where a name is there twice."""
    cdef Label* labels = set_.labels
    cdef Label moved
    cdef size_t at, to
    cdef int order
    cdef bint is_sorted = True
    for at in range(1, set_.count):
        order = label_compare(&labels[at - 1], &labels[at])
        if order == 0:
            return False
        if order > 0:
            is_sorted = False
            break
    if is_sorted:
        return True
    if set_.count > INSERTION_SORT_MAX:
        qsort(labels, set_.count, sizeof(Label), label_compare)
    else:
        for at in range(1, set_.count):
            moved = labels[at]
            to = at
            while to > 0 and label_compare(&labels[to - 1], &moved) > 0:
                labels[to] = labels[to - 1]
                to -= 1
            labels[to] = moved
    for at in range(1, set_.count):
        if label_compare(&labels[at - 1], &labels[at]) == 0:
            return False
    return True


cdef inline Text labels_find(const LabelSet* set_, const Text* name) noexcept nogil:
    """The value of a label, empty where it is absent."""
    cdef Text absent
    cdef size_t at
    for at in range(set_.count):
        if text_equal(&set_.labels[at].name, name):
            return set_.labels[at].value
    absent.data = NULL
    absent.length = 0
    return absent


cdef inline void labels_strip(LabelSet* set_, const Text* names, size_t name_count) noexcept nogil:
    """Takes out labels without a value and those with one of these names."""
    cdef size_t at, kept = 0, name
    cdef bint is_stripped
    for at in range(set_.count):
        is_stripped = set_.labels[at].value.length == 0
        for name in range(name_count):
            is_stripped = is_stripped or text_equal(&set_.labels[at].name, &names[name])
        if not is_stripped:
            set_.labels[kept] = set_.labels[at]
            kept += 1
    set_.count = kept


cdef inline bint labels_lay_out(LabelSet* set_, size_t spare) noexcept nogil:
    """Fills `text` and `pairs` from the labels, with `spare` free bytes behind the text.

    False where there is no memory.
    """
    cdef size_t needed = spare, at
    cdef Label* label
    cdef Pair* pair
    cdef uint8_t* to
    cdef void* grown
    for at in range(set_.count):
        needed += <size_t>set_.labels[at].name.length + set_.labels[at].value.length + 2
    if needed > set_.text_capacity:
        grown = realloc(set_.text, 2 * needed)
        if grown == NULL:
            return False
        set_.text = <uint8_t*>grown
        set_.text_capacity = 2 * needed
    if set_.count > set_.pair_capacity:
        grown = realloc(set_.pairs, 2 * set_.count * sizeof(Pair))
        if grown == NULL:
            return False
        set_.pairs = <Pair*>grown
        set_.pair_capacity = 2 * set_.count
    to = set_.text
    for at in range(set_.count):
        label = &set_.labels[at]
        pair = &set_.pairs[at]
        pair.text = to
        pair.name_length = label.name.length
        pair.length = label.name.length + 1 + label.value.length
        memcpy(to, label.name.data, label.name.length)
        to += label.name.length
        to[0] = SEPARATOR
        memcpy(to + 1, label.value.data, label.value.length)
        to += label.value.length + 1
        to[0] = SEPARATOR
        to += 1
    set_.text_length = needed - spare
    return True


cdef inline bint is_utf8(const Text* text) noexcept nogil:
    """Whether Python would decode it: no surrogates, nothing overlong, nothing past U+10FFFF."""
    cdef const uint8_t* at = text.data
    cdef const uint8_t* end = at + text.length
    cdef uint8_t lead, low, high
    cdef int following
    while at < end:
        if end - at >= 8 and (load_u64(at) & <uint64_t>0x8080808080808080) == 0:
            at += 8
            continue
        lead = at[0]
        at += 1
        if lead < 0x80:
            continue
        low = 0x80
        high = 0xBF
        if 0xC2 <= lead <= 0xDF:
            following = 1
        elif 0xE0 <= lead <= 0xEF:
            following = 2
            if lead == 0xE0:
                low = 0xA0
            elif lead == 0xED:
                high = 0x9F
        elif 0xF0 <= lead <= 0xF4:
            following = 3
            if lead == 0xF0:
                low = 0x90
            elif lead == 0xF4:
                high = 0x8F
        else:
            return False
        if end - at < following or at[0] < low or at[0] > high:
            return False
        at += 1
        while following > 1:
            if at[0] & 0xC0 != 0x80:
                return False
            at += 1
            following -= 1
    return True
