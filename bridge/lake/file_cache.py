"""Blocks of immutable objects, kept on the local disk, so that a second query fetches nothing.

    hold(what a step will read) ─ pin ─┬─ there ──────────────────────────────────┐
                                       ├─ from an earlier run ── verify ──────────┤
                                       ├─ another query fetches it ── wait ───────┤──> read
                                       └─ missing ── ranged requests, in parallel ┘

What a step needs of all its files is asked for at once: neighbouring blocks in one request, up to
FETCHES requests at a time for all queries together, so that a cold query costs a few round trips
and not one after another for every file.

Invariants:
    LAKE-12 a block is read only as the store gave it: its checksum is verified before a process
            believes what an earlier one left.
    LAKE-13 a hole is never read: what was not asked for before is fetched when it is read, and
            counted (`unforeseen_count`).

A disk that is full or fails costs speed only: blocks are then kept in memory while they are held,
and after a failure nothing is written for DISK_PAUSE_S. A full disk, one with less than
`free_bytes_min` free, also gets a tenth of the cache back, because the WAL may need it more. Files,
or the whole folder, may be deleted under it: those who hold them go on in memory.

Limits: `bytes_max` on the disk; what is held is not evicted, and may exceed it by what the steps
under way hold: STEP_BYTES_MAX (bridge.lake.files) a query. Requests under way take FETCHES *
REQUEST_BYTES_MAX = 32 * 2 MiB = 64 MiB of memory. The least recently used objects go first, whole;
the order survives a restart by the files' mtime. A thousand objects take 1 MB of memory.
"""

import os
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from errno import EDQUOT, ENOSPC
from pathlib import Path
from typing import Self

import structlog

from bridge.errors import BeyondEnd, ConfigError, DamagedFile, StorageUnavailable
from bridge.lake.block_file import (
    DATA_SUFFIX,
    IN_MEMORY,
    MAP_SUFFIX,
    MISSING,
    ON_DISK,
    RECORDED,
    BlockFile,
    Check,
    delete_files,
    name_of,
    on_disk,
)
from bridge.lake.cache_folder import CacheFolder
from bridge.lake.cached_file import CachedFile
from bridge.lake.settings import LakeSettings
from bridge.lake.store import Store

log = structlog.get_logger()

BLOCK_BYTES = 1 << 16
"""Measured (`python -m benchmarks.store_requests --latency-ms 20 --blocks 16,64,256,1024`): for one
series out of 60 files of a minute of 100 000, 8.8, 13.9, 38 and 117 MB are fetched, by 122 requests
in each case, in 650, 610, 700 and 950 ms."""
GAP_BLOCKS = 1
"""Two missing runs with so little between them are one request: 64 KiB take a millisecond on a
connection that gives 85 MB/s, a request of its own 10 to 30."""
REQUEST_BYTES_MAX = 1 << 21
"""A longer run is several requests: one connection gives 85 MB/s, 32 of them what the network can;
24 ms of transfer beside a round trip of about the same."""
FETCHES = 32
"""Requests under way at once, for all queries; also those that one query may have queued, so that
a large query delays a small one by one round."""
DISK_PAUSE_S = 30.0
FREE_BYTES_MIN = 1 << 30
SMALL_DISK_SHARE = 4
"""What is left free for others, at most a quarter of the disk: by default the WAL lies there too,
which takes no writes below `wal.min_free_bytes`, 256 MiB."""

_POLL_S = 0.1

Fetch = Callable[[str, int, tuple[int, int]], bytes]
"""Bytes of an object: key, the size that it must have, (offset, length).

Raises FileNotFoundError if it is gone, StorageUnavailable if the store does not answer,
DamagedFile if it has another size.
"""


