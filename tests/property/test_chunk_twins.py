"""The compiled chunk, frame and checksum code does what its twins do."""

import cramjam
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.model.staleness import STALE_BITS
from bridge.wire import _crc32c, _frames, _xor, remote_read_pb2
from bridge.wire.columns import F64Array, I64Array
from bridge.wire.frames import encode_read_response
from bridge.wire.twins import crc32c as crc_twin
from bridge.wire.twins import frames as frames_twin
from bridge.wire.twins import xor as xor_twin

INT64 = st.integers(-(2**63), 2**63 - 1)
STEPS = st.one_of(
    st.sampled_from([0, 15_000]),
    st.integers(-20, 20),
    st.sampled_from([8191, 8192, 8193, 65_535, 65_536, 65_537, 524_287, 524_288, 524_289]),
    st.integers(0, 2**40),
)
BITS = st.one_of(
    st.sampled_from([0, 1 << 63, STALE_BITS, 0x7FF8_0000_0000_0001, 0x7FF0_0000_0000_0000]),
    st.floats(width=16).map(lambda value: int(np.float64(value).view(np.uint64))),
    st.integers(0, 2**64 - 1),
)
Series = list[tuple[int, int]]


@st.composite
def regular_series(draw: st.DrawFn) -> Series:
    """Times a scrape apart, give or take what reaches every size of a delta of deltas."""
    at, step = draw(st.integers(-(2**40), 2**41)), 15_000
    rows = []
    for bits in draw(st.lists(BITS, max_size=40)):
        rows.append((at, bits))
        step = max(1, step + draw(STEPS) * draw(st.sampled_from([1, -1])))
        at += step
    return rows


@st.composite
def wild_series(draw: st.DrawFn) -> Series:
    times = sorted(draw(st.sets(INT64, max_size=20)))
    return [(time, draw(BITS)) for time in times]


# Times that go back and forth are nobody's, but they have an encoding all the same.
SERIES = st.one_of(regular_series(), wild_series(), st.lists(st.tuples(INT64, BITS), max_size=20))


def columns(series: list[Series]) -> tuple[I64Array, I64Array, F64Array]:
    offsets = np.cumsum([0, *map(len, series)], dtype=np.int64)
    times = np.array([row[0] for rows in series for row in rows], np.int64)
    bits = np.array([row[1] for rows in series for row in rows], np.uint64)
    return offsets, times, bits.view(np.float64)


@given(st.lists(SERIES, max_size=4), st.sampled_from([1, 2, 7, 120, 65_535]))
def test_encode_chunks_is_its_twin_and_both_decode_to_what_went_in(
    series: list[Series], samples_per_chunk: int
) -> None:
    offsets, times, values = columns(series)
    found = _xor.encode_chunks(offsets, times, values, samples_per_chunk)
    expected = xor_twin.encode_chunks(offsets, times, values, samples_per_chunk)
    assert found.data == expected.data
    assert found.offsets.tolist() == expected.offsets.tolist()
    for index, rows in enumerate(series):
        message = remote_read_pb2.ChunkedSeries.FromString(
            found.data[found.offsets[index] : found.offsets[index + 1]]
        )
        for decode in (_xor.decode_chunk, xor_twin.decode_chunk):
            back: Series = []
            for chunk in message.chunks:
                chunk_times, chunk_values = decode(chunk.data)
                assert (chunk.min_time_ms, chunk.max_time_ms) == (chunk_times[0], chunk_times[-1])
                bits = chunk_values.view(np.uint64).tolist()
                back += zip(chunk_times.tolist(), bits, strict=True)
            assert back == rows


def outcome(decode: object, data: bytes) -> object:
    try:
        times, values = decode(data)  # type: ignore[operator]
    except ValueError:
        return "refused"
    return times.tolist(), values.view(np.uint64).tolist()


