"""Remote read over HTTP: one test for each MUST of docs/remote-read.md, and for each bad input."""

import asyncio
import struct
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import cramjam
import pytest

from bridge.model.options import Duration, Size
from bridge.model.staleness import STALE_BITS
from bridge.read import reader
from bridge.read.answer import Answer
from bridge.read.settings import ReadSettings
from bridge.wire import remote_read_pb2
from tests.oracle.lake_files import FileLake, LakeRow, canonical
from tests.oracle.made_head import OPEN_POSITION, MadeHead, head_rows, new_registry
from tests.oracle.read_server import HEADERS, ReadServer, serving
from tests.oracle.remote_read import (
    CHUNKS,
    SAMPLES,
    Hints,
    Query,
    bits_of,
    crc32c,
    read_frames,
    read_samples,
    request_body,
    request_message,
)
from tests.oracle.tsdb import OracleMatcher

T = 1_795_219_200_000
STEP = 15_000
STREAMED = "application/x-streamed-protobuf; proto=prometheus.ChunkedReadResponse"

R = TypeVar("R")
Scenario = Callable[[ReadServer], Coroutine[Any, Any, R]]


def rows_of(
    labels: dict[str, str], count: int = 4, first: float = 1.0, replica: str = ""
) -> list[LakeRow]:
    return [
        (canonical(labels), T + STEP * (step + 1), bits_of(first + step), replica)
        for step in range(count)
    ]


def up(**labels: str) -> dict[str, str]:
    return {"__name__": "up", **labels}


def match(name: str, symbol: str, value: str) -> OracleMatcher:
    return OracleMatcher(name, symbol, value)


UP = match("__name__", "=", "up")


def query(
    *matchers: OracleMatcher, start_ms: int = T, end_ms: int = T + 100 * STEP, **more: Any
) -> Query:
    return Query(start_ms, end_ms, matchers, **more)


@pytest.fixture
def lake(tmp_path: Path) -> FileLake:
    return FileLake(tmp_path)


def serve(
    lake: FileLake, scenario: Scenario[R], settings: ReadSettings | None = None, **more: Any
) -> R:
    async def run() -> R:
        async with serving(lake, settings=settings, **more) as server:
            return await scenario(server)

    return asyncio.run(run())


def names_of(lake: FileLake, *matchers: OracleMatcher, settings: ReadSettings | None = None) -> str:
    """The values of the label `is` of the series that come back, in their order."""

    async def scenario(server: ReadServer) -> str:
        frames = await server.frames(query(*matchers))
        return " ".join(dict(frame.labels)["is"] for frame in frames)

    return serve(lake, scenario, settings)


# -- negotiation ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accepted", "content_type"),
    [
        ([], "application/x-protobuf"),
        ([SAMPLES], "application/x-protobuf"),
        ([CHUNKS], STREAMED),
        ([CHUNKS, SAMPLES], STREAMED),
        ([SAMPLES, CHUNKS], "application/x-protobuf"),
        ([7, CHUNKS], STREAMED),
    ],
)
def test_first_accepted_type_that_is_supported_is_sent(
    lake: FileLake, accepted: list[int], content_type: str
) -> None:
    lake.add(rows_of(up()))

    async def scenario(server: ReadServer) -> None:
        reply = await server.ask([query(UP)], accepted)
        assert reply.status == 200
        assert reply.headers["Content-Type"] == content_type
        encoding = reply.headers.get("Content-Encoding")
        assert encoding == (None if content_type == STREAMED else "snappy")

    serve(lake, scenario)


def test_no_supported_type_is_400(lake: FileLake) -> None:
    async def scenario(server: ReadServer) -> None:
        reply = await server.ask([query(UP)], [2, 9])
        assert reply.status == 400
        assert "[2, 9]" in reply.text

    serve(lake, scenario)


@pytest.mark.parametrize(
    "headers",
    [{"Content-Type": "application/json"}, {"Content-Encoding": "gzip"}],
    ids=["type", "encoding"],
)
def test_foreign_media_are_415_before_the_body_is_judged(
    lake: FileLake, headers: dict[str, str]
) -> None:
    async def scenario(server: ReadServer) -> None:
        reply = await server.post(b"not snappy", {**HEADERS, **headers})
        assert reply.status == 415
        assert next(iter(headers.values())) in reply.text

    serve(lake, scenario)


