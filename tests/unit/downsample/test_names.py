"""Spans and file names."""

import pytest

from bridge.lake.stored_file import kind_and_span
from bridge.model.time_range import AFTER_MS_MIN, UNTIL_MS_MAX, TimeRange
from downsample.names import (
    EVER,
    day_of_partition,
    day_span,
    days_of_month,
    file_name,
    hour_span,
    month_of_day,
    month_span,
    set_name,
    set_of,
)

DAY_MS = 86_400_000
TOKEN = "00ff" * 4


@pytest.mark.parametrize(
    ("span", "text"),
    [
        (hour_span(0), "19700101T00-19700101T01"),
        (hour_span(-1), "19691231T23-19700101T00"),
        (day_span(20_778), "20261121T00-20261122T00"),
        (month_span("2024-02"), "20240201T00-20240301T00"),
        (month_span("0001-01"), "00010101T00-00010201T00"),
        (month_span("9999-12"), "99991201T00-100000101T00"),
        (EVER, "00010101T00-100000101T00"),
    ],
)
def test_the_lake_reads_the_span_that_a_name_says(span: TimeRange, text: str) -> None:
    assert file_name("c", span, TOKEN, 3) == f"c-{text}-{TOKEN}-3.parquet"
    assert kind_and_span(file_name("c", span, TOKEN, 3)) == ("c", span)
    assert kind_and_span(file_name("r", span, TOKEN, 0)) == ("r", span)


def test_a_span_that_is_no_whole_hours_has_no_name() -> None:
    with pytest.raises(ValueError, match="no whole hour"):
        file_name("c", TimeRange(0, 1), TOKEN, 0)


def test_files_of_one_job_are_one_set() -> None:
    names = [file_name("r", day_span(0), TOKEN, number) for number in (0, 12)]
    assert {set_of(name) for name in names} == {set_name("r", day_span(0), TOKEN)}


@pytest.mark.parametrize(("month", "count"), [("2026-11", 30), ("2024-02", 29), ("9999-12", 31)])
def test_days_of_a_month_are_all_days_of_it(month: str, count: int) -> None:
    days = days_of_month(month)
    assert len(days) == count
    assert {month_of_day(day) for day in days} == {month}
    assert month_span(month) == TimeRange(days.start * DAY_MS, days.stop * DAY_MS)
    assert day_of_partition(f"{month}-01") == days.start


def test_months_meet_without_a_gap() -> None:
    assert month_span("2026-11").until_ms == month_span("2026-12").after_ms
    assert month_span("0001-01").after_ms == AFTER_MS_MIN
    assert month_span("9999-12").until_ms == UNTIL_MS_MAX
