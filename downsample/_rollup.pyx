"""The rollup kernels. What they mean: `sql/`. Twin: `twins/rollup.py`.

Samples are looked at twice. The first time their times are seen to ascend and the windows of 5 m
are found, so the columns get the length that they need and the second look cannot leave them. The
second adds the samples of a window to it and to its hour, so that an hour's sum is one of samples
and not of sums; all else of an hour is put together from its windows.

    1. Take a window as if it held finite numbers alone, without a branch: the two sums side by
       side in one register; what an addition loses by TwoSum, which needs no comparison; the
       values before drops into a buffer, of which the end moves or not.
    2. NaN, markers, infinities, and TwoSum where it overflows on its way, all end in a loss that is
       not finite, for good. Then take the window again, carefully.

Both give the same bits for finite numbers: TwoSum and the comparison of Neumaier both find exactly
what an addition lost. Values are moved as they are: between load and store nothing touches the bits
of a NaN.
"""

from libc.math cimport INFINITY, NAN
from libc.stdint cimport INT32_MAX, INT64_MIN, int32_t, int64_t, uint64_t
from libc.string cimport memset

import numpy as np

from bridge.wire._columns cimport check_offsets

from bridge.model import staleness
from downsample import rollup_rows
from downsample.rollup_rows import RollupRows

cdef extern from *:
    """
    #include <math.h>
    #include <stdint.h>
    #include <string.h>

    /* prometheus util/kahansum: Neumaier's variant of Kahan's sum. */
    typedef struct { double total, lost; } pb_sum;

    static inline void pb_add(pb_sum *sum, double number) {
        double total = sum->total + number;
        int is_less = fabs(sum->total) < fabs(number);
        double greater = is_less ? number : sum->total;
        double lesser = is_less ? sum->total : number;
        double lost = sum->lost + ((greater - total) + lesser);
        sum->lost = isinf(total) ? 0.0 : lost;
        sum->total = total;
    }

    static inline double pb_finish(const pb_sum *sum) {
        const uint64_t one_nan = 0x7FF8000000000000u;
        double total = isinf(sum->total) ? sum->total : sum->total + sum->lost;
        if (isnan(total)) memcpy(&total, &one_nan, 8);
        return total;
    }

    /* The first of equal ones; NaN gives way to whatever follows. */
    static inline double pb_min(double least, double next) {
        return next < least || isnan(least) ? next : least;
    }
    static inline double pb_max(double greatest, double next) {
        return next > greatest || isnan(greatest) ? next : greatest;
    }

    /* One window's and one hour's sum, side by side. */
    typedef double pb_pair __attribute__((vector_size(16)));
    typedef struct { pb_sum sum, hour_sum; double low, high, before; } pb_tile;

    /* Adds finite numbers; the count of drops, whose values before go to `drops`, n of them. */
    static inline long pb_take_tile(const double *values, long n, pb_tile *tile, double *drops) {
        pb_pair total = {tile->sum.total, tile->hour_sum.total};
        pb_pair lost = {tile->sum.lost, tile->hour_sum.lost};
        double low = tile->low, high = tile->high, before = tile->before;
        long drop_count = 0;
        for (long i = 0; i < n; i++) {
            double value = values[i];
            pb_pair both = {value, value};
            pb_pair next = total + both, part = next - total;
            lost += (total - (next - part)) + (both - part);
            total = next;
            low = value < low ? value : low;
            high = value > high ? value : high;
            drops[drop_count] = before;
            drop_count += value < before;
            before = value;
        }
        tile->sum.total = total[0], tile->hour_sum.total = total[1];
        tile->sum.lost = lost[0], tile->hour_sum.lost = lost[1];
        tile->low = low, tile->high = high, tile->before = before;
        return drop_count;
    }

    #define pb_rare(condition) __builtin_expect(!!(condition), 0)
    """
    ctypedef struct Sum "pb_sum":
        double total
        double lost
    ctypedef struct Tile "pb_tile":
        Sum sum
        Sum hour_sum
        double low
        double high
        double before
    long take_tile "pb_take_tile"(const double*, long, Tile*, double*) noexcept nogil
    bint isfinite(double) noexcept nogil
    void add "pb_add"(Sum*, double) noexcept nogil
    double finish "pb_finish"(const Sum*) noexcept nogil
    double least "pb_min"(double, double) noexcept nogil
    double greatest "pb_max"(double, double) noexcept nogil
    bint rare "pb_rare"(bint) noexcept nogil

