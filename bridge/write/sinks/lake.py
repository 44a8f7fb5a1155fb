"""The lake sink: cuts the head at every flush and commits what was cut, in order and once.

    cutter thread     freeze ──> cut files on the local disk ──┐ (a bounded number waits: the WAL's
    committer thread  upload ──> commit series, metadata, samples  size holds the receiver back)

Each commit carries (receiver id, position). Samples are committed last: their position is where a
replay begins, and everything that they need is there before them.

Invariants:
    SINK-1  positions are committed in ascending order.
    SINK-2  a WAL segment goes only after the commit of `samples` that covers its last record.
    SINK-3  nothing is ever given up: a step that fails is tried again, 1 s to 60 s apart.
"""

import queue
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from bridge.lake.lake import Lake
from bridge.lake.schema import TABLES
from bridge.write.cut import Cut, Cutter
from bridge.write.head import Head, Rows
from bridge.write.ingest import CutJob, Ingest

log = structlog.get_logger()

RETRY_S_MIN = 1.0
RETRY_S_MAX = 60.0


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

    def __init__(
        self,
        ingest: Ingest,
        head: Head,
        lake: Lake,
        cutter: Cutter,
        receiver_id: str,
        flush_interval_s: float,
        metrics: LakeSinkMetrics,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ingest = ingest
        self._head = head
        self._lake = lake
        self._cutter = cutter
        self._receiver_id = receiver_id
        self._flush_interval_s = flush_interval_s
        self._metrics = metrics
        self._clock_s = clock_s
        self._wakes: queue.SimpleQueue[_Flush | None] = queue.SimpleQueue()
        self._cuts: queue.SimpleQueue[Cut | None] = queue.SimpleQueue()
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._flushes: list[_Flush] = []
        self._cut_position = 0
        self.committed_position = 0
        self.last_error: str | None = None

    def start_at(self, receiver_id: str, position: int) -> None:
        """Says who writes and what the lake has already; before anything is cut."""
        self._receiver_id = receiver_id
        self._cut_position = self.committed_position = position

    def flush(self, done: Callable[[int], None]) -> None:
        """Cuts now; `done(position)` is called on another thread once that is committed."""
        self._wakes.put(_Flush(done))

    def wake(self) -> None:
        """Cuts now, because the head is full."""
        self._wakes.put(None)

    def stop(self) -> None:
        """Ends both threads without another flush; what is not committed stays in the WAL."""
        self._stopped.set()
        self._wakes.put(None)
        self._cuts.put(None)

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
            self._freeze_and_cut()
            self._expect(flushes)

    def run_committer(self) -> None:
        """Commits cuts, in order, for ever."""
        while (cut := self._cuts.get()) is not None and not self._stopped.is_set():
            self._retry("commit", lambda cut=cut: self._commit(cut))  # type: ignore[misc]

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
        self._cuts.put(cut)

    def _commit(self, cut: Cut) -> None:
        started_s = time.perf_counter()
        for table in TABLES:
            self._lake.upload(table, cut.files[table])
        self._metrics.duration.labels("upload").observe(time.perf_counter() - started_s)
        started_s = time.perf_counter()
        for table in TABLES:
            self._lake.commit(
                table, cut.files[table], receiver_id=self._receiver_id, position=cut.position
            )
        self._metrics.duration.labels("commit").observe(time.perf_counter() - started_s)
        for table, files in cut.files.items():
            self._metrics.files.labels(table).inc(len(files))
            self._metrics.bytes.labels(table).inc(sum(file.size_bytes for file in files))
        self._metrics.samples.inc(cut.row_count)
        self._metrics.flushes.inc()
        self._metrics.last_commit.set_to_current_time()
        self._head.committed(cut.position)
        self._ingest.allow_removal(cut.position)
        shutil.rmtree(cut.folder, ignore_errors=True)
        self.last_error = None
        with self._lock:
            self.committed_position = cut.position
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
            except Exception as error:  # noqa: BLE001 - the supervisor of both threads
                self.last_error = f"{step}: {error}"
                self._metrics.failures.labels(step).inc()
                log.warning(
                    "lake flush failed, trying again", step=step, error=str(error), wait_s=wait_s
                )
                self._stopped.wait(wait_s)
                wait_s = min(2 * wait_s, RETRY_S_MAX)
            else:
                return
