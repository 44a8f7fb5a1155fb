"""What leaves of a window of which one value, or all of them, matter."""

from bridge.read.kinds import Emission, Kind
from bridge.read.twins.points import (
    Point,
    between_ends,
    evenly,
    is_in_next_range,
    nearer,
    one_nan,
    quotient,
    spaced_count,
    weighted_count,
)
from bridge.read.twins.windows import Window

ALL_DIFFERENT_MAX = 3
"""So many samples are known from their sum, the first and the last."""

WHOLE_TOLERANCE = 1e-9
"""How far from a whole number a count may be that was calculated from a sum."""


def _value_of(window: Window, kind: Kind) -> float:
    if kind is Kind.MIN:
        return window.min
    return window.max if kind is Kind.MAX else window.last


# -- minimum, maximum, last --


def single_points(window: Window, emission: Emission, _is_filled: bool) -> list[Point]:
    """MIN, MAX and LAST, of whole windows."""
    kind, last = emission.kind, (window.last_ms, window.last)
    value = _value_of(window, kind)
    if kind is not Kind.LAST and is_in_next_range(window, emission):
        return [(window.last_ms - 1, value), last]
    return [(window.last_ms, value)]


def same_points(window: Window, emission: Emission, _is_filled: bool) -> list[Point]:
    """MIN and MAX, by the spacing."""
    value = _value_of(window, emission.kind)
    times = evenly(window, spaced_count(window, emission.spacing_ms))
    return [(time_ms, value) for time_ms in times]


def last_points(window: Window, emission: Emission, _is_filled: bool) -> list[Point]:
    """LAST, by the spacing."""
    times = evenly(window, spaced_count(window, emission.spacing_ms))
    return between_ends(window, [(time_ms, nearer(window, time_ms)) for time_ms in times])


# -- sum, mean --


def _without_last(window: Window) -> float:
    """The sum of all samples but the last one; 0 for those beside an infinite one."""
    return 0.0 if window.sum == window.last else one_nan(window.sum - window.last)


def sum_points(window: Window, emission: Emission, _is_filled: bool) -> list[Point]:
    """The sum, of whole windows."""
    if not is_in_next_range(window, emission):
        return [(window.last_ms, window.sum)]
    before = [] if window.count == 1 else [(window.last_ms - 1, _without_last(window))]
    return [*before, (window.last_ms, window.last)]


def even_sum_points(window: Window, _emission: Emission, _is_filled: bool) -> list[Point]:
    """As many samples as there were, which add up to the sum."""
    times = evenly(window, window.count)
    return [(time_ms, quotient(window.sum, len(times))) for time_ms in times]


def _mean_at(window: Window, times: list[int]) -> list[Point]:
    mean = quotient(window.sum, window.count)
    return [(time_ms, mean) for time_ms in times]


def even_mean_points(window: Window, emission: Emission, _is_filled: bool) -> list[Point]:
    """The mean, as often as its weight says."""
    return _mean_at(window, evenly(window, weighted_count(window, emission.weight_divisor)))


def mean_points(window: Window, emission: Emission, is_filled: bool) -> list[Point]:
    """The same, of whole windows.

    Where one sample stands for many, the last one does not leave as itself for the next range: it
    would weigh there as much as many.
    """
    if not is_in_next_range(window, emission):
        return even_mean_points(window, emission, is_filled)
    count = weighted_count(window, emission.weight_divisor)
    if emission.weight_divisor == 1 and window.count > 1:
        mean = quotient(_without_last(window), window.count - 1)
        times = evenly(window, count)
        return [*((time_ms, mean) for time_ms in times[:-1]), (window.last_ms, window.last)]
    is_early = emission.weight_divisor > 1
    return _mean_at(window, evenly(window, count, window.last_ms - is_early))


# -- all of them --


def spread_points(window: Window, _emission: Emission, _is_filled: bool) -> list[Point]:
    """As many samples as there were, with their sum, extremes and ends as far as so many can."""
    times = evenly(window, window.count)
    if len(times) == 1:
        return [(window.last_ms, window.last)]
    values = _blocks(window, len(times)) or _mean_between(window, len(times))
    return list(zip(times, values, strict=True))


def _blocks(window: Window, count: int) -> list[float]:
    """The values of a window that had but two of them; nothing if it had more.

    They leave with one change where first and last differ, else with two.
    """
    low, high = window.min, window.max
    ends = {window.first, window.last}
    if count != window.count or count <= ALL_DIFFERENT_MAX or not low < high or ends - {low, high}:
        return []
    exact = (window.sum - count * low) / (high - low)
    if not 1 <= exact + 0.5 < count:
        return []
    highs = int(exact + 0.5)
    if highs < 1 or not abs(exact - highs) <= WHOLE_TOLERANCE:
        return []
    firsts = highs if window.first == high else count - highs
    if window.first != window.last:
        # So it looks, too, where all samples climb evenly.
        is_slope = 2 * highs == count and high - low > 1
        between = [window.first] * (firsts - 1) + [window.last] * (count - firsts - 1)
        return [] if is_slope else [window.first, *between, window.last]
    if firsts < 2:
        return []
    other = low if window.first == high else high
    before, after = firsts - firsts // 2, firsts // 2
    return [
        *[window.first] * before,
        *[other] * (count - firsts),
        *[window.first] * (after - 1),
        window.last,
    ]


def _mean_between(window: Window, count: int) -> list[float]:
    """First and last, the extremes, and the mean of what is left."""
    rest = window.sum - window.first - window.last
    extremes = []
    if count > ALL_DIFFERENT_MAX:
        extremes = [
            value for value in (window.min, window.max) if value not in {window.first, window.last}
        ]
    rest_count = count - 2 - len(extremes)
    for value in extremes:
        rest -= value
    mean = quotient(rest, rest_count) if rest_count else 0.0
    if count > ALL_DIFFERENT_MAX:
        mean = min(max(mean, window.min), window.max)
    return [window.first, *extremes, *[mean] * rest_count, window.last]
