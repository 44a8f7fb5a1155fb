"""The one thread that turns request bodies into safe, readable samples.

    jobs ──> decompress ──> decode into the head's tail ──> append to the WAL ─┐
      └────────── as many as wait, at most GROUP_BYTES ──────────────────────┤
                                                  one fsync for the group <──┘
                                  publish the rows, answer every job of the group

One thread: the order of records, of rows and of registered series is one and the same, nothing on
this road needs a lock, and requests that wait for the disk share its fsync.

Invariants:
    WRITE-1  a row is readable, and a job answered with success, only after its record is safe.
    WRITE-2  a record holds what admission refused, so a replay gives the very rows of the receipt.
    WRITE-3  a cut happens between groups: its position covers exactly the rows it holds.

Limits: what waits is bounded by the receiver (write.max-inflight-bytes); the decompression buffer
by write.max-decoded-bytes; the head by head.max-bytes: past it a cut begins, past twice that, or
past it while the last span is still being cut, requests are `Overloaded`.
"""

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import cramjam
import numpy as np
import structlog

from bridge.errors import (
    ConfigError,
    CorruptBody,
    Overloaded,
    PrombridgeError,
    RowsFull,
    StorageUnavailable,
)
from bridge.model.options import Size, option
from bridge.wire.columns import U32Array
from bridge.wire.decoded import Decoded, Limits
from bridge.wire.series import SeriesRegistry
from bridge.write.head import Block, Head, Rows
from bridge.write.wal.log import ReplayReport, WriteAheadLog

log = structlog.get_logger()

GROUP_BYTES = 16 << 20
"""Compressed bytes of one group: what one fsync writes at most, 120 requests of 128 KiB."""
ROWS_ROOM = 16_384
"""Rows that the tail has room for before a body is decoded; a body that needs more says so."""
REMIND_S = 300.0
"""A loss that goes on is logged again after this long."""


@dataclass(frozen=True, slots=True)
class WriteSettings:
    """What a write request may be."""

    max_active_series: int = option(
        2_000_000,
        "New series are refused with 400 beyond this many; known ones go on. A series takes about "
        "120 bytes of memory.",
    )
    max_body_bytes: Size = option(
        Size(32 << 20), "Compressed size of a write request; larger is 413."
    )
    max_decoded_bytes: Size = option(
        Size(32 << 20), "Size of a write request after snappy, as its header says; larger is 400."
    )
    max_inflight_bytes: Size = option(
        Size(128 << 20),
        "Compressed bytes of all requests that are being received or wait for the disk; beyond it "
        "503. 200 senders' shards with bodies of 128 KiB take 25 MiB.",
    )
    max_samples_per_request: int = option(1_000_000, "Samples of one request; more is 400.")
    max_labels: int = option(128, "Labels of one series; a series with more is refused.")
    max_label_name_bytes: Size = option(Size(1024), "Bytes of a label name.")
    max_label_value_bytes: Size = option(Size(8192), "Bytes of a label value.")
    max_series_bytes: Size = option(
        Size(64 << 10), "Bytes of all label names and values of one series."
    )
    replica_labels: tuple[str, ...] = option(
        ("__replica__", "prometheus_replica"),
        "Labels that tell the replicas of an HA pair apart: not part of a series' identity, kept "
        "in the column `replica`.",
    )

    def __post_init__(self) -> None:
        """Refuses limits that no body could pass together.

        Raises:
            ConfigError: names the option.
        """
        if self.max_inflight_bytes < self.max_body_bytes:
            raise ConfigError(
                f"write.max_inflight_bytes: {self.max_inflight_bytes} bytes are less than one "
                f"body (write.max_body_bytes is {self.max_body_bytes})"
            )

    def limits(self) -> Limits:
        """These settings as the decoder takes them."""
        return Limits(
            series_count_max=self.max_active_series,
            label_count_max=self.max_labels,
            label_name_bytes_max=self.max_label_name_bytes,
            label_value_bytes_max=self.max_label_value_bytes,
            series_bytes_max=self.max_series_bytes,
            sample_count_max=self.max_samples_per_request,
        )

    def replica_label_bytes(self) -> tuple[bytes, ...]:
        """The replica labels as the registry takes them."""
        return tuple(label.encode() for label in self.replica_labels)


@dataclass(slots=True)
class WriteJob:
    """One write request on its way.

    Attributes:
        body: snappy block as received.
        format: 1 or 2, its remote-write version.
        receive_ms: Unix ms.
        answered: the future that whoever sent it waits for.
    """

    body: bytes
    format: int
    receive_ms: int
    answered: asyncio.Future[None]
    decoded: Decoded | None = None
    error: PrombridgeError | None = None


@dataclass(slots=True)
class CutJob:
    """Asks for the head to be frozen between two groups.

    Attributes:
        next_registry: given the open rows, the registry that takes over; None: the same.
        answered: set when it is done.
        rows: what was frozen; None where there was nothing, or while others are frozen still.
    """

    next_registry: Callable[[Rows], SeriesRegistry | None]
    answered: threading.Event = field(default_factory=threading.Event)
    rows: Rows | None = None


