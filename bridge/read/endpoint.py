"""`POST /api/v1/read`: Prometheus remote read over HTTP; and what it would read, explained.

    headers ── body ── turn at the gate ── worker thread: decode, select, scan, encode ── send

    200  SAMPLES: one snappy block; STREAMED_XOR_CHUNKS: one frame per series
    400  a request that cannot be answered, or that would cost too much; the text says by how much
    408  the body did not come in time
    413  the body is larger than read.max-body-bytes
    415  a content type or encoding that is not spoken here
    503  too many reads, too slow, or the lake is not there; with Retry-After

Everything is found and encoded before the first byte is sent, so whatever can fail is told by a
status. What fails after that, or takes too long to be taken, ends in an aborted connection: a clean
end would be taken for the whole answer.

Invariants:
    READ-6  an answer is whole, or its connection is aborted, or it is not 200.

Limits: see `bridge.read.settings`. A read holds its turn until its last byte is sent, because what
it holds is memory.

Source: docs/remote-read.md; prometheus storage/remote/read_handler.go.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import structlog
from aiohttp import web
from prometheus_client import CollectorRegistry

from bridge.errors import PrombridgeError, QueryCancelled
from bridge.http import parse_content_type, read_body, refusal
from bridge.lake.files import Files
from bridge.lake.head_view import HeadSource
from bridge.read.budget import Budget
from bridge.read.explain import parse_question, render
from bridge.read.gate import Gate
from bridge.read.metrics import ReadMetrics
from bridge.read.reader import Reader, Reply, SnapshotSource
from bridge.read.request import AnswerType, IgnoredMatchers, ReadRequest, decode_request
from bridge.read.settings import ReadSettings
from bridge.wire.snappy import decode_snappy

log = structlog.get_logger()

T = TypeVar("T")

LIMIT = "read.max-body-bytes"
WRITE_BYTES = 256 << 10
"""Handed to the transport at once: four socket buffers, then the client has to take some."""
POLL_S = 0.25
"""How often a worker's client is looked at: aiohttp does not tell that it went away."""
_ERROR_TYPES = {400: "bad_data", 503: "unavailable"}
"""As Prometheus' API names them."""
_HEADERS = {
    AnswerType.SAMPLES: {
        "Content-Type": "application/x-protobuf",
        "Content-Encoding": "snappy",
    },
    AnswerType.STREAMED_XOR_CHUNKS: {
        "Content-Type": "application/x-streamed-protobuf; proto=prometheus.ChunkedReadResponse",
    },
}


@dataclass(frozen=True, slots=True)
class _Work:
    """What the worker gives back.

    Attributes:
        request: what was asked.
        first: the first pieces of the body; one if that is all of it.
        reply: the rest of the pieces, and what they hold.
    """

    request: ReadRequest
    first: list[bytes]
    reply: Reply


