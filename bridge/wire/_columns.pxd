# cython: language_level=3
"""What the encoders ask of the columns that they are given."""

from libc.stdint cimport int64_t


cdef inline int check_offsets(
    const int64_t[::1] offsets, Py_ssize_t time_count, Py_ssize_t value_count
) except -1:
    """Refuses columns of different length and offsets that do not ascend within them."""
    cdef Py_ssize_t i
    cdef int64_t previous = 0
    cdef bint is_ascending = offsets.shape[0] > 0
    if time_count != value_count:
        raise ValueError("columns of equal length")
    with nogil:
        for i in range(offsets.shape[0]):
            is_ascending = is_ascending and offsets[i] >= previous
            previous = offsets[i]
    if not is_ascending or previous > value_count:
        raise ValueError("offsets ascend within the columns")
    return 0
