"""Counters, differences and trends: what leaves of a window whose ends and falls matter."""

import math

from bridge.read.kinds import Emission, Kind
from bridge.read.twins.points import (
    Point,
    between_ends,
    count_max,
    evenly,
    nan,
    one_nan,
    quotient,
    spaced_count,
    weighted_count,
)
from bridge.read.twins.windows import Window

PEAK_COUNT_MIN = 4
"""First, peak, low and last: so many samples the fall of a counter needs at worst."""

TREND_COUNT, TREND_SHARE = 2, 64
"""The two samples of a trend lie at its window's middle, a 64th of it to each side: so far apart
that a range which sees but one window has a slope, so close that of windows beside each other the
means count, and not two single samples of each."""


# -- paths --


def climb(window: Window, time_ms: int) -> float:
    """The path of a counter that climbs evenly, and falls as often as it did, to 0.

    What it falls from is as high each time, unless the first sample is higher than that, which then
    is a peak itself. So the peaks add up to the window's drops, and none is above all samples.

    It never falls through rounding: each step of the calculation keeps the order of its results,
    and after the last fall nothing is above the last sample.
    """
    drop, count = window.drop, float(max(window.resets, 1))
    rise = window.last - window.first + (drop if drop > 0 else 0.0)
    way = rise * ((time_ms - window.first_ms) / window.span_ms)
    value = window.first + way
    if not drop > 0:
        return window.last if rise >= 0 and value > window.last else one_nan(value)
    peak = drop / count
    if count > 1 and peak < window.first < drop:
        value, drop, count = way, drop - window.first, count - 1
        peak = drop / count
    elif window.first >= drop:
        count, peak = 1.0, drop
    if not peak > 0:
        count, peak = 1.0, drop
    teeth = value / peak
    if teeth < 1:
        return one_nan(value)
    if teeth < count:
        return min(max(value - math.floor(teeth) * peak, 0.0), peak)
    value = max(value - drop, 0.0)
    return window.last if rise >= 0 and value > window.last else one_nan(value)


def _line(window: Window, time_ms: int) -> float:
    """The straight line from first to last."""
    share = (time_ms - window.first_ms) / window.span_ms
    return one_nan(window.first + (window.last - window.first) * share)


def _mean_line(window: Window, time_ms: int) -> float:
    """The line as steep as that from first to last, through the mean."""
    mean = quotient(window.sum, window.count)
    share = (2 * time_ms - window.first_ms - window.last_ms) / (2 * window.span_ms)
    return one_nan(mean + (window.last - window.first) * share)


# -- ranges of whole windows --


def rate_points(window: Window, emission: Emission, is_filled: bool) -> list[Point]:
    """First and last, between them a peak that is worth all drops, and the fall from it."""
    points = [(window.first_ms, window.first)]
    values = drop_values(window, emission.kind)
    if values and len(values) < window.span_ms:
        spare = count_max(window) - 2 - len(values)
        fall_ms = _fall_ms(window, len(values), max(spare, 0) if is_filled else 0)
        points += [(fall_ms + place, value) for place, value in enumerate(values)]
    return _fill(points, window, is_filled)


def drop_values(window: Window, kind: Kind) -> list[float]:
    """What stands for the drops of a window, so that their sum is the values before them.

    Left out is a peak that equals the first sample, which is then what falls, and the 0 after the
    fall, where the last one is below the peak. So a counter never has more than the window had.

    Where a NaN stood between two samples, the engine saw no drop from one to the other. So it takes
    one to go from the first to what is below it where that is no drop; negative values come to that
    as well. `irate` takes the last two samples of a range and needs numbers.
    """
    drop = window.drop
    after = [] if window.last < drop else [0.0]
    if drop > 0 and not drop < window.first:
        return after if drop <= window.first else [drop, *after]
    if kind is Kind.IRATE:
        return []
    if drop > 0:
        return [nan(), drop, *after]
    return [nan()] if window.last < window.first else []


def _fall_share(window: Window) -> float:
    """Which part of a window with drops the climbing path has behind it when it falls."""
    rise = window.last - window.first + window.drop
    share = (window.drop - window.first) / rise if rise > 0 else 0.0
    return share if 0 <= share <= 1 else 0.5


def _fall_ms(window: Window, fall_count: int, room_ms: int) -> int:
    """When the climbing path falls: so that so many samples from there on lie before the last.

    Args:
        window: with a drop and two times.
        fall_count: samples of the fall.
        room_ms: that are to be left between the fall and the last sample.
    """
    fall_ms = window.first_ms + int(window.span_ms * _fall_share(window))
    return max(window.first_ms + 1, min(fall_ms, window.last_ms - fall_count - room_ms))


def end_points(window: Window, _emission: Emission, is_filled: bool) -> list[Point]:
    """First and last alone."""
    return _fill([(window.first_ms, window.first)], window, is_filled)


def _fill(points: list[Point], window: Window, is_filled: bool) -> list[Point]:
    """The points and the last sample; before it, as often as is missing, the value before it."""
    missing = count_max(window) - len(points) - 1 if is_filled else 0
    value = points[-1][1]
    repeats = [(window.last_ms - place, value) for place in range(missing, 0, -1)]
    return [*points, *repeats, (window.last_ms, window.last)]


