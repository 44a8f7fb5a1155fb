"""Cuts what a query reads into slices whose rows fit in memory.

A query is a box: ranks (the order of the files) by time. What can hold its rows are units: row
groups of files, each with the ranks and the time that its bounds allow, and blocks of the head.

    time  ^  ┌──────┬──────────────┐      a day's file: few ranks, all of the day each
          │  │ day  │ day          │      a flush's file: many ranks, one minute each
          │  ├──────┴──────────────┤
          │  │ flush               │      a box with too many rows is halved along the axis
          │  │ flush               │      on which the cut costs less
          └──┴─────────────────────┴─> ranks

A cut tears row groups that have rows on both sides; what is beyond the few that are kept decoded is
decoded twice. A cut in time also begins a new chunk in every series. So days are cut by rank and
flushes by time. Slices of one rank come in the order of time: their chunks follow one another.

Rows are estimated: a file has `row_count` rows of `series_count` series, the selected ones have
their share of them. A slice that turns out larger while it is read is halved too.

Limits: a slice has ROWS_EASY rows where cutting is cheap, because what stays in the cache and needs
no new pages is faster; ROWS_MAX elsewhere, and twice as many before a slice is halved while it is
read. A row takes 60 bytes while it is selected, joined, grouped and encoded: 60 MiB, at worst 120,
and 24 MiB for row groups that are kept.
"""

from bisect import bisect_left, bisect_right
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bridge.lake.footers import Footer
from bridge.lake.selection import Selection
from bridge.wire.columns import F64Array, I32Array, I64Array

ROWS_MAX = 1 << 20
ROWS_EASY = 1 << 17
TORN_COST_ROWS = 2500
"""Rows that could be decoded while a torn row group that was kept is looked at again: 50 us."""
CHUNK_COST_ROWS = 50
"""Rows that could be decoded for what a further chunk costs: 20 bytes more, a header to make and to
read, about a microsecond."""


@dataclass(frozen=True, slots=True)
class Box:
    """Ranks rank_begin <= r < rank_end at times after_ms < t <= until_ms."""

    rank_begin: int
    rank_end: int
    after_ms: int
    until_ms: int


@dataclass(frozen=True, slots=True)
class Units:
    """What can hold rows of a query; the columns have one entry per unit, in the files' order.

    Attributes:
        sources: int32, number of the file, or of the head.
        groups: int32, row group in the file; ~i, below 0, is block i of a head.
        row_counts: int64.
        rank_begins: int64, no selected series below is in the unit.
        rank_ends: int64, none from here on is.
        after_ms: int64, every row is later.
        until_ms: int64, no row is later.
        expected: float64, selected rows expected.
    """

    sources: I32Array
    groups: I32Array
    row_counts: I64Array
    rank_begins: I64Array
    rank_ends: I64Array
    after_ms: I64Array
    until_ms: I64Array
    expected: F64Array

    def __len__(self) -> int:
        return len(self.groups)

    @classmethod
    def join(cls, parts: "list[Units]") -> "Units":
        """The units of all parts, in their order."""
        if not parts:
            none = np.empty(0, np.int64)
            return cls(
                none.astype(np.int32), none.astype(np.int32), none, none, none, none, none,
                none.astype(np.float64),
            )  # fmt: skip
        names = cls.__slots__
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))

    def within(self, box: Box) -> NDArray[np.int64]:
        """Numbers of the units that can hold rows of a box."""
        return np.flatnonzero(
            (self.rank_begins < box.rank_end)
            & (self.rank_ends > box.rank_begin)
            & (self.after_ms < box.until_ms)
            & (self.until_ms > box.after_ms)
        )

    def expected_rows(self, box: Box, units: NDArray[np.int64]) -> float:
        """Rows that units are expected to have in a box, spread evenly over rank and time."""
        begins, ends = self.rank_begins[units], self.rank_ends[units]
        ranks = np.minimum(ends, box.rank_end) - np.maximum(begins, box.rank_begin)
        after, until = self.after_ms[units], self.until_ms[units]
        times = np.minimum(until, box.until_ms) - np.maximum(after, box.after_ms)
        shares = (ranks / (ends - begins)) * (times / (until - after))
        return float((self.expected[units] * shares).sum())


