"""What the lake has of each level, out of the names and statistics of its files."""

from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.lake.head_view import CutFiles, HeadRows
from bridge.lake.selection import Found, Selection
from bridge.lake.snapshot import LakeFile, Snapshot, TableFiles
from bridge.model.time_range import TimeRange
from bridge.read.coverage import CoverageCache, union, without
from bridge.read.resolution import Coverage
from tests.oracle.lake_files import canonical
from tests.oracle.made_head import head_rows, new_registry

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
BEGIN_MS = 1_777_593_600_000  # 2026-05-01T00:00Z
TOKEN = "0123456789abcdef"

Made = tuple[str, int, int]


def hours(begin: int, end: int) -> TimeRange:
    return TimeRange(BEGIN_MS + begin * HOUR_MS, BEGIN_MS + end * HOUR_MS)


def named(kind: str, begin: int, end: int) -> Made:
    """A file of the maintenance with its whole span full of rows."""
    span = hours(begin, end)
    begun, ended = (
        datetime.fromtimestamp(at / 1000, UTC).strftime("%Y%m%dT%H")
        for at in (span.after_ms, span.until_ms)
    )
    return f"{kind}-{begun}-{ended}-{TOKEN}-0.parquet", span.after_ms + 1, span.until_ms


def flush(begin_ms: int, end_ms: int) -> Made:
    return f"f-{begin_ms}.parquet", begin_ms, end_ms


def table(files: Sequence[Made], column: str = "timestamp_ms") -> TableFiles:
    names, minima, maxima = zip(*files, strict=True) if files else ((), (), ())
    actions = pa.table(
        {
            "path": pa.array([f"date=2026-05-01/{name}" for name in names], pa.string()),
            "partition.date": pa.array(["2026-05-01"] * len(files), pa.string()),
            "num_records": pa.array([10] * len(files), pa.int64()),
            "size_bytes": pa.array([1000] * len(files), pa.int64()),
            f"min.{column}": pa.array(minima, pa.int64()),
            f"max.{column}": pa.array(maxima, pa.int64()),
            "min.metric": pa.array(["b"] * len(files), pa.string()),
            "max.metric": pa.array(["d"] * len(files), pa.string()),
        }
    )
    return TableFiles.from_actions("lake/", actions, pa.field("date", pa.string()), column)


def snapshot(
    raw: Sequence[Made],
    five_m: Sequence[Made],
    one_h: Sequence[Made],
    version: int = 0,
    dropped_days: int = 0,
) -> Snapshot:
    names = ("samples", "samples_5m", "samples_1h")
    return Snapshot(
        samples=table(raw),
        series=table([]),
        metadata=table([]),
        versions=dict.fromkeys(names, version),
        samples_5m=table(five_m, "window_end_ms"),
        samples_1h=table(one_h, "window_end_ms"),
        raw_dropped_day=BEGIN_MS // DAY_MS + dropped_days - 1 if dropped_days else None,
    )


def coverage_of(
    lake: Snapshot, heads: Sequence[HeadRows] = (), cuts: Sequence[CutFiles] = ()
) -> Coverage:
    return CoverageCache().of(lake, Selection.join([]), heads, cuts)


def test_a_lake_without_rollups_is_raw() -> None:
    assert coverage_of(snapshot([flush(BEGIN_MS + 1, BEGIN_MS + 9)], [], [])) == Coverage()


def test_levels_are_what_names_promise() -> None:
    days = [named("r", 0, 24), named("r", 24, 48), named("r", 48, 49)]
    open_hour = flush(hours(49, 50).after_ms + 1, hours(49, 50).until_ms)
    raw = [named("c", 24, 48), named("c", 48, 49), open_hour]
    found = coverage_of(
        snapshot(raw, days, [named("r", 0, 48), named("r", 48, 49)], dropped_days=1)
    )
    assert found.five_m == (hours(0, 49),)
    assert found.one_h == (hours(0, 49),)
    assert found.raw_dropped == (hours(0, 24),)
    assert found.late == ()


def test_flushes_in_what_is_rolled_up_are_late() -> None:
    late = flush(hours(5, 6).after_ms + 1, hours(5, 6).after_ms + 1)
    lake = snapshot([named("c", 0, 24), late], [named("r", 0, 24)], [named("r", 0, 24)])
    assert coverage_of(lake).late == (hours(5, 6),)
    assert coverage_of(lake).raw_dropped == ()


def test_a_quiet_hour_belongs_to_the_rollups_around_it() -> None:
    rollups = [named("r", 0, 5), named("r", 7, 24)]
    raw = [named("c", 0, 5), named("c", 7, 24)]
    assert coverage_of(snapshot(raw, rollups, rollups)).five_m == (hours(0, 24),)
    busy = [*raw, flush(hours(5, 6).after_ms + 1, hours(5, 6).after_ms + 2)]
    assert coverage_of(snapshot(busy, rollups, rollups)).five_m == (hours(0, 5), hours(7, 24))
    gone = snapshot([], rollups, rollups, dropped_days=1)
    assert coverage_of(gone).raw_dropped == (hours(0, 24),)


