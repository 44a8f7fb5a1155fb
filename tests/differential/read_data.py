"""Sixty made-up days at a scrape a minute, in which everything happens that makes rollups hard.

Metrics, and of each the kinds of series:

    requests_total   counter     steady, resets, irregular, holes, short
    memory_bytes     gauge       steady, spikes, nan, irregular, holes, short
    latency_seconds  histogram   classic buckets, count and sum; one instance restarts
    replicas         gauge       small integers that seldom change
    up               gauge       1, and 0 for minutes or hours
    limit_bytes      gauge       constant, to be joined with
    build_info       gauge       constant 1; the label `version` changes with a stale marker
    slow_bytes       gauge       scraped every 10 minutes, less often than the lookback
    ratio            gauge       infinite now and then

A kind says how the series is scraped and what its values do:

    steady      on the full minute, where windows end; 17 s after it; 30 s after it with some jitter
    resets      a counter that starts anew about every 11 hours, or about every 25 minutes
    irregular   15 to 150 s apart
    spikes      one sample in 500 is 50 times as large
    nan         NaN now and then, or for minutes to hours
    holes       away for 7 minutes to days, with a stale marker or without
    short       lives of 40 minutes to 60 hours, most of which end in a stale marker

All of it is a function of the seed and of the series' labels, so that a series comes out the same
whatever else is there.
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tests.integration.made_data import label_set
from tests.integration.remote import NAN_BITS, STALE_BITS, Labels, WriteBody, make_body

I64Array = npt.NDArray[np.int64]
F64Array = npt.NDArray[np.float64]
U64Array = npt.NDArray[np.uint64]

MINUTE_MS = 60_000
HOUR_MS = 3_600_000
DAY_MS = 86_400_000
DAYS = 60
END_MS = 1_793_404_800_000  # 2026-10-31T00:00Z: of the lake, and the last sample of many series
START_MS = END_MS - DAYS * DAY_MS
SEED = 20260901
POD_COUNT = 40
BOUNDS = ("0.1", "0.25", "0.5", "1", "2.5", "+Inf")
BUCKET_RATIOS = (0.21, 0.52, 0.77, 0.93, 0.985, 1.0)
# About 45 MB of requests, 60 in number.
MS_PER_BODY = DAY_MS


@dataclass(frozen=True)
class MadeSeries:
    """One series.

    Attributes:
        labels: sorted by name.
        timestamps_ms: (n,) int64, Unix ms, strictly ascending, in (START_MS, END_MS].
        bits: (n,) uint64, the values' patterns.
    """

    labels: Labels
    timestamps_ms: I64Array
    bits: U64Array

    @property
    def kind(self) -> str:
        """What is hard about it."""
        return dict(self.labels).get("kind", "")


def made_series() -> list[MadeSeries]:
    """All series, sorted by labels."""
    made = [
        *_counters(),
        *_gauges(),
        *_pods(),
        *_histograms(),
        *_others(),
        *_builds(),
    ]
    return sorted(made, key=lambda series: series.labels)


def bodies(made: list[MadeSeries], start_ms: int = START_MS) -> Iterator[WriteBody]:
    """Remote-write requests in order of time, of what comes after an instant."""
    for after_ms in range(start_ms, END_MS, MS_PER_BODY):
        entries = []
        for series in made:
            first, last = np.searchsorted(
                series.timestamps_ms, [after_ms, after_ms + MS_PER_BODY], "right"
            )
            if first < last:
                times = series.timestamps_ms[first:last].tolist()
                patterns = series.bits[first:last].tolist()
                entries.append((series.labels, list(zip(times, patterns, strict=True))))
        yield make_body(1, entries)


# Times


def _random(labels: Labels) -> np.random.Generator:
    return np.random.default_rng([SEED, zlib.crc32(repr(labels).encode())])


def _every(step_ms: int, offset_ms: int = 0) -> I64Array:
    """Scrapes at a fixed distance; without an offset the last one is at END_MS."""
    first_ms = START_MS + (offset_ms or step_ms)
    return np.arange(first_ms, END_MS + 1, step_ms, dtype=np.int64)


def _jittered(random: np.random.Generator) -> I64Array:
    times = _every(MINUTE_MS, 30_000)
    return times + random.integers(-40, 40, times.size)


def _irregular(random: np.random.Generator) -> I64Array:
    gaps = random.integers(15_000, 150_000, DAYS * DAY_MS // 60_000)
    times = START_MS + np.cumsum(gaps)
    return times[times <= END_MS]


def _times(kind: str, instance: str, random: np.random.Generator) -> I64Array:
    if kind == "irregular":
        return _irregular(random)
    if instance == "a":
        return _every(MINUTE_MS)
    return _every(MINUTE_MS, 17_311) if instance == "b" else _jittered(random)


def _with_holes(
    times: I64Array, values: F64Array, random: np.random.Generator
) -> tuple[I64Array, U64Array]:
    """Holes of every length, about one in two days; before half of them a stale marker."""
    bits = values.view(np.uint64).copy()
    is_kept = np.ones(times.size, bool)
    lengths_ms = np.array([7, 12, 20, 55, 61, 180, 1560, 3600]) * MINUTE_MS
    at_ms = START_MS + DAY_MS
    while True:
        at_ms += int(random.integers(DAY_MS // 4, 3 * DAY_MS))
        length_ms = int(random.choice(lengths_ms))
        if at_ms + length_ms > END_MS - HOUR_MS:
            return times[is_kept], bits[is_kept]
        first, last = np.searchsorted(times, [at_ms, at_ms + length_ms])
        is_kept[first:last] = False
        if random.random() < 0.5 and first < last:
            is_kept[first] = True
            bits[first] = STALE_BITS
        at_ms += length_ms


# Values


def _daily(times: I64Array, shift_ms: int = 0) -> F64Array:
    """From -1 to 1, once a day."""
    return np.asarray(np.sin((times + shift_ms) * (2 * np.pi / DAY_MS)))


def _restarts(count: int, mean: float, random: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Which samples are the first of a new process, every `mean` samples."""
    is_first = random.random(count) < 1 / mean
    is_first[0] = True
    return is_first


