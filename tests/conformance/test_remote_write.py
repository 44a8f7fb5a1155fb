"""Remote write over HTTP, one test for each MUST and each kind of bad input, on a real process."""

import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.bridge import Bridge
from tests.integration.remote import WRITE_HEADERS, Labels, bits_of, read_samples
from tests.integration.servers import Reply, fetch, wait_until
from tests.oracle.bodies import Series, snappy, v1_body, v2_body

SAMPLES_WRITTEN = "X-Prometheus-Remote-Write-Samples-Written"
HISTOGRAMS_WRITTEN = "X-Prometheus-Remote-Write-Histograms-Written"
EXEMPLARS_WRITTEN = "X-Prometheus-Remote-Write-Exemplars-Written"
NAMES = iter(range(1_000_000))


@pytest.fixture(scope="module")
def bridge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bridge]:
    flags = [
        "--write.max-body-bytes=1MiB",
        "--write.max-decoded-bytes=4MiB",
        "--web.read-timeout=2s",
        "--write.max-active-series=1000",
    ]
    with Bridge(tmp_path_factory.mktemp("conformance"), flags=flags) as started:
        yield started


def now_ms() -> int:
    return int(time.time() * 1000)


def fresh_name() -> str:
    return f"metric_{next(NAMES)}"


def named(name: str, *samples: tuple[int, float], **labels: str) -> Series:
    return Series({"__name__": name, **labels}, samples)


def push(bridge: Bridge, body: bytes, version: int = 1, **headers: str) -> Reply:
    merged = {**WRITE_HEADERS[version], **{k.replace("_", "-"): v for k, v in headers.items()}}
    return fetch("POST", bridge.write_url, body, merged)


def stored(bridge: Bridge, name: str) -> list[tuple[Labels, list[tuple[int, int]]]]:
    return read_samples(bridge.read_url, [("__name__", "=", name)], 0, now_ms() + 3_600_000)


def assert_still_good(bridge: Bridge) -> None:
    name = fresh_name()
    assert push(bridge, v1_body([named(name, (now_ms(), 1.0))])).status == 204
    assert len(stored(bridge, name)) == 1


def test_version_1_is_answered_204_with_no_counts(bridge: Bridge) -> None:
    reply = push(bridge, v1_body([named(fresh_name(), (now_ms(), 1.0))]))
    assert (reply.status, reply.body) == (204, b"")
    assert not [name for name in reply.headers if "written" in name.lower()]


def test_version_2_is_answered_204_with_three_counts(bridge: Bridge) -> None:
    name = fresh_name()
    reply = push(bridge, v2_body([named(name, (now_ms(), 1.0), (now_ms() + 1, 2.0))]), 2)
    assert (reply.status, reply.body) == (204, b"")
    counts = [reply.headers[k] for k in (SAMPLES_WRITTEN, HISTOGRAMS_WRITTEN, EXEMPLARS_WRITTEN)]
    assert counts == ["2", "0", "0"]


@pytest.mark.parametrize(
    "content_type",
    [
        "application/x-protobuf",
        "application/x-protobuf;proto=prometheus.WriteRequest",
        "application/x-protobuf; proto=prometheus.WriteRequest",
        "Application/X-Protobuf",
    ],
)
def test_content_types_of_version_1_are_taken(bridge: Bridge, content_type: str) -> None:
    body = v1_body([named(fresh_name(), (now_ms(), 1.0))])
    assert push(bridge, body, Content_Type=content_type).status == 204


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "image/png",
        "application/x-protobuf;proto=io.prometheus.write.v3.Request",
    ],
)
def test_unknown_content_types_are_415_whatever_the_body(bridge: Bridge, content_type: str) -> None:
    reply = push(bridge, b"not even snappy", Content_Type=content_type)
    assert reply.status == 415
    assert b"not supported" in reply.body


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "zstd"])
def test_unknown_encodings_are_415_whatever_the_body(bridge: Bridge, encoding: str) -> None:
    reply = push(bridge, b"not even snappy", Content_Encoding=encoding)
    assert reply.status == 415
    assert encoding.encode() in reply.body


def test_other_methods_are_405(bridge: Bridge) -> None:
    assert fetch("GET", bridge.write_url).status == 405


def test_metadata_alone_is_fine(bridge: Bridge) -> None:
    # WriteRequest{metadata{type: counter, family: "x", help: "h"}}
    assert push(bridge, snappy(b"\x1a\x08\x08\x01\x12\x01x\x22\x01h")).status == 204


