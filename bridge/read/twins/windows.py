"""Rows of a rollup as the emission kernel sees them: which evaluations look at them, and how."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from bridge.lake.window_rows import WindowRows
from bridge.read.kinds import Emission, Grid, columns_of

TIME_MS_MAX = 2**61
"""Times and spans stay below, so that sums of a few of them are int64."""


@dataclass(frozen=True, slots=True)
class Window:
    """One row; 0 in columns that were not read."""

    end_ms: int
    count: int
    sum: float
    min: float
    max: float
    first: float
    last: float
    first_ms: int
    last_ms: int
    drop: float
    resets: int
    stale_ms: int

    @property
    def span_ms(self) -> int:
        """From the first sample to the last."""
        return self.last_ms - self.first_ms


def slots_of(rows: WindowRows, emission: Emission) -> Iterator[list[Window]]:
    """The windows of each slot."""
    names = (
        "count",
        "sum",
        "min",
        "max",
        "first",
        "last",
        "first_timestamp_ms",
        "last_timestamp_ms",
        "reset_drop",
        "resets",
        "stale_timestamp_ms",
    )
    missing = [name for name in columns_of(emission) if getattr(rows, name) is None]
    if missing:
        raise ValueError(f"columns that were not read: {missing}")
    row_count = len(rows.window_end_ms)
    present = {name: getattr(rows, name) for name in names if getattr(rows, name) is not None}
    if any(len(column) != row_count for column in present.values()):
        raise ValueError("columns of equal length")
    columns = {name: [0] * row_count for name in names}
    columns |= {name: column.tolist() for name, column in present.items()}
    if "count" not in present:
        columns["count"] = [int(time_ms != 0) for time_ms in columns["last_timestamp_ms"]]
    if "first_timestamp_ms" not in present:
        columns["first_timestamp_ms"] = columns["last_timestamp_ms"]
    windows = [
        Window(*row) for row in zip(rows.window_end_ms.tolist(), *columns.values(), strict=True)
    ]
    bounds = rows.offsets.tolist()
    if not bounds or bounds[0] < 0 or bounds != sorted(bounds) or bounds[-1] > row_count:
        raise ValueError("offsets ascend within the columns")
    for begin, end in pairwise(bounds):
        own = windows[begin:end]
        _check_windows(own, emission)
        yield own


def _check_windows(windows: list[Window], emission: Emission) -> None:
    """Refuses windows that do not ascend, or samples outside of their window."""
    before_ms = -TIME_MS_MAX
    for window in windows:
        begin_ms = window.end_ms - emission.window_ms
        is_good = before_ms < window.end_ms < TIME_MS_MAX
        if window.count > 0:
            is_good = is_good and begin_ms < window.first_ms <= window.last_ms <= window.end_ms
            begin_ms = window.last_ms
        if window.stale_ms:
            is_good = is_good and begin_ms < window.stale_ms <= window.end_ms
        if not is_good:
            raise ValueError("windows ascend within a slot and hold their samples")
        before_ms = window.end_ms


# -- evaluations --


def next_evaluation(grid: Grid, after_ms: int) -> int | None:
    """The first evaluation behind a time; None if there is none."""
    if grid.step_ms == 0:
        return grid.first_ms if grid.first_ms > after_ms else None
    in_subquery = after_ms // grid.step_ms * grid.step_ms + grid.step_ms
    steps = max(0, (after_ms - grid.first_ms) // grid.step_ms + 1)
    return min(in_subquery, grid.first_ms + steps * grid.step_ms)


def is_evaluated(grid: Grid, after_ms: int, until_ms: int) -> bool:
    """Whether an evaluation lies in (after_ms, until_ms]."""
    evaluation_ms = next_evaluation(grid, after_ms)
    return evaluation_ms is not None and evaluation_ms <= until_ms


def sight_ms_of(grid: Grid) -> int:
    """How long after a sample the last evaluation may be that sees it."""
    return grid.range_ms if grid.is_closed else grid.range_ms - 1


def is_touched(window: Window, emission: Emission) -> bool:
    """Whether some evaluation looks at the window."""
    grid = emission.grid
    return grid is None or is_evaluated(
        grid, window.end_ms - emission.window_ms, window.end_ms + sight_ms_of(grid)
    )
