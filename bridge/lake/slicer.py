"""Goes through the files of a query slice by slice: what samples and rollups have in common.

    files ──(footers)──> units ──(cut)──> boxes ──(fetched ahead)──> row groups ──> slice

A box is halved until few enough rows are expected in it, and once more if there are too many while
it is read. What the slices of remote files need is fetched before they are read, as much at a time
as a step may have.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import inf
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from bridge.lake.block_file import Check
from bridge.lake.footers import Footer, FooterCache
from bridge.lake.row_groups import FileRead, Reading, RowGroup, RowGroups, Wanted
from bridge.lake.selection import Selection
from bridge.lake.slices import (
    CHUNK_COST_ROWS,
    ROWS_EASY,
    ROWS_MAX,
    Box,
    Units,
    cheapest_cut,
    file_units,
)
from bridge.lake.snapshot import LakeFile
from bridge.wire.columns import I32Array

BATCH_ROWS = 1 << 17
"""Small row groups are decoded together up to so many rows: each call costs 0.1 ms, and what was
decoded before is still in the cache when its rows are selected."""
SPARSE_RATIO = 16
"""A row group of which less than one row in so many is expected has its ids looked at first: that
costs 0.05 ms more, and a quarter of the whole where there is no such row."""

BoolArray = NDArray[np.bool_]
Scalar = TypeVar("Scalar", bound=np.generic)
Columns = TypeVar("Columns")
Rows = TypeVar("Rows")


class SliceTooLarge(Exception):
    """More rows than expected; the box has to be halved."""


@dataclass(frozen=True, slots=True)
class ScanFile:
    """A file that may hold rows of the query.

    Attributes:
        file: where it lies.
        series_count: series that have rows in it, about, for the estimate; at least 1.
    """

    file: LakeFile
    series_count: int


@dataclass(frozen=True, slots=True)
class Cuts:
    """Where slices end.

    Attributes:
        rows_max: more are not expected in a slice; if there are twice as many it is halved while it
            is read.
        rows_easy: more are expected only where a cut would cost an eighth of the slice.
        chunk_cost_rows: what a cut in time costs for each series.
        grid_ms: such a cut lies on a multiple of it.
    """

    rows_max: int = ROWS_MAX
    rows_easy: int = ROWS_EASY
    chunk_cost_rows: int = CHUNK_COST_ROWS
    grid_ms: int = 1


class Slicer(Generic[Columns]):
    """The row groups that can hold rows of a query, and what else can.

    Attributes:
        files: with their footers, by the number that units know them under.
        units: of the files, and then others.
    """

    def __init__(
        self,
        selection: Selection,
        whole: Box,
        files: Sequence[ScanFile],
        reading: Reading[Columns],
        footers: FooterCache,
        check: Check,
        *,
        rows_max: int,
        others: Sequence[Units] = (),
        share: float = 1.0,
    ) -> None:
        """Finds out what has to be read.

        Args:
            selection: the series wanted; at least one.
            whole: all that may be asked for.
            files: those that can hold rows in it.
            reading: what is read of them.
            footers: of the files, and what they are opened through.
            check: called between row groups; raises to end the work.
            rows_max: of row groups that the next slice needs too, how much is kept decoded.
            others: units that are not of files, their groups below 0.
            share: of the rows of selected series, how many are wanted, about.

        Raises:
            FileNotFoundError: a file is gone; the lake has moved on.
        """
        self._selection = selection
        self._whole = whole
        self._footers = footers
        self._check = check
        self._rows_max = rows_max
        self._share = share
        self._row_groups = RowGroups(reading, rows_max, footers.files)
        lake_files = [one.file for one in files]
        found = footers.fetch(lake_files, check)
        self.files: list[tuple[LakeFile, Footer]] = list(zip(lake_files, found, strict=True))
        parts = [
            file_units(source, footer, selection, whole, one.series_count)
            for source, (one, footer) in enumerate(zip(files, found, strict=True))
        ]
        self.units = Units.join([*parts, *others])

    @property
    def file_count(self) -> int:
        """Files that will be read."""
        return len(np.unique(self.units.sources[self.units.groups >= 0]))

    def expected_rows(self, box: Box) -> float:
        """Rows that will be found in a box, about."""
        return self._expected_rows(box, self.units.within(box))

    def read_bytes(self) -> int:
        """Bytes of the column chunks that will be read, if each is read once."""
        units = self.units
        total = 0
        for source, (file, footer) in enumerate(self.files):
            own = (units.sources == source) & (units.groups >= 0)
            wanted = [Wanted((group,)) for group in units.groups[own].tolist()]
            part = self._row_groups.part_of(FileRead(file, footer, wanted))
            total += sum(length for _, length in part.ranges)
        return total

    def slices(
        self, cuts: Cuts, read: Callable[[Box, NDArray[np.int64], int | None], Rows]
    ) -> Iterator[tuple[Box, Rows]]:
        """What was read of each slice; those of one series in the order of time.

        Args:
            cuts: where slices end.
            read: makes rows of a box, from units with these numbers. If it gets more than so many
                it raises SliceTooLarge.

        Raises:
            FileNotFoundError: a file is gone; the lake has moved on.
        """
        waiting = [self._whole]
        is_fetched = np.zeros(len(self.units), np.bool_)
        while waiting:
            box = waiting.pop()
            units = self.units.within(box)
            if not len(units):
                continue
            halves = self._halve(box, self._expected_rows(box, units), cuts)
            if not halves:
                self._fetch_ahead(units, waiting, is_fetched)
                try:
                    rows = read(box, units, 2 * cuts.rows_max)
                except SliceTooLarge:
                    halves = self._halve(box, inf, cuts)
                    if not halves:
                        rows = read(box, units, None)
            if halves:
                waiting.extend(reversed(halves))
            else:
                yield box, rows
                del rows  # not held while the next slice is read

    def row_groups(self, box: Box, units: NDArray[np.int64]) -> Iterator[RowGroup[Columns]]:
        """Row groups of a slice, those of units with these numbers.

        Raises:
            FileNotFoundError: a file is gone; the lake has moved on.
        """
        every = self.units
        units = units[every.groups[units] >= 0]
        if not len(units):
            return
        is_torn = (every.rank_ends[units] > box.rank_end) | (
            (every.until_ms[units] > box.until_ms) & (box.until_ms < self._whole.until_ms)
        )
        # Where a file has one row group that can hold the few rows, it likely does.
        sources, groups = every.sources[units], every.groups[units]
        has_few = every.expected[units] < every.row_counts[units] / SPARSE_RATIO
        has_few &= np.bincount(sources)[sources] > 1
        reads = []
        for source in dict.fromkeys(sources.tolist()):
            own = sources == source
            file, footer = self.files[source]
            is_kept = self._row_groups.are_kept(file.path, groups[own])
            batches = _batches(groups[own], footer, is_torn[own], has_few[own], is_kept)
            reads.append(FileRead(file, footer, batches))
        for row_group in self._row_groups.read(reads, self._check):
            self._check()
            yield row_group

    def is_one_file(self, units: NDArray[np.int64]) -> bool:
        """Whether the rows of units come in the order of one file, and need no other."""
        sources, groups = self.units.sources[units], self.units.groups[units]
        return bool(groups.min() >= 0 and sources.min() == sources.max())

    def _expected_rows(self, box: Box, units: NDArray[np.int64]) -> float:
        return self.units.expected_rows(box, units) * self._share

    def _fetch_ahead(
        self, units: NDArray[np.int64], waiting: Sequence[Box], is_fetched: BoolArray
    ) -> None:
        """Fetches what a slice needs, and for the next ones as much as a step may have.

        Slice by slice would be one round trip after the other; 20 ms each, where reading what comes
        takes 5.

        Args:
            units: of the slice.
            waiting: what comes afterwards, the last first.
            is_fetched: units that were fetched, and are in the cache if nobody needed the room.
        """
        if is_fetched[units].all() or not self._footers.files.has_remote:
            return
        files = self._footers.files
        step = files.new_step()
        reads = []
        later = (self.units.within(box) for box in reversed(waiting))
        parts = itertools.chain([units], later)
        for number in itertools.chain.from_iterable(
            part[~is_fetched[part]].tolist() for part in parts
        ):
            is_fetched[number] = True
            group = int(self.units.groups[number])
            if group < 0:
                continue
            file, footer = self.files[self.units.sources[number]]
            if files.is_remote(file.path):
                reads.append(FileRead(file, footer, [Wanted((group,))]))
                step.add(self._row_groups.part_of(reads[-1]))
            if step.is_full:
                break
        self._row_groups.fetch(reads, self._check)

    def _halve(self, box: Box, expected_rows: float, cuts: Cuts) -> tuple[Box, ...]:
        """Two boxes where one has too many rows, or many and is easily cut; else none."""
        if expected_rows <= min(cuts.rows_easy, cuts.rows_max):
            return ()
        cut = cheapest_cut(box, self.units, cuts.grid_ms, self._rows_max, cuts.chunk_cost_rows)
        if cut is None or (expected_rows <= cuts.rows_max and cut.cost_rows > expected_rows / 8):
            return ()
        return cut.first, cut.second


def join_columns(parts: Sequence[NDArray[Scalar]], kind: type[Scalar]) -> NDArray[Scalar]:
    """One column of all parts, not copied where there is one."""
    if len(parts) == 1:
        return np.ascontiguousarray(parts[0])
    return np.concatenate(parts) if parts else np.empty(0, kind)


def _batches(
    groups: I32Array,
    footer: Footer,
    is_torn: BoolArray,
    has_few: BoolArray,
    is_kept: Sequence[bool],
) -> list[Wanted]:
    """Row groups of a file, as they are to be read: together up to BATCH_ROWS rows."""
    batches: list[Wanted] = []
    waiting: list[int] = []
    row_count = 0
    columns = groups.tolist(), is_torn.tolist(), has_few.tolist(), is_kept
    for group, torn, few, kept in zip(*columns, strict=True):
        rows = int(footer.row_counts[group])
        # Where a row group has one metric, its bounds of ids are those of a run: it has the series.
        sparse = few and footer.metric_minima[group] != footer.metric_maxima[group]
        is_alone = torn or sparse or kept
        if waiting and (is_alone or row_count + rows > BATCH_ROWS):
            batches.append(Wanted(tuple(waiting)))
            waiting, row_count = [], 0
        if is_alone:
            batches.append(Wanted((group,), torn, sparse))
        else:
            waiting.append(group)
            row_count += rows
    if waiting:
        batches.append(Wanted(tuple(waiting)))
    return batches
