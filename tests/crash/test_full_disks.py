"""A full disk under the WAL, and under the cache: refused or slower, never lost or wrong."""

from pathlib import Path

import pytest

from tests.integration.bridge import Bridge, Place
from tests.integration.faulty_proxy import FaultyProxy, Refuse
from tests.integration.object_stores import S3Access, VersityGw
from tests.integration.processes import wait_until
from tests.integration.scrapes import Scrapes, stored_scrapes
from tests.integration.small_disk import SmallDisk

DISK_BYTES = 16 << 20
# What writes leave free for cut files.
MIN_FREE_BYTES = DISK_BYTES // 4
CACHE_DISK_BYTES = 512 << 10
SERIES_COUNT = 2000
SCRAPES_MAX = 2000
WATCHED_SERIES = 7


def s3_place(access: S3Access, bucket: str) -> Place:
    """A lake in this bucket."""
    return Place(f"s3://{bucket}/lake", access.environment(), access.storage_options())


@pytest.mark.parametrize("is_killed", [False, True], ids=["", "killed"])
def test_a_full_wal_disk_refuses_what_it_cannot_keep_and_recovers_when_the_store_is_back(
    tmp_path: Path, *, is_killed: bool
) -> None:
    scrapes = Scrapes(SERIES_COUNT)
    acknowledged = set()
    with (
        VersityGw(tmp_path / "store") as server,
        FaultyProxy(server.url) as proxy,
        SmallDisk(tmp_path / "disk", DISK_BYTES) as disk,
    ):
        bucket = server.access.make_bucket()
        lake = s3_place(server.access, bucket)
        bridge = Bridge(
            tmp_path,
            wal_path=disk.folder / "wal",
            flush_interval="300ms",
            flags=["--wal.segment-size=1MiB", f"--wal.min-free-bytes={MIN_FREE_BYTES}B"],
            lake=s3_place(server.access.through(proxy.url), bucket),
            prefix=disk.prefix,
        )

        def push(number: int) -> bool:
            reply = scrapes.body(number).push(bridge.write_url)
            if reply.status == 204:
                acknowledged.add(number)
                return True
            assert reply.status == 503, reply
            assert "kept for cut files" in reply.body.decode(), reply
            assert int(reply.headers["Retry-After"]) > 0
            return False

        with bridge:
            rule = proxy.inject(Refuse())
            refused = next(number for number in range(SCRAPES_MAX) if not push(number))
            assert refused > 0
            assert disk.free_bytes <= MIN_FREE_BYTES
            if is_killed:
                bridge.kill_and_start()
            # A start on the full disk keeps what it has, and says no to what does not fit.
            assert bridge.metric('prombridge_sink_pending_samples{sink="lake"}') >= (
                len(acknowledged) * SERIES_COUNT
            )
            refused = next(number for number in range(refused + 1, SCRAPES_MAX) if not push(number))
            proxy.heal(rule)
            wait_until(lambda: push(refused), "the disk has room again", 60)
            bridge.flush()
            assert scrapes.read(bridge.read_url, WATCHED_SERIES) == acknowledged
        found = stored_scrapes(lake, server.buckets_path / bucket / "lake")
        assert found == dict.fromkeys(acknowledged, scrapes.whole)


def test_a_full_cache_disk_costs_requests_and_no_answers(tmp_path: Path) -> None:
    scrapes = Scrapes(SERIES_COUNT)
    with (
        VersityGw(tmp_path / "store") as server,
        SmallDisk(tmp_path / "disk", CACHE_DISK_BYTES) as disk,
    ):
        lake = s3_place(server.access, server.access.make_bucket())
        writer = Bridge(tmp_path / "writer", lake=lake, mode="write", name="writer")
        reader = Bridge(
            tmp_path / "reader",
            lake=lake,
            mode="read",
            cache_path=disk.folder / "cache",
            prefix=disk.prefix,
            name="reader",
        )
        with writer:
            for number in range(30):
                assert scrapes.body(number).push(writer.write_url).status == 204
                writer.flush()
        with reader:
            for _ in range(2):
                for series in (0, WATCHED_SERIES, SERIES_COUNT - 1):
                    assert scrapes.read(reader.read_url, series) == set(range(30))
            assert "bytes are left to others" in reader.log_path.read_text()