cdef enum:
    FIVE_MINUTES_MS = 300_000
    HOUR_MS = 3_600_000
    TILE_ROWS = 256

cdef:
    uint64_t STALE_BITS = staleness.STALE_BITS
    int64_t TIMESTAMP_MS_MAX = rollup_rows.TIMESTAMP_MS_MAX


cdef struct Row:
    int64_t window_end_ms
    int64_t count
    Sum sum
    double min
    double max
    double first
    double last
    int64_t first_timestamp_ms
    int64_t last_timestamp_ms
    Sum drop
    int64_t resets
    int64_t stale_timestamp_ms


cdef struct Columns:
    int64_t* window_end_ms
    int32_t* count
    double* sum
    double* min
    double* max
    double* first
    double* last
    int64_t* first_timestamp_ms
    int64_t* last_timestamp_ms
    double* reset_drop
    int32_t* resets
    int64_t* stale_timestamp_ms


cdef class _Level:
    """The columns of one level, to be written or to be read."""

    cdef object offsets_owner
    cdef list owners
    cdef int64_t* offsets
    cdef Py_ssize_t rank_count
    cdef Py_ssize_t row_count
    cdef Columns columns

    def __cinit__(self, offsets, list owners):
        self.offsets_owner, self.owners = offsets, owners
        self.offsets = start_i64(offsets)
        self.rank_count, self.row_count = len(offsets) - 1, len(owners[0])
        (
            ends, counts, sums, minima, maxima, firsts, lasts, first_times, last_times, drops,
            resets, stale_times,
        ) = owners
        self.columns.window_end_ms, self.columns.count = start_i64(ends), start_i32(counts)
        self.columns.sum, self.columns.reset_drop = start_f64(sums), start_f64(drops)
        self.columns.min, self.columns.max = start_f64(minima), start_f64(maxima)
        self.columns.first, self.columns.last = start_f64(firsts), start_f64(lasts)
        self.columns.first_timestamp_ms = start_i64(first_times)
        self.columns.last_timestamp_ms = start_i64(last_times)
        self.columns.resets = start_i32(resets)
        self.columns.stale_timestamp_ms = start_i64(stale_times)

    cdef object rows(self, Py_ssize_t row_count):
        """What was written."""
        return RollupRows(self.offsets_owner, *(column[:row_count] for column in self.owners))


cdef _Level new_level(Py_ssize_t rank_count, Py_ssize_t row_count):
    """Room for so many rows; of what is in it only the first offset counts.

    The columns lie in one block. Twelve small ones were given back to the system after each batch,
    and their pages cost more than all the rest: 16.3 ns a sample instead of 7.2 in batches of a
    million samples a minute apart.
    """
    times, floats, counts = np.int64, np.float64, np.int32
    kinds = (
        times, counts, floats, floats, floats, floats, floats, times, times, floats, counts, times
    )
    block = np.empty(len(kinds) * row_count, np.int64)
    return _Level(
        np.zeros(rank_count + 1, np.int64),
        [
            block[place * row_count : (place + 1) * row_count].view(kind)[:row_count]
            for place, kind in enumerate(kinds)
        ],
    )


