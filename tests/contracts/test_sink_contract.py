"""What every sink promises, plain and with a destination that fails.

SINK-4: position and counts are of one moment. SINK-7: every sample that the InfluxDB sink has
passed is delivered or dropped for a reason. SINK-9: a server that is not there costs no line.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge.write.sinks import lake as lake_sink
from bridge.write.sinks.cursor import load_cursor
from bridge.write.sinks.influxdb import sink as influxdb_sink
from tests.contracts.sinks import Harness, InfluxdbHarness, LakeHarness
from tests.integration.faulty_proxy import FaultyProxy
from tests.integration.influxdb import InfluxDb
from tests.integration.processes import wait_until

RETRY_S = 0.05


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InfluxDb]:
    with InfluxDb(tmp_path_factory.mktemp("influxdb")) as started:
        yield started


@pytest.fixture(params=["lake", "influxdb"])
def harness(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Harness]:
    for module in (lake_sink, influxdb_sink):
        monkeypatch.setattr(module, "RETRY_S_MIN", RETRY_S)
    monkeypatch.setattr(influxdb_sink, "POLL_S", RETRY_S)
    if request.param == "lake":
        made: Harness = LakeHarness(tmp_path)
        made.open()
        yield made
        made.close()
        made.dispose()
        return
    server = request.getfixturevalue("server")
    with FaultyProxy(server.url) as proxy:
        made = InfluxdbHarness(tmp_path, server, proxy)
        made.open()
        yield made
        made.close()
        made.dispose()


def once(first: int, count: int) -> Counter[int]:
    return Counter(range(first, first + count))


def test_everything_accepted_is_delivered_once(harness: Harness) -> None:
    harness.accept(0, 20)
    harness.settle()
    harness.accept(20, 20)
    harness.settle()
    assert harness.held() == once(0, 40)
    assert harness.check_ledger().delivered == 40


@pytest.mark.parametrize("has_stored", [False, True], ids=["before", "after it has stored"])
@pytest.mark.parametrize("times", [1, 3])
def test_deliveries_that_fail_are_made_again_and_counted_once(
    harness: Harness, times: int, has_stored: bool
) -> None:
    harness.accept(0, 5)
    harness.settle()
    harness.fail(times, has_stored=has_stored)
    harness.accept(5, 5)
    harness.settle()
    assert harness.held() == once(0, 10)
    assert harness.check_ledger().delivered == 10


def test_while_the_destination_is_away_all_is_pending_and_shown_and_then_arrives(
    harness: Harness,
) -> None:
    harness.accept(0, 3)
    harness.settle()
    assert harness.metric("up") == 1
    assert harness.metric("lag_seconds") == 0
    harness.set_away(is_away=True)
    harness.accept(3, 7)
    harness.push()
    wait_until(lambda: harness.metric("up") == 0, "the sink says that it fails", 10)
    assert harness.metric("pending_samples") == 7
    assert (harness.metric("lag_seconds") or 0) > 0
    assert (harness.metric("lag_bytes") or 0) > 0
    assert harness.check_ledger().delivered == 3
    harness.set_away(is_away=False)
    harness.settle()
    wait_until(lambda: harness.metric("up") == 1, "the sink says that it gets on", 10)
    assert harness.held() == once(0, 10)
    assert harness.metric("delivered_samples_total") == 10
    assert harness.metric("pending_samples") == 0


def test_a_restart_goes_on_where_it_was(harness: Harness) -> None:
    harness.accept(0, 10)
    harness.settle()
    position = harness.sink.cursor.position
    harness.close()
    stored = load_cursor(harness.folder / "wal" / f"{harness.sink.name}.cursor")
    assert stored is not None
    assert stored.position == position
    harness.open()
    harness.accept(10, 10)
    harness.settle()
    assert harness.held() == once(0, 20)
    assert harness.check_ledger().delivered == 20


def test_what_was_not_delivered_before_a_restart_is_delivered_after_it(harness: Harness) -> None:
    harness.accept(0, 5)
    harness.settle()
    harness.set_away(is_away=True)
    harness.accept(5, 5)
    harness.push()
    harness.close()
    harness.set_away(is_away=False)
    harness.open()
    assert harness.check_ledger().delivered >= 5
    harness.accept(10, 5)
    harness.settle()
    assert harness.held() == once(0, 15)
    assert harness.check_ledger().delivered == 15


def test_a_kill_between_a_delivery_and_its_cursor_counts_it_once(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness.accept(0, 5)
    harness.settle()
    harness.close()  # what is stored now is all of the above
    monkeypatch.setattr(influxdb_sink, "STORE_S", 3600.0)
    harness.open()
    harness.accept(5, 5)
    harness.settle()
    harness.die()
    harness.open()
    harness.check_ledger()
    harness.accept(10, 5)
    harness.settle()
    assert harness.held() == once(0, 15)
    assert harness.check_ledger().delivered == 15


def test_segments_go_only_when_the_sink_is_done_with_them_for_good(harness: Harness) -> None:
    harness.set_away(is_away=True)
    harness.accept(0, 20)
    harness.push()
    harness.accept(20, 1)
    assert harness.wal.first_number == 1
    harness.set_away(is_away=False)
    harness.settle()

    def is_removed() -> bool:
        harness.path.flush(lambda _: None)
        harness.accept(harness.accepted_count)
        return harness.wal.first_number > 15

    wait_until(is_removed, "the log gives its segments back", 20)
    harness.settle()
    assert harness.held() == once(0, harness.accepted_count)
    harness.check_ledger()
