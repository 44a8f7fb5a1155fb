"""One Delta table, held open by the thread that commits to it.

    known position? ── yes ──────────────────────────────────────────────> nothing to do
        │ no
    commit version n + 1, refused if it is there
        ├─ done ── follow ── fsync the log (folder) ── checkpoint and reopen every 50 versions
        ├─ conflict ── reopen, from the top
        └─ any other failure ── reopen: is the position there? yes: done; no: the caller tries again

Invariants:
    LAKE-1  every position of a receiver is in a table once: the table's application transaction is
            compared before a commit and after an unknown outcome. delta-rs refuses a repeated
            transaction only of a table object that has not followed it.
    LAKE-8  a commit that was reported is on the disk with every commit before it; a reported one is
            never taken back.
    LAKE-9  a table of a newer format is not touched.

Why reopen: what a held object follows since its last checkpoint makes every commit slower (1000
commits: 150 ms instead of 2); a fresh one per commit reads the log anew. With 20000 files a commit
takes 35 ms, following it 35 ms, opening at a checkpoint 55 ms. Looking up a transaction reads up to
50 entries of the log, so what is known is remembered until the next reopening.
"""

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import structlog
from deltalake import CommitProperties, DeltaTable, Transaction
from deltalake import Schema as DeltaSchema
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from deltalake.transaction import AddAction, PostCommitHookProperties, RemoveAction

from bridge.errors import ConfigError, FormatTooNew, StorageUnavailable
from bridge.lake.data_file import DataFile
from bridge.lake.schema import FORMAT_PROPERTY, FORMAT_VERSION, TableSchema
from bridge.lake.store import Store

log = structlog.get_logger()

CHECKPOINT_VERSIONS = 50
COMMIT_ATTEMPTS = 10
"""Each goes through up to 16 versions inside delta-rs, so 160 commits of others fit in between."""

TABLE_PROPERTIES = {
    FORMAT_PROPERTY: str(FORMAT_VERSION),
    # Log entries below the last checkpoint: two days reach behind what a vacuum leaves (24 h), and
    # a commit a minute keeps some 3000 of them, which every open has to list.
    "delta.logRetentionDuration": "interval 2 days",
}

_NO_HOOKS = PostCommitHookProperties(create_checkpoint=False, cleanup_expired_logs=False)


def open_table(store: Store, schema: TableSchema) -> DeltaTable | None:
    """The newest version of a table; None if there is no table.

    Raises:
        FormatTooNew: written by a newer prombridge (LAKE-9).
        ConfigError: a Delta table that prombridge did not make.
        StorageUnavailable: the store failed, or the table's log is damaged.
    """
    uri = store.uri_of(schema.name)
    try:
        table = DeltaTable(uri, storage_options=store.options or None)
    except TableNotFoundError:
        return None
    except (DeltaError, OSError) as error:
        raise store.failure(f"opening the table {uri}", error) from None
    text = table.metadata().configuration.get(FORMAT_PROPERTY)
    if text is None or not text.isdecimal():
        raise ConfigError(
            f"lake.uri: {uri} is a Delta table that prombridge did not make (it lacks the property "
            f"{FORMAT_PROPERTY}); name a folder of its own"
        )
    if int(text) > FORMAT_VERSION:
        raise FormatTooNew(
            f"{uri} has format {text}, this prombridge knows {FORMAT_VERSION}: a newer release "
            "wrote it, run that one"
        )
    return table


