"""What leaves of a window where evaluations take the newest sample they can see."""

from collections.abc import Sequence

import numpy as np

from bridge.model.staleness import STALE_BITS
from bridge.read.kinds import Emission, Grid
from bridge.read.twins.climbs import climb
from bridge.read.twins.points import (
    Point,
    between_ends,
    count_max,
    evenly,
    nearer,
    spaced_count,
)
from bridge.read.twins.windows import Window, is_evaluated, next_evaluation, sight_ms_of

COUNTER_WINDOWS_MIN = 3
"""Fewer windows do not show what a series is."""


def is_counter(windows: Sequence[Window]) -> bool:
    """Whether a series of which nothing is known behaves like a counter.

    A gauge that is taken for one gets values that never were, `up` of a half; a counter that is
    taken for a gauge gets real values of another minute. So it has to be plain: the values climb in
    more than half of the windows, are never negative, and fall in a quarter at most; from one
    window to the next by more than half.
    """
    seen = [window for window in windows if window.count > 0]
    climbing = falls = 0
    before = seen[0].first if seen else 0.0
    for window in seen:
        if window.first < 0 or window.last < 0:
            return False
        climbing += window.last > window.first or window.resets > 0
        falls += window.resets > 0
        if window.first < before:
            falls += 1
            if not window.first < before * 0.5:
                return False
        before = window.last
    return len(seen) >= COUNTER_WINDOWS_MIN and 2 * climbing > len(seen) and 4 * falls <= len(seen)


def instant_points(window: Window, emission: Emission, *, climbs: bool) -> list[Point]:
    """The samples, and the stale marker if it ends what is seen."""
    grid = emission.grid
    marker = (window.stale_ms, np.uint64(STALE_BITS).view(np.float64).item())
    if grid is not None and emission.is_thinned:
        points = _thinned_points(window, grid, climbs=climbs) if window.count > 0 else []
        stale_ms = window.stale_ms
        if not points and not is_evaluated(grid, stale_ms - 1, stale_ms + sight_ms_of(grid)):
            return []
    else:
        points = _repeated_points(window, emission, climbs=climbs) if window.count > 0 else []
    return [*points, marker] if window.stale_ms else points


def instant_points_max(window: Window, emission: Emission) -> int:
    """How many of them there may be."""
    marker = int(window.stale_ms != 0)
    if window.count <= 0:
        return marker
    if emission.grid is not None and emission.is_thinned:
        # The last; the first, and before the last one for each evaluation.
        within = _evaluations_within(window, emission.grid)
        return marker + (1 if window.span_ms == 0 else 2 + within)
    return marker + spaced_count(window, _spacing_ms(window, emission))


def _evaluations_within(window: Window, grid: Grid) -> int:
    """How many evaluations at most see neither first nor last: on both grids."""
    unseen_ms = window.span_ms - sight_ms_of(grid) - 1
    if unseen_ms <= 0:
        return 0
    return 2 * (unseen_ms // grid.step_ms + 1) if grid.step_ms else 1


def _thinned_points(window: Window, grid: Grid, *, climbs: bool) -> list[Point]:
    """The samples that some evaluation takes, and one for each that sees neither first nor last.

    What such an evaluation takes is stamped 1 ms before it, since that is seen by every range. But
    where samples were farther apart than an evaluation looks back, it is one of those that were
    there, evenly from first to last, or none.
    """
    sight_ms = sight_ms_of(grid)
    points = []
    if window.span_ms > 0:
        seen_ms = window.first_ms + sight_ms
        if is_evaluated(grid, window.first_ms - 1, min(seen_ms, window.last_ms - 1)):
            points.append((window.first_ms, window.first))
        gaps = max(2, count_max(window)) - 1
        step_ms = window.span_ms // gaps
        before_ms = window.first_ms
        now_ms = next_evaluation(grid, seen_ms)
        while now_ms is not None and now_ms < window.last_ms:
            taken_ms, stamp_ms = now_ms, now_ms - 1
            if step_ms > sight_ms:
                steps = min((now_ms - window.first_ms) // step_ms, gaps - 1)
                taken_ms = stamp_ms = window.first_ms + steps * step_ms
            if before_ms < stamp_ms and now_ms - stamp_ms <= sight_ms:
                points.append((stamp_ms, _path(window, taken_ms, climbs=climbs)))
                before_ms = stamp_ms
            now_ms = next_evaluation(grid, now_ms)
    if is_evaluated(grid, window.last_ms - 1, window.last_ms + sight_ms):
        points.append((window.last_ms, window.last))
    return points


def _repeated_points(window: Window, emission: Emission, *, climbs: bool) -> list[Point]:
    """Points of the window's path, so near to each other that each evaluation sees one."""
    if window.span_ms == 0:
        return [(window.last_ms, window.last)]
    times = evenly(window, spaced_count(window, _spacing_ms(window, emission)))
    return between_ends(
        window, [(time_ms, _path(window, time_ms, climbs=climbs)) for time_ms in times]
    )


def _spacing_ms(window: Window, emission: Emission) -> int:
    """How far apart samples may be: half of the lookback if nobody says."""
    lookback_ms = window.span_ms if emission.grid is None else emission.grid.range_ms // 2
    return max(1, emission.spacing_ms or lookback_ms)


def _path(window: Window, time_ms: int, *, climbs: bool) -> float:
    """What the series had about then: on the way from first to last, or one of the two."""
    return climb(window, time_ms) if climbs else nearer(window, time_ms)
