"""The lake sink: order, once, and never given up, over a real lake that fails on purpose."""

import asyncio
import queue
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import structlog
from deltalake import DeltaTable
from prometheus_client import CollectorRegistry

from bridge.errors import StorageUnavailable
from bridge.lake.data_file import DataFile
from bridge.lake.lake import Lake
from bridge.lake.schema import SAMPLES
from bridge.lake.store import open_store
from bridge.model.options import Size
from bridge.wire.decoded import Limits
from bridge.wire.series import SeriesRegistry
from bridge.write.cut import Cutter
from bridge.write.head import Head
from bridge.write.ingest import Ingest, WriteJob
from bridge.write.sinks import lake as sink_module
from bridge.write.sinks.lake import LakeSink, LakeSinkMetrics
from bridge.write.wal.log import WalSettings, WriteAheadLog
from tests.oracle.bodies import Series, v1_body

NOW_MS = 1_790_000_000_000


class FaultyLake(Lake):
    """A lake whose commits fail as often as it is told, before or after they have happened."""

    fail_before = 0
    fail_after = 0
    fails_after_samples = False
    is_away = False

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self.committed: list[tuple[str, int]] = []

    def connect(self) -> None:
        if self.is_away:
            raise StorageUnavailable("the store is away")
        super().connect()

    def commit(
        self, table: str, files: Sequence[DataFile], *, receiver_id: str, position: int
    ) -> bool:
        if self.is_away:
            raise OSError("the store is away")
        if self.fail_before:
            self.fail_before -= 1
            raise OSError("no answer, nothing happened")
        done = super().commit(table, files, receiver_id=receiver_id, position=position)
        self.committed.append((table, position))
        if self.fails_after_samples and table == SAMPLES:
            raise OSError("no answer, and yet it happened")
        if self.fail_after:
            self.fail_after -= 1
            raise OSError("no answer, and yet it happened")
        return done


class Rig:
    """WAL, head, ingest and sink with their threads, on a folder."""

    def __init__(self, folder: Path, *, is_connected: bool = True) -> None:
        self.folder = folder
        self.is_closed = False
        self.loop = asyncio.new_event_loop()
        self.answers: queue.SimpleQueue[WriteJob] = queue.SimpleQueue()
        self.lake = FaultyLake(open_store(str(folder / "lake")), refresh_interval_s=0)
        self.lake.is_away = not is_connected
        if is_connected:
            self.lake.connect()
        self.wal = WriteAheadLog(WalSettings(folder / "wal", segment_size=Size(1)))
        self.head = Head(self.wal.receiver_id, lambda: SeriesRegistry(seed=3))
        self.ingest = Ingest(
            self.wal,
            self.head,
            Limits(),
            1 << 30,
            1 << 40,
            0,
            lambda: None,
            self.answer,
        )
        self.sink = LakeSink(
            self.wal,
            self.ingest,
            self.head,
            self.lake,
            Cutter(folder / "wal" / "cut", 60),
            folder / "wal" / "lake.cursor",
            3600,
            LakeSinkMetrics(CollectorRegistry()),
        )
        try:
            self.replayed = self.sink.recover().records
        except BaseException:
            self.threads: list[threading.Thread] = []
            self.close()
            raise
        runs = (self.ingest.run, self.sink.run_cutter, self.sink.run_committer)
        self.threads = [threading.Thread(target=run) for run in runs]
        for thread in self.threads:
            thread.start()

    def answer(self, jobs: list[WriteJob]) -> None:
        for job in jobs:
            self.answers.put(job)

    def write(self, number: int) -> None:
        body = v1_body([Series({"__name__": "m"}, [(NOW_MS + number, float(number))])])
        self.ingest.submit(WriteJob(body, 1, NOW_MS, asyncio.Future(loop=self.loop)))
        assert self.answers.get(timeout=10).error is None

    def start_flush(self) -> threading.Event:
        flushed = threading.Event()
        self.sink.flush(lambda _: flushed.set())
        return flushed

    def flush(self) -> None:
        assert self.start_flush().wait(20)

    def lake_times(self) -> list[int]:
        """Times in the lake, by an independent reader."""
        table = DeltaTable(str(self.folder / "lake" / SAMPLES)).to_pyarrow_table()
        return sorted(time_ms - NOW_MS for time_ms in table["timestamp_ms"].to_pylist())

    def close(self) -> None:
        if self.is_closed:
            return
        self.is_closed = True
        self.sink.stop()
        self.ingest.stop()
        for thread in self.threads:
            thread.join(20)
            assert not thread.is_alive()
        self.wal.close()
        self.lake.close()
        self.loop.close()


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Rig]]:
    monkeypatch.setattr(sink_module, "RETRY_S_MIN", 0.01)
    monkeypatch.setattr(sink_module, "RETRY_S_MAX", 0.02)
    rigs: list[Rig] = []

    def make(*, is_connected: bool = True) -> Rig:
        if rigs:
            rigs.pop().close()
        rigs.append(Rig(tmp_path, is_connected=is_connected))
        return rigs[-1]

    yield make
    for rig in rigs:
        rig.close()


