"""A lake that is a dictionary: what jobs do to it, without a file.

A sample is a time and a number of its own. A raw file holds a set of samples; a rollup file holds,
for each sample, how often it was counted. So a sample that is lost or counted twice shows at once.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from bridge.lake.maintenance import LakeView
from bridge.lake.schema import (
    METADATA,
    SAMPLES,
    SAMPLES_1H,
    SAMPLES_5M,
    SERIES,
    TABLES,
    date_of,
    date_of_day,
    day_of,
    month_of,
)
from bridge.lake.stored_file import StoredFile
from bridge.model.time_range import TimeRange
from downsample.jobs import (
    CompactMetadata,
    CompactSeries,
    DropDay,
    DropMonth,
    Job,
    MergeLate,
    MergeMonth,
    RollSpan,
)
from downsample.names import day_span, file_name

Sample = tuple[int, int]
"""Time in Unix ms, and a number that no other sample has."""

WINDOW_MS = {SAMPLES_5M: 300_000, SAMPLES_1H: 3_600_000}


class Killed(Exception):
    """The process ended between two commits."""


@dataclass
class Commit:
    """One version of one table."""

    table: str
    adds: list[tuple[StoredFile, Counter[Sample]]]
    removes: Sequence[StoredFile]
    transactions: Mapping[str, int]


class DictionaryLake:
    """All tables, and the clock of who commits."""

    def __init__(self, now_ms: int) -> None:
        self.now_ms = now_ms
        self.rows: dict[str, Counter[Sample]] = {}
        self.files: dict[str, StoredFile] = {}
        self.transactions: dict[str, dict[str, int]] = {name: {} for name in TABLES}
        self.accepted: list[Sample] = []
        self.commit_count = 0
        self.kill_after: int | None = None
        self._names = 0

    # What receivers do.

    def write(self, times_ms: Iterable[int]) -> list[StoredFile]:
        """One flush: files of each day, series of each month, metadata."""
        times_ms = list(times_ms)
        samples = [(time_ms, len(self.accepted) + place) for place, time_ms in enumerate(times_ms)]
        self.accepted += samples
        made = []
        for partition in sorted({date_of(time_ms) for time_ms, _ in samples}):
            rows = [sample for sample in samples if date_of(sample[0]) == partition]
            made.append(self._add(SAMPLES, partition, self._flush_name(), Counter(rows)))
        for month in sorted({month_of(time_ms) for time_ms, _ in samples}):
            self._add(SERIES, month, self._flush_name(), Counter([(0, 0)]))
        self._add(METADATA, "", self._flush_name(), Counter([(0, 0)]))
        return made

    def _flush_name(self) -> str:
        self._names += 1
        return f"f-{self._names}.parquet"

    # What the planner sees.

    def view(self) -> LakeView:
        files: dict[str, list[StoredFile]] = {name: [] for name in TABLES}
        for file in self.files.values():
            files[file.table].append(file)
        return LakeView(
            files=files,
            versions={},
            maintenance_versions={},
            raw_dropped_day=self.transactions[SAMPLES].get("raw-dropped"),
            five_m_dropped_day=self.transactions[SAMPLES_5M].get("5m-dropped"),
        )

    # What jobs do.

    def run(self, job: Job) -> None:
        """All commits of a job; raises Killed before the one at which the process ends."""
        for commit in self._commits(job):
            if self.kill_after == 0:
                raise Killed
            if self.kill_after is not None:
                self.kill_after -= 1
            self._apply(commit)

    def _apply(self, commit: Commit) -> None:
        for file in commit.removes:
            assert self.files.pop(file.key).table == commit.table
            del self.rows[file.key]
        for file, rows in commit.adds:
            assert file.key not in self.files
            self.files[file.key] = replace(file, modified_ms=self.now_ms)
            self.rows[file.key] = rows
        known = self.transactions[commit.table]
        for app_id, version in commit.transactions.items():
            if app_id.startswith("late-"):
                assert app_id not in known, "a late file was merged twice"
            assert version >= known.get(app_id, version), "a transaction went back"
            known[app_id] = version
        self.commit_count += 1

    def _commits(self, job: Job) -> list[Commit]:
        match job:
            case RollSpan():
                return self._roll(job)
            case MergeLate():
                return self._merge_late(job)
            case MergeMonth():
                rows = self._sum(job.rollups_1h)
                made = self._made(SAMPLES_1H, job.month, "r", job.span, rows)
                return [Commit(SAMPLES_1H, made, job.rollups_1h, {})]
            case CompactSeries() | CompactMetadata():
                table, month = (
                    (SERIES, job.month) if isinstance(job, CompactSeries) else (METADATA, "")
                )
                made = self._made(table, month, "c", job.span, Counter([(0, 0)]))
                return [Commit(table, made, job.files, {})]
            case DropDay():
                return [Commit(job.table, [], job.files, job.transactions)]
            case DropMonth():
                return [Commit(SAMPLES_1H, [], job.files, {})]

    def _roll(self, job: RollSpan) -> list[Commit]:
        rows = self._sum(job.raw)
        inside = _within(rows, job.span)
        left = []
        for side in job.remainders:
            rest = _within(rows, side)
            if rest:
                left.append(self._file(SAMPLES, job.partition, self._flush_name(), rest))
        assert inside + sum((found for _, found in left), Counter()) == rows, "rows were lost"
        for file in job.raw:
            assert file.kind == "f" or not self.rows[file.key] - inside, "compacted rows go astray"
        month = job.partition[:7]
        kept = self._sum(job.carried_1h)
        kept -= _within(kept, job.span)
        assert not self._sum(job.rollups_1h) - _within(self._sum(job.rollups_1h), job.span)
        return [
            Commit(
                SAMPLES_5M,
                self._made(SAMPLES_5M, job.partition, "r", job.span, inside),
                job.rollups_5m,
                {},
            ),
            Commit(
                SAMPLES_1H,
                self._made(SAMPLES_1H, month, "r", job.span_1h, inside + kept),
                (*job.rollups_1h, *job.carried_1h),
                {},
            ),
            Commit(
                SAMPLES,
                [*self._made(SAMPLES, job.partition, "c", job.span, inside), *left],
                job.raw,
                {},
            ),
        ]

    def _merge_late(self, job: MergeLate) -> list[Commit]:
        five_m = Commit(SAMPLES_5M, [], [], {})
        for day in job.days:
            late = self._missing(SAMPLES_5M, day.late)
            if day.rollups_5m is None or not late:
                continue
            rows = self._sum(day.rollups_5m) + self._sum(late)
            span = day_span(day.day)
            five_m.adds += self._made(SAMPLES_5M, day.partition, "r", span, rows)
            five_m.removes = [*five_m.removes, *day.rollups_5m]
            five_m.transactions = {**five_m.transactions, **_late_transactions(late)}
        late = self._missing(SAMPLES_1H, job.late)
        rows = self._sum(job.rollups_1h) + self._sum(late)
        one_h = Commit(
            SAMPLES_1H,
            self._made(SAMPLES_1H, job.month, "r", job.span_1h, rows),
            job.rollups_1h,
            _late_transactions(late),
        )
        commits = [five_m] if five_m.transactions else []
        commits += [one_h] if late else []
        return [*commits, Commit(SAMPLES, [], job.late, {})]

    def _missing(self, table: str, late: Iterable[StoredFile]) -> list[StoredFile]:
        return [file for file in late if f"late-{file.name}" not in self.transactions[table]]

    def _sum(self, files: Iterable[StoredFile]) -> Counter[Sample]:
        rows: Counter[Sample] = Counter()
        for file in files:
            rows.update(self.rows[file.key])
        return rows

    def _made(
        self, table: str, partition: str, kind: str, span: TimeRange, rows: Counter[Sample]
    ) -> list[tuple[StoredFile, Counter[Sample]]]:
        self._names += 1
        name = file_name("c" if kind == "c" else "r", span, f"{self._names:016x}", 0)
        return [self._file(table, partition, name, rows)] if rows else []

    def _add(self, table: str, partition: str, name: str, rows: Counter[Sample]) -> StoredFile:
        file, _ = self._file(table, partition, name, rows)
        self.files[file.key] = file
        self.rows[file.key] = rows
        return file

    def _file(
        self, table: str, partition: str, name: str, rows: Counter[Sample]
    ) -> tuple[StoredFile, Counter[Sample]]:
        times_ms = [time_ms for time_ms, _ in rows]
        if table in WINDOW_MS:
            window_ms = WINDOW_MS[table]
            times_ms = [-(-time_ms // window_ms) * window_ms for time_ms in times_ms]
        file = StoredFile(
            table=table,
            key=TABLES[table].folder_of(partition) + name,
            partition=partition,
            row_count=len(rows),
            size_bytes=len(rows),
            time_min_ms=min(times_ms),
            time_max_ms=max(times_ms),
            metric_min="a",
            metric_max="z",
            modified_ms=self.now_ms,
        )
        return file, rows

    # What is true of the rows.

    def counted(self, table: str) -> Counter[Sample]:
        """How often each sample stands in a table."""
        return self._sum(file for file in self.files.values() if file.table == table)

    def flushed(self) -> Counter[Sample]:
        """The samples in flush files."""
        return self._sum(
            file for file in self.files.values() if file.table == SAMPLES and file.kind == "f"
        )

    def is_dropped_5m(self, day: int, dropped_5m: set[int]) -> bool:
        """Whether a day's 5m rows were dropped, or never made because later ones were."""
        watermark = self.transactions[SAMPLES_5M].get("5m-dropped")
        return day in dropped_5m or (
            watermark is not None
            and day <= watermark
            and not any(
                file.table == SAMPLES_5M and file.partition == date_of_day(day)
                for file in self.files.values()
            )
        )

    def check(self, *, dropped_5m: set[int], dropped_1h: set[str]) -> None:
        """No sample stands anywhere twice, and none is gone before its rollups are there."""
        raw, five_m, one_h = (self.counted(name) for name in (SAMPLES, SAMPLES_5M, SAMPLES_1H))
        for rows in (raw, five_m, one_h):
            assert max(rows.values(), default=1) == 1, "a sample counts twice"
        for sample in self.accepted:
            if raw[sample]:
                continue
            is_in_5m = five_m[sample] or self.is_dropped_5m(day_of(sample[0]), dropped_5m)
            is_in_1h = one_h[sample] or month_of(sample[0]) in dropped_1h
            assert is_in_5m, "a sample went before its row of 5m"
            assert is_in_1h, "a sample went before its row of 1h"


def _late_transactions(late: Iterable[StoredFile]) -> dict[str, int]:
    return {f"late-{file.name}": 1 for file in late}


def _within(rows: Counter[Sample], span: TimeRange) -> Counter[Sample]:
    return Counter(
        {
            sample: count
            for sample, count in rows.items()
            if span.after_ms < sample[0] <= span.until_ms
        }
    )
