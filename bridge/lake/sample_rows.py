"""The rows of one unit, a row group of a file or a block of the head, that a slice wants.

The rows of a row group are sorted by metric and series id, so each metric's rows are one run, and
its ids find their slots by galloping through the selected ones.

A head's rows name refs; refs of several replicas can be one series, so they are filtered replica by
replica, mostly once.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from bridge.lake.footers import Footer
from bridge.lake.head_view import HeadRows
from bridge.lake.row_groups import RowGroup, numbers_of
from bridge.lake.rows import assign_slots, filter_rows
from bridge.lake.selection import RANK_NONE, Selection
from bridge.lake.slices import Box
from bridge.wire.columns import F64Array, I32Array, I64Array


@dataclass(frozen=True, slots=True)
class SampleColumns:
    """What a row of `samples` has beside its series.

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


class SampleReading:
    """How `samples` is read: `replica` only where it is not known."""

    texts: Final = ("replica",)

    def names(self, footer: Footer, numbers: Sequence[int]) -> list[str]:
        """Columns that are read of some row groups of a file."""
        is_known = _only_replica(footer, numbers) is not None
        return ["timestamp_ms", "value", *([] if is_known else ["replica"])]

    def take(self, table: Any, footer: Footer, numbers: Sequence[int]) -> SampleColumns:
        """The columns as arrays."""
        replica = _only_replica(footer, numbers)
        if replica is None:
            names, replicas = _places(table["replica"])
        else:
            names, replicas = (replica,), None
        return SampleColumns(
            numbers_of(table["timestamp_ms"]), numbers_of(table["value"]), replicas, names
        )


@dataclass(frozen=True, slots=True)
class SampleRows:
    """Rows of one unit; slots count from the box's first rank.

    Attributes:
        slots: (n,) int32.
        timestamps_ms: (n,) int64.
        values: (n,) float64.
        replicas: (n,) int32 into replica_names; None if all are of the first of them.
        replica_names: empty for no replica.
    """

    slots: I32Array
    timestamps_ms: I64Array
    values: F64Array
    replicas: I32Array | None
    replica_names: tuple[str, ...]


NO_ROWS = SampleRows(
    np.empty(0, np.int32), np.empty(0, np.int64), np.empty(0, np.float64), None, ()
)


class HeadPart:
    """A head's blocks, and the selected series in them.

    Attributes:
        blocks: refs, times and values.
        share: of the rows, how many are expected to be selected.
        rank_begin: no selected series has a lower rank.
        rank_end: nor this one or a higher.
    """

    def __init__(self, rows: HeadRows, rank_of_ref: I32Array) -> None:
        """`rank_of_ref` as `Selection.rank_of_ref` gives it; at least one ref is selected."""
        refs = np.flatnonzero(rank_of_ref != RANK_NONE).astype(np.uint32)
        ranks = rank_of_ref[refs]
        self.blocks = rows.blocks
        self.share = len(refs) / len(rows.registry)
        self.rank_begin, self.rank_end = int(ranks.min()), int(ranks.max()) + 1
        replicas = rows.registry.replica_ids(refs)
        names = rows.registry.replicas()
        self._rank_of_ref: dict[str, I32Array] = {}
        for replica in np.unique(replicas).tolist():
            own = np.full(len(rank_of_ref), RANK_NONE, np.int32)
            of_replica = refs[replicas == replica]
            own[of_replica] = rank_of_ref[of_replica]
            self._rank_of_ref[names[replica].decode(errors="replace")] = own

    @property
    def replica_names(self) -> tuple[str, ...]:
        """Of the selected series."""
        return tuple(self._rank_of_ref)

    def read(self, block: int, box: Box) -> Iterator[SampleRows]:
        """Rows of a block in a box."""
        for name, ranks in self._rank_of_ref.items():
            is_inside = (ranks >= box.rank_begin) & (ranks < box.rank_end)
            slot_of_ref = np.where(is_inside, ranks - np.int32(box.rank_begin), np.int32(RANK_NONE))
            rows = filter_rows(*self.blocks[block], slot_of_ref, box.after_ms, box.until_ms)
            yield SampleRows(*rows, None, (name,))


def select_rows(group: RowGroup[SampleColumns], selection: Selection, box: Box) -> SampleRows:
    """Rows of a row group in a box."""
    found = find_slots(group, selection, box)
    if found is None:
        return NO_ROWS
    rows, slots = found
    is_wanted = slots != RANK_NONE
    columns = group.columns
    times, replicas = columns.timestamps_ms[rows], columns.replicas
    if group.after_ms < box.after_ms or group.until_ms > box.until_ms:
        is_wanted &= (times > box.after_ms) & (times <= box.until_ms)
    wanted = slice(None) if is_wanted.all() else np.flatnonzero(is_wanted)
    return SampleRows(
        slots[wanted],
        times[wanted],
        columns.values[rows][wanted],
        None if replicas is None else replicas[rows][wanted],
        columns.replica_names,
    )


def find_slots(
    group: RowGroup[Any], selection: Selection, box: Box
) -> tuple[slice, I32Array] | None:
    """Rows of a row group among which are some of a box's series, and the slot of each.

    Returns:
        None if there are none; else the slots are int32 from the box's first rank on, RANK_NONE for
        rows of other series. Whether the rows are in the time of the box was not looked at.
    """
    runs = selection.runs(group.metrics, group.edges, box.rank_begin, box.rank_end)
    if not runs:
        return None
    # Rows of other metrics before and behind are not looked at.
    offset, length = runs[0].row_begin, runs[-1].row_end - runs[0].row_begin
    slots = np.full(length, RANK_NONE, np.int32) if len(runs) > 1 else None
    for run in runs:
        own = assign_slots(
            group.series_ids[run.row_begin : run.row_end],
            selection.series_ids[run.rank_begin : run.rank_end],
            np.arange(
                run.rank_begin - box.rank_begin, run.rank_end - box.rank_begin, dtype=np.int32
            ),
        )
        if slots is None:
            slots = own
        else:
            slots[run.row_begin - offset : run.row_end - offset] = own
    assert slots is not None
    if not (slots != RANK_NONE).any():
        return None
    return slice(offset, offset + length), slots


def _only_replica(footer: Footer, numbers: Sequence[int]) -> str | None:
    """The replica of all rows; None where there may be several."""
    replicas = {footer.replicas[number] for number in numbers}
    return replicas.pop() if len(replicas) == 1 else None


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
