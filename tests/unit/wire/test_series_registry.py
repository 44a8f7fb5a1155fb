"""The registry: identity, pairs, selection, growth, forgetting."""

import itertools
import struct
import threading
from collections.abc import Sequence

import numpy as np
import pytest
import xxhash

from bridge.wire import _series
from bridge.wire.columns import I32Array
from bridge.wire.decoded import Limits
from tests.oracle import raw_protobuf as raw
from tests.oracle.registries import KINDS, RECEIVE_MS, Registry, labels_of, write

SAMPLE = raw.sample(RECEIVE_MS, 0x3FF << 52)


@pytest.fixture(params=KINDS, ids=["compiled", "twin"])
def registry(request: pytest.FixtureRequest) -> Registry:
    made: Registry = request.param((b"__replica__", b"replica"), seed=5)
    return made


def v1(*label_sets: Sequence[tuple[bytes, bytes]]) -> bytes:
    return b"".join(
        raw.message(1, b"".join(raw.label(*pair) for pair in labels) + SAMPLE)
        for labels in label_sets
    )


def offsets(texts: Sequence[bytes]) -> I32Array:
    return np.cumsum([0, *map(len, texts)], dtype=np.int32)


def add_row(registry: Registry, series_id: int, labels: dict[bytes, bytes]) -> int:
    names, values = list(labels), list(labels.values())
    refs = registry.add_rows(
        np.array([series_id], np.int64),
        np.array([0, len(labels)], np.int32),
        offsets(names),
        b"".join(names),
        offsets(values),
        b"".join(values),
    )
    return int(refs[0])


def test_series_id_is_xxh3_of_canonical_labels(registry: Registry) -> None:
    write(registry, 1, v1([(b"b", b"2"), (b"__name__", b"up"), (b"a", b"1"), (b"c", b"")]))
    text = b"__name__\xffup\xffa\xff1\xffb\xff2\xff"
    (series_id,) = registry.series_ids().tolist()
    assert series_id == struct.unpack("<q", xxhash.xxh3_64_digest(text)[::-1])[0]
    assert series_id == -996_035_877_971_442_025  # what is in lakes already
    assert labels_of(registry, [0]) == [{b"__name__": b"up", b"a": b"1", b"b": b"2"}]
    assert list(labels_of(registry, [0])[0]) == [b"__name__", b"a", b"b"]


def test_replicas_are_series_of_their_own_with_one_id(registry: Registry) -> None:
    up = (b"__name__", b"up")
    written = write(
        registry, 1, v1([up, (b"replica", b"r1")], [up], [up, (b"replica", b"r0")], [up])
    )
    assert written.refs == [0, 1, 2, 1]
    assert len(set(registry.series_ids().tolist())) == 1
    assert registry.replicas() == [b"", b"r1", b"r0"]
    assert registry.replica_ids().tolist() == [1, 0, 2]
    assert labels_of(registry, range(3)) == [{b"__name__": b"up"}] * 3
    assert registry.pair_count == 1


def test_first_configured_replica_label_is_the_replica(registry: Registry) -> None:
    labels = [(b"__name__", b"up"), (b"replica", b"second"), (b"__replica__", b"first")]
    write(registry, 1, v1(labels))
    assert registry.replicas() == [b"", b"first"]


def test_both_versions_name_the_same_series(registry: Registry) -> None:
    symbols = [b"", b"__name__", b"up", b"a", b"x", b"__replica__", b"r"]
    body = b"".join(raw.message(4, symbol) for symbol in symbols)
    body += raw.message(5, raw.message(1, bytes([3, 4, 1, 2, 5, 6])) + SAMPLE)
    first = write(registry, 1, v1([(b"__name__", b"up"), (b"a", b"x"), (b"__replica__", b"r")]))
    assert write(registry, 2, body).refs == first.refs
    assert len(registry) == 1


def test_a_pair_is_held_once(registry: Registry) -> None:
    up, down = (b"__name__", b"up"), (b"__name__", b"down")
    write(registry, 1, v1([up, (b"a", b"x")], [up, (b"b", b"x")], [down, (b"a", b"x")]))
    assert registry.pair_count == 4
    assert registry.find_pair(b"a", b"x") == 1
    assert registry.find_pair(b"a", b"y") == -1
    texts = registry.pair_texts(np.array([3, 1], np.uint32))
    assert texts == [(b"__name__", b"down"), (b"a", b"x")]
    assert registry.metric_pairs().tolist() == [0, 3]
    assert registry.metric_ids().tolist() == [0, 0, 3]
    assert registry.metric_ids(np.array([2], np.uint32)).tolist() == [3]


