"""Decides which resolution answers which part of a query, and what leaves of it.

A pure function of what the client says that it will do with the samples (the hints of a query), of
what the lake has of each level, and of settings. W is the width of a level's windows, r the range
that the hints name; `aligned`: first evaluation, step and r are all multiples of W.

    what the hints say                                    coarsest level that does
    range 0: plain selectors, aggregations,               step >= 5 W
        subqueries over them
    rate, increase, delta, resets, min_, max_, sum_,      step >= W, and r >= W if aligned,
        avg_, last_over_time                                  r >= 12 W if not
    irate, deriv, predict_linear                          step >= W, and r >= 4 W if aligned,
                                                              r >= 12 W if not
    both, an instant query (step 0) that is not aligned   r >= 4 W; what lies beyond the whole
                                                              windows of the range is raw
    all others, timestamp(), no hints                     raw

Then, span by span:

    where the client mixes in samples of its own (seam)   raw
    where samples came that are not rolled up yet, and
        some evaluation looks (late)                      raw
    where that level is missing                           the next finer, else the next coarser

so that every instant is answered by exactly one level, and by none only if there is nothing.

Invariants:
    READ-7  the spans of a query follow one another without gap and overlap; the ends between them
            are ends of windows of both sides.

Source: docs/resolutions.md.
"""

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise

from bridge.model.time_range import TimeRange
from bridge.read.emission import Emission, Grid, Kind

HOUR_MS = 3_600_000

STEP_WINDOWS = 5
"""A plain selector is answered by windows of a fifth of the step, as Thanos does: what a window's
end cannot say is below a fifth of what two points on the screen are apart."""
WHOLE_WINDOWS = 4
"""Of a range that is made of whole windows, where a function sees but a part of what is in them;
those that are exact need one. Also where the ends of the range have to be read raw."""
UNALIGNED_WINDOWS = 12
"""A range that begins and ends within windows is off by a part of the two: a sixth at worst."""
RANGE_POINTS = 60
"""Samples that a range gets where it begins and ends within windows; PromQL extrapolates over one
distance of samples at each end."""


LOOKBACK_MS = 300_000
"""Prometheus' default, where a client says nothing at all."""


class Level(Enum):
    """A resolution."""

    RAW = "raw"
    FIVE_M = "5m"
    ONE_H = "1h"

    @property
    def window_ms(self) -> int:
        """Width of a window; 1 of raw samples."""
        return _WINDOWS_MS[self]


_WINDOWS_MS = {Level.RAW: 1, Level.FIVE_M: 300_000, Level.ONE_H: HOUR_MS}
_FINEST_FIRST = (Level.RAW, Level.FIVE_M, Level.ONE_H)

_KINDS = {
    "rate": Kind.RATE,
    "increase": Kind.RATE,
    "delta": Kind.DELTA,
    "irate": Kind.IRATE,
    "resets": Kind.RESETS,
    "deriv": Kind.TREND,
    "predict_linear": Kind.TREND,
    "idelta": Kind.SPREAD,
    "min_over_time": Kind.MIN,
    "max_over_time": Kind.MAX,
    "sum_over_time": Kind.SUM,
    "avg_over_time": Kind.MEAN,
    "last_over_time": Kind.LAST,
}
"""What a function does with a range; those that are not here look at every sample."""

_APPROXIMATED = {Kind.IRATE, Kind.TREND}
"""Of functions that rollups answer, those that are not exact on whole windows."""


class Reason(Enum):
    """Why a span is answered from its level."""

    HINTS = "hints"  # the coarsest level that function, range and step allow
    FUNCTION = "function"  # raw: the function looks at every sample, or is not known
    STEP = "step"  # raw: the step is too short for windows
    RANGE = "range"  # raw: the range is too short for windows
    SEAM = "seam"  # raw: the client mixes in samples of its own
    EDGE = "edge"  # raw: the range begins or ends within a window
    LATE = "late"  # raw: samples came that are not rolled up yet
    MISSING = "missing"  # another level than wanted, which is expired or not made yet


