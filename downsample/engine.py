"""Who does the work: processes of this host, or a Dask cluster. The committer stays one.

Each job runs in another process, which may die: its job has then failed, the others go on, and the
next look at the lake finds it due again.
"""

import contextlib
import ctypes
import importlib
import multiprocessing
import os
import signal
import traceback
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol

from bridge.errors import ConfigError, PrombridgeError, StorageUnavailable
from downsample.jobs import Job
from downsample.settings import DownsampleSettings
from downsample.work import Outcome, Site, do

Merged = Mapping[str, Collection[str]]
Done = tuple[Job, Outcome | Exception]

NICE = 5
_PR_SET_PDEATHSIG = 1


class Engine(Protocol):
    """Runs jobs elsewhere."""

    def run(self, jobs: Sequence[tuple[Job, Merged]]) -> Iterator[Done]:
        """Each job with what came of it, as they end."""

    def close(self) -> None:
        """Ends what runs."""


class LocalEngine:
    """Processes of this host, as long as there are jobs: idle ones would only hold memory."""

    def __init__(self, site: Site, workers: int) -> None:
        """Starts nothing yet.

        Args:
            site: where the lake is.
            workers: jobs at once, each of them up to `site.memory_bytes`.
        """
        self._site = site
        self._count = workers
        self._workers: set[_Worker] = set()
        self._is_closed = False

    def run(self, jobs: Sequence[tuple[Job, Merged]]) -> Iterator[Done]:
        """Each job with what came of it, as they end."""
        waiting = deque(jobs)
        busy: dict[Connection, tuple[_Worker, Job]] = {}
        idle: list[_Worker] = []
        try:
            while not self._is_closed and (waiting or busy):
                while waiting and len(busy) < self._count:
                    worker = idle.pop() if idle else self._start()
                    job, merged = waiting.popleft()
                    worker.give(job, merged)
                    busy[worker.connection] = worker, job
                for connection in wait(list(busy)):
                    assert isinstance(connection, Connection)
                    worker, job = busy.pop(connection)
                    outcome = worker.take()
                    if outcome is None:
                        self._workers.discard(worker)
                        yield job, PrombridgeError(f"its worker died, {worker.end()}")
                    else:
                        idle.append(worker)
                        yield job, outcome
        finally:
            # Whoever does not want the rest has to plan again.
            for worker in self._workers:
                worker.kill()
                worker.end()
            self._workers = set()

    def close(self) -> None:
        """Ends what runs, for good; may be called by a signal handler."""
        self._is_closed = True
        for worker in list(self._workers):
            worker.kill()

    def _start(self) -> "_Worker":
        worker = _Worker(self._site)
        self._workers.add(worker)
        if self._is_closed:  # meanwhile
            worker.kill()
        return worker


class _Worker:
    """A process that does one job after the other; that it died shows when it is asked."""

    def __init__(self, site: Site) -> None:
        # Not forked: threads of this process hold locks.
        spawn = multiprocessing.get_context("spawn")
        self.connection, other = spawn.Pipe()
        self._process = spawn.Process(
            target=_work, args=(other, site), name="downsample-worker", daemon=True
        )
        self._process.start()
        other.close()  # or its end would not show

    def give(self, job: Job, merged: Merged) -> None:
        """Has a job done."""
        with contextlib.suppress(OSError):  # shows when the outcome is taken
            self.connection.send((job, merged))

    def take(self) -> Outcome | Exception | None:
        """What came of the job; None if the process died."""
        try:
            outcome: Outcome | Exception = self.connection.recv()
        except (EOFError, OSError):
            return None
        return outcome

    def end(self) -> str:
        """How it ended."""
        self._process.join(1.0)
        code = self._process.exitcode
        return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"

    def kill(self) -> None:
        """Ends it now; what it uploaded is an orphan."""
        self._process.kill()


class DaskEngine:
    """Workers of a Dask cluster; all of them reach the lake under the same URI.

    The job of a worker that is lost goes to another one, `distributed.scheduler.allowed-failures`
    times; one that fails is due again with the next look.
    """

    def __init__(self, site: Site, scheduler: str) -> None:
        """Connects to the scheduler.

        Raises:
            ConfigError: Dask is not installed.
            StorageUnavailable: the scheduler does not answer.
        """
        try:
            distributed: Any = importlib.import_module("distributed")  # an extra that few need
        except ImportError as error:
            raise ConfigError(
                "downsample.engine: dask needs the package: pip install 'prombridge[dask]'"
            ) from error
        self._site = site
        self._scheduler = scheduler
        self._distributed = distributed
        self._client: Any = None
        self._is_closed = False
        self._connect()

    def run(self, jobs: Sequence[tuple[Job, Merged]]) -> Iterator[Done]:
        """Each job with what came of it, as they end."""
        if self._is_closed:
            return
        client = self._connect()
        job_of = {
            client.submit(do, job, self._site, merged, pure=False): job for job, merged in jobs
        }
        try:
            for future in self._distributed.as_completed(list(job_of), loop=client.loop):
                yield job_of[future], _outcome(future)
        except RuntimeError:
            if not self._is_closed:  # its loop ends with it
                raise
        finally:
            if client.status == "running":
                client.cancel(list(job_of))

    def close(self) -> None:
        """Leaves the cluster; what runs there is forgotten."""
        self._is_closed = True
        if self._client is not None:
            self._client.close()

    def _connect(self) -> Any:
        """The client; a new one where the scheduler was away for longer than the old one waited."""
        if self._client is None or self._client.status == "closed":
            try:
                self._client = self._distributed.Client(self._scheduler, set_as_default=False)
            except (OSError, TimeoutError) as error:
                raise StorageUnavailable(
                    f"the Dask scheduler {self._scheduler} does not answer: {error}"
                ) from error
        return self._client


def open_engine(settings: DownsampleSettings, site: Site) -> Engine:
    """The engine of the settings.

    Raises:
        ConfigError: it is not installed.
        StorageUnavailable: it does not answer.
    """
    if settings.engine == "dask":
        return DaskEngine(site, settings.dask_scheduler)
    return LocalEngine(site, settings.workers)


def _work(connection: Connection, site: Site) -> None:
    """What a worker does until its parent ends it."""
    _prepare_worker()
    while True:
        try:
            job, merged = connection.recv()
        except (EOFError, OSError):
            return
        try:
            outcome: Outcome | Exception = do(job, site, merged)
        except PrombridgeError as error:
            outcome = error
        except Exception:  # noqa: BLE001 - the supervisor of the jobs
            outcome = PrombridgeError(traceback.format_exc())
        connection.send(outcome)


def _prepare_worker() -> None:
    """A worker ends with its parent, not with Ctrl-C, and leaves the CPU to ingest and reads."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():  # it died while this one was starting
        os._exit(1)
    os.nice(NICE)


def _outcome(future: Any) -> Outcome | Exception:
    """What came of a job in a cluster."""
    if future.cancelled():
        return StorageUnavailable("the cluster does not have the job any more")
    error = future.exception()
    if error is None:
        result: Outcome = future.result()
        return result
    return error if isinstance(error, Exception) else PrombridgeError(f"the job died: {error!r}")
