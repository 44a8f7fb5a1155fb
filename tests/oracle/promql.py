"""What Prometheus computes from raw samples, one evaluation at a time.

Written from what promql/functions.go and promql/engine.go do in 3.15, and in 2.42, where ranges are
closed on the left and `rate` compares with the threshold what it has cut at zero already.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from bridge.model.staleness import STALE_BITS
from tests.oracle.bodies import float_of
from tests.oracle.tsdb import Sample


@dataclass(frozen=True)
class Range:
    """Samples that an evaluation looks at; stale markers are left out."""

    samples: Sequence[tuple[int, float]]
    after_ms: int
    now_ms: int
    is_closed: bool

    @property
    def values(self) -> list[float]:
        return [value for _, value in self.samples]


def select_range(
    samples: Sequence[Sample], now_ms: int, range_ms: int, *, is_closed: bool
) -> Range:
    """The samples of x[range] at a time."""
    after_ms = now_ms - range_ms
    return Range(
        [
            (time_ms, float_of(bits))
            for time_ms, bits in samples
            if (after_ms < time_ms or (is_closed and after_ms == time_ms))
            and time_ms <= now_ms
            and bits != STALE_BITS
        ],
        after_ms,
        now_ms,
        is_closed,
    )


def select_instant(
    samples: Sequence[Sample], now_ms: int, lookback_ms: int, *, is_closed: bool
) -> int | None:
    """The bits of x at a time; None if there is nothing."""
    after_ms = now_ms - lookback_ms - (1 if is_closed else 0)
    seen = [bits for time_ms, bits in samples if after_ms < time_ms <= now_ms]
    return seen[-1] if seen and seen[-1] != STALE_BITS else None


def increase(seen: Range) -> float | None:
    return _extrapolate(seen, is_counter=True)


def rate(seen: Range) -> float | None:
    whole = _extrapolate(seen, is_counter=True)
    return None if whole is None else whole / ((seen.now_ms - seen.after_ms) / 1000)


def delta(seen: Range) -> float | None:
    return _extrapolate(seen, is_counter=False)


def _extrapolate(seen: Range, *, is_counter: bool) -> float | None:
    if len(seen.samples) < 2:
        return None
    (first_ms, first), (last_ms, last) = seen.samples[0], seen.samples[-1]
    values = seen.values
    result = last - first
    if is_counter:
        for before, value in pairwise(values):
            result += before if value < before else 0.0
    sampled_s = (last_ms - first_ms) / 1000
    mean_s = sampled_s / (len(values) - 1)
    start_s = (first_ms - seen.after_ms) / 1000
    end_s = (seen.now_ms - last_ms) / 1000
    zero_s = sampled_s * (first / result) if is_counter and result > 0 <= first else math.inf
    if seen.is_closed:
        start_s = min(start_s, zero_s)
    if start_s >= mean_s * 1.1:
        start_s = mean_s / 2
    if not seen.is_closed:
        start_s = min(start_s, zero_s)
    if end_s >= mean_s * 1.1:
        end_s = mean_s / 2
    return result * ((sampled_s + start_s + end_s) / sampled_s)


def irate(seen: Range) -> float | None:
    if len(seen.samples) < 2:
        return None
    (before_ms, before), (time_ms, value) = seen.samples[-2:]
    return (value if value < before else value - before) / ((time_ms - before_ms) / 1000)


def resets(seen: Range) -> float | None:
    values = seen.values
    if not values:
        return None
    pairs = pairwise(values)
    return float(sum(value < before for before, value in pairs))


def min_over_time(seen: Range) -> float | None:
    return _extreme(seen, lambda value, best: value < best)


def max_over_time(seen: Range) -> float | None:
    return _extreme(seen, lambda value, best: value > best)


def _extreme(seen: Range, is_better: Callable[[float, float], bool]) -> float | None:
    best = None
    for value in seen.values:
        if best is None or is_better(value, best) or math.isnan(best):
            best = value
    return best


def sum_over_time(seen: Range) -> float | None:
    return _sum(seen.values) if seen.samples else None


def avg_over_time(seen: Range) -> float | None:
    return _sum(seen.values) / len(seen.values) if seen.samples else None


def _sum(values: Sequence[float]) -> float:
    return math.nan if any(math.isnan(value) for value in values) else math.fsum(values)


def last_over_time(seen: Range) -> float | None:
    return seen.values[-1] if seen.samples else None


def count_over_time(seen: Range) -> float | None:
    return float(len(seen.samples)) if seen.samples else None


FUNCTIONS: Mapping[str, Callable[[Range], float | None]] = {
    function.__name__: function
    for function in (
        increase,
        rate,
        delta,
        irate,
        resets,
        min_over_time,
        max_over_time,
        sum_over_time,
        avg_over_time,
        last_over_time,
        count_over_time,
    )
}
