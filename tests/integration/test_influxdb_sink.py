"""The InfluxDB sink against a real InfluxDB 2: what is stored there, and what a refusal costs.

SINK-7, SINK-8 and SINK-9 at the level of lines; `test_fan_out.py` has the whole process.
"""

import json
import math
import random
import shutil
import struct
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import pytest
import structlog
from influxdb_client.client.write.point import Point

from bridge.errors import ConfigError
from bridge.model.options import Duration, Size
from bridge.wire.decoded import Limits
from bridge.write.sinks.cursor import load_cursor
from bridge.write.sinks.influxdb import sink as sink_module
from bridge.write.sinks.influxdb.client import Delivered, InfluxdbClient, Rejected, Unavailable
from bridge.write.sinks.influxdb.renderer import PREFIX_BYTES_MAX, Renderer
from bridge.write.sinks.influxdb.settings import InfluxdbSettings
from bridge.write.sinks.influxdb.sink import InfluxdbSink
from bridge.write.wal.log import ReplayReport, WalSettings, WriteAheadLog
from bridge.write.wal.record import Record
from tests.integration.destinations import as_influxdb_holds, differences, influxdb_samples
from tests.integration.faults import Cut, Error, Refuse, Reset, ResetRequest, Slow, Stall
from tests.integration.faulty_proxy import FaultyProxy
from tests.integration.influxdb import InfluxDb
from tests.integration.processes import fetch, free_port, wait_until
from tests.integration.remote import Labels
from tests.oracle.bodies import Series, bits, v1_body

NOW_MS = time.time_ns() // 1_000_000 - 60_000
SETTLED_S_MAX = 30.0
MAPPINGS = ("measurement-per-metric", "field-per-metric")

# What means something somewhere in line protocol, in Flux or in CSV, alone and beside one another.
TEXTS = [
    "a,b", "a=b", "a b", 'a"b', '"', "a\\b", "a\\", "a\\\\", "\\", "a\nb", "a\tb", "a\rb", "a\0b",
    "#a", "\ta", "\0a", " a", "a ", "\\,", "\\=", "\\ ", '\\"', "a\\,b", 'x\\ \\="', "é", "世",
    "😀", "a'b", "\x7f", "\u00a0", "\u2028", "\ufeffa", "\ufffd", "C:\\", "a\r\n", "\n", "=", ",",
    "a\\n", "\x01", "{a='b',}", "\\\\,", "\\\\ =", "a#", "\\#", "true", "1i", "a=1,b=2 c=3 4",
]  # fmt: skip
NAMES = ["time", "_time", "_field", "_measurement", "_value", "_start", "_stop", "result", "table"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InfluxDb]:
    with InfluxDb(tmp_path_factory.mktemp("influxdb")) as started:
        yield started


@pytest.fixture
def proxy(server: InfluxDb) -> Iterator[FaultyProxy]:
    with FaultyProxy(server.url) as made:
        yield made


@pytest.fixture(autouse=True)
def _impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sink_module, "RETRY_S_MIN", 0.02)
    monkeypatch.setattr(sink_module, "POLL_S", 0.02)
    monkeypatch.setattr(sink_module, "STORE_S", 0.0)


