"""A lake in a folder with a receiver that commits made rows, and a coordinator that keeps it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
from deltalake import DeltaTable
from prometheus_client import CollectorRegistry

from bridge.lake.folder_store import FolderStore
from bridge.lake.lake import Lake
from bridge.lake.maintenance import MaintenanceLake
from bridge.lake.schema import METADATA, SAMPLES, SERIES
from downsample.coordinator import Coordinator
from downsample.engine import Done, Merged
from downsample.jobs import Job
from downsample.metrics import DownsampleMetrics
from downsample.quarantine import Quarantine
from downsample.settings import DownsampleSettings, RetentionSettings
from downsample.work import Site, do
from tests.oracle.lake_files import FileLake, LakeRow


class InlineEngine:
    """Does jobs here and now."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.done: list[Job] = []

    def run(self, jobs: Sequence[tuple[Job, Merged]]) -> Iterator[Done]:
        for job, merged in jobs:
            self.done.append(job)
            yield job, do(job, self.site, merged)

    def close(self) -> None:
        """Nothing runs."""


@dataclass
class KeptLake:
    """See the module."""

    folder: Path
    retention: RetentionSettings = field(default_factory=RetentionSettings)
    settings: DownsampleSettings = field(default_factory=DownsampleSettings)
    now_ms: int = 0

    def __post_init__(self) -> None:
        self.root = self.folder / "lake"
        (self.folder / "cut").mkdir()
        self._made = FileLake(self.folder / "cut")
        self._position = 0
        self.receiver = Lake.open(FolderStore(self.root), single_writer=False, refresh_interval_s=0)
        self.maintained = MaintenanceLake.open(
            FolderStore(self.root), clock=lambda: self.now_ms / 1000
        )
        self.site = Site(str(self.root), (), self.folder / "scratch", 1 << 28)
        self.coordinator = self.make_coordinator()

    def make_coordinator(self) -> Coordinator:
        """Another one on the same lake object."""
        self.engine = InlineEngine(self.site)
        return Coordinator(
            self.maintained,
            Quarantine(FolderStore(self.root)),
            self.engine,
            self.settings,
            self.retention,
            DownsampleMetrics(CollectorRegistry()),
        )

    def flush(self, rows: Sequence[LakeRow]) -> None:
        """A receiver commits rows."""
        before = len(self._made.samples), len(self._made.series)
        self._made.add(rows)
        self._position += 1
        for table, files in (
            (SERIES, self._made.series[before[1] :]),
            (METADATA, []),
            (SAMPLES, self._made.samples[before[0] :]),
        ):
            self.receiver.commit(table, files, receiver_id="me", position=self._position)

    def run(self, now_ms: int) -> list[Job]:
        """Does all that is due at a time; what was done."""
        self.now_ms = now_ms
        del self.engine.done[:]
        assert self.coordinator.run(now_ms)
        return list(self.engine.done)

    def rows(self, table: str) -> list[Mapping[str, Any]]:
        """All rows of a table, by an independent reader."""
        found: Any = pa.table(DeltaTable(self.root / table).to_pyarrow_table())
        rows: list[Mapping[str, Any]] = found.to_pylist()
        return rows

    def names(self, table: str) -> list[str]:
        """Names of the files that count."""
        return sorted(uri.rpartition("/")[2] for uri in DeltaTable(self.root / table).file_uris())

    def close(self) -> None:
        self.receiver.close()
        self.maintained.close()
