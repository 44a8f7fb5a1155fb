"""InfluxDB in trouble, the lake in trouble: nothing is lost, and neither holds up the other.

The troubles of InfluxDB go in lanes side by side, because a sink that was let down waits for
seconds before it tries again. In each lane a sender goes on meanwhile; it must be answered 204 at
once, and the lake must stay abreast (SINK-5). In the end both destinations are asked without the
bridge for all that was acknowledged (SINK-7, SINK-9).
"""

import http
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.integration.bridge import Place
from tests.integration.destinations import SinkCounts, count_unwritable
from tests.integration.fan_out import OFTEN, FanOut
from tests.integration.faults import Cut, Error, Fault, Refuse, Reset, ResetRequest, Slow, Stall
from tests.integration.faulty_proxy import FaultyProxy
from tests.integration.feeder import REQUEST_SAMPLES, Feeder, explain
from tests.integration.influxdb import InfluxDb
from tests.integration.object_stores import VersityGw
from tests.integration.processes import wait_until

# A flush that is asked for every 0.2 s takes 0.1 s; the rest is for two cores shared by all lanes.
LAKE_LAG_S_MAX = 5.0
ANSWER_S_MAX = 5.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InfluxDb]:
    with InfluxDb(tmp_path_factory.mktemp("influxdb")) as started:
        yield started


class Lane:
    """A bridge whose InfluxDB has troubles while a sender goes on."""

    def __init__(self, stack: ExitStack, fan_out: FanOut, name: str) -> None:
        stack.enter_context(fan_out.bridge)
        self.fan_out = fan_out
        self.feeder = stack.enter_context(Feeder(fan_out.bridge.url, name))

    def endure(
        self,
        trouble: AbstractContextManager[None],
        is_seen: Callable[[SinkCounts, SinkCounts], bool] | None = None,
    ) -> None:
        """Trouble comes, is noticed, and goes; then everything arrives.

        Args:
            trouble: begins and ends it.
            is_seen: by what it shows, given the counts before it and now; failed requests else.
        """
        was_lake, was = self.fan_out.look()
        has_failed = is_seen or (lambda was, now: now.failure_count > was.failure_count)
        with trouble:
            self.fan_out.wait_for(
                "influxdb's trouble is noticed, and the lake goes on",
                lambda lake, now: (
                    has_failed(was, now) and lake.delivered > was_lake.delivered + REQUEST_SAMPLES
                ),
            )
            count = self.feeder.acknowledged_count
        self.fan_out.wait_for(
            "influxdb has what it missed",
            lambda _, now: now.accepted - now.pending >= count,
        )

    def check(self) -> None:
        """All that was acknowledged is there, and nobody had to wait for it."""
        self.feeder.pause()
        self.fan_out.check(self.feeder.samples())
        self.check_not_held_up()

    def check_not_held_up(self) -> None:
        assert not self.feeder.refused, explain(self.feeder.refused)
        assert not self.feeder.unanswered_count
        assert self.feeder.slowest_s < ANSWER_S_MAX
        assert self.fan_out.lake_lag_s_max < LAKE_LAG_S_MAX


WRITES = "/api/v2/write"
TOO_MANY = b'{"code":"too many requests","message":"org has exceeded its limit"}'
LOCKED = b'{"code":"internal error","message":"engine: cannot write to shard"}'
NETWORK_FAULTS: Mapping[str, Fault] = {
    "stalled": Stall(),
    "a page of a proxy": Error(502, b"<html>Bad Gateway</html>", {"Content-Type": "text/html"}),
    "an answer that is lost": Cut(share=0.0),
    "a connection reset in the answer": Reset(share=0.0),
    "a connection reset in the request": ResetRequest(),
    "unavailable": Error(503),
    "an error of its own": Error(500, LOCKED, {"Content-Type": "application/json"}),
}
RETRY_AFTER_S = 4


def unreliable_network(server: InfluxDb, folder: Path) -> None:
    """Everything a network does, one after the other."""
    with ExitStack() as stack:
        proxy = stack.enter_context(FaultyProxy(server.url))
        flags = ["--influxdb.timeout=1500ms"]
        fan_out = FanOut(server, folder, url=proxy.url, flush_interval=OFTEN, flags=flags)
        lane = Lane(stack, fan_out, "network")
        for fault in NETWORK_FAULTS.values():
            lane.endure(proxy.injected(fault, path=WRITES))
        lane.endure(proxy.injected(Refuse()))
        lane.endure(
            proxy.injected(Slow(latency_s=1.0), path=WRITES),
            lambda _, now: now.is_up and now.lag_s > 1.0,
        )
        lane.check()