def create_table(store: Store, schema: TableSchema) -> DeltaTable:
    """Makes a table, or opens the one that another process made in the meantime.

    Raises:
        StorageUnavailable: neither was possible.
    """
    uri = store.uri_of(schema.name)
    cause: Exception | None = None
    try:
        DeltaTable.create(
            uri,
            DeltaSchema.from_arrow(schema.full()),
            mode="error",
            partition_by=[] if schema.partition is None else [schema.partition.name],
            name=schema.name,
            configuration=TABLE_PROPERTIES,
            storage_options=store.options or None,
            # Without this only delta-rs' own properties are taken.
            raise_if_key_not_exists=False,
            # With retries a second creator succeeds too: a version 1 with another table id.
            commit_properties=CommitProperties(max_commit_retries=0),
        )
    except (DeltaError, OSError) as error:
        cause = error
    table = open_table(store, schema)
    if table is None:
        cause = cause or OSError("it is not there")
        raise store.failure(f"making the table {uri}", cause) from None
    if cause is None:
        log.info("lake table created", table=schema.name, uri=uri)
    return table


class LakeTable:
    """A table to commit to; used by one thread at a time."""

    def __init__(
        self, store: Store, schema: TableSchema, clock: Callable[[], float] = time.time
    ) -> None:
        """Opens the table, making it if it is missing.

        Args:
            store: where it lies.
            schema: which one it is.
            clock: Unix seconds, when files are said to be committed.

        Raises:
            FormatTooNew: written by a newer prombridge.
            ConfigError: not one of ours.
            StorageUnavailable: the store failed.
        """
        self.schema = schema
        self.operation_counts: Counter[str] = Counter(open=1)
        self._store = store
        self._clock = clock
        self._delta = open_table(store, schema) or create_table(store, schema)
        self._known: dict[str, int] = {}
        self._checkpoint_version = self._last_checkpoint()
        # What others committed since then may not be on the disk yet (LAKE-8).
        self._synced_version = self._checkpoint_version

    def position(self, app_id: str) -> int | None:
        """The last position of `app_id` in the store now.

        Raises:
            StorageUnavailable: the store failed.
        """
        self._reopen()
        return self._position(app_id)

    def commit(self, files: Sequence[DataFile], app_id: str, position: int) -> bool:
        """Makes files part of the table, once (LAKE-1).

        Args:
            files: already in the store.
            app_id: whose position it is.
            position: greater than that of every earlier commit of `app_id`.

        Returns:
            False if the table had the position already.

        Raises:
            AlreadyRunning: this process is not the single writer any more.
            StorageUnavailable: it is not in the table, or not for sure on the disk; try again.
        """
        actions: list[AddAction | RemoveAction] = [self._action(file) for file in files]
        for _ in range(COMMIT_ATTEMPTS):
            if self._has(app_id, position):
                self._sync()
                return False
            try:
                with self._store.committing():
                    self._write(actions, {app_id: position})
            except CommitFailedError as error:
                self._note_conflict(error)
                self._reopen()
            except (DeltaError, OSError) as error:
                self._reopen()
                if not self._has(app_id, position):
                    attempt = (
                        f"committing {len(files)} files to {self._delta.table_uri} at position "
                        f"{position}"
                    )
                    raise self._store.failure(attempt, error) from None
                self._sync()
                return True
            else:
                # Known only once it is held: what is not followed cannot be synced (LAKE-8).
                self._follow()
                self._known[app_id] = position
                self._sync()
                self._checkpoint_sometimes()
                return True
        raise StorageUnavailable(
            f"committing {len(files)} files to {self.schema.name} at position {position} met "
            f"{COMMIT_ATTEMPTS} conflicts in a row"
        )

    def _write(
        self,
        actions: Sequence[AddAction | RemoveAction],
        transactions: Mapping[str, int],
        *,
        retries: int | None = None,
    ) -> None:
        """Tries to make the next version.

        Args:
            actions: files added and removed.
            transactions: versions by application id.
            retries: how often it may go on to a later version, if delta-rs finds nothing against
                it; None for 15, 0 for the version behind the one that is held or none.

        Raises:
            AlreadyRunning: this process is not the single writer any more.
            StorageUnavailable: whether it still is cannot be asked now.
            CommitFailedError: others committed what stands against it, or too much at once.
            DeltaError: the outcome is unknown.
            OSError: the outcome is unknown.
        """
        self._store.check_alone()  # LAKE-6
        self.operation_counts["commit"] += 1
        self._delta.create_write_transaction(
            list(actions),
            mode="append",
            schema=self._delta.schema(),
            partition_by=[] if self.schema.partition is None else [self.schema.partition.name],
            commit_properties=CommitProperties(
                app_transactions=[
                    Transaction(app_id, version, None) for app_id, version in transactions.items()
                ],
                max_commit_retries=retries,
            ),
            post_commithook_properties=_NO_HOOKS,
        )

    def _note_conflict(self, error: CommitFailedError) -> None:
        self.operation_counts["conflict"] += 1
        failure = self._store.failure("committing", error)
        log.info("lake commit conflict", table=self.schema.name, error=str(failure))

    def _action(self, file: DataFile) -> AddAction:
        return AddAction(
            path=self.schema.folder_of(file.partition).removeprefix(f"{self.schema.name}/")
            + file.path.name,
            size=file.size_bytes,
            partition_values=(
                {}
                if self.schema.partition is None
                else {self.schema.partition.name: file.partition}
            ),
            modification_time=int(self._clock() * 1000),
            data_change=True,
            stats=file.stats_json(),
        )

    def _reopen(self) -> None:
        self._known.clear()
        self.operation_counts["open"] += 1
        table = open_table(self._store, self.schema)
        if table is None:
            raise StorageUnavailable(f"the table {self._store.uri_of(self.schema.name)} is gone")
        self._delta = table

    def _has(self, app_id: str, position: int) -> bool:
        known = self._known.get(app_id)
        if known is None:
            known = self._position(app_id)
        return known is not None and known >= position

    def _position(self, app_id: str) -> int | None:
        """Looked up in the log of the version that is held, which may be cleaned up by now."""
        try:
            return self._delta.transaction_version(app_id)
        except (DeltaError, OSError):
            self._reopen()
        try:
            return self._delta.transaction_version(app_id)
        except (DeltaError, OSError) as error:
            attempt = f"reading the log of {self._store.uri_of(self.schema.name)}"
            raise self._store.failure(attempt, error) from None

    def _follow(self) -> None:
        """A held object does not move by itself, and its next commit would fail."""
        self.operation_counts["refresh"] += 1
        try:
            self._delta.update_incremental()
        except (DeltaError, OSError):
            self._reopen()

    def _sync(self) -> None:
        version = self._delta.version()
        first = max(0, self._synced_version + 1)
        self._store.sync(
            self._log_key(f"{number:020d}.json") for number in range(first, version + 1)
        )
        self._synced_version = version

    def _checkpoint_sometimes(self) -> None:
        if self._delta.version() - self._checkpoint_version >= CHECKPOINT_VERSIONS:
            self._checkpoint()

    def _checkpoint(self) -> None:
        """Best effort: without it everything works, but slower every time."""
        version = self._delta.version()
        self.operation_counts["checkpoint"] += 1
        try:
            self._delta.create_checkpoint()
            self._store.sync(
                [
                    self._log_key(f"{version:020d}.checkpoint.parquet"),
                    self._log_key("_last_checkpoint"),
                ]
            )
            self._delta.cleanup_metadata()
            self._reopen()
        except (DeltaError, OSError, StorageUnavailable) as error:
            self.operation_counts["failed_checkpoint"] += 1
            log.warning(
                "lake checkpoint failed, commits get slower until the next one",
                table=self.schema.name,
                version=version,
                error=str(self._store.failure("making it", error)),
            )
        self._checkpoint_version = version

    def _last_checkpoint(self) -> int:
        text = self._store.read(self._log_key("_last_checkpoint"))
        try:
            return int(json.loads(text or b"")["version"])
        except (ValueError, KeyError, TypeError):
            return -1

    def _log_key(self, name: str) -> str:
        return f"{self.schema.name}/_delta_log/{name}"