def test_parameters_of_the_content_type_do_not_matter(lake: FileLake) -> None:
    async def scenario(server: ReadServer) -> None:
        kind = "application/x-protobuf; proto=prometheus.ReadRequest"
        reply = await server.post(request_body([]), {**HEADERS, "Content-Type": kind})
        assert reply.status == 200

    serve(lake, scenario)


# -- results ------------------------------------------------------------------------------------


def test_results_are_as_many_as_queries_in_their_order(lake: FileLake) -> None:
    """READ-1."""
    lake.add(rows_of(up(job="a")) + rows_of(up(job="b")))

    async def scenario(server: ReadServer) -> None:
        queries = [query(match("job", "=", job)) for job in ("b", "nobody", "a")]
        results = await server.samples(*queries)
        assert [[dict(labels)["job"] for labels, _ in result] for result in results] == [
            ["b"],
            [],
            ["a"],
        ]
        frames = await server.frames(*queries)
        found = [(frame.query_index, dict(frame.labels)["job"]) for frame in frames]
        assert found == [(0, "b"), (2, "a")]

    serve(lake, scenario)


def test_no_queries_give_no_results(lake: FileLake) -> None:
    async def scenario(server: ReadServer) -> None:
        assert await server.samples() == []
        assert await server.frames() == []

    serve(lake, scenario)


def test_unknown_metric_is_an_empty_answer(lake: FileLake) -> None:
    async def scenario(server: ReadServer) -> None:
        assert await server.samples(query(UP)) == [[]]
        assert await server.frames(query(UP)) == []

    serve(lake, scenario)


def test_both_ends_are_inclusive(lake: FileLake) -> None:
    lake.add(rows_of(up(), 5))

    async def scenario(server: ReadServer) -> None:
        wanted = query(UP, start_ms=T + 2 * STEP, end_ms=T + 4 * STEP)
        for frame in await server.frames(wanted):
            assert [time for time, _ in frame.samples] == [T + STEP * step for step in (2, 3, 4)]
        [[(_, samples)]] = await server.samples(wanted)
        assert [time for time, _ in samples] == [T + STEP * step for step in (2, 3, 4)]

    serve(lake, scenario)


def test_samples_come_sorted_and_once_whatever_came_first(lake: FileLake) -> None:
    """READ-2 and READ-3."""
    rows = rows_of(up(), 200)
    lake.add(rows[100:])
    lake.add(rows[:150])

    async def scenario(server: ReadServer) -> None:
        whole = query(UP, end_ms=T + 1000 * STEP)
        [[(_, samples)]] = await server.samples(whole)
        assert samples == [row[1:3] for row in rows]
        [frame] = await server.frames(whole)
        assert frame.samples == samples

    serve(lake, scenario)


def test_head_and_lake_are_one(tmp_path: Path) -> None:
    lake = FileLake(tmp_path)
    rows = rows_of(up(), 10)
    lake.add(rows[:6])
    head = MadeHead([(OPEN_POSITION, head_rows(new_registry(), rows[4:]))])

    async def scenario(server: ReadServer) -> None:
        [frame] = await server.frames(query(UP))
        assert frame.samples == [row[1:3] for row in rows]

    serve(lake, scenario, head=head)


def test_value_bits_survive(lake: FileLake) -> None:
    bits = [
        STALE_BITS,
        0x7FF8000000000001,
        0xFFF800000000BEEF,
        *map(bits_of, (-0.0, 0.0, float("inf"), float("-inf"), 5e-324, 1 / 3)),
    ]
    rows = [(canonical(up()), T + STEP * (step + 1), one, "") for step, one in enumerate(bits)]
    lake.add(rows)

    async def scenario(server: ReadServer) -> None:
        [frame] = await server.frames(query(UP))
        assert [value for _, value in frame.samples] == bits
        reply = await server.ask([query(UP)])
        message = bytes(cramjam.snappy.decompress_raw(reply.body))
        # The protobuf package may touch the bits of a NaN: look for them in the bytes.
        for one in bits:
            if one != bits_of(0.0):
                assert b"\x09" + struct.pack("<Q", one) in message

    serve(lake, scenario)


# -- matchers -----------------------------------------------------------------------------------


def labelled(lake: FileLake) -> None:
    series = [
        up(**{"is": "none"}),
        up(**{"is": "a"}, job="a"),
        up(**{"is": "ab"}, job="ab"),
        up(**{"is": "lines"}, job="a\nb"),
        {"__name__": "down", "is": "down", "job": "a"},
    ]
    lake.add([row for labels in series for row in rows_of(labels)])


