"""What is due: one case each; any order of events is in tests/property/test_plan.py."""

import pickle

import pytest

from bridge.lake.schema import SAMPLES
from downsample.jobs import (
    CompactMetadata,
    CompactSeries,
    MergeLate,
    MergeMonth,
    Plan,
    RollSpan,
)
from downsample.names import day_span, hour_span, month_span
from downsample.plan import plan
from downsample.settings import DownsampleSettings, RetentionSettings, RetentionTime
from tests.oracle.dictionary_lake import DictionaryLake

MINUTE_MS, HOUR_MS, DAY_MS = 60_000, 3_600_000, 86_400_000
MIDNIGHT = 1_796_083_200_000  # 2026-12-01T00:00Z
DAY = MIDNIGHT // DAY_MS
NOON = MIDNIGHT + 12 * HOUR_MS
FOR_EVER = RetentionSettings(RetentionTime(0), RetentionTime(0), RetentionTime(0))


def planned(
    lake: DictionaryLake, *, broken: tuple[str, ...] = (), retention: RetentionSettings = FOR_EVER
) -> Plan:
    return plan(lake.view(), lake.now_ms, DownsampleSettings(), broken, retention=retention)


def rolled(made: Plan) -> list[RollSpan]:
    return [job for job in made.jobs if isinstance(job, RollSpan)]


def settle(lake: DictionaryLake, retention: RetentionSettings = FOR_EVER) -> None:
    while jobs := planned(lake, retention=retention).jobs:
        for job in jobs:
            lake.run(job)


