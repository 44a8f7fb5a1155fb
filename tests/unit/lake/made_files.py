"""Small sorted files, made from rows as a person would write them down."""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import numpy as np

from bridge.lake.data_file import DataFile
from bridge.lake.parquet import SeriesBatch, write_samples, write_series
from bridge.wire.columns import F64Array, I64Array
from bridge.wire.decoded import LabelRows

DAY = "2026-11-21"
DAY_START_MS = 1_795_219_200_000
"""Midnight of DAY; samples of the day come after it."""

Row = tuple[str, int, int, int, int, str]
"""metric, series_id, timestamp_ms, bits of the value, start_timestamp_ms or 0, replica or empty."""


def write_rows(path: Path, rows: Sequence[Row], partition: str = DAY) -> DataFile:
    """Writes rows, given in any order, through write_samples."""
    ordered = sorted(rows, key=lambda row: row[:3])
    metrics = sorted({row[0] for row in ordered})
    ranks = [key for key, _ in groupby(ordered, key=lambda row: row[:2])]
    counts = [len(list(group)) for _, group in groupby(ordered, key=lambda row: row[:2])]
    replicas = ["", *sorted({row[5] for row in ordered} - {""})]
    has_start, has_replica = any(row[4] for row in ordered), len(replicas) > 1
    return write_samples(
        path,
        partition,
        metrics=metrics,
        metric_of_rank=np.array([metrics.index(metric) for metric, _ in ranks], np.int32),
        series_id_of_rank=np.array([series_id for _, series_id in ranks], np.int64),
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        timestamps_ms=integers([row[2] for row in ordered]),
        values=values_of_bits([row[3] for row in ordered]),
        start_timestamps_ms=integers([row[4] for row in ordered]) if has_start else None,
        replica_of_row=(
            np.array([replicas.index(row[5]) for row in ordered], np.int32) if has_replica else None
        ),
        replicas=replicas,
    )


def one_sample(
    path: Path, metric: str = "up", timestamp_ms: int = DAY_START_MS + 1, value: float = 1.0
) -> DataFile:
    """A file with a single sample."""
    bits = int(np.float64(value).view(np.uint64))
    return write_rows(path, [(metric, 1, timestamp_ms, bits, 0, "")])


def one_series(path: Path, metric: str = "up", month: str = "2026-11") -> DataFile:
    """A file with a single series."""
    labels = label_rows([{"__name__": metric, "job": "node"}])
    batch = SeriesBatch([metric], integers([1]), labels)
    return write_series(path, [batch], partition=month)


def label_rows(series: Sequence[dict[str, str]]) -> LabelRows:
    """Labels as the registry hands them over."""
    pairs = [pair for labels in series for pair in labels.items()]
    names = [name.encode() for name, _ in pairs]
    values = [value.encode() for _, value in pairs]

    def offsets(lengths: list[int]) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
        return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)

    return LabelRows(
        label_offsets=offsets([len(labels) for labels in series]),
        name_offsets=offsets([len(name) for name in names]),
        name_bytes=b"".join(names),
        value_offsets=offsets([len(value) for value in values]),
        value_bytes=b"".join(values),
    )


def integers(numbers: Sequence[int]) -> I64Array:
    """A column of int64."""
    return np.array(numbers, np.int64)


def values_of_bits(patterns: Sequence[int]) -> F64Array:
    """A column of float64 with these bits."""
    return np.array(patterns, np.uint64).view(np.float64)
