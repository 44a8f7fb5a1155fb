"""What the parameters of `explain` become."""

import pytest

from bridge.errors import RequestRejected
from bridge.model.time_range import TimeRange
from bridge.read.explain import parse_question
from bridge.read.request import IgnoredMatchers
from bridge.read.resolution import Hints

NOW_MS = 1_777_593_600_000
LOOKBACK_MS = 300_000


def parse(**parameters: str) -> object:
    return parse_question(parameters, IgnoredMatchers(), NOW_MS, LOOKBACK_MS)


def test_an_instant_query_is_the_default() -> None:
    query = parse_question({"query": 'up{job="x"}'}, IgnoredMatchers(), NOW_MS, LOOKBACK_MS)
    assert query.hints == Hints("", 0, 0, NOW_MS - LOOKBACK_MS + 1, NOW_MS)
    assert query.time_range == TimeRange(NOW_MS - LOOKBACK_MS, NOW_MS)
    assert [str(one) for one in query.matchers] == ["__name__='up'", "job='x'"]


@pytest.mark.parametrize(
    "parameters",
    [
        {"query": "up[1h]"},
        {"query": "up", "range": "1h"},
        {"query": "up", "range": "3600"},
    ],
)
def test_a_range_query(parameters: dict[str, str]) -> None:
    parameters |= {"start": "2026-04-01T00:00:00Z", "end": str(NOW_MS // 1000), "step": "60"}
    query = parse_question({**parameters, "func": "rate"}, IgnoredMatchers(), NOW_MS, LOOKBACK_MS)
    start_ms = 1_775_001_600_000
    assert query.hints == Hints("rate", 60_000, 3_600_000, start_ms - 3_599_999, NOW_MS)


def test_matchers_that_reads_ignore_are_ignored() -> None:
    ignored = IgnoredMatchers(frozenset(), frozenset({b"replica"}))
    query = parse_question({"query": 'up{replica="a"}'}, ignored, NOW_MS, LOOKBACK_MS)
    assert [str(one) for one in query.matchers] == ["__name__='up'"]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({}, "query: a selector"),
        ({"query": "up{"}, "query: parse error"),
        ({"query": "{}"}, "query: parse error"),
        ({"query": "rate(up[5m])"}, "more than a selector"),
        ({"query": "up - up"}, "more than a selector"),
        ({"query": "up{} - up"}, "more than a selector"),
        ({"query": "-" * 2000 + "up"}, "more than a selector"),
        ({"query": "(up)"}, "more than a selector"),
        ({"query": "u" * 5000}, "1 to 2048 characters"),
        ({"query": "up[10000000y]"}, "parse error"),
        ({"query": "up offset 5m"}, "by its offset"),
        ({"query": "up{} offset 5m"}, "offset, @"),
        ({"query": "{job='x'} @ 5"}, "offset, @"),
        ({"query": 'up{a="b" or c="d"}'}, "offset, @"),
        ({"query": 'up{a=~"("}'}, "illegal regex"),
        ({"query": "up[5m]", "range": "5m"}, "given twice"),
        ({"query": "up", "step": "x"}, "step: 'x' is not a duration"),
        ({"query": "up", "range": "-5"}, "range: '-5' is not a duration"),
        ({"query": "up", "range": "9" * 30}, "more than a thousand years"),
        ({"query": "up", "start": "yesterday"}, "start: 'yesterday' is no instant"),
        ({"query": "up", "start": "20", "end": "10", "step": "5"}, "must not be before"),
        ({"query": "up", "start": "10", "end": "20"}, "resolution step widths"),
        ({"query": "up", "time": "10"}, "unknown parameter 'time'"),
    ],
)
def test_what_is_wrong_is_said(parameters: dict[str, str], message: str) -> None:
    with pytest.raises(RequestRejected, match=message):
        parse(**parameters)
