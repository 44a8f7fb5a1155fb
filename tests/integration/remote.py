"""Remote write and remote read from the client's side, independent of `bridge.wire`.

The messages are declared here from the published field numbers. A sample's `double value = 1` is
declared as `fixed64`, which is the same eight bytes on the wire: values are 64-bit patterns
throughout, so that no float operation can touch the payload of a NaN.
"""

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cramjam
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from tests.integration.servers import Reply, fetch

STALE_BITS = 0x7FF0000000000002
NAN_BITS = 0x7FF8000000000001

# A label set, sorted by name. Empty values may stand in what is sent, never in what comes back.
Labels = tuple[tuple[str, str], ...]
# Unix ms and the value's bits.
Sample = tuple[int, int]

# Of each message the fields: number, name, type, and whether it is repeated.
_DECLARATIONS: dict[str, list[tuple[int, str, str, bool]]] = {
    "Label": [(1, "name", "string", False), (2, "value", "string", False)],
    "Sample": [
        (1, "value", "fixed64", False),
        (2, "timestamp", "int64", False),
        (3, "start_timestamp", "int64", False),
    ],
    "TimeSeries": [(1, "labels", "Label", True), (2, "samples", "Sample", True)],
    "Metadata": [
        (1, "type", "uint32", False),
        (2, "metric_family_name", "string", False),
        (4, "help", "string", False),
        (5, "unit", "string", False),
    ],
    "WriteRequest": [(1, "timeseries", "TimeSeries", True), (3, "metadata", "Metadata", True)],
    "MetadataV2": [
        (1, "type", "uint32", False),
        (3, "help_ref", "uint32", False),
        (4, "unit_ref", "uint32", False),
    ],
    "TimeSeriesV2": [
        (1, "labels_refs", "uint32", True),
        (2, "samples", "Sample", True),
        (5, "metadata", "MetadataV2", False),
    ],
    "Request": [(4, "symbols", "string", True), (5, "timeseries", "TimeSeriesV2", True)],
    "LabelMatcher": [
        (1, "type", "uint32", False),
        (2, "name", "string", False),
        (3, "value", "string", False),
    ],
    "Query": [
        (1, "start_timestamp_ms", "int64", False),
        (2, "end_timestamp_ms", "int64", False),
        (3, "matchers", "LabelMatcher", True),
    ],
    "ReadRequest": [(1, "queries", "Query", True)],
    "QueryResult": [(1, "timeseries", "TimeSeries", True)],
    "ReadResponse": [(1, "results", "QueryResult", True)],
}
MATCHER_TYPES = ("=", "!=", "=~", "!~")


def _make_messages() -> Mapping[str, Any]:
    kinds = descriptor_pb2.FieldDescriptorProto
    scalars = {
        "string": kinds.TYPE_STRING,
        "fixed64": kinds.TYPE_FIXED64,
        "int64": kinds.TYPE_INT64,
        "uint32": kinds.TYPE_UINT32,
    }
    package = "prombridge.tests"
    file = descriptor_pb2.FileDescriptorProto(
        name="tests_remote.proto", package=package, syntax="proto3"
    )
    for name, fields in _DECLARATIONS.items():
        message = file.message_type.add(name=name)
        for number, field_name, kind, is_repeated in fields:
            field = message.field.add(
                name=field_name,
                number=number,
                label=kinds.LABEL_REPEATED if is_repeated else kinds.LABEL_OPTIONAL,
            )
            if kind in scalars:
                field.type = scalars[kind]
            else:
                field.type = kinds.TYPE_MESSAGE
                field.type_name = f".{package}.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}"))
        for name in _DECLARATIONS
    }


_MESSAGES = _make_messages()


def bits_of(value: float) -> int:
    """The 64-bit pattern of a float."""
    bits: int = struct.unpack("<Q", struct.pack("<d", value))[0]
    return bits


def encode_v1(series: Iterable[tuple[Labels, Sequence[Sample]]]) -> bytes:
    """A snappy-compressed `prometheus.WriteRequest`."""
    request = _MESSAGES["WriteRequest"]()
    for labels, samples in series:
        entry = request.timeseries.add()
        for name, value in labels:
            entry.labels.add(name=name, value=value)
        for timestamp_ms, bits in samples:
            entry.samples.add(value=bits, timestamp=timestamp_ms)
    return _compress(request)


def encode_v2(series: Iterable[tuple[Labels, Sequence[Sample]]]) -> bytes:
    """A snappy-compressed `io.prometheus.write.v2.Request`."""
    symbols = {"": 0}
    request = _MESSAGES["Request"]()
    for labels, samples in series:
        entry = request.timeseries.add()
        entry.labels_refs.extend(
            symbols.setdefault(text, len(symbols)) for label in labels for text in label
        )
        for timestamp_ms, bits in samples:
            entry.samples.add(value=bits, timestamp=timestamp_ms)
    request.symbols.extend(symbols)
    return _compress(request)


def _compress(message: Any) -> bytes:
    return bytes(cramjam.snappy.compress_raw(message.SerializeToString()))


WRITE_HEADERS = {
    1: {
        "Content-Type": "application/x-protobuf",
        "Content-Encoding": "snappy",
        "X-Prometheus-Remote-Write-Version": "0.1.0",
    },
    2: {
        "Content-Type": "application/x-protobuf;proto=io.prometheus.write.v2.Request",
        "Content-Encoding": "snappy",
        "X-Prometheus-Remote-Write-Version": "2.0.0",
    },
}


@dataclass(frozen=True)
class WriteBody:
    """One request's body, as it goes over the wire."""

    version: int
    data: bytes
    sample_count: int

    def push(self, url: str, timeout_s: float = 30.0) -> Reply:
        """Sends it to a remote-write endpoint."""
        return fetch("POST", url, self.data, WRITE_HEADERS[self.version], timeout_s)


def make_body(version: int, series: Sequence[tuple[Labels, Sequence[Sample]]]) -> WriteBody:
    """A body of remote write 1.0 or 2.0."""
    encode = {1: encode_v1, 2: encode_v2}[version]
    return WriteBody(version, encode(series), sum(len(samples) for _, samples in series))


def read_samples(
    url: str,
    matchers: Sequence[tuple[str, str, str]],
    start_ms: int,
    end_ms: int,
    timeout_s: float = 60.0,
) -> list[tuple[Labels, list[Sample]]]:
    """Asks a remote-read endpoint for plain samples, as Prometheus 2.x does.

    Args:
        matchers: (name, one of MATCHER_TYPES, value).
        start_ms: the first instant of a range closed on both sides.
    """
    request = _MESSAGES["ReadRequest"]()
    query = request.queries.add(start_timestamp_ms=start_ms, end_timestamp_ms=end_ms)
    for name, kind, value in matchers:
        query.matchers.add(type=MATCHER_TYPES.index(kind), name=name, value=value)
    headers = {
        "Content-Type": "application/x-protobuf",
        "Content-Encoding": "snappy",
        "Accept-Encoding": "snappy",
        "X-Prometheus-Remote-Read-Version": "0.1.0",
    }
    reply = fetch("POST", url, _compress(request), headers, timeout_s)
    assert reply.status == 200, f"{reply.status}: {reply.body.decode(errors='replace')}"
    assert reply.headers["Content-Type"] == "application/x-protobuf"
    response = _MESSAGES["ReadResponse"]()
    response.ParseFromString(bytes(cramjam.snappy.decompress_raw(reply.body)))
    (result,) = response.results
    return [
        (
            tuple((label.name, label.value) for label in series.labels),
            [(sample.timestamp, sample.value) for sample in series.samples],
        )
        for series in result.timeseries
    ]
