"""Follows the log behind its writer, for a sink with a cursor of its own.

Only what is safe is read: a segment's size and its last record are told by the writer after the
fsync. Segments may be removed meanwhile, when the backlog has reached its cap: the reader goes on
with the oldest that is left, and whoever asked sees the gap by the numbers and the totals.

A part of a segment is read at a time. Records that are cut off by the part's end come with the next
one; damage costs the records that it touches, as in a replay (WAL-2).

Limits: memory of one part, `bytes_max` or the largest record.
"""

import os

from bridge.write.wal.log import SEGMENT_HEAD_BYTES, Segment, WriteAheadLog
from bridge.write.wal.record import BLOCK_BYTES, Record, decode_records


class WalTail:
    """Reads forward; for one thread."""

    def __init__(self, wal: WriteAheadLog) -> None:
        self._wal = wal
        self._fd = -1
        self._first_number = -1
        self._offset = 0

    def read(self, after_number: int, bytes_max: int) -> list[Record]:
        """Safe records above `after_number`, in order.

        Args:
            after_number: the last one that is not wanted any more.
            bytes_max: read at once; a larger record is read whole.

        Returns:
            empty where there is none yet. Where the next ones are gone, those behind the gap.

        Raises:
            OSError: the log cannot be read now.
        """
        while after_number < self._wal.safe_number:
            segment = next(
                (one for one in self._wal.segments() if one.last_number > after_number), None
            )
            if segment is None:
                return []
            try:
                self._turn_to(segment)
            except FileNotFoundError:  # removed in this very moment, or by hand
                after_number = segment.last_number
                continue
            records = self._read_part(segment, after_number, bytes_max)
            if records:
                return records
            # Nothing but damage up to the segment's end: what was in it is lost.
            after_number = segment.last_number
        return []

    def close(self) -> None:
        """Closes the segment in use."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _turn_to(self, segment: Segment) -> None:
        if self._fd >= 0 and self._first_number == segment.first_number:
            return
        self.close()
        self._fd = os.open(segment.path, os.O_RDONLY | os.O_CLOEXEC)
        self._first_number, self._offset = segment.first_number, SEGMENT_HEAD_BYTES

    def _read_part(self, segment: Segment, after_number: int, bytes_max: int) -> list[Record]:
        """The next wanted records of a segment; none if there are no more."""
        safe_bytes = segment.size_bytes
        length = bytes_max
        while self._offset < safe_bytes:
            # Padding is told by its place in a block, so parts begin where blocks do.
            begin = self._offset - self._offset % BLOCK_BYTES
            part = os.pread(self._fd, min(self._offset - begin + length, safe_bytes - begin), begin)
            is_last = begin + len(part) >= safe_bytes
            records, end = _decode(part, self._offset - begin, is_last)
            if begin + end == self._offset and not is_last:
                length *= 2
                continue
            self._offset = begin + end
            last_number = segment.last_number
            if wanted := [one for one in records if after_number < one.number <= last_number]:
                return wanted
        return []


def _decode(part: bytes, offset: int, is_last: bool) -> tuple[list[Record], int]:
    """Whole records of a part, and where the first one begins that is not whole."""
    records = []
    for found in decode_records(memoryview(part), offset):
        if isinstance(found, Record):
            records.append(found)
        elif not is_last and (found.is_cut_off or found.is_tail):
            # A sender chooses what is in a body: nothing is searched for in one that goes on.
            return records, found.offset
    return records, len(part)