@pytest.mark.parametrize(
    ("matchers", "expected"),
    [
        ([match("job", "=", "a")], "down a"),
        ([match("job", "=", "")], "none"),
        ([match("job", "!=", "a")], "ab lines none"),
        ([match("job", "!=", "")], "down a ab lines"),
        ([match("job", "=~", "a")], "down a"),
        ([match("job", "=~", "a.*")], "down a ab lines"),
        ([match("job", "=~", ".*")], "down a ab lines none"),
        ([match("job", "=~", ".+")], "down a ab lines"),
        ([match("job", "=~", "a.b")], "lines"),
        ([match("job", "=~", "ab|")], "ab none"),
        ([match("job", "!~", "a.*")], "none"),
        ([match("job", "!~", "")], "down a ab lines"),
        ([match("job", "=~", "(?i)AB")], "ab"),
        ([match("job", "=~", r"\x61")], "down a"),
        ([match("nothing", "=", "")], "down a ab lines none"),
        ([match("nothing", "!=", "x")], "down a ab lines none"),
        ([match("nothing", "=", "x")], ""),
        ([], "down a ab lines none"),
        ([match("__name__", "!=", "up")], "down"),
        ([match("__name__", "=~", "u.|down"), match("job", "=", "a")], "down a"),
        ([match("__name__", "!~", "d.*"), match("job", "=~", "ab?")], "a ab"),
        ([match("__name__", "=", ""), match("job", "=", "a")], ""),
        ([UP, match("__name__", "=", "down")], ""),
        ([match("job", "=", "a"), match("job", "=~", "a|b"), UP], "a"),
    ],
    ids=lambda value: (
        ",".join(f"{m.name}{m.symbol}{m.value}" for m in value) if isinstance(value, list) else ""
    ),
)
def test_matchers_mean_what_promql_means(
    lake: FileLake, matchers: list[OracleMatcher], expected: str
) -> None:
    labelled(lake)
    assert names_of(lake, *matchers) == expected


def test_replica_and_ignored_matchers_are_dropped(lake: FileLake) -> None:
    lake.add(rows_of(up(**{"is": "x"}), replica="r0"))
    settings = ReadSettings(ignore_matchers=("region",))
    assert names_of(lake, UP, match("__replica__", "=", "r1"), settings=settings) == "x"
    assert names_of(lake, UP, match("region", "=", "eu"), settings=settings) == "x"
    assert names_of(lake, UP, match("region", "=~", "eu|us"), settings=settings) == "x"
    assert names_of(lake, UP, match("__replica__", "=~", "r1"), settings=settings) == ""
    assert names_of(lake, UP, match("other", "=", "eu"), settings=settings) == ""


# -- frames -------------------------------------------------------------------------------------


def test_one_frame_for_each_series_however_long(lake: FileLake) -> None:
    """READ-4: Prometheus itself would cut a series of more than 1 MiB into several frames."""
    noise = [
        (canonical(up(job="long")), T + step, 0x3FF << 52 | step * 0x9E3779B97F4A7 % (1 << 52), "")
        for step in range(1, 150_000)
    ]
    lake.add(noise + rows_of(up(job="short")))

    async def scenario(server: ReadServer) -> None:
        reply = await server.ask([query(UP)], [CHUNKS])
        content = list(split_frames(reply.body))
        assert len(content) == 2
        assert len(content[0]) > 1 << 20

    serve(lake, scenario)


def split_frames(body: bytes) -> list[bytes]:
    frames, place = [], 0
    while place < len(body):
        length, shift = 0, 0
        while True:
            length |= (body[place] & 127) << shift
            place, shift = place + 1, shift + 7
            if body[place - 1] < 128:
                break
        frames.append(body[place + 4 : place + 4 + length])
        place += 4 + length
    assert place == len(body)
    return frames


def test_frames_have_the_checksum_of_their_content(lake: FileLake) -> None:
    lake.add(rows_of(up()))
    assert crc32c(b"123456789") == 0xE3069283  # the check value of CRC-32C

    async def scenario(server: ReadServer) -> None:
        reply = await server.ask([query(UP)], [CHUNKS])
        read_frames(reply.body)
        damaged = bytearray(reply.body)
        damaged[-1] ^= 1
        with pytest.raises(AssertionError):
            read_frames(bytes(damaged))

    serve(lake, scenario)


