"""SIGKILL of a downsampler and of its workers, and two at once: each sample stays there once.

A receiver writes all the while. Before each run late samples make every day due again; then
`prombridge downsample --once` is killed at a random moment of its run, or one of its workers is.
After each kill no sample is missing in the lake, and reads give each once. A run to the end leaves

    samples                   every sample once, in compacted files
    samples_5m, samples_1h    what the oracle makes of the samples; their counts are the samples'

Both stories are told twice: with all that was ever sent, and with raw samples of the first days,
and 5m rows of the very first, dropped by retention. Late samples are merged into what is left of
these, once (DOWN-5), whoever dies.

`PROMBRIDGE_CRASH_KILLS` raises the number of kills, `PROMBRIDGE_CRASH_SEED` repeats their moments.
"""

import logging
import os
import random
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from tests.integration.bridge import Bridge
from tests.integration.downsampling import (
    WINDOWS_MS,
    Downsampler,
    check_rollups,
    check_samples,
    stored_rollups,
    stored_samples,
    wait_for,
)
from tests.integration.feeder import Feeder
from tests.integration.processes import wait_until
from tests.integration.remote import Labels, Sample, bits_of, make_body, read_samples

KILL_COUNT = max(20, int(os.environ.get("PROMBRIDGE_CRASH_KILLS", "0")))
# So many are kills of a worker alone; the others of the process that commits.
WORKER_KILL_ONE_IN = 4
PAIR_COUNT = 5
# A run makes some commits a second, three of each span.
AFTER_COMMIT_S_MAX = 0.3
DAY_MS = 86_400_000
FIRST_MS = 1_764_547_200_000  # 2025-12-01
DAYS = 3
SERIES_COUNT = 6
EVERY_MS = 60_000
# Half of the kills come with a clock that leaves the last of the days open: hours are done then.
OPEN_NOW_MS = FIRST_MS + (DAYS - 1) * DAY_MS + 5 * 3_600_000
# The sender's days are never closed: without a late_interval to speak of a run would not come to an
# end while it sends.
CLOSED_NOW_MS = FIRST_MS + 10 * DAY_MS
FLAGS = ["--downsample.late-interval=1ms", "--downsample.workers=2"]
KEPT = {
    "all": ["--retention.raw=0", "--retention.5m=0"],
    # Counted from the end of the last day: the first two days lose their raw samples, the first its
    # 5m rows too.
    "some": ["--retention.raw=12h", "--retention.5m=36h"],
}
DROPPED_DAYS = {"all": {"samples": 0, "samples_5m": 0}, "some": {"samples": 2, "samples_5m": 1}}


def labels_of(number: int) -> Labels:
    return (("__name__", f"killed_{number % 2}_total"), ("n", str(number)))


