"""An HTTP proxy on loopback that breaks what passes through it, on demand and at run time.

    client ──► FaultyProxy ──► the real server
                   └─ rules, newest first: the first that matches the request says what goes wrong

What no rule matches passes byte for byte, `Host` included (S3 signatures cover it), with
keep-alive, chunked bodies and `100 Continue`. So the faults are those of the network and of a
server in trouble, while the answers are a real server's.

One thread accepts, one serves each connection; a connection has one of its own to the server. A
rule counts for requests that begin after it was set. `Refuse` alone acts at once on everything: it
closes the listener and ends all connections, as the kernel does for a server that is killed.

Limits: `CONNECTIONS_MAX` at once, more are reset; `BUFFERED_BYTES_MAX` for an answer of unknown
length that is to be cut; `IDLE_S_MAX` of silence. The list of what passed keeps the newest
`REQUESTS_MAX`.
"""

import select
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from tests.integration.faults import (
    Cut,
    Error,
    Fault,
    Passed,
    Refuse,
    Reset,
    ResetRequest,
    Rule,
    Slow,
    Stall,
)
from tests.integration.http_streams import PIECE_BYTES, Ended, Head, Stream

__all__ = [
    "Cut",
    "Error",
    "Fault",
    "FaultyProxy",
    "Passed",
    "Refuse",
    "Reset",
    "ResetRequest",
    "Rule",
    "Slow",
    "Stall",
]

CONNECTIONS_MAX = 256
# The largest object of the tests is a tenth of it.
BUFFERED_BYTES_MAX = 256 << 20
# Longer than any client's time-out in the tests, shorter than a test may take.
IDLE_S_MAX = 120.0
STOP_S_MAX = 10.0
# 100 k requests of 200 bytes: 20 MB.
REQUESTS_MAX = 100_000


