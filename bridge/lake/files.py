"""What readers open the lake's files through.

    a folder's files, and cut files        opened where they are
    files of a remote store                held in the cache, step by step, and opened there

A step is what is fetched at once: everything that a query will read of so many files, in their
order, that its blocks add up to STEP_BYTES_MAX. All of it is asked for in parallel, and let go when
the next step begins.

Limits: a slice of a query has up to 2 M rows that it selects, but the row groups that they are
spread over may have any number more; whatever that is, a query holds STEP_BYTES_MAX of the cache
and one item more at most (an item is a row group, a footer, or a row group of labels): four queries
128 MiB. Where it wants every second block the gaps come along, and that is twice as much. On the
disk, and in memory while the disk takes nothing.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from bridge.errors import DamagedFile
from bridge.lake.block_file import Check
from bridge.lake.file_cache import FileCache, Held, Part
from bridge.lake.store import Store

STEP_BYTES_MAX = 32 << 20

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class OpenFiles:
    """What can be opened now.

    Attributes:
        held: of the cache; None if only local files are meant.
        prefix: of what lies in the remote store.
    """

    held: Held | None = None
    prefix: str = ""

    def source(self, path: str) -> Any:
        """A file, as pyarrow reads it.

        Raises:
            FileNotFoundError: it is gone.
        """
        # A path instead of a file would have pyarrow look for fsspec, each time anew.
        if self.held is None or not path.startswith(self.prefix):
            return pa.OSFile(path)
        return pa.PythonFile(self.held.open(path), mode="r")

    @contextmanager
    def parquet(
        self, path: str, parsed: Any, read_dictionary: Sequence[str] = ()
    ) -> Iterator[pq.ParquetFile]:
        """A Parquet file whose footer is known.

        Raises:
            FileNotFoundError: it is gone.
            DamagedFile: pyarrow does not understand what is in it.
        """
        is_local = self.held is None or not path.startswith(self.prefix)
        with (
            damage_named(path),
            pq.ParquetFile(
                self.source(path),
                metadata=parsed,
                read_dictionary=list(read_dictionary),
                page_checksum_verification=True,
                # Reads across the gaps between columns, which are not held.
                pre_buffer=is_local,
            ) as file,
        ):
            yield file


_LOCAL = OpenFiles()


@contextmanager
def damage_named(path: str) -> Iterator[None]:
    """Tells whose bytes they are that pyarrow does not understand.

    Raises:
        DamagedFile: in place of what pyarrow raised.
    """
    try:
        yield
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        # pyarrow calls such bytes an OSError too, one without a number.
        if isinstance(error, OSError) and (
            isinstance(error, FileNotFoundError) or error.errno is not None
        ):
            raise
        raise DamagedFile(path, f"a file of the lake is damaged: {path}: {error}") from error


class Step:
    """What reading some parts at once takes of the cache: blocks, each counted once.

    Attributes:
        size_bytes: of the blocks.
    """

    def __init__(self, block_bytes: int) -> None:
        self.size_bytes = 0
        self._block_bytes = block_bytes
        self._blocks: set[tuple[str, int]] = set()

    @property
    def is_full(self) -> bool:
        """Whether no more should be fetched along with it."""
        return self.size_bytes >= STEP_BYTES_MAX

    def add(self, part: Part) -> None:
        """Counts what a part has that was not counted before."""
        size = self._block_bytes
        for offset, length in part.ranges:
            self._blocks.update(
                (part.key, block) for block in range(offset // size, -(-(offset + length) // size))
            )
        self.size_bytes = size * len(self._blocks)


class Files:
    """The files of one lake; any thread.

    Attributes:
        cache: None if the lake lies in a folder.
    """

    def __init__(self, store: Store | None = None, cache: FileCache | None = None) -> None:
        """Files of a store; without one, or where it is a folder, files are opened by path."""
        is_remote = store is not None and store.is_remote
        assert cache is not None or not is_remote, "a remote store is read through a cache"
        self.cache = cache if is_remote else None
        self._prefix = store.uri_of("") if store is not None and is_remote else ""

    @property
    def has_remote(self) -> bool:
        """Whether any file has to be fetched."""
        return self.cache is not None

    def is_remote(self, path: str) -> bool:
        """Whether a file has to be fetched."""
        return self.cache is not None and path.startswith(self._prefix)

    def new_step(self) -> Step:
        """A step that has nothing yet."""
        assert self.cache is not None, "local files are not fetched"
        return Step(self.cache.block_bytes)

    def drop(self, path: str) -> bool:
        """Forgets what was fetched of a damaged file; False if it is a local one."""
        if self.cache is None or not self.is_remote(path):
            return False
        self.cache.drop(path)
        return True

    def in_steps(
        self, items: Iterable[Item], part_of: Callable[[Item], Part], check: Check
    ) -> Iterator[tuple[Item, OpenFiles]]:
        """Items in their order, each with what it is read from; valid until the next one.

        Args:
            items: what will be read one after the other.
            part_of: what will be read for an item; asked only where files are remote. Its key is
                the path; that of a local file is not looked at further.
            check: called now and then; raises to end the work.

        Raises:
            FileNotFoundError: a file is gone.
            StorageUnavailable: the store does not give what is not in the cache.
            DamagedFile: a file has another size than the log says.
        """
        if self.cache is None:
            for item in items:
                yield item, _LOCAL
            return
        waiting: list[Item] = []
        parts: list[Part] = []
        step = self.new_step()
        for item in items:
            part = part_of(item)
            waiting.append(item)
            if part.ranges and part.key.startswith(self._prefix):
                parts.append(part)
                step.add(part)
            if step.is_full:
                yield from self._step(waiting, parts, check)
                waiting, parts, step = [], [], self.new_step()
        yield from self._step(waiting, parts, check)

    def _step(
        self, items: Sequence[Item], parts: Sequence[Part], check: Check
    ) -> Iterator[tuple[Item, OpenFiles]]:
        assert self.cache is not None
        with self.cache.hold(parts, check) as held:
            opened = OpenFiles(held, self._prefix)
            for item in items:
                yield item, opened
