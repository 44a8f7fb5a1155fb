"""Runs a read request: where series and samples come from, and in which order one looks.

    head view ── then ── lake snapshot    a flush that ends in between moves samples to the later
        │                     │           one, so nothing is missed; what the snapshot has already
        └──── parts ──────────┤           is left out of the view (its position says so)
                              v
     series (selection) ── spans (resolution) ── files ── scan ── emit ── encode

All queries of a request see the same view and snapshot. Where a file has vanished the lake has
moved on (a cut file was committed, an old file was compacted and removed): everything starts once
more on a fresh snapshot. So it does where a file of a bucket is damaged, once for each: what came
of it is forgotten before, because the damage may have been done on the way here.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import pyarrow as pa
import structlog

from bridge.errors import CorruptionError, DamagedFile, StorageUnavailable
from bridge.lake.files import Files
from bridge.lake.footers import FooterCache
from bridge.lake.grouped import GroupedRows
from bridge.lake.head_view import CutFiles, HeadRows, HeadSource
from bridge.lake.scan import Scan, ScanFile
from bridge.lake.schema import DAY_MS
from bridge.lake.selection import Found, Selection
from bridge.lake.series_sets import LakeSeries
from bridge.lake.slices import ROWS_MAX
from bridge.lake.snapshot import Snapshot
from bridge.model.matchers import metrics_named_by
from bridge.model.time_range import TimeRange
from bridge.read.answer import Answer, AnswerBuilder, Encode, render_samples
from bridge.read.budget import SERIES_BYTES, Budget
from bridge.read.coverage import CoverageCache
from bridge.read.metric_types import MetricTypes, asks_for_types
from bridge.read.request import AnswerType, ReadRequest, SeriesQuery
from bridge.read.resolution import Level, Question, Span, plan
from bridge.read.select import find_series
from bridge.read.settings import ReadSettings
from bridge.read.spans import RawRead, RollupRead, weigh_means
from bridge.wire.columns import U32Array
from bridge.wire.frames import encode_samples
from bridge.wire.series import SeriesRegistry
from bridge.wire.xor import EncodedSeries, encode_chunks

log = structlog.get_logger()

SAMPLE_BYTES = {AnswerType.SAMPLES: 18.0, AnswerType.STREAMED_XOR_CHUNKS: 1.3}
"""What a sample takes encoded: 2 bytes of framing, 9 of value, 7 of time; or in a chunk, where a
constant takes 2 bits and a measured fleet 1.3 to 1.8 bytes. The estimate takes the lower bound, the
encoded bytes are counted exactly."""


Result = TypeVar("Result")


class SnapshotSource(Protocol):
    """Whoever knows what the lake holds."""

    def snapshot(self, *, force: bool = False) -> Snapshot:
        """A recent version; a fresh one if `force`."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answered request.

    Attributes:
        pieces: of the body, rendered as they are asked for.
        query_count: queries answered.
        series_count: series in all of them.
        sample_count: samples in all of them.
        file_count: files read.
        spans: of all queries.
    """

    pieces: Iterator[bytes]
    query_count: int
    series_count: int
    sample_count: int
    file_count: int
    spans: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a query would read.

    Attributes:
        series_count: series that it selects.
        reads: its spans, in the order of time.
    """

    series_count: int
    reads: Sequence[RawRead | RollupRead]


@dataclass(frozen=True, slots=True)
class _Sources:
    """What one request sees.

    Attributes:
        snapshot: of the lake.
        heads: rows in memory that the snapshot does not have.
        cuts: files on the local disk that the snapshot does not have.
    """

    snapshot: Snapshot
    heads: list[HeadRows]
    cuts: list[CutFiles]

    def registries(self) -> list[SeriesRegistry]:
        """Of the head, each once."""
        every = [part.registry for part in self.heads] + [part.registry for part in self.cuts]
        return list({id(registry): registry for registry in every}.values())