def test_flushes_commit_in_order_with_samples_last(start: Callable[..., Rig]) -> None:
    """SINK-1."""
    rig = start()
    for number in range(1, 5):
        rig.write(number)
        rig.flush()
    positions = [position for _, position in rig.lake.committed]
    assert positions == sorted(positions)
    for position in range(1, 5):
        tables = [table for table, at in rig.lake.committed if at == position]
        assert tables[-1] == SAMPLES
    assert rig.lake_times() == [1, 2, 3, 4]


def test_segments_stay_until_the_lake_has_their_records(start: Callable[..., Rig]) -> None:
    """SINK-2."""
    rig = start()
    rig.lake.is_away = True
    for number in range(1, 6):
        rig.write(number)
    flushed = rig.start_flush()
    rig.write(6)
    assert rig.wal.segment_count == 6
    assert not flushed.is_set()
    rig.lake.is_away = False
    assert flushed.wait(20)
    rig.write(7)
    rig.write(8)
    assert rig.wal.segment_count <= 3, "at most records 6, 7 and 8"
    again = start()
    again.flush()
    assert again.lake_times() == [1, 2, 3, 4, 5, 6, 7, 8]


def test_what_the_lake_lacks_is_replayed_and_the_rest_is_not(start: Callable[..., Rig]) -> None:
    rig = start()
    rig.write(1)
    rig.flush()
    rig.write(2)
    rig.write(3)
    again = start()
    assert again.replayed == 2
    again.flush()
    assert again.lake_times() == [1, 2, 3]


@pytest.mark.parametrize("happened", [False, True])
def test_a_commit_that_fails_is_tried_again_and_happens_once(
    start: Callable[..., Rig], happened: bool
) -> None:
    """SINK-3."""
    rig = start()
    rig.write(1)
    if happened:
        rig.lake.fail_after = 3
    else:
        rig.lake.fail_before = 5
    rig.flush()
    assert rig.lake_times() == [1]
    assert rig.sink.last_error is None


def test_a_restart_after_an_unknown_outcome_doubles_nothing(start: Callable[..., Rig]) -> None:
    rig = start()
    rig.write(1)
    rig.flush()
    rig.write(2)
    rig.lake.fails_after_samples = True
    rig.start_flush()
    deadline_s = time.monotonic() + 10
    while rig.lake.committed.count((SAMPLES, 2)) < 3:
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
    again = start()
    assert again.replayed == 0, "the position of record 2 is in the lake"
    again.flush()
    assert again.lake_times() == [1, 2]


