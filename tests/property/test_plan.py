"""The planner against a lake that is a dictionary: plan, do the jobs, again, whatever happens.

Every job is done as its docstring says, commit by commit; nothing of a rollup is computed, only
which samples are in which file (tests/oracle/dictionary_lake.py).
"""

from collections.abc import Callable
from random import Random

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from bridge.lake.schema import SAMPLES, SAMPLES_5M, day_of, month_of
from bridge.lake.stored_file import StoredFile
from downsample.jobs import DropDay, DropMonth, Job, MergeLate, MergeMonth, Plan, RollSpan
from downsample.names import day_of_partition
from downsample.plan import plan
from downsample.settings import DownsampleSettings, RetentionSettings, RetentionTime
from tests.oracle.dictionary_lake import DictionaryLake, Killed

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS
MIDNIGHT = 1_796_083_200_000  # 2026-12-01T00:00Z, the end of a month
LATE_MS = HOUR_MS
MANY = 200
"""Samples beyond which the lake is checked after each plan, not after each job."""

SETTINGS = DownsampleSettings()
FOR_EVER = RetentionSettings(RetentionTime(0), RetentionTime(0), RetentionTime(0))
SHORT = RetentionSettings(
    RetentionTime(3 * 86_400), RetentionTime(10 * 86_400), RetentionTime(45 * 86_400)
)


def sorted_as_planned(_jobs: list[Job]) -> None:
    """Leaves jobs in the order of the plan."""


