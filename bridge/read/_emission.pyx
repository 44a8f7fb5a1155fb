# cython: language_level=3
"""The emission kernel. What leaves for a window and why: `twins/emission.py`, the twin.

Rows are looked at twice. The first time they are checked, those that leave with as many samples as
they had are marked, and it is counted how many samples there may be at most. The second writes
them, and what was not needed of the room is given back: a window may send less than it could, and
what lies outside of the span is written over by what follows.

Names are those of the twin and the modules beside it, so that each function has its counterpart.
"""

from libc.stdint cimport int8_t, int32_t, int64_t, uint8_t, uint64_t

import numpy as np

from bridge.read._aggregates cimport put_mean, put_single, put_spread, put_sum
from bridge.read._climbs cimport (
    drop_values,
    path_count,
    put_climb,
    put_ends,
    put_path,
    put_rate,
    put_resets,
    put_trend,
    put_trend_line,
    trend_count,
)
from bridge.read._edges cimport fill_slot
from bridge.read._instants cimport instant_points_max, is_counter, put_instant
from bridge.read._points cimport (
    Points,
    count_max,
    is_in_next_range,
    put,
    spaced_count,
    weighted_count,
)
from bridge.read._windows cimport (
    DELTA,
    INSTANT,
    IRATE,
    LAST,
    MAX,
    MEAN,
    MIN,
    RATE,
    RESETS,
    SPREAD,
    SUM,
    TIME_MS_MAX,
    TREND,
    Columns,
    Plan,
    Window,
    is_in_order,
    is_touched,
    read_window,
)
from bridge.wire._columns cimport check_offsets

from bridge.lake.grouped import GroupedRows
from bridge.model import staleness
from bridge.read.kinds import Kind, columns_of

cdef:
    uint64_t STALE_BITS = staleness.STALE_BITS
    dict KINDS = {
        Kind.INSTANT: INSTANT, Kind.RATE: RATE, Kind.DELTA: DELTA, Kind.IRATE: IRATE,
        Kind.RESETS: RESETS, Kind.TREND: TREND, Kind.MIN: MIN, Kind.MAX: MAX, Kind.SUM: SUM,
        Kind.MEAN: MEAN, Kind.LAST: LAST, Kind.SPREAD: SPREAD,
    }