def test_chunks_ascend_are_disjoint_and_say_their_true_ends(lake: FileLake) -> None:
    rows = rows_of(up(), 1000)
    lake.add(rows)

    async def scenario(server: ReadServer) -> None:
        [frame] = await server.frames(query(UP, end_ms=T + 2000 * STEP))
        assert [len(chunk.samples) for chunk in frame.chunks] == [300, 300, 300, 100]
        for chunk in frame.chunks:
            assert (chunk.min_ms, chunk.max_ms) == (chunk.samples[0][0], chunk.samples[-1][0])
        assert frame.samples == [row[1:3] for row in rows]

    serve(lake, scenario, ReadSettings(samples_per_chunk=300))


def test_series_are_sorted_as_the_client_sees_them(lake: FileLake) -> None:
    """READ-4: bytewise, name before value, shorter first, without the external labels."""
    series = [
        {"__name__": "a", "is": "1"},
        {"__name__": "a", "is": "2", "z": "1"},
        {"__name__": "b", "Upper": "1", "is": "0"},  # U sorts before _
        {"__name__": "b", "is": "3", "region": "a"},
        {"__name__": "b", "is": "4", "region": "z"},
        {"__name__": "b", "is": "5", "zz": "é"},
        {"__name__": "b", "is": "5", "zz": "z"},
    ]
    lake.add([row for labels in series for row in rows_of(labels)])

    async def scenario(server: ReadServer) -> None:
        frames = await server.frames(query())
        visible = [
            [(n.encode(), v.encode()) for n, v in frame.labels if n != "region"] for frame in frames
        ]
        assert visible == sorted(visible)
        assert visible[0][0][0] == b"Upper"
        assert ("region", "a") in frames[3].labels, "they are sent all the same"

    serve(lake, scenario, ReadSettings(external_labels=("region",)))


def test_series_without_samples_in_the_range_are_left_out(lake: FileLake) -> None:
    lake.add(rows_of(up(job="a"), 2) + rows_of(up(job="b"), 9))

    async def scenario(server: ReadServer) -> None:
        late = query(UP, start_ms=T + 5 * STEP)
        assert [dict(frame.labels)["job"] for frame in await server.frames(late)] == ["b"]
        [result] = await server.samples(late)
        assert [dict(labels)["job"] for labels, _ in result] == ["b"]

    serve(lake, scenario)


def test_failure_after_the_first_byte_aborts_the_connection(
    lake: FileLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """READ-6: a clean end would be taken for the whole answer."""
    lake.add(rows_of(up()))

    def frames(answer: Answer, query_index: int) -> Any:
        yield from [b"x" * 1000, b"y" * 1000]
        raise RuntimeError("the disk is gone")

    monkeypatch.setattr(Answer, "frames", frames)

    async def scenario(server: ReadServer) -> None:
        with pytest.raises(Exception, match=r"payload|[Dd]isconnect|reset"):
            await server.ask([query(UP)], [CHUNKS])
        code = {"code": "aborted"}
        assert server.metrics.get_sample_value("prombridge_read_requests_total", code) == 1

    serve(lake, scenario)


@pytest.mark.parametrize(
    ("goes_away", "code"), [(False, "aborted"), (True, "cancelled")], ids=["stalls", "goes away"]
)
def test_client_that_takes_nothing_is_let_go(
    lake: FileLake, monkeypatch: pytest.MonkeyPatch, goes_away: bool, code: str
) -> None:
    """READ-6, and a turn at the gate is not held for ever."""
    lake.add(rows_of(up()))

    def frames(answer: Answer, query_index: int) -> Any:
        while True:
            yield b"x" * (256 << 10)

    monkeypatch.setattr(Answer, "frames", frames)

    async def scenario(server: ReadServer) -> None:
        host, port = server.url.split("/")[2].split(":")
        reader, writer = await asyncio.open_connection(host, int(port), limit=1)
        body = request_body([query(UP)], [CHUNKS])
        head = "".join(f"{name}: {value}\r\n" for name, value in HEADERS.items())
        length = f"Content-Length: {len(body)}\r\n\r\n"
        writer.write(f"POST /api/v1/read HTTP/1.1\r\nHost: x\r\n{head}{length}".encode() + body)
        await reader.readexactly(1)
        if goes_away:
            writer.transport.abort()
        await seen(server, "prombridge_read_requests_total", 1, {"code": code})
        assert server.metrics.get_sample_value("prombridge_read_running") == 0
        writer.close()

    serve(lake, scenario, ReadSettings(timeout=Duration(30 if goes_away else 0.5)))


# -- hints --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hints", "steps"),
    [
        (None, [1, 2, 3, 4]),
        (Hints(T + 2 * STEP, T + 3 * STEP, "rate"), [2, 3]),
        (Hints(T + 3 * STEP, T + 100 * STEP, ""), [3, 4]),
        (Hints(T - STEP, T + 100 * STEP, ""), [1, 2, 3, 4]),
        (Hints(func="rate"), [1, 2, 3, 4]),
        (Hints(T + 50 * STEP, T + 60 * STEP), []),
    ],
)
def test_answers_are_narrowed_to_what_the_hints_say(
    lake: FileLake, hints: Hints | None, steps: list[int]
) -> None:
    lake.add(rows_of(up(), 9))

    async def scenario(server: ReadServer) -> None:
        [result] = await server.samples(query(UP, end_ms=T + 4 * STEP, hints=hints))
        times = [time for _, samples in result for time, _ in samples]
        assert times == [T + STEP * step for step in steps]

    serve(lake, scenario)


