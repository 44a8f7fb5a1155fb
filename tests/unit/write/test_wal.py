"""The write-ahead log: what survives which damage."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from bridge.errors import AlreadyRunning, ConfigError, FormatTooNew, StorageUnavailable
from bridge.model.options import Size
from bridge.write.wal.log import ReplayReport, WalSettings, WriteAheadLog
from bridge.write.wal.record import BLOCK_BYTES, HEADER_BYTES


def open_log(path: Path, segment_size: int = 1 << 20) -> WriteAheadLog:
    return WriteAheadLog(WalSettings(path=path, segment_size=Size(segment_size)))


def body_of(number: int) -> bytes:
    return f"body {number} ".encode() * (number % 7 + 1)


def refused_of(number: int) -> bytes:
    return bytes(8 * (number % 3))


def append(wal: WriteAheadLog, count: int) -> None:
    for _ in range(count):
        number = wal.last_number + 1
        wal.append(
            receive_ms=number * 1000,
            fmt=1 + number % 2,
            refused=refused_of(number),
            body=body_of(number),
            sample_count=number,
        )
    wal.sync()


def replay(wal: WriteAheadLog, after: int = 0) -> tuple[list[int], ReplayReport]:
    """Numbers of the records that come back; each is checked to be what was written."""
    report = ReplayReport()
    numbers = []
    for record in wal.replay(after, report):
        assert bytes(record.body) == body_of(record.number)
        assert record.refused == refused_of(record.number)
        assert record.receive_ms == record.number * 1000
        assert record.format == 1 + record.number % 2
        assert record.sample_total == total_of(record.number)
        numbers.append(record.number)
    return numbers, report


def total_of(number: int) -> int:
    """Records have as many samples as their number."""
    return number * (number + 1) // 2


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    """A log of 20 records in one segment."""
    wal = open_log(tmp_path / "wal")
    replay(wal)
    append(wal, 20)
    wal.close()
    return tmp_path / "wal"


def segment_of(path: Path) -> Path:
    return min(path.glob("*.wal"))


def offset_of(number: int) -> int:
    """Where a record begins in the only segment."""
    return BLOCK_BYTES + sum(
        HEADER_BYTES + len(refused_of(n)) + len(body_of(n)) for n in range(1, number)
    )


def test_what_was_appended_comes_back_in_order(filled: Path) -> None:
    wal = open_log(filled)
    numbers, report = replay(wal)
    assert numbers == list(range(1, 21))
    assert (report.lost_records, report.damaged_bytes, report.torn_bytes) == (0, 0, 0)
    assert wal.last_number == 20
    wal.close()


def test_a_replay_begins_behind_the_position_that_it_is_given(filled: Path) -> None:
    wal = open_log(filled)
    assert replay(wal, after=15)[0] == [16, 17, 18, 19, 20]
    wal.close()


def cut_tail(data: bytearray) -> None:
    del data[offset_of(21) - 3 :]


def cut_header(data: bytearray) -> None:
    del data[offset_of(20) + 5 :]


def flip_length(data: bytearray) -> None:
    data[offset_of(10) + 5] ^= 0x7F


def flip_body(data: bytearray) -> None:
    data[offset_of(10) + HEADER_BYTES + 3] ^= 1


def flip_magic(data: bytearray) -> None:
    data[offset_of(1)] ^= 1


def zero_two_records(data: bytearray) -> None:
    start, end = offset_of(5), offset_of(7)
    data[start:end] = bytes(end - start)


def zero_tail(data: bytearray) -> None:
    data.extend(bytes(4096))


def garbage_tail(data: bytearray) -> None:
    data.extend(b"PBR1" * 100)


def remove_middle(data: bytearray) -> None:
    del data[offset_of(8) + 11 : offset_of(12) + 7]


ALL = set(range(1, 21))
DAMAGE: list[tuple[Callable[[bytearray], None], set[int], bool]] = [
    (cut_tail, ALL - {20}, True),
    (cut_header, ALL - {20}, True),
    (flip_length, ALL - {10}, False),
    (flip_body, ALL - {10}, False),
    (flip_magic, ALL - {1}, False),
    (zero_two_records, ALL - {5, 6}, False),
    (zero_tail, ALL, True),
    (garbage_tail, ALL, True),
    (remove_middle, ALL - {8, 9, 10, 11, 12}, False),
]


@pytest.mark.parametrize(("damage", "surviving", "is_tail"), DAMAGE)
def test_damage_costs_only_the_records_that_it_touches(
    filled: Path, damage: Callable[[bytearray], None], surviving: set[int], is_tail: bool
) -> None:
    """WAL-1 and WAL-2."""
    data = bytearray(segment_of(filled).read_bytes())
    damage(data)
    segment_of(filled).write_bytes(data)
    wal = open_log(filled)
    numbers, report = replay(wal)
    assert set(numbers) == surviving
    assert (report.torn_bytes > 0) == is_tail
    assert bool(report.warnings) == (not is_tail)
    append(wal, 2)
    wal.close()
    wal = open_log(filled)
    assert set(replay(wal)[0]) == surviving | {max(surviving) + 1, max(surviving) + 2}
    wal.close()


def test_every_truncation_keeps_all_whole_records(filled: Path) -> None:
    data = segment_of(filled).read_bytes()
    ends = [offset_of(number + 1) for number in range(1, 21)]
    for length in range(0, len(data), 13):
        segment_of(filled).write_bytes(data[:length])
        wal = open_log(filled)
        assert replay(wal)[0] == [n for n, end in enumerate(ends, 1) if end <= length]
        wal.close()


def test_lost_records_between_good_ones_are_counted(filled: Path) -> None:
    data = bytearray(segment_of(filled).read_bytes())
    zero_two_records(data)
    segment_of(filled).write_bytes(data)
    wal = open_log(filled)
    assert replay(wal)[1].lost_records == 2
    wal.close()


def test_segments_that_are_missing_are_counted(tmp_path: Path) -> None:
    wal = open_log(tmp_path, segment_size=200)
    replay(wal)
    for _ in range(9):
        append(wal, 1)
    wal.close()
    for number in (1, 2, 6):
        (tmp_path / f"{number:020d}.wal").unlink()
    wal = open_log(tmp_path, segment_size=200)
    assert wal.first_number == 3
    numbers, report = replay(wal)
    assert (numbers, report.lost_records) == ([3, 4, 5, 7, 8, 9], 3)
    wal.close()
    wal = open_log(tmp_path, segment_size=200)
    assert replay(wal, after=2)[1].lost_records == 1
    wal.close()


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match=r"wal\.path: cannot use the folder"):
        open_log(tmp_path / "file" / "wal")


def test_a_limit_below_two_segments_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="less than two segments"):
        WalSettings(tmp_path, segment_size=Size(100), max_bytes=Size(199))


def test_segments_go_once_they_are_passed_and_the_newest_stays(tmp_path: Path) -> None:
    """WAL-5."""
    wal = open_log(tmp_path, segment_size=200)
    replay(wal)
    for _ in range(30):
        append(wal, 1)
    assert wal.segment_count > 5
    before = wal.size_bytes
    assert wal.remove_through(10) > 0
    assert wal.size_bytes < before
    wal.close()
    wal = open_log(tmp_path, segment_size=200)
    numbers, _ = replay(wal, after=10)
    assert numbers == list(range(11, 31))
    wal.remove_through(30)
    assert wal.segment_count == 1
    wal.close()
    wal = open_log(tmp_path, segment_size=200)
    replay(wal, after=30)
    assert wal.last_number == 30, "the newest segment tells the next number"
    wal.close()


def test_a_newest_segment_without_a_head_takes_no_total_back(tmp_path: Path) -> None:
    """A kill between the making of a segment and its head."""
    wal = open_log(tmp_path, segment_size=1)
    replay(wal)
    for _ in range(3):
        append(wal, 1)
    wal.close()
    (tmp_path / f"{4:020d}.wal").touch()
    wal = open_log(tmp_path, segment_size=1)
    wal.find_end()
    assert (wal.last_number, wal.sample_total_at(3)) == (3, total_of(3))
    assert replay(wal, after=3)[0] == []
    assert wal.safe_sample_total == total_of(3)
    append(wal, 1)
    wal.close()
    assert replay(open_log(tmp_path))[0] == [1, 2, 3, 4]


def test_a_segment_whose_head_cannot_be_written_is_not_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wal = open_log(tmp_path, segment_size=1)
    replay(wal)
    append(wal, 1)

    def fail(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", fail)
        with pytest.raises(StorageUnavailable, match="No space left"):
            append(wal, 1)
    assert [path.name for path in tmp_path.glob("*.wal")] == [f"{1:020d}.wal"]
    append(wal, 1)
    assert wal.last_number == 2
    wal.close()


def test_a_disk_that_lets_no_segment_go_is_an_error_and_the_log_stays_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wal = open_log(tmp_path, segment_size=1)
    replay(wal)
    for _ in range(3):
        append(wal, 1)

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", fail)
        with pytest.raises(StorageUnavailable, match="Read-only"):
            wal.remove_through(3)
    assert wal.segment_count == 3
    assert wal.remove_through(3) == 2
    wal.close()


def test_size_is_what_lies_on_the_disk(tmp_path: Path) -> None:
    wal = open_log(tmp_path, segment_size=300)
    replay(wal)
    append(wal, 17)
    assert wal.size_bytes == sum(path.stat().st_size for path in tmp_path.glob("*.wal"))
    wal.close()


def test_a_second_process_on_the_same_wal_is_refused(filled: Path) -> None:
    wal = open_log(filled)
    with pytest.raises(AlreadyRunning, match=f"process {os.getpid()}"):
        open_log(filled)
    wal.close()
    open_log(filled).close()


def test_a_newer_format_is_refused(filled: Path) -> None:
    data = bytearray(segment_of(filled).read_bytes())
    data[7] = 9
    segment_of(filled).write_bytes(data)
    wal = open_log(filled)
    with pytest.raises(FormatTooNew, match="WAL format 9"):
        replay(wal)
    wal.close()


def test_the_receiver_id_stays_and_can_be_renewed(tmp_path: Path) -> None:
    wal = open_log(tmp_path)
    first = wal.receiver_id
    wal.close()
    wal = open_log(tmp_path)
    assert wal.receiver_id == first
    second = wal.renew_receiver_id()
    wal.close()
    wal = open_log(tmp_path)
    assert wal.receiver_id == second != first
    wal.close()


def test_a_full_disk_leaves_nothing_of_the_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wal = open_log(tmp_path)
    replay(wal)
    append(wal, 3)
    size = segment_of(tmp_path).stat().st_size
    real = os.pwrite

    def half_then_full(fd: int, data: memoryview, offset: int) -> int:
        real(fd, data[:BLOCK_BYTES], offset)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", half_then_full)
    wal.append(receive_ms=4000, fmt=1, refused=b"", body=b"x" * 10_000, sample_count=1)
    with pytest.raises(StorageUnavailable, match="No space left"):
        wal.sync()
    assert segment_of(tmp_path).stat().st_size == size
    monkeypatch.undo()
    append(wal, 2)
    wal.close()
    again = open_log(tmp_path)
    assert replay(again)[0] == [1, 2, 3, 4, 5]
    again.close()


def test_short_writes_are_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wal = open_log(tmp_path)
    replay(wal)
    append(wal, 1)
    real = os.pwrite

    def a_little_more_than_a_block(fd: int, data: memoryview, offset: int) -> int:
        return real(fd, data[:BLOCK_BYTES], offset) + min(11, len(data) - BLOCK_BYTES)

    monkeypatch.setattr(os, "pwrite", a_little_more_than_a_block)
    append(wal, 300)
    monkeypatch.undo()
    wal.close()
    again = open_log(tmp_path)
    assert replay(again)[0] == list(range(1, 302))
    again.close()


def test_a_file_system_without_direct_io_is_fine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def refuse_direct(path: Path, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(path, flags, mode)

    monkeypatch.setattr(os, "open", refuse_direct)
    wal = open_log(tmp_path)
    replay(wal)
    append(wal, 5)
    wal.close()
    again = open_log(tmp_path)
    assert replay(again)[0] == [1, 2, 3, 4, 5]
    again.close()


def test_a_block_of_zeros_is_damage_and_padding_is_not(tmp_path: Path) -> None:
    wal = open_log(tmp_path)
    replay(wal)
    for _ in range(4):
        append(wal, 3)
    wal.close()
    data = bytearray(segment_of(tmp_path).read_bytes())
    assert len(data) == 5 * BLOCK_BYTES
    data[2 * BLOCK_BYTES : 3 * BLOCK_BYTES] = bytes(BLOCK_BYTES)
    segment_of(tmp_path).write_bytes(data)
    wal = open_log(tmp_path)
    numbers, report = replay(wal)
    assert numbers == [1, 2, 3, 7, 8, 9, 10, 11, 12]
    assert (report.lost_records, report.damaged_bytes) == (3, BLOCK_BYTES)
    wal.close()


@pytest.fixture
def gave_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A log with records 1, 2 and 4; the fsync of 3 failed, and yet it is in the first segment."""
    wal = open_log(tmp_path)
    replay(wal)
    append(wal, 2)
    with monkeypatch.context() as patch:

        def failing(fd: int) -> None:
            raise OSError(errno.EIO, "Input/output error")

        patch.setattr(os, "fdatasync", failing)
        with pytest.raises(StorageUnavailable, match="Input/output error"):
            append(wal, 1)
    assert (wal.safe_number, wal.safe_sample_total) == (2, total_of(2))
    append(wal, 1)
    assert (wal.safe_number, wal.safe_sample_total) == (4, total_of(2) + 4)
    wal.close()
    return tmp_path