cdef class Emitter:
    """Rows that are checked and counted, and what leaves of some slots of them."""

    cdef readonly object counts
    cdef const int64_t[::1] offsets
    cdef Py_ssize_t slot_count
    cdef Py_ssize_t row_count
    cdef Columns columns
    cdef Plan plan
    cdef object filled  # (rows,) uint8; None if no window is filled
    cdef tuple owners

    def __init__(self, rows, emission):
        missing = [name for name in columns_of(emission) if getattr(rows, name) is None]
        if missing:
            raise ValueError(f"columns that were not read: {missing}")
        self.offsets = rows.offsets
        self.slot_count, self.row_count = len(rows.offsets) - 1, len(rows.window_end_ms)
        self.owners = (
            rows.window_end_ms, rows.count, rows.sum, rows.min, rows.max, rows.first, rows.last,
            rows.first_timestamp_ms, rows.last_timestamp_ms, rows.reset_drop, rows.resets,
            rows.stale_timestamp_ms,
        )
        for column in self.owners:
            if column is not None and len(column) != self.row_count:
                raise ValueError("columns of equal length")
        check_offsets(self.offsets, self.row_count, self.row_count)
        self.columns.end_ms, self.columns.count = open_i64(rows.window_end_ms), open_i32(rows.count)
        self.columns.sum, self.columns.drop = open_f64(rows.sum), open_f64(rows.reset_drop)
        self.columns.min, self.columns.max = open_f64(rows.min), open_f64(rows.max)
        self.columns.first, self.columns.last = open_f64(rows.first), open_f64(rows.last)
        self.columns.first_ms = open_i64(rows.first_timestamp_ms)
        self.columns.last_ms = open_i64(rows.last_timestamp_ms)
        self.columns.resets = open_i32(rows.resets)
        self.columns.stale_ms = open_i64(rows.stale_timestamp_ms)
        self.plan = plan_of(emission)
        self.filled = np.zeros(self.row_count, np.uint8) if self.plan.is_filled else None
        self.counts = np.empty(self.slot_count, np.int64)
        if not self.count(self.counts):
            raise ValueError("windows ascend within a slot and hold their samples")

    cdef bint count(self, int64_t[::1] counts):
        """Checks all rows, marks those that are filled, counts; False if they are damaged."""
        cdef Py_ssize_t slot, i
        cdef int64_t before_ms, total
        cdef bint is_good = True
        cdef Columns* columns = &self.columns
        cdef Plan* plan = &self.plan
        cdef Window window
        cdef uint8_t* filled = open_u8(self.filled)
        cdef const int64_t[::1] offsets = self.offsets
        with nogil:
            for slot in range(self.slot_count):
                before_ms, total = -TIME_MS_MAX, 0
                for i in range(offsets[slot], offsets[slot + 1]):
                    read_window(columns, i, &window)
                    is_good = is_good and is_in_order(&window, plan, before_ms)
                    before_ms = window.end_ms
                    if filled == NULL and is_good and is_touched(&window, plan):
                        total += points_max(&window, plan, False)
                if not is_good:
                    break
                if filled != NULL:
                    fill_slot(columns, plan, offsets[slot], offsets[slot + 1], filled)
                    for i in range(offsets[slot], offsets[slot + 1]):
                        read_window(columns, i, &window)
                        if is_touched(&window, plan):
                            total += points_max(&window, plan, filled[i])
                counts[slot] = total
        return is_good

    def emit(self, Py_ssize_t begin, Py_ssize_t end, const int8_t[::1] counters):
        cdef Py_ssize_t slot, i
        cdef int counter = 0
        cdef Columns* columns = &self.columns
        cdef Plan* plan = &self.plan
        cdef Window window
        cdef Points points
        cdef const int64_t[::1] offsets = self.offsets
        cdef uint8_t* filled = open_u8(self.filled)
        if not 0 <= begin <= end <= self.slot_count:
            raise ValueError("slots that there are")
        if counters is not None and counters.shape[0] != self.slot_count:
            raise ValueError("one counter for each slot")
        # One more: what does not lie in the span is written, too, and not kept.
        room = int(self.counts[begin:end].sum()) + 1
        new_offsets = np.zeros(end - begin + 1, np.int64)
        times, values = np.empty(room, np.int64), np.empty(room, np.float64)
        cdef int64_t* ends = start_i64(new_offsets)
        points.times, points.values, points.count = start_i64(times), start_f64(values), 0
        points.after_ms, points.until_ms = plan.after_ms, plan.until_ms
        with nogil:
            for slot in range(begin, end):
                if plan.kind == INSTANT:
                    counter = counters[slot] if counters is not None else -1
                    if counter < 0:
                        counter = is_counter(columns, offsets[slot], offsets[slot + 1])
                for i in range(offsets[slot], offsets[slot + 1]):
                    read_window(columns, i, &window)
                    if is_touched(&window, plan):
                        put_window(
                            &window, plan, filled != NULL and filled[i], counter == 1,
                            &points,
                        )
                ends[slot - begin + 1] = points.count
        assert points.count < room
        times.resize(points.count, refcheck=False)
        values.resize(points.count, refcheck=False)
        return GroupedRows(new_offsets, times, values)


def count_points(rows, emission):
    return Emitter(rows, emission).counts


def emit(rows, emission, const int8_t[::1] counters=None):
    return Emitter(rows, emission).emit(0, len(rows.offsets) - 1, counters)


cdef Plan plan_of(emission):
    """The emission, spans cut so that sums of a few are int64."""
    cdef Plan plan
    grid = emission.grid
    plan.kind = KINDS[emission.kind]
    plan.window_ms = bounded(emission.window_ms)
    plan.after_ms, plan.until_ms = bounded(emission.after_ms), bounded(emission.until_ms)
    plan.spacing_ms = bounded(emission.spacing_ms)
    plan.weight_divisor = bounded(emission.weight_divisor)
    plan.is_compact = emission.spacing_ms == 0
    plan.is_thinned, plan.is_filled = emission.is_thinned, emission.is_filled
    plan.is_after_edge, plan.is_until_edge = emission.is_after_edge, emission.is_until_edge
    plan.has_grid = grid is not None
    plan.is_closed = grid is not None and grid.is_closed
    plan.first_ms = bounded(grid.first_ms) if grid is not None else 0
    plan.step_ms = bounded(grid.step_ms) if grid is not None else 0
    plan.range_ms = bounded(grid.range_ms) if grid is not None else 0
    plan.sight_ms = plan.range_ms if plan.is_closed else plan.range_ms - 1
    # So long a reach holds a multiple of the step.
    plan.is_all_touched = grid is None or 0 < plan.step_ms <= plan.window_ms + plan.sight_ms
    return plan


