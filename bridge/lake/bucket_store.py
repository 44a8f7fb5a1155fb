"""A bucket as a store: S3 and what is compatible, Google Cloud Storage, Azure Blob Storage.

Nothing is asked for before `check`, so that a process starts while its store is away. From the
options (`store_options`) one obstore object is made, and delta-rs is given the same ones.

The promise of a single writer is held by a lease (`lease`), an object beside the tables.
"""

import contextlib
import re
import threading
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, cast
from urllib.parse import urlsplit

from obstore.exceptions import BaseError
from obstore.store import AzureStore, GCSStore, S3Store

from bridge.errors import ConfigError, StorageUnavailable
from bridge.lake.lease import LEASE_KEY, Lease, check_no_lease
from bridge.lake.providers import AZURE, GCS, PROVIDERS, RETRIES, S3, Provider
from bridge.lake.store import Objects, Store
from bridge.lake.store_errors import explain
from bridge.lake.store_options import resolve_options, secrets_of
from bridge.model.options import parse_duration

_PLACE = re.compile(r"[A-Za-z0-9._-]+(@[a-z0-9-]+\.[a-z0-9.-]+)?")
_SEGMENT = re.compile(r"[A-Za-z0-9_=+-][A-Za-z0-9._=+-]*")
"""One part of the path: obstore, delta-rs and DuckDB disagree on how others are escaped."""


class BucketStore(Store):
    """A place in a bucket, or in a container.

    Args:
        uri: `s3://bucket/path`, `gs://bucket/path`, `az://container/path`.
        stated: `lake.storage_options`.
        environment: of this process.
    """

    def __init__(self, uri: str, stated: Mapping[str, str], environment: Mapping[str, str]) -> None:
        """Makes the client; asks the store for nothing.

        Raises:
            ConfigError: the URI or an option is wrong.
        """
        parts = urlsplit(uri)
        provider = PROVIDERS[parts.scheme]
        segments = [segment for segment in parts.path.split("/") if segment]
        if (
            not _PLACE.fullmatch(parts.netloc)
            or ("@" in parts.netloc and provider is not AZURE)
            or not all(_SEGMENT.fullmatch(segment) for segment in segments)
            or parts.query
            or parts.fragment
        ):
            # It is not quoted: a key may stand in it by mistake.
            raise ConfigError(
                f"lake.uri: write {parts.scheme}://BUCKET/PATH, with letters, digits and . _ = + - "
                "in them; keys belong into the environment or into lake.storage_options"
            )
        options = resolve_options(provider, stated, environment)
        options |= _options_of_host(parts.netloc.partition("@")[2])
        uri = "/".join([f"{parts.scheme}://{parts.netloc}", *segments])
        super().__init__(uri, _connect(provider, uri, options), options)
        self._lease: Lease | None = None
        self._commit_lock = threading.RLock()

    def check(self) -> None:
        """Lists and reads, as delta-rs does first."""
        with self._asking(f"listing {self.uri}"):
            self._count("list")
            # A prefix that nothing has: the answer is small however large the lake is.
            next(iter(self._objects.list("_check")), None)
        self.check_answers()

    def check_answers(self) -> None:
        """Reads the lease: mostly it is not there, and never is it a page."""
        found = self.read(LEASE_KEY)
        if found is not None and not found.lstrip().startswith(b"{"):
            raise StorageUnavailable(
                f"{self.uri}: something else than the store answers: it gives a page in place of "
                f"{LEASE_KEY}, {len(found)} bytes"
            )

    def lock(
        self,
        *,
        exclusive: bool,
        owner: str = "",
        on_lost: Callable[[str], None] | None = None,
    ) -> None:
        """Takes the lease of a single writer, or finds out that nobody has it."""
        assert self._lease is None
        if not exclusive:
            check_no_lease(self, owner)
            return
        lease = Lease(self, owner, on_lost=on_lost)
        lease.take()
        lease.start()
        self._lease = lease

    def committing(self) -> contextlib.AbstractContextManager[object]:
        """A lock, for who is alone."""
        return contextlib.nullcontext() if self._lease is None else self._commit_lock

    def check_alone(self) -> None:
        """Renews the lease if that is due."""
        if self._lease is not None:
            self._lease.check()

    def close(self) -> None:
        """Gives the lease back."""
        if self._lease is None:
            return
        if self._commit_lock.acquire(blocking=False):
            self._lease.release()
            self._lease = None
            self._commit_lock.release()
        # Else a commit is on its way, and the lease has to be dead before another one commits.


def _connect(provider: Provider, uri: str, options: Mapping[str, str]) -> Objects:
    """The obstore object of a bucket.

    Raises:
        ConfigError: an option's value is none; it is not quoted.
    """
    config: Any = {key: value for key, value in options.items() if key not in RETRIES}
    retries: Any = {
        "max_retries": int(options["max_retries"]),
        "retry_timeout": _timedelta(options["retry_timeout"]),
        "backoff": {
            "init_backoff": _timedelta(options["backoff_config.init_backoff"]),
            "max_backoff": _timedelta(options["backoff_config.max_backoff"]),
            "base": int(options["backoff_config.base"]),
        },
    }
    if provider is S3:
        # One object, one request: not every compatible store has the bulk deletion.
        config["aws_disable_bulk_delete"] = "true"
    parts = urlsplit(uri)
    bucket, prefix = parts.netloc.partition("@")[0], parts.path.strip("/") or None
    made: S3Store | GCSStore | AzureStore
    try:
        # Not from_url, which ends the process for an option of the client, such as `timeout`.
        if provider is AZURE:
            made = AzureStore(bucket, prefix=prefix, config=config, retry_config=retries)
        elif provider is GCS:
            made = GCSStore(bucket, prefix=prefix, config=config, retry_config=retries)
        else:
            made = S3Store(bucket, prefix=prefix, config=config, retry_config=retries)
    except (BaseError, ValueError, OSError) as error:
        text = explain(error, [*secrets_of(options)]).text
        raise ConfigError(f"lake.storage_options: {_unquoted(text)}") from None
    return cast("Objects", made)


def _options_of_host(host: str) -> dict[str, str]:
    """What `container@account.dfs.core.windows.net` says besides the container."""
    if not host:
        return {}
    account, _, domain = host.partition(".")
    if domain not in {"dfs.core.windows.net", "dfs.fabric.microsoft.com"}:
        raise ConfigError(
            "lake.uri: after the @ stands ACCOUNT.dfs.core.windows.net; for another cloud write "
            "az://CONTAINER/PATH and set azure_storage_endpoint in lake.storage_options"
        )
    options = {"azure_storage_account_name": account}
    if "fabric" in domain:
        options["azure_use_fabric_endpoint"] = "true"
    return options


def _timedelta(text: str) -> timedelta:
    return timedelta(seconds=parse_duration(text))


def _unquoted(text: str) -> str:
    """Without what the library quotes: a value that it cannot read may be a misplaced secret."""
    return re.sub(r'"[^"]*"', "a value", text)
