"""The servers that are measured: the bridge and real Prometheus servers, each alone on loopback.

Both speak remote write and remote read on the same paths. What differs is kept in a `Contestant`:
its command line, the counter of what it stored, how it is made to write everything down, and the
folder where that then lies.

    prombridge    204 means fsynced. At rest: the lake, after `POST /api/v1/admin/flush`.
    prometheus    204 means written to the WAL's page cache. At rest: the blocks of a snapshot, made
                  after the measured time, since it would cut its head only hours later.
"""

import json
import re
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from deltalake import DeltaTable

from benchmarks.meter import Meter

REPOSITORY = Path(__file__).resolve().parents[1]
READY_S_MAX = 120.0
STOP_S_MAX = 120.0
FLUSH_S_MAX = 300.0
PROMETHEUS_CONFIG = "storage: {tsdb: {out_of_order_time_window: 1d}}\n"


@dataclass(frozen=True, slots=True)
class AtRest:
    """What a server has written down.

    Attributes:
        stored: the folder whose bytes count.
        reopened: the folder to start the server on again, to read from what is at rest alone.
        sample_count: samples there, as the files themselves say.
    """

    stored: Path
    reopened: Path
    sample_count: int


@dataclass(frozen=True, slots=True)
class Contestant:
    """One kind of server.

    Attributes:
        name: in the tables.
        version: what it says about itself.
        command: its command line for a port and an empty folder.
        stored: finds in `/metrics` how many samples it stored; all matches are added up.
        flush: makes it write down what it holds, as part of what is measured; None: it does so by
            itself.
        settle_at_rest: makes it write down everything, outside of what is measured.
    """

    name: str
    version: str
    command: Callable[[int, Path], list[str]]
    stored: re.Pattern[str]
    flush: Callable[[str], None] | None
    settle_at_rest: Callable[[str, Path], AtRest]


@dataclass(frozen=True, slots=True)
class Server:
    """A contestant that runs.

    Attributes:
        contestant: what it is.
        url: where it listens.
        folder: what it stores.
        meter: of its processes.
    """

    contestant: Contestant
    url: str
    folder: Path
    meter: Meter

    def stored_count(self) -> int:
        """Samples that it says to have stored."""
        metrics = _request(f"{self.url}/metrics").decode()
        return round(sum(float(found) for found in self.contestant.stored.findall(metrics)))

    def flush(self) -> None:
        """Makes it write down what it holds now."""
        if self.contestant.flush:
            self.contestant.flush(self.url)

    def settle_at_rest(self) -> AtRest:
        """Makes it write down everything."""
        return self.contestant.settle_at_rest(self.url, self.folder)


def find(names: Sequence[str], bridge_flags: Sequence[str] = ()) -> list[Contestant]:
    """Contestants by name: `prombridge`, `prometheus3`, `prometheus2`, `prometheus` (on PATH)."""
    return [_bridge(bridge_flags) if name == "prombridge" else _prometheus(name) for name in names]


@contextmanager
def running(contestant: Contestant, folder: Path) -> Iterator[Server]:
    """The server on a free port, ready; stopped by SIGTERM at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    log_path = folder.with_name(f"{folder.name}.log")
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            contestant.command(port, folder), stdout=log, stderr=subprocess.STDOUT
        )
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_ready(process, url, log_path)
        yield Server(contestant, url, folder, Meter(process.pid))
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_S_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_ready(process: subprocess.Popen[bytes], url: str, log_path: Path) -> None:
    deadline_s = time.monotonic() + READY_S_MAX
    while time.monotonic() < deadline_s and process.poll() is None:
        try:
            _request(f"{url}/-/ready")
        except OSError:
            time.sleep(0.1)
        else:
            return
    log = log_path.read_text(errors="replace")
    raise SystemExit(f"{process.args!r} is not ready ({process.poll()}):\n{log[-2000:]}")


def _bridge(flags: Sequence[str]) -> Contestant:
    program = REPOSITORY / ".venv" / "bin" / "prombridge"

    def command(port: int, folder: Path) -> list[str]:
        return [
            str(program),
            "serve",
            f"--web.listen-address=127.0.0.1:{port}",
            f"--lake.uri={folder / 'lake'}",
            f"--wal.path={folder / 'wal'}",
            *flags,
        ]

    def flush(url: str) -> None:
        _request(f"{url}/api/v1/admin/flush", "POST")

    def settle_at_rest(url: str, folder: Path) -> AtRest:
        flush(url)
        lake = folder / "lake"
        files = pa.table(DeltaTable(str(lake / "samples")).get_add_actions(flatten=True))
        return AtRest(lake, folder, sum(files["num_records"].to_pylist()))

    stored = re.compile(r"^prombridge_write_samples_total (\S+)$", re.MULTILINE)
    return Contestant("prombridge", _version(program), command, stored, flush, settle_at_rest)


def _prometheus(name: str) -> Contestant:
    built = REPOSITORY / ".servers" / name
    program = built if built.exists() else Path(shutil.which("prometheus") or "")
    if not program.name:
        raise SystemExit(f"no {name}: `make servers` builds it, or put prometheus on PATH")

    def command(port: int, folder: Path) -> list[str]:
        config = folder.with_name(f"{folder.name}.yml")
        config.write_text(PROMETHEUS_CONFIG)
        return [
            str(program),
            f"--config.file={config}",
            f"--storage.tsdb.path={folder}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--web.enable-remote-write-receiver",
            "--web.enable-admin-api",
            "--storage.tsdb.retention.time=3650d",
            "--log.level=warn",
        ]

    def settle_at_rest(url: str, folder: Path) -> AtRest:
        answer = json.loads(_request(f"{url}/api/v1/admin/tsdb/snapshot", "POST"))
        blocks = folder / "snapshots" / str(answer["data"]["name"])
        metas = [json.loads(path.read_text()) for path in blocks.glob("*/meta.json")]
        return AtRest(blocks, blocks, sum(meta["stats"]["numSamples"] for meta in metas))

    stored = re.compile(
        r"^prometheus_tsdb_head_samples_appended_total(?:\{type=\"float\"\})? (\S+)$", re.MULTILINE
    )
    return Contestant(name, _version(program), command, stored, None, settle_at_rest)


def _version(program: Path) -> str:
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"\d+\.\d+\.\d+", said)
    return found.group() if found else "unknown"


def _request(url: str, method: str = "GET") -> bytes:
    request = urllib.request.Request(url, method=method, data=b"" if method == "POST" else None)
    with urllib.request.urlopen(request, timeout=FLUSH_S_MAX) as response:
        body: bytes = response.read()
        return body
