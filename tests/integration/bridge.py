"""The bridge as a process of its own, with its lake and its WAL in a folder of its own."""

import sys
from collections.abc import Sequence
from pathlib import Path

from deltalake import DeltaTable

from tests.integration.servers import ServerProcess, fetch

# Longer than any test: what is in the lake then was put there by a flush that was asked for.
NEVER = "24h"


class Bridge(ServerProcess):
    """`prombridge serve`; `stop` drains and flushes, `kill` does not.

    Args:
        folder: its lake, WAL and log; a second start finds what the first one left.
        flush_interval: of the head into the lake.
        flags: added to the command line.
    """

    def __init__(
        self,
        folder: Path,
        *,
        flush_interval: str = NEVER,
        flags: Sequence[str] = (),
        name: str = "bridge",
    ) -> None:
        self.lake_path = folder / "lake"
        self.wal_path = folder / "wal"

        def command(port: int) -> list[str]:
            return [
                sys.executable,
                "-m",
                "bridge",
                "serve",
                f"--web.listen-address=127.0.0.1:{port}",
                f"--lake.uri={self.lake_path}",
                f"--wal.path={self.wal_path}",
                f"--lake.flush-interval={flush_interval}",
                *flags,
            ]

        super().__init__(name, folder, command)

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

    def lake_row_count(self) -> int:
        """Rows in the newest version of the `samples` table: Delta is asked, not the bridge."""
        table = DeltaTable(str(self.lake_path / "samples"))
        return sum(table.get_add_actions(flatten=True).column("num_records").to_pylist())
