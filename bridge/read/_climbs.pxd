# cython: language_level=3
"""Counters, differences and trends of a window: `twins/climbs.py`, the twin, says what and why."""

from libc.math cimport INFINITY, floor
from libc.stdint cimport int64_t

from bridge.read._points cimport (
    Points,
    Times,
    count_max,
    evenly,
    nan,
    one_nan,
    put,
    put_equal,
    spaced_count,
    time_at,
    weighted_count,
)
from bridge.read._windows cimport IRATE, RATE, Plan, Window


# -- paths --

cdef inline double climb(const Window* window, int64_t time_ms) noexcept nogil:
    cdef double drop = window.drop, count = <double> max(window.resets, <int64_t> 1)
    cdef double rise = window.last - window.first + (drop if drop > 0 else 0.0)
    cdef double way = rise * (<double> (time_ms - window.first_ms) / <double> window.span_ms)
    cdef double value = window.first + way, peak, teeth
    if not drop > 0:
        return window.last if rise >= 0 and value > window.last else one_nan(value)
    peak = drop / count
    if count > 1 and peak < window.first and window.first < drop:
        value = way
        drop = drop - window.first
        count -= 1
        peak = drop / count
    elif window.first >= drop:
        count, peak = 1.0, drop
    if not peak > 0:
        count, peak = 1.0, drop
    teeth = value / peak
    if teeth < 1:
        return one_nan(value)
    if teeth < count:
        value -= floor(teeth) * peak
        value = 0.0 if 0.0 > value else value
        return peak if peak < value else value
    value -= drop
    value = 0.0 if 0.0 > value else value
    return window.last if rise >= 0 and value > window.last else one_nan(value)


cdef inline double line(const Window* window, int64_t time_ms) noexcept nogil:
    cdef double share = <double> (time_ms - window.first_ms) / <double> window.span_ms
    return one_nan(window.first + (window.last - window.first) * share)


cdef inline double mean_line(const Window* window, int64_t time_ms) noexcept nogil:
    cdef double mean = one_nan(window.sum / <double> window.count)
    cdef double share = <double> (2 * time_ms - window.first_ms - window.last_ms)
    share /= <double> (2 * window.span_ms)
    return one_nan(mean + (window.last - window.first) * share)


# -- ranges of whole windows --

cdef inline void put_rate(
    const Window* window, const Plan* plan, bint filled, Points* to
) noexcept nogil:
    cdef double[3] values
    cdef double value = window.first
    cdef int count = drop_values(window, plan.kind, values), place
    cdef int64_t fall_ms, room_ms = 0
    put(to, window.first_ms, window.first)
    if count >= window.span_ms:
        count = 0
    if count:
        if filled:
            room_ms = max(<int64_t> 0, count_max(window) - 2 - count)
        fall_ms = fall_ms_of(window, count, room_ms)
        for place in range(count):
            value = values[place]
            put(to, fall_ms + place, value)
    put_filled(window, 1 + count, value, filled, to)


cdef inline int drop_values(const Window* window, int kind, double* values) noexcept nogil:
    """Writes up to three; how many."""
    cdef double drop = window.drop
    cdef int count = 0
    if drop > 0:
        if drop < window.first:
            if kind == IRATE:
                return 0
            values[0], count = nan(), 1
        if not drop <= window.first or count:
            values[count] = drop
            count += 1
        if not window.last < drop:
            values[count] = 0.0
            count += 1
    elif kind == RATE and window.last < window.first:
        values[0], count = nan(), 1
    return count


cdef inline double fall_share(const Window* window) noexcept nogil:
    cdef double rise = window.last - window.first + window.drop, share = 0.0
    if rise > 0:
        share = (window.drop - window.first) / rise
    return share if 0 <= share and share <= 1 else 0.5


cdef inline int64_t fall_ms_of(
    const Window* window, int64_t fall_count, int64_t room_ms
) noexcept nogil:
    cdef int64_t fall_ms = window.first_ms
    fall_ms += <int64_t> (<double> window.span_ms * fall_share(window))
    return max(window.first_ms + 1, min(fall_ms, window.last_ms - fall_count - room_ms))


cdef inline void put_ends(const Window* window, bint filled, Points* to) noexcept nogil:
    put(to, window.first_ms, window.first)
    put_filled(window, 1, window.first, filled, to)


cdef inline void put_filled(
    const Window* window, int64_t count, double value, bint filled, Points* to
) noexcept nogil:
    """The last sample; before it, as often as is missing, the value before it."""
    cdef int64_t missing = 0, place
    if filled:
        missing = count_max(window) - count - 1
    for place in range(missing):
        put(to, window.last_ms - missing + place, value)
    put(to, window.last_ms, window.last)