def test_between_the_commits_of_a_job_raw_samples_are_there() -> None:
    flushes = [flush(hours(0, 1).after_ms + 1, hours(0, 1).until_ms)]
    lake = snapshot(flushes, [named("r", 0, 1)], [named("r", 0, 1)])
    assert coverage_of(lake).raw_dropped == ()
    assert coverage_of(lake).late == (hours(0, 1),)


def test_a_day_that_was_passed_over_is_not_expired() -> None:
    rollups = [named("r", 0, 24), named("r", 24, 48)]
    lake = snapshot([named("c", 0, 24)], rollups, rollups, dropped_days=2)
    assert coverage_of(lake).raw_dropped == (hours(24, 48),)


def test_late_samples_do_not_hide_what_is_expired() -> None:
    late = flush(hours(5, 6).after_ms + 1, hours(5, 6).after_ms + 1)
    lake = snapshot([late], [named("r", 0, 24)], [named("r", 0, 24)], dropped_days=1)
    assert coverage_of(lake).raw_dropped == (hours(0, 24),)


def test_cut_files_are_late_too() -> None:
    lake = snapshot([named("c", 0, 24)], [named("r", 0, 24)], [named("r", 0, 24)])
    at_ms = hours(3, 4).after_ms + 5
    cut = LakeFile("cut", "2026-05-01", 1, 1, "a", "z", at_ms, at_ms)
    assert coverage_of(lake, cuts=[CutFiles(new_registry(), (cut,))]).late == (hours(3, 4),)


def test_of_the_head_the_hours_count_that_have_rows_of_the_query() -> None:
    lake = snapshot([named("c", 0, 24)], [named("r", 0, 24)], [named("r", 0, 24)])
    registry = new_registry()
    own = canonical({"__name__": "c"})
    other = canonical({"__name__": "other"})
    head = head_rows(
        registry,
        [
            (own, BEGIN_MS + 90 * 60_000, 0, ""),
            (own, BEGIN_MS + 2 * DAY_MS, 0, ""),
            (other, BEGIN_MS + 5 * HOUR_MS, 0, ""),
        ],
    )
    refs = registry.select(None)[0]
    ids = registry.metric_ids(refs)
    mine = refs[ids == registry.find_pair(b"__name__", b"c")]
    selection = Selection.join([Found(registry, mine)])
    assert CoverageCache().of(lake, selection, [head], []).late == (hours(1, 2),)


def test_another_metric_s_flush_does_not_matter() -> None:
    late = flush(hours(5, 6).after_ms + 1, hours(5, 6).after_ms + 1)
    lake = snapshot([named("c", 0, 24), late], [named("r", 0, 24)], [named("r", 0, 24)])
    registry = new_registry()
    head_rows(registry, [(canonical({"__name__": "zzz"}), 1, 0, "")])
    selection = Selection.join([Found(registry, registry.select(None)[0])])
    assert CoverageCache().of(lake, selection, [], []).late == ()


def test_what_is_known_follows_the_versions() -> None:
    cache = CoverageCache()
    nothing = Selection.join([])
    first = snapshot([named("c", 0, 1)], [named("r", 0, 1)], [named("r", 0, 1)], version=1)
    second = snapshot([named("c", 0, 2)], [named("r", 0, 2)], [named("r", 0, 2)], version=2)
    assert cache.of(first, nothing, [], []).five_m == (hours(0, 1),)
    assert cache.of(second, nothing, [], []).five_m == (hours(0, 2),)


def small_ranges() -> st.SearchStrategy[list[TimeRange]]:
    pair = st.tuples(st.integers(0, 40), st.integers(0, 40))
    return st.lists(pair.map(lambda ends: TimeRange(min(ends), max(ends))), max_size=8)


def instants(ranges: Sequence[TimeRange]) -> set[int]:
    return {at for one in ranges for at in range(one.after_ms + 1, one.until_ms + 1)}


@given(ranges=small_ranges(), others=small_ranges())
def test_ranges_as_sets(ranges: list[TimeRange], others: list[TimeRange]) -> None:
    joined, removed = union(ranges), union(others)
    assert instants(joined) == instants(ranges)
    assert all(one.until_ms < two.after_ms for one, two in pairwise(joined))
    left = without(joined, removed)
    assert instants(left) == instants(ranges) - instants(others)
    assert not any(one.is_empty for one in left)


@pytest.mark.parametrize("others", [[], [TimeRange(0, 100)], [TimeRange(3, 4), TimeRange(6, 7)]])
def test_without(others: list[TimeRange]) -> None:
    left = without([TimeRange(2, 8)], others)
    assert instants(left) == set(range(3, 9)) - instants(others)