class Rig:
    """A log, and a sink that follows it on a thread of its own."""

    def __init__(self, server: InfluxDb, folder: Path, **changes: Any) -> None:
        self.server = server
        self.folder = folder
        token_path = folder / "token"
        if not token_path.exists():
            token_path.write_text(server.token + "\n")
        options = {"bucket": changes.pop("bucket", None) or server.make_bucket()}
        self.settings = InfluxdbSettings(
            **{
                "url": server.url,
                "org": server.org,
                "token_file": token_path,
                "start": "oldest",
                "timeout": Duration(5),
                "dead_letter_path": folder / "dead-letters.lp",
                **options,
                **changes,
            }
        )
        self.wal = WriteAheadLog(WalSettings(folder / "wal", segment_size=Size(1)))
        for _ in self.wal.replay(0, ReplayReport()):
            pass
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        mapping = self.settings.mapping
        self.sink = InfluxdbSink(
            self.settings,
            self.wal,
            InfluxdbClient(self.settings),
            Renderer((b"__replica__",), mapping, Limits()),
            self.folder / "wal" / "influxdb.cursor",
        )
        self.sink.recover()
        self._thread = threading.Thread(target=self.sink.run, name="influxdb")
        self._thread.start()

    def write(self, series: Sequence[Series]) -> None:
        count = sum(len(one.samples) for one in series)
        self.wal.append(
            receive_ms=NOW_MS, fmt=1, refused=b"", body=v1_body(series), sample_count=count
        )
        self.wal.sync()

    def settle(self) -> None:
        wait_until(
            lambda: self.sink.cursor.sample_total == self.wal.safe_sample_total,
            "everything is settled",
            SETTLED_S_MAX,
        )

    def values(self) -> dict[str, set[float]]:
        """Values by metric, as Flux finds them."""
        found: dict[str, set[float]] = {}
        for (labels, _), pattern in influxdb_samples(
            self.server, self.settings.bucket, self.settings.mapping
        ).items():
            value = struct.unpack("<d", struct.pack("<Q", pattern))[0]
            found.setdefault(dict(labels)["__name__"], set()).add(value)
        return found

    def stop(self) -> None:
        if self._thread is not None:
            self.sink.stop()
            self._thread.join(10)
            assert not self._thread.is_alive()
            self._thread = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self.wal.close()


def gauge(metric: str, *values: float, at_ms: int = NOW_MS, **labels: Any) -> Series:
    samples = [(at_ms + number, value) for number, value in enumerate(values)]
    return Series({"__name__": metric, **labels}, samples)


def make_integer(rig: Rig, metric: str) -> None:
    """Makes the field of a metric one of integers: floats conflict with it from now on."""
    reply = fetch(
        "POST",
        f"{rig.server.url}/api/v2/write?org={rig.server.org}&bucket={rig.settings.bucket}"
        "&precision=ms",
        f"{metric},made=by_hand value=1i {NOW_MS}\n".encode(),
        {"Authorization": f"Token {rig.server.token}"},
    )
    assert reply.status == 204


# -- what is stored --


@pytest.mark.parametrize("mapping", MAPPINGS)
def test_every_legal_label_and_name_comes_back_as_the_document_says(
    server: InfluxDb, tmp_path: Path, mapping: Any
) -> None:
    sets: list[dict[str, str]] = []
    for number, text in enumerate(TEXTS):
        own = {"n": str(number)}
        sets += [
            {"__name__": "value", "l": text, **own},
            {"__name__": "name", text: "v", **own},
            {"__name__": f"{text}|{number}", **own},
            {"__name__": f"{number}|{text}", **own},
            {"__name__": "many", "a": text, "z": text, text: text, **own},
        ]
    sets += [{"__name__": "reserved", name: "v", "n": name} for name in NAMES]
    sets += [{"__name__": name, "n": name} for name in NAMES]
    series = [
        Series(dict(sorted(labels.items())), [(NOW_MS, float(number))])
        for number, labels in enumerate(sets)
    ]
    with Rig(server, tmp_path, mapping=mapping) as rig:
        rig.write(series)
        rig.settle()
        assert rig.sink.cursor.dropped == {}
        found = influxdb_samples(server, rig.settings.bucket, mapping)
    sent = {(tuple(sorted(one.labels.items())), NOW_MS): bits(one.samples[0][1]) for one in series}
    assert differences(as_influxdb_holds(sent, mapping), found) == []


def test_where_the_official_client_is_right_the_line_is_the_same() -> None:
    renderer = Renderer((b"__replica__",), "measurement-per-metric", Limits())
    for text in TEXTS:
        if set(text) & set("\\\n\t\r\0") or text.startswith("#"):
            continue
        labels = {"__name__": f"m{text}", "l": text, text: "v"}
        body = v1_body([Series(dict(sorted(labels.items())), [(NOW_MS, 1.5)])])
        renderer.add(Record(1, NOW_MS, 1, 1, b"", body))
        (lines,) = renderer.render(10, {})
        renderer.clear()
        point = Point(f"m{text}").tag("l", text).tag(text, "v").field("value", 1.5)
        expected = point.to_line_protocol() + f" {NOW_MS}\n"
        # The server takes tags in any order; ours are sorted as it sorts them.
        assert sorted(lines.line(0).decode()) == sorted(expected)