def test_an_empty_request_is_fine(bridge: Bridge) -> None:
    assert push(bridge, snappy(b"")).status == 204


def test_the_good_part_of_a_bad_request_is_kept_and_counted(bridge: Bridge) -> None:
    name = fresh_name()
    series = [
        named(name, (now_ms(), 1.0), kind="good"),
        Series({"kind": "nameless"}, [(now_ms(), 2.0)]),
        named(name, (now_ms(), 3.0), kind="also good"),
    ]
    reply = push(bridge, v2_body(series), 2)
    assert reply.status == 400
    assert reply.headers[SAMPLES_WRITTEN] == "2"
    assert b"missing_name" in reply.body
    assert b"2 of 3 samples kept" in reply.body
    assert len(stored(bridge, name)) == 2
    assert push(bridge, v1_body(series)).status == 400


def test_labels_are_sorted_and_empty_values_dropped(bridge: Bridge) -> None:
    name = fresh_name()
    labels = {"z": "1", "__name__": name, "a": "2", "empty": ""}
    at_ms = now_ms()
    assert push(bridge, v1_body([Series(labels, [(at_ms, 1.0)])])).status == 204
    expected = (("__name__", name), ("a", "2"), ("z", "1"))
    assert stored(bridge, name) == [(expected, [(at_ms, bits_of(1.0))])]


def test_label_names_may_be_any_utf8(bridge: Bridge) -> None:
    name = f"{fresh_name()}.with dots/and ☂"
    body = v2_body([named(name, (now_ms(), 1.0), **{"näme ☃": "wärt\nnewline"})])
    assert push(bridge, body, 2).status == 204
    assert dict(stored(bridge, name)[0][0])["näme ☃"] == "wärt\nnewline"


def label(name: bytes, value: bytes) -> bytes:
    inner = b"\x0a" + bytes([len(name)]) + name + b"\x12" + bytes([len(value)]) + value
    return b"\x0a" + bytes([len(inner)]) + inner


def raw_series(*labels: tuple[bytes, bytes], timestamp: bytes = b"\x10\x05") -> bytes:
    content = b"".join(label(*pair) for pair in labels) + b"\x12" + bytes([len(timestamp)])
    content += timestamp
    return b"\x0a" + bytes([len(content)]) + content


@pytest.mark.parametrize(
    ("series", "reason"),
    [
        (raw_series((b"__name__", b"a"), (b"x", b"\xff\xfe")), "invalid_utf8"),
        (raw_series((b"__name__", b"a\xc3")), "invalid_utf8"),
        (raw_series((b"__name__", b"a"), (b"\xff", b"x")), "invalid_utf8"),
        (raw_series((b"__name__", b"a"), (b"x", b"1"), (b"x", b"2")), "duplicate_label"),
        (raw_series((b"__name__", b"a"), (b"", b"1")), "invalid_name"),
        (raw_series((b"x", b"1")), "missing_name"),
        (raw_series((b"__name__", b"")), "missing_name"),
        (raw_series(), "missing_name"),
    ],
)
def test_bad_labels_are_refused_by_name(bridge: Bridge, series: bytes, reason: str) -> None:
    reply = push(bridge, snappy(series))
    assert reply.status == 400
    assert reason.encode() in reply.body
    assert_still_good(bridge)


@pytest.mark.parametrize("size", [9_000, 3_000_000])
def test_huge_label_values_are_refused(bridge: Bridge, size: int) -> None:
    name = fresh_name()
    body = v1_body([named(name, (now_ms(), 1.0), big="x" * size), named(name, (now_ms(), 2.0))])
    reply = push(bridge, body)
    assert reply.status == 400
    assert b"label_limit" in reply.body
    assert len(reply.body) < 10_000
    assert len(stored(bridge, name)) == 1


def test_a_label_value_of_10_mb_is_refused_by_the_decoded_length(bridge: Bridge) -> None:
    reply = push(bridge, v1_body([named(fresh_name(), (now_ms(), 1.0), big="x" * 10_000_000)]))
    assert reply.status == 400
    assert b"write.max-decoded-bytes" in reply.body


