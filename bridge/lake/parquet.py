"""The Parquet files of each table.

Samples and rollups come sorted by (metric, series_id, time) and grouped by rank, the place of a
series in that order; `sorted_files.py` cuts them into row groups and files.

Encodings: metric, series_id and replica by dictionary (one entry per series of the row group),
times DELTA_BINARY_PACKED, value BYTE_STREAM_SPLIT, all under zstd. Values are moved as bits. They
have no statistics: NaN has no place in an order, and a reader that trusts bounds would skip rows
(LAKE-4).

Row groups are what a reader decodes whole to find one series: a 64th of the file, but 8192 to
131072 rows. A file of a minute then costs 0.5 ms for one series (2.6 ms as one group of 131072), a
file of a day 2.5 ms; small groups everywhere would cost writing: 60 ns and 1.67 bytes a row with
16384, 46 ns and 1.62 bytes with 131072, on 6 M rows of 10 k series. What is compacted has at least
32768 rows a group: half the cost of writing a day of 400 k rows, and a tenth smaller.

Limits: memory beside what was passed in is about 64 bytes a row of one row group, 8 MiB (rollups:
88 bytes of columns and as much again encoded, 22 MiB); for series one batch, labels as text.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
import pyarrow as pa

from bridge.lake.data_file import DataFile
from bridge.lake.parquet_file import FLUSHED_LEVEL, KEPT_LEVEL, Layout, ParquetFile
from bridge.lake.schema import METADATA, SAMPLES, SERIES, TABLES
from bridge.lake.sorted_files import BYTES_MAX, Column, RankedSeries, SortedFiles
from bridge.wire.columns import F64Array, I32Array, I64Array
from bridge.wire.decoded import LabelRows

SAMPLE_ROWS = 131_072
SAMPLE_ROWS_MIN = 8_192
SAMPLE_GROUPS = 64
KEPT_ROWS_MIN = 32_768
ROLLUP_ROWS = 131_072
SERIES_ROWS_MAX = 65_536
"""Rows of a row group. A batch of series is one; its offsets are int32, so its label text stays
below 2 GiB: 65536 series of 128 labels at 8 KiB would not, real ones are 400 bytes each."""

MetadataRow = tuple[str, str, str, str, int]
"""metric, type, help, unit, seen_ms."""


@dataclass(frozen=True, slots=True)
class SeriesBatch:
    """Some rows of `series`, sorted by (metric, series_id); the next batch goes on behind it.

    Attributes:
        metrics: name of each row's metric.
        series_ids: (n,) int64.
        labels: of the n rows.
    """

    metrics: Sequence[str]
    series_ids: I64Array
    labels: LabelRows


@dataclass(frozen=True, slots=True)
class _Series:
    metrics: Sequence[str]
    metric_of_rank: I32Array
    series_id_of_rank: I64Array


class Samples(RankedSeries, Protocol):
    """A batch of samples; see the arguments of `write_samples`."""

    @property
    def offsets(self) -> I64Array:
        """(n_ranks + 1,) into the rows."""

    @property
    def timestamps_ms(self) -> I64Array:
        """(n_rows,)."""

    @property
    def values(self) -> F64Array:
        """(n_rows,)."""

    @property
    def start_timestamps_ms(self) -> I64Array | None:
        """(n_rows,), 0 for none."""

    @property
    def replica_of_row(self) -> I32Array | None:
        """(n_rows,) into replicas, 0 for none."""

    @property
    def replicas(self) -> Sequence[str]:
        """The first stands for no replica."""


class Rollups(Protocol):
    """Rows of one rollup level by rank.

    Where `count` is 0 the float columns, first and last times are written as null; where
    `stale_timestamp_ms` is 0 that is.
    """

    @property
    def offsets(self) -> I64Array:
        """(n_ranks + 1,) into the rows."""

    @property
    def window_end_ms(self) -> I64Array:
        """(n_rows,)."""

    @property
    def count(self) -> I32Array:
        """(n_rows,)."""

    @property
    def sum(self) -> F64Array:
        """(n_rows,)."""

    @property
    def min(self) -> F64Array:
        """(n_rows,)."""

    @property
    def max(self) -> F64Array:
        """(n_rows,)."""

    @property
    def first(self) -> F64Array:
        """(n_rows,)."""

    @property
    def last(self) -> F64Array:
        """(n_rows,)."""

    @property
    def first_timestamp_ms(self) -> I64Array:
        """(n_rows,)."""

    @property
    def last_timestamp_ms(self) -> I64Array:
        """(n_rows,)."""

    @property
    def reset_drop(self) -> F64Array:
        """(n_rows,)."""

    @property
    def resets(self) -> I32Array:
        """(n_rows,)."""

    @property
    def stale_timestamp_ms(self) -> I64Array:
        """(n_rows,), 0 for none."""


def write_samples(
    path: Path,
    partition: str,
    *,
    metrics: Sequence[str],
    metric_of_rank: I32Array,
    series_id_of_rank: I64Array,
    offsets: I64Array,
    timestamps_ms: I64Array,
    values: F64Array,
    start_timestamps_ms: I64Array | None = None,
    replica_of_row: I32Array | None = None,
    replicas: Sequence[str] = (),
) -> DataFile:
    """Writes one day's samples; there is at least one.

    Args:
        path: the new file.
        partition: day of all rows, `2026-11-21`.
        metrics: distinct names, ascending.
        metric_of_rank: (n_ranks,) int32 into metrics, ascending.
        series_id_of_rank: (n_ranks,) int64, ascending within a metric.
        offsets: (n_ranks + 1,) int64 into the rows; a rank may be empty.
        timestamps_ms: (n_rows,) int64, ascending within a rank.
        values: (n_rows,) float64; the bits are kept.
        start_timestamps_ms: (n_rows,) int64, 0 for none; None if no row has one.
        replica_of_row: (n_rows,) int32 into replicas, 0 for none; None if no row has one.
        replicas: what replica_of_row points into; the first stands for no replica.

    Raises:
        OSError: the disk is full or failed; no file is left.
    """
    row_count = len(timestamps_ms)
    assert row_count == len(values) == offsets[-1] > 0
    with SortedFiles(
        lambda _: path,
        partition,
        _sample_layout(FLUSHED_LEVEL, has_starts=start_timestamps_ms is not None),
        time_column="timestamp_ms",
        group_rows=_group_rows(row_count, SAMPLE_ROWS_MIN),
        bytes_max=None,
    ) as files:
        files.write(
            _Series(metrics, metric_of_rank, series_id_of_rank),
            offsets,
            _sample_columns(
                timestamps_ms, values, start_timestamps_ms, replica_of_row, replicas or ("",)
            ),
        )
        return files.finish()[0]


class _BatchWriter:
    """Files that are gone again unless they are finished."""

    def __init__(self, files: SortedFiles) -> None:
        self._files = files

    def finish(self) -> list[DataFile]:
        """The files; none if there was no row.

        Raises:
            OSError: the disk is full or failed.
        """
        return self._files.finish()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._files.__exit__(kind, error, traceback)


class SampleWriter(_BatchWriter):
    """Files of one day's samples, batch by batch; gone again unless they are finished.

    More than `bytes_max` goes on in the next file, never within a series.
    """

    def __init__(
        self,
        path_of: Callable[[int], Path],
        partition: str,
        *,
        expected_rows: int,
        bytes_max: int = BYTES_MAX,
    ) -> None:
        """Creates nothing yet.

        Args:
            path_of: where file 0, 1, … is to lie.
            partition: day of all rows, `2026-11-21`.
            expected_rows: of all batches, about: what row groups are measured by.
            bytes_max: when the next file begins.
        """
        files = SortedFiles(
            path_of,
            partition,
            _sample_layout(KEPT_LEVEL, has_starts=True),
            time_column="timestamp_ms",
            group_rows=_group_rows(expected_rows, KEPT_ROWS_MIN),
            bytes_max=bytes_max,
        )
        super().__init__(files)

    def write(self, batch: Samples) -> None:
        """Takes some whole series, behind all that came before.

        Raises:
            OSError: the disk is full or failed.
        """
        self._files.write(
            batch,
            batch.offsets,
            _sample_columns(
                batch.timestamps_ms,
                batch.values,
                batch.start_timestamps_ms,
                batch.replica_of_row,
                batch.replicas,
            ),
        )


class RollupWriter(_BatchWriter):
    """Files of one partition of a rollup table, batch by batch, as `SampleWriter` makes them.

    Measured on a day of 4000 series of a realistic mix, a scrape a minute, 5m rows: 9.33 bytes a
    row. min, max, first and last take 1.5 bytes each, sum 1.6, reset_drop 0.7, the two times 0.45
    each, all others 0.15 together. At zstd 1 the values are 0.3 bytes larger and a quarter cheaper
    to write; by dictionary each would take 2.5 instead of 1.5. BYTE_STREAM_SPLIT would halve the
    times, but few readers know it for integers.
    """

    def __init__(
        self,
        path_of: Callable[[int], Path],
        table: str,
        partition: str,
        *,
        bytes_max: int = BYTES_MAX,
    ) -> None:
        """Creates nothing yet.

        Args:
            path_of: where file 0, 1, … is to lie.
            table: which level.
            partition: of all rows, by `window_end_ms`.
            bytes_max: when the next file begins.
        """
        files = SortedFiles(
            path_of,
            partition,
            _rollup_layout(table),
            time_column="window_end_ms",
            group_rows=ROLLUP_ROWS,
            bytes_max=bytes_max,
        )
        super().__init__(files)

    def write(self, series: RankedSeries, rows: Rollups) -> None:
        """Takes rows of some whole series, behind all that came before.

        Raises:
            OSError: the disk is full or failed.
        """
        is_stale = rows.count == 0
        is_empty = is_stale if is_stale.any() else None
        self._files.write(
            series,
            rows.offsets,
            [
                Column(rows.window_end_ms),
                Column(rows.count),
                Column(rows.sum, is_empty),
                Column(rows.min, is_empty),
                Column(rows.max, is_empty),
                Column(rows.first, is_empty),
                Column(rows.last, is_empty),
                Column(rows.first_timestamp_ms, is_empty),
                Column(rows.last_timestamp_ms, is_empty),
                Column(rows.reset_drop, is_empty),
                Column(rows.resets),
                _column_or_zero(rows.stale_timestamp_ms),
            ],
        )


class SeriesWriter:
    """Files of one month's series, batch by batch; gone again unless they are finished."""

    def __init__(
        self,
        path_of: Callable[[int], Path],
        partition: str,
        *,
        level: int = KEPT_LEVEL,
        bytes_max: int | None = BYTES_MAX,
    ) -> None:
        """Creates nothing yet.

        Args:
            path_of: where file 0, 1, … is to lie.
            partition: month of all rows, `2026-11`.
            level: of zstd.
            bytes_max: when the next file begins; None for one file.
        """
        self._path_of = path_of
        self._partition = partition
        self._layout = _series_layout(level)
        self._bytes_max = bytes_max
        self._file: ParquetFile | None = None
        self._minima: dict[str, str | int] = {}
        self._maxima: dict[str, str | int] = {}
        self._done: list[DataFile] = []
        self._is_finished = False

    def write(self, batch: SeriesBatch) -> None:
        """Takes a row group, behind all that came before.

        Raises:
            OSError: the disk is full or failed.
        """
        assert 0 < len(batch.metrics) <= SERIES_ROWS_MAX
        id_min, id_max = int(batch.series_ids.min()), int(batch.series_ids.max())
        if self._file is None:
            self._file = ParquetFile(self._path_of(len(self._done)), self._layout)
            self._minima = {"metric": batch.metrics[0], "series_id": id_min}
            self._maxima = {"metric": batch.metrics[-1], "series_id": id_max}
        self._file.write_row_group(
            [
                pa.array(batch.metrics, pa.string()).dictionary_encode(),
                pa.array(batch.series_ids),
                _labels_column(batch.labels),
            ]
        )
        self._minima["series_id"] = min(int(self._minima["series_id"]), id_min)
        self._maxima["metric"] = batch.metrics[-1]
        self._maxima["series_id"] = max(int(self._maxima["series_id"]), id_max)
        if self._bytes_max is not None and self._file.size_bytes >= self._bytes_max:
            self._close_file()

    def finish(self) -> list[DataFile]:
        """The files; none if there was no row.

        Raises:
            OSError: the disk is full or failed.
        """
        if self._file:
            self._close_file()
        self._is_finished = True
        return self._done

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None and self._is_finished:
            return
        try:
            if self._file:
                self._file.abandon()
        finally:
            for file in self._done:
                file.path.unlink(missing_ok=True)

    def _close_file(self) -> None:
        assert self._file is not None
        file, self._file = self._file, None
        file.finish()
        self._done.append(
            DataFile(
                path=file.path,
                partition=self._partition,
                row_count=file.row_count,
                size_bytes=file.size_bytes,
                minima=self._minima,
                maxima=self._maxima,
                null_counts={"metric": 0, "series_id": 0},
            )
        )


