import json
import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bridge.lake import parquet
from bridge.lake.parquet import SeriesBatch, write_metadata, write_samples, write_series
from bridge.model.staleness import STALE_BITS
from tests.unit.lake.made_files import (
    DAY,
    DAY_START_MS,
    Row,
    integers,
    label_rows,
    one_sample,
    values_of_bits,
    write_rows,
)

HARD_BITS = [
    STALE_BITS,
    0x7FF8000000000001,  # Prometheus' own NaN
    0x7FF8000000000000,
    0xFFF8000000000000,
    0xFFFFFFFFFFFFFFFF,
    0x7FF0000000000000,  # +Inf
    0xFFF0000000000000,  # -Inf
    0x8000000000000000,  # -0.0
    0,
    1,  # the smallest subnormal
    0x3FF0000000000000,
]


def rows_of(path: Path) -> list[Row]:
    """All rows in file order, values as bits."""
    table = pq.ParquetFile(path).read()
    bits = table["value"].combine_chunks().to_numpy().view(np.uint64).tolist()
    columns = [table[name].to_pylist() for name in ("metric", "series_id", "timestamp_ms")]
    starts = [start or 0 for start in table["start_timestamp_ms"].to_pylist()]
    replicas = [replica or "" for replica in table["replica"].to_pylist()]
    return list(zip(*columns, bits, starts, replicas, strict=True))


rows_strategy = st.lists(
    st.tuples(
        st.sampled_from(["a", "a_total", "b", "µ_seconds", "z" * 300]),
        st.integers(-(1 << 63), (1 << 63) - 1) | st.sampled_from([-1, 0, 1]),
        st.integers(1, 86_400_000).map(lambda ms: DAY_START_MS + ms),
        st.sampled_from(HARD_BITS) | st.integers(0, (1 << 64) - 1),
        st.just(0) | st.integers(1, DAY_START_MS),
        st.sampled_from(["", "replica-0", "replica-1"]),
    ),
    min_size=1,
    max_size=40,
)


@given(rows=rows_strategy, group=st.integers(1, 7))
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_rows_come_back_bit_by_bit_in_their_order(
    rows: list[Row], group: int, tmp_path: Path
) -> None:
    """LAKE-4, over row groups of a few rows each."""
    path = tmp_path / "f-1.parquet"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parquet, "SAMPLE_ROWS", group)
        file = write_rows(path, rows)
    expected = sorted(rows, key=lambda row: row[:3])
    assert rows_of(path) == expected
    assert file.row_count == len(rows)
    assert file.size_bytes == path.stat().st_size
    assert file.minima == {
        "metric": expected[0][0],
        "series_id": min(row[1] for row in rows),
        "timestamp_ms": min(row[2] for row in rows),
    }
    assert file.maxima == {
        "metric": expected[-1][0],
        "series_id": max(row[1] for row in rows),
        "timestamp_ms": max(row[2] for row in rows),
    }
    assert file.null_counts["start_timestamp_ms"] == sum(not row[4] for row in rows)
    assert file.null_counts["replica"] == sum(not row[5] for row in rows)


def test_duckdb_reads_every_bit_pattern(tmp_path: Path) -> None:
    """LAKE-4: NaN payloads, signs of zero and infinities pass through a foreign reader."""
    path = tmp_path / "f-1.parquet"
    write_rows(path, [("up", 1, DAY_START_MS + i + 1, b, 0, "") for i, b in enumerate(HARD_BITS)])
    values = duckdb.execute(f"SELECT value FROM read_parquet('{path}') ORDER BY timestamp_ms")
    assert values.fetchnumpy()["value"].view(np.uint64).tolist() == HARD_BITS


def test_duckdb_sees_plain_columns_and_prunes_by_metric(tmp_path: Path) -> None:
    path = tmp_path / "f-1.parquet"
    write_rows(
        path,
        [("a", 1, DAY_START_MS + 1, 0, 7, "replica-0"), ("b", 2, DAY_START_MS + 2, 0, 0, "")],
    )
    described = duckdb.execute(f"DESCRIBE SELECT * FROM read_parquet('{path}')").fetchall()
    assert [row[:2] for row in described] == [
        ("metric", "VARCHAR"),
        ("series_id", "BIGINT"),
        ("timestamp_ms", "BIGINT"),
        ("value", "DOUBLE"),
        ("start_timestamp_ms", "BIGINT"),
        ("replica", "VARCHAR"),
    ]
    rows = duckdb.execute(f"SELECT * FROM read_parquet('{path}') WHERE metric = 'b'").fetchall()
    assert rows == [("b", 2, DAY_START_MS + 2, 0.0, None, None)]


def columns_of(path: Path) -> dict[str, Any]:
    group = pq.ParquetFile(path).metadata.row_group(0)
    columns = [group.column(index) for index in range(group.num_columns)]
    return {column.path_in_schema: column for column in columns}


def test_columns_are_encoded_as_documented(tmp_path: Path) -> None:
    path = tmp_path / "f-1.parquet"
    write_rows(path, [("a", 1, DAY_START_MS + 1, 0, 5, "replica-0")] * 3)
    columns = columns_of(path)
    for name in ("metric", "series_id", "replica"):
        assert "RLE_DICTIONARY" in columns[name].encodings
    for name in ("timestamp_ms", "start_timestamp_ms"):
        assert "DELTA_BINARY_PACKED" in columns[name].encodings
    assert "BYTE_STREAM_SPLIT" in columns["value"].encodings
    for name in ("series_id", "timestamp_ms", "value", "start_timestamp_ms"):
        assert columns[name].compression == "ZSTD"
    assert all(column.has_column_index for name, column in columns.items() if name != "value")
    assert all(column.has_offset_index for column in columns.values())
    assert pq.ParquetFile(path).metadata.metadata is None