class ReadEndpoint:
    """The read endpoint; lives on the event loop, with worker threads of its own."""

    def __init__(
        self,
        settings: ReadSettings,
        lake: SnapshotSource,
        head: HeadSource | None,
        *,
        files: Files | None = None,
        replica_labels: Sequence[str],
        registry: CollectorRegistry,
        body_timeout_s: float = 30.0,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """Opens nothing.

        Args:
            settings: what reads may cost.
            lake: where committed samples are.
            head: where the others are; None in a process that receives none.
            files: opens the files of both; None where all of them are local.
            replica_labels: labels whose EQ matchers are ignored.
            registry: for the metrics.
            body_timeout_s: how long a request's body may take.
            clock_s: monotonic seconds.
        """
        self._settings = settings
        self._body_timeout_s = body_timeout_s
        self._clock_s = clock_s
        self._reader = Reader(settings, lake, head, files=files)
        self._ignored = IgnoredMatchers(
            frozenset(label.encode() for label in settings.ignore_matchers),
            frozenset(label.encode() for label in replica_labels),
        )
        self._gate = Gate(settings.max_concurrent, settings.max_waiting, registry)
        self._pool = ThreadPoolExecutor(settings.max_concurrent, thread_name_prefix="read")
        self._metrics = ReadMetrics(registry, self._reader)

    def close(self) -> None:
        """Ends the worker threads; work under way is finished first."""
        self._pool.shutdown(cancel_futures=True)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answers one read request."""
        started_s = self._clock_s()
        budget = self._new_budget()
        code = "500"
        try:
            parse_content_type(request)
            body = await read_body(
                request, self._settings.max_body_bytes, LIMIT, self._body_timeout_s
            )
            response = await self._answer(request, body, budget)
            code = str(response.status)
        except asyncio.CancelledError:
            code = "cancelled"
            raise
        except QueryCancelled:
            response, code = web.Response(status=503), "cancelled"
        except PrombridgeError as error:
            response = refusal(error)
            code = str(response.status)
            log.debug("read refused", code=code, cause=str(error))
        except _Aborted as aborted:
            response, cause = aborted.response, aborted.__cause__
            code = "cancelled" if isinstance(cause, ConnectionError) else "aborted"
            if code == "aborted":
                log.warning("read aborted, the client sees an error", cause=repr(cause))
        finally:
            budget.cancel()
            self._metrics.requests.labels(code).inc()
            self._metrics.duration.observe(self._clock_s() - started_s)
        return response

    async def explain(self, request: web.Request) -> web.Response:
        """Says what a query would read, and why."""
        budget = self._new_budget()

        def work() -> dict[str, Any]:
            # Here, and not on the event loop: expressions are parsed and compiled.
            query = parse_question(
                request.query,
                self._ignored,
                round(time.time() * 1000),
                round(self._settings.lookback * 1000),
            )
            return render(query, self._reader.explain(query, budget))

        try:
            async with self._gate.turn(budget.left_s):
                data = await self._in_worker(request, budget, work)
        except PrombridgeError as error:
            told = refusal(error)
            kind = _ERROR_TYPES.get(told.status, "internal")
            headers = {name: told.headers[name] for name in told.headers if name == "Retry-After"}
            answer = {"status": "error", "errorType": kind, "error": str(error)}
            return web.json_response(answer, status=told.status, headers=headers)
        finally:
            budget.cancel()
        return web.json_response({"status": "success", "data": data})

    def _new_budget(self) -> Budget:
        settings = self._settings
        return Budget(
            settings.max_samples, settings.max_query_bytes, settings.timeout, self._clock_s
        )

    async def _answer(
        self, request: web.Request, body: bytes, budget: Budget
    ) -> web.StreamResponse:
        message = decode_snappy(body, self._settings.max_body_bytes, LIMIT)
        async with self._gate.turn(budget.left_s):
            work = await self._in_worker(request, budget, lambda: self._work(message, budget))
            response = web.StreamResponse(headers=_HEADERS[work.request.answer_type])
            if len(work.first) < 2:
                response.content_length = sum(map(len, work.first))
            try:
                async with asyncio.timeout(budget.left_s):
                    sent_bytes = await self._send(request, response, work)
            except BaseException as error:
                if request.transport is not None:
                    request.transport.abort()
                if isinstance(error, Exception):
                    raise _Aborted(response) from error
                raise
        self._count(work, sent_bytes, budget)
        return response

    async def _send(self, request: web.Request, response: web.StreamResponse, work: _Work) -> int:
        """Sends all pieces; the bytes sent."""
        await response.prepare(request)
        sent_bytes = 0
        for piece in work.first:
            sent_bytes += await _write(response, piece)
        if len(work.first) == 2:
            while piece := await self._next_piece(work.reply.pieces):
                sent_bytes += await _write(response, piece)
        await response.write_eof()
        return sent_bytes

    def _work(self, message: bytes, budget: Budget) -> _Work:
        """All that is done on a worker thread before the first byte."""
        request = decode_request(message, self._ignored)
        reply = self._reader.run(request, budget)
        first = [piece for _, piece in zip(range(2), reply.pieces, strict=False)]
        return _Work(request, first, reply)

    async def _in_worker(self, request: web.Request, budget: Budget, work: Callable[[], T]) -> T:
        """The result of work on a thread, which is called off when the client goes away."""
        future = asyncio.get_running_loop().run_in_executor(self._pool, work)
        try:
            while not (await asyncio.wait({future}, timeout=POLL_S))[0]:
                if request.transport is None or request.transport.is_closing():
                    budget.cancel()
        except asyncio.CancelledError:
            # The turn is given back when the thread is free again: within milliseconds.
            budget.cancel()
            await asyncio.wait({future})
            future.exception()
            raise
        return future.result()

    async def _next_piece(self, pieces: Iterator[bytes]) -> bytes:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, next, pieces, b"")

    def _count(self, work: _Work, sent_bytes: int, budget: Budget) -> None:
        metrics, reply = self._metrics, work.reply
        metrics.queries.inc(reply.query_count)
        metrics.series.inc(reply.series_count)
        metrics.samples.inc(reply.sample_count)
        metrics.files.inc(reply.file_count)
        metrics.bytes.inc(sent_bytes)
        for span in reply.spans:
            for reason in span.reasons:
                metrics.spans.labels(span.level.value, reason.value).inc()
        if not log.is_enabled_for(logging.DEBUG):
            return
        log.debug(
            "read answered",
            queries=" ".join(map(str, work.request.queries)),
            answer=work.request.answer_type.name,
            series=reply.series_count,
            samples=reply.sample_count,
            files=reply.file_count,
            bytes=sent_bytes,
            left_s=round(budget.left_s, 3),
        )


class _Aborted(Exception):
    """Something failed after the first byte."""

    def __init__(self, response: web.StreamResponse) -> None:
        super().__init__()
        self.response = response


async def _write(response: web.StreamResponse, piece: bytes) -> int:
    """Sends a piece, as fast as the client takes it."""
    view = memoryview(piece)
    for begin in range(0, len(view), WRITE_BYTES):
        await response.write(view[begin : begin + WRITE_BYTES])
    return len(view)
