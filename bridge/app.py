"""The composition root: what exists, how it is connected, in which order it starts and stops.

    start   WAL lock ─ lake (probe, tables) ─ HTTP (not ready) ─ replay ─ ready
    stop    HTTP drains ─ ingest drains ─ last flush ─ WAL unlocked

Three threads beside the event loop: ingest (decode, WAL), cutter (sort, Parquet), committer
(upload, commit); reads have their own pool. A thread that ends by an error nobody expected ends the
process: everything acknowledged is in the WAL, and a fresh start is the state that is tested most.
"""

import asyncio
import secrets
import signal
import socket
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog
import uvloop
from aiohttp import web
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.exposition import choose_encoder

from bridge.compiled import missing_modules
from bridge.config import Settings
from bridge.errors import ConfigError
from bridge.lake.lake import Lake
from bridge.lake.store import open_store
from bridge.metrics import ProcessMetrics
from bridge.read.endpoint import ReadEndpoint
from bridge.telemetry import configure_logging
from bridge.wire.series import SeriesRegistry
from bridge.write.cut import Cutter
from bridge.write.head import Head
from bridge.write.ingest import Ingest, WriteJob
from bridge.write.receiver import Receiver, ReceiverMetrics, settle
from bridge.write.sinks.lake import LakeSink, LakeSinkMetrics
from bridge.write.wal.log import WriteAheadLog

log = structlog.get_logger()

IDLE_TIMEOUT_S = 300.0
"""An idle connection is closed after this long, as Prometheus' own server does (5 m)."""
DRAIN_TIMEOUT_S = 10.0
"""How long requests under way may take once SIGTERM has come."""
FLUSH_TIMEOUT_S = 60.0
"""How long the last flush may take; what it does not reach is replayed from the WAL."""
ADMIN_FLUSH_TIMEOUT_S = 300.0

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def serve(settings: Settings) -> int:
    """Runs the bridge until SIGTERM or SIGINT.

    Returns:
        the exit code.
    """
    configure_logging(settings.log.level, settings.log.format)
    bridge = Bridge(settings)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(bridge.run())
    finally:
        bridge.close()


@dataclass(slots=True)
class _Worker:
    """A thread that has to live as long as the process."""

    name: str
    thread: threading.Thread


