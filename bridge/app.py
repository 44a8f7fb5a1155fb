"""The composition root: what exists, how it is connected, in which order it starts and stops.

    start   WAL lock ─ lake (if it answers) ─ HTTP (not ready) ─ replay ─ ready
    stop    HTTP drains ─ ingest drains ─ last flush ─ WAL unlocked

Which halves there are says `mode`: `write` has no read endpoint, `read` no WAL and commits nothing.
A thread that ends by an error nobody expected ends the process: everything acknowledged is in the
WAL, and a fresh start is the state that is tested most.
"""

import asyncio
import signal
import socket
import threading
from collections.abc import Awaitable, Callable
from contextlib import ExitStack

import structlog
import uvloop
from aiohttp import web
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.exposition import choose_encoder

from bridge.compiled import missing_modules
from bridge.config import Settings
from bridge.errors import ConfigError, PrombridgeError, StorageRefused, StorageUnavailable
from bridge.lake.file_cache import open_cache
from bridge.lake.files import Files
from bridge.lake.lake import Lake
from bridge.lake.store import Store, open_store
from bridge.metrics import ProcessMetrics
from bridge.read.endpoint import ReadEndpoint
from bridge.telemetry import configure_logging
from bridge.write.ingest import WriteJob
from bridge.write.receiver import settle
from bridge.write.wal.log import WriteAheadLog
from bridge.write.write_path import WritePath
from downsample.resident import Resident

log = structlog.get_logger()

IDLE_TIMEOUT_S = 300.0
"""An idle connection is closed after this long, as Prometheus' own server does (5 m)."""
DRAIN_TIMEOUT_S = 10.0
"""How long requests under way may take once SIGTERM has come."""
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


