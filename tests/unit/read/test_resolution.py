"""The table of `bridge.read.resolution`, row by row, and how spans follow one another."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.model.time_range import TimeRange
from bridge.read.emission import Kind
from bridge.read.resolution import (
    HOUR_MS,
    Coverage,
    Hints,
    Level,
    Question,
    Reason,
    Span,
    plan,
    use_of,
)

MINUTE_MS = 60_000
DAY_MS = 24 * HOUR_MS
END_MS = 1_780_272_000_000  # 2026-06-01T00:00Z
BEGIN_MS = END_MS - 60 * DAY_MS
FIVE_M, ONE_H, RAW = Level.FIVE_M, Level.ONE_H, Level.RAW
EVERYTHING = Coverage(
    five_m=(TimeRange(BEGIN_MS - 10 * DAY_MS, END_MS),),
    one_h=(TimeRange(BEGIN_MS - 10 * DAY_MS, END_MS),),
)
NO_SEAM_MS = END_MS + DAY_MS


def ask(
    func: str = "",
    step_ms: int = 0,
    range_ms: int = 0,
    *,
    start_ms: int = BEGIN_MS,
    end_ms: int = END_MS,
    seam_ms: int = NO_SEAM_MS,
    is_closed: bool = False,
) -> Question:
    """What Prometheus asks for evaluations from start_ms to end_ms; without a step at end_ms."""
    first_ms = start_ms if step_ms else end_ms
    hinted_ms = first_ms - (range_ms or 5 * MINUTE_MS) + (not is_closed)
    return Question(
        TimeRange(hinted_ms - 1, end_ms),
        Hints(func, step_ms, range_ms, hinted_ms, end_ms),
        seam_ms,
        5 * MINUTE_MS,
    )


M, H = MINUTE_MS, HOUR_MS
TABLE = [
    # func, step, range, level, reason
    ("", 15_000, 0, RAW, Reason.STEP),
    ("", 5 * M, 0, RAW, Reason.STEP),
    ("", 25 * M - 1, 0, RAW, Reason.STEP),
    ("", 25 * M, 0, FIVE_M, Reason.HINTS),
    ("sum", H, 0, FIVE_M, Reason.HINTS),
    ("max", 5 * H - 1000, 0, FIVE_M, Reason.HINTS),
    ("topk", 5 * H, 0, ONE_H, Reason.HINTS),
    ("max_over_time", 12 * H, 0, ONE_H, Reason.HINTS),  # a subquery over a plain selector
    ("absent", 12 * H, 0, ONE_H, Reason.HINTS),
    ("timestamp", 12 * H, 0, RAW, Reason.FUNCTION),
    ("", 0, 0, RAW, Reason.STEP),
    ("rate", 5 * M, 20 * M, FIVE_M, Reason.HINTS),
    ("rate", 5 * M, 5 * M, FIVE_M, Reason.HINTS),
    ("rate", 5 * M, 6 * M, RAW, Reason.RANGE),
    ("irate", 5 * M, 15 * M, RAW, Reason.RANGE),
    ("irate", 5 * M, 20 * M, FIVE_M, Reason.HINTS),
    ("rate", 4 * M, H, RAW, Reason.STEP),
    ("rate", 15_000, DAY_MS, RAW, Reason.STEP),
    ("increase", H, H, ONE_H, Reason.HINTS),
    ("increase", H, 90 * M, FIVE_M, Reason.HINTS),
    ("deriv", H, H, FIVE_M, Reason.HINTS),
    ("increase", H, 4 * H, ONE_H, Reason.HINTS),
    ("increase", 30 * M, 12 * H, FIVE_M, Reason.HINTS),
    ("rate", 12 * H, 59 * M, RAW, Reason.RANGE),  # not aligned, and less than 12 windows
    ("rate", 12 * H, 61 * M, FIVE_M, Reason.HINTS),  # not aligned, 12 windows of 5m
    ("rate", 7 * M, H, FIVE_M, Reason.HINTS),
    ("rate", 90 * M, 12 * H, ONE_H, Reason.HINTS),
    ("rate", 90 * M, 11 * H, FIVE_M, Reason.HINTS),
    ("irate", H, 4 * H, ONE_H, Reason.HINTS),
    ("deriv", H, 4 * H, ONE_H, Reason.HINTS),
    ("predict_linear", H, 4 * H, ONE_H, Reason.HINTS),
    ("delta", H, 4 * H, ONE_H, Reason.HINTS),
    ("resets", H, 4 * H, ONE_H, Reason.HINTS),
    ("min_over_time", H, 4 * H, ONE_H, Reason.HINTS),
    ("max_over_time", H, 4 * H, ONE_H, Reason.HINTS),
    ("sum_over_time", H, 4 * H, ONE_H, Reason.HINTS),
    ("avg_over_time", H, 4 * H, ONE_H, Reason.HINTS),
    ("last_over_time", H, 4 * H, ONE_H, Reason.HINTS),
    ("rate", 0, 5 * M, FIVE_M, Reason.HINTS),
    ("rate", 0, 20 * M, FIVE_M, Reason.HINTS),
    ("rate", 0, H, ONE_H, Reason.HINTS),
    ("rate", 0, 4 * H, ONE_H, Reason.HINTS),
    ("rate", 0, 21 * M, FIVE_M, Reason.HINTS),
    ("rate", 0, 19 * M, RAW, Reason.RANGE),
    ("predict_linear", 0, 15 * M, RAW, Reason.RANGE),
    *(
        (func, DAY_MS, DAY_MS, RAW, Reason.FUNCTION)
        for func in (
            "count_over_time",
            "present_over_time",
            "absent_over_time",
            "quantile_over_time",
            "stddev_over_time",
            "stdvar_over_time",
            "changes",
            "idelta",
            "mad_over_time",
            "double_exponential_smoothing",
            "holt_winters",
            "first_over_time",
            "",
            "what_comes_next",
        )
    ),
]


@pytest.mark.parametrize("is_closed", [False, True])
@pytest.mark.parametrize(("func", "step_ms", "range_ms", "level", "reason"), TABLE)
def test_the_table(
    func: str, step_ms: int, range_ms: int, level: Level, reason: Reason, *, is_closed: bool
) -> None:
    question = ask(func, step_ms, range_ms, is_closed=is_closed)
    use = use_of(question)
    assert (use.wanted, use.reason) == (level, reason)
    assert use.grid is not None
    assert use.grid.is_closed == is_closed
    assert use.grid.first_ms == (BEGIN_MS if step_ms else END_MS)
    spans = plan(question, EVERYTHING)
    assert spans[-1].level is level
    assert reason in spans[-1].reasons


def test_an_unaligned_grid_needs_longer_ranges() -> None:
    aligned = ask("rate", HOUR_MS, 4 * HOUR_MS)
    assert use_of(aligned).wanted is ONE_H
    off = ask("rate", HOUR_MS, 4 * HOUR_MS, start_ms=BEGIN_MS + 60_000)
    assert use_of(off).wanted is FIVE_M
    (span,) = plan(off, EVERYTHING)
    assert span.emission is not None
    assert span.emission.spacing_ms == 4 * HOUR_MS // 60
    (span,) = plan(aligned, EVERYTHING)
    assert span.emission is not None
    assert span.emission.spacing_ms == 0
    assert (span.emission.is_after_edge, span.emission.is_until_edge) == (False, False)


def test_a_client_that_says_nothing_gets_raw_samples() -> None:
    question = replace(ask(), hints=None)
    assert [span.level for span in plan(question, EVERYTHING)] == [RAW]
    gone = replace(EVERYTHING, raw_dropped=EVERYTHING.one_h)
    (span,) = plan(question, gone)
    assert span.level is FIVE_M
    assert span.reasons == (Reason.MISSING,)
    assert span.emission is not None
    assert (span.emission.kind, span.emission.grid) == (Kind.INSTANT, None)


def levels(spans: tuple[Span, ...]) -> list[tuple[str, str, int]]:
    """Level, reasons, and hours until the end."""
    return [
        (
            span.level.value,
            ",".join(reason.value for reason in span.reasons),
            (END_MS - span.time_range.until_ms) // HOUR_MS,
        )
        for span in spans
    ]


def test_the_seam_is_raw() -> None:
    question = ask("rate", HOUR_MS, 4 * HOUR_MS, seam_ms=END_MS - 4 * HOUR_MS + 1000)
    spans = plan(question, EVERYTHING)
    assert levels(spans) == [("1h", "hints", 4), ("raw", "seam", 0)]
    assert spans[0].emission is not None
    assert (spans[0].emission.is_after_edge, spans[0].emission.is_until_edge) == (False, True)


def test_late_samples_are_read_raw_while_there_are_raw_samples() -> None:
    late = TimeRange(END_MS - 30 * HOUR_MS, END_MS - 29 * HOUR_MS)
    coverage = replace(EVERYTHING, late=(late,))
    question = ask("rate", HOUR_MS, 4 * HOUR_MS)
    assert levels(plan(question, coverage)) == [
        ("1h", "hints", 30),
        ("raw", "late", 29),
        ("1h", "hints", 0),
    ]
    expired = replace(coverage, raw_dropped=EVERYTHING.one_h)
    assert levels(plan(question, expired)) == [("1h", "hints", 0)]


def test_late_samples_that_no_evaluation_looks_at_do_not_matter() -> None:
    hour = TimeRange(BEGIN_MS + 30 * HOUR_MS, BEGIN_MS + 31 * HOUR_MS)
    coverage = replace(EVERYTHING, late=(hour,))
    for func, range_ms, is_seen in (
        ("", 0, False),
        ("rate", 5 * HOUR_MS, False),
        ("rate", 6 * HOUR_MS, True),
    ):
        for is_closed in (False, True):
            question = ask(func, 12 * HOUR_MS, range_ms, is_closed=is_closed)
            reasons = [reason for span in plan(question, coverage) for reason in span.reasons]
            # [.., ..] of a client with closed ranges looks at the last instant of the hour.
            assert (Reason.LATE in reasons) == (is_seen or (is_closed and range_ms == 5 * HOUR_MS))


def test_each_span_comes_from_its_best_level() -> None:
    coverage = Coverage(
        one_h=(TimeRange(BEGIN_MS - DAY_MS, END_MS - 2 * HOUR_MS),),
        five_m=(TimeRange(END_MS - 40 * DAY_MS, END_MS - 2 * HOUR_MS),),
        raw_dropped=(TimeRange(BEGIN_MS - DAY_MS, END_MS - 20 * DAY_MS),),
    )
    coarse = ask("rate", HOUR_MS, 4 * HOUR_MS)
    assert levels(plan(coarse, coverage)) == [("1h", "hints", 2), ("raw", "missing", 0)]
    fine = ask("rate", HOUR_MS, 90 * MINUTE_MS)
    assert levels(plan(fine, coverage)) == [
        ("1h", "missing", 40 * 24),
        ("5m", "hints", 2),
        ("raw", "missing", 0),
    ]
    raw = ask("quantile_over_time", HOUR_MS, HOUR_MS)
    assert levels(plan(raw, coverage)) == [
        ("1h", "missing", 40 * 24),
        ("5m", "missing", 20 * 24),
        ("raw", "function", 0),
    ]


def test_the_ends_of_an_instant_query_are_raw() -> None:
    question = ask("increase", 0, 5 * HOUR_MS, end_ms=END_MS - 20 * MINUTE_MS)
    spans = plan(question, EVERYTHING)
    assert levels(spans) == [("raw", "edge", 5), ("1h", "hints", 1), ("raw", "edge", 0)]
    assert spans[1].emission is not None
    assert spans[1].emission.spacing_ms == 0


@pytest.mark.parametrize("is_closed", [False, True])
def test_an_instant_query_of_whole_windows_has_no_ends(*, is_closed: bool) -> None:
    question = ask("increase", 0, 5 * HOUR_MS, is_closed=is_closed)
    (span,) = plan(question, EVERYTHING)
    assert span.level is ONE_H
    assert span.emission is not None
    assert span.emission.spacing_ms == 0


def ranges(limit: int) -> st.SearchStrategy[tuple[TimeRange, ...]]:
    """Ranges of whole hours that ascend and do not touch."""
    hours = st.lists(st.integers(0, 60 * 24), max_size=2 * limit, unique=True)
    return hours.map(
        lambda edges: tuple(
            TimeRange(BEGIN_MS + low * HOUR_MS, BEGIN_MS + high * HOUR_MS)
            for low, high in zip(sorted(edges)[::2], sorted(edges)[1::2], strict=False)
        )
    )


@given(
    func=st.sampled_from(["", "rate", "avg_over_time", "quantile_over_time", "timestamp"]),
    step_ms=st.sampled_from([0, 15_000, 5 * M, H, 12 * H, 7 * M + 13]),
    range_ms=st.sampled_from([0, 5 * M, H, 90 * M, 4 * H, 100_123, DAY_MS]),
    start_ms=st.integers(BEGIN_MS, END_MS),
    length_ms=st.integers(0, 60 * DAY_MS),
    seam_ms=st.integers(BEGIN_MS, END_MS + DAY_MS),
    is_closed=st.booleans(),
    five_m=ranges(3),
    one_h=ranges(3),
    dropped=ranges(3),
    late=ranges(3),
)
def test_spans_have_no_gap_and_no_overlap(
    *,
    func: str,
    step_ms: int,
    range_ms: int,
    start_ms: int,
    length_ms: int,
    seam_ms: int,
    is_closed: bool,
    five_m: tuple[TimeRange, ...],
    one_h: tuple[TimeRange, ...],
    dropped: tuple[TimeRange, ...],
    late: tuple[TimeRange, ...],
) -> None:
    """READ-7."""
    question = ask(
        func,
        step_ms,
        range_ms,
        start_ms=start_ms,
        end_ms=start_ms + length_ms,
        seam_ms=seam_ms,
        is_closed=is_closed,
    )
    spans = plan(question, Coverage(five_m, one_h, dropped, late))
    assert spans[0].time_range.after_ms == question.time_range.after_ms
    assert spans[-1].time_range.until_ms == question.time_range.until_ms
    for one, following in pairwise(spans):
        assert one.time_range.until_ms == following.time_range.after_ms
        assert one.level is not following.level
        assert one.time_range.until_ms % max(one.level.window_ms, following.level.window_ms) == 0
    for span in spans:
        assert not span.time_range.is_empty
        if span.level is not RAW:
            covered = five_m if span.level is FIVE_M else one_h
            assert any(
                part.after_ms <= span.time_range.after_ms
                and span.time_range.until_ms <= part.until_ms
                for part in covered
            ), "rollups answer only where they are"
            assert span.emission is not None
            assert span.emission.window_ms == span.level.window_ms
        else:
            assert span.emission is None
