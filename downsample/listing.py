"""What stands in the lake, sorted by day and month, as the planner asks for it.

A file is known by two ranges: the span that its name promises to cover, and where its rows really
lie by the statistics in the log. They are the same for a flush, which promises nothing.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from bridge.lake.maintenance import LakeView
from bridge.lake.schema import METADATA, SAMPLES, SAMPLES_1H, SAMPLES_5M, SERIES
from bridge.lake.stored_file import FLUSHED_KIND, StoredFile
from bridge.model.time_range import TimeRange
from downsample.names import HOUR_MS, day_of_partition, day_span

_WINDOW_MS = {SAMPLES_5M: 300_000, SAMPLES_1H: 3_600_000}
_INT64_MIN = -(1 << 63)


@dataclass(frozen=True, slots=True)
class Piece:
    """A file and where it belongs.

    Attributes:
        file: itself.
        is_flush: whether it promises nothing.
        span: what its name promises to cover; of a flush, `rows`.
        rows: where its rows lie; for rollups their whole windows.
        is_broken: whether it is in quarantine.
    """

    file: StoredFile
    is_flush: bool
    span: TimeRange
    rows: TimeRange
    is_broken: bool


@dataclass(slots=True)
class RawDay:
    """The files of one day of `samples`.

    Attributes:
        partition: `2026-11-21`.
        flushes: that can be read.
        broken_flushes: that cannot.
        compacted: all compacted files, broken ones too.
    """

    partition: str
    flushes: list[Piece] = field(default_factory=list)
    broken_flushes: list[Piece] = field(default_factory=list)
    compacted: list[Piece] = field(default_factory=list)


@dataclass(slots=True)
class Listing:
    """The files of all tables.

    Attributes:
        raw: by day.
        five_m: of samples_5m, by day.
        one_h: of samples_1h, by month.
        series: by month.
        metadata: all.
        broken: all files in quarantine.
        raw_dropped_day: see `LakeView`.
        five_m_dropped_day: see `LakeView`.
    """

    raw: dict[int, RawDay]
    five_m: dict[int, list[Piece]]
    one_h: dict[str, list[Piece]]
    series: dict[str, list[Piece]]
    metadata: list[Piece]
    broken: list[StoredFile]
    raw_dropped_day: int | None
    five_m_dropped_day: int | None

    def is_expired(self, day: int) -> bool:
        """Whether the raw samples of a day were dropped, so that its rollups are all there is.

        The stored day alone does not tell: a day whose dropping is blocked, with a later one
        dropped, has its compacted files still.
        """
        return (
            self.raw_dropped_day is not None
            and day <= self.raw_dropped_day
            and not (day in self.raw and self.raw[day].compacted)
        )

    def has_five_m(self, day: int) -> bool:
        """Whether an expired day has, or is to get, rollups of 5m."""
        is_dropped = self.five_m_dropped_day is not None and day <= self.five_m_dropped_day
        return not is_dropped or bool(self.five_m.get(day))


def list_lake(view: LakeView, quarantined: Collection[str]) -> Listing:
    """The files of a lake by day and month.

    Args:
        view: of the lake.
        quarantined: keys of files that cannot be read.
    """
    raw: dict[int, RawDay] = {}
    for piece in _pieces(view, SAMPLES, quarantined):
        number = day_of_partition(piece.file.partition)
        day = raw.setdefault(number, RawDay(piece.file.partition))
        if not piece.is_flush:
            day.compacted.append(piece)
        elif piece.is_broken:
            day.broken_flushes.append(piece)
        else:
            day.flushes.append(piece)
    five_m: dict[int, list[Piece]] = defaultdict(list)
    for piece in _pieces(view, SAMPLES_5M, quarantined):
        five_m[day_of_partition(piece.file.partition)].append(piece)
    one_h: dict[str, list[Piece]] = defaultdict(list)
    for piece in _pieces(view, SAMPLES_1H, quarantined):
        one_h[piece.file.partition].append(piece)
    series: dict[str, list[Piece]] = defaultdict(list)
    for piece in _pieces(view, SERIES, quarantined):
        series[piece.file.partition].append(piece)
    return Listing(
        raw=raw,
        five_m=dict(five_m),
        one_h=dict(one_h),
        series=dict(series),
        metadata=list(_pieces(view, METADATA, quarantined)),
        broken=[file for files in view.files.values() for file in files if file.key in quarantined],
        raw_dropped_day=view.raw_dropped_day,
        five_m_dropped_day=view.five_m_dropped_day,
    )


def _pieces(view: LakeView, table: str, quarantined: Collection[str]) -> Iterable[Piece]:
    window_ms = _WINDOW_MS.get(table, 1)
    for file in view.files.get(table, ()):
        rows = TimeRange(max(file.time_min_ms - window_ms, _INT64_MIN), file.time_max_ms)
        span = file.span
        yield Piece(
            file=file,
            is_flush=span is None or file.kind == FLUSHED_KIND,
            span=rows if span is None else span,
            rows=rows,
            is_broken=file.key in quarantined,
        )


def is_overlapping(one: TimeRange, other: TimeRange) -> bool:
    """Whether some instant lies in both."""
    return not one.intersect(other).is_empty


def is_within(inner: TimeRange, outer: TimeRange) -> bool:
    """Whether all of a range lies in another."""
    return outer.after_ms <= inner.after_ms and inner.until_ms <= outer.until_ms


def is_covered(span: TimeRange, pieces: Iterable[Piece]) -> bool:
    """Whether the promises of what can be read cover a span without a gap."""
    reached_ms = span.after_ms
    for promise in sorted(
        (piece.span for piece in pieces if not piece.is_broken), key=lambda part: part.after_ms
    ):
        if promise.after_ms > reached_ms:
            break
        reached_ms = max(reached_ms, promise.until_ms)
    return reached_ms >= span.until_ms


def is_long(piece: Piece) -> bool:
    """Whether a file covers more than one hour, and so was made of a closed day."""
    return piece.span.until_ms - piece.span.after_ms > HOUR_MS


def is_of_day(piece: Piece, day: int) -> bool:
    """Whether a file promises nothing beyond one day."""
    return is_within(piece.span, day_span(day))


def newest_ms(pieces: Iterable[Piece]) -> int | None:
    """When the newest of some files was committed; None if there is none."""
    return max((piece.file.modified_ms for piece in pieces), default=None)