def test_an_hour_is_due_when_its_delay_is_over() -> None:
    lake = DictionaryLake(NOON + 14 * MINUTE_MS)
    lake.write([NOON])
    assert not rolled(planned(lake))
    lake.now_ms += MINUTE_MS
    (job,) = rolled(planned(lake))
    assert job.span == hour_span(NOON // HOUR_MS - 1)
    assert job.reason == "one flush file in it, not rolled up yet"


def test_a_flush_around_the_full_hour_is_left_to_the_next_hour_in_part() -> None:
    lake = DictionaryLake(NOON + 15 * MINUTE_MS)
    lake.write([NOON - 30_000, NOON + 30_000])
    (job,) = rolled(planned(lake))
    assert [(side.after_ms, side.until_ms) for side in job.remainders] == [(NOON, NOON + 30_000)]
    lake.run(job)
    assert lake.flushed().total() == 1


def test_a_closed_day_is_one_span_and_replaces_its_hours() -> None:
    lake = DictionaryLake(NOON + HOUR_MS)
    lake.write([NOON - HOUR_MS, NOON])
    settle(lake)
    lake.now_ms = MIDNIGHT + DAY_MS + 15 * MINUTE_MS
    (job,) = rolled(planned(lake))
    assert job.span == day_span(DAY)
    assert len(job.raw) == len(job.rollups_5m) == len(job.rollups_1h) == 2
    assert "2 parts" in job.reason


def test_jobs_share_no_file_and_the_neighbour_waits_for_the_next_plan() -> None:
    lake = DictionaryLake(NOON + HOUR_MS)
    lake.write([NOON - HOUR_MS, NOON])
    made = planned(lake)
    assert len(rolled(made)) == 1
    (waiting,) = [item for item in made.waiting if item.title.startswith("roll up")]
    assert waiting.due_ms == lake.now_ms


def test_late_files_wait_until_an_hour_after_the_last_time() -> None:
    lake = DictionaryLake(NOON)
    lake.write([MIDNIGHT])
    settle(lake)
    lake.now_ms += 59 * MINUTE_MS
    lake.write([MIDNIGHT - 1])
    made = planned(lake)
    assert not rolled(made)
    assert NOON + HOUR_MS in [item.due_ms for item in made.waiting]
    lake.now_ms += MINUTE_MS
    assert [job.reason for job in rolled(planned(lake))] == ["one flush file came late"]


@pytest.mark.parametrize("error_ms", [-400 * DAY_MS, 400 * DAY_MS])
def test_a_clock_that_is_far_off_does_not_wait_for_ever(error_ms: int) -> None:
    lake = DictionaryLake(NOON)
    lake.write([MIDNIGHT])
    lake.now_ms += error_ms  # of whoever commits
    settle_ms, lake.now_ms = lake.now_ms, NOON
    for job in planned(lake).jobs:
        lake.now_ms = settle_ms
        lake.run(job)
    lake.now_ms = NOON
    lake.write([MIDNIGHT - 1])
    assert rolled(planned(lake))


def test_a_broken_flush_is_left_out_and_everything_else_goes_on() -> None:
    lake = DictionaryLake(NOON)
    (broken,) = lake.write([MIDNIGHT])
    lake.write([MIDNIGHT - HOUR_MS])
    made = planned(lake, broken=(broken.key,))
    (job,) = rolled(made)
    assert broken not in job.raw
    assert [item.title for item in made.blocked] == [broken.key]


def test_a_broken_compacted_file_stops_its_own_hour_alone() -> None:
    lake = DictionaryLake(NOON)
    lake.write([MIDNIGHT + HOUR_MS])
    settle(lake)
    (broken,) = [
        file.key for file in lake.files.values() if file.kind == "c" and file.table == SAMPLES
    ]
    lake.now_ms = MIDNIGHT + 2 * DAY_MS
    lake.write([MIDNIGHT + HOUR_MS])
    lake.write([MIDNIGHT + 2 * HOUR_MS])
    made = planned(lake, broken=(broken,))
    assert [job.span for job in rolled(made)] == [hour_span(MIDNIGHT // HOUR_MS + 1)]
    assert {item.cause for item in made.blocked} == {"quarantined"}


def test_rollups_that_cannot_be_read_are_made_again_from_raw() -> None:
    lake = DictionaryLake(NOON)
    lake.write([MIDNIGHT])
    settle(lake)
    lake.now_ms += 2 * HOUR_MS
    assert not planned(lake).jobs
    broken = tuple(file.key for file in lake.files.values() if file.kind == "r")
    (job,) = rolled(planned(lake, broken=broken))
    assert job.reason == "its rollups are missing"


def test_a_closed_month_is_merged_when_it_has_been_quiet_for_an_hour() -> None:
    lake = DictionaryLake(NOON)
    lake.write([MIDNIGHT, MIDNIGHT - DAY_MS])
    settle(lake)
    assert not planned(lake).jobs
    lake.now_ms += HOUR_MS
    (job,) = planned(lake).jobs
    assert isinstance(job, MergeMonth)
    assert job.span == month_span("2026-11")


def test_a_late_day_of_a_merged_month_carries_the_rest_of_the_month() -> None:
    lake = DictionaryLake(NOON)
    lake.write([MIDNIGHT, MIDNIGHT - DAY_MS])
    settle(lake)
    lake.now_ms += HOUR_MS
    settle(lake)
    lake.now_ms += HOUR_MS
    lake.write([MIDNIGHT - HOUR_MS])
    (job,) = rolled(planned(lake))
    assert len(job.carried_1h) == 1
    assert (job.span, job.span_1h) == (day_span(DAY - 1), month_span("2026-11"))


def test_late_samples_over_dropped_raw_are_merged() -> None:  # DOWN-5
    short = RetentionSettings(RetentionTime(86_400), RetentionTime(0), RetentionTime(0))
    lake = DictionaryLake(NOON)
    lake.write([NOON, MIDNIGHT - 5 * DAY_MS])
    settle(lake, short)
    lake.now_ms += 2 * HOUR_MS
    late = lake.write([MIDNIGHT - 5 * DAY_MS - 1])
    (job,) = [job for job in planned(lake, retention=short).jobs if isinstance(job, MergeLate)]
    assert list(job.late) == late
    assert job.days[0].rollups_5m
    assert job.rollups_1h


def test_series_and_metadata_are_compacted_when_they_are_many() -> None:
    lake = DictionaryLake(NOON)
    for _ in range(8):
        lake.write([NOON])
    assert not planned(lake).jobs
    lake.write([NOON])
    kinds = [type(job) for job in planned(lake).jobs]
    assert kinds == [CompactSeries, CompactMetadata]


def test_every_job_can_be_sent_to_another_process() -> None:
    lake = DictionaryLake(NOON)
    for _ in range(9):
        lake.write([NOON - HOUR_MS, MIDNIGHT])
    jobs = planned(lake).jobs
    assert pickle.loads(pickle.dumps(jobs)) == jobs
