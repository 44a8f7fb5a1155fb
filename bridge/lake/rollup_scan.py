"""Reads the windows of selected series out of rollup files, in slices.

    row groups of a slice ──> rows that are wanted (slot, window, columns) ──> by slot ──> out

Each window of a series is in one file and has no replicas, so nothing merges. The rows of a file
stand by series and then by time; those of several files, of months or days, are put one after the
other series by series: whole runs of rows move.

Which windows are wanted is decided once for every window that a file can have, before the other
columns are taken: a query that looks at one window in twelve pays for the decoding of all of them,
7 ns a row and column, and for little else.

Invariants:
    READ-3  windows of a series come in the order of time, within a slice and from slice to slice.

Limits: SLICE_BYTES for a slice that has as many rows as expected, and half as much again for one
with twice as many: its rows as they were decoded, which are let go of column by column while they
are joined and put in order; row groups that are kept for the next slice, as many rows; what the
reader of the slices still has of the one before. Measured with 4 and 9 columns: 121 and 155 MiB.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bridge.lake.block_file import Check
from bridge.lake.footers import Footer, FooterCache
from bridge.lake.merge import HOUR_MS
from bridge.lake.row_groups import RowGroup, numbers_of
from bridge.lake.sample_rows import find_slots
from bridge.lake.schema import SAMPLES_1H, TABLES
from bridge.lake.selection import RANK_NONE, Selection
from bridge.lake.slicer import BoolArray, Cuts, ScanFile, Slicer, SliceTooLarge, join_columns
from bridge.lake.slices import ROWS_MAX, Box
from bridge.lake.window_rows import WindowRows
from bridge.model.time_range import TimeRange
from bridge.wire.columns import I32Array, I64Array

SLICE_BYTES = 144 << 20
"""Three times 1 M rows of five columns and the end of the window: 3 x 2^20 x 6 x 8 bytes."""
CUT_COST_ROWS = 500
"""Rows that could be decoded for what a cut in time costs in each series, 4 us: what leaves for a
window depends on those beside it, and is more where they are not known."""
WINDOW_MS_MIN: Final = 300_000
"""The windows of all levels end at multiples of it."""
SHARE_WINDOWS_MAX = 1 << 14
"""How many windows are looked at to say which share is wanted: 57 days of the narrowest, 0.1 ms."""

WindowFilter: TypeAlias = Callable[[I64Array], BoolArray]
"""Which windows are wanted, by their ends; each is decided by itself."""


@dataclass(frozen=True, slots=True)
class WindowSlice:
    """Windows of a run of ranks that end in a span of time.

    Attributes:
        rank_begin: rank of slot 0.
        after_ms: Unix ms; windows of these series that end up to here were in slices before, or are
            not asked for.
        until_ms: Unix ms; windows that end later are in slices to come, or not asked for.
        rows: by slot; arrays may be read-only.
    """

    rank_begin: int
    after_ms: int
    until_ms: int
    rows: WindowRows


@dataclass(frozen=True, slots=True)
class _Columns:
    """What a row has beside its series, decoded.

    Attributes:
        window_end_ms: (n,) int64.
        table: Arrow table of the other columns; n rows, with nulls.
    """

    window_end_ms: I64Array
    table: Any


class _WindowReading:
    """How a rollup is read: the ends of the windows, and some of the other columns."""

    texts: Final = ()

    def __init__(self, columns: Sequence[str]) -> None:
        self._names = ["window_end_ms", *columns]

    def names(self, _footer: Footer, _numbers: Sequence[int]) -> list[str]:
        """Columns that are read of some row groups of a file."""
        return list(self._names)

    def take(self, table: Any, _footer: Footer, _numbers: Sequence[int]) -> _Columns:
        """The ends as an array, the others as they are until it is known which rows are wanted."""
        return _Columns(numbers_of(table["window_end_ms"]), table)


@dataclass(frozen=True, slots=True)
class _Part:
    """Wanted rows of a row group, in its order.

    Attributes:
        slots: (n,) int32 from the box's first rank on.
        columns: (n,) each: the ends of the windows, and then those that were asked for.
    """

    slots: I32Array
    columns: list[NDArray[Any]]


class RollupScan:
    """The windows of one query, of one level."""

    def __init__(
        self,
        selection: Selection,
        time_range: TimeRange,
        files: Sequence[ScanFile],
        columns: Sequence[str],
        footers: FooterCache,
        check: Check,
        wanted: WindowFilter | None = None,
        rows_max: int = ROWS_MAX,
    ) -> None:
        """Finds out what has to be read.

        Args:
            selection: the series wanted; at least one.
            time_range: windows that end in it are wanted; not empty, both ends are multiples of
                the windows' width.
            files: of one level, those that can hold such windows.
            columns: names of columns of `WindowRows` beside `window_end_ms`.
            footers: of the files, and what they are opened through.
            check: called between row groups; raises to end the work.
            wanted: which of the windows; None for all. It may be asked about any multiple of
                WINDOW_MS_MIN.
            rows_max: rows of a slice, about; less where there are many columns.

        Raises:
            FileNotFoundError: a file is gone; the lake has moved on.
        """
        self._selection = selection
        self._names = list(columns)
        self._kinds = [_KINDS[name] for name in ("window_end_ms", *columns)]
        self._wanted = _Wanted(wanted) if wanted is not None else None
        row_bytes = 8 * len(self._kinds)
        self._rows_max = min(rows_max, SLICE_BYTES // (3 * row_bytes))
        self._whole = Box(0, len(selection), time_range.after_ms, time_range.until_ms)
        self._slicer = Slicer(
            selection,
            self._whole,
            files,
            _WindowReading(columns),
            footers,
            check,
            rows_max=self._rows_max,
            share=1.0 if self._wanted is None else self._wanted.share(time_range),
        )

    @property
    def file_count(self) -> int:
        """Files that will be read."""
        return self._slicer.file_count

    def expected_rows(self) -> float:
        """Rows that will be found, about."""
        return self._slicer.expected_rows(self._whole)

    def read_bytes(self) -> int:
        """Bytes of the column chunks that will be read, if each is read once."""
        return self._slicer.read_bytes()

    def slices(self) -> Iterator[WindowSlice]:
        """All windows; READ-3.

        Raises:
            FileNotFoundError: a file is gone; the lake has moved on.
        """
        cuts = Cuts(self._rows_max, self._rows_max, CUT_COST_ROWS, HOUR_MS)
        for box, rows in self._slicer.slices(cuts, self._read):
            if len(rows.window_end_ms):
                yield WindowSlice(box.rank_begin, box.after_ms, box.until_ms, rows)
            del rows  # not held while the next slice is read

    def _read(self, box: Box, units: NDArray[np.int64], rows_max: int | None) -> WindowRows:
        """Rows of a box."""
        parts: list[_Part] = []
        count = 0
        for row_group in self._slicer.row_groups(box, units):
            part = self._select(row_group, box)
            if part is not None:
                parts.append(part)
                count += len(part.slots)
                if rows_max is not None and count > rows_max:
                    raise SliceTooLarge
        slots = join_columns([part.slots for part in parts], np.int32)
        ends, *others = (
            # What was joined is let go of, column by column.
            join_columns([part.columns.pop(0) for part in parts], kind)
            for kind in self._kinds
        )
        offsets, order = _group(slots, ends, box.rank_end - box.rank_begin)
        if order is not None:
            ends = ends[order]
            for place, column in enumerate(others):
                others[place] = column[order]
        return WindowRows(offsets, ends, **dict(zip(self._names, others, strict=True)))

    def _select(self, group: RowGroup[_Columns], box: Box) -> _Part | None:
        """Wanted rows of a row group in a box; None if there are none."""
        found = find_slots(group, self._selection, box)
        if found is None:
            return None
        rows, slots = found
        is_wanted = slots != RANK_NONE
        ends = group.columns.window_end_ms[rows]
        if group.after_ms < box.after_ms or group.until_ms > box.until_ms:
            is_wanted &= (ends > box.after_ms) & (ends <= box.until_ms)
        if self._wanted is not None:
            is_wanted &= self._wanted.look(ends)
        wanted = slice(None) if is_wanted.all() else np.flatnonzero(is_wanted)
        if isinstance(wanted, np.ndarray) and not len(wanted):
            return None
        table = group.columns.table
        columns = [_numbers_or_zero(table[name])[rows][wanted] for name in self._names]
        return _Part(slots[wanted], [ends[wanted], *columns])


class _Wanted:
    """Which windows are wanted, decided once for all rows of a file."""

    def __init__(self, wanted: WindowFilter) -> None:
        self._wanted = wanted
        self._span = (0, -1)
        self._known: BoolArray = np.empty(0, np.bool_)

    def look(self, ends: I64Array) -> BoolArray:
        """Which rows are wanted, by the ends of their windows; there is at least one."""
        first_ms, last_ms = int(ends.min()), int(ends.max())
        if (last_ms - first_ms) // WINDOW_MS_MIN >= len(ends):
            return self._wanted(ends)
        # Row groups of a file have the same windows, series by series.
        if (first_ms, last_ms) != self._span:
            every = np.arange(first_ms, last_ms + 1, WINDOW_MS_MIN, dtype=np.int64)
            self._known, self._span = self._wanted(every), (first_ms, last_ms)
        found: BoolArray = self._known[(ends - first_ms) // WINDOW_MS_MIN]
        return found

    def share(self, time_range: TimeRange) -> float:
        """The share of the windows that is wanted, about; never 0."""
        first_ms = time_range.after_ms + WINDOW_MS_MIN
        until_ms = min(time_range.until_ms, first_ms + SHARE_WINDOWS_MAX * WINDOW_MS_MIN)
        ends = np.arange(first_ms, until_ms + 1, WINDOW_MS_MIN, dtype=np.int64)
        return max(1, int(np.count_nonzero(self._wanted(ends)))) / max(1, len(ends))


def _group(
    slots: I32Array, ends: I64Array, slot_count: int
) -> tuple[I64Array, NDArray[np.int64] | None]:
    """Where the rows of each slot begin, and in which order they are to be taken; None if as is."""
    row_count = len(slots)
    every = np.arange(slot_count + 1, dtype=np.int32)
    is_first = np.ones(row_count, np.bool_)
    is_first[1:] = (slots[1:] != slots[:-1]) | (ends[1:] <= ends[:-1])
    begins = np.flatnonzero(is_first)
    own = slots[begins]
    if (own[1:] > own[:-1]).all():
        # One file, or several that have nothing in common or follow one another.
        offsets = np.append(begins, row_count)[np.searchsorted(own, every)]
        return offsets, None
    lengths = np.diff(np.append(begins, row_count))
    place = np.lexsort((ends[begins], own))
    begins, lengths, own = begins[place], lengths[place], own[place]
    edges = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    offsets = edges[np.searchsorted(own, every)]
    order = np.repeat(begins - edges[:-1], lengths) + np.arange(row_count)
    ordered = ends[order]
    is_late = ordered[1:] <= ordered[:-1]
    inner = offsets[1:-1]
    is_late[inner[(inner > 0) & (inner < row_count)] - 1] = False
    if is_late.any():
        # Files that go on by turns: a run of one lies within a run of another.
        order = np.lexsort((ends, slots))
    return offsets, order


def _numbers_or_zero(column: Any) -> NDArray[Any]:
    """A column of numbers, 0 where it is null; not copied if it is in one piece without nulls."""
    chunk = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    if chunk.null_count == len(chunk):
        return np.zeros(len(chunk), chunk.type.to_pandas_dtype())
    if chunk.null_count:
        # As numpy sees nulls, integers would become floats.
        chunk = chunk.fill_null(0)
    return np.asarray(chunk.to_numpy(zero_copy_only=True))


_KINDS: Final = {
    field.name: field.type.to_pandas_dtype()
    for field in TABLES[SAMPLES_1H].columns
    if field.name not in {"metric", "series_id"}
}
"""Of each column, numpy's type."""
