"""A merge of files is what a dictionary makes of all their rows; its loops are their twins."""

import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.lake import parquet
from bridge.lake.merge import HOUR_MS
from bridge.model.staleness import STALE_BITS
from bridge.wire.columns import F64Array, I32Array, I64Array
from downsample import _merge, merged
from downsample.merged import merge_files
from downsample.rows import RawFile, SampleBatch
from downsample.twins import merge as twin
from tests.oracle.tsdb import merge_replicas
from tests.unit.lake.made_files import DAY_START_MS, Row, write_rows

BITS = st.sampled_from([0, 1 << 63, STALE_BITS, 0x7FF8_0000_0000_0001, 0x3FF0_0000_0000_0000])
TIMES = st.one_of(
    st.integers(1, 8).map(lambda step: DAY_START_MS + step * HOUR_MS // 4),
    st.integers(1, 2 * HOUR_MS).map(lambda ms: DAY_START_MS + ms),
)


def rows_with(replicas: Sequence[str], starts: Sequence[int]) -> st.SearchStrategy[list[Row]]:
    return st.lists(
        st.tuples(
            st.sampled_from(["a", "a_total", "b", "µ"]),
            st.integers(-3, 3),
            TIMES,
            BITS,
            st.sampled_from(starts),
            st.sampled_from(replicas),
        ),
        min_size=1,
        max_size=30,
    )


FILES = st.sampled_from(
    [(("",), (0,)), (("r1",), (0,)), (("", "r1", "r2"), (0,)), (("", "r1"), (0, 7, DAY_START_MS))]
).flatmap(lambda kinds: st.lists(rows_with(*kinds), min_size=1, max_size=6))


def rows_of(batch: SampleBatch) -> list[Row]:
    rows: list[Row] = []
    for rank, (begin, end) in enumerate(pairwise(batch.offsets.tolist())):
        metric = batch.metrics[batch.metric_of_rank[rank]]
        for row in range(begin, end):
            starts, replicas = batch.start_timestamps_ms, batch.replica_of_row
            rows.append(
                (
                    metric,
                    int(batch.series_id_of_rank[rank]),
                    int(batch.timestamps_ms[row]),
                    int(batch.values.view(np.uint64)[row]),
                    0 if starts is None else int(starts[row]),
                    "" if replicas is None else batch.replicas[replicas[row]],
                )
            )
    return rows


def expected_rows(
    files: Sequence[Sequence[Row]], after_ms: int, until_ms: int, *, is_merging: bool
) -> list[Row]:
    """Series, times and values, without starts and replicas."""
    series: dict[tuple[str, int], dict[str, list[tuple[int, int]]]] = {}
    for metric, series_id, time, bits, _, replica in (row for file in files for row in file):
        if after_ms < time <= until_ms:
            own = series.setdefault((metric, series_id), {})
            own.setdefault(replica, []).append((time, bits))
    return [
        (*key, time, bits, 0, "")
        for key, by_replica in sorted(series.items())
        for time, bits in (
            merge_replicas(by_replica)
            if is_merging
            else sorted(row for own in by_replica.values() for row in merge_replicas({"": own}))
        )
    ]


@given(
    files=FILES,
    group=st.integers(1, 7),
    batch_rows=st.integers(1, 60),
    hours=st.sampled_from([(0, 2), (0, 1), (1, 2), (-5, 20), (3, 4)]),
    is_merging=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_merged_files_are_what_a_dictionary_makes_of_their_rows(
    files: list[list[Row]], group: int, batch_rows: int, hours: tuple[int, int], is_merging: bool
) -> None:
    after_ms, until_ms = (DAY_START_MS + hour * HOUR_MS for hour in hours)
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(parquet, "SAMPLE_ROWS", group)
        patch.setattr(merged, "READ_ROWS_MIN", 2)
        patch.setattr(merged, "FOOTER_BYTES_MAX", 20_000)
        paths = [Path(folder) / f"f-{number}.parquet" for number in range(len(files))]
        for path, rows in zip(paths, files, strict=True):
            write_rows(path, rows)
        raw = [RawFile(path) for path in paths]
        batches = list(
            merge_files(
                raw, after_ms, until_ms, batch_rows=batch_rows, is_merging_replicas=is_merging
            )
        )
    rows = [row for batch in batches for row in rows_of(batch)]
    found = [(*row[:4], 0, "") for row in rows]
    if not is_merging:
        assert len({(*row[:3], row[5]) for row in rows}) == len(rows)
        found.sort()
    assert found == expected_rows(files, after_ms, until_ms, is_merging=is_merging)
    # Start and replica are those of a row that was there.
    assert set(rows) <= {row for file in files for row in file}
    keys = [
        (batch.metrics[metric], series_id)
        for batch in batches
        for metric, series_id in zip(
            batch.metric_of_rank.tolist(), batch.series_id_of_rank.tolist(), strict=True
        )
    ]
    assert keys == sorted(set(keys))
    for batch in batches:
        assert np.diff(batch.offsets).min() > 0
        assert list(batch.metrics) == sorted(set(batch.metrics))


KEYS = st.lists(st.tuples(st.integers(0, 3), st.integers(-4, 4)), unique=True, max_size=25).map(
    sorted
)


def key_columns(keys: Sequence[tuple[int, int]]) -> tuple[I32Array, I64Array]:
    return (
        np.array([metric for metric, _ in keys], np.int32),
        np.array([series_id for _, series_id in keys], np.int64),
    )


def bits_column(bits: Sequence[int]) -> F64Array:
    return np.array(bits, np.uint64).view(np.float64)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(-2, 2)), max_size=40), st.booleans())
