import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError, DeltaError

from bridge.errors import AlreadyRunning, ConfigError, FormatTooNew, StorageUnavailable
from bridge.lake import table as table_module
from bridge.lake.data_file import DataFile
from bridge.lake.folder_store import FolderStore
from bridge.lake.lake import UPLOAD_AGE_S_MAX, Lake
from bridge.lake.parquet import write_metadata
from bridge.lake.schema import FLUSHED, FORMAT_PROPERTY, TABLES
from bridge.lake.snapshot import TableFiles
from bridge.lake.store import Store
from tests.unit.lake.made_files import DAY, DAY_START_MS, one_sample, one_series, write_rows

ALL_TIME = (-(1 << 62), 1 << 62)


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now_s = 1_795_253_000.0

    def __call__(self) -> float:
        return self.now_s


class Folder:
    """A lake folder, the files cut for it, and every lake opened on it."""

    def __init__(self, root: Path) -> None:
        self.root = root / "lake"
        self.cut = root / "cut"
        self.cut.mkdir()
        self.clock = Clock()
        self.opened: list[Lake] = []
        self._number = 0

    def open(self, store: Store | None = None, *, single_writer: bool = False) -> Lake:
        lake = Lake.open(
            store or FolderStore(self.root),
            single_writer=single_writer,
            refresh_interval_s=5,
            clock=self.clock,
        )
        self.opened.append(lake)
        return lake

    def _path(self) -> Path:
        self._number += 1
        return self.cut / f"f-{self._number}.parquet"

    def sample(self, **of: Any) -> DataFile:
        return one_sample(self._path(), **of)

    def series(self, metric: str = "up") -> DataFile:
        return one_series(self._path(), metric)

    def sample_count(self) -> int:
        return int(DeltaTable(self.root / "samples").to_pyarrow_table().num_rows)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    made = Folder(tmp_path)
    yield made
    for lake in made.opened:
        lake.close()


def fail_once(
    monkeypatch: pytest.MonkeyPatch, error: Exception, *, after_commit: bool
) -> list[int]:
    """The next commit raises, before or after it reached the table."""
    original = DeltaTable.create_write_transaction
    calls: list[int] = []

    def commit(self: DeltaTable, *args: Any, **kwargs: Any) -> None:
        calls.append(1)
        if len(calls) > 1 or after_commit:
            original(self, *args, **kwargs)
        if len(calls) == 1:
            raise error

    monkeypatch.setattr(DeltaTable, "create_write_transaction", commit)
    return calls


# opening


def test_a_new_lake_has_empty_tables_that_any_delta_reader_takes(folder: Folder) -> None:
    folder.open()
    for name in FLUSHED:
        schema, table = TABLES[name], DeltaTable(folder.root / name)
        assert table.protocol().min_reader_version == 1
        assert table.protocol().min_writer_version == 2
        assert not table.protocol().reader_features
        assert not table.protocol().writer_features
        assert table.to_pyarrow_table().column_names == schema.full().names
        assert table.metadata().partition_columns == (
            [schema.partition.name] if schema.partition else []
        )


def test_a_reader_of_an_empty_lake_finds_nothing(folder: Folder) -> None:
    snapshot = folder.open().snapshot()
    assert snapshot.sample_files(None, *ALL_TIME) == []
    assert snapshot.series_files(None, snapshot.months()) == []
    assert snapshot.metadata_files() == []


def test_opening_again_changes_nothing(folder: Folder) -> None:
    folder.open()
    folder.open()
    assert {DeltaTable(folder.root / name).version() for name in FLUSHED} == {0}


@pytest.mark.parametrize(
    ("error", "after_create"), [(CommitFailedError("version exists"), True), (None, True)]
)
def test_a_table_made_by_another_in_the_meantime_is_opened(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, error: Exception | None, *, after_create: bool
) -> None:
    """Both creators saw no table; one of them loses."""
    create = DeltaTable.create

    def lose(*args: Any, **kwargs: Any) -> DeltaTable:
        if after_create:
            create(*args, **kwargs)
        if error is not None:
            raise error
        return create(*args, **kwargs)  # the table exists now

    monkeypatch.setattr(DeltaTable, "create", lose)
    lake = folder.open()
    assert lake.commit("samples", [folder.sample()], receiver_id="a", position=1)
    assert {DeltaTable(folder.root / name).version() for name in FLUSHED} == {0, 1}


