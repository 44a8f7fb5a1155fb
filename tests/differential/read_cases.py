"""What is asked, and how far the answer may be from the truth.

In the expressions stand as words

    COUNTER GAUGE          series that are there all the time
    BROKEN_COUNTER BROKEN_GAUGE   those that begin, end, and have holes
    MIDDLE                 an instant for `@`
    NEAR                   a range that holds every window that an evaluation can see a sample of
"""

from dataclasses import dataclass, replace

from tests.differential.comparing import EXACT, Bound
from tests.differential.read_sites import DAY_S, RAW_S, Grade, Site


@dataclass(frozen=True)
class Case:
    """An expression.

    Args:
        text: PromQL with words.
        topic: its row in the documentation.
        fine: how far answers may be off at FINE sites.
        rough: the same at ROUGH sites; None where the answer may be any.
    """

    text: str
    topic: str
    fine: Bound = EXACT
    rough: Bound | None = None

    def bound(self, site: Site) -> Bound | None:
        """What holds at a site."""
        return {Grade.RAW: EXACT, Grade.FINE: self.fine, Grade.ROUGH: self.rough}[site.grade]


def apply(text: str, site: Site) -> str:
    """The expression that a server understands."""
    for word, meaning in (
        ("BROKEN_COUNTER", 'requests_total{kind=~"short|holes"}'),
        ("BROKEN_GAUGE", 'memory_bytes{kind=~"short|holes"}'),
        ("COUNTER", 'requests_total{kind!~"short|holes"}'),
        ("GAUGE", 'memory_bytes{kind!~"short|holes"}'),
        ("MIDDLE", f"{RAW_S - DAY_S:.0f}"),
        ("NEAR", site.near),
    ):
        text = text.replace(word, meaning)
    return text


# Bounds


def _ratio(ratio: float, *, is_nan_lost: bool = False) -> Bound:
    return Bound(ratio, is_nan_lost=is_nan_lost)


def _near(selector: str) -> Bound:
    """A value that the series has in a window that an evaluation can see a sample of."""
    return Bound(
        low=f"min_over_time({selector}NEAR)",
        high=f"max_over_time({selector}NEAR)",
        is_nan_lost=True,
    )


def _wide(selector: str, minutes: int, shift: int = 0) -> str:
    """A range vector an hour longer on both sides than one of `minutes`, and by the lookback."""
    return f"{selector}[{minutes + 125}m] offset {shift - 60}m"


def _within(selector: str, minutes: int, shift: int = 0) -> Bound:
    """A value that the series has in a range, or an hour before or behind it."""
    wide = _wide(selector, minutes, shift)
    return Bound(low=f"min_over_time({wide})", high=f"max_over_time({wide})", is_nan_lost=True)


def _inner(function: str, selector: str, minutes: int, *, is_growing: bool) -> Bound:
    """Between what a function gives for a range an hour longer and an hour shorter on both sides.

    Args:
        function: of a range vector.
        selector: of its series.
        minutes: more than two hours.
        is_growing: whether it gives more for a longer range.
    """
    shorter = f"{function}({selector}[{minutes - 125}m] offset 65m)"
    longer = f"{function}({_wide(selector, minutes)})"
    low, high = (shorter, longer) if is_growing else (longer, shorter)
    return Bound(0.05, low, high, is_nan_lost=True)


def _plus_minus(text: str, off: str) -> Bound:
    """Off by not more than what `off` gives."""
    return Bound(low=f"{text} - {off}", high=f"{text} + {off}", is_nan_lost=True)


def _swing(selector: str, minutes: int) -> str:
    """Between the least and the greatest value of a range, and an hour on both sides."""
    wide = _wide(selector, minutes)
    return f"(max_over_time({wide}) - min_over_time({wide}))"


def _of_each(aggregation: str, selector: str) -> Bound:
    """What an aggregation that grows with its values makes of the least and of the greatest."""
    low, high = (
        f"{aggregation} ({extreme}_over_time({selector}NEAR) and {selector})"
        for extreme in ("min", "max")
    )
    return Bound(low=low, high=high, is_nan_lost=True)


# Expressions


def _cases(
    topic: str, text: str, fine: Bound = EXACT, rough: Bound | None = None
) -> tuple[Case, ...]:
    """One expression a line."""
    return tuple(Case(line.strip(), topic, fine, rough) for line in text.strip().splitlines())


_STEADY = 'memory_bytes{kind="steady"}'
_SMOOTH = 'memory_bytes{kind=~"steady|irregular"}'
_IRATES = "irate({}[5m])[125m:1m] offset -1h"
_NUMBER = 'memory_bytes{kind!="nan"}'
_WEB = 'memory_bytes{job="web"}'

