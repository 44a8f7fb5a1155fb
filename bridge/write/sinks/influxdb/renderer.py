"""From WAL records to line protocol: a registry of its own, prefixes that are kept, batches.

    record ──> rows of a batch (ref, time, value) ──┬─> not writable: counted by reason
                                                    └─> prefix of its ref + number + time = line

The registry and the prefixes are caches: whatever was forgotten is made again from the next record
that names the series. So both are bounded by being emptied, and a restart needs neither.

Limits:
    PREFIX_ROOM_BYTES  256 MiB of prefixes, 680 000 series of 400 bytes; only what is used counts as
                       memory. A workload with more makes some of them again, at 0.8 us each.
    REGISTRY_BYTES_MAX 384 MiB, 3 million series of 120 bytes; past it a batch begins with none.
    RENEW_S            a registry whose series are silent by more than a quarter is begun anew after
                       this long: learning a million series takes a second.
    GROUP_TEXT_BYTES   1 MiB of names and values made into prefixes at once. What is too long for
                       InfluxDB is not made at all: a sender needs two bytes to repeat a label of
                       8 KiB, so a body of 6 KiB may stand for 250 MiB of text.
    TEXT_BYTES_MAX     16 MiB of text rendered at once, and as much again while it is compressed.
    rows               28 bytes each: of a batch, and of the largest request (a million, 28 MB).
"""

import mmap
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bridge.errors import RowsFull
from bridge.model.staleness import STALE_BITS
from bridge.wire.columns import F64Array, I64Array, U8Array, U32Array
from bridge.wire.decoded import Limits
from bridge.wire.encoded import EncodedSeries
from bridge.wire.lines import encode_lines, encode_prefixes
from bridge.wire.series import SeriesRegistry
from bridge.write.ingest import Decompressor
from bridge.write.sinks.influxdb.settings import LineMapping
from bridge.write.wal.record import Record

PREFIX_ROOM_BYTES = 256 << 20
PREFIX_BYTES_MAX = 65_533
"""InfluxDB refuses more than 65 535 bytes of key, `#!~#` and field; a prefix has ` ` and `=`."""
REGISTRY_BYTES_MAX = 384 << 20
RENEW_S = 900.0
TEXT_BYTES_MAX = 16 << 20
NUMBER_BYTES_MAX = 46
"""A number, a time, a space and a newline."""
RAW_BYTES_MAX = PREFIX_BYTES_MAX + len(b"__name__")
"""More names and values make a longer prefix: escapes only add, and all but this is written."""
GROUP_SERIES = 256
"""Prefixes made at once; a replica is written with each, a value of 8 KiB in the worst case."""
GROUP_TEXT_BYTES = 1 << 20
PREFIX_ROOM_BYTES_MIN = GROUP_SERIES * PREFIX_BYTES_MAX
ROWS_ROOM = 4096
FIELD_MEASUREMENT = b"prometheus"
UNKNOWN, TOO_LONG = -1, -2


@dataclass(slots=True)
class _Rows:
    """Rows of a batch that is being collected."""

    refs: U32Array
    timestamps_ms: I64Array
    values: F64Array
    start_timestamps_ms: I64Array

    @classmethod
    def with_room(cls, count: int) -> "_Rows":
        return cls(
            np.empty(count, np.uint32),
            np.empty(count, np.int64),
            np.empty(count, np.float64),
            np.zeros(count, np.int64),
        )

    def grown(self, count: int, kept: int) -> "_Rows":
        larger = _Rows.with_room(count)
        larger.refs[:kept] = self.refs[:kept]
        larger.timestamps_ms[:kept] = self.timestamps_ms[:kept]
        larger.values[:kept] = self.values[:kept]
        return larger


@dataclass(frozen=True, slots=True)
class Lines:
    """Rendered lines.

    Attributes:
        text: the lines and where each begins.
        refs: (lines,) uint32, whose they are.
    """

    text: EncodedSeries
    refs: U32Array

    def __len__(self) -> int:
        return len(self.refs)

    def line(self, number: int) -> bytes:
        """One line, newline and all."""
        start, end = self.text.offsets[number : number + 2].tolist()
        return self.text.data[start:end]


