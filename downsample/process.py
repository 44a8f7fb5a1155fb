"""`prombridge downsample`: the coordinator as a process of its own."""

import signal
import sys
import time
from collections.abc import Callable
from types import FrameType

import structlog
from prometheus_client import CollectorRegistry, start_http_server
from tqdm import tqdm

from bridge.errors import AlreadyRunning, ConfigError, StorageUnavailable
from bridge.lake.maintenance import MaintenanceLake
from bridge.lake.settings import LakeSettings
from bridge.lake.store import open_store
from downsample.coordinator import Coordinator
from downsample.engine import Engine, LocalEngine, open_engine
from downsample.jobs import Job, Plan
from downsample.metrics import DownsampleMetrics
from downsample.quarantine import Quarantine
from downsample.settings import DownsampleSettings, RetentionSettings
from downsample.work import Site

log = structlog.get_logger()


class Bar:
    """Progress on a terminal, in rows; silent elsewhere."""

    def __init__(self) -> None:
        self._bar = tqdm(
            total=0, unit=" rows", unit_scale=True, disable=not sys.stderr.isatty(), leave=False
        )

    def __call__(self, job: Job, is_done: bool) -> None:
        """A job was planned, or is done."""
        if is_done:
            self._bar.update(job.row_count)
            self._bar.set_postfix_str(job.title)
        else:
            self._bar.total = (self._bar.total or 0) + job.row_count
            self._bar.refresh()

    def close(self) -> None:
        """Clears the line."""
        self._bar.close()


def run_downsample(
    lake: LakeSettings,
    downsample: DownsampleSettings,
    retention: RetentionSettings,
    *,
    is_once: bool,
    is_dry_run: bool,
    now_ms: int | None,
) -> int:
    """Maintains a lake until a signal comes, or once.

    Args:
        lake: where.
        downsample: how.
        retention: how long.
        is_once: does all that is due and returns.
        is_dry_run: prints what is due and changes nothing.
        now_ms: where the clock begins, Unix ms; None for the real one.

    Returns:
        the exit code: 1 if something that was due could not be done, or waits for a person.

    Raises:
        PrombridgeError: it cannot be begun.
    """
    started_ms = _unix_ms()

    def clock_ms() -> int:
        return _unix_ms() + (0 if now_ms is None else now_ms - started_ms)

    registry = CollectorRegistry()
    site = site_of(lake, downsample)
    store = open_store(lake.uri, dict(lake.storage_options), is_read_only=is_dry_run)
    with MaintenanceLake.open(
        store,
        single_writer=lake.single_writer,
        is_read_only=is_dry_run,
        clock=lambda: clock_ms() / 1000,
    ) as maintained:
        engine = LocalEngine(site, 1) if is_dry_run else open_engine(downsample, site)
        coordinator = Coordinator(
            maintained,
            Quarantine(store),
            engine,
            downsample,
            retention,
            DownsampleMetrics(registry),
        )
        try:
            if not any(maintained.view().files.values()):
                log.warning("the lake is empty; is lake.uri the one that is meant?", uri=lake.uri)
            if is_dry_run:
                print_plan(coordinator.look(clock_ms()))
                return 0
            _stop_on_signals(coordinator, engine)
            if is_once:
                return 0 if _run_once(coordinator, clock_ms()) else 1
            _listen(downsample.listen_address, registry)
            keep_running(coordinator, downsample.interval, clock_ms)
        finally:
            engine.close()
    return 0


def keep_running(coordinator: Coordinator, interval_s: float, clock_ms: Callable[[], int]) -> None:
    """Does what is due, again and again, until the coordinator is stopped."""
    while not coordinator.stopped.is_set():
        try:
            coordinator.run(clock_ms())
        except AlreadyRunning:  # another process is the single writer now: this one has to end
            raise
        except StorageUnavailable as error:
            log.warning("the lake cannot be maintained now, trying again", cause=str(error))
        except Exception:  # the supervisor: what went wrong once may go well with the next plan
            log.exception("maintenance failed, trying again")
        coordinator.stopped.wait(interval_s)


def site_of(lake: LakeSettings, downsample: DownsampleSettings) -> Site:
    """Where workers find the lake."""
    return Site(
        uri=lake.uri,
        storage_options=tuple(lake.storage_options),
        scratch_path=downsample.scratch_path,
        memory_bytes=downsample.memory,
        is_forced=downsample.force_late,
    )


def print_plan(plan: Plan) -> None:
    """What is due and what is not, for a person."""
    lines = [f"due      {job.title}: {job.reason} ({job.row_count} rows)" for job in plan.jobs]
    lines += [f"blocked  {one.title}: {one.reason}" for one in plan.blocked]
    lines += [f"waits    {one.title}: {one.reason}" for one in plan.waiting]
    print("\n".join(lines or ["nothing is due"]))  # noqa: T201 - the answer of the command


def _run_once(coordinator: Coordinator, now_ms: int) -> bool:
    bar = Bar()
    try:
        return coordinator.run(now_ms, bar) and not coordinator.is_blocked
    finally:
        bar.close()


def _stop_on_signals(coordinator: Coordinator, engine: Engine) -> None:
    def stop(_number: int, _frame: FrameType | None) -> None:
        log.info("stopping")
        coordinator.stopped.set()
        engine.close()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)


def _listen(address: str, registry: CollectorRegistry) -> None:
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise ConfigError(
            f"downsample.listen_address: {address!r} is not HOST:PORT, such as 127.0.0.1:9202"
        )
    try:
        start_http_server(int(port), host.strip("[]"), registry)
    except OSError as error:
        raise ConfigError(
            f"downsample.listen_address: cannot listen on {address}: {error.strerror}"
        ) from error


def _unix_ms() -> int:
    return time.time_ns() // 1_000_000