RATES = (
    *_cases(
        "rate, increase",
        """
        rate(COUNTER[1h])
        rate(COUNTER[1d])
        increase(COUNTER[6h])
        increase(COUNTER[1d])
        rate(COUNTER[1h] offset 1d)
        rate(COUNTER[6h] @ MIDDLE)
        sum by (job) (rate(requests_total[1h]))
        sum by (kind) (increase(requests_total{kind!="short"}[1d]))
        rate(latency_seconds_sum[1h]) / rate(latency_seconds_count[1h])
        """,
        rough=_ratio(0.07),
    ),
    *_cases(
        "rate, increase: series with ends and holes",
        """
        rate(BROKEN_COUNTER[1h])
        increase(BROKEN_COUNTER[6h])
        rate(BROKEN_COUNTER[1d])
        sum by (kind) (increase(requests_total[1d]))
        """,
        rough=_ratio(0.08),
    ),
    *_cases(
        "rate, increase: ranges that begin or end inside windows",
        """
        rate(COUNTER[90m])
        rate(COUNTER[100m])
        rate(COUNTER[37m])
        increase(COUNTER[450m])
        rate(COUNTER[1h] offset 17m)
        increase(BROKEN_COUNTER[100m])
        """,
        fine=_ratio(0.1),
        rough=_ratio(0.1),
    ),
    *_cases(
        "histogram_quantile of rates",
        """
        histogram_quantile(0.9, rate(latency_seconds_bucket[1h]))
        histogram_quantile(0.5, sum by (le) (rate(latency_seconds_bucket[1d])))
        """,
        rough=_ratio(0.001),
    ),
    *(
        Case(f"irate({selector}[{length}])", "irate", bound, bound)
        for selector, length in (("COUNTER", "1h"), ("COUNTER", "1d"), ("BROKEN_COUNTER", "1h"))
        for irates in (_IRATES.format(selector),)
        # Just behind a reset it may be as little as nothing.
        for bound in (Bound(low=f"0 * max_over_time({irates})", high=f"max_over_time({irates})"),)
    ),
    *(
        Case(
            f"rate(COUNTER[{length}])", "rate, increase: ranges shorter than windows", bound, bound
        )
        for length in ("5m",)
        for rates in (f"rate(COUNTER[{length}])[125m:1m] offset -1h",)
        for bound in (Bound(0.3, f"min_over_time({rates})", f"max_over_time({rates})"),)
    ),
    Case(
        "resets(COUNTER[1h])",
        "resets",
        rough=Bound(low="0 * resets(COUNTER[1h])", high=f"resets({_wide('COUNTER', 60)})"),
    ),
    *(
        Case(
            f"resets({selector}[{minutes}m])",
            "resets",
            rough=_inner("resets", selector, minutes, is_growing=True),
        )
        for selector, minutes in (("COUNTER", 1440), ("BROKEN_COUNTER", 360))
    ),
)

DIFFERENCES = (
    *(
        Case(
            f"delta({selector}[{minutes}m])",
            "delta",
            # Both ends may be off.
            rough=_plus_minus(f"delta({selector}[{minutes}m])", f"2 * {_swing(selector, minutes)}"),
        )
        for selector, minutes in (("GAUGE", 60), ("GAUGE", 1440), ("BROKEN_GAUGE", 360))
    ),
    *(
        Case(text, "deriv, predict_linear", bound, bound)
        for selector, length, seconds, off in (
            (_STEADY, "6h", 21600, 0.3),
            (_STEADY, "1d", 86400, 0.3),
        )
        for text in (f"deriv({selector}[{length}])",)
        for bound in (
            _plus_minus(text, f"{off} * stddev_over_time({selector}[{length}]) / {seconds}"),
        )
    ),
    *_cases(
        "deriv, predict_linear",
        f"predict_linear({_SMOOTH}[6h], 3600)",
        fine=_ratio(0.06),
        rough=_ratio(0.06),
    ),
    *(
        Case("idelta(GAUGE[1h])", "idelta", bound, bound)
        for swing in (_swing("GAUGE", 0),)
        for bound in (Bound(low=f"-{swing}", high=swing, is_nan_lost=True),)
    ),
)

