"""What may go, and what keeps it."""

from bridge.lake.schema import SAMPLES, SAMPLES_5M
from downsample.jobs import DropDay, DropMonth, Plan
from downsample.plan import plan
from downsample.settings import DownsampleSettings, RetentionSettings, RetentionTime
from tests.oracle.dictionary_lake import DictionaryLake

HOUR_MS, DAY_MS, DAY_S = 3_600_000, 86_400_000, 86_400
MIDNIGHT = 1_796_083_200_000  # 2026-12-01T00:00Z
DAY = MIDNIGHT // DAY_MS
SHORT = RetentionSettings(
    RetentionTime(2 * DAY_S), RetentionTime(5 * DAY_S), RetentionTime(40 * DAY_S)
)


def planned(lake: DictionaryLake, *broken: str) -> Plan:
    return plan(lake.view(), lake.now_ms, DownsampleSettings(), broken, retention=SHORT)


def dropped(made: Plan, table: str) -> list[str]:
    return [job.partition for job in made.jobs if isinstance(job, DropDay) and job.table == table]


def lake_of(*ages_days: int) -> DictionaryLake:
    """A sample now and one at the end of each of these days before; rolled up, nothing dropped."""
    lake = DictionaryLake(MIDNIGHT + 12 * HOUR_MS)
    lake.write([lake.now_ms, *(MIDNIGHT - age * DAY_MS for age in ages_days)])
    for job in planned(lake).jobs:
        lake.run(job)
    return lake


def test_a_day_goes_when_its_end_is_older_than_the_retention() -> None:
    made = planned(lake_of(0, 1, 2, 3))
    assert dropped(made, SAMPLES) == ["2026-11-27", "2026-11-28"]
    assert [job.transactions for job in made.jobs if isinstance(job, DropDay)] == [
        {"raw-dropped": DAY - 4},
        {"raw-dropped": DAY - 3},
    ]


def test_raw_stays_while_a_flush_is_left_in_its_day() -> None:  # DOWN-7
    lake = lake_of(3)
    lake.write([MIDNIGHT - 3 * DAY_MS])
    assert not dropped(planned(lake), SAMPLES)


def test_raw_stays_where_its_rollups_are_missing_and_is_rolled_up_instead() -> None:  # DOWN-7
    lake = lake_of(3)
    for key in [key for key, file in lake.files.items() if file.table == SAMPLES_5M]:
        del lake.files[key]
    lake.now_ms += 2 * HOUR_MS
    made = planned(lake)
    assert not dropped(made, SAMPLES)
    assert "its rollups are missing" in [job.reason for job in made.jobs]


def test_a_broken_flush_keeps_its_own_day_alone() -> None:
    lake = lake_of(3, 4)
    (broken,) = lake.write([MIDNIGHT - 4 * DAY_MS])
    made = planned(lake, broken.key)
    assert dropped(made, SAMPLES) == ["2026-11-27"]
    assert {item.cause for item in made.blocked} == {"quarantined"}


def test_a_later_day_waits_for_flushes_that_could_not_be_told_from_late_ones() -> None:
    lake = lake_of(3)
    lake.write([MIDNIGHT - 4 * DAY_MS])
    assert not dropped(planned(lake), SAMPLES)


def test_rows_of_5m_go_after_the_raw_samples_and_hours_after_both() -> None:  # DOWN-7
    lake = lake_of(50)
    order = []
    while jobs := planned(lake).jobs:
        for job in jobs:
            lake.run(job)
            if isinstance(job, DropDay | DropMonth):
                order.append(job.title)
    assert (
        order
        == [
            "drop samples of 2026-10-11",
            "drop samples_5m of 2026-10-11",
            "drop samples_1h of 2026-10",
        ][: len(order)]
    )
    assert len(order) == 2  # October ended less than 40 days ago
    lake.now_ms += 40 * DAY_MS
    lake.write([lake.now_ms])
    assert [job.month for job in planned(lake).jobs if isinstance(job, DropMonth)] == ["2026-10"]


def test_a_clock_that_is_ahead_expires_nothing() -> None:  # DOWN-8
    lake = lake_of(1)
    lake.now_ms += 400 * DAY_MS
    assert not dropped(planned(lake), SAMPLES)


def test_a_sample_of_the_future_expires_nothing() -> None:  # DOWN-8
    lake = lake_of(1)
    lake.write([lake.now_ms + 400 * DAY_MS])
    made = planned(lake)
    assert not dropped(made, SAMPLES)
    assert made.retention_clock_ms == lake.now_ms


def test_an_empty_lake_has_nothing_to_expire() -> None:
    assert planned(DictionaryLake(MIDNIGHT)) == Plan(())
