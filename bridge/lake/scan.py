"""Reads the samples of selected series: head and files, in slices, merged.

    units of a slice ──> rows (slot, time, value) ──> by slot ──> replicas ──> duplicates ──> out

pyarrow decodes the row groups, one at a time on the calling thread, with footers that are kept.
DuckDB was measured beside it on the same files (docs/remote-read.md): as fast in bulk, but it looks
at the bounds of every row group of every file again in each query, 10 us each, and rows come
without an order, so that every bounded slice would be a query of its own.

Replicas: while every row of a query is of one replica, or of none, nothing is done about them. Else
whole hours are read, the rule of `bridge.lake.merge` is applied, and what was not asked for is cut
off again.

Invariants:
    READ-2  a sample that is in head and lake, or in several files, comes once; a sample that was
            readable stays readable while it moves from the head into the lake.
    READ-3  samples of a series come in the order of time, within a slice and from slice to slice.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import inf
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from bridge.lake.block_file import Check
from bridge.lake.footers import Footer, FooterCache
from bridge.lake.grouped import GroupedRows
from bridge.lake.head_view import HeadRows
from bridge.lake.merge import HOUR_MS, choose_replicas
from bridge.lake.row_groups import FileRead, RowGroups, Wanted
from bridge.lake.rows import group_rows, merge_duplicates
from bridge.lake.sample_rows import HeadPart, SampleRows, select_rows
from bridge.lake.selection import Selection
from bridge.lake.slices import ROWS_EASY, ROWS_MAX, Box, Units, cheapest_cut, file_units
from bridge.lake.snapshot import LakeFile
from bridge.model.time_range import TimeRange
from bridge.wire.columns import I32Array

BATCH_ROWS = 1 << 17
"""Small row groups are decoded together up to so many rows: each call costs 0.1 ms, and what was
decoded before is still in the cache when its rows are selected."""
SPARSE_RATIO = 16
"""A row group of which less than one row in so many is expected has its ids looked at first: that
costs 0.05 ms more, and a quarter of the whole where there is no such row."""

BoolArray = NDArray[np.bool_]
Scalar = TypeVar("Scalar", bound=np.generic)


@dataclass(frozen=True, slots=True)
class ScanFile:
    """A file that may hold samples of the query.

    Attributes:
        file: where it lies.
        series_count: series that have samples in it, about, for the estimate; at least 1.
    """

    file: LakeFile
    series_count: int


@dataclass(frozen=True, slots=True)
class Slice:
    """Merged samples of a run of ranks.

    Attributes:
        rank_begin: rank of slot 0.
        rows: by slot; times ascend strictly within one.
    """

    rank_begin: int
    rows: GroupedRows


class _SliceTooLarge(Exception):
    """More rows than expected; the box has to be halved."""


class Scan:
    """The samples of one query."""

    def __init__(
        self,
        selection: Selection,
        time_range: TimeRange,
        list_files: Callable[[TimeRange], Sequence[ScanFile]],
        heads: Sequence[HeadRows],
        footers: FooterCache,
        check: Check,
        rows_max: int = ROWS_MAX,
    ) -> None:
        """Finds out what has to be read.

        Args:
            selection: the series wanted; at least one.
            time_range: the samples wanted; not empty.
            list_files: the files that can hold samples in a range, of lake and head.
            heads: rows in memory.
            footers: of the files, and what they are opened through.
            check: called between row groups; raises to end the work.
            rows_max: rows of a slice, about.

        Raises:
            FileNotFoundError: a file is gone; the lake has moved on.
        """
        self._selection = selection
        self._wanted = time_range
        self._read_range = time_range
        self._footers = footers
        self._check = check
        self._rows_max = rows_max
        self._row_groups = RowGroups(rows_max, footers.files)
        self._heads = []
        for head in heads:
            rank_of_ref = selection.rank_of_ref(head.registry)
            if rank_of_ref is not None:
                self._heads.append(HeadPart(head, rank_of_ref))
        self._files: list[tuple[LakeFile, Footer]] = []
        self._units = self._find_units(list_files(time_range))
        self._has_replicas = self._count_replicas() > 1
        if self._has_replicas and time_range.widen(HOUR_MS) != time_range:
            self._read_range = time_range.widen(HOUR_MS)
            self._units = self._find_units(list_files(self._read_range))

    @property
    def file_count(self) -> int:
        """Files that will be read."""
        return len(np.unique(self._units.sources[self._units.groups >= 0]))

    def expected_rows(self) -> float:
        """Rows that will be found, about, before duplicates and replicas merge."""
        box = self._box(self._wanted)
        return self._units.expected_rows(box, self._units.within(box))

    def slices(self) -> Iterator[Slice]:
        """All samples; READ-3.

        Raises:
            FileNotFoundError: a file is gone; the lake has moved on.
        """
        waiting = [self._box(self._read_range)]
        is_fetched = np.zeros(len(self._units), np.bool_)
        while waiting:
            box = waiting.pop()
            units = self._units.within(box)
            if not len(units):
                continue
            halves = self._halve(box, self._units.expected_rows(box, units))
            if not halves:
                self._fetch_ahead(units, waiting, is_fetched)
                try:
                    rows = self._read(box, units, 2 * self._rows_max)
                except _SliceTooLarge:
                    halves = self._halve(box, inf)
                    if not halves:
                        rows = self._read(box, units, None)
            if halves:
                waiting.extend(reversed(halves))
            elif len(rows.timestamps_ms):
                yield Slice(box.rank_begin, rows)

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
        later = (self._units.within(box) for box in reversed(waiting))
        parts = itertools.chain([units], later)
        for number in itertools.chain.from_iterable(
            part[~is_fetched[part]].tolist() for part in parts
        ):
            is_fetched[number] = True
            group = int(self._units.groups[number])
            if group < 0:
                continue
            file, footer = self._files[self._units.sources[number]]
            if files.is_remote(file.path):
                reads.append(FileRead(file, footer, [Wanted((group,))]))
                step.add(reads[-1].part())
            if step.is_full:
                break
        self._row_groups.fetch(reads, self._check)

    def _halve(self, box: Box, expected_rows: float) -> tuple[Box, ...]:
        """Two boxes where one has too many rows, or many and is easily cut; else none."""
        if expected_rows <= min(ROWS_EASY, self._rows_max):
            return ()
        grid_ms = HOUR_MS if self._has_replicas else 1
        cut = cheapest_cut(box, self._units, grid_ms, self._rows_max)
        if cut is None or (expected_rows <= self._rows_max and cut.cost_rows > expected_rows / 8):
            return ()
        return cut.first, cut.second

    def _box(self, time_range: TimeRange) -> Box:
        return Box(0, len(self._selection), time_range.after_ms, time_range.until_ms)

    def _find_units(self, files: Sequence[ScanFile]) -> Units:
        box = self._box(self._read_range)
        lake_files = [one.file for one in files]
        footers = self._footers.fetch(lake_files, self._check)
        self._files = list(zip(lake_files, footers, strict=True))
        parts = []
        for source, (one, footer) in enumerate(zip(files, footers, strict=True)):
            parts.append(file_units(source, footer, self._selection, box, one.series_count))
        parts += [_head_units(source, head) for source, head in enumerate(self._heads)]
        return Units.join(parts)

    def _count_replicas(self) -> int:
        """Distinct replicas among the rows; 2 where that is not known."""
        names = {name for head in self._heads for name in head.replica_names}
        units = self._units
        for source, group in zip(units.sources.tolist(), units.groups.tolist(), strict=True):
            if group >= 0:
                name = self._files[source][1].replicas[group]
                if name is None:
                    return 2
                names.add(name)
        return len(names)

    def _read(self, box: Box, units: NDArray[np.int64], rows_max: int | None) -> GroupedRows:
        """Merged rows of a box."""
        parts: list[SampleRows] = []
        count = 0
        for rows in self._read_units(box, units):
            if len(rows.slots):
                parts.append(rows)
                count += len(rows.slots)
                if rows_max is not None and count > rows_max:
                    raise _SliceTooLarge
        slots = _join([rows.slots for rows in parts], np.int32)
        times = _join([rows.timestamps_ms for rows in parts], np.int64)
        values = _join([rows.values for rows in parts], np.float64)
        slot_count = box.rank_end - box.rank_begin
        if self._has_replicas:
            grouped = group_rows(slots, times, values, slot_count, want_order=True)
            grouped = self._merge_replicas(grouped, parts)
        elif self._is_one_file(units):
            offsets = np.searchsorted(slots, np.arange(slot_count + 1, dtype=np.int32))
            grouped = GroupedRows(offsets, times, values)
        else:
            grouped = group_rows(slots, times, values, slot_count)
        return merge_duplicates(grouped)

    def _is_one_file(self, units: NDArray[np.int64]) -> bool:
        """Whether the rows of units come in the order of one file, and need no other."""
        sources, groups = self._units.sources[units], self._units.groups[units]
        return bool(groups.min() >= 0 and sources.min() == sources.max())

    def _merge_replicas(self, grouped: GroupedRows, parts: Sequence[SampleRows]) -> GroupedRows:
        """The rows that the rule keeps, of those that are wanted."""
        names = sorted({name for rows in parts for name in rows.replica_names})
        place = {name: index for index, name in enumerate(names)}
        replicas = []
        for rows in parts:
            places = np.array([place[name] for name in rows.replica_names], np.int32)
            own = rows.replicas
            replicas.append(places[np.zeros(len(rows.slots), np.int32) if own is None else own])
        assert grouped.order is not None
        times = grouped.timestamps_ms
        keep = choose_replicas(grouped.offsets, times, _join(replicas, np.int32)[grouped.order])
        keep &= (times > self._wanted.after_ms) & (times <= self._wanted.until_ms)
        kept_before = np.concatenate([np.zeros(1, np.int64), np.cumsum(keep)])
        return GroupedRows(kept_before[grouped.offsets], times[keep], grouped.values[keep])

    def _read_units(self, box: Box, units: NDArray[np.int64]) -> Iterator[SampleRows]:
        every = self._units
        is_torn = (every.rank_ends[units] > box.rank_end) | (
            (every.until_ms[units] > box.until_ms) & (box.until_ms < self._read_range.until_ms)
        )
        # Where a file has one row group that can hold the few rows, it likely does.
        sources, groups = every.sources[units], every.groups[units]
        has_few = every.expected[units] < every.row_counts[units] / SPARSE_RATIO
        has_few &= np.bincount(sources)[sources] > 1
        for source, group in zip(sources.tolist(), groups.tolist(), strict=True):
            if group < 0:
                self._check()
                yield from self._heads[source].read(~group, box)
        reads = []
        for source in dict.fromkeys(sources[groups >= 0].tolist()):
            own = (sources == source) & (groups >= 0)
            file, footer = self._files[source]
            batches = _batches(groups[own], footer, is_torn[own], has_few[own])
            reads.append(FileRead(file, footer, batches))
        for row_group in self._row_groups.read(reads, self._check):
            self._check()
            yield select_rows(row_group, self._selection, box)


def _batches(
    groups: I32Array, footer: Footer, is_torn: BoolArray, has_few: BoolArray
) -> list[Wanted]:
    """Row groups of a file, as they are to be read: together up to BATCH_ROWS rows."""
    batches: list[Wanted] = []
    waiting: list[int] = []
    row_count = 0
    columns = groups.tolist(), is_torn.tolist(), has_few.tolist()
    for group, torn, few in zip(*columns, strict=True):
        rows = int(footer.row_counts[group])
        # Where a row group has one metric, its bounds of ids are those of a run: it has the series.
        sparse = few and footer.metric_minima[group] != footer.metric_maxima[group]
        is_alone = torn or sparse
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


def _head_units(source: int, head: HeadPart) -> Units:
    """The blocks of a head; group ~i is block i."""
    blocks = [index for index, (refs, _, _) in enumerate(head.blocks) if len(refs)]
    counts = np.array([len(head.blocks[block][0]) for block in blocks], np.int64)
    return Units(
        np.full(len(blocks), source, np.int32),
        ~np.array(blocks, np.int32),
        counts,
        np.full(len(blocks), head.rank_begin, np.int64),
        np.full(len(blocks), head.rank_end, np.int64),
        np.array([head.blocks[block][1].min() - 1 for block in blocks], np.int64),
        np.array([head.blocks[block][1].max() for block in blocks], np.int64),
        counts * np.float64(head.share),
    )


def _join(parts: Sequence[NDArray[Scalar]], kind: type[Scalar]) -> NDArray[Scalar]:
    """One column of all parts, not copied where there is one."""
    if len(parts) == 1:
        return np.ascontiguousarray(parts[0])
    return np.concatenate(parts) if parts else np.empty(0, kind)
