"""Where the sink begins, and what it shows before it has begun; no server is asked."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import structlog
from prometheus_client import CollectorRegistry

from bridge.model.options import Size
from bridge.wire.decoded import Limits
from bridge.write.sinks.cursor import Cursor, load_cursor, store_cursor
from bridge.write.sinks.influxdb.client import Delivered, InfluxdbClient
from bridge.write.sinks.influxdb.renderer import Renderer
from bridge.write.sinks.influxdb.settings import InfluxdbSettings
from bridge.write.sinks.influxdb.sink import InfluxdbSink
from bridge.write.sinks.metrics import DROP_REASONS, SinkMetrics
from bridge.write.wal.log import ReplayReport, WalSettings, WriteAheadLog
from tests.integration.processes import wait_until
from tests.oracle.bodies import Series, v1_body

NOW_MS = 1_790_000_000_000
HERE: dict[str, Any] = {"url": "http://localhost:1", "org": "o", "bucket": "b"}


def open_log(folder: Path) -> WriteAheadLog:
    return WriteAheadLog(WalSettings(folder / "wal", segment_size=Size(1)))


def replay(wal: WriteAheadLog) -> None:
    for _ in wal.replay(0, ReplayReport()):
        pass


def write(wal: WriteAheadLog, count: int) -> None:
    """Records of ten samples."""
    for number in range(count):
        samples = [(NOW_MS + 10 * number + at, 1.0) for at in range(10)]
        body = v1_body([Series({"__name__": "m"}, samples)])
        wal.append(receive_ms=NOW_MS, fmt=1, refused=b"", body=body, sample_count=10)
        wal.sync()


@pytest.fixture
def wal(tmp_path: Path) -> Iterator[WriteAheadLog]:
    """Eight records that a sink may have, in a log that was opened and not replayed yet."""
    with_records = open_log(tmp_path)
    replay(with_records)
    write(with_records, 8)
    with_records.close()
    opened = open_log(tmp_path)
    yield opened
    opened.close()


def made(wal: WriteAheadLog, folder: Path, **changes: Any) -> InfluxdbSink:
    settings = InfluxdbSettings(**{**HERE, **changes})
    return InfluxdbSink(
        settings,
        wal,
        InfluxdbClient(settings),
        Renderer((b"__replica__",), settings.mapping, Limits()),
        folder / "influxdb.cursor",
    )


def stored_before(folder: Path, **changes: Any) -> Cursor:
    """A cursor behind record 5 of 8, with four of its fifty samples dropped."""
    destination = InfluxdbSettings(**{**HERE, **changes}).destination
    cursor = Cursor(5, 50, 0, 46, {"nan": 4}, destination=destination)
    store_cursor(folder / "influxdb.cursor", cursor)
    return cursor


def shown(wal: WriteAheadLog, sink: InfluxdbSink, name: str, **labels: str) -> float | None:
    registry = CollectorRegistry()
    SinkMetrics(registry, wal, [sink])
    return registry.get_sample_value(f"prombridge_sink_{name}", {"sink": "influxdb", **labels})


@pytest.mark.parametrize("start", ["now", "oldest"])
def test_a_sink_goes_on_where_it_was(wal: WriteAheadLog, tmp_path: Path, start: str) -> None:
    cursor = stored_before(tmp_path)
    replay(wal)
    for url in (HERE["url"], HERE["url"] + "/"):
        sink = made(wal, tmp_path, start=start, url=url)
        sink.recover()
        assert sink.cursor == load_cursor(tmp_path / "influxdb.cursor") == cursor


@pytest.mark.parametrize("option", ["url", "org", "bucket"])
@pytest.mark.parametrize(("start", "position"), [("now", 8), ("oldest", 0)])
def test_another_destination_is_a_new_sink_and_that_is_said(
    wal: WriteAheadLog, tmp_path: Path, option: str, start: str, position: int
) -> None:
    before = stored_before(tmp_path)
    replay(wal)
    sink = made(wal, tmp_path, start=start, **{option: HERE[option] + "2"})
    with structlog.testing.capture_logs() as logs:
        sink.recover()
    assert sink.cursor == Cursor(
        position, 10 * position, 10 * position, destination=sink.cursor.destination
    )
    assert sink.cursor.destination != before.destination
    assert load_cursor(tmp_path / "influxdb.cursor") == sink.cursor
    (warning,) = [entry for entry in logs if entry["log_level"] == "warning"]
    assert warning["before"] == before.destination
    assert warning["now"] == sink.cursor.destination
    assert warning["samples_not_delivered_before"] == 30
    back = made(wal, tmp_path, start=start)
    back.recover()
    assert back.cursor.delivered == 0, "the way back is another destination too"


def test_before_the_replay_the_counts_are_those_that_were_stored(
    wal: WriteAheadLog, tmp_path: Path
) -> None:
    stored_before(tmp_path)
    sink = made(wal, tmp_path)
    assert shown(wal, sink, "delivered_samples_total") == 46
    assert shown(wal, sink, "dropped_samples_total", reason="nan") == 4
    assert 0 <= (shown(wal, sink, "pending_samples") or 0) <= 30
    replay(wal)
    sink.recover()
    assert shown(wal, sink, "delivered_samples_total") == 46
    assert shown(wal, sink, "pending_samples") == 30


def test_a_cursor_ahead_of_what_is_known_yet_shows_nothing_negative(
    wal: WriteAheadLog, tmp_path: Path
) -> None:
    store_cursor(tmp_path / "influxdb.cursor", replace(stored_before(tmp_path), sample_total=80))
    assert shown(wal, made(wal, tmp_path), "pending_samples") == 0


def test_every_reason_is_shown_before_its_first_drop(wal: WriteAheadLog, tmp_path: Path) -> None:
    stored_before(tmp_path)
    sink = made(wal, tmp_path)
    for reason in DROP_REASONS["influxdb"]:
        expected = 4 if reason == "nan" else 0
        assert shown(wal, sink, "dropped_samples_total", reason=reason) == expected


class TakingClient:
    """A server that has every line."""

    request_counts: ClassVar[dict[str, int]] = {}

    def push(self, _: bytes) -> Delivered:
        return Delivered()

    def close(self) -> None:
        """Nothing is open."""


def test_a_record_that_the_log_gave_up_and_that_is_there_is_accounted_for(
    wal: WriteAheadLog, tmp_path: Path
) -> None:
    """After a failed fsync the total goes back, and the next start may find the record."""
    replay(wal)
    write(wal, 1)
    wal._staged_total -= 10
    write(wal, 2)
    settings = InfluxdbSettings(**HERE, start="oldest")
    renderer = Renderer((), settings.mapping, Limits())
    client: Any = TakingClient()
    sink = InfluxdbSink(settings, wal, client, renderer, tmp_path / "influxdb.cursor")
    sink.recover()
    thread = threading.Thread(target=sink.run)
    thread.start()
    try:
        wait_until(lambda: sink.cursor.position == wal.safe_number, "all is delivered", 10)
    finally:
        sink.stop()
        thread.join()
    cursor = sink.cursor
    assert (cursor.delivered, cursor.dropped) == (110, {})
    assert cursor.sample_total == wal.safe_sample_total == 100
    assert cursor.sample_total - cursor.start_total == 110


@pytest.mark.parametrize("start", ["now", "oldest"])
def test_a_new_sink_shows_no_backlog_before_it_has_begun(
    wal: WriteAheadLog, tmp_path: Path, start: str
) -> None:
    sink = made(wal, tmp_path, start=start)
    assert shown(wal, sink, "delivered_samples_total") == 0
    assert shown(wal, sink, "pending_samples") == 0
    assert shown(wal, sink, "lag_bytes") == 0


def test_a_damaged_cursor_is_put_aside_and_the_sink_begins_at_the_oldest_record(
    wal: WriteAheadLog, tmp_path: Path
) -> None:
    path = tmp_path / "influxdb.cursor"
    path.write_bytes(b"damage")
    sink = made(wal, tmp_path)
    assert shown(wal, sink, "delivered_samples_total") == 0
    replay(wal)
    sink.recover()
    assert (sink.cursor.position, sink.cursor.start_total) == (0, 0)
    assert path.with_suffix(".damaged").read_bytes() == b"damage"
    assert load_cursor(path) == sink.cursor
