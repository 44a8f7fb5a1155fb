"""Raw samples on their way from sorted files into rollups and new files."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bridge.wire.columns import F64Array, I32Array, I64Array


@dataclass(frozen=True, slots=True)
class RawFile:
    """A Parquet file of `samples` on the local disk, sorted as all of them are.

    Attributes:
        path: where it lies.
    """

    path: Path


@dataclass(frozen=True, slots=True)
class SampleBatch:
    """Some whole series of one span, sorted by (metric, series_id); none is empty.

    The rows of a rank are merged: one for each time, or for each time and replica where replicas
    are not merged yet. Arrays are contiguous.

    Attributes:
        metrics: distinct names, ascending.
        metric_of_rank: (n_ranks,) int32 into metrics, ascending.
        series_id_of_rank: (n_ranks,) int64, ascending within a metric.
        offsets: (n_ranks + 1,) int64 into the rows, strictly ascending.
        timestamps_ms: (n_rows,) int64, Unix ms, ascending within a rank; strictly, if merged.
        values: (n_rows,) float64; the bits are kept.
        start_timestamps_ms: (n_rows,) int64, 0 for none; None if no row has one.
        replica_of_row: (n_rows,) int32 into replicas, 0 for none; None if no row has one.
        replicas: what replica_of_row points into; the first, empty, stands for no replica.
    """

    metrics: Sequence[str]
    metric_of_rank: I32Array
    series_id_of_rank: I64Array
    offsets: I64Array
    timestamps_ms: I64Array
    values: F64Array
    start_timestamps_ms: I64Array | None = None
    replica_of_row: I32Array | None = None
    replicas: Sequence[str] = ("",)
