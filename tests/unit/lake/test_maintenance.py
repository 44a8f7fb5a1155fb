import contextlib
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from deltalake import CommitProperties, DeltaTable, Transaction
from deltalake.exceptions import CommitFailedError, DeltaError
from deltalake.transaction import AddAction, RemoveAction

from bridge.errors import AlreadyRunning, PrombridgeError, StorageUnavailable
from bridge.lake import maintenance as maintenance_module
from bridge.lake import table as table_module
from bridge.lake.data_file import DataFile
from bridge.lake.folder_store import LOCK_NAME, FolderStore
from bridge.lake.lake import Lake
from bridge.lake.maintenance import (
    FIVE_M_DROPPED_ID,
    MAINTENANCE_ID,
    LakeView,
    MaintenanceLake,
    MaintenanceTable,
    Superseded,
    put_file,
)
from bridge.lake.schema import (
    FLUSHED,
    METADATA,
    RAW_DROPPED_ID,
    SAMPLES,
    SAMPLES_1H,
    SAMPLES_5M,
    SERIES,
    TABLES,
)
from bridge.lake.stored_file import StoredFile
from tests.unit.lake.made_files import DAY, DAY_START_MS, one_sample
from tests.unit.lake.made_maintenance import Maintenance, compacted, rollup

HOUR_S = 3600.0
DAY_NUMBER = 20_778  # 2026-11-21


class Folder:
    """A lake in a folder, a receiver, and every maintenance opened on it."""

    def __init__(self, root: Path) -> None:
        self.root = root / "lake"
        self.cut = root / "cut"
        self.cut.mkdir()
        self.store = FolderStore(self.root)
        self._opened: list[Lake | MaintenanceLake] = []
        self._position = 0

    def receiver(self, *, single_writer: bool = False) -> Lake:
        lake = Lake.open(FolderStore(self.root), single_writer=single_writer, refresh_interval_s=0)
        self._opened.append(lake)
        return lake

    def maintain(self, **of: Any) -> MaintenanceLake:
        lake = MaintenanceLake.open(FolderStore(self.root), **of)
        self._opened.append(lake)
        return lake

    def maintenance(self) -> Maintenance:
        return Maintenance(self.store, self.maintain(), self.cut)

    def append(self, lake: Lake, count: int = 1) -> None:
        """Flushes of one sample each; its value is the position."""
        for _ in range(count):
            self._position += 1
            file = one_sample(
                self.cut / f"f-{self._position}.parquet",
                timestamp_ms=DAY_START_MS + self._position,
                value=self._position,
            )
            lake.commit(SAMPLES, [file], receiver_id="a", position=self._position)

    def values(self) -> list[int]:
        """Of every sample, by delta-rs' own reader."""
        rows = DeltaTable(self.root / SAMPLES).to_pyarrow_table(columns=["value"])
        return sorted(int(value) for value in rows["value"].to_pylist())

    def counts(self) -> list[int]:
        """Of every 5m row."""
        rows = DeltaTable(self.root / SAMPLES_5M).to_pyarrow_table(columns=["count"])
        return sorted(rows["count"].to_pylist())

    def close(self) -> None:
        for lake in self._opened:
            lake.close()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    made = Folder(tmp_path)
    yield made
    made.close()


def uploaded(lake: MaintenanceLake, table: str, file: DataFile) -> DataFile:
    put_file(lake._store, table, file)
    return file


def names(files: Any) -> list[str]:
    return [file.name for file in files]


# looking


def test_a_maintenance_makes_the_tables_that_are_missing(folder: Folder) -> None:
    view = folder.maintain().view()
    assert view == LakeView(
        files={name: [] for name in TABLES},
        versions=dict.fromkeys(TABLES, 0),
        maintenance_versions=dict.fromkeys(TABLES, 0),
    )
    for name, schema in TABLES.items():
        table = DeltaTable(folder.root / name)
        assert table.to_pyarrow_table().schema.names == schema.full().names
        assert table.protocol().min_reader_version == 1
        assert table.protocol().min_writer_version == 2


