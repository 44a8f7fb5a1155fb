"""A lake of files in a folder, seen as one whose files lie in a bucket."""

import dataclasses
from pathlib import Path
from typing import Self

import pyarrow as pa
from obstore.store import MemoryStore

from bridge.lake.file_cache import FileCache, fetch_from
from bridge.lake.files import Files
from bridge.lake.snapshot import LakeFile, Snapshot, TableFiles
from bridge.lake.store import Store
from tests.oracle.lake_files import FileLake

BLOCK_BYTES = 16
"""So small that a read beside what was asked for is noticed."""


class RemoteLake:
    """Puts the files of a FileLake into a store in memory as they come.

    Attributes:
        store: has them.
        files: opens them.
        cache: what it opens them through.
    """

    def __init__(
        self,
        lake: FileLake,
        cache_path: Path,
        *,
        bytes_max: int = 1 << 30,
        block_bytes: int = BLOCK_BYTES,
    ) -> None:
        self._lake = lake
        self._cache_path = cache_path
        self._bytes_max = bytes_max
        self._block_bytes = block_bytes
        self._put: set[Path] = set()
        self.objects = MemoryStore()
        self.store = Store("memory://lake", self.objects)
        self._request_count = 0
        self.cache = self._open_cache()
        self.files = Files(self.store, self.cache)

    def restart(self) -> None:
        """As another process sees it, after this one's end."""
        self.cache.close()
        self.cache = self._open_cache()
        self.files = Files(self.store, self.cache)

    def _open_cache(self) -> FileCache:
        return FileCache(
            self._cache_path, self._bytes_max, fetch_from(self.store), block_bytes=self._block_bytes
        )

    def snapshot(self, *, force: bool = False) -> Snapshot:
        """What there is now, with the URIs of the store."""
        snapshot = self._lake.snapshot(force=force)
        for file in [*self._lake.samples, *self._lake.series]:
            if file.path not in self._put:
                self.store.put_file(file.path, file.path.name)
                self._put.add(file.path)
        return dataclasses.replace(
            snapshot, samples=self._moved(snapshot.samples), series=self._moved(snapshot.series)
        )

    def sample_files(self) -> list[LakeFile]:
        """All of them."""
        return self.snapshot().sample_files(None, -(1 << 62), 1 << 62)

    def take_requests(self) -> int:
        """Ranged requests since the last call."""
        count = self.store.request_counts.get("get_range", 0)
        taken, self._request_count = count - self._request_count, count
        return taken

    def _moved(self, table: TableFiles) -> TableFiles:
        names = [Path(path).name for path in table.paths.to_pylist()]
        return dataclasses.replace(
            table, prefix=self.store.uri_of(""), paths=pa.array(names, pa.string())
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.cache.close()
