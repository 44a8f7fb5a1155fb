"""SIGKILL while InfluxDB comes and goes: both sinks account for every sample, and have it once.

A bridge is killed again and again, one time in four before it is ready, while a sender goes on and
the network between the bridge and InfluxDB fails by turns. So kills meet requests that are neither
answered nor refused, batches that InfluxDB has and the cursor does not know of, and commits.

After each start, before anything more is sent, `/metrics` is asked for the ledger:

    acknowledged <= accepted <= acknowledged + not answered
    accepted = delivered + pending + dropped, the same for the lake and for InfluxDB (SINK-4)

What was not answered is there as a whole or not at all, and the same in both places. Nothing is
sent twice, so in the end InfluxDB's points and the lake's rows are what was acknowledged, once.

`PROMBRIDGE_CRASH_KILLS` raises the number of kills, `PROMBRIDGE_CRASH_SEED` repeats their moments.
"""

import logging
import os
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration.destinations import SampleKey, lake_rows
from tests.integration.fan_out import OFTEN, FanOut
from tests.integration.faults import Cut, Error, Fault, Refuse, Reset
from tests.integration.faulty_proxy import FaultyProxy
from tests.integration.feeder import Feeder, explain
from tests.integration.influxdb import InfluxDb
from tests.integration.processes import ServerEndedError, wait_until

KILL_COUNT = max(12, int(os.environ.get("PROMBRIDGE_CRASH_KILLS", "0")))
EARLY_KILL_ONE_IN = 4
# So many are killed right after InfluxDB has taken a batch and before they know.
LATE_KILL_ONE_IN = 3
# The cursor is stored every second, so a long life has batches before it and behind it.
LIFE_S_MAX = 2.5
FLAP_S_MAX = 0.5
# The first two have stored everything, and nobody has been told.
FAULTS: tuple[Fault, ...] = (Cut(share=0.0), Reset(share=0.0), Error(503), Refuse())


@contextmanager
def flapping(proxy: FaultyProxy, randomness: random.Random) -> Iterator[None]:
    """The network fails for a while, works for a while, and so on."""
    is_over = threading.Event()

    def flap() -> None:
        while not is_over.is_set():
            # When it happens is the point here, so these are waits for a time.
            with proxy.injected(randomness.choice(FAULTS)):
                is_over.wait(randomness.uniform(0, FLAP_S_MAX))
            is_over.wait(randomness.uniform(0, 3 * FLAP_S_MAX))

    thread = threading.Thread(target=flap, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join(60)
        assert not thread.is_alive()


class Killing:
    """The bridge's lives and deaths."""

    def __init__(
        self, fan_out: FanOut, proxy: FaultyProxy, feeder: Feeder, randomness: random.Random
    ) -> None:
        self._fan_out = fan_out
        self._proxy = proxy
        self._feeder = feeder
        self._randomness = randomness
        self._moment = threading.Event()
        self._ready_s = 1.0
        self._delivered = 0
        self.pending_count = 0
        """Kills after which InfluxDB lacked something."""
        self.progress_count = 0
        """Kills before which InfluxDB's cursor had moved."""

    def live_and_die(self) -> None:
        """One life with a sender, its end, and a start that is looked at."""
        self._feeder.resume()
        self._wait(LIFE_S_MAX)
        if self._randomness.randrange(LATE_KILL_ONE_IN) == 0:
            self._wait_for_a_lost_answer()
        self._fan_out.bridge.kill()
        self._feeder.pause()
        assert not self._feeder.refused, explain(self._feeder.refused)
        while self._randomness.randrange(EARLY_KILL_ONE_IN) == 0:
            self._fan_out.bridge.launch()
            self._wait(self._ready_s)
            self._fan_out.bridge.kill()
        started_s = time.monotonic()
        self._fan_out.bridge.launch()
        try:
            self._fan_out.bridge.wait_ready()
        except ServerEndedError as error:
            pytest.fail(f"{error} after a kill:\n{self._fan_out.bridge.log_tail()}")
        self._ready_s = time.monotonic() - started_s
        self._check_ledger()

    def _wait(self, seconds_max: float) -> None:
        # The moment is the point here, so this is a wait for a time.
        self._moment.wait(self._randomness.uniform(0, seconds_max))

    def _wait_for_a_lost_answer(self) -> None:
        """Until InfluxDB has a batch and the bridge does not know."""
        count = self.lost_answer_count
        rule = self._proxy.inject(Cut(share=0.0), path="/api/v2/write")
        wait_until(lambda: self.lost_answer_count > count, "an answer is lost", 20)
        self._proxy.heal(rule)

    @property
    def lost_answer_count(self) -> int:
        """Requests that InfluxDB has answered in vain."""
        return sum(isinstance(request.fault, Cut | Reset) for request in self._proxy.requests())

    def _check_ledger(self) -> None:
        lake, influxdb = self._fan_out.look()
        lowest = self._feeder.acknowledged_count
        assert lowest <= lake.accepted <= lowest + self._feeder.unanswered_count
        assert influxdb.accepted == lake.accepted
        assert influxdb.dropped.keys() <= {"nan", "infinite", "stale_marker"}
        assert not lake.dropped
        self.pending_count += influxdb.pending > 0
        self.progress_count += influxdb.delivered > self._delivered
        self._delivered = influxdb.delivered


def accepted_samples(fan_out: FanOut, feeder: Feeder) -> dict[SampleKey, int]:
    """What was acknowledged, and what the bridge took without having been able to say so."""
    samples = feeder.samples()
    there = dict(lake_rows(fan_out.lake_path)).keys()
    for answer in feeder.answers:
        if answer.status == 0:
            own = feeder.samples_of(answer.number)
            assert own.keys() <= there or not own.keys() & there, f"{answer} is there in part"
            samples |= own if own.keys() <= there else {}
    return samples


@pytest.mark.timeout(max(180, 8 * KILL_COUNT))
def test_both_sinks_account_for_every_sample_through_kills(tmp_path: Path) -> None:
    # pytest-randomly seeds this from the seed that it prints.
    seed = int(os.environ.get("PROMBRIDGE_CRASH_SEED") or random.getrandbits(32))
    log = logging.getLogger(__name__)
    log.info("PROMBRIDGE_CRASH_SEED=%d", seed)
    randomness = random.Random(seed)
    with InfluxDb(tmp_path / "influxdb") as server, FaultyProxy(server.url) as proxy:
        fan_out = FanOut(server, tmp_path / "bridge", url=proxy.url, flush_interval=OFTEN)
        try:
            fan_out.bridge.start()
            with Feeder(fan_out.bridge.url, "killed", pace_s=0.01) as feeder:
                killing = Killing(fan_out, proxy, feeder, randomness)
                with flapping(proxy, random.Random(seed + 1)):
                    for _ in range(KILL_COUNT):
                        killing.live_and_die()
                log.info(
                    "%d acknowledged, %d unanswered; %d kills, %d left InfluxDB behind, %d found "
                    "its cursor moved; %d of its answers were lost",
                    feeder.acknowledged_count,
                    feeder.unanswered_count,
                    KILL_COUNT,
                    killing.pending_count,
                    killing.progress_count,
                    killing.lost_answer_count,
                )
                # Else the kills met nothing.
                assert killing.pending_count > KILL_COUNT // 4
                assert killing.progress_count > 1
                assert killing.lost_answer_count > 0
                assert feeder.unanswered_count > 0
                fan_out.bridge.flush()
                fan_out.check(accepted_samples(fan_out, feeder))
        finally:
            fan_out.bridge.kill()
