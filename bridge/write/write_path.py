"""Everything between a write request and the sinks: built, started, drained together.

    start   WAL lock ─ replay of what the lake lacks ─ ingest, sinks
    stop    ingest drains ─ last flush ─ sinks stop ─ WAL unlocked

Threads: ingest (decode, WAL), cutter (sort, Parquet), committer (upload, commit), and one for each
optional sink. A sink never waits for another: the lake's speed bounds what the head holds, an
optional sink's only what the WAL holds for it (SINK-5).
"""

import secrets
import threading
import time
from collections.abc import Callable, Iterator

import structlog
from prometheus_client import CollectorRegistry

from bridge.lake.lake import Lake
from bridge.model.options import Duration
from bridge.wire.series import SeriesRegistry
from bridge.write.cut import Cutter
from bridge.write.head import Head, HeadSettings
from bridge.write.ingest import Ingest, WriteJob, WriteSettings
from bridge.write.metrics import WriteMetrics
from bridge.write.receiver import Receiver, ReceiverMetrics
from bridge.write.sinks.influxdb.client import InfluxdbClient
from bridge.write.sinks.influxdb.renderer import Renderer
from bridge.write.sinks.influxdb.settings import InfluxdbSettings
from bridge.write.sinks.influxdb.sink import InfluxdbSink
from bridge.write.sinks.lake import LakeSink, LakeSinkMetrics
from bridge.write.sinks.metrics import SinkMetrics, SinkState
from bridge.write.wal.log import WalSettings, WriteAheadLog

log = structlog.get_logger()

FLUSH_S_MAX = 60.0
"""How long the last flush may take; what it does not reach is replayed from the WAL."""
FLUSH_FAILING_S_MAX = 5.0
"""The same while the lake fails."""
LOOK_S = 0.5
JOIN_S_MAX = 10.0
"""For all threads together."""