@dataclass
class Story:
    """A lake, its receiver, a sender that goes on, and all that was sent beside it."""

    bridge: Bridge
    downsampler: Downsampler
    feeder: Feeder
    randomness: random.Random
    kept: str
    series: dict[Labels, list[Sample]] = field(default_factory=dict)
    round_count: int = 0
    kill_count: int = 0
    late_kill_count: int = 0
    """Kills of runs that had committed something and not all."""

    def send(self) -> None:
        """One more sample of every series each minute, or now and then, in all days: all due."""
        share_ms = EVERY_MS if self.round_count == 0 else 30 * EVERY_MS
        shift_ms = self.round_count * 7
        for day in range(DAYS):
            begin_ms = FIRST_MS + day * DAY_MS
            part = {
                labels_of(number): [
                    (time_ms, bits_of(float(time_ms // 1000 % 5003 + number)))
                    for time_ms in range(
                        begin_ms + share_ms + shift_ms, begin_ms + DAY_MS, share_ms
                    )
                ]
                for number in range(SERIES_COUNT)
            }
            reply = make_body(1, list(part.items())).push(self.bridge.write_url)
            assert reply.status == 204, reply
            for labels, samples in part.items():
                self.series.setdefault(labels, []).extend(samples)
        self.bridge.flush()
        self.round_count += 1

    def left(self, table: str) -> dict[Labels, list[Sample]]:
        """What retention leaves to a table."""
        begin_ms = FIRST_MS + DROPPED_DAYS[self.kept].get(table, 0) * DAY_MS
        return {
            labels: [one for one in samples if one[0] > begin_ms]
            for labels, samples in self.series.items()
        }

    def check_nothing_is_missing(self) -> None:
        """In whatever state a kill has left the lake."""
        left = self.left("samples")
        found = stored_samples(self.bridge.lake)
        for labels, samples in left.items():
            missing = set(samples) - found[labels].keys()
            assert not missing, f"{labels}: {len(missing)} are missing after a kill"
        begin_ms = FIRST_MS + DROPPED_DAYS[self.kept]["samples"] * DAY_MS
        read = read_samples(
            self.bridge.read_url,
            [("__name__", "=~", "killed_.*")],
            begin_ms + 1,
            FIRST_MS + DAYS * DAY_MS,
        )
        assert {labels: Counter(own) for labels, own in read} == {
            labels: Counter(own) for labels, own in left.items()
        }

    def begin(self) -> float:
        """All days are done, and what is to be dropped is dropped; the seconds that it took."""
        self.send()
        started_s = time.monotonic()
        self.downsampler.once(now_ms=CLOSED_NOW_MS)
        return time.monotonic() - started_s

    def finish(self) -> None:
        """The sender pauses, a last run ends, and all is looked at."""
        self.feeder.pause()
        self.bridge.flush()
        self.downsampler.once(now_ms=CLOSED_NOW_MS)
        fed: dict[Labels, list[Sample]] = {}
        for (labels, time_ms), bits in self.feeder.samples().items():
            fed.setdefault(labels, []).append((time_ms, bits))
        assert fed
        lake = self.bridge.lake
        names = lake.table("samples").file_uris()
        assert not [name for name in names if "date=2025-12-0" in name and "/f-" in name]
        check_samples(lake, {**self.left("samples"), **fed})
        is_merged = self.kept == "some"
        left_out = ("resets", "reset_drop") if is_merged else ()
        for table in WINDOWS_MS:
            left = self.left(table)
            check_rollups(lake, table, left, is_merged=is_merged, left_out=left_out)
            rollups = stored_rollups(lake, table)
            count = sum(row.count for labels in left for row in rollups[labels])
            assert count == sum(map(len, left.values()))


@contextmanager
def telling(folder: Path, name: str, kept: str) -> Iterator[Story]:
    # pytest-randomly seeds this from the seed that it prints.
    seed = int(os.environ.get("PROMBRIDGE_CRASH_SEED") or random.getrandbits(32))
    logging.getLogger(__name__).info("PROMBRIDGE_CRASH_SEED=%d", seed)
    flags = ["--lake.refresh-interval=50ms"]
    with (
        Bridge(folder / "bridge", flush_interval="500ms", flags=flags) as bridge,
        Feeder(bridge.write_url, name, pace_s=0.1) as feeder,
    ):
        downsampler = Downsampler(folder, bridge.lake, [*FLAGS, *KEPT[kept]])
        yield Story(bridge, downsampler, feeder, random.Random(f"{seed} {name} {kept}"), kept)


def kill_somewhere(story: Story, run_s: float) -> None:
    """One run that is killed at a random moment, or soon after a commit, or whose worker is."""
    randomness = story.randomness
    now_ms = OPEN_NOW_MS if randomness.random() < 0.5 else CLOSED_NOW_MS

    def version(table: str) -> int:
        return story.bridge.lake.table(table).version()

    before = {table: version(table) for table in WINDOWS_MS}
    process = story.downsampler.start("--once", now_ms=now_ms)
    # When it happens is the point here, so these are waits for a time.
    if randomness.random() < 0.5:
        threading.Event().wait(randomness.uniform(0.2, 1.1) * run_s)
    else:
        table = randomness.choice(list(WINDOWS_MS))
        wait_until(
            lambda: version(table) > before[table] or process.poll() is not None,
            f"{table} is committed",
            60,
        )
        threading.Event().wait(randomness.uniform(0, AFTER_COMMIT_S_MAX))
    if randomness.randrange(WORKER_KILL_ONE_IN) == 0:
        kill_a_worker(process)
    else:
        process.kill()
    # Its workers end with it, which closes what they write to.
    wait_for(process)
    story.kill_count += 1
    is_begun = any(version(table) > before[table] for table in WINDOWS_MS)
    story.late_kill_count += is_begun and process.returncode != 0


def kill_a_worker(process: subprocess.Popen[str]) -> None:
    """Or the one that keeps track of them; nothing where there is none yet, or any more."""
    with suppress(psutil.NoSuchProcess):
        children = psutil.Process(process.pid).children(recursive=True)
        if children:
            children[-1].kill()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kept", KEPT)
def test_kills_at_random_moments_cost_no_sample_and_double_none(tmp_path: Path, kept: str) -> None:
    with telling(tmp_path, "killed", kept) as story:
        run_s = story.begin()
        for _ in range(KILL_COUNT):
            story.send()
            kill_somewhere(story, run_s)
            story.check_nothing_is_missing()
        story.finish()
    logging.getLogger(__name__).info(
        "%d kills, %d of them between commits", story.kill_count, story.late_kill_count
    )
    assert story.kill_count == KILL_COUNT
    # Else the kills met nothing.
    assert story.late_kill_count >= KILL_COUNT // 5


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kept", KEPT)
def test_two_downsamplers_at_once_double_nothing_and_lose_nothing(
    tmp_path: Path, kept: str
) -> None:
    with telling(tmp_path, "two", kept) as story:
        story.begin()
        for number in range(PAIR_COUNT):
            story.send()
            now_ms = OPEN_NOW_MS if number % 2 else CLOSED_NOW_MS
            pair = [story.downsampler.start("--once", now_ms=now_ms) for _ in range(2)]
            said = [wait_for(process) for process in pair]
            assert [process.returncode for process in pair] == [0, 0], said
            story.check_nothing_is_missing()
        story.finish()
