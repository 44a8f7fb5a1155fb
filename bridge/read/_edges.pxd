# cython: language_level=3
"""Windows that leave with as many samples as they had: `twins/edges.py`, the twin."""

from libc.stdint cimport int64_t, uint8_t

from bridge.read._windows cimport Columns, Plan, Window, is_evaluated, read_window


cdef inline void fill_slot(
    const Columns* rows, const Plan* plan, int64_t begin, int64_t end, uint8_t* filled
) noexcept nogil:
    """Marks the windows that leave with as many samples as they had."""
    if begin == end:
        return
    if plan.is_compact:
        fill_by_ranges(rows, plan, begin, end, filled)
    else:
        fill_by_edges(rows, plan, begin, end, filled)


# -- ranges of whole windows --

cdef inline void fill_by_ranges(
    const Columns* rows, const Plan* plan, int64_t begin, int64_t end, uint8_t* filled
) noexcept nogil:
    cdef int64_t first_ms = plan.first_ms, rest
    fill_grid(rows, plan, first_ms, begin, end, filled)
    if plan.step_ms:
        rest = first_ms % plan.step_ms
        if rest:
            first_ms += (plan.step_ms if rest > 0 else 0) - rest
            fill_grid(rows, plan, first_ms, begin, end, filled)


cdef inline void fill_grid(
    const Columns* rows, const Plan* plan, int64_t now_ms, int64_t begin, int64_t end,
    uint8_t* filled,
) noexcept nogil:
    """Takes one evaluation after the other; the windows of its range are those from low to high.

    Args:
        rows: of all slots.
        plan: how they leave.
        now_ms: the first evaluation.
        begin: of the slot's rows.
        end: of the slot's rows.
        filled: (rows,), 1 is set.
    """
    cdef int64_t low = begin, high = begin, marked = begin, newest = -1, before = -1
    cdef int64_t count = 0, after_ms, i, rest
    cdef bint is_end_found
    while True:
        # The next one that sees anything.
        if low == high:
            if high == end:
                return
            if rows.end_ms[high] > now_ms:
                if plan.step_ms == 0:
                    return
                rest = (rows.end_ms[high] - now_ms) % plan.step_ms
                now_ms = rows.end_ms[high] + (plan.step_ms - rest if rest else 0)
        after_ms = now_ms - plan.range_ms
        while high < end and rows.end_ms[high] <= now_ms:
            count += rows.count[high] if rows.count[high] > 0 else 0
            newest = high if rows.count[high] > 0 else newest
            high += 1
        while low < high and (rows.end_ms[low] <= after_ms or rows.count[low] <= 0):
            if rows.count[low] > 0:
                count -= rows.count[low]
                before = low
            low += 1
        if low < high:
            if now_ms > plan.until_ms:
                is_end_found = plan.is_until_edge
            elif plan.is_after_edge and (
                after_ms < plan.after_ms or (plan.is_closed and after_ms == plan.after_ms)
            ):
                is_end_found = True
            else:
                is_end_found = find_end(rows, plan, low, newest, before, count, now_ms)
            if is_end_found:
                for i in range(max(low, marked), high):
                    filled[i] = 1
                marked = high
        if plan.step_ms == 0:
            return
        now_ms += plan.step_ms


cdef inline bint find_end(
    const Columns* rows, const Plan* plan, int64_t low, int64_t newest, int64_t before,
    int64_t count, int64_t now_ms,
) noexcept nogil:
    """Whether the engine takes the series to begin or end within a range (extrapolatedRate)."""
    cdef int64_t after_ms = now_ms - plan.range_ms, first_ms = rows.first_ms[low]
    cdef int64_t last_ms = rows.last_ms[newest]
    cdef double threshold_s
    if (
        plan.is_closed and before >= 0 and after_ms > plan.after_ms
        and rows.end_ms[before] == after_ms and rows.last_ms[before] == after_ms
    ):
        first_ms = after_ms
        count += 1
    if count < 2:
        return False
    threshold_s = <double> (last_ms - first_ms) / 1000.0 / <double> (count - 1) * 1.1
    return (
        <double> (first_ms - after_ms) / 1000.0 >= threshold_s
        or <double> (now_ms - last_ms) / 1000.0 >= threshold_s
    )


# -- ranges that cut windows --

cdef inline void fill_by_edges(
    const Columns* rows, const Plan* plan, int64_t begin, int64_t end, uint8_t* filled
) noexcept nogil:
    """Goes forward with the nearest begin of the series, and back with its nearest end."""
    cdef Window window
    cdef int64_t i, edge_ms = 0, beside_ms = 0
    cdef bint is_late = False, is_early = False, is_hole = False, is_any = False, has_edge = False
    for i in range(begin, end):
        read_window(rows, i, &window)
        if window.count <= 0:
            continue
        is_late = is_far(&window, window.first_ms - (window.end_ms - plan.window_ms))
        if is_any:
            is_hole = is_early or beside_ms != window.end_ms - plan.window_ms
        else:
            is_hole = window.end_ms - plan.window_ms > plan.after_ms
        if is_late or is_hole:
            has_edge = True
            edge_ms = window.first_ms - 1 if is_late else window.end_ms - plan.window_ms
        if (
            has_edge and window.first_ms <= edge_ms + plan.sight_ms
            and is_evaluated(plan, window.first_ms - 1, edge_ms + plan.sight_ms)
        ):
            filled[i] = 1
        is_any, beside_ms = True, window.end_ms
        is_early = is_far(&window, window.end_ms - window.last_ms)
    is_any = is_late = has_edge = False
    for i in range(end - 1, begin - 1, -1):
        read_window(rows, i, &window)
        if window.count <= 0:
            continue
        is_early = is_far(&window, window.end_ms - window.last_ms)
        if is_any:
            is_hole = is_late or beside_ms - plan.window_ms != window.end_ms
        else:
            is_hole = window.end_ms < plan.until_ms
        if is_early or is_hole:
            has_edge = True
            edge_ms = window.last_ms if is_early else window.end_ms
        if (
            has_edge and edge_ms < window.end_ms + plan.sight_ms
            and is_evaluated(plan, edge_ms, window.end_ms + plan.sight_ms)
        ):
            filled[i] = 1
        is_any, beside_ms = True, window.end_ms
        is_late = is_far(&window, window.first_ms - (window.end_ms - plan.window_ms))


cdef inline bint is_far(const Window* window, int64_t distance_ms) noexcept nogil:
    return 10 * distance_ms * (window.count - 1) > 11 * window.span_ms or (
        window.count == 1 and distance_ms > 0
    )
