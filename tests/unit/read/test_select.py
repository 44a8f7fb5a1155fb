"""Which series the matchers keep, against a look at every series."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.errors import QueryCancelled
from bridge.model.matchers import Matcher, MatcherType, metrics_named_by
from bridge.read.select import CHECK_PAIRS, find_series
from bridge.wire.series import SeriesRegistry
from tests.oracle.lake_files import canonical, label_rows, series_id
from tests.oracle.remote_read import SYMBOLS
from tests.oracle.tsdb import Labels, OracleMatcher


def registry_of(label_sets: list[Labels]) -> SeriesRegistry:
    registry = SeriesRegistry()
    rows = label_rows(label_sets)
    registry.add_rows(
        np.array([series_id(labels) for labels in label_sets], np.int64),
        rows.label_offsets,
        rows.name_offsets,
        rows.name_bytes,
        rows.value_offsets,
        rows.value_bytes,
    )
    return registry


def never() -> None:
    """Nobody is in a hurry."""


def parse(matcher: OracleMatcher) -> Matcher:
    return Matcher.parse(MatcherType(SYMBOLS.index(matcher.symbol)), matcher.name, matcher.value)


label_sets = st.lists(
    st.builds(
        lambda name, job, zone: canonical({"__name__": name, "job": job, "zone": zone}),
        st.sampled_from(["up", "down", "über"]),
        st.sampled_from(["", "a", "b", "ab", "a\nb", "ü"]),
        st.sampled_from(["", "", "a"]),
    ),
    max_size=20,
    unique=True,
)
matchers = st.lists(
    st.builds(
        OracleMatcher,
        st.sampled_from(["__name__", "job", "zone", "nothing"]),
        st.sampled_from(SYMBOLS),
        st.sampled_from(
            ["", "up", "a", "b", "ü", "a|b", "a|", "up|down", ".*", ".+", "a.*", "a.b", "[^a]*"]
        ),
    ),
    max_size=4,
)


@given(label_sets, matchers)
def test_series_are_those_that_every_matcher_keeps(
    series: list[Labels], wanted: list[OracleMatcher]
) -> None:
    registry = registry_of(series)
    parsed = [parse(matcher) for matcher in wanted]
    refs = find_series(registry, parsed, metrics_named_by(parsed), never)
    expected = [
        ref
        for ref, labels in enumerate(series)
        if all(matcher.keeps(dict(labels)) for matcher in wanted)
    ]
    assert refs.tolist() == expected


def test_work_ends_between_two_values_when_nobody_waits() -> None:
    count = 3 * CHECK_PAIRS
    registry = registry_of([canonical({"__name__": "up", "pod": f"p{n}"}) for n in range(count)])
    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise QueryCancelled("gone")

    with pytest.raises(QueryCancelled):
        find_series(registry, [parse(OracleMatcher("pod", "=~", "p.*7"))], None, check)
