"""Decides what has outlived its retention, and whether it may go.

    raw    a day goes when its end is older than `retention.raw`, no flush is left in it, and
           rollups of both levels cover every compacted file of it
    5m     a day goes when its end is older than `retention.5m`, no raw samples are left in it, and
           rollups of 1h cover it
    1h     a month goes when its end is older than `retention.1h`, and neither raw samples nor rows
           of 5m are left in it

Ages count from the newest sample in the lake that is not ahead of the clock, or from the clock if
that is earlier: a clock that is wrong by a year, or a lake that nobody wrote to for a year, expires
nothing.

The commit that drops raw samples stores its day. From then on flushes in this day, and in those
before it that have no compacted files, are late (DOWN-5). So a day may be passed over only while
its own state tells them apart from flushes that are not rolled up yet:

    earlier day with            dropping a later day
    compacted files             passes: its flushes are rolled up with them
    flushes alone               waits until they are rolled up
    broken flushes alone        passes if it has no rollups: there is nothing to count twice
    nothing                     passes: what comes later is merged into nothing

Invariants:
    DOWN-7  no raw sample goes before its rollups of both levels are committed, no row of 5m before
            that of 1h.
    DOWN-8  nothing goes because a clock is wrong.
"""

from bridge.lake.maintenance import FIVE_M_DROPPED_ID
from bridge.lake.schema import RAW_DROPPED_ID, SAMPLES, SAMPLES_5M, date_of_day
from downsample.draft import Draft
from downsample.jobs import DropDay, DropMonth
from downsample.listing import Listing, is_covered
from downsample.names import day_span, days_of_month, month_of_day, month_span
from downsample.settings import RetentionSettings, RetentionTime, format_retention


def retention_clock_ms(listing: Listing, now_ms: int) -> int | None:
    """The newest sample that is not ahead of the clock (DOWN-8); None without raw samples.

    Of a file that reaches into the future its oldest sample counts.
    """
    times_ms = [
        time_ms
        for day in listing.raw.values()
        for piece in (*day.flushes, *day.compacted)
        for time_ms in (piece.file.time_max_ms, piece.file.time_min_ms)
        if time_ms <= now_ms
    ]
    return max(times_ms, default=None)


def plan_retention(
    listing: Listing, clock_ms: int, retention: RetentionSettings, draft: Draft
) -> None:
    """Adds what is to be dropped, and what keeps the rest from it.

    Args:
        listing: of the lake.
        clock_ms: what ages count from.
        retention: settings.
        draft: with all other jobs in it: days that are due are not dropped.
    """
    if retention.raw:
        _plan_raw(listing, _limit_ms(clock_ms, retention.raw), retention, draft)
    if retention.five_m:
        _plan_five_m(listing, _limit_ms(clock_ms, retention.five_m), retention, draft)
    if retention.one_h:
        _plan_one_h(listing, _limit_ms(clock_ms, retention.one_h), retention, draft)


def _limit_ms(clock_ms: int, retention: RetentionTime) -> int:
    return clock_ms - round(retention * 1000)


def _plan_raw(listing: Listing, limit_ms: int, retention: RetentionSettings, draft: Draft) -> None:
    for day, raw in sorted(listing.raw.items()):
        span = day_span(day)
        if span.until_ms > limit_ms:
            return
        title = f"drop {SAMPLES} of {raw.partition}"
        five_m, one_h = listing.five_m.get(day, ()), listing.one_h.get(month_of_day(day), ())
        if listing.is_expired(day):
            continue
        if not raw.compacted:
            if raw.flushes:
                draft.wait(title, draft.now_ms, "it is not rolled up yet; later days wait for it")
                return
            if five_m or any(not piece.rows.intersect(span).is_empty for piece in one_h):
                draft.block(
                    title,
                    "earlier_day",
                    "its flushes cannot be read, and may be in its rollups; later days wait for it",
                )
                return
            continue
        if raw.broken_flushes:
            draft.block(title, "quarantined", f"{raw.broken_flushes[0].file.key} cannot be read")
        elif raw.flushes or day in draft.busy_days:
            draft.wait(title, draft.now_ms, "it is rolled up first")
        elif not all(
            is_covered(piece.span, level) for piece in raw.compacted for level in (five_m, one_h)
        ):
            draft.block(title, "rollup_missing", "its rollups do not cover it")
        else:
            draft.drops.append(
                DropDay(
                    table=SAMPLES,
                    partition=raw.partition,
                    files=tuple(piece.file for piece in raw.compacted),
                    transactions={RAW_DROPPED_ID: _greater(listing.raw_dropped_day, day)},
                    reason=f"older than retention.raw, {format_retention(retention.raw)}",
                )
            )


def _plan_five_m(
    listing: Listing, limit_ms: int, retention: RetentionSettings, draft: Draft
) -> None:
    for day, pieces in sorted(listing.five_m.items()):
        if day_span(day).until_ms > limit_ms:
            return
        title = f"drop {SAMPLES_5M} of {date_of_day(day)}"
        one_h = listing.one_h.get(month_of_day(day), ())
        if day in listing.raw:
            if day in draft.busy_days or not listing.raw[day].broken_flushes:
                draft.wait(title, draft.now_ms, "its raw samples go first")
            else:
                draft.block(title, "quarantined", "raw samples of it cannot be read")
        elif not all(is_covered(piece.span, one_h) for piece in pieces):
            draft.block(title, "rollup_missing", "rollups of 1h do not cover it")
        else:
            draft.drops.append(
                DropDay(
                    table=SAMPLES_5M,
                    partition=pieces[0].file.partition,
                    files=tuple(piece.file for piece in pieces),
                    transactions={FIVE_M_DROPPED_ID: _greater(listing.five_m_dropped_day, day)},
                    reason=f"older than retention.5m, {format_retention(retention.five_m)}",
                )
            )


def _plan_one_h(
    listing: Listing, limit_ms: int, retention: RetentionSettings, draft: Draft
) -> None:
    for month, pieces in sorted(listing.one_h.items()):
        if month_span(month).until_ms > limit_ms:
            return
        title = f"drop samples_1h of {month}"
        days = days_of_month(month)
        if any(day in listing.raw or day in listing.five_m for day in days):
            draft.wait(title, draft.now_ms, "finer rows of it go first")
        elif draft.take(title, pieces):
            draft.drops.append(
                DropMonth(
                    month=month,
                    files=tuple(piece.file for piece in pieces),
                    reason=f"older than retention.1h, {format_retention(retention.one_h)}",
                )
            )


def _greater(known: int | None, day: int) -> int:
    return day if known is None else max(known, day)
