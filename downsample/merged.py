"""Many sorted files as one: each series whole, its rows in order of time, duplicates merged.

    readers ──> pieces held ──(keys before the bound)──> ranks ──> rows by rank ──> batch

1. Every reader holds its next piece. The file whose last decoded key is the lowest is read on,
   until `batch_rows` rows were decoded: nobody can hold more than one piece behind the
   bound, which is the lowest of the last decoded keys (the forecast of Knuth's external merges).
2. All series before the bound are complete. Their keys are united, two lists at a time, which costs
   next to nothing where files hold the same series.
3. Runs are copied to their ranks, file by file in the order of their times, so that the rows of a
   series mostly stand in order of time already. Where they do not, they are sorted.
4. Of the replicas of a series one is followed (`bridge.lake.merge`), and of equal times one value
   is kept, as a read would. So what a read gives does not change when its files are merged.

Nothing is compared row by row: a merge costs as much as copying its rows, if files follow each
other in time, and a comparison a run.

Limits: rows decoded and not yet given away, at most `batch_rows` and a piece a file (a row group,
or its share of `batch_rows`), of 16 to 36 bytes; the rows of a batch, BATCH_ROWS_MAX or
FILE_ROWS_MIN a file, 16 to 28 bytes each, twice that for a moment; FOOTER_BYTES_MAX.
"""

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from bridge.lake.merge import choose_replicas
from bridge.lake.rows import group_rows
from bridge.model.time_range import TimeRange
from bridge.wire.columns import I32Array, I64Array
from downsample.merge import keep_greatest, order_of_times, place_runs, rank_runs, unite_keys
from downsample.rows import RawFile, SampleBatch
from downsample.sorted_reader import BoolArray, Key, Piece, SortedReader

BATCH_ROWS_MAX = 1 << 18
"""Batches fit into the cache of the CPU, however many rows are decoded at once: 8 ns a row to put
rows into their places, 29 ns in batches of a million."""
FILE_ROWS_MIN = 1024
"""But where there are so many files that each has fewer rows in a batch, batches are larger: what
is done for each file and batch costs 30 us."""
REST_RATIO = 4
"""Files of one time end their row groups at the same series, so that of each piece hardly anything
is left when the next one is needed."""
READ_ROWS_MAX = 131_072
"""Small row groups of a file are decoded together up to so many rows."""
READ_ROWS_MIN = 8_192
FOOTER_BYTES_MAX = 64 << 20
"""Parsed footers that are kept. The others are parsed again for each piece, 0.5 ms where a file has
64 row groups."""


NOT_ASCENDING = 2
"""Of `order_of_times`."""


@dataclass(frozen=True, slots=True)
class _Held:
    """A piece of which some runs were not given away yet."""

    piece: Piece
    run: int = 0


@dataclass(frozen=True, slots=True)
class _Runs:
    """Runs of a piece that belong to a batch."""

    piece: Piece
    begin: int
    end: int

    @property
    def row_count(self) -> int:
        begins = self.piece.begins
        return int(begins[self.end] - begins[self.begin])


