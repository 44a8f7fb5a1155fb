"""The one that decides and commits: looks, plans, has the work done, commits, looks again.

    view ──> plan ──> jobs ──(engine)──> files in the store ──> commits, in the order of the job
      ^                                                              │
      └──── until a plan has no jobs; anew where somebody else has ──┘ committed meanwhile

Nothing is remembered between two looks but what is in the lake, so a kill at any line costs the
work that was under way. A job that fails is left to a later run: to the next one where the store is
away, else a minute later, two, four, up to an hour, because it may cost a worker each time.
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from threading import Event

import structlog

from bridge.errors import StorageUnavailable
from bridge.lake.maintenance import LakeView, MaintenanceLake, Superseded
from bridge.lake.schema import SAMPLES_1H, SAMPLES_5M
from downsample.engine import Done, Engine
from downsample.jobs import DropDay, DropMonth, Job, MergeLate, Plan
from downsample.metrics import DownsampleMetrics
from downsample.plan import plan
from downsample.quarantine import Quarantine
from downsample.settings import DownsampleSettings, RetentionSettings
from downsample.work import Outcome, drop, late_id

log = structlog.get_logger()

VACUUM_MS = 6 * 3_600_000
"""What nothing refers to is looked for so often: a listing of the whole lake."""

RETRY_MS_MIN, RETRY_MS_MAX = 60_000, 3_600_000

Progress = Callable[[Job, bool], None]


@dataclass(slots=True)
class _Run:
    """What became of the jobs of one run.

    Attributes:
        announced: titles that progress was told of.
        done: jobs that need not come again as they are: committed, or their files put aside.
        finished: titles of those that were committed.
        failed: titles.
        excused: titles of those that failed for what is away, not for what they are.
        waiting: titles of those that failed lately.
    """

    announced: set[str] = field(default_factory=set)
    done: list[Job] = field(default_factory=list)
    finished: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)
    excused: set[str] = field(default_factory=set)
    waiting: set[str] = field(default_factory=set)


class Coordinator:
    """Maintains a lake; used by one thread."""

    def __init__(
        self,
        lake: MaintenanceLake,
        quarantine: Quarantine,
        engine: Engine,
        settings: DownsampleSettings,
        retention: RetentionSettings,
        metrics: DownsampleMetrics,
    ) -> None:
        self._lake = lake
        self._quarantine = quarantine
        self._engine = engine
        self._settings = settings
        self._retention = retention
        self._metrics = metrics
        self._vacuum_due_ms: int | None = None
        self._blocked: frozenset[str] = frozenset()
        self._retries: dict[str, tuple[float, int]] = {}
        self.stopped = Event()

    @property
    def is_blocked(self) -> bool:
        """Whether something waits for a person, as of the last plan."""
        return bool(self._blocked)

    def look(self, now_ms: int) -> Plan:
        """What is to be done now; nothing is changed.

        Raises:
            StorageUnavailable: the store failed.
        """
        return self._plan(now_ms)[0]

    def run(self, now_ms: int, progress: Progress = lambda _job, _is_done: None) -> bool:
        """Does all that is due.

        Args:
            now_ms: Unix ms.
            progress: told of each job that was planned, and of each that was done.

        Returns:
            whether all of it was done.

        Raises:
            StorageUnavailable: the store failed; what was committed stays.
            AlreadyRunning: another process has become the single writer.
        """
        run = _Run()
        while not self.stopped.is_set():
            made, view = self._plan(now_ms)
            self._warn(made)
            jobs = self._open_jobs(made, run, now_ms)
            if not jobs:
                break
            for job in jobs:
                if job.title not in run.announced:
                    run.announced.add(job.title)
                    progress(job, False)
            if not self.stopped.is_set():
                self._do(jobs, view, now_ms, progress, run)
        else:
            return False
        self._note_failures(run.failed - run.excused, now_ms)
        self._tidy(now_ms)
        if run.failed or run.waiting:
            return False
        self._metrics.last_run.set(now_ms / 1000)
        return True

    def _open_jobs(self, made: Plan, run: _Run, now_ms: int) -> list[Job]:
        """The jobs of a plan that are to be tried in this run."""
        for job in made.jobs:
            if job in run.done and job.title not in run.failed:
                log.error("maintenance job is due again though it was done", job=job.title)
                run.failed.add(job.title)
            elif self._retries.get(job.title, (0, 0))[1] > now_ms:
                run.waiting.add(job.title)
        # What is due again because new samples came meanwhile is for the next run.
        held = run.failed | run.waiting | run.finished
        return [job for job in made.jobs if job.title not in held]

    def _note_failures(self, failed: set[str], now_ms: int) -> None:
        """What failed is tried again after a minute, two, four …: a job may kill its worker."""
        for title in failed:
            wait_ms = min(2 * self._retries.get(title, (RETRY_MS_MIN / 2, 0))[0], RETRY_MS_MAX)
            self._retries[title] = wait_ms, now_ms + int(wait_ms)
        for title in [one for one, (_, due_ms) in self._retries.items() if due_ms <= now_ms]:
            del self._retries[title]

    def _plan(self, now_ms: int) -> tuple[Plan, LakeView]:
        quarantined = self._quarantine.load()
        view = self._lake.view()
        made = plan(view, now_ms, self._settings, quarantined, retention=self._retention)
        self._metrics.quarantined.set(len(quarantined.keys() & _keys(view)))
        self._metrics.show(made)
        return made, view

    def _do(
        self, jobs: list[Job], view: LakeView, now_ms: int, progress: Progress, run: _Run
    ) -> None:
        """Has the jobs of one plan done and commits them, until one finds that the view is old."""
        for job, outcome in self._done(jobs):
            if self.stopped.is_set():
                break
            if isinstance(outcome, Exception):
                log.error("maintenance job failed", job=job.title, cause=str(outcome))
                self._metrics.failed(job)
                run.failed.add(job.title)
                if isinstance(outcome, StorageUnavailable):
                    run.excused.add(job.title)
                continue
            try:
                if self._commit(job, outcome, view, now_ms):
                    run.finished.add(job.title)
            except Superseded as error:
                log.info("maintenance planned anew", job=job.title, cause=str(error))
                self._metrics.superseded.inc()
                break
            except StorageUnavailable as error:
                # Whether it was committed shows with the next look.
                log.warning("maintenance commit failed", job=job.title, cause=str(error))
                self._metrics.failed(job)
                run.failed.add(job.title)
                run.excused.add(job.title)
                break
            run.done.append(job)
            progress(job, True)

    def _done(self, jobs: list[Job]) -> Iterator[Done]:
        """Each job with what came of it: drops here and in their order, all others as they end."""
        drops = [job for job in jobs if isinstance(job, DropDay | DropMonth)]
        for job in drops:
            yield job, drop(job)
        work = [
            (job, self._merged(job)) for job in jobs if not isinstance(job, DropDay | DropMonth)
        ]
        yield from self._engine.run(work)

    def _commit(self, job: Job, outcome: Outcome, view: LakeView, now_ms: int) -> bool:
        """Commits a job; False if its files had to be put aside instead."""
        if outcome.broken:
            # What another process has replaced and vacuumed meanwhile is no fault of the file's.
            known = _keys(self._lake.view())
            broken = {key: reason for key, reason in outcome.broken.items() if key in known}
            if not broken:
                raise Superseded("files of the job are in the lake no more")
            self._quarantine.add(broken, known, now_ms)
            self._metrics.failed(job)
            return False
        for one in outcome.commits:
            self._lake.commit(
                one.table,
                view=view,
                adds=one.adds,
                removes=one.removes,
                transactions=one.transactions,
            )
        for collision in outcome.collisions:
            log.error("two series share an id, their samples cannot be told apart", which=collision)
            self._metrics.collisions.inc()
        self._metrics.done(job)
        log.info("maintenance job done", job=job.title, reason=job.reason, rows=job.row_count)
        return True

    def _merged(self, job: Job) -> dict[str, Collection[str]]:
        """Late files that are in the rollups already, from a run that was cut short."""
        if not isinstance(job, MergeLate):
            return {}
        return {
            table: [
                file.name
                for file in job.late
                if self._lake.has_transaction(table, late_id(file.name))
            ]
            for table in (SAMPLES_5M, SAMPLES_1H)
        }

    def _warn(self, made: Plan) -> None:
        """Says what is blocked, when that changes."""
        blocked = frozenset(one.title for one in made.blocked)
        for one in made.blocked:
            if one.title not in self._blocked:
                log.warning("maintenance is blocked", what=one.title, reason=one.reason)
        self._blocked = blocked
        for waiting in made.waiting:
            log.debug("maintenance waits", what=waiting.title, reason=waiting.reason)

    def _tidy(self, now_ms: int) -> None:
        """Checkpoints, and now and then a vacuum."""
        if self._vacuum_due_ms is not None and now_ms < self._vacuum_due_ms:
            return
        self._vacuum_due_ms = now_ms + VACUUM_MS
        try:
            self._lake.checkpoint()
            self._lake.vacuum()
        except StorageUnavailable as error:
            log.warning("vacuum failed, trying again later", cause=str(error))


def _keys(view: LakeView) -> set[str]:
    """Of all files that are in the lake."""
    return {file.key for files in view.files.values() for file in files}