class FaultyProxy:
    """A proxy in front of the HTTP server at `target_url`; passes everything until told otherwise.

    Args:
        target_url: `http://host:port`; the server may come and go.
        seed: of the draws of rules with a share.
    """

    def __init__(self, target_url: str, *, seed: int = 0) -> None:
        parts = urlsplit(target_url)
        assert parts.hostname is not None, target_url
        self._target = (parts.hostname, parts.port or 80)
        self._seed = seed
        self._lock = threading.Lock()
        self._rules: list[Rule] = []
        self._requests: deque[Passed] = deque(maxlen=REQUESTS_MAX)
        self._connections: set[_Connection] = set()
        self._is_stopping = False
        self._listener: socket.socket | None = None
        self._held: socket.socket | None = _bound(0)
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._has_settled = threading.Condition(self._lock)
        self.port: int = self._held.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, name="faulty-proxy", daemon=True)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    # --- what goes wrong

    def inject(
        self,
        fault: Fault,
        *,
        method: str = ".*",
        path: str = "",
        share: float = 1.0,
        times: int | None = None,
    ) -> Rule:
        """From now on this befalls the requests that match, before any older rule.

        Args:
            fault: what goes wrong.
            method: a regular expression for all of the method.
            path: a regular expression, searched for in path and query.
            share: of the matching requests, drawn at random from the proxy's seed.
            times: of so many matching requests; then the rule is spent.
        """
        is_for_all = (method, path, share, times) == (".*", "", 1.0, None)
        assert is_for_all or not isinstance(fault, Refuse), "connections are refused unread"
        rule = Rule(fault, method, path, share, times, self._seed)
        with self._lock:
            self._rules.insert(0, rule)
        self._settle()
        return rule

    def heal(self, rule: Rule | None = None) -> None:
        """Takes this rule back, or all."""
        with self._lock:
            self._rules = [] if rule is None else [kept for kept in self._rules if kept != rule]
        self._settle()

    @contextmanager
    def injected(
        self,
        fault: Fault,
        *,
        method: str = ".*",
        path: str = "",
        share: float = 1.0,
        times: int | None = None,
    ) -> Iterator[None]:
        """`inject` for a while."""
        rule = self.inject(fault, method=method, path=path, share=share, times=times)
        try:
            yield
        finally:
            self.heal(rule)

    def drop_connections(self) -> None:
        """Ends every connection that is open."""
        with self._lock:
            for connection in self._connections:
                connection.shut()

    # --- what passed

    def requests(self) -> list[Passed]:
        """What came since the last `forget`, the broken ones too; refused ones are not seen."""
        with self._lock:
            return list(self._requests)

    def counts(self) -> Counter[tuple[str, str]]:
        """How many came since the last `forget`, by method and shape of the path."""
        return Counter((request.method, request.shape) for request in self.requests())

    def forget(self) -> None:
        """Begins to count anew."""
        with self._lock:
            self._requests.clear()

    # --- its life

    def __enter__(self) -> Self:
        self._thread.start()
        self._settle()
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Ends every connection, and waits for the end of every thread."""
        with self._lock:
            self._is_stopping = True
            connections = list(self._connections)
            for connection in connections:
                connection.shut()
        self._wake_writer.send(b"x")
        self._thread.join(STOP_S_MAX)
        for connection in connections:
            connection.thread.join(STOP_S_MAX)
        threads = [self._thread, *(connection.thread for connection in connections)]
        assert not any(thread.is_alive() for thread in threads), "a thread of the proxy runs on"
        for made in (self._wake_reader, self._wake_writer):
            made.close()

    # --- for its connections

    @property
    def is_stopping(self) -> bool:
        """Whether everything is to end."""
        return self._is_stopping

    def judge(self, method: str, target: str, headers: Mapping[str, str]) -> Rule | None:
        """Notes a request that begins, and says which rule befalls it."""
        with self._lock:
            taking = (rule for rule in self._rules if rule.takes(method, target))
            rule = next(taking, None)
            fault = None if rule is None else rule.fault
            self._requests.append(Passed(method, target, headers, fault))
        return rule

    def stands(self, rule: Rule) -> bool:
        """Whether a rule has not been taken back."""
        with self._lock:
            return rule in self._rules and not self._is_stopping

    def connect(self) -> socket.socket:
        """A connection to the server.

        Raises:
            OSError: it does not listen.
        """
        return socket.create_connection(self._target, timeout=IDLE_S_MAX)

    def forget_connection(self, connection: "_Connection") -> None:
        """Closes a connection whose thread ends."""
        with self._lock:
            self._connections.discard(connection)
            connection.close()

    # --- the accepting thread, which alone touches the listener

    def _wants_refusal(self) -> bool:
        return any(isinstance(rule.fault, Refuse) for rule in self._rules)

    def _settle(self) -> None:
        """Waits until the listener is as the rules want it."""
        if not self._thread.is_alive():
            return
        self._wake_writer.send(b"x")
        with self._has_settled:
            is_settled = self._has_settled.wait_for(
                lambda: (self._listener is None) == self._wants_refusal(), STOP_S_MAX
            )
        assert is_settled, "the proxy's listener did not follow its rules"

    def _accept(self) -> None:
        while self._follow_rules():
            readers = [self._wake_reader]
            if self._listener is not None:
                readers.append(self._listener)
            ready, _, _ = select.select(readers, [], [])
            if self._wake_reader in ready:
                self._wake_reader.recv(PIECE_BYTES)
            elif self._listener is not None:
                with suppress(OSError):
                    self._take(self._listener.accept()[0])

    def _follow_rules(self) -> bool:
        """Opens or closes the listener; False once the proxy stops."""
        with self._lock:
            if self._is_stopping:
                for made in (self._listener, self._held):
                    if made is not None:
                        made.close()
                return False
            if self._wants_refusal() and self._listener is not None:
                self._listener.close()
                # Bound without listening: nobody else gets the port, and connecting is refused.
                self._listener, self._held = None, _bound(self.port)
                for connection in self._connections:
                    connection.shut()
            elif not self._wants_refusal() and self._held is not None:
                self._held.listen(CONNECTIONS_MAX)
                self._listener, self._held = self._held, None
            self._has_settled.notify_all()
        return True

    def _take(self, client: socket.socket) -> None:
        client.settimeout(IDLE_S_MAX)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = _Connection(self, client)
        with self._lock:
            if self._is_stopping or len(self._connections) >= CONNECTIONS_MAX:
                connection.reset()
                return
            self._connections.add(connection)
            connection.thread.start()


def _bound(port: int) -> socket.socket:
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind(("127.0.0.1", port))
    return made


class _Connection:
    """One client's connection, and the one to the server that belongs to it; a thread."""

    def __init__(self, proxy: FaultyProxy, client: socket.socket) -> None:
        self._proxy = proxy
        self._client = Stream(client)
        self._server: Stream | None = None
        self.thread = threading.Thread(target=self._run, name="faulty-connection", daemon=True)

    def shut(self) -> None:
        """Ends it from another thread; the proxy's lock is held, so nothing is closed meanwhile."""
        for stream in (self._client, self._server):
            if stream is not None:
                stream.reset_on_close()
                with suppress(OSError):
                    stream.socket.shutdown(socket.SHUT_RDWR)

    def reset(self) -> None:
        """Closes it with RST."""
        self._client.reset_on_close()
        self.close()

    def close(self) -> None:
        """Closes both sides."""
        for stream in (self._client, self._server):
            if stream is not None:
                stream.socket.close()

    def _run(self) -> None:
        try:
            # ValueError: what is no HTTP.
            with suppress(Ended, OSError, ValueError):
                while not self._proxy.is_stopping:
                    self._serve_request()
        finally:
            self._proxy.forget_connection(self)

    def _serve_request(self) -> None:
        self._wait_for_request()
        request = Head(self._client.read_head())
        method, target, _ = request.start_line.split(" ", 2)
        rule = self._proxy.judge(method, target, request.headers)
        fault = None if rule is None else rule.fault
        if isinstance(fault, Stall):
            assert rule is not None
            self._hold(rule)
        elif isinstance(fault, ResetRequest):
            self._read_half(request)
            self._client.reset_on_close()
            raise Ended
        elif isinstance(fault, Error):
            self._answer(request, fault)
        elif isinstance(fault, Refuse):
            # It was accepted before the listener closed.
            self._client.reset_on_close()
            raise Ended
        else:
            self._pass(method, request, fault)

    def _wait_for_request(self) -> None:
        """Until the next request begins; an idle connection that the server ends is ended."""
        if self._client.has_buffered():
            return
        readers = [self._client.socket]
        if self._server is not None:
            readers.append(self._server.socket)
        ready, _, _ = select.select(readers, [], [], IDLE_S_MAX)
        if self._client.socket not in ready:
            raise Ended

    def _hold(self, rule: Rule) -> None:
        """Swallows what comes until the client goes or the rule does."""
        deadline_s = time.monotonic() + 10 * IDLE_S_MAX
        while self._proxy.stands(rule) and time.monotonic() < deadline_s:
            ready, _, _ = select.select([self._client.socket], [], [], 0.02)
            if ready and not self._client.socket.recv(PIECE_BYTES):
                raise Ended
        self._client.reset_on_close()
        raise Ended

    def _read_half(self, request: Head) -> None:
        if request.expects_continue():
            self._client.socket.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        half_bytes = request.length_bytes() // 2
        for piece in request.pieces(self._client):
            half_bytes -= len(piece)
            if half_bytes <= 0:
                return

    def _answer(self, request: Head, fault: Error) -> None:
        is_unread = request.expects_continue()
        if not is_unread:
            for _ in request.pieces(self._client):
                pass
        headers = {**fault.headers, "Content-Length": str(len(fault.body))}
        if is_unread:
            headers["Connection"] = "close"
        lines = [f"HTTP/1.1 {fault.status} Injected", *(f"{k}: {v}" for k, v in headers.items())]
        is_head = request.start_line.startswith("HEAD ")
        self._client.socket.sendall(
            "\r\n".join(lines).encode() + b"\r\n\r\n" + (b"" if is_head else fault.body)
        )
        if is_unread or request.wants_close():
            raise Ended

    def _pass(self, method: str, request: Head, fault: Slow | Cut | Reset | None) -> None:
        slow = fault if isinstance(fault, Slow) else Slow()
        self._pause(slow.latency_s)
        server = self._connected()
        server.socket.sendall(request.raw)
        answer = self._send_body(request, server, slow) or self._read_answer(server)
        pieces = answer.pieces(server, is_answer_to=method)
        if isinstance(fault, Cut | Reset):
            self._cut(answer, pieces, fault)
        self._client.socket.sendall(answer.raw)
        for piece in pieces:
            self._send_paced(self._client, piece, slow)
        if request.wants_close() or answer.wants_close() or answer.ends_with_connection(method):
            raise Ended

    def _connected(self) -> Stream:
        if self._server is None:
            try:
                server = Stream(self._proxy.connect())
            except OSError:
                self._client.reset_on_close()
                raise
            server.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._server = server
        return self._server

    def _send_body(self, request: Head, server: Stream, slow: Slow) -> Head | None:
        """Passes the request's body on; the answer, if the server does not want the body."""
        if request.expects_continue():
            answer = Head(server.read_head())
            if not answer.is_interim():
                # What the client sends now, if it does, has no reader: the connection ends.
                answer.must_close = True
                return answer
            self._client.socket.sendall(answer.raw)
        for piece in request.pieces(self._client):
            try:
                self._send_paced(server, piece, slow)
            except OSError:
                # It has answered and gone without reading all, perhaps.
                answer = self._read_answer(server)
                answer.must_close = True
                return answer
        return None

    def _read_answer(self, server: Stream) -> Head:
        answer = Head(server.read_head())
        while answer.is_interim():
            self._client.socket.sendall(answer.raw)
            answer = Head(server.read_head())
        return answer

    def _cut(self, answer: Head, pieces: Iterator[bytes], fault: Cut | Reset) -> None:
        """Sends a share of the answer, and ends the connection."""
        if isinstance(fault, Reset):
            self._client.reset_on_close()
        if answer.length_bytes() > 0:
            left_bytes = int(answer.length_bytes() * fault.share)
            body = pieces
        else:
            whole = bytearray()
            for piece in pieces:
                whole += piece
                if len(whole) > BUFFERED_BYTES_MAX:
                    raise ValueError(f"an answer of more than {BUFFERED_BYTES_MAX} bytes")
            left_bytes = int(len(whole) * fault.share)
            body = iter([bytes(whole)] if whole else [])
        if fault.share > 0:
            is_first = True
            for piece in body:
                if is_first:
                    self._client.socket.sendall(answer.raw)
                    is_first = False
                self._client.socket.sendall(piece[:left_bytes])
                left_bytes -= len(piece)
                if left_bytes <= 0:
                    break
        raise Ended

    def _send_paced(self, to: Stream, piece: bytes, slow: Slow) -> None:
        if not slow.bytes_per_s:
            to.socket.sendall(piece)
            return
        # Twenty steps a second.
        step_bytes = max(1, slow.bytes_per_s // 20)
        for start in range(0, len(piece), step_bytes):
            step = piece[start : start + step_bytes]
            to.socket.sendall(step)
            self._pause(len(step) / slow.bytes_per_s)

    def _pause(self, pause_s: float) -> None:
        """Lets time pass, unless the connection is shut meanwhile."""
        deadline_s = time.monotonic() + pause_s
        while (left_s := deadline_s - time.monotonic()) > 0:
            if self._proxy.is_stopping:
                raise Ended
            time.sleep(min(left_s, 0.05))
