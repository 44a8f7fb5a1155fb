"""Prometheus writes in, an empty one reads back, and the lake between them lies in a bucket.

    Prometheus A ── remote_write ──► bridge ──► bucket ◄── a bridge that only reads
        └ recorded, then stopped        └──── B asks ────────────┘ equal answers

The road is driven once, by a fixture that collects the differences; the tests are the claims about
it. The bridge that only reads comes to the bucket through a second server over the same folder,
which lets nobody write; what was asked of it stands in that server's access log alone.

A's samples are an hour of an exporter at 15 s, squeezed into ten minutes: Prometheus sends on what
is newer than its own start, and takes nothing that is more than ten minutes ahead.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.integration.azurite import Azurite
from tests.integration.bridge import Bridge, Place
from tests.integration.made_data import Fleet, Span, encode_blocks, made_blocks, push_all
from tests.integration.object_stores import S3Access, S3Request, VersityGw
from tests.integration.promql import PLAIN, Evaluation, Recording, Scale, query
from tests.integration.remote import STALE_BITS, WriteBody, bits_of, make_body, read_samples
from tests.integration.servers import (
    RECEIVER_FLAGS,
    Prometheus,
    Reply,
    fetch,
    find_prometheus,
    reading_config,
    wait_until,
)

SECRET = "Tr0ub4dor-and-3-recognisable-staples"
V2 = "io.prometheus.write.v2.Request"
STEP_COUNT = 240
STEP_S = 2.4
LABELS = {"cluster": "made"}
READER_FLAGS = ("--lake.refresh-interval=1s", "--log.level=debug")
# A commit is seen after the refresh interval at the latest; the rest is slack for two busy cores.
SEEN_S_MAX = 5.0
PHASES = (
    "half from the bucket",
    "from the bucket",
    "after a kill",
    "through a process that only reads",
    "through that process, started anew",
)
ALL_MS = (1_600_000_000_000, 2_000_000_000_000)
DATA = ".parquet"
WRITES = {"PutObject", "DeleteObject", "DeleteObjects", "CopyObject", "PostObject"}


class GuardedGw(VersityGw):
    """Its secret key can be searched for."""

    secret_key = SECRET


def s3_place(access: S3Access, bucket: str) -> Place:
    """A lake in this bucket."""
    return Place(f"s3://{bucket}/lake", access.environment(), access.storage_options())


def one_sample(number: int, **labels: str) -> WriteBody:
    """A request with one sample: minute `number` of 2024-05-30, 12:00."""
    series = (("__name__", "single"), *sorted(labels.items()))
    timestamp_ms = 1_717_070_400_000 + 60_000 * number
    return make_body(2, [(series, [(timestamp_ms, bits_of(float(number)))])])


def read_numbers(bridge: Bridge) -> list[int]:
    """The numbers of the single samples that remote read finds."""
    found = read_samples(bridge.read_url, [("__name__", "=", "single")], *ALL_MS)
    return sorted(
        (timestamp_ms - 1_717_070_400_000) // 60_000
        for _, samples in found
        for timestamp_ms, _ in samples
    )


def is_seen(bridge: Bridge, number: int) -> bool:
    """Whether remote read finds a single sample."""
    return number in read_numbers(bridge)


def data_fetches(requests: list[S3Request]) -> list[S3Request]:
    """Those that fetched something of a data file."""
    return [
        request
        for request in requests
        if request.operation == "GetObject" and request.key.endswith(DATA)
    ]


@dataclass
class Road:
    """What was seen on the way."""

    writer: Bridge
    reader: Bridge
    differences: dict[str, list[str]] = field(default_factory=dict)
    first_fetches: list[S3Request] = field(default_factory=list)
    repeated_fetches: dict[str, list[S3Request]] = field(default_factory=dict)
    seen_s: list[float] = field(default_factory=list)
    reader_requests: list[S3Request] = field(default_factory=list)
    open_file_counts: list[int] = field(default_factory=list)
    shown: dict[str, str] = field(default_factory=dict)

    def keep_what_is_shown(self) -> None:
        """`/metrics` of both bridges."""
        for bridge in (self.writer, self.reader):
            self.shown[f"metrics of {bridge.name}"] = bridge.metrics_text()


def open_file_count(bridge: Bridge) -> int:
    """Files of the cache that it has open."""
    opened = psutil.Process(bridge.pid).open_files()
    return sum(Path(file.path).is_relative_to(bridge.cache_path) for file in opened)


def sample_count(found: Any) -> int:
    """Samples of an answer that are no stale markers."""
    return sum(bits != STALE_BITS for _, samples in found for _, bits in samples)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the stores of this module keep their buckets."""
    return tmp_path_factory.mktemp("road")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[VersityGw]:
    """A store."""
    with GuardedGw(folder / "store") as started:
        yield started


