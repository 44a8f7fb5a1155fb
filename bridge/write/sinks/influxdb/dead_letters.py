"""The file of lines that InfluxDB refused, each run of them below the reason.

    # 2026-11-21T14:00:00Z 422 partial write: field type conflict: … dropped=1
    up,job=node value=1 1790000000000

That is line protocol with comments: once the cause is mended, `influx write -p ms -f FILE` does it.

Limits: `bytes_max` in all. The file in use takes half of it, then it is renamed to `.1` and the one
of that name is gone, also in the middle of a batch. A line has at most 64 KiB.
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

REASON_LENGTH_MAX = 1000


@dataclass(frozen=True, slots=True)
class Refusal:
    """Lines that the server refused together.

    Attributes:
        status: of its answer.
        reason: what it said.
        lines: newlines and all.
    """

    status: int
    reason: str
    lines: list[bytes]


class DeadLetters:
    """Appends; used by one thread."""

    def __init__(
        self, path: Path, bytes_max: int, wall_clock_s: Callable[[], float] = time.time
    ) -> None:
        self._path = path
        self._bytes_max = bytes_max
        self._wall_clock_s = wall_clock_s

    def write(self, refusals: Iterable[Refusal]) -> None:
        """Appends what a batch had refused and makes it safe, all of it with one fsync.

        Raises:
            OSError: the disk is full or failed.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        file_bytes_max = max(1, self._bytes_max // 2)
        pieces = self._pieces(refusals)
        piece = next(pieces, None)
        while piece is not None:
            with self._path.open("ab") as file:
                size_bytes, shown = file.tell(), b""
                while piece is not None and size_bytes < file_bytes_max:
                    head, line = piece
                    size_bytes += file.write(line if head == shown else head + line)
                    shown = head
                    piece = next(pieces, None)
                file.flush()
                os.fsync(file.fileno())
            if size_bytes >= file_bytes_max:
                self._path.replace(self._path.with_name(self._path.name + ".1"))

    def _pieces(self, refusals: Iterable[Refusal]) -> Iterator[tuple[bytes, bytes]]:
        """Each line with the comment that it stands below."""
        now = datetime.fromtimestamp(self._wall_clock_s(), UTC).isoformat("T", "seconds")
        for refusal in refusals:
            shown = " ".join(refusal.reason[:REASON_LENGTH_MAX].split())
            text = f"# {now.removesuffix('+00:00')}Z {refusal.status} {shown}\n"
            head = text.encode(errors="backslashreplace")
            for line in refusal.lines:
                yield head, line