@pytest.mark.parametrize(
    ("timestamp_ms", "reason"),
    [
        (2**63 - 1, "timestamp_out_of_range"),
        (253_402_300_800_000, "too_far_in_future"),
        (-(2**63), "timestamp_out_of_range"),
        (-62_135_596_800_001, "timestamp_out_of_range"),
    ],
)
def test_absurd_timestamps_are_refused(bridge: Bridge, timestamp_ms: int, reason: str) -> None:
    reply = push(bridge, v1_body([named(fresh_name(), (timestamp_ms, 1.0))]))
    assert reply.status == 400
    assert reason.encode() in reply.body


def test_late_and_out_of_order_samples_are_taken_however_old(bridge: Bridge) -> None:
    name = fresh_name()
    times = [now_ms(), 1, now_ms() - 86_400_000 * 400, 500]
    for at_ms in times:
        assert push(bridge, v1_body([named(name, (at_ms, float(at_ms)))])).status == 204
    expected = [(at_ms, bits_of(float(at_ms))) for at_ms in sorted(times)]
    assert stored(bridge, name)[0][1] == expected
    bridge.flush()
    assert stored(bridge, name)[0][1] == expected


def test_ten_minutes_ahead_is_taken_and_more_is_refused(bridge: Bridge) -> None:
    assert push(bridge, v1_body([named(fresh_name(), (now_ms() + 590_000, 1.0))])).status == 204
    reply = push(bridge, v1_body([named(fresh_name(), (now_ms() + 610_000, 1.0))]))
    assert reply.status == 400
    assert b"too_far_in_future" in reply.body


def test_the_same_sample_again_is_fine_and_counts_as_written(bridge: Bridge) -> None:
    name = fresh_name()
    body = v2_body([named(name, (now_ms(), 1.0))])
    for _ in range(3):
        reply = push(bridge, body, 2)
        assert (reply.status, reply.headers[SAMPLES_WRITTEN]) == (204, "1")
    assert len(stored(bridge, name)[0][1]) == 1


def counted(bridge: Bridge, line: str) -> float:
    """A value of /metrics; 0 while it is not there."""
    text = fetch("GET", f"{bridge.url}/metrics").body.decode()
    values = [row.removeprefix(line) for row in text.splitlines() if row.startswith(line + " ")]
    return float(values[0]) if values else 0.0


def test_exemplars_alone_are_accepted_and_not_counted_as_written(bridge: Bridge) -> None:
    before = counted(bridge, "prombridge_write_exemplars_dropped_total")
    reply = push(bridge, v2_body([Series({"__name__": "x"}, exemplar_count=2)]), 2)
    assert (reply.status, reply.headers[EXEMPLARS_WRITTEN]) == (204, "0")
    assert counted(bridge, "prombridge_write_exemplars_dropped_total") == before + 2


def test_histograms_are_refused_beside_the_samples_that_are_kept(bridge: Bridge) -> None:
    name = fresh_name()
    series = [Series({"__name__": "h"}, histogram_count=3), named(name, (now_ms(), 1.0))]
    line = 'prombridge_write_rejected_total{reason="histogram_unsupported"}'
    before = counted(bridge, line)
    reply = push(bridge, v2_body(series), 2)
    assert (reply.status, reply.headers[SAMPLES_WRITTEN]) == (400, "1")
    assert b"histogram_unsupported" in reply.body
    assert len(stored(bridge, name)) == 1
    assert counted(bridge, line) == before + 3


def test_a_version_2_series_without_anything_is_400(bridge: Bridge) -> None:
    reply = push(bridge, v2_body([Series({"__name__": "x"})]), 2)
    assert reply.status == 400
    assert b"no_samples" in reply.body


def test_references_outside_of_the_symbols_are_400(bridge: Bridge) -> None:
    # Request{symbols: ["", "__name__"], timeseries{labels_refs: [1, 9], samples{timestamp: 5}}}
    body = b"\x22\x00\x22\x08__name__\x2a\x08\x0a\x02\x01\x09\x12\x02\x10\x05"
    reply = push(bridge, snappy(body), 2)
    assert reply.status == 400
    assert b"bad_symbol_ref" in reply.body


def test_new_series_past_the_limit_are_refused_and_known_ones_go_on(
    tmp_path: Path,
) -> None:
    with Bridge(tmp_path, flags=["--write.max-active-series=2"]) as bridge:
        first = [named("a", (now_ms(), 1.0)), named("b", (now_ms(), 1.0))]
        assert push(bridge, v1_body(first)).status == 204
        mixed = [named("a", (now_ms(), 2.0)), named("c", (now_ms(), 2.0))]
        reply = push(bridge, v1_body(mixed))
        assert reply.status == 400
        assert b"series_limit" in reply.body
        assert len(stored(bridge, "a")) == 1
        assert stored(bridge, "c") == []


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


