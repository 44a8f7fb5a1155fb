"""Remote-write bodies for tests, by the protobuf package."""

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import cramjam

from bridge.wire import remote_write_pb2, remote_write_v2_pb2

Samples = Sequence[tuple[int, float]]


@dataclass(frozen=True)
class Series:
    """Labels and (timestamp_ms, value) pairs of one TimeSeries message."""

    labels: Mapping[str, str]
    samples: Samples = ()
    histogram_count: int = 0
    exemplar_count: int = 0
    starts_ms: Sequence[int] = field(default_factory=tuple)


def snappy(data: bytes) -> bytes:
    return bytes(cramjam.snappy.compress_raw(data))


def v1_body(series: Sequence[Series]) -> bytes:
    """A WriteRequest as a 1.0 sender makes it, compressed."""
    request = remote_write_pb2.WriteRequest()
    for one in series:
        message = request.timeseries.add()
        for name, text in one.labels.items():
            message.labels.add(name=name.encode(), value=text.encode())
        for timestamp_ms, value in one.samples:
            message.samples.add(timestamp=timestamp_ms, value=value)
        message.histograms.extend([b""] * one.histogram_count)
        message.exemplars.extend([b""] * one.exemplar_count)
    return snappy(request.SerializeToString())


def v2_body(series: Sequence[Series]) -> bytes:
    """An io.prometheus.write.v2.Request, compressed."""
    request = remote_write_v2_pb2.Request()
    symbols = {"": 0}

    def ref(text: str) -> int:
        return symbols.setdefault(text, len(symbols))

    for one in series:
        message = request.timeseries.add()
        for name, text in one.labels.items():
            message.labels_refs.extend([ref(name), ref(text)])
        starts = [*one.starts_ms, *[0] * (len(one.samples) - len(one.starts_ms))]
        for (timestamp_ms, value), start_ms in zip(one.samples, starts, strict=True):
            message.samples.add(timestamp=timestamp_ms, value=value, start_timestamp=start_ms)
        message.histograms.extend([b""] * one.histogram_count)
        message.exemplars.extend([b""] * one.exemplar_count)
    request.symbols.extend(text.encode() for text in symbols)
    return snappy(request.SerializeToString())


def bits(value: float) -> int:
    """The value's bit pattern, for comparisons that NaN survives."""
    pattern: int = struct.unpack("<Q", struct.pack("<d", value))[0]
    return pattern


def float_of(pattern: int) -> float:
    """The value of a bit pattern."""
    value: float = struct.unpack("<d", struct.pack("<Q", pattern))[0]
    assert math.isnan(value) or bits(value) == pattern
    return value
