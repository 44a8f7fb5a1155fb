"""The cache of immutable files: what is fetched, what is believed, what goes."""

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from errno import EIO, ENOSPC
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from obstore.store import MemoryStore

from bridge.errors import CorruptionError, QueryCancelled, StorageUnavailable
from bridge.lake import block_file, file_cache
from bridge.lake.block_file import name_of
from bridge.lake.file_cache import FileCache, Held, Part, open_cache
from bridge.lake.settings import LakeSettings
from bridge.lake.store import Store
from tests.unit.lake.made_objects import MadeObjects, pattern

BLOCK = 4096
SIZE = 10 * BLOCK + 100

Make = Callable[..., FileCache]


@pytest.fixture
def store() -> MadeObjects:
    return MadeObjects(a=pattern(SIZE, 1), b=pattern(SIZE, 2), c=pattern(SIZE, 3))


@pytest.fixture
def make(tmp_path: Path, store: MadeObjects) -> Iterator[Make]:
    """Opens the cache; what was opened before is closed: a restart."""
    opened: list[FileCache] = []

    def one(bytes_max: int = 1 << 30, **options: object) -> FileCache:
        for cache in opened:
            cache.close()
        opened.append(
            FileCache(tmp_path, bytes_max, store.fetch, block_bytes=BLOCK, **options)  # type: ignore[arg-type]
        )
        return opened[-1]

    yield one
    for cache in opened:
        cache.close()


def nothing() -> None:
    pass


def blocks(key: str, *numbers: int) -> Part:
    """A part that touches some blocks."""
    return Part(key, SIZE, [(number * BLOCK + 1, 10) for number in numbers])


def hold(cache: FileCache, *parts: Part, check: Callable[[], None] = nothing) -> Held:
    return cache.hold(parts, check)


def read(held: Held, key: str, offset: int, length: int) -> bytes:
    file = held.open(key)
    try:
        file.seek(offset)
        return file.read(length)
    finally:
        file.close()


def read_all(cache: FileCache, store: MadeObjects, key: str) -> None:
    """Reads an object through the cache, and compares."""
    with hold(cache, Part(key, SIZE, [(0, SIZE)])) as held:
        assert read(held, key, 0, SIZE) == store.objects[key]


def files_of(folder: Path, key: str) -> tuple[Path, Path]:
    """Data and map of an object."""
    return folder / "0" / f"{name_of(key)}.blocks", folder / "0" / f"{name_of(key)}.map"


def test_what_was_fetched_is_not_fetched_again(make: Make, store: MadeObjects) -> None:
    cache = make()
    read_all(cache, store, "a")
    assert store.take_requests()
    read_all(cache, store, "a")
    assert store.take_requests() == []
    assert (cache.miss_bytes, cache.hit_bytes) == (SIZE, SIZE)


def test_what_was_fetched_survives_a_restart(make: Make, store: MadeObjects) -> None:
    read_all(make(), store, "a")
    store.take_requests()
    cache = make()
    store.is_away = True
    read_all(cache, store, "a")
    assert cache.size_bytes >= SIZE


def test_neighbouring_blocks_are_one_request_and_small_gaps_are_bridged(
    make: Make, store: MadeObjects
) -> None:
    hold(make(), blocks("a", 0, 1, 3, 6)).close()
    assert store.take_requests() == [("a", 0, 4 * BLOCK), ("a", 6 * BLOCK, BLOCK)]


def test_a_gap_that_is_there_is_not_fetched_again(make: Make, store: MadeObjects) -> None:
    cache = make()
    hold(cache, blocks("a", 1)).close()
    store.take_requests()
    hold(cache, blocks("a", 0, 2)).close()
    assert store.take_requests() == [("a", 0, BLOCK), ("a", 2 * BLOCK, BLOCK)]


def test_the_last_block_ends_with_the_object(make: Make, store: MadeObjects) -> None:
    hold(make(), blocks("a", 10)).close()
    assert store.take_requests() == [("a", 10 * BLOCK, 100)]


