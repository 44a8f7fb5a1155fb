"""Remote-write bodies into rows: what is kept, what is refused, what is said about it."""

import itertools

import numpy as np
import pytest

from bridge.errors import CorruptBody, RowsFull, TooManySamples
from bridge.wire import _series
from bridge.wire.decoded import TIMESTAMP_MS_MAX, TIMESTAMP_MS_MIN, Limits, MetadataEntry
from bridge.wire.rejections import REASONS, describe_rejection
from tests.oracle import raw_protobuf as raw
from tests.oracle.registries import KINDS, RECEIVE_MS, Registry, write

ONE = 0x3FF << 52
STALE = 0x7FF0_0000_0000_0002
UP = raw.label(b"__name__", b"up")
SAMPLE = raw.sample(RECEIVE_MS, ONE)
SYMBOLS = b"".join(
    raw.message(4, symbol) for symbol in (b"", b"__name__", b"up", b"a", b"x", b"help", b"unit")
)
UP_REFS = raw.message(1, b"\1\2")


@pytest.fixture(params=KINDS, ids=["compiled", "twin"])
def registry(request: pytest.FixtureRequest) -> Registry:
    made: Registry = request.param((b"replica",), seed=5)
    return made


def series_v1(*fields: bytes) -> bytes:
    return raw.message(1, b"".join(fields))


def series_v2(*fields: bytes) -> bytes:
    return raw.message(5, b"".join(fields))


def test_bits_of_values_survive(registry: Registry) -> None:
    patterns = [
        0,
        1 << 63,
        ONE,
        STALE,
        STALE | 1 << 63,
        0x7FF8_0000_0000_0001,
        0x7FF0_DEAD_BEEF_0001,
    ]
    body = b"".join(series_v1(UP, raw.sample(RECEIVE_MS, bits)) for bits in patterns)
    for _ in range(2):  # once by the slow way, once by the fast one
        assert [row[2] for row in write(registry, 1, body).rows] == patterns
    body = SYMBOLS + b"".join(series_v2(UP_REFS, raw.sample(RECEIVE_MS, bits)) for bits in patterns)
    assert [row[2] for row in write(registry, 2, body).rows] == patterns


def test_good_samples_of_a_bad_request_are_kept_in_order(registry: Registry) -> None:
    late, far = raw.sample(5, ONE), raw.sample(RECEIVE_MS + 600_001, ONE)
    body = (
        series_v1(UP, late, far, SAMPLE)
        + series_v1(raw.label(b"a", b"x"), SAMPLE, SAMPLE)
        + series_v1(UP, far)
        + series_v1(UP, raw.label(b"a", b"x"), SAMPLE)
    )
    for _ in range(2):
        written = write(registry, 1, body)
        assert [(ref, row[1]) for ref, row in zip(written.refs, written.rows, strict=True)] == [
            (0, 5),
            (0, RECEIVE_MS),
            (1, RECEIVE_MS),
        ]
        assert written.decoded.refused.tolist() == [1, 1, 3, 3]
        assert written.decoded.rejections == {"too_far_in_future": 2, "missing_name": 2}
        assert written.decoded.sample_seen == 7
        assert written.decoded.sample_count == 3


def test_a_replay_keeps_what_the_receipt_kept_whatever_the_limits(registry: Registry) -> None:
    far = raw.sample(RECEIVE_MS + 600_001, ONE)
    body = series_v1(UP, SAMPLE, far) + series_v1(UP, raw.label(b"a", b"x"), SAMPLE)
    receipt = write(registry, 1, body, Limits(series_count_max=1))
    assert receipt.decoded.refused.tolist() == [1, 2]
    tight = Limits(0, 0, 0, 0, 0, 0)
    replayed = type(registry)((b"replica",))
    again = write(replayed, 1, body, tight, refused=receipt.decoded.refused)
    assert again.rows == receipt.rows
    assert again.decoded.refused.tolist() == [1, 2]
    assert again.decoded.rejections == {}
    assert len(replayed) == 1


