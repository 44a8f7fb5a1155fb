"""The row kernels: put rows in order, merge what is there twice. Twin: `twins/rows.py`.

A sort is a stable counting sort by slot (two passes over the rows, no comparison), then a look at
every slot: rows of one series nearly always arrived in order of time, and only those that did not
are sorted.

    ends[slot + 2] counts the slot's rows, then ends[slot + 1] is where its next row goes: at first
    its begin, when all rows are placed its end, which is the next one's begin. So the counts become
    the offsets and no other array is needed.

What one scrape brings goes to a hundred thousand places in the result, each of them a cache miss;
the places are asked for PREFETCH_ROWS rows ahead: 19 ns a row instead of 23.
"""

from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc

import numpy as np

from bridge.lake._value_order cimport pb_value_less
from bridge.wire._columns cimport check_offsets

from bridge.lake.grouped import GroupedRows

cdef extern from *:
    void prefetch "__builtin_prefetch"(const void*, int) noexcept nogil

cdef enum:
    PREFETCH_ROWS = 16
    TILE_ROWS = 4096


def assign_slots(
    const int64_t[::1] series_ids not None,
    const int64_t[::1] sorted_ids not None,
    const int32_t[::1] slots_of_sorted not None,
):
    cdef Py_ssize_t n = series_ids.shape[0], m = sorted_ids.shape[0]
    cdef Py_ssize_t i, low = 0, high, middle, step, place = 0
    cdef int64_t wanted, last = 0
    cdef int32_t slot = -1
    if slots_of_sorted.shape[0] != m:
        raise ValueError("one slot for each id")
    out = np.empty(n, np.int32)
    cdef int32_t[::1] slots = out
    if m == 0:
        out.fill(-1)
        return out
    with nogil:
        for i in range(n):
            wanted = series_ids[i]
            if i == 0 or wanted != last:
                last = wanted
                # Files are sorted by id: gallop from where the last run was.
                if sorted_ids[place] <= wanted:
                    low, step = place, 1
                    while low + step < m and sorted_ids[low + step] <= wanted:
                        low += step
                        step <<= 1
                    high = low + step if low + step < m else m
                else:
                    low, high = 0, place
                while low < high:
                    middle = (low + high) >> 1
                    if sorted_ids[middle] < wanted:
                        low = middle + 1
                    else:
                        high = middle
                if low < m and sorted_ids[low] == wanted:
                    slot = slots_of_sorted[low]
                else:
                    slot = -1
                place = low if low < m else m - 1
            slots[i] = slot
    return out


def filter_rows(
    const uint32_t[::1] refs not None,
    const int64_t[::1] timestamps_ms not None,
    const double[::1] values not None,
    const int32_t[::1] slot_of_ref not None,
    int64_t after_ms,
    int64_t until_ms,
):
    cdef Py_ssize_t n = refs.shape[0], known = slot_of_ref.shape[0]
    cdef Py_ssize_t first = 0, last, i, j, found, kept = 0, room = min(n, TILE_ROWS)
    cdef uint32_t[TILE_ROWS] tile
    cdef int32_t slot
    cdef bint is_known
    cdef int64_t time
    cdef const uint64_t* bits = <const uint64_t*> &values[0]
    cdef int32_t* out_slots
    cdef int64_t* out_times
    cdef uint64_t* out_bits
    if timestamps_ms.shape[0] != n or values.shape[0] != n:
        raise ValueError("columns of equal length")
    slots = np.empty(room, np.int32)
    times, kept_values = np.empty(room, np.int64), np.empty(room, np.float64)
    out_slots, out_times, out_bits = start_i32(slots), start_i64(times), start_bits(kept_values)
    with nogil:
        while first < n and known:
            last = min(first + TILE_ROWS, n)
            if room - kept < last - first:
                # Goes on as it began, or at least half as fast.
                room = min(n, max(2 * room, <Py_ssize_t> (1.1 * kept / first * n) + TILE_ROWS))
                with gil:
                    slots, times = grown(slots, kept, room), grown(times, kept, room)
                    kept_values = grown(kept_values, kept, room)
                    out_slots, out_times = start_i32(slots), start_i64(times)
                    out_bits = start_bits(kept_values)
            # Both loops write every row where the next one kept belongs, and then move on or not:
            # there is nothing to mispredict.
            found = 0
            for i in range(first, last):
                tile[found] = <uint32_t> (i - first)
                is_known = refs[i] < known
                slot = slot_of_ref[refs[i] if is_known else 0]
                found += is_known & (slot >= 0)
            for j in range(found):
                i = first + tile[j]
                time = timestamps_ms[i]
                out_slots[kept] = slot_of_ref[refs[i]]
                out_times[kept] = time
                out_bits[kept] = bits[i]
                kept += (time > after_ms) & (time <= until_ms)
            first = last
    for column in (slots, times, kept_values):
        cut_off(column, kept)
    return slots, times, kept_values


