"""What an engine will do with samples and when, and how windows of a rollup leave for it."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    """What the engine will do with the samples; which functions: `bridge.read.resolution`."""

    INSTANT = "instant"  # takes the newest sample within the lookback: plain selectors
    RATE = "rate"  # rate, increase
    DELTA = "delta"  # delta
    IRATE = "irate"  # irate
    RESETS = "resets"  # resets
    TREND = "trend"  # deriv, predict_linear
    MIN = "min"  # min_over_time
    MAX = "max"  # max_over_time
    SUM = "sum"  # sum_over_time
    MEAN = "mean"  # avg_over_time
    LAST = "last"  # last_over_time
    SPREAD = "spread"  # everything else


@dataclass(frozen=True, slots=True)
class Grid:
    """When an engine evaluates, and how far it looks back.

    Evaluations take place at first_ms + k * step_ms (k >= 0), or, in a subquery, at the multiples
    of step_ms. Each looks at (t - range_ms, t], of clients with closed ranges at [t - range_ms, t].

    Attributes:
        first_ms: Unix ms of the first evaluation.
        step_ms: between two; 0 for one evaluation alone.
        range_ms: the range of a range vector, the lookback of a plain selector; above 0.
        is_closed: whether the client's ranges are closed on the left (Prometheus 2.x).
    """

    first_ms: int
    step_ms: int
    range_ms: int
    is_closed: bool = False


@dataclass(frozen=True, slots=True)
class Emission:
    """How the windows of one span of time leave.

    Attributes:
        kind: what is done with the samples.
        window_ms: width of a window.
        after_ms: Unix ms; no sample leaves at this time or before.
        until_ms: Unix ms; no sample leaves after this time.
        grid: when it is done; None if that is not known.
        spacing_ms: 0 where every range begins and ends with a window, so that few samples per
            window give the exact answer; else samples in a window are to be no farther apart than
            this, if the raw ones were not.
        weight_divisor: MEAN and TREND alone: how many raw samples one sample stands for.
        is_after_edge: whether rows of another kind come before `after_ms`.
        is_until_edge: whether rows of another kind come behind `until_ms`.
    """

    kind: Kind
    window_ms: int
    after_ms: int
    until_ms: int
    grid: Grid | None
    spacing_ms: int = 0
    weight_divisor: int = 1
    is_after_edge: bool = False
    is_until_edge: bool = False

    @property
    def is_aligned(self) -> bool:
        """Whether evaluations take place at ends of windows alone."""
        grid, window_ms = self.grid, self.window_ms
        return grid is not None and grid.first_ms % window_ms == 0 and grid.step_ms % window_ms == 0

    @property
    def is_thinned(self) -> bool:
        """INSTANT alone: whether samples leave one by one for the evaluations that take them.

        That is less than one for every part of what an evaluation looks back over, if evaluations
        are farther apart than that or take nothing but the last samples of windows.
        """
        grid = self.grid
        return grid is not None and (
            grid.step_ms == 0
            or grid.step_ms >= min(grid.range_ms, 2 * self.window_ms)
            or self.is_aligned
        )

    @property
    def is_filled(self) -> bool:
        """Whether windows may leave with as many samples as they had; see `twins/edges.py`."""
        if self.grid is None:
            return False
        if self.spacing_ms:
            return self.kind in {Kind.RATE, Kind.DELTA, Kind.IRATE}
        return self.kind in {Kind.RATE, Kind.DELTA} and (
            self.grid.step_ms == 0 or self.grid.step_ms >= self.window_ms
        )


def columns_of(emission: Emission) -> tuple[str, ...]:
    """The columns of `WindowRows` that have to be read, besides `window_end_ms`.

    Without `count` a window has samples if `last_timestamp_ms` is not 0.
    """
    if emission.kind is Kind.INSTANT:
        return _instant_columns(emission)
    if emission.spacing_ms:
        return _SPACED_COLUMNS[emission.kind]
    if emission.grid is not None and emission.grid.is_closed:
        return _CLOSED_COLUMNS.get(emission.kind) or _COMPACT_COLUMNS[emission.kind]
    return _COMPACT_COLUMNS[emission.kind]


def _instant_columns(emission: Emission) -> tuple[str, ...]:
    if emission.is_thinned and emission.is_aligned:
        # No evaluation lies within a window, so that each takes the last sample of one.
        return (*_LAST, "stale_timestamp_ms")
    return ("count", *_ENDS, "reset_drop", "resets", "stale_timestamp_ms")


_TIMES = ("first_timestamp_ms", "last_timestamp_ms")
_ENDS = ("first", "last", *_TIMES)
_LAST = ("last", "last_timestamp_ms")
_COMPACT_COLUMNS: Mapping[Kind, tuple[str, ...]] = {
    Kind.RATE: ("count", *_ENDS, "reset_drop"),
    Kind.DELTA: ("count", *_ENDS),
    Kind.IRATE: (*_ENDS, "reset_drop"),
    Kind.RESETS: (*_ENDS, "min", "max", "resets"),
    Kind.TREND: ("count", "sum", *_ENDS),
    Kind.MIN: ("min", "last_timestamp_ms"),
    Kind.MAX: ("max", "last_timestamp_ms"),
    Kind.SUM: ("sum", "last_timestamp_ms"),
    Kind.MEAN: ("count", "sum", *_TIMES),
    Kind.LAST: _LAST,
    Kind.SPREAD: ("count", "sum", "min", "max", *_ENDS),
}
_CLOSED_COLUMNS: Mapping[Kind, tuple[str, ...]] = {
    # A sample at the end of a window leaves as itself, too.
    Kind.MIN: ("min", *_LAST),
    Kind.MAX: ("max", *_LAST),
    Kind.SUM: ("count", "sum", *_LAST),
    Kind.MEAN: ("count", "sum", "last", *_TIMES),
}
_SPACED_COLUMNS: Mapping[Kind, tuple[str, ...]] = {
    **_COMPACT_COLUMNS,
    Kind.IRATE: ("count", *_ENDS, "reset_drop", "resets"),
    Kind.RESETS: ("count", *_ENDS, "min", "max", "resets"),
    Kind.MIN: ("count", "min", *_TIMES),
    Kind.MAX: ("count", "max", *_TIMES),
    Kind.SUM: ("count", "sum", *_TIMES),
    Kind.LAST: ("count", *_ENDS),
}
