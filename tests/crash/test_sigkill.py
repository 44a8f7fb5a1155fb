"""SIGKILL at random moments of ingest, flush and replay: what was acknowledged is there, once.

Two lanes, each a bridge on folders of its own, are killed and started again by turns. Meanwhile
clients push samples that no one else pushes, another thread asks for flushes, and the flush
interval is tiny, so that every kill meets requests, commits and cut files on their way.

The ledger knows of each request how often it was sent and whether it was answered with 2xx:

    acknowledged, sent once        stored exactly once
    acknowledged, sent n times     read exactly once; up to n rows in the lake until compaction
    never acknowledged, n times    read once or not at all; up to n rows in the lake
    any request                    its samples are all there equally often (WAL records are atomic)

`PROMBRIDGE_CRASH_KILLS` raises the number of kills, `PROMBRIDGE_CRASH_SEED` repeats a run's
moments.
"""

import http.client
import logging
import os
import random
import threading
import time
import urllib.parse
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import duckdb
import pytest
from deltalake import DeltaTable

from tests.integration.bridge import Bridge
from tests.integration.remote import (
    WRITE_HEADERS,
    Labels,
    WriteBody,
    bits_of,
    make_body,
    read_samples,
)
from tests.integration.servers import ServerEndedError, fetch

KILL_COUNT = max(52, int(os.environ.get("PROMBRIDGE_CRASH_KILLS", "0")))
LANE_COUNT = 2
CLIENT_COUNT = 3
SERIES_COUNT = 5
SAMPLES_PER_SERIES = 4
# A client's series get another label after so many requests, so that new series come all the time.
REQUESTS_PER_EPOCH = 40
# The longest life of a bridge after it was ready; the shortest is 0.
LIFE_S_MAX = 0.8
# One of so many bridges is killed before it is ready.
EARLY_KILL_ONE_IN = 6
ANSWER_S_MAX = 20.0
RETRY_RATIO = 0.7
BASE_MS = 1_717_070_400_000  # 2024-05-30T12:00:00Z
LATE_MS = 40 * 86_400_000
FAULTS_MAX = 20

SampleKey = tuple[Labels, int]
# How often each value was found at each series and time.
Found = Mapping[SampleKey, Counter[int]]


@dataclass
class Request:
    """One request and its fate."""

    number: int
    series: list[tuple[Labels, list[tuple[int, int]]]]
    attempt_count: int = 0
    is_acknowledged: bool = False

    @property
    def samples(self) -> Iterable[tuple[SampleKey, int]]:
        """Every sample: where it belongs, and its value's bits."""
        for labels, samples in self.series:
            for timestamp_ms, bits in samples:
                yield (labels, timestamp_ms), bits


