"""How far answers out of rollups are off, as a table and as pictures, for docs/resolutions.md.

    python -m benchmarks.resolutions [--images docs/images]

The made days, the servers and the expressions are those of the differential suite
(`tests/differential/read_*.py`): a Prometheus that has every sample beside one that reads through
the bridge.
"""

import argparse
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np

from tests.differential.comparing import EQUAL_RATIO, EXACT, F64Array, Points, judge, points_of
from tests.differential.read_cases import CASES, apply
from tests.differential.read_sites import (
    DAY_S,
    END_S,
    FIVE_MINUTES_S,
    HOUR_S,
    SITES,
    START_S,
    Grade,
)
from tests.differential.read_world import World
from tests.integration.promql import Evaluation, query

MAJOR = 3
WIDTH, HEIGHT, LOWER, MARGIN, TOP = 760, 170, 60, 66, 34
RAW_COLOUR, BRIDGE_COLOUR, GRID_COLOUR = "#9aa5b1", "#d9480f", "#e4e7eb"


@dataclass(frozen=True)
class Picture:
    """A query whose two answers are drawn over each other.

    Args:
        name: of the file.
        title: above it.
        text: PromQL that gives one series.
        when: the evaluation.
    """

    name: str
    title: str
    text: str
    when: Evaluation


PICTURES = (
    Picture(
        "increase-60d",
        "increase(requests_total[1d]), a crash loop, 60 days by 12 h: rollups of 1h are exact",
        'increase(requests_total{kind="resets", instance="b"}[1d])',
        Evaluation(START_S + DAY_S, END_S, 12 * HOUR_S),
    ),
    Picture(
        "value-1h-by-5m",
        "memory_bytes, 12 hours by 5 m of which only rollups of 1h are left",
        'memory_bytes{kind="steady", instance="b"}',
        Evaluation(START_S + 9 * DAY_S, START_S + 9.5 * DAY_S, 300),
    ),
    Picture(
        "rate-off-the-windows",
        "rate(requests_total[90m]), 4 days by 1 h: rollups of 1h until day 20, then of 5m",
        'rate(requests_total{kind="resets", instance="a"}[90m])',
        Evaluation(FIVE_MINUTES_S - 2 * DAY_S, FIVE_MINUTES_S + 2 * DAY_S, HOUR_S),
    ),
    Picture(
        "quantile-40d",
        "quantile_over_time(0.9, memory_bytes[1d]), 60 days by 12 h: raw in the last 20",
        'quantile_over_time(0.9, memory_bytes{kind="spikes"}[1d])',
        Evaluation(START_S + 12 * HOUR_S, END_S, 12 * HOUR_S),
    ),
)


# The table


def table(world: World) -> Iterator[str]:
    """Markdown: a row a topic; of each grade how many points are equal, and how far off others."""
    pair = world.pair(MAJOR)
    grades = (Grade.FINE, Grade.ROUGH)
    yield "| | " + " | ".join(f"{grade.value}: equal | 99 % within" for grade in grades) + " |"
    yield "|---|" + "---|" * 2 * len(grades)
    for topic in dict.fromkeys(case.topic for case in CASES):
        errors: dict[Grade, list[F64Array]] = {grade: [np.zeros(0)] for grade in Grade}
        for case in CASES:
            for site in SITES if case.topic == topic else ():
                text = apply(case.text, site)
                expected, found = (
                    query(server.url, text, site.when) for server in (pair.truth, pair.reader)
                )
                errors[site.grade].append(judge(expected, found, EXACT).errors)
        cells = (_cells(np.concatenate(errors[grade])) for grade in grades)
        yield f"| {topic} | " + " | ".join(cells) + " |"


def _cells(errors: F64Array) -> str:
    equal = float((errors <= EQUAL_RATIO).mean())
    if equal == 1.0:
        return "all | -"
    # NaN on one side alone is infinitely far off, which no interpolation can bear.
    within = float(np.quantile(errors, 0.99, method="higher"))
    if within <= EQUAL_RATIO:
        return f"{equal:.1%} | equal"
    return f"{equal:.1%} | {'NaN lost' if np.isinf(within) else f'{within:.2%}'}"


