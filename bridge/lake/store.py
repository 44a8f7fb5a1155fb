"""Where the lake lies: one seam over folders and object stores.

Everything goes through obstore, which stands on the crate that delta-rs stands on, so that both
take the same options and mean the same thing by put-if-absent. A folder (`folder_store`) adds what
obstore leaves out: fsync, hard links instead of copies, and a lock. A bucket (`bucket_store`) adds
credentials, a check of them at the start, and a lease in place of the lock.

Invariants:
    LAKE-5  put_file is durable when it returns, leaves nothing or the whole file under its key, and
            may be repeated.
    LAKE-6  a store that does not honour put-if-absent is refused, unless one process promises to
            make every commit; that promise is held by a lock, or by a lease.
    LAKE-11 no secret of the options is in a message.

Source of LAKE-6: two commits that both believe that they made version n overwrite each other. On
a store that ignores If-None-Match, 39 to 54 % of acknowledged rows were gone.
"""

import contextlib
import os
import re
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, Protocol, Self
from urllib.parse import unquote, urlsplit

from obstore.exceptions import AlreadyExistsError, BaseError, NotSupportedError, PreconditionError

from bridge.errors import (
    BeyondEnd,
    ConditionalPutUnsupported,
    ConfigError,
    StorageRefused,
    StorageUnavailable,
)
from bridge.lake.providers import PROVIDERS
from bridge.lake.store_errors import explain
from bridge.lake.store_options import secrets_of

PROBE_ROUNDS = 3
PROBE_PUTS = 8
"""24 small puts at a start: a store that lets one in two through passes with 2 ** -21."""

PART_BYTES = 8 << 20
PARTS_AT_ONCE = 2
"""A file above PART_BYTES goes up in parts. In memory are two on their way and one that is read:
3 x 8 MiB = 24 MiB a file, 96 MiB for the 4 uploads of a lake; measured with files of 400 MiB: 24
and 96. S3 takes 10,000 parts: 80 GB a file."""


_MISTYPED = re.compile(rf"({'|'.join(PROVIDERS)}|file|[a-z][a-z0-9+.-]*(?=:/)):", re.IGNORECASE)
"""`s3:/bucket`: a folder of that name would be made, and be an empty lake."""


class Objects(Protocol):
    """What is needed of an obstore store; a test's store that lies has it too."""

    def put(
        self,
        path: str,
        file: bytes | Path,
        *,
        mode: Literal["create", "overwrite"] | None = None,
        chunk_size: int = ...,
        max_concurrency: int = ...,
    ) -> Any:
        """Writes one object, whole or not at all."""

    def get(self, path: str, *, options: Any = None) -> Any:
        """Reads one object, or a range of it."""

    def list(self, prefix: str | None = None) -> Any:
        """Names objects, in chunks."""

    def delete(self, paths: str) -> None:
        """Deletes one object."""


