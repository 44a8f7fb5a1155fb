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

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bridge.lake.block_file import Check
from bridge.lake.footers import FooterCache
from bridge.lake.grouped import GroupedRows
from bridge.lake.head_view import HeadRows
from bridge.lake.merge import HOUR_MS, choose_replicas
from bridge.lake.rows import group_rows, merge_duplicates
from bridge.lake.sample_rows import (
    HeadPart,
    SampleColumns,
    SampleReading,
    SampleRows,
    select_rows,
)
from bridge.lake.selection import Selection
from bridge.lake.slicer import Cuts, ScanFile, Slicer, SliceTooLarge, join_columns
from bridge.lake.slices import ROWS_MAX, Box, Units
from bridge.model.time_range import TimeRange

__all__ = ["Scan", "ScanFile", "Slice"]


@dataclass(frozen=True, slots=True)
class Slice:
    """Merged samples of a run of ranks.

    Attributes:
        rank_begin: rank of slot 0.
        rows: by slot; times ascend strictly within one.
    """

    rank_begin: int
    rows: GroupedRows


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
        self._heads = []
        for head in heads:
            rank_of_ref = selection.rank_of_ref(head.registry)
            if rank_of_ref is not None:
                self._heads.append(HeadPart(head, rank_of_ref))
        self._slicer = self._new_slicer(list_files(time_range))
        self._has_replicas = self._count_replicas() > 1
        if self._has_replicas and time_range.widen(HOUR_MS) != time_range:
            self._read_range = time_range.widen(HOUR_MS)
            self._slicer = self._new_slicer(list_files(self._read_range))

    @property
    def file_count(self) -> int:
        """Files that will be read."""
        return self._slicer.file_count

    def expected_rows(self) -> float:
        """Rows that will be found, about, before duplicates and replicas merge."""
        return self._slicer.expected_rows(self._box(self._wanted))

    def read_bytes(self) -> int:
        """Bytes of the column chunks that will be read, if each is read once."""
        return self._slicer.read_bytes()

    def slices(self) -> Iterator[Slice]:
        """All samples; READ-3.

        Raises:
            FileNotFoundError: a file is gone; the lake has moved on.
        """
        cuts = Cuts(self._rows_max, grid_ms=HOUR_MS if self._has_replicas else 1)
        for box, rows in self._slicer.slices(cuts, self._read):
            if len(rows.timestamps_ms):
                yield Slice(box.rank_begin, rows)

    def _box(self, time_range: TimeRange) -> Box:
        return Box(0, len(self._selection), time_range.after_ms, time_range.until_ms)

    def _new_slicer(self, files: Sequence[ScanFile]) -> Slicer[SampleColumns]:
        return Slicer(
            self._selection,
            self._box(self._read_range),
            files,
            SampleReading(),
            self._footers,
            self._check,
            rows_max=self._rows_max,
            others=[_head_units(source, head) for source, head in enumerate(self._heads)],
        )

    def _count_replicas(self) -> int:
        """Distinct replicas among the rows; 2 where that is not known."""
        names = {name for head in self._heads for name in head.replica_names}
        units = self._slicer.units
        for source, group in zip(units.sources.tolist(), units.groups.tolist(), strict=True):
            if group >= 0:
                name = self._slicer.files[source][1].replicas[group]
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
                    raise SliceTooLarge
        slots = join_columns([rows.slots for rows in parts], np.int32)
        times = join_columns([rows.timestamps_ms for rows in parts], np.int64)
        values = join_columns([rows.values for rows in parts], np.float64)
        slot_count = box.rank_end - box.rank_begin
        if self._has_replicas:
            grouped = group_rows(slots, times, values, slot_count, want_order=True)
            grouped = self._merge_replicas(grouped, parts)
        elif self._slicer.is_one_file(units):
            offsets = np.searchsorted(slots, np.arange(slot_count + 1, dtype=np.int32))
            grouped = GroupedRows(offsets, times, values)
        else:
            grouped = group_rows(slots, times, values, slot_count)
        return merge_duplicates(grouped)

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
        keep = choose_replicas(
            grouped.offsets, times, join_columns(replicas, np.int32)[grouped.order]
        )
        keep &= (times > self._wanted.after_ms) & (times <= self._wanted.until_ms)
        kept_before = np.concatenate([np.zeros(1, np.int64), np.cumsum(keep)])
        return GroupedRows(kept_before[grouped.offsets], times[keep], grouped.values[keep])

    def _read_units(self, box: Box, units: NDArray[np.int64]) -> Iterator[SampleRows]:
        every = self._slicer.units
        sources, groups = every.sources[units], every.groups[units]
        for source, group in zip(sources.tolist(), groups.tolist(), strict=True):
            if group < 0:
                self._check()
                yield from self._heads[source].read(~group, box)
        for row_group in self._slicer.row_groups(box, units):
            yield select_rows(row_group, self._selection, box)


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
