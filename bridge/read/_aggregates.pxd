# cython: language_level=3
"""One value of a window, or all of them: `twins/aggregates.py`, the twin, says what and why."""

from libc.math cimport fabs
from libc.stdint cimport int64_t

from bridge.read._points cimport (
    Points,
    Times,
    evenly,
    is_in_next_range,
    nearer,
    one_nan,
    put,
    put_equal,
    spaced_count,
    time_at,
    weighted_count,
)
from bridge.read._windows cimport LAST, MAX, MIN, Plan, Window


# -- minimum, maximum, last --

cdef inline void put_single(const Window* window, const Plan* plan, Points* to) noexcept nogil:
    """MIN, MAX, LAST."""
    cdef int kind = plan.kind
    cdef double value
    value = window.min if kind == MIN else window.max if kind == MAX else window.last
    if not plan.is_compact:
        put_spaced(window, plan, value, to)
    elif kind != LAST and is_in_next_range(window, plan):
        put(to, window.last_ms - 1, value)
        put(to, window.last_ms, window.last)
    else:
        put(to, window.last_ms, value)


cdef inline void put_spaced(
    const Window* window, const Plan* plan, double value, Points* to
) noexcept nogil:
    cdef int64_t count = spaced_count(window, plan.spacing_ms, 2), place, time_ms
    cdef Times times = evenly(window, count, window.last_ms)
    for place in range(times.count):
        time_ms = time_at(&times, place)
        if plan.kind == LAST and place < times.count - 1:
            put(to, time_ms, window.first if place == 0 else nearer(window, time_ms))
        else:
            put(to, time_ms, value)


# -- sum, mean --

cdef inline double without_last(const Window* window) noexcept nogil:
    return 0.0 if window.sum == window.last else one_nan(window.sum - window.last)


cdef inline void put_sum(const Window* window, const Plan* plan, Points* to) noexcept nogil:
    cdef Times times
    if not plan.is_compact:
        times = evenly(window, window.count, window.last_ms)
        put_equal(&times, 0, times.count, one_nan(window.sum / <double> times.count), to)
    elif is_in_next_range(window, plan):
        if window.count != 1:
            put(to, window.last_ms - 1, without_last(window))
        put(to, window.last_ms, window.last)
    else:
        put(to, window.last_ms, window.sum)


cdef inline void put_mean(const Window* window, const Plan* plan, Points* to) noexcept nogil:
    cdef bint is_split = plan.is_compact and is_in_next_range(window, plan)
    cdef bint is_early = is_split and plan.weight_divisor > 1
    cdef Times times = evenly(window, weighted_count(window, plan), window.last_ms - is_early)
    cdef double mean
    if is_split and plan.weight_divisor == 1 and window.count > 1:
        mean = one_nan(without_last(window) / <double> (window.count - 1))
        put_equal(&times, 0, times.count - 1, mean, to)
        put(to, window.last_ms, window.last)
    else:
        mean = one_nan(window.sum / <double> window.count)
        put_equal(&times, 0, times.count, mean, to)


# -- all of them --

cdef inline void put_spread(const Window* window, Points* to) noexcept nogil:
    cdef Times times = evenly(window, window.count, window.last_ms)
    if times.count == 1:
        put(to, window.last_ms, window.last)
        return
    put(to, times.first, window.first)
    if not put_blocks(window, &times, to):
        put_between(window, &times, to)
    put(to, window.last_ms, window.last)


cdef inline bint put_blocks(const Window* window, const Times* times, Points* to) noexcept nogil:
    """What lies between first and last of two values; whether they are two."""
    cdef int64_t count = times.count, highs, firsts, before
    cdef double low = window.min, high = window.max, exact
    if count != window.count or count <= 3 or not low < high:
        return False
    if (window.first != low and window.first != high) or (
        window.last != low and window.last != high
    ):
        return False
    exact = (window.sum - <double> count * low) / (high - low)
    if not (1 <= exact + 0.5 and exact + 0.5 < <double> count):
        return False
    highs = <int64_t> (exact + 0.5)
    if not fabs(exact - <double> highs) <= 1e-9:
        return False
    firsts = highs if window.first == high else count - highs
    if window.first != window.last:
        if 2 * highs == count and high - low > 1:
            return False
        put_equal(times, 1, firsts, window.first, to)
        put_equal(times, firsts, count - 1, window.last, to)
        return True
    if firsts < 2:
        return False
    before = firsts - firsts // 2
    put_equal(times, 1, before, window.first, to)
    put_equal(
        times, before, before + count - firsts, low if window.first == high else high, to
    )
    put_equal(times, before + count - firsts, count - 1, window.first, to)
    return True


cdef inline void put_between(const Window* window, const Times* times, Points* to) noexcept nogil:
    """The extremes, and the mean of what is left."""
    cdef double rest = window.sum - window.first - window.last, mean = 0.0
    cdef int64_t place = 1, rest_count
    cdef bint has_min = False, has_max = False
    if times.count > 3:
        has_min = window.min != window.first and window.min != window.last
        has_max = window.max != window.first and window.max != window.last
    rest_count = times.count - 2 - has_min - has_max
    if has_min:
        rest -= window.min
    if has_max:
        rest -= window.max
    if rest_count:
        mean = one_nan(rest / <double> rest_count)
    if times.count > 3:
        mean = window.min if window.min > mean else mean
        mean = window.max if window.max < mean else mean
    if has_min:
        put_equal(times, place, place + 1, window.min, to)
        place += 1
    if has_max:
        put_equal(times, place, place + 1, window.max, to)
        place += 1
    put_equal(times, place, times.count - 1, mean, to)
