"""How far one server's answer is from another's, and whether that is within a bound.

The error of a point is what it is off by, relative to the true value or, where that is smaller, to
the mean absolute value of its series in the answer: a rate of a quiet hour is measured by that of
the day. Equal means an error of at most EQUAL_RATIO: the same samples added up in another order.

A point that is missing, or that is there too much, is a fault whatever the bound of the values; a
bound may name PromQL that says where else a series may be, for a rollup does not know of a hole
inside a window.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from tests.integration.promql import Answer, Labels, show

F64Array = npt.NDArray[np.float64]
I64Array = npt.NDArray[np.int64]

EQUAL_RATIO = 1e-9
LINES_MAX = 6
# Answers an expression at the same times as the one that is compared.
Ask = Callable[[str], Answer]


@dataclass(frozen=True)
class Bound:
    """What an answer may differ in.

    Attributes:
        ratio: greatest error of a point.
        low: PromQL; with `high`, a value between both is as good as the true one.
        high: PromQL.
        elsewhere: PromQL; where it gives a point, one that the truth has may be missing, and one
            that it has not may be there.
        is_nan_lost: whether a NaN may come out as a number, or the other way round: rollups of a
            gauge that is NaN for moments only know of it in their sums.
    """

    ratio: float = EQUAL_RATIO
    low: str = ""
    high: str = ""
    elsewhere: str = ""
    is_nan_lost: bool = False


EXACT = Bound()


@dataclass
class Verdict:
    """What a comparison found.

    Attributes:
        fault_count: what is not within the bound: points, steps, or an answer as a whole.
        missing_count: points that only the truth has.
        extra_count: points that the truth does not have.
    """

    fault_count: int = 0
    missing_count: int = 0
    extra_count: int = 0
    _errors: list[F64Array] = field(default_factory=list)
    _lines: list[tuple[float, str]] = field(default_factory=list)

    @property
    def errors(self) -> F64Array:
        """Of the points that both answers have, bounds or not; infinite where one is NaN alone."""
        return np.concatenate([np.zeros(0), *self._errors])

    @property
    def faults(self) -> list[str]:
        """The worst of them, a line each, not more than LINES_MAX."""
        worst = sorted(self._lines, key=lambda line: -line[0])
        return [line for _, line in worst[:LINES_MAX]]

    @property
    def is_exact(self) -> bool:
        """Whether both answers are equal."""
        is_complete = not self.missing_count and not self.extra_count and not self.fault_count
        return is_complete and bool((self.errors <= EQUAL_RATIO).all())

    @property
    def is_within(self) -> bool:
        """Whether it is within the bound."""
        return not self.fault_count

    def add_errors(self, errors: F64Array) -> None:
        """Adds those of a series."""
        self._errors.append(errors)

    def add_fault(self, line: str, count: int = 1, error: float = math.inf) -> None:
        """Counts faults that one line tells of."""
        self.fault_count += count
        self._lines.append((error, line))


@dataclass(frozen=True)
class Points:
    """One series of an answer: (n,) int64 Unix ms, ascending, and (n,) float64."""

    times_ms: I64Array
    values: F64Array

    @classmethod
    def empty(cls) -> "Points":
        """None at all."""
        return cls(np.zeros(0, np.int64), np.zeros(0))


def points_of(answer: Answer) -> dict[Labels, Points]:
    """An answer as numbers."""
    return {
        labels: Points(
            np.array([round(float(time_s) * 1000) for time_s, _ in samples], np.int64),
            np.array([value for _, value in samples], np.str_).astype(np.float64),
        )
        for labels, samples in answer.series.items()
    }


def judge(expected: Answer, found: Answer, bound: Bound, ask: Ask | None = None) -> Verdict:
    """Compares two answers to one expression.

    Args:
        expected: the truth.
        found: what is held against it.
        bound: what it may differ in.
        ask: asks the server that has the truth; for bounds with PromQL.
    """
    verdict = Verdict()
    for warning in (*expected.warnings, *found.warnings):
        verdict.add_fault(f"warning: {warning}")
    if expected.kind != found.kind:
        verdict.add_fault(f"a {expected.kind} expected, a {found.kind} found")
    if verdict.fault_count:
        return verdict
    around = _Around.of(bound, ask)
    left, right = points_of(expected), points_of(found)
    for labels in sorted(left.keys() | right.keys()):
        _judge_series(
            verdict,
            labels,
            left.get(labels, Points.empty()),
            right.get(labels, Points.empty()),
            around,
        )
    return verdict


@dataclass(frozen=True)
class _Around:
    """A bound, and what the truth answers to its PromQL, by labels without the name."""

    bound: Bound
    low: Mapping[Labels, Points] | None
    high: Mapping[Labels, Points] | None
    elsewhere: Mapping[Labels, Points] | None

    @classmethod
    def of(cls, bound: Bound, ask: Ask | None) -> "_Around":
        def answer(text: str) -> dict[Labels, Points] | None:
            if not text:
                return None
            assert ask is not None, "a bound with PromQL needs somebody to ask"
            return {_nameless(labels): own for labels, own in points_of(ask(text)).items()}

        return cls(bound, answer(bound.low), answer(bound.high), answer(bound.elsewhere))

    def is_elsewhere(self, labels: Labels, times_ms: I64Array) -> npt.NDArray[np.bool_]:
        """At which of these times the series may be or not be."""
        if self.elsewhere is None:
            return np.zeros(times_ms.size, bool)
        own = self.elsewhere.get(_nameless(labels), Points.empty())
        return np.isin(times_ms, own.times_ms)

    def is_between(self, labels: Labels, points: Points, slack: float) -> npt.NDArray[np.bool_]:
        """Which points lie between the bound's lows and highs."""
        if self.low is None or self.high is None:
            return np.zeros(points.values.size, bool)
        low = _values_at(self.low, labels, points.times_ms)
        high = _values_at(self.high, labels, points.times_ms)
        return np.asarray((points.values >= low - slack) & (points.values <= high + slack))


