"""One stream, two destinations: what is accepted is in the lake and in InfluxDB.

Real servers alone: Prometheus, InfluxDB 2, a bridge as a process. What was sent is known, and both
destinations are asked without the bridge: they have the same label sets, times and 64-bit values,
but for what InfluxDB cannot hold, which the bridge has to have counted (SINK-7, SINK-8).
"""

import http
import random
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.integration.bridge import Bridge
from tests.integration.destinations import (
    Mapped,
    SampleKey,
    as_influxdb_holds,
    check_equal,
    differences,
    flattened,
)
from tests.integration.fan_out import FanOut
from tests.integration.feeder import REQUEST_SAMPLES, make_series
from tests.integration.influxdb import InfluxDb
from tests.integration.made_data import Block, Fleet, Span, made_blocks, sort_labels
from tests.integration.processes import wait_until
from tests.integration.remote import Labels, Sample, bits_of, make_body
from tests.integration.servers import RECEIVER_FLAGS, Prometheus, find_prometheus

MAPPINGS: tuple[Mapped, ...] = ("measurement-per-metric", "field-per-metric")

Series = Sequence[tuple[Labels, Sequence[Sample]]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InfluxDb]:
    with InfluxDb(tmp_path_factory.mktemp("influxdb")) as started:
        yield started


# An hour, from a real Prometheus and from senders that were cut off

EXTERNAL = {"cluster": "fan out", "__replica__": "a"}
STEP_COUNT = 240
# A Prometheus sends on what is newer than its own start, and takes what is less than ten minutes
# ahead: an hour's scrapes at 15 s fit into that at 2.3 s.
AHEAD_STEP_S = 2.3
PAST_START_S = 1_767_225_600.0  # 2026-01-01
STEPS_PER_BLOCK = 30
V2 = "io.prometheus.write.v2.Request"
# Separated by |.
TEXTS = (
    r""",|=| |"|\|\\|a b|a,b|a=b|a"b|a\b|\a| a|a |'|a\|a\ b|a\,b|a\=b|a\"b|a\\ b|\n|#a|a#b|"""
    "{}|%20|1i|NaN|"
    "a\nb|\n|a\tb|a\r\nb|\ta|true|Zürich 東京 🎈|\u2028|\x01|" + "x" * 1000 + "|"
    "time|_time|_value|_field|_measurement|result|table|value"
).split("|")


def awkward_series(timestamp_ms: int) -> list[tuple[Labels, list[Sample]]]:
    """Every text as a label's value, as a label's name and as a metric's name."""
    series = []
    for number, text in enumerate(TEXTS):
        for labels in (
            {"__name__": "awkward_value", "text": text},
            {"__name__": "awkward_name", text: "a"},
            {"__name__": text, "kind": "awkward metric"},
        ):
            # Some of the texts become the same in InfluxDB; the number keeps them apart.
            own = sort_labels({**labels, "n": str(number)})
            series.append((own, [(timestamp_ms, bits_of(number + 0.1))]))
    return sorted(series)


def with_external(block: Block) -> list[tuple[Labels, list[Sample]]]:
    return [(sort_labels({**dict(labels), **EXTERNAL}), block[labels]) for labels in sorted(block)]


class Sent:
    """What every bridge was sent."""

    def __init__(self) -> None:
        self.samples: dict[SampleKey, int] = {}
        self.bits: Counter[int] = Counter()
        """How often each value was sent; some samples are sent twice."""

    def note(self, series: Series) -> None:
        self.samples |= flattened(series)
        self.bits.update(bits for _, samples in series for _, bits in samples)


def push_past(bridges: Sequence[Bridge], sent: Sent) -> None:
    """An hour of long ago in disorder and in part twice, as 1.0 and as 2.0, and awkward labels."""
    span = Span(Fleet(60, 15.0, PAST_START_S), STEP_COUNT)
    blocks = [with_external(block) for block in made_blocks(span, STEPS_PER_BLOCK)]
    blocks.append(awkward_series(span.start_ms))
    order = [*range(len(blocks)), 1, 3, len(blocks) - 1]
    random.Random(4).shuffle(order)
    for place, number in enumerate(order):
        body = make_body(1 + place % 2, blocks[number])
        sent.note(blocks[number])
        for bridge in bridges:
            assert body.push(bridge.write_url).status == http.HTTPStatus.NO_CONTENT


