"""Turns one span of the head into sorted Parquet files on the local disk.

    refs that occur ──> rank by (metric, series_id) ──> per day: sort, write samples
                                                   └──> per month: write series not written yet

A cut holds everything that one flush commits. Series rows come once a month for each series; which
are written is remembered here and forgotten with the process: they are idempotent.

Limits: sorted copies take 16 bytes a row of one day at a time; labels are rendered for
SERIES_BATCH series at a time, or SERIES_BATCH_BYTES of text and one series more.
"""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bridge.lake.data_file import DataFile
from bridge.lake.grouped import GroupedRows
from bridge.lake.head_view import CutFiles
from bridge.lake.parquet import (
    MetadataRow,
    SeriesBatch,
    write_metadata,
    write_samples,
    write_series,
)
from bridge.lake.rows import sort_head_rows
from bridge.lake.schema import DAY_MS, METADATA, SAMPLES, SERIES, date_of_day
from bridge.wire.columns import I32Array, I64Array, U32Array
from bridge.wire.series import SeriesRegistry
from bridge.write.head import MetadataTable, Rows

SERIES_BATCH = 32_768
SERIES_BATCH_BYTES = 32 << 20
"""Real series are 400 bytes, 13 MB a batch; a sender of 2.0 can have them all at the limit."""
MONTHS_REMEMBERED = 4
FORGET_SHARE = 4
"""A registry is copied without its silent series once they are more than 1 in this many."""
SILENT_S_MIN = 900.0
"""A series is silent after two flush intervals, but not before three scrapes of five minutes."""
NO_REF = 0xFFFFFFFF
METADATA_TYPES = (
    "unknown",
    "counter",
    "gauge",
    "histogram",
    "gaugehistogram",
    "summary",
    "info",
    "stateset",
)


@dataclass(frozen=True, slots=True)
class Cut:
    """The files of one span.

    Attributes:
        position: number of the last WAL record that they cover.
        sample_total: samples of the log up to there.
        receive_ms: when the oldest of their samples came, Unix ms; 0 without samples.
        files: by table.
        folder: holds them; nothing else is in it.
        registry: knows their series.
        row_count: samples.
    """

    position: int
    sample_total: int
    receive_ms: int
    files: dict[str, list[DataFile]]
    folder: Path
    registry: SeriesRegistry
    row_count: int

    def readable(self) -> CutFiles | None:
        """What a read sees of it; None without samples."""
        if not self.files[SAMPLES]:
            return None
        return CutFiles(self.registry, tuple(file.lake_file() for file in self.files[SAMPLES]))


@dataclass(slots=True)
class _Ranking:
    """Series of one span in file order; replicas of one series share a rank.

    Attributes:
        rank_of_ref: (registry size,) int32, -1 where a ref does not occur.
        ref_of_rank: (ranks,) uint32, one of the refs of each rank.
        metrics: names that occur, sorted.
        metric_of_rank: (ranks,) int32 into metrics.
        series_id_of_rank: (ranks,) int64.
        replica_ids: those that occur; mostly one, and then rows need not be told apart.
    """

    rank_of_ref: I32Array
    ref_of_rank: U32Array
    metrics: list[str]
    metric_of_rank: I32Array
    series_id_of_rank: I64Array
    replica_ids: U32Array


@dataclass(slots=True)
class _RefState:
    """What is remembered of each ref of the present registry."""

    seen_s: NDArray[np.float64] = field(default_factory=lambda: np.empty(0, np.float64))
    written: dict[str, NDArray[np.bool_]] = field(default_factory=dict)

    def grow(self, count: int, now_s: float) -> None:
        """Makes room for refs that are new."""
        missing = count - len(self.seen_s)
        if missing > 0:
            self.seen_s = np.concatenate([self.seen_s, np.full(missing, now_s)])
            for month, flags in self.written.items():
                self.written[month] = np.concatenate([flags, np.zeros(missing, np.bool_)])

    def month(self, month: str) -> NDArray[np.bool_]:
        """Which refs have their series row of this month; the month becomes the newest used."""
        flags = self.written.pop(month, None)
        if flags is None:
            flags = np.zeros(len(self.seen_s), np.bool_)
        self.written[month] = flags
        while len(self.written) > MONTHS_REMEMBERED:
            del self.written[next(iter(self.written))]
        return flags

    def renumber(self, remap: U32Array) -> None:
        """Follows a registry that was copied without its silent series."""
        kept = np.flatnonzero(remap != NO_REF)
        order = kept[np.argsort(remap[kept])]
        self.seen_s = self.seen_s[order]
        self.written = {month: flags[order] for month, flags in self.written.items()}


