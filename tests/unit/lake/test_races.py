"""Several processes on one lake, and one that is killed."""

import contextlib
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import duckdb
import pytest
from deltalake import DeltaTable

from bridge.lake.lake import Lake
from bridge.lake.schema import TABLES
from bridge.lake.store import open_store

ROOT = Path(__file__).parents[3]
PROCESSES = 4
COMMITS = 15
KILLS = 6


def start(folder: Path, receiver_id: str, first: int, last: int) -> subprocess.Popen[str]:
    arguments = [
        str(folder / "lake"),
        str(folder / receiver_id),
        receiver_id,
        str(first),
        str(last),
    ]
    return subprocess.Popen(
        [sys.executable, "-m", "tests.unit.lake.append_process", *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
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


def rows_in_lake(folder: Path) -> Counter[tuple[str, int]]:
    """(receiver, position) of every row, by bare DuckDB over what the log lists."""
    uris = DeltaTable(folder / "lake/samples").file_uris()
    rows = duckdb.execute("SELECT metric, value::INT FROM read_parquet($1)", [uris]).fetchall()
    return Counter(rows)


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
    tmp_path: Path, processes: list[subprocess.Popen[str]]
) -> None:
    """LAKE-1, LAKE-6: every acknowledged append is there once."""
    names = [f"receiver-{number}" for number in range(PROCESSES)]
    processes += [start(tmp_path, name, 1, COMMITS) for name in names]
    for process in processes:
        let_go(process)
    for process in processes:
        assert process.stdout is not None
        acknowledged = process.stdout.read().split()
        assert acknowledged == [str(position) for position in range(1, COMMITS + 1)]
        assert process.wait() == 0
    expected = Counter((name, position) for name in names for position in range(1, COMMITS + 1))
    assert rows_in_lake(tmp_path) == expected
    lake = Lake.open(open_store(str(tmp_path / "lake")), single_writer=False, refresh_interval_s=5)
    assert {lake.position("samples", name) for name in names} == {COMMITS}
    lake.close()
    created = {name: DeltaTable(tmp_path / "lake" / name).version() for name in TABLES}
    assert created == {
        "series": PROCESSES * COMMITS,
        "metadata": 0,
        "samples": PROCESSES * COMMITS,
    }


def test_a_process_killed_at_any_moment_leaves_each_acknowledged_row_once(
    tmp_path: Path, processes: list[subprocess.Popen[str]]
) -> None:
    """LAKE-1, LAKE-5: the next one goes on behind the position that the table has."""
    rng = random.Random(7)
    acknowledged = 0
    for _ in range(KILLS):
        lake = Lake.open(
            open_store(str(tmp_path / "lake")), single_writer=False, refresh_interval_s=5
        )
        position = lake.position("samples", "a") or 0
        lake.close()
        assert position >= acknowledged
        process = start(tmp_path, "a", position + 1, position + 1000)
        processes.append(process)
        let_go(process)
        assert process.stdout is not None
        for _ in range(rng.randrange(1, 6)):
            acknowledged = int(process.stdout.readline())
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(rng.uniform(0, 0.02))  # a commit of both tables takes about 10 ms
        process.kill()
        rest = process.stdout.read().split()
        acknowledged = int(rest[-1]) if rest else acknowledged
        process.wait()
    rows = rows_in_lake(tmp_path)
    assert set(rows.values()) == {1}
    reached = max(position for _, position in rows)
    assert acknowledged <= reached
    assert {position for _, position in rows} == set(range(1, reached + 1))