AGGREGATES = (
    *(
        Case(
            f"{function}_over_time({selector}[{minutes}m])",
            "min, max, last_over_time",
            rough=_inner(f"{function}_over_time", selector, minutes, is_growing=function == "max"),
        )
        for function, selector, minutes in (
            ("max", "GAUGE", 1440),
            ("min", "ratio", 1440),
            ("max", _SMOOTH, 360),
        )
    ),
    Case("min_over_time(GAUGE[1h])", "min, max, last_over_time", rough=_within("GAUGE", 60)),
    Case(
        "max_over_time(BROKEN_GAUGE[6h])",
        "min, max, last_over_time",
        rough=_within("BROKEN_GAUGE", 360),
    ),
    *(
        Case(
            text,
            "over_time: ranges that begin or end inside windows",
            _within(selector, minutes),
            _within(selector, minutes),
        )
        for text, selector, minutes in (
            ("max_over_time(GAUGE[90m])", "GAUGE", 90),
            ("min_over_time(BROKEN_GAUGE[100m])", "BROKEN_GAUGE", 100),
            ("avg_over_time(GAUGE[100m])", "GAUGE", 100),
        )
    ),
    *(
        Case(
            f"{function}_over_time(GAUGE[5m])",
            "over_time: ranges shorter than windows",
            _near("GAUGE"),
            _near("GAUGE"),
        )
        for function in ("max", "avg")
    ),
    *(
        Case(f"last_over_time({selector}[{length}])", "min, max, last_over_time", rough=bound)
        for selector, length, bound in (
            ("GAUGE", "1h", _near("GAUGE")),
            ("slow_bytes", "1d", _near("slow_bytes")),
            ("BROKEN_GAUGE", "6h", _within("BROKEN_GAUGE", 360)),
        )
    ),
    *_cases(
        "sum, avg, count_over_time",
        f"""
        sum_over_time({_SMOOTH}[1h])
        sum_over_time(BROKEN_GAUGE[1d])
        avg_over_time({_SMOOTH}[1h])
        avg_over_time({_SMOOTH}[1d])
        avg_over_time(up[1d])
        avg_over_time(BROKEN_GAUGE[6h])
        count_over_time(GAUGE[1h])
        count_over_time(requests_total[1d])
        count_over_time(BROKEN_GAUGE[6h])
        present_over_time(BROKEN_GAUGE[6h])
        """,
        rough=_ratio(0.15),
    ),
    Case(
        "count_over_time(BROKEN_GAUGE[100m])",
        "over_time: ranges that begin or end inside windows",
        _ratio(0.15),
        _ratio(0.15),
    ),
    *(
        Case(
            f"{function}_over_time({selector}[{minutes}m])",
            "sum, avg, count_over_time",
            rough=bound,
        )
        for function, selector, minutes, bound in (
            ("sum", "ratio", 360, _inner("sum_over_time", "ratio", 360, is_growing=True)),
            ("sum", "GAUGE", 360, _inner("sum_over_time", "GAUGE", 360, is_growing=True)),
            ("avg", "GAUGE", 60, _within("GAUGE", 60)),
            ("avg", "GAUGE", 1440, _within("GAUGE", 1440)),
        )
    ),
    *(
        Case(f"quantile_over_time(0.9, {selector}[6h])", "quantile_over_time", bound, bound)
        for selector, bound in ((_STEADY, _ratio(0.1)), ("GAUGE", _within("GAUGE", 360)))
    ),
    *_cases(
        "stddev, stdvar_over_time",
        f"""
        stddev_over_time({_STEADY}[6h])
        stdvar_over_time({_STEADY}[1d])
        """,
        fine=_ratio(0.45),
        rough=_ratio(0.45),
    ),
    *(
        Case("stddev_over_time(GAUGE[6h])", "stddev, stdvar_over_time", bound, bound)
        for swing in (_swing("GAUGE", 360),)
        for bound in (Bound(low=f"0 * {swing}", high=swing, is_nan_lost=True),)
    ),
    *(
        Case(f"changes({selector}[{minutes}m])", "changes", bound, bound)
        for selector, minutes in (("replicas", 1440), ("up", 360))
        for changes in (f"changes({_wide(selector, minutes)})",)
        for bound in (Bound(low=f"0 * {changes}", high=f"{changes} + 2"),)
    ),
    *_cases(
        "absent_over_time",
        """
        absent_over_time(requests_total{instance="pod-07"}[1h])
        absent_over_time(memory_bytes{instance="none"}[1h])
        """,
        rough=EXACT,
    ),
)

