"""The proxy changes nothing until told to, and then exactly what it was told."""

import http.client
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from deltalake import DeltaTable, write_deltalake
from pyarrow import table

from tests.integration.faulty_proxy import (
    Cut,
    Error,
    Fault,
    FaultyProxy,
    Passed,
    Refuse,
    Reset,
    ResetRequest,
    Slow,
    Stall,
)
from tests.integration.object_stores import VersityGw
from tests.integration.processes import Reply, fetch

# What a client sees of a connection that ends before the answer does.
BROKEN = (ConnectionError, http.client.HTTPException)


class Echo(BaseHTTPRequestHandler):
    """Answers with what it was asked; `/chunked` in chunks, `/old` until the end, `/none` 204."""

    protocol_version = "HTTP/1.1"
    server: "EchoServer"

    def answer(self) -> None:
        body = self.read_body()
        self.server.seen.append((self.command, self.path))
        seen = {
            "line": self.requestline,
            "headers": self.headers.items(),
            "body": body.decode("latin-1"),
            "peer": self.client_address[1],
        }
        content = json.dumps(seen).encode()
        if self.path == "/none":
            self.send_response(204)
            self.end_headers()
            return
        self.send_response(200)
        if self.path == "/chunked":
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for piece in (content[:7], content[7:]):
                self.wfile.write(b"%x;note=1\r\n%s\r\n" % (len(piece), piece))
            self.wfile.write(b"0\r\nTrailer: yes\r\n\r\n")
            return
        if self.path == "/old":
            self.send_header("Connection", "close")
            self.end_headers()
            self.close_connection = True
        else:
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", "0")))
        body = b""
        while length := int(self.rfile.readline(), 16):
            body += self.rfile.read(length)
            self.rfile.readline()
        self.rfile.readline()
        return body

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = answer  # noqa: N815 - as the library wants it

    def log_message(self, *_: Any) -> None:
        pass


class EchoServer(ThreadingHTTPServer):
    block_on_close = True
    # Its own 5 are not enough for 16 clients: the kernel resets the others.
    request_queue_size = 128
    daemon_threads = False

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []
        super().__init__(("127.0.0.1", 0), Echo)

    def handle_error(self, *_: Any) -> None:
        # A connection that ends in the middle is what these tests are about.
        assert isinstance(sys.exc_info()[1], OSError)


@pytest.fixture
def echo() -> Iterator[EchoServer]:
    with EchoServer() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def proxy(echo: EchoServer) -> Iterator[FaultyProxy]:
    with FaultyProxy(f"http://127.0.0.1:{echo.server_port}") as started:
        yield started


def get(proxy: FaultyProxy, target: str = "/x", method: str = "GET", body: bytes = b"") -> Reply:
    return fetch(method, proxy.url + target, body, timeout_s=5)


def test_requests_and_answers_pass_byte_for_byte(proxy: FaultyProxy, echo: EchoServer) -> None:
    body = os.urandom(300_000)
    head = (
        b"PUT /a%%20b?c=%%2F HTTP/1.1\r\nhOsT: bucket.example:1\r\nX-Twice: 1\r\nX-Twice: 2\r\n"
        b"Content-Length: %d\r\n\r\n" % len(body)
    )
    answers = []
    for port in (echo.server_port, proxy.port):
        with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
            client.sendall(head + body)
            response = http.client.HTTPResponse(client, method="PUT")
            response.begin()
            answers.append(json.loads(response.read()))
            response.close()
    direct, passed = answers
    assert passed.pop("peer") != direct.pop("peer")
    assert passed == direct
    assert ["hOsT", "bucket.example:1"] in passed["headers"]
    assert passed["body"] == body.decode("latin-1")


def test_one_connection_carries_many_requests(proxy: FaultyProxy) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=5)
    peers = set()
    for method, target in [("GET", "/x"), ("GET", "/chunked"), ("PUT", "/y"), ("GET", "/z")]:
        connection.request(method, target, b"body" if method == "PUT" else None)
        peers.add(json.loads(connection.getresponse().read())["peer"])
        for empty in (("HEAD", "/x"), ("DELETE", "/none")):
            connection.request(*empty)
            assert connection.getresponse().read() == b""
    connection.close()
    assert len(peers) == 1


def test_chunked_bodies_pass_both_ways(proxy: FaultyProxy) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=5)
    connection.request("POST", "/chunked", iter([b"one", b"two" * 50_000]), encode_chunked=True)
    answer = connection.getresponse()
    assert json.loads(answer.read())["body"] == "one" + "two" * 50_000
    connection.close()


