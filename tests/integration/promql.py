"""Expressions, and a strict comparison of what two Prometheus servers answer to them.

The expressions speak of the series that `made_data.Fleet` gives, scraped every second for half a
minute or made up for days, so what depends on the spacing of the samples stands in them as a word
that `Scale` replaces: SHORT (a few samples), LONG (many), SUB (a subquery's step), BACK (an
offset), MIDDLE (an instant for `@`).

Equal means: the same kind of answer, the same series, the same timestamps, and the same text of
each value, which is the same float64 because Prometheus prints the shortest text that reads back as
it (-0 and 0 differ, NaN equals NaN). Only where an expression adds floats across series is a
relative difference of 1e-12 allowed (`SUMS`): addition is not associative, and the order in which
series arrive is not promised.

An answer that is empty everywhere proves nothing, so an expression fails if it gives no sample in
any of its evaluations, unless it says that it must not (`EMPTY`).
"""

import http.client
import json
import math
import urllib.parse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Flag, auto
from itertools import zip_longest
from typing import Any

from tests.integration.servers import fetch

Labels = tuple[tuple[str, str], ...]

TOLERANCE_RATIO = 1e-12
DIFFERENCES_MAX = 8


class Trait(Flag):
    """What is special about an expression."""

    PLAIN = 0
    SUMS = auto()  # adds floats across series: equal to 1e-12
    EMPTY = auto()  # gives nothing at all
    INSTANT = auto()  # cannot be a range query
    SORTED = auto()  # the order of the series counts
    UTF8 = auto()  # label names that Prometheus 2.x does not know


PLAIN, SUMS, EMPTY, INSTANT = Trait.PLAIN, Trait.SUMS, Trait.EMPTY, Trait.INSTANT
SORTED, UTF8 = Trait.SORTED, Trait.UTF8


@dataclass(frozen=True)
class Expression:
    """PromQL with Scale's words in it."""

    text: str
    traits: Trait = PLAIN


@dataclass(frozen=True)
class Scale:
    """What the words in an expression stand for."""

    short: str
    long: str
    sub: str
    back: str
    middle_s: float

    def apply(self, text: str) -> str:
        """The expression that a server understands."""
        for word, value in (
            ("SHORT", self.short),
            ("LONG", self.long),
            ("SUB", self.sub),
            ("BACK", self.back),
            ("MIDDLE", f"{self.middle_s:.3f}"),
        ):
            text = text.replace(word, value)
        return text


def _expressions(text: str, traits: Trait = PLAIN) -> tuple[Expression, ...]:
    """One expression a line."""
    return tuple(Expression(line.strip(), traits) for line in text.strip().splitlines())


