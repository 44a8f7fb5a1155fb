"""Decides what is due in a lake: from a listing of its files and a clock, without any I/O.

    1. Days with raw samples, newest first:
         closed         one span, the day. Due while a flush touches it or it lies in hour files.
         not closed     its closed hours, each due while a flush touches it.
         expired        raw samples were dropped: flushes are merged into the stored rollups.
       What is done and due again for late samples waits until `late_interval` after it was made.
    2. Retention (`downsample.retention`), of what is not due.
    3. Months of samples_1h, when closed and quiet: one sorted set.
    4. Series and metadata, when they lie in many files.

All of it follows from the files that there are: nothing is remembered between two plans, a crash or
a second downsampler leaves a listing like any other, and an import of an old year is just flushes
in many days. A job removes what made it due, so plans come to an end.

A span whose flushes are being held back may share a flush with one that is due (a flush of a minute
around the full hour does). The job of the one takes the file and leaves the rest of its rows as a
new flush for the other; so jobs of one plan never share a file, and of two neighbours that would,
the second is planned when the first is done.

What is broken is left out: a flush that cannot be read makes nothing due and stays where it is,
so that it is due again once it is mended. Where a compacted file cannot be read, its span is left
as it is, because rolling up what is left would lose rows; the other hours of a closed day are done
one by one then. Rollups that cannot be read are made again from raw samples, or block those late
samples that would have to be merged with them.

Invariants:
    DOWN-3  what is closed becomes done, whatever else is broken: no job waits for another day's
            trouble.
    DOWN-4  what is done is done again at most once in `late_interval`.
    DOWN-5  late samples over dropped raw samples are merged into the rollups, never rolled up alone
            in their place.
    DOWN-6  after its jobs a plan is empty until the clock or a receiver brings something new.
"""

from collections.abc import Collection, Iterable, Sequence

from bridge.lake.maintenance import LakeView
from bridge.model.time_range import TimeRange
from downsample.draft import Draft
from downsample.jobs import (
    CompactMetadata,
    CompactSeries,
    Files,
    LateDay,
    MergeLate,
    MergeMonth,
    Plan,
    RollSpan,
)
from downsample.listing import (
    Listing,
    Piece,
    is_covered,
    is_long,
    is_of_day,
    is_overlapping,
    is_within,
    list_lake,
)
from downsample.names import (
    EVER,
    HOUR_MS,
    day_span,
    hour_span,
    month_of_day,
    month_span,
    set_of,
    span_text,
)
from downsample.retention import plan_retention, retention_clock_ms
from downsample.settings import DownsampleSettings, RetentionSettings

FILE_COUNT_MAX = 8
"""Files of a running month of series, or of metadata, that are left as they are."""


def plan(
    view: LakeView,
    now_ms: int,
    settings: DownsampleSettings,
    quarantined: Collection[str],
    *,
    retention: RetentionSettings,
) -> Plan:
    """What is due.

    Args:
        view: of the lake.
        now_ms: the clock, Unix ms.
        settings: of the downsampler.
        quarantined: keys of files that cannot be read.
        retention: how long each resolution is kept.
    """
    listing = list_lake(view, quarantined)
    draft = Draft(now_ms, round(settings.delay * 1000), round(settings.late_interval * 1000))
    for file in listing.broken:
        draft.block(
            file.key,
            "quarantined",
            "quarantine.json says why; it is left out until it is mended, or removed, and its "
            "entry with it",
        )
    for day in sorted(listing.raw, reverse=True):
        if not listing.is_expired(day):
            _plan_day(listing, day, draft)
    _plan_late(listing, draft)
    clock_ms = retention_clock_ms(listing, now_ms)
    if clock_ms is not None:
        plan_retention(listing, clock_ms, retention, draft)
    _plan_months(listing, draft)
    _plan_series(listing, draft)
    return draft.plan(clock_ms)


def _plan_day(listing: Listing, day: int, draft: Draft) -> None:
    """The spans of one day that has its raw samples."""
    raw, span = listing.raw[day], day_span(day)
    made = [
        *raw.compacted,
        *listing.five_m.get(day, ()),
        *(piece for piece in listing.one_h.get(month_of_day(day), ()) if is_of_day(piece, day)),
    ]
    # A clock that was put back does not open a day again.
    is_made_whole = any(is_long(piece) for piece in made)
    is_broken = any(piece.is_broken for piece in raw.compacted)
    if is_made_whole or (draft.is_closed(span) and not is_broken):
        _plan_span(listing, day, span, draft)
        return
    hours = {
        hour
        for piece in (*raw.flushes, *raw.compacted)
        for hour in _hours_of(piece.rows.intersect(span))
    }
    for hour in sorted(hours, reverse=True):
        if draft.is_closed(hour_span(hour)):
            _plan_span(listing, day, hour_span(hour), draft)


