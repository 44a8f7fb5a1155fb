"""Rollup files of rows as a person would write them down, and what they hold, read naively."""

from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from bridge.lake.data_file import DataFile
from bridge.lake.parquet import RollupWriter
from bridge.lake.selection import Selection
from bridge.lake.window_rows import WindowRows
from downsample.rollup_rows import RollupRows
from tests.oracle.rollup import Row

Key = tuple[str, int]
"""Metric and series id."""
Window = tuple[int, ...]
"""The end of a window, and then the columns that were asked for; floats as bits, 0 for null."""

FLOATS = ("sum", "min", "max", "first", "last", "reset_drop")
INTEGERS = ("count", "first_timestamp_ms", "last_timestamp_ms", "resets", "stale_timestamp_ms")
COLUMNS = (*INTEGERS, *FLOATS)


class RankedKeys:
    """Series of a file, in its order."""

    def __init__(self, keys: Sequence[Key]) -> None:
        self.metrics = sorted({metric for metric, _ in keys})
        self.metric_of_rank = np.array([self.metrics.index(name) for name, _ in keys], np.int32)
        self.series_id_of_rank = np.array([series_id for _, series_id in keys], np.int64)


def write_windows(
    path: Path, table: str, partition: str, rows: Iterable[tuple[Key, Row]]
) -> DataFile:
    """A file of rows, given in any order; at least one."""
    ordered = sorted(rows, key=lambda row: (row[0], row[1].window_end_ms))
    windows = [row for _, row in ordered]
    counts = [(key, len(list(own))) for key, own in groupby(ordered, key=lambda row: row[0])]

    def integers(name: str) -> Any:
        return np.array([getattr(row, name) or 0 for row in windows], np.int64)

    def floats(name: str) -> Any:
        return np.array([getattr(row, name) or 0 for row in windows], np.uint64).view(np.float64)

    with RollupWriter(lambda _: path, table, partition) as writer:
        writer.write(
            RankedKeys([key for key, _ in counts]),
            RollupRows(
                offsets=np.cumsum([0, *(count for _, count in counts)], dtype=np.int64),
                window_end_ms=integers("window_end_ms"),
                count=integers("count").astype(np.int32),
                resets=integers("resets").astype(np.int32),
                first_timestamp_ms=integers("first_timestamp_ms"),
                last_timestamp_ms=integers("last_timestamp_ms"),
                stale_timestamp_ms=integers("stale_timestamp_ms"),
                **{name: floats(name) for name in FLOATS},
            ),
        )
        [file] = writer.finish()
    return file


def plain_row(window_end_ms: int, number: int = 1, *, stale_timestamp_ms: int | None = None) -> Row:
    """A row whose columns all say something else; of a stale marker alone if `number` is 0."""
    if not number:
        return Row(
            window_end_ms, 0, None, None, None, None, None, None, None, None, 0,
            stale_timestamp_ms or window_end_ms - 1,
        )  # fmt: skip
    of = [int(np.float64(number + place / 8).view(np.uint64)) for place in range(6)]
    return Row(
        window_end_ms, number, of[0], of[1], of[2], of[3], of[4],
        window_end_ms - 200_000 + number, window_end_ms - 100_000 + number, of[5],
        number + 7, stale_timestamp_ms,
    )  # fmt: skip


def select_keys(keys: Collection[Key]) -> Selection:
    """A selection of series that nothing else is known of."""
    ordered = sorted(keys)
    metrics = sorted({metric for metric, _ in ordered})
    names = [metric for metric, _ in ordered]
    return Selection(
        metrics,
        np.searchsorted(names, [*metrics, "\U0010ffff"]).astype(np.int64),
        np.array([series_id for _, series_id in ordered], np.int64),
        [],
        [],
        np.zeros(len(ordered), np.int32),
        np.zeros(len(ordered), np.uint32),
    )


def read_windows(
    paths: Iterable[str],
    keys: Collection[Key],
    columns: Sequence[str],
    is_wanted: Callable[[int], bool],
) -> dict[Key, list[Window]]:
    """What files hold of some series, of the windows whose ends are wanted."""
    found: dict[Key, list[Window]] = {}
    for path in paths:
        table = pq.ParquetFile(path).read()
        bits = {
            name: column.to_numpy().view(np.uint64) if name in FLOATS else column.to_pylist()
            for name, column in zip(table.column_names, table.columns, strict=True)
        }
        nulls = {name: table[name].is_null().to_pylist() for name in columns}
        for row in range(table.num_rows):
            key = (bits["metric"][row], bits["series_id"][row])
            end_ms = bits["window_end_ms"][row]
            if key in keys and is_wanted(end_ms):
                own = (0 if nulls[name][row] else int(bits[name][row]) for name in columns)
                found.setdefault(key, []).append((end_ms, *own))
    return {key: sorted(rows) for key, rows in found.items()}


def windows_of(rows: WindowRows, columns: Sequence[str]) -> list[list[Window]]:
    """Rows by slot, in their order."""
    arrays: list[NDArray[Any]] = [rows.window_end_ms]
    for name in columns:
        column = getattr(rows, name)
        arrays.append(column.view(np.uint64) if name in FLOATS else column)
    every = list(zip(*(array.tolist() for array in arrays), strict=True))
    edges = rows.offsets.tolist()
    return [every[begin:end] for begin, end in pairwise(edges)]
