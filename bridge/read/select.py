"""Which series of a registry a query's matchers keep.

A matcher judges each distinct (name, value) pair once, not each series: 100000 series of one metric
have some thousand values of `instance`. Judged pairs are a column of booleans by pair id; a series
is looked up there by its pair ids. A series without the label is judged as if its value were empty.

    kept(series) = any(is_accepted[pair] for its pairs named so)   where it has the label
                   matcher.matches(b"")                            where it has not

What compares with literals (EQ, NEQ, `a|b|c`) finds its pairs by hash and looks at no text.
"""

from collections.abc import Callable, Collection, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from bridge.model.matchers import METRIC_NAME, Matcher, names_metrics
from bridge.wire.columns import I64Array, U32Array
from bridge.wire.series import SeriesRegistry

BoolArray = NDArray[np.bool_]

CHECK_PAIRS = 4096
"""Values that an expression is tried on between two looks at whether anybody still waits: some
milliseconds, seconds with the worst of expressions."""


def find_series(
    registry: SeriesRegistry,
    matchers: Sequence[Matcher],
    metrics: Collection[bytes] | None,
    check: Callable[[], None],
) -> U32Array:
    """Refs of the series that all matchers keep.

    Args:
        registry: where to look.
        matchers: those on __name__ among them.
        metrics: what `metrics_named_by` says of them.
        check: called every few milliseconds; raises to end the work.
    """
    metric_ids = None
    if metrics is not None:
        pairs = [registry.find_pair(METRIC_NAME, metric) for metric in metrics]
        metric_ids = np.array(sorted(pair for pair in pairs if pair >= 0), np.uint32)
        if not len(metric_ids):
            return np.empty(0, np.uint32)
    refs, offsets, pair_ids = registry.select(metric_ids)
    for matcher in _easiest_first(registry, matchers, pair_ids):
        if not len(refs):
            break
        check()
        keep = _keep(registry, matcher, offsets, pair_ids, check)
        if keep is not None and not keep.all():
            refs, offsets, pair_ids = _narrow(keep, refs, offsets, pair_ids)
    return refs


def _easiest_first(
    registry: SeriesRegistry, matchers: Sequence[Matcher], pair_ids: U32Array
) -> list[Matcher]:
    """Each matcher once: what leaves the fewest series first, expressions last.

    What names metrics is left out: only their series are looked at.
    """
    ranked = []
    for place, matcher in enumerate(dict.fromkeys(matchers)):
        if names_metrics(matcher):
            continue
        hits = _hits(registry, matcher)
        count = len(pair_ids) + (matcher.literals is None)
        if hits is not None and not matcher.type.is_negative:
            count = int(np.count_nonzero(_is_in(pair_ids, hits)))
        ranked.append((count, place, matcher))
    return [matcher for _, _, matcher in sorted(ranked, key=lambda one: one[:2])]


def _hits(registry: SeriesRegistry, matcher: Matcher) -> U32Array | None:
    """Pairs that a matcher's literals name; None if it is not by them alone that it decides."""
    if matcher.literals is None or b"" in matcher.literals:
        return None
    found = [registry.find_pair(matcher.name, value) for value in matcher.literals]
    return np.array([pair for pair in found if pair >= 0], np.uint32)


def _keep(
    registry: SeriesRegistry,
    matcher: Matcher,
    offsets: I64Array,
    pair_ids: U32Array,
    check: Callable[[], None],
) -> BoolArray | None:
    """Which series a matcher keeps; None if all."""
    hits = _hits(registry, matcher)
    if hits is not None:
        is_hit = _any_of(_is_in(pair_ids, hits), offsets)
        return ~is_hit if matcher.type.is_negative else is_hit
    named = _pairs_named(registry, matcher.name, pair_ids)
    judged = _judge(matcher, named, check)
    # Series whose value is judged otherwise than an absent one are the exception either way.
    other = [pair for pair, accepted in judged if accepted != matcher.matches_empty]
    if matcher.matches_empty and not other:
        return None
    is_other = _any_of(_is_in(pair_ids, np.array(other, np.uint32)), offsets)
    return ~is_other if matcher.matches_empty else is_other


def _pairs_named(
    registry: SeriesRegistry, name: bytes, pair_ids: U32Array
) -> list[tuple[int, bytes]]:
    """Distinct pairs with this name: id and value."""
    is_seen = np.zeros(int(pair_ids.max()) + 1 if len(pair_ids) else 0, np.bool_)
    is_seen[pair_ids] = True
    distinct = np.flatnonzero(is_seen).astype(np.uint32)
    texts = registry.pair_texts(distinct)
    return [
        (pair, value)
        for pair, (own, value) in zip(distinct.tolist(), texts, strict=True)
        if own == name
    ]


def _judge(
    matcher: Matcher, pairs: Iterable[tuple[int, bytes]], check: Callable[[], None]
) -> list[tuple[int, bool]]:
    judged = []
    matches = matcher.matches
    for count, (pair, value) in enumerate(pairs):
        if count % CHECK_PAIRS == 0:
            check()
        judged.append((pair, matches(value)))
    return judged


def _is_in(pair_ids: U32Array, wanted: U32Array) -> BoolArray:
    """Which pairs are among the wanted; mostly that is one."""
    mask: BoolArray = pair_ids == wanted[0] if len(wanted) == 1 else np.isin(pair_ids, wanted)
    return mask


def _any_of(mask: BoolArray, offsets: I64Array) -> BoolArray:
    """Which series have a marked pair; a series has at least one pair, its name."""
    return np.logical_or.reduceat(mask, offsets[:-1]) if len(mask) else mask


def _narrow(
    keep: BoolArray, refs: U32Array, offsets: I64Array, pair_ids: U32Array
) -> tuple[U32Array, I64Array, U32Array]:
    counts = np.diff(offsets)
    narrowed = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts[keep])])
    return refs[keep], narrowed, pair_ids[np.repeat(keep, counts)]
