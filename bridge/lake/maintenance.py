"""The lake under maintenance: what there is to do it on, and commits that nobody else made too.

    view     samples_5m, samples_1h, samples, metadata, series   a plan is made of it
    commit   files to add are whole? ── verify ── version n + 1 with transaction `maintenance` + 1
             │ verify: nobody else maintained this table since the view, every file to remove is
             │ still there, no transaction goes back or is repeated
             ├─ done ── follow ── fsync the log (folder) ── checkpoint every 50 versions
             ├─ conflict ── reopen ── is it in? done : verify again
             └─ any other failure ── reopen ── is it in? done : the caller plans again

Two maintainers may run by mistake, or somebody's OPTIMIZE. What keeps each row once is that a
commit is made on the very version that was verified, or not at all: put-if-absent of the next log
entry, without delta-rs' own retries. Where receivers append so often that ten such attempts fail,
it may pass by their appends; then this is relied upon (measured, delta-rs 1.6.6):

- A commit on a version behind which the same application id committed is refused, whatever its
  number is; so every commit of the maintenance carries the transaction `maintenance`.
- One on a version behind which somebody removed any file is refused, if that removal says
  dataChange; so ours do. Behind one that does not, as OPTIMIZE's, a second swap of the same files
  is accepted.

A receiver's append that began before a swap is refused once, and committed on a newer version.

One table refuses, but a plan is made of several. So the first rollup commit of a view claims the
lake: an empty commit to `samples`. Without it somebody else, who looked before late files came,
could drop a day as done while its rollup with those files is on its way, and the files, left in a
dropped day, would be merged in a second time.

Invariants:
    LAKE-15 two maintainers do not replace the same files, nor make the same rollup twice.
    LAKE-17 rollups are looked at before `samples`, and committed before: a rollup is only replaced
            by one that was made of at least as many samples.
    LAKE-18 nothing is removed before what replaces it is whole in the store.
    LAKE-19 vacuum deletes only files of ours that nothing has referred to for 24 h.

Limits: a view of 20000 files is 7 MB and takes 170 ms of CPU, a commit among them that removes 400
120 ms. One thread uses it.
"""

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Self, TypeVar

import pyarrow as pa
import structlog
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError, DeltaError
from deltalake.transaction import RemoveAction

from bridge.errors import AlreadyRunning, PrombridgeError, StorageUnavailable
from bridge.lake.data_file import DataFile
from bridge.lake.schema import (
    MAINTENANCE_ORDER,
    RAW_DROPPED_ID,
    SAMPLES,
    SAMPLES_1H,
    SAMPLES_5M,
    TABLES,
    TableSchema,
)
from bridge.lake.store import Store
from bridge.lake.stored_file import StoredFile, stored_files
from bridge.lake.table import COMMIT_ATTEMPTS, LakeTable, open_table
from bridge.lake.torn_log import set_torn_log_aside

log = structlog.get_logger()

Answer = TypeVar("Answer")

MAINTENANCE_ID = "maintenance"
FIVE_M_DROPPED_ID = "5m-dropped"
"""Application transactions: one more with each commit of the maintenance; the last day, as its
number since 1970, whose 5m rows were dropped."""

VACUUM_HOURS = 24
"""Longer than the longest query and the longest wait of an upload for its commit (12 h)."""

REQUESTS_AT_ONCE = 16

_PARQUET_MAGIC = b"PAR1"
_FOOTER_BYTES = 8
_DROPPED_IDS = {SAMPLES: RAW_DROPPED_ID, SAMPLES_5M: FIVE_M_DROPPED_ID}


class Superseded(PrombridgeError):
    """Another process maintained the lake since the plan was made: plan again."""