@dataclass(frozen=True, slots=True)
class Hints:
    """What a client says that it does with the samples of a query.

    Attributes:
        func: the function or aggregation around the selector; empty for none.
        step_ms: between evaluations; 0 for one alone.
        range_ms: of a range vector; 0 for a plain selector.
        start_ms: the first ms that is looked at.
        end_ms: the last.
    """

    func: str = ""
    step_ms: int = 0
    range_ms: int = 0
    start_ms: int = 0
    end_ms: int = 0


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of one selector.

    Attributes:
        time_range: what the answer's samples lie in; not empty.
        hints: None where the client said nothing.
        seam_ms: from here on, itself not included, the client may mix in samples of its own.
        lookback_ms: the readers' lookback delta.
    """

    time_range: TimeRange
    hints: Hints | None
    seam_ms: int
    lookback_ms: int


@dataclass(frozen=True, slots=True)
class Coverage:
    """What the lake has, as ranges that ascend and do not touch; ends are whole hours.

    Attributes:
        five_m: where 5m rollups are complete but for `late`.
        one_h: where 1h rollups are.
        raw_dropped: where rollups are all there is.
        late: where samples came that no rollup has yet.
    """

    five_m: tuple[TimeRange, ...] = ()
    one_h: tuple[TimeRange, ...] = ()
    raw_dropped: tuple[TimeRange, ...] = ()
    late: tuple[TimeRange, ...] = ()


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a query that is answered from one level.

    Attributes:
        time_range: the answer's samples lie in it.
        level: where they come from.
        reasons: why; several where parts with different reasons follow one another.
        emission: what leaves of a window; None for raw samples as they are.
    """

    time_range: TimeRange
    level: Level
    reasons: tuple[Reason, ...]
    emission: Emission | None

    def __str__(self) -> str:
        reasons = ",".join(reason.value for reason in self.reasons)
        part = self.time_range
        return f"{self.level.value}({reasons}) ({part.after_ms}, {part.until_ms}]"


@dataclass(frozen=True, slots=True)
class Use:
    """What a client does with the samples.

    Attributes:
        kind: of function.
        grid: when, and how far it looks back; None if that is not known.
        wanted: the coarsest level that gives the right picture.
        reason: why no coarser one.
    """

    kind: Kind
    grid: Grid | None
    wanted: Level
    reason: Reason


def use_of(question: Question) -> Use:
    """What the hints say."""
    hints = question.hints
    if hints is None:
        return Use(Kind.INSTANT, None, Level.RAW, Reason.FUNCTION)
    grid = _grid_of(question, hints)
    if hints.range_ms == 0:
        return Use(Kind.INSTANT, grid, *_level_of_instants(hints, grid))
    kind = _KINDS.get(hints.func, Kind.SPREAD)
    if kind is Kind.SPREAD:
        return Use(kind, grid, Level.RAW, Reason.FUNCTION)
    return Use(kind, grid, *_level_of_ranges(kind, hints, grid))


def _level_of_instants(hints: Hints, grid: Grid | None) -> tuple[Level, Reason]:
    """For evaluations that look at the newest sample alone."""
    if grid is None or hints.func == "timestamp":
        return Level.RAW, Reason.FUNCTION
    for level in (Level.ONE_H, Level.FIVE_M):
        if hints.step_ms >= STEP_WINDOWS * level.window_ms:
            return level, Reason.HINTS
    return Level.RAW, Reason.STEP


def _level_of_ranges(kind: Kind, hints: Hints, grid: Grid | None) -> tuple[Level, Reason]:
    """For functions over ranges."""
    reason = Reason.STEP
    for level in (Level.ONE_H, Level.FIVE_M):
        if 0 < hints.step_ms < level.window_ms:
            continue
        if hints.range_ms >= _windows_needed(kind, grid, level) * level.window_ms:
            return level, Reason.HINTS
        reason = Reason.RANGE
    return Level.RAW, reason


