"""Asks a server by remote read and takes its answers apart.

The clock and the socket are kept away from the parsing: bytes are received raw, HTTP chunking and
messages are undone afterwards, so that a slow client does not slow the server down.
"""

import re
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import cramjam
import numpy as np
from numpy.typing import NDArray

from benchmarks.fleet import Expected
from bridge.wire.crc32c import crc32c
from bridge.wire.remote_read_pb2 import (
    ChunkedReadResponse,
    LabelMatcher,
    Query,
    ReadHints,
    ReadRequest,
    ReadResponse,
    TimeSeries,
)
from bridge.wire.xor import decode_chunk

Series = tuple[NDArray[np.int64], NDArray[np.uint64]]
"""Times in Unix ms and value bits."""

TIMEOUT_S = 300.0
RECEIVE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Question:
    """One query.

    Attributes:
        matchers: (`=` or `=~`, name, value).
        start_ms: Unix ms, inclusive.
        end_ms: Unix ms, inclusive.
        is_streamed: asks for STREAMED_XOR_CHUNKS, else for SAMPLES.
        has_hints: sends what Prometheus sends for `rate(x[5m])` in a range query.
    """

    matchers: Sequence[tuple[str, str, str]]
    start_ms: int
    end_ms: int
    is_streamed: bool = False
    has_hints: bool = False

    def encode(self) -> bytes:
        """The request's body."""
        kinds = {"=": LabelMatcher.EQ, "=~": LabelMatcher.RE}
        query = Query(
            start_timestamp_ms=self.start_ms,
            end_timestamp_ms=self.end_ms,
            matchers=[
                LabelMatcher(type=kinds[kind], name=name, value=value)
                for kind, name, value in self.matchers
            ],
        )
        if self.has_hints:
            hints = ReadHints(
                func="rate",
                range_ms=300_000,
                step_ms=15_000,
                start_ms=self.start_ms,
                end_ms=self.end_ms,
            )
            query.hints.CopyFrom(hints)
        accepted = [ReadRequest.SAMPLES]
        if self.is_streamed:
            accepted.insert(0, ReadRequest.STREAMED_XOR_CHUNKS)
        request = ReadRequest(queries=[query], accepted_response_types=accepted)
        return bytes(cramjam.snappy.compress_raw(request.SerializeToString()))

    def select(self, expected: Expected) -> dict[bytes, Series]:
        """What the answer has to be, by encoded labels."""
        found = {}
        for row, labels in enumerate(expected.labels):
            own = {label.name: label.value for label in TimeSeries.FromString(labels).labels}
            if all(_matches(kind, own.get(name, ""), value) for kind, name, value in self.matchers):
                span = slice(*expected.offsets[row : row + 2].tolist())
                times_ms, bits = expected.timestamps_ms[span], expected.bits[span]
                inside = (times_ms >= self.start_ms) & (times_ms <= self.end_ms)
                if inside.any():
                    found[labels] = (times_ms[inside], bits[inside])
        return found


def _matches(kind: str, own: str, value: str) -> bool:
    return own == value if kind == "=" else re.fullmatch(value, own, re.DOTALL) is not None


@dataclass(frozen=True, slots=True)
class Answer:
    """A server's answer, not yet parsed.

    Attributes:
        is_streamed: frames of chunks, else one snappy block.
        body: without HTTP's chunking.
        latency_s: from sending to the last byte.
    """

    is_streamed: bool
    body: bytes
    latency_s: float

    def count(self) -> tuple[int, int]:
        """Series and samples, without decoding them."""
        series_count = sample_count = 0
        if self.is_streamed:
            for frame in self._frames():
                series_count += len(frame.chunked_series)
                for series in frame.chunked_series:
                    # A chunk begins with its count, big endian.
                    sample_count += sum(
                        int.from_bytes(chunk.data[:2], "big") for chunk in series.chunks
                    )
        else:
            for found in self._time_series():
                series_count += 1
                sample_count += len(found.samples)
        return series_count, sample_count

    def decode(self) -> dict[bytes, Series]:
        """Every sample, by encoded labels; frame checksums are compared.

        Raises:
            ValueError: a checksum is wrong, or a series came twice.
        """
        decoded: dict[bytes, Series] = {}
        if self.is_streamed:
            for frame in self._frames(is_checked=True):
                (series,) = frame.chunked_series
                labels = TimeSeries(labels=series.labels).SerializeToString()
                chunks = [decode_chunk(chunk.data) for chunk in series.chunks]
                _put(
                    decoded,
                    labels,
                    np.concatenate([times for times, _ in chunks]),
                    np.concatenate([values for _, values in chunks]),
                )
        else:
            for found in self._time_series():
                labels = TimeSeries(labels=found.labels).SerializeToString()
                times = np.array([sample.timestamp for sample in found.samples], np.int64)
                values = np.array([sample.value for sample in found.samples], np.float64)
                _put(decoded, labels, times, values)
        return decoded

    def _frames(self, *, is_checked: bool = False) -> Iterator[ChunkedReadResponse]:
        at = 0
        while at < len(self.body):
            length = shift = 0
            while True:
                byte = self.body[at]
                at += 1
                length |= (byte & 0x7F) << shift
                shift += 7
                if byte < 0x80:
                    break
            (checksum,) = struct.unpack_from(">I", self.body, at)
            message = self.body[at + 4 : at + 4 + length]
            if is_checked and crc32c(message) != checksum:
                raise ValueError(f"wrong checksum of the frame that ends at byte {at}")
            at += 4 + length
            yield ChunkedReadResponse.FromString(message)

    def _time_series(self) -> Iterator[TimeSeries]:
        response = ReadResponse.FromString(bytes(cramjam.snappy.decompress_raw(self.body)))
        for result in response.results:
            yield from result.timeseries


