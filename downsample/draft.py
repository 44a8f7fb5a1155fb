"""A plan while it is made: what has been decided, and which files and days it concerns."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from bridge.model.time_range import TimeRange
from downsample.jobs import Blocked, Cause, Job, Plan, Waiting
from downsample.listing import Piece, newest_ms
from downsample.names import month_of_day


@dataclass(slots=True)
class Draft:
    """Decisions so far.

    Attributes:
        now_ms: the time of the plan.
        delay_ms: how long after its end a span counts as closed.
        late_interval_ms: what is done is done again after this time at the earliest.
        drops: jobs of retention, oldest day first.
        jobs: all others, in the order in which they should run.
        waiting: see `Plan`.
        blocked: see `Plan`.
        taken: keys of the files that jobs replace.
        busy_days: days whose raw samples will be rolled up: now, or as soon as they may.
        busy_months: their months.
    """

    now_ms: int
    delay_ms: int
    late_interval_ms: int
    drops: list[Job] = field(default_factory=list)
    jobs: list[Job] = field(default_factory=list)
    waiting: list[Waiting] = field(default_factory=list)
    blocked: list[Blocked] = field(default_factory=list)
    taken: set[str] = field(default_factory=set)
    busy_days: set[int] = field(default_factory=set)
    busy_months: set[str] = field(default_factory=set)

    def is_closed(self, span: TimeRange) -> bool:
        """Whether a span ended long enough ago."""
        return self.now_ms >= span.until_ms + self.delay_ms

    def due_again_ms(self, made: Iterable[Piece]) -> int | None:
        """When what was made may be made again, if that is not now.

        A file of the future says that one of two clocks is wrong. Within the interval it is
        believed; beyond it nothing can be said, and waiting might never end.
        """
        newest = newest_ms(made)
        if newest is None or abs(self.now_ms - newest) >= self.late_interval_ms:
            return None
        return newest + self.late_interval_ms

    def mark_busy(self, day: int) -> None:
        """Keeps the day from being dropped, and its month from being merged, in this plan."""
        self.busy_days.add(day)
        self.busy_months.add(month_of_day(day))

    def take(self, title: str, pieces: Collection[Piece]) -> bool:
        """Reserves files for a job; if another job has one of them, this one has to wait for it."""
        keys = {piece.file.key for piece in pieces}
        if keys & self.taken:
            self.wait(title, self.now_ms, "a file of it is in another job of this plan")
            return False
        self.taken |= keys
        return True

    def wait(self, title: str, due_ms: int, reason: str) -> None:
        """Notes what will be due by itself."""
        self.waiting.append(Waiting(title, due_ms, reason))

    def block(self, title: str, cause: Cause, reason: str) -> None:
        """Notes what needs a person."""
        self.blocked.append(Blocked(title, cause, reason))

    def plan(self, retention_clock_ms: int | None) -> Plan:
        """The plan, drops first: they cost nothing and free the disk."""
        return Plan(
            jobs=(*self.drops, *self.jobs),
            waiting=tuple(self.waiting),
            blocked=tuple(self.blocked),
            retention_clock_ms=retention_clock_ms,
        )