def test_known_series_go_on_past_the_series_limit(registry: Registry) -> None:
    write(registry, 1, series_v1(UP, SAMPLE))
    body = series_v1(UP, raw.label(b"a", b"x"), SAMPLE, SAMPLE) + series_v1(UP, SAMPLE)
    written = write(registry, 1, body, Limits(series_count_max=1))
    assert written.decoded.rejections == {"series_limit": 2}
    assert written.refs == [0]
    assert registry.pair_count == 1  # refused labels leave nothing behind


def test_a_series_without_a_kept_sample_is_not_registered(registry: Registry) -> None:
    body = series_v1(UP, raw.sample(TIMESTAMP_MS_MAX + 1, ONE)) + series_v1(
        raw.label(b"__name__", b"down"), raw.message(4, b"histogram"), raw.message(3, b"exemplar")
    )
    written = write(registry, 1, body)
    assert len(registry) == 0
    assert written.decoded.histogram_count == written.decoded.exemplar_count == 1
    assert written.decoded.rejections == {"timestamp_out_of_range": 1, "histogram_unsupported": 1}


def test_timestamps_reach_from_year_1_to_9999(registry: Registry) -> None:
    times = [TIMESTAMP_MS_MIN - 1, TIMESTAMP_MS_MIN, TIMESTAMP_MS_MAX, TIMESTAMP_MS_MAX + 1]
    times += [-(2**63), 2**63 - 1, 0, -1]
    body = series_v1(UP, *(raw.sample(time, ONE) for time in times))
    written = write(registry, 1, body, Limits(future_ms_max=2**62))
    assert [row[1] for row in written.rows] == [TIMESTAMP_MS_MIN, TIMESTAMP_MS_MAX, 0, -1]
    assert written.decoded.rejections == {"timestamp_out_of_range": 4}


def test_limits_without_an_end_do_not_overflow(registry: Registry) -> None:
    written = write(
        registry, 1, series_v1(UP, SAMPLE), Limits(future_ms_max=2**63 - 1), receive_ms=2**62
    )
    assert written.decoded.sample_count == 1


def test_samples_may_stand_before_and_between_labels(registry: Registry) -> None:
    label = raw.label(b"a", b"x")
    bodies = [
        series_v1(UP, label, SAMPLE),
        series_v1(SAMPLE, UP, label),
        series_v1(UP, SAMPLE, label),
        series_v1(UP, raw.integer(9, 1), label, SAMPLE),
        series_v1(label, SAMPLE, UP),
        series_v1(SAMPLE, label, SAMPLE, UP, SAMPLE),
    ]
    written = write(registry, 1, b"".join(bodies) * 2)
    assert set(written.refs) == {0}
    assert len(written.refs) == 16
    assert registry.pair_count == 2


def test_a_value_that_ends_like_a_sample_is_a_value(registry: Registry) -> None:
    trap = series_v1(UP, raw.label(b"a", SAMPLE))
    empty = write(registry, 1, trap)
    assert (empty.decoded.sample_seen, len(registry)) == (0, 0)
    written = write(registry, 1, trap + series_v1(UP, SAMPLE) * 2 + trap)
    assert written.decoded.sample_seen == 2
    assert written.refs == [0, 0]


def test_more_than_64_labels_in_any_order_are_one_series(registry: Registry) -> None:
    labels = [raw.label(b"l%03d" % n, b"x") for n in range(99)] + [UP]
    body = series_v1(*labels, SAMPLE) + series_v1(*labels[::-1], SAMPLE)
    body += series_v1(*labels[50:], *labels[:50], SAMPLE)
    assert write(registry, 1, body).refs == [0, 0, 0]
    twice = write(registry, 1, series_v1(*labels, labels[3], SAMPLE))
    assert twice.decoded.rejections == {"duplicate_label": 1}