def _put(
    decoded: dict[bytes, Series],
    labels: bytes,
    times_ms: NDArray[np.int64],
    values: NDArray[np.float64],
) -> None:
    if labels in decoded:
        raise ValueError(f"{labels!r} came twice")
    decoded[labels] = (times_ms, values.view(np.uint64))


def differences(expected: dict[bytes, Series], answered: dict[bytes, Series]) -> list[str]:
    """What is wrong with an answer; empty if every sample is there, bit by bit."""
    wrong = [f"{labels!r} is missing" for labels in expected.keys() - answered.keys()]
    wrong += [f"{labels!r} was not asked for" for labels in answered.keys() - expected.keys()]
    for labels in expected.keys() & answered.keys():
        pairs = zip(expected[labels], answered[labels], strict=True)
        if not all(np.array_equal(sent, got) for sent, got in pairs):
            wrong.append(
                f"{labels!r}: {len(answered[labels][0])} samples, not the "
                f"{len(expected[labels][0])} that were sent"
            )
    return wrong


class ReadClient:
    """One keep-alive connection to a read endpoint."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        self._host = f"{parts.hostname}:{parts.port}"
        self._socket = socket.create_connection((parts.hostname, parts.port), TIMEOUT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._socket.close()

    def ask(self, body: bytes) -> Answer:
        """Sends an encoded question.

        Raises:
            ConnectionError: the answer is cut short.
            ValueError: it is not 200.
        """
        head = (
            f"POST /api/v1/read HTTP/1.1\r\nHost: {self._host}\r\n"
            "Content-Encoding: snappy\r\nAccept-Encoding: snappy\r\n"
            "Content-Type: application/x-protobuf\r\n"
            "X-Prometheus-Remote-Read-Version: 0.1.0\r\n"
            f"User-Agent: prombridge-benchmark\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        began_s = time.perf_counter()
        self._socket.sendall(head.encode() + body)
        received = bytearray()
        while True:
            piece = self._socket.recv(RECEIVE_BYTES)
            latency_s = time.perf_counter() - began_s
            if not piece:
                raise ConnectionError(f"cut short after {len(received)} bytes")
            received += piece
            content = _whole_content(received)
            if content is not None:
                break
        headers = bytes(received[: received.index(b"\r\n\r\n")]).lower()
        if not headers.startswith(b"http/1.1 200"):
            raise ValueError(f"{headers[:40]!r}: {content[:300]!r}")
        return Answer(b"x-streamed-protobuf" in headers, content, latency_s)


def _whole_content(received: bytearray) -> bytes | None:
    """The content of an HTTP answer, None while it is not complete."""
    end = received.find(b"\r\n\r\n")
    if end < 0:
        return None
    headers = bytes(received[:end]).lower()
    length = re.search(rb"\r\ncontent-length: *(\d+)", headers)
    if length:
        content = bytes(received[end + 4 :])
        return content if len(content) == int(length.group(1)) else None
    # The end of a chunked answer may also stand inside of it: then the walk does not come out.
    if not received.endswith(b"0\r\n\r\n"):
        return None
    return _undo_chunking(memoryview(received)[end + 4 :])


def _undo_chunking(chunked: memoryview) -> bytes | None:
    data = bytes(chunked)
    pieces: list[bytes] = []
    at = 0
    while True:
        end = data.find(b"\r\n", at)
        if end < 0:
            return None
        length = int(data[at:end], 16)
        if length == 0:
            return b"".join(pieces)
        at = end + 2 + length + 2
        if at > len(data):
            return None
        pieces.append(data[end + 2 : at - 2])
