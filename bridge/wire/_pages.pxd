# cython: language_level=3
"""Memory that grows without a copy beside it.

Growable: an append-only array on pages of its own. It reserves twice what it holds, but a page
costs memory only from its first write on, and growing moves page tables, not bytes (on Linux;
elsewhere it copies). Small arrays that are replaced whole (hash table segments) come from
`zeroed_new`, and from pages as soon as they are large, so that what they leave behind goes back to
the system instead of staying as holes in the heap.

Under AddressSanitizer everything comes from malloc in exact sizes, so that it sees each byte that
is read past an end.
"""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t

cdef extern from * nogil:
    """
    #include <stdlib.h>
    #include <string.h>
    #include <sys/mman.h>

    #if defined(__SANITIZE_ADDRESS__)
    static const int pages_exact = 1;
    static void *pages_map(size_t size) { return calloc(1, size); }
    static void *pages_remap(void *old, size_t old_size, size_t size) {
        char *grown = (char *)realloc(old, size);
        if (grown && size > old_size) memset(grown + old_size, 0, size - old_size);
        return grown;
    }
    static void pages_unmap(void *old, size_t size) { (void)size; free(old); }
    #else
    static const int pages_exact = 0;
    static void *pages_map(size_t size) {
        void *made = mmap(NULL, size, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        return made == MAP_FAILED ? NULL : made;
    }
    static void pages_unmap(void *old, size_t size) { munmap(old, size); }
    static void *pages_remap(void *old, size_t old_size, size_t size) {
    #ifdef __linux__
        void *made = mremap(old, old_size, size, MREMAP_MAYMOVE);
        return made == MAP_FAILED ? NULL : made;
    #else
        void *made = pages_map(size);
        if (made) {
            memcpy(made, old, old_size);
            pages_unmap(old, old_size);
        }
        return made;
    #endif
    }
    #endif
    """
    const int pages_exact
    void* pages_map(size_t size)
    void* pages_remap(void* old, size_t old_size, size_t size)
    void pages_unmap(void* old, size_t size)
    void* calloc(size_t count, size_t size)
    void free(void* old)

cdef enum:
    GROWABLE_BYTES_MIN = 1 << 16  # virtual; one touched page is 4 KiB
    ZEROED_PAGES_MIN = 1 << 16    # from here on pages instead of the heap


ctypedef struct Growable:
    uint8_t* data
    size_t capacity
    size_t used


cdef inline bint growable_reserve(Growable* array, size_t extra) noexcept nogil:
    """Makes room for `extra` bytes behind the used ones; False where there is no memory."""
    cdef size_t needed = array.used + extra
    cdef size_t capacity = array.capacity
    cdef void* grown
    if needed <= capacity:
        return True
    if pages_exact:
        capacity = needed
    else:
        capacity = max(capacity, <size_t>GROWABLE_BYTES_MIN)
        while capacity < needed:
            capacity *= 2
    if array.data == NULL:
        grown = pages_map(capacity)
    else:
        grown = pages_remap(array.data, array.capacity, capacity)
    if grown == NULL:
        return False
    array.data = <uint8_t*>grown
    array.capacity = capacity
    return True


cdef inline void growable_free(Growable* array) noexcept nogil:
    if array.data != NULL:
        pages_unmap(array.data, array.capacity)
    array.data = NULL
    array.capacity = 0
    array.used = 0


cdef inline void* zeroed_new(size_t size) noexcept nogil:
    """`size` zero bytes, to be given back with the same size; NULL where there is no memory."""
    return pages_map(size) if size >= ZEROED_PAGES_MIN else calloc(1, size)


cdef inline void zeroed_free(void* old, size_t size) noexcept nogil:
    if old == NULL:
        return
    if size >= ZEROED_PAGES_MIN:
        pages_unmap(old, size)
    else:
        free(old)