def _plan_span(listing: Listing, day: int, span: TimeRange, draft: Draft) -> None:
    """One closed hour or day."""
    raw = listing.raw[day]
    flushes = [piece for piece in raw.flushes if is_overlapping(piece.rows, span)]
    compacted = [piece for piece in raw.compacted if is_overlapping(piece.span, span)]
    five_m = [piece for piece in listing.five_m.get(day, ()) if is_overlapping(piece.span, span)]
    one_h = listing.one_h.get(month_of_day(day), ())
    reason = _reason(span, flushes, compacted, five_m, one_h)
    if not reason:
        return
    title = f"roll up {span_text(span)}"
    replaced = [piece for piece in one_h if is_within(piece.span, span)]
    carried = [
        piece
        for piece in one_h
        if not is_within(piece.span, span) and is_overlapping(piece.rows, span)
    ]
    broken = [piece for piece in (*compacted, *carried) if piece.is_broken]
    if not is_covered(span, compacted):
        # The stored rollups may hold rows of a flush that broke since: without it they would lose.
        stored = (*five_m, *replaced, *carried)
        if any(is_overlapping(piece.rows, span) for piece in stored):
            broken += [piece for piece in raw.broken_flushes if is_overlapping(piece.rows, span)]
    if broken:
        draft.block(title, "quarantined", f"{reason}, but {broken[0].file.key} cannot be read")
        return
    draft.mark_busy(day)
    is_done = compacted and all(is_within(span, piece.span) for piece in compacted)
    due_ms = draft.due_again_ms(compacted) if is_done else None
    if due_ms is not None:
        draft.wait(title, due_ms, f"{reason}; it was done less than late_interval ago")
        return
    if not draft.take(title, [*flushes, *carried]):
        return
    inputs = [*flushes, *compacted]
    draft.jobs.append(
        RollSpan(
            span=span,
            partition=raw.partition,
            raw=_files(inputs),
            remainders=_remainders(span, flushes),
            rollups_5m=_files(five_m),
            rollups_1h=_files(replaced),
            carried_1h=_files(carried),
            span_1h=month_span(month_of_day(day)) if carried else span,
            reason=reason,
        )
    )


def _reason(
    span: TimeRange,
    flushes: Sequence[Piece],
    compacted: Sequence[Piece],
    five_m: Sequence[Piece],
    one_h: Sequence[Piece],
) -> str:
    """Why a closed span is due; empty if it is not."""
    count = f"{len(flushes)} flush files" if len(flushes) != 1 else "one flush file"
    if not compacted:
        return f"{count} in it, not rolled up yet" if flushes else ""
    if not all(is_within(span, piece.span) for piece in compacted):
        hours = len({piece.span for piece in compacted})
        return f"the day is closed, and {hours} parts of it are files of their own; {count} more"
    if flushes:
        return f"{count} came late"
    # Rollups are committed before what they were made of is compacted, so this is damage.
    if not all(is_covered(span, level) for level in (five_m, one_h)):
        return "its rollups are missing"
    return ""


def _remainders(span: TimeRange, flushes: Sequence[Piece]) -> tuple[TimeRange, ...]:
    """Where flushes that are taken have rows outside the span: before it, after it."""
    if not flushes:
        return ()
    first_ms = min(piece.rows.after_ms for piece in flushes)
    last_ms = max(piece.rows.until_ms for piece in flushes)
    sides = (TimeRange(first_ms, span.after_ms), TimeRange(span.until_ms, last_ms))
    return tuple(side for side in sides if not side.is_empty)


def _plan_late(listing: Listing, draft: Draft) -> None:
    """Flushes in days whose raw samples were dropped (DOWN-5).

    Days whose hours lie in a file of the month are merged together, so that it is written once.
    """
    in_month: dict[str, list[int]] = {}
    for day in sorted(listing.raw, reverse=True):
        if not (listing.is_expired(day) and listing.raw[day].flushes):
            continue
        title = f"merge late samples of {listing.raw[day].partition}"
        stored = [*listing.five_m.get(day, ()), *_hours_stored(listing, day)]
        broken = [piece for piece in stored if piece.is_broken]
        # The file of a month is written for the late samples of any of its days.
        due_ms = draft.due_again_ms(listing.five_m.get(day) or _hours_stored(listing, day))
        if broken:
            draft.block(title, "quarantined", f"{broken[0].file.key} cannot be read")
            continue
        draft.mark_busy(day)
        if due_ms is not None:
            draft.wait(title, due_ms, "rows were merged less than late_interval ago")
        elif all(is_of_day(piece, day) for piece in _hours_stored(listing, day)):
            _merge_days(listing, [day], day_span(day), draft)
        else:
            in_month.setdefault(month_of_day(day), []).append(day)
    for month, days in in_month.items():
        _merge_days(listing, sorted(days), month_span(month), draft)