@dataclass(frozen=True, slots=True)
class LakeView:
    """One version of every table, to plan the maintenance on.

    Attributes:
        files: of each table, by key; none where the table is missing.
        versions: of each table; -1 where it is missing.
        maintenance_versions: commits of the maintenance to each table.
        raw_dropped_day: the last day whose raw samples were dropped, since 1970; None if none was.
        five_m_dropped_day: the same of 5m rows.
    """

    files: Mapping[str, Sequence[StoredFile]]
    versions: Mapping[str, int]
    maintenance_versions: Mapping[str, int]
    raw_dropped_day: int | None = None
    five_m_dropped_day: int | None = None


@dataclass(frozen=True, slots=True)
class _TableView:
    version: int
    files: Sequence[StoredFile]
    maintenance_version: int
    dropped_day: int | None


class MaintenanceTable(LakeTable):
    """A table to maintain; used by one thread at a time."""

    def __init__(self, store: Store, schema: TableSchema, clock: Callable[[], float]) -> None:
        """Opens the table, making it if it is missing; raises as `LakeTable` does."""
        super().__init__(store, schema, clock)
        self._own = range(0)
        """The last versions of `maintenance`, as far as this object made them in a row."""

    def view(self) -> _TableView:
        """The newest version.

        Raises:
            StorageUnavailable: the store failed.
        """
        self._reopen()
        self._checkpoint_version = max(self._checkpoint_version, self._last_checkpoint())
        return self._asked(lambda delta: _look(delta, self.schema))

    def has_transaction(self, app_id: str) -> bool:
        """Whether the version of the last view, or a later one of ours, has a transaction.

        Raises:
            StorageUnavailable: the store failed.
        """
        return self._position(app_id) is not None

    def is_claimed(self, planned_version: int) -> bool:
        """Whether this object maintained the table since then, and nobody else did."""
        return planned_version + 1 in self._own

    def swap(
        self,
        adds: Sequence[DataFile],
        removes: Sequence[StoredFile],
        transactions: Mapping[str, int],
        planned_version: int,
    ) -> None:
        """One commit of the maintenance (LAKE-15).

        Args:
            adds: whole in the store, under names that are nobody else's.
            removes: of this table.
            transactions: beside `maintenance`.
            planned_version: `maintenance` of the view that the commit was planned on.

        Raises:
            Superseded: somebody else maintained the table; nothing was committed.
            AlreadyRunning: this process is not the single writer any more.
            StorageUnavailable: it is not in the table, or not for sure on the disk.
        """
        added = [self._action(file) for file in adds]
        paths = [action.path for action in added]
        removed = [self._removal(file) for file in removes]
        assert len({*paths, *(action.path for action in removed)}) == len(added) + len(removed)
        attempt = f"committing {len(adds)} files for {len(removes)} to {self._delta.table_uri}"
        attempted, failure = 0, None
        for number in range(2 * COMMIT_ATTEMPTS):
            self._follow()
            present, found = self._state({MAINTENANCE_ID, *transactions})
            current = found[MAINTENANCE_ID] or 0
            if paths and present.issuperset(paths):  # an attempt of ours arrived though it failed
                if current == attempted:
                    self._made(current)
                break
            if failure is not None:
                raise failure
            self._verify(removed, transactions, planned_version, present, found)
            attempted = current + 1
            try:
                self._write(
                    [*added, *removed],
                    {**transactions, MAINTENANCE_ID: attempted},
                    retries=0 if number < COMMIT_ATTEMPTS else None,
                )
            except CommitFailedError as error:
                self._note_conflict(error)
                self._reopen()
            except (DeltaError, OSError) as error:
                failure = self._store.failure(attempt, error)
                self._reopen()
            else:
                self._follow()
                self._made(attempted)
                break
        else:
            raise failure or StorageUnavailable(
                f"{attempt} met {2 * COMMIT_ATTEMPTS} conflicts in a row"
            )
        self._sync()
        self._checkpoint_sometimes()

    def checkpoint(self) -> None:
        """Makes one, if anything was committed since the last; a failure is logged."""
        self._follow()
        if self._delta.version() > self._checkpoint_version:
            self._checkpoint()

    def _verify(
        self,
        removed: Sequence[RemoveAction],
        transactions: Mapping[str, int],
        planned_version: int,
        present: set[str],
        found: Mapping[str, int | None],
    ) -> None:
        """Raises Superseded where delta-rs would accept what must not be."""
        name = self.schema.name
        current = found[MAINTENANCE_ID] or 0
        if current != planned_version and not (
            planned_version + 1 in self._own and current == self._own[-1]
        ):
            raise Superseded(
                f"{name}: another process maintained it since the plan was made (its commit "
                f"{current}, planned on {planned_version})"
            )
        gone = [action.path for action in removed if action.path not in present]
        if gone:
            raise Superseded(f"{name}: {len(gone)} files to remove are gone, {gone[0]} is one")
        for app_id, version in transactions.items():
            known = found[app_id]
            # A day may be dropped again: files can come late to it.
            least = version if app_id == _DROPPED_IDS.get(name) else version - 1
            if known is not None and known > least:
                raise Superseded(f"{name}: the transaction {app_id} is at {known}, not {version}")

    def _made(self, version: int) -> None:
        is_next = bool(self._own) and self._own[-1] == version - 1
        self._own = range(self._own.start if is_next else version, version + 1)

    def _state(self, app_ids: Iterable[str]) -> tuple[set[str], dict[str, int | None]]:
        """Paths and transactions of the version that is held."""
        return self._asked(
            lambda delta: (
                set(pa.table(delta.get_add_actions())["path"].to_pylist()),
                {app_id: delta.transaction_version(app_id) for app_id in app_ids},
            )
        )

    def _asked(self, ask: Callable[[DeltaTable], Answer]) -> Answer:
        """What the held table answers, or the newest where the log of that was cleaned up."""
        try:
            return ask(self._delta)
        except (DeltaError, OSError):
            self._reopen()
        try:
            return ask(self._delta)
        except (DeltaError, OSError) as error:
            attempt = f"reading the log of {self._store.uri_of(self.schema.name)}"
            raise self._store.failure(attempt, error) from None

    def _removal(self, file: StoredFile) -> RemoveAction:
        assert file.table == self.schema.name
        partition = self.schema.partition
        return RemoveAction(
            path=file.key.removeprefix(f"{self.schema.name}/"),
            data_change=True,  # else delta-rs lets others remove the same files
            deletion_timestamp=time.time_ns() // 1_000_000,
            size=file.size_bytes,
            partition_values={} if partition is None else {partition.name: file.partition},
        )


