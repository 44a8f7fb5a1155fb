"""The head: samples that are accepted and not in the lake yet.

Rows stand in blocks of columns that decoding fills in place: rows up to `length` are published,
rows from there to `reserved` belong to requests whose WAL record is not safe yet.

    open      rows grow here; one registry names their series
    frozen    rows that are being sorted into files; at most one
    waiting   cut files on the local disk, on their way into the lake, oldest first

Limits: `head.max-bytes` of open rows begin a cut, twice that refuses; so many again may be frozen
at the same time. A row is 20 bytes, 28 with a start timestamp; sorting the frozen rows takes
another 16 bytes each. Metadata has METADATA_BYTES_MAX.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from bridge.lake.head_view import CutFiles, HeadRows, HeadView
from bridge.model.options import Size, option
from bridge.wire.columns import F64Array, I64Array, U32Array
from bridge.wire.decoded import MetadataEntry
from bridge.wire.series import SeriesRegistry

BLOCK_ROWS = 131_072
METADATA_BYTES_MAX = 32 << 20
"""Names, help and units that are kept: 200 bytes of each of 160 k metrics, ten large fleets."""
METADATA_TEXT_MAX = 4096
"""Characters of a help text or unit; the rest is cut off."""
OPEN_POSITION = 2**63 - 1
"""Position of the open rows in a view: no committed flush covers them."""


@dataclass(frozen=True, slots=True)
class HeadSettings:
    """How much is held in memory."""

    max_bytes: Size = option(
        Size(128 << 20),
        "Past this many bytes of samples a file is cut early; past twice as many writes are "
        "answered 503. Rows that are being cut and their sorted copy come on top.",
    )


class Block:
    """Columns of rows, filled from the front.

    Attributes:
        refs: (capacity,) uint32, series in the registry of its head.
        timestamps_ms: (capacity,) int64.
        values: (capacity,) float64, bits untouched.
        start_timestamps_ms: (capacity,) int64, 0 where unset; its pages exist only once written.
        length: published rows.
        reserved: published rows and those of requests on their way.
        has_start: whether any start timestamp is set.
    """

    __slots__ = (
        "has_start",
        "length",
        "refs",
        "reserved",
        "start_timestamps_ms",
        "timestamps_ms",
        "values",
    )

    def __init__(self, capacity: int) -> None:
        self.refs: U32Array = np.empty(capacity, np.uint32)
        self.timestamps_ms: I64Array = np.empty(capacity, np.int64)
        self.values: F64Array = np.empty(capacity, np.float64)
        self.start_timestamps_ms: I64Array = np.zeros(capacity, np.int64)
        self.length = 0
        self.reserved = 0
        self.has_start = False

    @property
    def capacity(self) -> int:
        """Rows that fit in all."""
        return len(self.refs)

    @property
    def size_bytes(self) -> int:
        """Bytes that the reserved rows take."""
        return self.reserved * (28 if self.has_start else 20)

    def rows(self) -> tuple[U32Array, I64Array, F64Array]:
        """The published rows, not copied."""
        length = self.length
        return self.refs[:length], self.timestamps_ms[:length], self.values[:length]


class MetadataTable:
    """Metadata by metric, the newest of each; past METADATA_BYTES_MAX the oldest is forgotten."""

    def __init__(self) -> None:
        self._entries: dict[str, tuple[MetadataEntry, int]] = {}
        self._size_bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, entry: MetadataEntry, seen_ms: int) -> None:
        """Takes what was said of a metric at a time."""
        entry = replace(
            entry, help=entry.help[:METADATA_TEXT_MAX], unit=entry.unit[:METADATA_TEXT_MAX]
        )
        self._drop(entry.metric)
        self._entries[entry.metric] = entry, seen_ms
        self._size_bytes += _size_of(entry)
        while self._size_bytes > METADATA_BYTES_MAX:
            self._drop(next(iter(self._entries)))

    def entries(self) -> list[tuple[MetadataEntry, int]]:
        """Everything, with when it was seen, oldest first."""
        return list(self._entries.values())

    def _drop(self, metric: str) -> None:
        known = self._entries.pop(metric, None)
        if known is not None:
            self._size_bytes -= _size_of(known[0])


def _size_of(entry: MetadataEntry) -> int:
    return 200 + len(entry.metric) + len(entry.help) + len(entry.unit)


@dataclass(slots=True)
class Rows:
    """Rows of one head span.

    Attributes:
        registry: names the refs.
        position: number of the last WAL record that is covered.
        sample_total: samples of the log up to there.
        receive_ms: when the oldest of these rows came, Unix ms; 0 without rows.
        blocks: in order of arrival.
        metadata: by metric, newest wins.
    """

    registry: SeriesRegistry
    position: int
    sample_total: int = 0
    receive_ms: int = 0
    blocks: list[Block] = field(default_factory=list)
    metadata: MetadataTable = field(default_factory=MetadataTable)

    @property
    def size_bytes(self) -> int:
        """Bytes of all reserved rows."""
        return sum(block.size_bytes for block in self.blocks)

    @property
    def row_count(self) -> int:
        """Published rows."""
        return sum(block.length for block in self.blocks)

    def view(self) -> HeadRows:
        """What a read sees of them."""
        return HeadRows(self.registry, tuple(block.rows() for block in self.blocks))


class Head:
    """Holds the three stages; any thread may look, the ingest thread alone writes rows."""

    def __init__(self, receiver_id: str, new_registry: Callable[[], SeriesRegistry]) -> None:
        self._lock = threading.Lock()
        self._receiver_id = receiver_id
        self._open = Rows(new_registry(), 0)
        self._frozen: Rows | None = None
        self._frozen_position = 0
        self._waiting: list[tuple[int, CutFiles]] = []

    @property
    def registry(self) -> SeriesRegistry:
        """The registry of the open rows."""
        return self._open.registry

    @property
    def open_bytes(self) -> int:
        """Bytes of the open rows."""
        return self._open.size_bytes

    @property
    def row_count(self) -> int:
        """Rows in memory."""
        frozen = self._frozen
        return self._open.row_count + (frozen.row_count if frozen else 0)

    @property
    def is_cutting(self) -> bool:
        """Whether frozen rows wait for their files."""
        return self._frozen is not None

    @property
    def sample_total(self) -> int:
        """Samples of the log up to the position of the open rows."""
        return self._open.sample_total

    @property
    def oldest_receive_ms(self) -> int:
        """When the oldest rows came that are in no file yet, Unix ms; 0 without any."""
        frozen = self._frozen
        return (frozen.receive_ms if frozen else 0) or self._open.receive_ms

    @property
    def waiting_count(self) -> int:
        """Cuts that the lake does not have yet."""
        return len(self._waiting)

    @property
    def waiting_bytes(self) -> int:
        """Bytes of cut files that the lake does not have yet."""
        with self._lock:
            return sum(file.size_bytes for _, cut in self._waiting for file in cut.files)

    def tail(self, row_count: int) -> Block:
        """The block with room for `row_count` more rows behind its `reserved`."""
        blocks = self._open.blocks
        if not blocks or blocks[-1].capacity - blocks[-1].reserved < row_count:
            block = Block(max(BLOCK_ROWS, row_count))
            with self._lock:
                blocks.append(block)
            return block
        return blocks[-1]

    def publish(self, receive_ms: int) -> None:
        """Makes the reserved rows readable: their records are safe.

        Args:
            receive_ms: when the oldest of them came, Unix ms.
        """
        self._open.receive_ms = self._open.receive_ms or receive_ms
        for block in self._open.blocks:
            block.length = block.reserved

    def withdraw(self) -> None:
        """Gives the reserved rows up: their records are not safe."""
        for block in self._open.blocks:
            block.reserved = block.length

    def add_metadata(self, entries: list[MetadataEntry], receive_ms: int) -> None:
        """Remembers type, help and unit for the next cut."""
        for entry in entries:
            self._open.metadata.put(entry, receive_ms)

    def cover(self, position: int, sample_total: int) -> None:
        """Says that every row of the records up to `position` is published."""
        self._open.position, self._open.sample_total = position, sample_total

    def freeze(self, next_registry: Callable[[Rows], SeriesRegistry | None]) -> Rows | None:
        """Turns the open rows into frozen ones.

        Args:
            next_registry: given the open rows, the registry that takes over for the rows to come;
                None: the present one goes on.

        Returns:
            what was frozen; None where there is nothing, or while others are frozen still.
        """
        opened = self._open
        # Metadata of a request that the disk refused has no record: it goes with the next one.
        if self._frozen is not None or opened.position <= self._frozen_position:
            return None
        registry = next_registry(opened) or opened.registry
        with self._lock:
            self._frozen = opened
            self._frozen_position = opened.position
            self._open = Rows(registry, opened.position, opened.sample_total)
        return opened

    def cut(self, position: int, files: CutFiles | None) -> None:
        """Replaces the frozen rows by their files; None where they had no samples."""
        with self._lock:
            self._frozen = None
            if files is not None:
                self._waiting.append((position, files))

    def committed(self, position: int) -> None:
        """Forgets what the lake has now."""
        with self._lock:
            self._waiting = [item for item in self._waiting if item[0] > position]

    def rename(self, receiver_id: str) -> None:
        """Takes another receiver id, before anything is in the head."""
        self._receiver_id = receiver_id

    def view(self) -> HeadView:
        """Everything that the lake may not have, oldest first."""
        with self._lock:
            parts: list[tuple[int, HeadRows | CutFiles]] = list(self._waiting)
            if self._frozen is not None:
                parts.append((self._frozen.position, self._frozen.view()))
            parts.append((OPEN_POSITION, self._open.view()))
            return HeadView(self._receiver_id, tuple(parts))
