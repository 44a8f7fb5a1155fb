"""The columns of every table, and which day or month a row belongs to.

Days and months are open on the left and closed on the right, as PromQL's ranges are: a sample at
midnight sharp belongs to the day that ends there, so its partition is that of `timestamp_ms - 1`
(LAKE-2).

A table says in its properties which format it is written in. A process that finds a newer format
than it knows does not touch the table (LAKE-9).
"""

from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import pyarrow as pa

FORMAT_VERSION = 1
FORMAT_PROPERTY = "prombridge.formatVersion"

DAY_MS = 86_400_000
DAY_MIN, DAY_MAX = -719_162, 2_932_896
"""0001-01-01 and 9999-12-31: what a date can name."""

SAMPLES = "samples"
SERIES = "series"
METADATA = "metadata"

_EPOCH = date(1970, 1, 1)


@dataclass(frozen=True, slots=True)
class TableSchema:
    """One table of the lake.

    Attributes:
        name: folder below `lake.uri`.
        columns: Arrow schema of its Parquet files.
        partition: Arrow field that stands in the names of the folders; None if the table has none.
    """

    name: str
    columns: Any
    partition: Any

    def full(self) -> Any:
        """The Arrow schema as readers of the table see it: columns and partition."""
        if self.partition is None:
            return self.columns
        return self.columns.append(self.partition)

    def folder_of(self, partition: str) -> str:
        """Where files of a partition lie, `/` at its end: `samples/date=2026-11-21/`."""
        if self.partition is None:
            return f"{self.name}/"
        return f"{self.name}/{self.partition.name}={partition}/"


# `series` rows have labels in canonical order, `__name__` among them.
TABLES = {
    SERIES: TableSchema(
        SERIES,
        pa.schema(
            [
                pa.field("metric", pa.string(), nullable=False),
                pa.field("series_id", pa.int64(), nullable=False),
                pa.field("labels", pa.map_(pa.string(), pa.string()), nullable=False),
            ]
        ),
        pa.field("month", pa.string(), nullable=False),
    ),
    METADATA: TableSchema(
        METADATA,
        pa.schema(
            [
                pa.field("metric", pa.string(), nullable=False),
                pa.field("type", pa.string(), nullable=False),
                pa.field("help", pa.string(), nullable=False),
                pa.field("unit", pa.string(), nullable=False),
                pa.field("seen_ms", pa.int64(), nullable=False),
            ]
        ),
        None,
    ),
    SAMPLES: TableSchema(
        SAMPLES,
        pa.schema(
            [
                pa.field("metric", pa.string(), nullable=False),
                pa.field("series_id", pa.int64(), nullable=False),
                pa.field("timestamp_ms", pa.int64(), nullable=False),
                pa.field("value", pa.float64(), nullable=False),
                pa.field("start_timestamp_ms", pa.int64()),
                pa.field("replica", pa.string()),
            ]
        ),
        pa.field("date", pa.date32(), nullable=False),
    ),
}
"""In the order in which a flush commits them: what others need comes first (LAKE-3)."""


def date_of(timestamp_ms: int) -> str:
    """The day of a sample, `2026-11-21`."""
    return date_of_day(day_of(timestamp_ms))


def day_of(timestamp_ms: int) -> int:
    """The day of a sample as its number since 1970-01-01."""
    return (timestamp_ms - 1) // DAY_MS


def date_of_day(day: int) -> str:
    """`2026-11-21` of a day's number; what no date can name is the first or the last of all."""
    return (_EPOCH + timedelta(days=min(max(day, DAY_MIN), DAY_MAX))).isoformat()


def month_of(timestamp_ms: int) -> str:
    """The month of a sample, `2026-11`."""
    return date_of(timestamp_ms)[:7]
