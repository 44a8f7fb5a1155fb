"""The write-ahead log: what a 2xx stands for.

A folder of segments named by the number of their first record. One process appends to the newest;
a segment goes when every sink has passed its last record. A start never appends to an old segment:
it begins a new one behind the last good record, so a torn tail is simply never reached again.

    wal/lock                        held by the process (flock)
    wal/receiver-id                 who is behind the positions in the lake
    wal/00000000000000000001.wal    16 bytes of head, then groups of records (record.py)

A group is staged in memory by `append` and written and made safe at once by `sync`, past the page
cache where the file system can: 120 ms of kernel time for 384 MB in groups of 256 KiB, against
420 to 1270 ms through the cache, which nobody would read from.

Invariants:
    WAL-3  a failed write leaves nothing of its group: it is cut off again, or the segment is
           given up and a new one begun.
    WAL-4  after a failed fsync nothing of that segment counts as safe any more: the caller answers
           503 and the next append begins a new segment (a second fsync of the same pages may
           lie; PostgreSQL's "fsyncgate").
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
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
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

_SEGMENT_HEAD = b"PBWAL\x00\x00\x01" + bytes(8)
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
        "Writes are answered 503 while the log is larger, because the lake lags behind. 100 k "
        "series every 15 s make about 1.5 GiB an hour, so this is ten hours of them.",
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
class _Segment:
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
    """Appends records and makes them safe; used by one thread, but for the two properties."""

    def __init__(self, settings: WalSettings) -> None:
        self._settings = settings
        self._path = settings.path
        self._lock_fd = lock_folder(settings.path)
        self._fd = -1
        self._staging = mmap.mmap(-1, 1 << 20)
        self._staged_bytes = 0
        self._is_broken = False
        self._is_replayed = False
        self._segments: list[_Segment] = []
        self._size_bytes = 0
        self.last_number = 0
        for path in sorted(self._path.iterdir()):
            if match := _SEGMENT_NAME.fullmatch(path.name):
                first = int(match[1])
                self._segments.append(_Segment(path, first, first - 1, path.stat().st_size))
        for segment, following in zip(self._segments, self._segments[1:], strict=False):
            segment.last_number = following.first_number - 1
        if self._segments:
            self.last_number = self._segments[-1].first_number - 1
        self.receiver_id = self._load_receiver_id()
        self._count_size()

    @property
    def size_bytes(self) -> int:
        """Bytes of all segments."""
        return self._size_bytes

    @property
    def segment_count(self) -> int:
        """Segments on disk."""
        return len(self._segments)

    @property
    def first_number(self) -> int:
        """Number of the first record that may still be here."""
        return self._segments[0].first_number if self._segments else self.last_number + 1

    def renew_receiver_id(self) -> str:
        """Takes a new identity: the positions under the old one do not fit this log."""
        self.receiver_id = uuid.uuid4().hex
        self._store_receiver_id()
        return self.receiver_id

    def replay(self, after_number: int, report: ReplayReport) -> Iterator[Record]:
        """Records above `after_number`, in order; must be exhausted before the first append.

        One segment is mapped at a time. The bodies are slices of it, valid until the next record.
        """
        expected = after_number + 1
        for segment in self._segments:
            is_newest = segment is self._segments[-1]
            if segment.last_number <= after_number and not is_newest:
                continue
            with segment.path.open("rb") as file:
                if segment.size_bytes < len(_SEGMENT_HEAD):
                    report.torn_bytes += segment.size_bytes
                    continue
                with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
                    self._check_head(segment.path, mapped[: len(_SEGMENT_HEAD)])
                    data = memoryview(mapped)
                    try:
                        for found in decode_records(data, len(_SEGMENT_HEAD)):
                            if isinstance(found, Damage):
                                self._note(report, segment, found)
                                continue
                            report.lost_records += max(0, found.number - expected)
                            expected = max(expected, found.number + 1)
                            self.last_number = max(self.last_number, found.number)
                            segment.last_number = max(segment.last_number, found.number)
                            if found.number > after_number:
                                report.records += 1
                                yield found
                            if isinstance(found.body, memoryview):
                                found.body.release()
                    finally:
                        data.release()
            if not is_newest and expected <= segment.last_number:
                report.lost_records += segment.last_number + 1 - expected
                expected = segment.last_number + 1
        self._is_replayed = True

    def append(self, record: Record) -> None:
        """Stages one record behind the last; `sync` writes it and makes it safe.

        Args:
            record: its number is `last_number + 1`.

        Raises:
            StorageUnavailable: a segment was needed and could not be begun; nothing is staged.
        """
        assert self._is_replayed, "what the log holds must be known before it grows"
        assert record.number == self.last_number + 1, "record numbers have no gaps here"
        if self._staged_bytes == 0 and (self._fd < 0 or self._is_broken or self._is_full()):
            self._begin_segment(record.number)
        parts = (encode_header(record), record.refused, record.body)
        self._make_room(sum(map(len, parts)))
        for part in parts:
            end = self._staged_bytes + len(part)
            self._staging[self._staged_bytes : end] = bytes(part)
            self._staged_bytes = end
        self.last_number = record.number

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
            raise StorageUnavailable(
                f"cannot fsync the WAL segment {segment.path}: {error.strerror}"
            ) from error
        segment.size_bytes += length
        segment.last_number = self.last_number
        self._size_bytes += length

    def remove_through(self, number: int) -> int:
        """Removes segments that hold no record above `number`; the newest stays.

        Returns:
            how many went.
        """
        gone = 0
        while len(self._segments) > 1 and self._segments[0].last_number <= number:
            self._segments[0].path.unlink(missing_ok=True)
            self._segments.pop(0)
            gone += 1
        self._count_size()
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

    def _cut_off(self, segment: _Segment) -> None:
        """Takes back what a failed write may have left; else gives the segment up."""
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
            fd = _create_segment(path)
        except OSError as error:
            raise StorageUnavailable(
                f"cannot begin the WAL segment {path}: {error.strerror}"
            ) from error
        self._fd = fd
        self._is_broken = False
        if self._segments and self._segments[-1].path == path:
            self._segments.pop()
        self._segments.append(_Segment(path, first_number, first_number - 1, BLOCK_BYTES))
        self._count_size()

    def _count_size(self) -> None:
        self._size_bytes = sum(segment.size_bytes for segment in self._segments)

    def _check_head(self, path: Path, head: bytes) -> None:
        if head[:7] == _SEGMENT_HEAD[:7] and head[7] > _SEGMENT_HEAD[7]:
            raise FormatTooNew(
                f"{path} has WAL format {head[7]}, this prombridge reads up to {_SEGMENT_HEAD[7]}"
            )

    def _note(self, report: ReplayReport, segment: _Segment, damage: Damage) -> None:
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


def _create_segment(path: Path) -> int:
    """A safe segment with nothing but its head, open for writing.

    It is written past the page cache unless the file system refuses that (tmpfs, some network file
    systems), which shows when it is opened or at the first write.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
    with mmap.mmap(-1, BLOCK_BYTES) as block:
        block[: len(_SEGMENT_HEAD)] = _SEGMENT_HEAD
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
        os.close(fd)
        raise
    if written < len(block):
        os.close(fd)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return fd


def _sync_folder(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