cdef object grown(column, Py_ssize_t kept, Py_ssize_t room):
    """A longer array with the same rows; a new one, which comes in huge pages where it can."""
    longer = np.empty(room, column.dtype)
    longer[:kept] = column[:kept]
    return longer


cdef int cut_off(column, Py_ssize_t count) except -1:
    """Gives the memory of all but the first rows back; nobody else may have the array."""
    column.resize(count, refcheck=False)
    return 0


cdef int32_t* start_i32(int32_t[::1] column):
    return &column[0]


cdef int64_t* start_i64(int64_t[::1] column):
    return &column[0]


cdef uint64_t* start_bits(double[::1] column):
    return <uint64_t*> &column[0]


# -- sorting --

cdef struct Row:
    int64_t time
    uint64_t bits
    int64_t order


cdef struct Columns:
    int64_t* times
    uint64_t* bits
    int64_t* orders  # NULL if they are not wanted


cdef class _Sorter:
    """One counting sort: count every part, begin, place every part, finish."""

    cdef Py_ssize_t slot_count
    cdef int64_t* ends
    cdef Columns rows
    cdef object arrays  # owners of the above: ends, times, values, orders or None
    cdef bint want_order

    def __init__(self, Py_ssize_t slot_count, bint want_order):
        if slot_count < 0:
            raise ValueError(f"{slot_count} slots")
        ends = np.zeros(slot_count + 2, np.int64)
        self.slot_count = slot_count
        self.ends = start_i64(ends)
        self.arrays = (ends,)
        self.want_order = want_order

    cdef int begin(self) except -1:
        """Turns counts into the places of the first rows."""
        cdef Py_ssize_t i
        for i in range(2, self.slot_count + 2):
            self.ends[i] += self.ends[i - 1]
        cdef Py_ssize_t total = self.ends[self.slot_count + 1]
        times, values = np.empty(total, np.int64), np.empty(total, np.float64)
        orders = np.empty(total, np.int64) if self.want_order else None
        self.rows.times, self.rows.bits = start_i64(times), start_bits(values)
        self.rows.orders = start_i64(orders) if self.want_order else NULL
        self.arrays += (times, values, orders)
        return 0

    cdef object finish(self):
        """Sorts the slots whose rows did not come in order of time."""
        cdef Py_ssize_t slot
        cdef bint has_room = True
        with nogil:
            for slot in range(self.slot_count):
                has_room = sort_slot(&self.rows, self.ends[slot], self.ends[slot + 1])
                if not has_room:
                    break
        if not has_room:
            raise MemoryError
        ends, times, values, orders = self.arrays
        return GroupedRows(ends[: self.slot_count + 1], times, values, orders)


cdef inline void place_row(
    int64_t* ends, Columns* rows, int32_t slot, int64_t time, uint64_t bits, int64_t order
) noexcept nogil:
    cdef int64_t to = ends[slot + 1]
    ends[slot + 1] = to + 1
    rows.times[to] = time
    rows.bits[to] = bits
    if rows.orders != NULL:
        rows.orders[to] = order


cdef inline void prefetch_place(int64_t* ends, Columns* rows, int32_t slot) noexcept nogil:
    """For any slot, also -1."""
    cdef int64_t to = ends[slot + 1]
    prefetch(rows.times + to, 1)
    prefetch(rows.bits + to, 1)


