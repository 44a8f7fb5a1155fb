"""Real Prometheus servers.

An address of a running server is not taken: the tests write each server's configuration, stop it
and start it.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.integration.processes import (
    ATTEMPTS_MAX,
    POLL_S,
    READY_S_MAX,
    REPOSITORY,
    STOP_S_MAX,
    Reply,
    ServerEndedError,
    ServerProcess,
    fetch,
    free_port,
    running,
    wait_until,
)
from tests.integration.programs import SERVERS, Wanted, find, look_for

__all__ = [
    "ATTEMPTS_MAX",
    "POLL_S",
    "READY_S_MAX",
    "RECEIVER_FLAGS",
    "REPOSITORY",
    "SERVERS",
    "STOP_S_MAX",
    "Program",
    "Prometheus",
    "Reply",
    "ServerEndedError",
    "ServerProcess",
    "fetch",
    "find_prometheus",
    "free_port",
    "look_for_prometheus",
    "reading_config",
    "running",
    "wait_until",
]

# 2.53 is the last long-term 2.x, and speaks SAMPLES alone as every release before 2.55.
IMAGES = {2: "prom/prometheus:v2.53.4", 3: "prom/prometheus:v3.15.0"}


@dataclass(frozen=True)
class Program:
    """A Prometheus program that runs on this machine."""

    path: Path
    major: int
    version: str


def find_prometheus(major: int) -> Program:
    """The Prometheus of this major version, or a skip that says how to get one."""
    path, version = find(_wanted(major))
    return Program(path, major, version)


def look_for_prometheus(major: int) -> Program | None:
    """The Prometheus of this major version, or None."""
    found = look_for(_wanted(major))
    return None if found is None else Program(found[0], major, found[1])


def _wanted(major: int) -> Wanted:
    return Wanted(
        what=f"Prometheus {major}.x",
        variable=f"PROMBRIDGE_TEST_PROMETHEUS{major}",
        name=f"prometheus{major}",
        name_on_path="prometheus",
        version_pattern=rf"prometheus, version ({major}\.\S+)",
        image=IMAGES[major],
        inside="bin/prometheus",
    )


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
