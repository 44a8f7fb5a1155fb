"""The emission kernel, window by window: what an engine gets of each.

An engine computes with the samples that its range holds. Where ranges begin and end with windows
(compact), a few samples per window give it what all of them would:

    rate, delta   The first and the last sample, and between them one peak, whose value is the sum
                  of all values before drops, and a fall. Near the ends of a series and its gaps the
                  number of samples matters as well (`edges.py`).
    resets        As many falls as there were.
    deriv         Two samples beside the window's middle, whose mean is that of the window; where
                  other samples come beside it, as many as there were.
    min, max ...  One sample. With ranges that are closed on the left, the sample at a window's end
                  belongs to the next range too: then it leaves as itself and all else before it.
    avg           As many samples of the mean as there were, or a fraction of that.
    the newest    Those samples that some evaluation takes, where evaluations are far apart.

Elsewhere (spread) the samples of a window lie on a line through it, near enough to each other that
a range which cuts a window gets its share.

Invariants:
    Samples of a slot ascend strictly: each lies in its window, between its first and its last one.
    Values that were real keep their bits; NaN that comes of an addition is `NAN_BITS`.
"""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from bridge.lake.grouped import GroupedRows
from bridge.lake.window_rows import WindowRows
from bridge.read.kinds import Emission, Kind
from bridge.read.twins.aggregates import (
    even_mean_points,
    even_sum_points,
    last_points,
    mean_points,
    same_points,
    single_points,
    spread_points,
    sum_points,
)
from bridge.read.twins.climbs import (
    climb_points,
    drop_values,
    end_points,
    path_count,
    path_points,
    rate_points,
    reset_points,
    trend_count,
    trend_line_points,
    trend_points,
)
from bridge.read.twins.edges import filled_of
from bridge.read.twins.instants import instant_points, instant_points_max, is_counter
from bridge.read.twins.points import (
    NAN_BITS,
    Point,
    count_max,
    is_in_next_range,
    spaced_count,
    weighted_count,
)
from bridge.read.twins.windows import Window, is_touched, slots_of
from bridge.wire.columns import I64Array

__all__ = ["NAN_BITS", "Emitter", "count_points", "emit"]


class Emitter:
    """Rows that are checked and counted, and what leaves of some slots of them."""

    def __init__(self, rows: WindowRows, emission: Emission) -> None:
        """Looks at all rows."""
        self._emission = emission
        self._slots = [
            [
                (window, is_filled)
                for window, is_filled in zip(windows, filled_of(windows, emission), strict=True)
            ]
            for windows in slots_of(rows, emission)
        ]
        self._tells_resets = rows.resets is not None
        self.counts: I64Array = np.array(
            [
                sum(
                    _points_max(window, emission, is_filled)
                    for window, is_filled in windows
                    if is_touched(window, emission)
                )
                for windows in self._slots
            ],
            np.int64,
        )

    def emit(self, begin: int, end: int, counters: NDArray[np.int8] | None) -> GroupedRows:
        """The samples of slots."""
        if counters is not None and len(counters) != len(self._slots):
            raise ValueError("one counter for each slot")
        emission = self._emission
        offsets, points = [0], list[Point]()
        for slot in range(begin, end):
            windows = self._slots[slot]
            counter = -1 if counters is None else int(counters[slot])
            if counter < 0:
                counter = self._tells_resets and is_counter([window for window, _ in windows])
            for window, is_filled in windows:
                if is_touched(window, emission):
                    points += [
                        (time_ms, value)
                        for time_ms, value in _points(
                            window, emission, is_filled=is_filled, climbs=counter == 1
                        )
                        if emission.after_ms < time_ms <= emission.until_ms
                    ]
            offsets.append(len(points))
        return GroupedRows(
            np.array(offsets, np.int64),
            np.array([time_ms for time_ms, _ in points], np.int64),
            np.array([value for _, value in points], np.float64),
        )


