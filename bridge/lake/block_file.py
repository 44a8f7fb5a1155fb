"""A local copy of an object, filled block by block, and the record of what is in it.

    NAME.blocks   sparse, as long as the object: a block that was fetched lies at its own offset
    NAME.map      header, key, then 8 bytes a block: 0 for none, else 1 << 32 | CRC32C

The data is written first, its entry in the map afterwards, neither is fsynced. Whatever a kill, a
power cut or a bad disk leaves, a block read back from an earlier run is believed only once its
checksum was verified (LAKE-12). NAME is a hash of the key; the key stands in the map, which is how
a person finds out what a file is, and how two keys with one hash would be noticed.

Limits: a map takes 8 bytes for each block of 64 KiB, an eight-thousandth; 16 KiB for 128 MiB.
"""

import contextlib
import os
import struct
from collections.abc import Callable
from concurrent.futures import Future
from hashlib import blake2b
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from bridge.errors import DamagedFile
from bridge.wire.crc32c import crc32c

MISSING, RECORDED, ON_DISK, IN_MEMORY = range(4)
"""States of a block. RECORDED: an earlier run wrote it, nobody has verified it yet."""

Check = Callable[[], None]
"""Raises when nobody waits for the work any more."""

DATA_SUFFIX, MAP_SUFFIX = ".blocks", ".map"
PAGE_BYTES = 4096
"""What file systems give out; sizes on the disk are counted in it."""

_HEADER = struct.Struct("<4sHHQQI")
"""Magic, version, length of the key, block size, object size, CRC32C of all that and the key."""
_MAGIC, _VERSION = b"PBCM", 1
_PRESENT = 1 << 32


def name_of(key: str) -> str:
    """Of an object's local files, without suffix."""
    return blake2b(key.encode(), digest_size=16).hexdigest()


