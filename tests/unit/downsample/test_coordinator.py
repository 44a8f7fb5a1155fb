"""A lake is kept: rolled up, compacted, forgotten; read by other eyes and beside the oracle."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import structlog
from deltalake import DeltaTable

from bridge.errors import PrombridgeError
from bridge.lake.folder_store import FolderStore
from bridge.lake.maintenance import MaintenanceLake
from bridge.lake.schema import SAMPLES, SAMPLES_1H, SAMPLES_5M, SERIES
from bridge.model.options import Duration
from downsample.coordinator import Coordinator
from downsample.engine import Done, Merged
from downsample.jobs import Job, MergeLate, RollSpan
from downsample.settings import DownsampleSettings, RetentionSettings, RetentionTime
from tests.oracle import rollup as oracle
from tests.oracle.bodies import bits
from tests.oracle.lake_files import LakeRow, metric_of, series_id
from tests.oracle.tsdb import Labels
from tests.unit.downsample.kept_lake import KeptLake

DAY_MS = 86_400_000
HOUR_MS = 3_600_000
DAY = 20_700
MIDNIGHT_MS = DAY * DAY_MS
UP: Labels = (("__name__", "up"), ("job", "a"))
LOAD: Labels = (("__name__", "load"), ("job", "b"))
STALE = 0x7FF0_0000_0000_0002


@pytest.fixture
def keep(tmp_path: Path) -> Iterator[Callable[..., KeptLake]]:
    """Makes a lake; raw samples and 5m rows are kept for so many days, 0 for ever."""
    made: list[KeptLake] = []

    def make(raw_days: int = 30, five_m_days: int = 180) -> KeptLake:
        retention = RetentionSettings(
            raw=RetentionTime(raw_days * 86_400), five_m=RetentionTime(five_m_days * 86_400)
        )
        made.append(KeptLake(tmp_path, retention))
        return made[0]

    yield make
    for lake in made:
        lake.close()


@pytest.fixture
def kept(keep: Callable[..., KeptLake]) -> KeptLake:
    return keep()


def scrapes(
    labels: Labels, after_ms: int, until_ms: int, *, every_ms: int = 60_000, replica: str = ""
) -> list[LakeRow]:
    """A counter with resets; values follow from labels and time alone."""
    found = []
    for time_ms in range(after_ms + every_ms, until_ms + 1, every_ms):
        value = float((time_ms // 7_000) % 97)
        found.append((labels, time_ms, bits(value), replica))
    return found


def check(kept: KeptLake, expected: list[LakeRow], *, has_raw: bool = True) -> None:
    """Raw and both levels are what the oracle makes of the samples."""
    if has_raw:
        raw = {
            (row["metric"], row["series_id"], row["timestamp_ms"], bits(row["value"]))
            for row in kept.rows(SAMPLES)
        }
        assert len(raw) == len(kept.rows(SAMPLES))
        assert raw == {
            (metric_of(labels), series_id(labels), time_ms, value)
            for labels, time_ms, value, _ in expected
        }
    for table, window_ms in ((SAMPLES_5M, 300_000), (SAMPLES_1H, HOUR_MS)):
        assert sorted(map(seen, kept.rows(table)), key=repr) == sorted(
            wanted(expected, window_ms), key=repr
        )


def seen(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """A stored row, floats as bits."""
    return tuple(
        bits(value) if isinstance(value, float) else value
        for name, value in row.items()
        if name not in {"date", "month"}
    )


def wanted(rows: list[LakeRow], window_ms: int) -> Iterator[tuple[Any, ...]]:
    for labels in {row[0] for row in rows}:
        samples = [(time_ms, value) for own, time_ms, value, _ in rows if own == labels]
        for row in oracle.roll_up(samples, window_ms):
            own = tuple(getattr(row, name) for name in row.__dataclass_fields__)
            yield (metric_of(labels), series_id(labels), *own)


def rolled(jobs: Sequence[Job]) -> list[Job]:
    """Jobs that roll up."""
    return [job for job in jobs if isinstance(job, RollSpan)]


def flush_by_minutes(kept: KeptLake, rows: list[LakeRow], minutes: int) -> None:
    """As a receiver would, in order of time."""
    begin = min(row[1] for row in rows)
    parts: dict[int, list[LakeRow]] = {}
    for row in rows:
        parts.setdefault((row[1] - begin) // (minutes * 60_000), []).append(row)
    for _, part in sorted(parts.items()):
        kept.flush(part)


def test_a_closed_day_becomes_one_sorted_set_with_its_rollups(kept: KeptLake) -> None:
    rows = [
        row for labels in (UP, LOAD) for row in scrapes(labels, MIDNIGHT_MS, MIDNIGHT_MS + DAY_MS)
    ]
    flush_by_minutes(kept, rows, 180)
    [job, *_] = kept.run(MIDNIGHT_MS + DAY_MS + HOUR_MS)
    assert isinstance(job, RollSpan)
    check(kept, rows)
    [name] = kept.names(SAMPLES)
    assert name.startswith("c-20260904T00-20260905T00-")
    assert kept.run(MIDNIGHT_MS + DAY_MS + HOUR_MS) == []


def test_a_running_day_is_kept_hour_by_hour_and_then_as_a_whole(kept: KeptLake) -> None:
    rows = scrapes(UP, MIDNIGHT_MS, MIDNIGHT_MS + 5 * HOUR_MS)
    flush_by_minutes(kept, rows, 25)
    kept.run(MIDNIGHT_MS + 4 * HOUR_MS + HOUR_MS // 2)
    flushes = [name for name in kept.names(SAMPLES) if name.startswith("f-")]
    assert flushes, "what is not closed waits"
    closed = [row for row in rows if row[1] <= MIDNIGHT_MS + 4 * HOUR_MS]
    assert {row["window_end_ms"] for row in kept.rows(SAMPLES_1H)} == {
        MIDNIGHT_MS + hour * HOUR_MS for hour in range(1, 5)
    }
    assert sorted(map(seen, kept.rows(SAMPLES_5M)), key=repr) == sorted(
        wanted(closed, 300_000), key=repr
    )
    assert len(kept.rows(SAMPLES)) == len(rows)
    more = scrapes(UP, MIDNIGHT_MS + 5 * HOUR_MS, MIDNIGHT_MS + DAY_MS)
    flush_by_minutes(kept, more, 600)
    kept.run(MIDNIGHT_MS + DAY_MS + HOUR_MS)
    check(kept, rows + more)
    assert len(kept.names(SAMPLES)) == 1


def test_late_samples_are_rolled_up_by_themselves_and_not_all_the_time(kept: KeptLake) -> None:
    rows = scrapes(UP, MIDNIGHT_MS, MIDNIGHT_MS + DAY_MS)
    kept.flush(rows)
    done_ms = MIDNIGHT_MS + DAY_MS + HOUR_MS
    kept.run(done_ms)
    late = scrapes(LOAD, MIDNIGHT_MS + 3 * HOUR_MS, MIDNIGHT_MS + 4 * HOUR_MS)
    for minute in range(50):
        kept.flush(late[minute : minute + 1])
        assert not rolled(kept.run(done_ms + (minute + 1) * 60_000))
    assert rolled(kept.run(done_ms + HOUR_MS + 60_000))
    check(kept, rows + late[:50])


def test_replicas_become_one_series_and_nothing_is_counted_twice(kept: KeptLake) -> None:
    until_ms = MIDNIGHT_MS + DAY_MS
    a = scrapes(UP, MIDNIGHT_MS, until_ms, replica="a")
    b = [
        (labels, time_ms + 7_000, value, "b")
        for labels, time_ms, value, _ in scrapes(UP, MIDNIGHT_MS, until_ms - 60_000)
    ]
    gap = range(MIDNIGHT_MS + 5 * HOUR_MS, MIDNIGHT_MS + 5 * HOUR_MS + 600_000)
    a = [row for row in a if row[1] not in gap]
    kept.flush(a)
    kept.flush(b)
    kept.run(until_ms + HOUR_MS)
    found = kept.rows(SAMPLES)
    times = [row["timestamp_ms"] for row in found]
    assert len(times) == len(set(times))
    steps = [
        later - sooner for sooner, later in zip(sorted(times), sorted(times)[1:], strict=False)
    ]
    assert max(steps) <= 120_000
    assert min(steps) > 7_000
    assert {row["replica"] for row in found} == {"a", "b"}
    assert sum(row["count"] for row in kept.rows(SAMPLES_5M)) == len(times)


def test_raw_samples_go_when_their_time_has_come_and_their_rollups_stay(
    keep: Callable[..., KeptLake],
) -> None:
    kept = keep(raw_days=2, five_m_days=4)
    rows = []
    for day in range(6):
        begin_ms = MIDNIGHT_MS + day * DAY_MS
        own = scrapes(UP, begin_ms, begin_ms + DAY_MS, every_ms=600_000)
        rows += own
        kept.flush(own)
    kept.run(MIDNIGHT_MS + 6 * DAY_MS + HOUR_MS)
    assert {row["date"].isoformat() for row in kept.rows(SAMPLES)} == {"2026-09-08", "2026-09-09"}
    assert len({row["date"] for row in kept.rows(SAMPLES_5M)}) == 4
    assert sorted(map(seen, kept.rows(SAMPLES_1H)), key=repr) == sorted(
        wanted(rows, HOUR_MS), key=repr
    )


def test_late_samples_over_dropped_ones_are_merged_into_the_rollups_once(
    keep: Callable[..., KeptLake],
) -> None:
    kept = keep(raw_days=1)
    rows = scrapes(UP, MIDNIGHT_MS, MIDNIGHT_MS + DAY_MS)
    recent = scrapes(UP, MIDNIGHT_MS + 3 * DAY_MS, MIDNIGHT_MS + 3 * DAY_MS + HOUR_MS)
    kept.flush(rows + recent)
    now_ms = MIDNIGHT_MS + 3 * DAY_MS + 5 * HOUR_MS
    kept.run(now_ms)
    assert len(kept.rows(SAMPLES)) == len(recent)
    late = [(labels, time_ms + 30_000, value, "") for labels, time_ms, value, _ in rows[100:160]]
    other = scrapes(LOAD, MIDNIGHT_MS + HOUR_MS, MIDNIGHT_MS + 2 * HOUR_MS)
    kept.flush(late + other)
    [job, *_] = kept.run(now_ms + 3 * HOUR_MS)
    assert isinstance(job, MergeLate)
    counts = {
        labels: sum(
            row["count"] for row in kept.rows(SAMPLES_5M) if row["series_id"] == series_id(labels)
        )
        for labels in (UP, LOAD)
    }
    assert counts == {UP: len(rows) + len(late) + len(recent), LOAD: len(other)}
    assert sum(row["count"] for row in kept.rows(SAMPLES_1H)) == sum(counts.values())
    assert kept.run(now_ms + 6 * HOUR_MS) == []


def test_an_import_of_what_was_dropped_is_refused_unless_it_is_forced(
    keep: Callable[..., KeptLake],
) -> None:
    kept = keep(raw_days=1)
    rows = scrapes(UP, MIDNIGHT_MS, MIDNIGHT_MS + DAY_MS)
    recent = scrapes(UP, MIDNIGHT_MS + 3 * DAY_MS, MIDNIGHT_MS + 3 * DAY_MS + HOUR_MS)
    kept.flush(rows + recent)
    now_ms = MIDNIGHT_MS + 3 * DAY_MS + 5 * HOUR_MS
    kept.run(now_ms)
    before = kept.rows(SAMPLES_5M)
    kept.flush(rows[100:160])
    with structlog.testing.capture_logs() as logs:
        kept.run(now_ms + 3 * HOUR_MS)
    assert "an import was repeated?" in str(logs)
    assert kept.rows(SAMPLES_5M) == before


@pytest.mark.parametrize("table", [SAMPLES_5M, SAMPLES_1H, SAMPLES])
@pytest.mark.parametrize("is_late", [False, True])
def test_a_kill_between_any_two_commits_changes_nothing_in_the_end(
    keep: Callable[..., KeptLake],
    monkeypatch: pytest.MonkeyPatch,
    table: str,
    *,
    is_late: bool,
) -> None:
    """DOWN-1."""
    kept = keep(raw_days=1)
    rows = scrapes(UP, MIDNIGHT_MS, MIDNIGHT_MS + DAY_MS, every_ms=600_000)
    recent = scrapes(UP, MIDNIGHT_MS + 3 * DAY_MS, MIDNIGHT_MS + 3 * DAY_MS + HOUR_MS)
    now_ms = MIDNIGHT_MS + 3 * DAY_MS + 5 * HOUR_MS
    kept.flush(rows + recent)
    expected = rows + recent
    if is_late:
        kept.run(now_ms)
        late = [(labels, at_ms + 30_000, value, "") for labels, at_ms, value, _ in rows[10:16]]
        kept.flush(late)
        expected += late

    class Killed(BaseException):
        pass

    commit = kept.maintained.commit

    def fail_at(name: str, **of: Any) -> None:
        if name == table:
            raise Killed
        commit(name, **of)

    with monkeypatch.context() as patch:
        patch.setattr(kept.maintained, "commit", fail_at)
        with pytest.raises(Killed):
            kept.run(now_ms + 3 * HOUR_MS)
    kept.coordinator = kept.make_coordinator()
    kept.run(now_ms + 5 * HOUR_MS)
    assert sum(row["count"] for row in kept.rows(SAMPLES_5M)) == len(expected)
    assert sum(row["count"] for row in kept.rows(SAMPLES_1H)) == len(expected)
    assert len(kept.rows(SAMPLES)) == len(recent)


def test_two_that_were_started_by_mistake_double_nothing(
    kept: KeptLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LAKE-15."""
    rows = scrapes(UP, MIDNIGHT_MS, MIDNIGHT_MS + DAY_MS)
    kept.flush(rows)
    now_ms = MIDNIGHT_MS + DAY_MS + HOUR_MS
    first, second = kept.coordinator, kept.make_coordinator()
    original = Coordinator._commit
    began: list[int] = []

    def commit(self: Coordinator, *of: Any) -> bool:
        if not began:
            began.append(1)
            assert second.run(now_ms)  # all of it, between the other's work and its commit
        return original(self, *of)

    monkeypatch.setattr(Coordinator, "_commit", commit)
    other = MaintenanceLake.open(FolderStore(kept.root))
    second._lake = other
    assert first.run(now_ms)
    check(kept, rows)
    other.close()