@pytest.fixture(scope="module")
def read_only_server(server: VersityGw, folder: Path) -> Iterator[VersityGw]:
    """The same buckets, and nobody may write."""
    assert server.pid
    flags = ("--readonly",)
    with GuardedGw(folder / "store", flags=flags, name="read-only") as started:
        yield started


@pytest.fixture(scope="module")
def road(server: VersityGw, read_only_server: VersityGw, folder: Path) -> Road:
    """The road, driven."""
    program = find_prometheus(3)
    bucket = server.access.make_bucket()
    writer = Bridge(
        folder / "writer",
        lake=s3_place(server.access, bucket),
        flags=READER_FLAGS,
        name="writer",
    )
    reader = Bridge(
        folder / "reader",
        lake=s3_place(read_only_server.access, bucket),
        mode="read",
        flags=READER_FLAGS,
        name="reader",
    )

    def writing(_port: int) -> Mapping[str, Any]:
        return {
            "global": {"scrape_interval": "1h", "external_labels": LABELS},
            "remote_write": [
                {
                    "url": writer.write_url,
                    "protobuf_message": V2,
                    "queue_config": {"batch_send_deadline": "200ms"},
                }
            ],
        }

    with ExitStack() as stack:
        stack.enter_context(writer)
        truth = Prometheus(program, "A", folder / "A", writing, RECEIVER_FLAGS)
        recording = drive_writes(truth, writer, stack)
        asked = Prometheus(
            program, "B", folder / "B", lambda _: reading_config(writer.read_url, LABELS)
        )
        road = Road(writer, reader)
        with asked:
            road.differences[PHASES[0]] = recording.differences(asked.url, slice(0, None, 3))
            writer.flush()
            server.requests()
            road.differences[PHASES[1]] = recording.differences(asked.url)
            writer.kill_and_start()
            road.differences[PHASES[2]] = recording.differences(asked.url, slice(1, None, 3))
        asked = Prometheus(
            program, "C", folder / "C", lambda _: reading_config(reader.read_url, LABELS)
        )
        stack.enter_context(reader)
        with asked:
            drive_reader(road, recording, asked.url, read_only_server)
        road.keep_what_is_shown()
    return road


