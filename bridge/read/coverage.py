"""What the lake has of each level, as far as a query is concerned.

What a rollup file covers stands in its name; so does what a compacted file of raw samples covers.

    rollups cover it, and                                     the span is
    the raw samples are kept                                  answered by any level
    they are expired: the day is dropped, and no              answered by rollups alone
        compacted file has it
    raw samples are kept, and some are not rolled up          late: raw, until they are (READ-8)

Samples are not rolled up yet while they lie in the head, in a cut file, or in a flush file of the
lake; of files their bounds are taken, of rows in memory the hours that they lie in. Where raw
samples are expired, late ones wait for being merged into the rollups, and are not seen before.

A span without any rollup is raw; so is one without any data, but where it lies between rollups it
belongs to them, so that a quiet hour does not cut a year in two.

Invariants:
    READ-8  while raw samples are kept, an answer has every accepted sample in it, rolled up or not.
"""

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from bridge.lake.head_view import CutFiles, HeadRows
from bridge.lake.schema import DAY_MS, SAMPLES, SAMPLES_1H, SAMPLES_5M
from bridge.lake.selection import RANK_NONE, Selection
from bridge.lake.snapshot import Snapshot, TableFiles
from bridge.lake.stored_file import kind_and_span
from bridge.model.time_range import AFTER_MS_MIN, UNTIL_MS_MAX, TimeRange
from bridge.read.resolution import HOUR_MS, Coverage

LATE_SPANS_MAX = 32
"""Scans of late spans, 30 to 60 ms each for a thousand series; beyond it spans of neighbouring days
are joined, so that there is one for two days at most, as far as raw samples are kept."""


@dataclass(frozen=True, slots=True)
class _Known:
    """What one version of the lake covers.

    Attributes:
        versions: of the tables.
        coverage: without what is late.
        is_flush: of each file of `samples`, whether no rollup is promised to have its rows.
    """

    versions: tuple[int | None, ...]
    coverage: Coverage
    is_flush: NDArray[np.bool_]