cdef _Level open_level(rows):
    """Rows to be read; refuses columns that do not fit together."""
    cdef Py_ssize_t rank
    cdef int64_t i, last
    cdef bint is_ascending = True
    cdef list columns = [
        rows.window_end_ms, rows.count, rows.sum, rows.min, rows.max, rows.first, rows.last,
        rows.first_timestamp_ms, rows.last_timestamp_ms, rows.reset_drop, rows.resets,
        rows.stale_timestamp_ms,
    ]
    for column in columns:
        check_offsets(rows.offsets, len(rows.window_end_ms), len(column))
    cdef _Level level = _Level(rows.offsets, columns)
    with nogil:
        for rank in range(level.rank_count):
            for i in range(level.offsets[rank], level.offsets[rank + 1]):
                last = level.columns.window_end_ms[i]
                is_ascending = is_ascending and last - HOUR_MS <= TIMESTAMP_MS_MAX and (
                    i == level.offsets[rank] or last > level.columns.window_end_ms[i - 1]
                )
    if not is_ascending:
        raise ValueError("windows ascend within a rank")
    return level


cdef int64_t* start_i64(const int64_t[::1] column):
    return <int64_t*> &column[0]


cdef int32_t* start_i32(const int32_t[::1] column):
    return <int32_t*> &column[0]


cdef double* start_f64(const double[::1] column):
    return <double*> &column[0]


# -- rows --

cdef inline int64_t hour_end_ms(int64_t time_ms) noexcept nogil:
    """The multiple at or after it; C's % has the sign of what is divided."""
    return time_ms + (HOUR_MS - time_ms % HOUR_MS) % HOUR_MS


cdef inline int64_t five_minutes_end_ms(int64_t time_ms) noexcept nogil:
    return time_ms + (FIVE_MINUTES_MS - time_ms % FIVE_MINUTES_MS) % FIVE_MINUTES_MS


cdef inline int32_t bounded(int64_t count) noexcept nogil:
    return <int32_t> min(count, <int64_t> INT32_MAX)


cdef inline void start_row(Row* row, int64_t window_end_ms) noexcept nogil:
    memset(row, 0, sizeof(Row))
    row.window_end_ms = window_end_ms


cdef inline void write_row(Columns* to, Py_ssize_t i, const Row* row) noexcept nogil:
    to.window_end_ms[i] = row.window_end_ms
    to.count[i] = bounded(row.count)
    to.sum[i] = finish(&row.sum)
    to.min[i], to.max[i] = row.min, row.max
    to.first[i], to.last[i] = row.first, row.last
    to.first_timestamp_ms[i] = row.first_timestamp_ms
    to.last_timestamp_ms[i] = row.last_timestamp_ms
    to.reset_drop[i] = finish(&row.drop)
    to.resets[i] = bounded(row.resets)
    to.stale_timestamp_ms[i] = row.stale_timestamp_ms


cdef inline void read_row(const Columns* source, Py_ssize_t i, Row* row) noexcept nogil:
    start_row(row, source.window_end_ms[i])
    row.stale_timestamp_ms = source.stale_timestamp_ms[i]
    if source.count[i] <= 0:
        return
    row.count, row.resets = source.count[i], source.resets[i]
    row.sum.total, row.drop.total = source.sum[i], source.reset_drop[i]
    row.min, row.max = source.min[i], source.max[i]
    row.first, row.last = source.first[i], source.last[i]
    row.first_timestamp_ms = source.first_timestamp_ms[i]
    row.last_timestamp_ms = source.last_timestamp_ms[i]


cdef inline void join_rows(Row* row, const Row* later) noexcept nogil:
    """Takes up a window that follows, but for its sum and drops."""
    row.stale_timestamp_ms = later.stale_timestamp_ms
    if later.count == 0:
        return
    if row.count == 0:
        row.min, row.max, row.first = later.min, later.max, later.first
        row.first_timestamp_ms = later.first_timestamp_ms
    else:
        row.min, row.max = least(row.min, later.min), greatest(row.max, later.max)
    row.count += later.count
    row.last, row.last_timestamp_ms = later.last, later.last_timestamp_ms


# -- samples into windows --