def test_every_finite_number_comes_back_bit_by_bit(server: InfluxDb, tmp_path: Path) -> None:
    draw = random.Random(1)
    values = [
        0.0, -0.0, 5e-324, -5e-324, 2.2250738585072014e-308, 1.7976931348623157e308, 1e308, 1e22,
        1e23, 1e15, 1e15 - 1, -1e15, 2.0**53, 2.0**53 + 2, 2.0**63, 2.0**64, 0.1, 1 / 3, 1e-7,
        100.0, 1e5, 123456.789, 9007199254740993.0, 1.5e300, 4.35, 0.000001, 1e16,
        1.2345678901234567e19,
    ]  # fmt: skip
    while len(values) < 5000:
        value = struct.unpack("<d", draw.randbytes(8))[0]
        values += [value] if math.isfinite(value) else []
    with Rig(server, tmp_path) as rig:
        rig.write([gauge("m", *values)])
        rig.settle()
        found = influxdb_samples(server, rig.settings.bucket, "measurement-per-metric")
    labels: Labels = (("__name__", "m"),)
    sent = {(labels, NOW_MS + number): bits(value) for number, value in enumerate(values)}
    assert differences(sent, found) == []


def test_a_key_of_the_longest_length_is_stored_and_a_longer_one_counted(
    server: InfluxDb, tmp_path: Path
) -> None:
    room = PREFIX_BYTES_MAX - len("m,a=,b=,c=,d=,e=,f=,g=,h=,i= value=")
    parts: dict[str, Any] = dict.fromkeys("abcdefgh", "x" * 8000)
    longest = {**parts, "i": "x" * (room - 64_000)}
    too_long = {**parts, "i": "x" * (room - 63_999)}
    with Rig(server, tmp_path) as rig:
        rig.write([gauge("m", 1, **longest), gauge("m", 2, **too_long), gauge("m", 3)])
        rig.settle()
        assert rig.sink.cursor.dropped == {"too_long": 1}
        assert rig.values() == {"m": {1, 3}}
    assert not rig.settings.dead_letter_path.exists()


# -- what a refusal costs --


def test_lines_of_another_type_go_to_the_dead_letters_and_all_others_arrive(
    server: InfluxDb, tmp_path: Path
) -> None:
    with Rig(server, tmp_path) as rig:
        make_integer(rig, "bad")
        for round_number in range(3):
            at_ms = NOW_MS + round_number
            rig.write(
                [gauge(f"good{number}", number, at_ms=at_ms) for number in range(50)]
                + [gauge("bad", 7, at_ms=at_ms, job="a"), gauge("bad", 8, at_ms=at_ms, job="b")]
                + [gauge(f"good{number}", number, at_ms=at_ms) for number in range(50, 100)]
            )
            rig.settle()
        assert rig.sink.cursor.dropped == {"rejected": 6}
        assert rig.sink.cursor.delivered == 300
        assert {metric for metric in rig.values() if metric != "bad"} == {
            f"good{number}" for number in range(100)
        }
        requests = sum(rig.sink.request_counts.values())
    letters = rig.settings.dead_letter_path.read_text()
    assert "422" in letters
    assert 'input field "value" on measurement "bad" is type float' in letters
    refused = [line for line in letters.splitlines() if not line.startswith("#")]
    assert len(refused) == 6
    assert {line.split()[0] for line in refused} == {"bad,job=a", "bad,job=b"}
    # The question at the start; the first batch, its suspects and its rest; then the good ones and
    # the suspects by themselves.
    assert requests == 1 + 3 + 2 + 2


def test_when_the_cause_is_mended_the_suspects_are_taken_again(
    server: InfluxDb, tmp_path: Path
) -> None:
    with Rig(server, tmp_path) as rig:
        make_integer(rig, "bad")
        rig.write([gauge("bad", 1), gauge("good", 1)])
        rig.settle()
        server.delete_bucket(rig.settings.bucket)
        server.make_bucket(rig.settings.bucket)
        for number in (2, 3):
            rig.write([gauge("bad", number), gauge("good", number)])
            rig.settle()
        assert rig.values() == {"bad": {3}, "good": {3}}
        assert rig.sink.cursor.dropped == {"rejected": 1}
        # The last batch was one request: nobody is under suspicion any more.
        before = rig.sink.request_counts["204"]
        rig.write([gauge("bad", 4), gauge("good", 4)])
        rig.settle()
        assert rig.sink.request_counts["204"] == before + 1


