"""The compiled registry and decoder do what their twins do, on good bodies and broken ones."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bridge.errors import PrombridgeError
from bridge.wire import _series
from bridge.wire.columns import U32Array
from bridge.wire.decoded import TIMESTAMP_MS_MAX, TIMESTAMP_MS_MIN, Decoded, Limits
from bridge.wire.twins import series as twin
from tests.oracle import raw_protobuf as raw

Registry = _series.SeriesRegistry | twin.SeriesRegistry

RECEIVE_MS = 1_700_000_000_000
GARBAGE = 0x5A5A_5A5A
NAMES = [b"__name__", b"a", b"b", b"ab", b"replica", b"", b"\xc3\xa9", b"\xff", b"a\0", b"n" * 30]
VALUES = [b"", b"up", b"x", b"y", b"\xe2\x82\xac", b"\xed\xa0\x80", b"\xc0\x80", b"v" * 40, b"z\0"]
TIMES = st.one_of(
    st.integers(RECEIVE_MS - 100, RECEIVE_MS + 900),
    st.integers(RECEIVE_MS - 100, RECEIVE_MS + 1100),
    st.sampled_from([0, 1, TIMESTAMP_MS_MIN - 1, TIMESTAMP_MS_MIN, TIMESTAMP_MS_MAX]),
    st.sampled_from([TIMESTAMP_MS_MAX + 1, 2**63 - 1, -(2**63), -1]),
)
BITS = st.one_of(
    st.sampled_from([0, 1 << 63, 0x7FF0_0000_0000_0002, 0x7FF8_0000_0000_0001, 0x3FF << 52]),
    st.integers(0, 2**64 - 1),
)
PADDING = st.sampled_from([0, 0, 0, 0, 0, 1, 2, 5])
UNKNOWN = st.one_of(
    st.builds(raw.integer, st.integers(7, 40), st.integers(0, 2**64 - 1), PADDING),
    st.builds(raw.double_bits, st.integers(7, 20), BITS),
    st.builds(raw.message, st.integers(7, 300), st.binary(max_size=6), PADDING),
    st.builds(lambda number: raw.tag(number, 5) + b"1234", st.integers(7, 20)),
)
STRANGE = st.one_of(
    UNKNOWN,
    st.builds(raw.integer, st.integers(1, 6), st.integers(0, 300)),  # another wire type, perhaps
    st.builds(raw.message, st.integers(1, 6), st.binary(max_size=8)),
    st.builds(raw.double_bits, st.integers(1, 6), BITS),
    st.builds(lambda number: raw.tag(number, 3) + raw.tag(number, 4), st.integers(1, 9)),
    st.sampled_from([b"\x00", b"\x80", b"\x07", b"\x0e\x00", b"\xff" * 11, b"\x8a\x00\x00"]),
)
LIMITS = st.sampled_from(
    [
        Limits(),
        Limits(),
        Limits(),
        Limits(),
        Limits(future_ms_max=1000),
        Limits(series_count_max=2, future_ms_max=1000),
        Limits(label_count_max=2),
        Limits(label_name_bytes_max=4),
        Limits(label_value_bytes_max=4),
        Limits(series_bytes_max=14),
        Limits(sample_count_max=2),
        Limits(sample_count_max=0),
    ]
)


@dataclass
class Request:
    """One body and what it is decoded with."""

    version: int
    body: bytes
    limits: Limits
    capacity: int = 64
    offset: int = 3


@dataclass
class Outcome:
    """What decoding did, comparable."""

    error: type[Exception] | None
    decoded: Decoded | None
    rows: list[list[int]]


@st.composite
def with_strange(draw: st.DrawFn, parts: st.SearchStrategy[list[bytes]]) -> bytes:
    """Fields one after another, now and then in disorder, unknown ones or worse among them."""
    fields = draw(parts)
    kind = draw(st.integers(0, 29))
    if kind >= 25:
        fields = [*fields, *draw(st.lists(STRANGE if kind == 29 else UNKNOWN, max_size=2))]
        fields = draw(st.permutations(fields))
    return b"".join(fields)


LABEL_CONTENTS = with_strange(
    st.one_of(
        st.tuples(
            st.sampled_from(NAMES).map(lambda text: raw.message(1, text)),
            st.sampled_from(VALUES).map(lambda text: raw.message(2, text)),
        ).map(list),
        st.lists(st.builds(raw.message, st.integers(1, 2), st.sampled_from(VALUES)), max_size=3),
    )
)
NAME_LABEL = st.builds(raw.label, st.just(b"__name__"), st.sampled_from([b"up", b"up", b"x", b""]))
GOOD_LABELS = st.dictionaries(
    st.sampled_from([b"a", b"b", b"ab", b"replica", b"n" * 30]),
    st.sampled_from([b"", b"x", b"y", b"x", b"y", b"\xe2\x82\xac", b"v" * 40, b"z\0", b"\xc0\x80"]),
    max_size=5,
).map(lambda labels: [raw.label(name, value) for name, value in labels.items()])
LABELS = st.one_of(
    st.tuples(NAME_LABEL, GOOD_LABELS).map(lambda two: [two[0], *two[1]]),
    st.tuples(GOOD_LABELS, NAME_LABEL).map(lambda both: [*both[0], both[1]]),
    st.tuples(GOOD_LABELS, NAME_LABEL).map(lambda both: [both[1], *both[0]]),
    st.lists(st.builds(raw.message, st.just(1), LABEL_CONTENTS, PADDING), max_size=4),
)
SAMPLE_CONTENTS = with_strange(
    st.tuples(
        BITS.map(lambda bits: raw.double_bits(1, bits)), TIMES.map(lambda at: raw.integer(2, at))
    ).map(list)
)
SAMPLE_V1 = st.one_of(
    st.builds(raw.sample, st.integers(RECEIVE_MS - 9, RECEIVE_MS), BITS),
    st.builds(raw.sample, TIMES, BITS),
    st.builds(raw.message, st.just(2), SAMPLE_CONTENTS, PADDING),
)
SAMPLES_V1 = st.one_of(
    SAMPLE_V1.map(lambda one: [one]),
    SAMPLE_V1.map(lambda one: [one]),
    st.lists(SAMPLE_V1, max_size=3),
)
ATTACHED_V1 = st.lists(
    st.one_of(
        st.builds(raw.message, st.just(3), st.binary(max_size=3)),
        st.builds(raw.message, st.just(4), st.binary(max_size=3)),
    ),
    max_size=1,
)
SERIES_V1 = with_strange(
    st.tuples(LABELS, SAMPLES_V1, ATTACHED_V1).map(lambda three: [*three[0], *three[1], *three[2]])
)
METADATA_V1 = with_strange(
    st.tuples(
        st.builds(raw.integer, st.just(1), st.integers(0, 2**33)),
        st.builds(raw.message, st.just(2), st.sampled_from(VALUES)),
        st.builds(raw.message, st.just(4), st.sampled_from(VALUES)),
        st.builds(raw.message, st.just(5), st.sampled_from(VALUES)),
    ).map(list)
)
BODY_V1 = with_strange(
    st.lists(
        st.one_of(
            st.builds(raw.message, st.just(1), SERIES_V1),
            st.builds(raw.message, st.just(1), SERIES_V1),
            st.builds(raw.message, st.just(1), SERIES_V1, PADDING),
            st.builds(raw.message, st.just(3), METADATA_V1),
        ),
        min_size=1,
        max_size=6,
    )
)

SYMBOLS = [b"", b"__name__", b"up", b"a", b"x", b"b", b"\xff", b"replica", b"r0", b"n" * 30, b"x"]
REF = st.one_of(st.integers(0, len(SYMBOLS) - 1), st.sampled_from([2, 11, 12, 200, 2**32, 2**40]))
GOOD_REFS = st.lists(
    st.sampled_from([(3, 4), (3, 2), (5, 4), (7, 8), (3, 0), (9, 4)]), max_size=3, unique=True
).map(lambda pairs: [1, 2, *(ref for pair in pairs for ref in pair)])
REFS = st.one_of(GOOD_REFS, GOOD_REFS, st.lists(REF, max_size=6))
LABEL_REFS = st.one_of(
    REFS.map(lambda refs: [raw.message(1, b"".join(map(raw.varint, refs)))]),
    REFS.map(lambda refs: [raw.integer(1, ref, 1) for ref in refs]),
    REFS.map(
        lambda refs: [
            raw.message(1, b"".join(map(raw.varint, refs[:2]))),
            raw.message(1, b"".join(map(raw.varint, refs[2:]))),
        ]
    ),
)
SAMPLE_V2 = st.one_of(
    st.builds(raw.sample, st.integers(RECEIVE_MS - 9, RECEIVE_MS), BITS),
    st.builds(raw.sample, TIMES, BITS, st.one_of(st.none(), TIMES)),
)
SAMPLES_V2 = st.one_of(SAMPLE_V2.map(lambda one: [one]), st.lists(SAMPLE_V2, max_size=3))
METADATA_V2 = with_strange(
    st.tuples(
        st.builds(raw.integer, st.just(1), st.integers(0, 3)),
        st.builds(raw.integer, st.just(3), REF),
        st.builds(raw.integer, st.just(4), REF),
    ).map(list)
)
ATTACHED_V2 = st.lists(
    st.one_of(
        st.builds(raw.message, st.just(3), st.binary(max_size=3)),
        st.builds(raw.message, st.just(4), st.binary(max_size=3)),
        st.builds(raw.message, st.just(5), METADATA_V2),
        st.builds(raw.integer, st.just(6), TIMES),
    ),
    max_size=2,
)
SERIES_V2 = with_strange(
    st.tuples(LABEL_REFS, SAMPLES_V2, ATTACHED_V2).map(
        lambda three: [*three[0], *three[1], *three[2]]
    )
)
BODY_V2 = with_strange(
    st.tuples(
        st.just([raw.message(4, symbol) for symbol in SYMBOLS]),
        st.lists(st.builds(raw.message, st.just(5), SERIES_V2), min_size=1, max_size=5),
    ).map(lambda two: [*two[0], *two[1]])
)


def mutated(bodies: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """Bodies cut off, with bits flipped, with bytes put in or taken out."""

    def mutate(drawn: tuple[bytes, list[tuple[int, int, int]]]) -> bytes:
        body = bytearray(drawn[0])
        for kind, at, what in drawn[1]:
            place = at % (len(body) + 1)
            if kind == 0:
                del body[place:]
            elif kind == 1 and place < len(body):
                body[place] ^= 1 << what % 8
            elif kind == 2:
                body.insert(place, what)
            elif place < len(body):
                del body[place]
        return bytes(body)

    edits = st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 500), st.integers(0, 255)), max_size=3
    )
    return st.one_of(bodies, bodies, st.tuples(bodies, edits).map(mutate))


REQUESTS = st.one_of(
    st.builds(Request, st.just(1), mutated(BODY_V1), LIMITS, st.sampled_from([64, 64, 4, 3])),
    st.builds(Request, st.just(2), mutated(BODY_V2), LIMITS, st.sampled_from([64, 64, 4, 3])),
    st.builds(Request, st.integers(1, 2), st.binary(max_size=40), st.just(Limits())),
)


def run(registry: Registry, request: Request, refused: U32Array | None = None) -> Outcome:
    """Decodes one body; rows are compared bit by bit, those behind them must not be touched."""
    refs = np.full(request.capacity, GARBAGE, np.uint32)
    timestamps_ms = np.full(request.capacity, GARBAGE, np.int64)
    values = np.full(request.capacity, GARBAGE, np.uint64)
    starts_ms = np.full(request.capacity, GARBAGE, np.int64)
    decode = registry.decode_v1 if request.version == 1 else registry.decode_v2
    try:
        decoded = decode(
            request.body,
            request.limits,
            RECEIVE_MS,
            refused,
            refs,
            timestamps_ms,
            values.view(np.float64),
            starts_ms,
            request.offset,
        )
    except PrombridgeError as error:
        return Outcome(type(error), None, [])
    end = request.offset + decoded.sample_count
    columns: list[NDArray[Any]] = [refs, timestamps_ms, values, starts_ms]
    assert all(column[: request.offset].tolist() == [GARBAGE] * 3 for column in columns)
    return Outcome(None, decoded, [column[request.offset : end].tolist() for column in columns])


def content(registry: Registry) -> list[object]:
    """Everything that a registry knows."""
    pairs = np.arange(registry.pair_count, dtype=np.uint32)
    return [
        len(registry),
        registry.series_ids().tolist(),
        registry.metric_ids().tolist(),
        registry.replica_ids().tolist(),
        registry.replicas(),
        registry.pair_texts(pairs),
        registry.metric_pairs().tolist(),
        [part.tolist() for part in registry.select(None)],
    ]


def assert_same(left: Outcome, right: Outcome) -> None:
    assert left.error == right.error
    assert left.rows == right.rows
    if left.decoded is None or right.decoded is None:
        return
    one, other = asdict(left.decoded), asdict(right.decoded)
    assert one.pop("refused").tolist() == other.pop("refused").tolist()
    assert one == other


def both() -> tuple[Registry, Registry]:
    return _series.SeriesRegistry((b"replica",), seed=3), twin.SeriesRegistry((b"replica",), seed=3)


def series_v1(*labels: bytes, after: bytes = b"") -> bytes:
    return raw.message(1, b"".join(labels) + after)


UP = raw.label(b"__name__", b"up")
GOOD_SAMPLE = raw.sample(RECEIVE_MS, 0x3FF << 52)
# The last 18 bytes look like a sample, but are the end of a label's value.
MISLEADING = series_v1(UP, raw.label(b"a", GOOD_SAMPLE))


@example([Request(1, MISLEADING, Limits())])
@example([Request(1, series_v1(GOOD_SAMPLE, UP, GOOD_SAMPLE) * 2, Limits())])
@example([Request(1, series_v1(UP, GOOD_SAMPLE, raw.label(b"a", b"x"), GOOD_SAMPLE), Limits())])
@example([Request(1, series_v1(UP, raw.sample(RECEIVE_MS, 0)) * 3, Limits())] * 2)
@example([Request(1, series_v1(UP, GOOD_SAMPLE, GOOD_SAMPLE) * 2, Limits(sample_count_max=3))])
@settings(deadline=None)
@given(st.lists(REQUESTS, min_size=1, max_size=3))
def test_decoding_is_its_twin(requests: list[Request]) -> None:
    compiled, obvious = both()
    for request in requests:
        assert_same(run(compiled, request), run(obvious, request))
        assert content(compiled) == content(obvious)


@settings(deadline=None)
@given(REQUESTS)
def test_a_failed_body_registers_nothing(request: Request) -> None:
    compiled, _ = both()
    before = content(compiled)
    if run(compiled, request).error:
        assert content(compiled) == before


def named_rows(registry: Registry, outcome: Outcome) -> list[tuple[bytes, list[int]]]:
    refs, *columns = outcome.rows
    texts = registry.label_bytes(np.array(refs, np.uint32))
    return [(text, list(row)) for text, *row in zip(texts, *columns, strict=True)]


@pytest.mark.parametrize("make", [_series.SeriesRegistry, twin.SeriesRegistry])
@settings(deadline=None)
@given(st.lists(REQUESTS, min_size=1, max_size=3))
def test_a_replay_gives_the_rows_of_the_receipt(
    make: Callable[[Sequence[bytes]], Registry], requests: list[Request]
) -> None:
    received, replayed = make((b"replica",)), make((b"replica",))
    for request in requests:
        receipt = run(received, request)
        if receipt.decoded is None:
            continue
        again = run(replayed, request, receipt.decoded.refused)
        assert again.decoded is not None
        assert named_rows(replayed, again) == named_rows(received, receipt)
        assert again.decoded.refused.tolist() == receipt.decoded.refused.tolist()
        assert again.decoded.sample_seen == receipt.decoded.sample_seen
    assert content(replayed) == content(received)


@settings(deadline=None)
@given(st.lists(REQUESTS, min_size=1, max_size=3), st.lists(st.integers(0, 1), max_size=8))
def test_what_is_made_of_a_registry_is_its_twin(requests: list[Request], keep: list[int]) -> None:
    compiled, obvious = both()
    for request in requests:
        run(compiled, request)
        run(obvious, request)
    refs = np.arange(len(compiled), dtype=np.uint32)[::-1].copy()
    assert compiled.label_bytes(refs) == obvious.label_bytes(refs)
    for stripped in ([], [b"a", b"ab"]):
        assert compiled.sort_keys(refs, stripped) == obvious.sort_keys(refs, stripped)
    rows, other_rows = compiled.label_rows(refs), obvious.label_rows(refs)
    assert rows.name_bytes == other_rows.name_bytes
    assert rows.value_bytes == other_rows.value_bytes
    assert rows.label_offsets.tolist() == other_rows.label_offsets.tolist()
    assert rows.name_offsets.tolist() == other_rows.name_offsets.tolist()
    assert rows.value_offsets.tolist() == other_rows.value_offsets.tolist()
    metrics = compiled.metric_pairs()[::2].copy()
    assert [part.tolist() for part in compiled.select(metrics)] == [
        part.tolist() for part in obvious.select(metrics)
    ]

    kept = np.array(keep, np.uint8)
    small, remap = compiled.compacted(kept)
    other_small, other_remap = obvious.compacted(kept)
    assert remap.tolist() == other_remap.tolist()
    assert content(small) == content(other_small)
    for request in requests:  # the copy goes on as the original would
        assert_same(run(small, request), run(other_small, request))
    assert content(small) == content(other_small)


@settings(deadline=None)
@given(st.lists(REQUESTS, min_size=1, max_size=3))
def test_rows_of_the_series_table_are_read_back_by_both(requests: list[Request]) -> None:
    source, _ = both()
    for request in requests:
        run(source, request)
    refs = np.arange(len(source), dtype=np.uint32)
    rows = source.label_rows(refs)
    ids = source.series_ids()
    for registry in both():
        for _ in range(2):
            got = registry.add_rows(
                ids,
                rows.label_offsets,
                rows.name_offsets,
                rows.name_bytes,
                rows.value_offsets,
                rows.value_bytes,
            )
            assert registry.series_ids(got).tolist() == ids.tolist()
            assert registry.label_bytes(got) == source.label_bytes(refs)
            assert len(registry) == len(set(source.label_bytes(refs)))