class Bridge:
    """Everything that one process runs."""

    def __init__(self, settings: Settings) -> None:
        """Takes the WAL and asks the lake for what it needs to know; replays nothing yet.

        Raises:
            PrombridgeError: the WAL is in use, the lake is not ours or refuses us, a setting is
                wrong.
        """
        self._settings = settings
        self._registry = CollectorRegistry()
        self._connections_refused = Counter(
            "prombridge_http_connections_refused_total",
            "Connections closed as they came, for web.max_connections.",
            registry=self._registry,
        )
        self._is_stopping = False
        self._failed = threading.Event()
        self._threads: list[threading.Thread] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = asyncio.Event()
        self._writer: WritePath | None = None
        self._reader: ReadEndpoint | None = None
        with ExitStack() as stack:
            wal = None
            if settings.mode != "read":
                wal = WriteAheadLog(settings.wal)
                stack.callback(wal.close)
            self._lake, self._store = self._open_lake(wal)
            stack.callback(self._lake.close)
            cache = None
            if wal is not None:
                self._writer = self._make_writer(wal)
            if settings.mode != "write":
                cache = open_cache(self._store, settings.lake, settings.wal.min_free_bytes)
                if cache is not None:
                    stack.callback(cache.close)
                self._reader = self._make_reader(Files(self._store, cache))
                stack.callback(self._reader.close)
            ProcessMetrics(self._registry, self._store, self._lake, cache)
            self._downsampler: Resident | None = None
            if settings.mode == "all" and settings.downsample.enabled:
                self._downsampler = Resident(
                    self._store,
                    settings.lake,
                    settings.downsample,
                    settings.retention,
                    lambda: self._lake.is_connected,
                    self._registry,
                )
            self._open = stack.pop_all()

    def _open_lake(self, wal: WriteAheadLog | None) -> tuple[Lake, Store]:
        """The lake, connected if it answers.

        A wrong setting ends the start; a store that does not answer now does not: what is received
        is safe in the WAL.
        """
        settings = self._settings.lake
        store = open_store(settings.uri, dict(settings.storage_options), is_read_only=wal is None)
        lake = Lake(
            store,
            refresh_interval_s=settings.refresh_interval,
            single_writer=settings.single_writer,
            owner="" if wal is None else wal.receiver_id,
            is_read_only=wal is None,
            on_lost=self._stop_for_lost_lease,
        )
        try:
            lake.connect()
        except StorageRefused as error:
            lake.close()
            # A person is here to put it right; later it is waited for.
            raise ConfigError(f"lake.uri: {error}") from None
        except StorageUnavailable as error:
            log.warning("the lake does not answer, starting without it", cause=str(error))
        except BaseException:
            lake.close()
            raise
        return lake, store

    def _make_writer(self, wal: WriteAheadLog) -> WritePath:
        settings = self._settings
        return WritePath(
            wal,
            self._lake,
            settings.write,
            settings.head,
            settings.influxdb,
            wal_settings=settings.wal,
            flush_interval=settings.lake.flush_interval,
            body_timeout_s=settings.web.read_timeout,
            answer=self._answer_writes,
            registry=self._registry,
        )

    def _make_reader(self, files: Files) -> ReadEndpoint:
        settings = self._settings
        return ReadEndpoint(
            settings.read,
            self._lake,
            None if self._writer is None else self._writer.head,
            files=files,
            replica_labels=settings.write.replica_labels,
            body_timeout_s=settings.web.read_timeout,
            registry=self._registry,
        )

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
        if self._writer is not None:
            for name, work in self._writer.workers():
                self._threads.append(self._start_worker(name, work))
        if self._downsampler is not None:
            self._start_worker("downsampler", self._downsampler.run)
        self._print_hint(address)
        await self._stopping.wait()
        log.info("stopping")
        self._is_stopping = True
        server.close()
        if self._downsampler is not None:
            self._downsampler.stop()
        await runner.cleanup()
        if self._writer is not None:
            await asyncio.to_thread(self._writer.drain, self._threads)
        log.info("stopped")
        return 1 if self._failed.is_set() else 0

    def close(self) -> None:
        """Gives everything back."""
        self._open.close()

    def _application(self) -> web.Application:
        app = web.Application(client_max_size=0)
        write: Handler = self._not_in_this_mode
        read: Handler = self._not_in_this_mode
        explain: Handler = self._not_in_this_mode
        flush: Handler = self._not_in_this_mode
        if self._writer is not None:
            write, flush = self._writer.receiver.handle, self._admin_flush
        if self._reader is not None:
            read, explain = self._reader.handle, self._reader.explain
        app.router.add_post("/api/v1/write", self._when_ready(write))
        app.router.add_post("/api/v1/read", self._when_ready(read))
        app.router.add_get("/api/v1/read/explain", self._when_ready(explain))
        app.router.add_post("/api/v1/admin/flush", self._when_ready(flush))
        app.router.add_get("/-/healthy", self._healthy)
        app.router.add_get("/-/ready", self._readiness)
        app.router.add_get("/metrics", self._metrics)
        return app

    def _when_ready(self, handler: Handler) -> Handler:
        async def guarded(request: web.Request) -> web.StreamResponse:
            if not self._is_ready:
                return web.Response(
                    status=503,
                    text="not ready: the WAL is being replayed, or the process is stopping\n",
                    headers={"Retry-After": "5"},
                )
            return await handler(request)

        return guarded

    @property
    def _is_ready(self) -> bool:
        return not self._is_stopping and (self._writer is None or self._writer.is_ready)

    async def _not_in_this_mode(self, request: web.Request) -> web.Response:
        mode = self._settings.mode
        return web.Response(
            status=404, text=f"{request.path} is not served: this process runs in mode {mode!r}\n"
        )

    async def _healthy(self, _: web.Request) -> web.Response:
        return web.Response(text="prombridge is healthy.\n")

    async def _readiness(self, _: web.Request) -> web.Response:
        if self._is_ready:
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
            assert self._writer is not None
            cause = self._writer.lake_sink.last_error or "the lake is slow"
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

        assert self._writer is not None
        self._writer.flush(done)
        return committed

    def _answer_writes(self, jobs: list[WriteJob]) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(settle, jobs)

    def _start_worker(self, name: str, target: Callable[[], None]) -> threading.Thread:
        def supervised() -> None:
            try:
                target()
            except PrombridgeError as error:  # only what says that the process has to end
                log.error("cannot go on, ending the process", thread=name, cause=str(error))  # noqa: TRY400 - the message says it all
                self._failed.set()
                self._stop_from_thread()
            except BaseException:  # a panic of a Rust library is no Exception
                log.exception("a thread died, ending the process", thread=name)
                self._failed.set()
                self._stop_from_thread()

        thread = threading.Thread(target=supervised, name=name, daemon=True)
        thread.start()
        return thread

    def _stop_from_thread(self) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._stopping.set)

    def _stop_for_lost_lease(self, reason: str) -> None:
        """Another process took the lease of the single writer: nothing more may be committed."""
        log.error("not the single writer any more, ending the process", reason=reason)
        self._failed.set()
        if self._loop is not None:
            self._stop_from_thread()

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
