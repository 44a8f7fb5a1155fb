"""A folder as a store: files are linked into their places, fsynced, and read where they are.

Invariants:
    LAKE-5  a file is in its place, whole and on the disk, or not there at all.
    LAKE-6  the promise of a single writer is held by a lock on a file, which the kernel gives back
            with the process.
"""

import contextlib
import errno
import fcntl
import os
import shutil
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO

import structlog
from obstore.exceptions import BaseError
from obstore.store import LocalStore

from bridge.errors import AlreadyRunning, ConfigError, StorageUnavailable
from bridge.lake.store import Store

log = structlog.get_logger()

LOCK_NAME = "lake.lock"

_NOT_IN_NAMES = frozenset("%*?[")
"""delta-rs decodes %20 once too often; DuckDB expands the others."""


class FolderStore(Store):
    """A folder of the local file system."""

    is_remote = False

    def __init__(self, root: Path, *, is_read_only: bool = False) -> None:
        """Opens the folder, making it if it is missing and not only read.

        Raises:
            ConfigError: it is not one, or cannot be made, written or read.
        """
        self.root = root.absolute()
        if found := _NOT_IN_NAMES & set(str(self.root)):
            raise ConfigError(
                f"lake.uri: the folder {self.root} has {' '.join(sorted(found))} in its name, "
                "which readers of the lake take for a pattern or an escape"
            )
        try:
            if not is_read_only:
                _make_folder(self.root)
            elif not self.root.is_dir():
                raise ConfigError(
                    f"lake.uri: there is no folder {self.root}, and a process that only reads "
                    "makes none"
                )
            objects = LocalStore(self.root)
        except (BaseError, OSError) as error:
            raise ConfigError(f"lake.uri: {root} cannot be used as a folder: {error}") from error
        if is_read_only and not os.access(self.root, os.R_OK | os.X_OK):
            raise ConfigError(f"lake.uri: the folder {root} cannot be read")
        if not is_read_only and not os.access(self.root, os.W_OK | os.X_OK):
            raise ConfigError(f"lake.uri: the folder {root} is not writable")
        super().__init__(str(self.root), objects)
        self._lock: IO[bytes] | None = None

    def put_file(self, local_path: Path, key: str) -> None:
        """Links the file into its place, or copies it from another file system (LAKE-5)."""
        target = self.root / key
        try:
            _make_folder(target.parent)
            try:
                os.link(local_path, target)
            except FileExistsError:
                if not target.samefile(local_path):
                    _copy_durably(local_path, target)
            except OSError as error:
                if error.errno not in _NO_LINK:
                    raise
                _copy_durably(local_path, target)
            # Vacuum deletes what nothing refers to and is old: it is young now, however long the
            # file waited on the disk.
            os.utime(target)
            _fsync(target)
            _fsync(target.parent)
        except OSError as error:
            raise StorageUnavailable(f"putting {target} failed: {error}") from error

    def sync(self, keys: Iterable[str]) -> None:
        """Fsyncs files that delta-rs wrote, and their folders.

        Raises:
            StorageUnavailable: they may not be on the disk.
        """
        paths = [self.root / key for key in keys]
        try:
            for path in paths:
                # What another process cleaned up in the meantime needs no fsync.
                with contextlib.suppress(FileNotFoundError):
                    _fsync(path)
            for folder in {path.parent for path in paths}:
                _fsync(folder)
        except OSError as error:
            raise StorageUnavailable(f"fsync below {self.root} failed: {error}") from error

    def lock(
        self,
        *,
        exclusive: bool,
        owner: str = "",
        on_lost: Callable[[str], None] | None = None,
    ) -> None:
        """Takes a lock on a file in the folder, for as long as the process lives."""
        del owner, on_lost  # the kernel knows who, and never takes it away
        assert self._lock is None
        try:
            file = (self.root / LOCK_NAME).open("ab")
        except OSError as error:
            raise ConfigError(f"lake.uri: {self.root} cannot be written: {error}") from error
        try:
            fcntl.flock(file, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.close()
            raise AlreadyRunning(
                f"{self.root} is in use by another process, and "
                + (
                    "lake.single-writer promises that this one is alone; stop the other first"
                    if exclusive
                    else "that one runs with lake.single-writer, so no other may commit here"
                )
            ) from error
        except OSError as error:  # some network file systems have no locks
            file.close()
            log.warning("lake folder cannot be locked", folder=str(self.root), error=str(error))
            return
        self._lock = file

    def close(self) -> None:
        """Gives the lock back."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None


_NO_LINK = {
    errno.EXDEV,
    errno.EPERM,
    errno.EACCES,
    errno.EMLINK,
    errno.ENOTSUP,
    errno.EOPNOTSUPP,
    errno.ENOSYS,
}
"""Another file system, one without links, or a kernel that forbids links to others' files."""


def _copy_durably(source: Path, target: Path) -> None:
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
    try:
        shutil.copyfile(source, temporary)
        _fsync(temporary)
        temporary.rename(target)
    finally:
        temporary.unlink(missing_ok=True)


def _make_folder(folder: Path) -> None:
    """Makes a folder and its parents, and their names durable."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    _fsync(folder.parent)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
