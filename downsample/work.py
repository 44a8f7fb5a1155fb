"""Does one job: reads the files that it names, writes and uploads what replaces them.

    RollSpan     raw files ──(merged)──┬──> compacted files of the span
                                       ├──(rolled up)──> 5m, 1h (beside the month's rows that stay)
                                       └──> what lies outside the span: flush files again
    MergeLate    late files ──(merged, rolled up)──> into the stored rows, window by window
    MergeMonth   the hours of a month in one order
    Compact…     distinct series, newest metadata

Nothing is committed here: the answer is a list of commits in the order in which they have to be
made (DOWN-1). A worker may run anywhere, more than once, and die: what it uploaded and nobody
committed is an orphan for vacuum.

Limits: memory as the parts say, together about `memory_bytes`: a merge holds `batch_rows` rows of
up to 36 bytes twice, and as many rows of rollups; DuckDB gets a third. Disk: the files that are
written and, of a bucket, copies of those that are read, in a scratch folder that is gone
afterwards.
"""

import errno
import fcntl
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import assert_never

import pyarrow as pa
import pyarrow.parquet as pq

from bridge.errors import CorruptionError
from bridge.lake.data_file import DataFile
from bridge.lake.maintenance import put_file
from bridge.lake.parquet import RollupWriter, SampleWriter
from bridge.lake.schema import METADATA, SAMPLES, SAMPLES_1H, SAMPLES_5M, SERIES
from bridge.lake.store import Store, open_store
from bridge.lake.stored_file import StoredFile
from bridge.model.time_range import TimeRange
from downsample.jobs import (
    CompactMetadata,
    CompactSeries,
    DropDay,
    DropMonth,
    Job,
    MergeLate,
    MergeMonth,
    RollSpan,
)
from downsample.late import RepeatedImport, refuse_repeats
from downsample.merged import merge_files
from downsample.names import day_span, file_name
from downsample.rollup import roll_up
from downsample.rollup_batches import RollupBatch, merge_streams, read_stored
from downsample.rows import RawFile
from downsample.sorted_reader import BrokenFile
from downsample.tables import compact_metadata, compact_series

ROW_BYTES = 36
"""Of a raw sample while it is merged."""
NOTHING_LEFT_OUT = TimeRange(0, 0)


# Without a repr, because the storage options hold secrets (LAKE-11).
@dataclass(frozen=True, slots=True, repr=False)
class Site:
    """Where work is done.

    Attributes:
        uri: of the lake.
        storage_options: of the lake.
        scratch_path: on the machine that does the work.
        memory_bytes: of one job.
        is_forced: late samples that look as if they were there before are merged all the same.
    """

    uri: str
    storage_options: tuple[tuple[str, str], ...]
    scratch_path: Path
    memory_bytes: int
    is_forced: bool = False