class BlockFile:
    """The blocks of one object; the cache's lock guards every attribute.

    Attributes:
        key: of the object.
        size_bytes: of the object.
        states: one byte per block.
        memory: blocks that the disk did not take; they go with the last holder.
        flights: blocks that are being fetched.
        pin_count: holders; not evicted while there are any.
        disk_bytes: what it takes on the disk, about.
    """

    __slots__ = (
        "_block_bytes",
        "_checksums",
        "_data_path",
        "_map_path",
        "disk_bytes",
        "flights",
        "is_created",
        "key",
        "memory",
        "pin_count",
        "size_bytes",
        "states",
    )

    def __init__(self, folder: Path, key: str, size_bytes: int, block_bytes: int) -> None:
        """Describes it; nothing is read or written."""
        name = name_of(key)
        self.key = key
        self.size_bytes = size_bytes
        self.states = bytearray(-(-size_bytes // block_bytes))
        self.memory: dict[int, memoryview] = {}
        self.flights: dict[int, Future[None]] = {}
        self.pin_count = 0
        self.disk_bytes = 0
        self.is_created = False
        self._block_bytes = block_bytes
        self._checksums: NDArray[np.uint64] | None = None
        self._data_path = folder / (name + DATA_SUFFIX)
        self._map_path = folder / (name + MAP_SUFFIX)

    def recall(self) -> bool:
        """Takes over what an earlier run left of this object; False if that is of no use."""
        try:
            raw = self._map_path.read_bytes()
            data_bytes = self._data_path.stat().st_size
        except OSError:
            return False
        head = self._head()
        slots = raw[len(head) :]
        if (
            raw[: len(head)] != head
            or len(slots) != 8 * len(self.states)
            or data_bytes != self.size_bytes
        ):
            return False
        checksums = np.frombuffer(slots, "<u8").copy()
        self.states[:] = np.where(checksums >> 32 == 1, RECORDED, MISSING).astype("u1").tobytes()
        self._checksums = checksums
        self.is_created = True
        return True

    def forget_disk(self) -> None:
        """What lies there now is not what this one wrote."""
        self.states[:] = bytes(state if state == IN_MEMORY else MISSING for state in self.states)

    def touch(self) -> bool:
        """Says that it was used, to runs that come after this one; False if it is gone."""
        try:
            os.utime(self._data_path)
        except FileNotFoundError:
            return False
        except OSError:  # a disk that only reads, say: then a restart forgets the order
            return True
        return True

    def verify(self, block: int) -> bool:
        """Whether a recorded block is what was written."""
        assert self._checksums is not None
        offset, length = self.span(block, block)
        try:
            with self.open() as file:
                data = os.pread(file.fileno(), length, offset)
        except OSError:
            return False
        return len(data) == length and int(self._checksums[block]) == _PRESENT | crc32c(data)

    def create(self) -> None:
        """Makes both files, without any block.

        Raises:
            OSError: the disk is full or failed.
        """
        with self._data_path.open("wb") as file:
            file.truncate(self.size_bytes)
        self._map_path.write_bytes(self._head() + bytes(8 * len(self.states)))
        self.disk_bytes = on_disk(self._map_path)
        self.is_created = True

    def write(self, first: int, data: memoryview) -> int:
        """Writes blocks that follow one another: the data, then what the map says of it.

        Returns:
            how much was written.

        Raises:
            OSError: the disk is full or failed; the map says nothing of them.
        """
        size = self._block_bytes
        parts = [data[begin : begin + size] for begin in range(0, len(data), size)]
        slots = np.array([_PRESENT | crc32c(part) for part in parts], "<u8").tobytes()
        _write_at(self._data_path, data, first * size)
        _write_at(self._map_path, memoryview(slots), len(self._head()) + 8 * first)
        return sum(-(-len(part) // PAGE_BYTES) * PAGE_BYTES for part in parts)

    def open(self) -> "OpenBlocks":
        """The blocks on the disk, to be read.

        Raises:
            OSError: the disk failed, or somebody deleted the file.
        """
        return OpenBlocks(self._data_path)

    def span(self, first: int, last: int) -> tuple[int, int]:
        """Offset and length of blocks that follow one another."""
        begin = first * self._block_bytes
        return begin, min((last + 1) * self._block_bytes, self.size_bytes) - begin

    def blocks_of(self, offset: int, length: int) -> range:
        """The blocks that a range touches."""
        if offset < 0 or offset + length > self.size_bytes:
            raise DamagedFile(
                self.key,
                f"{self.key}: bytes {offset} to {offset + length} are asked for, the log says that "
                f"it has {self.size_bytes}",
            )
        return range(offset // self._block_bytes, -(-(offset + length) // self._block_bytes))

    def _head(self) -> bytes:
        key = self.key.encode()
        fields = _MAGIC, _VERSION, len(key), self._block_bytes, self.size_bytes
        checksum = crc32c(key, crc32c(_HEADER.pack(*fields, 0)))
        head = _HEADER.pack(*fields, checksum) + key
        return head + bytes(-len(head) % 8)


class OpenBlocks:
    """An open file that is read at offsets; closed with its last reference, if not before.

    pyarrow lets go of what it reads without closing it.
    """

    __slots__ = ("_descriptor",)

    def __init__(self, path: Path) -> None:
        """Opens it.

        Raises:
            OSError: the disk failed, or somebody deleted the file.
        """
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def fileno(self) -> int:
        """For `os.pread`."""
        return self._descriptor

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes it; may be repeated."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError):  # it was never opened
            self.close()


def delete_files(data_path: Path) -> None:
    """Removes a data file and its map, as far as the disk lets it."""
    for path in (data_path, data_path.with_suffix(MAP_SUFFIX)):
        try:
            path.unlink(missing_ok=True)
        except OSError:  # the disk only reads; the next start counts it again
            return


def on_disk(path: Path) -> int:
    """Bytes that a file takes on the disk.

    Raises:
        OSError: the disk failed, or it is gone.
    """
    return path.stat().st_blocks * 512


def _write_at(path: Path, data: memoryview, offset: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        while data:
            count = os.pwrite(descriptor, data, offset)
            data, offset = data[count:], offset + count
    finally:
        os.close(descriptor)
