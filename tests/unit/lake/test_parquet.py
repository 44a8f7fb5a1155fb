import json
import os
import random
import resource
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bridge.lake import parquet
from bridge.lake.data_file import DataFile
from bridge.lake.parquet import (
    RollupWriter,
    SampleWriter,
    SeriesBatch,
    SeriesWriter,
    write_metadata,
    write_samples,
    write_series,
)
from bridge.lake.schema import SAMPLES_1H, SAMPLES_5M, TABLES
from bridge.model.staleness import STALE_BITS
from bridge.wire.columns import F64Array, I32Array, I64Array
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
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        table = file.read()
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
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
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


def test_no_flipped_bit_of_the_data_gives_another_answer(tmp_path: Path) -> None:
    """LAKE-20: every page has a checksum, which our readers compare."""
    rows: list[Row] = [
        ("m", number % 7, DAY_START_MS + number, number, 0, "") for number in range(1, 3000)
    ]
    path = tmp_path / "f-1.parquet"
    write_rows(path, sorted(rows))
    expected, body = rows_of(path), path.read_bytes()
    with pq.ParquetFile(path) as whole:
        footer_bytes = whole.metadata.serialized_size + 8
    chance = random.Random(1)
    for _ in range(300):
        damaged = bytearray(body)
        damaged[chance.randrange(4, len(body) - footer_bytes)] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        try:
            found = rows_of(path)
        except (pa.ArrowException, OSError):
            continue
        assert found == expected


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


@dataclass(frozen=True)
class MadeBatch:
    """Whole series of one or more samples each."""

    metrics: list[str]
    metric_of_rank: I32Array
    series_id_of_rank: I64Array
    offsets: I64Array
    timestamps_ms: I64Array
    values: F64Array
    start_timestamps_ms: I64Array | None = None
    replica_of_row: I32Array | None = None
    replicas: Sequence[str] = ("",)


def made_batch(rows: Sequence[Row], *, has_more: bool) -> MadeBatch:
    """Of sorted rows; columns that are empty are left out, or full of zeros if `has_more`."""
    ranks = list(dict.fromkeys(row[:2] for row in rows))
    metrics = sorted({metric for metric, _ in ranks})
    counts = [sum(row[:2] == rank for row in rows) for rank in ranks]
    replicas = ["", *sorted({row[5] for row in rows} - {""})]
    starts = integers([row[4] for row in rows])
    places = np.array([replicas.index(row[5]) for row in rows], np.int32)
    return MadeBatch(
        metrics,
        np.array([metrics.index(metric) for metric, _ in ranks], np.int32),
        integers([series_id for _, series_id in ranks]),
        np.cumsum([0, *counts]).astype(np.int64),
        integers([row[2] for row in rows]),
        values_of_bits([row[3] for row in rows]),
        starts if has_more or starts.any() else None,
        places if has_more or places.any() else None,
        replicas,
    )


def numbered(folder: Path) -> Callable[[int], Path]:
    return lambda number: folder / f"c-{number}.parquet"


@given(
    rows=rows_strategy,
    group=st.integers(1, 7),
    cuts=st.sets(st.integers(1, 39), max_size=5),
    bytes_max=st.sampled_from([1, 1500, 1 << 30]),
    has_more=st.booleans(),
)
@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_batches_become_one_set_of_files(
    rows: list[Row], group: int, cuts: set[int], bytes_max: int, has_more: bool, tmp_path: Path
) -> None:
    """However they are cut into batches, row groups and files, and never within a series."""
    rows = sorted(rows, key=lambda row: row[:3])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parquet, "SAMPLE_ROWS", group)
        with SampleWriter(
            numbered(tmp_path), DAY, expected_rows=len(rows), bytes_max=bytes_max
        ) as writer:
            begin = 0
            for end in [*sorted(cuts), len(rows)]:
                if begin < end <= len(rows) and (
                    end == len(rows) or rows[end][:2] != rows[end - 1][:2]
                ):
                    writer.write(made_batch(rows[begin:end], has_more=has_more))
                    begin = end
            files = writer.finish()
    assert [row for file in files for row in rows_of(file.path)] == rows
    assert [file.path for file in files] == [numbered(tmp_path)(at) for at in range(len(files))]
    series = [{row[:2] for row in rows_of(file.path)} for file in files]
    assert sum(map(len, series)) == len(set().union(*series))
    for file in files:
        assert_log_says_what_is_in(file)


