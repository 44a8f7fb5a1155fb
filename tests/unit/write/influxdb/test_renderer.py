"""Records into lines: what is left out and why, and that nothing grows."""

import math
import struct
from typing import Any

import numpy as np
import pytest

from bridge.errors import CorruptBody
from bridge.model.staleness import STALE_BITS
from bridge.wire.decoded import LabelRows, Limits
from bridge.wire.encoded import EncodedSeries
from bridge.wire.lines import encode_prefixes
from bridge.write.sinks.influxdb import renderer as renderer_module
from bridge.write.sinks.influxdb.renderer import (
    FIELD_MEASUREMENT,
    GROUP_TEXT_BYTES,
    PREFIX_BYTES_MAX,
    PREFIX_ROOM_BYTES_MIN,
    RENEW_S,
    TEXT_BYTES_MAX,
    Renderer,
)
from bridge.write.wal.record import Record
from tests.oracle.bodies import Series, float_of, v1_body, v2_body

NOW_MS = 1_790_000_000_000


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def record(series: list[Series], fmt: int = 1, refused: tuple[int, ...] = ()) -> Record:
    body = v1_body(series) if fmt == 1 else v2_body(series)
    ranges = struct.pack(f"<{len(refused)}I", *refused)
    return Record(1, NOW_MS, 0, fmt, ranges, body)


def made(mapping: str = "measurement-per-metric", **changes: object) -> Renderer:
    return Renderer((b"__replica__", b"other"), mapping, Limits(), **changes)  # type: ignore[arg-type]


def up(job: str, *samples: tuple[int, float], **labels: str) -> Series:
    return Series({"__name__": "up", "job": job, **labels}, samples)


def text_of(renderer: Renderer, dropped: dict[str, int] | None = None, lines: int = 100) -> str:
    parts = renderer.render(lines, {} if dropped is None else dropped)
    text = b"".join(part.text.data for part in parts).decode()
    renderer.clear()
    return text


@pytest.mark.parametrize("fmt", [1, 2])
def test_a_sample_is_a_line_and_a_replica_is_a_tag(fmt: int) -> None:
    renderer = made()
    assert renderer.add(record([up("a", (NOW_MS, 1), (NOW_MS + 1, 2.5), other="r1")], fmt)) == 2
    assert text_of(renderer) == (
        f"up,__replica__=r1,job=a value=1 {NOW_MS}\n"
        f"up,__replica__=r1,job=a value=2.5 {NOW_MS + 1}\n"
    )


def test_with_a_field_for_each_metric_all_share_a_measurement() -> None:
    renderer = made("field-per-metric")
    renderer.add(record([up("a", (NOW_MS, 1))]))
    assert text_of(renderer) == f"{FIELD_MEASUREMENT.decode()},job=a up=1 {NOW_MS}\n"


def test_what_no_line_can_hold_is_counted_by_reason() -> None:
    renderer = made()
    values = [1.0, math.nan, math.inf, -math.inf, float_of(STALE_BITS), 2.0, math.nan, math.nan]
    renderer.add(record([up("a", *((NOW_MS + at, value) for at, value in enumerate(values)))]))
    dropped = {"nan": 1}
    assert text_of(renderer, dropped).count("\n") == 2
    assert dropped == {"nan": 4, "infinite": 2, "stale_marker": 1}


def test_what_was_refused_at_receipt_is_no_line() -> None:
    renderer = made()
    count = renderer.add(record([up("a", (NOW_MS, 1), (NOW_MS + 1, 2))], refused=(0, 1)))
    assert count == 1
    assert text_of(renderer) == f"up,job=a value=2 {NOW_MS + 1}\n"


def test_a_record_that_cannot_be_decoded_adds_nothing() -> None:
    renderer = made()
    renderer.add(record([up("a", (NOW_MS, 1))]))
    with pytest.raises(CorruptBody):
        renderer.add(Record(2, NOW_MS, 0, 1, b"", b"\xff\xff\xff"))
    assert renderer.row_count == 1


def test_a_request_of_any_size_finds_room() -> None:
    renderer = made()
    for start in (0, 10_000):
        renderer.add(record([up("a", *((NOW_MS + start + at, at) for at in range(10_000)))]))
    parts = list(renderer.render(7000, {}))
    assert [len(part) for part in parts] == [7000, 7000, 6000]
    assert parts[2].line(5999) == f"up,job=a value=9999 {NOW_MS + 19_999}\n".encode()


def test_series_too_long_for_influxdb_are_counted_and_cost_nothing_else() -> None:
    renderer = made(prefix_room_bytes=PREFIX_ROOM_BYTES_MIN)
    # `up,job=` and ` value=` are 14 bytes.
    fits, too_long = "x" * (PREFIX_BYTES_MAX - 14), "x" * (PREFIX_BYTES_MAX - 13)
    for value in (1, 2):
        renderer.add(
            record([up(fits, (NOW_MS, value)), up(too_long, (NOW_MS, 1)), up("a", (NOW_MS, value))])
        )
        dropped: dict[str, int] = {}
        text = text_of(renderer, dropped)
        assert [len(line) for line in text.splitlines()] == [PREFIX_BYTES_MAX + 15, 30]
        assert dropped == {"too_long": 1}


@pytest.mark.parametrize("mapping", ["measurement-per-metric", "field-per-metric"])
def test_a_metric_without_labels_may_take_all_of_the_length(mapping: str) -> None:
    renderer = made(mapping)
    room = PREFIX_BYTES_MAX - (len(" value=") if mapping[0] == "m" else len("prometheus ="))
    for length in (room, room + 1):
        renderer.add(record([Series({"__name__": "x" * length}, [(NOW_MS, 1)])]))
    dropped: dict[str, int] = {}
    assert len(text_of(renderer, dropped)) == PREFIX_BYTES_MAX + len(f"1 {NOW_MS}\n")
    assert dropped == {"too_long": 1}