def test_a_view_tells_what_each_file_is(folder: Folder) -> None:
    folder.append(folder.receiver())
    lake = folder.maintain()
    before_ms = time.time_ns() // 1_000_000
    rolled = uploaded(lake, SAMPLES_5M, rollup(folder.cut, {"up": 3, "a": 4}))
    lake.commit(SAMPLES_5M, view=lake.view(), adds=[rolled])
    view = lake.view()
    [flushed], [file] = view.files[SAMPLES], view.files[SAMPLES_5M]
    assert (flushed.kind, flushed.span, flushed.partition) == ("f", None, DAY)
    assert (flushed.time_min_ms, flushed.time_max_ms) == (DAY_START_MS + 1, DAY_START_MS + 1)
    assert flushed.key == f"samples/date={DAY}/f-1.parquet"
    assert file == StoredFile(
        table="samples_5m",
        key=f"samples_5m/date={DAY}/{rolled.path.name}",
        partition=DAY,
        row_count=2,
        size_bytes=rolled.size_bytes,
        time_min_ms=DAY_START_MS + 86_400_000,
        time_max_ms=DAY_START_MS + 86_400_000,
        metric_min="a",
        metric_max="up",
        modified_ms=file.modified_ms,
    )
    assert before_ms <= file.modified_ms <= time.time_ns() // 1_000_000
    assert file.kind == "r"
    assert file.span is not None
    assert file.span.after_ms == DAY_START_MS


def test_files_are_committed_at_the_time_that_the_clock_says(folder: Folder) -> None:
    lake = folder.maintain(clock=lambda: 1234.5)
    file = uploaded(lake, SAMPLES, compacted(folder.cut, [("up", 1)]))
    lake.commit(SAMPLES, view=lake.view(), adds=[file])
    assert [found.modified_ms for found in lake.view().files[SAMPLES]] == [1_234_500]


def test_looking_only_makes_and_locks_nothing(folder: Folder) -> None:
    lake = folder.maintain(is_read_only=True)
    assert lake.view().versions == dict.fromkeys(TABLES, -1)
    assert not lake.has_transaction(SAMPLES, MAINTENANCE_ID)
    assert lake.vacuum() == []
    assert list(folder.root.iterdir()) == []
    receiver = folder.receiver(single_writer=True)
    folder.append(receiver)
    assert {name: lake.view().versions[name] for name in FLUSHED} == {
        SAMPLES: 1,
        SERIES: 0,
        METADATA: 0,
    }
    assert names(lake.view().files[SAMPLES]) == ["f-1.parquet"]


def test_a_lake_of_a_single_writer_is_not_maintained_beside_it(folder: Folder) -> None:
    """LAKE-6."""
    receiver = folder.receiver(single_writer=True)
    for single_writer in (False, True):
        with pytest.raises(AlreadyRunning, match=r"cannot be maintained now.*single-writer"):
            folder.maintain(single_writer=single_writer)
    receiver.close()
    lake = folder.maintain(single_writer=True)
    with pytest.raises(AlreadyRunning):
        folder.receiver()
    lake.close()
    folder.receiver()


# commits


def test_a_pass_swaps_a_days_files_and_leaves_every_row_once(folder: Folder) -> None:
    receiver, maintenance = folder.receiver(), folder.maintenance()
    folder.append(receiver, 3)
    assert maintenance.run()
    assert not maintenance.run()
    assert folder.values() == [1, 2, 3]
    assert folder.counts() == [3]
    view = maintenance.lake.view()
    assert [file.kind for file in view.files[SAMPLES]] == ["c"]
    assert [file.kind for file in view.files[SAMPLES_5M]] == ["r"]
    # The claim, then the swap.
    assert view.maintenance_versions == dict.fromkeys(TABLES, 0) | {SAMPLES: 2, SAMPLES_5M: 1}
    folder.append(receiver, 2)
    assert maintenance.run()
    assert folder.values() == [1, 2, 3, 4, 5]
    assert folder.counts() == [5]
    assert receiver.position(SAMPLES, "a") == 5