EXPRESSIONS: tuple[Expression, ...] = (
    # Selectors: each matcher type, names that are absent, empty, negated or a pattern.
    *_expressions("""
        http_requests_total
        http_requests_total{code="500"}
        http_requests_total{code!="200", method="GET"}
        http_requests_total{code=~"4..|5..", instance!~"web-.*"}
        http_requests_total{zone="", nothing=~".*"}
        {job="api"}
        {__name__=~"queue_.*|temperature_.*"}
        {__name__!="memory_bytes", instance="api-1"}
        {__name__!~"[a-o].*", __name__!~"prometheus_.*", job=~"api|web"}
        empty_label
        empty_label{zone=""}
        empty_label{zone!=""}
        bare_metric
        long_label{text=~"(ab)+c"}
        unicode_value
        unicode_value{city=~"Z.rich|東.", note!=""}
        unicode_value{note=~"two\\nlines.*"}
        count({__name__=~".+"})
        count by (__name__) ({__name__=~".+"})
        count(last_over_time({__name__=~".+"}[SHORT]))
    """),
    *_expressions(
        """
        http_requests_total{code="418"}
        memory_bytes{instance=~"api"}
        absent(memory_bytes)
        """,
        EMPTY,
    ),
    # Functions of ranges.
    *_expressions("""
        rate(http_requests_total[SHORT])
        rate(http_requests_total[LONG] offset BACK)
        irate(http_requests_total[SHORT])
        increase(http_requests_total{job="web"}[LONG])
        delta(temperature_celsius[LONG])
        idelta(temperature_celsius[SHORT])
        deriv(temperature_celsius[LONG])
        predict_linear(temperature_celsius[LONG], 3600)
        resets(http_requests_total[LONG])
        changes(queue_length[LONG])
        avg_over_time(memory_bytes[SHORT])
        min_over_time(temperature_celsius[SHORT])
        max_over_time(temperature_celsius[LONG])
        sum_over_time(request_duration_seconds_sum[SHORT])
        count_over_time(http_requests_total[LONG])
        last_over_time(coming_and_going[LONG])
        present_over_time(coming_and_going[LONG])
        absent_over_time(no_such_metric{job="api"}[LONG])
        quantile_over_time(0.9, queue_length[LONG])
        stddev_over_time(memory_bytes[LONG])
        stdvar_over_time(queue_length[SHORT])
    """),
    # Aggregations.
    *_expressions("""
        sum(queue_length)
        min by (job) (memory_bytes)
        max without (instance) (memory_bytes)
        count without (code, method) (http_requests_total)
        group by (version) (build_info)
        topk(3, memory_bytes)
        bottomk by (job) (1, memory_bytes)
        quantile(0.5, queue_length)
        count_values("length", queue_length)
        max(http_requests_total) by (code)
    """),
    *_expressions(
        """
        sum by (job) (rate(http_requests_total[SHORT]))
        avg without (instance) (memory_bytes)
        stddev by (job) (memory_bytes)
        stdvar(temperature_celsius)
        sum(irate(request_duration_seconds_sum[LONG])) by (job, instance)
        """,
        SUMS,
    ),
    # Joins and sets.
    *_expressions("""
        memory_bytes / on (job, instance) limit_bytes
        memory_bytes * on (job) group_left (team) owner
        http_requests_total{code="500"} / ignoring (code) http_requests_total{code="200"}
        http_requests_total / on (instance) group_left count by (instance) (http_requests_total)
        queue_length and on (queue) (queue_length > 5)
        memory_bytes or temperature_celsius
        http_requests_total unless on (instance) (alive == 0)
        queue_length > bool 4
        memory_bytes{job="api"} > 2 * 100e6
        (queue_length % 3) ^ 2 - 1
    """),
    # Subqueries.
    *_expressions("""
        max_over_time(rate(http_requests_total[SHORT])[LONG:SUB])
        avg_over_time(queue_length[LONG:])
        min_over_time(deriv(temperature_celsius[SHORT])[LONG:SUB] offset BACK)
        quantile_over_time(0.5, (queue_length > 2)[LONG:SUB])
        count_over_time(coming_and_going[LONG:SUB] @ MIDDLE)
        changes(sum by (job) (alive)[LONG:SUB])
    """),
    # Time shifted and pinned.
    *_expressions("""
        memory_bytes offset BACK
        memory_bytes offset -BACK
        rate(http_requests_total[SHORT] offset -BACK)
        queue_length @ start()
        queue_length @ end()
        rate(http_requests_total[SHORT] @ MIDDLE)
        temperature_celsius - temperature_celsius @ MIDDLE
        queue_length @ MIDDLE offset BACK
        timestamp(memory_bytes)
        time() - process_start_time_seconds
        hour(timestamp(alive))
    """),
    # Classic histograms.
    *_expressions("""
        histogram_quantile(0.9, rate(request_duration_seconds_bucket[LONG]))
        rate(request_duration_seconds_sum[LONG]) / rate(request_duration_seconds_count[LONG])
    """),
    *_expressions(
        "histogram_quantile(0.5, sum by (le) (rate(request_duration_seconds_bucket[LONG])))", SUMS
    ),
    # Labels and scalars.
    *_expressions(r"""
        label_replace(memory_bytes, "number", "$1", "instance", ".*-(\\d+)")
        label_join(build_info, "all", "/", "job", "instance", "version")
        absent(no_such_metric{job="api", zone=~"x"})
        vector(scalar(queue_length{queue="a"}))
        scalar(temperature_celsius{room="cellar"})
        round(clamp(temperature_celsius, -5, 20), 0.5)
    """),
    # Staleness, gaps, and values that are no ordinary numbers.
    *_expressions("""
        coming_and_going
        count(coming_and_going)
        build_info
        alive
        odd_value
        odd_value == odd_value
        1 / odd_value
        -odd_value
        sum_over_time(odd_value[SHORT])
        min_over_time(odd_value[SHORT])
        max_over_time(odd_value[LONG])
        rate(odd_value[SHORT])
        count_over_time(odd_value[LONG])
    """),
    # Range vectors themselves show every sample with its own time.
    *_expressions(
        """
        http_requests_total[SHORT]
        coming_and_going[LONG]
        odd_value[SHORT]
        build_info[LONG] offset BACK
        queue_length[LONG:SUB]
        {__name__=~".+"}[SHORT]
        """,
        INSTANT,
    ),
    *_expressions(
        """
        sort(memory_bytes)
        sort_desc(temperature_celsius)
        """,
        INSTANT | SORTED,
    ),
    # Names that only quotes can write.
    *_expressions(
        """
        {"weather.temperature"}
        {"weather.temperature", "city.name"=~"K.*"}
        rate({"weather.rain/total", "größe"!=""}[SHORT])
        max by ("city.name") ({"weather.temperature"})
        {"city.name"!=""}
        """,
        UTF8,
    ),
)