def reset_points(window: Window, emission: Emission, _is_filled: bool) -> list[Point]:
    """Greatest and least in turn, so that they fall as often as the samples of the window did.

    Where ranges cut windows, each stands as often as the spacing wants it.
    """
    starts_high, ends_high = window.first == window.max, window.last < window.max
    count, between = 0, list[float]()
    if window.resets > 0 and window.max > window.min:
        count = 2 * window.resets - starts_high - ends_high
    elif window.resets <= 0 and window.last < window.first:
        # There was a NaN between them.
        count, between = 1, [nan()]
    if count >= window.span_ms:
        count = 0
    elif window.resets > 0 and count > 0:
        between = ([window.max, window.min] * window.resets)[int(starts_high) :]
    values = [window.first, *between[:count], window.last]
    spaced = spaced_count(window, emission.spacing_ms) if emission.spacing_ms else 0
    times = evenly(window, max(spaced, count + 2))
    gaps = len(times) - 1
    points = [(time_ms, values[place * (count + 1) // gaps]) for place, time_ms in enumerate(times)]
    return between_ends(window, points)


# -- ranges that cut windows --


def path_count(window: Window, emission: Emission, is_filled: bool) -> int:
    """How many samples a path through a window has."""
    if is_filled:
        return max(2, count_max(window))
    has_fall = emission.kind is Kind.RATE and window.drop > 0
    return spaced_count(window, emission.spacing_ms, PEAK_COUNT_MIN if has_fall else 2)


def path_points(window: Window, emission: Emission, is_filled: bool) -> list[Point]:
    """DELTA and IRATE: points of the path.

    IRATE takes the last two samples of a range, and of a fall between them the lower one. That is
    what it gets wherever a fall lies on the path; what the falls add up to is nothing to it.
    """
    times = evenly(window, path_count(window, emission, is_filled))
    path = climb if emission.kind is Kind.IRATE else _line
    return between_ends(window, [(time_ms, path(window, time_ms)) for time_ms in times])


def climb_points(window: Window, emission: Emission, is_filled: bool) -> list[Point]:
    """Points of a path that climbs, and falls once: from what is worth all drops to 0.

    The fall takes the place of points of the path, so that there are as many as without.
    """
    times = evenly(window, path_count(window, emission, is_filled))
    drop, first, last = window.drop, window.first, window.last
    if not drop > 0 and last >= first:
        return between_ends(window, [(time_ms, climb(window, time_ms)) for time_ms in times])
    peak = _peak_place(window, len(times))
    points, rise = [(window.first_ms, first)], last - first + drop
    for place, time_ms in enumerate(times[1:-1], 1):
        value = first + rise * ((time_ms - window.first_ms) / window.span_ms)
        if peak < 0:
            value = first
        elif place < peak:
            value = min(value, drop)
        elif place == peak:
            value = drop
        elif place == peak + 1:
            value = 0.0
        else:
            value = min(max(value - drop, 0.0), last)
        points.append((time_ms, value))
    return [*points, (window.last_ms, last)]


def _peak_place(window: Window, count: int) -> int:
    """Which of the points is what the path falls from; -1 where the ends alone have to do."""
    drop, first, last = window.drop, window.first, window.last
    if not (0 < drop < math.inf and -math.inf < first <= drop and 0 <= last < math.inf):
        return -1
    # Where the last one is no fall from the peak, another has to stand between.
    latest = count - 2 if last < drop else count - 3
    earliest = 0 if drop == first else 1
    if latest < earliest:
        return -1
    if drop == first:
        return 0
    return max(earliest, min(int((count - 1) * _fall_share(window)), latest))


# -- trends --


def trend_count(window: Window, emission: Emission) -> int:
    """How many samples a window has for a trend, to which each weighs.

    As few as possible, if all of the query's samples are those of such windows; but as many as
    there were beside those of other resolutions, or a fraction of that.
    """
    weight = min(weighted_count(window, emission.weight_divisor), window.span_ms + 1)
    if emission.spacing_ms:
        return max(weight, spaced_count(window, emission.spacing_ms))
    return max(2, weight) if emission.is_after_edge or emission.is_until_edge else 2


def trend_points(window: Window, emission: Emission, _is_filled: bool) -> list[Point]:
    """Two samples beside the middle, or more of two values from the first to the last.

    Equal ones are cheap to send. The two are so far from the mean that the line of least squares
    through them is as steep as that from the first sample to the last: of n samples one step apart,
    on that line, the squares of times from their mean add up to n (n^2 - 1) / 12 steps, and the
    distances of the later half from the other to n^2 / 4, or (n^2 - 1) / 4 if n is odd.
    """
    count = trend_count(window, emission)
    if count <= TREND_COUNT:
        near_ms = max(1, window.span_ms // TREND_SHARE)
        middle_ms = window.first_ms + window.span_ms // 2
        before_ms = max(middle_ms - near_ms, window.first_ms)
        behind_ms = min(middle_ms + near_ms, window.last_ms)
        return [(time_ms, _mean_line(window, time_ms)) for time_ms in (before_ms, behind_ms)]
    mean = quotient(window.sum, window.count)
    share = count / (3 * (count - 1)) if count % 2 else (count + 1) / (3 * count)
    rise = (window.last - window.first) * share
    early = [one_nan(mean - rise)] * (count // 2)
    late = [one_nan(mean + rise)] * (count // 2)
    values = [*early, *[mean] * (count % 2), *late]
    return list(zip(evenly(window, count), values, strict=True))


def trend_line_points(window: Window, emission: Emission, _is_filled: bool) -> list[Point]:
    """Points on the line through the mean."""
    times = evenly(window, trend_count(window, emission))
    return [(time_ms, _mean_line(window, time_ms)) for time_ms in times]
