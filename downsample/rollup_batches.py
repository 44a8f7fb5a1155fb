"""Rollups of many series in order: out of stored files, and two such streams made one.

    stored files ──(DuckDB: filter, sort)──> batches ──┐
                                                       ├─> union of the series, window by window
    late samples, or a span that was made anew ────────┘

DuckDB sorts on the disk what does not fit into memory, so months of any size can be read. Both
streams ascend by (metric, series_id); up to where the shorter one is known, the two are made one.

Limits: BATCH_ROWS of each stream and one series more, 100 bytes a row; DuckDB's own bound.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from bridge.model.time_range import TimeRange
from bridge.wire.columns import I32Array, I64Array
from downsample.rollup import RollupRows, merge_rollups
from downsample.tables import opened

BATCH_ROWS = 1 << 18

_COLUMNS = [item.name for item in fields(RollupRows) if item.name != "offsets"]
_STORED = f"""
SELECT metric, series_id, {", ".join(f'"{name}"' for name in _COLUMNS)}
FROM read_parquet($files, hive_partitioning = false)
WHERE window_end_ms <= $after_ms OR window_end_ms > $until_ms
ORDER BY metric, series_id, window_end_ms
"""  # noqa: S608 - names of columns alone

Merge = Callable[[RollupRows, RollupRows], RollupRows]


@dataclass(frozen=True, slots=True)
class RollupBatch:
    """Some whole series, sorted by (metric, series_id); none is empty.

    Attributes:
        metrics: distinct names, ascending.
        metric_of_rank: (n_ranks,) int32 into metrics, ascending.
        series_id_of_rank: (n_ranks,) int64, ascending within a metric.
        rows: of the ranks.
    """

    metrics: Sequence[str]
    metric_of_rank: I32Array
    series_id_of_rank: I64Array
    rows: RollupRows

    @property
    def last_key(self) -> tuple[str, int]:
        """Metric and id of the last series."""
        return self.metrics[self.metric_of_rank[-1]], int(self.series_id_of_rank[-1])

    def split(self, key: tuple[str, int]) -> "tuple[RollupBatch | None, RollupBatch | None]":
        """What is not above `key`, and the rest; None where that is nothing."""
        metric, series_id = key
        places = self.metric_of_rank
        below = sum(name < metric for name in self.metrics)
        begin = int(np.searchsorted(places, below, "left"))
        end = begin
        if below < len(self.metrics) and self.metrics[below] == metric:
            end = int(np.searchsorted(places, below, "right"))
            ids = self.series_id_of_rank[begin:end]
            end = begin + int(np.searchsorted(ids, series_id, "right"))
        return self._part(0, end), self._part(end, len(places))

    def _part(self, begin: int, end: int) -> "RollupBatch | None":
        if begin == end:
            return None
        offsets = self.rows.offsets[begin : end + 1]
        return RollupBatch(
            self.metrics,
            self.metric_of_rank[begin:end],
            self.series_id_of_rank[begin:end],
            _rows_of(
                offsets - offsets[0],
                [getattr(self.rows, name)[offsets[0] : offsets[-1]] for name in _COLUMNS],
            ),
        )


def read_stored(
    files: Sequence[Path], left_out: TimeRange, *, scratch: Path, memory_bytes: int
) -> Iterator[RollupBatch]:
    """The rows of stored rollup files, but for the windows of one span.

    Args:
        files: local ones, of one level; no two hold the same row.
        left_out: windows that end in here are not wanted; may be empty.
        scratch: where DuckDB may put what does not fit into memory.
        memory_bytes: of DuckDB.

    Raises:
        CorruptionError: a file is damaged.
    """
    if not files:
        return
    with opened(scratch, memory_bytes) as connection:
        found: Any = connection.sql(
            _STORED,
            params={
                "files": [str(path) for path in files],
                "after_ms": left_out.after_ms,
                "until_ms": left_out.until_ms,
            },
        ).to_arrow_reader(BATCH_ROWS)
        waiting: Any = None
        for batch in found:
            table = pa.Table.from_batches([batch])
            if waiting is not None:
                table = pa.concat_tables([waiting, table])
            whole = _last_series_begin(table)
            waiting = table.slice(whole)
            if whole:
                yield _batch_of(table.slice(0, whole))
        if waiting is not None and waiting.num_rows:
            yield _batch_of(waiting)


def merge_streams(
    stored: Iterator[RollupBatch], late: Iterator[RollupBatch], merge: Merge = merge_rollups
) -> Iterator[RollupBatch]:
    """The rows of two streams as one.

    Args:
        stored: ascending by series.
        late: ascending by series.
        merge: makes one of the rows of the same ranks.
    """
    left, right = next(stored, None), next(late, None)
    while left is not None and right is not None:
        key = min(left.last_key, right.last_key)
        (left_part, left_rest), (right_part, right_rest) = left.split(key), right.split(key)
        if left_part is not None and right_part is not None:
            yield _union(left_part, right_part, merge)
        elif (part := left_part or right_part) is not None:
            yield part
        left = left_rest or next(stored, None)
        right = right_rest or next(late, None)
    for rest, stream in ((left, stored), (right, late)):
        if rest is not None:
            yield rest
            yield from stream


def _union(left: RollupBatch, right: RollupBatch, merge: Merge) -> RollupBatch:
    metrics = sorted({*left.metrics, *right.metrics})
    place_of = {name: place for place, name in enumerate(metrics)}
    places = np.concatenate(
        [
            np.array([place_of[name] for name in one.metrics], np.int32)[one.metric_of_rank]
            for one in (left, right)
        ]
    )
    ids = np.concatenate([left.series_id_of_rank, right.series_id_of_rank])
    order = np.lexsort((ids, places))
    is_first = np.ones(len(order), np.bool_)
    is_first[1:] = (places[order][1:] != places[order][:-1]) | (ids[order][1:] != ids[order][:-1])
    rank_of = np.empty(len(order), np.int64)
    rank_of[order] = np.cumsum(is_first) - 1
    rank_count = int(is_first.sum())
    middle = len(left.metric_of_rank)
    return RollupBatch(
        metrics,
        places[order][is_first],
        ids[order][is_first],
        merge(
            _spread(left.rows, rank_of[:middle], rank_count),
            _spread(right.rows, rank_of[middle:], rank_count),
        ),
    )


def _spread(rows: RollupRows, rank_of: I64Array, rank_count: int) -> RollupRows:
    """The same rows over more ranks; the order of the ranks is kept."""
    counts = np.zeros(rank_count, np.int64)
    counts[rank_of] = np.diff(rows.offsets)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    return _rows_of(offsets, [getattr(rows, name) for name in _COLUMNS])


def _rows_of(offsets: I64Array, columns: Sequence[Any]) -> RollupRows:
    return RollupRows(np.ascontiguousarray(offsets), *map(np.ascontiguousarray, columns))


def _starts(table: Any) -> I64Array:
    """First row of each series."""
    metrics = table["metric"].combine_chunks()
    ids = np.asarray(table["series_id"])
    if not len(ids):
        return np.empty(0, np.int64)
    codes = np.asarray(metrics.dictionary_encode().indices)
    is_first = np.ones(len(ids), np.bool_)
    is_first[1:] = (codes[1:] != codes[:-1]) | (ids[1:] != ids[:-1])
    return np.flatnonzero(is_first)


def _last_series_begin(table: Any) -> int:
    starts = _starts(table)
    return int(starts[-1]) if len(starts) else 0


def _batch_of(table: Any) -> RollupBatch:
    starts = _starts(table)
    encoded = table["metric"].combine_chunks().dictionary_encode()
    metrics = encoded.dictionary.to_pylist()
    return RollupBatch(
        metrics,
        np.asarray(encoded.indices)[starts].astype(np.int32),
        np.asarray(table["series_id"])[starts],
        _rows_of(
            np.append(starts, table.num_rows),
            [_numbers(table[name].combine_chunks()) for name in _COLUMNS],
        ),
    )


def _numbers(column: Any) -> Any:
    return np.asarray(column.fill_null(0) if column.null_count else column)
