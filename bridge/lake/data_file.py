"""A Parquet file on the local disk that is about to become part of a table."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from bridge.lake.snapshot import LakeFile


@dataclass(frozen=True, slots=True)
class DataFile:
    """What a commit has to say about one file.

    Attributes:
        path: where it lies now; its name is kept in the lake.
        partition: `2026-11-21` for samples, `2026-11` for series, empty for metadata.
        row_count: rows.
        size_bytes: size of the file.
        minima: smallest value of each column that has statistics.
        maxima: greatest value of the same columns.
        null_counts: nulls by column.
    """

    path: Path
    partition: str
    row_count: int
    size_bytes: int
    minima: dict[str, str | int] = field(default_factory=dict)
    maxima: dict[str, str | int] = field(default_factory=dict)
    null_counts: dict[str, int] = field(default_factory=dict)

    def stats_json(self) -> str:
        """The statistics as Delta keeps them in the log."""
        return json.dumps(
            {
                "numRecords": self.row_count,
                "minValues": self.minima,
                "maxValues": self.maxima,
                "nullCount": self.null_counts,
            },
            separators=(",", ":"),
        )

    def lake_file(self) -> LakeFile:
        """The file as a read sees it while it waits on the local disk."""
        return LakeFile(
            path=str(self.path),
            partition=self.partition,
            row_count=self.row_count,
            size_bytes=self.size_bytes,
            metric_min=str(self.minima["metric"]),
            metric_max=str(self.maxima["metric"]),
            timestamp_ms_min=int(self.minima.get("timestamp_ms", 0)),
            timestamp_ms_max=int(self.maxima.get("timestamp_ms", 0)),
        )
