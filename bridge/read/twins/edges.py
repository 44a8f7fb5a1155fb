"""Windows that leave with as many samples as they had, since a series begins or ends near them.

PromQL looks at the mean distance of the samples in a range: if an end of the range is farther from
the samples than 1.1 times that, it takes the series to begin or end there. Fewer samples have a
wider spacing, so it finds an end in no range where it found none; where it did, its result depends
on how many samples there were.

    ranges of whole windows   Each range is tried on the counts of its windows, in the engine's own
                              floating point. The windows of those in which it finds an end are
                              filled.
    other ranges              A series has an edge where a window is missing, or begins or ends with
                              more than 1.1 times its samples' distance without any. Filled are the
                              windows of which a range sees something together with an edge. So such
                              a range holds as many samples as it did, and where the edge itself is
                              cut, as many of the last (or first) as it did.
"""

from bisect import bisect_right
from itertools import pairwise

from bridge.read.kinds import Emission, Grid
from bridge.read.twins.windows import Window, is_evaluated, next_evaluation, sight_ms_of


def filled_of(windows: list[Window], emission: Emission) -> list[bool]:
    """Which windows leave with as many samples as they had."""
    grid = emission.grid
    if not emission.is_filled or grid is None or not windows:
        return [False] * len(windows)
    if emission.spacing_ms:
        return _filled_by_edges(windows, emission, grid)
    return _filled_by_ranges(windows, emission, grid)


def _filled_by_ranges(windows: list[Window], emission: Emission, grid: Grid) -> list[bool]:
    """Which windows lie in a range in which the engine finds an end of the series."""
    filled = [False] * len(windows)
    ends = [window.end_ms for window in windows]
    # In a subquery, too, no evaluation comes before the first of the query's.
    now_ms = next_evaluation(grid, max(ends[0], grid.first_ms) - 1)
    while now_ms is not None and now_ms - grid.range_ms <= ends[-1]:
        after_ms = now_ms - grid.range_ms
        begin, end = bisect_right(ends, after_ms), bisect_right(ends, now_ms)
        is_cut = after_ms < emission.after_ms or (grid.is_closed and after_ms == emission.after_ms)
        before = [
            window
            for window in windows[max(begin - 1, 0) : begin]
            if grid.is_closed and not is_cut and window.count > 0 and window.last_ms == after_ms
        ]
        own = [window for window in windows[begin:end] if window.count > 0]
        if now_ms > emission.until_ms:
            is_end_found = emission.is_until_edge
        else:
            is_end_found = is_cut and emission.is_after_edge
            is_end_found = is_end_found or _is_end_found(own, before, after_ms, now_ms)
        if is_end_found:
            filled[begin:end] = [True] * (end - begin)
        now_ms = next_evaluation(grid, now_ms)
    return filled


def _is_end_found(windows: list[Window], before: list[Window], after_ms: int, now_ms: int) -> bool:
    """Whether the engine takes the series to begin or end within a range (extrapolatedRate).

    Args:
        windows: that lie in the range and have samples.
        before: the window whose last sample alone is in the range, where that is closed.
        after_ms: where the range begins.
        now_ms: where it ends.
    """
    count = sum(window.count for window in windows) + len(before)
    if not windows or count < 2:
        return False
    first_ms = before[0].last_ms if before else windows[0].first_ms
    last_ms = windows[-1].last_ms
    threshold_s = (last_ms - first_ms) / 1000 / (count - 1) * 1.1
    return (first_ms - after_ms) / 1000 >= threshold_s or (now_ms - last_ms) / 1000 >= threshold_s


# -- ranges that cut windows --


def _filled_by_edges(windows: list[Window], emission: Emission, grid: Grid) -> list[bool]:
    """Which windows some range sees together with an edge; the nearest decides."""
    own = [(place, window) for place, window in enumerate(windows) if window.count > 0]
    filled = [False] * len(windows)
    if not own:
        return filled
    width_ms, sight_ms = emission.window_ms, sight_ms_of(grid)
    holes = [_is_hole(before, window, width_ms) for (_, before), (_, window) in pairwise(own)]
    # What lies beyond the span is not known to be missing.
    begins = [own[0][1].end_ms - width_ms > emission.after_ms or _is_late(own[0][1], width_ms)]
    ends = [own[-1][1].end_ms < emission.until_ms or _is_early(own[-1][1])]
    edge_ms: int | None = None
    for (place, window), has_edge in zip(own, [*begins, *holes], strict=True):
        if has_edge:
            is_late = _is_late(window, width_ms)
            edge_ms = window.first_ms - 1 if is_late else window.end_ms - width_ms
        if edge_ms is not None and is_evaluated(grid, window.first_ms - 1, edge_ms + sight_ms):
            filled[place] = True
    edge_ms = None
    for (place, window), has_edge in zip(reversed(own), reversed([*holes, *ends]), strict=True):
        if has_edge:
            edge_ms = window.last_ms if _is_early(window) else window.end_ms
        if edge_ms is not None and is_evaluated(grid, edge_ms, window.end_ms + sight_ms):
            filled[place] = True
    return filled


def _is_hole(before: Window, window: Window, width_ms: int) -> bool:
    return (
        before.end_ms != window.end_ms - width_ms or _is_early(before) or _is_late(window, width_ms)
    )


def _is_late(window: Window, width_ms: int) -> bool:
    """Whether a window's first sample is farther from its begin than samples are apart."""
    return _is_far(window, window.first_ms - (window.end_ms - width_ms))


def _is_early(window: Window) -> bool:
    """Whether a window's last sample is farther from its end than samples are apart."""
    return _is_far(window, window.end_ms - window.last_ms)


def _is_far(window: Window, distance_ms: int) -> bool:
    return 10 * distance_ms * (window.count - 1) > 11 * window.span_ms or (
        window.count == 1 and distance_ms > 0
    )