@dataclass(frozen=True, slots=True)
class Part:
    """What will be read of an object.

    Attributes:
        key: of the object.
        size_bytes: of the object.
        ranges: (offset, length).
    """

    key: str
    size_bytes: int
    ranges: Sequence[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class _Run:
    """Blocks that follow one another; both ends included."""

    file: BlockFile
    first: int
    last: int


class FileCache:
    """The cache; any thread.

    Attributes:
        block_bytes: what is fetched and kept at least.
        size_bytes: on the disk, about.
        hit_bytes: what was asked for and was there, in whole blocks.
        miss_bytes: what was fetched.
        evicted_count: objects that had to go.
        damaged_count: blocks of an earlier run that were not what was written.
        unforeseen_count: reads of what nobody had asked for before.
        disk_failure_count: writes that the disk did not take.
    """

    def __init__(
        self,
        cache_path: Path,
        bytes_max: int,
        fetch: Fetch,
        *,
        free_bytes_min: int = FREE_BYTES_MIN,
        block_bytes: int = BLOCK_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Takes a folder below `cache_path` and finds out what is there.

        Raises:
            ConfigError: the folder cannot be used.
        """
        self.size_bytes = 0
        self.hit_bytes = 0
        self.miss_bytes = 0
        self.evicted_count = 0
        self.damaged_count = 0
        self.unforeseen_count = 0
        self.disk_failure_count = 0
        self._bytes_max = bytes_max
        self._free_bytes_min = free_bytes_min
        self._fetch = fetch
        self.block_bytes = block_bytes
        self._clock = clock
        self._paused_until_s = 0.0
        self._is_closed = False
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(FETCHES, "lake-fetch")
        self._files: OrderedDict[str, BlockFile | int] = OrderedDict()
        """By name, least recently used first; of those not looked at yet only the size."""
        self._cache_path = cache_path
        self._take_folder()

    def close(self) -> None:
        """Ends fetching and gives the folder back."""
        if self._is_closed:
            return
        self._is_closed = True
        self._pool.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            self._taken.close()

    def hold(self, parts: Sequence[Part], check: Check) -> "Held":
        """Fetches what is missing of all parts, at once, and keeps it until it is let go.

        Args:
            parts: an object may occur several times.
            check: called now and then; raises to end the work.

        Raises:
            FileNotFoundError: an object is gone.
            StorageUnavailable: the store does not give what is not here.
            DamagedFile: an object has another size than the log says.
        """
        held = Held(self, check)
        try:
            needed = [(held.pin(part), part.ranges) for part in parts]
            self.ensure(needed, check)
        except BaseException:
            held.close()
            raise
        return held

    def ensure(
        self, needed: Sequence[tuple[BlockFile, Sequence[tuple[int, int]]]], check: Check
    ) -> None:
        """Fetches what is missing of pinned files."""
        found: dict[int, tuple[BlockFile, set[int]]] = {}
        for file, ranges in needed:
            _, touched = found.setdefault(id(file), (file, set()))
            touched.update(block for one in ranges for block in file.blocks_of(*one))
        wanted = [(file, sorted(touched)) for file, touched in found.values()]
        hit_bytes = 0
        for file, blocks in wanted:
            for block in blocks:
                if file.states[block] == RECORDED:
                    self._verify(file, block)
                if file.states[block] >= ON_DISK:
                    hit_bytes += file.span(block, block)[1]
        with self._lock:
            self.hit_bytes += hit_bytes
        # Once is enough, unless the query that fetches the same blocks is cancelled.
        while runs := self._missing(wanted):
            self._fetch_runs(runs, check)

    def _missing(self, wanted: Sequence[tuple[BlockFile, Sequence[int]]]) -> list[_Run]:
        blocks_max = REQUEST_BYTES_MAX // self.block_bytes
        return [
            run
            for file, blocks in wanted
            for run in _join(
                file, [one for one in blocks if file.states[one] < ON_DISK], GAP_BLOCKS, blocks_max
            )
        ]

    def pin(self, key: str, size_bytes: int) -> BlockFile:
        """The local copy of an object, not to be evicted until `unpin`."""
        name = name_of(key)
        with self._lock:
            if self._is_closed:
                raise StorageUnavailable("the cache of the lake is closed")
            if self._taken.is_gone and self._clock() >= self._paused_until_s:
                self._take_another_folder()
            file = self._files.get(name)
            if isinstance(file, BlockFile) and (
                file.size_bytes != size_bytes
                or file.key != key
                or (file.is_created and not file.touch())
            ):
                # Somebody deleted it under us, or takes it for another: those who hold it go on.
                self._forget(file)
                file = None
            if not isinstance(file, BlockFile):
                known_bytes = file or 0
                file = BlockFile(self._folder, key, size_bytes, self.block_bytes)
                if known_bytes and file.recall():
                    file.touch()
                    file.disk_bytes = known_bytes
                elif known_bytes:
                    delete_files(self._folder / (name + DATA_SUFFIX))
                    self.size_bytes -= known_bytes
                self._files[name] = file
            self._files.move_to_end(name)
            file.pin_count += 1
            return file

    def unpin(self, file: BlockFile) -> None:
        """Lets a file go."""
        with self._lock:
            self._unpin(file)

    def drop(self, key: str) -> None:
        """Forgets what is here of an object, because it is not what was written."""
        name = name_of(key)
        with self._lock:
            file = self._files.get(name)
            if isinstance(file, BlockFile):
                self._forget(file)
            elif file is not None:
                delete_files(self._folder / (name + DATA_SUFFIX))
                self.size_bytes -= file
                del self._files[name]

    def read_around(self, file: BlockFile, offset: int, length: int) -> bytes:
        """Bytes straight from the store, because the disk did not give what it had taken."""
        with self._lock:
            for block in file.blocks_of(offset, length):
                if file.states[block] == ON_DISK:
                    file.states[block] = MISSING
            self.miss_bytes += length
        return self._fetch(file.key, file.size_bytes, (offset, length))

    def _take_folder(self) -> None:
        self._taken = CacheFolder.take(self._cache_path)
        self._folder = self._taken.path
        found = dict(_left_in(self._folder))
        self._files.update(found)
        self.size_bytes = sum(found.values())
        self._evict(self._bytes_max)

    def _take_another_folder(self) -> None:
        """Somebody removed it under us; what is held goes on in memory."""
        log.warning("cache folder was removed, another one is taken", folder=str(self._folder))
        for file in self._files.values():
            if isinstance(file, BlockFile):
                file.forget_disk()
        self._files.clear()
        self.size_bytes = 0
        removed = self._taken
        try:
            self._take_folder()
        except ConfigError as error:
            log.warning("there is none, reads go on without a cache", error=str(error))
            self._paused_until_s = self._clock() + DISK_PAUSE_S
        else:
            removed.close()

    def _unpin(self, file: BlockFile) -> None:
        file.pin_count -= 1
        if file.pin_count:
            return
        for block in file.memory:
            file.states[block] = MISSING
        file.memory.clear()
        name = name_of(file.key)
        if not file.is_created and self._files.get(name) is file:
            del self._files[name]
        self._evict(self._bytes_max)

    def _verify(self, file: BlockFile, block: int) -> None:
        is_right = file.verify(block)
        with self._lock:
            if file.states[block] != RECORDED:
                return
            file.states[block] = ON_DISK if is_right else MISSING
            self.damaged_count += not is_right
        if not is_right:
            log.warning("cached block is damaged, fetched again", key=file.key, block=block)

    def _fetch_runs(self, runs: Sequence[_Run], check: Check) -> None:
        """Fetches what is still missing of runs, or waits for those who do.

        What waits for a query that is cancelled comes back without its blocks.
        """
        queue = deque(runs)
        own: dict[Future[None], _Run] = {}
        waiting: set[Future[None]] = set()
        try:
            while queue or waiting:
                while queue and len(waiting) < FETCHES:
                    started, others = self._claim(queue.popleft())
                    own |= started
                    waiting |= {*started, *others}
                if waiting:
                    wait(waiting, _POLL_S, FIRST_COMPLETED)
                check()
                if self._is_closed:
                    raise StorageUnavailable("the cache of the lake is closed")
                done = {future for future in waiting if future.done()}
                waiting -= done
                for future in done:
                    own.pop(future, None)
                    if not future.cancelled():
                        future.result()
        finally:
            for future, run in own.items():
                if future.cancel():
                    self._land(run)

    def _claim(self, run: _Run) -> tuple[dict[Future[None], _Run], set[Future[None]]]:
        """Starts to fetch what nobody fetches yet of a run, and finds who fetches the rest."""
        started: dict[Future[None], _Run] = {}
        others: set[Future[None]] = set()
        file = run.file
        with self._lock:
            blocks = [
                block for block in range(run.first, run.last + 1) if file.states[block] == MISSING
            ]
            others = {file.flights[block] for block in blocks if block in file.flights}
            free = [block for block in blocks if block not in file.flights]
            for part in _join(file, free, 0, len(free)):
                try:
                    future = self._pool.submit(self._fly, part)
                except RuntimeError as error:
                    raise StorageUnavailable("the cache of the lake is closed") from error
                for block in range(part.first, part.last + 1):
                    file.flights[block] = future
                file.pin_count += 1
                started[future] = part
        return started, others

    def _fly(self, run: _Run) -> None:
        """Fetches blocks that nobody else fetches."""
        file = run.file
        try:
            offset, length = file.span(run.first, run.last)
            data = self._fetch(file.key, file.size_bytes, (offset, length))
            if len(data) != length:
                raise StorageUnavailable(
                    f"{file.key}: asked for {length} bytes at {offset}, got {len(data)}"
                )
            view = memoryview(data)
            written_bytes = self._write(run, view)
            with self._lock:
                self.miss_bytes += length
                if self._files.get(name_of(file.key)) is not file:
                    written_bytes = 0  # there lies another one by now
                self.size_bytes += written_bytes
                file.disk_bytes += written_bytes
                for block in range(run.first, run.last + 1):
                    if not written_bytes:
                        begin, size = file.span(block, block)
                        file.memory[block] = view[begin - offset : begin - offset + size]
                    file.states[block] = ON_DISK if written_bytes else IN_MEMORY
        finally:
            self._land(run)

    def _land(self, run: _Run) -> None:
        """Nobody fetches these blocks any more."""
        with self._lock:
            for block in range(run.first, run.last + 1):
                run.file.flights.pop(block, None)
            self._unpin(run.file)
            self._evict(self._bytes_max)

    def _write(self, run: _Run, data: memoryview) -> int:
        """Writes blocks; 0 if the disk does not take them now."""
        file = run.file
        if self._clock() < self._paused_until_s:
            return 0
        try:
            with self._lock:
                if self._files.get(name_of(file.key)) is not file or self._taken.is_gone:
                    return 0
                self._check_room()
                if not file.is_created:
                    file.create()
                    self.size_bytes += file.disk_bytes
            return file.write(run.first, data)
        except OSError as error:
            log.warning(
                "cache disk does not take a block, reads go on without it",
                folder=str(self._folder),
                error=str(error),
            )
            with self._lock:
                self.disk_failure_count += 1
                self._paused_until_s = self._clock() + DISK_PAUSE_S
                if error.errno in {ENOSPC, EDQUOT}:
                    self._evict(self.size_bytes * 9 // 10)
            return 0

    def _check_room(self) -> None:
        """Looks whether the disk has room that nobody else needs.

        Raises:
            OSError: it has not, or it failed.
        """
        disk = os.statvfs(self._folder)
        free_bytes = disk.f_bavail * disk.f_frsize
        left_bytes = min(self._free_bytes_min, disk.f_blocks * disk.f_frsize // SMALL_DISK_SHARE)
        if free_bytes < left_bytes:
            raise OSError(
                ENOSPC, f"{free_bytes} bytes are free, {left_bytes} bytes are left to others"
            )

    def _evict(self, bytes_max: int) -> None:
        """Removes what was used longest ago, until what is left fits."""
        going: list[str] = []
        left_bytes = self.size_bytes
        for name, file in self._files.items():
            if left_bytes <= bytes_max:
                break
            if isinstance(file, int):
                left_bytes -= file
            elif file.pin_count == 0:
                left_bytes -= file.disk_bytes
            else:
                continue
            going.append(name)
        for name in going:
            delete_files(self._folder / (name + DATA_SUFFIX))
            del self._files[name]
        self.size_bytes = left_bytes
        self.evicted_count += len(going)

    def _forget(self, file: BlockFile) -> None:
        """Leaves a file to those who hold it."""
        delete_files(self._folder / (name_of(file.key) + DATA_SUFFIX))
        file.forget_disk()
        self.size_bytes -= file.disk_bytes
        file.disk_bytes = 0
        del self._files[name_of(file.key)]


class Held:
    """What a step reads; not evicted until it is closed."""

    def __init__(self, cache: FileCache, check: Check) -> None:
        """Use `FileCache.hold`."""
        self._cache = cache
        self._check = check
        self._files: dict[str, BlockFile] = {}

    def pin(self, part: Part) -> BlockFile:
        """The local copy of an object; held from now on."""
        file = self._files.get(part.key)
        if file is None:
            file = self._files[part.key] = self._cache.pin(part.key, part.size_bytes)
        return file

    def open(self, key: str) -> CachedFile:
        """An object that is held, for pyarrow."""
        return CachedFile(self._cache, self._files[key], self._check)

    def close(self) -> None:
        """Lets everything go."""
        for file in self._files.values():
            self._cache.unpin(file)
        self._files.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_cache(store: Store, settings: LakeSettings, wal_free_bytes_min: int) -> FileCache | None:
    """The cache that a store is read through; None for a folder, which needs none.

    Args:
        store: is read.
        settings: of the cache.
        wal_free_bytes_min: what the WAL, perhaps on the same disk, needs to take writes.

    Raises:
        ConfigError: the cache path cannot be used.
    """
    if not store.is_remote:
        return None
    return FileCache(
        settings.cache_path,
        settings.cache_max_bytes,
        fetch_from(store),
        free_bytes_min=max(FREE_BYTES_MIN, 2 * wal_free_bytes_min),
    )


def fetch_from(store: Store) -> Fetch:
    """Ranges of a store's objects by URI, with their size compared."""
    prefix = store.uri_of("")

    def fetch(uri: str, size_bytes: int, one: tuple[int, int]) -> bytes:
        key = uri.removeprefix(prefix)
        try:
            data, found_bytes = store.fetch_range(key, *one)
        except BeyondEnd:
            # It has no answer; the beginning tells what is wrong.
            data, found_bytes = store.fetch_range(key, 0, 1)
            if found_bytes == size_bytes:
                raise
        if found_bytes != size_bytes:
            raise DamagedFile(
                uri, f"{uri} has {found_bytes} bytes, the log of the table says {size_bytes}"
            )
        return data

    return fetch


def _join(file: BlockFile, blocks: Sequence[int], gap_max: int, blocks_max: int) -> Iterator[_Run]:
    """Runs of ascending blocks, each of up to so many, with gaps of up to so many in between."""
    first = last = -1
    for block in blocks:
        if last < 0:
            first = block
        elif block > last + 1 + gap_max or block - first >= blocks_max:
            yield _Run(file, first, last)
            first = block
        last = block
    if last >= 0:
        yield _Run(file, first, last)


def _left_in(folder: Path) -> list[tuple[str, int]]:
    """Names that an earlier run left, least recently used first, and what they take."""
    found: list[tuple[int, str, int]] = []
    for path in folder.iterdir():
        try:
            if path.suffix == DATA_SUFFIX:
                status = path.stat()
                map_bytes = on_disk(path.with_suffix(MAP_SUFFIX))
                taken_bytes = max(1, status.st_blocks * 512 + map_bytes)
                found.append((status.st_mtime_ns, path.stem, taken_bytes))
            elif path.suffix == MAP_SUFFIX and not path.with_suffix(DATA_SUFFIX).exists():
                path.unlink()
        except OSError:  # half made when the process was killed, or the disk fails
            if path.suffix == DATA_SUFFIX:
                delete_files(path)
    return [(name, taken_bytes) for _, name, taken_bytes in sorted(found)]
