"""The lake sink: cuts the head at every flush and commits what was cut, in order and once.

    cutter thread     freeze ──> cut files on the local disk ──┐ (a bounded number waits: the WAL's
    upload threads    the next few cuts, at once <─────────────┤  size holds the receiver back)
    committer thread  commit series, metadata, samples <───────┘

Each commit carries (receiver id, position). Samples are committed last: their position is where a
replay begins, and everything that they need is there before them.

A start needs no lake. Before a cut is committed its position is stored in the WAL's folder as an
attempt (cursor.py). So while the lake is away a replay begins at the last position that is known to
be committed, and makes the one cut whose outcome is unknown again with the very same end: once the
lake answers, its position tells whether that cut is there already (LAKE-1).

Invariants:
    SINK-1  positions are committed in ascending order.
    SINK-2  a WAL segment goes only after the commit of `samples` that covers its last record.
    SINK-3  nothing is ever given up: a step that fails is tried again, 1 s to 60 s apart.

Limits: UPLOADS_AHEAD cuts are uploaded at once; cut files on the disk are bounded by wal.max-bytes,
of which they take a tenth.
"""

import queue
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from bridge.errors import (
    AlreadyRunning,
    ConditionalPutUnsupported,
    ConfigError,
    FormatTooNew,
    StorageUnavailable,
)
from bridge.lake.lake import Lake
from bridge.lake.schema import FLUSHED, SAMPLES
from bridge.write.cut import Cut, Cutter
from bridge.write.head import Head, Rows
from bridge.write.ingest import CutJob, Ingest
from bridge.write.sinks.cursor import Cursor, load_cursor, store_cursor
from bridge.write.wal.log import ReplayReport, WriteAheadLog

log = structlog.get_logger()

RETRY_S_MIN = 1.0
RETRY_S_MAX = 60.0
UPLOADS_AHEAD = 4
"""Cuts whose files are on their way while the oldest is committed: after an hour without the store
60 cuts wait, of 0.2 s each for one at a time."""
FATAL = (AlreadyRunning, ConditionalPutUnsupported, ConfigError, FormatTooNew)
"""What no waiting mends; found when the lake is reached for the first time after a start."""


