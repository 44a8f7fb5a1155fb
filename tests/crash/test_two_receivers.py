"""Two receivers with WALs of their own and a reader on one bucket; both receivers are killed.

    clients of one receiver ──► receiver A ──┐
    a pair that sends the same to both ──►   ├──► bucket ◄── reader ◄── one that asks all the time
    clients of one receiver ──► receiver B ──┘

Each request's fate at each receiver is kept in a ledger. In the end the lake holds what a receiver
acknowledged once for that receiver: what both acknowledged is there twice, as replicas are, and is
one when it is read. Meanwhile the reader only ever says what was sent, and what it has said it says
again.

`PROMBRIDGE_CRASH_KILLS` asks for more kills, `PROMBRIDGE_CRASH_SEED` repeats a run; where the kills
fall is left to the machine all the same.
"""

import http.client
import logging
import os
import random
import threading
import urllib.parse
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.crash.test_sigkill import SampleKey, make_request, scan_lake
from tests.integration.bridge import Bridge, Place
from tests.integration.object_stores import VersityGw
from tests.integration.processes import ServerEndedError, wait_until
from tests.integration.remote import WRITE_HEADERS, make_body, read_samples

KILLS_EACH = max(10, int(os.environ.get("PROMBRIDGE_CRASH_KILLS", "0")) // 2)
# A receiver lives so long after it is ready, at most; one of so many is killed before.
LIFE_S_MAX = 0.6
EARLY_KILL_ONE_IN = 5
PAUSE_S = 0.02
ANSWER_S_MAX = 20.0
BOTH = "both"
FAULTS_MAX = 20
ALL_MS = (1_600_000_000_000, 2_000_000_000_000)


@dataclass
class Fate:
    """What became of one request at one receiver."""

    attempt_count: int = 0
    is_acknowledged: bool = False


@dataclass
class Receiver:
    """A bridge that is killed again and again."""

    bridge: Bridge
    is_up: threading.Event = field(default_factory=threading.Event)
    kill_count: int = 0

    def wait_up(self) -> None:
        """Waits until it is ready after a launch."""
        try:
            self.bridge.wait_ready()
        except ServerEndedError as error:
            pytest.fail(f"{error} after a kill; the end of its log:\n{self.bridge.log_tail()}")
        self.is_up.set()


@dataclass
class Client:
    """Sends one request after the other to one receiver; of one name there may be one for each."""

    name: str
    receiver: Receiver
    is_over: threading.Event
    fates: list[Fate] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)

    def run(self) -> None:
        """The life of its thread."""
        while not self.is_over.is_set():
            fate = Fate()
            self.fates.append(fate)
            request = make_request(self.name, len(self.fates) - 1)
            body = make_body(1 + request.number % 2, request.series)
            while not fate.is_acknowledged and not self.refusals:
                if not self.receiver.is_up.wait(ANSWER_S_MAX):
                    self.refusals.append(f"no receiver for {ANSWER_S_MAX:g} s")
                fate.attempt_count += 1
                fate.is_acknowledged = self._push(body.data, body.version)
                # A request whose fate is unknown is sent again only now and then.
                if not fate.is_acknowledged and request.number % 3:
                    break
            # So that the cores are there for the bridges.
            self.is_over.wait(PAUSE_S)

    def _push(self, data: bytes, version: int) -> bool:
        parts = urllib.parse.urlsplit(self.receiver.bridge.write_url)
        connection = http.client.HTTPConnection(
            parts.hostname or "", parts.port, timeout=ANSWER_S_MAX
        )
        try:
            connection.request("POST", parts.path, data, WRITE_HEADERS[version])
            response = connection.getresponse()
            text = response.read()
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()
        if response.status not in {204, 503}:
            self.refusals.append(f"{response.status}: {text.decode(errors='replace')}")
        return response.status == http.client.NO_CONTENT


class Watcher:
    """Asks the reader all the time."""

    def __init__(self, reader: Bridge, names: list[str], is_over: threading.Event) -> None:
        self._reader = reader
        self._names = names
        self._is_over = is_over
        self._seen: dict[str, dict[SampleKey, int]] = {name: {} for name in names}
        self.answer_count = 0
        self.unavailable_count = 0
        self.faults: list[str] = []

    def run(self) -> None:
        """The life of its thread."""
        while not self._is_over.is_set():
            for name in self._names:
                self._look(name)
                self._is_over.wait(PAUSE_S)

    def _look(self, name: str) -> None:
        try:
            found = read_merged(self._reader, name)
        except AssertionError as error:
            if str(error).startswith("503: "):
                self.unavailable_count += 1
            else:
                self.faults.append(str(error)[:500])
            return
        self.answer_count += 1
        gone = self._seen[name].items() - found.items()
        if gone:
            self.faults.append(
                f"{len(gone)} samples of {name} are gone or altered, such as {next(iter(gone))}"
            )
        self._seen[name] = found


def read_merged(bridge: Bridge, name: str) -> dict[SampleKey, int]:
    """The samples of a client as remote read gives them."""
    found: dict[SampleKey, int] = {}
    matchers = [("__name__", "=~", "crash_.*"), ("client", "=", name)]
    for labels, samples in read_samples(bridge.read_url, matchers, *ALL_MS):
        for timestamp_ms, bits in samples:
            assert (labels, timestamp_ms) not in found, "a sample is there twice"
            found[labels, timestamp_ms] = bits
    return found