@dataclass(frozen=True)
class Evaluation:
    """When an expression is evaluated: at one instant, or at each step of a range."""

    start_s: float
    end_s: float | None = None
    step_s: float = 0.0

    def __str__(self) -> str:
        if self.end_s is None:
            return f"at {self.start_s:.3f}"
        return f"from {self.start_s:.3f} to {self.end_s:.3f} by {self.step_s:g} s"


@dataclass(frozen=True)
class Answer:
    """What a server answered.

    Attributes:
        kind: vector, matrix, scalar or string.
        series: labels to (time, value) texts as the server printed them.
        order: the labels in the server's order.
    """

    kind: str
    series: dict[Labels, list[tuple[str, str]]]
    order: list[Labels] = field(default_factory=list)
    warnings: tuple[str, ...] = ()

    @property
    def sample_count(self) -> int:
        """Samples in all."""
        return sum(len(samples) for samples in self.series.values())


class QueryError(Exception):
    """A server did not answer a query with success."""


def query(url: str, text: str, when: Evaluation, timeout_s: float = 60.0) -> Answer:
    """Evaluates PromQL on the server at `url`."""
    if when.end_s is None:
        path, form = "query", {"query": text, "time": f"{when.start_s:.3f}"}
    else:
        path = "query_range"
        form = {
            "query": text,
            "start": f"{when.start_s:.3f}",
            "end": f"{when.end_s:.3f}",
            "step": f"{when.step_s:g}",
        }
    document = _ask(f"{url}/api/v1/{path}", form, timeout_s)
    data = document["data"]
    kind = data["resultType"]
    if kind in {"scalar", "string"}:
        time, value = data["result"]
        return Answer(kind, {(): [(time, value)]}, [()], _warnings(document))
    series: dict[Labels, list[tuple[str, str]]] = {}
    order: list[Labels] = []
    for entry in data["result"]:
        labels = _labels(entry["metric"])
        if labels in series:
            raise QueryError(f"{text}: {labels} is in the answer twice")
        points = [entry["value"]] if kind == "vector" else entry["values"]
        series[labels] = [(time, value) for time, value in points]
        order.append(labels)
    return Answer(kind, series, order, _warnings(document))


def fetch_series(
    url: str, matchers: Sequence[str], start_s: float, end_s: float, timeout_s: float = 60.0
) -> tuple[set[Labels], tuple[str, ...]]:
    """What `/api/v1/series` lists, and its warnings."""
    form = [("match[]", matcher) for matcher in matchers]
    form += [("start", f"{start_s:.3f}"), ("end", f"{end_s:.3f}")]
    document = _ask(f"{url}/api/v1/series", form, timeout_s)
    return {_labels(labels) for labels in document["data"]}, _warnings(document)


def _ask(url: str, form: Any, timeout_s: float) -> Any:
    reply = fetch(
        "POST",
        url,
        urllib.parse.urlencode(form).encode(),
        {"Content-Type": "application/x-www-form-urlencoded"},
        timeout_s,
    )
    if reply.status != http.client.OK:
        raise QueryError(f"{form}: {reply.status} {reply.body.decode(errors='replace')}")
    # Numbers stay the texts that the server wrote.
    return json.loads(reply.body, parse_float=str, parse_int=str)


def _labels(metric: dict[str, str]) -> Labels:
    return tuple(sorted(metric.items()))