cdef int64_t bounded(number) except? -1:
    return max(-TIME_MS_MAX, min(number, TIME_MS_MAX))


cdef int64_t* open_i64(const int64_t[::1] column):
    return NULL if column is None else <int64_t*> &column[0]


cdef int32_t* open_i32(const int32_t[::1] column):
    return NULL if column is None else <int32_t*> &column[0]


cdef double* open_f64(const double[::1] column):
    return NULL if column is None else <double*> &column[0]


cdef uint8_t* open_u8(uint8_t[::1] column):
    return NULL if column is None else &column[0]


cdef int64_t* start_i64(int64_t[::1] column):
    return &column[0]


cdef double* start_f64(double[::1] column):
    return &column[0]


# -- windows --

cdef inline bint is_by_ends(int kind) noexcept nogil:
    """Where all samples have one time, the last one leaves."""
    return (
        kind == RATE or kind == DELTA or kind == IRATE or kind == TREND or kind == RESETS
        or kind == LAST
    )


cdef inline int64_t points_max(const Window* window, const Plan* plan, bint filled) noexcept nogil:
    cdef int kind = plan.kind
    if kind == INSTANT:
        return instant_points_max(window, plan)
    if window.count <= 0:
        return 0
    if is_by_ends(kind) and window.span_ms == 0:
        return 1
    if is_by_ends(kind) and kind != RESETS and kind != LAST:
        return climb_points_max(window, plan, filled)
    return aggregate_points_max(window, plan)


cdef inline int64_t climb_points_max(
    const Window* window, const Plan* plan, bint filled
) noexcept nogil:
    cdef int64_t count = 2
    cdef double[3] values
    if plan.kind == TREND:
        return trend_count(window, plan)
    if not plan.is_compact:
        return path_count(window, plan, filled)
    if plan.kind == RATE or plan.kind == IRATE:
        count += drop_values(window, plan.kind, values)
    return max(count, count_max(window)) if filled else count


cdef inline int64_t aggregate_points_max(const Window* window, const Plan* plan) noexcept nogil:
    cdef int kind = plan.kind
    cdef int64_t count
    if kind == SPREAD or (kind == SUM and not plan.is_compact):
        return count_max(window)
    if kind == MEAN:
        return min(weighted_count(window, plan), window.span_ms + 1)
    if kind == RESETS:
        count = min(3 + 2 * max(window.resets, <int64_t> 0), window.span_ms + 1)
        return count if plan.is_compact else max(count, spaced_count(window, plan.spacing_ms, 2))
    if not plan.is_compact:
        return spaced_count(window, plan.spacing_ms, 2)
    return 2 if kind != LAST and is_in_next_range(window, plan) else 1


cdef inline void put_window(
    const Window* window, const Plan* plan, bint filled, bint climbs, Points* to
) noexcept nogil:
    cdef int kind = plan.kind
    if kind == INSTANT:
        put_instant(window, plan, climbs, STALE_BITS, to)
    elif window.count <= 0:
        return
    elif is_by_ends(kind) and window.span_ms == 0:
        put(to, window.last_ms, window.last)
    elif kind == MIN or kind == MAX or kind == LAST:
        put_single(window, plan, to)
    elif kind == SUM:
        put_sum(window, plan, to)
    elif kind == MEAN:
        put_mean(window, plan, to)
    elif kind == SPREAD:
        put_spread(window, to)
    elif kind == RESETS:
        put_resets(window, plan, to)
    elif plan.is_compact:
        if kind == DELTA:
            put_ends(window, filled, to)
        elif kind == TREND:
            put_trend(window, plan, to)
        else:
            put_rate(window, plan, filled, to)
    elif kind == TREND:
        put_trend_line(window, plan, to)
    elif kind == RATE:
        put_climb(window, plan, filled, to)
    else:
        put_path(window, plan, filled, to)