def _count_up(
    times: I64Array,
    per_second: float,
    random: np.random.Generator,
    restarts: npt.NDArray[np.bool_] | None = None,
) -> F64Array:
    """A counter of whole numbers that begins anew at the restarts."""
    gaps_s = np.diff(times, prepend=times[0] - MINUTE_MS) / 1000
    steps = random.poisson(per_second * gaps_s * (1 + 0.6 * _daily(times)))
    total = np.cumsum(steps)
    if restarts is not None:
        starts = np.maximum.accumulate(np.where(restarts, np.arange(times.size), 0))
        total = total - total[starts] + steps[starts] // 3
    return total.astype(np.float64)


def _wave(times: I64Array, level: float, random: np.random.Generator) -> F64Array:
    """A gauge with a day, a slow drift, and noise."""
    drift = np.cumsum(random.normal(0, 0.002, times.size))
    noise = random.normal(0, 0.05, times.size)
    phase_ms = int(random.integers(DAY_MS))
    return np.round(level * (1 + 0.4 * _daily(times, phase_ms) + 0.1 * np.tanh(drift) + noise), 3)


def _runs(
    count: int, chance: float, most: int, random: np.random.Generator
) -> npt.NDArray[np.bool_]:
    """Runs of samples, up to `most` long, that begin with a chance."""
    is_in = np.zeros(count, bool)
    for first in np.flatnonzero(random.random(count) < chance).tolist():
        is_in[first : first + int(random.integers(1, most))] = True
    return is_in


def _with_nan(values: F64Array, instance: str, random: np.random.Generator) -> U64Array:
    bits = values.view(np.uint64).copy()
    if instance == "a":
        bits[random.random(values.size) < 0.02] = NAN_BITS
    else:
        bits[_runs(values.size, 1 / 2000, 600, random)] = NAN_BITS
    return bits


# Series


def _counters() -> Iterator[MadeSeries]:
    for kind, instance in (
        ("steady", "a"),
        ("steady", "b"),
        ("steady", "c"),
        ("resets", "a"),
        ("resets", "b"),
        ("irregular", "a"),
        ("holes", "a"),
        ("holes", "b"),
    ):
        labels = label_set("requests_total", kind=kind, instance=instance, job="web")
        random = _random(labels)
        times = _times(kind, instance, random)
        restarts = None
        if kind == "resets":
            restarts = _restarts(times.size, 660 if instance == "a" else 25, random)
        values = _count_up(times, 5.0, random, restarts)
        if kind == "holes":
            yield MadeSeries(labels, *_with_holes(times, values, random))
        else:
            yield MadeSeries(labels, times, values.view(np.uint64))


