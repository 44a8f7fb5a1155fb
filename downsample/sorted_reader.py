"""One sorted file of `samples`, read from its first series to its last.

Row groups are decoded one after the other, several small ones at once, and looked at as runs: all
rows of one series that stand side by side. The order of the file is checked on the way, so that a
merge that relies on it cannot lose a series silently.

    row groups ──(decoded, cut to the span)──> piece: runs (metric, series_id, begin, end), rows

Limits: one piece, and what is left of the piece before: at most `rows_max` rows, or one row group,
of 16 to 36 bytes each, twice that for a moment.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from errno import EIO, ENOENT
from itertools import pairwise
from pathlib import Path
from sys import intern
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from bridge.errors import CorruptionError
from bridge.lake.footers import PARSED_RATIO
from bridge.model.time_range import TimeRange
from bridge.wire.columns import F64Array, I32Array, I64Array
from downsample.merge import find_runs

Key = tuple[str, int]
"""Metric and series id: the order of all files."""

BoolArray = NDArray[np.bool_]

_MS_MIN, _MS_MAX = -(1 << 61), 1 << 61
"""Far outside of every year."""

_UNREADABLE = (pa.ArrowException, OSError, KeyError, TypeError, ValueError, OverflowError)
"""What pyarrow and the parsing of its answers raise over damaged files, and files of others."""


class BrokenFile(CorruptionError):
    """A file of the lake cannot be read.

    Attributes:
        path: which one.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path, self.reason)


@dataclass(frozen=True, slots=True)
class Piece:
    """Decoded rows of a file, in its order; there is at least one.

    Attributes:
        metrics: names, ascending.
        edges: (metrics + 1,) int64, first run of each metric; the run count behind.
        series_ids: (runs,) int64.
        begins: (runs + 1,) int64, first row of each run; the row count behind.
        timestamps_ms: (rows,) int64.
        values: (rows,) float64.
        start_timestamps_ms: (rows,) int64, 0 for none; None if no row has one.
        replicas: (rows,) int32 into replica_names; None if all are of the first of them.
        replica_names: empty for no replica.
    """

    metrics: Sequence[str]
    edges: I64Array
    series_ids: I64Array
    begins: I64Array
    timestamps_ms: I64Array
    values: F64Array
    start_timestamps_ms: I64Array | None
    replicas: I32Array | None
    replica_names: tuple[str, ...]

    def run_at(self, key: Key) -> int:
        """The first run that is not before `key`."""
        metric, series_id = key
        place = bisect_left(self.metrics, metric)
        if place == len(self.metrics) or self.metrics[place] != metric:
            return int(self.edges[place])
        begin, end = int(self.edges[place]), int(self.edges[place + 1])
        return begin + int(np.searchsorted(self.series_ids[begin:end], series_id))

    def key_at(self, run: int) -> Key:
        """The series of a run."""
        place = int(np.searchsorted(self.edges, run, "right")) - 1
        return self.metrics[place], int(self.series_ids[run])

    def behind(self, run: int) -> "Piece":
        """A copy of all runs from `run` on."""
        row = int(self.begins[run])
        first = int(np.searchsorted(self.edges, run, "right")) - 1
        starts, replicas = self.start_timestamps_ms, self.replicas
        return Piece(
            self.metrics[first:],
            self.edges[first:].clip(run) - run,
            self.series_ids[run:].copy(),
            self.begins[run:] - row,
            self.timestamps_ms[row:].copy(),
            self.values[row:].copy(),
            None if starts is None else starts[row:].copy(),
            None if replicas is None else replicas[row:].copy(),
            self.replica_names,
        )


