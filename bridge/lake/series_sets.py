"""The label sets of the lake: read from `series` files on demand, kept in one registry.

A query names a metric, mostly; then only that metric's rows are read, and kept: files never change,
and a series row is true for the month it stands in. Files of few series (every flush writes the
new ones of its minute) are read whole, because opening them is what costs. A query for any metric
reads everything that its months have.

    months of the query ──> series files ──> rows not read yet ──> registry, months of each ref
                                                                   │
                                     refs that the matchers keep <─┘ and that have the month

When the registry outgrows its bound it is thrown away and what the present query needs is read
again; where that alone is more than the bound, rows are read in batches and only what the matchers
keep is kept, for this query.

Limits: `bytes_max` for the registry. Queries that still use a discarded one keep it alive, and one
batch of 65536 rows (about 30 MB of labels) is in flight.
"""

import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from bridge.errors import QueryTooLarge
from bridge.lake.block_file import Check
from bridge.lake.file_cache import Part
from bridge.lake.files import OpenFiles
from bridge.lake.footers import Footer, FooterCache
from bridge.lake.schema import month_of
from bridge.lake.selection import Found
from bridge.lake.snapshot import LakeFile, Snapshot, TableFiles
from bridge.model.time_range import TimeRange
from bridge.wire.columns import I64Array, U32Array
from bridge.wire.decoded import LabelRows
from bridge.wire.series import SeriesRegistry

WHOLE_ROWS_MAX = 8192
"""Files with at most this many series are read whole: 3 MB of labels, 10 ms."""

SERIES_BYTES_MIN = 120
"""What a series takes at the least: its row, its id in the tables, ten pair ids of 4 bytes."""

Match = Callable[[SeriesRegistry], U32Array]
"""Refs of a registry that a query's matchers keep."""


