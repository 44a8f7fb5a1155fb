# cython: language_level=3
"""The newest sample: `twins/instants.py`, the twin, says what leaves and why."""

from libc.stdint cimport int64_t, uint64_t

from bridge.read._climbs cimport climb
from bridge.read._points cimport (
    Points,
    Times,
    count_max,
    evenly,
    nearer,
    of_bits,
    put,
    spaced_count,
)
from bridge.read._windows cimport (
    Columns,
    Plan,
    Window,
    is_evaluated,
    next_evaluation,
    read_window,
)


cdef inline bint is_counter(const Columns* rows, int64_t begin, int64_t end) noexcept nogil:
    cdef int64_t i, seen = 0, climbing = 0, falls = 0
    cdef double before = 0.0
    cdef Window window
    if rows.resets == NULL:
        return False
    for i in range(begin, end):
        read_window(rows, i, &window)
        if window.count <= 0:
            continue
        if window.first < 0 or window.last < 0:
            return False
        climbing += window.last > window.first or window.resets > 0
        falls += window.resets > 0
        if seen and window.first < before:
            falls += 1
            if not window.first < before * 0.5:
                return False
        before = window.last
        seen += 1
    return seen >= 3 and 2 * climbing > seen and 4 * falls <= seen


cdef inline int64_t instant_points_max(const Window* window, const Plan* plan) noexcept nogil:
    cdef int64_t marker = window.stale_ms != 0
    if window.count <= 0:
        return marker
    if plan.is_thinned:
        return marker + (1 if window.span_ms == 0 else 2 + evaluations_within(window, plan))
    return marker + spaced_count(window, instant_spacing_ms(window, plan), 2)


cdef inline int64_t evaluations_within(const Window* window, const Plan* plan) noexcept nogil:
    cdef int64_t unseen_ms = window.span_ms - plan.sight_ms - 1
    if unseen_ms <= 0:
        return 0
    return 2 * (unseen_ms // plan.step_ms + 1) if plan.step_ms else 1


cdef inline int64_t instant_spacing_ms(const Window* window, const Plan* plan) noexcept nogil:
    cdef int64_t spacing_ms = plan.spacing_ms
    if spacing_ms == 0:
        spacing_ms = plan.range_ms // 2 if plan.has_grid else window.span_ms
    return max(<int64_t> 1, spacing_ms)


cdef inline double path(const Window* window, int64_t time_ms, bint climbs) noexcept nogil:
    return climb(window, time_ms) if climbs else nearer(window, time_ms)


cdef inline void put_instant(
    const Window* window, const Plan* plan, bint climbs, uint64_t stale_bits, Points* to
) noexcept nogil:
    cdef bint has_any = True
    if plan.is_thinned:
        has_any = window.count > 0 and put_thinned(window, plan, climbs, to)
        has_any = has_any or (
            window.stale_ms != 0
            and is_evaluated(plan, window.stale_ms - 1, window.stale_ms + plan.sight_ms)
        )
    elif window.count > 0:
        put_repeated(window, plan, climbs, to)
    if has_any and window.stale_ms:
        put(to, window.stale_ms, of_bits(stale_bits))


cdef inline bint put_thinned(
    const Window* window, const Plan* plan, bint climbs, Points* to
) noexcept nogil:
    """Whether there was any."""
    cdef int64_t seen_ms
    cdef bint has_any = False
    if window.span_ms > 0:
        seen_ms = window.first_ms + plan.sight_ms
        if is_evaluated(plan, window.first_ms - 1, min(seen_ms, window.last_ms - 1)):
            put(to, window.first_ms, window.first)
            has_any = True
        if seen_ms < window.last_ms - 1 and put_within(window, plan, climbs, to):
            has_any = True
    if is_evaluated(plan, window.last_ms - 1, window.last_ms + plan.sight_ms):
        put(to, window.last_ms, window.last)
        has_any = True
    return has_any


cdef inline bint put_within(
    const Window* window, const Plan* plan, bint climbs, Points* to
) noexcept nogil:
    """For evaluations that see neither first nor last; whether there was any."""
    cdef int64_t gaps = max(<int64_t> 2, count_max(window)) - 1
    cdef int64_t step_ms = window.span_ms // gaps, before_ms = window.first_ms, taken_ms, stamp_ms
    cdef int64_t now_ms = next_evaluation(plan, window.first_ms + plan.sight_ms)
    cdef bint has_any = False
    while now_ms < window.last_ms:
        taken_ms, stamp_ms = now_ms, now_ms - 1
        if step_ms > plan.sight_ms:
            taken_ms = window.first_ms
            taken_ms += min((now_ms - window.first_ms) // step_ms, gaps - 1) * step_ms
            stamp_ms = taken_ms
        if before_ms < stamp_ms and now_ms - stamp_ms <= plan.sight_ms:
            put(to, stamp_ms, path(window, taken_ms, climbs))
            has_any = True
            before_ms = stamp_ms
        now_ms = next_evaluation(plan, now_ms)
    return has_any


cdef inline void put_repeated(
    const Window* window, const Plan* plan, bint climbs, Points* to
) noexcept nogil:
    cdef Times times
    cdef int64_t place, time_ms
    if window.span_ms > 0:
        times = evenly(
            window, spaced_count(window, instant_spacing_ms(window, plan), 2), window.last_ms
        )
        put(to, window.first_ms, window.first)
        for place in range(1, times.count - 1):
            time_ms = times.first + place * times.step
            put(to, time_ms, path(window, time_ms, climbs))
    put(to, window.last_ms, window.last)