class WritePath:
    """The receiving half of a process."""

    def __init__(
        self,
        wal: WriteAheadLog,
        lake: Lake,
        write: WriteSettings,
        head: HeadSettings,
        influxdb: InfluxdbSettings,
        *,
        wal_settings: WalSettings,
        flush_interval: Duration,
        body_timeout_s: float,
        answer: Callable[[list[WriteJob]], None],
        registry: CollectorRegistry,
    ) -> None:
        """Connects the parts; replays and starts nothing.

        Args:
            wal: closed with this.
            lake: connected, or not yet.
            write: what a request may be.
            head: how much memory.
            influxdb: off without a URL.
            wal_settings: where the WAL lies, with cursors and cut files beside it, and its limits.
            flush_interval: of the head into the lake.
            body_timeout_s: how long a body may take.
            answer: called on the ingest thread, for each group of requests that is done.
            registry: for the metrics.

        Raises:
            PrombridgeError: a cursor is damaged, a setting is wrong.
        """
        self._wal = wal
        self._lake = lake
        folder = wal_settings.path
        replica_labels = write.replica_label_bytes()
        seed = secrets.randbits(64)
        self.head = Head(wal.receiver_id, lambda: SeriesRegistry(replica_labels, seed=seed))
        self._ingest = Ingest(
            wal,
            self.head,
            write.limits(),
            head.max_bytes,
            wal_settings.max_bytes,
            wal_settings.min_free_bytes,
            self._wake_sink,
            answer,
        )
        self.lake_sink = LakeSink(
            wal,
            self._ingest,
            self.head,
            lake,
            Cutter(folder / "cut", 2 * flush_interval),
            folder / "lake.cursor",
            flush_interval,
            LakeSinkMetrics(registry),
        )
        self._influxdb_sink: InfluxdbSink | None = None
        if influxdb.is_on:
            self._influxdb_sink = InfluxdbSink(
                influxdb,
                wal,
                InfluxdbClient(influxdb),
                Renderer(replica_labels, influxdb.mapping, write.limits(), seed=seed),
                folder / "influxdb.cursor",
            )
        self.receiver = Receiver(
            write,
            self._ingest,
            body_timeout_s,
            ReceiverMetrics(registry),
            lambda: time.time_ns() // 1_000_000,
        )
        self._replayed = threading.Event()
        WriteMetrics(registry, wal, self.head, self._ingest, self.lake_sink)
        sinks: list[SinkState] = [self.lake_sink]
        if self._influxdb_sink is not None:
            sinks.append(self._influxdb_sink)
        SinkMetrics(registry, wal, sinks)

    @property
    def is_ready(self) -> bool:
        """Whether what the WAL holds has been replayed."""
        return self._replayed.is_set()

    def workers(self) -> Iterator[tuple[str, Callable[[], None]]]:
        """Name and body of each thread; they have to live as long as the process."""
        yield "cutter", self.lake_sink.run_cutter
        yield "committer", self.lake_sink.run_committer
        yield "ingest", self._replay_and_ingest
        if self._influxdb_sink is not None:
            yield "influxdb", self._follow

    def flush(self, done: Callable[[int], None]) -> None:
        """Cuts the head into the lake now; `done(position)` is called once it is committed."""
        self.lake_sink.flush(done)

    def drain(self, threads: list[threading.Thread]) -> None:
        """Finishes what was accepted and flushes it, within FLUSH_S_MAX.

        Args:
            threads: those of `workers`.
        """
        if self.is_ready and all(thread.is_alive() for thread in threads):
            flushed = threading.Event()
            self.flush(lambda _: flushed.set())
            if not self._wait_for(flushed):
                log.warning(
                    "the last flush did not finish; the WAL keeps what it lacks",
                    cause=self.lake_sink.last_error or "the lake is slow",
                )
        self.lake_sink.stop()
        if self._influxdb_sink is not None:
            self._influxdb_sink.stop()
        self._ingest.stop()
        until_s = time.monotonic() + JOIN_S_MAX
        for thread in threads:
            thread.join(max(0.0, until_s - time.monotonic()))

    def _wait_for(self, flushed: threading.Event) -> bool:
        """Waits for the last flush, not for long once the lake has failed."""
        now_s = time.monotonic()
        until_s = now_s + FLUSH_S_MAX
        while now_s < until_s:
            if not self._is_lake_fine():
                until_s = min(until_s, now_s + FLUSH_FAILING_S_MAX)
            if flushed.wait(min(LOOK_S, max(0.0, until_s - now_s))):
                return True
            now_s = time.monotonic()
        return False

    def _is_lake_fine(self) -> bool:
        return self._lake.is_connected and self.lake_sink.last_error is None

    def _wake_sink(self) -> None:
        self.lake_sink.wake()

    def _follow(self) -> None:
        """The thread of the InfluxDB sink, once the log may be read."""
        assert self._influxdb_sink is not None
        self._replayed.wait()
        self._influxdb_sink.run()

    def _replay_and_ingest(self) -> None:
        """The ingest thread: first what the WAL holds above the lake, then what comes."""
        started_s = time.monotonic()
        report = self.lake_sink.recover()
        for warning in report.warnings:
            log.error("wal damaged", damage=warning)
        if report.lost_records:
            log.error(
                "records are in neither the WAL nor the lake: the disk lost them, or this is "
                "another lake than the one that they went to",
                lost_records=report.lost_records,
                lake_position=self.lake_sink.committed_position,
            )
        log.info(
            "wal replayed",
            records=report.records,
            lost_records=report.lost_records,
            torn_bytes=report.torn_bytes,
            rows=self.head.row_count,
            seconds=round(time.monotonic() - started_s, 3),
        )
        if self._influxdb_sink is not None:
            sink = self._influxdb_sink
            sink.recover()
            self._ingest.keep_for(lambda: sink.stored_position)
        self._replayed.set()
        self._ingest.run()