@dataclass(slots=True)
class _Loaded:
    """What was read so far.

    Attributes:
        registry: every series read.
        metrics_of: by file, the metrics that were read; None if all were.
        months: by month, which refs stand in it; may be shorter than the registry.
        complete: (metrics, months) that need nothing more of `table`.
        table: the version of `series` that `complete` speaks of.
    """

    registry: SeriesRegistry = field(default_factory=SeriesRegistry)
    metrics_of: dict[str, set[str] | None] = field(default_factory=dict)
    months: dict[str, NDArray[np.bool_]] = field(default_factory=dict)
    complete: set[tuple[frozenset[str] | None, tuple[str, ...]]] = field(default_factory=set)
    table: TableFiles | None = None

    def needs(self, file: LakeFile, metrics: frozenset[str] | None) -> frozenset[str] | None:
        """Metrics that are still to be read from a file; None for all, empty for none."""
        if file.path not in self.metrics_of:
            whole = metrics is None or file.row_count <= WHOLE_ROWS_MAX
            return None if whole else metrics
        had = self.metrics_of[file.path]
        if had is None:
            return frozenset()
        return metrics - had if metrics is not None else None

    def add(self, month: str, rows: "SeriesRows") -> None:
        """Takes rows of one month in."""
        refs = self.registry.add_rows(rows.series_ids, *rows.label_columns)
        flags = self.months.get(month)
        if flags is None or len(flags) < len(self.registry):
            grown = np.zeros(len(self.registry) * 5 // 4, np.bool_)
            if flags is not None:
                grown[: len(flags)] = flags
            self.months[month] = flags = grown
        flags[refs] = True

    def mark(self, file: LakeFile, metrics: frozenset[str] | None) -> None:
        """Says that these metrics of a file are in."""
        had = self.metrics_of.get(file.path, set())
        self.metrics_of[file.path] = None if metrics is None or had is None else had | metrics

    def in_months(self, refs: U32Array, months: Sequence[str]) -> U32Array:
        """Those refs that stand in one of the months."""
        keep = np.zeros(len(refs), np.bool_)
        for month in months:
            flags = self.months.get(month)
            if flags is not None:
                known = refs < len(flags)
                keep[known] |= flags[refs[known]]
        return refs[keep]


class LakeSeries:
    """Finds the lake's series; any thread."""

    def __init__(self, bytes_max: int, footers: FooterCache) -> None:
        self._bytes_max = bytes_max
        self._footers = footers
        self._loading = threading.Lock()
        self._loaded = _Loaded()
        self._counts: tuple[TableFiles | None, dict[str, int]] = (None, {})
        self.hit_count = 0
        self.miss_count = 0

    @property
    def memory_bytes(self) -> int:
        """What the kept label sets take."""
        return self._loaded.registry.memory_bytes

    def find(
        self,
        snapshot: Snapshot,
        time_range: TimeRange,
        metrics: Collection[str] | None,
        match: Match,
        check: Check,
    ) -> Found:
        """Series of a snapshot that can have samples in a range and that `match` keeps.

        Args:
            snapshot: of the lake.
            time_range: months that it touches count as a whole.
            metrics: the only ones that `match` can keep; None if it can keep any.
            match: what the query's matchers keep of a registry.
            check: called now and then; raises to end the work.

        Raises:
            FileNotFoundError: a file of the snapshot is gone.
            QueryTooLarge: the series kept take more than `bytes_max`.
        """
        months = months_within(snapshot, time_range)
        wanted = None if metrics is None else frozenset(metrics)
        key = (wanted, months)
        loaded = self._loaded
        if loaded.table is snapshot.series and key in loaded.complete:
            self.hit_count += 1
        else:
            kept = self._load(snapshot, months, wanted, check)
            if kept is None:
                return self._stream(snapshot, months, wanted, match, check)
            loaded = kept
        return Found(loaded.registry, loaded.in_months(match(loaded.registry), months))

    def series_counts(self, snapshot: Snapshot) -> dict[str, int]:
        """By month, about how many series have samples in it; some may be counted twice."""
        table, counts = self._counts
        if table is not snapshot.series:
            by_month = (
                pa.table({"month": snapshot.series.partitions, "rows": snapshot.series.row_counts})
                .group_by("month")
                .aggregate([("rows", "sum")])
            )
            columns = by_month["month"].to_pylist(), by_month["rows_sum"].to_pylist()
            counts = dict(zip(*columns, strict=True))
            self._counts = (snapshot.series, counts)
        return counts

    def _load(
        self,
        snapshot: Snapshot,
        months: tuple[str, ...],
        metrics: frozenset[str] | None,
        check: Check,
    ) -> _Loaded | None:
        """Reads what is missing; None if it does not fit."""
        while not self._loading.acquire(timeout=0.1):
            check()
        try:
            files = _series_files(snapshot, metrics, months)
            loaded = self._loaded
            missing = [file for file in files if loaded.needs(file, metrics) != frozenset()]
            self.miss_count += bool(missing)
            self.hit_count += not missing
            if metrics is None and self._is_hopeless(missing):
                return None
            for attempt in [loaded, _Loaded()] if loaded.metrics_of else [loaded]:
                if self._read_into(attempt, files, metrics, check):
                    if attempt.table is not snapshot.series:
                        attempt.table, attempt.complete = snapshot.series, set()
                    attempt.complete.add((metrics, months))
                    self._loaded = attempt
                    return attempt
            self._loaded = _Loaded()
            return None
        finally:
            self._loading.release()

    def _is_hopeless(self, files: Sequence[LakeFile]) -> bool:
        """Whether so many series cannot fit, so that nothing need be thrown away for them."""
        return sum(file.row_count for file in files) * SERIES_BYTES_MIN > self._bytes_max

    def _read_into(
        self,
        loaded: _Loaded,
        files: Sequence[LakeFile],
        metrics: frozenset[str] | None,
        check: Check,
    ) -> bool:
        """Reads what is missing; False once that is more than fits."""
        needs = [(file, loaded.needs(file, metrics)) for file in files]
        wanted = [(file, needed) for file, needed in needs if needed is None or needed]
        for file, needed, rows in read_series(wanted, self._footers, check):
            if rows is None:
                loaded.mark(file, needed)
                continue
            loaded.add(file.partition, rows)
            if loaded.registry.memory_bytes > self._bytes_max:
                return False
        return True

    def _stream(
        self,
        snapshot: Snapshot,
        months: tuple[str, ...],
        metrics: frozenset[str] | None,
        match: Match,
        check: Check,
    ) -> Found:
        """Only what the matchers keep, read batch by batch."""
        kept = SeriesRegistry()
        wanted = [(file, metrics) for file in _series_files(snapshot, metrics, months)]
        for _, _, rows in read_series(wanted, self._footers, check):
            if rows is None:
                continue
            batch = SeriesRegistry()
            batch.add_rows(rows.series_ids, *rows.label_columns)
            refs = match(batch)
            if len(refs):
                kept.add_rows(batch.series_ids(refs), *columns_of(batch.label_rows(refs)))
            if kept.memory_bytes > self._bytes_max:
                raise QueryTooLarge(
                    f"the selector matches more than {len(kept)} series, whose labels take "
                    f"{kept.memory_bytes} bytes; read.series-cache-bytes allows "
                    f"{self._bytes_max}"
                )
        return Found(kept, np.arange(len(kept), dtype=np.uint32))


@dataclass(frozen=True, slots=True)
class SeriesRows:
    """Some rows of `series`.

    Attributes:
        series_ids: (n,) int64.
        label_columns: the label arguments of `SeriesRegistry.add_rows`.
    """

    series_ids: I64Array
    label_columns: tuple[Any, Any, Any, Any, Any]


@dataclass(frozen=True, slots=True)
class _GroupRead:
    """A row group to be read.

    Attributes:
        file: where it lies.
        footer: of the file.
        metrics: the only ones wanted; None for all.
        group: in the file; None behind the last.
    """

    file: LakeFile
    footer: Footer
    metrics: frozenset[str] | None
    group: int | None

    def part(self) -> Part:
        """What will be read of the file."""
        groups = [] if self.group is None else [self.group]
        ranges = self.footer.chunk_ranges(groups, _columns(self.metrics))
        return Part(self.file.path, self.file.size_bytes, ranges)

    def rows(self, opened: OpenFiles) -> SeriesRows | None:
        """Reads it; None if the row group has nothing that is wanted, or there is none."""
        group = self.group
        if group is None:
            return None
        with opened.parquet(self.file.path, self.footer.parsed) as file:
            table = file.read_row_group(group, columns=_columns(self.metrics), use_threads=False)
        lowest, highest = self.footer.metric_minima[group], self.footer.metric_maxima[group]
        if self.metrics is not None and lowest != highest:
            values = pa.array(sorted(self.metrics), pa.string())
            table = table.filter(pc.is_in(table["metric"], value_set=values))
        if not table.num_rows:
            return None
        labels = table["labels"].combine_chunks()
        return SeriesRows(
            table["series_id"].to_numpy(),
            (labels.offsets.to_numpy(), *_text(labels.keys), *_text(labels.items)),
        )


def read_series(
    wanted: Sequence[tuple[LakeFile, frozenset[str] | None]], footers: FooterCache, check: Check
) -> Iterator[tuple[LakeFile, frozenset[str] | None, SeriesRows | None]]:
    """Rows of `series` files, a row group at a time; None for rows when a file has no more.

    Args:
        wanted: files, and the metrics that are wanted of each; None for all.
        footers: of the files, and what they are opened through.
        check: called between row groups; raises to end the work.
    """
    reads = []
    found = footers.fetch([file for file, _ in wanted], check)
    for (file, metrics), footer in zip(wanted, found, strict=True):
        groups = [
            group
            for group, bounds in enumerate(
                zip(footer.metric_minima, footer.metric_maxima, strict=True)
            )
            if metrics is None or any(bounds[0] <= metric <= bounds[1] for metric in metrics)
        ]
        reads += [_GroupRead(file, footer, metrics, group) for group in [*groups, None]]
    for read, opened in footers.files.in_steps(reads, _GroupRead.part, check):
        check()
        rows = read.rows(opened)
        if rows is not None or read.group is None:
            yield read.file, read.metrics, rows


def columns_of(labels: LabelRows) -> tuple[Any, Any, Any, Any, Any]:
    """Labels of one registry as the arguments with which another takes them."""
    return (
        labels.label_offsets,
        labels.name_offsets,
        labels.name_bytes,
        labels.value_offsets,
        labels.value_bytes,
    )


def months_within(snapshot: Snapshot, time_range: TimeRange) -> tuple[str, ...]:
    """The months of a snapshot that a range touches; it is not empty."""
    first, last = month_of(time_range.after_ms + 1), month_of(time_range.until_ms)
    return tuple(month for month in snapshot.months() if first <= month <= last)


def _series_files(
    snapshot: Snapshot, metrics: frozenset[str] | None, months: tuple[str, ...]
) -> list[LakeFile]:
    metric = next(iter(metrics)) if metrics is not None and len(metrics) == 1 else None
    return snapshot.series_files(metric, months)


def _columns(metrics: frozenset[str] | None) -> list[str]:
    return ["series_id", "labels"] if metrics is None else ["metric", "series_id", "labels"]


def _text(column: Any) -> tuple[Any, Any]:
    """Offsets and bytes of a string column."""
    _, offsets, text = column.buffers()
    first, last = column.offset, column.offset + len(column) + 1
    return np.frombuffer(offsets, np.int32)[first:last], text if text is not None else b""
