"""The loops of a merge: keys into ranks, runs to their places. Twin: `twins/merge.py`.

A key is a metric, as its place among the metrics of a batch, and a series id. Files of one time hold
nearly the same series, so both loops over keys expect the next one of one side to be the next one of
the other, and gallop where it is not.
"""

from libc.stdint cimport int32_t, int64_t, uint64_t
from libc.string cimport memcpy

import numpy as np

from bridge.lake._value_order cimport pb_value_less
from bridge.wire._columns cimport check_offsets

cdef extern from *:
    void prefetch "__builtin_prefetch"(const void*, int) noexcept nogil

cdef enum:
    SHORT_ROWS = 8  # a call of memcpy costs as much as so many rows
    PREFETCH_RUNS = 8


def find_runs(codes, const int64_t[::1] series_ids not None):
    cdef Py_ssize_t n = series_ids.shape[0], i, found = 0
    cdef const int32_t[::1] own
    cdef const int32_t* code = NULL
    cdef bint is_sorted = True, is_first
    cdef int64_t[::1] begins
    out = np.empty(n + 1, np.int64)
    begins = out
    if codes is not None:
        own = codes
        if own.shape[0] != n:
            raise ValueError("columns of equal length")
        if n:
            code = &own[0]
    with nogil:
        if code == NULL:
            for i in range(n):
                begins[found] = i
                is_first = i == 0 or series_ids[i] != series_ids[i - 1]
                is_sorted &= i == 0 or series_ids[i] >= series_ids[i - 1]
                found += is_first
        else:
            for i in range(n):
                begins[found] = i
                is_first = (
                    i == 0 or series_ids[i] != series_ids[i - 1] or code[i] != code[i - 1]
                )
                is_sorted &= (
                    i == 0 or series_ids[i] >= series_ids[i - 1] or code[i] != code[i - 1]
                )
                found += is_first
        begins[found] = n
    out.resize(found + 1, refcheck=False)
    return out, bool(is_sorted)


def unite_keys(
    const int32_t[::1] metrics not None,
    const int64_t[::1] ids not None,
    const int32_t[::1] other_metrics not None,
    const int64_t[::1] other_ids not None,
):
    cdef Py_ssize_t n = ids.shape[0], m = other_ids.shape[0], i = 0, j = 0, to = 0
    cdef bint is_less, is_same
    cdef int32_t[::1] out_metrics
    cdef int64_t[::1] out_ids
    if metrics.shape[0] != n or other_metrics.shape[0] != m:
        raise ValueError("columns of equal length")
    united_metrics, united_ids = np.empty(n + m, np.int32), np.empty(n + m, np.int64)
    out_metrics, out_ids = united_metrics, united_ids
    with nogil:
        while i < n and j < m:
            if metrics[i] == other_metrics[j] and ids[i] == other_ids[j]:
                out_metrics[to], out_ids[to] = metrics[i], ids[i]
                i += 1
                j += 1
            elif is_before(metrics[i], ids[i], other_metrics[j], other_ids[j]):
                out_metrics[to], out_ids[to] = metrics[i], ids[i]
                i += 1
            else:
                out_metrics[to], out_ids[to] = other_metrics[j], other_ids[j]
                j += 1
            to += 1
        while i < n:
            out_metrics[to], out_ids[to] = metrics[i], ids[i]
            i += 1
            to += 1
        while j < m:
            out_metrics[to], out_ids[to] = other_metrics[j], other_ids[j]
            j += 1
            to += 1
    for column in (united_metrics, united_ids):
        column.resize(to, refcheck=False)
    return united_metrics, united_ids


cdef inline bint is_before(
    int32_t metric, int64_t series_id, int32_t other_metric, int64_t other_id
) noexcept nogil:
    return metric < other_metric or (metric == other_metric and series_id < other_id)


def rank_runs(
    const int32_t[::1] metrics not None,
    const int64_t[::1] ids not None,
    const int64_t[::1] begins not None,
    const int32_t[::1] all_metrics not None,
    const int64_t[::1] all_ids not None,
    int64_t[::1] counts not None,
):
    cdef Py_ssize_t n = ids.shape[0], m = all_ids.shape[0], i, place = 0, low, high, middle, step
    cdef bint is_known = True
    if (
        metrics.shape[0] != n or begins.shape[0] != n + 1
        or all_metrics.shape[0] != m or counts.shape[0] != m
    ):
        raise ValueError("columns of equal length")
    out = np.empty(n, np.int32)
    cdef int32_t[::1] ranks = out
    with nogil:
        for i in range(n):
            if place < m and is_before(all_metrics[place], all_ids[place], metrics[i], ids[i]):
                low, step = place, 1
                while low + step < m and is_before(
                    all_metrics[low + step], all_ids[low + step], metrics[i], ids[i]
                ):
                    low += step
                    step <<= 1
                high = low + step if low + step < m else m
                low += 1
                while low < high:
                    middle = (low + high) >> 1
                    if is_before(all_metrics[middle], all_ids[middle], metrics[i], ids[i]):
                        low = middle + 1
                    else:
                        high = middle
                place = low
            if place == m or all_metrics[place] != metrics[i] or all_ids[place] != ids[i]:
                is_known = False
                break
            ranks[i] = <int32_t> place
            counts[place] += begins[i + 1] - begins[i]
            place += 1
    if not is_known:
        raise ValueError(f"key {i} is unknown, or not behind the one before")
    return out


