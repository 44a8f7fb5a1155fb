"""What every store does, whatever it stands on; a new one joins STORES."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from obstore.exceptions import AlreadyExistsError, GenericError, NotSupportedError
from obstore.store import MemoryStore

from bridge.errors import BeyondEnd, ConditionalPutUnsupported, StorageUnavailable
from bridge.lake import lease
from bridge.lake.store import PART_BYTES, Store, open_store
from tests.integration.azurite import AzureAccess
from tests.integration.object_stores import S3Access

Request = pytest.FixtureRequest


def open_s3(request: Request, folder: Path) -> Store:
    access: S3Access = request.getfixturevalue("s3")
    return open_store(f"s3://{access.make_bucket()}/some/lake", access.storage_options())


def open_azure(request: Request, folder: Path) -> Store:
    access: AzureAccess = request.getfixturevalue("azure")
    return open_store(f"az://{access.make_container()}/some/lake", access.storage_options())


STORES: dict[str, Callable[[Request, Path], Store]] = {
    "folder": lambda _, folder: open_store(str(folder / "lake")),
    "memory": lambda _, __: Store("memory://lake", MemoryStore()),
    "s3": open_s3,
    "azure": open_azure,
}


@pytest.fixture(params=STORES)
def store(request: Request, tmp_path: Path) -> Iterator[Store]:
    with STORES[request.param](request, tmp_path) as opened:
        yield opened


def file_of(folder: Path, content: bytes, name: str = "local.parquet") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    "size",
    [0, 1, PART_BYTES, 2 * PART_BYTES + 1],
    ids=["empty", "byte", "one part", "several parts"],
)
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


def test_a_range_comes_with_the_size_of_the_whole(store: Store, tmp_path: Path) -> None:
    """A shorter object than the log says: no reader may take what is left for all of it."""
    content = os.urandom(100_000)
    store.put_file(file_of(tmp_path, content), "samples/f-1.parquet")
    for offset, length in [(0, 1), (0, 100_000), (50, 10), (99_999, 1), (99_990, 100)]:
        found = store.fetch_range("samples/f-1.parquet", offset, length)
        assert found == (content[offset : offset + length], 100_000)


@pytest.mark.parametrize("offset", [10, 20])
def test_a_range_behind_the_end_is_told_from_other_failures(
    store: Store, tmp_path: Path, offset: int
) -> None:
    store.put_file(file_of(tmp_path, b"0123456789"), "samples/f-1.parquet")
    with pytest.raises(BeyondEnd, match=r"f-1\.parquet"):
        store.fetch_range("samples/f-1.parquet", offset, 1)


def test_a_range_of_an_object_that_is_gone_says_so(store: Store) -> None:
    with pytest.raises(FileNotFoundError):
        store.fetch_range("samples/gone.parquet", 5, 1)


def test_a_small_object_is_written_over_the_last_one(store: Store) -> None:
    store.write("_object", b"first")
    store.write("_object", b"second")
    assert store.read("_object") == b"second"


def test_a_store_that_lets_us_in_passes_its_check(store: Store) -> None:
    store.check()


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


def test_several_processes_share_a_store(store: Store) -> None:
    store.lock(exclusive=False, owner="a")
    store.close()
    store.lock(exclusive=False, owner="b")


def test_a_single_writer_may_come_back(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """LAKE-6."""
    monkeypatch.setattr(lease, "LEASE_SETTLE_S", 0.01)
    for _ in range(2):
        store.lock(exclusive=True, owner="a")
        store.check_alone()
        store.close()


def test_requests_are_counted_by_kind(store: Store, tmp_path: Path) -> None:
    before = dict(store.request_counts)
    store.put_file(file_of(tmp_path, b"0123456789"), "samples/f-1.parquet")
    store.read("samples/f-1.parquet")
    for offset in (0, 5):
        store.fetch_range("samples/f-1.parquet", offset, 1)
    store.delete("samples/f-1.parquet")
    counts = {kind: count - before.get(kind, 0) for kind, count in store.request_counts.items()}
    if store.is_remote:
        assert counts == {"put": 1, "get": 1, "get_range": 2, "delete": 1}
    else:
        assert set(counts) <= {"get", "get_range", "delete"}


def test_nothing_of_a_store_shows_its_secrets(store: Store) -> None:
    """LAKE-11."""
    assert repr(store).endswith(f"Store({store.uri!r})")


def test_a_uri_names_the_object(store: Store) -> None:
    assert store.uri_of("samples/f-1.parquet") == f"{store.uri}/samples/f-1.parquet"


class Lying:
    """Takes `create` for `overwrite`, as stores do that ignore If-None-Match."""

    def __init__(self) -> None:
        self._objects = MemoryStore()

    def put(self, path: str, file: Any, *, mode: Any = None, **parts: Any) -> Any:
        del mode
        return self._objects.put(path, file, mode="overwrite", **parts)

    def get(self, path: str, *, options: Any = None) -> Any:
        return self._objects.get(path, options=options)

    def delete(self, paths: str) -> None:
        self._objects.delete(paths)

    def list(self, prefix: str | None = None) -> list[Any]:
        return [item for chunk in self._objects.list(prefix) for item in chunk]


class Failing(Lying):
    """Raises the same error for everything."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error = error

    def put(self, path: str, file: Any, *, mode: Any = None, **parts: Any) -> Any:
        raise self._error

    def get(self, path: str, *, options: Any = None) -> Any:
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
        def put(self, path: str, file: Any, *, mode: Any = None, **parts: Any) -> Any:
            if mode == "create":
                raise NotSupportedError("no conditional put here")
            return super().put(path, file, **parts)

    with pytest.raises(ConditionalPutUnsupported, match=r"lake\.single-writer"):
        Store("s3://bucket/lake", Unable()).probe_put_if_absent()


def test_a_probe_whose_winner_got_no_answer_is_asked_again() -> None:
    """LAKE-6: its creation was repeated by the client and lost to itself; the store is fine."""

    class Forgetful(Lying):
        def put(self, path: str, file: Any, *, mode: Any = None, **parts: Any) -> Any:
            raise AlreadyExistsError("exists")

    with pytest.raises(StorageUnavailable, match="got no answer"):
        Store("s3://bucket/lake", Forgetful()).probe_put_if_absent()


@pytest.mark.parametrize("error", [GenericError("timed out"), OSError(28, "no space left")])
def test_a_store_that_fails_is_unavailable(error: Exception, tmp_path: Path) -> None:
    store = Store("s3://bucket/lake", Failing(error))
    attempts: list[Callable[[], object]] = [
        lambda: store.put_file(file_of(tmp_path, b""), "f-1.parquet"),
        lambda: store.write("f-1.parquet", b""),
        lambda: store.read("f-1.parquet"),
        lambda: store.fetch_range("f-1.parquet", 0, 1),
        lambda: store.delete("f-1.parquet"),
        store.probe_put_if_absent,
    ]
    for attempt in attempts:
        with pytest.raises(StorageUnavailable, match="s3://bucket/lake"):
            attempt()