def test_pairs_whose_texts_join_alike_are_told_apart(registry: Registry) -> None:
    up = (b"__name__", b"up")
    write(registry, 1, v1([up, (b"ab", b"c")], [up, (b"a", b"bc")]))
    assert len(registry) == 2
    assert registry.find_pair(b"ab", b"c") != registry.find_pair(b"a", b"bc")


def test_selection_is_by_metric(registry: Registry) -> None:
    up, down = (b"__name__", b"up"), (b"__name__", b"down")
    write(registry, 1, v1([up, (b"a", b"x")], [down], [up]))
    refs, bounds, pairs = registry.select(np.array([0], np.uint32))
    assert refs.tolist() == [0, 2]
    assert bounds.tolist() == [0, 2, 3]
    assert pairs.tolist() == [0, 1, 0]
    assert registry.select(None)[0].tolist() == [0, 1, 2]
    assert registry.select(np.array([1, 2**32 - 1], np.uint32))[0].tolist() == []


def test_an_empty_registry_answers_empty(registry: Registry) -> None:
    none = np.empty(0, np.uint32)
    assert len(registry) == registry.pair_count == 0
    assert registry.series_ids().tolist() == []
    assert registry.select(None)[1].tolist() == [0]
    assert registry.label_bytes(none) == registry.sort_keys(none, []) == []
    assert registry.label_rows(none).label_offsets.tolist() == [0]
    assert len(registry.compacted(np.empty(0, np.uint8))[0]) == 0


def test_sort_keys_compare_as_label_sets_do(registry: Registry) -> None:
    values = [b"", b"\0", b"\0\xc3\xa9", b"a", b"a\0", b"a\0b", b"ab", b"b", b"\xc3\xa9"]
    sets = [
        [(b"__name__", b"up"), (b"a", one), (b"ab", other)]
        for one, other in itertools.product(values, repeat=2)
    ]
    write(registry, 1, v1(*sets))
    refs = np.arange(len(registry), dtype=np.uint32)
    for stripped in ([], [b"a"], [b"ab", b"__name__"]):
        seen = [
            [pair for pair in labels.items() if pair[0] not in stripped]
            for labels in labels_of(registry, refs.tolist())
        ]
        keys = registry.sort_keys(refs, stripped)
        by_key = sorted(range(len(refs)), key=lambda ref: keys[ref])
        by_pairs = sorted(range(len(refs)), key=lambda ref: seen[ref])
        assert [seen[ref] for ref in by_key] == [seen[ref] for ref in by_pairs]


def test_another_label_set_of_the_same_key_is_refused(registry: Registry) -> None:
    other = [(b"__name__", b"up"), (b"a", b"1")]
    write(registry, 1, v1(other))
    (taken,) = registry.series_ids().tolist()
    fresh = type(registry)()
    add_row(fresh, taken, {b"__name__": b"up", b"impostor": b"x"})
    written = write(fresh, 1, v1(other, [(b"__name__", b"up")]))
    assert written.decoded.rejections == {"series_id_collision": 1}
    assert written.refused == [0]
    assert len(fresh) == 2
    assert "a=" in written.decoded.messages[0]


def test_the_same_id_of_another_metric_is_another_series(registry: Registry) -> None:
    assert add_row(registry, 7, {b"__name__": b"up"}) == 0
    assert add_row(registry, 7, {b"__name__": b"down"}) == 1
    assert registry.collision_count == 0


def test_a_trusted_row_that_collides_gets_the_ref_of_the_first(registry: Registry) -> None:
    assert add_row(registry, 7, {b"__name__": b"up"}) == 0
    assert add_row(registry, 7, {b"__name__": b"up", b"a": b"x"}) == 0
    assert add_row(registry, 7, {b"__name__": b"up"}) == 0
    assert registry.collision_count == 1
    assert len(registry) == 1


def test_a_trusted_row_needs_a_name(registry: Registry) -> None:
    with pytest.raises(ValueError, match="__name__"):
        add_row(registry, 7, {b"a": b"x"})


def test_a_compacted_copy_keeps_what_is_asked(registry: Registry) -> None:
    up = (b"__name__", b"up")
    sets = [[up, (b"a", value), (b"replica", b"r" + value)] for value in (b"0", b"1", b"2", b"3")]
    write(registry, 1, v1(*sets))
    small, remap = registry.compacted(np.array([0, 1, 0], np.uint8))
    assert remap.tolist() == [2**32 - 1, 0, 2**32 - 1, 1]  # the last has no say: it is kept
    assert labels_of(small, [0, 1]) == [dict([up, (b"a", b"1")]), dict([up, (b"a", b"3")])]
    assert small.pair_count == 3
    assert small.replicas() == [b"", b"r1", b"r3"]
    assert registry.series_ids(np.array([1, 3], np.uint32)).tolist() == small.series_ids().tolist()
    assert write(small, 1, v1(*sets)).refs == [2, 0, 3, 1]


