"""What every store does, whatever it stands on; a new one joins STORES."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from obstore.exceptions import GenericError, NotSupportedError
from obstore.store import MemoryStore

from bridge.errors import ConditionalPutUnsupported, StorageUnavailable
from bridge.lake.store import Store, open_store

STORES: dict[str, Callable[[Path], Store]] = {
    "folder": lambda folder: open_store(str(folder / "lake")),
    "memory": lambda _: Store("memory://lake", MemoryStore()),
}


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    with STORES[request.param](tmp_path) as opened:
        yield opened


def file_of(folder: Path, content: bytes, name: str = "local.parquet") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("size", [0, 1, 6 << 20], ids=["empty", "byte", "multipart"])
def test_a_file_is_read_back_as_it_was_put(store: Store, tmp_path: Path, size: int) -> None:
    content = os.urandom(size)
    store.put_file(file_of(tmp_path, content), "samples/date=2026-11-21/f-1.parquet")
    assert store.read("samples/date=2026-11-21/f-1.parquet") == content


def test_putting_a_file_again_changes_nothing(store: Store, tmp_path: Path) -> None:
    """LAKE-5: a put whose outcome is unknown is repeated."""
    path = file_of(tmp_path, b"content")
    store.put_file(path, "samples/f-1.parquet")
    store.put_file(path, "samples/f-1.parquet")
    assert store.read("samples/f-1.parquet") == b"content"


def test_the_object_outlives_the_local_file(store: Store, tmp_path: Path) -> None:
    path = file_of(tmp_path, b"content")
    store.put_file(path, "samples/f-1.parquet")
    path.unlink()
    assert store.read("samples/f-1.parquet") == b"content"


def test_what_is_not_there_reads_as_none(store: Store) -> None:
    assert store.read("samples/none.parquet") is None


def test_deleting_is_repeatable(store: Store, tmp_path: Path) -> None:
    store.put_file(file_of(tmp_path, b"content"), "samples/f-1.parquet")
    store.delete("samples/f-1.parquet")
    store.delete("samples/f-1.parquet")
    assert store.read("samples/f-1.parquet") is None


def test_a_missing_local_file_is_a_failed_put(store: Store, tmp_path: Path) -> None:
    with pytest.raises(StorageUnavailable, match=r"f-1\.parquet"):
        store.put_file(tmp_path / "none", "samples/f-1.parquet")
    assert store.read("samples/f-1.parquet") is None


def test_syncing_what_is_there_and_what_is_not(store: Store, tmp_path: Path) -> None:
    store.put_file(file_of(tmp_path, b"{}"), "samples/_delta_log/0.json")
    store.sync(["samples/_delta_log/0.json", "samples/_delta_log/gone.json"])


def test_the_probe_accepts_a_store_that_lets_one_creator_win(store: Store) -> None:
    store.probe_put_if_absent()


def test_a_uri_names_the_object(store: Store) -> None:
    assert store.uri_of("samples/f-1.parquet") == f"{store.uri}/samples/f-1.parquet"


class Lying:
    """Takes `create` for `overwrite`, as stores do that ignore If-None-Match."""

    def __init__(self) -> None:
        self._objects = MemoryStore()

    def put(self, path: str, file: Any, *, mode: Any = None) -> Any:
        del mode
        return self._objects.put(path, file, mode="overwrite")

    def get(self, path: str) -> Any:
        return self._objects.get(path)

    def delete(self, paths: str) -> None:
        self._objects.delete(paths)

    def list(self) -> list[Any]:
        return [item for chunk in self._objects.list() for item in chunk]


class Failing(Lying):
    """Raises the same error for everything."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error = error

    def put(self, path: str, file: Any, *, mode: Any = None) -> Any:
        raise self._error

    def get(self, path: str) -> Any:
        raise self._error

    def delete(self, paths: str) -> None:
        raise self._error


def test_a_store_that_ignores_put_if_absent_is_refused() -> None:
    """LAKE-6: the message names the way out, and nothing of the probe is left."""
    objects = Lying()
    with pytest.raises(ConditionalPutUnsupported, match=r"lake\.single-writer"):
        Store("s3://bucket/lake", objects).probe_put_if_absent()
    assert objects.list() == []


def test_a_store_without_put_if_absent_is_refused() -> None:
    """LAKE-6."""

    class Unable(Lying):
        def put(self, path: str, file: Any, *, mode: Any = None) -> Any:
            if mode == "create":
                raise NotSupportedError("no conditional put here")
            return super().put(path, file)

    with pytest.raises(ConditionalPutUnsupported, match=r"lake\.single-writer"):
        Store("s3://bucket/lake", Unable()).probe_put_if_absent()


@pytest.mark.parametrize("error", [GenericError("timed out"), OSError(28, "no space left")])
def test_a_store_that_fails_is_unavailable(error: Exception, tmp_path: Path) -> None:
    store = Store("s3://bucket/lake", Failing(error))
    attempts: list[Callable[[], object]] = [
        lambda: store.put_file(file_of(tmp_path, b""), "f-1.parquet"),
        lambda: store.read("f-1.parquet"),
        lambda: store.delete("f-1.parquet"),
        store.probe_put_if_absent,
    ]
    for attempt in attempts:
        with pytest.raises(StorageUnavailable, match="s3://bucket/lake"):
            attempt()
