"""The Parquet files of each table.

Samples come sorted by (metric, series_id, timestamp_ms) and grouped by rank, the place of a series
in that order. What a series has once is known by rank and is spread over rows for one row group at
a time:

    rank r:  metrics[metric_of_rank[r]], series_id_of_rank[r], rows offsets[r]:offsets[r + 1]

Encodings: metric, series_id and replica by dictionary (one entry per series of the row group),
times DELTA_BINARY_PACKED, value BYTE_STREAM_SPLIT, all under zstd. Values are moved as bits. They
have no statistics: NaN has no place in an order, and a reader that trusts bounds would skip rows
(LAKE-4).

Row groups are what a reader decodes whole to find one series: a 64th of the file, but 8192 to
131072 rows. A file of a minute then costs 0.5 ms for one series (2.6 ms as one group of 131072), a
file of a day 2.5 ms; small groups everywhere would cost writing: 60 ns and 1.67 bytes a row with
16384, 46 ns and 1.62 bytes with 131072, on 6 M rows of 10 k series.

Limits: memory beside what was passed in is about 64 bytes a row of one row group, 8 MiB; for series
one batch, labels as text.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from bridge.lake.data_file import DataFile
from bridge.lake.parquet_file import ParquetFile
from bridge.lake.schema import METADATA, SAMPLES, SERIES, TABLES
from bridge.wire.columns import F64Array, I32Array, I64Array
from bridge.wire.decoded import LabelRows

SAMPLE_ROWS = 131_072
SAMPLE_ROWS_MIN = 8_192
SAMPLE_GROUPS = 64
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
    names = pa.array(metrics, pa.string())
    with ParquetFile(
        path,
        TABLES[SAMPLES].columns,
        compressed=[
            "series_id",
            "timestamp_ms",
            "value",
            *(["start_timestamp_ms"] if start_timestamps_ms is not None else []),
        ],
        dictionary=["metric", "series_id", "replica"],
        encodings={
            "timestamp_ms": "DELTA_BINARY_PACKED",
            "value": "BYTE_STREAM_SPLIT",
            "start_timestamp_ms": "DELTA_BINARY_PACKED",
        },
        statistics=["metric", "series_id", "timestamp_ms", "start_timestamp_ms", "replica"],
    ) as file:
        group_rows = min(max(row_count // SAMPLE_GROUPS, SAMPLE_ROWS_MIN), SAMPLE_ROWS)
        for begin in range(0, row_count, group_rows):
            rows = slice(begin, min(begin + group_rows, row_count))
            ranks = slice(
                int(np.searchsorted(offsets, rows.start, "right")) - 1,
                int(np.searchsorted(offsets, rows.stop, "left")),
            )
            counts = np.diff(offsets[ranks.start : ranks.stop + 1].clip(rows.start, rows.stop))
            starts = None if start_timestamps_ms is None else start_timestamps_ms[rows]
            replica = None if replica_of_row is None else replica_of_row[rows]
            file.write_row_group(
                [
                    _metric_column(names, metric_of_rank[ranks], counts),
                    _series_id_column(series_id_of_rank[ranks], counts),
                    pa.array(timestamps_ms[rows]),
                    pa.array(values[rows]),
                    _start_column(starts, rows.stop - rows.start),
                    _replica_column(replica, replicas, rows.stop - rows.start),
                ]
            )
    filled = np.flatnonzero(np.diff(offsets))
    series_ids = series_id_of_rank[filled]
    firsts, lasts = offsets[filled], offsets[filled + 1] - 1
    return DataFile(
        path=path,
        partition=partition,
        row_count=row_count,
        size_bytes=file.size_bytes,
        minima={
            "metric": metrics[metric_of_rank[filled[0]]],
            "series_id": int(series_ids.min()),
            "timestamp_ms": int(timestamps_ms[firsts].min()),
        },
        maxima={
            "metric": metrics[metric_of_rank[filled[-1]]],
            "series_id": int(series_ids.max()),
            "timestamp_ms": int(timestamps_ms[lasts].max()),
        },
        null_counts={
            "metric": 0,
            "series_id": 0,
            "timestamp_ms": 0,
            "value": 0,
            "start_timestamp_ms": row_count - _filled_count(start_timestamps_ms),
            "replica": row_count - _filled_count(replica_of_row),
        },
    )


def write_series(path: Path, batches: Iterable[SeriesBatch], *, partition: str) -> DataFile:
    """Writes one month's series; there is at least one.

    Raises:
        OSError: the disk is full or failed; no file is left.
    """
    metric_min = metric_max = ""
    id_min, id_max = 1 << 63, -(1 << 63)
    with ParquetFile(
        path,
        TABLES[SERIES].columns,
        compressed=["labels.key_value.key", "labels.key_value.value"],
        dictionary=["metric", "labels.key_value.key", "labels.key_value.value"],
        encodings={},
        statistics=["metric", "series_id"],
    ) as file:
        for batch in batches:
            assert 0 < len(batch.metrics) <= SERIES_ROWS_MAX
            metric_min = metric_min if file.row_count else batch.metrics[0]
            metric_max = batch.metrics[-1]
            id_min = min(id_min, int(batch.series_ids.min()))
            id_max = max(id_max, int(batch.series_ids.max()))
            file.write_row_group(
                [
                    pa.array(batch.metrics, pa.string()).dictionary_encode(),
                    pa.array(batch.series_ids),
                    _labels_column(batch.labels),
                ]
            )
    return DataFile(
        path=path,
        partition=partition,
        row_count=file.row_count,
        size_bytes=file.size_bytes,
        minima={"metric": metric_min, "series_id": id_min},
        maxima={"metric": metric_max, "series_id": id_max},
        null_counts={"metric": 0, "series_id": 0},
    )


def write_metadata(path: Path, rows: Iterable[MetadataRow]) -> DataFile:
    """Writes metadata in any order; there is at least one row.

    Raises:
        OSError: the disk is full or failed; no file is left.
    """
    schema = TABLES[METADATA].columns
    ordered = sorted(rows)
    with ParquetFile(
        path,
        schema,
        compressed=schema.names,
        dictionary=["type", "unit"],
        encodings={"seen_ms": "DELTA_BINARY_PACKED"},
        statistics=["metric", "type", "unit", "seen_ms"],
    ) as file:
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


def _metric_column(names: Any, metric_of_rank: I32Array, counts: I64Array) -> Any:
    first, last = int(metric_of_rank[0]), int(metric_of_rank[-1])
    return pa.DictionaryArray.from_arrays(
        pa.array(np.repeat(metric_of_rank - np.int32(first), counts)),
        names.slice(first, last - first + 1),
        safe=False,
    )


def _series_id_column(series_ids: I64Array, counts: I64Array) -> Any:
    return pa.DictionaryArray.from_arrays(
        pa.array(np.repeat(np.arange(len(series_ids), dtype=np.int32), counts)),
        pa.array(series_ids),
        safe=False,
    )


def _start_column(starts: I64Array | None, row_count: int) -> Any:
    if starts is None:
        return pa.nulls(row_count, pa.int64())
    return pa.array(starts, mask=starts == 0)


def _replica_column(
    replica_of_row: I32Array | None, replicas: Sequence[str], row_count: int
) -> Any:
    if replica_of_row is None:
        return pa.nulls(row_count, pa.string())
    indices = pa.array(replica_of_row, mask=replica_of_row == 0)
    return pa.DictionaryArray.from_arrays(indices, pa.array(replicas, pa.string()))


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


def _filled_count(column: I32Array | I64Array | None) -> int:
    return 0 if column is None else int(np.count_nonzero(column))
