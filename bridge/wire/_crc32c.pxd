# cython: language_level=3
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t

cdef uint32_t sum_bytes(const uint8_t* start, size_t length, uint32_t crc) noexcept nogil
