"""A simple remote-read client: makes requests, takes answers apart bit by bit, trusts nothing."""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import cramjam

from bridge.wire import remote_read_pb2
from tests.oracle.tsdb import Labels, OracleMatcher, Sample

SYMBOLS = ("=", "!=", "=~", "!~")
SAMPLES, CHUNKS = 0, 1


@dataclass(frozen=True)
class Hints:
    """What an engine tells about a selector."""

    start_ms: int = 0
    end_ms: int = 0
    func: str = ""
    step_ms: int = 0
    range_ms: int = 0


@dataclass(frozen=True)
class Query:
    """One query of a request."""

    start_ms: int
    end_ms: int
    matchers: Sequence[OracleMatcher] = ()
    hints: Hints | None = None


@dataclass(frozen=True)
class Chunk:
    """One chunk of a streamed series."""

    min_ms: int
    max_ms: int
    samples: list[Sample]


@dataclass(frozen=True)
class Frame:
    """One frame of a streamed answer."""

    query_index: int
    labels: Labels
    chunks: list[Chunk] = field(default_factory=list)

    @property
    def samples(self) -> list[Sample]:
        return [sample for chunk in self.chunks for sample in chunk.samples]


def request_message(queries: Sequence[Query], accepted: Sequence[int] = ()) -> bytes:
    """A ReadRequest, not compressed."""
    request = remote_read_pb2.ReadRequest()
    for query in queries:
        message = request.queries.add(
            start_timestamp_ms=query.start_ms, end_timestamp_ms=query.end_ms
        )
        for matcher in query.matchers:
            message.matchers.add(
                type=SYMBOLS.index(matcher.symbol),
                name=matcher.name,
                value=matcher.value,
            )
        if query.hints is not None:
            hints = query.hints
            message.hints.SetInParent()
            message.hints.start_ms, message.hints.end_ms = hints.start_ms, hints.end_ms
            message.hints.func, message.hints.step_ms = hints.func, hints.step_ms
            message.hints.range_ms = hints.range_ms
    request.accepted_response_types.extend(accepted)  # type: ignore[arg-type]
    return request.SerializeToString()


def request_body(queries: Sequence[Query], accepted: Sequence[int] = ()) -> bytes:
    """A request as it is sent."""
    return bytes(cramjam.snappy.compress_raw(request_message(queries, accepted)))


def read_samples(body: bytes) -> list[list[tuple[Labels, list[Sample]]]]:
    """Series of each result of a SAMPLES answer."""
    response = remote_read_pb2.ReadResponse.FromString(bytes(cramjam.snappy.decompress_raw(body)))
    return [
        [
            (
                tuple((label.name, label.value) for label in series.labels),
                [(sample.timestamp, bits_of(sample.value)) for sample in series.samples],
            )
            for series in result.timeseries
        ]
        for result in response.results
    ]


def read_frames(body: bytes) -> list[Frame]:
    """Frames of a streamed answer; all of the body has to be frames."""
    frames = []
    for content in _split_frames(body):
        message = remote_read_pb2.ChunkedReadResponse.FromString(content)
        assert len(message.chunked_series) == 1, "a client looks at the first series alone"
        series = message.chunked_series[0]
        chunks = []
        for chunk in series.chunks:
            assert chunk.type == remote_read_pb2.Chunk.XOR
            chunks.append(Chunk(chunk.min_time_ms, chunk.max_time_ms, decode_xor(chunk.data)))
        labels = tuple((label.name, label.value) for label in series.labels)
        frames.append(Frame(message.query_index, labels, chunks))
    return frames


def _split_frames(body: bytes) -> Iterator[bytes]:
    place = 0
    while place < len(body):
        length, shift = 0, 0
        while True:
            byte = body[place]
            place += 1
            length |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
        (checksum,) = struct.unpack(">I", body[place : place + 4])
        content = body[place + 4 : place + 4 + length]
        assert len(content) == length, "the body ends within a frame"
        assert checksum == crc32c(content)
        place += 4 + length
        yield content


def crc32c(content: bytes) -> int:
    """CRC-32 with Castagnoli's polynomial, a bit at a time."""
    register = 0xFFFFFFFF
    for byte in content:
        register ^= byte
        for _ in range(8):
            register = (register >> 1) ^ (0x82F63B78 if register & 1 else 0)
    return register ^ 0xFFFFFFFF


def bits_of(value: float) -> int:
    """The 64 bits of a float."""
    bits: int = struct.unpack("<Q", struct.pack("<d", value))[0]
    return bits


class _Bits:
    def __init__(self, data: bytes) -> None:
        self._text = "".join(f"{byte:08b}" for byte in data)
        self._place = 0

    def take(self, count: int) -> int:
        part = self._text[self._place : self._place + count]
        assert len(part) == count, "the chunk ends within a sample"
        self._place += count
        return int(part, 2) if part else 0

    def uvarint(self) -> int:
        value, shift = 0, 0
        while True:
            byte = self.take(8)
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    def varint(self) -> int:
        value = self.uvarint()
        return -(value + 1) // 2 if value & 1 else value // 2


def decode_xor(data: bytes) -> list[Sample]:
    """Samples of an XOR chunk."""
    bits = _Bits(data)
    samples: list[Sample] = []
    time = value = step = leading = trailing = 0
    for index in range(bits.take(16)):
        if index == 0:
            time, value = bits.varint(), bits.take(64)
            samples.append((time, value))
            continue
        step = bits.uvarint() if index == 1 else step + _step_change(bits)
        time += step
        if bits.take(1):
            if bits.take(1):
                leading = bits.take(5)
                trailing = 64 - leading - (bits.take(6) or 64)
            value ^= bits.take(64 - leading - trailing) << trailing
        samples.append((time, value))
    return samples


def _step_change(bits: _Bits) -> int:
    for width in (14, 17, 20, 64):
        if not bits.take(1):
            return 0 if width == 14 else _signed(bits, {17: 14, 20: 17, 64: 20}[width])
    return _signed(bits, 64)


def _signed(bits: _Bits, width: int) -> int:
    value = bits.take(width)
    limit = 1 << (width - 1)
    is_negative = value >= limit if width == 64 else value > limit
    return value - (1 << width) if is_negative else value
