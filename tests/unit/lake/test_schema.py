from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.lake.schema import (
    DAY_MS,
    FLUSHED,
    MAINTENANCE_ORDER,
    SAMPLES,
    SAMPLES_1H,
    SAMPLES_5M,
    SERIES,
    SNAPSHOT_ORDER,
    TABLES,
    date_of,
    day_of,
    month_of,
)
from bridge.wire.decoded import TIMESTAMP_MS_MAX, TIMESTAMP_MS_MIN

MIDNIGHT_MS = 1_795_219_200_000  # 2026-11-21T00:00:00Z


@pytest.mark.parametrize(
    ("timestamp_ms", "date"),
    [
        (MIDNIGHT_MS - 1, "2026-11-20"),
        (MIDNIGHT_MS, "2026-11-20"),
        (MIDNIGHT_MS + 1, "2026-11-21"),
        (MIDNIGHT_MS + DAY_MS, "2026-11-21"),
        (0, "1969-12-31"),
        (1, "1970-01-01"),
        (TIMESTAMP_MS_MIN, "0001-01-01"),
        (TIMESTAMP_MS_MAX, "9999-12-31"),
    ],
)
def test_a_sample_at_midnight_belongs_to_the_day_that_ends(timestamp_ms: int, date: str) -> None:
    """LAKE-2."""
    assert date_of(timestamp_ms) == date
    assert month_of(timestamp_ms) == date[:7]


@given(st.integers(TIMESTAMP_MS_MIN, TIMESTAMP_MS_MAX))
def test_days_agree_with_the_calendar(timestamp_ms: int) -> None:
    """LAKE-2."""
    instant = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=timestamp_ms - 1)
    assert date_of(timestamp_ms) == instant.date().isoformat()
    assert day_of(timestamp_ms) * DAY_MS < timestamp_ms <= (day_of(timestamp_ms) + 1) * DAY_MS


@given(st.integers(-(1 << 63), (1 << 63) - 1))
def test_any_number_has_a_date_and_later_ones_no_earlier_date(timestamp_ms: int) -> None:
    assert date_of(timestamp_ms - 1) <= date_of(timestamp_ms)


def test_files_lie_in_the_folder_of_their_partition() -> None:
    folders = {name: table.folder_of("x") for name, table in TABLES.items()}
    assert folders == {
        "series": "series/month=x/",
        "metadata": "metadata/",
        "samples": "samples/date=x/",
        "samples_5m": "samples_5m/date=x/",
        "samples_1h": "samples_1h/month=x/",
    }


def test_tables_are_committed_in_the_order_that_their_readers_need() -> None:
    """LAKE-3, LAKE-16, LAKE-17: what is handed on goes to a table that is opened later."""
    assert set(SNAPSHOT_ORDER) == set(MAINTENANCE_ORDER) == set(TABLES)
    assert FLUSHED[-1] == SAMPLES
    assert SNAPSHOT_ORDER[-1] == SERIES
    for order, first in ((SNAPSHOT_ORDER, SAMPLES), (MAINTENANCE_ORDER, SAMPLES_5M)):
        rows = [name for name in order if name in {SAMPLES, SAMPLES_5M, SAMPLES_1H}]
        assert rows[0] == first
        assert rows.index(SAMPLES_5M) < rows.index(SAMPLES_1H)
    assert MAINTENANCE_ORDER.index(SAMPLES) > MAINTENANCE_ORDER.index(SAMPLES_1H)


def test_a_table_with_times_prunes_by_one_of_its_columns() -> None:
    for schema in TABLES.values():
        assert not schema.time_column or schema.time_column in schema.columns.names