def test_a_long_run_is_several_requests(make: Make, store: MadeObjects) -> None:
    with patch.object(file_cache, "REQUEST_BYTES_MAX", 4 * BLOCK):
        read_all(make(), store, "a")
    assert [length for _, _, length in store.take_requests()] == [
        4 * BLOCK,
        4 * BLOCK,
        2 * BLOCK + 100,
    ]


def test_files_of_a_step_are_fetched_in_parallel(make: Make, store: MadeObjects) -> None:
    together = threading.Barrier(3, timeout=10)

    def before(_key: str, _offset: int) -> None:
        together.wait()

    store.before = before
    hold(make(), *(blocks(key, 0) for key in "abc")).close()


def test_requests_under_way_are_bounded_for_all_queries(make: Make, store: MadeObjects) -> None:
    under_way, most = 0, 0
    lock = threading.Lock()
    full = threading.Event()

    def before(_key: str, _offset: int) -> None:
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
            if under_way == 3:
                full.set()
        full.wait(10)
        with lock:
            under_way -= 1

    store.before = before
    with patch.object(file_cache, "FETCHES", 3), ThreadPoolExecutor(3) as pool:
        cache = make()
        list(pool.map(lambda key: hold(cache, blocks(key, 0, 3, 6, 9)).close(), "abc"))
    assert most == 3
    assert len(store.take_requests()) == 12


def test_two_queries_fetch_a_block_once(make: Make, store: MadeObjects) -> None:
    cache = make()
    under_way, let_go = threading.Event(), threading.Event()

    def before(_key: str, _offset: int) -> None:
        under_way.set()
        let_go.wait(10)

    store.before = before
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(read_all, cache, store, "a")
        under_way.wait(10)
        polled = threading.Event()
        second = pool.submit(
            lambda: hold(cache, blocks("a", 2), blocks("b", 0), check=polled.set).close()
        )
        polled.wait(10)
        let_go.set()
        first.result()
        second.result()
    assert store.take_requests() == [("a", 0, SIZE), ("b", 0, BLOCK)]


def test_a_cancelled_query_stops_fetching_and_leaves_the_others_theirs(
    make: Make, store: MadeObjects
) -> None:
    gate = threading.Event()
    is_waiting = threading.Event()

    def before(_key: str, _offset: int) -> None:
        gate.wait(10)

    store.before = before

    def cancel() -> None:
        if is_waiting.is_set():
            raise QueryCancelled("gone")

    with patch.object(file_cache, "FETCHES", 1), ThreadPoolExecutor(3) as pool:
        cache = make()
        busy = pool.submit(lambda: hold(cache, blocks("c", 0)).close())
        while not store.requests:
            pass
        first = pool.submit(lambda: hold(cache, blocks("a", 0, 5), check=cancel).close())
        while cache.pin("a", SIZE).flights == {}:
            pass
        second = pool.submit(
            lambda: hold(cache, blocks("a", 0), blocks("a", 8), check=is_waiting.set).close()
        )
        with pytest.raises(QueryCancelled):
            first.result(10)
        gate.set()
        busy.result(10)
        second.result(10)
    assert ("a", 5 * BLOCK, BLOCK) not in store.requests
    assert {("a", 0, BLOCK), ("a", 8 * BLOCK, BLOCK)} <= set(store.requests)


def test_a_range_that_nobody_asked_for_is_fetched_and_counted(
    make: Make, store: MadeObjects
) -> None:
    """LAKE-13."""
    cache = make()
    with hold(cache, blocks("a", 1)) as held:
        assert read(held, "a", 0, SIZE) == store.objects["a"]
    assert cache.unforeseen_count == 1