class CoverageCache:
    """Coverage of the newest snapshot; any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: _Known | None = None

    def of(
        self,
        snapshot: Snapshot,
        selection: Selection,
        heads: Sequence[HeadRows],
        cuts: Sequence[CutFiles],
    ) -> Coverage:
        """What there is for a query.

        Args:
            snapshot: of the lake.
            selection: the series of the query.
            heads: rows in memory that the snapshot does not have.
            cuts: files that it does not have.
        """
        if not len(snapshot.samples_5m) and not len(snapshot.samples_1h):
            return Coverage()
        known = self._of(snapshot)
        coverage = known.coverage
        covered = [*coverage.five_m, *coverage.one_h]
        until_ms = max((one.until_ms for one in covered), default=0)
        files, flushes = snapshot.samples, known.is_flush
        if len(selection.metrics) == 1:
            flushes = flushes & files.with_metric(selection.metrics[0])
        late = _spans_of(files, flushes & (files.timestamp_ms_minima <= until_ms))
        late += [
            TimeRange(file.timestamp_ms_min - 1, file.timestamp_ms_max)
            for part in cuts
            for file in part.files
            if file.timestamp_ms_min <= until_ms
        ]
        late += [hour for head in heads for hour in _hours(head, selection, until_ms)]
        return replace(coverage, late=_few(union(one.widen(HOUR_MS) for one in late)))

    def _of(self, snapshot: Snapshot) -> _Known:
        versions = tuple(snapshot.versions.get(name) for name in (SAMPLES, SAMPLES_5M, SAMPLES_1H))
        with self._lock:
            if self._known is None or self._known.versions != versions:
                self._known = _know(snapshot, versions)
            return self._known


def _know(snapshot: Snapshot, versions: tuple[int | None, ...]) -> _Known:
    five_m, one_h = _promised(snapshot.samples_5m), _promised(snapshot.samples_1h)
    compacted = _promised(snapshot.samples)
    # Between the commits of a job, too, rollups cover what no compacted file does.
    dropped_day = snapshot.raw_dropped_day
    dropped_ms = AFTER_MS_MIN if dropped_day is None else (dropped_day + 1) * DAY_MS
    kept = [*compacted, TimeRange(dropped_ms, UNTIL_MS_MAX)]
    names = snapshot.samples.paths
    is_flush = np.array([_promise(name) is None for name in names.to_pylist()], np.bool_)
    rolled_up = union([*five_m, *one_h])
    raw = union(
        [*compacted, *(one.widen(HOUR_MS) for one in _spans_of(snapshot.samples, is_flush))]
    )
    return _Known(
        versions,
        Coverage(
            five_m=_bridged(five_m, union([*one_h, *raw])),
            one_h=_bridged(one_h, union([*five_m, *raw])),
            raw_dropped=_bridged(without(rolled_up, union(kept)), raw),
        ),
        is_flush,
    )


def _promised(files: TableFiles) -> tuple[TimeRange, ...]:
    spans = {_promise(path) for path in files.paths.to_pylist()}
    return union(span for span in spans if span is not None)


def _promise(path: str) -> TimeRange | None:
    """What the name of a file promises to cover; None of a flush."""
    name = path.rpartition("/")[2]
    return None if name.startswith("f-") else _span_of(name)


@lru_cache(1 << 14)
def _span_of(name: str) -> TimeRange | None:
    return kind_and_span(name)[1]


def _spans_of(files: TableFiles, mask: NDArray[np.bool_]) -> list[TimeRange]:
    """Where the rows of files lie; of files without statistics anywhere."""
    rows = np.flatnonzero(mask)
    columns = files.timestamp_ms_minima[rows].tolist(), files.timestamp_ms_maxima[rows].tolist()
    return [TimeRange.from_closed(low, high) for low, high in zip(*columns, strict=True)]


def _hours(head: HeadRows, selection: Selection, until_ms: int) -> list[TimeRange]:
    """Hours up to a time that have selected rows of a head."""
    early = [block for block in head.blocks if len(block[0]) and block[1].min() <= until_ms]
    rank_of_ref = selection.rank_of_ref(head.registry) if early else None
    if rank_of_ref is None:
        return []
    hours: set[int] = set()
    for refs, times, _ in early:
        is_early = times <= until_ms
        own, own_times = refs[is_early], times[is_early]
        is_known = own < len(rank_of_ref)
        own, own_times = own[is_known], own_times[is_known]
        wanted = own_times[rank_of_ref[own] != RANK_NONE]
        hours.update(np.unique((wanted - 1) // HOUR_MS).tolist())
    return [TimeRange(hour * HOUR_MS, (hour + 1) * HOUR_MS) for hour in hours]


def union(ranges: Iterable[TimeRange]) -> tuple[TimeRange, ...]:
    """The same instants as ranges that ascend and do not touch."""
    joined: list[TimeRange] = []
    for one in sorted(ranges, key=lambda part: part.after_ms):
        if one.is_empty:
            continue
        if joined and one.after_ms <= joined[-1].until_ms:
            last = joined[-1]
            joined[-1] = TimeRange(last.after_ms, max(last.until_ms, one.until_ms))
        else:
            joined.append(one)
    return tuple(joined)


def without(ranges: Sequence[TimeRange], others: Sequence[TimeRange]) -> tuple[TimeRange, ...]:
    """What lies in some ranges and in none of others; both ascend and do not touch."""
    left: list[TimeRange] = []
    place = 0
    for one in ranges:
        begin_ms = one.after_ms
        while place < len(others) and others[place].until_ms <= begin_ms:
            place += 1
        number = place
        while number < len(others) and others[number].after_ms < one.until_ms:
            if others[number].after_ms > begin_ms:
                left.append(TimeRange(begin_ms, others[number].after_ms))
            begin_ms = max(begin_ms, others[number].until_ms)
            number += 1
        if begin_ms < one.until_ms:
            left.append(TimeRange(begin_ms, one.until_ms))
    return tuple(left)


def _few(ranges: tuple[TimeRange, ...]) -> tuple[TimeRange, ...]:
    """Ranges, those of neighbouring days joined where there are many: each is a scan of its own."""
    if len(ranges) <= LATE_SPANS_MAX:
        return ranges
    gaps = [
        TimeRange(one.until_ms, following.after_ms)
        for one, following in pairwise(ranges)
        if following.after_ms - one.until_ms <= DAY_MS
    ]
    return union([*ranges, *gaps])


def _bridged(ranges: tuple[TimeRange, ...], others: tuple[TimeRange, ...]) -> tuple[TimeRange, ...]:
    """Ranges, and the gaps between them in which there is nothing else either."""
    gaps = [TimeRange(one.until_ms, following.after_ms) for one, following in pairwise(ranges)]
    empty = [gap for gap in gaps if without([gap], others) == (gap,)]
    return union([*ranges, *empty])
