"""A real Dask scheduler and two workers do the work; one worker dies in the middle."""

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest

from tests.integration.bridge import Bridge, Place, environment_of
from tests.integration.downsampling import Downsampler, check_whole, file_names, wait_for
from tests.integration.object_stores import VersityGw
from tests.integration.processes import ServerProcess, fetch, free_port, wait_until
from tests.integration.remote import Labels, Sample, bits_of, make_body

pytest.importorskip("distributed")

DAY_MS = 86_400_000
FIRST_MS = 1_764_547_200_000  # 2025-12-01
DAYS = 8
EVERY_MS = 60_000
SERIES_COUNT = 5


class Scheduler(ServerProcess):
    """Ready as soon as it listens; it speaks no HTTP."""

    def __init__(self, folder: Path) -> None:
        super().__init__(
            "scheduler",
            folder,
            lambda port: [
                sys.executable,
                "-m",
                "distributed.cli.dask_scheduler",
                "--host=127.0.0.1",
                f"--port={port}",
                "--no-dashboard",
                "--no-show",
            ],
        )

    @property
    def address(self) -> str:
        return f"tcp://127.0.0.1:{self.port}"

    def answers_ready(self) -> bool:
        return self.listens()


class Worker(ServerProcess):
    """Ready as soon as the scheduler has it; without a nanny that would start it again."""

    def __init__(self, folder: Path, name: str, scheduler: Scheduler, lake: Place) -> None:
        super().__init__(
            name,
            folder,
            lambda _: [
                sys.executable,
                "-m",
                "distributed.cli.dask_worker",
                scheduler.address,
                f"--name={name}",
                "--host=127.0.0.1",
                f"--worker-port={free_port()}",
                "--nthreads=1",
                "--memory-limit=0",
                "--no-nanny",
                "--no-dashboard",
                f"--local-directory={folder}",
            ],
            environment=environment_of(lake),
        )

    def answers_ready(self) -> bool:
        return "Registered to" in self.log_tail()


@contextmanager
def cluster(folder: Path, lake: Place) -> Iterator[tuple[Scheduler, list[Worker]]]:
    """A scheduler and two workers that reach the lake."""
    with ExitStack() as stack:
        scheduler = stack.enter_context(Scheduler(folder / "scheduler"))
        workers = [Worker(folder / name, name, scheduler, lake) for name in ("one", "two")]
        for worker in workers:
            stack.enter_context(worker)
        yield scheduler, workers


def made() -> dict[Labels, list[Sample]]:
    """Some days of a few counters."""
    return {
        (("__name__", f"farmed_{number % 2}_total"), ("n", str(number))): [
            (time_ms, bits_of(float(time_ms // 1000 % 5003 + number)))
            for time_ms in range(FIRST_MS + EVERY_MS, FIRST_MS + DAYS * DAY_MS + 1, EVERY_MS)
        ]
        for number in range(SERIES_COUNT)
    }


def fill(folder: Path, lake: Place) -> dict[Labels, list[Sample]]:
    """The lake has the days, nothing is done yet."""
    series = made()
    with Bridge(folder / "bridge", lake=lake) as bridge:
        reply = make_body(1, list(series.items())).push(bridge.write_url)
        assert reply.status == 204, reply
        bridge.flush()
    return series


def is_done(lake: Place) -> bool:
    names = file_names(lake, "samples")
    return len(names) == DAYS and all(name.startswith("c-") for name in names)


@pytest.mark.parametrize("place", ["folder", "s3"])
def test_all_is_done_though_a_worker_dies_in_the_middle(tmp_path: Path, place: str) -> None:
    with ExitStack() as stack:
        lake = Place(str(tmp_path / "lake"))
        if place == "s3":
            server = stack.enter_context(VersityGw(tmp_path / "store"))
            access = server.access
            uri = f"s3://{access.make_bucket()}/lake"
            lake = Place(uri, access.environment(), access.storage_options())
        series = fill(tmp_path, lake)
        scheduler, (one, two) = stack.enter_context(cluster(tmp_path, lake))
        downsampler = Downsampler(
            tmp_path,
            lake,
            ["--downsample.engine=dask", f"--downsample.dask-scheduler={scheduler.address}"],
        )
        # It takes jobs and never does them.
        two.pause()
        process = downsampler.start("--once")
        wait_until(
            lambda: "c-" in "".join(file_names(lake, "samples")) or process.poll() is not None,
            "the other worker has done a job",
            60,
        )
        assert process.poll() is None, wait_for(process)
        two.kill()
        said = wait_for(process)
        assert process.returncode == 0, said
        assert one.pid in psutil.pids()
        assert "maintenance job failed" not in said
        assert is_done(lake)
        check_whole(lake, series)


def test_a_scheduler_that_does_not_answer_is_named(tmp_path: Path) -> None:
    # As Dask waits by default it would take half a minute.
    lake = Place(str(tmp_path / "lake"), {"DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "1s"})
    address = f"tcp://127.0.0.1:{free_port()}"
    flags = ["--downsample.engine=dask", f"--downsample.dask-scheduler={address}"]
    process = Downsampler(tmp_path, lake, flags).start("--once")
    said = wait_for(process)
    assert process.returncode == 1, said
    assert address in said
    assert "Traceback" not in said


def test_it_goes_on_when_the_scheduler_is_back(tmp_path: Path) -> None:
    """It was away for longer than Dask's client waits for it."""
    lake = Place(str(tmp_path / "lake"), {"DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "1s"})
    series = fill(tmp_path, lake)
    address = f"127.0.0.1:{free_port()}"

    def is_planned() -> bool:
        try:
            text = fetch("GET", f"http://{address}/metrics").body.decode()
        except OSError:
            return False
        return f'prombridge_downsample_jobs_due{{kind="RollSpan"}} {DAYS}.0' in text

    with cluster(tmp_path, lake) as (scheduler, workers):
        for worker in workers:
            worker.pause()
        process = Downsampler(
            tmp_path,
            lake,
            [
                "--downsample.engine=dask",
                f"--downsample.dask-scheduler={scheduler.address}",
                "--downsample.interval=500ms",
                f"--downsample.listen-address={address}",
            ],
        ).start()
        with process, ThreadPoolExecutor(1) as thread:
            lines: list[str] = []
            assert process.stdout is not None
            reading = thread.submit(lines.extend, iter(process.stdout.readline, ""))

            def says(text: str) -> bool:
                return any(text in line for line in lines)

            try:
                wait_until(is_planned, "the workers have jobs", 60)
                scheduler.kill()
                for worker in workers:
                    worker.kill()
                wait_until(lambda: says("does not answer"), "it has given up the client", 60)
                scheduler.start()
                with Worker(tmp_path / "three", "three", scheduler, lake):
                    wait_until(lambda: is_done(lake), "all is done", 60)
                    process.terminate()
                    process.wait(30)
            finally:
                process.kill()
                reading.result(30)
    assert process.returncode == 0, "".join(lines)
    check_whole(lake, series)
