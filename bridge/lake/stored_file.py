"""A Parquet file of the lake as the maintenance sees it: what made it, and what it covers.

What the maintenance has to know of a file stands in its name, because a Delta snapshot tells
neither the version that a file came with nor whether it was compacted:

    f-…                                                  a flush, or what was left of one
    c-20261121T13-20261121T14-<random, 16 hex>-0.parquet compacted samples of (13:00, 14:00]
    r-20261121T00-20261122T00-<random, 16 hex>-0.parquet rollups of that day

Times are UTC. A span is open on the left and closed on the right, as days and windows are. A file
whose name is none of these is taken for a flush: it is due, and is merged into what is compacted if
it is sorted as ours are, else quarantined.
"""

import datetime as dt
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from bridge.lake.schema import TableSchema
from bridge.lake.snapshot import TableFiles
from bridge.model.time_range import UNTIL_MS_MAX, TimeRange

FLUSHED_KIND: Literal["f"] = "f"
COMPACTED_KIND: Literal["c"] = "c"
ROLLUP_KIND: Literal["r"] = "r"
Kind = Literal["f", "c", "r"]

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
# The last day of 9999 ends in 10000.
_TIME = r"(\d{4,5})(\d{2})(\d{2})T(\d{2})"
_MAINTAINED = re.compile(rf"([cr])-{_TIME}-{_TIME}-[0-9a-f]{{16}}-\d+\.parquet")


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One file of one version of a table.

    Attributes:
        table: its name.
        key: relative to the lake: `samples/date=2026-11-21/f-….parquet`.
        partition: `2026-11-21`, `2026-11`, or empty.
        row_count: rows.
        size_bytes: size of the file.
        time_min_ms: least `timestamp_ms`, or `window_end_ms` of a rollup; far below any if unknown.
        time_max_ms: the greatest; far above any if unknown.
        metric_min: no metric in it is smaller, by code points.
        metric_max: no metric in it is greater.
        modified_ms: when it was committed, as the committer's clock said.
    """

    table: str
    key: str
    partition: str
    row_count: int
    size_bytes: int
    time_min_ms: int
    time_max_ms: int
    metric_min: str
    metric_max: str
    modified_ms: int

    @property
    def name(self) -> str:
        """The last part of the key."""
        return self.key.rpartition("/")[2]

    @property
    def kind(self) -> Kind:
        """What made it: a flush, a compaction, or a rollup."""
        return kind_and_span(self.name)[0]

    @property
    def span(self) -> TimeRange | None:
        """The span that it covers, with others of the same; None for a flush."""
        return kind_and_span(self.name)[1]


def kind_and_span(name: str) -> tuple[Kind, TimeRange | None]:
    """What the name of a file tells.

    Args:
        name: without its folder.

    Returns:
        The kind, and the span; None for a flush.
    """
    found = _MAINTAINED.fullmatch(name)
    if found is None:
        return FLUSHED_KIND, None
    try:
        span = TimeRange(_hour_ms(*found.groups()[1:5]), _hour_ms(*found.groups()[5:9]))
    except ValueError:
        return FLUSHED_KIND, None
    if span.is_empty:
        return FLUSHED_KIND, None
    return (COMPACTED_KIND if found[1] == "c" else ROLLUP_KIND), span


def _hour_ms(year: str, month: str, day: str, hour: str) -> int:
    if (year, month, day, hour) == ("10000", "01", "01", "00"):  # datetime cannot name it
        return UNTIL_MS_MAX
    instant = dt.datetime(int(year), int(month), int(day), int(hour), tzinfo=dt.UTC)
    return (instant - _EPOCH) // dt.timedelta(milliseconds=1)


def stored_files(schema: TableSchema, actions: Any) -> list[StoredFile]:
    """The files of a table, by key.

    Args:
        schema: of the table.
        actions: what `DeltaTable.get_add_actions(flatten=True)` gives.
    """
    table = pa.table(actions)
    files = TableFiles.from_actions(
        f"{schema.name}/", table, schema.partition, schema.time_column or "timestamp_ms"
    )
    modified_ms: Sequence[int] = table["modification_time"].to_pylist() if table.num_rows else []
    columns = zip(
        files.paths.to_pylist(),
        (
            [""] * len(files)
            if files.partitions is None
            else files.partitions.cast(pa.string()).to_pylist()
        ),
        np.asarray(files.row_counts).tolist(),
        np.asarray(files.sizes_bytes).tolist(),
        files.timestamp_ms_minima.tolist(),
        files.timestamp_ms_maxima.tolist(),
        files.metric_minima.to_pylist(),
        files.metric_maxima.to_pylist(),
        modified_ms,
        strict=True,
    )
    found = [
        StoredFile(schema.name, files.prefix + path, partition, *rest)
        for path, partition, *rest in columns
    ]
    found.sort(key=lambda file: file.key)
    return found
