"""CRC32C (Castagnoli), by the processor where it can, else by eight table look-ups at a time.

Source: RFC 3720 appendix B.4 (polynomial 0x1EDC6F41, reflected 0x82F63B78, initial value and final
xor of all ones).
"""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>

    static uint32_t crc_table[8][256];

    static void crc_fill(void) {
        for (uint32_t i = 0; i < 256; i++) {
            uint32_t x = i;
            for (int k = 0; k < 8; k++) x = (x >> 1) ^ (0x82F63B78u & (0u - (x & 1)));
            crc_table[0][i] = x;
        }
        for (int t = 1; t < 8; t++)
            for (int i = 0; i < 256; i++)
                crc_table[t][i] = (crc_table[t - 1][i] >> 8) ^ crc_table[0][crc_table[t - 1][i] & 255];
    }

    static uint32_t crc_by_table(uint32_t x, const uint8_t *p, size_t n) {
        while (n >= 8) {
            x ^= (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
            x = crc_table[7][x & 255] ^ crc_table[6][x >> 8 & 255] ^ crc_table[5][x >> 16 & 255]
              ^ crc_table[4][x >> 24] ^ crc_table[3][p[4]] ^ crc_table[2][p[5]]
              ^ crc_table[1][p[6]] ^ crc_table[0][p[7]];
            p += 8; n -= 8;
        }
        while (n--) x = x >> 8 ^ crc_table[0][(x ^ *p++) & 255];
        return x;
    }

    #if defined(__x86_64__)
    __attribute__((target("sse4.2")))
    static uint32_t crc_by_cpu(uint32_t x, const uint8_t *p, size_t n) {
        uint64_t wide = x, word;
        while (n >= 8) {
            memcpy(&word, p, 8);
            wide = __builtin_ia32_crc32di(wide, word);
            p += 8; n -= 8;
        }
        x = (uint32_t)wide;
        while (n--) x = __builtin_ia32_crc32qi(x, *p++);
        return x;
    }
    static int crc_cpu_can(void) { __builtin_cpu_init(); return __builtin_cpu_supports("sse4.2"); }
    #elif defined(__aarch64__) && defined(__linux__)
    #include <arm_acle.h>
    #include <sys/auxv.h>
    __attribute__((target("+crc")))
    static uint32_t crc_by_cpu(uint32_t x, const uint8_t *p, size_t n) {
        uint64_t word;
        while (n >= 8) {
            memcpy(&word, p, 8);
            x = __crc32cd(x, word);
            p += 8; n -= 8;
        }
        while (n--) x = __crc32cb(x, *p++);
        return x;
    }
    static int crc_cpu_can(void) { return (getauxval(AT_HWCAP) & (1 << 7)) != 0; /* HWCAP_CRC32 */ }
    #else
    static uint32_t crc_by_cpu(uint32_t x, const uint8_t *p, size_t n) { return crc_by_table(x, p, n); }
    static int crc_cpu_can(void) { return 0; }
    #endif
    """
    void crc_fill() noexcept nogil
    uint32_t crc_by_table(uint32_t x, const uint8_t *p, size_t n) noexcept nogil
    uint32_t crc_by_cpu(uint32_t x, const uint8_t *p, size_t n) noexcept nogil
    int crc_cpu_can() noexcept nogil

# Below this many bytes giving the GIL back costs more than the sum itself.
cdef size_t NOGIL_BYTES = 4096

crc_fill()
cdef bint BY_CPU = crc_cpu_can()


cdef uint32_t sum_bytes(const uint8_t* start, size_t length, uint32_t crc) noexcept nogil:
    """The sum of `crc`'s bytes and these."""
    if BY_CPU:
        return ~crc_by_cpu(~crc, start, length)
    return ~crc_by_table(~crc, start, length)


def crc32c(data, uint32_t crc=0):
    cdef Py_buffer view
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        if <size_t> view.len < NOGIL_BYTES:
            crc = sum_bytes(<const uint8_t*> view.buf, <size_t> view.len, crc)
        else:
            with nogil:
                crc = sum_bytes(<const uint8_t*> view.buf, <size_t> view.len, crc)
    finally:
        PyBuffer_Release(&view)
    return crc


def crc32c_by_table(data, uint32_t crc=0):
    cdef Py_buffer view
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    crc = ~crc_by_table(~crc, <const uint8_t*> view.buf, <size_t> view.len)
    PyBuffer_Release(&view)
    return crc