def test_func_series_gives_label_sets_alone(tmp_path: Path) -> None:
    lake = FileLake(tmp_path)
    lake.add(rows_of(up(job="lake")))
    rows = rows_of(up(job="head")) + rows_of(up(job="elsewhen"))
    rows[4:] = [(labels, at + 10**10, bits, replica) for labels, at, bits, replica in rows[4:]]
    head = MadeHead([(OPEN_POSITION, head_rows(new_registry(), rows))])

    async def scenario(server: ReadServer) -> None:
        wanted = query(UP, hints=Hints(T, T + 100 * STEP, "series"))
        frames = await server.frames(wanted)
        assert [dict(frame.labels)["job"] for frame in frames] == ["head", "lake"]
        assert all(not frame.chunks for frame in frames)
        [result] = await server.samples(wanted)
        assert [samples for _, samples in result] == [[], []]

    serve(lake, scenario, head=head)


@pytest.mark.parametrize("func", ["series", ""])
def test_absurd_ranges_are_clamped(lake: FileLake, func: str) -> None:
    lake.add(rows_of(up()))

    async def scenario(server: ReadServer) -> None:
        ends = -(1 << 63), (1 << 63) - 1
        wanted = Query(*ends, [UP], Hints(*ends, func=func))
        frames = await server.frames(wanted)
        assert [len(frame.samples) for frame in frames] == [0 if func else 4]

    serve(lake, scenario)


# -- bad input ----------------------------------------------------------------------------------


def raw_request(**fields: Any) -> bytes:
    message = remote_read_pb2.ReadRequest()
    message.queries.add(start_timestamp_ms=T, end_timestamp_ms=T + 1).matchers.add(**fields)
    return bytes(cramjam.snappy.compress_raw(message.SerializeToString()))


def bad_utf8() -> bytes:
    message = request_message([query(match("job", "=", "xyz"))]).replace(b"xyz", b"x\xff\xfe")
    return bytes(cramjam.snappy.compress_raw(message))


BAD_BODIES: dict[str, tuple[bytes, int, str]] = {
    "empty": (b"", 400, "snappy"),
    "no snappy": (b"\xff\xff\xff\xff\xff\xff", 400, "snappy"),
    "truncated snappy": (request_body([query(UP)])[:-3], 400, "snappy"),
    "a bomb": (b"\xff\xff\xff\xff\x0f\x00", 413, "4294967295"),
    "a length that lies": (b"\x64" + request_body([query(UP)])[1:], 400, "snappy"),
    "no protobuf": (bytes(cramjam.snappy.compress_raw(b"\xff\xff\xff")), 400, "ReadRequest"),
    "truncated protobuf": (
        bytes(cramjam.snappy.compress_raw(request_message([query(UP)])[:-2])),
        400,
        "ReadRequest",
    ),
    "invalid UTF-8": (bad_utf8(), 400, "ReadRequest"),
    "inverted range": (request_body([Query(T, T - 1, [UP])]), 400, "inverted"),
    "unknown matcher": (raw_request(type=9, name="job"), 400, "unknown type 9"),
    "bad expression": (request_body([query(match("job", "=~", "a(b"))]), 400, "'a(b'"),
    "unbalanced expression": (request_body([query(match("job", "!~", "a)(b"))]), 400, "a)(b"),
    "too large an expression": (
        request_body([query(match("job", "=~", "(x{1000}){1000}"))]),
        400,
        "(x{1000}){1000}",
    ),
    "too long an expression": (
        request_body([query(match("job", "=~", "x" * 300_000))]),
        400,
        "300000 bytes",
    ),
    "too many queries": (request_body([query(UP)] * 300), 400, "300 queries"),
    "too many matchers": (request_body([query(*[UP] * 200)]), 400, "200 matchers"),
    "too long": (b"\x00" * 1_100_000, 413, "read.max-body-bytes"),
}