def roll_up(
    const int64_t[::1] offsets not None,
    const int64_t[::1] timestamps_ms not None,
    const double[::1] values not None,
):
    cdef Py_ssize_t ranks = offsets.shape[0] - 1, rank
    cdef Py_ssize_t window_count = 0, hour_count = 0, window = 0, hour_to = 0, begin, end
    cdef bint is_ascending = True
    cdef int64_t* starts
    cdef const int64_t* times
    cdef const double* numbers
    cdef Row five, hour
    cdef _Level fives, hours
    check_offsets(offsets, timestamps_ms.shape[0], values.shape[0])
    # Of its pages only those are ever there that windows are written to.
    windows = np.empty(timestamps_ms.shape[0] + 1, np.int64)
    starts, times, numbers = start_i64(windows), &timestamps_ms[0], &values[0]
    with nogil:
        for rank in range(ranks):
            is_ascending &= find_windows(
                times, offsets[rank], offsets[rank + 1], starts, &window_count, &hour_count
            )
        starts[window_count] = offsets[ranks]
    if not is_ascending:
        raise ValueError("times ascend strictly within a rank, up to TIMESTAMP_MS_MAX")
    fives, hours = new_level(ranks, window_count), new_level(ranks, hour_count)
    with nogil:
        for rank in range(ranks):
            end = offsets[rank + 1]
            start_row(&hour, INT64_MIN)
            while window < window_count and starts[window] < end:
                begin = starts[window]
                start_row(&five, five_minutes_end_ms(times[begin]))
                if five.window_end_ms > hour.window_end_ms:
                    if hour.window_end_ms != INT64_MIN:
                        write_row(&hours.columns, hour_to, &hour)
                        hour_to += 1
                    start_row(&hour, hour_end_ms(times[begin]))
                if not take_finite(times, numbers, begin, starts[window + 1], &five, &hour):
                    take_any(times, numbers, begin, starts[window + 1], &five, &hour)
                join_rows(&hour, &five)
                write_row(&fives.columns, window, &five)
                window += 1
            if hour.window_end_ms != INT64_MIN:
                write_row(&hours.columns, hour_to, &hour)
                hour_to += 1
            fives.offsets[rank + 1], hours.offsets[rank + 1] = window, hour_to
    return fives.rows(window), hours.rows(hour_to)


cdef bint find_windows(
    const int64_t* times,
    Py_ssize_t i,
    Py_ssize_t end,
    int64_t* starts,
    Py_ssize_t* window_count,
    Py_ssize_t* hour_count,
) noexcept nogil:
    """Where each window of a rank begins; False if its times do not ascend or go too far."""
    cdef int64_t until_ms = INT64_MIN, hour_until_ms = INT64_MIN
    cdef Py_ssize_t count = window_count[0], begin = i
    if i < end and times[end - 1] > TIMESTAMP_MS_MAX:
        return False
    for i in range(begin, end):
        if i > begin and times[i] <= times[i - 1]:
            return False
        if times[i] > until_ms or i == begin:
            if times[i] > TIMESTAMP_MS_MAX:
                return False  # not the last, so something after it is out of order
            until_ms = five_minutes_end_ms(times[i])
            starts[count] = i
            count += 1
            if times[i] > hour_until_ms or i == begin:
                hour_until_ms = hour_end_ms(times[i])
                hour_count[0] += 1
    window_count[0] = count
    return True


