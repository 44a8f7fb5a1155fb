"""Both sinks behind one face: what the contract says in terms of samples.

A harness is a WAL with its ingest thread and the two sinks on a folder, the one under test with a
destination that can be made to fail. Samples are numbered; number n is the sample at NOW_MS + n.
"""

import asyncio
import queue
import shutil
import threading
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from deltalake import DeltaTable
from prometheus_client import CollectorRegistry

from bridge.lake.data_file import DataFile
from bridge.lake.lake import Lake
from bridge.lake.schema import SAMPLES
from bridge.lake.store import open_store
from bridge.model.options import Duration, Size
from bridge.write.head import HeadSettings
from bridge.write.ingest import WriteJob, WriteSettings
from bridge.write.sinks.cursor import Cursor
from bridge.write.sinks.influxdb.settings import InfluxdbSettings
from bridge.write.sinks.metrics import SinkState
from bridge.write.wal.log import WalSettings, WriteAheadLog
from bridge.write.write_path import WritePath
from tests.integration.destinations import influxdb_samples
from tests.integration.faults import Cut, Error, Fault, Refuse, Rule
from tests.integration.faulty_proxy import FaultyProxy
from tests.integration.influxdb import InfluxDb
from tests.integration.processes import wait_until
from tests.oracle.bodies import Series, v1_body

NOW_MS = 1_790_000_000_000
ANSWER_S_MAX = 10.0
SETTLED_S_MAX = 30.0


class FaultyLake(Lake):
    """A lake whose commits fail as they are told to."""

    fail_before = 0
    fail_after = 0
    is_away = False

    def connect(self) -> None:
        if self.is_away:
            raise OSError("the store is away")
        super().connect()

    def commit(
        self, table: str, files: Sequence[DataFile], *, receiver_id: str, position: int
    ) -> bool:
        if self.is_away:
            raise OSError("the store is away")
        if self.fail_before and table == SAMPLES:
            self.fail_before -= 1
            raise OSError("nothing happened")
        done = super().commit(table, files, receiver_id=receiver_id, position=position)
        if self.fail_after and table == SAMPLES:
            self.fail_after -= 1
            raise OSError("no answer, and yet it happened")
        return done


class Harness(ABC):
    """A process' write path on a folder; may be closed and opened again."""

    sink: SinkState

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.registry = CollectorRegistry()
        self.lake = FaultyLake(open_store(str(folder / "lake")), refresh_interval_s=0)
        self._loop = asyncio.new_event_loop()
        self._answers: queue.SimpleQueue[WriteJob] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self.accepted_count = 0

    def open(self) -> None:
        """Starts, as a process does."""
        self.lake = FaultyLake(open_store(str(self.folder / "lake")), refresh_interval_s=0)
        self.lake.connect()
        self.registry = CollectorRegistry()
        settings = WalSettings(self.folder / "wal", segment_size=Size(1))
        self.wal = WriteAheadLog(settings)
        self.path = WritePath(
            self.wal,
            self.lake,
            WriteSettings(),
            HeadSettings(),
            self.influxdb_settings(),
            wal_settings=settings,
            flush_interval=Duration(3600),
            body_timeout_s=30,
            answer=self._answer,
            registry=self.registry,
        )
        self.sink = self.own_sink()
        self._threads = [
            threading.Thread(target=run, name=name) for name, run in self.path.workers()
        ]
        for thread in self._threads:
            thread.start()
        wait_until(lambda: self.path.is_ready, "the WAL is replayed", ANSWER_S_MAX)

    def _answer(self, jobs: list[WriteJob]) -> None:
        for job in jobs:
            self._answers.put(job)

    def accept(self, first: int, count: int = 1) -> None:
        """Samples `first` and following, one request each, answered with success."""
        for number in range(first, first + count):
            body = v1_body([Series({"__name__": "m"}, [(NOW_MS + number, float(number))])])
            self.path.receiver._ingest.submit(
                WriteJob(body, 1, NOW_MS, asyncio.Future(loop=self._loop))
            )
            assert self._answers.get(timeout=ANSWER_S_MAX).error is None
            self.accepted_count += 1

    def settle(self) -> None:
        """Waits until everything accepted is delivered or dropped."""
        self.push()
        wait_until(self._is_settled, "everything is settled", SETTLED_S_MAX)

    def _is_settled(self) -> bool:
        return self.sink.cursor.sample_total == self.wal.safe_sample_total

    def check_ledger(self) -> Cursor:
        """accepted = delivered + pending + dropped, from one look at the cursor."""
        cursor = self.sink.cursor
        done = cursor.delivered + sum(cursor.dropped.values())
        assert cursor.sample_total - cursor.start_total == done
        pending = self.wal.safe_sample_total - cursor.sample_total
        assert self.wal.safe_sample_total - cursor.start_total == done + pending
        assert pending >= 0
        return cursor

    def metric(self, name: str) -> float | None:
        """What `/metrics` says about the sink."""
        return self.registry.get_sample_value(f"prombridge_sink_{name}", {"sink": self.sink.name})

    def close(self) -> None:
        """Stops without a flush; what is not delivered is left for the next time."""
        self.path.lake_sink.stop()
        if self.path._influxdb_sink is not None:
            self.path._influxdb_sink.stop()
        self.path._ingest.stop()
        for thread in self._threads:
            thread.join(ANSWER_S_MAX)
            assert not thread.is_alive(), f"{thread.name} runs on"
        self.wal.close()
        self.lake.close()

    def die(self) -> None:
        """As `close`, but nothing that the end of a thread stores is left: a SIGKILL."""
        cursors = list((self.folder / "wal").glob("*.cursor"))
        kept = self.folder / "kept"
        shutil.rmtree(kept, ignore_errors=True)
        kept.mkdir()
        for path in cursors:
            shutil.copy(path, kept / path.name)
        self.close()
        for path in cursors:
            shutil.copy(kept / path.name, path)

    def dispose(self) -> None:
        """The end of a test."""
        self._loop.close()

    @abstractmethod
    def influxdb_settings(self) -> InfluxdbSettings:
        """Of the section `influxdb`."""

    @abstractmethod
    def own_sink(self) -> SinkState:
        """The sink under test."""

    @abstractmethod
    def push(self) -> None:
        """Begins to deliver what was accepted."""

    @abstractmethod
    def fail(self, times: int, *, has_stored: bool) -> None:
        """The next deliveries fail, before or after the destination has stored them."""

    @abstractmethod
    def set_away(self, *, is_away: bool) -> None:
        """Nothing answers, or it does again."""

    @abstractmethod
    def held(self) -> Counter[int]:
        """Numbers of the samples that the destination has, by an independent reader."""