class LakeSinkMetrics:
    """What the lake sink counts."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.flushes = Counter(
            "prombridge_lake_flushes_total", "Flushes committed to the lake.", registry=registry
        )
        self.failures = Counter(
            "prombridge_lake_flush_failures_total",
            "Attempts to cut or to commit that failed and are tried again.",
            ["step"],
            registry=registry,
        )
        self.samples = Counter(
            "prombridge_lake_samples_total", "Samples committed to the lake.", registry=registry
        )
        self.files = Counter(
            "prombridge_lake_files_total",
            "Files committed to the lake.",
            ["table"],
            registry=registry,
        )
        self.bytes = Counter(
            "prombridge_lake_bytes_total",
            "Bytes of files committed to the lake.",
            ["table"],
            registry=registry,
        )
        self.duration = Histogram(
            "prombridge_lake_flush_duration_seconds",
            "Time that a step of a flush took.",
            ["step"],
            buckets=(0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
            registry=registry,
        )
        self.last_commit = Gauge(
            "prombridge_lake_last_commit_timestamp_seconds",
            "When the last flush was committed, Unix time.",
            registry=registry,
        )


@dataclass(slots=True)
class _Flush:
    """Somebody waits for everything accepted so far to be committed."""

    done: Callable[[int], None]
    position: int | None = None


class LakeSink:
    """Runs the two threads."""

    name = "lake"
    request_counts: ClassVar[Mapping[str, int]] = {}
    """Its store counts them."""

    def __init__(
        self,
        wal: WriteAheadLog,
        ingest: Ingest,
        head: Head,
        lake: Lake,
        cutter: Cutter,
        cursor_path: Path,
        flush_interval_s: float,
        metrics: LakeSinkMetrics,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """Connects the parts.

        Raises:
            CorruptionError: the cursor is damaged.
        """
        self._wal = wal
        self._ingest = ingest
        self._head = head
        self._lake = lake
        self._cutter = cutter
        self._cursor_path = cursor_path
        self._flush_interval_s = flush_interval_s
        self._metrics = metrics
        self._clock_s = clock_s
        self._wakes: queue.SimpleQueue[_Flush | None] = queue.SimpleQueue()
        self._cuts: queue.SimpleQueue[Cut | None] = queue.SimpleQueue()
        self._pool = ThreadPoolExecutor(UPLOADS_AHEAD, "upload")
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._flushes: list[_Flush] = []
        self._is_woken = threading.Event()
        self._cut_position = 0
        self._waiting_ms: deque[tuple[int, int]] = deque()
        stored = load_cursor(cursor_path)
        self._has_cursor = stored is not None
        self._is_settled = False
        self._recovered = threading.Event()
        self.cursor = stored or Cursor()
        self.last_error: str | None = None

    @property
    def committed_position(self) -> int:
        """Number of the last record that the lake covers."""
        return self.cursor.position

    @property
    def oldest_pending_ms(self) -> int:
        """When the oldest sample came that the lake lacks, Unix ms; 0 without any."""
        waiting = self._waiting_ms
        try:
            return waiting[0][1]
        except IndexError:
            return self._head.oldest_receive_ms

    def recover(self) -> ReplayReport:
        """Finds where the lake ends and brings back what it lacks; on the ingest thread.

        Raises:
            StorageUnavailable: the lake is away, and nothing else tells where it ends.
        """
        self._wal.find_end()
        if self._lake.is_connected:
            self._settle()
        elif not self._has_cursor and self._wal.segment_count:
            raise StorageUnavailable(
                f"the lake is away and {self._cursor_path} is missing, so that nobody knows which "
                "records the lake has; start again when it answers"
            )
        known_position = max(self.cursor.position, self.cursor.attempt_position)
        if known_position > self._wal.last_number:
            # New records would get numbers that the lake may have seen with others.
            self._renew_receiver_id(known_position)
            # Segments that are gone were in the lake under the old id.
            is_beyond = self.cursor.position > self._wal.last_number
            self._go_to(self._wal.first_number - 1 if is_beyond else self.cursor.position)
        self._retry("cursor", lambda: store_cursor(self._cursor_path, self.cursor))
        cursor = self.cursor
        self._cut_position = cursor.position
        self._ingest.allow_removal(cursor.position)
        # Cuts are committed from now on, so that their room comes back while the replay goes on.
        self._recovered.set()
        return self._ingest.replay(cursor.position, cursor.attempt_position, self.cut_now)

    def _go_to(self, position: int) -> None:
        self.cursor = self.cursor.rebase(position, self._wal.sample_total_at(position))

    def _settle(self) -> None:
        """Compares the cursor with the lake, when it answers for the first time."""
        known = self.cursor
        position = self._lake.position(SAMPLES, self._wal.receiver_id) or 0
        self._is_settled = True
        if position == known.position:
            return
        if known.attempt_position and position == known.attempt_position:
            self.cursor = known.succeed()
        elif self._has_cursor and position > known.position:
            # An older volume with its older cursor: the same numbers mean other records.
            self._renew_receiver_id(position)
            self.cursor = replace(known, attempt_position=0)
        elif self._recovered.is_set():
            log.error(
                "the lake lacks records that it had when this WAL was last used",
                lake_position=position,
                expected_position=known.position,
            )
        else:
            self._go_to(position)

    def _renew_receiver_id(self, lake_position: int) -> None:
        old, new = self._wal.receiver_id, self._wal.renew_receiver_id()
        self._head.rename(new)
        log.warning(
            "the lake is ahead of the WAL, an older volume came back: what the WAL has goes to the "
            "lake again, under a new receiver id",
            old=old,
            new=new,
            lake_position=lake_position,
            wal_position=self._wal.last_number,
        )

    def flush(self, done: Callable[[int], None]) -> None:
        """Cuts now; `done(position)` is called on another thread once that is committed."""
        self._wakes.put(_Flush(done))

    def wake(self) -> None:
        """Cuts now, because the head is full."""
        if not self._is_woken.is_set():  # asked for with every request, while a cut may take long
            self._is_woken.set()
            self._wakes.put(None)

    def stop(self) -> None:
        """Ends both threads without another flush; what is not committed stays in the WAL."""
        self._stopped.set()
        self._recovered.set()
        self._wakes.put(None)
        self._cuts.put(None)
        self._pool.shutdown(wait=False, cancel_futures=True)

    def run_cutter(self) -> None:
        """Freezes and cuts at every interval, when the head is full and when asked."""
        due_s = self._clock_s() + self._flush_interval_s
        while not self._stopped.is_set():
            flushes: list[_Flush] = []
            try:
                wait_s = max(0.0, due_s - self._clock_s())
                flush = self._wakes.get(timeout=wait_s)
                while True:
                    flushes += [flush] if flush else []
                    flush = self._wakes.get_nowait()
            except queue.Empty:
                pass
            if self._stopped.is_set():
                break
            due_s = self._clock_s() + self._flush_interval_s
            self._is_woken.clear()
            self._freeze_and_cut()
            self._expect(flushes)

    def run_committer(self) -> None:
        """Uploads cuts, several at once, and commits them in order, for ever.

        Raises:
            PrombridgeError: one of FATAL.
        """
        self._recovered.wait()
        self._retry("connect", self._connect)
        ahead: deque[tuple[Cut, Future[None]]] = deque()
        while not self._stopped.is_set():
            while len(ahead) < UPLOADS_AHEAD:
                try:
                    cut = self._cuts.get(block=not ahead)
                except queue.Empty:
                    break
                if cut is None:
                    return
                ahead.append((cut, self._pool.submit(self._upload, cut)))
            cut, uploaded = ahead.popleft()
            if (error := uploaded.exception()) is not None:
                self._note("upload", error)  # the commit puts what is missing
            self._retry("commit", lambda cut=cut: self._commit(cut))  # type: ignore[misc]

    def _connect(self) -> None:
        self._lake.connect()
        if not self._is_settled:
            self._settle()

    def _freeze_and_cut(self) -> None:
        job = CutJob(self._cutter.next_registry)
        self._ingest.submit(job)
        while not job.answered.wait(1.0):
            if self._stopped.is_set():
                return
        rows = job.rows
        if rows is None:
            return
        self._retry("cut", lambda: self._cut(rows))

    def cut_now(self) -> None:
        """Freezes and cuts on the caller's thread, without the ingest thread: for a replay."""
        rows = self._head.freeze(self._cutter.next_registry)
        if rows is not None:
            self._retry("cut", lambda: self._cut(rows))

    def _cut(self, rows: Rows) -> None:
        started_s = time.perf_counter()
        cut = self._cutter.cut(rows)
        self._metrics.duration.labels("cut").observe(time.perf_counter() - started_s)
        self._head.cut(cut.position, cut.readable())
        self._cut_position = cut.position
        if cut.receive_ms:
            self._waiting_ms.append((cut.position, cut.receive_ms))
        self._cuts.put(cut)

    def _upload(self, cut: Cut) -> None:
        """Tries once; what fails here, the commit puts again."""
        started_s = time.perf_counter()
        for table in FLUSHED:
            self._lake.upload(table, cut.files[table])
        self._metrics.duration.labels("upload").observe(time.perf_counter() - started_s)

    def _commit(self, cut: Cut) -> None:
        started_s = time.perf_counter()
        is_new = False
        if cut.position > self.cursor.position:
            self.cursor = self.cursor.attempt(cut.position, cut.sample_total)
            store_cursor(self._cursor_path, self.cursor)
            for table in FLUSHED:
                is_new = self._lake.commit(
                    table,
                    cut.files[table],
                    receiver_id=self._wal.receiver_id,
                    position=cut.position,
                )
            self.cursor = self.cursor.succeed()
            store_cursor(self._cursor_path, self.cursor)
        self._metrics.duration.labels("commit").observe(time.perf_counter() - started_s)
        if is_new:
            for table, files in cut.files.items():
                self._metrics.files.labels(table).inc(len(files))
                self._metrics.bytes.labels(table).inc(sum(file.size_bytes for file in files))
            self._metrics.samples.inc(cut.row_count)
            self._metrics.flushes.inc()
            self._metrics.last_commit.set_to_current_time()
        while self._waiting_ms and self._waiting_ms[0][0] <= cut.position:
            self._waiting_ms.popleft()
        self._head.committed(cut.position)
        self._ingest.allow_removal(cut.position)
        shutil.rmtree(cut.folder, ignore_errors=True)
        self.last_error = None
        self._answer()

    def _expect(self, flushes: list[_Flush]) -> None:
        with self._lock:
            for flush in flushes:
                flush.position = self._cut_position
                self._flushes.append(flush)
        self._answer()

    def _answer(self) -> None:
        """Answers every flush that the lake has."""
        with self._lock:
            position = self.committed_position
            ready = [flush for flush in self._flushes if (flush.position or 0) <= position]
            self._flushes = [flush for flush in self._flushes if flush not in ready]
        for flush in ready:
            flush.done(position)

    def _retry(self, step: str, attempt: Callable[[], None]) -> None:
        """Runs a step until it succeeds or the sink is stopped."""
        wait_s = RETRY_S_MIN
        while not self._stopped.is_set():
            try:
                attempt()
            except FATAL:
                raise
            except Exception as error:  # noqa: BLE001 - the supervisor of both threads
                self._note(step, error, wait_s)
                self._stopped.wait(wait_s)
                wait_s = min(2 * wait_s, RETRY_S_MAX)
            else:
                return

    def _note(self, step: str, error: BaseException, wait_s: float = 0.0) -> None:
        self.last_error = f"{step}: {error}"
        self._metrics.failures.labels(step).inc()
        log.warning("lake flush failed, trying again", step=step, error=str(error), wait_s=wait_s)