cdef inline bint take_finite(
    const int64_t* times,
    const double* values,
    Py_ssize_t begin,
    Py_ssize_t end,
    Row* five,
    Row* hour,
) noexcept nogil:
    """Adds the samples of a window to its row, and to sum and drops of its hour's.

    False, and nothing was added, if they or their sums are not all finite.
    """
    cdef double[TILE_ROWS] drops
    cdef Tile tile
    cdef Py_ssize_t i = begin, drop_count, j
    cdef Sum hour_drop = hour.drop
    cdef int64_t hour_resets = hour.resets
    if hour.count > 0 and values[begin] < hour.last:
        add(&hour_drop, hour.last)
        hour_resets += 1
    tile.sum, tile.hour_sum = five.sum, hour.sum
    tile.low, tile.high, tile.before = INFINITY, -INFINITY, NAN
    while i < end:
        drop_count = take_tile(values + i, min(end - i, <Py_ssize_t> TILE_ROWS), &tile, drops)
        for j in range(drop_count):
            add(&five.drop, drops[j])
            add(&hour_drop, drops[j])
        five.resets += drop_count
        i += TILE_ROWS
    if rare(not isfinite(tile.sum.lost + tile.hour_sum.lost)):
        five.drop.total = five.drop.lost = five.resets = 0
        return False
    five.sum, hour.sum = tile.sum, tile.hour_sum
    hour.drop, hour.resets = hour_drop, hour_resets + five.resets
    five.min, five.max = tile.low, tile.high
    five.count = end - begin
    five.first, five.last = values[begin], values[end - 1]
    five.first_timestamp_ms, five.last_timestamp_ms = times[begin], times[end - 1]
    return True


cdef void take_any(
    const int64_t* times,
    const double* values,
    Py_ssize_t begin,
    Py_ssize_t end,
    Row* five,
    Row* hour,
) noexcept nogil:
    """As `take_finite`, for all samples and markers."""
    cdef const uint64_t* bits = <const uint64_t*> values
    cdef Py_ssize_t i
    cdef double value, before = hour.last if hour.count > 0 else NAN
    for i in range(begin, end):
        value = values[i]
        if bits[i] == STALE_BITS:
            five.stale_timestamp_ms = times[i]
            continue
        if value < before:
            add(&hour.drop, before)
            hour.resets += 1
            if five.count > 0:
                add(&five.drop, before)
                five.resets += 1
        before = value
        add(&five.sum, value)
        add(&hour.sum, value)
        if five.count == 0:
            five.min = five.max = five.first = value
            five.first_timestamp_ms = times[i]
        five.min, five.max = least(five.min, value), greatest(five.max, value)
        five.last, five.last_timestamp_ms = value, times[i]
        five.count += 1
        five.stale_timestamp_ms = 0


# -- windows into windows --

def roll_up_again(rows):
    cdef _Level fives = open_level(rows)
    cdef _Level hours
    cdef Py_ssize_t rank, i, end, hour_count = 0, to = 0
    cdef int64_t until_ms = 0
    cdef Row five, hour
    with nogil:
        for rank in range(fives.rank_count):
            for i in range(fives.offsets[rank], fives.offsets[rank + 1]):
                if i == fives.offsets[rank] or fives.columns.window_end_ms[i] > until_ms:
                    until_ms = hour_end_ms(fives.columns.window_end_ms[i])
                    hour_count += 1
    hours = new_level(fives.rank_count, hour_count)
    with nogil:
        for rank in range(fives.rank_count):
            i, end = fives.offsets[rank], fives.offsets[rank + 1]
            while i < end:
                start_row(&hour, hour_end_ms(fives.columns.window_end_ms[i]))
                while i < end and fives.columns.window_end_ms[i] <= hour.window_end_ms:
                    read_row(&fives.columns, i, &five)
                    if five.count > 0:
                        if hour.count > 0 and five.first < hour.last:
                            add(&hour.drop, hour.last)
                            hour.resets += 1
                        add(&hour.drop, five.drop.total)
                        hour.resets += five.resets
                        add(&hour.sum, five.sum.total)
                    join_rows(&hour, &five)
                    i += 1
                write_row(&hours.columns, to, &hour)
                to += 1
            hours.offsets[rank + 1] = to
    return hours.rows(to)


# -- late samples --