def assert_log_says_what_is_in(file: DataFile) -> None:
    rows = rows_of(file.path)
    assert file.size_bytes == file.path.stat().st_size
    assert file.row_count == len(rows)
    names = ("metric", "series_id", "timestamp_ms")
    columns = dict(zip(names, zip(*rows, strict=True), strict=False))
    assert file.minima == {name: min(values) for name, values in columns.items()}
    assert file.maxima == {name: max(values) for name, values in columns.items()}
    assert file.null_counts == {
        **dict.fromkeys(("metric", "series_id", "timestamp_ms", "value"), 0),
        "start_timestamp_ms": sum(not row[4] for row in rows),
        "replica": sum(not row[5] for row in rows),
    }


def test_next_file_begins_behind_the_series_that_passes_the_limit(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    per_series, series = 3_000, 20
    with SampleWriter(numbered(tmp_path), DAY, expected_rows=0, bytes_max=200_000) as writer:
        for rank in range(series):
            writer.write(
                MadeBatch(
                    ["up"],
                    np.zeros(1, np.int32),
                    integers([rank]),
                    integers([0, per_series]),
                    DAY_START_MS + 1 + np.arange(per_series),
                    rng.random(per_series),
                )
            )
        files = writer.finish()
    assert len(files) > 1
    for file in files:
        assert file.row_count % per_series == 0
        # A row group and a series past the limit, 9 bytes a row.
        assert file.size_bytes < 200_000 + 9 * (parquet.SAMPLE_ROWS_MIN + per_series)
    assert all(file.size_bytes >= 200_000 for file in files[:-1])


def test_waiting_rows_do_not_hold_their_batch(tmp_path: Path) -> None:
    batch = made_batch([("up", 1, DAY_START_MS + 1, 0, 0, "")], has_more=False)
    with SampleWriter(numbered(tmp_path), DAY, expected_rows=1) as writer:
        writer.write(batch)
        batch.values[0] = 9.0
        (file,) = writer.finish()
    assert rows_of(file.path)[0][3] == 0


def test_files_that_are_not_finished_are_gone(tmp_path: Path) -> None:
    first = made_batch([("a", 1, DAY_START_MS + 1, 0, 0, "")] * 2, has_more=False)

    def write(error: Exception | None) -> None:
        with (
            SampleWriter(numbered(tmp_path), DAY, expected_rows=1, bytes_max=1) as writer,
            pytest.MonkeyPatch.context() as patch,
        ):
            patch.setattr(writer._files, "_group_rows", 1)
            writer.write(first)
            writer.write(made_batch([("b", 1, DAY_START_MS + 1, 0, 0, "")], has_more=False))
            assert list(tmp_path.iterdir())
            if error is not None:
                raise error

    write(None)
    assert not list(tmp_path.iterdir())
    with pytest.raises(RuntimeError, match="killed"):
        write(RuntimeError("killed"))
    assert not list(tmp_path.iterdir())


def test_a_writer_without_rows_makes_no_file(tmp_path: Path) -> None:
    with SampleWriter(numbered(tmp_path), DAY, expected_rows=0) as writer:
        assert writer.finish() == []
    assert not list(tmp_path.iterdir())


@dataclass(frozen=True)
class MadeRollups:
    """Two series, the second one with a window that holds a stale marker alone."""

    offsets: I64Array = field(default_factory=lambda: integers([0, 1, 3]))
    window_end_ms: I64Array = field(
        default_factory=lambda: DAY_START_MS + 300_000 * integers([1, 1, 2])
    )
    count: I32Array = field(default_factory=lambda: np.array([2, 1, 0], np.int32))
    sum: F64Array = field(default_factory=lambda: np.array([3.0, np.nan, 0.0]))
    min: F64Array = field(default_factory=lambda: np.array([1.0, np.nan, 0.0]))
    max: F64Array = field(default_factory=lambda: np.array([2.0, np.nan, 0.0]))
    first: F64Array = field(
        default_factory=lambda: values_of_bits([2 << 52, 0x7FF8_0000_0000_0005, 0])
    )
    last: F64Array = field(default_factory=lambda: np.array([1.0, -0.0, 0.0]))
    first_timestamp_ms: I64Array = field(
        default_factory=lambda: DAY_START_MS + integers([1, 7, -DAY_START_MS])
    )
    last_timestamp_ms: I64Array = field(
        default_factory=lambda: DAY_START_MS + integers([2, 7, -DAY_START_MS])
    )
    reset_drop: F64Array = field(default_factory=lambda: np.array([2.0, 0.0, 0.0]))
    resets: I32Array = field(default_factory=lambda: np.array([1, 0, 0], np.int32))
    stale_timestamp_ms: I64Array = field(
        default_factory=lambda: integers([0, 0, DAY_START_MS + 300_001])
    )


@pytest.mark.parametrize(("table", "partition"), [(SAMPLES_5M, DAY), (SAMPLES_1H, DAY[:7])])
def test_rollups_come_back_with_nulls_where_there_is_no_sample(
    tmp_path: Path, table: str, partition: str
) -> None:
    rows = MadeRollups()
    series = made_batch(
        [("a", 5, DAY_START_MS, 0, 0, ""), ("b", -5, DAY_START_MS, 0, 0, "")], has_more=False
    )
    with RollupWriter(numbered(tmp_path), table, partition) as writer:
        writer.write(series, rows)
        (file,) = writer.finish()
    # A bare path would be read with columns of its folders' names.
    read = pq.ParquetFile(file.path).read()
    assert read.schema.equals(TABLES[table].columns)
    first, second, third = read.to_pylist()
    assert first == {
        "metric": "a",
        "series_id": 5,
        "window_end_ms": DAY_START_MS + 300_000,
        "count": 2,
        "sum": 3.0,
        "min": 1.0,
        "max": 2.0,
        "first": float(rows.first[0]),
        "last": 1.0,
        "first_timestamp_ms": DAY_START_MS + 1,
        "last_timestamp_ms": DAY_START_MS + 2,
        "reset_drop": 2.0,
        "resets": 1,
        "stale_timestamp_ms": None,
    }
    assert np.float64(second["first"]).view(np.uint64) == 0x7FF8_0000_0000_0005
    assert {name: value for name, value in third.items() if value is not None} == {
        "metric": "b",
        "series_id": -5,
        "window_end_ms": DAY_START_MS + 600_000,
        "count": 0,
        "resets": 0,
        "stale_timestamp_ms": DAY_START_MS + 300_001,
    }
    assert file.partition == partition
    assert file.minima == {
        "metric": "a",
        "series_id": -5,
        "window_end_ms": DAY_START_MS + 300_000,
    }
    assert file.maxima == {"metric": "b", "series_id": 5, "window_end_ms": DAY_START_MS + 600_000}
    assert {name: count for name, count in file.null_counts.items() if count} == {
        **dict.fromkeys(("sum", "min", "max", "first", "last", "reset_drop"), 1),
        **dict.fromkeys(("first_timestamp_ms", "last_timestamp_ms"), 1),
        "stale_timestamp_ms": 2,
    }


def test_rollups_are_plain_columns_to_others(tmp_path: Path) -> None:
    """LAKE-4: bits survive, and no bound of a value makes a reader skip NaN."""
    series = made_batch(
        [("a", 5, DAY_START_MS, 0, 0, ""), ("b", 6, DAY_START_MS, 0, 0, "")], has_more=False
    )
    with RollupWriter(numbered(tmp_path), SAMPLES_5M, DAY) as writer:
        writer.write(series, MadeRollups())
        (file,) = writer.finish()
    found = duckdb.execute(f"SELECT first FROM read_parquet('{file.path}')").fetchnumpy()
    firsts = np.asarray(found["first"][:2], np.float64)
    assert firsts.view(np.uint64).tolist() == [2 << 52, 0x7FF8_0000_0000_0005]
    columns = columns_of(file.path)
    for name in ("sum", "min", "max", "first", "last", "reset_drop"):
        assert columns[name].statistics is None
        assert "BYTE_STREAM_SPLIT" in columns[name].encodings
    assert columns["window_end_ms"].statistics.max == DAY_START_MS + 600_000
    for name in ("metric", "series_id", "count", "resets"):
        assert "RLE_DICTIONARY" in columns[name].encodings


def test_series_go_on_in_the_next_file(tmp_path: Path) -> None:
    labels = [{"__name__": "up", "job": str(number)} for number in range(3)]
    with SeriesWriter(numbered(tmp_path), "2026-11", bytes_max=1) as writer:
        for number, own in enumerate(labels):
            writer.write(SeriesBatch(["up"], integers([number]), label_rows([own])))
        files = writer.finish()
    assert [file.minima["series_id"] for file in files] == [0, 1, 2]
    found = duckdb.execute(
        "SELECT labels FROM read_parquet($1) ORDER BY series_id",
        [[str(file.path) for file in files]],
    ).fetchall()
    assert [row[0] for row in found] == labels


def test_series_that_are_not_finished_are_gone(tmp_path: Path) -> None:
    with SeriesWriter(numbered(tmp_path), "2026-11", bytes_max=1 << 20) as writer:
        writer.write(SeriesBatch(["up"], integers([1]), label_rows([{"__name__": "up"}])))
        assert list(tmp_path.iterdir())
    assert not list(tmp_path.iterdir())
