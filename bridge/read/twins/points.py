"""Samples that leave for a window: how many there may be, and when."""

import math

import numpy as np

from bridge.read.kinds import Emission
from bridge.read.twins.windows import Window

NAN_BITS = 0x7FF8_0000_0000_0000
"""The NaN of calculated values: which bits an addition makes of one depends on the machine."""

Point = tuple[int, float]
"""Unix ms and value."""


def count_max(window: Window) -> int:
    """The window's count, as far as there are different ms for it."""
    return min(window.count, window.span_ms + 1)


def spaced_count(window: Window, spacing_ms: int, least: int = 2) -> int:
    """How many samples, so that they are no farther apart than wanted or no fewer than there were.

    A window of two times has two, whatever its count says.
    """
    gaps = -(-window.span_ms // spacing_ms)
    return min(max(2, min(window.count, max(least, 1 + gaps))), window.span_ms + 1)


def weighted_count(window: Window, weight_divisor: int) -> int:
    """How many samples stand for those of the window, rounded; at least one."""
    return max(1, (2 * window.count + weight_divisor) // (2 * weight_divisor))


def evenly(window: Window, count: int, last_ms: int | None = None) -> list[int]:
    """So many times from the first sample's to the last one's, as far as there are different ms.

    All steps but the last one are equal, which a chunk stores in a bit each.
    """
    last_ms = window.last_ms if last_ms is None else last_ms
    first_ms = min(window.first_ms, last_ms)
    count = min(count, last_ms - first_ms + 1)
    step_ms = (last_ms - first_ms) // (count - 1) if count > 1 else 0
    return [*(first_ms + place * step_ms for place in range(count - 1)), last_ms]


def between_ends(window: Window, points: list[Point]) -> list[Point]:
    """The points, of which the first and the last have the window's own values."""
    return [(window.first_ms, window.first), *points[1:-1], (window.last_ms, window.last)]


def nearer(window: Window, time_ms: int) -> float:
    """The first sample or the last one, whichever is nearer."""
    is_first = time_ms - window.first_ms <= window.last_ms - time_ms
    return window.first if is_first else window.last


def is_in_next_range(window: Window, emission: Emission) -> bool:
    """Whether the last sample lies in a range that begins where the window ends."""
    grid = emission.grid
    return grid is not None and grid.is_closed and window.last_ms == window.end_ms


def nan() -> float:
    """The one of calculated values."""
    return float(np.uint64(NAN_BITS).view(np.float64))


def one_nan(number: float) -> float:
    """A calculated value."""
    return nan() if math.isnan(number) else number


def quotient(total: float, count: int) -> float:
    """A calculated mean."""
    return one_nan(total / count)
