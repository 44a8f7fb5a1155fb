"""Real Prometheus servers: found, started on loopback in folders of their own, and stopped.

A program is looked for in this order: the path in `PROMBRIDGE_TEST_PROMETHEUS3` (or `…2`),
`.servers/` as `make servers` fills it, `prometheus` on PATH if its version fits, the official image
if a container engine answers. Else the test skips and says what would help; with
`PROMBRIDGE_REQUIRE_SERVERS=1` it fails instead. An address of a running server is not taken: the
tests write each server's configuration, stop it and start it.

Invariants:
    - A server that is ready is the one that was started: a port that another process won between
      asking for a free one and binding it is given up for the next (`ATTEMPTS_MAX` times).
    - Only processes that were started here are ended, by their own pid.
    - Nothing waits without a limit, and nothing sleeps but between two looks at a condition.
"""

import functools
import gc
import http.client
import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.parse
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import pytest

T = TypeVar("T")

REPOSITORY = Path(__file__).resolve().parents[2]
SERVERS = REPOSITORY / ".servers"
# 2.53 is the last long-term 2.x, and speaks SAMPLES alone as every release before 2.55.
IMAGES = {2: "prom/prometheus:v2.53.4", 3: "prom/prometheus:v3.15.0"}

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
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        command: Callable[[int], Sequence[str]],
        is_own: Callable[[str], bool] = lambda _url: True,
    ) -> None:
        self.name = name
        self.folder = folder
        self.port = 0
        self._command = command
        self._is_own = is_own
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
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def wait_ready(self) -> None:
        """Waits until `GET /-/ready` is 200.

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
                if fetch("GET", f"{self.url}/-/ready", timeout_s=5).status != http.HTTPStatus.OK:
                    return False
                return self._is_own(self.url) and process.poll() is None
            except (OSError, http.client.HTTPException):
                return False

        wait_until(is_ready, f"{self.name} is ready ({self._log_path})", READY_S_MAX)

    def stop(self) -> None:
        """SIGTERM, and waits for the end; nothing if it does not run."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_S_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            pytest.fail(f"{self.name} ran on {STOP_S_MAX:g} s after SIGTERM:\n{self.log_tail()}")

    def kill(self) -> None:
        """SIGKILL; nothing if it does not run."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

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


@dataclass(frozen=True)
class Program:
    """A Prometheus program that runs on this machine."""

    path: Path
    major: int
    version: str


def find_prometheus(major: int) -> Program:
    """The Prometheus of this major version, or a skip that says how to get one."""
    program = look_for_prometheus(major)
    if program is not None:
        return program
    message = (
        f"no Prometheus {major}.x here: run `make servers`, which says what it lacks, set "
        f"PROMBRIDGE_TEST_PROMETHEUS{major} to the path of one, put one on PATH, or start a "
        "container engine"
    )
    if os.environ.get("PROMBRIDGE_REQUIRE_SERVERS") == "1":
        pytest.fail(message)
    pytest.skip(message)


@functools.cache
def look_for_prometheus(major: int) -> Program | None:
    """The Prometheus of this major version, or None."""
    named = os.environ.get(f"PROMBRIDGE_TEST_PROMETHEUS{major}")
    if named:
        program = _program(Path(named), major)
        assert program is not None, f"{named} is no Prometheus {major}.x"
        return program
    for path in (SERVERS / f"prometheus{major}", shutil.which("prometheus")):
        program = _program(Path(path), major) if path is not None else None
        if program is not None:
            return program
    return _program_from_image(major)


def _program(path: Path, major: int) -> Program | None:
    """What is at this path, if it is a Prometheus of this major version and runs."""
    if not path.is_file():
        return None
    try:
        run = subprocess.run(
            [path, "--version"],
            check=True,
            timeout=30,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    words = run.stdout.split()
    if words[:2] != ["prometheus,", "version"] or not words[2].startswith(f"{major}."):
        return None
    return Program(path, major, words[2])


def _program_from_image(major: int) -> Program | None:
    """The program out of the official image, where a container engine answers.

    It is linked statically, so it runs outside of the container as the others do, and the tests
    need no road from a container to the loopback of its host.
    """
    if sys.platform != "linux" or platform.machine() not in {"x86_64", "aarch64"}:
        return None
    image = IMAGES[major]
    path = SERVERS / "image" / image.replace("/", "_").replace(":", "_") / "prometheus"
    if not path.is_file():
        with warnings.catch_warnings():
            # Without an engine the client library leaves its socket to the garbage collector.
            warnings.simplefilter("ignore", ResourceWarning)
            _copy_from_image(image, "bin/prometheus", path)
            gc.collect()
    return _program(path, major)


def _copy_from_image(image: str, inside: str, path: Path) -> None:
    """Copies one file out of an image; nothing happens where no engine answers."""
    try:
        from testcontainers.core.docker_client import DockerClient  # noqa: PLC0415 - slow, rare

        engine = DockerClient().client
        engine.ping()
    except Exception:  # noqa: BLE001 - whatever is wrong with it, there is no engine to be had
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    engine.images.pull(image)
    container = engine.containers.create(image)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        archive, made = Path(folder, "archive"), Path(folder, path.name)
        try:
            stream, _ = container.get_archive(f"/{inside}")
            with archive.open("wb") as file:
                file.writelines(stream)
        finally:
            container.remove()
            engine.close()
        with tarfile.open(archive) as tar, made.open("wb") as file:
            member = tar.extractfile(path.name)
            assert member is not None, f"{image} has no /{inside}"
            shutil.copyfileobj(member, file)
        made.chmod(0o755)
        made.rename(path)


class Prometheus(ServerProcess):
    """A Prometheus server.

    Args:
        program: from `find_prometheus`.
        name: for messages and for the log file.
        folder: its configuration, storage and log.
        config: the content of prometheus.yml, given the server's own port.
        flags: added to the command line.
    """

    def __init__(
        self,
        program: Program,
        name: str,
        folder: Path,
        config: Callable[[int], Mapping[str, Any]],
        flags: Sequence[str] = (),
    ) -> None:
        self.program = program
        storage = folder / "tsdb"
        config_path = folder / "prometheus.yml"

        def command(port: int) -> list[str]:
            # Every JSON text is a YAML text.
            config_path.write_text(json.dumps(config(port), indent=1))
            return [
                str(program.path),
                f"--config.file={config_path}",
                f"--storage.tsdb.path={storage}",
                "--storage.tsdb.retention.time=20y",
                f"--web.listen-address=127.0.0.1:{port}",
                *flags,
            ]

        def is_own(url: str) -> bool:
            flags = json.loads(fetch("GET", f"{url}/api/v1/status/flags", timeout_s=5).body)
            return bool(flags["data"]["storage.tsdb.path"] == str(storage))

        super().__init__(name, folder, command, is_own)


def reading_config(
    read_url: str, external_labels: Mapping[str, str], *, name: str = "bridge"
) -> dict[str, Any]:
    """The configuration of a Prometheus that has nothing but `remote_read`."""
    return {
        "global": {"scrape_interval": "1h", "external_labels": dict(external_labels)},
        "remote_read": [
            {"name": name, "url": read_url, "read_recent": True, "remote_timeout": "30s"}
        ],
    }


# A receiver for made data of a fixed past: one head that spans it all, so that no compaction runs
# while the test asks, and a sample is in time as long as it is newer than its series' last.
RECEIVER_FLAGS = (
    "--web.enable-remote-write-receiver",
    "--storage.tsdb.min-block-duration=40d",
    "--storage.tsdb.max-block-duration=40d",
)