@dataclass(frozen=True, slots=True)
class Commit:
    """One swap of files in one table.

    Attributes:
        table: which.
        adds: in the store already; their local paths are gone.
        removes: of the view that the job was planned on.
        transactions: versions by application id.
    """

    table: str
    adds: tuple[DataFile, ...] = ()
    removes: tuple[StoredFile, ...] = ()
    transactions: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a job.

    Attributes:
        commits: to be made in this order; none where files are broken.
        broken: why files cannot be used, by key.
        collisions: a line for each series id that two series share.
    """

    commits: tuple[Commit, ...] = ()
    broken: Mapping[str, str] = field(default_factory=dict)
    collisions: tuple[str, ...] = ()


def late_id(name: str) -> str:
    """The application transaction that says that a late file is in a table."""
    return f"late-{name}"


def drop(job: DropDay | DropMonth) -> Outcome:
    """What is to be committed to forget a day or a month; nothing is read."""
    if isinstance(job, DropDay):
        return Outcome((Commit(job.table, (), job.files, job.transactions),))
    return Outcome((Commit(SAMPLES_1H, (), job.files),))


def do(job: Job, site: Site, merged: Mapping[str, Collection[str]]) -> Outcome:
    """Does a job.

    Args:
        job: of a plan.
        site: where.
        merged: by table, names of late files that are in it already.

    Raises:
        StorageUnavailable: the store failed; nothing is lost.
        OSError: the local disk is full or failed.
    """
    with (
        open_store(site.uri, dict(site.storage_options)) as store,
        scratch_folder(site.scratch_path) as folder,
    ):
        bench = _Bench(store, folder, site)
        try:
            commits = bench.commits_of(job, merged)
        except CorruptionError as error:
            return Outcome(broken=bench.broken_files(error))
        except RepeatedImport:
            assert isinstance(job, MergeLate)
            return Outcome(broken=bench.repeated_files(job, merged))
        return Outcome(tuple(commits), collisions=tuple(bench.collisions))


class _Bench:
    """One job's tools."""

    def __init__(self, store: Store, folder: Path, site: Site) -> None:
        self._store = store
        self._folder = folder
        self._site = site
        self._token = secrets.token_hex(8)
        self._batch_rows = min(max(site.memory_bytes // (8 * ROW_BYTES), 1 << 16), 1 << 21)
        self._keys: dict[Path, str] = {}
        self.collisions: list[str] = []

    def commits_of(self, job: Job, merged: Mapping[str, Collection[str]]) -> list[Commit]:
        """Reads, writes and uploads."""
        match job:
            case RollSpan():
                commits = self._roll_span(job)
            case MergeLate():
                commits = self._merge_late(job, merged)
            case MergeMonth():
                commits = [self._merge_month(job)]
            case CompactSeries():
                files, self.collisions = compact_series(
                    self._locals(job.files), self._path_of("c", job.span), job.month,
                    scratch=self._folder, memory_bytes=self._duckdb_bytes,
                )  # fmt: skip
                commits = [Commit(SERIES, tuple(files), job.files)]
            case CompactMetadata():
                file = compact_metadata(
                    self._locals(job.files), self._path_of("c", job.span)(0),
                    scratch=self._folder, memory_bytes=self._duckdb_bytes,
                )  # fmt: skip
                commits = [Commit(METADATA, (file,), job.files)]
            case DropDay() | DropMonth():
                raise AssertionError("a drop needs no worker")
            case _:
                assert_never(job)
        for commit in commits:
            for made in commit.adds:
                put_file(self._store, commit.table, made)
        return commits

    def broken_files(self, error: CorruptionError) -> dict[str, str]:
        """Which of the files that were opened cannot be used, by key."""
        if isinstance(error, BrokenFile) and error.path in self._keys:
            return {self._keys[error.path]: error.reason}
        found = {}
        for path, key in self._keys.items():
            try:
                _check_readable(path)
            except BrokenFile as broken:
                found[key] = broken.reason
        if not found:
            raise error
        return found

    def repeated_files(
        self, job: MergeLate, merged: Mapping[str, Collection[str]]
    ) -> dict[str, str]:
        """Which late files are in the rollups already, by key.

        Each is looked at alone, but for those that this job itself has merged before it was cut
        short. Where none is to blame alone, as with files of two replicas, all of them are.
        """
        found, suspects = {}, {}
        for day in job.days:
            stored = job.rollups_1h if day.rollups_5m is None else day.rollups_5m
            level = int(day.rollups_5m is None)
            for file in day.late:
                if file.name in merged[SAMPLES_1H if level else SAMPLES_5M]:
                    continue
                suspects[file.key] = "with others it repeats what is in the rollups already"
                late = self._rolled([file], day_span(day.day), level=level)
                stream = merge_streams(
                    self._stored(stored, NOTHING_LEFT_OUT), late, refuse_repeats(is_forced=False)
                )
                try:
                    for _ in stream:
                        pass
                except RepeatedImport as repeated:
                    found[file.key] = str(repeated)
        return found or suspects

    @property
    def _duckdb_bytes(self) -> int:
        return self._site.memory_bytes // 3

    def _roll_span(self, job: RollSpan) -> list[Commit]:
        month = job.partition[:7]
        raw = self._raw(job.raw)
        rows = sum(file.row_count for file in job.raw)
        with (
            SampleWriter(
                self._path_of("c", job.span), job.partition, expected_rows=rows
            ) as samples,
            RollupWriter(self._path_of("r", job.span), SAMPLES_5M, job.partition) as rollups_5m,
            RollupWriter(self._path_of("r", job.span_1h), SAMPLES_1H, month) as rollups_1h,
        ):

            def hours() -> Iterator[RollupBatch]:
                for batch in merge_files(
                    raw, job.span.after_ms, job.span.until_ms, batch_rows=self._batch_rows
                ):
                    samples.write(batch)
                    rows_5m, rows_1h = roll_up(batch.offsets, batch.timestamps_ms, batch.values)
                    rollups_5m.write(batch, rows_5m)
                    yield RollupBatch(
                        batch.metrics, batch.metric_of_rank, batch.series_id_of_rank, rows_1h
                    )

            for batch in merge_streams(self._stored(job.carried_1h, job.span), hours()):
                rollups_1h.write(batch, batch.rows)
            compacted, made_5m, made_1h = (
                tuple(writer.finish()) for writer in (samples, rollups_5m, rollups_1h)
            )
        left = [made for rest in job.remainders for made in self._left_over(job, rest)]
        return [
            Commit(SAMPLES_5M, made_5m, job.rollups_5m),
            Commit(SAMPLES_1H, made_1h, (*job.rollups_1h, *job.carried_1h)),
            Commit(SAMPLES, (*compacted, *left), job.raw),
        ]

    def _left_over(self, job: RollSpan, rest: TimeRange) -> list[DataFile]:
        """What lies outside the span, as it was: replicas are told apart by whole hours only."""
        files = [
            file
            for file in job.raw
            if file.time_max_ms > rest.after_ms and file.time_min_ms <= rest.until_ms
        ]
        token = secrets.token_hex(8)

        def path_of(number: int) -> Path:
            return self._folder / f"f-left-{token}-{number}.parquet"

        rows = sum(file.row_count for file in files)
        with SampleWriter(path_of, job.partition, expected_rows=rows) as samples:
            for batch in merge_files(
                self._raw(files),
                rest.after_ms,
                rest.until_ms,
                batch_rows=self._batch_rows,
                is_merging_replicas=False,
            ):
                samples.write(batch)
            return samples.finish()

    def _merge_late(self, job: MergeLate, merged: Mapping[str, Collection[str]]) -> list[Commit]:
        commits = []
        stream_1h = self._stored(job.rollups_1h, NOTHING_LEFT_OUT)
        new_1h: list[str] = []
        for day in job.days:
            span = day_span(day.day)
            late = [file for file in day.late if file.name not in merged[SAMPLES_5M]]
            if late and day.rollups_5m is not None:
                stream = merge_streams(
                    self._stored(day.rollups_5m, NOTHING_LEFT_OUT),
                    self._rolled(late, span, level=0),
                    refuse_repeats(is_forced=self._site.is_forced),
                )
                made = self._write_rollups(SAMPLES_5M, span, day.partition, stream)
                commits.append(
                    Commit(
                        SAMPLES_5M,
                        made,
                        day.rollups_5m,
                        {late_id(file.name): 1 for file in late},
                    )
                )
            late = [file for file in day.late if file.name not in merged[SAMPLES_1H]]
            if late:
                new_1h += [file.name for file in late]
                # What 5m refuses, 1h never sees; where 5m is gone, 1h looks itself.
                merge = refuse_repeats(is_forced=self._site.is_forced or day.rollups_5m is not None)
                stream_1h = merge_streams(stream_1h, self._rolled(late, span, level=1), merge)
        if new_1h:
            made = self._write_rollups(SAMPLES_1H, job.span_1h, job.month, stream_1h)
            commits.append(
                Commit(SAMPLES_1H, made, job.rollups_1h, {late_id(name): 1 for name in new_1h})
            )
        return [*commits, Commit(SAMPLES, (), job.late)]

    def _rolled(
        self, files: Sequence[StoredFile], span: TimeRange, *, level: int
    ) -> Iterator[RollupBatch]:
        """Rollups of late files alone: 0 is 5m, 1 is 1h."""
        for batch in merge_files(
            self._raw(files), span.after_ms, span.until_ms, batch_rows=self._batch_rows
        ):
            rows = roll_up(batch.offsets, batch.timestamps_ms, batch.values)[level]
            yield RollupBatch(batch.metrics, batch.metric_of_rank, batch.series_id_of_rank, rows)

    def _merge_month(self, job: MergeMonth) -> Commit:
        stream = self._stored(job.rollups_1h, NOTHING_LEFT_OUT)
        made = self._write_rollups(SAMPLES_1H, job.span, job.month, stream)
        return Commit(SAMPLES_1H, made, job.rollups_1h)

    def _write_rollups(
        self, table: str, span: TimeRange, partition: str, stream: Iterator[RollupBatch]
    ) -> tuple[DataFile, ...]:
        with RollupWriter(self._path_of("r", span), table, partition) as writer:
            for batch in stream:
                writer.write(batch, batch.rows)
            return tuple(writer.finish())

    def _stored(self, files: Sequence[StoredFile], left_out: TimeRange) -> Iterator[RollupBatch]:
        return read_stored(
            self._locals(files), left_out, scratch=self._folder, memory_bytes=self._duckdb_bytes
        )

    def _raw(self, files: Sequence[StoredFile]) -> list[RawFile]:
        return [RawFile(path) for path in self._locals(files)]

    def _locals(self, files: Sequence[StoredFile]) -> list[Path]:
        """Where files can be read; those of a bucket are copied, once."""
        found = []
        known = {key: path for path, key in self._keys.items()}
        for file in files:
            path = known.get(file.key)
            if path is None:
                path = Path(self._store.uri_of(file.key))
                if self._store.is_remote:
                    path = self._folder / f"in-{len(self._keys)}.parquet"
                    self._fetch(file, path)
                self._keys[path] = file.key
            found.append(path)
        return found

    def _fetch(self, file: StoredFile, path: Path) -> None:
        self._keys[path] = file.key
        try:
            self._store.fetch_file(file.key, path)
        except FileNotFoundError as error:
            raise BrokenFile(path, "it is gone") from error

    def _path_of(self, kind: str, span: TimeRange) -> Callable[[int], Path]:
        token = secrets.token_hex(8)

        def path_of(number: int) -> Path:
            return self._folder / file_name("c" if kind == "c" else "r", span, token, number)

        return path_of


@contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """A folder for one job; gone afterwards, and with the next job if this process dies."""
    parent.mkdir(parents=True, exist_ok=True)
    for other in parent.glob("job-*"):
        _remove_if_left(other)
    made = Path(tempfile.mkdtemp(prefix="new-", dir=parent))
    fd = os.open(made, os.O_RDONLY | os.O_DIRECTORY)
    folder = parent / made.name.replace("new-", "job-")
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        made.rename(folder)  # under this name only when it is held
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(fd)


def _remove_if_left(folder: Path) -> None:
    """Removes what a process left that died."""
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return
    else:
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(fd)


def _check_readable(path: Path) -> None:
    """Reads a file from its beginning to its end.

    Raises:
        BrokenFile: that is not possible.
    """
    try:
        with (
            pa.OSFile(str(path)) as source,
            pq.ParquetFile(source, page_checksum_verification=True) as file,
        ):
            for group in range(file.num_row_groups):
                file.read_row_group(group)
    except MemoryError:
        raise
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno not in {None, errno.ENOENT, errno.EIO}:
            raise  # no descriptors, no right: the file may be whole
        raise BrokenFile(path, str(error)) from error