def test_values_have_no_statistics(tmp_path: Path) -> None:
    """LAKE-4: a reader that trusts bounds would skip NaN."""
    path = tmp_path / "f-1.parquet"
    file = one_sample(path)
    columns = columns_of(path)
    assert columns["value"].statistics is None
    assert columns["timestamp_ms"].statistics.min == DAY_START_MS + 1
    assert columns["metric"].statistics.max == "up"
    assert "value" not in json.loads(file.stats_json())["minValues"]


def test_one_series_id_under_two_metrics_keeps_both(tmp_path: Path) -> None:
    """The key is (metric, series_id); a row group's dictionary then holds the id twice."""
    path = tmp_path / "f-1.parquet"
    rows: list[Row] = [
        (metric, 7, DAY_START_MS + step, 0, 0, "") for metric in ("a", "b") for step in (1, 2)
    ]
    write_rows(path, rows)
    assert rows_of(path) == rows
    counted = duckdb.execute(
        f"SELECT metric, count(*) FROM read_parquet('{path}') WHERE series_id = 7 "
        "GROUP BY 1 ORDER BY 1"
    )
    assert counted.fetchall() == [("a", 2), ("b", 2)]


def test_ranks_without_rows_leave_no_trace(tmp_path: Path) -> None:
    """A day's file knows only the series of that day, though the ranking is that of the flush."""
    path = tmp_path / "f-1.parquet"
    file = write_samples(
        path,
        DAY,
        metrics=["a", "b", "c"],
        metric_of_rank=np.array([0, 1, 1, 2], np.int32),
        series_id_of_rank=integers([-50, 3, 4, 90]),
        offsets=integers([0, 0, 1, 2, 2]),
        timestamps_ms=integers([DAY_START_MS + 1, DAY_START_MS + 2]),
        values=values_of_bits([0, 0]),
    )
    assert (file.minima["metric"], file.maxima["metric"]) == ("b", "b")
    assert (file.minima["series_id"], file.maxima["series_id"]) == (3, 4)
    assert [row[1] for row in rows_of(path)] == [3, 4]


@pytest.mark.parametrize(
    ("count", "group_rows"),
    [(8_193, 8_192), (64 * 20_000, 20_000), (64 * 131_072 + 64, 131_072)],
)
def test_row_groups_are_a_64th_of_the_file_within_bounds(
    tmp_path: Path, count: int, group_rows: int
) -> None:
    path = tmp_path / "f-1.parquet"
    write_samples(
        path,
        DAY,
        metrics=["up"],
        metric_of_rank=np.zeros(1, np.int32),
        series_id_of_rank=integers([1]),
        offsets=integers([0, count]),
        timestamps_ms=DAY_START_MS + 1 + np.arange(count),
        values=np.zeros(count),
    )
    metadata = pq.ParquetFile(path).metadata
    groups = metadata.num_row_groups
    lengths = [metadata.row_group(index).num_rows for index in range(groups)]
    assert set(lengths[:-1]) == {group_rows}
    assert sum(lengths) == count


def test_a_full_disk_leaves_no_file(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, hard))  # the next write past it fails
    try:
        with pytest.raises(OSError, match="File too large"):
            one_sample(tmp_path / "f-1.parquet")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())


def test_a_batch_that_fails_leaves_no_file(tmp_path: Path) -> None:
    def batches() -> Iterator[SeriesBatch]:
        yield SeriesBatch(["up"], integers([1]), label_rows([{"__name__": "up"}]))
        raise RuntimeError("registry gone")

    with pytest.raises(RuntimeError, match="registry gone"):
        write_series(tmp_path / "f-1.parquet", batches(), partition="2026-11")
    assert not list(tmp_path.iterdir())


def test_series_keep_their_labels(tmp_path: Path) -> None:
    path = tmp_path / "f-1.series.parquet"
    labels = [
        {"__name__": "up", "job": "node", "namé": "wért"},
        {"__name__": "up", "job": "api"},
        {"__name__": "z"},
    ]
    file = write_series(
        path,
        [
            SeriesBatch(["up", "up"], integers([-4, 9]), label_rows(labels[:2])),
            SeriesBatch(["z"], integers([-7]), label_rows(labels[2:])),
        ],
        partition="2026-11",
    )
    read = duckdb.execute(
        f"SELECT metric, series_id, labels FROM read_parquet('{path}')"
    ).fetchall()
    assert read == [("up", -4, labels[0]), ("up", 9, labels[1]), ("z", -7, labels[2])]
    assert (file.minima, file.maxima) == (
        {"metric": "up", "series_id": -7},
        {"metric": "z", "series_id": 9},
    )
    assert pq.ParquetFile(path).num_row_groups == 2


def test_label_text_is_not_copied_on_its_way_into_arrow() -> None:
    labels = label_rows([{"__name__": "up", "job": "node"}])
    column = parquet._labels_column(labels)
    text = column.keys.buffers()[2]
    assert text.address == np.frombuffer(labels.name_bytes, np.uint8).ctypes.data


def test_metadata_is_sorted_by_metric(tmp_path: Path) -> None:
    path = tmp_path / "f-1.metadata.parquet"
    rows = [("up", "gauge", "1 if it answers", "", 20), ("a_total", "counter", "", "bytes", 10)]
    file = write_metadata(path, rows)
    assert duckdb.execute(f"SELECT * FROM read_parquet('{path}')").fetchall() == sorted(rows)
    assert file.minima == {"metric": "a_total", "seen_ms": 10}
    assert file.maxima == {"metric": "up", "seen_ms": 20}
    assert file.row_count == 2


def test_a_failing_file_system_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=os.strerror(2)):
        one_sample(tmp_path / "none" / "f-1.parquet")
