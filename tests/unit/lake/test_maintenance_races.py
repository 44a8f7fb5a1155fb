"""Maintainers, receivers and readers on one lake at once, in a folder and on S3; and SIGKILL."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from bridge.lake.data_file import DataFile
from bridge.lake.lake import Lake
from bridge.lake.maintenance import LakeView, MaintenanceLake, Superseded, key_of, put_file
from bridge.lake.schema import SAMPLES, SAMPLES_5M
from bridge.lake.store import Store, open_store
from tests.integration.object_stores import VersityGw, s3_access
from tests.unit.lake.made_files import DAY, DAY_START_MS, one_sample
from tests.unit.lake.made_maintenance import (
    STEPS,
    Maintenance,
    Sample,
    compacted,
    read_samples,
    rollup,
)

ROOT = Path(__file__).parents[3]
RACES = {"folder": 50, "s3": 20}
APPENDS = 30
KILLS = 6
ALL_TIME = (-(1 << 62), 1 << 62)


class Place:
    """A lake, and what a process needs in its environment to get there."""

    def __init__(self, kind: str, uri: str, environment: dict[str, str], folder: Path) -> None:
        self.kind = kind
        self.uri = uri
        self.environment = environment
        self.cut = folder / "cut"
        self.cut.mkdir()
        self.opened = contextlib.ExitStack()
        self.processes: list[subprocess.Popen[str]] = []

    def store(self) -> Store:
        return self.opened.enter_context(open_store(self.uri, self.environment))

    def receiver(self) -> Lake:
        lake = Lake.open(self.store(), single_writer=False, refresh_interval_s=0)
        self.opened.callback(lake.close)
        return lake

    def maintenance(self) -> Maintenance:
        lake = self.opened.enter_context(MaintenanceLake.open(self.store()))
        return Maintenance(self.store(), lake, self.cut)

    def append(self, lake: Lake, receiver_id: str, position: int) -> None:
        file = one_sample(
            self.cut / f"f-{receiver_id}-{position}.parquet",
            receiver_id,
            timestamp_ms=DAY_START_MS + position,
            value=position,
        )
        lake.commit(SAMPLES, [file], receiver_id=receiver_id, position=position)

    def table(self, name: str) -> pa.Table:
        """What delta-rs' own reader finds."""
        options = self.environment or None
        return DeltaTable(f"{self.uri}/{name}", storage_options=options).to_pyarrow_table()

    def samples(self) -> Counter[Sample]:
        rows = self.table(SAMPLES).to_pylist()
        return Counter((row["metric"], int(row["value"])) for row in rows)

    def counts(self) -> Counter[str]:
        """Samples that the 5m rows stand for, by metric; each row must be there once."""
        counts: Counter[str] = Counter()
        for row in self.table(SAMPLES_5M).to_pylist():
            assert row["metric"] not in counts
            counts[row["metric"]] = row["count"]
        return counts

    def start(self, name: str, *arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", f"tests.unit.lake.{name}", self.uri, *arguments],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)} | self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)
        return process

    def close(self) -> None:
        self.opened.close()
        for process in self.processes:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None and not stream.closed:
                    stream.close()


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    with contextlib.ExitStack() as stack:
        if request.param == "folder":
            made = Place("folder", str(tmp_path / "lake"), {}, tmp_path)
        else:
            access = stack.enter_context(s3_access(tmp_path / "s3"))
            uri = f"s3://{access.make_bucket()}/lake"
            made = Place("s3", uri, access.environment(), tmp_path)
        try:
            yield made
        finally:
            made.close()


def let_go(process: subprocess.Popen[str]) -> None:
    """Waits until the lake is open, then lets it work."""
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.readline().strip() == "open"
    process.stdin.write("\n")
    process.stdin.flush()


@pytest.mark.parametrize("table", [SAMPLES, SAMPLES_5M])
def test_of_two_maintainers_that_commit_at_once_one_wins(place: Place, table: str) -> None:
    """LAKE-15: while a receiver appends; swaps of `samples`, rollups with nothing to replace."""
    receiver, rivals = place.receiver(), [place.maintenance(), place.maintenance()]

    def commit(number: int, view: LakeView, add: DataFile, gate: threading.Barrier) -> bool:
        removes = view.files[SAMPLES] if table == SAMPLES else ()
        gate.wait()
        try:
            rivals[number].lake.commit(table, view=view, adds=[add], removes=removes)
        except Superseded:
            return False
        return True

    with ThreadPoolExecutor(2) as pool:
        for race in range(RACES[place.kind]):
            place.append(receiver, "a", 2 * race + 1)
            views = [rival.lake.view() for rival in rivals]
            adds = [
                compacted(place.cut, read_samples(place.store(), views[0].files[SAMPLES]))
                if table == SAMPLES
                else rollup(place.cut, {"a": 1})
                for _ in rivals
            ]
            for rival, add in zip(rivals, adds, strict=True):
                put_file(rival._store, table, add)
            gate = threading.Barrier(3)
            running = [
                pool.submit(commit, number, views[number], adds[number], gate)
                for number in range(len(rivals))
            ]
            gate.wait()
            place.append(receiver, "a", 2 * race + 2)
            assert sorted(one.result() for one in running) == [False, True]
            assert rivals[0].lake.view().maintenance_versions[table] == race + 1
    races = RACES[place.kind]
    assert place.samples() == Counter(("a", value) for value in range(1, 2 * races + 1))
    if table == SAMPLES_5M:
        assert place.table(table).num_rows == races


def test_maintainers_receivers_and_readers_in_processes_of_their_own_lose_and_double_nothing(
    place: Place,
) -> None:
    """LAKE-1, LAKE-15, LAKE-16: and files that were replaced vanish under the readers."""
    place.maintenance()  # makes the tables
    receivers = {
        name: place.start("append_process", str(place.cut / name), name, "1", str(APPENDS))
        for name in ("a", "b")
    }
    maintainers = [
        place.start("maintain_process", str(place.cut / name)) for name in ("first", "second")
    ]
    reader, store = place.receiver(), place.store()
    for process in (*receivers.values(), *maintainers):
        let_go(process)
    for process in receivers.values():
        assert process.stdin is not None
        process.stdin.close()
    read_count = 0
    seen: set[Sample] = set()
    known: set[str] = set()
    while True:
        is_last = all(process.poll() is not None for process in receivers.values())
        snapshot = reader.snapshot(force=True)
        keys = {
            file.path.removeprefix(f"{place.uri}/")
            for file in snapshot.sample_files(None, *ALL_TIME)
        }
        # What the maintenance replaced is deleted at once, as a vacuum of long ago would.
        for key in known - keys:
            store.delete(key)
        known |= keys
        try:
            rows = read(store, keys)
        except FileNotFoundError:
            continue  # once more on a newer snapshot
        read_count += 1
        assert set(rows.values()) <= {1}
        assert seen <= set(rows)
        seen = set(rows)
        if is_last:
            break
    for process in receivers.values():
        assert process.stdout is not None
        assert process.stdout.read().split()[-1:] == [str(APPENDS)]
        assert process.wait() == 0
    finish(maintainers)
    expected = {(name, value) for name in receivers for value in range(1, APPENDS + 1)}
    assert place.samples() == Counter(expected)
    assert place.counts() == dict.fromkeys(receivers, APPENDS)
    assert read_count > 0


def read(store: Store, keys: set[str]) -> Counter[Sample]:
    """The rows of files, each opened by its key."""
    rows: Counter[Sample] = Counter()
    for key in sorted(keys):
        body = store.read(key)
        if body is None:
            raise FileNotFoundError(key)
        table = pq.read_table(pa.BufferReader(body), columns=["metric", "value"])
        rows.update((row["metric"], int(row["value"])) for row in table.to_pylist())
    return rows


def finish(maintainers: list[subprocess.Popen[str]]) -> None:
    """Lets them do what is due, and end."""
    for process in maintainers:
        assert process.stdin is not None
        process.stdin.close()
    for process in maintainers:
        assert process.stdout is not None
        assert set(process.stdout.read().split()) <= {"done", "superseded"}
        assert process.wait() == 0


@pytest.mark.parametrize("step", STEPS)
def test_what_a_maintenance_left_when_it_was_killed_the_next_one_finishes(
    place: Place, step: str
) -> None:
    """LAKE-15, LAKE-17: between any two steps, the commits of two tables among them."""
    receiver, position = place.receiver(), 0
    for _ in range(2):  # the second finds what the first left
        for _ in range(3):
            position += 1
            place.append(receiver, "a", position)
        process = place.start("maintain_process", str(place.cut / "killed"), step)
        let_go(process)
        assert process.wait() == -signal.SIGKILL
        assert place.samples() == Counter(("a", value) for value in range(1, position + 1))
        is_rolled_up = STEPS.index(step) >= STEPS.index(SAMPLES_5M)
        assert place.counts() == ({"a": position} if is_rolled_up else {})
    maintenance = place.maintenance()
    assert maintenance.run() == (step != STEPS[-1])
    assert not maintenance.run()
    assert place.samples() == Counter(("a", value) for value in range(1, position + 1))
    assert place.counts() == {"a": position}


def test_a_maintenance_killed_at_any_moment_loses_and_doubles_nothing(place: Place) -> None:
    """LAKE-15, LAKE-17."""
    rng = random.Random(11)
    receiver = place.receiver()
    position = 0
    for number in range(KILLS):
        process = place.start("maintain_process", str(place.cut / f"{number}"))
        let_go(process)
        assert process.stdout is not None
        for _ in range(rng.randrange(1, 4)):
            position += 1
            place.append(receiver, "a", position)
            assert process.stdout.readline().strip() == "done"
        position += 1
        place.append(receiver, "a", position)
        with contextlib.suppress(subprocess.TimeoutExpired):
            # A pass takes some 50 ms in a folder, 200 ms on S3.
            process.wait(rng.uniform(0, 0.2 if place.kind == "s3" else 0.05))
        process.kill()
        process.wait()
        assert place.samples() == Counter(("a", value) for value in range(1, position + 1))
    maintenance = place.maintenance()
    maintenance.run()
    assert place.samples() == Counter(("a", value) for value in range(1, position + 1))
    assert place.counts() == {"a": position}


def test_vacuum_deletes_what_was_replaced_in_any_store(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LAKE-19: without the day of grace, for nobody can make an object of a bucket old."""
    vacuum = DeltaTable.vacuum

    def vacuum_at_once(self: DeltaTable, **of: Any) -> list[str]:
        return vacuum(self, **of | {"retention_hours": 0})

    monkeypatch.setattr(DeltaTable, "vacuum", vacuum_at_once)
    receiver, maintenance = place.receiver(), place.maintenance()
    for position in (1, 2):
        place.append(receiver, "a", position)
    assert maintenance.run()
    orphan = compacted(place.cut, [("a", 1)])
    put_file(maintenance._store, SAMPLES, orphan)
    assert maintenance.lake.vacuum() == [
        key_of(SAMPLES, orphan),
        *(f"samples/date={DAY}/f-a-{position}.parquet" for position in (1, 2)),
    ]
    assert maintenance.lake.vacuum() == []
    assert place.maintenance().lake.vacuum() == []
    assert place.samples() == Counter([("a", 1), ("a", 2)])
    assert place.counts() == {"a": 2}


def test_a_receiver_and_its_own_maintenance_overwrite_nothing_of_one_another(
    tmp_path: Path,
) -> None:
    """LAKE-6: a store without put-if-absent, a single writer, two threads that commit."""
    with VersityGw(tmp_path / "s3", honours_conditions=False) as server:
        access = server.access
        made = Place("s3", f"s3://{access.make_bucket()}/lake", access.environment(), tmp_path)
        store = made.store()
        lake = Lake(store, refresh_interval_s=0, single_writer=True, owner="me")
        lake.connect()
        with MaintenanceLake.open(store, is_locked=True) as maintained:
            maintenance = Maintenance(store, maintained, made.cut)

            def append() -> None:
                for number in range(1, APPENDS + 1):
                    made.append(lake, "me", number)

            appending = threading.Thread(target=append)
            appending.start()
            while appending.is_alive():
                maintenance.run()
            maintenance.run()
        lake.close()
        assert made.samples() == Counter(("me", number) for number in range(1, APPENDS + 1))
        made.close()