def emit(
    rows: WindowRows, emission: Emission, counters: NDArray[np.int8] | None = None
) -> GroupedRows:
    """The samples that leave for the windows."""
    return Emitter(rows, emission).emit(0, len(rows.offsets) - 1, counters)


def count_points(rows: WindowRows, emission: Emission) -> I64Array:
    """How many samples leave for each slot at most."""
    return Emitter(rows, emission).counts


BY_ENDS = {Kind.RATE, Kind.DELTA, Kind.IRATE, Kind.TREND, Kind.RESETS, Kind.LAST}
"""Where all samples have one time, the last one leaves."""


def _points(window: Window, emission: Emission, *, is_filled: bool, climbs: bool) -> list[Point]:
    """What leaves for a window that some evaluation looks at, whatever the span."""
    kind = emission.kind
    if kind is Kind.INSTANT:
        return instant_points(window, emission, climbs=climbs)
    if window.count <= 0:
        return []
    if kind in BY_ENDS and window.span_ms == 0:
        return [(window.last_ms, window.last)]
    by_kind = SPACED_POINTS if emission.spacing_ms else COMPACT_POINTS
    return by_kind[kind](window, emission, is_filled)


def _points_max(window: Window, emission: Emission, is_filled: bool) -> int:
    """How many of them there may be."""
    kind = emission.kind
    if kind is Kind.INSTANT:
        return instant_points_max(window, emission)
    if window.count <= 0:
        return 0
    if kind in BY_ENDS and window.span_ms == 0:
        return 1
    if kind in {Kind.RATE, Kind.DELTA, Kind.IRATE, Kind.TREND}:
        return _climb_points_max(window, emission, is_filled)
    return _aggregate_points_max(window, emission)


def _climb_points_max(window: Window, emission: Emission, is_filled: bool) -> int:
    if emission.kind is Kind.TREND:
        return trend_count(window, emission)
    if emission.spacing_ms:
        return path_count(window, emission, is_filled)
    is_rate = emission.kind in {Kind.RATE, Kind.IRATE}
    count = 2 + (len(drop_values(window, emission.kind)) if is_rate else 0)
    return max(count, count_max(window)) if is_filled else count


def _aggregate_points_max(window: Window, emission: Emission) -> int:
    kind = emission.kind
    if kind is Kind.SPREAD or (kind is Kind.SUM and emission.spacing_ms):
        return count_max(window)
    if kind is Kind.MEAN:
        return min(weighted_count(window, emission.weight_divisor), window.span_ms + 1)
    if kind is Kind.RESETS:
        falling = min(3 + 2 * max(window.resets, 0), window.span_ms + 1)
        spacing_ms = emission.spacing_ms
        return max(falling, spaced_count(window, spacing_ms)) if spacing_ms else falling
    if emission.spacing_ms:
        return spaced_count(window, emission.spacing_ms)
    return 2 if kind is not Kind.LAST and is_in_next_range(window, emission) else 1


Points = Callable[[Window, Emission, bool], list[Point]]
"""Of a window, and whether it is filled: what leaves."""


COMPACT_POINTS: Mapping[Kind, Points] = {
    Kind.RATE: rate_points,
    Kind.DELTA: end_points,
    Kind.IRATE: rate_points,
    Kind.RESETS: reset_points,
    Kind.TREND: trend_points,
    Kind.MIN: single_points,
    Kind.MAX: single_points,
    Kind.SUM: sum_points,
    Kind.MEAN: mean_points,
    Kind.LAST: single_points,
    Kind.SPREAD: spread_points,
}
SPACED_POINTS: Mapping[Kind, Points] = {
    Kind.RATE: climb_points,
    Kind.DELTA: path_points,
    Kind.IRATE: path_points,
    Kind.RESETS: reset_points,
    Kind.TREND: trend_line_points,
    Kind.MIN: same_points,
    Kind.MAX: same_points,
    Kind.SUM: even_sum_points,
    Kind.MEAN: even_mean_points,
    Kind.LAST: last_points,
    Kind.SPREAD: spread_points,
}