def test_very_long_labels_in_pieces_are_one_series(registry: Registry) -> None:
    long = raw.label(b"a", b"v" * 8000)
    for body in (
        series_v1(UP, long, raw.label(b"b", b"w" * 8000), raw.label(b"c", b"w" * 8000), SAMPLE),
        series_v1(UP, long, SAMPLE, raw.label(b"c", b"w" * 8000), raw.label(b"b", b"w" * 8000)),
    ):
        assert write(registry, 1, body * 2).refs[0] == 0
    assert len(registry) == 1


def test_texts_are_utf8_exactly_where_python_says_so() -> None:
    registry = _series.SeriesRegistry()
    texts = [bytes(pair) for pair in itertools.product(range(256), repeat=2)]
    edges = [0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xED, 0xEF, 0xF0, 0xF4, 0xF5, 0xFF]
    leads = [0xC1, 0xC2, 0xDF, *range(0xE0, 0xF8)]
    texts += [b"12345678" + bytes(three) for three in itertools.product(leads, edges, edges)]
    texts += [bytes(four) for four in itertools.product(leads, edges, edges, [0x7F, 0x80, 0xBF])]
    body = b"".join(series_v1(UP, raw.label(b"a", text), SAMPLE) for text in texts)
    refused = set(write(registry, 1, body).refused)
    for ordinal, text in enumerate(texts):
        try:
            text.decode()
        except UnicodeDecodeError:
            assert ordinal in refused, text
        else:
            assert ordinal not in refused, text


def test_a_series_is_as_long_as_all_of_its_labels(registry: Registry) -> None:
    labels = [raw.label(b"a", b"12345"), raw.label(b"b", b"12345")]
    bodies = [series_v1(UP, *labels, SAMPLE), series_v1(UP, *labels, raw.label(b"c", b""), SAMPLE)]
    written = write(registry, 1, b"".join(bodies), Limits(series_bytes_max=22))
    assert written.refs == [0]
    assert written.decoded.rejections == {"label_limit": 1}
    assert registry.label_lengths(np.array([0, 0], np.uint32)).tolist() == [22, 22]


def test_label_limits_count_what_was_sent(registry: Registry) -> None:
    limits = Limits(label_count_max=2, label_name_bytes_max=8, label_value_bytes_max=3)
    good = series_v1(UP, raw.label(b"a", b"xyz"), SAMPLE)
    bad = [
        series_v1(UP, raw.label(b"a", b"x"), raw.label(b"b", b""), SAMPLE),
        series_v1(UP, raw.label(b"a23456789", b"x"), SAMPLE),
        series_v1(UP, raw.label(b"a", b"wxyz"), SAMPLE),
    ]
    written = write(registry, 1, good + b"".join(bad), limits)
    assert written.refs == [0]
    assert written.decoded.rejections == {"label_limit": 3}
    assert "allowed are 2 labels" in written.decoded.messages[0]


def test_rows_that_do_not_fit_are_said_and_nothing_is_done(registry: Registry) -> None:
    body = series_v1(UP, SAMPLE, SAMPLE) + series_v1(raw.label(b"a", b"no name"), SAMPLE)
    with pytest.raises(RowsFull) as full:
        write(registry, 1, body, capacity=2)
    assert full.value.needed_count == 3
    assert len(registry) == 0
    assert write(registry, 1, body, capacity=3).decoded.sample_count == 2


def test_a_body_of_too_many_samples_is_refused_whole(registry: Registry) -> None:
    body = series_v1(UP, SAMPLE, SAMPLE) + series_v1(UP)
    with pytest.raises(TooManySamples, match="3 samples"):
        write(registry, 1, body, Limits(sample_count_max=2))
    assert write(registry, 1, body, Limits(sample_count_max=3)).decoded.sample_count == 2


