"""How far a sink has come, and what became of the samples until there.

    accepted since its start = delivered + pending + dropped

A cursor is a file of two blocks, written in turns: a number that grows, the CRC32C and the cursor
as JSON, filled up with spaces. A write goes over the older of the two, so one is always whole, and
it needs no room: on a full disk, where a cursor has to move so that segments can go, it moves.

Invariants:
    SINK-4  position and counts are of one moment, whenever the process was killed: what is
            delivered again is counted once.
"""

import json
import os
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Self

from bridge.errors import CorruptionError
from bridge.wire.crc32c import crc32c

BLOCK_BYTES = 4096
DESTINATION_BYTES_MAX = 2048
"""As JSON. Six numbers, a number for each reason and all names are less than a KiB."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place in the log.

    Attributes:
        position: number of the last record that is done with.
        sample_total: samples of the log up to there, those before the sink's start included.
        start_total: the same where the sink began.
        delivered: samples that the sink has taken.
        dropped: samples that it never will, by reason.
        attempt_position: of a delivery under way whose outcome may be unknown; 0 for none.
        attempt_total: `sample_total` once it has succeeded.
        destination: what the counts are of, for a sink that its settings may send elsewhere.
    """

    position: int = 0
    sample_total: int = 0
    start_total: int = 0
    delivered: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    attempt_position: int = 0
    attempt_total: int = 0
    destination: str = ""

    def attempt(self, position: int, sample_total: int) -> Self:
        """The same with a delivery under way that ends at `position`."""
        return replace(self, attempt_position=position, attempt_total=sample_total)

    def succeed(self) -> Self:
        """The delivery under way has happened."""
        return replace(
            self,
            position=self.attempt_position,
            sample_total=self.attempt_total,
            delivered=self.delivered + self.attempt_total - self.sample_total,
            attempt_position=0,
            attempt_total=0,
        )

    def rebase(self, position: int, sample_total: int) -> Self:
        """Another place of the log, with the counts as they are."""
        done = self.delivered + sum(self.dropped.values())
        return replace(
            self,
            position=position,
            sample_total=sample_total,
            start_total=sample_total - done,
            attempt_position=0,
            attempt_total=0,
        )


def load_cursor(path: Path) -> Cursor | None:
    """The cursor that was stored last; None if there is none.

    Raises:
        CorruptionError: neither block is whole.
        OSError: it cannot be read.
    """
    newest = _newest(path)
    return None if newest is None else newest[1]


def store_cursor(path: Path, cursor: Cursor) -> None:
    """Stores a cursor; it is safe on the disk when this returns.

    Raises:
        OSError: the disk failed; the cursor is the one before, or this one.
    """
    newest = _newest(path)
    number = 1 if newest is None else newest[0] + 1
    text = json.dumps(asdict(cursor)).encode()
    line = b"%d %08x %s" % (number, crc32c(b"%d %s" % (number, text)), text)
    assert len(line) < BLOCK_BYTES, "a handful of reasons fit, and a destination"
    block = line.ljust(BLOCK_BYTES - 1) + b"\n"
    if newest is None:
        _create(path, block)
        return
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.pwrite(fd, block, number % 2 * BLOCK_BYTES)
        os.fdatasync(fd)
    finally:
        os.close(fd)


def _create(path: Path, block: bytes) -> None:
    """The file with both blocks, under its name only when it is whole."""
    fresh = path.with_name(path.name + ".new")
    with fresh.open("wb") as file:
        file.write(block + block)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _newest(path: Path) -> tuple[int, Cursor] | None:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    found = []
    for start in (0, BLOCK_BYTES):
        try:
            number, crc, text = content[start : start + BLOCK_BYTES].strip().split(b" ", 2)
            if crc32c(b"%s %s" % (number, text)) == int(crc, 16):
                found.append((int(number), Cursor(**json.loads(text))))
        except (ValueError, TypeError):
            continue
    if not found:
        raise CorruptionError(
            f"{path} is damaged; without the file the sink begins as if it were new"
        )
    return max(found, key=lambda one: one[0])