def test_a_broken_file_is_left_out_and_everything_else_goes_on(kept: KeptLake) -> None:
    rows = scrapes(UP, MIDNIGHT_MS, MIDNIGHT_MS + DAY_MS)
    good = scrapes(UP, MIDNIGHT_MS + DAY_MS, MIDNIGHT_MS + 2 * DAY_MS)
    kept.flush(rows)
    [name] = kept.names(SAMPLES)
    kept.flush(good)
    path = next(kept.root.rglob(name))
    damaged = bytearray(path.read_bytes())
    damaged[100:-100] = random.Random(1).randbytes(len(damaged) - 200)
    path.unlink()
    path.write_bytes(damaged)
    with structlog.testing.capture_logs() as logs:
        kept.run(MIDNIGHT_MS + 2 * DAY_MS + HOUR_MS)
    assert name in str([line for line in logs if line["log_level"] == "error"])
    assert sum(row["count"] for row in kept.rows(SAMPLES_1H)) == len(good)
    assert kept.run(MIDNIGHT_MS + 2 * DAY_MS + HOUR_MS) == []


def test_series_are_written_once_a_month(kept: KeptLake) -> None:
    for minute in range(12):
        at_ms = MIDNIGHT_MS + minute * 60_000
        kept.flush([*scrapes(UP, at_ms, at_ms + 60_000), *scrapes(LOAD, at_ms, at_ms + 60_000)])
    kept.run(MIDNIGHT_MS + HOUR_MS)
    found = kept.rows(SERIES)
    assert sorted(dict(row["labels"])["job"] for row in found) == ["a", "b"]
    assert len(kept.names(SERIES)) == 1


