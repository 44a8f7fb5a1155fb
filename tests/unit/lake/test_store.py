import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bridge.errors import AlreadyRunning, ConfigError, StorageUnavailable
from bridge.lake.folder_store import FolderStore
from bridge.lake.store import open_store

KEY = "samples/date=2026-11-21/f-1.parquet"


@pytest.fixture
def folder(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "lake")


@pytest.fixture
def local(tmp_path: Path) -> Path:
    path = tmp_path / "cut.parquet"
    path.write_bytes(b"content")
    return path


def refuse_links(error_number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*_: object) -> None:
        raise OSError(error_number, os.strerror(error_number))

    monkeypatch.setattr(os, "link", link)


@pytest.mark.parametrize("uri", ["hdfs://bucket/lake", "memory://x", "https://key:secret@h/x"])
def test_other_schemes_are_refused_with_those_that_are_taken(uri: str) -> None:
    with pytest.raises(ConfigError, match=r"taken are folders .*file:///.*s3://") as caught:
        open_store(uri)
    assert "secret" not in str(caught.value)


def test_a_folder_is_made_with_its_parents(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "a/b/lake"))
    assert (tmp_path / "a/b/lake").is_dir()
    assert store.uri == str(tmp_path / "a/b/lake")


def test_a_relative_path_and_a_file_uri_name_the_same_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert open_store("./lake with space").uri == str(tmp_path / "lake with space")
    assert open_store(f"file://{tmp_path}/lake%20with%20space").uri == str(
        tmp_path / "lake with space"
    )


@pytest.mark.parametrize("uri", ["", "file://elsewhere/lake", "data/50%", "data/*", "lake[1]"])
def test_what_is_no_folder_or_reads_as_a_pattern_is_refused(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"lake\.uri"):
        open_store(uri)
    assert not list(tmp_path.iterdir())


def test_a_file_in_the_place_of_the_folder_is_refused(local: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be used as a folder"):
        open_store(str(local))


def test_options_of_object_stores_are_refused_for_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no storage options"):
        open_store(str(tmp_path), {"aws_region": "eu-west-1"})


def test_a_file_of_the_same_file_system_is_linked(folder: FolderStore, local: Path) -> None:
    folder.put_file(local, KEY)
    assert (folder.root / KEY).samefile(local)


@pytest.mark.parametrize("number", [errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP])
def test_where_links_are_refused_it_is_copied(
    folder: FolderStore, local: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_links(number, monkeypatch)
    folder.put_file(local, KEY)
    folder.put_file(local, KEY)
    assert (folder.root / KEY).read_bytes() == b"content"
    assert not (folder.root / KEY).samefile(local)
    assert [path.name for path in (folder.root / KEY).parent.iterdir()] == ["f-1.parquet"]


def test_any_other_failure_of_a_link_is_reported(
    folder: FolderStore, local: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_links(errno.EIO, monkeypatch)
    with pytest.raises(StorageUnavailable, match="Input/output error"):
        folder.put_file(local, KEY)


def test_a_copy_that_fails_leaves_nothing(
    folder: FolderStore, local: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LAKE-5."""
    refuse_links(errno.EXDEV, monkeypatch)

    def fsync(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    (folder.root / KEY).parent.mkdir(parents=True)
    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(StorageUnavailable, match="No space left"):
        folder.put_file(local, KEY)
    assert not list((folder.root / KEY).parent.iterdir())


def test_file_and_folders_are_synced_before_a_put_returns(
    folder: FolderStore, local: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LAKE-5: killed on the next line, and the power with it, the file is there."""
    synced: list[str] = []
    fsync = os.fsync

    def note(descriptor: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    folder.put_file(local, KEY)
    partition = (folder.root / KEY).parent
    new_folders = [folder.root, partition.parent]
    assert synced == [str(path) for path in (*new_folders, partition / "f-1.parquet", partition)]


def test_a_file_that_waited_long_is_young_in_the_lake(folder: FolderStore, local: Path) -> None:
    day_ago_s = time.time() - 86_400
    os.utime(local, (day_ago_s, day_ago_s))
    folder.put_file(local, KEY)
    assert (folder.root / KEY).stat().st_mtime > day_ago_s + 80_000


def test_two_processes_may_share_a_folder(folder: FolderStore) -> None:
    other = FolderStore(folder.root)
    folder.lock(exclusive=False)
    other.lock(exclusive=False)
    other.close()
    folder.close()


@pytest.mark.parametrize("first", [True, False])
def test_a_single_writer_tolerates_nobody(folder: FolderStore, *, first: bool) -> None:
    """LAKE-6: a promise to be alone is held."""
    other = FolderStore(folder.root)
    folder.lock(exclusive=first)
    with pytest.raises(AlreadyRunning, match=r"lake\.single-writer"):
        other.lock(exclusive=not first)
    folder.close()
    other.lock(exclusive=not first)
    other.close()


def test_the_lock_of_a_single_writer_holds_across_processes(folder: FolderStore) -> None:
    """LAKE-6."""
    folder.lock(exclusive=True)
    script = (
        "import sys; from pathlib import Path; from bridge.lake.folder_store import FolderStore; "
        "FolderStore(Path(sys.argv[1])).lock(exclusive=True)"
    )
    command = [sys.executable, "-c", script, str(folder.root)]
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "AlreadyRunning" in refused.stderr
    folder.close()
    subprocess.run(command, check=True)


@pytest.mark.parametrize("uri", ["s3:/bucket/lake", "s3:bucket", "file:/tmp/x", "az:/c", "GS:/b/x"])
def test_a_mistyped_uri_is_refused_and_nothing_is_made(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    scheme = uri.partition(":")[0].lower()
    with pytest.raises(ConfigError, match=rf"lake\.uri begins with '{scheme}:' .*\({scheme}://"):
        open_store(uri)
    assert not list(tmp_path.iterdir())


def test_a_reader_makes_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"lake\.uri: there is no folder .*/none/lake"):
        open_store(str(tmp_path / "none/lake"), is_read_only=True)
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigError, match="there is no folder"):
        open_store(str(tmp_path / "file"), is_read_only=True)


def test_a_reader_needs_no_right_to_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root has every right, so the answer of the kernel is made."""
    rights = os.R_OK | os.X_OK

    def access(_path: object, mode: int) -> bool:
        return not mode & ~rights

    monkeypatch.setattr(os, "access", access)
    with pytest.raises(ConfigError, match="not writable"):
        open_store(str(tmp_path))
    (tmp_path / "object").write_bytes(b"1")
    assert open_store(str(tmp_path), is_read_only=True).read("object") == b"1"
    rights = os.X_OK
    with pytest.raises(ConfigError, match="cannot be read"):
        open_store(str(tmp_path), is_read_only=True)