cdef bint sort_slot(Columns* rows, int64_t first, int64_t last) noexcept nogil:
    """Sorts by time, stable; False if there is no memory."""
    cdef int64_t i = first + 1
    while i < last and rows.times[i] >= rows.times[i - 1]:
        i += 1
    return i >= last or shift_rows(rows, first, i, last) or merge_runs(rows, first, last)


cdef bint shift_rows(Columns* rows, int64_t first, int64_t i, int64_t last) noexcept nogil:
    """Sorts by shifting the few rows that are late; False if that would take too long.

    Args:
        rows: all.
        first: of the slot.
        i: the rows before it are in order.
        last: of the slot.
    """
    cdef int64_t budget = 4 * (last - first), to
    cdef Row row
    row.order = 0
    while i < last:
        if rows.times[i] < rows.times[i - 1]:
            row.time, row.bits = rows.times[i], rows.bits[i]
            if rows.orders != NULL:
                row.order = rows.orders[i]
            to = i
            while to > first and rows.times[to - 1] > row.time:
                rows.times[to], rows.bits[to] = rows.times[to - 1], rows.bits[to - 1]
                if rows.orders != NULL:
                    rows.orders[to] = rows.orders[to - 1]
                to -= 1
            rows.times[to], rows.bits[to] = row.time, row.bits
            if rows.orders != NULL:
                rows.orders[to] = row.order
            budget -= i - to
            if budget < 0:
                return False
        i += 1
    return True


cdef bint merge_runs(Columns* rows, int64_t first, int64_t last) noexcept nogil:
    """Sorts by merging ascending runs two by two, as often as it takes."""
    cdef int64_t n = last - first, i
    cdef Row* room = <Row*> malloc(2 * <size_t> n * sizeof(Row))
    cdef Row* source = room
    cdef Row* target = room + n
    if room == NULL:
        return False
    for i in range(n):
        source[i].time, source[i].bits = rows.times[first + i], rows.bits[first + i]
        source[i].order = rows.orders[first + i] if rows.orders != NULL else 0
    while merge_neighbours(source, target, n):
        source, target = target, source
    for i in range(n):
        rows.times[first + i], rows.bits[first + i] = target[i].time, target[i].bits
        if rows.orders != NULL:
            rows.orders[first + i] = target[i].order
    free(room)
    return True


cdef bint merge_neighbours(const Row* source, Row* target, int64_t n) noexcept nogil:
    """Merges each two ascending runs into one; False if there was only one merge."""
    cdef int64_t left, left_end, right, right_end = 0, to = 0, merges = 0
    while right_end < n:
        left = right_end
        left_end = right = run_end(source, left, n)
        right_end = run_end(source, right, n) if right < n else right
        while left < left_end and right < right_end:
            if source[right].time < source[left].time:
                target[to] = source[right]
                right += 1
            else:
                target[to] = source[left]
                left += 1
            to += 1
        while left < left_end:
            target[to] = source[left]
            left += 1
            to += 1
        while right < right_end:
            target[to] = source[right]
            right += 1
            to += 1
        merges += 1
    return merges > 1


cdef inline int64_t run_end(const Row* rows, int64_t i, int64_t n) noexcept nogil:
    """The end of the ascending run that begins at row i."""
    i += 1
    while i < n and rows[i].time >= rows[i - 1].time:
        i += 1
    return i


def group_rows(
    const int32_t[::1] slots not None,
    const int64_t[::1] timestamps_ms not None,
    const double[::1] values not None,
    Py_ssize_t slot_count,
    *,
    bint want_order=False,
):
    cdef Py_ssize_t n = slots.shape[0], i
    cdef int32_t slot = 0
    cdef const uint64_t* bits
    cdef int64_t* ends
    cdef Columns rows
    if timestamps_ms.shape[0] != n or values.shape[0] != n:
        raise ValueError("columns of equal length")
    cdef _Sorter sorter = _Sorter(slot_count, want_order)
    ends = sorter.ends
    with nogil:
        for i in range(n):
            slot = slots[i]
            if slot >= slot_count:
                break
            if slot >= 0:
                ends[slot + 2] += 1
    if n and slot >= slot_count:
        raise ValueError(f"slot {slot} of {slot_count}")
    sorter.begin()
    rows, bits = sorter.rows, <const uint64_t*> &values[0]
    with nogil:
        for i in range(n):
            if i + PREFETCH_ROWS < n:
                prefetch_place(ends, &rows, max(slots[i + PREFETCH_ROWS], -1))
            if slots[i] >= 0:
                place_row(ends, &rows, slots[i], timestamps_ms[i], bits[i], i)
    return sorter.finish()