def merge_rollups(old, late):
    cdef _Level olds = open_level(old)
    cdef _Level lates = open_level(late)
    cdef _Level merged
    cdef Py_ssize_t rank, i, j, i_end, j_end, to = 0
    cdef Row left, right
    if olds.rank_count != lates.rank_count:
        raise ValueError(f"{olds.rank_count} ranks and {lates.rank_count}")
    merged = new_level(olds.rank_count, olds.row_count + lates.row_count)
    with nogil:
        for rank in range(olds.rank_count):
            i, i_end = olds.offsets[rank], olds.offsets[rank + 1]
            j, j_end = lates.offsets[rank], lates.offsets[rank + 1]
            while i < i_end or j < j_end:
                if i < i_end:
                    read_row(&olds.columns, i, &left)
                if j < j_end:
                    read_row(&lates.columns, j, &right)
                if j == j_end or (i < i_end and left.window_end_ms < right.window_end_ms):
                    i += 1
                elif i == i_end or right.window_end_ms < left.window_end_ms:
                    left = right
                    j += 1
                else:
                    merge_row(&left, &right)
                    i += 1
                    j += 1
                write_row(&merged.columns, to, &left)
                to += 1
            merged.offsets[rank + 1] = to
    return merged.rows(to)


cdef void merge_row(Row* row, const Row* other) noexcept nogil:
    """Takes up the samples of another row of the same window."""
    cdef int64_t stale_ms = later_marker(row, other)
    cdef Row early = row[0], late = other[0]
    if row.count == 0 or other.count == 0:
        if row.count == 0:
            row[0] = late
        row.stale_timestamp_ms = stale_ms
        return
    if late.first_timestamp_ms < early.first_timestamp_ms:
        early, late = late, early
    row[0] = early
    if early.last_timestamp_ms < late.first_timestamp_ms:
        if late.first < early.last:
            add(&row.drop, early.last)
            row.resets += 1
        add(&row.drop, late.drop.total)
        row.resets += late.resets
    else:
        row.drop.total = row.drop.lost = row.resets = 0
        prove_drops(row, &early, &late)
        prove_drops(row, &late, &early)
    row.min, row.max = least(early.min, late.min), greatest(early.max, late.max)
    add(&row.sum, late.sum.total)
    row.count += late.count
    if early.first_timestamp_ms == late.first_timestamp_ms:
        row.first = greatest(early.first, late.first)
    if late.last_timestamp_ms > early.last_timestamp_ms:
        row.last, row.last_timestamp_ms = late.last, late.last_timestamp_ms
    elif late.last_timestamp_ms == early.last_timestamp_ms:
        row.last = greatest(early.last, late.last)
    row.stale_timestamp_ms = stale_ms


cdef int64_t later_marker(const Row* row, const Row* other) noexcept nogil:
    """The stale marker with no sample of either after it, or 0."""
    cdef int64_t stale_ms = row.stale_timestamp_ms
    if stale_ms == 0 or (other.stale_timestamp_ms != 0 and other.stale_timestamp_ms > stale_ms):
        stale_ms = other.stale_timestamp_ms
    if stale_ms == 0:
        return 0
    if row.count > 0 and row.last_timestamp_ms >= stale_ms:
        return 0
    if other.count > 0 and other.last_timestamp_ms >= stale_ms:
        return 0
    return stale_ms


cdef void prove_drops(Row* row, const Row* whole, const Row* ends) noexcept nogil:
    """Raises a row's drops to what all samples of one and those ends of the other prove.

    Args:
        row: of the window.
        whole: all its samples count, as its own drops tell.
        ends: first and last sample count where they lie outside of `whole`.
    """
    cdef Sum drop
    cdef int64_t resets = whole.resets
    drop.total, drop.lost = 0, 0
    if ends.first_timestamp_ms < whole.first_timestamp_ms and whole.first < ends.first:
        add(&drop, ends.first)
        resets += 1
    add(&drop, whole.drop.total)
    if ends.last_timestamp_ms > whole.last_timestamp_ms and ends.last < whole.last:
        add(&drop, whole.last)
        resets += 1
    if resets > 0 and (row.resets == 0 or finish(&drop) > row.drop.total):
        row.drop.total = finish(&drop)
    row.resets = max(row.resets, resets)