def test_refs_that_do_not_exist_are_an_index_error(registry: Registry) -> None:
    wrong = np.array([0], np.uint32)
    for ask in (
        registry.series_ids,
        registry.label_bytes,
        registry.label_rows,
        registry.pair_texts,
    ):
        with pytest.raises(IndexError):
            ask(wrong)


# -- the compiled one alone: sizes, locks ---------------------------------------------------------


def test_offsets_that_lead_out_of_their_buffers_are_refused() -> None:
    registry = _series.SeriesRegistry()
    good = ([0, 1], [0, 8], b"__name__", [0, 2], b"up")
    for at, bad in ((0, [0, 2]), (1, [0, 9]), (1, [8, 0]), (3, [0, 3]), (3, [-1, 2]), (0, [0])):
        parts = [*good[:at], bad, *good[at + 1 :]]
        arrays = [np.array(part, np.int32) if isinstance(part, list) else part for part in parts]
        with pytest.raises(ValueError, match="offsets"):
            registry.add_rows(np.array([1], np.int64), *arrays)  # type: ignore[arg-type]
    assert len(registry) == 0


def many(first: int, count: int) -> bytes:
    pod = b"pod-with-a-rather-long-name-"
    return v1(
        *(
            [(b"__name__", b"m%d" % (n % 100)), (b"job", b"j"), (b"pod", pod + b"%d" % n)]
            for n in range(first, first + count)
        )
    )


def test_every_series_is_found_again_while_the_tables_grow() -> None:
    registry = _series.SeriesRegistry(seed=1)
    bodies = [many(first, 5000) for first in range(0, 60_000, 5000)]
    for number, body in enumerate(bodies):
        refs = list(range(number * 5000, (number + 1) * 5000))
        assert write(registry, 1, body).refs == refs
    for number, body in enumerate(bodies):
        written = write(registry, 1, body)
        assert written.refs == list(range(number * 5000, (number + 1) * 5000))
        assert written.decoded.series_added == 0
    assert len(set(registry.series_ids().tolist())) == 60_000
    # 24 a row, 12 of pairs, 14 and 26 of tables; a pod of its own 44 of text, 18 of tables.
    assert registry.memory_bytes / 60_000 < 200


def test_a_compacted_copy_knows_its_series_by_their_bytes_and_is_smaller() -> None:
    registry = _series.SeriesRegistry(seed=1)
    bodies = [many(first, 5000) for first in range(0, 60_000, 5000)]
    for body in bodies:
        write(registry, 1, body)
    keep = np.zeros(60_000, np.uint8)
    keep[:10_000] = 1
    small, remap = registry.compacted(keep)
    assert remap[:10_000].tolist() == list(range(10_000))
    assert set(remap[10_000:].tolist()) == {2**32 - 1}
    assert small.memory_bytes < registry.memory_bytes / 3
    for number, body in enumerate(bodies[:2]):
        written = write(small, 1, body)
        assert written.refs == list(range(number * 5000, (number + 1) * 5000))
        assert written.decoded.series_added == 0
    assert write(small, 1, bodies[5]).refs == list(range(10_000, 15_000))


def test_spellings_of_one_series_do_not_fill_the_memory() -> None:
    registry = _series.SeriesRegistry(seed=1)
    labels = [(b"__name__", b"up"), *((b"l%d" % n, b"x") for n in range(8))]
    spellings = itertools.islice(itertools.permutations(labels), 80_000)
    peak = 0
    while chunk := list(itertools.islice(spellings, 10_000)):
        assert set(write(registry, 1, v1(*chunk)).refs) == {0}
        peak = max(peak, registry.memory_bytes)
    assert len(registry) == 1
    assert peak < 65_536 * 29 + (4 << 20)  # the fingerprints at a load of 0.56, and scratch


def test_readers_see_whole_series_while_one_thread_decodes() -> None:
    registry = _series.SeriesRegistry(seed=1)
    bodies = [many(first, 500) for first in range(0, 20_000, 500)]
    wrong: list[str] = []
    is_done = threading.Event()

    def read() -> None:
        while not is_done.is_set():
            refs, bounds, _ = registry.select(None)
            if bounds[-1] != 3 * len(refs):
                wrong.append("a series without its pairs")
            last = refs[-10:].copy()
            if [len(labels) for labels in labels_of(registry, last.tolist())] != [3] * len(last):
                wrong.append("a series without its labels")

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for body in bodies:
        write(registry, 1, body, Limits())
    is_done.set()
    for reader in readers:
        reader.join()
    assert wrong == []
    assert len(registry) == 20_000
