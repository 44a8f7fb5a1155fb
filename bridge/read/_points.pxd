# cython: language_level=3
"""Samples that leave for a window, how many there may be, and when: `twins/points.py`, the twin."""

from libc.stdint cimport int64_t, uint64_t

from bridge.read._windows cimport Plan, Window

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>

    static inline double pb_of_bits(uint64_t bits) {
        double value;
        memcpy(&value, &bits, 8);
        return value;
    }

    /* Which bits an addition makes of a NaN depends on the machine. */
    static inline double pb_nan(void) {
        return pb_of_bits(0x7FF8000000000000u);
    }

    static inline double pb_one_nan(double number) {
        return number != number ? pb_nan() : number;
    }
    """
    double of_bits "pb_of_bits"(uint64_t) noexcept nogil
    double nan "pb_nan"() noexcept nogil
    double one_nan "pb_one_nan"(double) noexcept nogil


cdef struct Points:
    int64_t* times
    double* values
    Py_ssize_t count
    int64_t after_ms
    int64_t until_ms


cdef struct Times:
    int64_t first
    int64_t step
    int64_t last
    int64_t count


# -- how many --

cdef inline int64_t count_max(const Window* window) noexcept nogil:
    return min(window.count, window.span_ms + 1)


cdef inline int64_t spaced_count(
    const Window* window, int64_t spacing_ms, int64_t least
) noexcept nogil:
    cdef int64_t count = 1 + (window.span_ms + spacing_ms - 1) // spacing_ms
    return min(max(<int64_t> 2, min(window.count, max(least, count))), window.span_ms + 1)


cdef inline int64_t weighted_count(const Window* window, const Plan* plan) noexcept nogil:
    cdef int64_t divisor = plan.weight_divisor
    return max(<int64_t> 1, (2 * window.count + divisor) // (2 * divisor))


cdef inline bint is_in_next_range(const Window* window, const Plan* plan) noexcept nogil:
    return plan.is_closed and window.last_ms == window.end_ms


# -- when --

cdef inline Times evenly(const Window* window, int64_t count, int64_t last_ms) noexcept nogil:
    cdef Times times
    times.first, times.last = min(window.first_ms, last_ms), last_ms
    times.count = min(count, times.last - times.first + 1)
    times.step = (times.last - times.first) // (times.count - 1) if times.count > 1 else 0
    return times


cdef inline int64_t time_at(const Times* times, int64_t place) noexcept nogil:
    return times.last if place >= times.count - 1 else times.first + place * times.step


# -- what --

cdef inline void put(Points* to, int64_t time_ms, double value) noexcept nogil:
    to.times[to.count] = time_ms
    to.values[to.count] = value
    to.count += (time_ms > to.after_ms) & (time_ms <= to.until_ms)


cdef inline void put_equal(
    const Times* times, int64_t begin, int64_t end, double value, Points* to
) noexcept nogil:
    """One value at some of the times."""
    cdef int64_t place, even_end = min(end, times.count - 1)
    if begin < even_end and times.first > to.after_ms and times.last <= to.until_ms:
        for place in range(begin, even_end):
            to.times[to.count + place - begin] = times.first + place * times.step
            to.values[to.count + place - begin] = value
        to.count += even_end - begin
    else:
        for place in range(begin, even_end):
            put(to, times.first + place * times.step, value)
    if begin < end and end == times.count:
        put(to, times.last, value)


cdef inline double nearer(const Window* window, int64_t time_ms) noexcept nogil:
    if time_ms - window.first_ms <= window.last_ms - time_ms:
        return window.first
    return window.last
