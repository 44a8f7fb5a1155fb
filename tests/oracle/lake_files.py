"""A lake of Parquet files without a log: what a snapshot shows of them, and no more."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import xxhash

from bridge.lake.data_file import DataFile
from bridge.lake.parquet import SeriesBatch, write_samples, write_series
from bridge.lake.schema import date_of, month_of
from bridge.lake.snapshot import Snapshot, TableFiles
from bridge.wire.decoded import LabelRows
from tests.oracle.tsdb import Labels

LakeRow = tuple[Labels, int, int, str]
"""Labels, timestamp_ms, bits of the value, replica or empty."""


def canonical(labels: Mapping[str, str]) -> Labels:
    """Labels as they are stored."""
    return tuple(sorted((name, value) for name, value in labels.items() if value))


def series_id(labels: Labels) -> int:
    """The id under which a series is stored."""
    text = b"".join(part.encode() + b"\xff" for label in labels for part in label)
    unsigned = xxhash.xxh3_64_intdigest(text)
    return unsigned - (1 << 64) if unsigned >> 63 else unsigned


def metric_of(labels: Labels) -> str:
    """The name of a series' metric."""
    return dict(labels)["__name__"]


class FileLake:
    """Files in a folder, taken for a lake."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.samples: list[DataFile] = []
        self.series: list[DataFile] = []
        self.positions: dict[str, int] = {}
        self.forced_count = 0
        self._numbers = itertools.count()

    def add(self, rows: Sequence[LakeRow], *, with_series: bool = True) -> None:
        """Commits rows, a file per day, and their series."""
        if with_series:
            self.add_series(rows)
        self.samples += self.write(rows)

    def write(self, rows: Sequence[LakeRow]) -> list[DataFile]:
        """Sample files of rows, a file per day; nothing refers to them."""
        by_day: dict[str, list[LakeRow]] = {}
        for row in rows:
            by_day.setdefault(date_of(row[1]), []).append(row)
        return [write_day(self._path(), day, own) for day, own in sorted(by_day.items())]

    def add_series(self, rows: Iterable[LakeRow]) -> None:
        """Commits the series of rows, a file per month."""
        by_month: dict[str, set[Labels]] = {}
        for labels, timestamp_ms, _, _ in rows:
            by_month.setdefault(month_of(timestamp_ms), set()).add(labels)
        for month, own in sorted(by_month.items()):
            ordered = sorted(own, key=lambda labels: (metric_of(labels), series_id(labels)))
            batch = SeriesBatch(
                [metric_of(labels) for labels in ordered],
                np.array([series_id(labels) for labels in ordered], np.int64),
                label_rows(ordered),
            )
            self.series.append(write_series(self._path(), [batch], partition=month))

    def snapshot(self, *, force: bool = False) -> Snapshot:
        """What there is now."""
        self.forced_count += force
        return Snapshot(
            table_files(self.samples),
            table_files(self.series),
            table_files([]),
            dict(self.positions),
        )

    def _path(self) -> Path:
        return self.folder / f"f-{next(self._numbers)}.parquet"


def write_day(path: Path, day: str, rows: Sequence[LakeRow]) -> DataFile:
    """One day's file."""
    ordered = sorted(rows, key=lambda row: (metric_of(row[0]), series_id(row[0]), row[1]))
    series = list(dict.fromkeys(row[0] for row in ordered))
    rank = {labels: index for index, labels in enumerate(series)}
    metrics = sorted({metric_of(labels) for labels in series})
    replicas = ["", *sorted({row[3] for row in rows} - {""})]
    ranks = [rank[row[0]] for row in ordered]
    return write_samples(
        path,
        day,
        metrics=metrics,
        metric_of_rank=np.array([metrics.index(metric_of(one)) for one in series], np.int32),
        series_id_of_rank=np.array([series_id(one) for one in series], np.int64),
        offsets=np.searchsorted(ranks, np.arange(len(series) + 1)).astype(np.int64),
        timestamps_ms=np.array([row[1] for row in ordered], np.int64),
        values=np.array([row[2] for row in ordered], np.uint64).view(np.float64),
        replica_of_row=(
            np.array([replicas.index(row[3]) for row in ordered], np.int32)
            if len(replicas) > 1
            else None
        ),
        replicas=replicas,
    )


def label_rows(series: Sequence[Labels]) -> LabelRows:
    """Labels as the buffers of a MAP column."""
    pairs = [label for labels in series for label in labels]
    names = [name.encode() for name, _ in pairs]
    values = [value.encode() for _, value in pairs]
    return LabelRows(
        np.cumsum([0, *map(len, series)], dtype=np.int32),
        np.cumsum([0, *map(len, names)], dtype=np.int32),
        b"".join(names),
        np.cumsum([0, *map(len, values)], dtype=np.int32),
        b"".join(values),
    )


def table_files(files: Sequence[DataFile]) -> TableFiles:
    """The columns that a snapshot keeps of files."""
    return TableFiles(
        prefix="",
        paths=pa.array([str(file.path) for file in files], pa.string()),
        partitions=pa.array([file.partition for file in files], pa.string()),
        row_counts=np.array([file.row_count for file in files], np.int64),
        sizes_bytes=np.array([file.size_bytes for file in files], np.int64),
        metric_minima=pa.array([str(file.minima["metric"]) for file in files], pa.string()),
        metric_maxima=pa.array([str(file.maxima["metric"]) for file in files], pa.string()),
        timestamp_ms_minima=np.array(
            [int(file.minima.get("timestamp_ms", 0)) for file in files], np.int64
        ),
        timestamp_ms_maxima=np.array(
            [int(file.maxima.get("timestamp_ms", 0)) for file in files], np.int64
        ),
    )