@dataclass
class Story:
    """Two receivers, their clients, a reader, and what was seen."""

    receivers: list[Receiver]
    clients: list[Client]
    watcher: Watcher
    lake_path: Path
    merged: dict[SampleKey, int] = field(default_factory=dict)
    stored: Mapping[SampleKey, Counter[int]] = field(default_factory=dict)

    def ledger(self) -> Iterator[tuple[str, int, list[Fate]]]:
        """Client name, request number, and its fates, one for each receiver it was sent to."""
        by_name: dict[str, list[list[Fate]]] = {}
        for client in self.clients:
            by_name.setdefault(client.name, []).append(client.fates)
        for name, columns in by_name.items():
            for number in range(max(map(len, columns))):
                yield name, number, [fates[number] for fates in columns if number < len(fates)]


def kill_often(story: Story, receiver: Receiver, randomness: random.Random) -> None:
    """KILLS_EACH kills of one receiver, while everybody goes on; the other has its own."""
    is_over = story.clients[0].is_over
    bridge = receiver.bridge
    for _ in range(KILLS_EACH):
        # The moment is the point here, so these are waits for a time.
        is_over.wait(randomness.uniform(0, LIFE_S_MAX))
        receiver.is_up.clear()
        bridge.kill()
        receiver.kill_count += 1
        bridge.launch()
        if randomness.randrange(EARLY_KILL_ONE_IN) == 0:
            is_over.wait(randomness.uniform(0, 1.0))
            bridge.kill()
            receiver.kill_count += 1
            bridge.launch()
        receiver.wait_up()
        for client in story.clients:
            assert not client.refusals, client.refusals[:3]


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    """All of it."""
    folder = tmp_path_factory.mktemp("receivers")
    # pytest-randomly seeds this from the seed that it prints.
    seed = int(os.environ.get("PROMBRIDGE_CRASH_SEED") or random.getrandbits(32))
    logging.getLogger(__name__).info("PROMBRIDGE_CRASH_SEED=%d", seed)
    is_over = threading.Event()
    with ExitStack() as stack:
        server = stack.enter_context(VersityGw(folder / "store"))
        bucket = server.access.make_bucket()
        lake = Place(
            f"s3://{bucket}/lake", server.access.environment(), server.access.storage_options()
        )
        receivers = [
            Receiver(
                Bridge(folder / name, flush_interval="100ms", lake=lake, mode="write", name=name)
            )
            for name in ("a", "b")
        ]
        reader = Bridge(
            folder / "reader",
            lake=lake,
            mode="read",
            flags=["--lake.refresh-interval=100ms"],
            name="reader",
        )
        clients = [
            Client(name, receiver, is_over)
            for receiver in receivers
            for name in (f"only-{receiver.bridge.name}", BOTH)
        ]
        names = sorted({client.name for client in clients})
        watcher = Watcher(reader, names, is_over)
        story = Story(receivers, clients, watcher, server.buckets_path / bucket / "lake")
        for bridge in (reader, *(receiver.bridge for receiver in receivers)):
            stack.enter_context(bridge)
        for receiver in receivers:
            receiver.is_up.set()
        with ThreadPoolExecutor(len(clients) + 1 + len(receivers)) as threads:
            running = [threads.submit(client.run) for client in clients]
            running.append(threads.submit(watcher.run))
            try:
                for killing in [
                    threads.submit(kill_often, story, receiver, random.Random(f"{seed} {index}"))
                    for index, receiver in enumerate(receivers)
                ]:
                    killing.result()
            finally:
                is_over.set()
            for thread in running:
                thread.result(2 * ANSWER_S_MAX)
        for receiver in receivers:
            receiver.bridge.flush(ANSWER_S_MAX)
        story.stored = scan_lake(story.lake_path)
        row_count = sum(sum(counts.values()) for counts in story.stored.values())
        assert lake.row_count() == row_count
        wanted = story.stored.keys()

        def read_all() -> bool:
            story.merged = {
                key: bits for name in names for key, bits in read_merged(reader, name).items()
            }
            return len(story.merged) >= len(wanted)

        wait_until(read_all, "the reader has seen the last commits", 10)
    acknowledged = sum(fate.is_acknowledged for client in clients for fate in client.fates)
    logging.getLogger(__name__).info(
        "%d kills, %d requests acknowledged, %d answers of the reader, %d times 503",
        sum(receiver.kill_count for receiver in receivers),
        acknowledged,
        watcher.answer_count,
        watcher.unavailable_count,
    )
    # Else the kills met nothing.
    assert acknowledged > 20 * KILLS_EACH
    return story


@pytest.mark.timeout(240)
def test_what_a_receiver_acknowledged_is_in_the_lake_once_for_that_receiver(story: Story) -> None:
    assert sum(receiver.kill_count for receiver in story.receivers) >= 20
    faults, sent = [], set()
    for name, number, fates in story.ledger():
        lowest = sum(fate.is_acknowledged for fate in fates)
        highest = sum(fate.attempt_count for fate in fates)
        about = f"request {number} of {name}, {fates}"
        counts = set()
        for key, bits in make_request(name, number).samples:
            sent.add(key)
            values = story.stored.get(key, Counter())
            if values.keys() - {bits} or not lowest <= values[bits] <= highest:
                faults.append(f"{about}: {key} is there as {dict(values)}, it was {bits}")
            counts.add(values[bits])
        if len(counts) > 1:
            faults.append(f"{about}: stored in part, {sorted(counts)} times")
    faults += [f"never sent: {key}" for key in story.stored.keys() - sent]
    assert not faults, f"{len(faults)} faults:\n" + "\n".join(faults[:FAULTS_MAX])


@pytest.mark.timeout(240)
def test_a_reader_answers_what_the_lake_has_as_one(story: Story) -> None:
    assert story.merged == {key: bits for key, counts in story.stored.items() for bits in counts}


@pytest.mark.timeout(240)
def test_a_reader_never_takes_back_what_it_said_and_fails_with_503_alone(story: Story) -> None:
    assert story.watcher.answer_count > 2 * KILLS_EACH
    assert not story.watcher.faults, story.watcher.faults[:3]
