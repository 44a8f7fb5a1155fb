import datetime as dt
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.lake.schema import DAY_MS, SAMPLES, SERIES, TABLES, date_of
from bridge.lake.snapshot import LakeFile, Snapshot, TableFiles
from tests.unit.lake.made_files import DAY_START_MS

Bounds = tuple[str, str, int, int]
"""metric_min, metric_max, timestamp_ms_min, timestamp_ms_max of a file."""


def day(text: str) -> dt.date:
    return dt.date.fromisoformat(text)


def samples_files(bounds: list[Bounds | None]) -> TableFiles:
    """Files as delta-rs describes them; None for a file without statistics."""
    dates = [date_of(bound[2]) if bound else "2026-11-21" for bound in bounds]
    known = [bound or (None, None, None, None) for bound in bounds]
    actions = pa.table(
        {
            "path": [f"date={date}/f-{number}.parquet" for number, date in enumerate(dates)],
            "size_bytes": pa.array([1000 + number for number in range(len(bounds))], pa.int64()),
            "num_records": pa.array([10 if bound else None for bound in bounds], pa.int64()),
            "min.metric": pa.array([bound[0] for bound in known], pa.string()),
            "max.metric": pa.array([bound[1] for bound in known], pa.string()),
            "min.timestamp_ms": pa.array([bound[2] for bound in known], pa.int64()),
            "max.timestamp_ms": pa.array([bound[3] for bound in known], pa.int64()),
            "partition.date": pa.array([day(date) for date in dates], pa.date32()),
        }
    )
    return TableFiles.from_actions("/lake/samples/", actions, TABLES[SAMPLES].partition)


def series_files(files: list[tuple[str, str, str]]) -> TableFiles:
    actions = pa.table(
        {
            "path": [f"month={month}/f-{number}" for number, (month, *_) in enumerate(files)],
            "size_bytes": pa.array([1] * len(files), pa.int64()),
            "num_records": pa.array([1] * len(files), pa.int64()),
            "min.metric": pa.array([metric_min for _, metric_min, _ in files], pa.string()),
            "max.metric": pa.array([metric_max for _, _, metric_max in files], pa.string()),
            "partition.month": pa.array([month for month, *_ in files], pa.string()),
        }
    )
    return TableFiles.from_actions("/lake/series/", actions, TABLES[SERIES].partition)


def snapshot(samples: TableFiles | None = None, series: TableFiles | None = None) -> Snapshot:
    empty: Any = TableFiles.from_actions("/lake/metadata/", pa.table({"path": []}), None)
    return Snapshot(samples or samples_files([]), series or series_files([]), empty)


metrics = st.text(st.characters(codec="utf-8"), min_size=1, max_size=3) | st.sampled_from(
    ["a", "b", "up", "up\x00"]
)
times = st.integers(DAY_START_MS - 2 * DAY_MS, DAY_START_MS + 2 * DAY_MS)
bounds_strategy = st.tuples(st.tuples(metrics, metrics), st.tuples(times, times)).map(
    lambda pair: (*sorted(pair[0]), *sorted(pair[1]))
)


@given(
    bounds=st.lists(bounds_strategy | st.none(), max_size=8),
    metric=metrics | st.none(),
    after_ms=times,
    until_ms=times,
)
def test_exactly_the_files_that_can_match_are_listed(
    bounds: list[Bounds | None], metric: str | None, after_ms: int, until_ms: int
) -> None:
    """LAKE-7, against the obvious loop."""

    def can_match(bound: Bounds | None) -> bool:
        if until_ms <= after_ms:
            return False
        if bound is None:
            return True
        metric_min, metric_max, oldest_ms, newest_ms = bound
        return (
            (metric is None or metric_min <= metric <= metric_max)
            and newest_ms > after_ms
            and oldest_ms <= until_ms
        )

    found = snapshot(samples_files(bounds)).sample_files(metric, after_ms, until_ms)
    numbers = sorted(int(file.path.split("f-")[1].split(".")[0]) for file in found)
    assert numbers == [number for number, bound in enumerate(bounds) if can_match(bound)]
    assert found == sorted(found, key=lambda file: (file.partition, file.timestamp_ms_min))


def test_a_listed_file_tells_what_it_can_hold() -> None:
    files = samples_files([("a", "up", DAY_START_MS + 1, DAY_START_MS + 9), None])
    assert snapshot(files).sample_files("b", 0, 1 << 60) == [
        LakeFile(
            path="/lake/samples/date=2026-11-21/f-1.parquet",
            partition="2026-11-21",
            row_count=0,
            size_bytes=1001,
        ),
        LakeFile(
            path="/lake/samples/date=2026-11-21/f-0.parquet",
            partition="2026-11-21",
            row_count=10,
            size_bytes=1000,
            metric_min="a",
            metric_max="up",
            timestamp_ms_min=DAY_START_MS + 1,
            timestamp_ms_max=DAY_START_MS + 9,
        ),
    ]


@pytest.mark.parametrize(
    ("after_ms", "until_ms", "count"),
    [
        (DAY_START_MS, DAY_START_MS + 1, 1),
        (DAY_START_MS + 9, DAY_START_MS + 20, 0),
        (DAY_START_MS + 8, DAY_START_MS + 20, 1),
        (DAY_START_MS - 9, DAY_START_MS, 0),
        (-(1 << 63), (1 << 63) - 1, 1),
        (5, 5, 0),
        (9, 5, 0),
    ],
)
def test_ranges_are_open_on_the_left_and_closed_on_the_right(
    after_ms: int, until_ms: int, count: int
) -> None:
    files = samples_files([("up", "up", DAY_START_MS + 1, DAY_START_MS + 9)])
    assert len(snapshot(files).sample_files("up", after_ms, until_ms)) == count


def test_series_are_found_by_month_and_metric() -> None:
    files = series_files(
        [("2026-09", "a", "z"), ("2026-10", "a", "c"), ("2026-11", "u", "w"), ("2026-11", "a", "b")]
    )
    lake = snapshot(series=files)
    assert lake.months() == ["2026-09", "2026-10", "2026-11"]
    months = lake.months()[1:]
    paths = [file.path for file in lake.series_files("b", months)]
    assert paths == ["/lake/series/month=2026-10/f-1", "/lake/series/month=2026-11/f-3"]
    assert len(lake.series_files(None, months)) == 3
    assert lake.series_files("b", []) == []


def test_an_empty_lake_lists_nothing() -> None:
    lake = snapshot()
    assert lake.sample_files(None, 0, 1 << 60) == []
    assert lake.series_files(None, lake.months()) == []
    assert lake.metadata_files() == []
    assert lake.positions == {}