def file_units(
    source: int, footer: Footer, selection: Selection, box: Box, series_count: int
) -> Units:
    """Row groups of a file that can hold selected rows.

    Args:
        source: number of the file.
        footer: of the file.
        selection: what is looked for.
        box: where; row groups outside are left out.
        series_count: series that the file has about; at least 1.
    """
    metrics, offsets, ids = selection.metrics, selection.metric_offsets, selection.series_ids
    minima, maxima = footer.metric_minima, footer.metric_maxima
    # A file is sorted by metric, so the bounds of its row groups ascend.
    first = bisect_left(maxima, metrics[0])
    last = bisect_right(minima, metrics[-1])
    groups, begins, ends = [], [], []
    for group in range(first, last):
        if (
            footer.timestamp_ms_maxima[group] <= box.after_ms
            or footer.timestamp_ms_minima[group] > box.until_ms
        ):
            continue
        low, high = minima[group], maxima[group]
        begin = int(offsets[bisect_left(metrics, low)])
        end = int(offsets[bisect_right(metrics, high)])
        if low == high:
            own = ids[begin:end]
            end = begin + int(np.searchsorted(own, footer.series_id_maxima[group], "right"))
            begin += int(np.searchsorted(own, footer.series_id_minima[group], "left"))
        begin, end = max(begin, box.rank_begin), min(end, box.rank_end)
        if begin < end:
            groups.append(group)
            begins.append(begin)
            ends.append(end)
    taken = np.array(groups, np.int64)
    rows = footer.row_counts[taken]
    rank_begins, rank_ends = np.array(begins, np.int64), np.array(ends, np.int64)
    share = footer.row_counts.sum() / max(1, series_count)
    return Units(
        np.full(len(taken), source, np.int32),
        taken.astype(np.int32),
        rows,
        rank_begins,
        rank_ends,
        footer.timestamp_ms_minima[taken] - 1,
        footer.timestamp_ms_maxima[taken],
        np.minimum(rows, (rank_ends - rank_begins) * share),
    )


@dataclass(frozen=True, slots=True)
class Cut:
    """Two boxes that make up one.

    Attributes:
        cost_rows: what it costs to read them one after the other, in rows decoded.
        first: the lower or earlier one.
        second: the other one.
    """

    cost_rows: int
    first: Box
    second: Box


def cheapest_cut(
    box: Box, units: Units, grid_ms: int, kept_rows: int, chunk_cost_rows: int = CHUNK_COST_ROWS
) -> Cut | None:
    """How to halve a box.

    Args:
        box: what is halved.
        units: what can hold its rows.
        grid_ms: a cut in time lies on a multiple of it.
        kept_rows: rows of torn row groups that are not decoded again.
        chunk_cost_rows: what a cut in time costs for each series.

    Returns:
        None where it cannot be cut.
    """
    inside = units.within(box)
    if not len(inside):
        return None
    rows = units.row_counts[inside]
    cuts = []
    begins, ends = units.rank_begins[inside], units.rank_ends[inside]
    rank = _place(max(box.rank_begin, begins.min()), min(box.rank_end, ends.max()), begins)
    if box.rank_begin < rank < box.rank_end:
        cuts.append(
            Cut(
                _torn_rows(rows[(begins < rank) & (ends > rank)], kept_rows),
                Box(box.rank_begin, rank, box.after_ms, box.until_ms),
                Box(rank, box.rank_end, box.after_ms, box.until_ms),
            )
        )
    after, until = units.after_ms[inside], units.until_ms[inside]
    time = _place(max(box.after_ms, after.min()), min(box.until_ms, until.max()), after)
    time = time // grid_ms * grid_ms
    if box.after_ms < time < box.until_ms:
        cuts.append(
            Cut(
                _torn_rows(rows[(after < time) & (until > time)], kept_rows)
                + chunk_cost_rows * (box.rank_end - box.rank_begin),
                Box(box.rank_begin, box.rank_end, box.after_ms, time),
                Box(box.rank_begin, box.rank_end, time, box.until_ms),
            )
        )
    return min(cuts, key=lambda cut: cut.cost_rows) if cuts else None


def _torn_rows(rows: I64Array, kept_rows: int) -> int:
    """What it costs to read row groups of so many rows twice."""
    return max(0, int(rows.sum()) - kept_rows) + TORN_COST_ROWS * len(rows)


def _place(begin: int, end: int, edges: I64Array) -> int:
    """Where to cut: at the edge next to the middle, unless one part would be much the smaller."""
    middle = (int(begin) + int(end)) // 2
    edge = int(edges[np.argmin(np.abs(edges - middle))])
    return edge if abs(edge - middle) <= (end - begin) // 4 else middle
