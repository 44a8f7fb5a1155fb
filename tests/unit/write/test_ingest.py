"""The ingest thread: what is safe, what is readable, what a replay gives."""

import asyncio
import errno
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from bridge.errors import CorruptBody, Overloaded, StorageUnavailable, TooManySamples
from bridge.lake.head_view import HeadRows
from bridge.model.options import Size
from bridge.wire.decoded import Limits, MetadataEntry
from bridge.wire.series import SeriesRegistry
from bridge.write.head import METADATA_BYTES_MAX, METADATA_TEXT_MAX, Head, MetadataTable
from bridge.write.ingest import CutJob, Ingest, WriteJob
from bridge.write.wal.log import WalSettings, WriteAheadLog
from bridge.write.wal.record import BLOCK_BYTES
from tests.oracle.bodies import Series, snappy, v1_body, v2_body

NOW_MS = 1_790_000_000_000
Key = tuple[str, int, float, int]


class Rig:
    """A WAL, a head and an ingest thread on a folder."""

    def __init__(
        self, path: Path, limits: Limits | None = None, head_bytes_max: int = 1 << 30
    ) -> None:
        self.loop = asyncio.new_event_loop()
        self.wal = WriteAheadLog(WalSettings(path=path))
        self.head = Head("me", lambda: SeriesRegistry((b"replica",), seed=7))
        self.full_count = 0
        self.ingest = Ingest(
            self.wal,
            self.head,
            limits or Limits(),
            head_bytes_max,
            1 << 40,
            0,
            self.on_full,
            self.answer,
        )
        self.answers = threading.Semaphore(0)
        self.report = self.ingest.replay(0, 0, self.make_room)
        self.thread = threading.Thread(target=self.ingest.run)
        self.thread.start()

    def on_full(self) -> None:
        self.full_count += 1

    def answer(self, jobs: list[WriteJob]) -> None:
        for _ in jobs:
            self.answers.release()

    def make_room(self) -> None:
        raise AssertionError("the head is large enough")

    def write(self, *bodies: bytes, version: int = 1, receive_ms: int = NOW_MS) -> list[WriteJob]:
        """Submits bodies and waits for their answers."""
        unawaited = asyncio.Future[None](loop=self.loop)
        jobs = [WriteJob(body, version, receive_ms, unawaited) for body in bodies]
        for job in jobs:
            self.ingest.submit(job)
        for _ in jobs:
            assert self.answers.acquire(timeout=10)
        return jobs

    def rows(self) -> set[Key]:
        """(name, timestamp, value, start) of everything readable."""
        found: list[tuple[str, int, float]] = []
        for _, part in self.head.view().parts:
            assert isinstance(part, HeadRows)
            registry = part.registry
            for refs, timestamps_ms, values in part.blocks:
                names = [
                    dict(registry.pair_texts(pair_ids))[b"__name__"].decode()
                    for pair_ids in (
                        np.array([pair], np.uint32) for pair in registry.metric_ids(refs)
                    )
                ]
                found += zip(names, timestamps_ms.tolist(), values.tolist(), strict=True)
        starts = [
            start
            for block in self.head._open.blocks
            for start in block.start_timestamps_ms[: block.length].tolist()
        ]
        keys = {(*row, start) for row, start in zip(found, starts, strict=True)}
        assert len(keys) == len(found)
        return keys

    def close(self) -> None:
        self.ingest.stop()
        self.thread.join(10)
        self.wal.close()
        self.loop.close()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Rig]]:
    rigs: list[Rig] = []

    def make(**settings: object) -> Rig:
        if rigs:
            rigs[-1].close()
        rigs.append(Rig(tmp_path, **settings))  # type: ignore[arg-type]
        return rigs[-1]

    yield make
    rigs[-1].close()


def named(name: str, *samples: tuple[int, float]) -> Series:
    return Series({"__name__": name, "job": "x"}, samples)