class MaintenanceLake:
    """All tables of a lake, to be maintained; used by one thread."""

    def __init__(
        self,
        store: Store,
        tables: Mapping[str, MaintenanceTable] | None,
        *,
        owns_store: bool = True,
    ) -> None:
        """Use `open`; without tables it is only looked at."""
        self._owns_store = owns_store
        self._store = store
        self._tables = tables
        self._pool = ThreadPoolExecutor(REQUESTS_AT_ONCE, "lake-maintenance")
        self._gone: set[str] = set()

    @classmethod
    def open(
        cls,
        store: Store,
        *,
        single_writer: bool = False,
        owner: str = "",
        on_lost: Callable[[str], None] | None = None,
        is_read_only: bool = False,
        is_locked: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> Self:
        """Opens a lake, making the tables that are missing.

        Args:
            store: closed with the lake.
            single_writer: this process makes every commit; there is no receiver beside it.
            owner: who it is, of a single writer.
            on_lost: called on another thread, with the reason, when it is not that any more.
            is_read_only: nothing is locked, made or committed; tables may be missing.
            is_locked: this process has the lake open for its receiver, through the same store; it
                is not closed with the maintenance.
            clock: Unix seconds, when files are said to be committed; vacuum goes by the real time.

        Raises:
            AlreadyRunning: a single writer has the lake, or one is wanted and others are there.
            ConditionalPutUnsupported: commits would overwrite each other here (LAKE-6).
            FormatTooNew: written by a newer prombridge.
            ConfigError: a table is not one of ours, or the store refuses our credentials.
            StorageUnavailable: the store does not answer now.
        """
        if is_locked:
            return cls(store, _open_tables(store, clock), owns_store=False)
        try:
            store.check()
            if is_read_only:
                return cls(store, None)
            try:
                store.lock(exclusive=single_writer, owner=owner, on_lost=on_lost)
            except AlreadyRunning as error:
                raise AlreadyRunning(f"the lake cannot be maintained now: {error}") from error
            if not single_writer:
                store.probe_put_if_absent()
            for name in TABLES:
                set_torn_log_aside(store, name)
            return cls(store, _open_tables(store, clock))
        except BaseException:
            store.close()
            raise

    def close(self) -> None:
        """Gives the lock back."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        if self._owns_store:
            self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def view(self) -> LakeView:
        """The newest version of every table, the rollups before what they are made of (LAKE-17).

        Raises:
            StorageUnavailable: the store failed.
        """
        views = {name: self._view(name) for name in MAINTENANCE_ORDER}
        return LakeView(
            files={name: view.files for name, view in views.items()},
            versions={name: view.version for name, view in views.items()},
            maintenance_versions={name: view.maintenance_version for name, view in views.items()},
            raw_dropped_day=views[SAMPLES].dropped_day,
            five_m_dropped_day=views[SAMPLES_5M].dropped_day,
        )

    def has_transaction(self, table: str, app_id: str) -> bool:
        """Whether a table has an application transaction, as of the last view or commit.

        Costs 1 to 5 ms in a folder.

        Raises:
            StorageUnavailable: the store failed.
        """
        if self._tables is not None:
            return self._tables[table].has_transaction(app_id)
        delta = open_table(self._store, TABLES[table])
        try:
            return delta is not None and delta.transaction_version(app_id) is not None
        except (DeltaError, OSError) as error:
            raise self._store.failure(f"reading the log of {table}", error) from None

    def commit(
        self,
        table: str,
        *,
        view: LakeView,
        adds: Sequence[DataFile] = (),
        removes: Sequence[StoredFile] = (),
        transactions: Mapping[str, int] | None = None,
    ) -> None:
        """Swaps files of one table, in one version (LAKE-15, LAKE-18).

        Commits of one plan may follow each other on the same view, as long as nobody else's come
        between.

        Args:
            table: name.
            view: on which the commit was planned.
            adds: already in the store, by `put_file`; their local paths need not be.
            removes: of `view`, or added since.
            transactions: versions by application id; `raw-dropped`, `late-…`.

        Raises:
            Superseded: another process maintained the lake; plan again.
            AlreadyRunning: another process has become the single writer.
            StorageUnavailable: it may be committed or not; plan again.
        """
        assert self._tables is not None
        for _ in self._pool.map(lambda file: self._check_whole(key_of(table, file), file), adds):
            pass
        samples_version = view.maintenance_versions[SAMPLES]
        samples = self._tables[SAMPLES]
        with self._store.committing():
            if table in {SAMPLES_5M, SAMPLES_1H} and not samples.is_claimed(samples_version):
                samples.swap((), (), {}, samples_version)
            self._tables[table].swap(
                adds, removes, transactions or {}, view.maintenance_versions[table]
            )

    def checkpoint(self) -> None:
        """Makes a checkpoint of each table that moved since its last, and cleans up its log.

        For the end of a run that swapped many files; every 50 versions one is made anyway.
        """
        for table in (self._tables or {}).values():
            table.checkpoint()

    def vacuum(self, *, age_hours: int = VACUUM_HOURS) -> list[str]:
        """Deletes files that nothing has referred to for so long (LAKE-19).

        Returns:
            The keys of what was deleted; of what would be, of a lake that is only looked at.

        Raises:
            StorageUnavailable: some are deleted, some are not; try again.
        """
        assert age_hours >= VACUUM_HOURS
        listed: set[str] = set()
        deleted: list[str] = []
        for name in TABLES:
            delta = open_table(self._store, TABLES[name])
            if delta is None:
                continue
            keys = _unreferenced(self._store, TABLES[name], delta, age_hours)
            # At once: a receiver that slept for half a day puts its file again and commits it.
            found = self._pool.map(self._delete, (key for key in keys if key not in self._gone))
            deleted += [key for key in found if key]
            listed.update(keys)
        self._gone &= listed
        if deleted and self._tables is not None:
            log.info("lake vacuumed", files=len(deleted))
        return deleted

    def log_operation_counts(self) -> Counter[str]:
        """Operations on the logs of all tables since the start, by kind."""
        counts: Counter[str] = Counter()
        for table in (self._tables or {}).values():
            counts.update(table.operation_counts)
        return counts

    def _view(self, name: str) -> _TableView:
        if self._tables is not None:
            return self._tables[name].view()
        delta = open_table(self._store, TABLES[name])
        if delta is None:
            return _TableView(-1, (), 0, None)
        try:
            return _look(delta, TABLES[name])
        except (DeltaError, OSError) as error:
            raise self._store.failure(f"reading the log of {delta.table_uri}", error) from None

    def _delete(self, key: str) -> str:
        """The key, if there was such a file: the log lists it for a week after its removal."""
        try:
            # An empty file is an error too, and one to delete.
            with contextlib.suppress(StorageUnavailable):
                self._store.fetch_range(key, 0, 1)
        except FileNotFoundError:
            self._gone.add(key)
            return ""
        if self._tables is not None:
            self._store.delete(key)
            self._gone.add(key)
        return key

    def _check_whole(self, key: str, file: DataFile) -> None:
        """Raises StorageUnavailable if the end of a file is not where it has to be."""
        place = (file.size_bytes - _FOOTER_BYTES, _FOOTER_BYTES)
        try:
            footer, _ = self._store.fetch_range(key, *place)
        except FileNotFoundError:
            footer = b""
        if not footer.endswith(_PARQUET_MAGIC):
            raise StorageUnavailable(
                f"{self._store.uri_of(key)} is to be committed and is not in the store, or not the "
                f"whole of its {file.size_bytes} bytes"
            )


def _open_tables(store: Store, clock: Callable[[], float]) -> dict[str, MaintenanceTable]:
    return {name: MaintenanceTable(store, TABLES[name], clock) for name in TABLES}


def key_of(table: str, file: DataFile) -> str:
    """Where a file lies in the lake, relative to its root."""
    return TABLES[table].folder_of(file.partition) + file.path.name


def put_file(store: Store, table: str, file: DataFile) -> None:
    """Puts a file where `MaintenanceLake.commit` expects it; what a worker does.

    Raises:
        StorageUnavailable: try again.
    """
    store.put_file(file.path, key_of(table, file))


def _look(delta: DeltaTable, schema: TableSchema) -> _TableView:
    dropped_id = _DROPPED_IDS.get(schema.name)
    return _TableView(
        version=delta.version(),
        files=stored_files(schema, delta.get_add_actions(flatten=True)),
        maintenance_version=delta.transaction_version(MAINTENANCE_ID) or 0,
        dropped_day=None if dropped_id is None else delta.transaction_version(dropped_id),
    )


def _unreferenced(
    store: Store, schema: TableSchema, delta: DeltaTable, age_hours: int
) -> list[str]:
    """Keys of our files in the folder of a table that its log does not need."""
    try:
        paths = delta.vacuum(  # a dry run commits nothing
            retention_hours=age_hours, dry_run=True, enforce_retention_duration=False, full=True
        )
    except (DeltaError, OSError) as error:
        raise store.failure(f"listing {delta.table_uri}", error) from None
    return sorted(f"{schema.name}/{path}" for path in paths if _is_ours(path))


def _is_ours(path: str) -> bool:
    """Whether a flush or the maintenance made it; or left it half copied, with a dot before it."""
    name = path.rpartition("/")[2].removeprefix(".")
    return name.startswith(("f-", "c-", "r-")) and ".parquet" in name