def test_what_the_letters_hold_can_be_written_once_the_cause_is_mended(
    server: InfluxDb, tmp_path: Path
) -> None:
    with Rig(server, tmp_path) as rig:
        make_integer(rig, "bad")
        rig.write([gauge("bad", 1.5, 2.5, job="a b")])
        rig.settle()
        fresh = server.make_bucket()
        reply = fetch(
            "POST",
            f"{server.url}/api/v2/write?org={server.org}&bucket={fresh}&precision=ms",
            rig.settings.dead_letter_path.read_bytes(),
            {"Authorization": f"Token {server.token}"},
        )
        assert reply.status == 204
        found = influxdb_samples(server, fresh, "measurement-per-metric")
    assert sorted(found.values()) == [bits(1.5), bits(2.5)]


def test_points_older_than_the_retention_are_found_by_one_cut(
    server: InfluxDb, tmp_path: Path
) -> None:
    bucket = server.make_bucket(retention_s=3600)
    with Rig(server, tmp_path, bucket=bucket) as rig:
        old_ms = NOW_MS - 7_200_000
        rig.write(
            [gauge(f"m{number}", number, at_ms=old_ms) for number in range(40)]
            + [gauge(f"m{number}", number) for number in range(100)]
        )
        rig.settle()
        assert rig.sink.cursor.dropped == {"rejected": 40}
        assert len(rig.values()) == 100
        assert sum(rig.sink.request_counts.values()) == 1 + 3
    assert "outside retention policy" in rig.settings.dead_letter_path.read_text()


def test_a_batch_that_is_too_old_as_a_whole_takes_one_request(
    server: InfluxDb, tmp_path: Path
) -> None:
    bucket = server.make_bucket(retention_s=3600)
    with Rig(server, tmp_path, bucket=bucket) as rig:
        rig.write([gauge("m", *range(500), at_ms=NOW_MS - 7_200_000)])
        rig.settle()
        assert rig.sink.cursor.dropped == {"rejected": 500}
        assert rig.sink.request_counts == {"204": 1, "422": 1}


def test_lines_that_cannot_be_parsed_are_named_by_the_server_and_cost_one_more_request(
    server: InfluxDb, tmp_path: Path
) -> None:
    with Rig(server, tmp_path) as rig:
        clash: dict[str, Any] = {"time": "a", "exported_time": "b"}
        rig.write([gauge("good", 1), gauge("bad", 2, **clash), gauge("good", 3, job="a")])
        rig.write([gauge("far", 4, at_ms=9_300_000_000_000)])
        rig.settle()
        assert rig.values() == {"good": {1, 3}}
        assert rig.sink.cursor.dropped == {"rejected": 2}
    letters = rig.settings.dead_letter_path.read_text()
    assert "400 duplicate tags\nbad," in letters
    assert "time outside range" in letters


def test_a_body_that_is_too_large_is_halved_until_it_fits(
    server: InfluxDb, proxy: FaultyProxy, tmp_path: Path
) -> None:
    proxy.inject(Error(413, b"<html>too large</html>"), path="/api/v2/write", times=3)
    with Rig(server, tmp_path, url=proxy.url) as rig:
        rig.write([gauge("m", *range(100))])
        rig.settle()
        assert rig.values() == {"m": {float(number) for number in range(100)}}
        assert rig.sink.cursor.dropped == {}