@pytest.mark.parametrize("name", BAD_BODIES)
def test_bad_bodies_are_refused_with_their_cause_and_the_next_request_passes(
    lake: FileLake, name: str
) -> None:
    lake.add(rows_of(up()))
    body, status, cause = BAD_BODIES[name]

    async def scenario(server: ReadServer) -> None:
        reply = await server.post(body)
        assert (reply.status, cause in reply.text) == (status, True), reply.text
        assert len(await server.frames(query(UP))) == 1

    serve(lake, scenario)


def test_backtracking_bomb_takes_no_time(lake: FileLake) -> None:
    lake.add(rows_of(up(job="a" * 5000)))

    async def scenario(server: ReadServer) -> None:
        async with asyncio.timeout(5):
            assert await server.frames(query(match("job", "=~", "(a*)*(a*)*(a*)*b"))) == []

    serve(lake, scenario)


def test_body_that_never_ends_is_408(lake: FileLake) -> None:
    async def scenario(server: ReadServer) -> None:
        host, port = server.url.split("/")[2].split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(
            b"POST /api/v1/read HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n"
            b"Content-Type: application/x-protobuf\r\n\r\nhalf"
        )
        head = await reader.readuntil(b"\r\n")
        assert b" 408 " in head
        writer.close()
        assert await server.samples() == []

    serve(lake, scenario, body_timeout_s=0.1)


# -- limits -------------------------------------------------------------------------------------


def test_too_many_samples_are_400_by_how_much(lake: FileLake) -> None:
    lake.add(rows_of(up(), 1000))

    async def scenario(server: ReadServer) -> None:
        for accepted in ([CHUNKS], [SAMPLES]):
            reply = await server.ask([query(UP, end_ms=T + 10**9)], accepted)
            assert reply.status == 400
            assert "1000 samples" in reply.text
            assert "10.0 times" in reply.text
        assert len(await server.frames(query(UP))) == 1

    serve(lake, scenario, ReadSettings(max_samples=100))


def test_too_many_bytes_are_400_by_how_much(lake: FileLake) -> None:
    lake.add(rows_of(up(), 5000))

    async def scenario(server: ReadServer) -> None:
        reply = await server.ask([query(UP, end_ms=T + 10**9)])
        assert reply.status == 400
        assert "read.max-query-bytes" in reply.text

    serve(lake, scenario, ReadSettings(max_query_bytes=Size(10_000)))


def test_what_lies_behind_a_limit_is_counted_over_all_queries(lake: FileLake) -> None:
    lake.add(rows_of(up(), 60))

    async def scenario(server: ReadServer) -> None:
        assert (await server.ask([query(UP)])).status == 200
        assert (await server.ask([query(UP), query(UP)])).status == 400

    serve(lake, scenario, ReadSettings(max_samples=100))


def test_a_read_that_takes_too_long_is_503(lake: FileLake) -> None:
    lake.add(rows_of(up()))
    now = [0.0]

    def clock() -> float:
        now[0] += 10.0
        return now[0]

    async def scenario(server: ReadServer) -> None:
        reply = await server.ask([query(UP)])
        assert reply.status == 503
        assert "read.timeout" in reply.text or "turn" in reply.text
        assert "Retry-After" in reply.headers

    serve(lake, scenario, ReadSettings(timeout=Duration(25)), clock_s=clock)


