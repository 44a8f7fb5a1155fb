"""Row groups of samples and rollups, decoded.

pyarrow decodes a column of a row group whole and skips nothing in it. What need not be read is
`metric` where the bounds say that there is only one, `replica` where they say which one it is, and
times and values where the ids show that nothing is wanted: for a query of few series the ids come
first. A row group that two slices need is kept for the second one.

Of remote files all columns that may be read are fetched beforehand, of few series too: a second
round trip costs more than the bytes that it would save.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from sys import intern
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from bridge.lake.block_file import Check
from bridge.lake.file_cache import Part
from bridge.lake.files import Files, damage_named
from bridge.lake.footers import Footer
from bridge.lake.snapshot import LakeFile
from bridge.wire.columns import I32Array, I64Array

Columns = TypeVar("Columns")
Columns_co = TypeVar("Columns_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Row groups of a file that are to be read at once; one alone if any of the below is true.

    Attributes:
        numbers: in the file, ascending.
        is_torn: another slice needs it too.
        is_sparse: hardly any of its rows are wanted, perhaps none.
    """

    numbers: tuple[int, ...]
    is_torn: bool = False
    is_sparse: bool = False


class Reading(Protocol[Columns_co]):
    """What is read of the rows of a table beside the series that they are of."""

    @property
    def texts(self) -> Sequence[str]:
        """Columns of it that are dictionary-encoded texts."""

    def names(self, footer: Footer, numbers: Sequence[int]) -> list[str]:
        """Columns that are read of some row groups of a file."""

    def take(self, table: Any, footer: Footer, numbers: Sequence[int]) -> Columns_co:
        """What is kept of these columns, once they are decoded."""


class RowGroup(Generic[Columns]):
    """A row group, or several as one, decoded as far as was asked for.

    Attributes:
        series_ids: (n,) int64.
        metrics: in the order of the rows.
        edges: (metrics + 1,) int32, first row of each; the row count behind.
        after_ms: every row is later.
        until_ms: no row is later.
    """

    def __init__(
        self,
        path: str,
        file: pq.ParquetFile,
        footer: Footer,
        wanted: Wanted,
        reading: Reading[Columns],
    ) -> None:
        numbers = list(wanted.numbers)
        self._path = path
        self._file = file
        self._footer = footer
        self._numbers = numbers
        self._reading = reading
        self.after_ms = int(footer.timestamp_ms_minima[numbers].min()) - 1
        self.until_ms = int(footer.timestamp_ms_maxima[numbers].max())
        runs = _known_runs(footer, numbers)
        names = _first_names(has_runs=runs is not None)
        if not wanted.is_sparse:
            names += reading.names(footer, numbers)
        table = self._read(names)
        self.series_ids: I64Array = numbers_of(table["series_id"])
        if runs is None:
            runs = _runs(table["metric"])
            if len(numbers) == 1:
                footer.runs[numbers[0]] = runs
        self.metrics, self.edges = runs
        self._columns = None if wanted.is_sparse else reading.take(table, footer, numbers)

    @property
    def columns(self) -> Columns:
        """The other columns; read now if they were not, while the file is open."""
        if self._columns is None:
            table = self._read(self._reading.names(self._footer, self._numbers))
            self._columns = self._reading.take(table, self._footer, self._numbers)
        return self._columns

    def _read(self, names: list[str]) -> Any:
        with damage_named(self._path):
            return self._file.read_row_groups(self._numbers, columns=names, use_threads=False)


@dataclass(frozen=True, slots=True)
class FileRead:
    """What is to be read of a file.

    Attributes:
        file: where it lies.
        footer: of the file.
        groups: in the order of the file.
    """

    file: LakeFile
    footer: Footer
    groups: Sequence[Wanted]


@dataclass(frozen=True, slots=True)
class _Task(Generic[Columns]):
    """Some of it, and which of the groups are known."""

    read: FileRead
    known: Sequence[RowGroup[Columns] | None]


