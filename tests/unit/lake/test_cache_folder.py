"""Which process has which folder of the cache."""

import fcntl
import os
import shutil
from errno import ENOLCK
from pathlib import Path
from typing import IO

import pytest

from bridge.errors import ConfigError
from bridge.lake import cache_folder
from bridge.lake.cache_folder import ABANDONED_S, CacheFolder


def test_a_second_process_has_a_folder_of_its_own(tmp_path: Path) -> None:
    first, second = CacheFolder.take(tmp_path), CacheFolder.take(tmp_path)
    assert [first.path.name, second.path.name] == ["0", "1"]
    first.close()
    again = CacheFolder.take(tmp_path)
    assert again.path.name == "0"
    again.close()
    second.close()


def test_the_path_is_made(tmp_path: Path) -> None:
    folder = CacheFolder.take(tmp_path / "data" / "cache")
    assert folder.path.is_dir()
    folder.close()


def test_a_folder_that_nobody_held_for_a_week_is_removed(tmp_path: Path) -> None:
    every = [CacheFolder.take(tmp_path) for _ in range(4)]
    for folder in every:
        (folder.path / "x.blocks").write_bytes(b"x")
    for folder in every[1:]:
        if folder is not every[3]:
            folder.close()
    stat = (every[1].path / "lock").stat()
    for folder in (every[1], every[3]):
        old_s = stat.st_mtime - ABANDONED_S - 1
        for path in folder.path.iterdir():
            os.utime(path, (old_s, old_s))
    every[0].close()
    first = CacheFolder.take(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "2", "3"]
    first.close()
    every[3].close()


def test_a_path_that_is_no_folder_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"lake\.cache_path: .*file"):
        CacheFolder.take(tmp_path / "file")


def test_a_file_system_without_locks_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(*_: object) -> None:
        raise OSError(ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(ConfigError, match=r"cache_path: .*No locks available"):
        CacheFolder.take(tmp_path)


def test_a_folder_that_is_removed_while_it_is_taken_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = fcntl.flock

    def flock(lock: IO[bytes], how: int) -> None:
        if Path(lock.name).parent.name == "0":
            shutil.rmtree(tmp_path / "0", ignore_errors=True)
        real(lock, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    folder = CacheFolder.take(tmp_path)
    assert folder.path == tmp_path / "1"
    folder.close()


def test_too_many_processes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_folder, "SLOTS", 1)
    first = CacheFolder.take(tmp_path)
    with pytest.raises(ConfigError, match="1 processes use"):
        CacheFolder.take(tmp_path)
    first.close()


def test_a_folder_in_use_for_weeks_is_not_abandoned_after_a_power_cut(tmp_path: Path) -> None:
    """Its lock was touched when it was taken, its files when they were read."""
    first, second = CacheFolder.take(tmp_path), CacheFolder.take(tmp_path)
    (second.path / "x.blocks").write_bytes(b"x")
    long_ago_s = (second.path / "lock").stat().st_mtime - ABANDONED_S - 1
    for folder in (first, second):
        folder._lock.close()
        os.utime(folder.path / "lock", (long_ago_s, long_ago_s))
    CacheFolder.take(tmp_path).close()
    assert (second.path / "x.blocks").exists()
    os.utime(second.path / "x.blocks", (long_ago_s, long_ago_s))
    CacheFolder.take(tmp_path).close()
    assert not second.path.exists()


def test_a_folder_that_was_renamed_or_removed_is_gone(tmp_path: Path) -> None:
    first, second = CacheFolder.take(tmp_path), CacheFolder.take(tmp_path)
    assert [folder.is_gone for folder in (first, second)] == [False, False]
    first.path.rename(tmp_path / "aside")
    shutil.rmtree(second.path)
    assert [folder.is_gone for folder in (first, second)] == [True, True]
    first.close()
    second.close()
