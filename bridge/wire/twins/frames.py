"""Remote-read answers by the protobuf package."""

from collections.abc import Sequence
from itertools import pairwise

import cramjam
import numpy as np
from typing_extensions import Buffer

from bridge.wire import remote_read_pb2
from bridge.wire.columns import F64Array, I64Array
from bridge.wire.encoded import EncodedSeries
from bridge.wire.twins.columns import check_offsets
from bridge.wire.twins.crc32c import crc32c


def encode_frames(
    label_bytes: Sequence[Buffer], chunks: Sequence[Buffer], query_index: int
) -> bytes:
    """Frames of a streamed answer, one for each series."""
    if query_index < 0:
        raise ValueError(f"query {query_index}")
    out = b""
    for labels, data in zip(label_bytes, chunks, strict=True):
        series = remote_read_pb2.ChunkedSeries.FromString(bytes(labels) + bytes(data))
        message = remote_read_pb2.ChunkedReadResponse(
            chunked_series=[series], query_index=query_index
        )
        content = message.SerializeToString(deterministic=True)
        out += _varint(len(content)) + crc32c(content).to_bytes(4, "big") + content
    return out


def encode_samples(offsets: I64Array, timestamps_ms: I64Array, values: F64Array) -> EncodedSeries:
    """Samples of many series, as the field `samples` of prompb.TimeSeries."""
    check_offsets(offsets, timestamps_ms, values)
    data, ends = b"", [0]
    for first, last in pairwise(offsets.tolist()):
        message = remote_read_pb2.TimeSeries()
        for timestamp_ms, value in zip(
            timestamps_ms[first:last].tolist(), values[first:last].tolist(), strict=True
        ):
            message.samples.add(timestamp=timestamp_ms, value=value)
        data += message.SerializeToString(deterministic=True)
        ends.append(len(data))
    return EncodedSeries(data, np.array(ends, np.int64))


def encode_read_response(results: Sequence[Sequence[tuple[Buffer, Buffer]]]) -> bytes:
    """All results as one snappy block."""
    response = remote_read_pb2.ReadResponse()
    for series in results:
        result = response.results.add()
        for labels, samples in series:
            result.timeseries.append(
                remote_read_pb2.TimeSeries.FromString(bytes(labels) + bytes(samples))
            )
    return bytes(cramjam.snappy.compress_raw(response.SerializeToString(deterministic=True)))


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])