@pytest.mark.parametrize("damage", ["flip", "zero", "shorten", "lengthen", "empty"])
def test_damaged_data_of_an_earlier_run_is_fetched_again(
    make: Make, store: MadeObjects, tmp_path: Path, damage: str
) -> None:
    """LAKE-12."""
    read_all(make(), store, "a")
    store.take_requests()
    data, _ = files_of(tmp_path, "a")
    raw = bytearray(data.read_bytes())
    if damage == "flip":
        raw[3 * BLOCK + 7] ^= 1
    elif damage == "zero":
        raw[3 * BLOCK : 4 * BLOCK] = bytes(BLOCK)
    elif damage == "shorten":
        del raw[-1]
    elif damage == "lengthen":
        raw.append(0)
    else:
        raw.clear()
    data.write_bytes(raw)
    cache = make()
    read_all(cache, store, "a")
    if damage in {"flip", "zero"}:
        assert store.take_requests() == [("a", 3 * BLOCK, BLOCK)]
        assert cache.damaged_count == 1
    else:
        assert store.take_requests() == [("a", 0, SIZE)]
    read_all(make(), store, "a")
    assert store.take_requests() == []


@pytest.mark.parametrize("damage", ["delete", "empty", "shorten", "zero", "other"])
def test_a_damaged_map_costs_a_fetch_and_no_more(
    make: Make, store: MadeObjects, tmp_path: Path, damage: str
) -> None:
    """LAKE-12."""
    cache = make()
    read_all(cache, store, "a")
    read_all(cache, store, "b")
    _, record = files_of(tmp_path, "a")
    raw = record.read_bytes()
    if damage == "delete":
        record.unlink()
    elif damage == "other":
        record.write_bytes(files_of(tmp_path, "b")[1].read_bytes())
    else:
        record.write_bytes({"empty": b"", "shorten": raw[:-1], "zero": bytes(len(raw))}[damage])
    store.take_requests()
    cache = make()
    read_all(cache, store, "a")
    assert store.take_requests() == [("a", 0, SIZE)]


