"""XOR chunks against those of a real Prometheus, and against damage."""

from itertools import pairwise
from types import ModuleType

import numpy as np
import pytest

from bridge.model.staleness import STALE_BITS
from bridge.wire import _xor
from bridge.wire.remote_read_pb2 import Chunk, ChunkedSeries
from bridge.wire.twins import xor as twin
from tests.oracle.recorded_reads import NAMES, recorded_series
from tests.oracle.tsdb import Sample

IMPLEMENTATIONS = pytest.mark.parametrize("xor", [_xor, twin], ids=["compiled", "twin"])
CHUNKS = [
    pytest.param(chunk, id=f"{series.name}-{index}")
    for name in NAMES
    for series in recorded_series(name)
    for index, chunk in enumerate(series.chunked.chunks)
]
HOUR_MS = 3_600_000


def decoded(xor: ModuleType, chunk: Chunk) -> list[Sample]:
    times, values = xor.decode_chunk(chunk.data)
    return list(zip(times.tolist(), values.view(np.uint64).tolist(), strict=True))


def encoded(xor: ModuleType, samples: list[Sample], per_chunk: int = 65_535) -> list[Chunk]:
    times = np.array([sample[0] for sample in samples], np.int64)
    values = np.array([sample[1] for sample in samples], np.uint64).view(np.float64)
    offsets = np.array([0, len(samples)], np.int64)
    found = xor.encode_chunks(offsets, times, values, per_chunk)
    assert found.offsets.tolist() == [0, len(found.data)]
    return list(ChunkedSeries.FromString(found.data).chunks)


@IMPLEMENTATIONS
@pytest.mark.parametrize("chunk", CHUNKS)
def test_a_chunk_of_prometheus_is_encoded_to_the_same_bytes(xor: ModuleType, chunk: Chunk) -> None:
    samples = decoded(xor, chunk)
    found = xor.encode_chunks(
        np.array([0, len(samples)], np.int64), *xor.decode_chunk(chunk.data), 65_535
    )
    assert found.data == ChunkedSeries(chunks=[chunk]).SerializeToString()


@IMPLEMENTATIONS
@pytest.mark.parametrize("name", NAMES)
def test_chunks_of_prometheus_hold_what_it_answers_plain(xor: ModuleType, name: str) -> None:
    for series in recorded_series(name):
        samples = [sample for chunk in series.chunked.chunks for sample in decoded(xor, chunk)]
        # Plain, Prometheus leaves out a value that equals 0, so that the sign gets lost.
        unsigned = [(time, 0 if bits == 1 << 63 else bits) for time, bits in samples]
        assert unsigned == series.samples


def test_the_recorded_values_are_the_difficult_ones() -> None:
    (special,) = (series for series in recorded_series("now") if series.name == "special")
    bits = [bits for chunk in special.chunked.chunks for _, bits in decoded(_xor, chunk)]
    assert bits.count(STALE_BITS) == 2
    assert {1 << 63, 0x7FF0 << 48, 0xFFF0 << 48, 0x7FF4DEADBEEF0001} < set(bits)


@IMPLEMENTATIONS
@pytest.mark.parametrize("chunk", CHUNKS)
def test_every_shorter_chunk_is_refused(xor: ModuleType, chunk: Chunk) -> None:
    lengths = range(len(chunk.data)) if xor is _xor else (0, 1, 2, 9, len(chunk.data) - 1)
    for length in lengths:
        with pytest.raises(ValueError, match="chunk"):
            xor.decode_chunk(chunk.data[:length])


@pytest.mark.parametrize("chunk", CHUNKS)
def test_every_flipped_bit_is_refused_or_decodes_to_as_many_samples(chunk: Chunk) -> None:
    for place in range(16, 8 * len(chunk.data)):
        flipped = bytearray(chunk.data)
        flipped[place // 8] ^= 0x80 >> place % 8
        try:
            times, values = _xor.decode_chunk(flipped)
        except ValueError:
            continue
        assert len(times) == len(values) == int.from_bytes(chunk.data[:2], "big")


@IMPLEMENTATIONS
def test_a_chunk_is_spelled_as_documented(xor: ModuleType) -> None:
    samples = [(1000, 0), (1015, 0x3FF << 52), (1030, 0x3FF << 52), (1046, 0x3FE << 52)]
    bits = "".join(
        [
            f"{4:016b}",
            f"{2000 & 127 | 128:08b}{2000 >> 7:08b}" + "0" * 64,
            f"{15:08b}" + "11" + "00010" + "001010" + "1" * 10,
            "0" + "0",
            "10" + f"{1:014b}" + "10" + "0000000001",
        ]
    )
    (chunk,) = encoded(xor, samples)
    assert "".join(f"{byte:08b}" for byte in chunk.data).rstrip("0") == bits
    assert (chunk.min_time_ms, chunk.max_time_ms, chunk.type) == (1000, 1046, Chunk.XOR)
    assert decoded(xor, chunk) == samples


@IMPLEMENTATIONS
def test_no_samples_are_no_chunk_but_a_chunk_of_none_is_legal(xor: ModuleType) -> None:
    assert encoded(xor, []) == []
    times, values = xor.decode_chunk(b"\0\0")
    assert (times.dtype, values.dtype, len(times), len(values)) == (np.int64, np.float64, 0, 0)


@IMPLEMENTATIONS
def test_chunks_are_full_but_the_last_and_ascend_without_overlap(xor: ModuleType) -> None:
    samples = [(time, time) for time in range(0, 25 * HOUR_MS, HOUR_MS)]
    chunks = encoded(xor, samples, per_chunk=10)
    assert [len(decoded(xor, chunk)) for chunk in chunks] == [10, 10, 5]
    assert [sample for chunk in chunks for sample in decoded(xor, chunk)] == samples
    assert all(left.max_time_ms < right.min_time_ms for left, right in pairwise(chunks))
    assert chunks[-1].max_time_ms == samples[-1][0]


@IMPLEMENTATIONS
@pytest.mark.parametrize("per_chunk", [-1, 0, 65_536])
def test_a_chunk_counts_at_most_16_bits(xor: ModuleType, per_chunk: int) -> None:
    with pytest.raises(ValueError, match="1 to 65535"):
        encoded(xor, [(1, 2)], per_chunk)


@IMPLEMENTATIONS
def test_only_rows_within_the_offsets_are_encoded(xor: ModuleType) -> None:
    times = np.arange(6, dtype=np.int64) + 7
    values = times.astype(np.float64)
    found = xor.encode_chunks(np.array([1, 3, 3, 5], np.int64), times, values, 120)
    parts = [found.data[begin:end] for begin, end in pairwise(found.offsets.tolist())]
    chunks = [ChunkedSeries.FromString(part).chunks for part in parts]
    assert [[(chunk.min_time_ms, chunk.max_time_ms) for chunk in one] for one in chunks] == [
        [(8, 9)],
        [],
        [(10, 11)],
    ]


@IMPLEMENTATIONS
def test_what_stands_in_a_longer_buffer_is_decoded_in_place(xor: ModuleType) -> None:
    (chunk,) = encoded(xor, [(5, 6), (7, 8)])
    view = memoryview(b"head" + chunk.data)[4:]
    assert xor.decode_chunk(view)[0].tolist() == [5, 7]
    assert xor.decode_chunk(bytearray(chunk.data))[0].tolist() == [5, 7]