def test_a_cut_that_fails_is_tried_again(
    start: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = start()
    rig.write(1)
    real, failures = Cutter.cut, [3]

    def failing(self: Cutter, rows: object) -> object:
        if failures[0]:
            failures[0] -= 1
            raise OSError(28, "No space left on device")
        return real(self, rows)  # type: ignore[arg-type]

    monkeypatch.setattr(Cutter, "cut", failing)
    rig.flush()
    assert failures == [0]
    assert rig.lake_times() == [1]


def test_a_flush_with_nothing_new_is_answered(start: Callable[..., Rig]) -> None:
    rig = start()
    rig.flush()
    rig.write(1)
    rig.flush()
    rig.flush()
    assert rig.lake_times() == [1]


def check_ledger(rig: Rig, accepted: int) -> None:
    """accepted = delivered + pending + dropped, and delivered is what lies in the lake."""
    cursor = rig.sink.cursor
    pending = rig.wal.safe_sample_total - cursor.sample_total
    assert cursor.delivered == len(rig.lake_times())
    assert cursor.dropped == {}
    assert accepted == cursor.delivered + pending
    assert cursor.sample_total - cursor.start_total == cursor.delivered


def test_a_start_without_the_lake_keeps_what_comes_and_doubles_nothing(
    start: Callable[..., Rig],
) -> None:
    rig = start()
    rig.write(1)
    rig.flush()
    rig.write(2)
    rig = start(is_connected=False)
    assert rig.replayed == 1
    rig.write(3)
    flushed = rig.start_flush()
    rig = start(is_connected=False)
    rig.write(4)
    flushed = rig.start_flush()
    assert not flushed.is_set()
    check_ledger(rig, 4)
    rig.lake.is_away = False
    assert flushed.wait(20)
    assert rig.lake_times() == [1, 2, 3, 4]
    check_ledger(rig, 4)


def test_a_cut_that_may_be_committed_is_made_again_with_the_same_end(
    start: Callable[..., Rig],
) -> None:
    """SINK-6: killed between the commit and its answer, started while the lake is away."""
    rig = start()
    rig.write(1)
    rig.flush()
    rig.write(2)
    rig.write(3)
    rig.lake.fails_after_samples = True
    rig.start_flush()
    wait_for(lambda: (SAMPLES, 3) in rig.lake.committed)
    rig.write(4)
    rig = start(is_connected=False)
    assert rig.replayed == 3, "nobody knows whether the lake has 2 and 3"
    rig.write(5)
    flushed = rig.start_flush()
    rig.lake.is_away = False
    assert flushed.wait(20)
    assert rig.lake_times() == [1, 2, 3, 4, 5]
    check_ledger(rig, 5)


def test_a_cut_that_was_not_committed_is_made_again_too(start: Callable[..., Rig]) -> None:
    """SINK-6."""
    rig = start()
    rig.write(1)
    rig.lake.fail_before = 1 << 30
    rig.start_flush()
    wait_for(lambda: rig.sink.cursor.attempt_position == 1)
    rig.write(2)
    rig = start(is_connected=False)
    flushed = rig.start_flush()
    rig.lake.is_away = False
    assert flushed.wait(20)
    rig = start()
    assert rig.lake_times() == [1, 2]
    check_ledger(rig, 2)


@pytest.mark.parametrize("is_connected", [True, False])
def test_another_lake_under_the_same_name_takes_back_no_count(
    start: Callable[..., Rig], tmp_path: Path, *, is_connected: bool
) -> None:
    """A wrong URI, a mount that is missing: what comes goes there, and it is said."""
    rig = start()
    for number in (1, 2):
        rig.write(number)
    rig.flush()
    rig.close()
    shutil.rmtree(tmp_path / "lake")
    with structlog.testing.capture_logs() as logs:
        rig = start(is_connected=is_connected)
        rig.write(3)
        flushed = rig.start_flush()
        rig.lake.is_away = False
        assert flushed.wait(20)
    assert rig.sink.cursor.delivered >= 3
    if not is_connected:
        assert "the lake lacks records" in str(logs)
    assert 3 in rig.lake_times()


def test_without_a_cursor_a_start_needs_the_lake(start: Callable[..., Rig], tmp_path: Path) -> None:
    rig = start()
    rig.write(1)
    rig.close()
    (tmp_path / "wal" / "lake.cursor").unlink()
    with pytest.raises(StorageUnavailable, match=r"lake\.cursor is missing"):
        start(is_connected=False)
    rig = start()
    rig.flush()
    assert rig.lake_times() == [1]
    check_ledger(rig, 1)


def test_an_older_volume_loses_nothing_of_what_it_receives(
    start: Callable[..., Rig], tmp_path: Path
) -> None:
    """Its numbers mean other records than the lake's; it goes on under another receiver id."""
    rig = start()
    rig.write(1)
    rig.flush()
    start().close()
    shutil.copytree(tmp_path / "wal", tmp_path / "backup")
    rig = start()
    for number in (2, 3):
        rig.write(number)
        rig.flush()
    rig.close()
    shutil.rmtree(tmp_path / "wal")
    shutil.copytree(tmp_path / "backup", tmp_path / "wal")
    rig = start(is_connected=False)
    old = rig.wal.receiver_id
    for number in (12, 13, 14):
        rig.write(number)
    flushed = rig.start_flush()
    rig.lake.is_away = False
    assert flushed.wait(20)
    assert rig.wal.receiver_id != old
    assert rig.lake_times() == [1, 2, 3, 12, 13, 14]


def test_a_log_that_ends_before_the_cut_under_way_begins_under_another_id(
    start: Callable[..., Rig], tmp_path: Path
) -> None:
    """The disk lost what the lake may have: new records must not pass for those."""
    rig = start()
    rig.write(1)
    rig.flush()
    rig.write(2)
    rig.write(3)
    rig.lake.fails_after_samples = True
    rig.start_flush()
    wait_for(lambda: (SAMPLES, 3) in rig.lake.committed)
    old = rig.wal.receiver_id
    rig.close()
    (tmp_path / "wal" / f"{3:020d}.wal").unlink()
    rig = start(is_connected=False)
    rig.write(4)
    flushed = rig.start_flush()
    rig.lake.is_away = False
    assert flushed.wait(20)
    assert rig.wal.receiver_id != old
    assert set(rig.lake_times()) == {1, 2, 3, 4}


def test_a_log_that_was_removed_begins_under_another_id(
    start: Callable[..., Rig], tmp_path: Path
) -> None:
    rig = start()
    for number in (1, 2, 3):
        rig.write(number)
    rig.flush()
    old = rig.wal.receiver_id
    rig.close()
    for path in (tmp_path / "wal").glob("*.wal"):
        path.unlink()
    rig = start()
    rig.write(4)
    rig.flush()
    assert rig.wal.receiver_id != old
    assert rig.lake_times() == [1, 2, 3, 4]


def wait_for(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
