"""Which of two values of a series at one time is kept: the greater. Reads and compaction agree."""

from libc.stdint cimport uint64_t

cdef extern from *:
    """
    #include <stdint.h>

    /* Order of values at one time: stale marker < other NaN by bits < numbers, -0.0 < 0.0. */
    static int pb_value_less(uint64_t a, uint64_t b) {
        const uint64_t stale = 0x7FF0000000000002u, sign = 1ull << 63;
        const uint64_t infinite = 0x7FF0000000000000u;
        int a_class = a == stale ? 0 : (a & ~sign) > infinite ? 1 : 2;
        int b_class = b == stale ? 0 : (b & ~sign) > infinite ? 1 : 2;
        if (a_class != b_class) return a_class < b_class;
        if (a_class < 2) return a < b;
        a = a & sign ? ~a : a | sign;
        b = b & sign ? ~b : b | sign;
        return a < b;
    }
    """
    bint pb_value_less(uint64_t a, uint64_t b) noexcept nogil