def _warnings(document: dict[str, Any]) -> tuple[str, ...]:
    return tuple(document.get("warnings") or ())


def compare(expected: Answer, found: Answer, traits: Trait = PLAIN) -> list[str]:
    """What differs between two answers, a line each, not more than DIFFERENCES_MAX."""
    lines = [f"warning: {warning}" for warning in (*expected.warnings, *found.warnings)]
    if lines:
        return lines  # a part of the data is missing, so what else differs says nothing
    if expected.kind != found.kind:
        lines.append(f"a {expected.kind} expected, a {found.kind} found")
        return lines
    lines += [f"missing: {show(labels)}" for labels in expected.series.keys() - found.series.keys()]
    lines += [f"extra: {show(labels)}" for labels in found.series.keys() - expected.series.keys()]
    for labels in expected.order:
        if labels in found.series:
            lines += _compare_samples(
                labels, expected.series[labels], found.series[labels], bool(traits & SUMS)
            )
    if traits & SORTED and not lines and expected.order != found.order:
        lines.append(
            f"order: {[*map(show, expected.order)]} expected, {[*map(show, found.order)]} found"
        )
    if len(lines) > DIFFERENCES_MAX:
        lines[DIFFERENCES_MAX:] = [f"and {len(lines) - DIFFERENCES_MAX} more"]
    return lines


def _compare_samples(
    labels: Labels,
    expected: Iterable[tuple[str, str]],
    found: Iterable[tuple[str, str]],
    is_sum: bool,
) -> list[str]:
    lines = []
    for left, right in zip_longest(expected, found):
        if left == right:
            continue
        if left is None or right is None or left[0] != right[0]:
            # What follows is shifted against each other, and says nothing more.
            lines.append(f"{show(labels)}: {_show(left)} expected, {_show(right)} found")
            break
        if is_sum and math.isclose(
            float(left[1]), float(right[1]), rel_tol=TOLERANCE_RATIO, abs_tol=0.0
        ):
            continue
        lines.append(f"{show(labels)} at {left[0]}: {left[1]} expected, {right[1]} found")
    return lines


def show(labels: Labels) -> str:
    """A label set as PromQL writes it."""
    return "{" + ", ".join(f"{name}={value!r}" for name, value in labels) + "}"


def _show(sample: tuple[str, str] | None) -> str:
    return "no further sample" if sample is None else f"{sample[1]} at {sample[0]}"


@dataclass
class Recording:
    """What one server answered to the expressions, to be compared with others later.

    Args:
        scale: what the expressions' words stand for.
        instants: for every expression.
        ranges: for every expression that can be one.
        left_out: expressions with one of these traits are not asked.
    """

    scale: Scale
    instants: Sequence[Evaluation]
    ranges: Sequence[Evaluation]
    left_out: Trait = PLAIN
    answers: dict[tuple[Expression, Evaluation], Answer] = field(default_factory=dict)

    def record(self, url: str) -> None:
        """Asks the server that holds the data; fails where an answer proves nothing."""
        failures = []
        for expression in EXPRESSIONS:
            if expression.traits & self.left_out:
                continue
            counts = [0, 0]
            for is_range, evaluations in enumerate((self.instants, self.ranges)):
                if is_range and expression.traits & INSTANT:
                    continue
                for when in evaluations:
                    answer = query(url, self.scale.apply(expression.text), when)
                    self.answers[expression, when] = answer
                    counts[is_range] += answer.sample_count
                    failures += [f"{expression.text}: warning: {text}" for text in answer.warnings]
                if evaluations and (counts[is_range] == 0) != bool(expression.traits & EMPTY):
                    name = "range" if is_range else "instant"
                    failures.append(f"{expression.text}: {counts[is_range]} samples as {name}")
        assert not failures, "expressions that prove nothing:\n" + "\n".join(failures)

    def differences(self, url: str, part: slice = slice(None)) -> list[str]:
        """What another server answers otherwise, to all of it or to a part."""
        lines = []
        for (expression, when), expected in list(self.answers.items())[part]:
            text = self.scale.apply(expression.text)
            try:
                found = query(url, text, when)
            except QueryError as error:
                lines.append(f"{text} {when}\n    {error}")
                continue
            lines += [
                f"{text} {when}\n    {difference}"
                for difference in compare(expected, found, expression.traits)
            ]
        return lines
