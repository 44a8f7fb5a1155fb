"""Row groups of `samples`, decoded.

pyarrow decodes a column of a row group whole and skips nothing in it. What need not be read is
`metric` where the bounds say that there is only one, `replica` where they say which one it is, and
times and values where the ids show that nothing is wanted: for a query of few series the ids come
first. A row group that two slices need is kept for the second one.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from sys import intern
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from bridge.lake.footers import Footer
from bridge.wire.columns import F64Array, I32Array, I64Array


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


@dataclass(frozen=True, slots=True)
class SampleColumns:
    """What a row has beside its series.

    Attributes:
        timestamps_ms: (n,) int64.
        values: (n,) float64.
        replicas: (n,) int32 into replica_names; None if all are of the first of them.
        replica_names: empty for no replica.
    """

    timestamps_ms: I64Array
    values: F64Array
    replicas: I32Array | None
    replica_names: tuple[str, ...]


class RowGroup:
    """A row group, or several as one, decoded as far as was asked for.

    Attributes:
        series_ids: (n,) int64.
        metrics: in the order of the rows.
        edges: (metrics + 1,) int32, first row of each; the row count behind.
        after_ms: every row is later.
        until_ms: no row is later.
    """

    def __init__(self, file: pq.ParquetFile, footer: Footer, wanted: Wanted) -> None:
        numbers = list(wanted.numbers)
        self._file = file
        self._numbers = numbers
        replicas = {footer.replicas[number] for number in numbers}
        self._replica = replicas.pop() if len(replicas) == 1 else None
        self.after_ms = int(footer.timestamp_ms_minima[numbers].min()) - 1
        self.until_ms = int(footer.timestamp_ms_maxima[numbers].max())
        self._others = ["timestamp_ms", "value", *(["replica"] if self._replica is None else [])]
        runs = _known_runs(footer, numbers)
        columns = ["series_id"] if runs is not None else ["series_id", "metric"]
        if not wanted.is_sparse:
            columns += self._others
        table = file.read_row_groups(numbers, columns=columns, use_threads=False)
        self.series_ids: I64Array = _numbers(table["series_id"])
        if runs is None:
            runs = _runs(table["metric"])
            if len(numbers) == 1:
                footer.runs[numbers[0]] = runs
        self.metrics, self.edges = runs
        self._columns = None if wanted.is_sparse else self._take(table)

    @property
    def columns(self) -> SampleColumns:
        """The other columns; read now if they were not, while the file is open."""
        if self._columns is None:
            self._columns = self._take(
                self._file.read_row_groups(self._numbers, columns=self._others, use_threads=False)
            )
        return self._columns

    def _take(self, table: Any) -> SampleColumns:
        if self._replica is None:
            names, replicas = _places(table["replica"])
        else:
            names, replicas = (self._replica,), None
        return SampleColumns(
            _numbers(table["timestamp_ms"]), _numbers(table["value"]), replicas, names
        )


class RowGroups:
    """Reads row groups, and keeps those that the slice next door needs too."""

    def __init__(self, rows_max: int) -> None:
        """Keeps up to `rows_max` rows, 24 bytes each."""
        self._rows_max = rows_max
        self._kept: OrderedDict[tuple[Any, ...], RowGroup] = OrderedDict()
        self._row_count = 0

    def read(self, path: str, footer: Footer, groups: Sequence[Wanted]) -> Iterator[RowGroup]:
        """Row groups of a file; each is to be looked at before the next is asked for.

        Raises:
            FileNotFoundError: it is gone.
        """
        kept = [self._kept.get((path, *wanted.numbers)) for wanted in groups]
        if all(kept):
            yield from (group for group in kept if group is not None)
            return
        # A path instead of a file would have pyarrow look for fsspec, each time anew.
        with pq.ParquetFile(
            pa.OSFile(path), metadata=footer.parsed, read_dictionary=["metric", "replica"]
        ) as file:
            for wanted, known in zip(groups, kept, strict=True):
                group = known or RowGroup(file, footer, wanted)
                if wanted.is_torn and not wanted.is_sparse:
                    self._keep((path, *wanted.numbers), group)
                yield group

    def _keep(self, key: tuple[Any, ...], group: RowGroup) -> None:
        if key not in self._kept:
            self._row_count += len(group.series_ids)
        self._kept[key] = group
        self._kept.move_to_end(key)
        while self._row_count > self._rows_max and len(self._kept) > 1:
            _, dropped = self._kept.popitem(last=False)
            self._row_count -= len(dropped.series_ids)


def _numbers(column: Any) -> NDArray[Any]:
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


def _places(column: Any) -> tuple[tuple[str, ...], I32Array]:
    """Distinct texts of a dictionary-encoded column, empty for null, and each row's among them."""
    names = [""]
    parts = []
    for chunk in column.chunks:
        own = [text or "" for text in chunk.dictionary.to_pylist()]
        names += [text for text in own if text not in names]
        place = np.array([names.index(text) for text in own] or [0], np.int32)
        parts.append(place[chunk.indices.fill_null(0).to_numpy()])
        parts[-1][np.asarray(chunk.is_null())] = 0
    return tuple(names), np.concatenate(parts)