def push_through_prometheus(folder: Path, bridges: Sequence[Bridge], sent: Sent) -> None:
    """As many scrapes as an hour has into a Prometheus that sends them on to every bridge."""

    def config(_port: int) -> Mapping[str, Any]:
        messages = ("prometheus.WriteRequest", V2)
        return {
            "global": {"scrape_interval": "1h", "external_labels": EXTERNAL},
            "remote_write": [
                {
                    "url": bridge.write_url,
                    "name": message,
                    "protobuf_message": message,
                    "queue_config": {"batch_send_deadline": "500ms"},
                }
                for bridge, message in zip(bridges, messages, strict=True)
            ],
        }

    prometheus = Prometheus(find_prometheus(3), "fan-out", folder, config, RECEIVER_FLAGS)
    with prometheus:
        # -0 becomes 0 on the way: Prometheus leaves out a field that equals 0.
        fleet = Fleet(60, AHEAD_STEP_S, round(time.time()) + 5.0, signed_zeros=False)
        span = Span(fleet, STEP_COUNT)
        blocks = made_blocks(span, STEPS_PER_BLOCK)
        blocks[0] |= dict(awkward_series(span.start_ms))
        for block in blocks:
            body = make_body(1, sorted(block.items()))
            reply = body.push(f"{prometheus.url}/api/v1/write")
            assert reply.status == http.HTTPStatus.NO_CONTENT, reply
            sent.note(with_external(block))
        for bridge in bridges:
            wait_until(
                lambda bridge=bridge: (  # type: ignore[misc]
                    bridge.metric("prombridge_write_samples_total") >= sent.bits.total()
                ),
                "prometheus has sent everything",
                60,
            )


@pytest.fixture(scope="module")
def hour(
    server: InfluxDb, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Mapping[Mapped, FanOut], Sent]]:
    folder = tmp_path_factory.mktemp("hour")
    fan_outs = {
        mapping: FanOut(server, folder / mapping, mapping=mapping, flush_interval="1s")
        for mapping in MAPPINGS
    }
    sent = Sent()
    bridges = [fan_out.bridge for fan_out in fan_outs.values()]
    with ExitStack() as stack:
        for bridge in bridges:
            stack.enter_context(bridge)
        push_past(bridges, sent)
        push_through_prometheus(folder / "prometheus", bridges, sent)
        yield fan_outs, sent


@pytest.mark.parametrize("mapping", MAPPINGS)
def test_an_hour_of_prometheus_is_in_the_lake_and_in_influxdb_bit_by_bit(
    hour: tuple[Mapping[Mapped, FanOut], Sent], mapping: Mapped
) -> None:
    fan_outs, sent = hour
    fan_outs[mapping].check(sent.samples, sent.bits)


def test_the_comparison_sees_what_is_missing_extra_or_altered() -> None:
    samples = flattened(make_series("compared", 3))
    (first, bits), (second, _), *_ = samples.items()
    assert differences(samples, samples) == []
    assert "missing" in differences(samples, {k: v for k, v in samples.items() if k != first})[0]
    assert "extra" in differences({k: v for k, v in samples.items() if k != second}, samples)[0]
    assert "instead of" in differences(samples, {**samples, first: bits ^ 1})[0]


# A sink that is new

PADDING_BYTES = 1000  # a request of 8.5 kB
SMALL_SEGMENTS = ["--wal.segment-size=64KiB"]


def push_numbers(bridge: Bridge, numbers: range) -> None:
    for number in numbers:
        body = make_body(1 + number % 2, make_series("late", number, PADDING_BYTES))
        assert body.push(bridge.write_url).status == http.HTTPStatus.NO_CONTENT


def samples_of_numbers(numbers: range) -> dict[SampleKey, int]:
    series = [entry for number in numbers for entry in make_series("late", number, PADDING_BYTES)]
    return flattened(series)


def oldest_number(folder: Path) -> int:
    """The first request that is in the log of a bridge that was killed."""
    segments = sorted(int(path.stem) for path in (folder / "wal").glob("*.wal"))
    assert len(segments) > 1
    # A request is a record, and records are numbered from 1.
    return segments[0] - 1


def test_a_sink_switched_on_later_begins_with_what_comes(server: InfluxDb, tmp_path: Path) -> None:
    with Bridge(tmp_path) as bridge:
        push_numbers(bridge, range(10))
        bridge.kill()
    fan_out = FanOut(server, tmp_path)
    with fan_out.bridge:
        push_numbers(fan_out.bridge, range(10, 15))
        fan_out.wait_settled(5 * REQUEST_SAMPLES)
        # A restart is no new start.
        fan_out.bridge.kill_and_start()
        push_numbers(fan_out.bridge, range(15, 20))
        fan_out.wait_settled(10 * REQUEST_SAMPLES)
        fan_out.check_influxdb(samples_of_numbers(range(10, 20)))
        fan_out.bridge.flush()
        fan_out.check_lake(samples_of_numbers(range(20)))


def test_a_sink_switched_on_later_may_begin_with_the_oldest_segment_that_is_left(
    server: InfluxDb, tmp_path: Path
) -> None:
    with Bridge(tmp_path, flags=SMALL_SEGMENTS) as bridge:
        push_numbers(bridge, range(30))
        bridge.flush()
        push_numbers(bridge, range(30, 60))
        bridge.kill()
    first = oldest_number(tmp_path)
    assert 0 < first <= 30
    fan_out = FanOut(server, tmp_path, flags=[*SMALL_SEGMENTS, "--influxdb.start=oldest"])
    with fan_out.bridge:
        push_numbers(fan_out.bridge, range(60, 65))
        fan_out.wait_settled((65 - first) * REQUEST_SAMPLES)
        fan_out.check_influxdb(samples_of_numbers(range(first, 65)))
        fan_out.bridge.flush()
        fan_out.check_lake(samples_of_numbers(range(65)))