def test_files_of_others_that_are_not_sorted_cost_no_rollups(kept: KeptLake) -> None:
    """As `OPTIMIZE` writes them: they cannot be merged, and what was made of them stays."""
    rows = scrapes(UP, MIDNIGHT_MS, MIDNIGHT_MS + DAY_MS)
    kept.flush([row for row in rows if row[1] % 120_000])
    kept.flush([row for row in rows if not row[1] % 120_000])
    kept.run(MIDNIGHT_MS + DAY_MS + HOUR_MS)
    before = kept.rows(SAMPLES_5M)
    late = scrapes(LOAD, MIDNIGHT_MS, MIDNIGHT_MS + HOUR_MS)
    kept.flush(late)
    DeltaTable(kept.root / SAMPLES).optimize.compact()
    kept.coordinator.run(MIDNIGHT_MS + DAY_MS + 3 * HOUR_MS)
    more = scrapes(LOAD, MIDNIGHT_MS + HOUR_MS, MIDNIGHT_MS + 2 * HOUR_MS)
    kept.flush(more)
    kept.coordinator.run(MIDNIGHT_MS + DAY_MS + 5 * HOUR_MS)
    stored = {
        (row["series_id"], row["window_end_ms"]): row["count"] for row in kept.rows(SAMPLES_5M)
    }
    for row in before:
        assert stored[row["series_id"], row["window_end_ms"]] >= row["count"]