def test_an_answer_without_length_ends_with_its_connection(proxy: FaultyProxy) -> None:
    assert json.loads(get(proxy, "/old").body)["line"] == "GET /old HTTP/1.1"


def test_a_client_that_waits_for_100_continue_is_told_to(proxy: FaultyProxy) -> None:
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as client:
        client.sendall(
            b"PUT /x HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n"
        )
        assert client.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(b"body")
        response = http.client.HTTPResponse(client)
        response.begin()
        assert json.loads(response.read())["body"] == "body"
        response.close()


def test_refused_is_refused_until_healed_on_the_same_port(proxy: FaultyProxy) -> None:
    idle = socket.create_connection(("127.0.0.1", proxy.port), timeout=5)
    assert get(proxy).status == 200
    with proxy.injected(Refuse()):
        for _ in range(3):
            with pytest.raises(ConnectionRefusedError):
                get(proxy)
        try:
            assert idle.recv(1) == b""
        except ConnectionResetError:
            pass
        finally:
            idle.close()
    assert get(proxy).status == 200


def test_stalled_is_never_answered(proxy: FaultyProxy, echo: EchoServer) -> None:
    with proxy.injected(Stall()):
        with pytest.raises(TimeoutError):
            fetch("PUT", f"{proxy.url}/x", b"x" * 1_000_000, timeout_s=0.2)
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(get, proxy)
            while len(proxy.requests()) < 2:
                assert not waiting.done()
            proxy.heal()
            with pytest.raises(BROKEN):
                waiting.result()
    assert echo.seen == []
    assert get(proxy).status == 200


def test_errors_are_answered_as_told(proxy: FaultyProxy, echo: EchoServer) -> None:
    with proxy.injected(Error(503, b"slow down", {"Retry-After": "7"})):
        reply = get(proxy, method="PUT", body=b"x" * 100_000)
    assert (reply.status, reply.body, reply.headers["Retry-After"]) == (503, b"slow down", "7")
    assert echo.seen == []


def test_errors_keep_the_connection(proxy: FaultyProxy) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=5)
    statuses = []
    proxy.inject(Error(429), times=2)
    for method in ("PUT", "HEAD", "PUT"):
        connection.request(method, "/x", b"body" if method == "PUT" else None)
        if method == "PUT":
            used = connection.sock
        response = connection.getresponse()
        statuses.append(response.status)
        response.read()
        assert connection.sock is used
    connection.close()
    assert statuses == [429, 429, 200]


def test_only_what_matches_fails(proxy: FaultyProxy) -> None:
    proxy.inject(Error(503), method="PUT|POST", path=r"_delta_log/\d+\.json")
    seen = [
        get(proxy, target, method).status
        for method in ("GET", "PUT")
        for target in ("/b/_delta_log/7.json", "/b/7.parquet")
    ]
    assert seen == [200, 200, 503, 200]


def test_a_rule_with_a_number_is_spent_after_it(proxy: FaultyProxy) -> None:
    proxy.inject(Error(500), path="y", times=2)
    assert [get(proxy, f"/{name}").status for name in "xyyxyy"] == [200, 500, 500, 200, 200, 200]


def test_a_share_of_the_requests_fails_the_same_way_each_run(echo: EchoServer) -> None:
    runs = []
    for _ in range(2):
        with FaultyProxy(f"http://127.0.0.1:{echo.server_port}", seed=4) as proxy:
            proxy.inject(Error(500), share=0.3)
            runs.append([get(proxy).status for _ in range(60)])
    assert runs[0] == runs[1]
    assert 8 <= runs[0].count(500) <= 30


def test_the_newest_rule_wins(proxy: FaultyProxy) -> None:
    old = proxy.inject(Error(500))
    with proxy.injected(Error(503), path="/x"):
        assert [get(proxy, target).status for target in ("/x", "/y")] == [503, 500]
    assert get(proxy).status == 500
    proxy.heal(old)
    assert get(proxy).status == 200


@pytest.mark.parametrize("fault", [Cut(), Reset(), Cut(0), Reset(0)], ids=repr)
@pytest.mark.parametrize("target", ["/x", "/chunked", "/none"])
def test_a_broken_answer_is_an_error_though_the_server_did_its_work(
    proxy: FaultyProxy, echo: EchoServer, fault: Fault, target: str
) -> None:
    with proxy.injected(fault), pytest.raises(BROKEN):
        get(proxy, target, "PUT", b"x" * 1000)
    assert echo.seen == [("PUT", target)]