def limiting_server(server: InfluxDb, folder: Path) -> None:
    """429 with Retry-After: it is not asked again any earlier."""
    with ExitStack() as stack:
        proxy = stack.enter_context(FaultyProxy(server.url))
        fan_out = FanOut(server, folder, url=proxy.url, flush_interval=OFTEN)
        lane = Lane(stack, fan_out, "limits")
        fan_out.wait_for("it writes", lambda _, now: now.delivered > 0)
        headers = {"Retry-After": str(RETRY_AFTER_S), "Content-Type": "application/json"}
        proxy.inject(Error(429, TOO_MANY, headers), path=WRITES, times=1)
        fan_out.wait_for("it is limited", lambda _, now: now.requests.get("429") == 1)
        limited_s = time.monotonic()
        was = fan_out.look()[1]
        fan_out.wait_for("it writes again", lambda _, now: now.delivered > was.delivered)
        # Noticed up to a tenth of a second late; without the header it would be asked within one.
        assert time.monotonic() - limited_s > RETRY_AFTER_S - 1.0
        lane.check()


def restarted_server(_: InfluxDb, folder: Path) -> None:
    """Stopped, killed, and frozen, each in mid-stream."""
    server = InfluxDb(folder / "influxdb")

    @contextmanager
    def stopped() -> Iterator[None]:
        server.stop()
        yield
        server.start()

    @contextmanager
    def killed() -> Iterator[None]:
        server.kill()
        yield
        server.start()

    @contextmanager
    def frozen() -> Iterator[None]:
        server.pause()
        try:
            yield
        finally:
            server.resume()

    with ExitStack() as stack:
        stack.enter_context(server)
        flags = ["--influxdb.timeout=1500ms"]
        fan_out = FanOut(server, folder / "bridge", flush_interval=OFTEN, flags=flags)
        lane = Lane(stack, fan_out, "restarts")
        for trouble in (stopped(), frozen(), killed(), stopped()):
            lane.endure(trouble)
        lane.check()


def forgetful_operator(server: InfluxDb, folder: Path) -> None:
    """A wrong token at the start, one without the right to write, a bucket that is deleted."""
    with ExitStack() as stack:
        wrong = "a-wrong-token"
        fan_out = FanOut(server, folder, token=wrong, flush_interval=OFTEN)
        lane = Lane(stack, fan_out, "operator")

        def restart_with(token: str) -> None:
            lane.feeder.pause()
            fan_out.use_token(token)
            fan_out.bridge.restart()
            lane.feeder.resume()

        @contextmanager
        def until_a_restart() -> Iterator[None]:
            yield
            restart_with(server.token)

        @contextmanager
        def until_the_file_is_right() -> Iterator[None]:
            yield
            fan_out.use_token(server.token)

        @contextmanager
        def without_bucket() -> Iterator[None]:
            server.delete_bucket(fan_out.bucket)
            yield
            server.make_bucket(fan_out.bucket)

        lane.endure(until_a_restart(), refused_with(401))
        assert "influxdb.token_file: the server does not know this token" in fan_out.log
        reading = server.make_token(fan_out.bucket, may_write=False)
        restart_with(reading)
        lane.endure(until_the_file_is_right(), refused_with(403))
        assert f"the token may not write to '{fan_out.bucket}'" in fan_out.log
        lane.check()
        before = lane.feeder.samples()
        first = len(lane.feeder.answers)
        lane.feeder.resume()
        lane.endure(without_bucket(), refused_with(404))
        lane.feeder.pause()
        fan_out.wait_settled(lane.feeder.acknowledged_count)
        # What it had before went with the bucket.
        after = lane.feeder.samples(first)
        fan_out.check_influxdb(after)
        fan_out.bridge.flush()
        fan_out.check_lake(before | after)
        lane.check_not_held_up()
        assert f"influxdb.bucket: there is no '{fan_out.bucket}'" in fan_out.log
        for token in (wrong, reading, server.token):
            assert token not in fan_out.log


def refused_with(status: int) -> Callable[[SinkCounts, SinkCounts], bool]:
    return lambda _, now: now.requests.get(str(status), 0) > 0


LANES = {
    "network": unreliable_network,
    "limits": limiting_server,
    "restarts": restarted_server,
    "operator": forgetful_operator,
}