class Store:
    """Objects under `uri`; keys are relative to it. Any thread may use it.

    Attributes:
        uri: without a slash at its end.
        options: for obstore and delta-rs alike; they have secrets in them.
        is_remote: its files are fetched; False where they are read in their place.
    """

    is_remote = True

    def __init__(
        self, uri: str, objects: Objects, options: Mapping[str, str] | None = None
    ) -> None:
        self.uri = uri.rstrip("/")
        self.options = dict(options or {})
        self._objects = objects
        self._secrets = secrets_of(self.options)
        self._request_counts: Counter[str] = Counter()
        self._count_lock = threading.Lock()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.uri!r})"

    @property
    def request_counts(self) -> Mapping[str, int]:
        """Requests made through this object, by kind: put, create, get, get_range, list, delete.

        Those of delta-rs, which goes its own way, are not in it; nor are repetitions.
        """
        with self._count_lock:
            return dict(self._request_counts)

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
        with self._asking(f"putting {self.uri_of(key)}"):
            parts = -(-local_path.stat().st_size // PART_BYTES)
            self._count("put", 1 if parts <= 1 else parts + 2)
            self._objects.put(key, local_path, chunk_size=PART_BYTES, max_concurrency=PARTS_AT_ONCE)

    def write(self, key: str, body: bytes) -> None:
        """Writes one small object, over the one that was there.

        Raises:
            StorageUnavailable: it is written or not.
        """
        with self._asking(f"writing {self.uri_of(key)}"):
            self._count("put")
            self._objects.put(key, body)

    def read(self, key: str) -> bytes | None:
        """One small object; None if it is not there.

        Raises:
            StorageUnavailable: try again.
        """
        try:
            with self._asking(f"reading {self.uri_of(key)}", may_miss=True):
                self._count("get")
                return bytes(self._objects.get(key).bytes())
        except FileNotFoundError:
            return None

    def fetch_file(self, key: str, local_path: Path) -> None:
        """Copies an object to the local disk, a part at a time.

        Raises:
            FileNotFoundError: the object is gone.
            StorageUnavailable: try again; or the disk is full.
        """
        with self._asking(f"fetching {self.uri_of(key)}", may_miss=True):
            self._count("get")
            with local_path.open("wb") as file:
                for part in self._objects.get(key).stream(min_chunk_size=PART_BYTES):
                    file.write(part)

    def fetch_range(self, key: str, offset: int, length: int) -> tuple[bytes, int]:
        """A part of an object, shorter where that ends, and the size of the whole.

        Args:
            key: of an object that never changes.
            offset: of the first byte.
            length: at least 1.

        Raises:
            FileNotFoundError: the object is gone.
            BeyondEnd: the object ends before `offset`.
            StorageUnavailable: try again.
        """
        with self._asking(f"reading {self.uri_of(key)} at byte {offset}", may_miss=True):
            self._count("get_range")
            found = self._objects.get(key, options={"range": (offset, offset + length)})
            return bytes(found.bytes()), int(found.meta["size"])

    def delete(self, key: str) -> None:
        """Deletes one object, if it is there.

        Raises:
            StorageUnavailable: try again.
        """
        with (
            contextlib.suppress(FileNotFoundError),
            self._asking(f"deleting {self.uri_of(key)}", may_miss=True),
        ):
            self._count("delete")
            self._objects.delete(key)

    def sync(self, keys: Iterable[str]) -> None:
        """Makes durable what others put under these keys; a bucket's objects are."""

    def check(self) -> None:
        """Asks, at the start, whether the store lets us in.

        Raises:
            StorageRefused: the key, a right or the bucket is wrong or missing; says which.
            StorageUnavailable: the store does not answer now.
        """

    def check_answers(self) -> None:
        """Called with each look at the tables: is it the store that answers?

        A proxy, or a page to log in, that answers 200 to everything is a listing without objects to
        obstore and delta-rs alike: nothing new, or an empty lake.

        Raises:
            StorageUnavailable: it is not, or does not answer.
        """

    def lock(
        self,
        *,
        exclusive: bool,
        owner: str = "",
        on_lost: Callable[[str], None] | None = None,
    ) -> None:
        """Keeps other processes out, or only those that want to be alone; as far as it can be done.

        Args:
            exclusive: this process makes every commit.
            owner: who it is, for the message to the other one; the same after a restart.
            on_lost: called by another thread, with the reason, when the promise does not hold any
                more: the process has to end.

        Raises:
            AlreadyRunning: another process holds it.
            StorageUnavailable: the store does not answer now, or refuses us; lock again.
        """

    def committing(self) -> contextlib.AbstractContextManager[object]:
        """Held by a thread from the version that it looked at to the commit behind it.

        Only where put-if-absent is missing: then nothing but this keeps the receiver and the
        maintenance of one process from making the same version (LAKE-6).
        """
        return contextlib.nullcontext()

    def check_alone(self) -> None:
        """Called before each commit: is the promise of a single writer still held?

        Raises:
            AlreadyRunning: no, another process took over; this one has to end.
            StorageUnavailable: not known now; try again.
        """

    def close(self) -> None:
        """Gives the lock back."""

    def probe_put_if_absent(self) -> None:
        """Finds out whether of several creators of one object exactly one wins (LAKE-6).

        Raises:
            ConditionalPutUnsupported: commits would overwrite each other here.
            StorageUnavailable: the store does not answer, or refuses us.
        """
        for _ in range(PROBE_ROUNDS):
            self._probe_once()

    def _probe_once(self) -> None:
        key = f"_probe-{uuid.uuid4().hex}"
        try:
            with ThreadPoolExecutor(PROBE_PUTS) as pool:
                bodies = [b"%d" % number for number in range(PROBE_PUTS)]
                winners = sum(pool.map(lambda body: self._create(key, body), bodies))
        finally:
            self.delete(key)
        if winners == 0:
            # The answer to the winner was lost, and its repetition lost to itself.
            raise StorageUnavailable(f"{self.uri}: the probe for put-if-absent got no answer")
        if winners > 1:
            raise ConditionalPutUnsupported(
                f"{self.uri}: {winners} of {PROBE_PUTS} concurrent creations of one object "
                "succeeded where exactly one may, so two commits could overwrite each other "
                "and lose data. Use a store that honours If-None-Match, or set "
                "lake.single-writer if this process alone ever commits to this lake."
            )

    def _create(self, key: str, body: bytes) -> bool:
        self._count("create")
        try:
            self._objects.put(key, body, mode="create")
        except (AlreadyExistsError, PreconditionError):
            return False
        except (NotSupportedError, NotImplementedError) as error:
            raise ConditionalPutUnsupported(
                f"{self.uri}: the store knows no put-if-absent ({explain(error).text}), so two "
                "commits could overwrite each other and lose data. Set lake.single-writer if this "
                "process alone ever commits to this lake."
            ) from error
        except (BaseError, OSError) as error:
            raise self.failure(f"writing to {self.uri}", error) from None
        return True

    def failure(self, attempt: str, error: BaseException) -> StorageUnavailable:
        """What to raise for an error of obstore or delta-rs; without its secrets (LAKE-11).

        Args:
            attempt: `putting s3://bucket/lake/x`.
            error: raised by the attempt. It may hold secrets, so raise `from None`.
        """
        explained = explain(error, self._secrets)
        if explained.is_refused:
            return StorageRefused(f"{attempt} was refused: {explained.text}")
        if explained.is_beyond_end:
            return BeyondEnd(f"{attempt} failed: {explained.text}")
        return StorageUnavailable(f"{attempt} failed: {explained.text}")

    @contextlib.contextmanager
    def _asking(self, attempt: str, *, may_miss: bool = False) -> Iterator[None]:
        """Turns errors into ours.

        Raises:
            FileNotFoundError: the object is not there, and it may not be.
            StorageUnavailable: anything else.
        """
        try:
            yield
        except (BaseError, OSError) as error:
            if may_miss and isinstance(error, FileNotFoundError) and explain(error).is_missing:
                raise FileNotFoundError(f"{attempt} failed: it is not there") from None
            raise self.failure(attempt, error) from None

    def _count(self, kind: str, count: int = 1) -> None:
        with self._count_lock:
            self._request_counts[kind] += count

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_store(
    uri: str, options: Mapping[str, str] | None = None, *, is_read_only: bool = False
) -> Store:
    """Opens what `lake.uri` names: a path, a file:// URI, or a bucket; asks nothing of a bucket.

    Args:
        uri: `data/lake`, `file:///var/lib/prombridge/lake`, `s3://bucket/lake`, `gs://…`, `az://…`.
        options: `lake.storage_options`; over them lies nothing, under them the environment.
        is_read_only: a folder is not made, and need not be writable.

    Raises:
        ConfigError: another scheme, an option that is none, or the folder cannot be used.
    """
    # These two are built upon this module.
    from bridge.lake.bucket_store import BucketStore  # noqa: PLC0415
    from bridge.lake.folder_store import FolderStore  # noqa: PLC0415

    scheme = urlsplit(uri).scheme if "://" in uri else ""
    if scheme in PROVIDERS:
        return BucketStore(uri, options or {}, os.environ)
    if scheme not in {"", "file"}:
        raise ConfigError(
            f"lake.uri has the scheme {scheme!r}; taken are folders (a path such as "
            "./data/lake, or file:///var/lib/prombridge/lake) and buckets (s3://BUCKET/PATH, "
            "gs://BUCKET/PATH, az://CONTAINER/PATH)"
        )
    if not scheme and (mistyped := _MISTYPED.match(uri)):
        # It is not quoted: a key may stand in it by mistake.
        found = mistyped[1].lower()
        raise ConfigError(
            f"lake.uri begins with '{found}:' and is neither a URI ({found}://…) nor a folder; "
            f"write ./{found}:… for one that is called so"
        )
    path = unquote(urlsplit(uri).path) if scheme else uri
    if not path or (scheme and urlsplit(uri).netloc not in {"", "localhost"}):
        raise ConfigError(f"lake.uri: {uri!r} names no folder of this machine")
    if options:
        raise ConfigError(f"lake.uri: {uri!r} is a folder, which takes no storage options")
    return FolderStore(Path(path), is_read_only=is_read_only)
