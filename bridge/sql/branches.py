"""Files of a table in groups, of which a query opens only those that its range of time touches.

DuckDB looks into the footer of every file that it is told to read. What it can rule out before it
opens anything is a branch of a UNION ALL whose own condition contradicts that of the query, so a
view is one branch for each group, with the bounds of its files as they stand in the log:

    newest day of data      a branch an hour
    31 days before it       a branch a day
    whatever is older       a branch a month

Limits: 24 + 31 branches and one a month. Each costs every query 0.4 ms, asked or not: a year 27 ms.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from bridge.lake.schema import DAY_MS, day_of, month_of
from bridge.lake.snapshot import LakeFile

HOUR_MS = 3_600_000
DAYS = 31

UNKNOWN_MS = -(1 << 63), (1 << 63) - 1
"""Bounds of a file without statistics."""


@dataclass(frozen=True, slots=True)
class Branch:
    """Files that are looked at together or not at all.

    Attributes:
        files: at least one.
        time_ms_min: no row is older.
        time_ms_max: no row is younger.
    """

    files: Sequence[LakeFile]
    time_ms_min: int
    time_ms_max: int

    @property
    def is_bounded(self) -> bool:
        """Whether anything is known of its time."""
        return UNKNOWN_MS[0] < self.time_ms_min and self.time_ms_max < UNKNOWN_MS[1]


def group_files(files: Sequence[LakeFile]) -> list[Branch]:
    """Branches, oldest first; every file is in one of them."""
    bounded_ms = [file.timestamp_ms_max for file in files if file.timestamp_ms_max < UNKNOWN_MS[1]]
    newest_ms = max(bounded_ms, default=0)
    groups: dict[tuple[str, object], list[LakeFile]] = {}
    for file in files:
        groups.setdefault(_group_of(file, newest_ms), []).append(file)
    branches = [
        Branch(
            group,
            min(file.timestamp_ms_min for file in group),
            max(file.timestamp_ms_max for file in group),
        )
        for group in groups.values()
    ]
    return sorted(branches, key=lambda branch: (branch.time_ms_max, branch.time_ms_min))


def _group_of(file: LakeFile, newest_ms: int) -> tuple[str, object]:
    end_ms = file.timestamp_ms_max
    if UNKNOWN_MS[0] == file.timestamp_ms_min or end_ms == UNKNOWN_MS[1]:
        return "unknown", None
    if end_ms > newest_ms - DAY_MS:
        return "hour", (end_ms - 1) // HOUR_MS
    if end_ms > newest_ms - (1 + DAYS) * DAY_MS:
        return "day", day_of(end_ms)
    return "month", month_of(end_ms)