def make_request(client: str, number: int) -> Request:
    """The samples of a client's request; no two requests have a series and time in common."""
    # Every eighth comes from long ago, and goes into another day's file.
    late_ms = LATE_MS if number % 8 == 7 else 0
    series: list[tuple[Labels, list[tuple[int, int]]]] = []
    for index in range(SERIES_COUNT):
        labels = (
            ("__name__", f"crash_{index % 2}"),
            ("client", client),
            ("epoch", str(number // REQUESTS_PER_EPOCH)),
            ("series", str(index)),
        )
        samples = []
        for place in range(SAMPLES_PER_SERIES):
            position = number * SAMPLES_PER_SERIES + place
            timestamp_ms = BASE_MS - late_ms + position * 60_000
            samples.append((timestamp_ms, bits_of(position + index / 8)))
        series.append((labels, samples))
    return Request(number, series)


def check_ledger(requests: Iterable[Request], found: Found, *, is_merged: bool) -> list[str]:
    """What is not as the ledger says.

    Args:
        requests: all that were sent.
        found: what is stored.
        is_merged: repeated samples are one, as when reading.
    """
    faults = []
    seen: set[SampleKey] = set()
    for request in requests:
        state = "acknowledged" if request.is_acknowledged else "not acknowledged"
        about = f"request {request.number}, {state}, sent {request.attempt_count} times"
        lowest = 1 if request.is_acknowledged else 0
        highest = 1 if is_merged else request.attempt_count
        counts = set()
        for key, bits in request.samples:
            seen.add(key)
            values = found.get(key, Counter())
            if values.keys() - {bits}:
                faults.append(f"{about}: {key} has the values {dict(values)} instead of {bits}")
            if not lowest <= values[bits] <= highest:
                faults.append(f"{about}: {key} is there {values[bits]} times")
            counts.add(values[bits])
        if len(counts) > 1:
            faults.append(f"{about}: stored in part, its samples are there {sorted(counts)} times")
    faults += [f"never sent: {key}" for key in found.keys() - seen]
    return faults


@dataclass
class Client:
    """Sends one request after the other, as long as the lane runs."""

    name: str
    lane: "Lane"
    randomness: random.Random
    requests: list[Request] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    _connection: http.client.HTTPConnection | None = None

    def run(self) -> None:
        """The life of the client's thread."""
        try:
            while not self.lane.is_over.is_set():
                request = make_request(self.name, len(self.requests))
                self.requests.append(request)
                body = make_body(1 + request.number % 2, request.series)
                # A sender that was not answered sends again, or has forgotten.
                while not self._send(request, body):
                    if self.refusals or self.randomness.random() > RETRY_RATIO:
                        break
        finally:
            self._hang_up()

    def _send(self, request: Request, body: WriteBody) -> bool:
        if not self.lane.is_up.wait(ANSWER_S_MAX):
            self.refusals.append(f"no bridge for {ANSWER_S_MAX:g} s")
            return False
        try:
            if self._connection is None:
                parts = urllib.parse.urlsplit(self.lane.bridge.url)
                self._connection = http.client.HTTPConnection(
                    parts.hostname or "", parts.port, timeout=ANSWER_S_MAX
                )
                self._connection.connect()
            request.attempt_count += 1
            self._connection.request(
                "POST", "/api/v1/write", body.data, WRITE_HEADERS[body.version]
            )
            response = self._connection.getresponse()
            text = response.read()
        except (OSError, http.client.HTTPException):
            self._hang_up()
            return False
        if response.status in {200, 204}:
            request.is_acknowledged = True
            return True
        if response.status != http.client.SERVICE_UNAVAILABLE:
            self.refusals.append(f"{response.status}: {text.decode(errors='replace')}")
        return False

    def _hang_up(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class Lane:
    """A bridge that is killed again and again, its clients, and its ledger."""

    def __init__(self, folder: Path, name: str, seed: int) -> None:
        self.bridge = Bridge(folder, flush_interval="200ms", name=name)
        self.is_up = threading.Event()
        self.is_over = threading.Event()
        self._randomness = random.Random(f"{seed} {name}")
        self._clients = [
            Client(f"{name}-{index}", self, random.Random(f"{seed} {name} {index}"))
            for index in range(CLIENT_COUNT)
        ]
        self.flush_count = 0

    @property
    def requests(self) -> list[Request]:
        """The ledger."""
        return [request for client in self._clients for request in client.requests]

    def run(self, kill_count: int) -> None:
        """Kills so often, then checks what is there."""
        try:
            self._kill_often(kill_count)
            self._check()
        finally:
            self.bridge.kill()

    def _kill_often(self, kill_count: int) -> None:
        with ThreadPoolExecutor(CLIENT_COUNT + 1) as threads:
            try:
                self.bridge.start()
                ready_s = 1.0
                running = [threads.submit(client.run) for client in self._clients]
                running.append(threads.submit(self._flush_often))
                for _ in range(kill_count):
                    self._live(ready_s)
                    self.bridge.kill()
                    started_s = time.monotonic()
                    self.bridge.launch()
                    if self._randomness.randrange(EARLY_KILL_ONE_IN) > 0:
                        self._wait_ready()
                        ready_s = time.monotonic() - started_s
                self._wait_ready()
                self.is_up.set()
            finally:
                self.is_over.set()
            for thread in running:
                thread.result(2 * ANSWER_S_MAX)

    def _wait_ready(self) -> None:
        try:
            self.bridge.wait_ready()
        except ServerEndedError as error:
            pytest.fail(f"{error} after a kill; the end of its log:\n{self.bridge.log_tail()}")

    def _live(self, ready_s: float) -> None:
        """Until the moment of the next kill."""
        is_early = not self._is_ready()
        if not is_early:
            self.is_up.set()
        # The moment is the point here, so this is a wait for a time; a client that gives up ends
        # it.
        self.is_over.wait(self._randomness.uniform(0, ready_s if is_early else LIFE_S_MAX))
        self.is_up.clear()
        for client in self._clients:
            assert not client.refusals, client.refusals[:3]

    def _is_ready(self) -> bool:
        try:
            return fetch("GET", f"{self.bridge.url}/-/ready", timeout_s=5).status == 200
        except (OSError, http.client.HTTPException):
            return False

    def _flush_often(self) -> None:
        while not self.is_over.is_set():
            if not self.is_up.wait(0.1):
                continue
            try:
                self.bridge.flush(ANSWER_S_MAX)
                self.flush_count += 1
            except (OSError, http.client.HTTPException):
                continue  # killed meanwhile
            self.is_over.wait(self._randomness.uniform(0, 0.1))

    def _check(self) -> None:
        requests = self.requests
        acknowledged_count = sum(request.is_acknowledged for request in requests)
        repeated_count = sum(request.attempt_count > 1 for request in requests)
        logging.getLogger(__name__).info(
            "%s: %d requests, %d acknowledged, %d repeated, %d flushes",
            self.bridge.name,
            len(requests),
            acknowledged_count,
            repeated_count,
            self.flush_count,
        )
        # Else the kills met nothing.
        assert acknowledged_count >= 5 * KILL_COUNT // LANE_COUNT
        assert repeated_count > 0
        assert self.flush_count > 0

        self._demand(self._read(), "read before the last flush", is_merged=True)
        self.bridge.flush(ANSWER_S_MAX)
        self._demand(self._read(), "read after the last flush", is_merged=True)
        self.bridge.stop()
        self._demand(scan_lake(self.bridge.lake_path), "in the lake", is_merged=False)

    def _demand(self, found: Found, where: str, *, is_merged: bool) -> None:
        faults = check_ledger(self.requests, found, is_merged=is_merged)
        assert not faults, f"{len(faults)} faults {where}, {self.bridge.name}:\n" + "\n".join(
            faults[:FAULTS_MAX]
        )

    def _read(self) -> Found:
        found: dict[SampleKey, Counter[int]] = {}
        for client in self._clients:
            matchers = [("__name__", "=~", "crash_.*"), ("client", "=", client.name)]
            series = read_samples(
                self.bridge.read_url, matchers, BASE_MS - LATE_MS, BASE_MS + 10 * LATE_MS
            )
            for labels, samples in series:
                for timestamp_ms, bits in samples:
                    found.setdefault((labels, timestamp_ms), Counter())[bits] += 1
        return found


def scan_lake(lake: Path) -> Found:
    """Every row of the samples table with its labels: DuckDB over the files that Delta names."""

    def files(table: str) -> list[str]:
        return [uri.removeprefix("file://") for uri in DeltaTable(str(lake / table)).file_uris()]

    with duckdb.connect() as connection:
        rows = connection.execute(
            "SELECT DISTINCT metric, series_id, labels FROM read_parquet(?)", [files("series")]
        ).fetchall()
        labels_of: dict[tuple[str, int], Labels] = {}
        for metric, series_id, labels in rows:
            known = labels_of.setdefault((metric, series_id), tuple(sorted(labels.items())))
            assert known == tuple(sorted(labels.items())), "one series id has two label sets"
        rows = connection.execute(
            "SELECT metric, series_id, timestamp_ms, value, count(*) "
            "FROM read_parquet(?) GROUP BY ALL",
            [files("samples")],
        ).fetchall()
    found: dict[SampleKey, Counter[int]] = {}
    for metric, series_id, timestamp_ms, value, count in rows:
        key = (labels_of[metric, series_id], timestamp_ms)
        found.setdefault(key, Counter())[bits_of(value)] += count
    return found


@pytest.mark.timeout(max(280, 5 * KILL_COUNT))
def test_every_acknowledged_sample_survives_sigkill_once(tmp_path: Path) -> None:
    # pytest-randomly seeds this from the seed that it prints.
    seed = int(os.environ.get("PROMBRIDGE_CRASH_SEED") or random.getrandbits(32))
    logging.getLogger(__name__).info("PROMBRIDGE_CRASH_SEED=%d", seed)
    lanes = [Lane(tmp_path / str(index), f"lane-{index}", seed) for index in range(LANE_COUNT)]
    with ThreadPoolExecutor(LANE_COUNT) as threads:
        running = [
            threads.submit(partial(lane.run, -(-KILL_COUNT // LANE_COUNT))) for lane in lanes
        ]
        for thread in running:
            thread.result()


def acknowledged(*, attempt_count: int = 1) -> Request:
    request = make_request("client", 3)
    request.attempt_count = attempt_count
    request.is_acknowledged = True
    return request


def as_sent(request: Request, times: int = 1) -> dict[SampleKey, Counter[int]]:
    return {key: Counter({bits: times}) for key, bits in request.samples}


def test_the_ledger_accepts_what_may_happen() -> None:
    once, twice = acknowledged(), acknowledged(attempt_count=2)
    never = make_request("client", 3)
    never.attempt_count = 1
    assert check_ledger([once], as_sent(once), is_merged=False) == []
    assert check_ledger([twice], as_sent(twice, 2), is_merged=False) == []
    assert check_ledger([never], {}, is_merged=False) == []
    assert check_ledger([never], as_sent(never), is_merged=True) == []


def test_the_ledger_sees_lost_doubled_altered_and_foreign_samples() -> None:
    request = acknowledged()
    key, bits = next(iter(request.samples))
    for found, fault in (
        ({key: Counter()}, "is there 0 times"),
        ({key: Counter({bits: 2})}, "is there 2 times"),
        ({key: Counter({bits: 1, bits ^ 1: 1})}, "has the values"),
        ({(key[0], key[1] + 1): Counter({bits: 1})}, "never sent"),
    ):
        faults = check_ledger([request], {**as_sent(request), **found}, is_merged=False)
        assert any(fault in line for line in faults), faults


def test_the_ledger_sees_a_request_that_is_stored_in_part() -> None:
    request = acknowledged(attempt_count=2)
    key, bits = next(iter(request.samples))
    found = as_sent(request) | {key: Counter({bits: 2})}
    (fault,) = check_ledger([request], found, is_merged=False)
    assert "stored in part" in fault