def test_a_commit_is_synced_with_all_before_it(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LAKE-8."""
    lake = folder.maintain()
    folder.append(folder.receiver(), 2)
    view = lake.view()
    synced: list[str] = []
    monkeypatch.setattr(FolderStore, "sync", lambda _, keys: synced.extend(keys))
    lake.commit(SAMPLES, view=view, removes=view.files[SAMPLES])
    assert synced == [f"samples/_delta_log/{number:020d}.json" for number in range(4)]


Change = Callable[[Folder, MaintenanceLake, LakeView], None]


def swap(folder: Folder, lake: MaintenanceLake, view: LakeView) -> None:
    file = uploaded(lake, SAMPLES, compacted(folder.cut, [("up", 1), ("up", 2)]))
    lake.commit(SAMPLES, view=view, adds=[file], removes=view.files[SAMPLES])


def add(folder: Folder, lake: MaintenanceLake, view: LakeView) -> None:
    file = uploaded(lake, SAMPLES, compacted(folder.cut, [("down", 1)]))
    lake.commit(SAMPLES, view=view, adds=[file])


def drop(folder: Folder, lake: MaintenanceLake, view: LakeView) -> None:
    lake.commit(
        SAMPLES,
        view=view,
        removes=view.files[SAMPLES],
        transactions={RAW_DROPPED_ID: DAY_NUMBER},
    )


def roll(folder: Folder, lake: MaintenanceLake, view: LakeView) -> None:
    file = uploaded(lake, SAMPLES_5M, rollup(folder.cut, {"up": 2}))
    lake.commit(SAMPLES_5M, view=view, adds=[file])


@pytest.mark.parametrize("first", [swap, add, drop])
@pytest.mark.parametrize("second", [swap, add, drop, roll])
@pytest.mark.parametrize("has_followed", [False, True])
def test_of_two_maintainers_with_one_plan_the_second_is_refused(
    folder: Folder, first: Change, second: Change, *, has_followed: bool
) -> None:
    """LAKE-15: by delta-rs, or by ourselves where it would not."""
    folder.append(folder.receiver(), 2)
    lakes = [folder.maintain(), folder.maintain()]
    views = [lake.view() for lake in lakes]
    first(folder, lakes[0], views[0])
    if has_followed:
        lakes[1].view()
    before = DeltaTable(folder.root / SAMPLES).version(), folder.values()
    with pytest.raises(Superseded):
        second(folder, lakes[1], views[1])
    assert (DeltaTable(folder.root / SAMPLES).version(), folder.values()) == before
    assert folder.counts() == []


def test_a_compaction_by_another_tool_at_the_last_moment_is_noticed(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LAKE-15: its removals say that no data changed, and delta-rs would let ours pass."""
    folder.append(folder.receiver(), 2)
    lake = folder.maintain()
    view = lake.view()
    verify = MaintenanceTable._verify

    def verify_then_be_overtaken(*of: Any) -> None:
        verify(*of)
        DeltaTable(folder.root / SAMPLES).optimize.compact()

    monkeypatch.setattr(MaintenanceTable, "_verify", verify_then_be_overtaken)
    with pytest.raises(Superseded, match="2 files to remove are gone"):
        swap(folder, lake, view)
    assert folder.values() == [1, 2]


@pytest.mark.parametrize("has_data_change", [True, False])
def test_removals_of_ours_say_that_data_changed(folder: Folder, *, has_data_change: bool) -> None:
    """LAKE-15: only then delta-rs keeps another tool from removing the same files."""
    folder.append(folder.receiver(), 2)
    lake = folder.maintain()
    view, late = lake.view(), DeltaTable(folder.root / SAMPLES)
    swap(folder, lake, view)
    removals: list[AddAction | RemoveAction] = [
        RemoveAction(f"date={DAY}/f-{number}.parquet", has_data_change, deletion_timestamp=1)
        for number in (1, 2)
    ]
    with pytest.raises(CommitFailedError, match="concurrent transaction deleted data"):
        late.create_write_transaction(removals, "append", late.schema(), ["date"])


@pytest.mark.parametrize("is_told", [True, False], ids=["the same id", "no id"])
@pytest.mark.parametrize("removed", [["f-1.parquet"], []], ids=["swap", "add"])
def test_what_delta_rs_refuses_by_itself(
    folder: Folder, removed: list[str], *, is_told: bool
) -> None:
    """LAKE-15 rests on this: a new release of delta-rs has to pass it."""
    folder.append(folder.receiver())
    tables = [DeltaTable(folder.root / SAMPLES) for _ in range(2)]

    def commit(table: DeltaTable, name: str, version: int) -> None:
        partition = {"date": DAY}
        actions: list[AddAction | RemoveAction] = [
            AddAction(f"date={DAY}/{name}", 1, partition, 1, data_change=True, stats="{}"),
            *(
                RemoveAction(f"date={DAY}/{one}", data_change=True, deletion_timestamp=1)
                for one in removed
            ),
        ]
        transactions = [Transaction(MAINTENANCE_ID, version, None)] if is_told else None
        table.create_write_transaction(
            actions,
            mode="append",
            schema=table.schema(),
            partition_by=["date"],
            commit_properties=CommitProperties(app_transactions=transactions),
        )

    commit(tables[0], "c-1", 1)
    if removed or is_told:
        with pytest.raises(CommitFailedError):
            commit(tables[1], "c-2", 2)
        assert DeltaTable(folder.root / SAMPLES).version() == 2
    else:
        commit(tables[1], "c-2", 2)
        assert DeltaTable(folder.root / SAMPLES).version() == 3


def test_receivers_append_all_the_while(folder: Folder) -> None:
    """LAKE-1, LAKE-15: behind the plan, and behind the swap."""
    receiver, lake = folder.receiver(), folder.maintain()
    folder.append(receiver, 2)
    view = lake.view()
    folder.append(receiver, 20)  # more than delta-rs steps over by itself
    swap(folder, lake, view)
    folder.append(receiver)
    assert folder.values() == list(range(1, 24))
    assert lake.log_operation_counts()["conflict"] == 0
    assert lake.view().maintenance_versions[SAMPLES] == 1


def test_commits_of_one_plan_follow_each_other_on_one_view(folder: Folder) -> None:
    folder.append(folder.receiver(), 2)
    lake, other = folder.maintain(), folder.maintain()
    view = lake.view()
    for change in (roll, swap, add, roll):
        change(folder, lake, view)
    assert folder.values() == [1, 1, 2]
    add(folder, other, other.view())
    with pytest.raises(Superseded, match="another process maintained it since the plan"):
        add(folder, lake, view)
    add(folder, lake, lake.view())
    with pytest.raises(Superseded, match="another process maintained it since the plan"):
        add(folder, lake, view)


def test_a_file_that_is_gone_is_not_replaced(folder: Folder) -> None:
    """LAKE-15: delta-rs takes the removal of a file that is not there."""
    folder.append(folder.receiver(), 2)
    lake = folder.maintain()
    view = lake.view()
    swap(folder, lake, view)
    with pytest.raises(Superseded, match=r"2 files to remove are gone, date=.*/f-1\.parquet"):
        swap(folder, lake, view)
    assert folder.values() == [1, 2]


def test_late_files_are_merged_once(folder: Folder) -> None:
    """LAKE-15: their names are transactions; delta-rs takes a repeated one."""
    lake = folder.maintain()
    app_id = "late-f-1.parquet"
    assert not lake.has_transaction(SAMPLES_5M, app_id)
    for is_first in (True, False):
        file = uploaded(lake, SAMPLES_5M, rollup(folder.cut, {"up": 2}))
        with (
            contextlib.nullcontext()
            if is_first
            else pytest.raises(
                Superseded, match=f"the transaction {re.escape(app_id)} is at 1, not 1"
            )
        ):
            lake.commit(SAMPLES_5M, view=lake.view(), adds=[file], transactions={app_id: 1})
        assert lake.has_transaction(SAMPLES_5M, app_id)
    assert folder.counts() == [2]
    read_only = folder.maintain(is_read_only=True)
    assert read_only.has_transaction(SAMPLES_5M, "late-f-1.parquet")
    assert not read_only.has_transaction(SAMPLES_1H, "late-f-1.parquet")


def test_the_day_up_to_which_rows_were_dropped_never_goes_back(folder: Folder) -> None:
    lake = folder.maintain()
    for table, app_id in ((SAMPLES, RAW_DROPPED_ID), (SAMPLES_5M, FIVE_M_DROPPED_ID)):
        for day in (-719_162, 5, 5, 7):
            lake.commit(table, view=lake.view(), transactions={app_id: day})
        with pytest.raises(Superseded, match=f"{app_id} is at 7, not 6"):
            lake.commit(table, view=lake.view(), transactions={app_id: 6})
    view = folder.maintain(is_read_only=True).view()
    assert (view.raw_dropped_day, view.five_m_dropped_day) == (7, 7)


# several tables, one plan


def test_a_day_is_not_dropped_while_its_late_files_are_rolled_up(folder: Folder) -> None:
    """LAKE-17: the rollup claims `samples`, so who looked before the late files is refused."""
    receiver, slow = folder.receiver(), folder.maintain()
    folder.append(receiver)
    before_late = slow.view()
    folder.append(receiver)
    fast = folder.maintain()
    view = fast.view()
    roll(folder, fast, view)
    with pytest.raises(Superseded):
        drop(folder, slow, before_late)
    swap(folder, fast, view)
    assert folder.values() == [1, 2]
    assert folder.counts() == [2]


def test_a_rollup_of_a_day_that_was_dropped_meanwhile_is_refused(folder: Folder) -> None:
    """LAKE-17."""
    folder.append(folder.receiver())
    lake, other = folder.maintain(), folder.maintain()
    view = lake.view()
    drop(folder, other, other.view())
    with pytest.raises(Superseded):
        roll(folder, lake, view)
    assert folder.counts() == []


def test_a_rollup_is_not_replaced_by_one_of_fewer_samples(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LAKE-17: a file is rolled up by another between our looks at two tables."""
    receiver, slow, fast = folder.receiver(), folder.maintenance(), folder.maintenance()
    folder.append(receiver)
    assert slow.lake._tables is not None
    samples_5m = slow.lake._tables[SAMPLES_5M]
    look = samples_5m.view

    def look_then_be_overtaken() -> Any:
        found = look()
        if len(folder.values()) == 1:
            folder.append(receiver)
            assert fast.run()
        return found

    monkeypatch.setattr(samples_5m, "view", look_then_be_overtaken)
    view = slow.lake.view()
    # All of it is compacted by now, but the rollups were looked at before.
    assert [file.kind for file in view.files[SAMPLES]] == ["c"]
    with pytest.raises(Superseded):
        roll(folder, slow.lake, view)
    assert folder.counts() == [2]


# outcomes that are not known


def fail_commits(
    monkeypatch: pytest.MonkeyPatch, error: Exception, *, is_committed: bool, count: int = 1
) -> None:
    """The next commits raise, before or after they reached the table."""
    original = DeltaTable.create_write_transaction
    calls: list[int] = []

    def commit(self: DeltaTable, *args: Any, **kwargs: Any) -> None:
        calls.append(1)
        if len(calls) > count or is_committed:
            original(self, *args, **kwargs)
        if len(calls) <= count:
            raise error

    monkeypatch.setattr(DeltaTable, "create_write_transaction", commit)


ERRORS = [DeltaError("timed out"), OSError(5, "lost"), CommitFailedError("lost")]


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("change", [swap, add])
def test_a_swap_that_arrived_though_it_failed_is_done(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, error: Exception, change: Change
) -> None:
    """LAKE-15: and the plan goes on."""
    folder.append(folder.receiver(), 2)
    lake = folder.maintain()
    view = lake.view()
    fail_commits(monkeypatch, error, is_committed=True)
    change(folder, lake, view)
    assert folder.values() == ([1, 2] if change is swap else [1, 1, 2])
    assert lake.view().maintenance_versions[SAMPLES] == 1
    roll(folder, lake, view)
    assert lake.view().maintenance_versions[SAMPLES] == 1


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("change", [drop, roll])
def test_a_commit_that_cannot_be_told_from_anothers_is_planned_again(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, error: Exception, change: Change
) -> None:
    """LAKE-15: it added nothing that would be known again; `roll` begins with an empty claim."""
    folder.append(folder.receiver(), 2)
    lake = folder.maintain()
    view = lake.view()
    fail_commits(monkeypatch, error, is_committed=True)
    with pytest.raises((Superseded, StorageUnavailable)):
        change(folder, lake, view)
    view = lake.view()
    assert view.raw_dropped_day == (DAY_NUMBER if change is drop else None)
    change(folder, lake, view)
    assert folder.counts() == ([] if change is drop else [2])


@pytest.mark.parametrize("error", ERRORS[:2])
def test_a_swap_that_failed_changed_nothing_and_can_be_repeated(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    folder.append(folder.receiver(), 2)
    lake = folder.maintain()
    view = lake.view()
    fail_commits(monkeypatch, error, is_committed=False)
    with pytest.raises(StorageUnavailable, match="committing 1 files for 2 to"):
        swap(folder, lake, view)
    assert DeltaTable(folder.root / SAMPLES).version() == 2
    swap(folder, lake, view)
    assert folder.values() == [1, 2]


def test_a_swap_gets_through_however_often_receivers_append(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An append comes between each look and its commit; in the end delta-rs passes it by."""
    receiver, lake = folder.receiver(), folder.maintain()
    folder.append(receiver)
    view = lake.view()
    write = MaintenanceTable._write
    begun = []

    def be_overtaken_then_write(self: MaintenanceTable, *of: Any, **named: Any) -> None:
        begun.append(named["retries"])
        folder.append(receiver)
        write(self, *of, **named)

    monkeypatch.setattr(MaintenanceTable, "_write", be_overtaken_then_write)
    add(folder, lake, view)
    assert begun == [*[0] * 10, None]
    assert folder.values() == [1, *range(1, 13)]


def test_endless_conflicts_are_given_up(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    lake = folder.maintain()
    view = lake.view()
    fail_commits(monkeypatch, CommitFailedError("conflict"), is_committed=False, count=100)
    with pytest.raises(StorageUnavailable, match="20 conflicts in a row"):
        add(folder, lake, view)


@pytest.mark.parametrize("damage", ["missing", "short", "other"])
def test_nothing_is_removed_for_a_file_that_is_not_whole_in_the_store(
    folder: Folder, damage: str
) -> None:
    """LAKE-18."""
    folder.append(folder.receiver(), 2)
    lake = folder.maintain()
    view = lake.view()
    file = compacted(folder.cut, [("up", 1), ("up", 2)])
    path = folder.root / SAMPLES / f"date={DAY}" / file.path.name
    if damage == "short":
        path.write_bytes(file.path.read_bytes()[:-1])
    elif damage == "other":
        path.write_bytes(bytes(file.size_bytes))
    with pytest.raises(StorageUnavailable):
        lake.commit(SAMPLES, view=view, adds=[file], removes=view.files[SAMPLES])
    assert folder.values() == [1, 2]
    assert DeltaTable(folder.root / SAMPLES).version() == 2


# checkpoints


def test_transactions_live_on_through_checkpoints_and_the_clean_up_of_the_log(
    folder: Folder,
) -> None:
    """LAKE-1, LAKE-15: long after the log entries that brought them are gone."""
    receiver, lake = folder.receiver(), folder.maintain()
    folder.append(receiver, 2)
    drop(folder, lake, lake.view())
    late = uploaded(lake, SAMPLES_5M, rollup(folder.cut, {"up": 2}))
    lake.commit(SAMPLES_5M, view=lake.view(), adds=[late], transactions={"late-f-1": 1})
    old_s = time.time() - 90 * 24 * HOUR_S
    for _ in range(3):
        view = lake.view()
        for name in TABLES:
            lake.commit(name, view=view)
        for path in folder.root.glob("*/_delta_log/*"):
            os.utime(path, (old_s, old_s))
        lake.checkpoint()
    for name in TABLES:
        entries = sorted((folder.root / name / "_delta_log").glob("*.json"))
        assert len(entries) == 1
    again = folder.maintain()
    view = again.view()
    assert view.raw_dropped_day == DAY_NUMBER
    assert view.maintenance_versions == {
        SERIES: 3,
        METADATA: 3,
        SAMPLES: 5,  # and the drop, and the claim
        SAMPLES_5M: 4,
        SAMPLES_1H: 3,
    }
    assert again.has_transaction(SAMPLES_5M, "late-f-1")
    assert receiver.position(SAMPLES, "a") == 2
    assert folder.counts() == [2]


def test_checkpoints_come_by_themselves_too_and_not_twice(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_module, "CHECKPOINT_VERSIONS", 5)
    lake, other = folder.maintain(), folder.maintain()
    for _ in range(6):
        roll(folder, lake, lake.view())
    log = folder.root / SAMPLES_5M / "_delta_log"
    assert [int(path.name[:20]) for path in log.glob("*.checkpoint.parquet")] == [4]
    other.view()
    roll(folder, other, other.view())
    assert len(list(log.glob("*.checkpoint.parquet"))) == 1
    other.checkpoint()
    other.checkpoint()
    assert len(list(log.glob("*.checkpoint.parquet"))) == 2
    assert folder.counts() == [2] * 7


# vacuum


def make_old(path: Path, hours: float) -> Path:
    at_s = time.time() - hours * HOUR_S
    os.utime(path, (at_s, at_s))
    return path


@pytest.fixture
def removed_long_ago(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets the time at which removals are said to be made."""

    def say(hours: float) -> None:
        at_ns = time.time_ns() - int(hours * HOUR_S * 1e9)
        monkeypatch.setattr(
            maintenance_module, "time", SimpleNamespace(time=time.time, time_ns=lambda: at_ns)
        )

    return say


@pytest.mark.parametrize("has_checkpoint", [False, True])
def test_what_was_replaced_a_day_ago_is_deleted_and_nothing_else(
    folder: Folder, removed_long_ago: Callable[[float], None], *, has_checkpoint: bool
) -> None:
    """LAKE-19: old or young, readers of an older snapshot have a day after the removal."""
    receiver, maintenance = folder.receiver(), folder.maintenance()
    folder.append(receiver, 2)
    removed_long_ago(25)
    assert maintenance.run()
    folder.append(receiver)
    removed_long_ago(23)
    assert maintenance.run()
    day = folder.root / SAMPLES / f"date={DAY}"
    for path in day.iterdir():
        make_old(path, 100)
    if has_checkpoint:
        maintenance.lake.checkpoint()
    files = {path.name for path in day.iterdir()}
    looked = folder.maintain(is_read_only=True).vacuum()
    assert {path.name for path in day.iterdir()} == files
    assert maintenance.lake.vacuum() == looked
    assert looked == [f"samples/date={DAY}/f-{number}.parquet" for number in (1, 2)]
    assert {path.name for path in day.iterdir()} == files - {"f-1.parquet", "f-2.parquet"}
    assert folder.values() == [1, 2, 3]
    assert folder.counts() == [3]
    assert maintenance.lake.vacuum() == []
    assert folder.maintain(is_read_only=True).vacuum() == []


def test_uploads_have_a_day_until_their_commit(folder: Folder) -> None:
    """LAKE-19: what is younger may be on its way."""
    receiver, lake = folder.receiver(), folder.maintain()
    folder.append(receiver)
    day = folder.root / SAMPLES / f"date={DAY}"
    files = {}
    for hours in (0, 23.9, 24.1):
        file = uploaded(lake, SAMPLES, compacted(folder.cut, [("up", 2)]))
        files[hours] = make_old(day / file.path.name, hours)
    half_copied = day / f".{files[0].name}.0123.tmp"
    half_copied.touch()
    make_old(half_copied, 30)
    deleted = lake.vacuum()
    assert deleted == sorted(
        f"samples/date={DAY}/{path.name}" for path in (files[24.1], half_copied)
    )
    assert files[0].exists()
    assert files[23.9].exists()
    assert not files[24.1].exists()


def test_vacuum_touches_nothing_that_is_not_a_file_of_ours(folder: Folder) -> None:
    """LAKE-19."""
    lake = folder.maintain()
    folder.append(folder.receiver())
    places = [
        "quarantine.json",
        "_single-writer",
        "samples/notes.txt",
        "samples/f-of-somebody.csv",
        f"samples/date={DAY}/part-0.parquet",
        f"samples/date={DAY}/_f-1.parquet",
        "samples/_delta_log/00000000000000000001.json.torn",
        "histograms/date=2026-11-21/f-1.parquet",
        "f-1.parquet",
    ]
    for place in places:
        path = folder.root / place
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_bytes(b"x")
    everything = [path for path in folder.root.rglob("*") if path.is_file()]
    for path in everything:
        make_old(path, 1000)
    versions = lake.view().versions
    assert lake.vacuum() == []
    assert all(path.exists() for path in everything)
    assert (folder.root / LOCK_NAME).exists()
    assert lake.view().versions == versions


def test_a_vacuum_sooner_than_a_day_is_not_to_be_had(folder: Folder) -> None:
    with pytest.raises(AssertionError):
        folder.maintain().vacuum(age_hours=23)


# readers


def test_a_reader_finds_rollups_in_its_snapshot(folder: Folder) -> None:
    receiver = folder.receiver()
    folder.append(receiver)
    snapshot = receiver.snapshot()
    assert snapshot.versions == {SAMPLES: 1, SERIES: 0, METADATA: 0}
    assert snapshot.rollup_files_5m(None, 0, 1 << 60) == []
    assert snapshot.rollup_files_1h("up", 0, 1 << 60) == []
    assert folder.maintenance().run()
    snapshot = receiver.snapshot(force=True)
    assert snapshot.versions[SAMPLES_5M] == 1
    end_ms = DAY_START_MS + 86_400_000
    [file] = snapshot.rollup_files_5m("up", end_ms - 1, end_ms)
    assert (file.partition, file.timestamp_ms_min, file.row_count) == (DAY, end_ms, 1)
    assert snapshot.rollup_files_5m("up", end_ms, end_ms + 1) == []
    assert snapshot.rollup_files_5m("down", end_ms - 1, end_ms) == []
    assert snapshot.rollup_files_5m("up", end_ms, end_ms) == []
    assert snapshot.rollup_files_1h("up", 0, 1 << 60) == []


def test_a_snapshot_has_raw_or_its_rollup(folder: Folder) -> None:
    """LAKE-16: all of it is rolled up and dropped while the snapshot is taken."""
    receiver, maintenance = folder.receiver(), folder.maintenance()
    folder.append(receiver)
    view = receiver._views[SAMPLES]
    refresh = view.refresh

    def refresh_then_lose_it(*of: Any) -> Any:
        found = refresh(*of)
        if maintenance.run():
            drop(folder, maintenance.lake, maintenance.lake.view())
        return found

    view.refresh = refresh_then_lose_it  # type: ignore[method-assign, assignment]
    first, second = receiver.snapshot(force=True), receiver.snapshot(force=True)
    assert len(first.sample_files("up", 0, 1 << 60)) == 1
    assert len(first.rollup_files_5m("up", 0, 1 << 60)) == 1
    assert second.sample_files("up", 0, 1 << 60) == []
    assert len(second.rollup_files_5m("up", 0, 1 << 60)) == 1


def test_a_torn_log_of_a_rollup_is_set_aside_by_a_receiver_too(folder: Folder) -> None:
    """LAKE-8: the maintenance may not run at all after a power cut."""
    maintenance = folder.maintenance()
    receiver = folder.receiver()
    folder.append(receiver)
    assert maintenance.run()
    os.truncate(folder.root / SAMPLES_5M / f"_delta_log/{1:020d}.json", 10)
    again = folder.receiver()
    assert again.snapshot().versions[SAMPLES_5M] == 0


def test_a_superseded_plan_is_an_error_of_ours() -> None:
    assert issubclass(Superseded, PrombridgeError)