class Cutter:
    """Writes cuts, and knows which series may be forgotten; used by one thread.

    `next_registry` alone is called by the ingest thread, while the cutter's own thread waits.
    """

    def __init__(
        self,
        folder: Path,
        silent_s: float,
        clock_s: Callable[[], float] = time.monotonic,
        wall_clock_s: Callable[[], float] = time.time,
    ) -> None:
        """Empties `folder`: what an earlier process cut is replayed from the WAL."""
        self._folder = folder
        self._silent_s = max(silent_s, SILENT_S_MIN)
        self._clock_s = clock_s
        self._wall_clock_s = wall_clock_s
        self._refs = _RefState()
        self._remap: U32Array | None = None
        self._metadata = MetadataTable()
        self._metadata_day = -1
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)

    def next_registry(self, rows: Rows) -> SeriesRegistry | None:
        """The registry that takes over from that of `rows`: without the silent series.

        Returns:
            None while few are silent.
        """
        registry = rows.registry
        count = len(registry)
        self._refs.grow(count, self._clock_s())
        silent = self._refs.seen_s < self._clock_s() - self._silent_s
        if np.count_nonzero(silent) * FORGET_SHARE <= count:
            return None
        for block in rows.blocks:
            silent[block.refs[: block.length]] = False
        fresh, self._remap = registry.compacted((~silent).astype(np.uint8))
        return fresh

    def cut(self, rows: Rows) -> Cut:
        """Writes the files of one span.

        Raises:
            OSError: the disk is full or failed; nothing is left, `rows` can be cut again.
        """
        folder = self._folder / f"{rows.position:020d}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            files = self._write(rows, folder)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        if self._remap is not None:
            self._refs.renumber(self._remap)
            self._remap = None
        return Cut(
            rows.position,
            rows.sample_total,
            rows.receive_ms,
            files,
            folder,
            rows.registry,
            rows.row_count,
        )

    def _write(self, rows: Rows, folder: Path) -> dict[str, list[DataFile]]:
        stem = f"f-{rows.position:020d}-{os.urandom(4).hex()}"
        files: dict[str, list[DataFile]] = {SERIES: [], METADATA: [], SAMPLES: []}
        if rows.row_count:
            ranking = self._rank(rows)
            needed: dict[str, NDArray[np.bool_]] = {}
            for day in _days(rows):
                grouped = _sort_day(rows, ranking, day)
                date = date_of_day(day)
                name = f"{stem}-{date}.parquet"
                files[SAMPLES].append(_write_day(rows, ranking, grouped, folder / name, date))
                has_rows = np.diff(grouped.offsets) > 0
                month = date[:7]
                needed[month] = needed.get(month, False) | has_rows
            marks = []
            for month, occurs in needed.items():
                written = self._refs.month(month)
                ranks = np.flatnonzero(occurs & ~written[ranking.ref_of_rank])
                if len(ranks):
                    path = folder / f"{stem}-{month}.series.parquet"
                    batches = _series_batches(rows.registry, ranking, ranks)
                    files[SERIES].append(write_series(path, batches, partition=month))
                    marks.append((written, ranking.ref_of_rank[ranks]))
            for written, refs in marks:  # only once all files are there
                written[refs] = True
        if metadata := self._metadata_due(rows):
            path = folder / f"{stem}.metadata.parquet"
            files[METADATA].append(write_metadata(path, metadata))
        self._metadata_day = self._today()
        return files

    def _metadata_due(self, rows: Rows) -> list[MetadataRow]:
        """What is new or changed, and once a day everything known."""
        due = rows.metadata.entries()
        for entry, seen_ms in due:
            self._metadata.put(entry, seen_ms)
        if self._today() != self._metadata_day:
            now_ms = int(self._wall_clock_s() * 1000)
            due = [(entry, now_ms) for entry, _ in self._metadata.entries()]
        return [
            (entry.metric, _type_name(entry.type), entry.help, entry.unit, seen_ms)
            for entry, seen_ms in due
        ]

    def _today(self) -> int:
        return int(self._wall_clock_s() // 86_400)

    def _rank(self, rows: Rows) -> _Ranking:
        registry = rows.registry
        count = len(registry)
        now_s = self._clock_s()
        self._refs.grow(count, now_s)
        occurs = np.zeros(count, np.bool_)
        for block in rows.blocks:
            occurs[block.refs[: block.length]] = True
        refs = np.flatnonzero(occurs).astype(np.uint32)
        self._refs.seen_s[refs] = now_s
        pair_ids, metric_index = np.unique(registry.metric_ids(refs), return_inverse=True)
        names = [value for _, value in registry.pair_texts(pair_ids)]
        by_name = sorted(range(len(names)), key=names.__getitem__)
        place = np.empty(len(names), np.int32)
        place[by_name] = np.arange(len(names), dtype=np.int32)
        metric_of_ref = place[metric_index]
        series_ids = registry.series_ids(refs)
        order = np.lexsort((series_ids, metric_of_ref))
        metric_sorted, id_sorted = metric_of_ref[order], series_ids[order]
        is_first = np.ones(len(order), np.bool_)
        is_first[1:] = (metric_sorted[1:] != metric_sorted[:-1]) | (id_sorted[1:] != id_sorted[:-1])
        rank_of_ref = np.full(count, -1, np.int32)
        rank_of_ref[refs[order]] = np.cumsum(is_first, dtype=np.int32) - 1
        return _Ranking(
            rank_of_ref,
            refs[order][is_first],
            [names[index].decode() for index in by_name],
            metric_sorted[is_first],
            id_sorted[is_first],
            np.unique(registry.replica_ids(refs)),
        )


def _days(rows: Rows) -> list[int]:
    """Numbers of the days that have rows, ascending."""
    days: set[int] = set()
    for block in rows.blocks:
        times = block.timestamps_ms[: block.length]
        if len(times):
            first, last = (int(times.min()) - 1) // DAY_MS, (int(times.max()) - 1) // DAY_MS
            days.update([first] if first == last else np.unique((times - 1) // DAY_MS).tolist())
    return sorted(days)


def _sort_day(rows: Rows, ranking: _Ranking, day: int) -> GroupedRows:
    carries_more = _has_start(rows) or len(ranking.replica_ids) > 1
    return sort_head_rows(
        [block.rows() for block in rows.blocks],
        ranking.rank_of_ref,
        len(ranking.ref_of_rank),
        day * DAY_MS,
        (day + 1) * DAY_MS,
        want_order=carries_more,
    )


def _has_start(rows: Rows) -> bool:
    return any(block.has_start for block in rows.blocks)


def _write_day(
    rows: Rows, ranking: _Ranking, grouped: GroupedRows, path: Path, date: str
) -> DataFile:
    starts: I64Array | None = None
    replica_of_row: I32Array | None = None
    replicas = rows.registry.replicas()
    if grouped.order is not None and _has_start(rows):
        starts = np.concatenate(
            [block.start_timestamps_ms[: block.length] for block in rows.blocks]
        )[grouped.order]
    if grouped.order is not None and len(ranking.replica_ids) > 1:
        refs = np.concatenate([block.refs[: block.length] for block in rows.blocks])
        replica_of_row = rows.registry.replica_ids(refs[grouped.order]).astype(np.int32)
    elif ranking.replica_ids[0]:
        replica_of_row = np.full(len(grouped.values), ranking.replica_ids[0], np.int32)
    return write_samples(
        path,
        partition=date,
        metrics=ranking.metrics,
        metric_of_rank=ranking.metric_of_rank,
        series_id_of_rank=ranking.series_id_of_rank,
        offsets=grouped.offsets,
        timestamps_ms=grouped.timestamps_ms,
        values=grouped.values,
        start_timestamps_ms=starts,
        replica_of_row=replica_of_row,
        replicas=[replica.decode() for replica in replicas],
    )


def _series_batches(
    registry: SeriesRegistry, ranking: _Ranking, ranks: NDArray[np.int64]
) -> Iterator[SeriesBatch]:
    text_bytes = np.cumsum(registry.label_lengths(ranking.ref_of_rank[ranks]))
    start = 0
    while start < len(ranks):
        bytes_max = SERIES_BATCH_BYTES + (int(text_bytes[start - 1]) if start else 0)
        end = max(start + 1, int(np.searchsorted(text_bytes, bytes_max, "right")))
        part = ranks[start : min(end, start + SERIES_BATCH)]
        start += len(part)
        yield SeriesBatch(
            [ranking.metrics[index] for index in ranking.metric_of_rank[part]],
            ranking.series_id_of_rank[part],
            registry.label_rows(ranking.ref_of_rank[part]),
        )


def _type_name(number: int) -> str:
    return METADATA_TYPES[number] if number < len(METADATA_TYPES) else METADATA_TYPES[0]
