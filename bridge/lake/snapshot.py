"""One version of the lake: which files can hold what a query asks for.

A table's files stand in columns, one row per file, as delta-rs keeps them (Arrow, shared with it,
not copied), so that a query prunes tens of thousands of files in a fraction of a millisecond. A
file without statistics is never pruned by them.

Invariants:
    LAKE-3  `samples` is taken before `series`, and writers commit them the other way round, so that
            the series of every sample in a snapshot are in it too.
    LAKE-16 `samples` is taken before the rollups, and what expires goes only where its rollup was
            committed before, so that a snapshot has at least one of them.
    LAKE-7  a file that is left out holds no row that was asked for.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from bridge.wire.columns import I64Array

_MS_MIN, _MS_MAX = -(1 << 63), (1 << 63) - 1
_METRIC_MAX = "\U0010ffff"


@dataclass(frozen=True, slots=True)
class LakeFile:
    """A Parquet file and what it can hold.

    Attributes:
        path: what a reader opens: a local path or a URI.
        partition: `2026-11-21` for samples, `2026-11` for series, empty for metadata.
        row_count: rows.
        size_bytes: size of the file.
        metric_min: no metric in it is smaller, by code points.
        metric_max: no metric in it is greater.
        timestamp_ms_min: no sample in it is older; of a rollup, no window ends earlier.
        timestamp_ms_max: no sample in it is younger; of a rollup, no window ends later.
    """

    path: str
    partition: str
    row_count: int
    size_bytes: int
    metric_min: str = ""
    metric_max: str = _METRIC_MAX
    timestamp_ms_min: int = _MS_MIN
    timestamp_ms_max: int = _MS_MAX


@dataclass(frozen=True, slots=True)
class TableFiles:
    """All files of one version of one table; the columns have one row per file.

    Times are those of the table's time column: `timestamp_ms`, or `window_end_ms` of a rollup.

    Attributes:
        prefix: what a path in the log is relative to, `/` at its end.
        paths: Arrow strings, relative.
        partitions: Arrow strings or dates; None if the table has no partitions.
        row_counts: int64.
        sizes_bytes: int64.
        metric_minima: Arrow strings; smaller than any metric where unknown.
        metric_maxima: Arrow strings; greater than any metric where unknown.
        timestamp_ms_minima: int64.
        timestamp_ms_maxima: int64.
    """

    prefix: str
    paths: Any
    partitions: Any
    row_counts: I64Array
    sizes_bytes: I64Array
    metric_minima: Any
    metric_maxima: Any
    timestamp_ms_minima: I64Array
    timestamp_ms_maxima: I64Array

    @classmethod
    def from_actions(
        cls, prefix: str, actions: Any, partition: Any, time_column: str = "timestamp_ms"
    ) -> Self:
        """Columns of what `DeltaTable.get_add_actions(flatten=True)` gives.

        Args:
            prefix: of every path.
            actions: Arrow table; columns are missing when no file has that statistic.
            partition: Arrow field of the partition column; None if there is none.
            time_column: whose statistics bound the times.
        """
        table = pa.table(actions)

        def column(name: str, kind: Any, unknown: Any) -> Any:
            if name not in table.column_names:
                return pa.repeat(pa.scalar(unknown, kind), table.num_rows)
            values = table[name].combine_chunks().cast(kind)
            return values if unknown is None else values.fill_null(pa.scalar(unknown, kind))

        def numbers(name: str, unknown: int) -> I64Array:
            return np.asarray(column(name, pa.int64(), unknown))

        text = pa.string()
        return cls(
            prefix=prefix,
            paths=column("path", text, ""),
            partitions=(
                None
                if partition is None
                else column(f"partition.{partition.name}", partition.type, None)
            ),
            row_counts=numbers("num_records", 0),
            sizes_bytes=numbers("size_bytes", 0),
            metric_minima=column("min.metric", text, ""),
            metric_maxima=column("max.metric", text, _METRIC_MAX),
            timestamp_ms_minima=numbers(f"min.{time_column}", _MS_MIN),
            timestamp_ms_maxima=numbers(f"max.{time_column}", _MS_MAX),
        )

    @classmethod
    def none_of(cls, prefix: str, partition: Any) -> Self:
        """The files of a table that has none, or is not there."""
        return cls.from_actions(prefix, pa.table({}), partition)

    def __len__(self) -> int:
        return len(self.row_counts)

    def with_metric(self, metric: str | None) -> NDArray[np.bool_]:
        """Which files can hold `metric`; None stands for all metrics."""
        if metric is None:
            return np.ones(len(self), np.bool_)
        bounds = pc.and_(
            pc.less_equal(self.metric_minima, metric), pc.greater_equal(self.metric_maxima, metric)
        )
        return np.asarray(bounds, np.bool_)

    def with_time(self, after_ms: int, until_ms: int) -> NDArray[np.bool_]:
        """Which files can hold a time in (after_ms, until_ms]."""
        return (self.timestamp_ms_maxima > after_ms) & (self.timestamp_ms_minima <= until_ms)

    def pick(self, mask: NDArray[np.bool_]) -> list[LakeFile]:
        """The files of `mask`, by partition and then by their oldest sample."""
        rows = np.flatnonzero(mask)
        taken = pa.array(rows)
        count = len(rows)
        files = [
            LakeFile(*fields)
            for fields in zip(
                [self.prefix + path for path in self.paths.take(taken).to_pylist()],
                (
                    [""] * count
                    if self.partitions is None
                    else self.partitions.take(taken).cast(pa.string()).to_pylist()
                ),
                self.row_counts[rows].tolist(),
                self.sizes_bytes[rows].tolist(),
                self.metric_minima.take(taken).to_pylist(),
                self.metric_maxima.take(taken).to_pylist(),
                self.timestamp_ms_minima[rows].tolist(),
                self.timestamp_ms_maxima[rows].tolist(),
                strict=True,
            )
        ]
        files.sort(key=lambda file: (file.partition, file.timestamp_ms_min, file.path))
        return files


def _no_rollups() -> TableFiles:
    return TableFiles.none_of("", pa.field("partition", pa.string()))


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One version of every table.

    Attributes:
        samples: files of the table.
        series: files of the table, taken after all others.
        metadata: files of the table.
        positions: by receiver id, the last WAL record that `samples` covers; of the receivers that
            the lake object has been asked about.
        versions: of each table that is there, by name.
        samples_5m: files of the table, taken after `samples`; none where nothing was rolled up yet.
        samples_1h: files of the table, taken after `samples_5m`.
        raw_dropped_day: the last day whose raw samples were dropped, since 1970; None if none was.
    """

    samples: TableFiles
    series: TableFiles
    metadata: TableFiles
    positions: Mapping[str, int] = field(default_factory=dict)
    versions: Mapping[str, int] = field(default_factory=dict)
    samples_5m: TableFiles = field(default_factory=_no_rollups)
    samples_1h: TableFiles = field(default_factory=_no_rollups)
    raw_dropped_day: int | None = None

    def sample_files(self, metric: str | None, after_ms: int, until_ms: int) -> list[LakeFile]:
        """Files that can hold samples of `metric` in (after_ms, until_ms], oldest day first.

        Args:
            metric: None stands for all metrics.
            after_ms: itself not included.
            until_ms: included.
        """
        return _files_between(self.samples, metric, after_ms, until_ms)

    def rollup_files_5m(self, metric: str | None, after_ms: int, until_ms: int) -> list[LakeFile]:
        """Files that can hold 5m windows of `metric` that end in (after_ms, until_ms]."""
        return _files_between(self.samples_5m, metric, after_ms, until_ms)

    def rollup_files_1h(self, metric: str | None, after_ms: int, until_ms: int) -> list[LakeFile]:
        """Files that can hold 1h windows of `metric` that end in (after_ms, until_ms]."""
        return _files_between(self.samples_1h, metric, after_ms, until_ms)

    def series_files(self, metric: str | None, months: Iterable[str]) -> list[LakeFile]:
        """Files that can hold series of `metric` in these months, `2026-11`."""
        files = self.series
        wanted = pa.array(sorted(set(months)), pa.string())
        mask = np.asarray(pc.is_in(files.partitions, value_set=wanted), np.bool_)
        return files.pick(mask & files.with_metric(metric))

    def metadata_files(self) -> list[LakeFile]:
        """All files of `metadata`."""
        return self.metadata.pick(np.ones(len(self.metadata), np.bool_))

    def months(self) -> list[str]:
        """The months that have series, ascending."""
        return sorted(pc.unique(self.series.partitions).to_pylist())


def _files_between(
    files: TableFiles, metric: str | None, after_ms: int, until_ms: int
) -> list[LakeFile]:
    if until_ms <= after_ms:
        return []
    return files.pick(files.with_time(after_ms, until_ms) & files.with_metric(metric))