def sort_head_rows(
    blocks,
    const int32_t[::1] rank_of_ref not None,
    Py_ssize_t rank_count,
    int64_t after_ms,
    int64_t until_ms,
    *,
    bint want_order=False,
):
    cdef Py_ssize_t known = rank_of_ref.shape[0], n, i
    cdef const uint32_t[::1] refs
    cdef const int64_t[::1] times
    cdef const double[::1] values
    cdef const uint64_t* bits
    cdef int64_t* ends
    cdef int64_t base = 0
    cdef int32_t rank
    cdef bint is_outside = False
    cdef Columns rows
    cdef _Sorter sorter = _Sorter(rank_count, want_order)
    ends = sorter.ends
    blocks = list(blocks)
    for refs, times, values in blocks:
        n = refs.shape[0]
        if times.shape[0] != n or values.shape[0] != n:
            raise ValueError("columns of equal length")
        with nogil:
            for i in range(n):
                if refs[i] >= known or rank_of_ref[refs[i]] >= rank_count:
                    is_outside = True
                    break
                rank = rank_of_ref[refs[i]]
                if rank >= 0 and after_ms < times[i] <= until_ms:
                    ends[rank + 2] += 1
        if is_outside:
            raise ValueError(f"ref {refs[i]}: it, or its rank, is out of bounds")
    sorter.begin()
    rows = sorter.rows
    for refs, times, values in blocks:
        n = refs.shape[0]
        bits = <const uint64_t*> &values[0]
        with nogil:
            for i in range(n):
                if i + PREFETCH_ROWS < n:
                    prefetch_place(ends, &rows, max(rank_of_ref[refs[i + PREFETCH_ROWS]], -1))
                rank = rank_of_ref[refs[i]]
                if rank >= 0 and after_ms < times[i] <= until_ms:
                    place_row(ends, &rows, rank, times[i], bits[i], base + i)
        base += n
    return sorter.finish()


# -- merging --

def merge_duplicates(grouped):
    cdef const int64_t[::1] offsets = grouped.offsets
    cdef const int64_t[::1] times = grouped.timestamps_ms
    cdef const double[::1] values = grouped.values
    cdef Py_ssize_t slots = offsets.shape[0] - 1, slot, n = times.shape[0]
    cdef int64_t i, first, last, to = 0
    cdef bint has_any = False
    cdef const uint64_t* bits = <const uint64_t*> &values[0]
    cdef int64_t* out_offsets
    cdef int64_t* out_times
    cdef uint64_t* out_bits
    check_offsets(offsets, n, values.shape[0])
    with nogil:
        for slot in range(slots):
            for i in range(offsets[slot] + 1, offsets[slot + 1]):
                if times[i] == times[i - 1]:
                    has_any = True
                    break
            if has_any:
                break
    if not has_any:
        return GroupedRows(grouped.offsets, grouped.timestamps_ms, grouped.values)
    new_offsets, new_times = np.empty(slots + 1, np.int64), np.empty(n, np.int64)
    new_values = np.empty(n, np.float64)
    out_offsets, out_times = start_i64(new_offsets), start_i64(new_times)
    out_bits = start_bits(new_values)
    with nogil:
        for slot in range(slots):
            out_offsets[slot] = to
            first, last = offsets[slot], offsets[slot + 1]
            for i in range(first, last):
                if i > first and times[i] == times[i - 1]:
                    if pb_value_less(out_bits[to - 1], bits[i]):
                        out_bits[to - 1] = bits[i]
                else:
                    out_times[to] = times[i]
                    out_bits[to] = bits[i]
                    to += 1
        out_offsets[slots] = to
    cut_off(new_times, to)
    cut_off(new_values, to)
    return GroupedRows(new_offsets, new_times, new_values)
