"""Bodies of read answers against those of a real Prometheus."""

from types import ModuleType

import cramjam
import numpy as np
import pytest

from bridge.wire import _frames
from bridge.wire.remote_read_pb2 import ChunkedReadResponse, ChunkedSeries, ReadResponse, TimeSeries
from bridge.wire.twins import frames as twin
from tests.oracle.recorded_reads import (
    NAMES,
    chunked_body,
    read_response,
    recorded_series,
    samples_body,
)
from tests.oracle.remote_read import _split_frames

IMPLEMENTATIONS = pytest.mark.parametrize("frames", [_frames, twin], ids=["compiled", "twin"])
LABELS = TimeSeries(labels=[{"name": "a", "value": "b"}]).SerializeToString()
PIECE_BYTES = 1 << 20


def decompressed(block: bytes) -> bytes:
    return bytes(cramjam.snappy.decompress_raw(block))


@IMPLEMENTATIONS
@pytest.mark.parametrize("name", NAMES)
def test_a_streamed_answer_of_prometheus_is_put_together_byte_by_byte(
    frames: ModuleType, name: str
) -> None:
    series = [one.chunked for one in recorded_series(name)]
    labels = [ChunkedSeries(labels=one.labels).SerializeToString() for one in series]
    chunks = [ChunkedSeries(chunks=one.chunks).SerializeToString() for one in series]
    assert frames.encode_frames(labels, chunks, 0) == chunked_body(name)


@IMPLEMENTATIONS
@pytest.mark.parametrize("name", NAMES)
def test_a_plain_answer_of_prometheus_is_put_together_byte_by_byte(
    frames: ModuleType, name: str
) -> None:
    results = []
    for result in read_response(name).results:
        series = []
        for one in result.timeseries:
            times = np.array([sample.timestamp for sample in one.samples], np.int64)
            values = np.array([sample.value for sample in one.samples], np.float64)
            offsets = np.array([0, len(times)], np.int64)
            labels = TimeSeries(labels=one.labels).SerializeToString()
            series.append((labels, frames.encode_samples(offsets, times, values).data))
        results.append(series)
    block = frames.encode_read_response(results)
    assert decompressed(block) == decompressed(samples_body(name))


@IMPLEMENTATIONS
def test_a_frame_tells_its_query_unless_it_is_the_first(frames: ModuleType) -> None:
    for query_index in (0, 1, 127, 128, 2**63 - 1):
        (content,) = _split_frames(frames.encode_frames([LABELS], [b""], query_index))
        message = ChunkedReadResponse.FromString(content)
        assert message.query_index == query_index
        assert message.SerializeToString() == content


@IMPLEMENTATIONS
@pytest.mark.parametrize("size", [0, 1, 127, 128, 16_383, 16_384])
def test_lengths_of_any_size_are_right(frames: ModuleType, size: int) -> None:
    # An unknown field of so many bytes and its head.
    padding = b"\x7a" + bytes(_uvarint(size)) + bytes(size)
    (content,) = _split_frames(frames.encode_frames([LABELS], [padding], 0))
    (series,) = ChunkedReadResponse.FromString(content).chunked_series
    assert series.SerializeToString() == LABELS + padding


def _uvarint(number: int) -> list[int]:
    return [number] if number < 128 else [number & 127 | 128, *_uvarint(number >> 7)]


@IMPLEMENTATIONS
def test_labels_and_chunks_of_different_number_are_refused(frames: ModuleType) -> None:
    for labels, chunks in (([LABELS], []), ([], [b""]), ([LABELS], [b"", b""])):
        with pytest.raises(ValueError, match=r"argument 2|label sets"):
            frames.encode_frames(labels, chunks, 0)


@IMPLEMENTATIONS
def test_a_negative_query_is_refused(frames: ModuleType) -> None:
    with pytest.raises(ValueError, match="query -1"):
        frames.encode_frames([], [], -1)


@IMPLEMENTATIONS
def test_zeros_are_left_out_of_a_sample_and_minus_zero_is_not(frames: ModuleType) -> None:
    times = np.array([0, 0, 5, -1], np.int64)
    values = np.array([0.0, -0.0, 0.0, 0.0])
    encoded = frames.encode_samples(np.array([0, 4], np.int64), times, values)
    minus_one = b"\xff" * 9 + b"\x01"
    assert encoded.data == (
        b"\x12\x00" + b"\x12\x09\x09" + bytes(7) + b"\x80" + b"\x12\x02\x10\x05"
        b"\x12\x0b\x10" + minus_one
    )


@pytest.mark.parametrize("size", [PIECE_BYTES - 20, PIECE_BYTES, 3 * PIECE_BYTES + 5])
@pytest.mark.parametrize("is_random", [False, True])
def test_a_block_of_several_pieces_is_one_snappy_block(size: int, is_random: bool) -> None:
    # Random bytes take more room compressed than not.
    padding = np.random.default_rng(size).bytes(size) if is_random else bytes(size)
    field = b"\x7a" + bytes(_uvarint(size)) + padding
    block = _frames.encode_read_response([[(LABELS, field)], [(LABELS, memoryview(field))] * 2])
    message = ReadResponse.FromString(decompressed(block))
    found = [
        series.SerializeToString() for result in message.results for series in result.timeseries
    ]
    assert found == [LABELS + field] * 3


@IMPLEMENTATIONS
def test_every_query_has_its_result_even_an_empty_one(frames: ModuleType) -> None:
    block = frames.encode_read_response([[], [(LABELS, b"")], []])
    counts = [
        len(result.timeseries) for result in ReadResponse.FromString(decompressed(block)).results
    ]
    assert counts == [0, 1, 0]
    assert decompressed(frames.encode_read_response([])) == b""


def test_objects_without_bytes_are_refused_and_nothing_is_kept_of_the_others() -> None:
    held = bytearray(b"held")
    with pytest.raises(TypeError):
        _frames.encode_frames([held, "text"], [b"", b""], 0)  # type: ignore[list-item]
    held.clear()  # a buffer that is still exported could not be resized