class Decompressor:
    """Snappy blocks into one buffer that is kept, as large as the largest body so far."""

    def __init__(self) -> None:
        self._buffer = bytearray(1 << 20)

    def decompress(self, body: bytes | memoryview) -> memoryview:
        """The body's bytes, valid until the next call.

        Raises:
            CorruptBody: not a snappy block.
        """
        try:
            length = cramjam.snappy.decompress_raw_len(body)
            if length > len(self._buffer):
                self._buffer = bytearray(max(length, min(2 * len(self._buffer), 64 << 20)))
            written = cramjam.snappy.decompress_raw_into(body, self._buffer)
        except cramjam.DecompressionError as error:
            raise CorruptBody(f"the body is not a snappy block: {error}") from error
        return memoryview(self._buffer)[:written]


class Ingest:
    """Owns the WAL and the rows of the head; run by one thread."""

    def __init__(
        self,
        wal: WriteAheadLog,
        head: Head,
        limits: Limits,
        head_bytes_max: int,
        wal_bytes_max: int,
        free_bytes_min: int,
        on_full: Callable[[], None],
        answer: Callable[[list[WriteJob]], None],
    ) -> None:
        """Connects the parts.

        Args:
            wal: the log.
            head: takes the rows.
            limits: of admission.
            head_bytes_max: at least so many open rows are frozen early.
            wal_bytes_max: a log refuses that has more for the lake.
            free_bytes_min: a disk with less room refuses.
            on_full: called when the open rows have reached their limit.
            answer: called once for each group, when `decoded` or `error` of its jobs is set.
        """
        self._wal = wal
        self._head = head
        self._limits = limits
        self._head_bytes_max = head_bytes_max
        self._wal_bytes_max = wal_bytes_max
        self._free_bytes_min = free_bytes_min
        self._on_full = on_full
        self._answer = answer
        self._jobs: queue.SimpleQueue[WriteJob | CutJob | None] = queue.SimpleQueue()
        self._decompressor = Decompressor()
        self._lake_number = 0
        self._sinks: list[Callable[[], int]] = []
        self._remind_s = 0.0
        self.fsync_count = 0
        self.fsync_seconds = 0.0

    def submit(self, job: WriteJob | CutJob) -> None:
        """Queues a job; the receiver bounds how much waits."""
        self._jobs.put(job)

    def stop(self) -> None:
        """Lets `run` return once everything queued before is done."""
        self._jobs.put(None)

    def allow_removal(self, number: int) -> None:
        """Says that the lake has this record; segments that no sink needs go at the next group."""
        self._lake_number = number

    def keep_for(self, position: Callable[[], int]) -> None:
        """Keeps records for an optional sink, as far as wal.max-bytes allows.

        Args:
            position: number of the last record that the sink is done with; called by this thread.
        """
        self._sinks.append(position)

    def run(self) -> None:
        """Works until `stop`."""
        while (job := self._jobs.get()) is not None:
            cuts: list[CutJob] = []
            group: list[WriteJob] = []
            size = 0
            last: WriteJob | CutJob | None = job
            while True:
                if isinstance(last, CutJob):
                    cuts.append(last)
                    break
                if last is None:
                    self._jobs.put(None)
                    break
                group.append(last)
                size += len(last.body)
                if size >= GROUP_BYTES:
                    break
                try:
                    last = self._jobs.get_nowait()
                except queue.Empty:
                    break
            if group:
                self._write(group)
            for cut in cuts:
                self._freeze(cut)
            self._make_room()

    def replay(
        self, after_number: int, cut_number: int, cut_now: Callable[[], None]
    ) -> ReplayReport:
        """Brings the rows of the records above `after_number` back into the head.

        Args:
            after_number: the lake has everything up to here.
            cut_number: of the last record of a cut whose commit may have happened; if it is above
                `after_number` the same cut is made again, so that it is recognised (LAKE-1).
            cut_now: freezes and cuts the head; called where a cut ends, and while the head is full.
        """
        report = ReplayReport()
        is_cut = cut_number <= after_number
        for record in self._wal.replay(after_number, report):
            if not is_cut and record.number > cut_number:
                self._head.cover(cut_number, self._head.sample_total)
                cut_now()
                is_cut = True
            elif is_cut and self._head.open_bytes >= self._head_bytes_max:
                cut_now()
            try:
                refused = np.frombuffer(record.refused, np.uint32)
                block, decoded = self._decode(
                    record.body, record.format, record.receive_ms, refused
                )
            except PrombridgeError as error:
                # Only after a change of code: every record was decoded before it was written.
                log.exception("wal record skipped", number=record.number, error=str(error))
                report.lost_records += 1
                continue
            block.reserved += decoded.sample_count
            block.has_start = block.has_start or decoded.has_start
            self._head.publish(record.receive_ms)
            self._head.add_metadata(decoded.metadata, record.receive_ms)
            self._head.cover(record.number, record.sample_total)
        self._head.cover(max(self._wal.last_number, after_number), self._wal.safe_sample_total)
        if not is_cut and cut_number <= self._wal.last_number:
            cut_now()
        return report

    def _make_room(self) -> None:
        """Removes what every sink has; past the cap also what the lake alone has (SINK-5)."""
        needed = min([self._lake_number, *(position() for position in self._sinks)])
        try:
            self._wal.remove_through(needed)
            gone = self._wal.remove_through(self._lake_number, self._is_full)
        except StorageUnavailable as error:
            self._remind("the WAL does not shrink, the disk is to be looked at", error=str(error))
            return
        if gone:
            self._remind(
                "the WAL is full (wal.max-bytes) or its disk is (wal.min-free-bytes): a sink that "
                "lags loses its oldest records, the lake has them",
                first_record=self._wal.first_number,
                needed_after=needed,
            )

    def _is_full(self) -> bool:
        return (
            self._wal.size_bytes >= self._wal_bytes_max
            or self._wal.free_bytes() < self._free_bytes_min
        )

    def _remind(self, event: str, **values: object) -> None:
        """An error that goes on; logged now and then."""
        if time.monotonic() >= self._remind_s:
            self._remind_s = time.monotonic() + REMIND_S
            log.error(event, **values)

    def _freeze(self, job: CutJob) -> None:
        job.rows = self._head.freeze(job.next_registry)
        job.answered.set()

    def _write(self, group: list[WriteJob]) -> None:
        """Decodes, appends, syncs and answers a group."""
        appended: list[WriteJob] = []
        for job in group:
            try:
                self._check_room()
                if self._append(job):
                    appended.append(job)
            except PrombridgeError as error:
                job.error = error
        if appended:
            self._make_safe(appended)
        if self._head.open_bytes >= self._head_bytes_max:
            self._on_full()
        self._answer(group)

    def _append(self, job: WriteJob) -> bool:
        """Decodes one job behind the reserved rows and appends its record.

        Returns:
            whether there is a record; a body with nothing to keep has none.
        """
        block, decoded = self._decode(job.body, job.format, job.receive_ms, None)
        # Remembered even if the disk fails now: the registry tells each piece of metadata once.
        self._head.add_metadata(decoded.metadata, job.receive_ms)
        if decoded.sample_count or decoded.metadata:
            self._wal.append(
                receive_ms=job.receive_ms,
                fmt=job.format,
                refused=decoded.refused.tobytes(),
                body=job.body,
                sample_count=decoded.sample_count,
            )
            block.reserved += decoded.sample_count
            block.has_start = block.has_start or decoded.has_start
        job.decoded = decoded
        return bool(decoded.sample_count or decoded.metadata)

    def _make_safe(self, appended: list[WriteJob]) -> None:
        started_s = time.perf_counter()
        try:
            self._wal.sync()
        except StorageUnavailable as error:
            self._head.withdraw()
            for job in appended:
                job.decoded, job.error = None, error
            return
        finally:
            self.fsync_seconds += time.perf_counter() - started_s
            self.fsync_count += 1
        self._head.publish(appended[0].receive_ms)
        self._head.cover(self._wal.last_number, self._wal.safe_sample_total)

    def _decode(
        self, body: bytes | memoryview, fmt: int, receive_ms: int, refused: U32Array | None
    ) -> tuple[Block, Decoded]:
        """Decodes a body behind the tail's reserved rows."""
        data = self._decompressor.decompress(body)
        registry = self._head.registry
        decode = registry.decode_v1 if fmt == 1 else registry.decode_v2
        room = ROWS_ROOM
        while True:
            block = self._head.tail(room)
            try:
                decoded = decode(
                    data,
                    self._limits,
                    receive_ms,
                    refused,
                    block.refs,
                    block.timestamps_ms,
                    block.values,
                    block.start_timestamps_ms,
                    block.reserved,
                )
            except RowsFull as full:
                room = max(room + 1, full.needed_count)
                continue
            return block, decoded

    def _check_room(self) -> None:
        """Raises `Overloaded` while the head or the log is full.

        What the lake has does not count: an optional sink that lags holds nobody up (SINK-5).
        """
        open_bytes = self._head.open_bytes
        if open_bytes >= self._head_bytes_max and self._head.is_cutting:
            raise Overloaded(
                "the head is full (head.max-bytes) and its last span is still being cut"
            )
        if open_bytes >= 2 * self._head_bytes_max:
            raise Overloaded("the head is full (head.max-bytes) and about to be cut")
        free_bytes = self._wal.free_bytes()
        if free_bytes < self._free_bytes_min:
            raise StorageUnavailable(
                f"the disk of the WAL has {free_bytes} bytes free; {self._free_bytes_min} "
                "(wal.min-free-bytes) are kept for cut files",
                retry_after_s=30,
            )
        if self._wal.size_bytes >= self._wal_bytes_max:
            lacking_bytes = self._wal.bytes_above(self._lake_number)
            if lacking_bytes >= self._wal_bytes_max:
                raise StorageUnavailable(
                    f"the WAL holds {lacking_bytes} bytes (wal.max-bytes) that the lake does not "
                    "have yet",
                    retry_after_s=30,
                )
