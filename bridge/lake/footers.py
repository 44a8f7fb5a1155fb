"""The footers of Parquet files, parsed once and kept as columns.

Files never change, so what a footer says is true for as long as anybody asks. Parsing one costs
0.05 ms (a file of a minute) to 2 ms (one of a day), and reading its row groups' bounds one by one
in Python as much again; a dashboard asks for the same files every few seconds.

A row group without statistics of a column can hold anything.

Invariants:
    LAKE-7  a row group that is left out holds no row that was asked for.

Limits: `bytes_max` for all of them, estimated as the serialized footer times PARSED_RATIO plus
GROUP_BYTES a row group; the least recently used go first.
"""

import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from sys import intern
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bridge.wire.columns import I32Array, I64Array

PARSED_RATIO = 10
"""Memory of a parsed footer to its bytes in the file, measured: 1.2 MB to 141 KB, 29 to 2.7 KB."""

GROUP_BYTES = 256
"""Of a row group here: bounds, references to metrics that all footers share, its runs."""

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
        timestamp_ms_minima: int64; of `samples` only.
        timestamp_ms_maxima: int64; of `samples` only.
        replicas: the one replica of all rows, empty for none; None where there may be several.
        runs: of row groups with several metrics that were decoded once: the metrics, and the first
            row of each with the row count behind, (metrics + 1,) int32. Whoever decodes adds it.
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

    @property
    def memory_bytes(self) -> int:
        """About what it takes."""
        return int(self.parsed.serialized_size) * PARSED_RATIO + GROUP_BYTES * len(self.row_counts)


class FooterCache:
    """Footers by path; any thread."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._lock = threading.Lock()
        self._footers: OrderedDict[str, Footer] = OrderedDict()
        self.memory_bytes = 0
        self.hit_count = 0
        self.miss_count = 0

    def fetch(self, path: str) -> Footer:
        """The footer of a file.

        Raises:
            FileNotFoundError: the file is gone.
        """
        with self._lock:
            footer = self._footers.get(path)
            if footer is not None:
                self._footers.move_to_end(path)
                self.hit_count += 1
                return footer
            self.miss_count += 1
        footer = read_footer(path)
        with self._lock:
            if path not in self._footers:
                self._footers[path] = footer
                self.memory_bytes += footer.memory_bytes
            while self.memory_bytes > self._bytes_max and self._footers:
                _, dropped = self._footers.popitem(last=False)
                self.memory_bytes -= dropped.memory_bytes
        return footer


def read_footer(path: str) -> Footer:
    """The footer of a file, parsed."""
    # A path would have pyarrow look for fsspec, each time anew.
    with pa.OSFile(path) as file:
        parsed = pq.read_metadata(file)
    columns = {parsed.schema.column(index).path: index for index in range(parsed.num_columns)}
    groups = [parsed.row_group(index) for index in range(parsed.num_row_groups)]
    metric_minima, metric_maxima = _bounds(groups, columns["metric"], "", _METRIC_MAX)
    id_minima, id_maxima = _bounds(groups, columns["series_id"], _ID_MIN, _ID_MAX)
    time_minima, time_maxima = _bounds(groups, columns.get("timestamp_ms"), _MS_MIN, _MS_MAX)
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
