"""A scan of rollups gives what a naive reading of the files finds, however it is cut."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from unittest.mock import patch

from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.lake import parquet, slicer
from bridge.lake.footers import FooterCache
from bridge.lake.rollup_scan import RollupScan
from bridge.lake.schema import SAMPLES_1H, SAMPLES_5M
from bridge.lake.slicer import ScanFile
from bridge.model.time_range import TimeRange
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

MONTH_END = 1_796_083_200_000  # 2026-12-01T00:00Z
WINDOW_MS = {SAMPLES_5M: 300_000, SAMPLES_1H: 3_600_000}

keys = st.tuples(
    st.sampled_from(["up", "température"]), st.sampled_from([-(1 << 63), 0, (1 << 63) - 1])
)
# Far apart and side by side.
steps = st.one_of(st.integers(-3, 9), st.integers(0, 3).map(lambda day: day * 288 - 1))
placed = st.lists(
    st.tuples(keys, steps, st.integers(0, 5), st.integers(0, 3)),
    min_size=1,
    max_size=60,
    unique_by=lambda row: row[:2],
)


@settings(max_examples=200, deadline=None)
@given(
    table=st.sampled_from([SAMPLES_5M, SAMPLES_1H]),
    rows=placed,
    span=st.one_of(st.just([-4, 900]), st.tuples(steps, steps).map(sorted)),
    wanted_keys=st.sets(keys, min_size=1),
    columns=st.lists(st.sampled_from(COLUMNS), unique=True),
    step=st.one_of(st.none(), st.integers(1, 13)),
    sizes=st.tuples(st.integers(1, 30), st.integers(1, 30), st.integers(1, 40)),
)
def test_windows_are_those_of_the_files(
    table: str,
    rows: Sequence[tuple[Key, int, int, int]],
    span: list[int],
    wanted_keys: set[Key],
    columns: list[str],
    step: int | None,
    sizes: tuple[int, int, int],
) -> None:
    """READ-3."""
    width_ms = WINDOW_MS[table]
    after_ms, until_ms = (MONTH_END + place * width_ms for place in span)
    by_file: dict[int, list[tuple[Key, Row]]] = {}
    for key, place, count, file in rows:
        row = plain_row(MONTH_END + place * width_ms, count)
        by_file.setdefault(file, []).append((key, row))
    group_rows, batch_rows, rows_max = sizes
    with (
        tempfile.TemporaryDirectory() as folder,
        patch.object(parquet, "ROLLUP_ROWS", group_rows),
        patch.object(slicer, "BATCH_ROWS", batch_rows),
    ):
        written = [
            write_windows(Path(folder, f"{file}.parquet"), table, "2026-12", own)
            for file, own in by_file.items()
        ]
        every = [file.lake_file() for file in written]
        scan = RollupScan(
            select_keys(wanted_keys),
            TimeRange(after_ms, until_ms + width_ms),
            [ScanFile(file, 3) for file in every],
            columns,
            FooterCache(1 << 20),
            lambda: None,
            None if step is None else lambda ends: ends % (step * width_ms) == 0,
            rows_max,
        )
        ordered = sorted(wanted_keys)
        got: dict[Key, list[Window]] = {}
        for part in scan.slices():
            for slot, own in enumerate(windows_of(part.rows, columns)):
                assert all(part.after_ms < end_ms <= part.until_ms for end_ms, *_ in own)
                if own:
                    got.setdefault(ordered[part.rank_begin + slot], []).extend(own)
        assert got == read_windows(
            [file.path for file in every],
            wanted_keys,
            columns,
            lambda end_ms: (
                after_ms < end_ms <= until_ms + width_ms
                and (step is None or end_ms % (step * width_ms) == 0)
            ),
        )