def test_every_flipped_bit_of_a_map_is_noticed(
    make: Make, store: MadeObjects, tmp_path: Path
) -> None:
    """LAKE-12."""
    hold(make(), blocks("a", 1, 4)).close()
    _, record = files_of(tmp_path, "a")
    raw = record.read_bytes()
    for place in range(0, 8 * len(raw), 5):
        flipped = bytearray(raw)
        flipped[place // 8] ^= 1 << place % 8
        record.write_bytes(flipped)
        cache = make()
        with hold(cache, Part("a", SIZE, [(0, 6 * BLOCK)])) as held:
            assert read(held, "a", 0, 6 * BLOCK) == store.objects["a"][: 6 * BLOCK]
        cache.close()
        record.unlink(missing_ok=True)
        read_all(make(), store, "a")


def test_a_file_of_another_size_is_not_taken_for_this_one(make: Make, store: MadeObjects) -> None:
    """LAKE-12."""
    cache = make()
    read_all(cache, store, "a")
    store.objects["a"] = pattern(3 * BLOCK, 9)
    with hold(cache, Part("a", 3 * BLOCK, [(0, 3 * BLOCK)])) as held:
        assert read(held, "a", 0, 3 * BLOCK) == store.objects["a"]


def test_a_range_outside_of_the_object_is_refused(make: Make) -> None:
    with pytest.raises(CorruptionError, match=f"log says that it has {SIZE}"):
        hold(make(), Part("a", SIZE, [(SIZE - 1, 2)]))


def test_a_short_answer_is_no_answer(make: Make, store: MadeObjects) -> None:
    store.objects["a"] = store.objects["a"][:BLOCK]
    with pytest.raises(StorageUnavailable, match=f"asked for {2 * BLOCK} bytes at 0, got {BLOCK}"):
        hold(make(), blocks("a", 0, 1))


def test_a_vanished_object_says_so_and_leaves_nothing(
    make: Make, store: MadeObjects, tmp_path: Path
) -> None:
    cache = make()
    del store.objects["a"]
    with pytest.raises(FileNotFoundError, match="a is gone"):
        hold(cache, blocks("b", 0), blocks("a", 0))
    assert not files_of(tmp_path, "a")[0].exists()


def test_while_the_store_is_away_what_is_here_is_answered_and_the_rest_says_why(
    make: Make, store: MadeObjects
) -> None:
    cache = make()
    read_all(cache, store, "a")
    store.is_away = True
    read_all(cache, store, "a")
    with pytest.raises(StorageUnavailable, match="the store is away"):
        hold(cache, blocks("a", 0), blocks("b", 0))
    store.is_away = False
    read_all(cache, store, "b")


def test_least_recently_used_files_go_first(make: Make, store: MadeObjects, tmp_path: Path) -> None:
    cache = make(2 * (SIZE + 3 * 4096))
    for key in "abac":
        read_all(cache, store, key)
    assert [files_of(tmp_path, key)[0].exists() for key in "abc"] == [True, False, True]
    assert [files_of(tmp_path, key)[1].exists() for key in "abc"] == [True, False, True]
    assert cache.evicted_count == 1
    assert cache.size_bytes <= 2 * (SIZE + 3 * 4096)


def test_the_order_of_use_survives_a_restart(
    make: Make, store: MadeObjects, tmp_path: Path
) -> None:
    cache = make()
    for age, key in enumerate("cab"):
        read_all(cache, store, key)
        os.utime(files_of(tmp_path, key)[0], (1e9 - age, 1e9 - age))
    cache = make()
    read_all(cache, store, "b")
    cache = make(2 * (SIZE + 3 * 4096))
    assert [files_of(tmp_path, key)[0].exists() for key in "abc"] == [False, True, True]
    assert cache.evicted_count == 1


def test_what_is_held_stays_even_if_it_is_too_much(
    make: Make, store: MadeObjects, tmp_path: Path
) -> None:
    cache = make(SIZE)
    with hold(cache, *(Part(key, SIZE, [(0, SIZE)]) for key in "abc")) as held:
        for key in "abc":
            assert read(held, key, 0, SIZE) == store.objects[key]
        assert cache.size_bytes > 3 * SIZE
    assert cache.size_bytes <= SIZE


def test_a_file_that_somebody_deletes_is_made_anew_and_who_holds_it_sees_no_hole(
    make: Make, store: MadeObjects, tmp_path: Path
) -> None:
    """LAKE-13."""
    cache = make()
    with hold(cache, Part("a", SIZE, [(0, SIZE)])) as held:
        opened = held.open("a")
        for path in files_of(tmp_path, "a"):
            path.unlink()
        with hold(cache, blocks("a", 5)) as second:
            assert read(second, "a", 5 * BLOCK, 10) == store.objects["a"][5 * BLOCK :][:10]
            assert opened.read() == store.objects["a"]
            opened.close()
    read_all(cache, store, "a")
    read_all(make(), store, "a")


def test_a_file_that_is_deleted_while_it_is_read_is_read_from_the_store(
    make: Make, store: MadeObjects, tmp_path: Path
) -> None:
    """LAKE-13."""
    cache = make()
    pread = os.pread
    with hold(cache, Part("a", SIZE, [(0, SIZE)])) as held, ExitStack() as stack:

        def first(descriptor: int, length: int, offset: int) -> bytes:
            stack.pop_all().close()
            for path in files_of(tmp_path, "a"):
                path.unlink()
            hold(cache, blocks("a", 5)).close()
            return bytes(len(pread(descriptor, length, offset)))

        stack.enter_context(patch.object(os, "pread", first))
        assert read(held, "a", 0, SIZE) == store.objects["a"]


def test_a_folder_that_is_deleted_is_taken_anew(
    make: Make, store: MadeObjects, tmp_path: Path
) -> None:
    """LAKE-13: also if another process has it by then."""
    cache = make()
    with hold(cache, Part("a", SIZE, [(0, SIZE)])) as held:
        shutil.rmtree(tmp_path / "0")
        other = FileCache(tmp_path, 1 << 30, store.fetch, block_bytes=BLOCK)
        hold(other, blocks("a", 5)).close()
        read_all(cache, store, "b")
        assert read(held, "a", 0, SIZE) == store.objects["a"]
    read_all(cache, store, "a")
    read_all(other, store, "a")
    other.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1"]
    store.take_requests()
    for key in "ab":
        read_all(cache, store, key)
    assert store.take_requests() == []


def test_where_no_folder_is_left_reads_go_on(
    make: Make, store: MadeObjects, tmp_path: Path
) -> None:
    now_s = 0.0
    cache = make(clock=lambda: now_s)
    read_all(cache, store, "a")
    shutil.rmtree(tmp_path)
    tmp_path.write_bytes(b"in the way")
    read_all(cache, store, "a")
    read_all(cache, store, "b")
    assert cache.size_bytes == 0
    tmp_path.unlink()
    now_s = file_cache.DISK_PAUSE_S
    read_all(cache, store, "a")
    store.take_requests()
    read_all(cache, store, "a")
    assert store.take_requests() == []


def test_sizes_are_those_of_the_disk(make: Make, store: MadeObjects, tmp_path: Path) -> None:
    cache = make()
    hold(cache, blocks("a", 1, 2, 9), blocks("b", 0)).close()
    taken = sum(path.stat().st_blocks * 512 for path in (tmp_path / "0").iterdir())
    assert cache.size_bytes == taken
    assert make().size_bytes == taken


@pytest.mark.parametrize("error", [ENOSPC, EIO])
def test_a_disk_that_takes_nothing_costs_no_answer(
    make: Make, store: MadeObjects, tmp_path: Path, error: int
) -> None:
    clock = [0.0]
    cache = make(clock=lambda: clock[0])
    read_all(cache, store, "a")
    store.take_requests()
    with patch.object(block_file, "_write_at", side_effect=OSError(error, "no")):
        read_all(cache, store, "b")
        assert cache.disk_failure_count == 1
        # Held blocks are shared, then forgotten.
        with hold(cache, blocks("c", 1, 2)) as one, hold(cache, blocks("c", 2)) as other:
            assert read(one, "c", BLOCK, 10) == store.objects["c"][BLOCK : BLOCK + 10]
            assert read(other, "c", 2 * BLOCK, 10) == store.objects["c"][2 * BLOCK :][:10]
        assert cache.disk_failure_count == 1
    # It is given time.
    read_all(cache, store, "b")
    assert len([key for key, _, _ in store.take_requests() if key == "b"]) == 2
    clock[0] += file_cache.DISK_PAUSE_S
    read_all(cache, store, "b")
    store.take_requests()
    read_all(cache, store, "b")
    assert store.take_requests() == []


def test_a_full_disk_gets_room_back(make: Make, store: MadeObjects, tmp_path: Path) -> None:
    cache = make()
    read_all(cache, store, "a")
    read_all(cache, store, "b")
    with patch.object(block_file, "_write_at", side_effect=OSError(ENOSPC, "full")):
        read_all(cache, store, "c")
    assert [files_of(tmp_path, key)[0].exists() for key in "ab"] == [False, True]


@pytest.mark.parametrize("loss", ["files", "folder", "cut"])
def test_a_cache_that_is_deleted_under_us_is_filled_again(
    make: Make, store: MadeObjects, tmp_path: Path, loss: str
) -> None:
    cache = make()
    read_all(cache, store, "a")
    with hold(cache, blocks("a", 0)) as held:
        if loss == "folder":
            shutil.rmtree(tmp_path / "0")
        elif loss == "files":
            for path in files_of(tmp_path, "a"):
                path.unlink()
        else:
            os.truncate(files_of(tmp_path, "a")[0], 10)
        assert read(held, "a", 0, 100) == store.objects["a"][:100]
    read_all(cache, store, "a")
    read_all(cache, store, "b")


def test_a_closed_cache_ends_its_queries(make: Make, store: MadeObjects) -> None:
    cache = make()
    gate, under_way = threading.Event(), threading.Event()

    def before(_key: str, _offset: int) -> None:
        under_way.set()
        gate.wait(10)

    store.before = before
    with ThreadPoolExecutor(1) as pool:
        query = pool.submit(lambda: hold(cache, blocks("a", 0)).close())
        under_way.wait(10)
        cache.close()
        with pytest.raises(StorageUnavailable, match="closed"):
            query.result(10)
        gate.set()


def test_many_threads_see_nothing_but_the_objects(make: Make, store: MadeObjects) -> None:
    cache = make(SIZE)
    store.objects |= {str(number): pattern(SIZE, number) for number in range(12)}

    def query(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(30):
            keys = chance.sample(sorted(store.objects), 3)
            ranges = [
                (begin, chance.randint(1, SIZE - begin))
                for begin in (chance.randrange(SIZE) for _ in keys)
            ]
            parts = [Part(key, SIZE, [one]) for key, one in zip(keys, ranges, strict=True)]
            with hold(cache, *parts) as held:
                for key, (begin, length) in zip(keys, ranges, strict=True):
                    assert read(held, key, begin, length) == store.objects[key][begin:][:length]

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(query, range(8)))
    assert cache.unforeseen_count == 0
    assert cache.size_bytes <= SIZE


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["read", "read ahead", "restart", "lose"]),
            st.sampled_from("abc"),
            st.integers(0, 1999),
            st.integers(1, 2000),
        ),
        max_size=30,
    ),
    st.sampled_from([1, 16_000, 1 << 30]),
    st.sampled_from([64, 700, 4096]),
)
def test_reads_through_the_cache_are_the_bytes_of_the_objects(
    steps: list[tuple[str, str, int, int]], bytes_max: int, block_bytes: int
) -> None:
    """LAKE-12 and LAKE-13, whatever was asked for before."""
    objects = {key: pattern(2000 + seed, seed) for seed, key in enumerate("abc")}
    store = MadeObjects(**objects)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:

        def open_cache() -> FileCache:
            opened = FileCache(Path(folder), bytes_max, store.fetch, block_bytes=block_bytes)
            stack.callback(opened.close)
            return opened

        cache = open_cache()
        for action, key, offset, length in steps:
            content = objects[key]
            if action == "restart":
                cache.close()
                cache = open_cache()
            elif action == "lose":
                for path in files_of(Path(folder), key)[offset % 2 :]:
                    path.unlink(missing_ok=True)
            else:
                asked = 1 if action == "read" else min(length, len(content) - offset)
                part = Part(key, len(content), [(offset, max(1, asked))])
                with hold(cache, part) as held:
                    assert read(held, key, offset, length) == content[offset : offset + length]