class SortedReader:
    """The rows of one file that lie in a span, piece by piece.

    Attributes:
        path: of the file.
        after_ms: every sample of the file is later.
        footer_bytes: about what the parsed footer takes.
        last_key: of the last row that was decoded, in the span or not; None before the first.
    """

    def __init__(self, path: Path, span: TimeRange, rows_max: int) -> None:
        """Reads the footer.

        Args:
            path: the file.
            span: of the samples that are wanted.
            rows_max: row groups are decoded together up to so many rows.

        Raises:
            BrokenFile: it is none, or gone.
        """
        self.path = path
        self.last_key: Key | None = None
        self._span = span
        try:
            # A path would have pyarrow look for fsspec, each time anew.
            with pa.OSFile(str(path)) as source:
                self._parsed: Any = pq.read_metadata(source)
            groups = _read_groups(self._parsed)
        except MemoryError:  # of Arrow, too: the file may be whole
            raise
        except _UNREADABLE as error:
            raise self._broken(error) from error
        self.footer_bytes = int(self._parsed.serialized_size) * PARSED_RATIO
        self.after_ms = min((group.after_ms for group in groups), default=0)
        wanted = [
            group
            for group in groups
            if group.row_count and group.until_ms > span.after_ms and group.after_ms < span.until_ms
        ]
        self._batches = _batches(wanted, rows_max)
        self._batches.reverse()

    def forget_footer(self) -> int:
        """Parses the footer again for each piece; about how many bytes that sets free."""
        self._parsed, freed = None, self.footer_bytes
        return freed

    @property
    def is_done(self) -> bool:
        """Whether all of it was read."""
        return not self._batches

    def read(self) -> Piece | None:
        """The next piece; None if no row of it lies in the span.

        Raises:
            BrokenFile: it cannot be decoded, or is not sorted.
        """
        groups = self._batches.pop()
        try:
            columns = _Columns(self._decode(groups), groups)
        except MemoryError:  # of Arrow, too: the file may be whole
            raise
        except _UNREADABLE as error:
            raise self._broken(error) from error
        begins, is_sorted = find_runs(columns.codes, columns.series_ids)
        metrics, edges = columns.metrics_of_runs(begins)
        last_key = self.last_key
        first_key = metrics[0], int(columns.series_ids[0])
        is_sorted &= all(one < other for one, other in pairwise(metrics))
        is_sorted &= last_key is None or last_key <= first_key
        if not is_sorted:
            raise BrokenFile(
                self.path, f"rows of row group {groups[0].number} or behind it are not sorted"
            )
        self.last_key = metrics[-1], int(columns.series_ids[-1])
        keep = self._in_span(columns.timestamps_ms, groups)
        if keep is None:
            return columns.piece(metrics, edges, begins)
        if not keep.any():
            return None
        columns.keep(keep)
        begins, _ = find_runs(columns.codes, columns.series_ids)
        return columns.piece(*columns.metrics_of_runs(begins), begins)

    def _decode(self, groups: Sequence["_Group"]) -> Any:
        names = ["series_id", "timestamp_ms", "value"]
        if _only(group.metric for group in groups) is None:
            names.append("metric")
        if _only(group.replica for group in groups) is None:
            names.append("replica")
        if any(group.has_starts for group in groups):
            names.append("start_timestamp_ms")
        numbers = [group.number for group in groups]
        with (
            pa.OSFile(str(self.path)) as source,
            pq.ParquetFile(
                source,
                metadata=self._parsed,
                read_dictionary=["metric", "replica"],
                page_checksum_verification=True,
            ) as file,
        ):
            table = file.read_row_groups(numbers, columns=names, use_threads=False)
        if table.num_rows != sum(group.row_count for group in groups):
            raise TypeError(f"row groups {numbers} have {table.num_rows} rows")
        return table

    def _in_span(self, timestamps_ms: I64Array, groups: Sequence["_Group"]) -> BoolArray | None:
        """Which rows lie in the span; None if all do."""
        span = self._span
        if (
            min(group.after_ms for group in groups) >= span.after_ms
            and max(group.until_ms for group in groups) <= span.until_ms
        ):
            return None
        keep: BoolArray = (timestamps_ms > span.after_ms) & (timestamps_ms <= span.until_ms)
        return None if keep.all() else keep

    def _broken(self, error: Exception) -> Exception:
        """What an error says about the file; itself if it says nothing."""
        if isinstance(error, OSError) and error.errno not in {None, ENOENT, EIO}:
            return error
        return BrokenFile(self.path, str(error))


@dataclass(frozen=True, slots=True)
class _Group:
    """What the footer says about a row group.

    Attributes:
        number: in the file.
        row_count: rows.
        after_ms: every sample is later.
        until_ms: no sample is later.
        metric: of all rows; None where there may be several.
        replica: of all rows, empty for none; None where there may be several.
        has_starts: whether a row may have a start time.
    """

    number: int
    row_count: int
    after_ms: int
    until_ms: int
    metric: str | None
    replica: str | None
    has_starts: bool


def _read_groups(parsed: Any) -> list[_Group]:
    """What a footer says about row groups; one without bounds of a column can hold anything."""
    columns = {parsed.schema.column(index).path: index for index in range(parsed.num_columns)}
    metric, time = columns["metric"], columns["timestamp_ms"]
    start, replica = columns["start_timestamp_ms"], columns["replica"]
    groups = []
    for number in range(parsed.num_row_groups):
        group = parsed.row_group(number)
        after_ms, until_ms = _bounds(group.column(time)) or (_MS_MIN, _MS_MAX)
        low, high = _bounds(group.column(metric)) or ("", None)
        groups.append(
            _Group(
                number,
                group.num_rows,
                after_ms - 1,
                until_ms,
                low if low == high else None,
                _only_value(group.column(replica)),
                _null_count(group.column(start)) != group.num_rows,
            )
        )
    return groups