def test_a_store_that_lets_no_table_be_made_is_unavailable(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> DeltaTable:
        raise DeltaError("no space left")

    monkeypatch.setattr(DeltaTable, "create", fail)
    with pytest.raises(StorageUnavailable, match="no space left"):
        folder.open()


def test_a_newer_format_is_refused(folder: Folder) -> None:
    """LAKE-9."""
    folder.open().close()
    DeltaTable(folder.root / "samples").alter.set_table_properties(
        {FORMAT_PROPERTY: "2"}, raise_if_not_exists=False
    )
    with pytest.raises(FormatTooNew, match="has format 2, this prombridge knows 1"):
        folder.open()


def test_a_format_that_moves_on_under_a_running_process_stops_it(folder: Folder) -> None:
    """LAKE-9: the commit conflicts with the change, and the reopened table is refused."""
    lake = folder.open()
    DeltaTable(folder.root / "samples").alter.set_table_properties(
        {FORMAT_PROPERTY: "2"}, raise_if_not_exists=False
    )
    with pytest.raises(FormatTooNew):
        lake.commit("samples", [folder.sample()], receiver_id="a", position=1)


def test_a_table_of_somebody_else_is_refused(folder: Folder) -> None:
    """LAKE-9."""
    DeltaTable.create(folder.root / "samples", TABLES["samples"].full())
    with pytest.raises(ConfigError, match="prombridge did not make"):
        folder.open()


def test_a_store_without_put_if_absent_is_asked_only_of_several_writers(folder: Folder) -> None:
    """LAKE-6."""

    class Refusing(FolderStore):
        def probe_put_if_absent(self) -> None:
            raise StorageUnavailable("asked")

    with pytest.raises(StorageUnavailable, match="asked"):
        folder.open(Refusing(folder.root))
    folder.open(Refusing(folder.root), single_writer=True)


def test_a_single_writer_is_alone(folder: Folder) -> None:
    """LAKE-6: the lock goes with close."""
    lake = folder.open(single_writer=True)
    for single_writer in (True, False):
        with pytest.raises(AlreadyRunning, match=r"lake\.single-writer"):
            folder.open(single_writer=single_writer)
    lake.close()
    folder.open(single_writer=True)


def test_a_failed_start_gives_the_lock_back(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(DeltaTable, "create", lambda *_, **__: None)
        with pytest.raises(StorageUnavailable):
            folder.open(single_writer=True)
    folder.open(single_writer=True)


# commits


def test_committed_rows_are_read_by_bare_delta_readers(folder: Folder) -> None:
    """LAKE-4: bits survive delta-rs' own reader and DuckDB on the files."""
    bits = [0x7FF0000000000002, 0x8000000000000000, 0x7FF0000000000000, 0x7FF8000000000001]
    file = write_rows(
        folder.cut / "f-bits.parquet",
        [("up", 1, DAY_START_MS + 1 + index, value, 0, "") for index, value in enumerate(bits)],
    )
    lake = folder.open()
    lake.commit("series", [folder.series()], receiver_id="a", position=1)
    metadata = write_metadata(folder.cut / "f-m.parquet", [("up", "gauge", "help", "", 5)])
    lake.commit("metadata", [metadata], receiver_id="a", position=1)
    lake.commit("samples", [file], receiver_id="a", position=1)

    table = DeltaTable(folder.root / "samples").to_pyarrow_table()
    values = table["value"].combine_chunks().to_numpy(zero_copy_only=True)
    assert values.view(np.uint64).tolist() == bits
    assert {str(date) for date in table["date"].to_pylist()} == {DAY}
    series = DeltaTable(folder.root / "series").to_pyarrow_table().to_pylist()
    assert series == [
        {
            "metric": "up",
            "series_id": 1,
            "labels": [("__name__", "up"), ("job", "node")],
            "month": "2026-11",
        }
    ]
    read = duckdb.execute(
        f"SELECT value, date::VARCHAR AS date FROM "
        f"read_parquet('{folder.root}/samples/*/*.parquet', hive_partitioning = true) "
        "ORDER BY timestamp_ms"
    ).fetchnumpy()
    assert read["value"].view(np.uint64).tolist() == bits
    assert set(read["date"]) == {DAY}
    assert [file.row_count for file in lake.snapshot().metadata_files()] == [1]


def test_the_documented_query_runs_on_a_bare_machine(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (Path(__file__).parents[3] / "docs/lake.md").read_text()
    found = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert found is not None
    lake = folder.open(FolderStore(folder.root.parent / "data/lake"))
    for position in (1, 2):  # the series twice, as after a restart
        series = one_series(folder.cut / f"f-{position}.series.parquet", "node_load1")
        lake.commit("series", [series], receiver_id="a", position=position)
    files = [folder.sample(metric="node_load1", value=value) for value in (1, 3, float("nan"))]
    lake.commit("samples", files, receiver_id="a", position=2)
    monkeypatch.chdir(folder.root.parent)
    namespace: dict[str, Any] = {}
    exec(found[1].replace("duckdb.execute(", "rows = duckdb.execute("), namespace)
    assert namespace["rows"] == [(None, 3.0)]


def test_deltas_own_query_engine_prunes_and_reads(folder: Folder) -> None:
    """The statistics in the log are those that other readers prune by."""
    lake = folder.open()
    files = [
        folder.sample(metric=metric, timestamp_ms=DAY_START_MS + step)
        for step, metric in enumerate(["a", "b", "µ_seconds"], 1)
    ]
    lake.commit("samples", files, receiver_id="a", position=1)
    table = DeltaTable(folder.root / "samples")
    for metric in ("a", "b", "µ_seconds"):
        rows = table.scan(columns=["metric"], predicate=f"metric = '{metric}'").read_all()
        assert rows["metric"].to_pylist() == [metric]


def test_dates_at_both_ends_of_the_calendar_are_committed(folder: Folder) -> None:
    lake = folder.open()
    row = ("up", 1, DAY_START_MS, 0, 0, "")
    files = [
        write_rows(folder.cut / f"f-{date}.parquet", [row], partition=date)
        for date in ("0001-01-01", "1969-12-31", "9999-12-31")
    ]
    lake.commit("samples", files, receiver_id="a", position=1)
    partitions = [file.partition for file in lake.snapshot().sample_files("up", *ALL_TIME)]
    assert partitions == ["0001-01-01", "1969-12-31", "9999-12-31"]


def test_a_position_is_committed_once(folder: Folder) -> None:
    """LAKE-1: by the same process, after a restart, and by one that fell behind."""
    lake = folder.open()
    assert lake.position("samples", "a") is None
    assert lake.commit("samples", [folder.sample()], receiver_id="a", position=7)
    assert not lake.commit("samples", [folder.sample()], receiver_id="a", position=7)
    assert not lake.commit("samples", [folder.sample()], receiver_id="a", position=3)
    again = folder.open()
    assert again.position("samples", "a") == 7
    assert not again.commit("samples", [folder.sample()], receiver_id="a", position=7)
    assert folder.sample_count() == 1


def test_two_objects_of_one_receiver_commit_a_position_once(folder: Folder) -> None:
    """LAKE-1: the slower one meets a conflict, looks again and finds it done."""
    fast, slow = folder.open(), folder.open()
    assert fast.commit("samples", [folder.sample()], receiver_id="a", position=1)
    assert not slow.commit("samples", [folder.sample()], receiver_id="a", position=1)
    assert folder.sample_count() == 1


def test_receivers_do_not_stand_in_each_others_way(folder: Folder) -> None:
    first, second = folder.open(), folder.open()
    for position in (1, 2, 3):
        assert first.commit("samples", [folder.sample()], receiver_id="a", position=position)
        assert second.commit("samples", [folder.sample()], receiver_id="b", position=position)
    assert folder.sample_count() == 6
    assert folder.open().position("samples", "b") == 3


@pytest.mark.parametrize(
    "error", [DeltaError("timed out"), OSError(5, "lost"), CommitFailedError("lost")]
)
def test_a_commit_that_arrived_though_it_failed_is_not_repeated(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """LAKE-1: the outcome is unknown until the table is looked at."""
    lake = folder.open()
    calls = fail_once(monkeypatch, error, after_commit=True)
    lake.commit("samples", [folder.sample()], receiver_id="a", position=1)
    assert folder.sample_count() == len(calls) == 1
    assert lake.snapshot().positions == {"a": 1}


@pytest.mark.parametrize("error", [DeltaError("timed out"), OSError(5, "lost")])
def test_a_commit_that_failed_is_reported_and_can_be_repeated(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """LAKE-1."""
    lake = folder.open()
    file = folder.sample()
    fail_once(monkeypatch, error, after_commit=False)
    with pytest.raises(StorageUnavailable, match="position 1 failed"):
        lake.commit("samples", [file], receiver_id="a", position=1)
    assert folder.sample_count() == 0
    assert lake.commit("samples", [file], receiver_id="a", position=1)
    assert folder.sample_count() == 1


def test_a_conflict_is_tried_again_with_the_same_file(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = folder.open()
    calls = fail_once(monkeypatch, CommitFailedError("conflict"), after_commit=False)
    assert lake.commit("samples", [folder.sample()], receiver_id="a", position=1)
    assert len(calls) == 2
    assert folder.sample_count() == 1


def test_endless_conflicts_are_given_up(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    lake = folder.open()

    def conflict(*_: Any, **__: Any) -> None:
        raise CommitFailedError("conflict")

    monkeypatch.setattr(DeltaTable, "create_write_transaction", conflict)
    with pytest.raises(StorageUnavailable, match="10 conflicts in a row"):
        lake.commit("samples", [folder.sample()], receiver_id="a", position=1)


def test_a_flush_without_samples_moves_the_position_on(folder: Folder) -> None:
    """A replay begins at the position of `samples`; other tables need no empty commit."""
    lake = folder.open()
    assert lake.commit("samples", [], receiver_id="a", position=4)
    assert not lake.commit("series", [], receiver_id="a", position=4)
    assert folder.open().position("samples", "a") == 4
    assert DeltaTable(folder.root / "series").version() == 0


def test_an_upload_that_nothing_refers_to_is_not_read(folder: Folder) -> None:
    """Killed between upload and commit: the flush comes again under another name."""
    lake = folder.open()
    lake.upload("samples", [folder.sample()])
    assert len(list(folder.root.glob("samples/*/f-*.parquet"))) == 1
    assert lake.snapshot().sample_files(None, *ALL_TIME) == []
    again = folder.open()
    again.commit("samples", [folder.sample()], receiver_id="a", position=1)
    assert folder.sample_count() == 1


def test_a_flush_over_many_days_uploads_all_of_them(folder: Folder) -> None:
    lake = folder.open()
    row = ("up", 1, DAY_START_MS, 0, 0, "")
    files = [
        write_rows(folder.cut / f"f-{day}.parquet", [row], partition=f"2026-11-{day:02d}")
        for day in range(1, 21)
    ]
    lake.upload("samples", files)
    lake.commit("samples", files, receiver_id="a", position=1)
    assert folder.sample_count() == 20


def test_a_file_that_waited_half_of_vacuums_time_is_put_again(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = folder.open()
    puts: list[str] = []
    put_file = FolderStore.put_file

    def note(self: FolderStore, local_path: Path, key: str) -> None:
        puts.append(local_path.name)
        put_file(self, local_path, key)

    monkeypatch.setattr(FolderStore, "put_file", note)
    young, old = folder.sample(), folder.sample()
    lake.upload("samples", [old])
    folder.clock.now_s += UPLOAD_AGE_S_MAX
    lake.upload("samples", [young])
    lake.commit("samples", [young, old], receiver_id="a", position=1)
    assert puts == [old.path.name, young.path.name, old.path.name]
    assert folder.sample_count() == 2


def test_a_failed_upload_commits_nothing(folder: Folder) -> None:
    lake = folder.open()
    file = folder.sample()
    file.path.unlink()
    with pytest.raises(StorageUnavailable):
        lake.commit("samples", [file], receiver_id="a", position=1)
    assert DeltaTable(folder.root / "samples").version() == 0


def test_a_reported_commit_and_all_before_it_are_synced(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LAKE-8: another process's entry may lie below ours without an fsync."""
    lake, other = folder.open(), folder.open()
    other.commit("samples", [folder.sample()], receiver_id="b", position=1)
    synced: list[str] = []
    fsync = os.fsync

    def note(descriptor: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    lake.commit("samples", [folder.sample()], receiver_id="a", position=1)
    log = folder.root / "samples/_delta_log"
    assert synced[-4:] == [*(str(log / f"{number:020d}.json") for number in range(3)), str(log)]


def test_a_commit_whose_fsync_failed_is_not_reported(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LAKE-8: repeated, it finds its position and syncs."""
    lake = folder.open()
    file = folder.sample()
    synced: list[list[str]] = []
    sync = FolderStore.sync

    def fail_first(self: FolderStore, keys: Any) -> None:
        synced.append(list(keys))
        if len(synced) == 1:
            raise StorageUnavailable("fsync failed")
        sync(self, synced[-1])

    monkeypatch.setattr(FolderStore, "sync", fail_first)
    with pytest.raises(StorageUnavailable, match="fsync failed"):
        lake.commit("samples", [file], receiver_id="a", position=1)
    assert lake.snapshot().positions == {"a": 1}
    assert not lake.commit("samples", [file], receiver_id="a", position=1)
    assert synced[1] == synced[0]
    assert folder.sample_count() == 1


# checkpoints


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> int:
    """Checkpoints every 5 versions instead of 50."""
    monkeypatch.setattr(table_module, "CHECKPOINT_VERSIONS", 5)
    return 5


def checkpoints(folder: Folder) -> list[int]:
    found = (folder.root / "samples/_delta_log").glob("*.checkpoint.parquet")
    return sorted(int(path.name[:20]) for path in found)


def test_checkpoints_come_at_intervals_and_lose_nothing(folder: Folder, often: int) -> None:
    lake = folder.open()
    for position in range(1, 13):
        lake.commit("samples", [folder.sample()], receiver_id="a", position=position)
        assert lake.snapshot().positions == {"a": position}
    assert checkpoints(folder) == [4, 9]
    assert often == 5
    assert folder.sample_count() == 12
    assert folder.open().position("samples", "a") == 12


def test_a_process_that_restarts_often_makes_checkpoints_too(folder: Folder, often: int) -> None:
    for position in range(1, often + 1):
        lake = folder.open()
        lake.commit("samples", [folder.sample()], receiver_id="a", position=position)
        lake.close()
    assert checkpoints(folder) == [4]


def test_a_failed_checkpoint_is_logged_and_not_fatal(
    folder: Folder, often: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: DeltaTable) -> None:
        raise DeltaError("no space left")

    monkeypatch.setattr(DeltaTable, "create_checkpoint", fail)
    lake = folder.open()
    for position in range(1, often + 3):
        assert lake.commit("samples", [folder.sample()], receiver_id="a", position=position)
    assert checkpoints(folder) == []
    assert folder.sample_count() == often + 2


def test_expired_log_entries_go_and_nothing_else(folder: Folder, often: int) -> None:
    """Rows and positions live on in the checkpoint; views that hold the table follow it."""
    lake, reader = folder.open(), folder.open()
    reader.snapshot()
    log = folder.root / "samples/_delta_log"
    week_ago_s = time.time() - 7 * 86_400
    for position in range(1, 2 * often + 2):
        lake.commit("samples", [folder.sample()], receiver_id="a", position=position)
        for path in log.iterdir():
            os.utime(path, (week_ago_s, week_ago_s))
    assert not (log / f"{0:020d}.json").exists()
    assert folder.sample_count() == 2 * often + 1
    assert folder.open().position("samples", "a") == 2 * often + 1
    files = reader.snapshot(force=True).sample_files(None, *ALL_TIME)
    assert len(files) == 2 * often + 1
    assert reader.commit("samples", [folder.sample()], receiver_id="b", position=1)
    assert folder.sample_count() == 2 * often + 2


# snapshots


def test_own_commits_are_in_the_next_snapshot(folder: Folder) -> None:
    """LAKE-10: when the head lets go of rows, the lake has them."""
    lake = folder.open()
    lake.snapshot()
    for position in (1, 2, 3):
        lake.commit("samples", [folder.sample()], receiver_id="a", position=position)
        snapshot = lake.snapshot()
        assert snapshot.positions == {"a": position}
        assert len(snapshot.sample_files("up", *ALL_TIME)) == position
        assert lake.snapshot() is snapshot


def test_commits_of_others_are_seen_after_the_refresh_interval(folder: Folder) -> None:
    lake, other = folder.open(), folder.open()
    before = lake.snapshot()
    other.commit("samples", [folder.sample()], receiver_id="b", position=1)
    folder.clock.now_s += 4.9
    assert lake.snapshot() is before
    folder.clock.now_s += 0.1
    assert len(lake.snapshot().sample_files("up", *ALL_TIME)) == 1
    assert before.sample_files("up", *ALL_TIME) == []


def test_commits_of_others_are_seen_at_once_when_forced(folder: Folder) -> None:
    lake, other = folder.open(), folder.open()
    lake.snapshot()
    other.commit("samples", [folder.sample()], receiver_id="b", position=1)
    assert len(lake.snapshot(force=True).sample_files("up", *ALL_TIME)) == 1


def test_a_clock_that_jumps_back_does_not_freeze_the_snapshot(folder: Folder) -> None:
    lake, other = folder.open(), folder.open()
    lake.snapshot()
    other.commit("samples", [folder.sample()], receiver_id="b", position=1)
    folder.clock.now_s -= 3600
    assert len(lake.snapshot().sample_files("up", *ALL_TIME)) == 1


def test_removed_files_leave_the_snapshot(folder: Folder) -> None:
    lake = folder.open()
    lake.commit("samples", [folder.sample()], receiver_id="a", position=1)
    assert len(lake.snapshot().sample_files("up", *ALL_TIME)) == 1
    DeltaTable(folder.root / "samples").delete()
    assert lake.snapshot(force=True).sample_files("up", *ALL_TIME) == []


def test_series_of_every_sample_are_in_the_same_snapshot(folder: Folder) -> None:
    """LAKE-3: another process commits both while a snapshot is being taken."""
    lake, other = folder.open(), folder.open()
    refresh = lake._views["samples"].refresh

    def refresh_then_commit_elsewhere(
        app_ids: Sequence[str] = (),
    ) -> tuple[TableFiles, dict[str, int]]:
        files = refresh(app_ids)
        other.commit("series", [folder.series()], receiver_id="b", position=1)
        other.commit("samples", [folder.sample()], receiver_id="b", position=1)
        return files

    lake._views["samples"].refresh = refresh_then_commit_elsewhere  # type: ignore[method-assign]
    snapshot = lake.snapshot()
    assert len(snapshot.series_files("up", ["2026-11"])) == 1
    assert snapshot.sample_files("up", *ALL_TIME) == []


def test_positions_belong_to_the_files_of_the_same_snapshot(folder: Folder) -> None:
    """LAKE-10, while commits and snapshots run in threads: one sample per position."""
    lake = folder.open()
    lake.position("samples", "a")
    files = [folder.sample() for _ in range(30)]
    failures: list[str] = []
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            snapshot = lake.snapshot(force=True)
            count = len(snapshot.sample_files("up", *ALL_TIME))
            if count != snapshot.positions.get("a", 0):
                failures.append(f"{count} files at {snapshot.positions}")

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    try:
        for position, file in enumerate(files, 1):
            lake.commit("samples", [file], receiver_id="a", position=position)
            assert lake.snapshot().positions["a"] >= position
    finally:
        stop.set()
        for reader in readers:
            reader.join()
    assert failures == []


def test_a_snapshot_that_cannot_be_refreshed_is_an_error(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = folder.open()
    lake.snapshot()

    def fail(*_: Any, **__: Any) -> None:
        raise DeltaError("timed out")

    with monkeypatch.context() as patch:
        patch.setattr(DeltaTable, "update_incremental", fail)
        patch.setattr(DeltaTable, "__init__", fail)
        with pytest.raises(StorageUnavailable, match="timed out"):
            lake.snapshot(force=True)
    assert lake.snapshot(force=True).versions == {"samples": 0, "series": 0, "metadata": 0}


def test_a_reader_asks_again_after_it_was_refused(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FolderStore(folder.root)
    lake = Lake(store, refresh_interval_s=5, is_read_only=True, clock=folder.clock)
    folder.opened.append(lake)
    asked = []

    def refuse() -> None:
        asked.append(1)
        raise ConfigError("the secret of the key is wrong")

    with monkeypatch.context() as patch:
        patch.setattr(store, "check", refuse)
        for _ in range(3):
            with pytest.raises(StorageUnavailable, match="the secret of the key is wrong"):
                lake.snapshot()
        assert len(asked) == 1, "a refusal is remembered as long as a snapshot"
    folder.clock.now_s += 5
    assert len(lake.snapshot().samples) == 0


def test_a_lake_that_is_closed_within_a_commit_keeps_its_lock(folder: Folder) -> None:
    """LAKE-6: the commit may still arrive."""
    lake = folder.open(single_writer=True)
    with lake._commit_lock:
        lake.close()
        with pytest.raises(AlreadyRunning):
            folder.open(single_writer=True)
    lake.close()
    folder.open(single_writer=True)


# a log that a power cut tore


def truncate(to_bytes: int) -> Callable[[Path], None]:
    return lambda path: os.truncate(path, to_bytes)


@pytest.mark.parametrize("damage", [truncate(0), truncate(100)], ids=["empty", "torn"])
def test_a_torn_last_entry_is_set_aside_and_the_flush_repeated(
    folder: Folder, damage: Callable[[Path], None]
) -> None:
    """LAKE-8: the entry was never reported."""
    lake = folder.open()
    for position in (1, 2, 3):
        lake.commit("samples", [folder.sample()], receiver_id="a", position=position)
    lake.close()
    log = folder.root / "samples/_delta_log"
    damage(log / f"{2:020d}.json")
    again = folder.open()
    assert again.position("samples", "a") == 1
    assert sorted(path.name for path in log.glob("*.torn")) == [
        f"{number:020d}.json.torn" for number in (2, 3)
    ]
    for position in (2, 3):
        assert again.commit("samples", [folder.sample()], receiver_id="a", position=position)
    assert folder.sample_count() == 3


def test_a_torn_checkpoint_is_set_aside(folder: Folder, often: int) -> None:
    """LAKE-8: the entries that it stands for are still there."""
    lake = folder.open()
    for position in range(1, often + 2):
        lake.commit("samples", [folder.sample()], receiver_id="a", position=position)
    lake.close()
    [checkpoint] = (folder.root / "samples/_delta_log").glob("*.checkpoint.parquet")
    os.truncate(checkpoint, 50)
    again = folder.open()
    assert again.position("samples", "a") == often + 1
    assert folder.sample_count() == often + 1
    assert again.commit("samples", [folder.sample()], receiver_id="a", position=often + 2)
    assert checkpoints(folder) == [often + 2]


def test_a_whole_log_is_left_alone(folder: Folder, often: int) -> None:
    lake = folder.open()
    for position in range(1, often + 2):
        lake.commit("samples", [folder.sample()], receiver_id="a", position=position)
    log = folder.root / "samples/_delta_log"
    before = sorted(path.name for path in log.iterdir())
    folder.open()
    assert sorted(path.name for path in log.iterdir()) == before