class Maintainer:
    """A downsampler over a dictionary lake, with all that a test wants to know of it."""

    def __init__(self, lake: DictionaryLake, retention: RetentionSettings) -> None:
        self.lake = lake
        self.retention = retention
        self.quarantined: set[str] = set()
        self.dropped_5m: set[int] = set()
        self.dropped_1h: set[str] = set()
        self.done: list[Job] = []

    def plan(self) -> Plan:
        made = plan(
            self.lake.view(),
            self.lake.now_ms,
            SETTINGS,
            self.quarantined,
            retention=self.retention,
        )
        self.check_plan(made)
        return made

    def check_plan(self, made: Plan) -> None:
        """Jobs share no file that one of them replaces, and read nothing that is broken."""
        replaced = [file.key for job in made.jobs for file in files_of(job)]
        assert len(replaced) == len(set(replaced)), "a file is planned twice"
        for job in made.jobs:
            assert job.reason
            assert job.title
            if isinstance(job, RollSpan):
                assert not {file.key for file in (*job.raw, *job.carried_1h)} & self.quarantined
                stored = [*job.raw, *job.rollups_5m, *job.rollups_1h]
                is_made = any(file.span == job.span for file in stored)  # by a clock that was ahead
                assert is_made or self.lake.now_ms >= job.span.until_ms
            elif not isinstance(job, DropDay | DropMonth):
                assert not {file.key for file in files_of(job)} & self.quarantined
            self.check_interval(job)

    def check_interval(self, job: Job) -> None:
        """DOWN-4: what is done is not done again before `late_interval`."""
        if isinstance(job, RollSpan):
            made = [file for file in job.raw if file.span is not None]
            if made and all(file.span == job.span for file in made):
                newest_ms = max(file.modified_ms for file in made)
                assert abs(self.lake.now_ms - newest_ms) >= LATE_MS
        if isinstance(job, MergeLate):
            for day in job.days:
                for file in day.rollups_5m or ():
                    assert abs(self.lake.now_ms - file.modified_ms) >= LATE_MS

    def run(self, job: Job) -> None:
        self.lake.run(job)
        self.done.append(job)
        if isinstance(job, DropDay) and job.table == SAMPLES_5M:
            self.dropped_5m.add(day_of_partition(job.partition))
        if isinstance(job, DropMonth):
            self.dropped_1h.add(job.month)

    def settle(self, shuffle: Callable[[list[Job]], None] = sorted_as_planned) -> int:
        """Plans and works until nothing is due; gives the number of plans with jobs."""
        for count in range(400):
            made = self.plan()
            if not made.jobs:
                return count
            # Dropped days keep their order, before or after anything else.
            drops = [job for job in made.jobs if isinstance(job, DropDay)]
            rest: list[Job] = [job for job in made.jobs if not isinstance(job, DropDay)]
            shuffle(rest)
            for job in [*drops, *rest]:
                self.run(job)
                if len(self.lake.accepted) < MANY:
                    self.check()
            self.check()
        raise AssertionError(f"no end of plans: {self.plan().jobs[:3]}")

    def check(self) -> None:
        self.lake.check(dropped_5m=self.dropped_5m, dropped_1h=self.dropped_1h)

    def check_done(self) -> None:
        """Everything closed is in its rollups, and nothing of it lies in a flush."""
        limit_ms = self.lake.now_ms - 15 * MINUTE_MS
        five_m, one_h = (self.lake.counted(table) for table in ("samples_5m", "samples_1h"))
        flushed = self.lake.flushed()
        for sample in self.lake.accepted:
            if -(-sample[0] // HOUR_MS) * HOUR_MS > limit_ms:
                assert flushed[sample] or one_h[sample] or month_of(sample[0]) in self.dropped_1h
                continue
            assert not flushed[sample]
            assert five_m[sample] or self.lake.is_dropped_5m(day_of(sample[0]), self.dropped_5m)
            assert one_h[sample] or month_of(sample[0]) in self.dropped_1h


def files_of(job: Job) -> list[StoredFile]:
    """Every file that a job replaces."""
    if isinstance(job, RollSpan):
        return [*job.raw, *job.rollups_5m, *job.rollups_1h, *job.carried_1h]
    if isinstance(job, MergeLate):
        stored = [file for day in job.days for file in day.rollups_5m or ()]
        return [*job.late, *stored, *job.rollups_1h]
    return list(job.rollups_1h if isinstance(job, MergeMonth) else job.files)


class Maintenance(RuleBasedStateMachine):
    """Receivers, clocks, kills and broken files in any order.

    `check` and `teardown` ask for DOWN-1, DOWN-2, DOWN-3, DOWN-4, DOWN-5, DOWN-6, DOWN-7, DOWN-8.
    """

    @initialize(
        now_ms=st.sampled_from([MIDNIGHT + 13 * HOUR_MS, MIDNIGHT + 20 * MINUTE_MS, 90 * DAY_MS]),
        retention=st.sampled_from([FOR_EVER, SHORT]),
    )
    def begin(self, now_ms: int, retention: RetentionSettings) -> None:
        self.lake = DictionaryLake(now_ms)
        self.maintainer = Maintainer(self.lake, retention)

    @rule(
        age_min=st.one_of(
            st.integers(-90, 300), st.integers(0, 60 * 24 * 4), st.integers(0, 60 * 24 * 60)
        ),
        steps_ms=st.lists(
            st.sampled_from([0, 1, 60_000, 299_999, HOUR_MS, 5 * HOUR_MS, DAY_MS]),
            min_size=1,
            max_size=5,
        ),
        is_round=st.booleans(),
    )
    def receive(self, age_min: int, steps_ms: list[int], is_round: bool) -> None:
        time_ms = self.lake.now_ms - age_min * MINUTE_MS
        if is_round:
            time_ms = time_ms // HOUR_MS * HOUR_MS
        self.lake.write([time_ms := time_ms + step_ms for step_ms in steps_ms])

    @rule(minutes=st.sampled_from([1, 20, 61, 24 * 60, 3 * 24 * 60]))
    def wait(self, minutes: int) -> None:
        self.lake.now_ms += minutes * MINUTE_MS

    @rule(minutes=st.sampled_from([5, 90, 40 * 60]))
    def put_the_clock_back(self, minutes: int) -> None:
        self.lake.now_ms -= minutes * MINUTE_MS

    @rule(random=st.randoms(use_true_random=False))
    def maintain(self, random: Random) -> None:
        self.maintainer.settle(random.shuffle)

    @rule()
    def do_one_plan(self) -> None:
        for job in self.maintainer.plan().jobs:
            self.maintainer.run(job)

    @rule(commits=st.integers(0, 12))
    def be_killed(self, commits: int) -> None:
        self.lake.kill_after = commits
        try:
            self.maintainer.settle()
        except Killed:
            pass
        finally:
            self.lake.kill_after = None

    @precondition(lambda self: self.lake.files)
    @rule(data=st.data())
    def break_a_file(self, data: st.DataObject) -> None:
        self.maintainer.quarantined.add(data.draw(st.sampled_from(sorted(self.lake.files))))

    @rule()
    def mend_all_files(self) -> None:
        self.maintainer.quarantined.clear()

    @invariant()
    def nothing_is_lost_or_doubled(self) -> None:
        if hasattr(self, "lake"):
            self.maintainer.check()

    def teardown(self) -> None:
        if not hasattr(self, "lake"):
            return
        self.maintainer.quarantined.clear()
        for _ in range(10):  # a month may end meanwhile
            self.maintainer.settle()
            made = self.maintainer.plan()
            if not made.waiting:
                break
            self.lake.now_ms += LATE_MS
        assert made.jobs == ()
        assert made.waiting == ()
        assert made.blocked == ()
        self.maintainer.check_done()


TestMaintenance = Maintenance.TestCase
TestMaintenance.settings = settings(
    max_examples=120,
    stateful_step_count=18,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)


def test_two_months_end_in_days_and_months_of_one_set_each() -> None:
    lake = DictionaryLake(MIDNIGHT)
    maintainer = Maintainer(lake, FOR_EVER)
    for _ in range(61 * 4):  # a flush every six hours, a maintenance every day
        lake.now_ms += 6 * HOUR_MS
        lake.write(range(lake.now_ms - 6 * HOUR_MS, lake.now_ms, 59 * MINUTE_MS))
        if lake.now_ms % DAY_MS == 12 * HOUR_MS:
            maintainer.settle()
    lake.now_ms += 2 * HOUR_MS
    maintainer.settle()
    assert maintainer.plan().jobs == ()
    maintainer.check_done()
    december = [file for file in lake.files.values() if file.partition == "2026-12"]
    assert sorted(file.table for file in december) == ["samples_1h", "series"]
    tenth = [file for file in lake.files.values() if file.partition == "2027-01-10"]
    assert sorted(file.table for file in tenth) == ["samples", "samples_5m"]


def test_a_year_imported_over_dropped_raw_is_merged_once() -> None:
    lake = DictionaryLake(MIDNIGHT)
    maintainer = Maintainer(lake, SHORT_FOREVER)
    year = range(MIDNIGHT - 365 * DAY_MS, MIDNIGHT - 2 * DAY_MS, 19 * HOUR_MS)
    lake.write([MIDNIGHT])
    for _ in range(2):  # the second time over what the first left: rollups alone
        for time_ms in year:
            lake.write([time_ms, time_ms + 20 * MINUTE_MS])
        maintainer.settle()
        maintainer.check_done()
        lake.now_ms += 2 * HOUR_MS
        maintainer.settle()
    assert maintainer.plan().waiting == ()
    merged = [job.month for job in maintainer.done if isinstance(job, MergeLate)]
    whole = [month for month in merged if month != "2026-11"]  # which lies in its days still
    assert len(whole) == 12, "the hours of a month are written once for all its days"
    assert len(set(whole)) == 12
    old = [
        job.span
        for job in maintainer.done
        if isinstance(job, RollSpan) and job.span.until_ms < MIDNIGHT - 3 * DAY_MS
    ]
    assert len(old) == len(set(old))


SHORT_FOREVER = RetentionSettings(RetentionTime(3 * 86_400), RetentionTime(0), RetentionTime(0))


@pytest.mark.parametrize("age_days", [2, 20])
def test_a_day_with_late_files_every_minute_is_rewritten_once_an_hour(age_days: int) -> None:
    lake = DictionaryLake(MIDNIGHT + 13 * HOUR_MS)
    maintainer = Maintainer(lake, SHORT_FOREVER)
    lake.write([lake.now_ms])
    late_ms = lake.now_ms - age_days * DAY_MS
    lake.write([late_ms])
    maintainer.settle()
    maintainer.settle()
    maintainer.done.clear()
    minutes = 5 * 60
    for minute in range(minutes):
        lake.now_ms += MINUTE_MS
        lake.write([late_ms + minute * 1000])
        maintainer.settle()
    rewrites = [
        job
        for job in maintainer.done
        if isinstance(job, MergeLate)
        or (isinstance(job, RollSpan) and job.span.until_ms < MIDNIGHT)
    ]
    assert len(rewrites) == minutes // 60


@pytest.mark.parametrize("commits", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("age_days", [2, 20])
def test_a_kill_between_any_two_commits_repeats_harmlessly(commits: int, age_days: int) -> None:
    lake = DictionaryLake(MIDNIGHT + 13 * HOUR_MS)
    maintainer = Maintainer(lake, SHORT_FOREVER)
    late_ms = lake.now_ms - age_days * DAY_MS
    lake.write([lake.now_ms, late_ms])
    maintainer.settle()
    lake.now_ms += 2 * HOUR_MS
    lake.write([late_ms, late_ms + HOUR_MS])
    lake.kill_after = commits
    try:
        maintainer.settle()
    except Killed:
        lake.kill_after = None
    maintainer.check()
    lake.kill_after = None
    lake.now_ms += 2 * HOUR_MS
    maintainer.settle()
    maintainer.check_done()
    assert maintainer.plan().waiting == ()
    assert lake.counted(SAMPLES).total() <= len(lake.accepted)