class Reader:
    """Answers requests from head and lake; any thread."""

    def __init__(
        self,
        settings: ReadSettings,
        lake: SnapshotSource,
        head: HeadSource | None,
        files: Files | None = None,
        rows_max: int = ROWS_MAX,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Reads nothing yet.

        Args:
            settings: of reads.
            lake: what is committed.
            head: what is not; None where nothing is received.
            files: what the lake's files are opened through; None if it lies in a folder.
            rows_max: rows of a slice.
            clock: Unix seconds.
        """
        self._settings = settings
        self._lake = lake
        self._head = head
        self._rows_max = rows_max
        self._clock = clock
        self._stripped = [label.encode() for label in settings.external_labels]
        self.footers = FooterCache(settings.footer_cache_bytes, files)
        self.series = LakeSeries(settings.series_cache_bytes, self.footers)
        self._coverage = CoverageCache()
        self._types = MetricTypes(self.footers)

    def run(self, request: ReadRequest, budget: Budget) -> Reply:
        """Everything but the rendering of the body.

        Raises:
            QueryTooLarge: it costs more than the budget has.
            QueryCancelled: the client is gone.
            Overloaded: the time is over.
            StorageUnavailable: files cannot be read, or vanish faster than they are.
            CorruptionError: a file is damaged.
        """
        return self._with_sources(lambda sources: self._run(request, budget, sources), budget)

    def explain(self, query: SeriesQuery, budget: Budget) -> Explanation:
        """What `run` would read for a query, and why; raises as `run`."""

        def look(sources: _Sources) -> Explanation:
            selection = self._select(query, budget, sources)
            return Explanation(len(selection), self._open(query, selection, budget, sources))

        return self._with_sources(look, budget)

    def _with_sources(self, work: Callable[[_Sources], Result], budget: Budget) -> Result:
        """What work makes of head and lake; raises as `run`."""
        try:
            return self._work_again(work, budget)
        except (OSError, pa.ArrowException) as error:
            # pyarrow calls bytes that it does not understand an OSError too, one without a number;
            # so are those of object stores, but then they say that an object is gone.
            if isinstance(error, FileNotFoundError) or (
                isinstance(error, OSError) and error.errno is not None
            ):
                raise StorageUnavailable(f"the lake cannot be read: {error}") from error
            raise CorruptionError(f"a file of the lake is damaged: {error}") from error

    def _work_again(self, work: Callable[[_Sources], Result], budget: Budget) -> Result:
        """Once more for files that have vanished, and for each that may have come damaged."""
        has_vanished = False
        damaged: set[str] = set()
        while True:
            try:
                return work(self._look(is_retry=has_vanished))
            except FileNotFoundError:
                if has_vanished:
                    raise
                has_vanished = True
            except DamagedFile as error:
                self.footers.drop(error.path)
                if not self.footers.files.drop(error.path) or error.path in damaged:
                    raise
                damaged.add(error.path)
                log.warning("file came damaged, fetched again", path=error.path, error=str(error))
            budget.restart()

    def _look(self, *, is_retry: bool) -> _Sources:
        """View first, snapshot second."""
        view = self._head.view() if self._head is not None else None
        snapshot = self._lake.snapshot(force=is_retry)
        parts: list[HeadRows | CutFiles] = []
        if view is not None:
            committed = snapshot.positions.get(view.receiver_id, -1)
            parts = [part for position, part in view.parts if position > committed]
        return _Sources(
            snapshot,
            [part for part in parts if isinstance(part, HeadRows)],
            [part for part in parts if isinstance(part, CutFiles)],
        )

    def _run(self, request: ReadRequest, budget: Budget, sources: _Sources) -> Reply:
        answers = []
        reads: list[RawRead | RollupRead] = []
        for query in request.queries:
            selection = self._select(query, budget, sources)
            own = self._open(query, selection, budget, sources)
            answers.append(self._answer(query, selection, own, request.answer_type, budget))
            reads += own
        if request.answer_type is AnswerType.SAMPLES:
            pieces = iter([render_samples(answers)])
        else:
            pieces = (
                piece for index, answer in enumerate(answers) for piece in answer.frames(index)
            )
        return Reply(
            pieces,
            len(answers),
            sum(answer.series_count for answer in answers),
            budget.sample_count,
            sum(read.file_count for read in reads),
            tuple(read.span for read in reads),
        )

    def _open(
        self, query: SeriesQuery, selection: Selection, budget: Budget, sources: _Sources
    ) -> list[RawRead | RollupRead]:
        """What is to be read for a query."""
        if not len(selection) or query.labels_only:
            return []
        spans = plan(
            self._question(query),
            self._coverage.of(sources.snapshot, selection, sources.heads, sources.cuts),
        )
        if log.is_enabled_for(logging.DEBUG):
            log.debug("read planned", query=str(query), spans=" ".join(map(str, spans)))
        return [self._open_span(span, selection, budget, sources) for span in spans]

    def _question(self, query: SeriesQuery) -> Question:
        settings = self._settings
        seam_ms = query.until_ms - round(settings.seam * 1000)
        local_ms = round((self._clock() - settings.local_retention) * 1000)
        return Question(
            query.time_range,
            query.hints,
            min(seam_ms, local_ms),
            round(settings.lookback * 1000),
        )

    def _open_span(
        self, span: Span, selection: Selection, budget: Budget, sources: _Sources
    ) -> RawRead | RollupRead:
        if span.emission is None:
            scan = Scan(
                selection,
                span.time_range,
                lambda time_range: self._list_files(selection, time_range, sources),
                sources.heads,
                self.footers,
                budget.check,
                self._rows_max,
            )
            return RawRead(span, scan)
        snapshot = sources.snapshot
        return RollupRead(
            span,
            selection,
            self._list_rollups(span, selection, snapshot),
            self._types.of(snapshot, selection, budget.check)
            if asks_for_types(span.emission)
            else None,
            self.footers,
            budget.check,
            self._rows_max,
        )

    def _answer(
        self,
        query: SeriesQuery,
        selection: Selection,
        reads: Sequence[RawRead | RollupRead],
        answer_type: AnswerType,
        budget: Budget,
    ) -> Answer:
        """One query's answer."""
        builder = AnswerBuilder(selection, self._encoder(answer_type), budget)
        expected = sum(read.expected_rows for read in reads)
        budget.expect(expected, expected * SAMPLE_BYTES[answer_type])
        weigh_means(reads, self._settings.max_weighted_samples)
        for read in reads:
            for part in read.slices():
                builder.add(part)
                budget.check()
        answer = builder.finish(self._stripped, labels_only=query.labels_only)
        if answer_type is AnswerType.STREAMED_XOR_CHUNKS:
            answer.check_frames()
        return answer

    def _select(self, query: SeriesQuery, budget: Budget, sources: _Sources) -> Selection:
        """The series that a query's matchers keep."""
        metrics = metrics_named_by(query.matchers)
        if query.time_range.is_empty or (metrics is not None and not metrics):
            return Selection.join([])

        def match(registry: SeriesRegistry) -> U32Array:
            return find_series(registry, query.matchers, metrics, budget.check)

        found = [
            self.series.find(
                sources.snapshot,
                query.time_range,
                None if metrics is None else [metric.decode() for metric in metrics],
                match,
                budget.check,
            )
        ]
        for registry in sources.registries():
            refs = match(registry)
            if query.labels_only and len(refs):
                refs = _present(registry, refs, query.time_range, sources)
            found.append(Found(registry, refs))
        selection = Selection.join(found)
        budget.expect(0, len(selection) * SERIES_BYTES if query.labels_only else 0)
        return selection

    def _list_files(
        self, selection: Selection, time_range: TimeRange, sources: _Sources
    ) -> Sequence[ScanFile]:
        counts = self.series.series_counts(sources.snapshot)
        metric = selection.metrics[0] if len(selection.metrics) == 1 else None
        files = [
            ScanFile(file, max(1, counts.get(file.partition[:7], 1)))
            for file in sources.snapshot.sample_files(
                metric, time_range.after_ms, time_range.until_ms
            )
        ]
        for part in sources.cuts:
            files += [ScanFile(file, max(1, len(part.registry))) for file in part.files]
        return files

    def _list_rollups(
        self, span: Span, selection: Selection, snapshot: Snapshot
    ) -> Sequence[ScanFile]:
        counts = self.series.series_counts(snapshot)
        metric = selection.metrics[0] if len(selection.metrics) == 1 else None
        windows = span.time_range.widen(span.level.window_ms)
        is_one_h = span.level is Level.ONE_H
        find = snapshot.rollup_files_1h if is_one_h else snapshot.rollup_files_5m
        return [
            ScanFile(file, max(1, counts.get(file.partition[:7], 1)))
            for file in find(metric, windows.after_ms, windows.until_ms)
        ]

    def _encoder(self, answer_type: AnswerType) -> Encode:
        if answer_type is AnswerType.SAMPLES:
            return _encode_samples
        return _chunk_encoder(self._settings.samples_per_chunk)


def _encode_samples(rows: GroupedRows) -> EncodedSeries:
    return encode_samples(rows.offsets, rows.timestamps_ms, rows.values)


def _chunk_encoder(samples_per_chunk: int) -> Callable[[GroupedRows], EncodedSeries]:
    def encode(rows: GroupedRows) -> EncodedSeries:
        return encode_chunks(rows.offsets, rows.timestamps_ms, rows.values, samples_per_chunk)

    return encode


def _present(
    registry: SeriesRegistry, refs: U32Array, time_range: TimeRange, sources: _Sources
) -> U32Array:
    """Those series of a head that have samples in a range; of cut files by their day."""
    occurs = np.zeros(len(registry), np.bool_)
    for part in sources.heads:
        if part.registry is registry:
            for block_refs, times, _ in part.blocks:
                is_inside = (times > time_range.after_ms) & (times <= time_range.until_ms)
                occurs[block_refs[is_inside]] = True
    days = time_range.widen(DAY_MS)
    for cut in sources.cuts:
        if cut.registry is registry and any(
            file.timestamp_ms_max > days.after_ms and file.timestamp_ms_min <= days.until_ms
            for file in cut.files
        ):
            return refs
    return refs[occurs[refs]]
