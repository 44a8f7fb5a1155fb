"""Footers: what is kept, what is forgotten, what is known of a row group."""

from pathlib import Path
from unittest.mock import patch

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bridge.lake import parquet
from bridge.lake.footers import FooterCache, read_footer
from bridge.lake.schema import SAMPLES, TABLES
from tests.oracle.lake_files import FileLake, LakeRow, canonical, series_id

T = 1_795_219_200_000


def rows(metric: str, count: int, replica: str = "") -> list[LakeRow]:
    return [(canonical({"__name__": metric}), T + 1 + step, step, replica) for step in range(count)]


@pytest.fixture
def lake(tmp_path: Path) -> FileLake:
    return FileLake(tmp_path)


def test_bounds_of_row_groups_are_columns(lake: FileLake) -> None:
    """LAKE-7."""
    with patch.object(parquet, "SAMPLE_ROWS", 4), patch.object(parquet, "SAMPLE_ROWS_MIN", 4):
        lake.add(rows("a", 6) + rows("b", 6))
    footer = read_footer(str(lake.samples[0].path))
    assert footer.row_counts.tolist() == [4, 4, 4]
    assert (footer.metric_minima, footer.metric_maxima) == (["a", "a", "b"], ["a", "b", "b"])
    ids = [series_id(canonical({"__name__": metric})) for metric in "ab"]
    assert footer.series_id_minima.tolist() == [ids[0], min(ids), ids[1]]
    assert footer.series_id_maxima.tolist() == [ids[0], max(ids), ids[1]]
    assert footer.timestamp_ms_minima.tolist() == [T + 1, T + 1, T + 3]
    assert footer.timestamp_ms_maxima.tolist() == [T + 4, T + 6, T + 6]
    assert footer.replicas == ["", "", ""]


def test_replica_is_known_where_a_row_group_has_one(lake: FileLake) -> None:
    with patch.object(parquet, "SAMPLE_ROWS", 4), patch.object(parquet, "SAMPLE_ROWS_MIN", 4):
        lake.add(rows("a", 4) + rows("b", 4, "r0") + rows("c", 2, "r0") + rows("d", 2, "r1"))
    assert read_footer(str(lake.samples[0].path)).replicas == ["", "r0", None]


def test_file_without_statistics_can_hold_anything(tmp_path: Path) -> None:
    """LAKE-7."""
    path = tmp_path / "foreign.parquet"
    columns = TABLES[SAMPLES].columns
    table = pa.table([["up"], [1], [T], [1.0], [None], [None]], schema=columns)
    pq.write_table(table, path, write_statistics=False)
    footer = read_footer(str(path))
    assert footer.metric_minima[0] <= "up" <= footer.metric_maxima[0]
    assert footer.series_id_minima[0] <= -(1 << 63)
    assert footer.timestamp_ms_minima[0] < T < footer.timestamp_ms_maxima[0]
    assert footer.replicas == [None]


def test_least_recently_used_footers_go_first(lake: FileLake) -> None:
    for _ in range(3):
        lake.add(rows("a", 1))
    files = [file.lake_file() for file in lake.samples]
    size = read_footer(str(lake.samples[0].path)).memory_bytes
    cache = FooterCache(2 * size)
    for index in (0, 1, 0, 2, 0, 1):
        cache.fetch([files[index]], lambda: None)
    assert (cache.hit_count, cache.miss_count) == (2, 4)
    assert cache.memory_bytes == 2 * size


def test_footers_of_many_files_come_in_the_order_asked_for(lake: FileLake) -> None:
    for metric in "abc":
        lake.add(rows(metric, 1))
    files = [file.lake_file() for file in lake.samples]
    cache = FooterCache(1 << 20)
    cache.fetch(files[1:2], lambda: None)
    found = cache.fetch(files[::-1], lambda: None)
    assert [footer.metric_minima for footer in found] == [["c"], ["b"], ["a"]]
    assert (cache.hit_count, cache.miss_count) == (1, 3)


def test_vanished_file_says_so(lake: FileLake) -> None:
    lake.add(rows("a", 1))
    lake.samples[0].path.unlink()
    with pytest.raises(FileNotFoundError):
        FooterCache(1).fetch([lake.samples[0].lake_file()], lambda: None)
