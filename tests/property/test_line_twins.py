"""The compiled line protocol against its Python twin."""

import math
import struct

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bridge.wire import _lines
from bridge.wire.decoded import LabelRows
from bridge.wire.twins import lines as twin

# What means something to InfluxDB, and what does not.
CHARACTERS = st.one_of(
    st.sampled_from([*"abc,= \"\\\n\t\r\0#_'", "\u00e9", "\u4e16", "\U0001f600"]),
    st.characters(exclude_categories=["Cs"]),
)
TEXTS = st.text(CHARACTERS, min_size=1, max_size=12).map(str.encode)
NAMES = st.one_of(
    TEXTS,
    st.sampled_from(
        [b"time", b"_time", b"_field", b"_measurement", b"_value", b"_start", b"_stop", b"\0", b"x"]
    ),
).filter(lambda name: name != b"__name__")
LABELS = st.builds(
    lambda metric, others: sorted([*others.items(), (b"__name__", metric)]),
    st.one_of(TEXTS, st.just(b"time")),
    st.dictionaries(NAMES, TEXTS, max_size=5),
)
REPLICAS = [b"", b"a", b"b\\", b"c d"]
VALUES = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False),
    st.integers(-(2**63), 2**63).map(float),
    st.integers(0, 2**52).map(lambda number: number / 1000),
    st.integers(0, 2**64 - 1)
    .map(lambda bits: float(struct.unpack("<d", struct.pack("<Q", bits))[0]))
    .filter(math.isfinite),
)


def label_rows(sets: list[list[tuple[bytes, bytes]]]) -> LabelRows:
    names = [name for labels in sets for name, _ in labels]
    texts = [value for labels in sets for _, value in labels]
    return LabelRows(
        np.cumsum([0, *map(len, sets)], dtype=np.int32),
        np.cumsum([0, *map(len, names)], dtype=np.int32),
        b"".join(names),
        np.cumsum([0, *map(len, texts)], dtype=np.int32),
        b"".join(texts),
    )


@given(
    st.lists(st.tuples(LABELS, st.integers(0, len(REPLICAS) - 1)), max_size=6),
    st.sampled_from([None, b"prometheus"]),
)
def test_compiled_prefixes_are_those_of_the_twin(
    series: list[tuple[list[tuple[bytes, bytes]], int]], measurement: bytes | None
) -> None:
    rows = label_rows([labels for labels, _ in series])
    replica_ids = np.array([replica for _, replica in series], np.uint32)

    compiled = _lines.encode_prefixes(rows, replica_ids, REPLICAS, b"__replica__", measurement)
    expected = twin.encode_prefixes(rows, replica_ids, REPLICAS, b"__replica__", measurement)

    assert compiled.data == expected.data
    assert compiled.offsets.tolist() == expected.offsets.tolist()


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(-(2**63), 2**63 - 1), VALUES)))
@example(
    [(0, 0, value) for value in (0.0, -0.0, 5e-324, 2.2250738585072014e-308, 1e15, 1e22, 1e23)]
)
@example([(0, 0, value) for value in (1.7976931348623157e308, -1e14, 2.0**53 + 2, 1e-7, 100000.5)])
def test_compiled_lines_are_those_of_the_twin(rows: list[tuple[int, int, float]]) -> None:
    prefixes = np.frombuffer(b"a value=other,b=c value=", np.uint8)
    starts, ends = np.array([0, 8, 3], np.int64), np.array([8, 24, 3], np.int64)
    refs = np.array([ref for ref, _, _ in rows], np.uint32)
    timestamps_ms = np.array([timestamp_ms for _, timestamp_ms, _ in rows], np.int64)
    values = np.array([value for _, _, value in rows], np.float64)

    compiled = _lines.encode_lines(prefixes, starts, ends, refs, timestamps_ms, values)
    expected = twin.encode_lines(prefixes, starts, ends, refs, timestamps_ms, values)

    assert compiled.data == expected.data
    assert compiled.offsets.tolist() == expected.offsets.tolist()


@given(VALUES)
def test_a_written_number_is_read_back_bit_by_bit(value: float) -> None:
    zeros, ends = np.zeros(1, np.int64), np.zeros(1, np.int64)
    line = _lines.encode_lines(
        np.empty(0, np.uint8), zeros, ends, np.zeros(1, np.uint32), zeros, np.array([value])
    ).data
    text, rest = line.split(b" ")

    assert struct.pack("<d", float(text)) == struct.pack("<d", value)
    assert rest == b"0\n"


@pytest.mark.parametrize("encode", [_lines.encode_lines, twin.encode_lines])
@pytest.mark.parametrize(
    ("prefix_bytes", "starts", "ends", "refs", "values"),
    [
        (4, [0], [4], [1], [1.0]),
        (4, [0], [5], [0], [1.0]),
        (4, [-1], [4], [0], [1.0]),
        (4, [3], [2], [0], [1.0]),
        (4, [0], [4, 4], [0], [1.0]),
        (4, [0], [4], [0], [1.0, 2.0]),
        (4, [0], [4], [0], [math.nan]),
        (4, [0], [4], [0], [-math.inf]),
    ],
)
def test_lines_that_would_leave_their_buffers_or_cannot_be_written_are_refused(
    encode: "object",
    prefix_bytes: int,
    starts: list[int],
    ends: list[int],
    refs: list[int],
    values: list[float],
) -> None:
    assert callable(encode)
    with pytest.raises(ValueError, match=r"columns|prefix|written"):
        encode(
            np.zeros(prefix_bytes, np.uint8),
            np.array(starts, np.int64),
            np.array(ends, np.int64),
            np.array(refs, np.uint32),
            np.zeros(len(refs), np.int64),
            np.array(values, np.float64),
        )


@pytest.mark.parametrize("encode", [_lines.encode_prefixes, twin.encode_prefixes])
@pytest.mark.parametrize("damage", ["labels", "names", "values", "replica", "no name", "lengths"])
def test_prefixes_of_damaged_columns_are_refused(encode: "object", damage: str) -> None:
    assert callable(encode)
    rows = label_rows([[(b"__name__", b"up"), (b"job", b"a")]])
    replica_ids = np.zeros(1, np.uint32)
    if damage == "labels":
        rows.label_offsets[1] = 3
    elif damage == "names":
        rows.name_offsets[2] = len(rows.name_bytes) + 1
    elif damage == "values":
        rows.value_offsets[1] = -1
    elif damage == "replica":
        replica_ids[0] = 1
    elif damage == "no name":
        rows = label_rows([[(b"job", b"a")]])
    else:
        replica_ids = np.zeros(2, np.uint32)
    with pytest.raises(ValueError, match=r"offsets|replica|__name__|columns"):
        encode(rows, replica_ids, [b""], b"__replica__", None)
