"""A table of a bucket as DuckDB sees it: a pyarrow dataset that reads through our cache.

    DuckDB ── columns, filter ──> scanner ── files ── footers ── row groups ── fetch a step, decode,
                                             by the bounds in the log, and of the footers   filter

DuckDB knows pyarrow's Dataset by its class, asks it for a scanner with the columns and the filter
of a query, and takes batches from that. Only that much of a Dataset is here. pyarrow's own reads
ahead on threads of its own, and a process that ends while those call into a file system written in
Python ends with a segmentation fault (26.0.1: each time after `LIMIT 1`); here everything happens
on the thread that asks.

Filters are evaluated by pyarrow, twice: against bounds, to leave out what cannot match (LAKE-7),
and against rows. Times are columns, so that a filter on either form of them is one on the bounds.

Limits: memory is that of a row group and of the steps of `bridge.lake.files`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from bridge.lake.file_cache import Part
from bridge.lake.files import Files
from bridge.lake.footers import Footer, FooterCache
from bridge.lake.schema import TableSchema
from bridge.lake.snapshot import LakeFile
from bridge.sql.branches import UNKNOWN_MS
from bridge.sql.views import TIME_MS_MAX, TIME_MS_MIN, TIMES

FILES_AT_ONCE = 64
"""Whose footers are fetched together: two rounds of 32 requests."""

_TIME = pa.timestamp("us", "UTC")
_FORMAT = ds.ParquetFileFormat()
_NOWHERE = pafs.LocalFileSystem()


@dataclass(frozen=True, slots=True)
class _Item:
    """A row group that may hold what is asked for."""

    file: LakeFile
    footer: Footer
    group: int


class FarTable(ds.InMemoryDataset):  # type: ignore[misc]
    """One version of one table; any thread."""

    def __init__(
        self, schema: TableSchema, files: Sequence[LakeFile], opened: Files, footers: FooterCache
    ) -> None:
        """Describes it; nothing is fetched.

        Args:
            schema: of the table.
            files: that make it up.
            opened: what they are read through.
            footers: of the same files.
        """
        fields = []
        for field in schema.columns:
            fields.append(field)
            if field.name in TIMES:
                fields.append(pa.field(TIMES[field.name], _TIME))
        self._shown = pa.schema(fields)
        super().__init__(self._shown.empty_table())
        self._stored = schema
        self._lake_files = list(files)
        self._opened = opened
        self._footers = footers
        self._bounds = [
            _between("metric", file.metric_min, file.metric_max)
            & _times_between(schema.time_column, file.timestamp_ms_min, file.timestamp_ms_max)
            for file in files
        ]

    def scanner(self, **asked: Any) -> "_Scanner":
        """What DuckDB calls: columns and filter of a query."""
        names = asked.get("columns")
        return _Scanner(self, self._shown.names if names is None else names, asked.get("filter"))

    def read(self, names: Sequence[str], condition: Any) -> Iterator[Any]:
        """Batches of the rows that a condition leaves.

        Args:
            names: columns, in their order.
            condition: pyarrow expression; None for all rows.

        Raises:
            FileNotFoundError: a file is gone.
            StorageUnavailable: the store failed.
        """
        # An expression does not say which columns it has; its text has their names, and others.
        text = "" if condition is None else str(condition)
        needed = [*names, *(name for name in self._shown.names if name in text)]
        millis = {
            moment: name for name, moment in TIMES.items() if name in self._stored.columns.names
        }
        columns = [
            field.name
            for field in self._stored.columns
            if field.name in needed or field.name in {millis.get(name) for name in needed}
        ]
        # Without any column pyarrow would know of no rows.
        columns = columns or [self._stored.columns.names[1]]
        wanted = pa.schema([self._shown.field(name) for name in names])
        picked = _pick(self._shown, self._bounds, condition)
        files = [self._lake_files[place] for place in picked]
        for begin in range(0, len(files), FILES_AT_ONCE):
            for stored in self._tables(files[begin : begin + FILES_AT_ONCE], columns, condition):
                shown = stored
                for name in sorted(millis.keys() & set(needed)):
                    shown = shown.append_column(name, _moments(stored[millis[name]]))
                chosen = shown if condition is None else shown.filter(condition)
                yield from chosen.select(names).cast(wanted).to_batches()

    def _tables(
        self, files: Sequence[LakeFile], columns: Sequence[str], condition: Any
    ) -> Iterator[Any]:
        """Row groups that can hold rows of a condition."""
        if "series_id" not in self._stored.columns.names:
            # `metadata`: small, and without the columns that footers are kept by.
            wholes = self._opened.in_steps(files, _whole, _never)
            for file, opened in wholes:
                with opened.source(file.path) as source:
                    yield pq.read_table(source, columns=columns, use_threads=False)
            return
        items = []
        for file, footer in zip(files, self._footers.fetch(files, _never), strict=True):
            bounds = [
                _between("metric", footer.metric_minima[group], footer.metric_maxima[group])
                & _between(
                    "series_id",
                    int(footer.series_id_minima[group]),
                    int(footer.series_id_maxima[group]),
                )
                for group in range(len(footer.row_counts))
            ]
            items += [_Item(file, footer, group) for group in _pick(self._shown, bounds, condition)]

        # Few distinct ones: compared and copied as numbers.
        texts = [name for name in ("metric", "replica") if name in columns]

        def part_of(item: _Item) -> Part:
            ranges = item.footer.chunk_ranges([item.group], columns)
            return Part(item.file.path, item.file.size_bytes, ranges)

        for item, opened in self._opened.in_steps(items, part_of, _never):
            with opened.parquet(item.file.path, item.footer.parsed, texts) as file:
                yield file.read_row_groups([item.group], columns=columns, use_threads=False)


class _Scanner:
    """What DuckDB takes a query's batches from."""

    def __init__(self, table: FarTable, names: Sequence[str], condition: Any) -> None:
        self._table = table
        self._names = list(names)
        self._condition = condition

    def to_reader(self) -> Any:
        """The batches."""
        schema = pa.schema([self._table.schema.field(name) for name in self._names])
        batches = self._table.read(self._names, self._condition)
        return pa.RecordBatchReader.from_batches(schema, batches)