class RowGroups(Generic[Columns]):
    """Reads row groups, and keeps those that the slice next door needs too."""

    def __init__(self, reading: Reading[Columns], rows_max: int, files: Files) -> None:
        """Keeps up to `rows_max` rows, 8 bytes for the series id and each of the columns."""
        self._reading = reading
        self._rows_max = rows_max
        self._files = files
        self._kept: OrderedDict[tuple[Any, ...], RowGroup[Columns]] = OrderedDict()
        self._row_count = 0

    def part_of(self, read: FileRead) -> Part:
        """All that may be read for it."""
        ranges = [
            one
            for wanted in read.groups
            for one in read.footer.chunk_ranges(
                wanted.numbers, self._names(read.footer, wanted.numbers)
            )
        ]
        return Part(read.file.path, read.file.size_bytes, ranges)

    def are_kept(self, path: str, numbers: I32Array) -> list[bool]:
        """Which row groups of a file need not be decoded if they are wanted alone."""
        if not self._kept:
            return [False] * len(numbers)
        return [(path, number) in self._kept for number in numbers.tolist()]

    def read(self, reads: Iterable[FileRead], check: Check) -> Iterator[RowGroup[Columns]]:
        """Row groups of files; each is to be looked at before the next is asked for.

        Raises:
            FileNotFoundError: a file is gone.
            StorageUnavailable: the store failed.
        """
        for task, opened in self._files.in_steps(self._tasks(reads), self._part, check):
            read = task.read
            if all(task.known):
                yield from (group for group in task.known if group is not None)
                continue
            texts = ["metric", *self._reading.texts]
            with opened.parquet(read.file.path, read.footer.parsed, texts) as file:
                for wanted, known in zip(read.groups, task.known, strict=True):
                    group = known or RowGroup(
                        read.file.path, file, read.footer, wanted, self._reading
                    )
                    if wanted.is_torn and not wanted.is_sparse:
                        self._keep((read.file.path, *wanted.numbers), group)
                    yield group

    def fetch(self, reads: Iterable[FileRead], check: Check) -> None:
        """Fetches what `read` will need, without reading it.

        Raises:
            FileNotFoundError: a file is gone.
            StorageUnavailable: the store failed.
        """
        for _ in self._files.in_steps(self._tasks(reads), self._part, check):
            pass

    def _part(self, task: _Task[Columns]) -> Part:
        """What will be read of the file."""
        read = task.read
        both = zip(read.groups, task.known, strict=True)
        unknown = [wanted for wanted, known in both if known is None]
        return self.part_of(FileRead(read.file, read.footer, unknown))

    def _names(self, footer: Footer, numbers: Sequence[int]) -> list[str]:
        first = _first_names(has_runs=_known_runs(footer, numbers) is not None)
        return first + self._reading.names(footer, numbers)

    def _tasks(self, reads: Iterable[FileRead]) -> Iterator[_Task[Columns]]:
        """One task a file; of a remote one, as much as a step may fetch."""
        for read in reads:
            for part in self._split(read) if self._files.is_remote(read.file.path) else [read]:
                path = part.file.path
                known = [self._kept.get((path, *wanted.numbers)) for wanted in part.groups]
                yield _Task(part, known)

    def _split(self, read: FileRead) -> Iterator[FileRead]:
        """Parts of a file that are a step each, but for the last."""
        groups: list[Wanted] = []
        step = self._files.new_step()
        for wanted in read.groups:
            groups.append(wanted)
            step.add(self.part_of(FileRead(read.file, read.footer, [wanted])))
            if step.is_full:
                yield FileRead(read.file, read.footer, groups)
                groups, step = [], self._files.new_step()
        if groups:
            yield FileRead(read.file, read.footer, groups)

    def _keep(self, key: tuple[Any, ...], group: RowGroup[Columns]) -> None:
        if key not in self._kept:
            self._row_count += len(group.series_ids)
        self._kept[key] = group
        self._kept.move_to_end(key)
        while self._row_count > self._rows_max and len(self._kept) > 1:
            _, dropped = self._kept.popitem(last=False)
            self._row_count -= len(dropped.series_ids)


def _first_names(*, has_runs: bool) -> list[str]:
    """What says of which series the rows are."""
    return ["series_id"] if has_runs else ["series_id", "metric"]


def numbers_of(column: Any) -> NDArray[Any]:
    """A column of numbers without nulls; not copied where it is in one piece."""
    if column.num_chunks == 1:
        return np.asarray(column.chunk(0).to_numpy(zero_copy_only=True))
    return np.asarray(column.to_numpy())


def _known_runs(footer: Footer, numbers: Sequence[int]) -> tuple[list[str], I32Array] | None:
    """Metrics of row groups and where their rows begin; None where the column has to tell."""
    metrics: list[str] = []
    edges: list[int] = []
    begin = 0
    for number in numbers:
        low = footer.metric_minima[number]
        if low == footer.metric_maxima[number]:
            own, firsts = [low], [0]
        elif number in footer.runs:
            own, firsts = footer.runs[number][0], footer.runs[number][1].tolist()[:-1]
        else:
            return None
        # A metric that goes on from one row group to the next is one run.
        goes_on = bool(metrics) and metrics[-1] == own[0]
        metrics += own[goes_on:]
        edges += [begin + first for first in firsts[goes_on:]]
        begin += int(footer.row_counts[number])
    return metrics, np.array([*edges, begin], np.int32)


def _runs(column: Any) -> tuple[list[str], I32Array]:
    """Texts of a sorted, dictionary-encoded column, and where the rows of each begin."""
    texts: list[str] = []
    edges: list[int] = []
    begin = 0
    for chunk in column.chunks:
        # Sorted rows find their texts in the order of the dictionary.
        indices = chunk.indices.to_numpy(zero_copy_only=True)
        own = chunk.dictionary.to_pylist()
        firsts = indices.searchsorted(np.arange(len(own), dtype=indices.dtype)) + begin
        texts += map(intern, own)
        edges += firsts.tolist()
        begin += len(indices)
    return texts, np.array([*edges, begin], np.int32)
