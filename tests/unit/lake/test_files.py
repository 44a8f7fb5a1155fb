"""Files in a bucket: what a query fetches of them, and what it does when it cannot."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from obstore.exceptions import GenericError
from obstore.store import MemoryStore

from bridge.errors import CorruptionError, QueryCancelled, StorageUnavailable
from bridge.lake import files, footers, parquet
from bridge.lake.block_file import DATA_SUFFIX
from bridge.lake.cached_file import CachedFile
from bridge.lake.file_cache import FileCache, Held, Part, fetch_from
from bridge.lake.files import Files
from bridge.lake.footers import FooterCache
from bridge.lake.scan import Scan
from bridge.lake.slices import Units
from bridge.lake.store import Store
from bridge.read.budget import Budget
from bridge.read.reader import Reader
from bridge.read.request import IgnoredMatchers, decode_request
from bridge.read.settings import ReadSettings
from tests.oracle.lake_files import FileLake, LakeRow, canonical
from tests.oracle.remote_lake import RemoteLake
from tests.oracle.remote_read import CHUNKS, Query, read_frames, request_message
from tests.oracle.tsdb import OracleMatcher

T = 1_795_219_200_000
DAY = 86_400_000
STEP = 15_000
SETTINGS = ReadSettings()


def nothing() -> None:
    pass


def made(metric: str, series_count: int, count: int, after_ms: int = T) -> list[LakeRow]:
    return [
        (
            canonical({"__name__": metric, "series": str(series)}),
            after_ms + STEP * (step + 1),
            series * 1000 + step,
            "",
        )
        for series in range(series_count)
        for step in range(count)
    ]


@pytest.fixture
def lake(tmp_path: Path) -> FileLake:
    (tmp_path / "local").mkdir()
    return FileLake(tmp_path / "local")


@pytest.fixture
def remote(lake: FileLake, tmp_path: Path) -> Iterator[RemoteLake]:
    with (
        # Nothing is fetched along, so that what is asked for is what is needed.
        patch.object(footers, "WHOLE_BYTES_MAX", 1),
        patch.object(footers, "GROUP_FOOTER_BYTES", 400),
        patch.object(parquet, "SAMPLE_ROWS", 200),
        patch.object(parquet, "SAMPLE_ROWS_MIN", 200),
        RemoteLake(lake, tmp_path / "cache") as made_remote,
    ):
        yield made_remote


def budget() -> Budget:
    return Budget(SETTINGS.max_samples, SETTINGS.max_query_bytes, SETTINGS.timeout, lambda: 0.0)


def ask(
    reader: Reader, metric: str, *, until_ms: int = T + 40 * DAY, **labels: str
) -> list[tuple[Any, int]]:
    """Labels and number of samples of every series."""
    matchers = [OracleMatcher("__name__", "=", metric)]
    matchers += [OracleMatcher(name, "=", value) for name, value in labels.items()]
    message = request_message([Query(T, until_ms, matchers)], [CHUNKS])
    body = b"".join(reader.run(decode_request(message, IgnoredMatchers((), ())), budget()).pieces)
    return [
        (frame.labels, sum(len(chunk.samples) for chunk in frame.chunks))
        for frame in read_frames(body)
    ]


def reader_of(remote: RemoteLake) -> Reader:
    return Reader(SETTINGS, remote, None, remote.files)


def test_a_query_is_fetched_once_and_never_again(lake: FileLake, remote: RemoteLake) -> None:
    for minute in range(5):
        lake.add(made("up", 30, 4, T + minute * 60_000))
    first = ask(reader_of(remote), "up")
    assert [count for _, count in first] == [20] * 30
    assert remote.take_requests() > 0
    # A reader of its own has parsed no footer yet: all of it comes from the disk.
    assert ask(reader_of(remote), "up") == first
    assert remote.take_requests() == 0
    remote.restart()
    assert ask(reader_of(remote), "up") == first
    assert remote.take_requests() == 0


def open_copies(folder: Path) -> int:
    """Descriptors of this process on files of the cache there."""
    links = []
    for path in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # of the listing itself
            links.append(str(path.readlink()))
    return sum(link.startswith(str(folder)) and DATA_SUFFIX in link for link in links)


def test_a_query_leaves_no_file_open(lake: FileLake, remote: RemoteLake, tmp_path: Path) -> None:
    """pyarrow lets go of what it reads without closing it."""
    for minute in range(5):
        lake.add(made("up", 30, 4, T + minute * 60_000))
    reader = reader_of(remote)
    for _ in range(3):
        assert len(ask(reader, "up")) == 30
        assert open_copies(tmp_path) == 0
    assert remote.take_requests() > 0
    path = remote.sample_files()[0]
    with remote.cache.hold([Part(path.path, path.size_bytes, [(0, 4)])], nothing) as held:
        source = pa.PythonFile(held.open(path.path), mode="r")
        assert source.read(4) == b"PAR1"
        assert open_copies(tmp_path) == 1
        del source
        assert open_copies(tmp_path) == 0


def test_what_is_fetched_of_a_file_is_what_pyarrow_reads(
    lake: FileLake, remote: RemoteLake
) -> None:
    """LAKE-13."""
    lake.add(made("a", 20, 60) + made("b", 20, 60) + made("c", 3, 60))
    lake.add(made("b", 20, 60, T + DAY))
    asked: set[tuple[str, int, int]] = set()
    reads: set[tuple[str, int, int]] = set()
    hold, read_at = FileCache.hold, CachedFile._read_at

    def held(self: FileCache, parts: Sequence[Part], check: Any) -> Held:
        asked.update((part.key, *one) for part in parts for one in part.ranges)
        return hold(self, parts, check)

    def read(self: CachedFile, offset: int, length: int) -> bytes:
        reads.add((self._file.key, offset, length))
        return read_at(self, offset, length)

    reader = reader_of(remote)
    with patch.object(FileCache, "hold", held), patch.object(CachedFile, "_read_at", read):
        reader.footers.fetch(remote.sample_files(), nothing)
        asked.clear()
        reads.clear()
        assert [count for _, count in ask(reader, "b")] == [120] * 20
    columns = {one for one in asked if one[0].endswith(("f-1.parquet", "f-3.parquet"))}
    assert columns
    assert columns == {one for one in reads if one[0].endswith(("f-1.parquet", "f-3.parquet"))}
    assert remote.cache.unforeseen_count == 0


def test_few_series_fetch_few_row_groups(lake: FileLake, remote: RemoteLake) -> None:
    lake.add(made("a", 40, 60) + made("b", 40, 60))
    reader = reader_of(remote)
    reader.footers.fetch(remote.sample_files(), nothing)
    before_bytes = remote.cache.miss_bytes
    assert [count for _, count in ask(reader, "b", series="7")] == [60]
    assert remote.cache.miss_bytes - before_bytes < lake.samples[0].size_bytes / 4
    assert remote.cache.unforeseen_count == 0


def test_footers_longer_than_expected_take_one_more_round(
    lake: FileLake, remote: RemoteLake
) -> None:
    for metric in "abc":
        lake.add(made(metric, 40, 60))
    every = remote.sample_files()
    with patch.object(footers, "GROUP_FOOTER_BYTES", 10):
        found = remote_footers(remote).fetch(every, nothing)
    assert remote.take_requests() == 6
    local = FooterCache(1 << 20).fetch([file.lake_file() for file in lake.samples], nothing)
    assert [one.metric_minima for one in found] == [one.metric_minima for one in local]
    assert [one.parsed.to_dict() for one in found] == [one.parsed.to_dict() for one in local]


def remote_footers(remote: RemoteLake) -> FooterCache:
    return FooterCache(1 << 20, remote.files)


def test_footers_of_a_query_are_fetched_in_parallel(lake: FileLake, remote: RemoteLake) -> None:
    for metric in "abcd":
        lake.add(made(metric, 2, 4))
    together = threading.Barrier(4, timeout=10)
    fetch_range = Store.fetch_range

    def fetch(self: Store, key: str, offset: int, length: int) -> tuple[bytes, int]:
        together.wait()
        return fetch_range(self, key, offset, length)

    every = remote.sample_files()
    with (
        patch.object(footers, "GROUP_FOOTER_BYTES", 10_000),
        patch.object(Store, "fetch_range", fetch),
    ):
        remote_footers(remote).fetch(every, nothing)


def test_what_is_held_at_a_time_is_bounded(lake: FileLake, remote: RemoteLake) -> None:
    for minute in range(12):
        lake.add(made("up", 50, 20, T + minute * 300_000))
    most = 0
    hold = FileCache.hold

    def held(self: FileCache, parts: Sequence[Part], check: Any) -> Held:
        nonlocal most
        most = max(most, sum(length for part in parts for _, length in part.ranges))
        return hold(self, parts, check)

    item_bytes = max(file.size_bytes for file in lake.samples)
    with patch.object(files, "STEP_BYTES_MAX", 5000), patch.object(FileCache, "hold", held):
        assert [count for _, count in ask(reader_of(remote), "up")] == [240] * 50
    assert 5000 < most < 5000 + item_bytes
    assert remote.cache.unforeseen_count == 0


def test_a_large_file_is_held_in_parts(lake: FileLake, remote: RemoteLake) -> None:
    lake.add(made("up", 100, 100))
    with patch.object(files, "STEP_BYTES_MAX", 100):
        assert [count for _, count in ask(reader_of(remote), "up")] == [100] * 100
    assert remote.cache.unforeseen_count == 0


def test_slices_are_fetched_ahead_in_one_round(lake: FileLake, remote: RemoteLake) -> None:
    for minute in range(4):
        lake.add(made("up", 50, 20, T + minute * 300_000))
    reader = Reader(SETTINGS, remote, None, remote.files, rows_max=200)
    reader.footers.fetch(remote.sample_files(), nothing)
    rounds: list[int] = []
    fetch_runs = FileCache._fetch_runs

    def fetch(self: FileCache, runs: Any, check: Any) -> None:
        rounds.append(len(runs))
        fetch_runs(self, runs, check)

    with patch.object(FileCache, "_fetch_runs", fetch):
        assert [count for _, count in ask(reader, "up")] == [80] * 50
    # What the slices read is the last; series came before.
    assert len(rounds) <= 3
    assert remote.cache.unforeseen_count == 0


def test_a_cache_smaller_than_the_query_costs_no_answer(lake: FileLake, tmp_path: Path) -> None:
    for minute in range(5):
        lake.add(made("up", 30, 20, T + minute * 300_000))
    with RemoteLake(lake, tmp_path / "cache", bytes_max=1, block_bytes=4096) as remote:
        assert [count for _, count in ask(reader_of(remote), "up")] == [100] * 30
        assert remote.cache.size_bytes <= 1


def test_an_object_of_another_size_names_both(lake: FileLake, remote: RemoteLake) -> None:
    lake.add(made("up", 10, 60))
    [file] = remote.sample_files()
    key = Path(file.path).name
    raw = remote.store.read(key)
    assert raw is not None
    # Longer; shorter than where the footer begins; shorter than where it ends.
    for body in (raw + b"x", raw[:100], raw[:-1]):
        remote.objects.put(key, body)
        with pytest.raises(
            CorruptionError, match=f"{key} has {len(body)} bytes, .* says {len(raw)}"
        ):
            remote_footers(remote).fetch([file], nothing)


def test_a_file_that_is_no_parquet_is_named(lake: FileLake, remote: RemoteLake) -> None:
    lake.add(made("up", 10, 60))
    [file] = remote.sample_files()
    remote.objects.put(Path(file.path).name, bytes(file.size_bytes))
    with pytest.raises(CorruptionError, match=r"f-1\.parquet does not end as a Parquet file"):
        remote_footers(remote).fetch([file], nothing)


def test_a_vanished_object_starts_the_query_anew_on_a_fresh_snapshot(
    lake: FileLake, remote: RemoteLake
) -> None:
    lake.add(made("up", 5, 20))
    remote.snapshot()
    remote.objects.delete(lake.samples[0].path.name)
    # What a compaction would have put in its place.
    snapshot = lake.snapshot

    def moved(*, force: bool = False) -> Any:
        if force:
            lake.samples[:] = lake.write(made("up", 5, 20))
        return snapshot(force=force)

    with patch.object(lake, "snapshot", moved):
        assert [count for _, count in ask(reader_of(remote), "up")] == [20] * 5


def test_files_that_vanish_again_and_again_are_a_store_that_fails(
    lake: FileLake, remote: RemoteLake
) -> None:
    lake.add(made("up", 5, 20))
    remote.snapshot()
    remote.objects.delete(lake.samples[0].path.name)
    with pytest.raises(StorageUnavailable, match="it is not there"):
        ask(reader_of(remote), "up")
    assert lake.forced_count == 1


def test_a_store_that_is_away_answers_what_is_here_and_refuses_the_rest(
    lake: FileLake, remote: RemoteLake
) -> None:
    lake.add(made("a", 5, 20))
    lake.add(made("b", 5, 20, T + DAY))
    reader = reader_of(remote)
    first = ask(reader, "a")

    def away(*_: object, **_options: object) -> Any:
        raise GenericError("connection refused")

    with patch.object(type(remote.objects), "get", away, create=True):
        assert ask(reader, "a") == first
        with pytest.raises(StorageUnavailable, match="connection refused"):
            ask(reader, "b")
    assert [count for _, count in ask(reader, "b")] == [20] * 5


def test_a_cancelled_query_stops_fetching(lake: FileLake, remote: RemoteLake) -> None:
    for minute in range(12):
        lake.add(made("up", 50, 20, T + minute * 300_000))
    every = remote.sample_files()
    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise QueryCancelled("gone")

    with patch.object(files, "STEP_BYTES_MAX", 1), pytest.raises(QueryCancelled):
        remote_footers(remote).fetch(every, check)
    assert remote.take_requests() <= 3


def test_local_files_beside_a_bucket_are_read_where_they_are(
    lake: FileLake, remote: RemoteLake
) -> None:
    lake.add(made("up", 5, 20))
    cut = lake.write(made("up", 5, 20, T + DAY))
    mixed = [*remote.sample_files(), *(file.lake_file() for file in cut)]
    found = remote_footers(remote).fetch(mixed, nothing)
    assert [int(one.row_counts.sum()) for one in found] == [100, 100]
    assert remote.take_requests() == 1
    assert not remote.files.is_remote(mixed[1].path)


def test_files_of_a_folder_are_opened_by_pyarrow_itself(lake: FileLake) -> None:
    lake.add(made("up", 5, 20))
    [file] = lake.samples
    local = Files()

    def never(_item: object) -> Part:
        raise AssertionError

    [(_, opened)] = local.in_steps([file], never, nothing)
    footer = footers.read_footer(str(file.path))
    with opened.parquet(str(file.path), footer.parsed) as parquet_file:
        assert isinstance(parquet_file, pq.ParquetFile)
        assert parquet_file.read().num_rows == 100


def damage(lake: FileLake, remote: RemoteLake, kinds: str) -> list[tuple[str, bytes]]:
    """Gives zeros in place of data; what is right, by key."""
    remote.snapshot()
    every = {"samples": lake.samples, "series": lake.series}[kinds]
    right = [(file.path.name, file.path.read_bytes()) for file in every]
    for key, content in right:
        middle = len(content) // 4
        remote.objects.put(key, content[:4] + bytes(middle) + content[4 + middle :])
    return right


@pytest.mark.parametrize("kinds", ["samples", "series"])
def test_what_came_wrong_is_fetched_again_by_the_query_that_finds_it(
    lake: FileLake, remote: RemoteLake, kinds: str
) -> None:
    """LAKE-12: each of the files, also after a restart."""
    for minute in range(4):
        lake.add(made("up", 30, 4, T + minute * 60_000))
    every = damage(lake, remote, kinds)
    assert f"damaged: memory://lake/{every[0][0]}" in ask_error(reader_of(remote), "up")
    for key, content in every:
        remote.objects.put(key, content)
    remote.restart()
    assert [count for _, count in ask(reader_of(remote), "up")] == [16] * 30


def ask_error(reader: Reader, metric: str) -> str:
    with pytest.raises(CorruptionError) as caught:
        ask(reader, metric)
    return str(caught.value)


def test_a_footer_that_came_wrong_is_forgotten_too(lake: FileLake, remote: RemoteLake) -> None:
    """It was parsed, and says that the columns lie elsewhere."""
    lake.add(made("up", 30, 4))
    lake.add(made("up", 300, 40))
    reader = reader_of(remote)
    few, many = remote.sample_files()
    assert few.size_bytes < many.size_bytes
    [foreign] = reader.footers.fetch([many], nothing)
    reader.footers._footers[few.path] = foreign
    reader.footers.memory_bytes += foreign.memory_bytes
    assert [count for _, count in ask(reader, "up")] == [40] * 300
    footers_bytes = sum(one.memory_bytes for one in reader.footers._footers.values())
    assert reader.footers.memory_bytes == footers_bytes


def test_a_file_that_stays_damaged_is_fetched_once_more_and_named(
    lake: FileLake, remote: RemoteLake
) -> None:
    lake.add(made("up", 30, 4))
    lake.add(made("down", 30, 4))
    reader = reader_of(remote)
    whole = ask(reader, "down")
    remote.restart()
    damage(lake, remote, "samples")
    reader = reader_of(remote)
    for _ in range(2):
        assert f"memory://lake/{lake.samples[0].path.name}" in ask_error(reader, "up")
    for file in lake.samples:
        remote.objects.put(file.path.name, file.path.read_bytes())
    # Nothing of it is left.
    assert [count for _, count in ask(reader, "up")] == [4] * 30
    assert ask(reader, "down") == whole


def test_a_damaged_local_file_is_not_read_twice(lake: FileLake, remote: RemoteLake) -> None:
    lake.add(made("up", 30, 4))
    path = lake.samples[0].path
    path.write_bytes(b"PAR1" + bytes(path.stat().st_size - 8) + b"PAR1")
    with pytest.raises(CorruptionError, match=f"damaged: {path}"):
        ask(Reader(SETTINGS, lake, None), "up")
    assert lake.forced_count == 0


def test_a_step_holds_so_many_blocks_however_short_its_ranges_are(
    remote: RemoteLake, tmp_path: Path
) -> None:
    held_bytes: list[int] = []
    size_bytes, block_bytes = 1 << 20, 4096

    def fetch(_key: str, _size: int, one: tuple[int, int]) -> bytes:
        return bytes(one[1])

    cache = FileCache(tmp_path / "other", 1, fetch, block_bytes=block_bytes)
    opened = Files(remote.store, cache)
    hold = FileCache.hold

    def held(self: FileCache, parts: Sequence[Part], check: Any) -> Held:
        found = hold(self, parts, check)
        [file] = found._files.values() or [None]
        if file is not None:
            held_bytes.append(sum(state > 1 for state in file.states) * block_bytes)
        return found

    # Every fourth block has 10 bytes that are wanted, in two pieces.
    items = list(range(0, size_bytes, 4 * block_bytes))
    key = remote.store.uri_of("x")
    with (
        patch.object(files, "STEP_BYTES_MAX", 8 * block_bytes),
        patch.object(FileCache, "hold", held),
    ):
        for _ in opened.in_steps(
            items, lambda begin: Part(key, size_bytes, [(begin, 5), (begin + 9, 5)]), nothing
        ):
            pass
    cache.close()
    assert held_bytes == [8 * block_bytes] * 8


def test_fetching_ahead_looks_no_further_than_a_step(lake: FileLake, remote: RemoteLake) -> None:
    for minute in range(4):
        lake.add(made("up", 64, 20, T + minute * 300_000))
    slices = looks = 0
    within, read = Units.within, Scan._read

    def looked(self: Units, box: Any) -> Any:
        nonlocal looks
        looks += 1
        return within(self, box)

    def sliced(self: Scan, *of: Any) -> Any:
        nonlocal slices
        slices += 1
        return read(self, *of)

    reader = Reader(SETTINGS, remote, None, remote.files, rows_max=50)
    with (
        patch.object(files, "STEP_BYTES_MAX", 1),
        patch.object(Units, "within", looked),
        patch.object(Scan, "_read", sliced),
    ):
        assert [count for _, count in ask(reader, "up")] == [80] * 64
    assert slices > 50
    # Each box is looked at once: a slice, or one that was halved.
    assert looks < 2 * slices


@pytest.mark.parametrize("place", ["s3://orange-range/range", "memory://lake"])
def test_a_failing_request_is_made_once_whatever_the_place_is_called(place: str) -> None:
    """A second one takes as long again, which is longer than a query has."""
    asked: list[str] = []

    class Stalled(MemoryStore):
        def get(self, path: str, **_: Any) -> Any:
            asked.append(path)
            raise GenericError(f"Error performing GET {place}/{path} in 30s - timed out")

    fetch = fetch_from(Store(place, Stalled()))
    with pytest.raises(StorageUnavailable, match="timed out"):
        fetch(f"{place}/range", 10, (0, 5))
    assert asked == ["range"]