def test_a_cut_answer_arrives_in_part(proxy: FaultyProxy) -> None:
    with (
        proxy.injected(Cut(0.75)),
        pytest.raises(http.client.IncompleteRead) as caught,
    ):
        get(proxy, "/x", "PUT", b"x" * 1000)
    assert 700 < len(caught.value.partial) < 1200


def test_a_reset_is_a_reset(proxy: FaultyProxy) -> None:
    with proxy.injected(Reset(0)), pytest.raises(ConnectionResetError):
        get(proxy)


def test_a_request_reset_half_way_never_reaches_the_server(
    proxy: FaultyProxy, echo: EchoServer
) -> None:
    with proxy.injected(ResetRequest()), pytest.raises(BROKEN):
        get(proxy, "/x", "PUT", b"x" * 1_000_000)
    assert echo.seen == []


def test_slow_takes_its_time_and_is_right(proxy: FaultyProxy) -> None:
    began_s = time.monotonic()
    with proxy.injected(Slow(latency_s=0.2, bytes_per_s=20_000)):
        reply = get(proxy, "/x", "PUT", b"x" * 4000)
    assert json.loads(reply.body)["body"] == "x" * 4000
    # 0.2 s, and twice 4000 bytes at 20 kB/s.
    assert 0.55 < time.monotonic() - began_s < 3


def test_a_server_that_is_away_is_a_reset_and_may_come_back() -> None:
    echo = EchoServer()
    with FaultyProxy(f"http://127.0.0.1:{echo.server_port}") as proxy:
        echo.server_close()
        with pytest.raises(BROKEN):
            get(proxy)


def test_requests_are_counted_by_shape(proxy: FaultyProxy) -> None:
    for number in (3, 41):
        get(proxy, f"/b/lake/_delta_log/{number:020}.json")
        get(proxy, f"/b/date=2026-11-21/6f9619ff-8b86-d011-b42d-00c04fc964ff-{number}.parquet")
    get(proxy, "/b?list-type=2&prefix=lake%2F&delimiter")
    with proxy.injected(Error(503)):
        get(proxy, "/b/lake/x", "PUT")
    assert proxy.counts() == {
        ("GET", "/b/lake/_delta_log/#.json"): 2,
        ("GET", "/b/date=#-#-#/#.parquet"): 2,
        ("GET", "/b?delimiter&list-type&prefix"): 1,
        ("PUT", "/b/lake/x"): 1,
    }
    assert [request.fault for request in proxy.requests()][-2:] == [None, Error(503)]
    proxy.forget()
    assert proxy.counts() == {}


def test_a_shape_keeps_words() -> None:
    shapes = [Passed("GET", path, {}, None).shape for path in ("/api/v2/write", "/feedface.cafe")]
    assert shapes == ["/api/v#/write", "/#.cafe"]


def test_stopping_ends_what_is_stalled_and_what_is_slow(echo: EchoServer) -> None:
    began_s = time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        with FaultyProxy(f"http://127.0.0.1:{echo.server_port}") as proxy:
            proxy.inject(Stall(), path="stall")
            proxy.inject(Slow(latency_s=60), path="slow")
            waiting = [pool.submit(get, proxy, target) for target in ("/stall", "/slow")]
            while len(proxy.requests()) < 2:
                assert not any(future.done() for future in waiting)
        for future in waiting:
            with pytest.raises(BROKEN):
                future.result()
    assert time.monotonic() - began_s < 4


def test_many_clients_at_once_get_their_own_answers(proxy: FaultyProxy) -> None:
    def ask(number: int) -> bool:
        reply = get(proxy, f"/{number}", "PUT", b"%d" % number * 1000)
        return bool(json.loads(reply.body)["body"] == str(number) * 1000)

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(ask, range(200)))


def test_signed_requests_and_delta_commits_pass(tmp_path: Path) -> None:
    with VersityGw(tmp_path) as server, FaultyProxy(server.url) as proxy:
        access = server.access.through(proxy.url)
        bucket = access.make_bucket("lakes")
        # In parts, in parallel.
        content = os.urandom(11 << 20)
        access.objects(bucket).put("big", content, use_multipart=True)
        assert bytes(access.objects(bucket).get("big").bytes()) == content
        for number in range(3):
            write_deltalake(
                f"s3://{bucket}/lake",
                table({"number": [number]}),
                mode="append",
                storage_options=access.storage_options(),
            )
        lake = DeltaTable(f"s3://{bucket}/lake", storage_options=access.storage_options())
        assert lake.to_pyarrow_table().num_rows == 3
        assert proxy.counts()["PUT", "/lakes/lake/_delta_log/#.json"] == 3
