"""Label sets of the lake: read once, forgotten past the bound, the right ones either way."""

from collections.abc import Collection
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest

from bridge.errors import QueryCancelled, QueryTooLarge
from bridge.lake import series_sets
from bridge.lake.footers import FooterCache
from bridge.lake.series_sets import LakeSeries, read_series
from bridge.model.time_range import TimeRange
from bridge.wire import remote_read_pb2
from bridge.wire.columns import U32Array
from bridge.wire.series import SeriesRegistry
from tests.oracle.lake_files import FileLake, LakeRow, canonical

NOVEMBER = 1_795_219_200_000
DECEMBER = NOVEMBER + 20 * 86_400_000
ALL = TimeRange(0, 1 << 45)


@pytest.fixture
def lake(tmp_path: Path) -> FileLake:
    return FileLake(tmp_path)


def rows(metric: str, count: int, at: int = NOVEMBER, first: int = 0) -> list[LakeRow]:
    return [
        (canonical({"__name__": metric, "pod": f"pod-{first + n}"}), at, 0, "")
        for n in range(count)
    ]


def keep_all(registry: SeriesRegistry) -> U32Array:
    return np.arange(len(registry), dtype=np.uint32)


def keep(*metrics: str) -> "series_sets.Match":
    def match(registry: SeriesRegistry) -> U32Array:
        pairs = [registry.find_pair(b"__name__", metric.encode()) for metric in metrics]
        known = [pair for pair in pairs if pair >= 0]
        return registry.select(np.array(sorted(known), np.uint32))[0]

    return match


def find(
    cache: LakeSeries,
    lake: FileLake,
    metrics: Collection[str] | None = None,
    time_range: TimeRange = ALL,
) -> list[str]:
    """Metric and pod of what is found, sorted."""
    match = keep_all if metrics is None else keep(*metrics)
    found = cache.find(lake.snapshot(), time_range, metrics, match, lambda: None)
    texts = found.registry.label_bytes(found.refs)
    series = [remote_read_pb2.TimeSeries.FromString(text).labels for text in texts]
    return sorted(" ".join(label.value for label in labels) for labels in series)


def names(metric: str, count: int, first: int = 0) -> list[str]:
    return sorted(f"{metric} pod-{first + n}" for n in range(count))


def make(bytes_max: int = 1 << 24) -> LakeSeries:
    return LakeSeries(bytes_max, FooterCache(1 << 20))


def test_series_of_a_metric_are_found_and_read_once(lake: FileLake) -> None:
    lake.add_series(rows("a", 3) + rows("b", 2))
    cache = make()
    assert find(cache, lake, ["a"]) == names("a", 3)
    assert find(cache, lake, ["a"]) == names("a", 3)
    assert (cache.hit_count, cache.miss_count) == (1, 1)
    assert find(cache, lake) == names("a", 3) + names("b", 2)


def test_large_files_are_read_for_the_metrics_wanted_alone(lake: FileLake) -> None:
    lake.add_series(rows("a", 30) + rows("b", 20) + rows("c", 10))
    cache = make()
    with patch.object(series_sets, "WHOLE_ROWS_MAX", 5):
        assert find(cache, lake, ["b"]) == names("b", 20)
        assert len(cache._loaded.registry) == 20
        assert find(cache, lake, ["a", "b"]) == names("a", 30) + names("b", 20)
        assert len(cache._loaded.registry) == 50
        assert len(find(cache, lake)) == 60


def test_new_files_are_read_when_they_come(lake: FileLake) -> None:
    lake.add_series(rows("a", 2))
    cache = make()
    assert find(cache, lake, ["a"]) == names("a", 2)
    lake.add_series(rows("a", 3, first=1))
    assert find(cache, lake, ["a"]) == names("a", 4)


def test_series_belong_to_the_months_they_stand_in(lake: FileLake) -> None:
    lake.add_series(rows("a", 2) + rows("a", 2, DECEMBER, first=1))
    cache = make()
    november = TimeRange(NOVEMBER - 1000, NOVEMBER)
    december = TimeRange(DECEMBER - 1000, DECEMBER)
    for _ in range(2):  # read, then kept
        assert find(cache, lake, ["a"], november) == names("a", 2)
        assert find(cache, lake, ["a"], december) == names("a", 2, first=1)
        assert find(cache, lake, ["a"]) == names("a", 3)
    assert find(cache, lake, ["a"], TimeRange(0, 1000)) == []


@pytest.mark.parametrize("bytes_max", [1, 150_000])
def test_bound_is_kept_and_answers_stay_right(lake: FileLake, bytes_max: int) -> None:
    for first in range(0, 3000, 300):
        lake.add_series(rows("a", 300, first=first) + rows(f"b{first}", 300))
    cache = make(bytes_max)
    for metric in ("b0", "b300", "b2700", "b0"):
        with patch.object(series_sets, "WHOLE_ROWS_MAX", 0):
            try:
                assert find(cache, lake, [metric]) == names(metric, 300)
            except QueryTooLarge:
                assert bytes_max == 1
        assert cache.memory_bytes <= max(bytes_max, make().memory_bytes)


def test_what_does_not_fit_is_filtered_while_it_is_read(lake: FileLake) -> None:
    for first in range(0, 6000, 1000):
        lake.add_series(rows("a", 1000, first=first))
    cache = make(400_000)

    def few(registry: SeriesRegistry) -> U32Array:
        pods = [registry.find_pair(b"pod", f"pod-{n}".encode()) for n in (7, 1007, 5999)]
        _, offsets, pairs = registry.select(None)
        rows = np.flatnonzero(np.isin(pairs, [pod for pod in pods if pod >= 0]))
        return (np.searchsorted(offsets, rows, "right") - 1).astype(np.uint32)

    found = cache.find(lake.snapshot(), ALL, None, few, lambda: None)
    assert len(found.refs) == len(found.registry) == 3
    with pytest.raises(QueryTooLarge, match=r"read\.series-cache-bytes"):
        cache.find(lake.snapshot(), ALL, None, keep_all, lambda: None)


def test_loading_ends_when_nobody_waits_and_the_next_query_is_right(lake: FileLake) -> None:
    for first in range(0, 30, 10):
        lake.add_series(rows("a", 10, first=first))
    cache = make()
    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise QueryCancelled("gone")

    with pytest.raises(QueryCancelled):
        cache.find(lake.snapshot(), ALL, ["a"], keep("a"), check)
    assert find(cache, lake, ["a"]) == names("a", 30)


def test_rows_of_sliced_files_are_read_right(lake: FileLake) -> None:
    lake.add_series(rows("a", 5) + rows("b", 5) + rows("c", 5))
    wanted = [(lake.series[0].lake_file(), frozenset(["b"]))]
    found = list(read_series(wanted, FooterCache(1 << 20), lambda: None))
    [only, end] = [series_rows for _, _, series_rows in found]
    assert only is not None
    assert end is None
    registry = SeriesRegistry()
    registry.add_rows(only.series_ids, *only.label_columns)
    assert len(registry) == 5


def test_series_are_counted_by_month(lake: FileLake) -> None:
    lake.add_series(rows("a", 5) + rows("b", 5) + rows("c", 5, DECEMBER))
    cache = make()
    assert cache.series_counts(lake.snapshot()) == {"2026-11": 10, "2026-12": 5}