def test_a_job_that_fails_is_tried_again_less_and_less_often(
    kept: KeptLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept.flush(scrapes(UP, MIDNIGHT_MS, MIDNIGHT_MS + DAY_MS))
    tried = []

    def fail(jobs: Sequence[tuple[Job, Merged]]) -> Iterator[Done]:
        for job, _ in jobs:
            tried.append(job)
            yield job, PrombridgeError("its worker died, signal 9")

    began_ms = MIDNIGHT_MS + DAY_MS + HOUR_MS
    with monkeypatch.context() as patch:
        patch.setattr(kept.engine, "run", fail)
        for minute in range(60):
            assert not kept.coordinator.run(began_ms + minute * 60_000)
    assert len(tried) == 6, "after 0, 1, 3, 7, 15 and 31 minutes"
    kept.run(began_ms + 3 * HOUR_MS)
    assert kept.names(SAMPLES)[0].startswith("c-")


def test_an_import_that_was_repeated_is_told_from_what_this_job_merged_itself(
    keep: Callable[..., KeptLake], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between 5m and 1h, then the same import comes once more."""
    kept = keep(raw_days=1)
    rows = scrapes(UP, MIDNIGHT_MS, MIDNIGHT_MS + DAY_MS)
    recent = scrapes(UP, MIDNIGHT_MS + 3 * DAY_MS, MIDNIGHT_MS + 3 * DAY_MS + HOUR_MS)
    now_ms = MIDNIGHT_MS + 3 * DAY_MS + 5 * HOUR_MS
    kept.flush(rows + recent)
    kept.run(now_ms)
    late = [(labels, at_ms + 30_000, value, "") for labels, at_ms, value, _ in rows[100:160]]
    kept.flush(late)
    commit = kept.maintained.commit

    class Killed(BaseException):
        pass

    def fail_at(name: str, **of: Any) -> None:
        if name == SAMPLES_1H:
            raise Killed
        commit(name, **of)

    with monkeypatch.context() as patch:
        patch.setattr(kept.maintained, "commit", fail_at)
        with pytest.raises(Killed):
            kept.run(now_ms + 3 * HOUR_MS)
    kept.flush(rows[300:360])
    for hours in (6, 9, 12):
        kept.coordinator.run(now_ms + hours * HOUR_MS)
    count = len(rows) + len(late) + len(recent)
    assert sum(row["count"] for row in kept.rows(SAMPLES_5M)) == count
    assert sum(row["count"] for row in kept.rows(SAMPLES_1H)) == count


def test_a_run_ends_while_samples_go_on_coming(
    kept: KeptLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept.settings = DownsampleSettings(late_interval=Duration(0.001))
    kept.coordinator = kept.make_coordinator()
    kept.flush(scrapes(UP, MIDNIGHT_MS, MIDNIGHT_MS + DAY_MS))
    late = iter(scrapes(LOAD, MIDNIGHT_MS, MIDNIGHT_MS + DAY_MS))
    original = Coordinator._commit

    def commit(self: Coordinator, *of: Any) -> bool:
        is_done = original(self, *of)
        kept.flush([next(late)])
        kept.now_ms += 1000
        return is_done

    monkeypatch.setattr(Coordinator, "_commit", commit)
    assert len(rolled(kept.run(MIDNIGHT_MS + DAY_MS + HOUR_MS))) == 1
