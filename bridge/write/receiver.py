"""`POST /api/v1/write`: remote write 1.0 and 2.0 over HTTP.

Checks what can be refused before the body is read, reads the body within its limits, hands it to
the ingest thread and turns the outcome into the answer that senders understand:

    204  everything kept (2.0: with the three -Written counts)
    400  something refused; what was good is kept. Never retried by senders.
    408  the body did not come in time
    413  larger than write.max-body-bytes
    415  a content type, protobuf message or encoding that is not spoken here
    503  no room now, with Retry-After; never 429, on which Prometheus drops by default

Source: protocol sections 1 and 2 of docs/remote-write.md; prometheus/docs remote_write_spec 1.0
and 2.0-rc.4.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

import structlog
from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from bridge.errors import CorruptBody, Overloaded, PrombridgeError, UnsupportedMedia
from bridge.http import parse_content_type, read_body, refusal
from bridge.wire.decoded import Decoded
from bridge.wire.snappy import snappy_length
from bridge.write.ingest import WriteJob, WriteSettings

log = structlog.get_logger()

V2_MESSAGE = "io.prometheus.write.v2.Request"
_FORMATS = {"": 1, "prometheus.WriteRequest": 1, V2_MESSAGE: 2}
_MESSAGE_LINES_MAX = 10


class Ingestor(Protocol):
    """Whoever takes write jobs."""

    def submit(self, job: WriteJob) -> None:
        """Queues a job; `settle` is called on the loop once it is done."""


class ReceiverMetrics:
    """What the receiver counts."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "prombridge_write_requests_total",
            "Remote-write requests by protocol version and HTTP status.",
            ["version", "code"],
            registry=registry,
        )
        self.samples = Counter(
            "prombridge_write_samples_total",
            "Samples accepted: safe in the WAL.",
            registry=registry,
        )
        self.rejected = Counter(
            "prombridge_write_rejected_total",
            "Samples refused with 400, or series and histograms where there is no sample, by "
            "reason.",
            ["reason"],
            registry=registry,
        )
        self.exemplars_dropped = Counter(
            "prombridge_write_exemplars_dropped_total",
            "Exemplars received; they are not stored yet.",
            registry=registry,
        )
        self.bytes = Counter(
            "prombridge_write_received_bytes_total",
            "Compressed bytes of remote-write bodies.",
            registry=registry,
        )
        self.duration = Histogram(
            "prombridge_write_request_duration_seconds",
            "From the request's headers to its answer.",
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
            registry=registry,
        )
        self.inflight = Gauge(
            "prombridge_write_inflight_bytes",
            "Compressed bytes of requests that are being received or wait for the disk.",
            registry=registry,
        )