def drive_writes(truth: Prometheus, writer: Bridge, stack: ExitStack) -> Recording:
    """All samples through A into the bridge, half of them flushed; what A says of them."""
    with truth:
        # The watcher of A's log sends what is newer than its start.
        fleet = Fleet(30, STEP_S, float(int(time.time()) + 2), signed_zeros=False)
        span = Span(fleet, STEP_COUNT)
        bodies = list(encode_blocks(made_blocks(span), [1, 2], {}))
        end_s = span.end_ms / 1000
        for half in (bodies[: len(bodies) // 2], bodies[len(bodies) // 2 :]):
            push_all(half, f"{truth.url}/api/v1/write")
            wait_until(lambda: is_delivered(truth, writer, end_s), "the bridge has what A has", 30)
            if half[0] is bodies[0]:
                writer.flush()
        start_s = span.start_ms / 1000
        middle_s = start_s + 0.6 * (end_s - start_s)
        recording = Recording(
            Scale("10s", "1m", "5s", "37s", middle_s),
            [Evaluation(middle_s), Evaluation(middle_s + 41.001)],
            [Evaluation(start_s, end_s, 12.0)],
            PLAIN,
        )
        recording.record(truth.url)
    return recording


def is_delivered(truth: Prometheus, writer: Bridge, end_s: float) -> bool:
    """Whether the bridge has as many samples as A."""
    answer = query(truth.url, '{__name__=~".+"}[15m]', Evaluation(end_s))
    found = read_samples(writer.read_url, [("__name__", "=~", ".+")], *ALL_MS)
    assert sample_count(found) <= answer.sample_count
    return sample_count(found) == answer.sample_count


def drive_reader(road: Road, recording: Recording, url: str, store: VersityGw) -> None:
    """Everything twice through the reader, and once more after its restart; then commits."""
    road.differences[PHASES[3]] = recording.differences(url)
    road.first_fetches = data_fetches(seen := store.requests())
    road.reader_requests += seen
    road.open_file_counts.append(open_file_count(road.reader))
    assert recording.differences(url) == road.differences[PHASES[3]]
    road.open_file_counts.append(open_file_count(road.reader))
    road.repeated_fetches["again"] = data_fetches(seen := store.requests())
    road.reader_requests += seen
    road.reader.restart()
    road.differences[PHASES[4]] = recording.differences(url)
    road.repeated_fetches["after its restart"] = data_fetches(seen := store.requests())
    road.reader_requests += seen
    for number in range(3):
        assert one_sample(number).push(road.writer.write_url).status == 204
        road.writer.flush()
        committed_s = time.monotonic()
        wait_until(partial(is_seen, road.reader, number), "the reader sees it", 30)
        road.seen_s.append(time.monotonic() - committed_s)
    road.reader_requests += store.requests()


@pytest.mark.parametrize("phase", PHASES)
def test_an_empty_prometheus_answers_what_the_stopped_one_did(road: Road, phase: str) -> None:
    lines = road.differences[phase]
    assert not lines, f"{len(lines)} differences, {phase}:\n" + "\n".join(lines[:30])


@pytest.mark.parametrize("when", ["again", "after its restart"])
def test_a_query_that_was_asked_before_fetches_no_data(road: Road, when: str) -> None:
    assert road.first_fetches
    assert road.repeated_fetches[when] == []


def test_queries_leave_no_file_of_the_cache_open(road: Road) -> None:
    assert max(road.open_file_counts) <= 1  # its lock


def test_a_process_that_only_reads_sees_each_commit_within_seconds(road: Road) -> None:
    assert max(road.seen_s) < SEEN_S_MAX, road.seen_s


def test_a_process_that_only_reads_never_asks_to_write(road: Road) -> None:
    operations = {request.operation for request in road.reader_requests}
    assert operations <= {"GetObject", "HeadObject", "ListObjectsV2"}, operations
    assert {request.status for request in road.reader_requests} <= {200, 206, 404}
    assert not road.reader.wal_path.exists()


def test_the_secret_key_is_in_no_log_and_in_no_metric(road: Road) -> None:
    shown = dict(road.shown)
    for bridge in (road.writer, road.reader):
        shown[f"log of {bridge.name}"] = bridge.log_path.read_text()
    for text in shown.values():
        assert text
        assert SECRET not in text
    for file in (*road.writer.wal_path.rglob("*"), *road.reader.cache_path.rglob("*")):
        assert not file.is_file() or SECRET.encode() not in file.read_bytes(), file


def test_a_mode_refuses_what_it_does_not_serve_and_names_itself(
    server: VersityGw, tmp_path: Path
) -> None:
    lake = s3_place(server.access, server.access.make_bucket())

    def refused(reply: Reply, mode: str) -> bool:
        return reply.status == 404 and f"mode '{mode}'" in reply.body.decode()

    writer = Bridge(tmp_path / "writer", lake=lake, mode="write", name="writer")
    reader = Bridge(tmp_path / "reader", lake=lake, mode="read", name="reader")
    with writer, reader:
        assert refused(one_sample(1).push(reader.write_url), "read")
        assert refused(fetch("POST", f"{reader.url}/api/v1/admin/flush"), "read")
        assert refused(fetch("POST", writer.read_url), "write")
        assert one_sample(1).push(writer.write_url).status == 204
        assert not writer.cache_path.exists()


def test_a_reader_of_an_empty_bucket_answers_empty_until_a_receiver_commits(
    server: VersityGw, read_only_server: VersityGw, tmp_path: Path
) -> None:
    bucket = server.access.make_bucket()
    reader = Bridge(
        tmp_path / "reader",
        lake=s3_place(read_only_server.access, bucket),
        mode="read",
        flags=READER_FLAGS,
        name="reader",
    )
    writer = Bridge(tmp_path / "writer", lake=s3_place(server.access, bucket), name="writer")
    with reader:
        assert read_numbers(reader) == []
        assert server.access.keys(bucket) == []
        with writer:
            assert one_sample(4).push(writer.write_url).status == 204
            writer.flush()
            wait_until(lambda: read_numbers(reader) == [4], "the reader sees it", SEEN_S_MAX)


def test_a_lake_in_azure_reads_back_equal_after_restarts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Azurite(tmp_path / "azure") as server:
        container = server.access.make_container()
        # Azurite lists more than it is asked for; both libraries know that of the emulator.
        monkeypatch.setenv("AZURITE_BLOB_STORAGE_URL", server.url)
        environment = {
            "AZURE_STORAGE_USE_EMULATOR": "true",
            "AZURE_STORAGE_ACCOUNT_KEY": server.access.key,
            "AZURITE_BLOB_STORAGE_URL": server.url,
        }
        options = {"azure_storage_use_emulator": "true"}
        lake = Place(f"az://{container}/lake", environment, options)
        with Bridge(tmp_path / "bridge", lake=lake, flags=READER_FLAGS) as bridge:
            for number in range(3):
                assert one_sample(number).push(bridge.write_url).status == 204
            bridge.flush()
            assert bridge.lake_row_count() == 3
            assert read_numbers(bridge) == [0, 1, 2]
            assert one_sample(3).push(bridge.write_url).status == 204
            bridge.kill_and_start()
            assert read_numbers(bridge) == [0, 1, 2, 3]
            bridge.restart()
            assert bridge.lake_row_count() == 4
            assert read_numbers(bridge) == [0, 1, 2, 3]
            assert server.access.key not in bridge.metrics_text()
        assert server.access.key not in bridge.log_path.read_text()
