"""Which folder of the cache a process has to itself.

    cache/0/lock  flock     the first process
    cache/1/lock  flock     one that runs beside it: a reader next to a receiver, say
    …

A process takes the lowest number that nobody holds, so that after a restart it finds what it had.
Sharing one folder instead would need a lock for every block; what two processes keep twice costs
disk alone, `cache_max_bytes` for each. A folder that nobody used for ABANDONED_S is removed by the
next process that starts. A file system without locks is refused: of two processes in one folder
each would read what the other is about to overwrite.
"""

import fcntl
import os
import shutil
import time
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Self

import structlog

from bridge.errors import ConfigError

log = structlog.get_logger()

SLOTS = 16
"""Processes with one cache path; more of them on one machine is a mistake."""
ABANDONED_S = 7 * 86_400.0
LOCK_NAME = "lock"


class CacheFolder:
    """A folder that no other process uses while this one lives.

    Attributes:
        path: of the folder.
    """

    def __init__(self, path: Path, lock: IO[bytes]) -> None:
        """Use `CacheFolder.take`."""
        self.path = path
        self._lock = lock

    @classmethod
    def take(cls, cache_path: Path) -> Self:
        """Takes the first one that is free.

        Raises:
            ConfigError: the path cannot be used, or every one is taken.
        """
        try:
            taken = cls._take(cache_path.absolute())
        except OSError as error:
            raise ConfigError(
                f"lake.cache_path: {cache_path} cannot be used as a folder: {error}"
            ) from error
        if taken is None:
            raise ConfigError(f"lake.cache_path: {SLOTS} processes use {cache_path} already")
        return taken

    @classmethod
    def _take(cls, cache_path: Path) -> Self | None:
        taken: Self | None = None
        for number in range(SLOTS):
            path = cache_path / str(number)
            if taken is not None and not path.is_dir():
                continue
            path.mkdir(parents=True, exist_ok=True)
            lock = _locked(path / LOCK_NAME)
            if lock is None:
                continue
            if taken is None:
                taken = cls(path, lock)
                taken._touch()
                continue
            with lock:
                if not _is_used(path):
                    shutil.rmtree(path, ignore_errors=True)
        if taken is not None and taken.path.name != "0":
            log.info("cache is in use by another process", folder=str(taken.path))
        return taken

    @property
    def is_gone(self) -> bool:
        """Whether it was given back, or removed: another process may have it by now."""
        try:
            found = (self.path / LOCK_NAME).stat()
        except OSError:
            return True
        return self._lock.closed or not os.path.samestat(found, os.fstat(self._lock.fileno()))

    def close(self) -> None:
        """Gives the folder back."""
        self._touch()
        self._lock.close()

    def _touch(self) -> None:
        try:
            os.utime(self._lock.fileno())
        except OSError:  # a disk that only reads: then it looks older than it is
            log.debug("cache folder cannot be touched", folder=str(self.path))


def _is_used(folder: Path) -> bool:
    """Whether it was taken, or a file in it used, lately; a kill touches nothing."""
    long_ago_s = time.time() - ABANDONED_S
    try:
        with os.scandir(folder) as entries:
            return any(entry.stat().st_mtime > long_ago_s for entry in entries)
    except OSError:  # removed just now, or the disk fails
        return True


def _locked(path: Path) -> IO[bytes] | None:
    """A lock file, locked; None if another process has it, or removes it just now."""
    with ExitStack() as stack:
        lock = stack.enter_context(path.open("ab"))
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        if os.fstat(lock.fileno()).st_nlink == 0:
            return None
        stack.pop_all()
        return lock
