"""The write-ahead log: what a 2xx stands for.

A folder of segments named by the number of their first record. One process appends to the newest;
a segment goes when every sink has passed its last record. A start never appends to an old segment:
it begins a new one behind the last good record, so a torn tail is simply never reached again.

    wal/lock                        held by the process (flock)
    wal/receiver-id                 who is behind the positions in the lake
    wal/00000000000000000001.wal    16 bytes of head (magic, format, samples of all records before),
                                    then groups of records (record.py)

A group is staged in memory by `append` and written and made safe at once by `sync`, past the page
cache where the file system can: 120 ms of kernel time for 384 MB in groups of 256 KiB, against
420 to 1270 ms through the cache, which nobody would read from.

Invariants:
    WAL-3  a failed write leaves nothing of its group: it is cut off again, or the segment is
           given up and a new one begun.
    WAL-4  after a failed fsync nothing of that segment counts as safe any more: the caller answers
           503 and the next append begins a new segment (a second fsync of the same pages may
           lie; PostgreSQL's "fsyncgate"). Its numbers are used up, for the disk may have it; its
           samples count nowhere: the next segment's head goes on from the total before them.
    WAL-5  numbers grow for ever; the newest segment is never removed, so that its name tells the
           next number even when the log is empty.

Limits: `wal.max-bytes` in all; a record as large as write.max-body-bytes. Memory: the largest
group so far, 16 MiB and a body; one mapped segment in a replay.
"""

import errno
import fcntl
import mmap
import os
import re
import struct
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path

from bridge.errors import AlreadyRunning, ConfigError, FormatTooNew, StorageUnavailable
from bridge.model.options import Size, option
from bridge.write.wal.record import (
    BLOCK_BYTES,
    Damage,
    Record,
    decode_records,
    encode_header,
)

_MAGIC = b"PBWAL\x00\x00\x01"
_SEGMENT_HEAD = struct.Struct("<8sQ")
SEGMENT_HEAD_BYTES = _SEGMENT_HEAD.size
_NUMBER_MAX = (1 << 64) - 1
_SEGMENT_NAME = re.compile(r"(\d{20})\.wal")


@dataclass(frozen=True, slots=True)
class WalSettings:
    """Where the log lies and how large it gets."""

    path: Path = option(Path("data/wal"), "Folder of the write-ahead log.")
    segment_size: Size = option(
        Size(64 << 20), "A new segment is begun past this size; space is given back by segments."
    )
    max_bytes: Size = option(
        Size(16 << 30),
        "What the log may hold. Past it an optional sink (InfluxDB) that lags loses its oldest "
        "records; where it is the lake that lags, writes are answered 503. 100 k series every 15 s "
        "make about 1.5 GiB an hour, so this is ten hours of them.",
    )

    min_free_bytes: Size = option(
        Size(256 << 20),
        "Writes are answered 503 while the disk of the WAL has less room: it is kept for cut "
        "files, without which nothing would reach the lake and no room would come back. What only "
        "an optional sink that lags still needs is given up first. A cut of "
        "head.max_bytes takes 40 to 80 MiB, and two may be under way.",
    )

    def __post_init__(self) -> None:
        """Refuses a limit that one segment alone could reach.

        Raises:
            ConfigError: names the option.
        """
        if self.max_bytes < 2 * self.segment_size:
            raise ConfigError(
                f"wal.max_bytes: {self.max_bytes} bytes are less than two segments "
                f"(wal.segment_size is {self.segment_size})"
            )


@dataclass(slots=True)
class Segment:
    """One file of the log; what it says is safe.

    Attributes:
        path: of the file.
        first_number: of the first record that is, or will be, in it.
        last_number: of the last one; one less than `first_number` if there is none.
        size_bytes: bytes up to the end of the last safe group.
    """

    path: Path
    first_number: int
    last_number: int
    size_bytes: int


@dataclass(slots=True)
class ReplayReport:
    """What a replay met.

    Attributes:
        records: records given.
        lost_records: numbers that should be there and are not.
        damaged_bytes: bytes that are no record, torn tails left out.
        torn_bytes: bytes behind the last good record of a segment.
        warnings: one line for each damage.
    """

    records: int = 0
    lost_records: int = 0
    damaged_bytes: int = 0
    torn_bytes: int = 0
    warnings: list[str] = field(default_factory=list)


