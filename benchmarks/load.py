"""Sends a workload to a remote-write receiver as fast as it is taken.

    python -m benchmarks.load 10k-x-600 --url http://127.0.0.1:9201/api/v1/write

Two processes with two keep-alive connections each. A connection owns whole shards and sends their
requests one after the other, so the samples of a series arrive in order of time. All bodies are in
memory before the clock starts. 503 and 429 are sent again after `Retry-After`, as Prometheus does;
any other answer than 2xx is counted and its samples are lost.
"""

import argparse
import http.client
import itertools
import json
import multiprocessing
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.synchronize import Barrier
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from benchmarks.fleet import DEFAULT_DATA, PROFILES, SHARD_COUNT, Workload, open_workload

HEADERS = {
    "Content-Encoding": "snappy",
    "Content-Type": "application/x-protobuf",
    "X-Prometheus-Remote-Write-Version": "0.1.0",
    "User-Agent": "prombridge-benchmark",
}
TIMEOUT_S = 120.0
LOADED_S_MAX = 300.0
"""How long the processes may take to read their bodies."""
RETRY_AFTER_S = 1.0
"""Where a 503 does not say."""
RETRIES_MAX = 60
RETRYABLE = {429, 503}


@dataclass(slots=True)
class Sent:
    """What came of the requests.

    Attributes:
        sample_count: samples of the requests that were answered 2xx.
        codes: answers by status.
        latencies_s: of each answer.
        started_s: monotonic clock.
        ended_s: monotonic clock, after the last answer.
        error: the first body that was not 2xx.
    """

    sample_count: int = 0
    codes: Counter[int] = field(default_factory=Counter)
    latencies_s: list[float] = field(default_factory=list)
    started_s: float = float("inf")
    ended_s: float = 0.0
    error: str = ""

    @property
    def refused_count(self) -> int:
        """Answers that were not 2xx."""
        return sum(count for code, count in self.codes.items() if code // 100 != 2)

    def quantile_ms(self, quantile: float) -> float:
        """Latency below which this share of the answers came."""
        return float(np.quantile(self.latencies_s, quantile)) * 1000

    def add(self, other: "Sent") -> None:
        """Joins what another connection sent."""
        self.sample_count += other.sample_count
        self.codes += other.codes
        self.latencies_s += other.latencies_s
        self.started_s = min(self.started_s, other.started_s)
        self.ended_s = max(self.ended_s, other.ended_s)
        self.error = self.error or other.error


def send(
    workload: Workload, url: str, connection_count: int, part: tuple[int, int] = (0, 1)
) -> Sent:
    """Sends a workload, or the part (number, count) of it by time.

    Args:
        workload: what to send.
        url: of the receiver.
        connection_count: connections open at once, half of them in each of two processes.
        part: which stretch of every shard's requests, of how many.
    """
    shards = [
        list(range(number, SHARD_COUNT, connection_count)) for number in range(connection_count)
    ]
    groups = [group for group in (shards[0::2], shards[1::2]) if group]
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(len(groups))
    sent = Sent()
    with ProcessPoolExecutor(len(groups), context, initializer=_keep, initargs=(barrier,)) as pool:
        work = [pool.submit(_send_group, workload.folder, url, group, part) for group in groups]
        for outcome in work:
            sent.add(outcome.result())
    return sent


_barrier: Barrier


def _keep(barrier: Barrier) -> None:
    """A barrier reaches another process only when the process begins."""
    global _barrier  # noqa: PLW0603
    _barrier = barrier


def _send_group(folder: Path, url: str, shards: list[list[int]], part: tuple[int, int]) -> Sent:
    """Runs in its own process: a thread for each connection."""
    workload = Workload(folder)
    queues = [_read_requests(workload, owned, part) for owned in shards]
    sent = Sent()
    with ThreadPoolExecutor(len(queues)) as pool:
        _barrier.wait(LOADED_S_MAX)
        for outcome in pool.map(_send_queue, itertools.repeat(url), queues):
            sent.add(outcome)
    return sent


def _read_requests(
    workload: Workload, shards: list[int], part: tuple[int, int]
) -> list[tuple[bytes, int]]:
    """Requests of some shards that advance in time together."""
    queues = []
    for shard in shards:
        requests = workload.read_shard(shard)
        begin, end = (len(requests) * number // part[1] for number in (part[0], part[0] + 1))
        queues.append(requests[begin:end])
    return [
        request
        for requests in itertools.zip_longest(*queues)
        for request in requests
        if request is not None
    ]


def _send_queue(url: str, requests: list[tuple[bytes, int]]) -> Sent:
    parts = urlsplit(url)
    assert parts.hostname is not None
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=TIMEOUT_S)
    sent = Sent(started_s=time.monotonic())
    for body, sample_count in requests:
        for _ in range(RETRIES_MAX):
            began_s = time.monotonic()
            connection.request("POST", parts.path, body, HEADERS)
            response = connection.getresponse()
            text = response.read()
            sent.latencies_s.append(time.monotonic() - began_s)
            sent.codes[response.status] += 1
            if response.status // 100 == 2:
                sent.sample_count += sample_count
                break
            sent.error = sent.error or f"{response.status}: {text[:300].decode(errors='replace')}"
            if response.status not in RETRYABLE:
                break
            time.sleep(float(response.headers.get("Retry-After", RETRY_AFTER_S)))
    sent.ended_s = time.monotonic()
    connection.close()
    return sent


def main() -> None:
    """Sends one workload and tells how it went."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("profile", choices=PROFILES)
    parser.add_argument("--url", default="http://127.0.0.1:9201/api/v1/write")
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA)
    parser.add_argument("--connections", type=int, default=4)
    arguments = parser.parse_args()
    workload = open_workload(arguments.data, arguments.profile)
    sent = send(workload, arguments.url, arguments.connections)
    outcome = {
        "samples": sent.sample_count,
        "seconds": round(sent.ended_s - sent.started_s, 2),
        "codes": dict(sent.codes),
        "p50_ms": round(sent.quantile_ms(0.5), 1),
        "p99_ms": round(sent.quantile_ms(0.99), 1),
        "error": sent.error,
    }
    print(json.dumps(outcome))


if __name__ == "__main__":
    main()