def test_find_runs_is_its_twin(rows: list[tuple[int, int]], has_codes: bool) -> None:
    codes, series_ids = key_columns(rows)
    found, is_sorted = _merge.find_runs(codes if has_codes else None, series_ids)
    expected, is_expected = twin.find_runs(codes if has_codes else None, series_ids)
    assert (found.tolist(), is_sorted) == (expected.tolist(), is_expected)


@given(KEYS, KEYS)
def test_unite_keys_is_its_twin(keys: list[tuple[int, int]], others: list[tuple[int, int]]) -> None:
    columns = *key_columns(keys), *key_columns(others)
    metrics, ids = _merge.unite_keys(*columns)
    expected_metrics, expected_ids = twin.unite_keys(*columns)
    assert metrics.dtype == np.int32
    assert ids.dtype == np.int64
    assert metrics.tolist() == expected_metrics.tolist()
    assert ids.tolist() == expected_ids.tolist()


@given(KEYS, KEYS, st.lists(st.integers(0, 20), min_size=25, max_size=25))
def test_rank_runs_is_its_twin(
    keys: list[tuple[int, int]], others: list[tuple[int, int]], lengths: list[int]
) -> None:
    """Also of what both refuse: keys that are not known."""
    metrics, ids = key_columns(keys)
    begins = np.cumsum([0, *lengths[: len(keys)]]).astype(np.int64)
    for known in (sorted({*keys, *others}), others):
        results = []
        for module in (_merge, twin):
            counts = np.zeros(len(known), np.int64)
            try:
                ranks = module.rank_runs(metrics, ids, begins, *key_columns(known), counts)
                results.append((ranks.tolist(), counts.tolist()))
            except ValueError:
                results.append(([-1], []))
        assert results[0] == results[1]


@given(st.lists(st.tuples(st.integers(-1, 4), st.integers(0, 12)), max_size=12), st.integers(0, 60))
def test_place_runs_is_its_twin(runs: list[tuple[int, int]], room: int) -> None:
    ranks = np.array([rank for rank, _ in runs], np.int32)
    begins = np.cumsum([0, *(length for _, length in runs)]).astype(np.int64)
    times = np.arange(begins[-1])
    values = bits_column([STALE_BITS + step for step in range(int(begins[-1]))])
    results: list[list[list[int]]] = []
    for module in (_merge, twin):
        ends = np.arange(4, dtype=np.int64) * 12
        out_times, order = np.zeros(room, np.int64), np.zeros(room, np.int64)
        out_values = np.zeros(room)
        try:
            module.place_runs(ranks, begins, times, values, ends, out_times, out_values, order, 5)
        except ValueError:
            results.append([])
        else:
            out_bits = out_values.view(np.uint64)
            results.append([ends.tolist(), out_times.tolist(), out_bits.tolist(), order.tolist()])
    assert results[0] == results[1]


@given(
    st.lists(st.lists(st.tuples(st.integers(0, 5), BITS), max_size=8), max_size=6), st.booleans()
)
def test_times_and_duplicates_are_judged_as_by_the_twin(
    ranks: list[list[tuple[int, int]]], is_sorted: bool
) -> None:
    if is_sorted:
        ranks = [sorted(rows, key=lambda row: row[0]) for rows in ranks]
    offsets = np.cumsum([0, *map(len, ranks)]).astype(np.int64)
    times = np.array([time for rows in ranks for time, _ in rows], np.int64)
    values = bits_column([bits for rows in ranks for _, bits in rows])
    assert _merge.order_of_times(offsets, times) == twin.order_of_times(offsets, times)
    if is_sorted:
        expected = twin.keep_greatest(offsets, times, values)
        assert _merge.keep_greatest(offsets, times, values).tolist() == expected.tolist()