def _nameless(labels: Labels) -> Labels:
    return tuple(label for label in labels if label[0] != "__name__")


def _values_at(series: Mapping[Labels, Points], labels: Labels, times_ms: I64Array) -> F64Array:
    """Values at these times; NaN, which nothing is beside, where there is none."""
    values = np.full(times_ms.size, math.nan)
    own = series.get(_nameless(labels))
    if own is not None:
        _, here, there = np.intersect1d(times_ms, own.times_ms, return_indices=True)
        values[here] = own.values[there]
    return values


def _judge_series(
    verdict: Verdict, labels: Labels, expected: Points, found: Points, around: _Around
) -> None:
    for what, times_ms in (
        ("missing", np.setdiff1d(expected.times_ms, found.times_ms)),
        ("extra", np.setdiff1d(found.times_ms, expected.times_ms)),
    ):
        if what == "missing":
            verdict.missing_count += times_ms.size
        else:
            verdict.extra_count += times_ms.size
        bad = times_ms[~around.is_elsewhere(labels, times_ms)]
        if bad.size:
            verdict.add_fault(
                f"{show(labels)}: {bad.size} of {expected.times_ms.size} steps {what}, "
                f"the first at {bad[0] / 1000:.3f}",
                int(bad.size),
            )
    times_ms, here, there = np.intersect1d(expected.times_ms, found.times_ms, return_indices=True)
    true, values = expected.values[here], found.values[there]
    errors = errors_of(true, values, scale_of(expected.values))
    verdict.add_errors(errors)
    is_bad = errors > around.bound.ratio
    if around.bound.is_nan_lost:
        is_bad &= np.isnan(true) == np.isnan(values)
    if is_bad.any():
        slack = scale_of(expected.values) * EQUAL_RATIO
        is_bad &= ~around.is_between(labels, Points(times_ms, values), slack)
    if is_bad.any():
        worst = int(np.argmax(np.where(is_bad, errors, -1.0)))
        verdict.add_fault(
            f"{show(labels)}: {is_bad.sum()} of {times_ms.size} points are off, the worst at "
            f"{times_ms[worst] / 1000:.3f}: {float(true[worst])!r} expected, "
            f"{float(values[worst])!r} found, error {errors[worst]:.3g}",
            int(is_bad.sum()),
            float(errors[worst]),
        )


def scale_of(values: F64Array) -> float:
    """Mean absolute value of the finite ones; 0 if there are none."""
    finite = values[np.isfinite(values)]
    return float(np.abs(finite).mean()) if finite.size else 0.0


def errors_of(true: F64Array, found: F64Array, scale: float) -> F64Array:
    """What each value is off by, relative to the true one or the scale; NaN is equal to NaN.

    Args:
        true: (n,) float64.
        found: (n,) float64.
        scale: what smaller true values are measured by.
    """
    is_same = (true == found) | (np.isnan(true) & np.isnan(found))
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        errors = np.abs(found - true) / np.maximum(np.abs(true), scale)
    return np.where(is_same, 0.0, np.where(np.isfinite(errors), errors, math.inf))
