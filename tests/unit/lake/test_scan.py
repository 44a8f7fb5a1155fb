"""What a scan reads, and in which slices it gives it."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest

from bridge.errors import QueryCancelled
from bridge.lake import parquet, scan
from bridge.lake.block_file import Check
from bridge.lake.footers import FooterCache
from bridge.lake.head_view import HeadRows
from bridge.lake.row_groups import FileRead, RowGroup, RowGroups
from bridge.lake.sample_rows import SampleColumns
from bridge.lake.scan import Scan, ScanFile, Slice
from bridge.lake.selection import Found, Selection
from bridge.model.time_range import TimeRange
from tests.oracle.lake_files import FileLake, LakeRow, canonical
from tests.oracle.made_head import head_rows, new_registry
from tests.oracle.tsdb import Labels

T = 1_795_219_200_000
HOUR = 3_600_000
DAY = 86_400_000
STEP = 60_000

Got = dict[int, list[tuple[int, int]]]


@pytest.fixture
def lake(tmp_path: Path) -> FileLake:
    return FileLake(tmp_path)


def labels_of(series: int, metric: str = "up") -> Labels:
    return canonical({"__name__": metric, "series": str(series)})


def made(
    series_count: int, count: int, after_ms: int = T, metric: str = "up", replica: str = ""
) -> list[LakeRow]:
    return [
        (labels_of(series, metric), after_ms + STEP * (step + 1), step, replica)
        for series in range(series_count)
        for step in range(count)
    ]


def select(rows: Sequence[LakeRow]) -> Selection:
    registry = new_registry()
    head_rows(registry, [(labels, T, 0, "") for labels, _, _, _ in rows], 1000)
    return Selection.join([Found(registry, np.arange(len(registry), dtype=np.uint32))])


def start(
    lake: FileLake,
    selection: Selection,
    after_ms: int = T,
    until_ms: int = T + 40 * DAY,
    heads: Sequence[HeadRows] = (),
    rows_max: int = 1 << 20,
    footers: FooterCache | None = None,
) -> Scan:
    def list_files(time_range: TimeRange) -> list[ScanFile]:
        files = lake.snapshot().sample_files(None, time_range.after_ms, time_range.until_ms)
        return [ScanFile(file, 10) for file in files]

    return Scan(
        selection,
        TimeRange(after_ms, until_ms),
        list_files,
        heads,
        footers or FooterCache(1 << 20),
        lambda: None,
        rows_max,
    )


def gather(slices: Sequence[Slice]) -> Got:
    """Samples by rank, in the order in which they came."""
    got: Got = {}
    for part in slices:
        rows = part.rows
        for slot, (begin, end) in enumerate(zip(rows.offsets, rows.offsets[1:], strict=False)):
            if begin < end:
                bits = rows.values[begin:end].view(np.uint64).tolist()
                times = rows.timestamps_ms[begin:end].tolist()
                got.setdefault(part.rank_begin + slot, []).extend(zip(times, bits, strict=True))
    return got


def test_slices_of_a_series_follow_one_another_in_time(lake: FileLake) -> None:
    """READ-3, with slices as small as they get."""
    rows = made(3, 40) + made(3, 40, T + DAY)
    lake.add(rows[::2])
    lake.add(rows[1::2])
    slices = list(start(lake, select(rows), rows_max=5).slices())
    assert len(slices) > 20
    got = gather(slices)
    assert sorted(got) == [0, 1, 2]
    for samples in got.values():
        assert [time for time, _ in samples] == sorted({time for _, time, _, _ in rows})


def test_row_groups_of_other_metrics_series_and_times_are_not_read(lake: FileLake) -> None:
    rows = made(20, 20, metric="a") + made(20, 20, metric="b") + made(20, 20, metric="c")
    with patch.object(parquet, "SAMPLE_ROWS", 20), patch.object(parquet, "SAMPLE_ROWS_MIN", 20):
        lake.add(rows)
    lake.add(made(5, 5, T + DAY, "b"))
    footers = FooterCache(1 << 20)
    one = select([(labels_of(7, "b"), 0, 0, "")])
    reads: list[int] = []
    original = RowGroups.read

    def counted(
        self: RowGroups[SampleColumns], wanted: Sequence[FileRead], check: Check
    ) -> Iterator[RowGroup[SampleColumns]]:
        reads.extend(len(read.groups) for read in wanted)
        return original(self, wanted, check)

    with patch.object(RowGroups, "read", counted):
        got = gather(list(start(lake, one, T, T + DAY, footers=footers).slices()))
    assert len(got[0]) == 20
    assert reads == [1]


def test_samples_of_head_blocks_and_files_are_merged_once(lake: FileLake) -> None:
    """READ-2."""
    rows = made(4, 30)
    lake.add(rows[:80])
    registry = new_registry()
    head = head_rows(registry, rows[40:], 7)
    selection = Selection.join(
        [
            Found(registry, np.arange(len(registry), dtype=np.uint32)),
            *select(rows).found,
        ]
    )
    for rows_max in (3, 1000):
        got = gather(list(start(lake, selection, heads=[head], rows_max=rows_max).slices()))
        assert {rank: len(samples) for rank, samples in got.items()} == dict.fromkeys(range(4), 30)


def test_slice_that_turns_out_too_large_is_halved_while_it_is_read(lake: FileLake) -> None:
    # All rows lie in the last hundredth of what the bounds promise.
    first: list[LakeRow] = [(labels_of(0), T + 1, 0, "")]
    rows = first + made(1, 200, T + 99 * 200 * STEP // 100)
    lake.add(rows)
    narrow = start(lake, select(rows), T + 10**6, T + 40 * DAY, rows_max=20)
    slices = list(narrow.slices())
    assert max(len(part.rows.timestamps_ms) for part in slices) <= 40
    assert len(gather(slices)[0]) == 200


def test_whole_hours_are_read_where_replicas_meet(lake: FileLake) -> None:
    """READ-5: the answer does not depend on where the range begins."""
    one = made(1, 50, T, replica="r0")
    other = [(labels, at + 20_000, bits + 1000, "r1") for labels, at, bits, _ in made(1, 59, T)]
    del one[10:20]  # r0 misses ten scrapes: r1 is followed from there to the end of the hour
    lake.add(one)
    lake.add(other)
    selection = select(one)
    whole = gather(list(start(lake, selection, T, T + HOUR).slices()))[0]
    assert {bits >= 1000 for time, bits in whole if time > T + 12 * STEP} == {True}
    for after_ms in (T + 5 * STEP, T + 15 * STEP, T + 40 * STEP):
        part = gather(list(start(lake, selection, after_ms, T + 45 * STEP).slices()))[0]
        assert part == [row for row in whole if after_ms < row[0] <= T + 45 * STEP]


@pytest.mark.parametrize("replica", ["", "r0"])
def test_nothing_more_is_read_for_a_single_replica(lake: FileLake, replica: str) -> None:
    lake.add(made(1, 50, T, replica=replica))
    one = start(lake, select(made(1, 1)), T + 10 * STEP, T + 20 * STEP)
    assert not one._has_replicas
    with patch.object(scan, "choose_replicas", side_effect=AssertionError):
        assert len(gather(list(one.slices()))[0]) == 10


def test_expected_rows_tell_how_much_will_be_read(lake: FileLake) -> None:
    lake.add(made(10, 100))
    half = start(lake, select(made(5, 1)), T, T + 200 * STEP)
    assert half.expected_rows() == pytest.approx(500, rel=0.05)
    assert half.file_count == 1
    nothing = start(lake, select(made(5, 1, metric="down")))
    assert nothing.expected_rows() == 0
    assert list(nothing.slices()) == []


def test_scan_ends_between_row_groups_when_nobody_waits(lake: FileLake) -> None:
    lake.add(made(2, 10))
    lake.add(made(2, 10, T + DAY))
    files = lake.snapshot().sample_files(None, T, T + 2 * DAY)
    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls == 4:  # two files found, one row group read
            raise QueryCancelled("gone")

    one = Scan(
        select(made(2, 1)),
        TimeRange(T, T + 2 * DAY),
        lambda _: [ScanFile(file, 2) for file in files],
        [],
        FooterCache(1 << 20),
        check,
    )
    with pytest.raises(QueryCancelled):
        list(one.slices())