cdef inline void put_resets(const Window* window, const Plan* plan, Points* to) noexcept nogil:
    cdef bint starts_high = window.first == window.max, ends_high = window.last < window.max
    cdef int64_t count = 0, place, level, spaced = 0
    cdef double value
    cdef Times times
    if window.resets > 0 and window.max > window.min:
        count = 2 * window.resets - starts_high - ends_high
    elif window.resets <= 0 and window.last < window.first:
        count = 1
    if count >= window.span_ms:
        count = 0
    if not plan.is_compact:
        spaced = spaced_count(window, plan.spacing_ms, 2)
    times = evenly(window, max(spaced, count + 2), window.last_ms)
    put(to, window.first_ms, window.first)
    for place in range(1, times.count - 1):
        # Which of first, those between, and last.
        level = place * (count + 1) // (times.count - 1)
        if level == 0:
            value = window.first
        elif window.resets <= 0:
            value = nan()
        else:
            value = window.min if (level - 1 + starts_high) & 1 else window.max
        put(to, times.first + place * times.step, value)
    put(to, window.last_ms, window.last)


# -- ranges that cut windows --

cdef inline int64_t path_count(
    const Window* window, const Plan* plan, bint filled
) noexcept nogil:
    if filled:
        return max(<int64_t> 2, count_max(window))
    return spaced_count(window, plan.spacing_ms, 4 if plan.kind == RATE and window.drop > 0 else 2)


cdef inline void put_path(
    const Window* window, const Plan* plan, bint filled, Points* to
) noexcept nogil:
    """DELTA and IRATE."""
    cdef Times times = evenly(window, path_count(window, plan, filled), window.last_ms)
    cdef int64_t place, time_ms
    put(to, window.first_ms, window.first)
    for place in range(1, times.count - 1):
        time_ms = times.first + place * times.step
        put(to, time_ms, climb(window, time_ms) if plan.kind == IRATE else line(window, time_ms))
    put(to, window.last_ms, window.last)


cdef inline void put_climb(
    const Window* window, const Plan* plan, bint filled, Points* to
) noexcept nogil:
    cdef Times times = evenly(window, path_count(window, plan, filled), window.last_ms)
    cdef double drop = window.drop, first = window.first, last = window.last, value, rise
    cdef int64_t place, time_ms, peak
    put(to, window.first_ms, first)
    if not drop > 0 and last >= first:
        for place in range(1, times.count - 1):
            time_ms = times.first + place * times.step
            put(to, time_ms, climb(window, time_ms))
        put(to, window.last_ms, last)
        return
    peak = peak_place(window, times.count)
    rise = last - first + drop
    for place in range(1, times.count - 1):
        time_ms = times.first + place * times.step
        value = first + rise * (<double> (time_ms - window.first_ms) / <double> window.span_ms)
        if peak < 0:
            value = first
        elif place < peak:
            value = drop if drop < value else value
        elif place == peak:
            value = drop
        elif place == peak + 1:
            value = 0.0
        else:
            value -= drop
            value = 0.0 if 0.0 > value else value
            value = last if last < value else value
        put(to, time_ms, value)
    put(to, window.last_ms, last)


cdef inline int64_t peak_place(const Window* window, int64_t count) noexcept nogil:
    cdef double drop = window.drop, first = window.first, last = window.last
    cdef int64_t latest, earliest
    if not (0 < drop and drop < INFINITY and -INFINITY < first and first <= drop):
        return -1
    if not (0 <= last and last < INFINITY):
        return -1
    latest = count - 2 if last < drop else count - 3
    earliest = 0 if drop == first else 1
    if latest < earliest:
        return -1
    if drop == first:
        return 0
    return max(
        earliest, min(<int64_t> (<double> (count - 1) * fall_share(window)), latest)
    )


# -- trends --

cdef inline int64_t trend_count(const Window* window, const Plan* plan) noexcept nogil:
    cdef int64_t weight = min(weighted_count(window, plan), window.span_ms + 1)
    if not plan.is_compact:
        return max(weight, spaced_count(window, plan.spacing_ms, 2))
    return max(<int64_t> 2, weight) if plan.is_after_edge or plan.is_until_edge else 2


cdef inline void put_trend(const Window* window, const Plan* plan, Points* to) noexcept nogil:
    cdef int64_t count = trend_count(window, plan), near_ms, middle_ms, time_ms, half
    cdef double mean, rise, share
    cdef Times times
    if count <= 2:
        near_ms = max(<int64_t> 1, window.span_ms // 64)
        middle_ms = window.first_ms + window.span_ms // 2
        time_ms = max(middle_ms - near_ms, window.first_ms)
        put(to, time_ms, mean_line(window, time_ms))
        time_ms = min(middle_ms + near_ms, window.last_ms)
        put(to, time_ms, mean_line(window, time_ms))
        return
    times, half = evenly(window, count, window.last_ms), count // 2
    mean = one_nan(window.sum / <double> window.count)
    if count % 2:
        share = <double> count / <double> (3 * (count - 1))
    else:
        share = <double> (count + 1) / <double> (3 * count)
    rise = (window.last - window.first) * share
    put_equal(&times, 0, half, one_nan(mean - rise), to)
    put_equal(&times, half, count - half, mean, to)
    put_equal(&times, count - half, count, one_nan(mean + rise), to)


cdef inline void put_trend_line(const Window* window, const Plan* plan, Points* to) noexcept nogil:
    cdef Times times = evenly(window, trend_count(window, plan), window.last_ms)
    cdef int64_t place, time_ms
    for place in range(times.count):
        time_ms = time_at(&times, place)
        put(to, time_ms, mean_line(window, time_ms))