def test_accepted_samples_are_readable_and_come_back_after_a_restart(
    start: Callable[..., Rig],
) -> None:
    rig = start()
    job, other = rig.write(
        v1_body([named("a", (NOW_MS, 1.5), (NOW_MS + 1, 2.5)), named("b", (5, 3.0))]),
        v1_body([named("a", (NOW_MS + 2, 4.0))]),
    )
    assert job.decoded is not None
    assert other.decoded is not None
    assert (job.decoded.sample_count, other.decoded.sample_count) == (3, 1)
    expected = {
        ("a", NOW_MS, 1.5, 0),
        ("a", NOW_MS + 1, 2.5, 0),
        ("b", 5, 3.0, 0),
        ("a", NOW_MS + 2, 4.0, 0),
    }
    assert rig.rows() == expected
    again = start()
    assert again.report.records == 2
    assert again.rows() == expected


def test_start_timestamps_of_version_2_are_kept(start: Callable[..., Rig]) -> None:
    series = Series({"__name__": "c"}, [(NOW_MS, 1.0), (NOW_MS + 1, 2.0)], starts_ms=[0, 77])
    rig = start()
    rig.write(v2_body([series]), version=2)
    expected = {("c", NOW_MS, 1.0, 0), ("c", NOW_MS + 1, 2.0, 77)}
    assert rig.rows() == expected
    assert start().rows() == expected


def test_a_replay_gives_the_very_rows_of_the_receipt(start: Callable[..., Rig]) -> None:
    """WRITE-2: whatever the limits and the clock are by then."""
    tight = Limits(series_count_max=2)
    rig = start(limits=tight)
    (job,) = rig.write(
        v1_body(
            [
                named("a", (NOW_MS, 1.0), (NOW_MS + 600_001, 2.0), (NOW_MS + 600_000, 3.0)),
                named("b", (NOW_MS, 4.0)),
                named("over_the_limit", (NOW_MS, 5.0)),
                Series({"job": "nameless"}, [(NOW_MS, 6.0)]),
                named("a", (NOW_MS + 1, 7.0)),
            ]
        )
    )
    assert job.decoded is not None
    assert job.decoded.rejections == {
        "too_far_in_future": 1,
        "series_limit": 1,
        "missing_name": 1,
    }
    expected = rig.rows()
    assert {row[2] for row in expected} == {1.0, 3.0, 4.0, 7.0}
    assert start(limits=Limits(series_count_max=100)).rows() == expected
    assert start(limits=Limits(series_count_max=1)).rows() == expected


def test_a_corrupt_body_among_good_ones_costs_only_itself(start: Callable[..., Rig]) -> None:
    rig = start()
    good, corrupt, lying, late = rig.write(
        v1_body([named("a", (NOW_MS, 1.0))]),
        snappy(b"\x0a\xff\x01truncated"),
        b"\x10not snappy at all",
        v1_body([named("a", (1, 2.0))]),
    )
    assert good.error is None
    assert isinstance(corrupt.error, CorruptBody)
    assert isinstance(lying.error, CorruptBody)
    assert late.error is None
    assert {row[1] for row in rig.rows()} == {NOW_MS, 1}


def test_more_samples_than_a_request_may_hold_are_refused(start: Callable[..., Rig]) -> None:
    rig = start(limits=Limits(sample_count_max=10))
    (job,) = rig.write(v1_body([named("a", *((NOW_MS + i, 1.0) for i in range(11)))]))
    assert isinstance(job.error, TooManySamples)
    assert rig.rows() == set()


def test_a_body_larger_than_a_block_has_its_own(start: Callable[..., Rig]) -> None:
    rig = start()
    count = 140_000
    (job,) = rig.write(v1_body([named("a", *((i + 1, float(i)) for i in range(count)))]))
    assert job.error is None
    assert rig.head.row_count == count
    assert start().head.row_count == count


