"""The read path against a dict of lists: head, cut files and lake in any split, a flush running."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.lake import footers, parquet
from bridge.lake.head_view import CutFiles, HeadRows
from bridge.model.staleness import STALE_BITS
from bridge.read.budget import Budget
from bridge.read.reader import Reader
from bridge.read.request import IgnoredMatchers, decode_request
from bridge.read.settings import ReadSettings
from tests.oracle.lake_files import FileLake, LakeRow, canonical
from tests.oracle.made_head import (
    OPEN_POSITION,
    RECEIVER,
    REPLICA_LABEL,
    MadeHead,
    cut_files,
    head_rows,
    new_registry,
)
from tests.oracle.remote_lake import RemoteLake
from tests.oracle.remote_read import (
    CHUNKS,
    SAMPLES,
    Hints,
    Query,
    bits_of,
    read_frames,
    read_samples,
    request_message,
)
from tests.oracle.tsdb import Labels, OracleMatcher, OracleTsdb, Sample

MIDNIGHT = 1_795_219_200_000
MONTH_END = 1_796_083_200_000  # 2026-12-01T00:00Z
STRIPPED = ("region",)

Answer = list[list[tuple[Labels, list[Sample]]]]


@dataclass(frozen=True)
class Spread:
    """Where the samples lie.

    Attributes:
        committed: in the lake, a file per list and day.
        flushed: waits as a cut file; whether the lake has it already, or gets it while the read
            looks at the head, or not at all, is `flush`.
        waiting: another cut file that the lake does not have.
        frozen: in memory, about to be cut.
        opened: in memory.
        flush: "before", "during" or "never".
    """

    committed: list[list[LakeRow]]
    flushed: list[LakeRow]
    waiting: list[LakeRow]
    frozen: list[LakeRow]
    opened: list[LakeRow]
    flush: str

    def rows(self) -> list[LakeRow]:
        lists = [*self.committed, self.flushed, self.waiting, self.frozen, self.opened]
        return [row for rows in lists for row in rows]


series_labels = st.builds(
    lambda name, job, zone, upper, region: canonical(
        {"__name__": name, "job": job, "zone": zone, "Upper": upper, "region": region}
    ),
    st.sampled_from(["up", "up_total", "température"]),
    st.sampled_from(["", "api", "web", "two\nlines"]),
    st.sampled_from(["", "", "a"]),
    st.sampled_from(["", "", "Z"]),
    st.sampled_from(["", "eu", "us"]),
)
times = st.one_of(
    st.integers(0, 12).map(lambda step: MIDNIGHT + step * 15_000),
    st.integers(-3, 3).map(lambda step: MIDNIGHT + 3_600_000 + step),
    st.integers(-2, 2).map(lambda step: MONTH_END + step),
    st.integers(-4 * 3_600_000, 4 * 3_600_000).map(lambda offset: MIDNIGHT + offset),
)
values = st.sampled_from(
    [
        STALE_BITS,
        0x7FF8000000000001,
        0x7FF800000000BEEF,
        *map(bits_of, (0.0, -0.0, 1.0, 2.0, -3.5, 1e300, float("inf"), float("-inf"))),
    ]
)
rows_of = {
    replicated: st.lists(
        st.tuples(
            series_labels,
            times,
            values,
            st.sampled_from(["", "r0", "r1"]) if replicated else st.just(""),
        ),
        max_size=25,
    )
    for replicated in (False, True)
}
spreads = st.booleans().flatmap(
    lambda replicated: st.builds(
        Spread,
        committed=st.lists(rows_of[replicated], max_size=3),
        flushed=rows_of[replicated],
        waiting=rows_of[replicated],
        frozen=rows_of[replicated],
        opened=rows_of[replicated],
        flush=st.sampled_from(["before", "during", "never"]),
    )
)
matchers = st.builds(
    OracleMatcher,
    st.sampled_from(["__name__", "job", "zone", "Upper", "region", "nothing"]),
    st.sampled_from(["=", "!=", "=~", "!~"]),
    st.sampled_from(
        [
            "",
            "up",
            "api",
            "a",
            "eu",
            "up|up_total",
            "api|",
            ".*",
            ".+",
            "u.*",
            "two.lines",
            "[ae].*",
        ]
    ),
)
bounds = st.one_of(times, st.sampled_from([-(1 << 63), (1 << 63) - 1, 0]))
ranges = st.tuples(bounds, bounds).map(lambda pair: (min(pair), max(pair)))
hints = st.one_of(
    st.none(), ranges.map(lambda pair: Hints(pair[0], pair[1], func="rate")), st.just(Hints())
)
queries = st.lists(
    st.builds(
        lambda pair, conditions, hint: Query(pair[0], pair[1], conditions, hint),
        ranges,
        st.lists(matchers, max_size=3),
        hints,
    ),
    min_size=1,
    max_size=3,
)


def build(folder: Path, spread: Spread) -> tuple[FileLake, MadeHead]:
    lake = FileLake(folder)
    for rows in spread.committed:
        lake.add(rows)
    parts: list[tuple[int, HeadRows | CutFiles]] = []
    registry, older = new_registry(), new_registry()
    flushed = lake.write(spread.flushed)
    parts.append((10, cut_files(older, spread.flushed, flushed)))
    parts.append((20, cut_files(registry, spread.waiting, lake.write(spread.waiting))))
    parts.append((30, head_rows(registry, spread.frozen)))
    parts.append((OPEN_POSITION, head_rows(registry, spread.opened)))

    def commit() -> None:
        if lake.positions:
            return
        lake.add_series(spread.flushed)
        lake.samples += flushed
        lake.positions[RECEIVER] = 10

    if spread.flush == "before":
        commit()
    return lake, MadeHead(parts, commit if spread.flush == "during" else lambda: None)


def expect(spread: Spread, wanted: Sequence[Query]) -> Answer:
    oracle = OracleTsdb()
    for labels, timestamp_ms, bits, replica in spread.rows():
        oracle.append(dict(labels), timestamp_ms, bits, replica)
    answers = []
    for query in wanted:
        start_ms, end_ms = query.start_ms, query.end_ms
        if query.hints is not None and (query.hints.start_ms or query.hints.end_ms):
            start_ms = max(start_ms, query.hints.start_ms)
            end_ms = min(end_ms, query.hints.end_ms)
        answers.append(oracle.read(query.matchers, start_ms, end_ms, STRIPPED))
    return answers


def ask(reader: Reader, wanted: Sequence[Query], answer_type: int, config: ReadSettings) -> Answer:
    message = request_message(wanted, [answer_type])
    request = decode_request(message, IgnoredMatchers((), (REPLICA_LABEL.encode(),)))
    budget = Budget(config.max_samples, config.max_query_bytes, config.timeout, lambda: 0.0)
    body = b"".join(reader.run(request, budget).pieces)
    if answer_type == SAMPLES:
        return read_samples(body)
    answers: Answer = [[] for _ in wanted]
    for frame in read_frames(body):
        answers[frame.query_index].append((frame.labels, frame.samples))
        for chunk in frame.chunks:
            assert (chunk.min_ms, chunk.max_ms) == (chunk.samples[0][0], chunk.samples[-1][0])
            assert len(chunk.samples) <= config.samples_per_chunk
    return answers


def without_order_of_equals(answer: Answer) -> Answer:
    """Series that differ in stripped labels alone are equal to the client, in any order."""
    return [sorted(series, key=lambda one: one[0]) for series in answer]


@settings(max_examples=150, deadline=None)
@given(
    spreads,
    queries,
    st.sampled_from([2, 40, 1 << 20]),
    st.integers(1, 4),
    st.sampled_from([1, 3000, 1 << 30]),
)
def test_answers_equal_those_of_a_dict_of_lists(
    spread: Spread,
    wanted: list[Query],
    slice_rows: int,
    samples_per_chunk: int,
    cache_bytes: int,
) -> None:
    """READ-1, READ-2, READ-3 and READ-4, whatever lies where; LAKE-13, if it is in a bucket."""
    config = ReadSettings(external_labels=STRIPPED, samples_per_chunk=samples_per_chunk)
    expected = expect(spread, wanted)

    def compare(reader: Reader) -> None:
        for answer_type in (CHUNKS, SAMPLES):
            answer = ask(reader, wanted, answer_type, config)
            assert without_order_of_equals(answer) == without_order_of_equals(expected)
            for have, should in zip(answer, expected, strict=True):
                assert [visible(labels) for labels, _ in have] == [
                    visible(labels) for labels, _ in should
                ]

    with (
        tempfile.TemporaryDirectory() as folder,
        patch.object(parquet, "SAMPLE_ROWS", 7),
        patch.object(footers, "WHOLE_BYTES_MAX", 1),
        patch.object(footers, "GROUP_FOOTER_BYTES", 200),
    ):
        lake, head = build(Path(folder), spread)
        compare(Reader(config, lake, head, rows_max=slice_rows))
        put = Path(folder) / "put"
        put.mkdir()
        lake, head = build(put, spread)
        with RemoteLake(lake, Path(folder) / "cache", bytes_max=cache_bytes) as remote:
            compare(Reader(config, remote, head, remote.files, rows_max=slice_rows))
            assert remote.cache.unforeseen_count == 0


def visible(labels: Labels) -> Labels:
    return tuple(label for label in labels if label[0] not in STRIPPED)