def write_series(path: Path, batches: Iterable[SeriesBatch], *, partition: str) -> DataFile:
    """Writes one month's series; there is at least one.

    Raises:
        OSError: the disk is full or failed; no file is left.
    """
    with SeriesWriter(lambda _: path, partition, level=FLUSHED_LEVEL, bytes_max=None) as writer:
        for batch in batches:
            writer.write(batch)
        return writer.finish()[0]


def write_metadata(path: Path, rows: Iterable[MetadataRow]) -> DataFile:
    """Writes metadata in any order; there is at least one row.

    Raises:
        OSError: the disk is full or failed; no file is left.
    """
    schema = TABLES[METADATA].columns
    ordered = sorted(rows)
    layout = Layout(
        schema,
        compressed=dict.fromkeys(schema.names, FLUSHED_LEVEL),
        dictionary=["type", "unit"],
        encodings={"seen_ms": "DELTA_BINARY_PACKED"},
        statistics=["metric", "type", "unit", "seen_ms"],
    )
    with ParquetFile(path, layout) as file:
        columns = zip(*ordered, strict=True)
        file.write_row_group(
            [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
        )
    seen_ms = [row[-1] for row in ordered]
    return DataFile(
        path=path,
        partition="",
        row_count=len(ordered),
        size_bytes=file.size_bytes,
        minima={"metric": ordered[0][0], "seen_ms": min(seen_ms)},
        maxima={"metric": ordered[-1][0], "seen_ms": max(seen_ms)},
        null_counts=dict.fromkeys(schema.names, 0),
    )


def _group_rows(row_count: int, least: int) -> int:
    return min(max(row_count // SAMPLE_GROUPS, least), SAMPLE_ROWS)


def _sample_layout(level: int, *, has_starts: bool) -> Layout:
    compressed = ["series_id", "timestamp_ms", "value"]
    if has_starts:
        compressed.append("start_timestamp_ms")
    return Layout(
        TABLES[SAMPLES].columns,
        compressed=dict.fromkeys(compressed, level),
        dictionary=["metric", "series_id", "replica"],
        encodings={
            "timestamp_ms": "DELTA_BINARY_PACKED",
            "value": "BYTE_STREAM_SPLIT",
            "start_timestamp_ms": "DELTA_BINARY_PACKED",
        },
        statistics=["metric", "series_id", "timestamp_ms", "start_timestamp_ms", "replica"],
    )


_ROLLUP_VALUES = ("sum", "min", "max", "first", "last", "reset_drop")
_ROLLUP_TIMES = ("window_end_ms", "first_timestamp_ms", "last_timestamp_ms", "stale_timestamp_ms")


def _rollup_layout(table: str) -> Layout:
    columns = TABLES[table].columns
    levels: Mapping[str, int] = {
        "series_id": FLUSHED_LEVEL,
        **dict.fromkeys(_ROLLUP_TIMES, FLUSHED_LEVEL),
        **dict.fromkeys(_ROLLUP_VALUES, KEPT_LEVEL),
    }
    return Layout(
        columns,
        compressed=levels,
        dictionary=["metric", "series_id", "count", "resets"],
        encodings={
            **dict.fromkeys(_ROLLUP_TIMES, "DELTA_BINARY_PACKED"),
            **dict.fromkeys(_ROLLUP_VALUES, "BYTE_STREAM_SPLIT"),
        },
        statistics=[name for name in columns.names if name not in _ROLLUP_VALUES],
    )


def _series_layout(level: int) -> Layout:
    texts = ["labels.key_value.key", "labels.key_value.value"]
    return Layout(
        TABLES[SERIES].columns,
        compressed=dict.fromkeys(texts, level),
        dictionary=["metric", *texts],
        encodings={},
        statistics=["metric", "series_id"],
    )


def _sample_columns(
    timestamps_ms: I64Array,
    values: F64Array,
    start_timestamps_ms: I64Array | None,
    replica_of_row: I32Array | None,
    replicas: Sequence[str],
) -> list[Column]:
    return [
        Column(timestamps_ms),
        Column(values),
        Column(None) if start_timestamps_ms is None else _column_or_zero(start_timestamps_ms),
        (
            Column(None)
            if replica_of_row is None
            else Column(replica_of_row, replica_of_row == 0, replicas)
        ),
    ]


def _column_or_zero(numbers: I64Array) -> Column:
    """Null where a number is 0."""
    is_null = numbers == 0
    return Column(None) if is_null.all() else Column(numbers, is_null)


def _labels_column(labels: LabelRows) -> Any:
    """MAP over the buffers of `labels`, without a copy."""
    return pa.MapArray.from_arrays(
        pa.array(labels.label_offsets),
        _text(labels.name_offsets, labels.name_bytes),
        _text(labels.value_offsets, labels.value_bytes),
    )


def _text(offsets: I32Array, text: bytes) -> Any:
    return pa.StringArray.from_buffers(
        len(offsets) - 1, pa.py_buffer(np.ascontiguousarray(offsets)), pa.py_buffer(text)
    )
