"""The lake: the tables, what is committed to them, and what a query sees of them.

    one committing thread   upload ──> commit series, metadata ──> commit samples (the position)
    any thread              snapshot(): samples, rollups, metadata, series (LAKE-3, LAKE-16)

Commits and snapshots hold table objects of their own, so that a read never waits for a commit that
tries again and again. A snapshot is refreshed when it is older than the refresh interval, or when
this process committed since (LAKE-10): head and lake hand over without a gap. While the store does
not answer there is no snapshot: a query is told so at once, not answered from what was true before.

Nothing asks the store before `connect`, so that a process starts, and keeps what it receives in its
WAL, while the store is away. Who commits connects; a process that only reads does so with the first
query that finds the store.

Killed between upload and commit, a file is left that nothing refers to; the flush is repeated from
the WAL under new names, and vacuum removes the orphan.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Self

import structlog
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from bridge.errors import ConfigError, FormatTooNew, StorageRefused, StorageUnavailable
from bridge.lake.data_file import DataFile
from bridge.lake.schema import (
    FLUSHED,
    METADATA,
    RAW_DROPPED_ID,
    SAMPLES,
    SAMPLES_1H,
    SAMPLES_5M,
    SERIES,
    SNAPSHOT_ORDER,
    TABLES,
    TableSchema,
)
from bridge.lake.snapshot import Snapshot, TableFiles
from bridge.lake.store import Store
from bridge.lake.store_errors import explain
from bridge.lake.table import CHECKPOINT_VERSIONS, LakeTable, open_table
from bridge.lake.torn_log import set_torn_log_aside

log = structlog.get_logger()

UPLOADS = 4
"""Files of one flush in flight at once: a flush after days of outage has one per day."""

UPLOAD_AGE_S_MAX = 12 * 3600.0
"""Vacuum removes what nothing refers to after 24 h. A file that waited half of that for its commit
is put again, which makes it young."""


class Lake:
    """All tables below one URI."""

    def __init__(
        self,
        store: Store,
        *,
        refresh_interval_s: float,
        single_writer: bool = False,
        owner: str = "",
        is_read_only: bool = False,
        on_lost: Callable[[str], None] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Asks the store for nothing yet.

        Args:
            store: closed with the lake.
            refresh_interval_s: how old a snapshot may be.
            single_writer: this process makes every commit; put-if-absent is not asked for.
            owner: who commits, the receiver id.
            is_read_only: nothing is locked, made or committed; tables may be missing.
            on_lost: called on another thread, with the reason, when another process has become the
                single writer: this one has to end.
            clock: Unix seconds.
        """
        self._store = store
        self._refresh_interval_s = refresh_interval_s
        self._single_writer = single_writer
        self._owner = owner
        self._is_read_only = is_read_only
        self._on_lost = on_lost
        self._clock = clock
        self._pool = ThreadPoolExecutor(UPLOADS, "lake-upload")
        self._connect_lock = threading.Lock()
        self._is_locked = False
        self._is_connected = False
        self._connect_error: Exception | None = None
        self._commit_lock = threading.Lock()
        self._tables: dict[str, LakeTable] = {}
        self._uploaded_s: dict[str, float] = {}
        self._receiver_ids: set[str] = set()
        self._commit_count = 0
        self._views = {
            name: _View(
                store,
                TABLES[name],
                # The rollups are made by the first maintenance.
                may_be_missing=is_read_only or name not in FLUSHED,
            )
            for name in SNAPSHOT_ORDER
        }
        self._refresh_lock = threading.Lock()
        self._refresh_count = 0
        self._is_said_empty = False
        self._current: tuple[Snapshot, float, int] | None = None
        self._failed: tuple[StorageUnavailable, float, int] | None = None

    @classmethod
    def open(
        cls,
        store: Store,
        *,
        single_writer: bool,
        refresh_interval_s: float,
        clock: Callable[[], float] = time.time,
    ) -> Self:
        """A lake that is connected; see `connect`."""
        lake = cls(
            store,
            refresh_interval_s=refresh_interval_s,
            single_writer=single_writer,
            clock=clock,
        )
        try:
            lake.connect()
        except BaseException:
            lake.close()
            raise
        return lake

    @property
    def is_connected(self) -> bool:
        """Whether `connect` has succeeded."""
        return self._is_connected

    def connect(self) -> None:
        """Opens the lake, making the tables that are missing; may be repeated.

        Raises:
            AlreadyRunning: another process holds the lock of a single writer.
            ConditionalPutUnsupported: commits would overwrite each other here (LAKE-6).
            FormatTooNew: written by a newer prombridge.
            ConfigError: a table is not one of ours.
            StorageUnavailable: the store does not answer now, or refuses us (StorageRefused).
        """
        with self._connect_lock:
            if self._is_connected:
                return
            try:
                self._connect()
            except Exception as error:
                self._connect_error = error
                raise
            self._is_connected = True

    def _connect(self) -> None:
        self._store.check()
        if self._is_read_only:
            self._look()
            return
        if not self._is_locked:
            self._store.lock(
                exclusive=self._single_writer, owner=self._owner, on_lost=self._on_lost
            )
            self._is_locked = True
        if not self._single_writer:
            self._store.probe_put_if_absent()
        # The rollups' too: a torn log of theirs would stop every read.
        for name in TABLES:
            set_torn_log_aside(self._store, name)
        self._tables = {name: LakeTable(self._store, TABLES[name]) for name in FLUSHED}

    def _check_connected(self) -> None:
        if not self._is_connected:
            cause = self._connect_error or "not asked yet"
            raise StorageUnavailable(f"the lake has not been reached since the start: {cause}")

    def close(self) -> None:
        """Gives the lock back."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        if self._commit_lock.acquire(blocking=False):
            self._store.close()
        else:
            # A successor could take the lease before this commit has arrived: it waits until the
            # lease is dead instead (LAKE-6).
            log.warning("a commit is still under way, the lock of the lake is not given back")

    def upload(self, table: str, files: Sequence[DataFile]) -> None:
        """Puts files into the store, several at a time; nothing refers to them yet.

        Raises:
            StorageUnavailable: some are there, some are not; try again.
        """
        self._check_connected()
        schema = TABLES[table]

        def put(file: DataFile) -> None:
            key = schema.folder_of(file.partition) + file.path.name
            self._store.put_file(file.path, key)
            self._uploaded_s[key] = self._clock()

        for _ in self._pool.map(put, files):
            pass

    def commit(
        self, table: str, files: Sequence[DataFile], *, receiver_id: str, position: int
    ) -> bool:
        """Makes files part of a table, once (LAKE-1).

        Those that are not uploaded yet are. Without files only `samples` moves on to `position`,
        because a replay begins at its position.

        Args:
            table: name.
            files: still at their local paths.
            receiver_id: who commits.
            position: number of the last WAL record that the files cover.

        Returns:
            False if the table needed nothing.

        Raises:
            AlreadyRunning: another process has become the single writer.
            StorageUnavailable: nothing is in the table, or not for sure on the disk; try again.
        """
        if not files and table != SAMPLES:
            return False
        schema = TABLES[table]
        keys = [schema.folder_of(file.partition) + file.path.name for file in files]
        old_s = self._clock() - UPLOAD_AGE_S_MAX
        self.upload(
            table,
            [
                file
                for key, file in zip(keys, files, strict=True)
                if self._uploaded_s.get(key, old_s) <= old_s
            ],
        )
        with self._commit_lock:
            self._receiver_ids.add(receiver_id)
            try:
                done = self._tables[table].commit(files, receiver_id, position)
            finally:
                # Even a failure may have reached the table.
                self._commit_count += 1
        for key in keys:
            self._uploaded_s.pop(key, None)
        return done

    def position(self, table: str, receiver_id: str) -> int | None:
        """The last position of a receiver in a table, read afresh from the store.

        Raises:
            StorageUnavailable: the store failed.
        """
        self._check_connected()
        with self._commit_lock:
            self._receiver_ids.add(receiver_id)
            self._commit_count += 1
            return self._tables[table].position(receiver_id)

    def log_operation_counts(self) -> Counter[str]:
        """Operations on the logs of all tables since the start, by kind."""
        counts: Counter[str] = Counter()
        for table in self._tables.values():
            counts.update(table.operation_counts)
        for view in self._views.values():
            counts.update(view.operation_counts)
        return counts

    def snapshot(self, *, force: bool = False) -> Snapshot:
        """What the lake holds; a lake that is only read is connected first.

        Args:
            force: look now, because a file of the last snapshot is gone.

        Raises:
            StorageUnavailable: the store failed, now or within the last refresh interval.
        """
        if not self._is_read_only:
            self._check_connected()
        if not force and (fresh := self._fresh()) is not None:
            return fresh
        begun_count = self._refresh_count
        with self._refresh_lock:
            # Whoever held the lock before may have looked since this call began.
            if not force or self._refresh_count > begun_count + 1:
                fresh = self._fresh()
                if fresh is not None:
                    return fresh
            self._refresh_count += 1
            commit_count = self._commit_count
            taken_s = self._clock()
            try:
                self.connect()
                snapshot = self._look()
            except StorageUnavailable as error:
                self._note_failure(error, commit_count)
                raise
            except (ConfigError, FormatTooNew) as error:
                # At the start it ends the process; a reader that met it later goes on asking.
                refused = StorageRefused(str(error))
                self._note_failure(refused, commit_count)
                raise refused from error
            self._current, self._failed = (snapshot, taken_s, commit_count), None
            return snapshot

    def _note_failure(self, error: StorageUnavailable, commit_count: int) -> None:
        if self._failed is None or str(self._failed[0]) != str(error):
            log.warning("the lake cannot be looked at, reads are refused", cause=str(error))
        # From its end on: a store that does not answer takes longer than the interval.
        self._failed = error, self._clock(), commit_count

    def _look(self) -> Snapshot:
        positions: dict[str, int] = {}
        files: dict[str, TableFiles] = {}
        for name in SNAPSHOT_ORDER:
            app_ids = (*self._receiver_ids, RAW_DROPPED_ID) if name == SAMPLES else ()
            files[name], found = self._views[name].refresh(app_ids)
            positions |= found
        self._store.check_answers()
        versions = {name: view.version for name, view in self._views.items() if view.version >= 0}
        if SAMPLES not in versions and not self._is_said_empty:
            self._is_said_empty = True
            log.warning("there is nothing in the lake yet, reads are empty", uri=self._store.uri)
        for name in FLUSHED:
            if name not in versions and SAMPLES in versions:  # it was made before `samples`
                raise StorageUnavailable(f"the table {self._store.uri_of(name)} is gone")
        raw_dropped_day = positions.pop(RAW_DROPPED_ID, None)
        return Snapshot(
            samples=files[SAMPLES],
            series=files[SERIES],
            metadata=files[METADATA],
            positions=positions,
            versions=versions,
            samples_5m=files[SAMPLES_5M],
            samples_1h=files[SAMPLES_1H],
            raw_dropped_day=raw_dropped_day,
        )

    def _fresh(self) -> Snapshot | None:
        """The last snapshot, if it is young enough and nothing was committed since.

        Raises:
            StorageUnavailable: a look failed a moment ago; the next one may be a new one.
        """
        failed = self._failed
        if failed is not None and failed[2] == self._commit_count:
            error, failed_s, _ = failed
            if 0 <= self._clock() - failed_s < self._refresh_interval_s:
                raise StorageUnavailable(str(error))
        current = self._current
        if current is None:
            return None
        snapshot, taken_s, commit_count = current
        age_s = self._clock() - taken_s
        if commit_count != self._commit_count or not 0 <= age_s < self._refresh_interval_s:
            return None
        return snapshot


class _View:
    """One table as snapshots see it; used under the refresh lock."""

    def __init__(self, store: Store, schema: TableSchema, *, may_be_missing: bool) -> None:
        self.version = -1
        self.operation_counts: Counter[str] = Counter()
        self._may_be_missing = may_be_missing
        self._store = store
        self._schema = schema
        self._prefix = store.uri_of(f"{schema.name}/")
        self._delta: DeltaTable | None = None
        self._opened_version = 0
        self._files: TableFiles | None = None
        self._positions: dict[str, int | None] = {}

    def refresh(self, app_ids: Sequence[str] = ()) -> tuple[TableFiles, dict[str, int]]:
        """The files of the newest version, and application transactions of the same one.

        Raises:
            StorageUnavailable: the store failed.
        """
        if (
            self._delta is not None
            and self._delta.version() - self._opened_version < CHECKPOINT_VERSIONS
        ):
            self.operation_counts["refresh"] += 1
            try:
                self._delta.update_incremental()
                return self._read(self._delta, app_ids)
            except (DeltaError, OSError) as error:
                # Opened anew where the log was cleaned up behind a version held for days, but not
                # where the store does not answer: that would take as long once more.
                if self._store.is_remote and not explain(error).is_missing:
                    raise self._failure(error) from None
        self.operation_counts["open"] += 1
        self._delta = open_table(self._store, self._schema)
        if self._delta is None and self._may_be_missing and self.version < 0:
            self._files = None
            return TableFiles.none_of(self._prefix, self._schema.partition), {}
        if self._delta is None:
            raise StorageUnavailable(f"the table {self._store.uri_of(self._schema.name)} is gone")
        self._opened_version = self._delta.version()
        try:
            return self._read(self._delta, app_ids)
        except (DeltaError, OSError) as error:
            raise self._failure(error) from None

    def _failure(self, error: Exception) -> StorageUnavailable:
        return self._store.failure(
            f"reading the table {self._store.uri_of(self._schema.name)}", error
        )

    def _read(self, delta: DeltaTable, app_ids: Sequence[str]) -> tuple[TableFiles, dict[str, int]]:
        version = delta.version()
        if self._files is None or version != self.version:
            self._positions.clear()
            self._files = TableFiles.from_actions(
                self._prefix,
                delta.get_add_actions(flatten=True),
                self._schema.partition,
                self._schema.time_column,
            )
            self.version = version
        for app_id in app_ids:
            if app_id not in self._positions:
                self._positions[app_id] = delta.transaction_version(app_id)
        known = {key: position for key, position in self._positions.items() if position is not None}
        return self._files, known
