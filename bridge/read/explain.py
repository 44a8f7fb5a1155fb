"""`GET /api/v1/read/explain`: what a query would read, from which resolution, and why.

    query   a selector, `up{job="x"}`, or a range vector of one, `up[5m]`
    start   the first evaluation, RFC 3339 or Unix seconds; `end` if missing
    end     the last evaluation; now if missing
    step    between evaluations, a duration or seconds; missing for one evaluation at `end`
    func    the function or aggregation around the selector; none if missing
    range   of the range vector, a duration or seconds, where `query` does not have it

The hints are those that Prometheus 3 sends for such a query; nothing is read but footers. Answers
and errors have the form of Prometheus' own API.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import promql_parser

from bridge.errors import ConfigError, RequestRejected
from bridge.model.matchers import MATCHER_COUNT_MAX, Matcher, MatcherType
from bridge.model.options import parse_duration, parse_instant_ms
from bridge.model.time_range import UNTIL_MS_MAX, TimeRange
from bridge.read.emission import Emission
from bridge.read.reader import Explanation
from bridge.read.request import IgnoredMatchers, SeriesQuery
from bridge.read.resolution import Hints
from bridge.read.spans import RawRead, RollupRead

PARAMETERS = ("query", "start", "end", "step", "func", "range")
QUERY_CHARACTERS_MAX = 2048
"""The parser takes a third of a second for as many signs in a row."""
DURATION_MS_MAX = 1000 * 365 * 86_400_000

_BEGINS_SELECTOR = re.compile(r"\s*([A-Za-z_:][A-Za-z0-9_:]*\s*)?([{\[]|$)")
_MATCHER_TYPES = (
    (promql_parser.MatchOp.Equal, MatcherType.EQ),
    (promql_parser.MatchOp.NotEqual, MatcherType.NEQ),
    (promql_parser.MatchOp.Re, MatcherType.RE),
    (promql_parser.MatchOp.NotRe, MatcherType.NRE),
)  # no dictionary: they have no hash


def parse_question(
    parameters: Mapping[str, str], ignored: IgnoredMatchers, now_ms: int, lookback_ms: int
) -> SeriesQuery:
    """The query that Prometheus would send.

    Args:
        parameters: of the URL.
        ignored: matchers that are dropped.
        now_ms: Unix ms.
        lookback_ms: the readers' lookback delta.

    Raises:
        RequestRejected: a parameter is missing, unknown or wrong.
    """
    for name in parameters:
        if name not in PARAMETERS:
            raise RequestRejected(f"unknown parameter {name!r}; there are {', '.join(PARAMETERS)}")
    matchers, vector_range_ms = _parse_selector(parameters.get("query", ""), ignored)
    range_ms = _duration_ms(parameters, "range")
    if range_ms and vector_range_ms:
        raise RequestRejected("the range is given twice, in query and in range")
    range_ms = range_ms or vector_range_ms
    end_ms = _instant_ms(parameters, "end", now_ms)
    start_ms = _instant_ms(parameters, "start", end_ms)
    step_ms = _duration_ms(parameters, "step")
    if start_ms > end_ms:
        raise RequestRejected("end timestamp must not be before start time")
    if start_ms < end_ms and not step_ms:
        raise RequestRejected(
            "zero or negative query resolution step widths are not accepted: without a step there "
            "is one evaluation, and start and end are the same"
        )
    func = parameters.get("func", "")
    hints = Hints(func, step_ms, range_ms, start_ms - (range_ms or lookback_ms) + 1, end_ms)
    time_range = TimeRange.from_closed(hints.start_ms, hints.end_ms)
    return SeriesQuery(
        time_range,
        matchers,
        labels_only=func == "series",
        hints=hints,
        until_ms=time_range.until_ms,
    )


def render(query: SeriesQuery, explanation: Explanation) -> dict[str, Any]:
    """The answer, as JSON."""
    hints = query.hints or Hints()
    spans = [_render_span(read) for read in explanation.reads]
    return {
        "selector": "{" + ", ".join(map(str, query.matchers)) + "}",
        "hints": {
            "func": hints.func,
            "step_ms": hints.step_ms,
            "range_ms": hints.range_ms,
            "start_ms": hints.start_ms,
            "end_ms": hints.end_ms,
        },
        "series": explanation.series_count,
        "spans": spans,
        **{name: sum(span[name] for span in spans) for name in ("files", "rows", "bytes")},
    }


def _render_span(read: RawRead | RollupRead) -> dict[str, Any]:
    span = read.span
    return {
        "resolution": span.level.value,
        "reasons": [reason.value for reason in span.reasons],
        "after": _render_instant(span.time_range.after_ms),
        "until": _render_instant(span.time_range.until_ms),
        "emission": _render_emission(span.emission),
        "files": read.file_count,
        "rows": round(read.expected_rows),
        "bytes": read.read_bytes,
    }


def _render_emission(emission: Emission | None) -> str:
    """What leaves: samples, or of windows what a kind of function needs, exactly or nearly."""
    if emission is None:
        return "samples"
    return emission.kind.value + (", approximate" if emission.spacing_ms else "")


def _render_instant(instant_ms: int) -> str:
    # datetime ends with 9999.
    instant_s = min(instant_ms, UNTIL_MS_MAX - 1) / 1000
    return datetime.fromtimestamp(instant_s, UTC).isoformat(timespec="milliseconds")


def _parse_selector(text: str, ignored: IgnoredMatchers) -> tuple[tuple[Matcher, ...], int]:
    """Matchers, and the range of a range vector."""
    if not text or len(text) > QUERY_CHARACTERS_MAX:
        raise RequestRejected(
            f"query: a selector of 1 to {QUERY_CHARACTERS_MAX} characters is needed, such as "
            'up{job="x"}'
        )
    try:
        parsed: Any = promql_parser.parse(text) if _BEGINS_SELECTOR.match(text) else None
        range_ms = 0
        if isinstance(parsed, promql_parser.MatrixSelector):
            range_ms = round(parsed.range.total_seconds() * 1000)
            parsed = parsed.vector_selector
    except ValueError as error:
        raise RequestRejected(f"query: parse error: {error}") from error
    if not isinstance(parsed, promql_parser.VectorSelector):
        raise RequestRejected(
            "query: more than a selector; give the function around it as func, and move start and "
            "end by its offset"
        )
    if parsed.offset is not None or parsed.at is not None or parsed.matchers.or_matchers:
        raise RequestRejected("query: offset, @ and `or` are not understood")
    named = [] if parsed.name is None else [(MatcherType.EQ, "__name__", parsed.name)]
    conditions = [(_type_of(one.op), one.name, one.value) for one in parsed.matchers.matchers]
    matchers = [
        Matcher.parse(kind, name, value)
        for kind, name, value in [*named, *conditions]
        if not ignored.covers(kind, name.encode())
    ]
    if len(matchers) > MATCHER_COUNT_MAX:
        raise RequestRejected(
            f"query: {len(matchers)} matchers, at most {MATCHER_COUNT_MAX} are allowed"
        )
    return tuple(matchers), range_ms


def _type_of(operator: promql_parser.MatchOp) -> MatcherType:
    return next(kind for other, kind in _MATCHER_TYPES if other == operator)


def _instant_ms(parameters: Mapping[str, str], name: str, missing_ms: int) -> int:
    text = parameters.get(name)
    if text is None:
        return missing_ms
    try:
        return parse_instant_ms(text)
    except ConfigError as error:
        raise RequestRejected(f"{name}: {error}") from error


def _duration_ms(parameters: Mapping[str, str], name: str) -> int:
    """Ms of `5m` or of `300`; 0 where it is missing."""
    text = parameters.get(name, "0")
    try:
        seconds = float(text) if re.fullmatch(r"\d+(\.\d+)?", text) else parse_duration(text)
    except ConfigError as error:
        raise RequestRejected(f"{name}: {error}") from error
    if seconds * 1000 > DURATION_MS_MAX:
        raise RequestRejected(f"{name}: {text!r} is more than a thousand years")
    return round(seconds * 1000)
