"""What the downsampler counts."""

from prometheus_client import CollectorRegistry, Counter, Gauge

from downsample.jobs import Job, Plan

KINDS = (
    "RollSpan",
    "MergeLate",
    "MergeMonth",
    "CompactSeries",
    "CompactMetadata",
    "DropDay",
    "DropMonth",
)
CAUSES = ("quarantined", "rollup_missing", "earlier_day")


class DownsampleMetrics:
    """Of one coordinator."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._jobs = Counter(
            "prombridge_downsample_jobs_total",
            "Jobs that were done and committed.",
            ["kind"],
            registry=registry,
        )
        self._failures = Counter(
            "prombridge_downsample_job_failures_total",
            "Jobs that failed; they are due again.",
            ["kind"],
            registry=registry,
        )
        self._rows = Counter(
            "prombridge_downsample_rows_total", "Rows that jobs have read.", registry=registry
        )
        self.superseded = Counter(
            "prombridge_downsample_superseded_total",
            "Jobs that were thrown away because another process maintained the lake.",
            registry=registry,
        )
        self.collisions = Counter(
            "prombridge_downsample_series_collisions_total",
            "Series that share their id with another of the same metric, as compaction met them.",
            registry=registry,
        )
        self._due = Gauge(
            "prombridge_downsample_jobs_due", "Jobs of the last plan.", ["kind"], registry=registry
        )
        self._blocked = Gauge(
            "prombridge_downsample_blocked",
            "What needs a person before it can be done, by cause.",
            ["cause"],
            registry=registry,
        )
        self.quarantined = Gauge(
            "prombridge_downsample_quarantined_files",
            "Files that cannot be read and are left out.",
            registry=registry,
        )
        self._clock = Gauge(
            "prombridge_downsample_retention_clock_seconds",
            "What retention counts from, Unix time: now, or the newest sample if that is earlier.",
            registry=registry,
        )
        self.last_run = Gauge(
            "prombridge_downsample_last_run_timestamp_seconds",
            "When all that was due had been done for the last time, at first the start, Unix time.",
            registry=registry,
        )
        self.last_run.set_to_current_time()
        for kind in KINDS:
            self._jobs.labels(kind)
            self._failures.labels(kind)

    def show(self, plan: Plan) -> None:
        """A plan was made."""
        for kind in KINDS:
            self._due.labels(kind).set(sum(type(job).__name__ == kind for job in plan.jobs))
        for cause in CAUSES:
            self._blocked.labels(cause).set(sum(one.cause == cause for one in plan.blocked))
        if plan.retention_clock_ms is not None:
            self._clock.set(plan.retention_clock_ms / 1000)

    def done(self, job: Job) -> None:
        """A job was committed."""
        self._jobs.labels(type(job).__name__).inc()
        self._rows.inc(job.row_count)

    def failed(self, job: Job) -> None:
        """A job failed."""
        self._failures.labels(type(job).__name__).inc()