def test_a_broken_body_registers_nothing(registry: Registry) -> None:
    body = series_v1(UP, SAMPLE) * 3
    for length in range(1, len(body)):
        if length % (len(body) // 3):
            with pytest.raises(CorruptBody):
                write(registry, 1, body[:length])
    broken_label = raw.message(1, raw.message(1, b"a") + b"\x12\x05x")
    with pytest.raises(CorruptBody):
        write(registry, 1, series_v1(UP, SAMPLE) + series_v1(broken_label, SAMPLE))
    assert len(registry) == 0


def test_the_message_about_a_broken_body_names_the_byte() -> None:
    registry = _series.SeriesRegistry()
    good = series_v1(UP, SAMPLE)
    at, length = len(good) + 2, len(good) + 5
    with pytest.raises(CorruptBody, match=f"at byte {at} of {length}: a label"):
        write(registry, 1, good + raw.message(1, b"\x0a\x09a"))


@pytest.mark.parametrize(
    "field",
    [
        raw.integer(1, 5),
        raw.double_bits(2, 0),
        raw.integer(3, 5),
        raw.integer(4, 5),
        raw.tag(9, 3) + raw.tag(9, 4),
        raw.tag(9, 4),
        b"\x07",
        b"\x00\x00",
        raw.tag(9, 0) + b"\x80" * 10 + b"\0",
        raw.tag(9, 1) + b"1234567",
        raw.tag(9, 5) + b"123",
        b"\x0a\xff\xff\xff\xff\x0f",
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    ],
)
def test_wrong_wire_types_and_groups_are_corrupt(registry: Registry, field: bytes) -> None:
    with pytest.raises(CorruptBody):
        write(registry, 1, series_v1(UP, SAMPLE, field))


def test_unknown_fields_are_passed_over_everywhere(registry: Registry) -> None:
    unknown = raw.integer(99, 1) + raw.double_bits(98, 1) + raw.message(97, b"x")
    unknown += raw.tag(96, 5) + b"1234"
    label = raw.message(1, raw.message(1, b"__name__") + unknown + raw.message(2, b"up"))
    sample = raw.message(2, unknown + raw.integer(2, 5) + raw.integer(3, 7))
    written = write(registry, 1, unknown + series_v1(unknown, label, unknown, sample) + unknown)
    assert written.rows == [({b"__name__": b"up"}, 5, 0, 0)]
    symbols = SYMBOLS + unknown
    sample = raw.message(2, unknown + raw.integer(2, 5))
    written = write(registry, 2, series_v2(unknown, UP_REFS, sample) + symbols)
    assert written.rows == [({b"__name__": b"up"}, 5, 0, 0)]


def test_the_last_of_a_repeated_single_field_counts(registry: Registry) -> None:
    label = raw.message(
        1, raw.message(2, b"no") + raw.message(1, b"__name__") + raw.message(2, b"up")
    )
    sample = raw.message(2, raw.integer(2, 1) + raw.double_bits(1, 1) + raw.integer(2, 5))
    assert write(registry, 1, series_v1(label, sample)).rows == [({b"__name__": b"up"}, 5, 1, 0)]


def test_start_timestamps_are_those_of_the_sample_or_the_series(registry: Registry) -> None:
    own, none = raw.sample(RECEIVE_MS, ONE, 77), raw.sample(RECEIVE_MS, ONE)
    body = SYMBOLS + series_v2(UP_REFS, own, none, raw.integer(6, 55)) + series_v2(UP_REFS, none)
    written = write(registry, 2, body)
    assert [row[3] for row in written.rows] == [77, 55, 0]
    assert written.decoded.has_start
    without = write(registry, 2, SYMBOLS + series_v2(UP_REFS, none))
    assert [row[3] for row in without.rows] == [0]
    assert not without.decoded.has_start


def test_a_start_of_a_refused_sample_alone_is_no_start(registry: Registry) -> None:
    far = raw.sample(TIMESTAMP_MS_MAX + 1, ONE, 77)
    written = write(registry, 2, SYMBOLS + series_v2(UP_REFS, far, SAMPLE))
    assert [row[3] for row in written.rows] == [0]
    assert not written.decoded.has_start


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("is_known", [False, True])
def test_dirty_start_timestamps_are_cleaned(
    registry: Registry, version: int, *, is_known: bool
) -> None:
    bodies = {1: series_v1(UP, SAMPLE), 2: SYMBOLS + series_v2(UP_REFS, SAMPLE)}
    if is_known:
        write(registry, version, bodies[version])
    assert [row[3] for row in write(registry, version, bodies[version]).rows] == [0]


def test_untouched_start_timestamps_are_not_written() -> None:
    registry = _series.SeriesRegistry()
    refs, times = np.zeros(1, np.uint32), np.zeros(1, np.int64)
    starts = np.zeros(1, np.int64)
    body = series_v1(UP, SAMPLE)
    decoded = registry.decode_v1(
        body, Limits(), RECEIVE_MS, None, refs, times, np.zeros(1), starts, 0
    )
    assert (decoded.sample_count, starts.tolist()) == (1, [0])


def metadata_v1(metric: bytes, kind: int, help_: bytes, unit: bytes) -> bytes:
    content = raw.integer(1, kind) + raw.message(2, metric)
    return raw.message(3, content + raw.message(4, help_) + raw.message(5, unit))


def metadata_v2(kind: int, help_ref: int, unit_ref: int) -> bytes:
    content = raw.integer(1, kind) + raw.integer(3, help_ref) + raw.integer(4, unit_ref)
    return raw.message(5, content)


def test_metadata_is_told_once_and_again_when_it_changes(registry: Registry) -> None:
    first = metadata_v1(b"up", 2, b"help", b"unit")
    assert write(registry, 1, first).decoded.metadata == [MetadataEntry("up", 2, "help", "unit")]
    assert write(registry, 1, first).decoded.metadata == []
    changed = metadata_v1(b"up", 2, b"better", b"unit")
    assert write(registry, 1, changed).decoded.metadata == [
        MetadataEntry("up", 2, "better", "unit")
    ]
    assert write(registry, 1, first).decoded.metadata == [MetadataEntry("up", 2, "help", "unit")]


def test_both_versions_share_the_memory_of_metadata(registry: Registry) -> None:
    write(registry, 1, metadata_v1(b"up", 2, b"help", b"unit"))
    body = SYMBOLS + series_v2(UP_REFS, SAMPLE, metadata_v2(2, 5, 6))
    assert write(registry, 2, body).decoded.metadata == []
    body = SYMBOLS + series_v2(UP_REFS, SAMPLE, metadata_v2(2, 6, 6))
    assert write(registry, 2, body).decoded.metadata == [MetadataEntry("up", 2, "unit", "unit")]


def test_the_first_word_on_a_metric_in_a_request_counts(registry: Registry) -> None:
    told = [metadata_v2(1, 5, 0), metadata_v2(2, 5, 0), metadata_v2(1, 5, 0)]
    body = SYMBOLS + b"".join(series_v2(UP_REFS, SAMPLE, one) for one in told)
    assert write(registry, 2, body).decoded.metadata == [MetadataEntry("up", 1, "help", "")]
    assert write(registry, 2, body).decoded.metadata == []


def test_metadata_that_says_nothing_or_of_nothing_is_dropped(registry: Registry) -> None:
    body = metadata_v1(b"up", 0, b"", b"") + metadata_v1(b"", 1, b"help", b"")
    body += metadata_v1(b"\xff", 1, b"help", b"") + metadata_v1(b"ok", 0, b"\xff", b"")
    assert write(registry, 1, body).decoded.metadata == [MetadataEntry("ok", 0, "�", "")]


def test_metadata_of_refused_series_is_not_told(registry: Registry) -> None:
    far = raw.sample(TIMESTAMP_MS_MAX + 1, ONE)
    body = SYMBOLS + series_v2(UP_REFS, far, metadata_v2(1, 5, 0))
    body += series_v2(raw.message(1, b"\3\4"), SAMPLE, metadata_v2(1, 5, 0))
    assert write(registry, 2, body).decoded.metadata == []


def test_metadata_memory_is_bounded() -> None:
    registry = _series.SeriesRegistry()
    for first in range(0, 300_000, 50_000):
        body = b"".join(metadata_v1(b"m%d" % n, 1, b"", b"") for n in range(first, first + 50_000))
        assert len(write(registry, 1, body).decoded.metadata) == 50_000
    assert registry.memory_bytes < 524_288 * 24 + (8 << 20)


def test_at_most_ten_messages_each_names_its_series(registry: Registry) -> None:
    body = b"".join(series_v1(raw.label(b"pod", b"p%d" % n), SAMPLE) for n in range(20))
    written = write(registry, 1, body)
    assert len(written.decoded.messages) == 10
    assert written.decoded.messages[3] == 'missing_name: {pod="p3"}: there is no __name__'
    assert written.decoded.rejections == {"missing_name": 20}


def test_messages_stay_short_whatever_was_sent(registry: Registry) -> None:
    labels = [raw.label(b"l%d" % n, b"\xf0" + b"v" * 100_000) for n in range(200)]
    written = write(registry, 1, series_v1(*labels, SAMPLE))
    assert len(written.decoded.messages[0]) < 1024


def test_every_reason_has_its_sentence() -> None:
    for reason in REASONS[1:]:
        text = describe_rejection(reason, [(b"a", b"x")], Limits(), 5, 3)
        assert text.startswith(f'{reason}: {{a="x"}}: ')


def test_symbols_may_follow_the_series_that_use_them(registry: Registry) -> None:
    body = series_v2(UP_REFS, SAMPLE) + SYMBOLS
    assert write(registry, 2, body).rows[0][0] == {b"__name__": b"up"}


def test_label_refs_may_be_unpacked_or_in_pieces(registry: Registry) -> None:
    for refs in (
        raw.integer(1, 1) + raw.integer(1, 2),
        raw.message(1, b"\1") + raw.message(1, b"\2"),
        raw.message(1, b"\1") + raw.integer(1, 2, 3),
        raw.message(1, raw.varint(1, 4) + raw.varint(2 + 2**32)),  # a uint32 keeps its low bits
    ):
        assert write(registry, 2, SYMBOLS + series_v2(refs, SAMPLE)).refs == [0]


def test_thousands_of_refs_are_judged_like_two(registry: Registry) -> None:
    refs = raw.message(1, b"\1\2" + b"\3\4" * 2000)
    body = SYMBOLS + series_v2(refs, SAMPLE)
    assert write(registry, 2, body).decoded.rejections == {"label_limit": 1}
    limits = Limits(label_count_max=5000)
    assert write(registry, 2, body, limits).decoded.rejections == {"duplicate_label": 1}
    bad = SYMBOLS + series_v2(raw.message(1, b"\1\2" * 2000 + b"\1\x63"), SAMPLE)
    assert write(registry, 2, bad).decoded.rejections == {"bad_symbol_ref": 1}


def test_too_many_symbols_are_corrupt(registry: Registry) -> None:
    with pytest.raises(CorruptBody, match="symbols"):
        write(registry, 2, raw.message(4, b"") * (2**21 + 1))


def test_arrays_of_different_lengths_are_a_mistake() -> None:
    registry = _series.SeriesRegistry()
    refs, times, values = np.zeros(3, np.uint32), np.zeros(3, np.int64), np.zeros(3)
    with pytest.raises(ValueError, match="rows"):
        registry.decode_v1(b"", Limits(), 0, None, refs, times, values, times[:2], 0)
    for offset in (-1, 4):
        with pytest.raises(ValueError, match="offset"):
            registry.decode_v1(b"", Limits(), 0, None, refs, times, values, times, offset)


def test_bodies_may_be_any_buffer(registry: Registry) -> None:
    body = series_v1(UP, SAMPLE)
    for kind in (bytes, bytearray, memoryview, lambda data: np.frombuffer(data, np.uint8)):
        assert write(registry, 1, kind(body)).refs == [0]  # type: ignore[arg-type]