cdef inline bint is_rank(int32_t rank, Py_ssize_t rank_count) noexcept nogil:
    return 0 <= rank < rank_count


def place_runs(
    const int32_t[::1] ranks not None,
    const int64_t[::1] begins not None,
    const int64_t[::1] timestamps_ms not None,
    const double[::1] values not None,
    int64_t[::1] ends not None,
    int64_t[::1] out_timestamps_ms not None,
    double[::1] out_values not None,
    order,
    int64_t first_order,
):
    cdef Py_ssize_t n = ranks.shape[0], rank_count = ends.shape[0], i
    cdef int64_t to, begin, count, k, row_count = out_timestamps_ms.shape[0]
    cdef int64_t[::1] own_order
    cdef int64_t* orders = NULL
    cdef bint is_inside = True
    cdef const int64_t* times
    cdef const uint64_t* bits
    cdef int64_t* out_times
    cdef uint64_t* out_bits
    if begins.shape[0] != n + 1 or out_values.shape[0] != row_count:
        raise ValueError("columns of equal length")
    check_offsets(begins, timestamps_ms.shape[0], values.shape[0])
    if n == 0:
        return
    if order is not None:
        own_order = order
        if own_order.shape[0] != row_count:
            raise ValueError("columns of equal length")
        orders = &own_order[0]
    times, bits = &timestamps_ms[0], <const uint64_t*> &values[0]
    out_times, out_bits = &out_timestamps_ms[0], <uint64_t*> &out_values[0]
    with nogil:
        for i in range(n):
            if i + PREFETCH_RUNS < n:
                # Short runs of many files: each has cache lines of its own to be fetched.
                if is_rank(ranks[i + PREFETCH_RUNS], rank_count):
                    to = ends[ranks[i + PREFETCH_RUNS]]
                    prefetch(out_times + to, 1)
                    prefetch(out_bits + to, 1)
            begin, count = begins[i], begins[i + 1] - begins[i]
            if not is_rank(ranks[i], rank_count):
                is_inside = False
                break
            to = ends[ranks[i]]
            if to < 0 or to > row_count - count:
                is_inside = False
                break
            ends[ranks[i]] = to + count
            if count < SHORT_ROWS:
                for k in range(count):
                    out_times[to + k] = times[begin + k]
                    out_bits[to + k] = bits[begin + k]
            else:
                memcpy(out_times + to, times + begin, count * sizeof(int64_t))
                memcpy(out_bits + to, bits + begin, count * sizeof(uint64_t))
            if orders != NULL:
                for k in range(count):
                    orders[to + k] = first_order + begin + k
    if not is_inside:
        raise ValueError(f"rank {ranks[i]} has no place for its rows")


def order_of_times(const int64_t[::1] offsets not None, const int64_t[::1] timestamps_ms not None):
    cdef Py_ssize_t n = timestamps_ms.shape[0], rank
    cdef int64_t i
    cdef int has_equal = 0, is_descending = 0
    check_offsets(offsets, n, n)
    with nogil:
        for rank in range(offsets.shape[0] - 1):
            for i in range(offsets[rank] + 1, offsets[rank + 1]):
                has_equal |= timestamps_ms[i] == timestamps_ms[i - 1]
                is_descending |= timestamps_ms[i] < timestamps_ms[i - 1]
    return 2 if is_descending else has_equal


def keep_greatest(
    const int64_t[::1] offsets not None,
    const int64_t[::1] timestamps_ms not None,
    const double[::1] values not None,
):
    cdef Py_ssize_t n = timestamps_ms.shape[0], rank
    cdef int64_t i, best
    cdef const uint64_t* bits = <const uint64_t*> &values[0]
    check_offsets(offsets, n, values.shape[0])
    out = np.zeros(n, np.bool_)
    cdef unsigned char[::1] keep = out.view(np.uint8)
    with nogil:
        for rank in range(offsets.shape[0] - 1):
            best = offsets[rank]
            for i in range(offsets[rank], offsets[rank + 1]):
                if timestamps_ms[i] != timestamps_ms[best]:
                    keep[best] = 1
                    best = i
                elif pb_value_less(bits[best], bits[i]):
                    best = i
            if offsets[rank] < offsets[rank + 1]:
                keep[best] = 1
    return out