def lock_folder(path: Path) -> int:
    """Takes the WAL for this process.

    Returns:
        a file descriptor that holds the lock until it is closed.

    Raises:
        AlreadyRunning: another process has it.
        ConfigError: it cannot be made or opened.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        _sync_folder(path.parent)
        fd = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise ConfigError(f"wal.path: cannot use the folder {path}: {error.strerror}") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.pread(fd, 32, 0).decode(errors="replace").strip() or "unknown"
        os.close(fd)
        raise AlreadyRunning(
            f"the WAL in {path} is in use by another prombridge (process {holder}); one process "
            "at a time: stop it, or give this one its own --wal.path"
        ) from error
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    return fd


class WriteAheadLog:
    """Appends records and makes them safe; used by one thread, but for what says otherwise.

    Attributes:
        last_number: of the last record staged.
        safe_number: of the last record that is safe; any thread may look.
        safe_sample_total: samples of all safe records, in the life of the log; any thread may look.
        receiver_id: who is behind the positions in the lake.
    """

    def __init__(self, settings: WalSettings) -> None:
        self._settings = settings
        self._path = settings.path
        self._lock_fd = lock_folder(settings.path)
        self._fd = -1
        self._staging = mmap.mmap(-1, 1 << 20)
        self._staged_bytes = 0
        self._is_broken = False
        self._is_replayed = False
        self._segments: list[Segment] = []
        self._size_bytes = 0
        self._staged_total = 0
        self.last_number = 0
        self.safe_number = 0
        self.safe_sample_total = 0
        for path in sorted(self._path.iterdir()):
            if match := _SEGMENT_NAME.fullmatch(path.name):
                first = int(match[1])
                self._segments.append(Segment(path, first, first - 1, path.stat().st_size))
        for segment, following in zip(self._segments, self._segments[1:], strict=False):
            segment.last_number = following.first_number - 1
        self._end_number = 0
        if self._segments:
            self.last_number = self._segments[-1].first_number - 1
        for segment in reversed(self._segments):
            # A kill, or a full disk, may have left the newest without a head.
            if (total := _read_total(segment.path)) is not None:
                self._end_number, self.safe_sample_total = segment.first_number, total
                break
        self.receiver_id = self._load_receiver_id()
        self._count_size()

    @property
    def size_bytes(self) -> int:
        """Bytes of all segments."""
        return self._size_bytes

    def free_bytes(self) -> int:
        """Room on the disk.

        Raises:
            StorageUnavailable: the disk does not say.
        """
        try:
            disk = os.statvfs(self._path)
        except OSError as error:
            raise StorageUnavailable(
                f"cannot ask the disk of {self._path} for its room: {error.strerror}"
            ) from error
        return disk.f_bavail * disk.f_frsize

    @property
    def segment_count(self) -> int:
        """Segments on disk."""
        return len(self._segments)

    def segments(self) -> list[Segment]:
        """All segments, oldest first; any thread may ask."""
        return self._segments.copy()

    def bytes_above(self, number: int) -> int:
        """Bytes of the segments that hold safe records above `number`; any thread may ask."""
        return sum(one.size_bytes for one in self._segments.copy() if one.last_number > number)

    @property
    def first_number(self) -> int:
        """Number of the first record that may still be here."""
        return self._segments[0].first_number if self._segments else self.last_number + 1

    def renew_receiver_id(self) -> str:
        """Takes a new identity: the positions under the old one do not fit this log."""
        self.receiver_id = uuid.uuid4().hex
        self._store_receiver_id()
        return self.receiver_id

    def find_end(self) -> None:
        """Reads the newest segment that has a head for the last number and the total."""
        for _ in self.replay(_NUMBER_MAX, ReplayReport()):
            pass

    def sample_total_at(self, number: int) -> int:
        """Samples of all records up to and with `number`; those before the first one that is here.

        One segment is read; before the first append.
        """
        total = 0
        for segment in reversed(self._segments):
            before = _read_total(segment.path)
            if before is None:
                continue
            total = before
            if segment.first_number <= number + 1:
                with segment.path.open("rb") as file:
                    data = file.read()
                for found in decode_records(memoryview(data), SEGMENT_HEAD_BYTES):
                    if isinstance(found, Record) and found.number <= number:
                        total = found.sample_total
                break
        return total

    def replay(self, after_number: int, report: ReplayReport) -> Iterator[Record]:
        """Records above `after_number`, in order; must be exhausted before the first append.

        One segment is mapped at a time. The bodies are slices of it, valid until the next record.
        """
        expected = after_number + 1
        for segment, following in zip_longest(self._segments, self._segments[1:]):
            if segment.last_number <= after_number and segment.first_number < self._end_number:
                continue
            with segment.path.open("rb") as file:
                if segment.size_bytes < _SEGMENT_HEAD.size:
                    report.torn_bytes += segment.size_bytes
                    continue
                with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
                    head = mapped[: _SEGMENT_HEAD.size]
                    self._check_head(segment.path, head)
                    if head[:7] == _MAGIC[:7]:
                        self.safe_sample_total = int(_SEGMENT_HEAD.unpack(head)[1])
                    data = memoryview(mapped)
                    try:
                        for found in decode_records(data, _SEGMENT_HEAD.size):
                            if isinstance(found, Damage):
                                self._note(report, segment, found)
                                continue
                            report.lost_records += max(0, found.number - expected)
                            expected = max(expected, found.number + 1)
                            self.last_number = max(self.last_number, found.number)
                            segment.last_number = max(segment.last_number, found.number)
                            self.safe_sample_total = found.sample_total
                            if found.number > after_number:
                                report.records += 1
                                yield found
                            if isinstance(found.body, memoryview):
                                found.body.release()
                    finally:
                        data.release()
            if following is not None:
                report.lost_records += self._lost_before(following, expected)
                expected = max(expected, following.first_number)
        self.safe_number = self.last_number
        self._staged_total = self.safe_sample_total
        self._is_replayed = True

    def append(
        self, *, receive_ms: int, fmt: int, refused: bytes, body: bytes, sample_count: int
    ) -> None:
        """Stages one record behind the last; `sync` writes it and makes it safe.

        Args:
            receive_ms: when it came, Unix ms.
            fmt: 1 or 2, the remote-write version of the body.
            refused: as in `Record`.
            body: snappy block.
            sample_count: samples of it that were not refused.

        Raises:
            StorageUnavailable: a segment was needed and could not be begun; nothing is staged.
        """
        assert self._is_replayed, "what the log holds must be known before it grows"
        number, total = self.last_number + 1, self._staged_total + sample_count
        if self._staged_bytes == 0 and (self._fd < 0 or self._is_broken or self._is_full()):
            self._begin_segment(number)
        record = Record(number, receive_ms, total, fmt, refused, body)
        parts = (encode_header(record), refused, body)
        self._make_room(sum(map(len, parts)))
        for part in parts:
            end = self._staged_bytes + len(part)
            self._staging[self._staged_bytes : end] = bytes(part)
            self._staged_bytes = end
        self.last_number, self._staged_total = number, total

    def sync(self) -> None:
        """Writes what is staged and makes it safe.

        Raises:
            StorageUnavailable: nothing of what was staged counts as safe.
        """
        segment = self._segments[-1]
        length = -(-self._staged_bytes // BLOCK_BYTES) * BLOCK_BYTES
        self._staging[self._staged_bytes : length] = bytes(length - self._staged_bytes)
        self._staged_bytes = 0
        try:
            self._write(length, segment.size_bytes)
        except OSError as error:
            self._cut_off(segment)
            raise StorageUnavailable(
                f"cannot write to the WAL segment {segment.path}: {error.strerror}"
            ) from error
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            self._is_broken = True
            self._staged_total = self.safe_sample_total
            raise StorageUnavailable(
                f"cannot fsync the WAL segment {segment.path}: {error.strerror}"
            ) from error
        segment.size_bytes += length
        segment.last_number = self.last_number
        self._size_bytes += length
        self.safe_sample_total = self._staged_total
        self.safe_number = self.last_number  # last: who reads it finds all else in place

    def remove_through(self, number: int, is_wanted: Callable[[], bool] = lambda: True) -> int:
        """Removes segments that hold no record above `number`; the newest stays.

        Args:
            number: of the last record that may go.
            is_wanted: asked before each; none is removed once it is false.

        Returns:
            how many went.

        Raises:
            StorageUnavailable: the disk does not let them go; what is left is still the log.
        """
        gone = 0
        while len(self._segments) > 1 and self._segments[0].last_number <= number and is_wanted():
            path = self._segments[0].path
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise StorageUnavailable(f"cannot remove {path}: {error.strerror}") from error
            self._segments.pop(0)
            self._count_size()
            gone += 1
        return gone

    def close(self) -> None:
        """Closes the segment and gives the folder back."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        os.close(self._lock_fd)

    def _is_full(self) -> bool:
        segment = self._segments[-1]
        return segment.size_bytes >= self._settings.segment_size

    def _lost_before(self, segment: Segment, expected: int) -> int:
        """Records that should stand before a segment in a replay that has come there."""
        # Where the totals meet, the numbers went with a failed fsync (WAL-4).
        is_whole = _read_total(segment.path) == self.safe_sample_total
        return 0 if is_whole else max(0, segment.first_number - expected)

    def _make_room(self, length: int) -> None:
        needed = self._staged_bytes + length + BLOCK_BYTES
        if needed > len(self._staging):
            larger = mmap.mmap(-1, max(needed, 2 * len(self._staging)))
            larger[: self._staged_bytes] = self._staging[: self._staged_bytes]
            self._staging.close()
            self._staging = larger

    def _write(self, length: int, offset: int) -> None:
        """Writes the first `length` staged bytes; whole blocks, as direct I/O wants them."""
        with memoryview(self._staging) as staged:
            done = 0
            while done < length:
                # A short write may end inside a block: begin that block again.
                done += os.pwrite(self._fd, staged[done:length], offset + done)
                done -= done % BLOCK_BYTES if done < length else 0

    def _cut_off(self, segment: Segment) -> None:
        """Takes back what a failed write may have left; else gives the segment up."""
        self._staged_total = self.safe_sample_total
        try:
            os.ftruncate(self._fd, segment.size_bytes)
        except OSError:
            self._is_broken = True
        else:
            self.last_number = segment.last_number

    def _begin_segment(self, first_number: int) -> None:
        """Closes the segment in use and begins the next one.

        A segment that holds no record (its name is taken) is begun again from its head.
        """
        path = self._path / f"{first_number:020d}.wal"
        try:
            if self._fd >= 0:
                if not self._is_broken:
                    os.fdatasync(self._fd)
                os.close(self._fd)
                self._fd = -1
            fd = _create_segment(path, self._staged_total)
        except OSError as error:
            raise StorageUnavailable(
                f"cannot begin the WAL segment {path}: {error.strerror}"
            ) from error
        self._fd = fd
        self._is_broken = False
        if self._segments and self._segments[-1].path == path:
            self._segments.pop()
        self._segments.append(Segment(path, first_number, first_number - 1, BLOCK_BYTES))
        self._count_size()

    def _count_size(self) -> None:
        self._size_bytes = sum(segment.size_bytes for segment in self._segments)

    def _check_head(self, path: Path, head: bytes) -> None:
        if head[:7] == _MAGIC[:7] and head[7] > _MAGIC[7]:
            raise FormatTooNew(
                f"{path} has WAL format {head[7]}, this prombridge reads up to {_MAGIC[7]}"
            )

    def _note(self, report: ReplayReport, segment: Segment, damage: Damage) -> None:
        if damage.is_tail:
            report.torn_bytes += damage.length
        else:
            report.damaged_bytes += damage.length
            report.warnings.append(
                f"{segment.path} at byte {damage.offset}: {damage.length} bytes lost "
                f"({damage.reason})"
            )

    def _load_receiver_id(self) -> str:
        path = self._path / "receiver-id"
        if path.exists() and (text := path.read_text().strip()):
            return text
        self.receiver_id = uuid.uuid4().hex
        self._store_receiver_id()
        return self.receiver_id

    def _store_receiver_id(self) -> None:
        path = self._path / "receiver-id"
        fresh = path.with_suffix(".new")
        with fresh.open("w") as file:
            file.write(self.receiver_id + "\n")
            file.flush()
            os.fsync(file.fileno())
        fresh.rename(path)
        _sync_folder(self._path)


