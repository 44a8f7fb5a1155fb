"""Following the log: everything safe, in order, whatever is removed or damaged meanwhile."""

import random
from pathlib import Path

import pytest

from bridge.model.options import Size
from bridge.write.wal.log import ReplayReport, WalSettings, WriteAheadLog
from bridge.write.wal.record import BLOCK_BYTES, Record, encode_header
from bridge.write.wal.tail import WalTail


def open_log(path: Path, segment_size: int) -> WriteAheadLog:
    wal = WriteAheadLog(WalSettings(path=path, segment_size=Size(segment_size)))
    for _ in wal.replay(0, ReplayReport()):
        pass
    return wal


def append(wal: WriteAheadLog, count: int) -> None:
    """One group of records; record n has n samples and a body of up to 4999 bytes."""
    for _ in range(count):
        number = wal.last_number + 1
        body = random.Random(number).randbytes(number * 377 % 5000)
        wal.append(receive_ms=number, fmt=1, refused=b"", body=body, sample_count=number)
    wal.sync()


def numbers_of(tail: WalTail, after: int, bytes_max: int) -> list[int]:
    """Reads to the end, checks what is read."""
    numbers = []
    while records := tail.read(after, bytes_max):
        for record in records:
            assert record.body == random.Random(record.number).randbytes(record.number * 377 % 5000)
            numbers.append(record.number)
        after = records[-1].number
    return numbers


@pytest.mark.parametrize("bytes_max", [1, 100, 5000, 1 << 20])
def test_all_safe_records_come_in_order_across_segments(tmp_path: Path, bytes_max: int) -> None:
    wal = open_log(tmp_path, 20_000)
    for count in (1, 7, 30, 2, 1, 60):
        append(wal, count)
    assert wal.segment_count > 2
    tail = WalTail(wal)
    assert numbers_of(tail, 0, bytes_max) == list(range(1, 102))
    assert numbers_of(tail, 37, bytes_max) == list(range(38, 102))
    assert numbers_of(WalTail(wal), 100, bytes_max) == [101]
    tail.close()
    wal.close()


def test_a_record_inside_the_body_of_a_long_one_is_not_read(tmp_path: Path) -> None:
    """A sender chooses what is in a body; parts end within it."""
    forged = Record(2**62, 1, 5, 1, b"", b"evil")
    forged_bytes = encode_header(forged) + b"evil"
    wal = open_log(tmp_path, 1 << 24)
    bodies = [b"x" * 3000 + forged_bytes + b"y" * 30_000, b"x", b"z" * 9000 + forged_bytes]
    for number, body in enumerate(bodies, 1):
        wal.append(receive_ms=number, fmt=1, refused=b"", body=body, sample_count=1)
        wal.sync()
    tail = WalTail(wal)
    found: list[Record] = []
    while records := tail.read(found[-1].number if found else 0, 4096):
        found += records
    assert [(record.number, bytes(record.body)) for record in found] == list(enumerate(bodies, 1))
    tail.close()
    wal.close()


def test_the_reader_follows_the_writer_and_never_reads_what_is_not_safe(tmp_path: Path) -> None:
    wal = open_log(tmp_path, 1 << 20)
    tail = WalTail(wal)
    assert tail.read(0, 1 << 20) == []
    append(wal, 3)
    assert numbers_of(tail, 0, 1 << 20) == [1, 2, 3]
    wal.append(receive_ms=4, fmt=1, refused=b"", body=b"", sample_count=4)
    assert tail.read(3, 1 << 20) == []
    wal.sync()
    assert [record.number for record in tail.read(3, 1 << 20)] == [4]
    tail.close()
    wal.close()


def test_a_reader_whose_records_are_gone_goes_on_with_the_oldest_left(tmp_path: Path) -> None:
    wal = open_log(tmp_path, 200)
    for _ in range(10):
        append(wal, 1)
    tail = WalTail(wal)
    assert tail.read(0, 1)[0].number == 1
    wal.remove_through(6)
    [record] = tail.read(1, 1)
    assert record.number == 7
    assert record.sample_total == sum(range(1, 8)), "the totals tell what the gap held"
    tail.close()
    wal.close()


def test_a_segment_that_somebody_deleted_is_a_gap(tmp_path: Path) -> None:
    wal = open_log(tmp_path, 200)
    for _ in range(3):
        append(wal, 1)
    wal.segments()[0].path.unlink()
    tail = WalTail(wal)
    assert numbers_of(tail, 0, 1 << 20) == [2, 3]
    tail.close()
    wal.close()


def test_damage_costs_the_reader_only_what_it_touches(tmp_path: Path) -> None:
    """WAL-2."""
    wal = open_log(tmp_path, 1 << 20)
    for _ in range(20):
        append(wal, 1)
    [segment] = wal.segments()
    data = bytearray(segment.path.read_bytes())
    # Group n begins in a block of its own.
    data[4 * BLOCK_BYTES + 20] ^= 1
    segment.path.write_bytes(data)
    numbers = numbers_of(WalTail(wal), 0, 3000)
    assert len(numbers) == 19
    wal.close()


def test_totals_go_on_after_a_start_on_an_empty_newest_segment(tmp_path: Path) -> None:
    wal = open_log(tmp_path, 200)
    for _ in range(5):
        append(wal, 1)
    wal.remove_through(5)
    wal.close()
    [newest] = list(tmp_path.glob("*.wal"))
    newest.write_bytes(newest.read_bytes()[:BLOCK_BYTES])
    wal = open_log(tmp_path, 200)
    assert wal.safe_sample_total == 10, "record 5 is gone, those before it count"
    wal.close()
