"""The bridge as a process of its own, with its lake and its WAL in a folder of its own.

The lake may lie in a bucket instead. What a bridge needs to be let in there goes into its
environment, as it would in production; what would let it in by itself is taken out of it.
"""

import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from deltalake import DeltaTable

from tests.integration.servers import ServerProcess, fetch

# Longer than any test: what is in the lake then was put there by a flush that was asked for.
NEVER = "24h"
_CREDENTIALS = re.compile("(AWS|AZURE|GOOGLE)_.*")


@dataclass(frozen=True)
class Place:
    """Where a lake lies, and who is let in.

    Args:
        uri: as `lake.uri`.
        environment: of the bridge.
        storage_options: of delta-rs, for the test's own look into it.
    """

    uri: str
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    storage_options: Mapping[str, str] = field(default_factory=dict, repr=False)

    def table(self, name: str) -> DeltaTable:
        """A table as Delta sees it, without the bridge."""
        return DeltaTable(f"{self.uri}/{name}", storage_options=dict(self.storage_options))

    def row_count(self, table: str = "samples") -> int:
        """Rows in the newest version of a table."""
        actions = self.table(table).get_add_actions(flatten=True)
        return sum(actions.column("num_records").to_pylist())


def environment_of(lake: Place) -> dict[str, str]:
    """What a process of ours has in its environment to reach a lake, and no other credentials."""
    plain = {key: text for key, text in os.environ.items() if not _CREDENTIALS.fullmatch(key)}
    return {**plain, **lake.environment}


class Bridge(ServerProcess):
    """`prombridge serve`; `stop` drains and flushes, `kill` does not.

    Args:
        folder: its lake, WAL, cache and log; a second start finds what the first one left.
        flush_interval: of the head into the lake.
        flags: added to the command line.
        lake: if it is not in the folder.
        mode: write, read, or both.
        wal_path: if it is not in the folder.
        cache_path: the same.
        prefix: before the command line.
        is_downsampling: whether the lake is maintained too, as it is by default in mode all.
    """

    def __init__(
        self,
        folder: Path,
        *,
        flush_interval: str = NEVER,
        flags: Sequence[str] = (),
        name: str = "bridge",
        lake: Place | None = None,
        mode: str = "all",
        wal_path: Path | None = None,
        cache_path: Path | None = None,
        prefix: Sequence[str] = (),
        is_downsampling: bool = False,
    ) -> None:
        self.lake_path = folder / "lake"
        self.wal_path = wal_path or folder / "wal"
        self.cache_path = cache_path or folder / "cache"
        self.lake = lake or Place(str(self.lake_path))
        self.log_path = folder / f"{name}.log"

        def command(port: int) -> list[str]:
            return [
                *prefix,
                sys.executable,
                "-m",
                "bridge",
                "serve",
                f"--mode={mode}",
                f"--web.listen-address=127.0.0.1:{port}",
                f"--lake.uri={self.lake.uri}",
                f"--lake.cache-path={self.cache_path}",
                f"--wal.path={self.wal_path}",
                f"--lake.flush-interval={flush_interval}",
                f"--downsample.enabled={str(is_downsampling).lower()}",
                f"--downsample.scratch-path={folder / 'scratch'}",
                *flags,
            ]

        super().__init__(name, folder, command, environment=environment_of(self.lake))

    @property
    def write_url(self) -> str:
        """For remote write."""
        return f"{self.url}/api/v1/write"

    @property
    def read_url(self) -> str:
        """For remote read."""
        return f"{self.url}/api/v1/read"

    def flush(self, timeout_s: float = 120.0) -> None:
        """Cuts the head into the lake; returns when that is committed."""
        reply = fetch("POST", f"{self.url}/api/v1/admin/flush", timeout_s=timeout_s)
        assert 200 <= reply.status < 300, f"flush: {reply.status} {reply.body!r}"

    def restart(self) -> None:
        """SIGTERM, and starts it again on the same port and folders."""
        self.stop()
        self.start()

    def kill_and_start(self) -> None:
        """SIGKILL, and starts it again on the same port and folders."""
        self.kill()
        self.start()

    def metrics_text(self) -> str:
        """What it tells Prometheus about itself."""
        return fetch("GET", f"{self.url}/metrics").body.decode()

    def metrics(self) -> dict[str, float]:
        """The values of `/metrics`, by names and labels as they stand there."""
        pairs = (line.rsplit(" ", 1) for line in self.metrics_text().splitlines())
        return {name: float(value) for name, value in pairs if not name.startswith("#")}

    def metric(self, name: str) -> float:
        """One of them; 0 if it is not there."""
        return self.metrics().get(name, 0.0)

    def lake_row_count(self) -> int:
        """Rows in the newest version of the `samples` table: Delta is asked, not the bridge."""
        return self.lake.row_count()