def _gauges() -> Iterator[MadeSeries]:
    for kind, instance in (
        ("steady", "a"),
        ("steady", "b"),
        ("steady", "c"),
        ("spikes", "b"),
        ("nan", "a"),
        ("nan", "b"),
        ("irregular", "a"),
        ("holes", "a"),
        ("holes", "b"),
    ):
        labels = label_set("memory_bytes", kind=kind, instance=instance, job="web")
        random = _random(labels)
        times = _times(kind, instance, random)
        values = _wave(times, 1e6, random)
        if kind == "spikes":
            values[random.random(times.size) < 1 / 500] *= 50
        if kind == "holes":
            yield MadeSeries(labels, *_with_holes(times, values, random))
        elif kind == "nan":
            yield MadeSeries(labels, times, _with_nan(values, instance, random))
        else:
            yield MadeSeries(labels, times, values.view(np.uint64))


def _pods() -> Iterator[MadeSeries]:
    for number in range(POD_COUNT):
        instance = f"pod-{number:02}"
        life = _random((("pod", instance),))
        length = int(np.exp(life.uniform(np.log(40), np.log(3600))))
        first_ms = START_MS + int(life.integers(1, DAYS * DAY_MS - length * MINUTE_MS))
        times = first_ms + np.arange(length, dtype=np.int64) * MINUTE_MS
        has_marker = number % 4 > 0
        for name in ("requests_total", "memory_bytes"):
            labels = label_set(name, kind="short", instance=instance, job="batch")
            random = _random(labels)
            values = (
                _count_up(times, 3.0, random)
                if name == "requests_total"
                else _wave(times, 2e5, random)
            )
            bits = values.view(np.uint64).copy()
            if has_marker:
                bits[-1] = STALE_BITS
            yield MadeSeries(labels, times, bits)


def _histograms() -> Iterator[MadeSeries]:
    for kind, instance in (("steady", "b"), ("resets", "c")):
        own = {"kind": kind, "instance": instance, "job": "web"}
        random = _random(label_set("latency_seconds", **own))
        times = _times(kind, instance, random)
        restarts = _restarts(times.size, 900, random) if kind == "resets" else None
        served = _count_up(times, 8.0, random, restarts)
        for bound, ratio in zip(BOUNDS, BUCKET_RATIOS, strict=True):
            values = np.floor(served * ratio)
            labels = label_set("latency_seconds_bucket", le=bound, **own)
            yield MadeSeries(labels, times, values.view(np.uint64))
        for name, values in (
            ("latency_seconds_count", served),
            ("latency_seconds_sum", np.round(served * 0.3173, 3)),
        ):
            yield MadeSeries(label_set(name, **own), times, values.view(np.uint64))


def _others() -> Iterator[MadeSeries]:
    for instance in "abc":
        own = {"instance": instance, "job": "web"}
        for name in ("replicas", "up", "limit_bytes"):
            labels = label_set(name, **own)
            random = _random(labels)
            times = _times("steady", instance, random)
            if name == "replicas":
                changes = random.random(times.size) < 1 / 400
                values = 2.0 + np.cumsum(changes * random.integers(1, 4, times.size)) % 5
            elif name == "up":
                values = 1.0 - _runs(times.size, 1 / 3000, 120, random)
            else:
                values = np.full(times.size, 1e6 * (ord(instance) - 95))
            yield MadeSeries(labels, times, values.astype(np.float64).view(np.uint64))
    for instance, step_ms in (("a", 10 * MINUTE_MS), ("b", 23 * MINUTE_MS)):
        labels = label_set("slow_bytes", instance=instance)
        times = _every(step_ms, 0 if instance == "a" else 90_000)
        yield MadeSeries(labels, times, _wave(times, 5e3, _random(labels)).view(np.uint64))
    labels = label_set("ratio", instance="b")
    random = _random(labels)
    times = _times("steady", "b", random)
    values = np.round(0.5 + 0.3 * _daily(times) + random.normal(0, 0.01, times.size), 4)
    values[random.random(times.size) < 1 / 700] = np.inf
    yield MadeSeries(labels, times, values.view(np.uint64))


def _builds() -> Iterator[MadeSeries]:
    """Each version lives for five days; the scrape that has the next one ends it."""
    for instance in "ab":
        times = _times("steady", instance, _random(()))
        for number in range(DAYS // 5):
            begin_ms = START_MS + number * 5 * DAY_MS + (number > 0) * 41 * MINUTE_MS
            end_ms = START_MS + (number + 1) * 5 * DAY_MS + 41 * MINUTE_MS
            own = times[(times > begin_ms) & (times <= end_ms)]
            bits = np.full(own.size, 1.0).view(np.uint64).copy()
            if end_ms < END_MS:
                bits[-1] = STALE_BITS
            yield MadeSeries(
                label_set("build_info", instance=instance, job="web", version=f"1.{number}"),
                own,
                bits,
            )