def merge_files(
    files: Sequence[RawFile],
    after_ms: int,
    until_ms: int,
    *,
    batch_rows: int,
    is_merging_replicas: bool = True,
) -> Iterator[SampleBatch]:
    """The samples of files in a span, merged.

    Args:
        files: sorted by (metric, series_id, timestamp_ms).
        after_ms: exclusive; a full hour, as is `until_ms`, where replicas are merged.
        until_ms: inclusive.
        batch_rows: rows that are decoded at once, about. Batches have no more, but where a series
            has, and no more than BATCH_ROWS_MAX or FILE_ROWS_MIN a file.
        is_merging_replicas: whether one replica is followed; else the rows of all are kept, and a
            time can be there once for each.

    Returns:
        Batches in the order of their series; a series is in one of them.

    Raises:
        BrokenFile: a file cannot be read, is gone, or is not sorted.
    """
    span = TimeRange(after_ms, until_ms)
    out_rows = min(batch_rows, max(BATCH_ROWS_MAX, FILE_ROWS_MIN * len(files)))
    rows_max = min(max(batch_rows // max(1, len(files)), READ_ROWS_MIN), READ_ROWS_MAX)
    readers = []
    footer_bytes = 0
    for file in files:
        readers.append(SortedReader(file.path, span, rows_max))
        footer_bytes += readers[-1].footer_bytes
        if footer_bytes > FOOTER_BYTES_MAX:
            footer_bytes -= readers[-1].forget_footer()
    readers.sort(key=lambda reader: reader.after_ms)
    held: list[list[_Held]] = [[] for _ in readers]
    # Nothing sorts before the key of a file that was not read yet.
    nothing: Key = ("", -(1 << 63))
    waiting = [(nothing, place) for place, reader in enumerate(readers) if not reader.is_done]
    decoded = 0
    while waiting:
        _, place = heapq.heappop(waiting)
        reader = readers[place]
        piece = reader.read()
        if piece is not None:
            held[place].append(_Held(piece))
            decoded += len(piece.timestamps_ms)
        if not reader.is_done:
            assert reader.last_key is not None
            heapq.heappush(waiting, (reader.last_key, place))
        if decoded >= batch_rows or not waiting:
            bound = waiting[0][0] if waiting else None
            if bound != nothing:
                decoded = 0
                yield from _batches(
                    _take(held, bound), out_rows, is_merging_replicas=is_merging_replicas
                )


def _take(held: Sequence[list[_Held]], bound: Key | None) -> list[_Runs]:
    """All runs before the bound, in the order of the files; they are held no longer."""
    taken = []
    for own in held:
        while own:
            first = own[0]
            end = len(first.piece.series_ids) if bound is None else first.piece.run_at(bound)
            if end > first.run:
                taken.append(_Runs(first.piece, first.run, end))
            if end < len(first.piece.series_ids):
                own[0] = _rest(first.piece, end)
                break
            own.pop(0)
    return taken


def _rest(piece: Piece, run: int) -> _Held:
    """What is left of a piece; a copy where that is little, lest it hold all of it."""
    row_count = len(piece.values) - int(piece.begins[run])
    if row_count * REST_RATIO > len(piece.values):
        return _Held(piece, run)
    return _Held(piece.behind(run))


def _batches(
    taken: list[_Runs], batch_rows: int, *, is_merging_replicas: bool
) -> Iterator[SampleBatch]:
    """Batches of runs; with its end the pieces are let go."""
    for runs in _split(taken, batch_rows):
        yield _merge(runs, is_merging_replicas=is_merging_replicas)


def _split(runs: list[_Runs], batch_rows: int) -> Iterator[list[_Runs]]:
    """Parts of about `batch_rows` rows that have no series in common."""
    while runs:
        row_count = sum(own.row_count for own in runs)
        longest = max(runs, key=lambda own: own.row_count)
        share = batch_rows / row_count
        run = longest.begin + max(1, round(share * (longest.end - longest.begin)))
        if share > 1 / 2 or run >= longest.end:
            yield runs
            return
        key = longest.piece.key_at(run)
        ends = [min(max(own.piece.run_at(key), own.begin), own.end) for own in runs]
        pairs = list(zip(runs, ends, strict=True))
        yield [_Runs(own.piece, own.begin, end) for own, end in pairs if end > own.begin]
        runs = [_Runs(own.piece, end, own.end) for own, end in pairs if end < own.end]


def _merge(runs: Sequence[_Runs], *, is_merging_replicas: bool) -> SampleBatch:
    metrics, keys = _keys(runs)
    all_metrics, all_ids = _unite(keys)
    counts = np.zeros(len(all_ids), np.int64)
    ranks = []
    for own, (own_metrics, own_ids) in zip(runs, keys, strict=True):
        begins = own.piece.begins[own.begin : own.end + 1]
        ranks.append(rank_runs(own_metrics, own_ids, begins, all_metrics, all_ids, counts))
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
    rows = _Rows(runs, ranks, offsets)
    offsets = rows.settle(offsets, is_merging_replicas=is_merging_replicas)
    return SampleBatch(
        metrics,
        all_metrics,
        all_ids,
        offsets,
        rows.timestamps_ms,
        rows.values,
        rows.starts,
        rows.replicas(),
        rows.replica_names,
    )


def _keys(runs: Sequence[_Runs]) -> tuple[list[str], list[tuple[I32Array, I64Array]]]:
    """All metrics of a batch, and the key of each run, its metric as a place among them."""
    named = []
    for own in runs:
        edges = own.piece.edges
        first = int(np.searchsorted(edges, own.begin, "right")) - 1
        end = int(np.searchsorted(edges, own.end, "left"))
        counts = np.diff(edges[first : end + 1].clip(own.begin, own.end))
        named.append((own.piece.metrics[first:end], counts))
    metrics = sorted({metric for names, _ in named for metric in names})
    place_of = {metric: place for place, metric in enumerate(metrics)}
    keys = []
    for own, (names, counts) in zip(runs, named, strict=True):
        places = np.array([place_of[name] for name in names], np.int32)
        keys.append((np.repeat(places, counts), own.piece.series_ids[own.begin : own.end]))
    return metrics, keys


def _unite(keys: Sequence[tuple[I32Array, I64Array]]) -> tuple[I32Array, I64Array]:
    """All keys, each once, sorted."""
    level = list(keys)
    while len(level) > 1:
        pairs = zip(level[::2], level[1::2], strict=False)
        united = [unite_keys(*one, *other) for one, other in pairs]
        level = united + level[len(level) // 2 * 2 :]
    metrics, ids = level[0]
    return metrics, np.ascontiguousarray(ids)


class _Rows:
    """Rows of a batch by rank.

    Attributes:
        replica_names: the first, empty, stands for none; no others if no row has one.
    """

    def __init__(self, runs: Sequence[_Runs], ranks: Sequence[I32Array], offsets: I64Array) -> None:
        """Copies the rows of runs to their ranks, in the order of the files."""
        row_count = int(offsets[-1])
        self.timestamps_ms, self.values = np.empty(row_count, np.int64), np.empty(row_count)
        pieces = [own.piece for own in runs]
        names = {name for piece in pieces for name in piece.replica_names}
        self.replica_names = tuple(sorted({"", *names}))
        has_starts = any(piece.start_timestamps_ms is not None for piece in pieces)
        self._has_several = len(names) > 1
        order = np.empty(row_count, np.int64) if has_starts or self._has_several else None
        ends = offsets[:-1].copy()
        first_order = 0
        for own, own_ranks in zip(runs, ranks, strict=True):
            piece = own.piece
            place_runs(
                own_ranks,
                piece.begins[own.begin : own.end + 1],
                piece.timestamps_ms,
                piece.values,
                ends,
                self.timestamps_ms,
                self.values,
                order,
                first_order - int(piece.begins[own.begin]),
            )
            first_order += own.row_count
        self.starts = _starts(runs)[order] if has_starts else None
        self._replicas = _replicas(runs, self.replica_names)[order] if self._has_several else None

    def replicas(self) -> I32Array | None:
        """The replica of each row as a place among the names; None if no row has one."""
        if len(self.replica_names) == 1:
            return None
        if self._replicas is None:
            return np.ones(len(self.values), np.int32)
        return self._replicas

    def settle(self, offsets: I64Array, *, is_merging_replicas: bool) -> I64Array:
        """Sorts each rank by time, and merges duplicates, perhaps replicas; the new offsets."""
        order = order_of_times(offsets, self.timestamps_ms)
        if order == NOT_ASCENDING:
            self._sort(offsets)
            order = order_of_times(offsets, self.timestamps_ms)
        if self._replicas is not None and is_merging_replicas:
            keep = choose_replicas(offsets, self.timestamps_ms, self._replicas)
            offsets = self._keep(offsets, keep)
        if not order:
            return offsets
        if self._replicas is None or is_merging_replicas:
            keep = keep_greatest(offsets, self.timestamps_ms, self.values)
        else:
            keep = self._greatest_by_replica(offsets, self._replicas)
        return self._keep(offsets, keep)

    def _greatest_by_replica(self, offsets: I64Array, replicas: I32Array) -> BoolArray:
        """Which rows stay, one for each time and replica."""
        keep = np.zeros(len(replicas), np.bool_)
        for replica in np.unique(replicas).tolist():
            is_own = replicas == replica
            rows = np.flatnonzero(is_own)
            own_offsets = _offsets_of(is_own, offsets)
            times, values = self.timestamps_ms[rows], self.values[rows]
            keep[rows[keep_greatest(own_offsets, times, values)]] = True
        return keep

    def _sort(self, offsets: I64Array) -> None:
        ranks = np.repeat(np.arange(len(offsets) - 1, dtype=np.int32), np.diff(offsets))
        has_more = self.starts is not None or self._replicas is not None
        grouped = group_rows(
            ranks, self.timestamps_ms, self.values, len(offsets) - 1, want_order=has_more
        )
        self.timestamps_ms, self.values = grouped.timestamps_ms, grouped.values
        self.starts = None if self.starts is None else self.starts[grouped.order]
        self._replicas = None if self._replicas is None else self._replicas[grouped.order]

    def _keep(self, offsets: I64Array, keep: BoolArray) -> I64Array:
        """Drops rows; the new offsets."""
        if keep.all():
            return offsets
        self.timestamps_ms, self.values = self.timestamps_ms[keep], self.values[keep]
        self.starts = None if self.starts is None else self.starts[keep]
        self._replicas = None if self._replicas is None else self._replicas[keep]
        return _offsets_of(keep, offsets)


def _offsets_of(keep: BoolArray, offsets: I64Array) -> I64Array:
    """Offsets into the rows that are kept."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(keep)])[offsets]


def _starts(runs: Sequence[_Runs]) -> I64Array:
    parts = []
    for own in runs:
        starts, begins = own.piece.start_timestamps_ms, own.piece.begins
        rows = slice(int(begins[own.begin]), int(begins[own.end]))
        parts.append(np.zeros(own.row_count, np.int64) if starts is None else starts[rows])
    return np.concatenate(parts)


def _replicas(runs: Sequence[_Runs], names: Sequence[str]) -> I32Array:
    place_of = {name: place for place, name in enumerate(names)}
    parts = []
    for own in runs:
        replicas, begins = own.piece.replicas, own.piece.begins
        rows = slice(int(begins[own.begin]), int(begins[own.end]))
        places = np.array([place_of[name] for name in own.piece.replica_names], np.int32)
        parts.append(
            np.full(own.row_count, places[0]) if replicas is None else places[replicas[rows]]
        )
    return np.concatenate(parts)