@pytest.fixture
def rendered_bytes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes of label text that were rendered at once, one after another."""
    found: list[int] = []

    def watched(labels: LabelRows, *others: Any) -> EncodedSeries:
        found.append(len(bytes(labels.name_bytes)) + len(bytes(labels.value_bytes)))
        return encode_prefixes(labels, *others)

    monkeypatch.setattr(renderer_module, "encode_prefixes", watched)
    return found


def test_labels_that_no_line_can_hold_are_never_rendered(rendered_bytes: list[int]) -> None:
    """A sender names one symbol of 8 KiB many times: a body of 6 KiB stands for 250 MiB."""
    renderer = made()
    long = {f"n{number:03}": "\n" * 8192 for number in range(124)}
    series = [Series({"__name__": "m", "i": f"{at}", **long}, [(NOW_MS, 1)]) for at in range(256)]
    renderer.add(record([*series, up("a", (NOW_MS, 1))], 2))
    dropped: dict[str, int] = {}
    assert text_of(renderer, dropped) == f"up,job=a value=1 {NOW_MS}\n"
    assert dropped == {"too_long": 256}
    assert sum(rendered_bytes) == len("__name__upjoba")


def test_long_labels_are_rendered_a_few_mib_at_a_time(rendered_bytes: list[int]) -> None:
    renderer = made()
    long = {f"n{number}": "\n" * 8000 for number in range(4)}
    series = [Series({"__name__": "m", "i": f"{at}", **long}, [(NOW_MS, 1)]) for at in range(500)]
    renderer.add(record(series, 2))
    dropped: dict[str, int] = {}
    parts = [part.text.data for part in renderer.render(1000, dropped)]
    assert sum(part.count(b"\n") for part in parts) == 500
    assert dropped == {}
    assert max(rendered_bytes) <= GROUP_TEXT_BYTES
    assert len(rendered_bytes) <= 2 + sum(rendered_bytes) // (GROUP_TEXT_BYTES // 2)


def test_a_group_is_rendered_with_its_own_replicas_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    renderer = made()
    given: list[int] = []

    def watched(labels: Any, ids: Any, replicas: Any, *others: Any) -> EncodedSeries:
        given.append(len(replicas))
        return encode_prefixes(labels, ids, replicas, *others)

    monkeypatch.setattr(renderer_module, "encode_prefixes", watched)
    for first in range(0, 3000, 1000):
        numbers = range(first, first + 1000)
        renderer.add(record([up("a", (NOW_MS, 1), other=f"r{number}") for number in numbers]))
        tags = {line.split(" ")[0] for line in text_of(renderer, lines=3000).splitlines()}
        assert tags == {f"up,__replica__=r{number},job=a" for number in numbers}
    assert max(given) <= 1001


def test_more_prefixes_than_there_is_room_for_are_made_again_and_again() -> None:
    renderer = made(prefix_room_bytes=PREFIX_ROOM_BYTES_MIN)
    series = [up(f"{number:04}{'x' * 60_000}", (NOW_MS, number)) for number in range(400)]
    for _ in range(2):
        for first in range(0, 400, 50):
            renderer.add(record(series[first : first + 50]))
        numbers = []
        for part in renderer.render(1000, {}):
            assert len(part.text.data) <= TEXT_BYTES_MAX
            numbers += [
                int(part.line(at).split(b"value=")[1].split()[0]) for at in range(len(part))
            ]
        renderer.clear()
        assert numbers == list(range(400))


def test_a_series_under_suspicion_comes_in_a_part_of_its_own() -> None:
    renderer = made()
    body = record([up("a", (NOW_MS, 1)), up("b", (NOW_MS, 2)), up("c", (NOW_MS, 3))])
    renderer.add(body)
    (part,) = renderer.render(100, {})
    renderer.suspect(part.refs[[1]], is_suspect=True)
    renderer.clear()
    renderer.add(body)
    parts = [part.text.data for part in renderer.render(100, {})]
    assert [part.count(b"\n") for part in parts] == [2, 1]
    assert b"job=b" in parts[1]
    renderer.suspect(np.arange(3, dtype=np.uint32), is_suspect=False)
    renderer.clear()
    renderer.add(body)
    assert len(list(renderer.render(100, {}))) == 1


def test_series_that_fell_silent_are_forgotten_and_those_that_come_again_are_known() -> None:
    clock = Clock()
    renderer = made(clock_s=clock)
    everything = record([up(f"{number}", (NOW_MS, number)) for number in range(100)])
    few = record([up(f"{number}", (NOW_MS, number)) for number in range(70)])
    renderer.add(everything)
    first = text_of(renderer)
    for expected in (100, 100, 70):
        # What was seen in the last span counts: the second still saw all of them at its beginning.
        clock.now_s += RENEW_S / 2
        renderer.add(few)
        assert text_of(renderer).count("\n") == 70
        assert renderer.series_count <= expected
        clock.now_s += RENEW_S / 2
    renderer.add(everything)
    assert text_of(renderer) == first


def test_a_registry_past_its_bound_is_begun_anew() -> None:
    renderer = made(registry_bytes_max=1)
    for number in range(3):
        renderer.add(record([up(f"{number}", (NOW_MS, number))]))
        assert text_of(renderer) == f"up,job={number} value={number} {NOW_MS}\n"
        assert renderer.series_count == 0