@pytest.fixture(scope="module")
def lanes(
    server: InfluxDb, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mapping[str, Future[None]]]:
    folder = tmp_path_factory.mktemp("lanes")
    with ThreadPoolExecutor(len(LANES)) as threads:
        yield {name: threads.submit(drive, server, folder / name) for name, drive in LANES.items()}


@pytest.mark.parametrize("name", LANES)
def test_influxdb_in_trouble_misses_nothing_and_holds_nobody_up(
    lanes: Mapping[str, Future[None]], name: str
) -> None:
    lanes[name].result(200)


# A log that is full

PADDING_BYTES = 1000  # a request of 8.5 kB
LOG_FLAGS = ("--wal.segment-size=256KiB", "--wal.max-bytes=2MiB")
OVERFLOW_REQUESTS = 400  # 3.4 MB


def test_past_the_cap_influxdb_alone_loses_its_oldest(server: InfluxDb, tmp_path: Path) -> None:
    with ExitStack() as stack:
        proxy = stack.enter_context(FaultyProxy(server.url))
        fan_out = FanOut(server, tmp_path, url=proxy.url, flush_interval=OFTEN, flags=LOG_FLAGS)
        stack.enter_context(fan_out.bridge)
        feeder = Feeder(fan_out.bridge.url, "overflow", pace_s=0.004, padding_bytes=PADDING_BYTES)
        stack.enter_context(feeder)
        fan_out.wait_for("it writes", lambda _, now: now.delivered > 0)
        with proxy.injected(Refuse()):
            wait_until(lambda: len(feeder.answers) > OVERFLOW_REQUESTS, "the log has run over", 60)
        fan_out.wait_for("the loss is counted", lambda _, now: now.dropped.get("backlog", 0) > 0)
        feeder.pause()
        assert not feeder.refused, explain(feeder.refused)
        check_a_stretch_is_missing(fan_out, feeder)
        assert "samples in the wal never reach influxdb" in fan_out.log
        assert "reason=backlog" in fan_out.log
        fan_out.bridge.flush()
        fan_out.check_lake(feeder.samples())


def check_a_stretch_is_missing(fan_out: FanOut, feeder: Feeder) -> None:
    """Requests that follow each other are missing as a whole, and counted; nothing else is."""
    counts = fan_out.wait_settled(feeder.acknowledged_count)
    found = fan_out.influxdb_samples()
    missing = [
        answer.number
        for answer in feeder.answers
        if not found.keys() & feeder.samples_of(answer.number).keys()
    ]
    assert missing == list(range(missing[0], missing[-1] + 1))
    there = feeder.samples(0, missing[0]) | feeder.samples(missing[-1] + 1)
    fan_out.check_influxdb(there)
    assert counts.delivered == len(found)
    assert counts.dropped == {
        **count_unwritable(Counter(there.values())),
        "backlog": len(missing) * REQUEST_SAMPLES,
    }


def test_a_lake_that_is_away_holds_writes_back_and_drops_nothing(
    server: InfluxDb, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        store = stack.enter_context(VersityGw(tmp_path / "s3"))
        proxy = stack.enter_context(FaultyProxy(store.url))
        bucket = store.access.make_bucket()
        access = store.access.through(proxy.url)
        lake = Place(f"s3://{bucket}/lake", access.environment(), access.storage_options())
        fan_out = FanOut(
            server, tmp_path / "bridge", flush_interval=OFTEN, flags=LOG_FLAGS, lake=lake
        )
        fan_out.lake_path = store.buckets_path / bucket / "lake"
        stack.enter_context(fan_out.bridge)
        feeder = Feeder(fan_out.bridge.url, "held-back", pace_s=0.004, padding_bytes=PADDING_BYTES)
        stack.enter_context(feeder)
        fan_out.wait_for("the lake has some", lambda now, _: now.delivered > 0)
        with proxy.injected(Refuse()):
            wait_until(lambda: len(feeder.refused) > 3, "writes are held back", 60)
            feeder.pause()
            # InfluxDB goes on meanwhile.
            fan_out.wait_settled(feeder.acknowledged_count)
            assert fan_out.look()[0].pending > 0
        feeder.resume()
        refused_count = len(feeder.refused)
        acknowledged_count = feeder.acknowledged_count
        wait_until(
            lambda: feeder.acknowledged_count > acknowledged_count, "writes are taken again", 60
        )
        feeder.pause()
        assert refused_count > 3
        for answer in feeder.refused:
            assert answer.status == http.HTTPStatus.SERVICE_UNAVAILABLE
            assert answer.headers["Retry-After"] == "30"
            assert "wal.max-bytes" in answer.text
        fan_out.check(feeder.samples())
