"""Servers as processes: started on loopback in folders of their own, waited for, and stopped.

Invariants:
    - A server that is ready is the one that was started: a port that another process won between
      asking for a free one and binding it is given up for the next (`ATTEMPTS_MAX` times).
    - Only processes that were started here are ended, by their own pid.
    - Nothing waits without a limit, and nothing sleeps but between two looks at a condition.
"""

import http.client
import signal
import socket
import subprocess
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import psutil
import pytest

T = TypeVar("T")

REPOSITORY = Path(__file__).resolve().parents[2]

ATTEMPTS_MAX = 5
# Ready takes 0.3 s on an idle machine; the slack is for two cores shared by everything else.
READY_S_MAX = 60.0
STOP_S_MAX = 60.0
POLL_S = 0.02
LOG_TAIL_BYTES = 4000


@dataclass(frozen=True)
class Reply:
    """What an HTTP server answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def fetch(
    method: str,
    url: str,
    body: bytes = b"",
    headers: Mapping[str, str] | None = None,
    timeout_s: float = 30.0,
) -> Reply:
    """One HTTP request on a connection of its own.

    Raises:
        OSError, http.client.HTTPException: there is no whole answer.
    """
    parts = urllib.parse.urlsplit(url)
    assert parts.hostname is not None
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout_s)
    try:
        connection.request(method, target, body, dict(headers or {}))
        response = connection.getresponse()
        return Reply(response.status, dict(response.getheaders()), response.read())
    finally:
        connection.close()


def wait_until(condition: Callable[[], T | None], what: str, timeout_s: float) -> T:
    """The first answer of `condition` that is neither None nor False; fails after `timeout_s`."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        answer = condition()
        if answer is not None and answer is not False:
            return answer
        if time.monotonic() > deadline_s:
            pytest.fail(f"waited {timeout_s:g} s in vain until {what}")
        time.sleep(POLL_S)


class ServerEndedError(Exception):
    """The server ended by itself before it was ready."""


class ServerProcess:
    """A server on loopback: its folder, its port, its process.

    Args:
        name: for messages and for the log file.
        folder: made if missing; the log goes there, and what the server stores.
        command: the command line for a port.
        is_own: whether what answers at this URL is the process started here.
        environment: of the process, if it is not that of the tests.
    """

    ready_path = "/-/ready"
    """Answers a GET with 200 as soon as the server is ready."""

    stop_signal = signal.SIGTERM
    """Ends the server cleanly."""

    def __init__(
        self,
        name: str,
        folder: Path,
        command: Callable[[int], Sequence[str]],
        is_own: Callable[[str], bool] = lambda _url: True,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.folder = folder
        self.port = 0
        self._command = command
        self._is_own = is_own
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None
        self._log_path = folder / f"{name}.log"
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def url(self) -> str:
        """Where it listens; the same after every start."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The running process."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Starts it and waits until it is ready; a server that had a port before keeps it."""
        has_port = self.port != 0
        for attempt in range(1, ATTEMPTS_MAX + 1):
            if not has_port:
                self.port = free_port()
            self.launch()
            try:
                self.wait_ready()
            except ServerEndedError as error:
                # Only a clash of ports is worth another try; on its own port the server waits for
                # it.
                if attempt < ATTEMPTS_MAX and "address already in use" in self.log_tail().lower():
                    continue
                pytest.fail(f"{error}; the end of its log:\n{self.log_tail()}")
            return

    def launch(self) -> None:
        """Starts the process without waiting for it to be ready."""
        assert self._process is None, f"{self.name} runs already"
        with self._log_path.open("ab") as log:
            self._process = subprocess.Popen(
                list(self._command(self.port)),
                cwd=REPOSITORY,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def wait_ready(self) -> None:
        """Waits until it answers that it is ready.

        Raises:
            ServerEndedError: the process ended first, which it has then been.
        """

        def is_ready() -> bool:
            process = self._process
            assert process is not None
            code = process.poll()
            if code is not None:
                self._process = None
                raise ServerEndedError(f"{self.name} ended with {code} before it was ready")
            try:
                if not self.answers_ready():
                    return False
                return self._is_own(self.url) and process.poll() is None
            except (OSError, http.client.HTTPException):
                return False

        wait_until(is_ready, f"{self.name} is ready ({self._log_path})", READY_S_MAX)

    def answers_ready(self) -> bool:
        """Whether what listens there says that it is ready.

        Raises:
            OSError, http.client.HTTPException: nothing that speaks HTTP listens there.
        """
        reply = fetch("GET", f"{self.url}{self.ready_path}", timeout_s=5)
        return reply.status == http.HTTPStatus.OK

    def stop(self) -> None:
        """The stop signal, and waits for the end; nothing if it does not run."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(self.stop_signal)
        try:
            process.wait(STOP_S_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            pytest.fail(
                f"{self.name} ran on {STOP_S_MAX:g} s after {self.stop_signal.name}:\n"
                f"{self.log_tail()}"
            )

    def kill(self) -> None:
        """SIGKILL; nothing if it does not run."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def pause(self) -> None:
        """SIGSTOP: its kernel accepts connections on, nothing is answered, until `resume`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def listens(self, _url: str = "") -> bool:
        """Whether it is the process started here that listens on the port; an `is_own`."""
        connections = psutil.Process(self.pid).net_connections("tcp")
        return any(
            connection.status == psutil.CONN_LISTEN and connection.laddr.port == self.port
            for connection in connections
        )

    def log_tail(self) -> str:
        """The end of what it wrote to its standard streams."""
        with suppress(FileNotFoundError):
            return self._log_path.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace")
        return ""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # After a failure its state does not matter any more, its end does.
        if error_type is None:
            self.stop()
        else:
            self.kill()


def free_port() -> int:
    """A port on loopback that nothing listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def running(*servers: ServerProcess) -> Iterator[None]:
    """Starts all at once, waits for each, and stops all."""
    with ExitStack() as stack:
        for server in servers:
            stack.enter_context(server)
        yield
