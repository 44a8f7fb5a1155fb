# cython: language_level=3
"""Protobuf's wire format, written to where there is room for it; `_protobuf.pxd` reads it."""

from libc.stdint cimport uint8_t, uint64_t

from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF

cdef enum:
    VARINT_BYTES_MAX = 10

cdef extern from "Python.h":
    int resize_bytes "_PyBytes_Resize"(PyObject**, Py_ssize_t) except -1
    PyObject* new_bytes "PyBytes_FromStringAndSize"(const char*, Py_ssize_t) except NULL
    char* start_of "PyBytes_AS_STRING"(PyObject*) nogil

cdef extern from * nogil:
    """
    #include <string.h>
    static inline uint64_t pb_big_endian(uint64_t value) {
    #if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
        return __builtin_bswap64(value);
    #else
        return value;
    #endif
    }
    static inline void store_be64(uint8_t *at, uint64_t value) {
        value = pb_big_endian(value);
        memcpy(at, &value, 8);
    }
    static inline uint64_t load_be64(const uint8_t *at) {
        uint64_t value;
        memcpy(&value, at, 8);
        return pb_big_endian(value);
    }
    static inline void store_le64(uint8_t *at, uint64_t value) {
        store_be64(at, __builtin_bswap64(value));
    }
    """
    void store_be64(uint8_t* at, uint64_t value)
    uint64_t load_be64(const uint8_t* at)
    void store_le64(uint8_t* at, uint64_t value)


cdef inline int varint_size(uint64_t value) noexcept nogil:
    cdef int size = 1
    while value >= 0x80:
        value >>= 7
        size += 1
    return size


cdef inline uint8_t* put_varint(uint8_t* at, uint64_t value) noexcept nogil:
    """Writes 1 to 10 bytes; gives the place behind them."""
    while value >= 0x80:
        at[0] = <uint8_t> (value | 0x80)
        at += 1
        value >>= 7
    at[0] = <uint8_t> value
    return at + 1


cdef inline object shrink_bytes(PyObject* room, Py_ssize_t size):
    """The first bytes of what `new_bytes` gave, which is taken over.

    Where the size is not known before, ask for the most that it can be: of a large allocation only
    the pages that were written to exist, and the rest is given back where it stands.
    """
    resize_bytes(&room, size)
    text = <object> room
    Py_DECREF(text)
    return text