def test_reads_beyond_the_gate_wait_and_beyond_that_are_503(tmp_path: Path) -> None:
    lake = FileLake(tmp_path)
    lake.add(rows_of(up()))

    async def run() -> None:
        loop = asyncio.get_running_loop()
        begun, release = asyncio.Event(), asyncio.Event()

        def block() -> None:
            loop.call_soon_threadsafe(begun.set)
            asyncio.run_coroutine_threadsafe(release.wait(), loop).result(10)

        head = MadeHead([], block)
        async with serving(lake, head, ReadSettings(max_concurrent=1, max_waiting=1)) as server:
            first = asyncio.create_task(server.ask([query(UP)]))
            await begun.wait()
            second = asyncio.create_task(server.ask([query(UP)]))
            await seen(server, "prombridge_read_waiting", 1)
            third = await server.ask([query(UP)])
            assert third.status == 503
            assert "read.max-concurrent" in third.text
            release.set()
            assert [(await task).status for task in (first, second)] == [200, 200]

    asyncio.run(run())


@pytest.mark.parametrize("is_told", [False, True], ids=["polled", "told"])
def test_a_client_that_goes_away_ends_the_work(
    lake: FileLake, monkeypatch: pytest.MonkeyPatch, is_told: bool
) -> None:
    lake.add(rows_of(up()))

    async def run() -> None:
        loop = asyncio.get_running_loop()
        begun, ended = asyncio.Event(), asyncio.Event()

        def find_for_ever(*arguments: Any) -> None:
            check = arguments[-1]
            loop.call_soon_threadsafe(begun.set)
            try:
                while True:
                    check()
            finally:
                loop.call_soon_threadsafe(ended.set)

        monkeypatch.setattr(reader, "find_series", find_for_ever)
        async with serving(lake, handler_cancellation=is_told) as server:
            asked = asyncio.create_task(server.ask([query(UP)]))
            await begun.wait()
            asked.cancel()
            async with asyncio.timeout(10):
                await ended.wait()
            code = {"code": "cancelled"}
            await seen(server, "prombridge_read_requests_total", 1, code)

    asyncio.run(run())


async def seen(
    server: ReadServer, metric: str, value: float, labels: dict[str, str] | None = None
) -> None:
    """Waits until a metric has a value."""
    async with asyncio.timeout(10):
        while server.metrics.get_sample_value(metric, labels or {}) != value:  # noqa: ASYNC110 - no event tells
            await asyncio.sleep(0.001)


# -- the lake moves -----------------------------------------------------------------------------


def test_vanished_file_is_looked_for_once_more_on_a_fresh_snapshot(lake: FileLake) -> None:
    """READ-2: a flush or a compaction that ends while a read looks."""
    rows = rows_of(up(), 10)
    lake.add(rows)
    stale = lake.snapshot()
    [old] = lake.samples
    lake.samples = lake.write(rows)
    old.path.unlink()

    class Moving:
        def snapshot(self, *, force: bool = False) -> Any:
            return lake.snapshot(force=True) if force else stale

    async def run() -> None:
        async with serving(Moving()) as server:
            [frame] = await server.frames(query(UP))
            assert frame.samples == [row[1:3] for row in rows]
            assert lake.forced_count == 1

    asyncio.run(run())


def test_file_that_stays_away_is_503(lake: FileLake) -> None:
    lake.add(rows_of(up()))
    lake.samples[0].path.unlink()

    async def scenario(server: ReadServer) -> None:
        reply = await server.ask([query(UP)])
        assert reply.status == 503
        assert "cannot be read" in reply.text

    serve(lake, scenario)


def test_damaged_file_is_500_with_its_cause(lake: FileLake) -> None:
    lake.add(rows_of(up()))
    lake.samples[0].path.write_bytes(b"PAR1" + b"\x00" * 100 + b"PAR1")

    async def scenario(server: ReadServer) -> None:
        reply = await server.ask([query(UP)])
        assert reply.status == 500
        assert "damaged" in reply.text

    serve(lake, scenario)


def test_what_is_read_is_counted(lake: FileLake) -> None:
    lake.add(rows_of(up(job="a")) + rows_of(up(job="b")))

    async def scenario(server: ReadServer) -> None:
        reply = await server.ask([query(UP), query(UP)], [CHUNKS])
        assert read_samples is not None
        values = {
            "prombridge_read_queries_total": 2,
            "prombridge_read_series_total": 4,
            "prombridge_read_samples_total": 16,
            "prombridge_read_files_total": 2,
            "prombridge_read_sent_bytes_total": len(reply.body),
        }
        for name, value in values.items():
            assert server.metrics.get_sample_value(name) == value, name
        hits = "prombridge_read_cache_hits_total"
        assert server.metrics.get_sample_value(hits, {"cache": "footers"}) == 1

    serve(lake, scenario)