class Receiver:
    """The write endpoint; lives on the event loop."""

    def __init__(
        self,
        settings: WriteSettings,
        ingest: Ingestor,
        body_timeout_s: float,
        metrics: ReceiverMetrics,
        clock_ms: Callable[[], int],
    ) -> None:
        self._settings = settings
        self._ingest = ingest
        self._body_timeout_s = body_timeout_s
        self._metrics = metrics
        self._clock_ms = clock_ms
        self._inflight_bytes = 0
        metrics.inflight.set_function(lambda: self._inflight_bytes)
        self._answered: dict[tuple[int, int], Counter] = {}

    async def handle(self, request: web.Request) -> web.Response:
        """Answers one write request."""
        started_s = time.perf_counter()
        version = 0
        try:
            version = _negotiate(request)
            response = await self._receive(request, version)
        except PrombridgeError as error:
            response = refusal(error, _written_headers(version, 0))
        self._metrics.duration.observe(time.perf_counter() - started_s)
        key = (version, response.status)
        if (counter := self._answered.get(key)) is None:
            counter = self._metrics.requests.labels(str(version or "unknown"), str(key[1]))
            self._answered[key] = counter
        counter.inc()
        return response

    async def _receive(self, request: web.Request, version: int) -> web.Response:
        held = _Held(self)
        try:
            body = await read_body(
                request,
                self._settings.max_body_bytes,
                "write.max-body-bytes",
                self._body_timeout_s,
                held.grow,
            )
            self._check_decoded_length(body)
            job = await self._submit(body, version)
        finally:
            held.release()
        self._metrics.bytes.inc(len(body))
        if job.error is not None:
            raise job.error
        assert job.decoded is not None
        return self._answer(job.decoded, version, len(body))

    def hold(self, count: int) -> None:
        """Takes from write.max-inflight-bytes; gives back if negative.

        Raises:
            Overloaded: it is used up.
        """
        if count > 0 and self._inflight_bytes + count > self._settings.max_inflight_bytes:
            raise Overloaded(
                "too many bytes in flight (write.max-inflight-bytes is "
                f"{self._settings.max_inflight_bytes})"
            )
        self._inflight_bytes += count

    def _check_decoded_length(self, body: bytes) -> None:
        """Refuses what would be too large, by the length that snappy promises."""
        length = snappy_length(body)
        if length > self._settings.max_decoded_bytes:
            raise CorruptBody(
                f"the snappy block claims {length} bytes, write.max-decoded-bytes allows "
                f"{self._settings.max_decoded_bytes}"
            )

    async def _submit(self, body: bytes, version: int) -> WriteJob:
        answered = asyncio.get_running_loop().create_future()
        job = WriteJob(body, version, self._clock_ms(), answered)
        self._ingest.submit(job)
        await answered
        return job

    def _answer(self, decoded: Decoded, version: int, body_bytes: int) -> web.Response:
        metrics = self._metrics
        if decoded.sample_count:
            metrics.samples.inc(decoded.sample_count)
        if decoded.exemplar_count:
            metrics.exemplars_dropped.inc(decoded.exemplar_count)
        headers = _written_headers(version, decoded.sample_count)
        if not decoded.rejections:
            return web.Response(status=204, headers=headers)
        for reason, count in decoded.rejections.items():
            metrics.rejected.labels(reason).inc(count)
        text = _rejection_text(decoded)
        log.debug("write refused in part", text=text, body_bytes=body_bytes)
        return web.Response(status=400, text=text, headers=headers)


def settle(jobs: list[WriteJob]) -> None:
    """Wakes the handlers of jobs that are done; on the event loop."""
    for job in jobs:
        if not job.answered.done():
            job.answered.set_result(None)


class _Held:
    """What one request takes of write.max-inflight-bytes."""

    __slots__ = ("_bytes", "_receiver")

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._bytes = 0

    def grow(self, count: int) -> None:
        self._receiver.hold(count)
        self._bytes += count

    def release(self) -> None:
        self._receiver.hold(-self._bytes)


def _negotiate(request: web.Request) -> int:
    """The remote-write version that the headers name: 1 or 2.

    Raises:
        UnsupportedMedia: neither, or not snappy.
    """
    message = parse_content_type(request).get("proto", "")
    if message not in _FORMATS:
        raise UnsupportedMedia(
            f"the protobuf message {message!r} is not supported; send prometheus.WriteRequest or "
            f"{V2_MESSAGE}"
        )
    return _FORMATS[message]


def _written_headers(version: int, sample_count: int) -> dict[str, str]:
    """The counts of 2.0; a 1.0 sender must not see any."""
    if version != 2:
        return {}
    return {
        "X-Prometheus-Remote-Write-Samples-Written": str(sample_count),
        "X-Prometheus-Remote-Write-Histograms-Written": "0",
        "X-Prometheus-Remote-Write-Exemplars-Written": "0",
    }


def _rejection_text(decoded: Decoded) -> str:
    counts = ", ".join(f"{count} {reason}" for reason, count in sorted(decoded.rejections.items()))
    kept = f"{decoded.sample_count} of {decoded.sample_seen} samples kept"
    return "\n".join([f"refused: {counts}; {kept}", *decoded.messages[:_MESSAGE_LINES_MAX], ""])
