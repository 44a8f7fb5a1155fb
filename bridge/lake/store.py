"""Where the lake lies: one seam over folders and, later, object stores.

Everything goes through obstore, the crate that delta-rs itself stands on, so that both take the
same options and mean the same thing by put-if-absent. A folder adds what obstore leaves out: fsync,
hard links instead of copies, and a lock.

Invariants:
    LAKE-5  put_file is durable when it returns, leaves nothing or the whole file under its key, and
            may be repeated.
    LAKE-6  a store that does not honour put-if-absent is refused, unless one process promises to
            make every commit; that promise is held by a lock where the store has one.

Source of LAKE-6: two commits that both believe that they made version n overwrite each other. On
a store that ignores If-None-Match, 39 to 54 % of acknowledged rows were gone.
"""

import contextlib
import errno
import fcntl
import os
import shutil
import uuid
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, Literal, Protocol, Self
from urllib.parse import unquote, urlsplit

import structlog
from obstore.exceptions import AlreadyExistsError, BaseError, NotSupportedError, PreconditionError
from obstore.store import LocalStore

from bridge.errors import AlreadyRunning, ConditionalPutUnsupported, ConfigError, StorageUnavailable

log = structlog.get_logger()

PROBE_ROUNDS = 3
PROBE_PUTS = 8
"""24 small puts at a start: a store that lets one in two through passes with 2 ** -21."""

LOCK_NAME = "lake.lock"

_NOT_IN_NAMES = frozenset("%*?[")
"""delta-rs decodes %20 once too often; DuckDB expands the others."""


class Objects(Protocol):
    """What is needed of an obstore store; a test's store that lies has it too."""

    def put(
        self,
        path: str,
        file: bytes | Path,
        *,
        mode: Literal["create", "overwrite"] | None = None,
    ) -> Any:
        """Writes one object, whole or not at all."""

    def get(self, path: str) -> Any:
        """Reads one object."""

    def delete(self, paths: str) -> None:
        """Deletes one object."""


class Store:
    """Objects under `uri`; keys are relative to it.

    Attributes:
        uri: without a slash at its end.
        options: for obstore and delta-rs alike.
    """

    def __init__(
        self, uri: str, objects: Objects, options: Mapping[str, str] | None = None
    ) -> None:
        self.uri = uri.rstrip("/")
        self.options = dict(options or {})
        self._objects = objects

    def uri_of(self, key: str) -> str:
        """What delta-rs and DuckDB open."""
        return f"{self.uri}/{key}"

    def put_file(self, local_path: Path, key: str) -> None:
        """Makes a finished local file an object (LAKE-5).

        Args:
            local_path: is not written again afterwards; it may be the same file as the object.
            key: names this content and no other.

        Raises:
            StorageUnavailable: try again.
        """
        try:
            self._objects.put(key, local_path)
        except (BaseError, OSError) as error:
            raise StorageUnavailable(f"putting {self.uri_of(key)} failed: {error}") from error

    def read(self, key: str) -> bytes | None:
        """One small object; None if it is not there.

        Raises:
            StorageUnavailable: try again.
        """
        try:
            return bytes(self._objects.get(key).bytes())
        except FileNotFoundError:
            return None
        except (BaseError, OSError) as error:
            raise StorageUnavailable(f"reading {self.uri_of(key)} failed: {error}") from error

    def delete(self, key: str) -> None:
        """Deletes one object, if it is there.

        Raises:
            StorageUnavailable: try again.
        """
        try:
            self._objects.delete(key)
        except FileNotFoundError:
            pass
        except (BaseError, OSError) as error:
            raise StorageUnavailable(f"deleting {self.uri_of(key)} failed: {error}") from error

    def sync(self, keys: Iterable[str]) -> None:
        """Makes durable what others put under these keys; a bucket's objects are."""

    def lock(self, *, exclusive: bool) -> None:
        """Keeps other processes out, or only those that want to be alone; as far as it can be done.

        Raises:
            AlreadyRunning: another process holds it.
        """

    def close(self) -> None:
        """Gives the lock back."""

    def probe_put_if_absent(self) -> None:
        """Finds out whether of several creators of one object exactly one wins (LAKE-6).

        Raises:
            ConditionalPutUnsupported: commits would overwrite each other here.
            StorageUnavailable: the store does not answer.
        """
        for _ in range(PROBE_ROUNDS):
            key = f"_probe-{uuid.uuid4().hex}"
            try:
                with ThreadPoolExecutor(PROBE_PUTS) as pool:
                    bodies = [b"%d" % number for number in range(PROBE_PUTS)]
                    winners = sum(pool.map(lambda body, key=key: self._create(key, body), bodies))
            finally:
                self.delete(key)
            if winners != 1:
                raise ConditionalPutUnsupported(
                    f"{self.uri}: {winners} of {PROBE_PUTS} concurrent creations of one object "
                    "succeeded where exactly one may, so two commits could overwrite each other "
                    "and lose data. Use a store that honours If-None-Match, or set "
                    "lake.single-writer if this process alone ever commits to this lake."
                )

    def _create(self, key: str, body: bytes) -> bool:
        try:
            self._objects.put(key, body, mode="create")
        except (AlreadyExistsError, PreconditionError):
            return False
        except (NotSupportedError, NotImplementedError) as error:
            raise ConditionalPutUnsupported(
                f"{self.uri}: the store knows no put-if-absent ({error}), so two commits could "
                "overwrite each other and lose data. Set lake.single-writer if this process alone "
                "ever commits to this lake."
            ) from error
        except (BaseError, OSError) as error:
            raise StorageUnavailable(f"writing to {self.uri} failed: {error}") from error
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class FolderStore(Store):
    """A folder of the local file system, made if it is missing."""

    def __init__(self, root: Path) -> None:
        """Opens the folder.

        Raises:
            ConfigError: it is not one, or cannot be made or written.
        """
        self.root = root.absolute()
        if found := _NOT_IN_NAMES & set(str(self.root)):
            raise ConfigError(
                f"lake.uri: the folder {self.root} has {' '.join(sorted(found))} in its name, "
                "which readers of the lake take for a pattern or an escape"
            )
        try:
            _make_folder(self.root)
            objects = LocalStore(self.root)
        except (BaseError, OSError) as error:
            raise ConfigError(f"lake.uri: {root} cannot be used as a folder: {error}") from error
        if not os.access(self.root, os.W_OK | os.X_OK):
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

    def lock(self, *, exclusive: bool) -> None:
        """Takes a lock on a file in the folder, for as long as the process lives."""
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


def open_store(uri: str, options: Mapping[str, str] | None = None) -> Store:
    """Opens what `lake.uri` names: a path, relative or not, or a file:// URI.

    Raises:
        ConfigError: another scheme, or the folder cannot be used.
    """
    scheme = urlsplit(uri).scheme if "://" in uri else ""
    if scheme not in {"", "file"}:
        raise ConfigError(
            f"lake.uri: {uri!r} has the scheme {scheme!r}; taken now are folders: a path such as "
            "./data/lake, or file:///var/lib/prombridge/lake"
        )
    path = unquote(urlsplit(uri).path) if scheme else uri
    if not path or (scheme and urlsplit(uri).netloc not in {"", "localhost"}):
        raise ConfigError(f"lake.uri: {uri!r} names no folder of this machine")
    if options:
        raise ConfigError(f"lake.uri: {uri!r} is a folder, which takes no storage options")
    return FolderStore(Path(path))


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
