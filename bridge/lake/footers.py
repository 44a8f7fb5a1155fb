"""The footers of Parquet files, parsed once and kept as columns.

Files never change, so what a footer says is true for as long as anybody asks. Parsing one costs
0.05 ms (a file of a minute) to 2 ms (one of a day), and reading its row groups' bounds one by one
in Python as much again; a dashboard asks for the same files every few seconds.

A row group without statistics of a column can hold anything.

Of remote files the ends are fetched first, of all that a query needs at once: as much as footers of
our own writer take, small files whole. Where a footer is longer, the rest comes in a second round.

Invariants:
    LAKE-7  a row group that is left out holds no row that was asked for.

Limits: `bytes_max` for all of them, estimated as the serialized footer times PARSED_RATIO plus
GROUP_BYTES a row group; the least recently used go first.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from sys import intern
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bridge.errors import DamagedFile
from bridge.lake.block_file import Check
from bridge.lake.file_cache import Part
from bridge.lake.files import Files, OpenFiles, damage_named
from bridge.lake.parquet import SAMPLE_GROUPS, SAMPLE_ROWS, SAMPLE_ROWS_MIN
from bridge.lake.snapshot import LakeFile
from bridge.wire.columns import I32Array, I64Array

PARSED_RATIO = 10
"""Memory of a parsed footer to its bytes in the file, measured: 1.2 MB to 141 KB, 29 to 2.7 KB."""

GROUP_BYTES = 384
"""Of a row group here: bounds, references to metrics that all footers share, its runs, where its
columns lie."""

GROUP_FOOTER_BYTES = 1000
"""What a row group takes of our footers: 600 to 640 bytes, and more where names are long."""

WHOLE_BYTES_MAX = 512 << 10
"""Files up to this size are fetched whole with their footer: a round trip of 20 ms more costs as
much as 1.7 MB of transfer."""

_TRAILER_BYTES = 8
"""Length of the footer, magic."""

_ID_MIN, _ID_MAX = -(1 << 63), (1 << 63) - 1
_MS_MIN, _MS_MAX = -(1 << 61), 1 << 61
"""Far outside of every year, and differences of them still fit."""
_METRIC_MAX = "\U0010ffff"


@dataclass(frozen=True, slots=True)
class Footer:
    """What a file says about its row groups; the columns have one entry per row group.

    Attributes:
        parsed: what pyarrow opens the file with.
        row_counts: int64.
        metric_minima: no metric is smaller, by code points.
        metric_maxima: no metric is greater.
        series_id_minima: int64.
        series_id_maxima: int64.
        timestamp_ms_minima: int64, of the time column: `timestamp_ms`, or `window_end_ms` of a
            rollup.
        timestamp_ms_maxima: int64, likewise.
        replicas: the one replica of all rows, empty for none; None where there may be several.
        runs: of row groups with several metrics that were decoded once: the metrics, and the first
            row of each with the row count behind, (metrics + 1,) int32. Whoever decodes adds it.
        chunks: by column, (groups, 2) int64, where its chunks begin and how long they are; filled
            when they are first asked for.
    """

    parsed: Any
    row_counts: I64Array
    metric_minima: list[str]
    metric_maxima: list[str]
    series_id_minima: I64Array
    series_id_maxima: I64Array
    timestamp_ms_minima: I64Array
    timestamp_ms_maxima: I64Array
    replicas: list[str | None]
    runs: dict[int, tuple[list[str], I32Array]] = field(default_factory=dict)
    chunks: dict[str, list[I64Array]] = field(default_factory=dict)

    @property
    def memory_bytes(self) -> int:
        """About what it takes."""
        return int(self.parsed.serialized_size) * PARSED_RATIO + GROUP_BYTES * len(self.row_counts)

    def chunk_ranges(self, groups: Iterable[int], columns: Iterable[str]) -> list[tuple[int, int]]:
        """What pyarrow reads for some columns of some row groups: offsets and lengths."""
        if not self.chunks:
            self.chunks.update(_chunks(self.parsed))
        return [
            (int(leaf[group, 0]), int(leaf[group, 1]))
            for group in groups
            for column in columns
            for leaf in self.chunks[column]
        ]


class FooterCache:
    """Footers by path; any thread.

    Attributes:
        files: what they are read through.
    """

    def __init__(self, bytes_max: int, files: Files | None = None) -> None:
        self.files = files or Files()
        self._bytes_max = bytes_max
        self._lock = threading.Lock()
        self._footers: OrderedDict[str, Footer] = OrderedDict()
        self.memory_bytes = 0
        self.hit_count = 0
        self.miss_count = 0

    def fetch(self, files: Sequence[LakeFile], check: Check) -> list[Footer]:
        """The footers of files, in their order.

        Args:
            files: each once.
            check: called for each that is read; raises to end the work.

        Raises:
            FileNotFoundError: a file is gone.
            StorageUnavailable: the store failed.
            DamagedFile: a file is not what was written.
        """
        found: dict[str, Footer] = {}
        missing = []
        with self._lock:
            for file in files:
                footer = self._footers.get(file.path)
                if footer is None:
                    missing.append(file)
                else:
                    self._footers.move_to_end(file.path)
                    found[file.path] = footer
            self.hit_count += len(found)
            self.miss_count += len(missing)
        for path, footer in self._read(missing, check):
            found[path] = footer
            with self._lock:
                if path not in self._footers:
                    self._footers[path] = footer
                    self.memory_bytes += footer.memory_bytes
                while self.memory_bytes > self._bytes_max and self._footers:
                    _, dropped = self._footers.popitem(last=False)
                    self.memory_bytes -= dropped.memory_bytes
        return [found[file.path] for file in files]

    def drop(self, path: str) -> None:
        """Forgets the footer of a damaged file."""
        with self._lock:
            footer = self._footers.pop(path, None)
            if footer is not None:
                self.memory_bytes -= footer.memory_bytes

    def _read(self, files: Sequence[LakeFile], check: Check) -> Iterator[tuple[str, Footer]]:
        longer: list[tuple[LakeFile, int]] = []
        for file, opened in self.files.in_steps(files, _tail_of, check):
            check()
            if not self.files.is_remote(file.path):
                yield file.path, read_footer(file.path)
            elif (length := _footer_bytes(file, opened)) > _tail_bytes(file):
                longer.append((file, length))
            else:
                yield file.path, _fetched_footer(file, length, opened)
        for (file, length), opened in self.files.in_steps(longer, lambda one: _end_of(*one), check):
            check()
            yield file.path, _fetched_footer(file, length, opened)


def read_footer(path: str) -> Footer:
    """The footer of a local file, parsed.

    Raises:
        FileNotFoundError: the file is gone.
    """
    # A path would have pyarrow look for fsspec, each time anew.
    with damage_named(path), pa.OSFile(path) as file:
        return _columns_of(pq.read_metadata(file))


def _fetched_footer(file: LakeFile, length: int, opened: OpenFiles) -> Footer:
    """The footer of a remote file, from its last bytes: pyarrow itself would read 64 KiB."""
    with damage_named(file.path), opened.source(file.path) as source:
        source.seek(file.size_bytes - length)
        return _columns_of(pq.read_metadata(pa.BufferReader(source.read_buffer(length))))


def _columns_of(parsed: Any) -> Footer:
    columns = {parsed.schema.column(index).path: index for index in range(parsed.num_columns)}
    groups = [parsed.row_group(index) for index in range(parsed.num_row_groups)]
    metric_minima, metric_maxima = _bounds(groups, columns["metric"], "", _METRIC_MAX)
    id_minima, id_maxima = _bounds(groups, columns.get("series_id"), _ID_MIN, _ID_MAX)
    time = columns.get("timestamp_ms", columns.get("window_end_ms"))
    time_minima, time_maxima = _bounds(groups, time, _MS_MIN, _MS_MAX)
    return Footer(
        parsed,
        np.array([group.num_rows for group in groups], np.int64),
        list(map(intern, metric_minima)),
        list(map(intern, metric_maxima)),
        np.array(id_minima, np.int64),
        np.array(id_maxima, np.int64),
        np.array(time_minima, np.int64),
        np.array(time_maxima, np.int64),
        [_only_value(group, columns.get("replica")) for group in groups],
    )


def _tail_bytes(file: LakeFile) -> int:
    """How much of a file's end is fetched for its footer."""
    group_rows = min(max(file.row_count // SAMPLE_GROUPS, SAMPLE_ROWS_MIN), SAMPLE_ROWS)
    likely_bytes = GROUP_FOOTER_BYTES * (4 + file.row_count // group_rows)
    if file.size_bytes <= WHOLE_BYTES_MAX:
        return file.size_bytes
    return min(file.size_bytes, likely_bytes)


def _tail_of(file: LakeFile) -> Part:
    return _end_of(file, _tail_bytes(file))


def _end_of(file: LakeFile, length: int) -> Part:
    return Part(file.path, file.size_bytes, [(file.size_bytes - length, length)])


def _footer_bytes(file: LakeFile, opened: OpenFiles) -> int:
    """How much of a file's end is its footer."""
    with opened.source(file.path) as source:
        source.seek(max(0, file.size_bytes - _TRAILER_BYTES))
        trailer = source.read(_TRAILER_BYTES)
    length = int.from_bytes(trailer[:4], "little") + _TRAILER_BYTES
    if trailer[4:] != b"PAR1" or length > file.size_bytes:
        raise DamagedFile(
            file.path,
            f"{file.path} does not end as a Parquet file does at its {file.size_bytes} bytes",
        )
    return length


def _chunks(parsed: Any) -> dict[str, list[I64Array]]:
    """By column, where the chunks of its leaves lie.

    Source: parquet-cpp's ComputeColumnChunkRange, but for the padding that it grants old writers.
    """
    chunks: dict[str, list[I64Array]] = {}
    groups = [parsed.row_group(index) for index in range(parsed.num_row_groups)]
    for index in range(parsed.num_columns):
        leaf = np.empty((len(groups), 2), np.int64)
        for number, group in enumerate(groups):
            chunk = group.column(index)
            begin = chunk.data_page_offset
            if chunk.has_dictionary_page and 0 < chunk.dictionary_page_offset < begin:
                begin = chunk.dictionary_page_offset
            leaf[number] = begin, chunk.total_compressed_size
        chunks.setdefault(parsed.schema.column(index).path.split(".")[0], []).append(leaf)
    return chunks


def _bounds(
    groups: list[Any], column: int | None, lowest: Any, highest: Any
) -> tuple[list[Any], list[Any]]:
    minima, maxima = [], []
    for group in groups:
        statistics = None if column is None else group.column(column).statistics
        if statistics is not None and statistics.has_min_max:
            minima.append(statistics.min)
            maxima.append(statistics.max)
        else:
            minima.append(lowest)
            maxima.append(highest)
    return minima, maxima


def _only_value(group: Any, column: int | None) -> str | None:
    """The one value of a column of texts, empty if all are null; None where it has several."""
    statistics: Any = None if column is None else group.column(column).statistics
    if statistics is None or not statistics.has_null_count:
        return None
    if statistics.null_count == group.num_rows:
        return ""
    if statistics.null_count or not statistics.has_min_max or statistics.min != statistics.max:
        return None
    return intern(str(statistics.min))