class _Prefixes:
    """Prefixes by ref, in one room that is emptied when it is full."""

    def __init__(self, room_bytes: int) -> None:
        self._map = mmap.mmap(-1, room_bytes)
        self.room: U8Array = np.frombuffer(self._map, np.uint8)
        self.starts = np.full(0, UNKNOWN, np.int64)
        self.ends = np.full(0, UNKNOWN, np.int64)
        self._used_bytes = 0

    def grow(self, count: int) -> None:
        """Takes refs up to `count`."""
        if count > len(self.starts):
            more = np.full(max(count, 2 * len(self.starts)) - len(self.starts), UNKNOWN, np.int64)
            self.starts = np.concatenate([self.starts, more])
            self.ends = np.concatenate([self.ends, more])

    def clear(self) -> None:
        """Forgets all of them."""
        self.starts[:] = self.ends[:] = UNKNOWN
        self._used_bytes = 0

    def refuse(self, refs: U32Array) -> None:
        """Says that no line can hold these series."""
        self.starts[refs] = self.ends[refs] = TOO_LONG

    def put(self, refs: U32Array, made: EncodedSeries) -> bool:
        """Keeps prefixes; False where there is no room for them."""
        is_good = np.diff(made.offsets) <= PREFIX_BYTES_MAX
        if not is_good.all():
            self.refuse(refs[~is_good])
            refs, made = refs[is_good], _chosen(made, np.flatnonzero(is_good))
        end = self._used_bytes + len(made.data)
        if end > len(self.room):
            return False
        self.room[self._used_bytes : end] = np.frombuffer(made.data, np.uint8)
        self.starts[refs] = made.offsets[:-1] + self._used_bytes
        self.ends[refs] = made.offsets[1:] + self._used_bytes
        self._used_bytes = end
        return True


def _chosen(texts: EncodedSeries, numbers: NDArray[np.int64]) -> EncodedSeries:
    """Some of the texts."""
    offsets = texts.offsets.tolist()
    parts = [texts.data[offsets[number] : offsets[number + 1]] for number in numbers.tolist()]
    return EncodedSeries(b"".join(parts), np.cumsum([0, *map(len, parts)], dtype=np.int64))