class Bridge:
    """Everything that one process runs."""

    def __init__(self, settings: Settings) -> None:
        """Takes the WAL, opens the lake and replays nothing yet.

        Raises:
            PrombridgeError: the WAL is in use, the lake cannot be opened, a setting is wrong.
        """
        self._settings = settings
        self._registry = CollectorRegistry()
        self._connections_refused = Counter(
            "prombridge_http_connections_refused_total",
            "Connections closed as they came, for web.max_connections.",
            registry=self._registry,
        )
        self._ready = False
        self._failed = threading.Event()
        self._workers: list[_Worker] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = asyncio.Event()
        self._wal = WriteAheadLog(settings.wal)
        try:
            self._lake = Lake.open(
                open_store(settings.lake.uri),
                single_writer=settings.lake.single_writer,
                refresh_interval_s=settings.lake.refresh_interval,
                clock=time.time,
            )
        except BaseException:
            self._wal.close()
            raise
        seed = secrets.randbits(64)
        replica_labels = settings.write.replica_label_bytes()
        self._head = Head(self._wal.receiver_id, lambda: SeriesRegistry(replica_labels, seed=seed))
        self._ingest = Ingest(
            self._wal,
            self._head,
            settings.write.limits(),
            settings.head.max_bytes,
            settings.wal.max_bytes,
            self._wake_sink,
            self._answer_writes,
        )
        self._sink = LakeSink(
            self._ingest,
            self._head,
            self._lake,
            Cutter(settings.wal.path / "cut", 2 * settings.lake.flush_interval),
            self._wal.receiver_id,
            settings.lake.flush_interval,
            LakeSinkMetrics(self._registry),
        )
        self._receiver = Receiver(
            settings.write,
            self._ingest,
            settings.web.read_timeout,
            ReceiverMetrics(self._registry),
            lambda: time.time_ns() // 1_000_000,
        )
        self._reader = ReadEndpoint(
            settings.read,
            self._lake,
            self._head,
            replica_labels=settings.write.replica_labels,
            body_timeout_s=settings.web.read_timeout,
            registry=self._registry,
        )
        ProcessMetrics(self._registry, self._wal, self._head, self._ingest, self._sink)

    async def run(self) -> int:
        """Serves until a signal comes or a thread dies."""
        self._loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._stopping.set)
        missing = missing_modules()
        if missing:
            log.error(
                "compiled core is missing, running on the slow twins", modules=",".join(missing)
            )
        app = self._application()
        runner = web.AppRunner(
            app,
            access_log=None,
            handle_signals=False,
            auto_decompress=False,  # an encoding that is not snappy is refused by its name
            keepalive_timeout=IDLE_TIMEOUT_S,
            shutdown_timeout=DRAIN_TIMEOUT_S,
        )
        await runner.setup()
        assert runner.server is not None
        listener = _listen(self._settings.web.listen_address)
        address = "{}:{}".format(*listener.getsockname()[:2])
        factory = _limited(
            runner.server, self._settings.web.max_connections, self._connections_refused
        )
        server = await self._loop.create_server(factory, sock=listener, backlog=1024)
        log.info("listening", address=address, lake=self._settings.lake.uri)
        self._start_worker("cutter", self._sink.run_cutter)
        self._start_worker("committer", self._sink.run_committer)
        self._start_worker("ingest", self._replay_and_ingest)
        self._print_hint(address)
        await self._stopping.wait()
        log.info("stopping")
        self._ready = False
        server.close()
        await runner.cleanup()
        await asyncio.to_thread(self._drain)
        log.info("stopped", committed_position=self._sink.committed_position)
        return 1 if self._failed.is_set() else 0

    def close(self) -> None:
        """Gives everything back."""
        self._reader.close()
        self._lake.close()
        self._wal.close()

    def _application(self) -> web.Application:
        app = web.Application(client_max_size=0)
        app.router.add_post("/api/v1/write", self._when_ready(self._receiver.handle))
        app.router.add_post("/api/v1/read", self._when_ready(self._reader.handle))
        app.router.add_post("/api/v1/admin/flush", self._when_ready(self._admin_flush))
        app.router.add_get("/-/healthy", self._healthy)
        app.router.add_get("/-/ready", self._readiness)
        app.router.add_get("/metrics", self._metrics)
        return app

    def _when_ready(self, handler: Handler) -> Handler:
        async def guarded(request: web.Request) -> web.StreamResponse:
            if not self._ready:
                return web.Response(
                    status=503,
                    text="not ready: the WAL is being replayed, or the process is stopping\n",
                    headers={"Retry-After": "5"},
                )
            return await handler(request)

        return guarded

    async def _healthy(self, _: web.Request) -> web.Response:
        return web.Response(text="prombridge is healthy.\n")

    async def _readiness(self, _: web.Request) -> web.Response:
        if self._ready:
            return web.Response(text="prombridge is ready.\n")
        return web.Response(status=503, text="prombridge is not ready: replaying the WAL.\n")

    async def _metrics(self, request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(self._registry), headers={"Content-Type": content_type})

    async def _admin_flush(self, _: web.Request) -> web.Response:
        """Cuts the head into the lake now; answers when it is committed."""
        committed = self._flushed()
        try:
            position = await asyncio.wait_for(committed, ADMIN_FLUSH_TIMEOUT_S)
        except TimeoutError:
            cause = self._sink.last_error or "the lake is slow"
            return web.Response(status=503, text=f"not flushed yet: {cause}\n")
        return web.json_response({"position": position})

    def _flushed(self) -> asyncio.Future[int]:
        assert self._loop is not None
        loop = self._loop
        committed: asyncio.Future[int] = loop.create_future()

        def settle(position: int) -> None:
            if not committed.done():
                committed.set_result(position)

        def done(position: int) -> None:
            loop.call_soon_threadsafe(settle, position)

        self._sink.flush(done)
        return committed

    def _answer_writes(self, jobs: list[WriteJob]) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(settle, jobs)

    def _wake_sink(self) -> None:
        self._sink.wake()

    def _start_worker(self, name: str, target: Callable[[], None]) -> None:
        def supervised() -> None:
            try:
                target()
            except BaseException:  # a panic of a Rust library is no Exception
                log.exception("a thread died, ending the process", thread=name)
                self._failed.set()
                self._stop_from_thread()

        thread = threading.Thread(target=supervised, name=name, daemon=True)
        self._workers.append(_Worker(name, thread))
        thread.start()

    def _stop_from_thread(self) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._stopping.set)

    def _replay_and_ingest(self) -> None:
        """The ingest thread: first what the WAL holds above the lake, then what comes."""
        started_s = time.monotonic()
        position = self._lake.position("samples", self._wal.receiver_id) or 0
        self._sink.start_at(self._wal.receiver_id, position)
        report = self._ingest.replay(position, self._sink.cut_now)
        if position > self._wal.last_number:
            old = self._wal.receiver_id
            receiver_id = self._wal.renew_receiver_id()
            log.warning(
                "the lake is ahead of the WAL, an older volume came back: replaying all of it "
                "under a new receiver id",
                old=old,
                new=receiver_id,
                lake_position=position,
                wal_position=self._wal.last_number,
            )
            self._head.rename(receiver_id)
            # Segments that are gone were in the lake under the old id.
            position = self._wal.first_number - 1
            self._sink.start_at(receiver_id, 0)
            report = self._ingest.replay(position, self._sink.cut_now)
        for warning in report.warnings:
            log.error("wal damaged", damage=warning)
        if report.lost_records:
            log.error(
                "records are in neither the WAL nor the lake: the disk lost them, or this is "
                "another lake than the one that they went to",
                lost_records=report.lost_records,
                lake=self._settings.lake.uri,
                lake_position=position,
            )
        log.info(
            "wal replayed",
            records=report.records,
            lost_records=report.lost_records,
            torn_bytes=report.torn_bytes,
            rows=self._head.row_count,
            seconds=round(time.monotonic() - started_s, 3),
        )
        self._ready = True
        self._ingest.run()

    def _drain(self) -> None:
        """Finishes what was accepted and flushes it, within FLUSH_TIMEOUT_S."""
        if any(worker.name == "ingest" and worker.thread.is_alive() for worker in self._workers):
            flushed = threading.Event()
            self._sink.flush(lambda _: flushed.set())
            if not flushed.wait(FLUSH_TIMEOUT_S):
                log.warning(
                    "the last flush did not finish; the WAL keeps what it lacks",
                    cause=self._sink.last_error or "the lake is slow",
                )
        self._sink.stop()
        self._ingest.stop()
        for worker in self._workers:
            worker.thread.join(DRAIN_TIMEOUT_S)

    def _print_hint(self, address: str) -> None:
        """The lines to paste, for a person who has just started it by hand."""
        print(  # noqa: T201 - meant for a person
            f"""
prombridge listens on http://{address}; paste into prometheus.yml:

remote_write:
  - url: http://{address}/api/v1/write
remote_read:
  - url: http://{address}/api/v1/read
""",
            flush=True,
        )


def _listen(address: str) -> socket.socket:
    """A bound socket.

    Raises:
        ConfigError: not an address, or it is taken.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise ConfigError(
            f"--web.listen-address: {address!r} is not HOST:PORT, such as 127.0.0.1:9201"
        )
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, int(port)))
    except OSError as error:
        listener.close()
        raise ConfigError(f"cannot listen on {address}: {error.strerror}") from error
    return listener


class _Refused(asyncio.Protocol):
    """A connection too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


def _limited(
    server: web.Server, connections_max: int, refused: Counter
) -> Callable[[], asyncio.Protocol]:
    """A protocol factory that refuses connections past the limit."""

    def make() -> asyncio.Protocol:
        if len(server.connections) < connections_max:
            return server()
        refused.inc()
        return _Refused()

    return make