# The pictures


def draw(picture: Picture, world: World) -> str:
    """The picture as SVG: both answers above, their difference below."""
    pair = world.pair(MAJOR)
    raw, bridge = (
        _only(points_of(query(server.url, picture.text, picture.when)).values())
        for server in (pair.truth, pair.reader)
    )
    times, here, there = np.intersect1d(raw.times_ms, bridge.times_ms, return_indices=True)
    off = Points(times, bridge.values[there] - raw.values[here])
    start_ms, end_ms = raw.times_ms[0], raw.times_ms[-1]
    both = np.concatenate([raw.values, bridge.values])
    upper = _Panel(start_ms, end_ms, float(both.min()), float(both.max()), TOP, HEIGHT)
    reach = max(float(np.abs(off.values).max()), 1e-9 * float(np.abs(both).max()))
    lower = _Panel(start_ms, end_ms, -reach, reach, TOP + HEIGHT + 24, LOWER)
    full = TOP + HEIGHT + 24 + LOWER + 26
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {full}">',
            '<g font-family="sans-serif" font-size="11" fill="#3e4c59">',
            f'<rect width="{WIDTH}" height="{full}" fill="#ffffff"/>',
            f'<text x="{MARGIN}" y="18" font-size="13">{escape(picture.title)}</text>',
            *upper.frame(),
            upper.line(raw, RAW_COLOUR, 3.0),
            upper.line(bridge, BRIDGE_COLOUR, 1.2),
            f'<text x="{WIDTH - 124}" y="18" fill="{RAW_COLOUR}">raw samples</text>',
            f'<text x="{WIDTH - 50}" y="18" fill="{BRIDGE_COLOUR}">bridge</text>',
            *lower.frame(),
            lower.line(off, BRIDGE_COLOUR, 1.2),
            f'<text x="{MARGIN + 4}" y="{lower.top + 12}">difference</text>',
            f'<text x="{MARGIN}" y="{full - 8}">{_day(start_ms)}</text>',
            f'<text x="{WIDTH - 16}" y="{full - 8}" text-anchor="end">{_day(end_ms)}</text>',
            "</g></svg>\n",
        ]
    )


def _only(series: Iterable[Points]) -> Points:
    (only,) = series
    return only


def _day(time_ms: int) -> str:
    return str(np.datetime64(int(time_ms), "ms").astype("datetime64[m]")).replace("T", " ")


@dataclass(frozen=True)
class _Panel:
    """A box with axes: time from left to right, values from `low` to `high` upwards."""

    start_ms: int
    end_ms: int
    low: float
    high: float
    top: int
    height: int

    def frame(self) -> Iterator[str]:
        for share in (0.0, 0.5, 1.0):
            y = self.top + self.height * (1 - share)
            value = self.low + share * (self.high - self.low)
            yield (
                f'<line x1="{MARGIN}" x2="{WIDTH - 16}" y1="{y:.1f}" y2="{y:.1f}" '
                f'stroke="{GRID_COLOUR}"/>'
            )
            yield f'<text x="{MARGIN - 5}" y="{y + 4:.1f}" text-anchor="end">{value:.3g}</text>'

    def line(self, points: Points, colour: str, width: float) -> str:
        across = (points.times_ms - self.start_ms) / max(self.end_ms - self.start_ms, 1)
        up = (points.values - self.low) / ((self.high - self.low) or 1.0)
        x = MARGIN + across * (WIDTH - 16 - MARGIN)
        y = self.top + self.height * (1 - up)
        places = " ".join(f"{left:.1f},{below:.1f}" for left, below in zip(x, y, strict=True))
        return (
            f'<polyline fill="none" stroke="{colour}" stroke-width="{width:g}" '
            f'stroke-linejoin="round" points="{places}"/>'
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, default=Path("docs/images"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, World(Path(folder), [MAJOR]) as world:
        options.images.mkdir(parents=True, exist_ok=True)
        for picture in PICTURES:
            (options.images / f"{picture.name}.svg").write_text(draw(picture, world))
        print("\n".join(table(world)))


if __name__ == "__main__":
    main()