KILLED = """
import itertools, sys
from pathlib import Path
from bridge.lake.file_cache import FileCache, Part
from tests.unit.lake.made_objects import MadeObjects, pattern
store = MadeObjects(**{str(seed): pattern(40_000, seed) for seed in range(20)})
cache = FileCache(Path(sys.argv[1]), 300_000, store.fetch, block_bytes=4096)
for turn in itertools.count():
    part = Part(str(turn * 7 % 20), 40_000, [(turn * 4096 % 36_000, 4000)])
    cache.hold([part], lambda: None).close()
    print(turn, flush=True)
"""


@pytest.mark.parametrize("turns", [0, 30, 170])
def test_a_killed_process_leaves_a_cache_that_is_right(tmp_path: Path, turns: int) -> None:
    """LAKE-12."""
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[3],
    )
    assert process.stdout is not None
    while int(process.stdout.readline()) < turns:
        pass
    process.send_signal(signal.SIGKILL)
    process.communicate()
    objects = {str(seed): pattern(40_000, seed) for seed in range(20)}
    store = MadeObjects(**objects)
    cache = FileCache(tmp_path, 1 << 30, store.fetch, block_bytes=4096)
    parts: Sequence[Part] = [Part(key, 40_000, [(0, 40_000)]) for key in objects]
    with cache.hold(parts, nothing) as held:
        for key, content in objects.items():
            assert read(held, key, 0, 40_000) == content
    assert cache.damaged_count == 0
    assert cache.hit_bytes > 0
    cache.close()


