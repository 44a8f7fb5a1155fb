"""Several processes on one lake, in a folder and on S3, and one that is killed."""

import contextlib
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from deltalake import DeltaTable

from bridge.lake.lake import Lake
from bridge.lake.schema import FLUSHED
from bridge.lake.store import open_store
from tests.integration.object_stores import s3_access

ROOT = Path(__file__).parents[3]
PROCESSES = 4
COMMITS = 15
KILLS = 6


@dataclass(frozen=True)
class Place:
    """Where the lake lies, and what a process needs in its environment to get there."""

    uri: str
    environment: dict[str, str] = field(default_factory=dict)

    def table(self, name: str) -> DeltaTable:
        """As any other reader opens it."""
        return DeltaTable(f"{self.uri}/{name}", storage_options=self.environment or None)

    def open(self) -> Lake:
        return Lake.open(
            open_store(self.uri, self.environment), single_writer=False, refresh_interval_s=5
        )


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    if request.param == "folder":
        yield Place(str(tmp_path / "lake"))
        return
    with s3_access(tmp_path / "s3") as access:
        yield Place(f"s3://{access.make_bucket()}/lake", access.environment())


def start(
    place: Place, folder: Path, receiver_id: str, first: int, last: int
) -> subprocess.Popen[str]:
    arguments = [place.uri, str(folder / receiver_id), receiver_id, str(first), str(last)]
    return subprocess.Popen(
        [sys.executable, "-m", "tests.unit.lake.append_process", *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | place.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def let_go(process: subprocess.Popen[str]) -> None:
    """Waits until the lake is open, then lets it commit."""
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.readline().strip() == "open"
    process.stdin.write("\n")
    process.stdin.close()


def rows_in_lake(place: Place) -> Counter[tuple[str, int]]:
    """(receiver, position) of every row, by delta-rs' own reader of what the log lists."""
    rows = place.table("samples").to_pyarrow_table(columns=["metric", "value"]).to_pylist()
    return Counter((row["metric"], int(row["value"])) for row in rows)


@pytest.fixture
def processes() -> list[subprocess.Popen[str]]:
    return []


@pytest.fixture(autouse=True)
def no_process_is_left(processes: list[subprocess.Popen[str]]) -> object:
    yield
    for process in processes:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None and not stream.closed:
                stream.close()


def test_processes_that_make_the_tables_and_append_at_once_lose_nothing(
    place: Place, tmp_path: Path, processes: list[subprocess.Popen[str]]
) -> None:
    """LAKE-1, LAKE-6: every acknowledged append is there once."""
    names = [f"receiver-{number}" for number in range(PROCESSES)]
    processes += [start(place, tmp_path, name, 1, COMMITS) for name in names]
    for process in processes:
        let_go(process)
    for process in processes:
        assert process.stdout is not None
        acknowledged = process.stdout.read().split()
        assert acknowledged == [str(position) for position in range(1, COMMITS + 1)]
        assert process.wait() == 0
    expected = Counter((name, position) for name in names for position in range(1, COMMITS + 1))
    assert rows_in_lake(place) == expected
    lake = place.open()
    assert {lake.position("samples", name) for name in names} == {COMMITS}
    lake.close()
    created = {name: place.table(name).version() for name in FLUSHED}
    assert created == {
        "series": PROCESSES * COMMITS,
        "metadata": 0,
        "samples": PROCESSES * COMMITS,
    }


def test_a_process_killed_at_any_moment_leaves_each_acknowledged_row_once(
    place: Place, tmp_path: Path, processes: list[subprocess.Popen[str]]
) -> None:
    """LAKE-1, LAKE-5: the next one goes on behind the position that the table has."""
    rng = random.Random(7)
    acknowledged = 0
    for _ in range(KILLS):
        lake = place.open()
        position = lake.position("samples", "a") or 0
        lake.close()
        assert position >= acknowledged
        process = start(place, tmp_path, "a", position + 1, position + 1000)
        processes.append(process)
        let_go(process)
        assert process.stdout is not None
        for _ in range(rng.randrange(1, 6)):
            acknowledged = int(process.stdout.readline())
        with contextlib.suppress(subprocess.TimeoutExpired):
            # A commit of both tables takes about 10 ms in a folder, 50 ms on S3.
            process.wait(rng.uniform(0, 0.1 if place.environment else 0.02))
        process.kill()
        rest = process.stdout.read().split()
        acknowledged = int(rest[-1]) if rest else acknowledged
        process.wait()
    rows = rows_in_lake(place)
    assert set(rows.values()) == {1}
    reached = max(position for _, position in rows)
    assert acknowledged <= reached
    assert {position for _, position in rows} == set(range(1, reached + 1))