def test_letters_that_cannot_be_kept_stop_nothing(server: InfluxDb, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with Rig(server, tmp_path, dead_letter_path=tmp_path / "file" / "letters.lp") as rig:
        make_integer(rig, "bad")
        rig.write([gauge("bad", 1), gauge("good", 2)])
        rig.settle()
        assert rig.sink.cursor.dropped == {"rejected": 1}
        assert rig.sink.cursor.delivered == 1


# -- a server that does not take anything --


@pytest.mark.parametrize(
    "fault",
    [
        Error(503, b"<html>"),
        Error(500, b'{"code":"internal error","message":"unexpected"}'),
        Error(502, b"\xff\xfe"),
        Error(400, b"<html>a page of a proxy</html>"),
        Error(422, b""),
        Error(400, b"[" * 200_000),
        Error(403, b"<html>a firewall</html>"),
        Error(200, b"welcome to the hotel"),
        Error(302, b"", {"Location": "http://127.0.0.1:1/"}),
        Cut(0),
        Reset(0),
        ResetRequest(),
        Stall(),
    ],
    ids=str,
)
def test_what_is_no_verdict_of_influxdb_costs_no_line(
    server: InfluxDb, proxy: FaultyProxy, tmp_path: Path, fault: Any
) -> None:
    with Rig(server, tmp_path, url=proxy.url, timeout=Duration(0.3)) as rig:
        rig.write([gauge("m", 1)])
        rig.settle()
        rule = proxy.inject(fault, path="/api/v2/write")
        rig.write([gauge("m", 2, at_ms=NOW_MS + 10)])
        wait_until(lambda: rig.sink.last_error, "the sink has met the fault", 10)
        proxy.heal(rule)
        rig.settle()
        assert rig.values() == {"m": {1, 2}}
        assert rig.sink.cursor.delivered == 2
        assert rig.sink.cursor.dropped == {}
    assert not rig.settings.dead_letter_path.exists()


def test_a_fault_in_the_sink_costs_no_line_and_ends_no_thread(
    server: InfluxDb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Rig(server, tmp_path) as rig:
        rig.write([gauge("m", 1)])
        rig.settle()

        def fail(*_: object) -> None:
            raise RuntimeError("a fault of ours")

        with monkeypatch.context() as patch:
            patch.setattr(rig.sink, "_settle", fail)
            rig.write([gauge("m", 2, at_ms=NOW_MS + 10)])
            wait_until(lambda: rig.sink.last_error, "the fault is noticed", 10)
            assert rig.sink.last_error == "RuntimeError: a fault of ours"
        rig.settle()
        assert rig.values() == {"m": {1, 2}}
        assert rig.sink.cursor.delivered == 2


def test_what_waits_for_a_server_that_was_never_there_is_seen_to_wait(
    server: InfluxDb, proxy: FaultyProxy, tmp_path: Path
) -> None:
    rule = proxy.inject(Refuse())
    with Rig(server, tmp_path, url=proxy.url) as rig:
        assert rig.sink.oldest_pending_ms == 0
        rig.write([gauge("m", 1)])
        wait_until(lambda: rig.sink.oldest_pending_ms == NOW_MS, "the record is seen", 10)
        proxy.heal(rule)
        rig.settle()
        wait_until(lambda: rig.sink.oldest_pending_ms == 0, "nothing waits", 10)


def test_a_slow_server_is_waited_for(server: InfluxDb, proxy: FaultyProxy, tmp_path: Path) -> None:
    proxy.inject(Slow(latency_s=0.05, bytes_per_s=100_000), path="/api/v2/write")
    with Rig(server, tmp_path, url=proxy.url, batch_lines=100) as rig:
        rig.write([gauge("m", *range(1000))])
        rig.settle()
        assert rig.sink.request_counts == {"204": 11}
        assert len(rig.values()["m"]) == 1000


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_honoured(
    server: InfluxDb, proxy: FaultyProxy, tmp_path: Path, status: int
) -> None:
    with Rig(server, tmp_path, url=proxy.url) as rig:
        rig.write([gauge("m", 1)])
        rig.settle()
        proxy.inject(Error(status, b"{}", {"Retry-After": "1"}), path="/api/v2/write", times=1)
        started_s = time.monotonic()
        rig.write([gauge("m", 2)])
        rig.settle()
        assert time.monotonic() - started_s >= 1
        assert rig.sink.request_counts[str(status)] == 1


def test_who_is_wrong_is_said_and_the_token_never(server: InfluxDb, tmp_path: Path) -> None:
    bucket = server.make_bucket()
    reading = server.make_token(bucket, may_write=False)
    nowhere = f"http://127.0.0.1:{free_port()}"
    good: dict[str, Any] = {"url": server.url, "org": server.org, "bucket": bucket}
    cases: list[tuple[Mapping[str, Any], str, str, bool]] = [
        (good, server.token, "", False),
        (good, "no-such-token", "influxdb.token_file", True),
        (good, reading, "may not write", True),
        ({**good, "org": "other"}, server.token, "influxdb.org", True),
        ({**good, "bucket": "other"}, server.token, "influxdb.bucket", True),
        ({**good, "url": server.url + "/elsewhere"}, server.token, "influxdb.url", True),
        ({**good, "url": nowhere}, server.token, "refused", False),
    ]
    for changed, token, said, is_refusal in cases:
        (tmp_path / "token").write_text(token)
        client = InfluxdbClient(InfluxdbSettings(**changed, token_file=tmp_path / "token"))
        outcome = client.push(b"")
        client.close()
        assert token not in repr(outcome)
        if not said:
            assert outcome == Delivered()
            continue
        assert isinstance(outcome, Unavailable), changed
        assert said in outcome.cause
        assert outcome.is_refusal == is_refusal


def test_a_batch_that_the_server_cannot_read_is_a_verdict_with_its_words(
    server: InfluxDb, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text(server.token)
    settings = InfluxdbSettings(
        url=server.url,
        org=server.org,
        bucket=server.make_bucket(),
        token_file=tmp_path / "token",
    )
    client = InfluxdbClient(settings)
    outcome = client.push(b"m,a= value=1 1\n")
    client.close()
    assert isinstance(outcome, Rejected)
    assert "missing tag value" in outcome.reason


def test_a_new_token_needs_no_restart_and_the_log_says_once_what_is_wrong(
    server: InfluxDb, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("old-secret")
    with structlog.testing.capture_logs() as logs:
        rig = Rig(server, tmp_path)
        with rig:
            rig.write([gauge("m", 1)])
            wait_until(
                lambda: rig.sink.request_counts.get("401", 0) >= 3, "it was tried three times", 10
            )
            (tmp_path / "token").write_text(server.token)
            rig.settle()
            assert rig.values() == {"m": {1}}
    errors = [entry for entry in logs if entry["log_level"] == "error"]
    assert len(errors) == 1
    assert "influxdb.token_file" in errors[0]["cause"]
    assert any(entry["event"] == "influxdb answers" for entry in logs)
    assert "old-secret" not in json.dumps(logs)
    assert server.token not in json.dumps(logs)


def test_a_deleted_bucket_holds_everything_up_until_it_is_there_again(
    server: InfluxDb, tmp_path: Path
) -> None:
    with Rig(server, tmp_path) as rig:
        rig.write([gauge("m", 1)])
        rig.settle()
        server.delete_bucket(rig.settings.bucket)
        rig.write([gauge("m", 2, at_ms=NOW_MS + 1)])
        wait_until(lambda: rig.sink.last_error, "the sink has met the 404", 10)
        server.make_bucket(rig.settings.bucket)
        rig.write([gauge("m", 3, at_ms=NOW_MS + 2)])
        rig.settle()
        assert rig.values() == {"m": {2, 3}}
        assert rig.sink.cursor.delivered == 3


def test_a_missing_bucket_is_created_with_its_retention_if_that_was_asked_for(
    server: InfluxDb, tmp_path: Path
) -> None:
    name = f"created-{tmp_path.name}"
    with Rig(
        server, tmp_path, bucket=name, create_bucket=True, bucket_retention=Duration(7200)
    ) as rig:
        rig.write([gauge("m", 1)])
        rig.settle()
        assert rig.values() == {"m": {1}}
    reply = fetch(
        "GET",
        f"{server.url}/api/v2/buckets?name={name}",
        headers={"Authorization": f"Token {server.token}"},
    )
    (bucket,) = json.loads(reply.body)["buckets"]
    assert bucket["retentionRules"][0]["everySeconds"] == 7200


def test_a_bucket_that_may_not_be_created_is_said_to_be_missing_and_why(
    server: InfluxDb, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text(server.make_token(server.make_bucket()))
    with Rig(server, tmp_path, bucket="forbidden", create_bucket=True) as rig:
        wait_until(lambda: "it cannot be created" in (rig.sink.last_error or ""), "it says why", 10)


# -- the log and the cursor --


def test_records_that_the_log_had_to_drop_are_counted_and_the_rest_arrives(
    server: InfluxDb, proxy: FaultyProxy, tmp_path: Path
) -> None:
    with Rig(server, tmp_path, url=proxy.url) as rig:
        rig.write([gauge("m", 0)])
        rig.settle()
        rule = proxy.inject(Error(503))
        rig.write([gauge("m", 1, at_ms=NOW_MS + 1)])
        wait_until(lambda: rig.sink.last_error, "the sink is stuck", 10)
        for number in range(2, 12):
            rig.write([gauge("m", number, number, at_ms=NOW_MS + 2 * number)])
        rig.wal.remove_through(7)
        proxy.heal(rule)
        rig.settle()
        # The batch under way was read before; records 3 to 7 are gone.
        cursor = rig.sink.cursor
        assert cursor.dropped == {"backlog": 10}
        assert cursor.delivered == 1 + 1 + 10
        assert rig.values() == {"m": {0, 1, 7, 8, 9, 10, 11}}


def test_a_record_that_cannot_be_decoded_is_counted_and_passed(
    server: InfluxDb, tmp_path: Path
) -> None:
    with Rig(server, tmp_path) as rig:
        rig.write([gauge("m", 1)])
        rig.wal.append(receive_ms=NOW_MS, fmt=1, refused=b"", body=b"\xff" * 9, sample_count=5)
        rig.wal.sync()
        rig.write([gauge("m", 2, at_ms=NOW_MS + 1)])
        rig.settle()
        assert rig.sink.cursor.dropped == {"undecodable": 5}
        assert rig.values() == {"m": {1, 2}}


def test_a_new_sink_begins_with_what_comes(server: InfluxDb, tmp_path: Path) -> None:
    rig = Rig(server, tmp_path, start="now")
    rig.write([gauge("m", 1)])
    with rig:
        assert rig.sink.cursor.start_total == 1
        rig.write([gauge("m", 2, at_ms=NOW_MS + 1)])
        rig.settle()
        assert rig.values() == {"m": {2}}
        assert rig.sink.cursor.delivered == 1


def test_or_at_the_oldest_record_that_is_left(server: InfluxDb, tmp_path: Path) -> None:
    rig = Rig(server, tmp_path)
    for number in range(6):
        rig.write([gauge("m", number, at_ms=NOW_MS + number)])
    rig.wal.remove_through(2)
    with rig:
        rig.settle()
        assert rig.values() == {"m": {2, 3, 4, 5}}
        assert rig.sink.cursor.delivered == 4
        assert rig.sink.cursor.start_total == 2
        assert rig.sink.cursor.dropped == {}


def test_a_damaged_cursor_means_the_oldest_record(server: InfluxDb, tmp_path: Path) -> None:
    with Rig(server, tmp_path, start="now") as rig:
        rig.write([gauge("m", 1)])
        rig.settle()
        rig.stop()
        (tmp_path / "wal" / "influxdb.cursor").write_bytes(b"damage")
        rig.start()
        rig.settle()
        assert rig.sink.cursor.delivered == 1
        assert rig.sink.cursor.start_total == 0
        assert (tmp_path / "wal" / "influxdb.damaged").exists()


def test_a_cursor_ahead_of_an_older_log_begins_anew_and_keeps_its_counts(
    server: InfluxDb, tmp_path: Path
) -> None:
    rig = Rig(server, tmp_path)
    rig.write([gauge("m", 1)])
    rig.wal.close()
    shutil.copytree(tmp_path / "wal", tmp_path / "old")
    with Rig(server, tmp_path, bucket=rig.settings.bucket) as newer:
        newer.write([gauge("m", 2, at_ms=NOW_MS + 1)])
        newer.settle()
    shutil.copy(tmp_path / "wal" / "influxdb.cursor", tmp_path / "old")
    shutil.rmtree(tmp_path / "wal")
    (tmp_path / "old").rename(tmp_path / "wal")
    with Rig(server, tmp_path, bucket=rig.settings.bucket) as again:
        again.write([gauge("m", 3, at_ms=NOW_MS + 2)])
        again.settle()
        assert again.values() == {"m": {1, 2, 3}}
        cursor = again.sink.cursor
        assert cursor.delivered == 2 + 2
        assert cursor.sample_total - cursor.start_total == 4
    assert load_cursor(tmp_path / "wal" / "influxdb.cursor") == cursor


def test_a_token_file_that_is_gone_is_an_error_of_the_configuration(tmp_path: Path) -> None:
    settings = InfluxdbSettings(
        url="http://localhost:1", org="o", bucket="b", token_file=tmp_path / "none"
    )
    with pytest.raises(ConfigError, match=r"influxdb\.token_file"):
        InfluxdbClient(settings)
