"""Spans of maintenance, and the names of the files that maintenance writes.

    c-20261121T13-20261121T14-<random, 16 hex>-<number>.parquet    compacted rows of (13:00, 14:00]
    r-20261121T00-20261122T00-<random, 16 hex>-<number>.parquet    rollups of that day

A span is one hour, one day or one month, open on the left and closed on the right. What a file
covers is read from its name (`bridge.lake.stored_file`), so the name of a file is a promise: every
row of the table that falls into the span, and came before the file, is in the files of that name,
the random part included; the number tells them apart.
"""

import calendar
import datetime as dt
from typing import Literal

from bridge.lake.schema import DAY_MS, date_of_day
from bridge.model.time_range import AFTER_MS_MIN, UNTIL_MS_MAX, TimeRange

HOUR_MS = 3_600_000

EVER = TimeRange(AFTER_MS_MIN, UNTIL_MS_MAX)
"""The span of tables without partitions."""

_EPOCH = dt.date(1970, 1, 1)


def hour_span(hour: int) -> TimeRange:
    """The hour of a number, counted from 1970."""
    return TimeRange(hour * HOUR_MS, (hour + 1) * HOUR_MS)


def day_span(day: int) -> TimeRange:
    """The day of a number, counted from 1970-01-01."""
    return TimeRange(day * DAY_MS, (day + 1) * DAY_MS)


def month_span(month: str) -> TimeRange:
    """The month `2026-11`."""
    days = days_of_month(month)
    return TimeRange(days.start * DAY_MS, days.stop * DAY_MS)


def days_of_month(month: str) -> range:
    """The numbers of the days of `2026-11`."""
    first = dt.date.fromisoformat(f"{month}-01")
    start = (first - _EPOCH).days
    return range(start, start + calendar.monthrange(first.year, first.month)[1])


def day_of_partition(partition: str) -> int:
    """The number of the day `2026-11-21`."""
    return (dt.date.fromisoformat(partition) - _EPOCH).days


def month_of_day(day: int) -> str:
    """The month of a day's number, `2026-11`."""
    return date_of_day(day)[:7]


def hour_text(instant_ms: int) -> str:
    """`20261121T13`; the end of 9999 is `100000101T00`.

    Args:
        instant_ms: Unix ms, a whole hour.
    """
    day, ms = divmod(instant_ms, DAY_MS)
    hour, rest = divmod(ms, HOUR_MS)
    if rest:
        raise ValueError(f"{instant_ms} is no whole hour")
    if instant_ms == UNTIL_MS_MAX:
        return "100000101T00"
    return f"{date_of_day(day).replace('-', '')}T{hour:02}"


def span_text(span: TimeRange) -> str:
    """`20261121T13-20261121T14`."""
    return f"{hour_text(span.after_ms)}-{hour_text(span.until_ms)}"


def set_name(kind: Literal["c", "r"], span: TimeRange, token: str) -> str:
    """What the names of all files of one job and table begin with.

    Args:
        kind: `c` for compacted rows, `r` for rollups.
        span: what they cover.
        token: 16 hex digits, new for each job and slice.
    """
    return f"{kind}-{span_text(span)}-{token}"


def file_name(kind: Literal["c", "r"], span: TimeRange, token: str, number: int) -> str:
    """The name of one file of a set, see `set_name`."""
    return f"{set_name(kind, span, token)}-{number}.parquet"


def set_of(name: str) -> str:
    """The set that a file of maintenance belongs to: its name without the number."""
    return name.rpartition("-")[0]
