"""Reads the spans of a query: samples as they are, or what leaves of the windows of a rollup.

    raw      Scan ─────────────────────────> slices      (one for several: averaged by window)
    rollup   RollupScan ──> windows ──> emit ──> slices

Windows that no evaluation looks at are left out where they are read.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from bridge.errors import CorruptionError
from bridge.lake.block_file import Check
from bridge.lake.footers import FooterCache
from bridge.lake.grouped import GroupedRows
from bridge.lake.rollup_scan import RollupScan, WindowFilter, WindowSlice
from bridge.lake.scan import Scan, ScanFile, Slice
from bridge.lake.selection import Selection
from bridge.lake.slices import ROWS_MAX
from bridge.lake.window_rows import WindowRows
from bridge.model.staleness import STALE_BITS
from bridge.read.emission import Emission, Kind, columns_of, emit_parts
from bridge.read.resolution import Span
from bridge.wire.columns import I64Array

POINTS_MAX = 1 << 20
"""Samples that are made at once: 16 MiB. One series of a slice may have more."""
ALL_POINTS_ROWS = 1 << 12
"""Windows of a slice where all samples of a window may leave: one series with a scrape a second has
14 M in so many hours, 236 MiB."""


class SpanRead:
    """A span that is to be read; what is read when slices are asked for."""

    def __init__(self, span: Span, scan: Scan | RollupScan) -> None:
        self.span = span
        self._scan = scan

    @property
    def file_count(self) -> int:
        """Files that will be opened."""
        return self._scan.file_count

    @property
    def read_bytes(self) -> int:
        """Bytes of columns that will be read."""
        return self._scan.read_bytes()

    @property
    def expected_rows(self) -> float:
        """Samples, or windows that some evaluation looks at, about."""
        return self._scan.expected_rows()


class RawRead(SpanRead):
    """Raw samples of a span."""

    _scan: Scan

    def __init__(self, span: Span, scan: Scan) -> None:
        """A span of raw samples, and what finds them."""
        super().__init__(span, scan)
        self._means: Emission | None = None

    def weigh(self, means: Emission) -> None:
        """Gives means of windows instead, as rollups beside it do."""
        span = self.span.time_range
        self._means = replace(
            means,
            after_ms=span.after_ms,
            until_ms=span.until_ms,
            is_after_edge=True,
            is_until_edge=True,
        )

    def slices(self) -> Iterator[Slice]:
        """All samples."""
        for part in self._scan.slices():
            if self._means is None:
                yield part
            else:
                windows = average(windows_of(part.rows), self._means.window_ms)
                for slot, rows in emit_parts(windows, self._means, None, POINTS_MAX):
                    yield Slice(part.rank_begin + slot, rows)


class RollupRead(SpanRead):
    """What leaves of the windows of a span."""

    def __init__(
        self,
        span: Span,
        selection: Selection,
        files: Sequence[ScanFile],
        counters: NDArray[np.int8] | None,
        footers: FooterCache,
        check: Check,
        rows_max: int = ROWS_MAX,
    ) -> None:
        """Finds out what has to be read.

        Args:
            span: of a rollup level.
            selection: the series wanted; at least one.
            files: of the level, all that can hold windows of the span.
            counters: by rank, 1 for counters, 0 for gauges, -1 for what is not known.
            footers: of the files, and what they are opened through.
            check: called now and then; raises to end the work.
            rows_max: rows of a slice.
        """
        emission = span.emission
        assert emission is not None, "raw samples are read by RawRead"
        leave_all = emission.kind is Kind.SPREAD or (
            emission.kind is Kind.SUM and emission.spacing_ms
        )
        scan = RollupScan(
            selection,
            span.time_range.widen(emission.window_ms),
            files,
            columns_of(emission),
            footers,
            check,
            touched_windows(emission),
            min(rows_max, ALL_POINTS_ROWS) if leave_all else rows_max,
        )
        super().__init__(span, scan)
        self._emission = emission
        self._counters = counters
        self._windows: Iterator[WindowSlice] = scan.slices()
        self._is_averaged = False

    def samples_per_ms(self) -> float:
        """How dense samples are in each series, by the first slice, which is read for it."""
        first = next(self._windows, None)
        if first is None or first.rows.count is None or not len(first.rows.count):
            return 0.0
        self._windows = chain([first], self._windows)
        return float(first.rows.count.mean()) / self._emission.window_ms

    def weigh(self, means: Emission) -> None:
        """Gives one sample for several, of windows as wide as those of `means` at the least."""
        window_ms = max(means.window_ms, self._emission.window_ms)
        self._is_averaged = window_ms > self._emission.window_ms
        self._emission = replace(
            self._emission, window_ms=window_ms, weight_divisor=means.weight_divisor
        )

    def slices(self) -> Iterator[Slice]:
        """All samples."""
        for part in self._windows:
            ranks = slice(part.rank_begin, part.rank_begin + len(part.rows.offsets) - 1)
            counters = None if self._counters is None else self._counters[ranks]
            emission = self._emission_of(part)
            windows = part.rows
            if self._is_averaged:
                windows = average(windows, emission.window_ms)
            try:
                for slot, rows in emit_parts(windows, emission, counters, POINTS_MAX):
                    yield Slice(part.rank_begin + slot, rows)
            except ValueError as error:
                raise CorruptionError(
                    f"{self.span.level.value} rollups of {self.span.time_range} make no sense: "
                    f"{error}"
                ) from error

    def _emission_of(self, part: WindowSlice) -> Emission:
        """What leaves of the windows of a slice.

        What lies beyond it is not seen. Where the number of samples has to be right it is as good
        as of another kind; of trends all of the span's windows near its ends count.
        """
        whole = self._emission
        if whole.kind is Kind.TREND and not whole.spacing_ms:
            return whole
        is_begun, is_cut = part.after_ms > whole.after_ms, part.until_ms < whole.until_ms
        return replace(
            whole,
            after_ms=max(part.after_ms, whole.after_ms),
            until_ms=min(part.until_ms, whole.until_ms),
            is_after_edge=whole.is_filled if is_begun else whole.is_after_edge,
            is_until_edge=whole.is_filled if is_cut else whole.is_until_edge,
        )


def weigh_means(reads: Sequence[RawRead | RollupRead], samples_max: int) -> None:
    """Has averages and trends weigh windows as finely as a bound on samples allows.

    While each window sends its mean as often as it had samples, averages over windows and over raw
    samples beside them are exact, and slopes nearly so. Beyond the bound one sample stands for
    several: then all of the query leaves as windows of one width, raw samples too, since rounded
    weights of windows of an hour and of single samples have nothing in common.

    Args:
        reads: of one query, before their slices are asked for.
        samples_max: the bound.
    """
    rollups = [
        (read, read.span.emission)
        for read in reads
        if isinstance(read, RollupRead) and read.span.emission is not None
    ]
    if not rollups or rollups[0][1].kind not in {Kind.MEAN, Kind.TREND}:
        return
    if rollups[0][1].kind is Kind.TREND and len(reads) == 1:
        return  # two samples a window will do where there is nothing else
    longest, _ = max(rollups, key=lambda one: one[0].expected_rows)
    density = longest.samples_per_ms()
    expected = sum(read.expected_rows for read in reads if isinstance(read, RawRead))
    expected += sum(read.expected_rows * means.window_ms * density for read, means in rollups)
    divisor = math.ceil(expected / samples_max)
    if divisor > 1:
        # As wide as ranges still begin and end with windows.
        widths = {means.window_ms: means for _, means in rollups if not means.spacing_ms}
        means = widths[max(widths)] if widths else min(rollups, key=_width)[1]
        for read in reads:
            read.weigh(replace(means, weight_divisor=divisor))


def _width(rollup: tuple[RollupRead, Emission]) -> int:
    return rollup[1].window_ms


def touched_windows(emission: Emission) -> WindowFilter | None:
    """Which windows some evaluation looks at, by their ends; None where that is all of them.

    Evaluations are the query's own and those of a subquery, as in `Grid`.
    """
    grid, window_ms = emission.grid, emission.window_ms
    if grid is None or grid.step_ms <= grid.range_ms + window_ms:
        return None
    step_ms, reach_ms = grid.step_ms, window_ms + grid.range_ms + grid.is_closed
    bases_ms = {grid.first_ms % step_ms, 0}

    def is_touched(window_end_ms: I64Array) -> NDArray[np.bool_]:
        touched = np.zeros(len(window_end_ms), np.bool_)
        for base_ms in bases_ms:
            # From the window's begin to the next evaluation: 1 ... step.
            wait_ms = step_ms - (window_end_ms - window_ms - base_ms) % step_ms
            touched |= wait_ms < reach_ms
        return touched

    return is_touched


def windows_of(rows: GroupedRows) -> WindowRows:
    """Raw samples as windows of their own, but for stale markers."""
    is_sample = rows.values.view(np.uint64) != STALE_BITS
    kept_before = np.concatenate([np.zeros(1, np.int64), np.cumsum(is_sample)])
    times, values = rows.timestamps_ms[is_sample], rows.values[is_sample]
    return WindowRows(
        kept_before[rows.offsets],
        times,
        count=np.ones(len(times), np.int32),
        sum=values,
        first=values,
        last=values,
        first_timestamp_ms=times,
        last_timestamp_ms=times,
    )


def average(rows: WindowRows, window_ms: int) -> WindowRows:
    """Windows joined to wider ones, as far as their means need it.

    Args:
        rows: with `count`, `sum` and the times, `first` and `last` perhaps.
        window_ms: width of the wider windows, a multiple of that of the others.
    """
    assert rows.count is not None
    assert rows.sum is not None
    assert rows.first_timestamp_ms is not None
    assert rows.last_timestamp_ms is not None
    has_samples = rows.count > 0
    kept_before = np.concatenate([np.zeros(1, np.int64), np.cumsum(has_samples)])
    offsets = kept_before[rows.offsets]
    ends = -(-rows.window_end_ms[has_samples] // window_ms) * window_ms
    is_first = np.ones(len(ends), np.bool_)
    is_first[1:] = ends[1:] != ends[:-1]
    is_first[offsets[:-1][offsets[:-1] < len(ends)]] = True
    firsts = np.flatnonzero(is_first)
    lasts = np.append(firsts[1:], len(ends)) - 1
    joined_before = np.concatenate([np.zeros(1, np.int64), np.cumsum(is_first)])
    if not len(firsts):
        firsts = lasts = np.empty(0, np.int64)
    counts, sums = rows.count[has_samples], rows.sum[has_samples]
    return WindowRows(
        joined_before[offsets],
        ends[firsts],
        count=np.add.reduceat(counts, firsts, dtype=np.int32) if len(firsts) else counts,
        sum=np.add.reduceat(sums, firsts) if len(firsts) else sums,
        first=None if rows.first is None else rows.first[has_samples][firsts],
        last=None if rows.last is None else rows.last[has_samples][lasts],
        first_timestamp_ms=rows.first_timestamp_ms[has_samples][firsts],
        last_timestamp_ms=rows.last_timestamp_ms[has_samples][lasts],
    )