def test_nothing_is_readable_before_it_is_safe(
    start: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """WRITE-1 and WAL-4: a failed fsync withdraws the rows and says 503."""
    rig = start()

    def failing(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", failing)
    (job,) = rig.write(v1_body([named("a", (NOW_MS, 1.0))]))
    assert isinstance(job.error, StorageUnavailable)
    assert rig.rows() == set()
    monkeypatch.undo()
    (job,) = rig.write(v1_body([named("a", (NOW_MS + 1, 2.0))]))
    assert job.error is None
    assert rig.rows() == {("a", NOW_MS + 1, 2.0, 0)}


def test_a_full_disk_says_503_and_recovers(
    start: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """WAL-3."""
    rig = start()

    def full(fd: int, data: memoryview, offset: int) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    (job,) = rig.write(v1_body([named("a", (NOW_MS, 1.0))]))
    assert isinstance(job.error, StorageUnavailable)
    assert "No space left" in str(job.error)
    monkeypatch.undo()
    (job,) = rig.write(v1_body([named("a", (NOW_MS, 1.0))]))
    assert job.error is None
    assert rig.rows() == {("a", NOW_MS, 1.0, 0)}
    assert start().rows() == {("a", NOW_MS, 1.0, 0)}


def test_a_cut_covers_exactly_the_rows_that_it_holds(start: Callable[..., Rig]) -> None:
    """WRITE-3."""
    rig = start()
    rig.write(v1_body([named("a", (NOW_MS, 1.0))]), v1_body([named("a", (NOW_MS + 1, 2.0))]))
    job = CutJob(lambda _: None)
    rig.ingest.submit(job)
    assert job.answered.wait(10)
    assert job.rows is not None
    assert (job.rows.position, job.rows.row_count) == (2, 2)
    rig.write(v1_body([named("a", (NOW_MS + 2, 3.0))]))
    positions = [position for position, _ in rig.head.view().parts]
    assert positions[0] == 2
    assert rig.head.row_count == 3


def test_a_full_head_refuses_while_its_last_span_is_being_cut(
    start: Callable[..., Rig],
) -> None:
    rig = start(head_bytes_max=40)
    rig.write(v1_body([named("a", (1, 1.0), (2, 2.0))]))
    assert rig.full_count == 1
    job = CutJob(lambda _: None)
    rig.ingest.submit(job)
    assert job.answered.wait(10)
    rig.write(v1_body([named("a", (3, 1.0), (4, 2.0))]))
    (refused,) = rig.write(v1_body([named("a", (5, 1.0))]))
    assert isinstance(refused.error, Overloaded)
    assert "head.max-bytes" in str(refused.error)
    rig.head.cut(1, None)
    rig.head._open.blocks.clear()
    (accepted,) = rig.write(v1_body([named("a", (5, 1.0))]))
    assert accepted.error is None


def test_the_head_is_bounded_within_a_group_too(start: Callable[..., Rig]) -> None:
    rig = start(head_bytes_max=2000)
    body = v1_body([named("a", *((i + 1, 1.0) for i in range(50)))])
    jobs = rig.write(*[body] * 20)
    refused = [job for job in jobs if isinstance(job.error, Overloaded)]
    assert len(refused) == 16, "four bodies of 1000 bytes of rows are twice the limit"
    assert rig.head.row_count == 200


def test_a_log_that_the_lake_has_is_never_full(start: Callable[..., Rig]) -> None:
    rig = start()
    rig.ingest._wal_bytes_max = 1
    (accepted,) = rig.write(v1_body([named("a", (1, 1.0))]))
    (refused,) = rig.write(v1_body([named("a", (2, 1.0))]))
    assert accepted.error is None
    assert isinstance(refused.error, StorageUnavailable)
    rig.ingest.allow_removal(1)
    (accepted,) = rig.write(v1_body([named("a", (2, 1.0))]))
    assert accepted.error is None


def test_a_sink_that_lags_holds_segments_up_to_the_cap_and_nobody_up(
    start: Callable[..., Rig],
) -> None:
    """SINK-5."""
    rig = start()
    rig.ingest.keep_for(lambda: 0)
    rig.wal._settings = WalSettings(path=rig.wal._path, segment_size=Size(1))
    for number in range(1, 6):
        (job,) = rig.write(v1_body([named("a", (number, 1.0))]))
        assert job.error is None
        rig.ingest.allow_removal(number)
    assert rig.wal.first_number == 1, "all is kept for the sink"
    rig.ingest._wal_bytes_max = rig.wal.size_bytes
    (job,) = rig.write(v1_body([named("a", (6, 1.0))]))
    assert job.error is None
    rig.write(v1_body([named("a", (7, 1.0))]))
    assert rig.wal.first_number > 1, "the oldest are gone"
    assert rig.wal.last_number == 7


def test_a_sink_that_lags_holds_nobody_up_where_the_disk_is_smaller_than_the_cap(
    start: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """SINK-5."""
    rig = start()
    rig.ingest.keep_for(lambda: 0)
    rig.wal._settings = WalSettings(path=rig.wal._path, segment_size=Size(1))
    disk_bytes = 20 * BLOCK_BYTES
    monkeypatch.setattr(rig.wal, "free_bytes", lambda: disk_bytes - rig.wal.size_bytes)
    rig.ingest._free_bytes_min = 4 * BLOCK_BYTES
    for number in range(1, 30):
        (job,) = rig.write(v1_body([named("a", (number, 1.0))]))
        rig.ingest.allow_removal(rig.wal.last_number)
        if isinstance(job.error, StorageUnavailable):  # the room comes with the next one
            (job,) = rig.write(v1_body([named("a", (number, 1.0))]))
        assert job.error is None
    assert rig.wal.size_bytes < disk_bytes
    assert rig.wal.first_number > 15


def test_a_disk_that_was_made_read_only_ends_no_thread(
    start: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = start()
    rig.wal._settings = WalSettings(path=rig.wal._path, segment_size=Size(1))
    for number in (1, 2, 3):
        rig.write(v1_body([named("a", (number, 1.0))]))

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", fail)
        rig.ingest.allow_removal(3)
        (job,) = rig.write(v1_body([named("a", (4, 1.0))]))
    assert job.error is None
    with monkeypatch.context() as patch:
        patch.setattr(os, "statvfs", fail)
        (job,) = rig.write(v1_body([named("a", (5, 1.0))]))
        assert isinstance(job.error, StorageUnavailable)
    (job,) = rig.write(v1_body([named("a", (6, 1.0))]))
    assert job.error is None
    assert rig.wal.first_number == 4


METADATA = snappy(b"\x1a\x08\x08\x01\x12\x01x\x22\x01h")  # counter x, help h


def test_metadata_of_a_request_that_the_disk_refused_is_not_forgotten(
    start: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = start()

    def failing(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", failing)
    (job,) = rig.write(METADATA)
    assert isinstance(job.error, StorageUnavailable)
    monkeypatch.undo()
    (again, _) = rig.write(METADATA, v1_body([named("a", (1, 1.0))]))
    assert again.error is None
    cut = CutJob(lambda _: None)
    rig.ingest.submit(cut)
    assert cut.answered.wait(10)
    assert cut.rows is not None
    assert [entry.metric for entry, _ in cut.rows.metadata.entries()] == ["x"]


def test_metadata_is_bounded_and_the_oldest_goes_first() -> None:
    table = MetadataTable()
    count = METADATA_BYTES_MAX // METADATA_TEXT_MAX + 100
    for index in range(count):
        table.put(MetadataEntry(f"m{index}", 1, "h" * 10 * METADATA_TEXT_MAX, ""), index)
    entries = table.entries()
    assert 0 < len(entries) < count
    assert entries[-1][0].metric == f"m{count - 1}"
    assert all(len(entry.help) == METADATA_TEXT_MAX for entry, _ in entries)
    table.put(MetadataEntry(entries[0][0].metric, 2, "", ""), 7)
    assert table.entries()[-1][0].type == 2
    assert len(table) == len(entries)


def test_waiting_requests_share_an_fsync(start: Callable[..., Rig]) -> None:
    rig = start()
    rig.write(*[v1_body([named("a", (i + 1, 1.0))]) for i in range(200)])
    assert rig.wal.last_number == 200
    assert rig.ingest.fsync_count < 200
