"""One series out of the samples of several replicas.

Two Prometheus servers of an HA pair scrape the same targets a few seconds apart and write the same
series. Mixing their samples would halve the spacing and make counters seem to fall, so one replica
is followed at a time. The rule knows nothing but the samples themselves, series by series and hour
by hour (hours are open on the left, closed on the right), so the answer does not depend on where a
scan begins, and read, rollup and compaction agree:

    1. Follow the lowest replica name of the hour, none lowest of all.
    2. Where another replica has two samples or more before the next one of the followed (or before
       the end of the hour, if it has none left), the followed has missed scrapes: go on with that
       other replica, at the first of those samples. A sample that lies closer to the one taken last
       than half its way to its own successor is passed over: it is the same scrape, seen by the
       other. Of several replicas the one with the earliest sample is taken, then the lowest name.
    3. Go on as in 2.

So one missed scrape is borne and a second one is not: a gap is never longer than two intervals
where any replica has samples. No interval is estimated; the other replica is the clock.

Invariants:
    READ-5  for a pair of replicas the rule keeps all that it chose when it is applied again.
            Compaction keeps the chosen rows with their replica, so reads before and after agree.

Source: the penalty of thanos pkg/dedup, made independent of where an iteration starts.
"""

from bisect import bisect_left, bisect_right

import numpy as np
from numpy.typing import NDArray

from bridge.wire.columns import I32Array, I64Array

HOUR_MS = 3_600_000

BoolArray = NDArray[np.bool_]


def choose_replicas(offsets: I64Array, timestamps_ms: I64Array, replicas: I32Array) -> BoolArray:
    """Which rows stay when the replicas of each series become one.

    Args:
        offsets: (n_series + 1,) int64 into the rows.
        timestamps_ms: (n_rows,) int64, Unix ms, ascending within a series; whole hours of it.
        replicas: (n_rows,) int32, place of each row's replica among the names in their order.

    Returns:
        (n_rows,) bool.
    """
    row_count = len(timestamps_ms)
    keep = np.ones(row_count, np.bool_)
    if not row_count:
        return keep
    starts = _hour_starts(offsets, timestamps_ms)
    counts = np.diff(starts, append=row_count)
    lowest = np.minimum.reduceat(replicas, starts)
    if np.array_equal(lowest, np.maximum.reduceat(replicas, starts)):
        return keep
    hour_of_row = np.repeat(np.arange(len(starts)), counts)
    np.equal(replicas, lowest[hour_of_row], out=keep)
    # Most hours have the lowest replica whole and are done with that.
    for hour in _hours_with_gaps(hour_of_row, timestamps_ms, replicas, keep).tolist():
        begin, end = int(starts[hour]), int(starts[hour] + counts[hour])
        keep[begin:end] = _follow(timestamps_ms[begin:end].tolist(), replicas[begin:end].tolist())
    return keep


def _hour_starts(offsets: I64Array, timestamps_ms: I64Array) -> I64Array:
    """First row of each (series, hour)."""
    hours = (timestamps_ms - 1) // HOUR_MS
    is_first = np.empty(len(hours), np.bool_)
    is_first[0] = True
    np.not_equal(hours[1:], hours[:-1], out=is_first[1:])
    firsts = offsets[:-1]
    is_first[firsts[firsts < len(hours)]] = True
    return np.flatnonzero(is_first)


def _hours_with_gaps(
    hour_of_row: I64Array, timestamps_ms: I64Array, replicas: I32Array, keep: BoolArray
) -> I64Array:
    """Hours in which another replica has two samples between neighbours of the lowest.

    Args:
        hour_of_row: (n_rows,) int64, ascending.
        timestamps_ms: (n_rows,) int64.
        replicas: (n_rows,) int32.
        keep: (n_rows,) bool, the rows of the lowest replica of each hour.
    """
    # Sentinels stand for "none before" and "none after", in hours that there are not.
    kept = np.flatnonzero(keep)
    kept_ms = np.concatenate([[0], timestamps_ms[kept], [0]])
    kept_hour = np.concatenate([[-1], hour_of_row[kept], [-1]])
    others = np.flatnonzero(~keep)
    key = hour_of_row[others] * (int(replicas.max()) + 1) + replicas[others]
    order = np.argsort(key, kind="stable")
    others, key = others[order], key[order]
    time, hour = timestamps_ms[others], hour_of_row[others]
    gap = np.cumsum(keep)[others]  # lies behind kept row `gap`, counted from 1
    has_before = kept_hour[gap] == hour
    is_inside = ~(has_before & (kept_ms[gap] == time))
    is_inside &= ~((kept_hour[gap + 1] == hour) & (kept_ms[gap + 1] == time))
    is_inside[1:] &= (key[1:] != key[:-1]) | (time[1:] != time[:-1])
    key, time, hour, gap = key[is_inside], time[is_inside], hour[is_inside], gap[is_inside]
    has_before = has_before[is_inside]
    # The second sample of a run in one gap, or the third where the first is passed over.
    is_next = np.zeros(len(key), np.bool_)
    is_next[1:] = (key[1:] == key[:-1]) & (gap[1:] == gap[:-1])
    second = np.flatnonzero(is_next)
    is_passed = has_before[second] & (
        2 * (time[second - 1] - kept_ms[gap[second]]) < time[second] - time[second - 1]
    )
    is_passed &= ~is_next[second - 1]
    found: I64Array = np.unique(hour[second[~is_passed]])
    return found


def _follow(times: list[int], replicas: list[int]) -> list[bool]:
    """The rule for one hour of one series, row by row; times ascend."""
    times_of: dict[int, list[int]] = {}
    for time, replica in zip(times, replicas, strict=True):
        own = times_of.setdefault(replica, [])
        if not own or own[-1] != time:
            own.append(time)
    current, taken = min(times_of), None
    chosen = set()
    while True:
        own = times_of[current]
        place = 0 if taken is None else bisect_right(own, taken)
        following = own[place] if place < len(own) else None
        rivals = [
            (others[first], replica)
            for replica, others in times_of.items()
            if replica != current and (first := _first_in_gap(others, taken, following)) is not None
        ]
        if rivals:
            taken, current = min(rivals)
        elif following is None:
            return [row in chosen for row in zip(times, replicas, strict=True)]
        else:
            taken = following
        chosen.add((taken, current))


def _first_in_gap(times: list[int], after: int | None, before: int | None) -> int | None:
    """Where a replica is to be taken up between two samples of another; None if it is not."""
    first = 0 if after is None else bisect_right(times, after)
    end = len(times) if before is None else bisect_left(times, before)
    if after is not None:
        while first + 1 < end and 2 * (times[first] - after) < times[first + 1] - times[first]:
            first += 1
    return first if end - first >= 2 else None