def test_a_disk_that_others_need_is_left_to_them(
    make: Make, store: MadeObjects, tmp_path: Path
) -> None:
    """The WAL lies on it too, by default."""
    cache = make()
    read_all(cache, store, "a")
    read_all(cache, store, "b")
    held_bytes = cache.size_bytes
    disk = os.statvfs(tmp_path)

    def statvfs(_path: object) -> os.statvfs_result:
        free = file_cache.FREE_BYTES_MIN // disk.f_frsize - 1
        return os.statvfs_result((*disk[:2], 1 << 40, free, free, *disk[5:]))

    with patch.object(os, "statvfs", statvfs):
        read_all(cache, store, "c")
    assert not files_of(tmp_path, "c")[0].exists()
    assert cache.size_bytes < held_bytes
    assert cache.disk_failure_count == 1


def test_what_is_left_to_a_wal_on_the_same_disk_is_more_than_it_needs_to_take_writes(
    tmp_path: Path,
) -> None:
    options = LakeSettings(cache_path=tmp_path)
    for needed_bytes, left_bytes in [(256 << 20, 1 << 30), (5 << 30, 10 << 30)]:
        cache = open_cache(Store("memory://lake", MemoryStore()), options, needed_bytes)
        assert cache is not None
        assert cache._free_bytes_min == left_bytes
        cache.close()


