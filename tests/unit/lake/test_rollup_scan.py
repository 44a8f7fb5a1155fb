"""What a scan of rollups reads, and in which slices it gives it."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow.parquet as pq
import pytest

from bridge.errors import QueryCancelled
from bridge.lake import files, footers, parquet, rollup_scan
from bridge.lake.block_file import Check
from bridge.lake.cached_file import CachedFile
from bridge.lake.file_cache import FileCache, Held, Part
from bridge.lake.footers import FooterCache
from bridge.lake.rollup_scan import RollupScan, WindowFilter, WindowSlice
from bridge.lake.row_groups import FileRead, RowGroup, RowGroups
from bridge.lake.schema import SAMPLES_1H, SAMPLES_5M, TABLES
from bridge.lake.slicer import ScanFile
from bridge.lake.snapshot import LakeFile
from bridge.lake.window_rows import WindowRows
from bridge.model.time_range import TimeRange
from bridge.wire.columns import I64Array
from tests.oracle.lake_files import FileLake
from tests.oracle.remote_lake import RemoteLake
from tests.oracle.rollup import Row
from tests.oracle.rollup_files import (
    COLUMNS,
    Key,
    Window,
    plain_row,
    read_windows,
    select_keys,
    windows_of,
    write_windows,
)

T = 1_796_083_200_000  # 2026-12-01T00:00Z
FIVE_MINUTES = 300_000
HOUR = 3_600_000
DAY = 86_400_000
KEYS: list[Key] = [("up", series_id) for series_id in range(-3, 5)]


@pytest.fixture
def lake(tmp_path: Path) -> FileLake:
    (tmp_path / "local").mkdir()
    return FileLake(tmp_path / "local")


@pytest.fixture
def small_groups() -> Iterator[None]:
    with patch.object(parquet, "ROLLUP_ROWS", 40):
        yield


def hours(keys: Iterable[Key], count: int, after_ms: int = T) -> list[tuple[Key, Row]]:
    return [
        (key, plain_row(after_ms + HOUR * (step + 1), (key[1] + step) % 7 + 1))
        for key in keys
        for step in range(count)
    ]


def add(lake: FileLake, rows: Iterable[tuple[Key, Row]], table: str = SAMPLES_1H) -> LakeFile:
    partition = "2026-12" if table == SAMPLES_1H else "2026-12-01"
    lake.samples.append(write_windows(lake._path(), table, partition, rows))
    return lake.samples[-1].lake_file()


def start(
    every: Sequence[LakeFile],
    keys: Collection[Key] = KEYS,
    after_ms: int = T,
    until_ms: int = T + 400 * DAY,
    columns: Sequence[str] = ("last", "last_timestamp_ms"),
    wanted: WindowFilter | None = None,
    rows_max: int = 1 << 20,
    cache: FooterCache | None = None,
    check: Check = lambda: None,
) -> RollupScan:
    return RollupScan(
        select_keys(keys),
        TimeRange(after_ms, until_ms),
        [ScanFile(file, len(KEYS)) for file in every],
        columns,
        cache or FooterCache(1 << 20),
        check,
        wanted,
        rows_max,
    )


def gather(
    slices: Iterable[WindowSlice], keys: Collection[Key], columns: Sequence[str]
) -> dict[Key, list[Window]]:
    """Windows by series, in the order in which they came."""
    ordered = sorted(keys)
    got: dict[Key, list[Window]] = {}
    for part in slices:
        for slot, rows in enumerate(windows_of(part.rows, columns)):
            assert all(part.after_ms < end_ms <= part.until_ms for end_ms, *_ in rows)
            if rows:
                got.setdefault(ordered[part.rank_begin + slot], []).extend(rows)
    return got


def answer(every: Sequence[LakeFile], **options: Any) -> dict[Key, list[Window]]:
    columns = options.get("columns", ("last", "last_timestamp_ms"))
    return gather(start(every, **options).slices(), options.get("keys", KEYS), columns)


def expected(
    every: Sequence[LakeFile],
    keys: Collection[Key] = KEYS,
    columns: Sequence[str] = ("last", "last_timestamp_ms"),
    is_wanted: Callable[[int], bool] = lambda _: True,
) -> dict[Key, list[Window]]:
    return read_windows([file.path for file in every], keys, columns, is_wanted)


def test_every_column_comes_with_its_type_and_its_bits(lake: FileLake) -> None:
    """LAKE-4: a null is 0, a NaN is what it was."""
    signalling, odd, low = 0x7FF0_0000_0000_0001, 0xFFF8_0000_0000_BEEF, 1 << 63
    full = Row(
        T + 3 * HOUR, 2**31 - 1, signalling, odd, low, 1, 0x7FF0_0000_0000_0000, 2**53 + 1,
        2**53 + 3, signalling, 5, None,
    )  # fmt: skip
    rows = [
        (KEYS[0], plain_row(T + HOUR, 3)),
        (KEYS[0], plain_row(T + 2 * HOUR, 0)),
        (KEYS[0], full),
        (KEYS[1], plain_row(T + 2 * HOUR, 4, stale_timestamp_ms=2**53 + 1)),
    ]
    file = add(lake, rows)
    [part] = start([file], columns=COLUMNS).slices()
    for name in COLUMNS:
        field = TABLES[SAMPLES_1H].columns.field(name)
        assert getattr(part.rows, name).dtype == field.type.to_pandas_dtype()
    assert part.rows.offsets.dtype == part.rows.window_end_ms.dtype == np.int64
    assert answer([file], columns=COLUMNS) == {
        key: [
            (row.window_end_ms, *(getattr(row, name) or 0 for name in COLUMNS))
            for other, row in rows
            if other == key
        ]
        for key in KEYS[:2]
    }


def test_columns_that_were_not_asked_for_are_not_read(lake: FileLake) -> None:
    file = add(lake, hours(KEYS, 5))
    [part] = start([file], columns=["max"]).slices()
    given = [name for name in COLUMNS if getattr(part.rows, name) is not None]
    assert given == ["max"]
    metadata = pq.read_metadata(file.path).row_group(0)
    sizes = {
        metadata.column(place).path_in_schema: metadata.column(place).total_compressed_size
        for place in range(metadata.num_columns)
    }
    # One metric: its name is in the bounds.
    read = sizes["series_id"] + sizes["window_end_ms"] + sizes["max"]
    assert start([file], columns=["max"]).read_bytes() == read


@pytest.mark.usefixtures("small_groups")
@pytest.mark.parametrize("rows_max", [3, 50, 1 << 20])
def test_slices_of_a_series_follow_one_another_in_time(lake: FileLake, rows_max: int) -> None:
    """READ-3; with slices as small as they get, row groups are torn between them."""
    every = [add(lake, hours(KEYS, 30, T + month * 30 * DAY)) for month in range(3)]
    scan = start(every, rows_max=rows_max)
    slices = list(scan.slices())
    assert gather(slices, KEYS, ("last", "last_timestamp_ms")) == expected(every)
    assert (len(slices) == 1) == (rows_max > 1000)
    assert max(len(part.rows.window_end_ms) for part in slices) <= 2 * rows_max
    assert all(part.until_ms % HOUR == part.after_ms % HOUR == 0 for part in slices)


def test_windows_of_files_that_go_on_by_turns_come_in_order(lake: FileLake) -> None:
    """READ-3: a month has a file for each day until they are merged."""
    rows = hours(KEYS, 12)
    every = [add(lake, rows[place::3]) for place in range(3)]
    assert answer(every) == answer(every[::-1]) == expected(every)
    assert answer(every[::-1], keys=KEYS[:1]) == expected(every, KEYS[:1])
    late = [add(lake, hours(KEYS, 4, T + 2 * DAY)), add(lake, hours(KEYS[2:], 4, T + DAY))]
    assert answer(late) == expected(late)
    assert answer(late, keys=KEYS[5:6]) == expected(late, KEYS[5:6])


@pytest.mark.usefixtures("small_groups")
def test_row_groups_of_other_metrics_series_and_times_are_not_read(lake: FileLake) -> None:
    keys = [(metric, series_id) for metric in "abc" for series_id in range(8)]
    file = add(lake, hours(keys, 10))
    late = add(lake, hours(keys, 10, T + 2 * DAY))
    read: list[Any] = []
    make = RowGroup.__init__

    def made(self: Any, path: str, _file: Any, footer: Any, wanted: Any, reading: Any) -> None:
        read.append((path, wanted.numbers))
        make(self, path, _file, footer, wanted, reading)

    with patch.object(RowGroup, "__init__", made):
        got = answer([file, late], keys=[("b", 1), ("d", 1)], until_ms=T + DAY)
    assert got == expected([file], [("b", 1)])
    assert read == [(file.path, (2,))]


def test_windows_end_in_the_range(lake: FileLake) -> None:
    rows = [(key, plain_row(T + FIVE_MINUTES * step, 2)) for key in KEYS for step in range(1, 40)]
    file = add(lake, rows, SAMPLES_5M)
    after_ms, until_ms = T + 3 * FIVE_MINUTES, T + 20 * FIVE_MINUTES
    for rows_max in (2, 1000):
        got = answer([file], after_ms=after_ms, until_ms=until_ms, rows_max=rows_max)
        assert got == expected([file], is_wanted=lambda end_ms: after_ms < end_ms <= until_ms)
    assert answer([file], after_ms=T + DAY, until_ms=T + 2 * DAY) == {}


def every_twelfth(ends: I64Array) -> Any:
    return ends % (12 * HOUR) == 0


@pytest.mark.usefixtures("small_groups")
@pytest.mark.parametrize("rows_max", [5, 1 << 20])
def test_windows_that_are_refused_are_left_out(lake: FileLake, rows_max: int) -> None:
    every = [add(lake, hours(KEYS, 60, T + month * 30 * DAY)) for month in range(2)]
    got = answer(every, wanted=every_twelfth, columns=COLUMNS, rows_max=rows_max)
    assert got == expected(every, columns=COLUMNS, is_wanted=lambda end: end % (12 * HOUR) == 0)
    assert sum(map(len, got.values())) == 2 * 5 * len(KEYS)
    assert answer(every, wanted=lambda ends: np.zeros(len(ends), np.bool_)) == {}


def test_windows_that_many_series_have_are_decided_once(lake: FileLake) -> None:
    keys = [("up", series_id) for series_id in range(500)]
    file = add(lake, hours(keys, 24))
    asked: list[int] = []

    def wanted(ends: I64Array) -> Any:
        asked.append(len(ends))
        return every_twelfth(ends)

    got = answer([file], keys=keys, wanted=wanted, until_ms=T + DAY)
    assert {len(rows) for rows in got.values()} == {2}
    # Of a day, each for the estimate and for the rows.
    assert asked == [288, 277]
    # Where there are more windows than rows, the rows are decided one by one.
    asked.clear()
    assert len(answer([file], keys=keys[:1], wanted=wanted, until_ms=T + DAY)[keys[0]]) == 2
    assert asked[0] == 288
    assert asked[1] <= 277


def test_slices_are_cut_by_memory_and_by_what_is_wanted(lake: FileLake) -> None:
    file = add(lake, hours(KEYS, 100))
    with patch.object(rollup_scan, "SLICE_BYTES", 3 * 8 * 400):
        assert len(list(start([file], columns=["last"]).slices())) >= 4
        assert len(list(start([file], columns=COLUMNS).slices())) >= 24
        # One in twelve of 800.
        assert len(list(start([file], columns=["last"], wanted=every_twelfth).slices())) == 1


def test_slice_that_turns_out_too_large_is_halved_while_it_is_read(lake: FileLake) -> None:
    # All rows but one lie in the last tenth of what the bounds promise.
    rows = [(KEYS[0], plain_row(T + HOUR)), *hours(KEYS, 40, T + 360 * HOUR)]
    file = add(lake, rows)
    slices = list(
        start([file], after_ms=T + 350 * HOUR, until_ms=T + 400 * HOUR, rows_max=40).slices()
    )
    assert max(len(part.rows.window_end_ms) for part in slices) <= 80
    assert sum(len(part.rows.window_end_ms) for part in slices) == 320
    # An hour of one series cannot be cut.
    [part] = start([file], KEYS[:1], T, T + HOUR, rows_max=0).slices()
    assert len(part.rows.window_end_ms) == 1


def test_expected_rows_tell_how_much_will_be_read(lake: FileLake) -> None:
    every = [add(lake, hours(KEYS, 96)), add(lake, hours(KEYS, 96, T + 30 * DAY))]
    half = start(every, KEYS[:4], T, T + 4 * DAY)
    assert half.expected_rows() == pytest.approx(4 * 96, rel=0.05)
    assert half.file_count == 1
    few = start(every, KEYS, T, T + 60 * DAY, wanted=lambda ends: ends % DAY < 6 * HOUR)
    assert few.expected_rows() == pytest.approx(2 * 8 * 96 / 4, rel=0.1)
    assert few.file_count == 2
    nothing = start(every, [("down", 1)])
    assert nothing.expected_rows() == nothing.read_bytes() == nothing.file_count == 0
    assert list(nothing.slices()) == []


def test_scan_ends_between_row_groups_when_nobody_waits(lake: FileLake) -> None:
    every = [add(lake, hours(KEYS, 4)), add(lake, hours(KEYS, 4, T + 30 * DAY))]
    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls == 4:  # two files found, one row group read
            raise QueryCancelled("gone")

    scan = start(every, check=check)
    with pytest.raises(QueryCancelled):
        list(scan.slices())


@pytest.fixture
def remote(lake: FileLake, tmp_path: Path) -> Iterator[RemoteLake]:
    with (
        # Nothing is fetched along, so that what is asked for is what is needed.
        patch.object(footers, "WHOLE_BYTES_MAX", 1),
        patch.object(parquet, "ROLLUP_ROWS", 200),
        RemoteLake(lake, tmp_path / "cache") as made_remote,
    ):
        yield made_remote


def test_what_is_fetched_of_a_file_is_what_pyarrow_reads(
    lake: FileLake, remote: RemoteLake
) -> None:
    """LAKE-13."""
    keys = [(metric, series_id) for metric in "ab" for series_id in range(20)]
    local = [add(lake, hours(keys, 50)), add(lake, hours(keys, 50, T + 30 * DAY))]
    asked: set[tuple[str, int, int]] = set()
    reads: set[tuple[str, int, int]] = set()
    hold, read_at = FileCache.hold, CachedFile._read_at

    def held(self: FileCache, parts: Sequence[Part], check: Any) -> Held:
        asked.update((part.key, *one) for part in parts for one in part.ranges)
        return hold(self, parts, check)

    def read(self: CachedFile, offset: int, length: int) -> bytes:
        reads.add((self._file.key, offset, length))
        return read_at(self, offset, length)

    cache = FooterCache(1 << 20, remote.files)
    every = remote.sample_files()
    own = [key for key in keys if key[0] == "b"]
    with patch.object(FileCache, "hold", held), patch.object(CachedFile, "_read_at", read):
        cache.fetch(every, lambda: None)
        asked.clear()
        reads.clear()
        scan = start(every, own, cache=cache, columns=("sum", "count"))
        total = scan.read_bytes()
        got = gather(scan.slices(), own, ("sum", "count"))
    assert got == expected(local, own, ("sum", "count"))
    assert asked == reads
    assert sum(length for _, _, length in reads) == total
    assert remote.cache.unforeseen_count == 0
    remote.take_requests()
    assert gather(start(every, own, cache=cache).slices(), own, ("last",)).keys() == got.keys()


def test_slices_are_fetched_ahead_in_one_round(lake: FileLake, remote: RemoteLake) -> None:
    local = [add(lake, hours(KEYS, 60, T + month * 30 * DAY)) for month in range(4)]
    cache = FooterCache(1 << 20, remote.files)
    every = remote.sample_files()
    cache.fetch(every, lambda: None)
    rounds: list[int] = []
    fetch_runs = FileCache._fetch_runs

    def fetch(self: FileCache, runs: Any, check: Any) -> None:
        rounds.append(len(runs))
        fetch_runs(self, runs, check)

    with patch.object(FileCache, "_fetch_runs", fetch):
        assert answer(every, cache=cache, rows_max=50) == expected(local)
    assert len(rounds) == 1
    assert remote.cache.unforeseen_count == 0


def test_what_is_held_at_a_time_is_bounded(lake: FileLake, remote: RemoteLake) -> None:
    local = [add(lake, hours(KEYS, 60, T + month * 30 * DAY)) for month in range(6)]
    cache = FooterCache(1 << 20, remote.files)
    every = remote.sample_files()
    cache.fetch(every, lambda: None)
    most = 0
    hold = FileCache.hold

    def held(self: FileCache, parts: Sequence[Part], check: Any) -> Held:
        nonlocal most
        most = max(most, sum(length for part in parts for _, length in part.ranges))
        return hold(self, parts, check)

    with patch.object(files, "STEP_BYTES_MAX", 5000), patch.object(FileCache, "hold", held):
        assert answer(every, cache=cache) == expected(local)
    assert 5000 < most < 5000 + max(file.size_bytes for file in every)
    assert remote.cache.unforeseen_count == 0


@pytest.mark.usefixtures("small_groups")
def test_torn_row_groups_are_decoded_once(lake: FileLake) -> None:
    file = add(lake, hours(KEYS, 60))
    decoded: list[tuple[int, ...]] = []
    make = RowGroup.__init__

    def made(self: Any, path: str, _file: Any, footer: Any, wanted: Any, reading: Any) -> None:
        decoded.append(wanted.numbers)
        make(self, path, _file, footer, wanted, reading)

    with patch.object(RowGroup, "__init__", made):
        slices = list(start([file], rows_max=90).slices())
    assert len(slices) > 4
    assert sorted(number for numbers in decoded for number in numbers) == list(range(12))


def test_window_rows_name_the_columns_of_the_table() -> None:
    """Whoever adds a column to one adds it to the other."""
    names = [field.name for field in TABLES[SAMPLES_1H].columns][2:]
    assert list(WindowRows.__slots__) == ["offsets", *names]
    assert set(names) == {"window_end_ms", *COLUMNS}
    assert TABLES[SAMPLES_5M].columns == TABLES[SAMPLES_1H].columns


def test_reads_of_a_slice_are_one_for_each_file(lake: FileLake) -> None:
    every = [add(lake, hours(KEYS, 4, T + month * 30 * DAY)) for month in range(3)]
    counts: list[int] = []
    read = RowGroups.read

    def counted(self: Any, reads: Sequence[FileRead], check: Check) -> Any:
        counts.append(len(reads))
        return read(self, reads, check)

    with patch.object(RowGroups, "read", counted):
        assert answer(every) == expected(every)
    assert counts == [3]