class _Columns:
    """Columns of some row groups as numpy has them."""

    def __init__(self, table: Any, groups: Sequence[_Group]) -> None:
        self.series_ids = _numbers(table["series_id"], np.int64)
        self.timestamps_ms = _numbers(table["timestamp_ms"], np.int64)
        self.values = _numbers(table["value"], np.float64)
        self.starts = self.codes = self.replicas = None
        names = table.column_names
        if "start_timestamp_ms" in names:
            self.starts = _numbers(table["start_timestamp_ms"].fill_null(0), np.int64)
        metric = _only(group.metric for group in groups)
        if metric is None:
            self.metrics, self.codes = _codes(table["metric"])
        else:
            self.metrics = [metric]
        replica = _only(group.replica for group in groups)
        self.replica_names: tuple[str, ...] = (replica or "",)
        if replica is None:
            texts, self.replicas = _codes(table["replica"])
            self.replica_names = tuple(texts)

    def metrics_of_runs(self, begins: I64Array) -> tuple[list[str], I64Array]:
        """Names in the order of the rows, and the first run of each; the run count behind."""
        run_count = len(begins) - 1
        if self.codes is None:
            return self.metrics, np.array([0, run_count], np.int64)
        codes = self.codes[begins[:-1]]
        firsts = np.flatnonzero(np.concatenate([[True], codes[1:] != codes[:-1]]))
        names = [self.metrics[code] for code in codes[firsts].tolist()]
        return names, np.append(firsts, run_count).astype(np.int64)

    def keep(self, keep: BoolArray) -> None:
        """Drops rows."""
        kept = np.flatnonzero(keep)
        self.series_ids = self.series_ids[kept]
        self.timestamps_ms, self.values = self.timestamps_ms[kept], self.values[kept]
        self.codes = None if self.codes is None else self.codes[kept]
        self.starts = None if self.starts is None else self.starts[kept]
        self.replicas = None if self.replicas is None else self.replicas[kept]

    def piece(self, metrics: Sequence[str], edges: I64Array, begins: I64Array) -> Piece:
        """All of it, by runs."""
        return Piece(
            metrics,
            edges,
            self.series_ids[begins[:-1]],
            begins,
            self.timestamps_ms,
            self.values,
            self.starts,
            self.replicas,
            self.replica_names,
        )


def _batches(groups: Iterable[_Group], rows_max: int) -> list[list[_Group]]:
    """Row groups that are decoded together."""
    batches: list[list[_Group]] = []
    row_count = rows_max
    for group in groups:
        if row_count + group.row_count > rows_max:
            batches.append([])
            row_count = 0
        batches[-1].append(group)
        row_count += group.row_count
    return batches


def _only(texts: Iterable[str | None]) -> str | None:
    """The one text that all are; None where they are not, or one is not known."""
    distinct = set(texts)
    return distinct.pop() if len(distinct) == 1 else None


def _bounds(chunk: Any) -> tuple[Any, Any] | None:
    statistics = chunk.statistics
    if statistics is None or not statistics.has_min_max:
        return None
    return statistics.min, statistics.max


def _null_count(chunk: Any) -> int | None:
    statistics = chunk.statistics
    return None if statistics is None or not statistics.has_null_count else statistics.null_count


def _only_value(chunk: Any) -> str | None:
    """The text of all rows, empty if all are null; None where there may be several."""
    null_count = _null_count(chunk)
    if null_count == chunk.num_values and null_count is not None:
        return ""
    low, high = _bounds(chunk) or ("", None)
    return low if null_count == 0 and low == high else None


def _numbers(column: Any, kind: type[np.generic]) -> NDArray[Any]:
    """A column of numbers without nulls; not copied where it is in one piece."""
    if column.null_count:
        raise TypeError(f"{column.null_count} nulls where there are none")
    chunk = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    numbers = np.asarray(chunk.to_numpy(zero_copy_only=True))
    if numbers.dtype != kind:
        raise TypeError(f"a column of {numbers.dtype} instead of {np.dtype(kind)}")
    return numbers


def _codes(column: Any) -> tuple[list[str], I32Array]:
    """Distinct texts of a column, empty for null, and the place of each row's among them."""
    if column.num_chunks != 1:
        column = pa.chunked_array([column.unify_dictionaries().combine_chunks()])
    chunk = column.chunk(0)
    texts = list(map(intern, chunk.dictionary.to_pylist()))
    if not chunk.null_count:
        return texts, chunk.indices.to_numpy(zero_copy_only=True)
    return [*texts, ""], chunk.indices.fill_null(len(texts)).to_numpy()