def _windows_needed(kind: Kind, grid: Grid | None, level: Level) -> int:
    """How many windows a range has at the least."""
    if _is_aligned(grid, level):
        return WHOLE_WINDOWS if kind in _APPROXIMATED else 1
    # The ends of the range of an instant query are raw.
    return WHOLE_WINDOWS if grid is not None and grid.step_ms == 0 else UNALIGNED_WINDOWS


def plan(question: Question, coverage: Coverage) -> tuple[Span, ...]:
    """The spans of a query, in the order of time (READ-7).

    Args:
        question: what is asked.
        coverage: what the lake has.
    """
    use = use_of(question)
    choice = _Choice(question, use, coverage)
    asked = question.time_range
    edges = {edge for edge in choice.edges if asked.after_ms < edge < asked.until_ms}
    parts: list[tuple[TimeRange, Level, tuple[Reason, ...]]] = []
    for after_ms, until_ms in pairwise([asked.after_ms, *sorted(edges), asked.until_ms]):
        part = TimeRange(after_ms, until_ms)
        level, reason = choice.of(part)
        reasons: tuple[Reason, ...] = (reason,)
        if parts and parts[-1][1] is level:
            last, _, before = parts.pop()
            part = TimeRange(last.after_ms, until_ms)
            reasons = tuple(dict.fromkeys((*before, reason)))
        parts.append((part, level, reasons))
    return tuple(
        Span(
            part, level, reasons, None if level is Level.RAW else _emission(use, level, part, asked)
        )
        for part, level, reasons in parts
    )


class _Choice:
    """Which level answers a part of a query that lies between two edges.

    Attributes:
        edges: where it may change, in no order.
    """

    def __init__(self, question: Question, use: Use, coverage: Coverage) -> None:
        self._use = use
        self._whole = _whole_windows(question.time_range, use)
        self._seam_ms = question.seam_ms // HOUR_MS * HOUR_MS
        self._raw_dropped = _Ranges(coverage.raw_dropped)
        self._rolled_up = {
            Level.FIVE_M: _Ranges(coverage.five_m),
            Level.ONE_H: _Ranges(coverage.one_h),
        }
        self._late = _Ranges(coverage.late)
        self.edges = [self._seam_ms, self._whole.after_ms, self._whole.until_ms]
        if use.wanted is not Level.RAW or coverage.raw_dropped:
            for ranges in (self._raw_dropped, *self._rolled_up.values(), self._late):
                self.edges += ranges.edges

    def of(self, part: TimeRange) -> tuple[Level, Reason]:
        """The level, and why."""
        wanted, reason = self._wish(part)
        place = _FINEST_FIRST.index(wanted)
        for level in (*reversed(_FINEST_FIRST[: place + 1]), *_FINEST_FIRST[place + 1 :]):
            if self._has(level, part):
                return level, reason if level is wanted else Reason.MISSING
        return Level.RAW, reason

    def _wish(self, part: TimeRange) -> tuple[Level, Reason]:
        """The level if all of them were there."""
        if self._use.wanted is Level.RAW:
            return Level.RAW, self._use.reason
        if part.after_ms >= self._seam_ms:
            return Level.RAW, Reason.SEAM
        if part.intersect(self._whole).is_empty:
            return Level.RAW, Reason.EDGE
        if (
            self._late.holds(part)
            and _is_looked_at(self._use.grid, part)
            and self._has(Level.RAW, part)
        ):
            return Level.RAW, Reason.LATE
        return self._use.wanted, self._use.reason

    def _has(self, level: Level, part: TimeRange) -> bool:
        if level is Level.RAW:
            return not self._raw_dropped.holds(part)
        return self._rolled_up[level].holds(part)