def _merge_days(listing: Listing, days: Sequence[int], span_1h: TimeRange, draft: Draft) -> None:
    stored = {piece.file.key: piece for day in days for piece in _hours_stored(listing, day)}
    late_days = tuple(_late_day(listing, day) for day in days)
    count = sum(len(day.late) for day in late_days)
    job = MergeLate(
        month=month_of_day(days[0]),
        days=late_days,
        rollups_1h=_files(stored.values()),
        span_1h=span_1h,
        reason=f"{count} flush files in days whose raw samples were dropped",
    )
    if draft.take(job.title, stored.values()):
        draft.jobs.append(job)


def _late_day(listing: Listing, day: int) -> LateDay:
    raw = listing.raw[day]
    return LateDay(
        day=day,
        partition=raw.partition,
        late=_files(raw.flushes),
        rollups_5m=_files(listing.five_m.get(day, ())) if listing.has_five_m(day) else None,
    )


def _hours_stored(listing: Listing, day: int) -> list[Piece]:
    """Files of samples_1h that hold, or promise to hold, rows of this day alone or among others."""
    return [
        piece
        for piece in listing.one_h.get(month_of_day(day), ())
        if is_of_day(piece, day) or is_overlapping(piece.rows, day_span(day))
    ]


def _plan_months(listing: Listing, draft: Draft) -> None:
    """Closed months of samples_1h, once no day of theirs is due."""
    for month, pieces in sorted(listing.one_h.items(), reverse=True):
        span = month_span(month)
        spans = {piece.span for piece in pieces}
        if not draft.is_closed(span) or len(spans) < 2:
            continue
        title = f"merge the hours of {month}"
        due_ms = draft.due_again_ms(pieces)
        if any(piece.is_broken for piece in pieces):
            draft.block(title, "quarantined", "not all of its files can be read")
        elif month in draft.busy_months:
            draft.wait(title, draft.now_ms, "days of it are due")
        elif due_ms is not None:
            draft.wait(title, due_ms, "rows of it were written less than late_interval ago")
        elif draft.take(title, pieces):
            reason = f"the month is closed and lies in {len(spans)} parts"
            draft.jobs.append(MergeMonth(month, span, _files(pieces), reason))


def _plan_series(listing: Listing, draft: Draft) -> None:
    """Series of a month, and metadata, that lie in many files."""
    for month, pieces in sorted(listing.series.items(), reverse=True):
        span = month_span(month)
        count_max = 1 if draft.is_closed(span) else FILE_COUNT_MAX
        title = f"compact the series of {month}"
        files, reason = _many(pieces, count_max, title, draft)
        if files:
            draft.jobs.append(CompactSeries(month, span, files, reason))
    files, reason = _many(listing.metadata, FILE_COUNT_MAX, "compact the metadata", draft)
    if files:
        draft.jobs.append(CompactMetadata(EVER, files, reason))


def _many(pieces: Sequence[Piece], count_max: int, title: str, draft: Draft) -> tuple[Files, str]:
    """The files to make one of, and why; none if they are few, or it was done just now.

    What one job wrote counts once, in however many files.
    """
    readable = [piece for piece in pieces if not piece.is_broken]
    made = [piece for piece in readable if not piece.is_flush]
    sets = {set_of(piece.file.name) for piece in made}
    count = len(readable) - len(made) + len(sets)
    if count <= count_max:
        return (), ""
    reason = f"{count} files, more than {count_max}"
    due_ms = draft.due_again_ms(made)
    if due_ms is not None:
        draft.wait(title, due_ms, f"{reason}; it was done less than late_interval ago")
        return (), ""
    return _files(readable), reason


def _hours_of(rows: TimeRange) -> range:
    """The numbers of the hours that a range within a day touches."""
    if rows.is_empty:
        return range(0)
    return range(rows.after_ms // HOUR_MS, -(-rows.until_ms // HOUR_MS))


def _files(pieces: Iterable[Piece]) -> Files:
    return tuple(piece.file for piece in pieces)