def _pick(schema: Any, bounds: Sequence[Any], condition: Any) -> list[int]:
    """Places of the bounds that a condition does not contradict (LAKE-7)."""
    if condition is None:
        return list(range(len(bounds)))
    fragments = [
        _FORMAT.make_fragment(str(place), _NOWHERE, partition_expression=bound)
        for place, bound in enumerate(bounds)
    ]
    pieces = ds.FileSystemDataset(fragments, schema, _FORMAT, _NOWHERE)
    return [int(piece.path) for piece in pieces.get_fragments(filter=condition)]


def _between(name: str, low: Any, high: Any) -> Any:
    field = pc.field(name)
    return (field >= pa.scalar(low)) & (field <= pa.scalar(high)) & field.is_valid()


def _times_between(name: str, low_ms: int, high_ms: int) -> Any:
    if not name or low_ms == UNKNOWN_MS[0] or high_ms == UNKNOWN_MS[1]:
        return pc.scalar(True)
    bounds = _between(name, low_ms, high_ms)
    if low_ms < TIME_MS_MIN or high_ms > TIME_MS_MAX:
        return bounds
    low, high = (pa.scalar(ms * 1000, pa.int64()).cast(_TIME) for ms in (low_ms, high_ms))
    return bounds & _between(TIMES[name], low, high)


def _moments(millis: Any) -> Any:
    """A column of Unix ms as times; null for what no date can name."""
    is_dated = pc.and_(pc.greater_equal(millis, TIME_MS_MIN), pc.less_equal(millis, TIME_MS_MAX))
    dated = pc.if_else(is_dated, millis, pa.scalar(None, pa.int64()))
    return pc.multiply(dated, 1000).cast(_TIME)


def _whole(file: LakeFile) -> Part:
    return Part(file.path, file.size_bytes, [(0, file.size_bytes)])


def _never() -> None:
    """Nothing ends a read but the one who asks."""