VALUES = (
    *(
        Case(selector, "plain values", rough=_near(selector))
        for selector in (
            "GAUGE",
            "BROKEN_GAUGE",
            "BROKEN_COUNTER",
            "up",
            "replicas",
            "slow_bytes",
            "ratio",
        )
    ),
    *_cases(
        "plain values",
        """
        build_info
        memory_bytes @ MIDDLE
        absent(requests_total{instance="pod-11"})
        """,
        rough=EXACT,
    ),
    Case(
        'requests_total{kind="resets"}',
        "plain values",
        rough=Bound(
            low='0 * requests_total{kind="resets"}',
            high='max_over_time(requests_total{kind="resets"}NEAR)',
        ),
    ),
    Case(
        'memory_bytes{kind="nan"} == memory_bytes{kind="nan"}',
        "plain values",
        # Where there is a NaN near.
        rough=replace(
            _near('memory_bytes{kind="nan"}'),
            elsewhere='memory_bytes{kind="nan"} '
            'unless sum_over_time(memory_bytes{kind="nan"}NEAR) > 0',
        ),
    ),
    Case("GAUGE offset 1d", "plain values", rough=_within("GAUGE", 0, 1440)),
    Case(
        "GAUGE offset 23m",
        "plain values inside windows",
        _within("GAUGE", 0, 23),
        _within("GAUGE", 0, 23),
    ),
    Case(
        f"{_SMOOTH} > bool 1e6",
        "plain values",
        rough=Bound(
            low=f"min_over_time({_SMOOTH}NEAR) > bool 1e6",
            high=f"max_over_time({_SMOOTH}NEAR) > bool 1e6",
        ),
    ),
    Case("timestamp(GAUGE)", "timestamp", rough=_plus_minus("timestamp(GAUGE)", "300")),
    *(
        Case(f"{aggregation} ({selector})", "aggregations", rough=_of_each(aggregation, selector))
        for aggregation, selector in (
            ("sum by (job)", _NUMBER),
            ("avg by (kind)", "memory_bytes"),
            ("min", _NUMBER),
            ("max by (kind)", _NUMBER),
        )
    ),
    Case(
        f"quantile(0.5, {_NUMBER})",
        "aggregations",
        rough=Bound(
            low=f"quantile(0.5, min_over_time({_NUMBER}NEAR) and {_NUMBER})",
            high=f"quantile(0.5, max_over_time({_NUMBER}NEAR) and {_NUMBER})",
        ),
    ),
    *_cases(
        "aggregations",
        """
        count by (job) (memory_bytes)
        count(up == 1)
        group by (version) (build_info)
        """,
        rough=EXACT,
    ),
    Case(
        "stddev by (kind) (memory_bytes)",
        "aggregations",
        rough=Bound(
            low="0 * max by (kind) (memory_bytes)",
            high="max by (kind) (max_over_time(memory_bytesNEAR)) "
            "- min by (kind) (min_over_time(memory_bytesNEAR))",
            is_nan_lost=True,
        ),
    ),
    # Which series these give hangs on the values: any, where those are not exact.
    *_cases(
        "aggregations",
        f"""
        topk(3, {_NUMBER})
        bottomk(2, {_NUMBER})
        count_values("n", replicas)
        """,
    ),
    *_cases("joins and sets", "COUNTER unless on (instance) (up == 0)"),
    Case(
        "memory_bytes and on (instance) (up == 1)",
        "joins and sets",
        rough=_near("memory_bytes"),
    ),
    Case(
        f"{_WEB} / on (instance) group_left limit_bytes",
        "joins and sets",
        rough=Bound(
            low=f"min_over_time({_WEB}NEAR) / on (instance) group_left limit_bytes",
            high=f"max_over_time({_WEB}NEAR) / on (instance) group_left limit_bytes",
            is_nan_lost=True,
        ),
    ),
    Case(
        "slow_bytes or up",
        "joins and sets",
        rough=Bound(
            low="min_over_time(slow_bytesNEAR) or min_over_time(upNEAR)",
            high="max_over_time(slow_bytesNEAR) or max_over_time(upNEAR)",
        ),
    ),
)

SUBQUERIES = (
    *_cases(
        "subqueries",
        f"""
        max_over_time(rate(COUNTER[1h])[6h:1h])
        max_over_time(sum(rate(requests_total[1h]))[6h:1h])
        avg_over_time(GAUGE[1d:1h])
        min_over_time(delta({_STEADY}[1h])[12h:1h])
        """,
        rough=_ratio(0.01),
    ),
    *_cases(
        "subqueries: evaluated inside windows",
        f"""
        max_over_time(sum(rate(requests_total[1h]))[1d:30m])
        max_over_time(rate(COUNTER[1h] offset 30m)[6h:1h])
        avg_over_time({_STEADY}[1d:7m])
        """,
        fine=_ratio(0.07),
        rough=_ratio(0.07),
    ),
    Case(
        "quantile_over_time(0.5, GAUGE[6h:10m])",
        "subqueries: evaluated inside windows",
        _within("GAUGE", 360),
        _within("GAUGE", 360),
    ),
)

CASES = RATES + DIFFERENCES + AGGREGATES + VALUES + SUBQUERIES
