"""The lake: the tables, what is committed to them, and what a query sees of them.

    one committing thread   upload ──> commit series, metadata ──> commit samples (the position)
    any thread              snapshot(): samples, then metadata, then series (LAKE-3)

Commits and snapshots hold table objects of their own, so that a read never waits for a commit that
tries again and again. A snapshot is refreshed when it is older than the refresh interval, or when
this process committed since (LAKE-10): head and lake hand over without a gap.

Killed between upload and commit, a file is left that nothing refers to; the flush is repeated from
the WAL under new names, and vacuum removes the orphan.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Self

from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from bridge.errors import StorageUnavailable
from bridge.lake.data_file import DataFile
from bridge.lake.schema import METADATA, SAMPLES, SERIES, TABLES, TableSchema
from bridge.lake.snapshot import Snapshot, TableFiles
from bridge.lake.store import Store
from bridge.lake.table import CHECKPOINT_VERSIONS, LakeTable, open_table
from bridge.lake.torn_log import set_torn_log_aside

UPLOADS = 4
"""Files of one flush in flight at once: a flush after days of outage has one per day."""

UPLOAD_AGE_S_MAX = 12 * 3600.0
"""Vacuum removes what nothing refers to after 24 h. A file that waited half of that for its commit
is put again, which makes it young."""


class Lake:
    """All tables below one URI."""

    def __init__(
        self, store: Store, *, refresh_interval_s: float, clock: Callable[[], float] = time.time
    ) -> None:
        """Use `Lake.open`."""
        self._store = store
        self._refresh_interval_s = refresh_interval_s
        self._clock = clock
        self._pool = ThreadPoolExecutor(UPLOADS, "lake-upload")
        self._commit_lock = threading.Lock()
        self._tables = {name: LakeTable(store, schema) for name, schema in TABLES.items()}
        self._uploaded_s: dict[str, float] = {}
        self._receiver_ids: set[str] = set()
        self._commit_count = 0
        self._views = {name: _View(store, schema) for name, schema in TABLES.items()}
        self._refresh_lock = threading.Lock()
        self._refresh_count = 0
        self._current: tuple[Snapshot, float, int] | None = None

    @classmethod
    def open(
        cls,
        store: Store,
        *,
        single_writer: bool,
        refresh_interval_s: float,
        clock: Callable[[], float] = time.time,
    ) -> Self:
        """Opens the lake, making the tables that are missing.

        Args:
            store: closed with the lake.
            single_writer: this process makes every commit; put-if-absent is not asked for.
            refresh_interval_s: how old a snapshot may be.
            clock: Unix seconds.

        Raises:
            AlreadyRunning: another process holds the lock of a single writer.
            ConditionalPutUnsupported: commits would overwrite each other here (LAKE-6).
            FormatTooNew: written by a newer prombridge.
            ConfigError: a table is not one of ours.
            StorageUnavailable: the store failed.
        """
        store.lock(exclusive=single_writer)
        try:
            if not single_writer:
                store.probe_put_if_absent()
            for name in TABLES:
                set_torn_log_aside(store, name)
            return cls(store, refresh_interval_s=refresh_interval_s, clock=clock)
        except BaseException:
            store.close()
            raise

    def close(self) -> None:
        """Gives the lock back."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._store.close()

    def upload(self, table: str, files: Sequence[DataFile]) -> None:
        """Puts files into the store, several at a time; nothing refers to them yet.

        Raises:
            StorageUnavailable: some are there, some are not; try again.
        """
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
        with self._commit_lock:
            self._receiver_ids.add(receiver_id)
            self._commit_count += 1
            return self._tables[table].position(receiver_id)

    def snapshot(self, *, force: bool = False) -> Snapshot:
        """What the lake holds.

        Args:
            force: look now, because a file of the last snapshot is gone.

        Raises:
            StorageUnavailable: the store failed.
        """
        if not force and (fresh := self._fresh()) is not None:
            return fresh
        begun_count = self._refresh_count
        with self._refresh_lock:
            # Whoever held the lock before may have looked since this call began.
            fresh = self._fresh()
            if fresh is not None and (not force or self._refresh_count > begun_count + 1):
                return fresh
            self._refresh_count += 1
            commit_count = self._commit_count
            taken_s = self._clock()
            samples, positions = self._views[SAMPLES].refresh(tuple(self._receiver_ids))
            metadata, _ = self._views[METADATA].refresh()
            series, _ = self._views[SERIES].refresh()
            snapshot = Snapshot(
                samples,
                series,
                metadata,
                positions,
                {name: view.version for name, view in self._views.items()},
            )
            self._current = (snapshot, taken_s, commit_count)
            return snapshot

    def _fresh(self) -> Snapshot | None:
        """The last snapshot, if it is young enough and nothing was committed since."""
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

    def __init__(self, store: Store, schema: TableSchema) -> None:
        self.version = -1
        self._store = store
        self._schema = schema
        self._delta: DeltaTable | None = None
        self._opened_version = 0
        self._files: TableFiles | None = None
        self._positions: dict[str, int | None] = {}

    def refresh(self, receiver_ids: Sequence[str] = ()) -> tuple[TableFiles, dict[str, int]]:
        """The files of the newest version, and the positions of receivers in the same one.

        Raises:
            StorageUnavailable: the store failed.
        """
        if (
            self._delta is not None
            and self._delta.version() - self._opened_version < CHECKPOINT_VERSIONS
        ):
            # Fails when the log was cleaned up behind a version held for days: opened anew below.
            with contextlib.suppress(DeltaError, OSError):
                self._delta.update_incremental()
                return self._read(self._delta, receiver_ids)
        self._delta = open_table(self._store, self._schema)
        if self._delta is None:
            raise StorageUnavailable(f"the table {self._store.uri_of(self._schema.name)} is gone")
        self._opened_version = self._delta.version()
        try:
            return self._read(self._delta, receiver_ids)
        except (DeltaError, OSError) as error:
            raise StorageUnavailable(
                f"reading the table {self._store.uri_of(self._schema.name)} failed: {error}"
            ) from error

    def _read(
        self, delta: DeltaTable, receiver_ids: Sequence[str]
    ) -> tuple[TableFiles, dict[str, int]]:
        version = delta.version()
        if self._files is None or version != self.version:
            self._positions.clear()
            self._files = TableFiles.from_actions(
                self._store.uri_of(f"{self._schema.name}/"),
                delta.get_add_actions(flatten=True),
                self._schema.partition,
            )
            self.version = version
        for receiver_id in receiver_ids:
            if receiver_id not in self._positions:
                self._positions[receiver_id] = delta.transaction_version(receiver_id)
        known = {key: position for key, position in self._positions.items() if position is not None}
        return self._files, known
