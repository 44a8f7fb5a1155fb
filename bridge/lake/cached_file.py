"""An object in the cache as a file that pyarrow reads.

pyarrow calls into Python for it, one read for each column of a row group: 3 us, no more than it
saves by not starting a thread for what it reads ahead. So every read is looked at, and none sees a
hole (LAKE-13).
"""

import os
from collections.abc import Sequence
from typing import Protocol

import structlog

from bridge.errors import DamagedFile
from bridge.lake.block_file import ON_DISK, BlockFile, Check, OpenBlocks

log = structlog.get_logger()


class BlockSource(Protocol):
    """Where blocks come from that are not here."""

    unforeseen_count: int

    def ensure(
        self, needed: Sequence[tuple[BlockFile, Sequence[tuple[int, int]]]], check: Check
    ) -> None:
        """Fetches what is missing of pinned files."""

    def read_around(self, file: BlockFile, offset: int, length: int) -> bytes:
        """Bytes straight from the store, because the disk did not give what it had taken."""


class CachedFile:
    """A pinned object; what pyarrow's PythonFile wants of one, used by one thread at a time.

    Attributes:
        closed: no more reads.
    """

    def __init__(self, source: BlockSource, file: BlockFile, check: Check) -> None:
        self.closed = False
        self._source = source
        self._file = file
        self._check = check
        self._position = 0
        self._blocks: OpenBlocks | None = None

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """Where the next read begins."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Moves the next read."""
        begin = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._file.size_bytes}
        self._position = begin[whence] + offset
        return self._position

    def read(self, length: int = -1) -> bytes:
        """The next bytes; fewer at the end.

        Raises:
            FileNotFoundError, StorageUnavailable: they are not here and cannot be fetched.
        """
        left = max(0, self._file.size_bytes - self._position)
        length = left if length < 0 else min(length, left)
        data = self._read_at(self._position, length) if length else b""
        self._position += len(data)
        return data

    def close(self) -> None:
        """Closes the local file; the object stays held."""
        self.closed = True
        if self._blocks is not None:
            self._blocks.close()
            self._blocks = None

    def _read_at(self, offset: int, length: int) -> bytes:
        file = self._file
        blocks = file.blocks_of(offset, length)
        if any(file.states[block] < ON_DISK for block in blocks):
            self._source.unforeseen_count += 1
            self._source.ensure([(file, [(offset, length)])], self._check)
        if not file.memory:
            return self._read_disk(offset, length)
        parts = []
        for block in blocks:
            begin, size = file.span(block, block)
            first, end = max(offset, begin), min(offset + length, begin + size)
            kept = file.memory.get(block)
            parts.append(
                self._read_disk(first, end - first)
                if kept is None
                else bytes(kept[first - begin : end - begin])
            )
        return b"".join(parts)

    def _read_disk(self, offset: int, length: int) -> bytes:
        file = self._file
        try:
            if self._blocks is None:
                self._blocks = file.open()
            data = os.pread(self._blocks.fileno(), length, offset)
        except OSError as error:
            log.warning("cached file cannot be read", key=file.key, error=str(error))
            data = b""
        # Once more: if somebody deleted the file and another query made it anew, it has holes.
        is_there = all(file.states[block] >= ON_DISK for block in file.blocks_of(offset, length))
        if len(data) != length or not is_there:
            data = self._source.read_around(file, offset, length)
        if len(data) != length:
            raise DamagedFile(
                file.key, f"{file.key}: {len(data)} of {length} bytes at {offset} came"
            )
        return data
