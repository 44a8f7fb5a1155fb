"""Files of rows by (metric, series_id), filled batch by batch.

A batch holds whole series, the next one goes on behind it. What a series has once is known by rank,
its place in that order, and is spread over rows for one row group at a time:

    rank r:  metrics[metric_of_rank[r]], series_id_of_rank[r], rows offsets[r]:offsets[r + 1]

Batches and row groups have nothing to do with each other: pieces of batches wait until they make up
a row group.

    batch ──> pieces ──(group_rows)──> row group ──(bytes_max, end of the series)──> next file

A series is never in two files of a set. The file that has passed `bytes_max` takes the rest of the
series that it is in, as a small row group, and is closed.

Limits: beside the batch, the rows that wait, less than a row group, and a row group under
construction. A file is longer than `bytes_max` by a row group and a series at most.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bridge.lake.data_file import DataFile
from bridge.lake.parquet_file import Layout, ParquetFile
from bridge.wire.columns import I32Array, I64Array

BYTES_MAX = 512 << 20
"""Where a set of files goes on in its next one. Smaller files cost a query a footer each, larger
ones a rewrite more than late data is worth."""

BoolArray = NDArray[np.bool_]


class RankedSeries(Protocol):
    """The series of a batch; see the arguments of `bridge.lake.parquet.write_samples`."""

    @property
    def metrics(self) -> Sequence[str]:
        """Distinct names, ascending."""

    @property
    def metric_of_rank(self) -> I32Array:
        """(n_ranks,) into metrics, ascending."""

    @property
    def series_id_of_rank(self) -> I64Array:
        """(n_ranks,), ascending within a metric."""


@dataclass(frozen=True, slots=True)
class Column:
    """What rows have beside their series.

    Attributes:
        values: (n_rows,) numbers, or int32 places in `texts`; None if all rows are null.
        is_null: (n_rows,) bool; None if no row is, or all are.
        texts: distinct ones, the first of them for null rows; None for a column of numbers.
    """

    values: NDArray[Any] | None
    is_null: BoolArray | None = None
    texts: Sequence[str] | None = None


@dataclass(frozen=True, slots=True)
class _Piece:
    """Rows of a row group that came in one batch.

    Attributes:
        metrics: names, the first and the last of them in use.
        metric_of_rank: (n_ranks,) int32 into metrics.
        series_id_of_rank: (n_ranks,) int64.
        counts: (n_ranks,) int64, rows of each.
        columns: what rows have beside their series.
    """

    metrics: Sequence[str]
    metric_of_rank: I32Array
    series_id_of_rank: I64Array
    counts: I64Array
    columns: Sequence[Column]

    @property
    def row_count(self) -> int:
        """Rows of all ranks."""
        return int(self.counts.sum())


class SortedFiles:
    """A set of files of one partition; gone again unless it is finished."""

    def __init__(
        self,
        path_of: Callable[[int], Path],
        partition: str,
        layout: Layout,
        *,
        time_column: str,
        group_rows: int,
        bytes_max: int | None = BYTES_MAX,
    ) -> None:
        """Nothing is created before there are rows.

        Args:
            path_of: where file 0, 1, … of the set is to lie.
            partition: of all rows.
            layout: of the columns: metric, series_id, then those that batches bring, in that order.
            time_column: of the columns, which one has bounds in the log; without nulls.
            group_rows: rows of a row group.
            bytes_max: a file beyond it is the last one of the series in it; None for one file.
        """
        self._path_of = path_of
        self._partition = partition
        self._layout = layout
        self._names = layout.columns.names[2:]
        self._time = self._names.index(time_column)
        self._group_rows = group_rows
        self._bytes_max = bytes_max
        self._pieces: list[_Piece] = []
        self._waiting_rows = 0
        self._file: ParquetFile | None = None
        self._totals = _Totals()
        self._done: list[DataFile] = []
        self._is_finished = False

    def write(self, series: RankedSeries, offsets: I64Array, columns: Sequence[Column]) -> None:
        """Takes some whole series, all behind those of the batch before.

        Args:
            series: of the rows.
            offsets: (n_ranks + 1,) int64 into the rows; a rank may be empty.
            columns: in the order of the layout; not retained.

        Raises:
            OSError: the disk is full or failed.
        """
        row_count = int(offsets[-1])
        begin = 0
        while begin < row_count:
            is_last = self._is_full()
            if is_last:
                # Behind the last row of the series that the file ends in; where none is torn, here.
                end = int(offsets[np.searchsorted(offsets, begin, "left")])
            else:
                end = min(row_count, begin + self._group_rows - self._waiting_rows)
            if end > begin:
                self._pieces.append(_cut(series, offsets, columns, begin, end))
                self._waiting_rows += end - begin
            if is_last:
                self._close_file()
            elif self._waiting_rows == self._group_rows:
                self._write_group()
            begin = end
        if self._is_full():
            self._close_file()
        if self._pieces:
            # A copy, lest the few rows that wait hold the arrays of the whole batch.
            self._pieces[-1] = _join(self._pieces[-1:])

    def finish(self) -> list[DataFile]:
        """Writes what waits; the files of the set, in their order.

        Raises:
            OSError: the disk is full or failed.
        """
        if self._waiting_rows or self._file:
            self._close_file()
        self._is_finished = True
        return self._done

    def abandon(self) -> None:
        """Removes all files of the set."""
        try:
            if self._file:
                self._file.abandon()
        finally:
            self._file = None
            for file in self._done:
                file.path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None or not self._is_finished:
            self.abandon()

    def _is_full(self) -> bool:
        return (
            self._bytes_max is not None
            and self._file is not None
            and self._file.size_bytes >= self._bytes_max
        )

    def _write_group(self) -> None:
        piece = self._pieces[0] if len(self._pieces) == 1 else _join(self._pieces)
        self._pieces, self._waiting_rows = [], 0
        if self._file is None:
            self._file = ParquetFile(self._path_of(len(self._done)), self._layout)
            self._totals = _Totals()
        kinds = self._layout.columns.types[2:]
        self._file.write_row_group(
            [
                _metric_column(piece),
                _series_id_column(piece),
                *(
                    _arrow(column, kind, piece.row_count)
                    for column, kind in zip(piece.columns, kinds, strict=True)
                ),
            ]
        )
        self._totals.add(piece, self._names, self._time)

    def _close_file(self) -> None:
        if self._waiting_rows:
            self._write_group()
        assert self._file is not None
        file, self._file = self._file, None
        file.finish()
        self._done.append(
            self._totals.data_file(file, self._partition, ["metric", "series_id", *self._names])
        )


class _Totals:
    """What the log says about a file."""

    def __init__(self) -> None:
        self.row_count = 0
        self._first_metric = self._last_metric = ""
        self._bounds: dict[str, tuple[int, int]] = {}
        self._null_counts: dict[str, int] = {}

    def add(self, piece: _Piece, names: Sequence[str], time: int) -> None:
        """Takes a row group into account."""
        filled = np.flatnonzero(piece.counts)
        first, last = piece.metric_of_rank[filled[0]], piece.metric_of_rank[filled[-1]]
        self._first_metric = self._first_metric if self.row_count else piece.metrics[first]
        self._last_metric = piece.metrics[last]
        self.row_count += piece.row_count
        times = piece.columns[time].values
        assert times is not None
        self._widen("series_id", piece.series_id_of_rank[filled])
        self._widen(names[time], times)
        for name, column in zip(names, piece.columns, strict=True):
            self._null_counts[name] = self._null_counts.get(name, 0) + _null_count(
                column, piece.row_count
            )

    def data_file(self, file: ParquetFile, partition: str, names: Sequence[str]) -> DataFile:
        """The file that is finished."""
        bounds = self._bounds.items()
        return DataFile(
            path=file.path,
            partition=partition,
            row_count=file.row_count,
            size_bytes=file.size_bytes,
            minima={"metric": self._first_metric, **{name: low for name, (low, _) in bounds}},
            maxima={"metric": self._last_metric, **{name: high for name, (_, high) in bounds}},
            null_counts={name: self._null_counts.get(name, 0) for name in names},
        )

    def _widen(self, name: str, values: I64Array) -> None:
        low, high = int(values.min()), int(values.max())
        known = self._bounds.get(name, (low, high))
        self._bounds[name] = min(low, known[0]), max(high, known[1])


def _cut(
    series: RankedSeries, offsets: I64Array, columns: Sequence[Column], begin: int, end: int
) -> _Piece:
    """Rows begin:end of a batch; there is at least one."""
    ranks = slice(
        int(np.searchsorted(offsets, begin, "right")) - 1,
        int(np.searchsorted(offsets, end, "left")),
    )
    rows = slice(begin, end)
    metric_of_rank = series.metric_of_rank[ranks]
    first, last = int(metric_of_rank[0]), int(metric_of_rank[-1])
    return _Piece(
        series.metrics[first : last + 1],
        metric_of_rank - np.int32(first),
        series.series_id_of_rank[ranks],
        np.diff(offsets[ranks.start : ranks.stop + 1].clip(begin, end)),
        [_slice(column, rows) for column in columns],
    )


def _slice(column: Column, rows: slice) -> Column:
    return Column(
        None if column.values is None else column.values[rows],
        None if column.is_null is None else column.is_null[rows],
        column.texts,
    )


def _join(pieces: Sequence[_Piece]) -> _Piece:
    """One piece of several, copied."""
    metrics: list[str] = []
    places = []
    for piece in pieces:
        # The metric that a piece ends with can go on in the next one.
        goes_on = bool(metrics) and metrics[-1] == piece.metrics[0]
        places.append(piece.metric_of_rank + np.int32(len(metrics) - goes_on))
        metrics += piece.metrics[goes_on:]
    lengths = [piece.row_count for piece in pieces]
    return _Piece(
        metrics,
        np.concatenate(places),
        np.concatenate([piece.series_id_of_rank for piece in pieces]),
        np.concatenate([piece.counts for piece in pieces]),
        [
            _join_columns(columns, lengths)
            for columns in zip(*(piece.columns for piece in pieces), strict=True)
        ],
    )


def _join_columns(columns: Sequence[Column], lengths: Sequence[int]) -> Column:
    kinds = [column.values.dtype for column in columns if column.values is not None]
    if not kinds:
        return columns[0]
    place_of = {"": 0}
    values, is_null = [], []
    for column, length in zip(columns, lengths, strict=True):
        if column.values is None:
            values.append(np.zeros(length, kinds[0]))
            is_null.append(np.ones(length, np.bool_))
            continue
        is_null.append(np.zeros(length, np.bool_) if column.is_null is None else column.is_null)
        if column.texts is None:
            values.append(column.values)
        else:
            own = [0, *(place_of.setdefault(text, len(place_of)) for text in column.texts[1:])]
            values.append(np.array(own, np.int32)[column.values])
    has_texts = any(column.texts is not None for column in columns)
    has_nulls = any(column.is_null is not None or column.values is None for column in columns)
    return Column(
        np.concatenate(values),
        np.concatenate(is_null) if has_nulls else None,
        list(place_of) if has_texts else None,
    )


def _metric_column(piece: _Piece) -> Any:
    return pa.DictionaryArray.from_arrays(
        pa.array(np.repeat(piece.metric_of_rank, piece.counts)),
        pa.array(piece.metrics, pa.string()),
        safe=False,
    )


def _series_id_column(piece: _Piece) -> Any:
    ranks = np.arange(len(piece.series_id_of_rank), dtype=np.int32)
    return pa.DictionaryArray.from_arrays(
        pa.array(np.repeat(ranks, piece.counts)), pa.array(piece.series_id_of_rank), safe=False
    )


def _arrow(column: Column, kind: Any, row_count: int) -> Any:
    # Texts are a dictionary also where all are null: the types of all row groups have to agree.
    is_text = pa.types.is_string(kind)
    if column.values is None:
        return pa.nulls(row_count, pa.dictionary(pa.int32(), kind) if is_text else kind)
    values = pa.array(column.values, mask=column.is_null)
    if column.texts is None:
        return values
    return pa.DictionaryArray.from_arrays(values, pa.array(column.texts, kind))


def _null_count(column: Column, row_count: int) -> int:
    if column.values is None:
        return row_count
    return 0 if column.is_null is None else int(np.count_nonzero(column.is_null))