@given(SERIES.filter(len), st.data())
def test_damaged_chunks_are_refused_as_the_twin_refuses_them(
    rows: Series, data: st.DataObject
) -> None:
    chunk = bytearray(xor_twin.encode_chunk([row[0] for row in rows], [row[1] for row in rows]))
    for _ in range(data.draw(st.integers(0, 3))):
        chunk[data.draw(st.integers(0, len(chunk) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    del chunk[data.draw(st.integers(0, len(chunk))) :]
    assert outcome(_xor.decode_chunk, bytes(chunk)) == outcome(xor_twin.decode_chunk, bytes(chunk))


@given(st.binary(max_size=60))
def test_garbage_is_no_chunk_or_the_same_to_both(data: bytes) -> None:
    assert outcome(_xor.decode_chunk, data) == outcome(xor_twin.decode_chunk, data)


def test_a_series_of_more_samples_than_a_chunk_counts_is_split() -> None:
    times = np.arange(70_000, dtype=np.int64) * 1000
    values = np.sin(times.astype(np.float64))
    encoded = _xor.encode_chunks(np.array([0, 70_000], np.int64), times, values, 65_535)
    chunks = remote_read_pb2.ChunkedSeries.FromString(encoded.data).chunks
    decoded = [_xor.decode_chunk(chunk.data) for chunk in chunks]
    assert [len(part[0]) for part in decoded] == [65_535, 4_465]
    assert np.concatenate([part[1] for part in decoded]).tobytes() == values.tobytes()


@pytest.mark.parametrize("offsets", [[0, 5], [3, 2], [-1, 2]])
def test_offsets_outside_of_the_columns_are_refused(offsets: list[int]) -> None:
    zeros = np.zeros(4, np.int64)
    bounds = np.array(offsets, np.int64)
    with pytest.raises(ValueError, match="offsets"):
        _xor.encode_chunks(bounds, zeros, zeros.view(np.float64), 120)
    with pytest.raises(ValueError, match="offsets"):
        _frames.encode_samples(bounds, zeros, zeros.view(np.float64))


@given(st.lists(SERIES, max_size=3))
def test_encode_samples_is_its_twin(series: list[Series]) -> None:
    found = _frames.encode_samples(*columns(series))
    expected = frames_twin.encode_samples(*columns(series))
    assert found.data == expected.data
    assert found.offsets.tolist() == expected.offsets.tolist()


LABELS = st.lists(st.tuples(st.text(min_size=1, max_size=9), st.text(max_size=300)), max_size=4)


def label_bytes(labels: list[tuple[str, str]]) -> bytes:
    message = remote_read_pb2.TimeSeries()
    for name, value in labels:
        message.labels.add(name=name, value=value)
    return message.SerializeToString()


@given(st.lists(st.tuples(LABELS, SERIES), max_size=3), st.sampled_from([0, 1, 300]))
def test_encode_frames_is_its_twin(
    series: list[tuple[list[tuple[str, str]], Series]], query_index: int
) -> None:
    labels = [label_bytes(one) for one, _ in series]
    encoded = _xor.encode_chunks(*columns([rows for _, rows in series]), 120)
    chunks = [
        memoryview(encoded.data)[first:last]
        for first, last in zip(encoded.offsets, encoded.offsets[1:], strict=False)
    ]
    found = _frames.encode_frames(labels, chunks, query_index)
    assert found == frames_twin.encode_frames(labels, chunks, query_index)


@given(st.lists(st.lists(st.tuples(LABELS, SERIES), max_size=3), max_size=3))
def test_a_samples_answer_is_one_snappy_block_of_the_whole_message(
    results: list[list[tuple[list[tuple[str, str]], Series]]],
) -> None:
    expected = remote_read_pb2.ReadResponse()
    given_parts = []
    for series in results:
        result = expected.results.add()
        parts: list[tuple[bytes, bytes | memoryview]] = []
        for labels, rows in series:
            samples = _frames.encode_samples(*columns([rows])).data
            result.timeseries.append(
                remote_read_pb2.TimeSeries.FromString(label_bytes(labels) + samples)
            )
            parts.append((label_bytes(labels), samples))
        given_parts.append(parts)
    block = encode_read_response(given_parts)
    assert bytes(cramjam.snappy.decompress_raw(block)) == expected.SerializeToString()


def test_a_samples_answer_of_many_pieces_is_one_snappy_block() -> None:
    times = np.arange(400_000, dtype=np.int64) + 1_700_000_000_000
    samples = _frames.encode_samples(
        np.array([0, 400_000], np.int64), times, np.sqrt(times.astype(np.float64))
    ).data
    block = encode_read_response([[(label_bytes([("a", "b")]), samples)]] * 3)
    message = remote_read_pb2.ReadResponse.FromString(bytes(cramjam.snappy.decompress_raw(block)))
    assert [len(result.timeseries[0].samples) for result in message.results] == [400_000] * 3


@given(st.binary(max_size=200), st.integers(0, 2**32 - 1))
def test_crc32c_is_its_twin_by_processor_and_by_table(data: bytes, crc: int) -> None:
    expected = crc_twin.crc32c(data, crc)
    assert _crc32c.crc32c(data, crc) == expected
    assert _crc32c.crc32c_by_table(data, crc) == expected


def test_crc32c_of_large_data_goes_on_from_a_part() -> None:
    data = bytes(range(256)) * 100
    assert _crc32c.crc32c(data) == _crc32c.crc32c(data[5000:], _crc32c.crc32c(data[:5000]))
    assert _crc32c.crc32c(data) == _crc32c.crc32c_by_table(data)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"123456789", 0xE306_9283),
        (bytes(32), 0x8A91_36AA),
        (b"\xff" * 32, 0x62A8_AB43),
        (bytes(range(32)), 0x46DD_794E),
    ],
)
def test_crc32c_of_the_published_vectors(data: bytes, expected: int) -> None:
    """RFC 3720, appendix B.4."""
    assert _crc32c.crc32c(data) == expected
    assert crc_twin.crc32c(data) == expected
