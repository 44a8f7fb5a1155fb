"""Workers that die cost their own job and no other; an engine that is closed stays closed."""

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from bridge.errors import PrombridgeError
from bridge.model.time_range import TimeRange
from downsample.engine import LocalEngine
from downsample.jobs import CompactMetadata
from downsample.work import Outcome, Site

DEADLINE_S = 30.0


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[LocalEngine]:
    made = LocalEngine(Site(str(tmp_path / "lake"), (), tmp_path / "scratch", 1 << 27), 1)
    yield made
    made.close()


def job(reason: str) -> CompactMetadata:
    """One that fails at once: it names no file."""
    return CompactMetadata(TimeRange(0, 1), (), reason)


def workers() -> list[psutil.Process]:
    return [
        process
        for process in psutil.Process().children()
        if "spawn_main" in " ".join(process.cmdline())
    ]


def test_a_job_that_fails_says_why_and_the_others_go_on(engine: LocalEngine) -> None:
    outcomes = [outcome for _, outcome in engine.run([(job("a"), {}), (job("b"), {})])]
    assert len(outcomes) == 2
    assert all(isinstance(outcome, PrombridgeError) for outcome in outcomes)
    assert not any(isinstance(outcome, Outcome) for outcome in outcomes)


def test_a_worker_that_is_killed_costs_its_own_job_alone(engine: LocalEngine) -> None:
    """As the kernel does it when memory is short."""
    done = engine.run([(job(str(number)), {}) for number in range(3)])
    seen = [next(done)]
    (worker,) = workers()
    worker.send_signal(signal.SIGSTOP)
    threading.Timer(0.2, lambda: os.kill(worker.pid, signal.SIGKILL)).start()
    seen += list(done)
    assert [one.reason for one, _ in seen] == ["0", "1", "2"]
    assert "its worker died, signal 9" in str(seen[1][1])
    assert "died" not in str(seen[2][1])
    assert workers() == [], "idle ones only hold memory"


def test_an_engine_that_is_closed_ends_what_runs_and_begins_nothing(engine: LocalEngine) -> None:
    done = engine.run([(job(str(number)), {}) for number in range(50)])
    next(done)
    engine.close()
    assert len(list(done)) <= 1
    assert workers() == []
    assert list(engine.run([(job("late"), {})])) == []


def test_who_wants_no_more_leaves_no_worker(engine: LocalEngine) -> None:
    done = engine.run([(job(str(number)), {}) for number in range(50)])
    next(done)
    done.close()  # type: ignore[attr-defined]
    assert workers() == []
