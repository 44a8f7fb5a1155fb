# cython: language_level=3
"""Rows of a rollup as the emission kernel sees them: which evaluations look at them, and how.

Names are those of `twins/windows.py`, the twin.
"""

from libc.stdint cimport int32_t, int64_t

cdef extern from *:
    """
    /* Times and spans stay below, so that sums of a few of them are int64. */
    #define PB_TIME_MS_MAX ((int64_t) 1 << 61)
    """
    const int64_t TIME_MS_MAX "PB_TIME_MS_MAX"


cdef enum:
    INSTANT, RATE, DELTA, IRATE, RESETS, TREND, MIN, MAX, SUM, MEAN, LAST, SPREAD


cdef struct Plan:
    int kind
    int64_t window_ms
    int64_t after_ms
    int64_t until_ms
    int64_t spacing_ms
    int64_t weight_divisor
    bint is_compact
    bint is_thinned
    bint is_filled
    bint is_all_touched
    bint is_after_edge
    bint is_until_edge
    bint has_grid
    bint is_closed
    int64_t first_ms
    int64_t step_ms
    int64_t range_ms
    int64_t sight_ms


cdef struct Window:
    int64_t end_ms
    int64_t count
    double sum
    double min
    double max
    double first
    double last
    int64_t first_ms
    int64_t last_ms
    double drop
    int64_t resets
    int64_t stale_ms
    int64_t span_ms


cdef struct Columns:
    const int64_t* end_ms
    const int32_t* count  # NULL, as the others, if it was not read
    const double* sum
    const double* min
    const double* max
    const double* first
    const double* last
    const int64_t* first_ms
    const int64_t* last_ms
    const double* drop
    const int32_t* resets
    const int64_t* stale_ms


# -- rows --

cdef inline void read_window(const Columns* rows, Py_ssize_t i, Window* to) noexcept nogil:
    to.end_ms = rows.end_ms[i]
    to.last_ms = rows.last_ms[i]
    to.first_ms = rows.first_ms[i] if rows.first_ms != NULL else to.last_ms
    to.count = rows.count[i] if rows.count != NULL else to.last_ms != 0
    to.first = rows.first[i] if rows.first != NULL else 0.0
    to.last = rows.last[i] if rows.last != NULL else 0.0
    to.sum = rows.sum[i] if rows.sum != NULL else 0.0
    to.min = rows.min[i] if rows.min != NULL else 0.0
    to.max = rows.max[i] if rows.max != NULL else 0.0
    to.drop = rows.drop[i] if rows.drop != NULL else 0.0
    to.resets = rows.resets[i] if rows.resets != NULL else 0
    to.stale_ms = rows.stale_ms[i] if rows.stale_ms != NULL else 0
    to.span_ms = to.last_ms - to.first_ms


cdef inline bint is_in_order(const Window* row, const Plan* plan, int64_t before_ms) noexcept nogil:
    cdef int64_t begin_ms = row.end_ms - plan.window_ms
    cdef bint is_good = before_ms < row.end_ms and row.end_ms < TIME_MS_MAX
    if row.count > 0:
        is_good &= begin_ms < row.first_ms <= row.last_ms <= row.end_ms
        begin_ms = row.last_ms
    if row.stale_ms:
        is_good &= begin_ms < row.stale_ms <= row.end_ms
    return is_good


# -- evaluations --

cdef inline int64_t next_evaluation(const Plan* grid, int64_t after_ms) noexcept nogil:
    """The first behind a time; beyond all times if there is none."""
    cdef int64_t in_subquery, in_query, step_ms = grid.step_ms, rest
    if step_ms == 0:
        return grid.first_ms if grid.first_ms > after_ms else 4 * (TIME_MS_MAX - 1)
    rest = after_ms % step_ms
    in_subquery = after_ms - (rest if rest >= 0 else rest + step_ms) + step_ms
    in_query = grid.first_ms
    if in_query <= after_ms:
        in_query = after_ms - (after_ms - grid.first_ms) % step_ms + step_ms
    return in_query if in_query < in_subquery else in_subquery


cdef inline bint is_evaluated(const Plan* grid, int64_t after_ms, int64_t until_ms) noexcept nogil:
    # So long a span holds a multiple of the step.
    if grid.step_ms and until_ms - after_ms >= grid.step_ms:
        return True
    return next_evaluation(grid, after_ms) <= until_ms


cdef inline bint is_touched(const Window* window, const Plan* plan) noexcept nogil:
    return plan.is_all_touched or is_evaluated(
        plan, window.end_ms - plan.window_ms, window.end_ms + plan.sight_ms
    )