class Renderer:
    """Collects a batch of records and renders it; used by one thread."""

    def __init__(
        self,
        replica_labels: tuple[bytes, ...],
        mapping: LineMapping,
        limits: Limits,
        *,
        seed: int = 0,
        clock_s: Callable[[], float] = time.monotonic,
        prefix_room_bytes: int = PREFIX_ROOM_BYTES,
        registry_bytes_max: int = REGISTRY_BYTES_MAX,
    ) -> None:
        """Knows no series yet.

        Args:
            replica_labels: of the section `write`; a replica becomes a tag of the first one's name.
            mapping: where a metric's name goes.
            limits: of receipt; a record says itself what they left out.
            seed: of hashes that senders must not know.
            clock_s: for RENEW_S.
            prefix_room_bytes: at least PREFIX_ROOM_BYTES_MIN, 16 MiB: a group always finds room.
            registry_bytes_max: of memory.
        """
        self._replica_labels = replica_labels
        self._measurement = None if mapping == "measurement-per-metric" else FIELD_MEASUREMENT
        self._limits = limits
        self._seed = seed
        self._clock_s = clock_s
        self._registry_bytes_max = registry_bytes_max
        self._decompressor = Decompressor()
        self._prefixes = _Prefixes(prefix_room_bytes)
        self._renew_s = 0.0
        self._rows = _Rows.with_room(ROWS_ROOM)
        self.row_count = 0
        self._begin_registry()

    @property
    def series_count(self) -> int:
        """Series that are known."""
        return len(self._registry)

    def add(self, record: Record) -> int:
        """Adds the rows of a record to the batch.

        Returns:
            how many.

        Raises:
            PrombridgeError: the record cannot be decoded; nothing was added.
        """
        data = self._decompressor.decompress(record.body)
        refused = np.frombuffer(record.refused, np.uint32)
        decode = self._registry.decode_v1 if record.format == 1 else self._registry.decode_v2
        while True:
            rows = self._rows
            try:
                decoded = decode(
                    data,
                    self._limits,
                    record.receive_ms,
                    refused,
                    rows.refs,
                    rows.timestamps_ms,
                    rows.values,
                    rows.start_timestamps_ms,
                    self.row_count,
                )
            except RowsFull as full:
                needed = self.row_count + full.needed_count
                self._rows = rows.grown(max(needed, 2 * len(rows.refs)), self.row_count)
                continue
            self.row_count += decoded.sample_count
            return decoded.sample_count

    def render(self, batch_lines: int, dropped: dict[str, int]) -> Iterator[Lines]:
        """The batch as lines, part by part; series under suspicion come in parts of their own.

        Args:
            batch_lines: lines of one part.
            dropped: rows that no line can hold are counted here by reason.
        """
        self._prefixes.grow(len(self._registry))
        self._grow_flags(len(self._registry))
        refs = self._rows.refs[: self.row_count]
        self._is_seen[refs] = True
        is_writable = _writable(self._rows.values[: self.row_count], dropped)
        is_suspect = self._is_suspect[refs]
        for is_chosen in (is_writable & ~is_suspect, is_writable & is_suspect):
            chosen = np.flatnonzero(is_chosen)
            while len(chosen):
                part = self._next_part(chosen[:batch_lines])
                if len(lines := self._encode(chosen[:part], dropped)):
                    yield lines
                chosen = chosen[part:]

    def clear(self) -> None:
        """Begins the next batch; series that have fallen silent are forgotten."""
        self.row_count = 0
        is_due = self._clock_s() >= self._renew_s
        if is_due:
            self._renew_s = self._clock_s() + RENEW_S
        count = len(self._registry)
        if (is_due and 4 * np.count_nonzero(self._is_seen) < 3 * count) or (
            self._registry.memory_bytes > self._registry_bytes_max
        ):
            self._begin_registry()
        elif is_due:
            self._is_seen[:] = False

    def suspect(self, refs: U32Array, is_suspect: bool) -> None:
        """Marks series whose lines were refused, or takes the mark away."""
        self._is_suspect[refs] = is_suspect

    def _begin_registry(self) -> None:
        self._registry = SeriesRegistry(self._replica_labels, seed=self._seed)
        self._prefixes.clear()
        self._is_suspect = np.zeros(0, np.bool_)
        self._is_seen = np.zeros(0, np.bool_)
        self._renew_s = self._clock_s() + RENEW_S

    def _grow_flags(self, count: int) -> None:
        if count > len(self._is_seen):
            more = np.zeros(max(count, 2 * len(self._is_seen)) - len(self._is_seen), np.bool_)
            self._is_seen = np.concatenate([self._is_seen, more])
            self._is_suspect = np.concatenate([self._is_suspect, more])

    def _next_part(self, rows: NDArray[np.int64]) -> int:
        """How many leading rows have their prefixes and make no more text than allowed."""
        refs = self._rows.refs[rows]
        count = self._make_prefixes(refs)
        lengths = self._prefixes.ends[refs[:count]] - self._prefixes.starts[refs[:count]]
        sizes = np.cumsum(lengths + NUMBER_BYTES_MAX)
        return max(1, int(np.searchsorted(sizes, TEXT_BYTES_MAX, side="right")))

    def _make_prefixes(self, refs: U32Array) -> int:
        """Makes what is missing, for as many leading rows as there is room for; at least one."""
        is_cleared = False
        while True:
            missing = np.flatnonzero(self._prefixes.starts[refs] == UNKNOWN)
            if not len(missing):
                return len(refs)
            fresh, first = np.unique(refs[missing], return_index=True)
            order = np.argsort(first)
            fresh, first = fresh[order], missing[first[order]]
            lengths = self._registry.label_lengths(fresh)
            is_short = lengths <= RAW_BYTES_MAX
            self._prefixes.refuse(fresh[~is_short])
            fresh, first, lengths = fresh[is_short], first[is_short], lengths[is_short]
            replicas = self._registry.replicas()
            for start, end in _groups(lengths):
                group = fresh[start:end]
                if not self._prefixes.put(group, self._encode_prefixes(group, replicas)):
                    if is_cleared:
                        return int(first[start])
                    break
            else:
                return len(refs)
            self._prefixes.clear()
            is_cleared = True

    def _encode_prefixes(self, refs: U32Array, replicas: list[bytes]) -> EncodedSeries:
        # Only those of the group: there may be as many as series.
        known, ids = np.unique(self._registry.replica_ids(refs), return_inverse=True)
        if known[0]:
            known, ids = np.append(0, known), ids + 1
        return encode_prefixes(
            self._registry.label_rows(refs),
            ids.astype(np.uint32),
            [replicas[number] for number in known.tolist()],
            self._replica_labels[0] if self._replica_labels else b"",
            self._measurement,
        )

    def _encode(self, rows: NDArray[np.int64], dropped: dict[str, int]) -> Lines:
        refs = self._rows.refs[rows]
        is_short = self._prefixes.starts[refs] != TOO_LONG
        if not is_short.all():
            dropped["too_long"] = dropped.get("too_long", 0) + int(np.count_nonzero(~is_short))
            rows, refs = rows[is_short], refs[is_short]
        text = encode_lines(
            self._prefixes.room,
            self._prefixes.starts,
            self._prefixes.ends,
            refs,
            self._rows.timestamps_ms[rows],
            self._rows.values[rows],
        )
        return Lines(text, refs)


def _groups(lengths: I64Array) -> Iterator[tuple[int, int]]:
    """Starts and ends of runs of at most GROUP_SERIES and GROUP_TEXT_BYTES."""
    ends_bytes = np.cumsum(lengths)
    start = 0
    while start < len(lengths):
        bound_bytes = (ends_bytes[start - 1] if start else 0) + GROUP_TEXT_BYTES
        end = int(np.searchsorted(ends_bytes, bound_bytes, side="right"))
        end = max(start + 1, min(start + GROUP_SERIES, end))
        yield start, end
        start = end


def _writable(values: F64Array, dropped: dict[str, int]) -> NDArray[np.bool_]:
    """Which values InfluxDB can hold; the others are counted."""
    is_finite: NDArray[np.bool_] = np.isfinite(values)
    if not is_finite.all():
        others = values[~is_finite]
        stale = int(np.count_nonzero(others.view(np.uint64) == STALE_BITS))
        infinite = int(np.count_nonzero(np.isinf(others)))
        counts = {
            "stale_marker": stale,
            "infinite": infinite,
            "nan": len(others) - stale - infinite,
        }
        for reason, count in counts.items():
            if count:
                dropped[reason] = dropped.get(reason, 0) + count
    return is_finite