GOOD = v1_body([named("good", (1_700_000_000_000, 1.0), pod="x" * 50)])


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff",
        b"\xff\xff\xff\xff\xff\xff",
        b"\x05\x00",
        GOOD[:-5],
        GOOD[5:],
        varint(3_000_000) + GOOD[1:],
        varint(1) + GOOD[1:],
        snappy(b"\x0a\xff\xff\xff\xff\x0f"),
        snappy(b"\x0b\x01\x02"),
        snappy(b"\x0a\x02\x0a\x7f"),
        snappy(b"\xff" * 100),
    ],
)
def test_corrupt_bodies_are_400(bridge: Bridge, body: bytes) -> None:
    reply = push(bridge, body)
    assert reply.status == 400
    assert reply.body
    assert_still_good(bridge)


def test_every_truncation_and_bit_flip_is_answered(bridge: Bridge) -> None:
    for index in range(len(GOOD)):
        assert push(bridge, GOOD[:index]).status == 400
    for index in range(0, len(GOOD) * 8, 5):
        flipped = bytearray(GOOD)
        flipped[index // 8] ^= 1 << (index % 8)
        assert push(bridge, bytes(flipped)).status in {204, 400}
    assert_still_good(bridge)


def test_a_bomb_is_refused_by_the_length_that_it_claims(bridge: Bridge) -> None:
    for claimed in (5 << 20, (1 << 32) - 1):
        reply = push(bridge, varint(claimed) + GOOD[1:])
        assert reply.status == 400
        assert b"write.max-decoded-bytes" in reply.body


def test_an_oversized_body_is_413(bridge: Bridge) -> None:
    reply = push(bridge, bytes(2 << 20))
    assert reply.status == 413
    assert b"write.max-body-bytes" in reply.body
    assert_still_good(bridge)


def request_head(bridge: Bridge, *lines: str) -> bytes:
    host = bridge.url.removeprefix("http://")
    head = ["POST /api/v1/write HTTP/1.1", f"Host: {host}", *lines]
    head += [f"{name}: {value}" for name, value in WRITE_HEADERS[1].items()]
    return "\r\n".join([*head, "", ""]).encode()


def connect(bridge: Bridge) -> socket.socket:
    host, port = bridge.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=30)


def test_an_endless_body_is_413_and_not_kept(bridge: Bridge) -> None:
    with connect(bridge) as client:
        client.sendall(request_head(bridge, "Transfer-Encoding: chunked"))
        chunk = b"10000\r\n" + bytes(65536) + b"\r\n"
        try:
            for _ in range(64):
                client.sendall(chunk)
        except OSError:
            pass
        assert client.recv(64).startswith(b"HTTP/1.1 413")
    assert_still_good(bridge)


def test_hundreds_of_clients_that_never_finish_do_not_hold_others_up(bridge: Bridge) -> None:
    clients = []
    try:
        for index in range(300):
            client = connect(bridge)
            clients.append(client)
            client.sendall(request_head(bridge, "Content-Length: 100000"))
            client.sendall(bytes(index % 1000))
        assert_still_good(bridge)
        assert clients[0].recv(64).startswith(b"HTTP/1.1 408")
    finally:
        for client in clients:
            client.close()
    assert_still_good(bridge)


def test_connections_past_the_limit_are_closed_as_they_come(tmp_path: Path) -> None:
    with Bridge(tmp_path, flags=["--web.max-connections=3"]) as bridge:
        clients = [connect(bridge) for _ in range(6)]
        try:
            assert clients[5].recv(1) == b""
        finally:
            for client in clients:
                client.close()

        def has_room() -> bool:
            try:
                return fetch("GET", f"{bridge.url}/-/ready").status == 200
            except OSError:
                return False

        assert wait_until(has_room, "there is room again", 10)


def test_garbage_instead_of_http_is_survived(bridge: Bridge) -> None:
    for garbage in (b"\x00" * 1000, b"GET\r\n\r\n", struct.pack("<Q", 7) * 1000, b"\x16\x03\x01"):
        with connect(bridge) as client:
            client.sendall(garbage)
            client.shutdown(socket.SHUT_WR)
            while client.recv(4096):
                pass
    assert_still_good(bridge)
