"""How values of each kind move from scrape to scrape; what a store's compression is judged by.

- `constant`: a limit, a state, an info metric: one number for good
- `idle`: a counter that nothing moves
- `counter`: whole numbers, rates spread over six decades, a noisy rate
- `centisecond`: seconds in steps of 0.01, as the kernel counts CPU time
- `nanosecond`: seconds with nine decimals, as cgroups count CPU time
- `gauge`: whole numbers: bytes in pages of 4 KiB, or small counts, a random walk
- `decimal`: a random walk with one to three decimals
- `noise`: every bit of the mantissa in use: measured durations, clocks
"""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

F64Array: TypeAlias = NDArray[np.float64]
Waveform: TypeAlias = Callable[[np.random.Generator, int, int, float], F64Array]

PAGE_BYTES = 4096
AGE_S_MAX = 2e6
"""Counters of live targets have run for up to three weeks."""


def draw(
    kinds: NDArray[np.str_], scrape_count: int, interval_s: float, seed: int
) -> NDArray[np.float64]:
    """Values of a whole fleet.

    Args:
        kinds: (n_series,) names from `KINDS`.
        scrape_count: values per series.
        interval_s: time between two of them.
        seed: same seed, same values.

    Returns:
        (n_series, scrape_count) float64; counters never fall.
    """
    rng = np.random.default_rng(seed)
    values = np.empty((len(kinds), scrape_count))
    for kind, waveform in KINDS.items():
        rows = np.flatnonzero(kinds == kind)
        values[rows] = waveform(rng, len(rows), scrape_count, interval_s)
    return values


def _constant(rng: np.random.Generator, count: int, scrapes: int, _: float) -> F64Array:
    large = np.round(np.exp(rng.uniform(0, 25, count)))
    level = np.select([rng.random(count) < 0.25, rng.random(count) < 0.4], [large, 0.0], 1.0)
    return np.repeat(level[:, None], scrapes, axis=1)


def _idle(rng: np.random.Generator, count: int, scrapes: int, _: float) -> F64Array:
    moved_once = np.round(np.exp(rng.uniform(0, 14, count)))
    level = np.where(rng.random(count) < 0.4, moved_once, 0.0)
    return np.repeat(level[:, None], scrapes, axis=1)


def _counter(rng: np.random.Generator, count: int, scrapes: int, interval_s: float) -> F64Array:
    per_second = 10 ** rng.uniform(-2, 4.7, count)
    age_s = rng.uniform(0, AGE_S_MAX, count)
    load = np.clip(rng.normal(1, 0.15, (count, scrapes)), 0.2, 3)
    steps = rng.poisson(per_second[:, None] * load * interval_s)
    return np.round(per_second * age_s)[:, None] + np.cumsum(steps, axis=1)


def _seconds(per_second: float) -> Waveform:
    """A counter of seconds whose smallest step is 1 / per_second."""

    def waveform(rng: np.random.Generator, count: int, scrapes: int, interval_s: float) -> F64Array:
        busy_ratio = 10 ** rng.uniform(-4, 0, count)
        age_s = rng.uniform(0, AGE_S_MAX, count)
        load = rng.gamma(8, 1 / 8, (count, scrapes))
        steps = np.round(busy_ratio[:, None] * load * interval_s * per_second)
        start = np.round(busy_ratio * age_s * per_second)
        total: F64Array = (start[:, None] + np.cumsum(steps, axis=1)) / per_second
        return total

    return waveform


def _gauge(rng: np.random.Generator, count: int, scrapes: int, _: float) -> F64Array:
    is_memory = rng.random(count) < 0.7
    unit = np.where(is_memory, PAGE_BYTES, 1)
    level = np.where(is_memory, np.exp(rng.uniform(4, 16, count)), np.exp(rng.uniform(1, 7, count)))
    moves = rng.random((count, scrapes)) < rng.uniform(0.05, 1, count)[:, None]
    steps = np.round(rng.normal(0, 1, (count, scrapes)) * (0.6 + level / 100)[:, None]) * moves
    walk: F64Array = np.maximum(np.round(level)[:, None] + np.cumsum(steps, axis=1), 0)
    return walk * unit[:, None]


def _decimal(rng: np.random.Generator, count: int, scrapes: int, _: float) -> F64Array:
    scale = 10.0 ** rng.integers(1, 4, count)
    level = np.exp(rng.uniform(-1, 5, count)) * scale
    steps = np.round(rng.normal(0, 1, (count, scrapes)) * (0.5 + level * 0.03)[:, None])
    walk: F64Array = np.abs(np.round(level)[:, None] + np.cumsum(steps, axis=1))
    return walk / scale[:, None]


def _noise(rng: np.random.Generator, count: int, scrapes: int, _: float) -> F64Array:
    level = np.exp(rng.uniform(-9, 3, count))
    return np.abs(level[:, None] * rng.normal(1, 0.25, (count, scrapes)))


KINDS: dict[str, Waveform] = {
    "constant": _constant,
    "idle": _idle,
    "counter": _counter,
    "centisecond": _seconds(1e2),
    "nanosecond": _seconds(1e9),
    "gauge": _gauge,
    "decimal": _decimal,
    "noise": _noise,
}