def _is_looked_at(grid: Grid | None, part: TimeRange) -> bool:
    """Whether some evaluation looks at a part: the query's own, or those of a subquery."""
    if grid is None or not grid.step_ms:
        return True
    reach_ms = part.until_ms + grid.range_ms + grid.is_closed
    return any(
        # The first evaluation behind the part's begin.
        part.after_ms + grid.step_ms - (part.after_ms - base_ms) % grid.step_ms < reach_ms
        for base_ms in (grid.first_ms, 0)
    )


def _grid_of(question: Question, hints: Hints) -> Grid | None:
    """When the client evaluates; None if it does not say.

    Clients of today look at (t - r, t], those before Prometheus 3 at [t - r, t], so that hints of
    the same evaluations begin 1 ms apart; whole seconds tell which it is.
    """
    range_ms = hints.range_ms or question.lookback_ms
    if hints.step_ms > 0:
        first_ms = hints.start_ms + range_ms
        is_closed = first_ms % 1000 == 0
        return Grid(first_ms - (not is_closed), hints.step_ms, range_ms, is_closed)
    span_ms = hints.end_ms - hints.start_ms
    if span_ms not in (range_ms - 1, range_ms):
        return None
    return Grid(hints.end_ms, 0, range_ms, span_ms == range_ms)


def _is_aligned(grid: Grid | None, level: Level) -> bool:
    """Whether every range begins and ends where a window does."""
    return grid is not None and not any(
        part % level.window_ms for part in (grid.first_ms, grid.step_ms, grid.range_ms)
    )


def _whole_windows(asked: TimeRange, use: Use) -> TimeRange:
    """The part of a query in which the wanted level can answer exactly as far as it can.

    Of one evaluation alone these are the whole windows of its range, for everything else all of it.
    """
    grid = use.grid
    if grid is None or grid.step_ms or use.kind is Kind.INSTANT or use.wanted is Level.RAW:
        return asked
    window_ms = use.wanted.window_ms
    begin_ms = asked.after_ms + grid.is_closed
    after_ms = -(-begin_ms // window_ms) * window_ms
    return TimeRange(
        asked.after_ms if after_ms == begin_ms else after_ms,
        asked.until_ms // window_ms * window_ms,
    )


def _emission(use: Use, level: Level, part: TimeRange, asked: TimeRange) -> Emission:
    grid, window_ms = use.grid, level.window_ms
    is_first, is_last = part.after_ms == asked.after_ms, part.until_ms == asked.until_ms
    if use.kind is Kind.INSTANT:
        spacing_ms = max(1, (LOOKBACK_MS if grid is None else grid.range_ms) // 2)
    elif _has_whole_windows(grid, level, part, is_first=is_first):
        spacing_ms = 0
    else:
        spacing_ms = max(1, (window_ms if grid is None else grid.range_ms) // RANGE_POINTS)
    return Emission(
        use.kind,
        window_ms,
        part.after_ms,
        part.until_ms,
        grid,
        spacing_ms=spacing_ms,
        is_after_edge=not is_first,
        is_until_edge=not is_last,
    )


def _has_whole_windows(grid: Grid | None, level: Level, part: TimeRange, *, is_first: bool) -> bool:
    """Whether every range has each window of a part whole or not at all."""
    if grid is None or grid.step_ms:
        return _is_aligned(grid, level)
    begin_ms = part.after_ms + (is_first and grid.is_closed)
    return begin_ms % level.window_ms == 0 and part.until_ms % level.window_ms == 0


class _Ranges:
    """Ranges that ascend and do not touch."""

    def __init__(self, ranges: Iterable[TimeRange]) -> None:
        self._ranges = list(ranges)
        self._after_ms = [one.after_ms for one in self._ranges]

    @property
    def edges(self) -> list[int]:
        return [edge for one in self._ranges for edge in (one.after_ms, one.until_ms)]

    def holds(self, part: TimeRange) -> bool:
        """Whether one of them has all of a range."""
        place = bisect_right(self._after_ms, part.after_ms) - 1
        return place >= 0 and self._ranges[place].until_ms >= part.until_ms