def test_a_small_disk_may_be_used(make: Make, store: MadeObjects, tmp_path: Path) -> None:
    cache = make()
    disk = os.statvfs(tmp_path)
    blocks_all = (64 << 20) // disk.f_frsize
    small = (*disk[:2], blocks_all, blocks_all // 2, blocks_all // 2, *disk[5:])
    with patch.object(os, "statvfs", return_value=os.statvfs_result(small)):
        read_all(cache, store, "a")
    assert files_of(tmp_path, "a")[0].exists()


def test_an_object_that_is_dropped_is_fetched_again_also_by_who_holds_it(
    make: Make, store: MadeObjects, tmp_path: Path
) -> None:
    content, store.objects["a"] = store.objects["a"], bytes(SIZE)
    cache = make()
    read_all(cache, store, "a")
    with hold(cache, Part("a", SIZE, [(0, SIZE)])) as held:
        store.objects["a"] = content
        cache.drop("a")
        cache.drop("b")
        assert read(held, "a", 0, SIZE) == content
        assert cache.size_bytes == 0
    read_all(cache, store, "a")
    store.objects["a"] = bytes(SIZE)
    cache = make()
    cache.drop("a")
    assert (cache.size_bytes, files_of(tmp_path, "a")[0].exists()) == (0, False)
    read_all(cache, store, "a")


def test_what_is_written_while_another_takes_the_name_is_kept_in_memory(
    make: Make, store: MadeObjects, tmp_path: Path
) -> None:
    """LAKE-13: else nobody would tell its holder of the next loss."""
    cache = make()
    write = block_file._write_at
    with hold(cache) as held, ExitStack() as stack:

        def lose(path: Path, data: memoryview, offset: int) -> None:
            stack.pop_all().close()
            for lost in files_of(tmp_path, "a"):
                lost.unlink()
            hold(cache, blocks("a", 5)).close()
            write(path, data, offset)

        file = held.pin(blocks("a", 0))
        stack.enter_context(patch.object(block_file, "_write_at", lose))
        cache.ensure([(file, [(0, BLOCK)])], nothing)
        assert file.states[0] == block_file.IN_MEMORY
        assert read(held, "a", 0, BLOCK) == store.objects["a"][:BLOCK]