class LakeHarness(Harness):
    """The lake sink, over a folder."""

    def influxdb_settings(self) -> InfluxdbSettings:
        return InfluxdbSettings()

    def own_sink(self) -> SinkState:
        return self.path.lake_sink

    def push(self) -> None:
        self.path.flush(lambda _: None)

    def fail(self, times: int, *, has_stored: bool) -> None:
        if has_stored:
            self.lake.fail_after = times
        else:
            self.lake.fail_before = times

    def set_away(self, *, is_away: bool) -> None:
        self.lake.is_away = is_away

    def held(self) -> Counter[int]:
        table = DeltaTable(str(self.folder / "lake" / SAMPLES)).to_pyarrow_table()
        return Counter(time_ms - NOW_MS for time_ms in table["timestamp_ms"].to_pylist())


class InfluxdbHarness(Harness):
    """The InfluxDB sink, over a real server behind a faulty network."""

    def __init__(self, folder: Path, server: InfluxDb, proxy: FaultyProxy) -> None:
        super().__init__(folder)
        self._server = server
        self._proxy = proxy
        self._refusing: Rule | None = None
        self.bucket = server.make_bucket()
        (folder / "token").write_text(server.token)

    def influxdb_settings(self) -> InfluxdbSettings:
        return InfluxdbSettings(
            url=self._proxy.url,
            org=self._server.org,
            bucket=self.bucket,
            token_file=self.folder / "token",
            start="oldest",
            timeout=Duration(5),
            dead_letter_path=self.folder / "dead-letters.lp",
        )

    def own_sink(self) -> SinkState:
        assert self.path._influxdb_sink is not None
        return self.path._influxdb_sink

    def push(self) -> None:
        """It follows by itself."""

    def fail(self, times: int, *, has_stored: bool) -> None:
        fault: Fault = Cut(0) if has_stored else Error(503, b"later")
        self._proxy.inject(fault, path="/api/v2/write", times=times)

    def set_away(self, *, is_away: bool) -> None:
        if is_away:
            self._refusing = self._proxy.inject(Refuse())
        else:
            self._proxy.heal(self._refusing)

    def held(self) -> Counter[int]:
        samples = influxdb_samples(self._server, self.bucket, "measurement-per-metric")
        return Counter(timestamp_ms - NOW_MS for _, timestamp_ms in samples)
