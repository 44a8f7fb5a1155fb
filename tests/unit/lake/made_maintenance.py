"""A small maintenance: one day's files become one compacted file and one rollup."""

import itertools
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from bridge.lake.data_file import DataFile
from bridge.lake.maintenance import LakeView, MaintenanceLake, Superseded, put_file
from bridge.lake.schema import DAY_MS, SAMPLES, SAMPLES_5M, TABLES
from bridge.lake.store import Store
from bridge.lake.stored_file import StoredFile
from tests.unit.lake.made_files import DAY, DAY_START_MS, write_rows

DAY_SPAN = "20261121T00-20261122T00"
STEPS = ("viewed", "written", "uploaded", "samples_5m", "samples")
"""After each of which a maintenance can be killed."""

Sample = tuple[str, int]
"""Metric and value; each is there once."""

_numbers = itertools.count()


def maintained_path(folder: Path, kind: str) -> Path:
    """A new file of the span of DAY."""
    return folder / f"{kind}-{DAY_SPAN}-{uuid.uuid4().hex[:16]}-{next(_numbers)}.parquet"


def compacted(folder: Path, samples: Sequence[Sample]) -> DataFile:
    """A compacted file of DAY."""
    bits = pa.array([float(value) for _, value in samples]).to_numpy().view("uint64").tolist()
    return write_rows(
        maintained_path(folder, "c"),
        [
            (metric, 1, DAY_START_MS + value, bits[row], 0, "")
            for row, (metric, value) in enumerate(samples)
        ],
    )


def rollup(folder: Path, counts: dict[str, int], table: str = SAMPLES_5M) -> DataFile:
    """A rollup of DAY: one window a metric, with the count of its samples."""
    schema = TABLES[table].columns
    end_ms = DAY_START_MS + DAY_MS
    rows: list[dict[str, Any]] = [
        {
            **dict.fromkeys(schema.names),
            "metric": metric,
            "series_id": 1,
            "window_end_ms": end_ms,
            "count": count,
            "resets": 0,
        }
        for metric, count in sorted(counts.items())
    ]
    path = maintained_path(folder, "r")
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)
    return DataFile(
        path=path,
        partition=DAY if table == SAMPLES_5M else DAY[:7],
        row_count=len(rows),
        size_bytes=path.stat().st_size,
        minima={"metric": min(counts), "window_end_ms": end_ms},
        maxima={"metric": max(counts), "window_end_ms": end_ms},
    )


def read_samples(store: Store, files: Iterable[StoredFile]) -> list[Sample]:
    """The rows of files of `samples`.

    Raises:
        Superseded: a file is gone.
    """
    found = []
    for file in files:
        body = store.read(file.key)
        if body is None:
            raise Superseded(f"{file.key} was replaced and deleted since the plan was made")
        rows = pq.read_table(pa.BufferReader(body)).to_pylist()
        found += [(row["metric"], int(row["value"])) for row in rows]
    return found


def of_day(files: Iterable[StoredFile]) -> list[StoredFile]:
    """Those that lie in DAY."""
    return [file for file in files if file.partition == DAY]


class Maintenance:
    """Rolls DAY up, as often as it is asked to.

    Args:
        store: of the lake.
        lake: to maintain.
        folder: for what is written.
        passed: called with the name of each step that is done.
    """

    def __init__(
        self,
        store: Store,
        lake: MaintenanceLake,
        folder: Path,
        passed: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.lake = lake
        self._store = store
        self._folder = folder
        self._passed = passed

    def run(self) -> bool:
        """One pass; False if nothing was due.

        Raises:
            Superseded: another one did it.
        """
        view = self.lake.view()
        self._passed("viewed")
        job = self.prepare(view)
        if job is None:
            return False
        self.commit(view, *job)
        return True

    def prepare(self, view: LakeView) -> tuple[DataFile, DataFile] | None:
        """Makes and uploads the files of a pass; None if nothing is due."""
        inputs = of_day(view.files[SAMPLES])
        if all(file.kind == "c" for file in inputs):
            return None
        samples = sorted(read_samples(self._store, inputs))
        rolled = rollup(self._folder, Counter(metric for metric, _ in samples))
        swapped = compacted(self._folder, samples)
        self._passed("written")
        put_file(self._store, SAMPLES_5M, rolled)
        put_file(self._store, SAMPLES, swapped)
        self._passed("uploaded")
        return rolled, swapped

    def commit(self, view: LakeView, rolled: DataFile, swapped: DataFile) -> None:
        """Commits them, and removes what they were made of."""
        self.lake.commit(
            SAMPLES_5M, view=view, adds=[rolled], removes=of_day(view.files[SAMPLES_5M])
        )
        self._passed("samples_5m")
        self.lake.commit(SAMPLES, view=view, adds=[swapped], removes=of_day(view.files[SAMPLES]))
        self._passed("samples")
