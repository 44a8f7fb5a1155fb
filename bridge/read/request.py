"""A remote-read request, parsed into values that cannot be wrong.

    snappy block -> protobuf -> ReadRequest(queries, answer type)

The length that the block promises is checked before anything is allocated. What a query asks for
is narrowed to what its hints say that the engine looks at: both ranges are closed, Prometheus sends
in the query the widest range of all selectors of an expression and in the hints that of this one,
and it cuts the query's end where it has newer samples itself. Hints without a range (both ends 0,
protobuf's default: clients that are no engine) say nothing at all.

Invariants:
    READ-1  an answer has exactly one result per query, in their order.

Limits: QUERY_COUNT_MAX queries; matchers and expressions as in `bridge.model.matchers`.

Source: prometheus prompb/remote.proto, storage/remote/codec.go; protocol in docs/remote-read.md.
"""

from collections.abc import Collection
from dataclasses import dataclass
from enum import IntEnum

from google.protobuf.message import DecodeError

from bridge.errors import CorruptBody, RequestRejected
from bridge.model.matchers import MATCHER_COUNT_MAX, Matcher, MatcherType
from bridge.model.time_range import UNTIL_MS_MAX, TimeRange
from bridge.read.resolution import Hints
from bridge.wire import remote_read_pb2

QUERY_COUNT_MAX = 256
"""Prometheus sends one; a federating querier one per selector of an expression."""


class AnswerType(IntEnum):
    """How an answer is written; the numbers are those on the wire."""

    SAMPLES = 0
    STREAMED_XOR_CHUNKS = 1


# By number: before Python 3.12 an enum does not answer for plain integers.
_ANSWERS = {int(kind): kind for kind in AnswerType}
_MATCHERS = {int(kind): kind for kind in MatcherType}


@dataclass(frozen=True, slots=True)
class SeriesQuery:
    """One query.

    Attributes:
        time_range: what the answer's samples lie in; may be empty.
        matchers: all of them hold for each series.
        labels_only: only label sets are wanted (func `series`).
        hints: what the client will do with the samples; None if it does not say.
        until_ms: Unix ms, the end of the whole query, later than that of `time_range` perhaps; a
            client that has newer samples itself cuts it there.
    """

    time_range: TimeRange
    matchers: tuple[Matcher, ...]
    labels_only: bool
    hints: Hints | None = None
    until_ms: int = UNTIL_MS_MAX

    def __str__(self) -> str:
        matchers = ", ".join(map(str, self.matchers))
        return f"{{{matchers}}} ({self.time_range.after_ms}, {self.time_range.until_ms}]"


@dataclass(frozen=True, slots=True)
class ReadRequest:
    """One request.

    Attributes:
        queries: as they came.
        answer_type: what to answer with.
    """

    queries: tuple[SeriesQuery, ...]
    answer_type: AnswerType


@dataclass(frozen=True, slots=True)
class IgnoredMatchers:
    """Matchers that are dropped.

    Attributes:
        names: labels whose matchers are ignored altogether.
        equal_names: labels whose EQ matchers are ignored: replica labels, which are no part of a
            series' identity and which an HA Prometheus adds to its queries.
    """

    names: Collection[bytes] = ()
    equal_names: Collection[bytes] = ()

    def covers(self, kind: MatcherType, name: bytes) -> bool:
        """Whether a matcher of this kind on this label is dropped."""
        return name in self.names or (kind is MatcherType.EQ and name in self.equal_names)


def decode_request(message: bytes, ignored: IgnoredMatchers) -> ReadRequest:
    """The request that a protobuf message holds.

    Raises:
        RequestRejected: it is malformed, or asks for what there is not.
    """
    try:
        request = remote_read_pb2.ReadRequest.FromString(message)
    except DecodeError as error:
        raise CorruptBody(f"the body is not a ReadRequest: {error}") from error
    if len(request.queries) > QUERY_COUNT_MAX:
        raise RequestRejected(
            f"{len(request.queries)} queries in one request, at most {QUERY_COUNT_MAX} are allowed"
        )
    return ReadRequest(
        tuple(_decode_query(query, index, ignored) for index, query in enumerate(request.queries)),
        _choose_answer(list(request.accepted_response_types)),
    )


def _choose_answer(accepted: list[int]) -> AnswerType:
    if not accepted:
        return AnswerType.SAMPLES
    for number in accepted:
        if number in _ANSWERS:
            return _ANSWERS[number]
    raise RequestRejected(
        f"none of the accepted response types {accepted[:8]} is supported; SAMPLES (0) and "
        "STREAMED_XOR_CHUNKS (1) are"
    )


def _decode_query(
    query: remote_read_pb2.Query, index: int, ignored: IgnoredMatchers
) -> SeriesQuery:
    start_ms, end_ms = query.start_timestamp_ms, query.end_timestamp_ms
    if start_ms > end_ms:
        raise RequestRejected(
            f"query {index} has an inverted range: it starts at {start_ms} ms and ends at "
            f"{end_ms} ms"
        )
    if len(query.matchers) > MATCHER_COUNT_MAX:
        raise RequestRejected(
            f"query {index} has {len(query.matchers)} matchers, at most {MATCHER_COUNT_MAX} are "
            "allowed"
        )
    time_range = TimeRange.from_closed(start_ms, end_ms)
    until_ms = time_range.until_ms
    hints = None
    if query.hints.start_ms or query.hints.end_ms:
        hints = _decode_hints(query.hints, index)
        time_range = time_range.intersect(TimeRange.from_closed(hints.start_ms, hints.end_ms))
    matchers = []
    for matcher in query.matchers:
        kind = _MATCHERS.get(int(matcher.type))
        if kind is None:
            raise RequestRejected(
                f"query {index} has a matcher of unknown type {matcher.type} for label "
                f"{matcher.name!r}"
            )
        if not ignored.covers(kind, matcher.name.encode()):
            matchers.append(Matcher.parse(kind, matcher.name, matcher.value))
    return SeriesQuery(
        time_range,
        tuple(matchers),
        labels_only=query.hints.func == "series",
        hints=hints,
        until_ms=until_ms,
    )


def _decode_hints(hints: remote_read_pb2.ReadHints, index: int) -> Hints:
    if hints.step_ms < 0 or hints.range_ms < 0:
        raise RequestRejected(
            f"query {index} has hints with a negative step ({hints.step_ms} ms) or range "
            f"({hints.range_ms} ms)"
        )
    return Hints(hints.func, hints.step_ms, hints.range_ms, hints.start_ms, hints.end_ms)
