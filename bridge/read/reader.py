"""Runs a read request: where series and samples come from, and in which order one looks.

    head view ── then ── lake snapshot    a flush that ends in between moves samples to the later
        │                     │           one, so nothing is missed; what the snapshot has already
        └──── parts ──────────┤           is left out of the view (its position says so)
                              v
              series (selection) ── files ── scan ── encode

All queries of a request see the same view and snapshot. Where a file has vanished the lake has
moved on (a cut file was committed, an old file was compacted and removed): everything starts once
more on a fresh snapshot. So it does where a file of a bucket is damaged, once for each: what came
of it is forgotten before, because the damage may have been done on the way here.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

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
from bridge.read.request import AnswerType, ReadRequest, SeriesQuery
from bridge.read.select import find_series
from bridge.read.settings import ReadSettings
from bridge.wire.columns import U32Array
from bridge.wire.frames import encode_samples
from bridge.wire.series import SeriesRegistry
from bridge.wire.xor import EncodedSeries, encode_chunks

log = structlog.get_logger()

SAMPLE_BYTES = {AnswerType.SAMPLES: 18.0, AnswerType.STREAMED_XOR_CHUNKS: 1.3}
"""What a sample takes encoded: 2 bytes of framing, 9 of value, 7 of time; or in a chunk, where a
constant takes 2 bits and a measured fleet 1.3 to 1.8 bytes. The estimate takes the lower bound, the
encoded bytes are counted exactly."""


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
    """

    pieces: Iterator[bytes]
    query_count: int
    series_count: int
    sample_count: int
    file_count: int


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
    ) -> None:
        """Reads nothing yet.

        Args:
            settings: of reads.
            lake: what is committed.
            head: what is not; None where nothing is received.
            files: what the lake's files are opened through; None if it lies in a folder.
            rows_max: rows of a slice.
        """
        self._settings = settings
        self._lake = lake
        self._head = head
        self._rows_max = rows_max
        self._stripped = [label.encode() for label in settings.external_labels]
        self.footers = FooterCache(settings.footer_cache_bytes, files)
        self.series = LakeSeries(settings.series_cache_bytes, self.footers)

    def run(self, request: ReadRequest, budget: Budget) -> Reply:
        """Everything but the rendering of the body.

        Raises:
            QueryTooLarge: it costs more than the budget has.
            QueryCancelled: the client is gone.
            Overloaded: the time is over.
            StorageUnavailable: files cannot be read, or vanish faster than they are.
            CorruptionError: a file is damaged.
        """
        try:
            return self._run_again(request, budget)
        except (OSError, pa.ArrowException) as error:
            # pyarrow calls bytes that it does not understand an OSError too, one without a number;
            # so are those of object stores, but then they say that an object is gone.
            if isinstance(error, FileNotFoundError) or (
                isinstance(error, OSError) and error.errno is not None
            ):
                raise StorageUnavailable(f"the lake cannot be read: {error}") from error
            raise CorruptionError(f"a file of the lake is damaged: {error}") from error

    def _run_again(self, request: ReadRequest, budget: Budget) -> Reply:
        """Once more for files that have vanished, and for each that may have come damaged."""
        has_vanished = False
        damaged: set[str] = set()
        while True:
            try:
                return self._run(request, budget, self._look(is_retry=has_vanished))
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
        file_count = 0
        for query in request.queries:
            answer, read_count = self._answer(query, request.answer_type, budget, sources)
            answers.append(answer)
            file_count += read_count
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
            file_count,
        )

    def _answer(
        self, query: SeriesQuery, answer_type: AnswerType, budget: Budget, sources: _Sources
    ) -> tuple[Answer, int]:
        """One query's answer, and how many files were read for it."""
        selection = self._select(query, budget, sources)
        builder = AnswerBuilder(selection, self._encoder(answer_type), budget)
        file_count = 0
        if len(selection) and not query.labels_only:
            scan = Scan(
                selection,
                query.time_range,
                lambda time_range: self._list_files(selection, time_range, sources),
                sources.heads,
                self.footers,
                budget.check,
                self._rows_max,
            )
            expected = scan.expected_rows()
            budget.expect(expected, expected * SAMPLE_BYTES[answer_type])
            for part in scan.slices():
                builder.add(part)
                budget.check()
            file_count = scan.file_count
        answer = builder.finish(self._stripped, labels_only=query.labels_only)
        if answer_type is AnswerType.STREAMED_XOR_CHUNKS:
            answer.check_frames()
        return answer, file_count

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