def _read_total(path: Path) -> int | None:
    """Samples before a segment, as its head says; None where it is torn."""
    with path.open("rb") as file:
        head = file.read(_SEGMENT_HEAD.size)
    if len(head) < _SEGMENT_HEAD.size or head[:7] != _MAGIC[:7]:
        return None
    return int(_SEGMENT_HEAD.unpack(head)[1])


def _create_segment(path: Path, sample_total: int) -> int:
    """A safe segment with nothing but its head, open for writing.

    It is written past the page cache unless the file system refuses that (tmpfs, some network file
    systems), which shows when it is opened or at the first write.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
    with mmap.mmap(-1, BLOCK_BYTES) as block:
        block[: _SEGMENT_HEAD.size] = _SEGMENT_HEAD.pack(_MAGIC, sample_total)
        try:
            fd = _open_and_write(path, flags | os.O_DIRECT, block)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            fd = _open_and_write(path, flags, block)
    _sync_folder(path.parent)
    return fd


def _open_and_write(path: Path, flags: int, block: mmap.mmap) -> int:
    fd = os.open(path, flags, 0o644)
    try:
        written = os.pwrite(fd, block, 0)
        os.fsync(fd)
    except OSError:
        _give_up(fd, path)
        raise
    if written < len(block):
        _give_up(fd, path)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return fd


def _give_up(fd: int, path: Path) -> None:
    os.close(fd)
    path.unlink()


def _sync_folder(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
