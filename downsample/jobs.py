"""What maintenance does, as values: the planner makes them, workers and the committer take them.

A job names the very files that it reads and replaces, so it is worth only on the snapshot that it
was planned from; whoever commits makes sure of that. Jobs of one plan share no file that one of
them replaces: they may run side by side and commit in any order, but for days that are dropped:
these are committed in the order of the plan, oldest first. Jobs can be pickled.

Invariants:
    DOWN-1  rollups are committed before the flushes that they were made of go: samples_5m, then
            samples_1h, then samples. A crash in between leaves the flushes, and so the job is due
            again.
    DOWN-2  a job for a span replaces every row of the span, in each of its tables.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from bridge.lake.stored_file import StoredFile
from bridge.model.time_range import TimeRange
from downsample.names import span_text

Files = tuple[StoredFile, ...]


@dataclass(frozen=True, slots=True)
class RollSpan:
    """Raw samples of one span become compacted files and rollups of both levels.

    Attributes:
        span: an hour or a day.
        partition: the day, `2026-11-21`.
        raw: all files of the day with rows of the span. Flushes and compacted files; all of them
            are replaced.
        remainders: where rows of `raw` lie outside the span: before it, after it. What is found
            there goes into new flush files, one set for each of these ranges.
        rollups_5m: files of samples_5m that are replaced, unread.
        rollups_1h: files of samples_1h that are replaced, unread.
        carried_1h: files of samples_1h that hold rows of other spans too (of the month): replaced,
            with all their rows that lie outside the span.
        span_1h: what the new files of samples_1h cover: the span, or with `carried_1h` the month.
        reason: why it is due.
    """

    span: TimeRange
    partition: str
    raw: Files
    remainders: tuple[TimeRange, ...]
    rollups_5m: Files
    rollups_1h: Files
    carried_1h: Files
    span_1h: TimeRange
    reason: str

    @property
    def title(self) -> str:
        """What is done, in a few words."""
        return f"roll up {span_text(self.span)}"

    @property
    def row_count(self) -> int:
        """Rows to be read."""
        return sum(file.row_count for file in (*self.raw, *self.carried_1h))


@dataclass(frozen=True, slots=True)
class LateDay:
    """Late samples of one day whose raw samples were dropped.

    Attributes:
        day: its number since 1970-01-01.
        partition: `2026-11-21`.
        late: flush files; rolled up alone, their rows are merged into the stored ones.
        rollups_5m: files of samples_5m that are replaced, their rows merged with the late ones;
            None if the day's rows were dropped: then samples_5m is left alone.
    """

    day: int
    partition: str
    late: Files
    rollups_5m: Files | None


@dataclass(frozen=True, slots=True)
class MergeLate:
    """Late samples are merged into stored rollups, once.

    Each commit to a table carries `late-<name of the flush file>` of every file merged with it, and
    leaves out the files whose transaction the table has: a flush whose rows are in samples_5m after
    a crash is merged into samples_1h alone.

    Attributes:
        month: `2026-11`.
        days: of the month, ascending, each with late files.
        rollups_1h: files of samples_1h with rows of these days: replaced; their rows are merged
            with the late ones, those of other days are kept as they are.
        span_1h: what the new files of samples_1h cover: a day, or the month.
        reason: why it is due.
    """

    month: str
    days: tuple[LateDay, ...]
    rollups_1h: Files
    span_1h: TimeRange
    reason: str

    @property
    def title(self) -> str:
        """What is done, in a few words."""
        days = ", ".join(day.partition for day in self.days)
        return f"merge late samples of {days}"

    @property
    def late(self) -> Files:
        """The flush files of all days: removed from samples at last."""
        return tuple(file for day in self.days for file in day.late)

    @property
    def row_count(self) -> int:
        """Rows to be read."""
        stored = [file for day in self.days for file in day.rollups_5m or ()]
        return sum(file.row_count for file in (*self.late, *stored, *self.rollups_1h))


@dataclass(frozen=True, slots=True)
class MergeMonth:
    """The rollups of 1h of a closed month become one sorted set.

    Attributes:
        month: `2026-11`.
        span: of the month.
        rollups_1h: all files of the month; no two hold the same row.
        reason: why it is due.
    """

    month: str
    span: TimeRange
    rollups_1h: Files
    reason: str

    @property
    def title(self) -> str:
        """What is done, in a few words."""
        return f"merge the hours of {self.month}"

    @property
    def row_count(self) -> int:
        """Rows to be read."""
        return sum(file.row_count for file in self.rollups_1h)


@dataclass(frozen=True, slots=True)
class CompactSeries:
    """The series of a month, each once.

    Attributes:
        month: `2026-11`.
        span: of the month.
        files: of `series`; all of the month that can be read.
        reason: why it is due.
    """

    month: str
    span: TimeRange
    files: Files
    reason: str

    @property
    def title(self) -> str:
        """What is done, in a few words."""
        return f"compact the series of {self.month}"

    @property
    def row_count(self) -> int:
        """Rows to be read."""
        return sum(file.row_count for file in self.files)


@dataclass(frozen=True, slots=True)
class CompactMetadata:
    """The newest metadata of each metric.

    Attributes:
        span: all of time; for the name.
        files: of `metadata`; all that can be read.
        reason: why it is due.
    """

    span: TimeRange
    files: Files
    reason: str

    @property
    def title(self) -> str:
        """What is done, in a few words."""
        return "compact the metadata"

    @property
    def row_count(self) -> int:
        """Rows to be read."""
        return sum(file.row_count for file in self.files)


@dataclass(frozen=True, slots=True)
class DropDay:
    """A day of `samples` or `samples_5m` has outlived its retention.

    One commit removes the files and stores that the day was dropped, so that late samples of it are
    merged into its rollups from then on.

    Attributes:
        table: which.
        partition: `2026-11-21`.
        files: all of the day.
        transactions: goes into the very commit: up to which day the table was dropped.
        reason: why it is due.
    """

    table: str
    partition: str
    files: Files
    transactions: Mapping[str, int]
    reason: str

    @property
    def title(self) -> str:
        """What is done, in a few words."""
        return f"drop {self.table} of {self.partition}"

    @property
    def row_count(self) -> int:
        """Nothing is read."""
        return 0


@dataclass(frozen=True, slots=True)
class DropMonth:
    """A month of `samples_1h` has outlived its retention.

    Attributes:
        month: `2026-11`.
        files: all of the month.
        reason: why it is due.
    """

    month: str
    files: Files
    reason: str

    @property
    def title(self) -> str:
        """What is done, in a few words."""
        return f"drop samples_1h of {self.month}"

    @property
    def row_count(self) -> int:
        """Nothing is read."""
        return 0


Job = RollSpan | MergeLate | MergeMonth | CompactSeries | CompactMetadata | DropDay | DropMonth


@dataclass(frozen=True, slots=True)
class Waiting:
    """What will be due by itself.

    Attributes:
        title: what is waited with.
        due_ms: when it is due, Unix ms; the time of the plan if after this plan's jobs.
        reason: what is waited for.
    """

    title: str
    due_ms: int
    reason: str


Cause = Literal["quarantined", "rollup_missing", "earlier_day"]


@dataclass(frozen=True, slots=True)
class Blocked:
    """What needs a person.

    Attributes:
        title: what cannot be done.
        cause: for the metric.
        reason: a sentence.
    """

    title: str
    cause: Cause
    reason: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done now, and why the rest is not.

    Attributes:
        jobs: in the order in which they should run.
        waiting: due later.
        blocked: not before a person acts.
        retention_clock_ms: what retention counts from; None in a lake without samples.
    """

    jobs: tuple[Job, ...]
    waiting: tuple[Waiting, ...] = ()
    blocked: tuple[Blocked, ...] = ()
    retention_clock_ms: int | None = None