def test_a_sink_switched_off_for_a_while_goes_on_and_counts_what_is_gone(
    server: InfluxDb, tmp_path: Path
) -> None:
    fan_out = FanOut(server, tmp_path, flags=SMALL_SEGMENTS)
    with fan_out.bridge:
        push_numbers(fan_out.bridge, range(10))
        fan_out.wait_settled(10 * REQUEST_SAMPLES)
    with Bridge(tmp_path, flags=SMALL_SEGMENTS) as bridge:
        push_numbers(bridge, range(10, 40))
        bridge.flush()
        push_numbers(bridge, range(40, 60))
        bridge.kill()
    first = oldest_number(tmp_path)
    assert 10 < first <= 40
    with fan_out.bridge:
        counts = fan_out.wait_settled(60 * REQUEST_SAMPLES)
        assert counts.dropped["backlog"] == (first - 10) * REQUEST_SAMPLES
        there = samples_of_numbers(range(10)) | samples_of_numbers(range(first, 60))
        fan_out.check_influxdb(there)
        assert counts.delivered == len(fan_out.influxdb_samples())


# Lines that InfluxDB refuses

DAY_MS = 86_400_000


def test_refused_lines_are_kept_with_the_reason_and_cost_no_other(
    server: InfluxDb, tmp_path: Path
) -> None:
    now_ms = round(time.time() * 1000)
    bucket = server.make_bucket(retention_s=3600)
    server.write(bucket, f"conflicted,n=0 value=1i {now_ms}")
    good: list[tuple[Labels, list[Sample]]] = [
        (sort_labels({"__name__": "good", "n": str(n)}), [(now_ms, bits_of(n / 3))])
        for n in range(500)
    ]
    renamed: list[tuple[Labels, list[Sample]]] = [
        (sort_labels({"__name__": "good", "time": f"{n} o'clock"}), [(now_ms, bits_of(n / 7))])
        for n in range(10)
    ]
    conflicted: list[tuple[Labels, list[Sample]]] = [
        (sort_labels({"__name__": "conflicted", "n": str(n)}), [(now_ms, bits_of(n + 0.5))])
        for n in range(7)
    ]
    old: list[tuple[Labels, list[Sample]]] = [
        (sort_labels({"__name__": "good", "n": str(n)}), [(now_ms - DAY_MS, bits_of(n / 9))])
        for n in range(20)
    ]
    # The receiver takes the 35 KB; as written they are twice that.
    long = [
        (
            sort_labels({"__name__": "good", **{f"label_{n}": "," * 7000 for n in range(5)}}),
            [(now_ms, bits_of(1.0))],
        )
    ]
    series = [*good, *renamed, *conflicted, *old, *long]
    random.Random(5).shuffle(series)
    fan_out = FanOut(server, tmp_path, bucket=bucket)
    with fan_out.bridge:
        for start in range(0, len(series), 100):
            body = make_body(1 + start // 100 % 2, sorted(series[start : start + 100]))
            assert body.push(fan_out.bridge.write_url).status == http.HTTPStatus.NO_CONTENT
        counts = fan_out.wait_settled(len(series))
        assert counts.dropped == {"rejected": len(conflicted) + len(old), "too_long": len(long)}
        assert counts.delivered == len(good) + len(renamed)
        found = dict(fan_out.influxdb_samples())
        # Written before, by hand.
        del found[(("__name__", "conflicted"), ("n", "0")), now_ms]
        held = as_influxdb_holds(flattened([*good, *renamed]), fan_out.mapping)
        assert {"exported_time"} <= {name for labels, _ in held for name, _ in labels}
        check_equal(held, found, "in influxdb")
        fan_out.bridge.flush()
        fan_out.check_lake(flattened(series))
    check_dead_letters(fan_out.dead_letter_path, conflicted, old)


def check_dead_letters(path: Path, conflicted: Series, old: Series) -> None:
    """Each refused line stands once, below its reason."""
    reasons: dict[str, str] = {}
    reason = ""
    for line in path.read_text().splitlines():
        if line.startswith("#"):
            reason = line
        else:
            assert line not in reasons
            reasons[line] = reason
    expected = {}
    for (labels, samples), text in [
        *((entry, "field type conflict") for entry in conflicted),
        *((entry, "Retention Policy Lower Bound") for entry in old),
    ]:
        ((timestamp_ms, _),) = samples
        name, number = labels[0][1], labels[1][1]
        expected[name, number, timestamp_ms] = text
    assert len(reasons) == len(expected)
    for line, reason in reasons.items():
        key, _, timestamp = line.rpartition(" ")
        measurement, _, tag = key.partition(" ")[0].partition(",n=")
        assert expected[measurement, tag, int(timestamp)] in reason, (line, reason)
