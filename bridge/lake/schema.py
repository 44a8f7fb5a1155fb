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
SAMPLES_5M = "samples_5m"
SAMPLES_1H = "samples_1h"
SERIES = "series"
METADATA = "metadata"

RAW_DROPPED_ID = "raw-dropped"
"""Application transaction of `samples`: the last day whose raw samples were dropped, as its number
since 1970."""

_EPOCH = date(1970, 1, 1)


@dataclass(frozen=True, slots=True)
class TableSchema:
    """One table of the lake.

    Attributes:
        name: folder below `lake.uri`.
        columns: Arrow schema of its Parquet files.
        partition: Arrow field that stands in the names of the folders; None if the table has none.
        time_column: by which rows fall into partitions and files are left out; empty if none.
    """

    name: str
    columns: Any
    partition: Any
    time_column: str = ""

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


_DATE = pa.field("date", pa.date32(), nullable=False)
_MONTH = pa.field("month", pa.string(), nullable=False)

# A window that holds a stale marker alone has count and resets 0 and nulls in the others.
_ROLLUP_COLUMNS = pa.schema(
    [
        pa.field("metric", pa.string(), nullable=False),
        pa.field("series_id", pa.int64(), nullable=False),
        pa.field("window_end_ms", pa.int64(), nullable=False),
        pa.field("count", pa.int32(), nullable=False),
        pa.field("sum", pa.float64()),
        pa.field("min", pa.float64()),
        pa.field("max", pa.float64()),
        pa.field("first", pa.float64()),
        pa.field("last", pa.float64()),
        pa.field("first_timestamp_ms", pa.int64()),
        pa.field("last_timestamp_ms", pa.int64()),
        pa.field("reset_drop", pa.float64()),
        pa.field("resets", pa.int32(), nullable=False),
        pa.field("stale_timestamp_ms", pa.int64()),
    ]
)

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
        _MONTH,
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
        _DATE,
        "timestamp_ms",
    ),
    SAMPLES_5M: TableSchema(SAMPLES_5M, _ROLLUP_COLUMNS, _DATE, "window_end_ms"),
    SAMPLES_1H: TableSchema(SAMPLES_1H, _ROLLUP_COLUMNS, _MONTH, "window_end_ms"),
}

FLUSHED = (SERIES, METADATA, SAMPLES)
"""What receivers make and commit, in this order: what others need comes first (LAKE-3). The rollups
are made by the maintenance."""

SNAPSHOT_ORDER = (SAMPLES, SAMPLES_5M, SAMPLES_1H, METADATA, SERIES)
"""In which readers open the tables: rows are handed on to tables that stand behind (LAKE-3,
LAKE-16)."""

MAINTENANCE_ORDER = (SAMPLES_5M, SAMPLES_1H, SAMPLES, METADATA, SERIES)
"""In which the maintenance opens the tables, and commits what it makes of a span: rollups before
the samples that they are made of (LAKE-17)."""


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
