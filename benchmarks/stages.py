"""Where the CPU time of a downsampling goes, stage by stage, in one process.

    python -m benchmarks.stages [--series 290] [--days 20] [--interval 60] [--flushes 1]

The coordinator does the jobs itself, so that one clock sees all: CPU time of the process, all
threads, between the edges of the calls below. What a stage calls that is a stage itself is not
counted twice. The clock costs 0.5 µs a look.

    read         decode row groups, find series, cut to the span      merge_files (reading)
    merge        put rows into their places, duplicates, replicas     merge_files (the rest)
    kernel       5m and 1h of a batch                                 roll_up
    write raw    compacted samples                                    SampleWriter
    write 5m     rollups                                              RollupWriter
    write 1h
    stored 1h    rows of the month that are carried over              merge_streams, read_stored
    open store   of each job                                          open_store
    put          into the store, with fsync                           put_file
    commit       and reading the log again                            MaintenanceLake.commit
    look         listing and plan                                     MaintenanceLake.view, plan
    tidy         checkpoint, vacuum
"""

import argparse
import multiprocessing
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

import downsample.coordinator
import downsample.work
from benchmarks.fleet import DAY_MS, DEFAULT_DATA
from benchmarks.history import START_MS, History, make_lake
from bridge.lake.folder_store import FolderStore
from bridge.lake.maintenance import MaintenanceLake
from bridge.lake.parquet import RollupWriter, SampleWriter
from bridge.lake.schema import SAMPLES_5M
from downsample.coordinator import Coordinator
from downsample.engine import Done, Merged
from downsample.jobs import Job
from downsample.metrics import DownsampleMetrics
from downsample.quarantine import Quarantine
from downsample.settings import DownsampleSettings, RetentionSettings
from downsample.sorted_reader import SortedReader
from downsample.work import Site, do


class Stages:
    """CPU seconds by stage; whoever is innermost is charged."""

    def __init__(self) -> None:
        self.spent_s: dict[str, float] = {}
        self._open: list[str] = ["else"]
        self._since_s = time.process_time()

    def enter(self, stage: str) -> None:
        """A stage begins."""
        self._charge()
        self._open.append(stage)

    def leave(self) -> None:
        """It ends."""
        self._charge()
        self._open.pop()

    def timed(self, stage: str | Callable[..., str], call: Callable[..., Any]) -> Any:
        """The same function, charged to a stage."""

        @wraps(call)
        def charged(*arguments: Any, **named: Any) -> Any:
            self.enter(stage if isinstance(stage, str) else stage(*arguments))
            try:
                return call(*arguments, **named)
            finally:
                self.leave()

        return charged

    def iterated(self, stage: str, call: Callable[..., Iterator[Any]]) -> Any:
        """The same generator, charged while it works."""

        @wraps(call)
        def charged(*arguments: Any, **named: Any) -> Iterator[Any]:
            made = call(*arguments, **named)
            while True:
                self.enter(stage)
                try:
                    item = next(made, None)
                finally:
                    self.leave()
                if item is None:
                    return
                yield item

        return charged

    def _charge(self) -> None:
        now_s = time.process_time()
        stage = self._open[-1]
        self.spent_s[stage] = self.spent_s.get(stage, 0.0) + now_s - self._since_s
        self._since_s = now_s


class InlineEngine:
    """Does jobs here and now."""

    def __init__(self, site: Site) -> None:
        self._site = site

    def run(self, jobs: Sequence[tuple[Job, Merged]]) -> Iterator[Done]:
        """Each job with what came of it."""
        for job, merged in jobs:
            yield job, do(job, self._site, merged)

    def close(self) -> None:
        """Nothing runs."""


def instrument(stages: Stages) -> None:
    """Puts the clock around the stages, in this process for good."""
    work, coordinator = downsample.work, downsample.coordinator
    levels: dict[int, str] = {}

    def level_of(writer: object, *more: object) -> str:
        """The constructor of a writer gets the table, its other methods look it up."""
        if len(more) > 1 and isinstance(more[1], str):
            levels[id(writer)] = "write 5m" if more[1] == SAMPLES_5M else "write 1h"
        return levels[id(writer)]

    calls: list[tuple[object, str, str | Callable[..., str]]] = [
        (SortedReader, "__init__", "read"),
        (SortedReader, "read", "read"),
        (work, "roll_up", "kernel"),
        (work, "open_store", "open store"),
        (work, "put_file", "put"),
        (coordinator, "plan", "look"),
        (MaintenanceLake, "view", "look"),
        (MaintenanceLake, "commit", "commit"),
        (MaintenanceLake, "checkpoint", "tidy"),
        (MaintenanceLake, "vacuum", "tidy"),
    ]
    for name in ("__init__", "write", "finish"):
        calls += [(SampleWriter, name, "write raw"), (RollupWriter, name, level_of)]
    for owner, name, stage in calls:
        setattr(owner, name, stages.timed(stage, getattr(owner, name)))
    for name, stage in (
        ("merge_files", "merge"),
        ("merge_streams", "stored 1h"),
        ("read_stored", "stored 1h"),
    ):
        setattr(work, name, stages.iterated(stage, getattr(work, name)))


def spent(history: History, data: Path, work: Path) -> dict[str, float]:
    """CPU seconds by stage of all that is due in the lake of a history."""
    lake_path = work / "lake"
    shutil.copytree(make_lake(data, history), lake_path)
    now_ms = START_MS + (history.day_count + 1) * DAY_MS
    stages = Stages()
    instrument(stages)
    store = FolderStore(lake_path)
    settings = DownsampleSettings()
    with MaintenanceLake.open(store, clock=lambda: now_ms / 1000) as lake:
        coordinator = Coordinator(
            lake,
            Quarantine(store),
            InlineEngine(Site(str(lake_path), (), work / "scratch", settings.memory)),
            settings,
            RetentionSettings(),
            DownsampleMetrics(CollectorRegistry()),
        )
        stages.enter("else")
        assert coordinator.run(now_ms)
        stages.leave()
    return stages.spent_s


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--series", type=int, default=290)
    parser.add_argument("--days", type=int, default=20)
    parser.add_argument("--interval", type=int, default=60, help="seconds")
    parser.add_argument("--flushes", type=int, default=1, help="a day")
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA)
    parser.add_argument("--work", type=Path)
    options = parser.parse_args()
    history = History(options.series, options.days, options.interval * 1000, options.flushes)
    with (
        tempfile.TemporaryDirectory(dir=options.work, prefix="downsample-") as name,
        multiprocessing.get_context("spawn").Pool(1) as pool,
    ):
        found = pool.apply(spent, (history, options.data, Path(name)))
    total_s = sum(found.values())
    print(f"{history.sample_count / 1e6:.1f} M samples, {total_s:.2f} s")
    print("| stage | s | ns a sample | |\n|---|--:|--:|--:|")
    for stage, cpu_s in sorted(found.items(), key=lambda item: -item[1]):
        each_ns = cpu_s / history.sample_count * 1e9
        print(f"| {stage} | {cpu_s:.3f} | {each_ns:.1f} | {cpu_s / total_s:.0%} |")


if __name__ == "__main__":
    main()
