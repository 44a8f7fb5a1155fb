"""Reads of a lake in a bucket: what the S3 server itself says was fetched."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.bridge import Bridge, Place
from tests.integration.object_stores import VersityGw
from tests.integration.remote import bits_of, make_body, read_samples

SERIES = 50
FLUSHES = 6
COUNT = 20


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VersityGw]:
    with VersityGw(tmp_path_factory.mktemp("s3")) as started:
        yield started


@pytest.fixture
def place(server: VersityGw) -> Place:
    bucket = server.access.make_bucket()
    access = server.access
    return Place(f"s3://{bucket}/lake", access.environment(), access.storage_options())


def fill(bridge: Bridge, end_ms: int) -> None:
    """A file of a minute's length or so for each of several flushes."""
    for flush in range(FLUSHES):
        series = [
            (
                (("__name__", "up"), ("instance", str(number))),
                [
                    (end_ms - ((FLUSHES - flush) * COUNT - step) * 1000, bits_of(float(step)))
                    for step in range(COUNT)
                ],
            )
            for number in range(SERIES)
        ]
        assert make_body(1, series).push(bridge.write_url).status == 204
        bridge.flush()


def ask(bridge: Bridge, end_ms: int) -> int:
    """How many samples a read finds."""
    found = read_samples(bridge.read_url, [("__name__", "=", "up")], end_ms - 3_600_000, end_ms)
    assert len(found) == SERIES
    return sum(len(samples) for _, samples in found)


def data_requests(server: VersityGw) -> int:
    """Requests for files of the lake since the last call; the log is not among them."""
    return sum(
        request.operation != "PutObject"
        and request.key.endswith(".parquet")
        and "_delta_log" not in request.key
        for request in server.requests()
    )


def test_a_second_query_asks_for_no_data_nor_does_one_after_a_restart(
    server: VersityGw, place: Place, tmp_path: Path
) -> None:
    end_ms = time.time_ns() // 1_000_000
    with Bridge(tmp_path / "writer", lake=place) as writer:
        fill(writer, end_ms)
    reader = Bridge(tmp_path / "reader", lake=place, mode="read")
    with reader:
        data_requests(server)
        assert ask(reader, end_ms) == SERIES * FLUSHES * COUNT
        # A file of samples each, fetched whole with its footer, and the files of series.
        assert FLUSHES < data_requests(server) <= 2 * FLUSHES
        assert ask(reader, end_ms) == SERIES * FLUSHES * COUNT
        assert data_requests(server) == 0
        reader.restart()
        assert ask(reader, end_ms) == SERIES * FLUSHES * COUNT
        assert data_requests(server) == 0
        reader.kill_and_start()
        assert ask(reader, end_ms) == SERIES * FLUSHES * COUNT
        assert data_requests(server) == 0


def test_a_reader_beside_a_writer_has_a_cache_of_its_own(
    server: VersityGw, place: Place, tmp_path: Path
) -> None:
    end_ms = time.time_ns() // 1_000_000
    with (
        Bridge(tmp_path / "both", lake=place) as writer,
        Bridge(tmp_path / "both", lake=place, mode="read", name="reader") as reader,
    ):
        fill(writer, end_ms)
        for bridge in (writer, reader):
            assert ask(bridge, end_ms) == SERIES * FLUSHES * COUNT
            data_requests(server)
            assert ask(bridge, end_ms) == SERIES * FLUSHES * COUNT
            assert data_requests(server) == 0
    assert sorted(path.name for path in (tmp_path / "both" / "cache").iterdir()) == ["0", "1"]