def read_totals(path: Path) -> tuple[dict[int, int], ReplayReport, int]:
    wal = open_log(path)
    report = ReplayReport()
    totals = {record.number: record.sample_total for record in wal.replay(0, report)}
    append(wal, 1)
    wal.close()
    return totals, report, wal.safe_sample_total


def test_what_a_failed_fsync_took_counts_nowhere_even_if_it_is_there_after_all(
    gave_up: Path,
) -> None:
    """WAL-4: it was answered 503, and the sender has sent it again."""
    totals, report, end = read_totals(gave_up)
    assert totals == {1: 1, 2: 3, 3: 6, 4: 7}
    assert (report.lost_records, end) == (0, 7 + 5)


def test_what_a_failed_fsync_took_is_not_lost(gave_up: Path) -> None:
    os.truncate(segment_of(gave_up), 2 * BLOCK_BYTES)
    totals, report, end = read_totals(gave_up)
    assert totals == {1: 1, 2: 3, 4: 7}
    assert (report.lost_records, end) == (0, 7 + 5)


def test_a_record_that_was_safe_is_lost_where_the_end_of_its_segment_is(gave_up: Path) -> None:
    os.truncate(segment_of(gave_up), BLOCK_BYTES)
    totals, report, end = read_totals(gave_up)
    assert totals == {4: 7}
    assert (report.lost_records, end) == (3, 7 + 5)


def test_after_a_failed_fsync_a_new_segment_is_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wal = open_log(tmp_path)
    replay(wal)
    append(wal, 2)

    def failing(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", failing)
    with pytest.raises(StorageUnavailable, match="Input/output error"):
        append(wal, 1)
    monkeypatch.undo()
    append(wal, 1)
    assert [path.name for path in sorted(tmp_path.glob("*.wal"))] == [
        "00000000000000000001.wal",
        "00000000000000000004.wal",
    ]
    wal.close()
