"""What leaves for windows gives an engine what their samples would; the kernel is its twin."""

import math
from collections.abc import Sequence
from dataclasses import fields, replace
from itertools import pairwise
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from bridge.lake.grouped import GroupedRows
from bridge.lake.window_rows import WindowRows
from bridge.model.staleness import STALE_BITS
from bridge.read import _emission
from bridge.read.emission import Emission, Grid, Kind, columns_of, emit_parts
from bridge.read.twins import emission as twin
from downsample.rollup import roll_up
from tests.oracle import promql
from tests.oracle.bodies import bits as bits_of
from tests.oracle.bodies import float_of
from tests.oracle.tsdb import Sample

FIVE_MINUTES_MS = 300_000
HOUR_MS = 3_600_000
START_MS = 1_763_683_200_000  # a multiple of 1 h
NAN_BITS = 0x7FF8_0000_0000_0001
KINDS = {
    "increase": Kind.RATE,
    "rate": Kind.RATE,
    "delta": Kind.DELTA,
    "resets": Kind.RESETS,
    "min_over_time": Kind.MIN,
    "max_over_time": Kind.MAX,
    "sum_over_time": Kind.SUM,
    "avg_over_time": Kind.MEAN,
    "last_over_time": Kind.LAST,
    "count_over_time": Kind.SPREAD,
}
COUNTERS = ("increase", "rate")

# -- made series --


@st.composite
def times_of_series(draw: st.DrawFn, window_ms: int, window_count: int) -> list[int]:
    """Scrapes that are regular, jittered or irregular, with holes, from anywhere to anywhere."""
    span_ms = window_ms * window_count
    interval_ms = draw(
        st.sampled_from([window_ms // 20, window_ms // 10, window_ms // 5, window_ms // 3])
        | st.integers(window_ms // 20, 2 * window_ms)
    )
    phase_ms = draw(st.just(0) | st.integers(0, interval_ms - 1))
    jitter_ms = draw(st.sampled_from([0, 0, 3, interval_ms // 20, interval_ms // 2]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    begin_ms = draw(st.just(0) | st.integers(0, span_ms))
    end_ms = draw(st.just(span_ms) | st.integers(begin_ms, span_ms))
    times = np.arange(phase_ms, span_ms, interval_ms, dtype=np.int64)
    times = times + (rng.integers(-jitter_ms, jitter_ms + 1, len(times)) if jitter_ms else 0)
    if draw(st.integers(0, 3)) == 0:
        times = rng.integers(0, span_ms, draw(st.integers(0, 60)))
    if draw(st.integers(0, 2)) == 0:
        ends = rng.integers(0, window_count + 1, 5) * window_ms
        times = np.concatenate([times, ends, ends + rng.integers(-1, 2)])
    for _ in range(draw(st.integers(0, 3))):
        hole_ms = draw(st.integers(0, span_ms))
        length_ms = draw(st.sampled_from([interval_ms, window_ms, 3 * window_ms]))
        times = times[(times < hole_ms) | (times > hole_ms + length_ms)]
    if draw(st.booleans()):
        keep = rng.random(len(times)) < draw(st.sampled_from([0.5, 0.9]))
        times = times[keep]
    times = np.unique(times[(times > begin_ms) & (times <= end_ms)])
    return [START_MS + int(time_ms) for time_ms in times.tolist()]


@st.composite
def values_of_series(draw: st.DrawFn, count: int, *, is_counter: bool) -> list[int]:
    """Bits of values, and stale markers between them."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    if is_counter:
        steps = rng.integers(0, 5, count).astype(float) * draw(st.sampled_from([1.0, 0.1, 1e9]))
        values, total = [], draw(st.sampled_from([0.0, 3.0, 1e6]))
        reset_ratio = draw(st.sampled_from([0.0, 0.05, 0.5]))
        for step in steps.tolist():
            if rng.random() < reset_ratio:
                total *= draw(st.just(0.0)) if rng.random() < 0.7 else rng.random()
            total += step
            values.append(total)
        patterns = [bits_of(value) for value in values]
    else:
        shape = draw(st.sampled_from(["noise", "small", "same"]))
        numbers = {
            "noise": rng.normal(size=count) * 1000,
            "small": rng.integers(-2, 3, count).astype(float),
            "same": np.full(count, 0.1),
        }[shape]
        patterns = [bits_of(value) for value in numbers.tolist()]
    if draw(st.integers(0, 3)) == 0:
        patterns = [NAN_BITS if rng.random() < 0.2 else bits for bits in patterns]
    stale_ratio = draw(st.sampled_from([0.0, 0.0, 0.1]))
    return [STALE_BITS if rng.random() < stale_ratio else bits for bits in patterns]


@st.composite
def series(draw: st.DrawFn, window_ms: int, *, is_counter: bool) -> list[Sample]:
    times = draw(times_of_series(window_ms, draw(st.integers(1, 12))))
    values = draw(values_of_series(len(times), is_counter=is_counter))
    return list(zip(times, values, strict=True))


# -- there and back --


def window_rows(ranks: Sequence[Sequence[Sample]], window_ms: int) -> WindowRows:
    offsets = np.cumsum([0, *map(len, ranks)]).astype(np.int64)
    samples = [sample for rank in ranks for sample in rank]
    times = np.array([time_ms for time_ms, _ in samples], np.int64)
    values = np.array([bits for _, bits in samples], np.uint64).view(np.float64)
    fives, hours = roll_up(offsets, times, values)
    rows = fives if window_ms == FIVE_MINUTES_MS else hours
    return WindowRows(**{field.name: getattr(rows, field.name) for field in fields(WindowRows)})


def only_needed(rows: WindowRows, emission: Emission) -> WindowRows:
    """The rows with nothing in columns that are not asked for."""
    kept = {"offsets", "window_end_ms", *columns_of(emission)}
    nothing: dict[str, Any] = {
        field.name: None for field in fields(WindowRows) if field.name not in kept
    }
    return replace(rows, **nothing)


def samples_of(grouped: GroupedRows) -> list[list[Sample]]:
    pairs = list(
        zip(grouped.timestamps_ms.tolist(), grouped.values.view(np.uint64).tolist(), strict=True)
    )
    bounds = grouped.offsets.tolist()
    return [pairs[begin:end] for begin, end in pairwise(bounds)]


def same(left: GroupedRows, right: GroupedRows) -> bool:
    return samples_of(left) == samples_of(right)


def evaluations(grid: Grid, until_ms: int) -> list[int]:
    """Of a query and of a subquery on the same grid."""
    if grid.step_ms == 0:
        return [grid.first_ms]
    first_multiple_ms = -(-grid.first_ms // grid.step_ms) * grid.step_ms
    return [
        *range(grid.first_ms, until_ms + 1, grid.step_ms),
        *range(first_multiple_ms, until_ms + 1, grid.step_ms),
    ]


def is_close(found: float | None, expected: float | None, scale: float) -> bool:
    if found is None or expected is None:
        return found is expected
    if math.isnan(found) or math.isnan(expected):
        return math.isnan(found) and math.isnan(expected)
    return math.isclose(found, expected, rel_tol=1e-9, abs_tol=1e-12 * scale)


@settings(deadline=None, max_examples=1500)
@given(st.data())
def test_ranges_of_whole_windows_give_what_raw_samples_give(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(KINDS)))
    window_ms = data.draw(st.sampled_from([FIVE_MINUTES_MS, HOUR_MS]))
    raw = data.draw(series(window_ms, is_counter=name in COUNTERS or data.draw(st.booleans())))
    range_ms = window_ms * data.draw(st.integers(1, 6))
    step_ms = window_ms * data.draw(st.sampled_from([0, 1, 1, 2, 3, 5, 8]))
    first_ms = START_MS + range_ms + window_ms * data.draw(st.integers(0, 3))
    grid = Grid(first_ms, step_ms, range_ms, data.draw(st.booleans()))
    until_ms = max(first_ms, START_MS + 14 * window_ms)
    emission = Emission(
        KINDS[name], window_ms, first_ms - range_ms - grid.is_closed, until_ms, grid
    )
    rows = window_rows([raw], window_ms)
    (sent,) = samples_of(_emission.emit(only_needed(rows, emission), emission))
    assert all(left < right for (left, _), (right, _) in pairwise(sent))
    scale = max(
        (abs(float_of(bits)) for _, bits in raw if bits not in (NAN_BITS, STALE_BITS)), default=1
    )
    function = promql.FUNCTIONS[name]
    for now_ms in evaluations(grid, until_ms):
        found, expected = (
            function(promql.select_range(own, now_ms, range_ms, is_closed=grid.is_closed))
            for own in (sent, raw)
        )
        assert is_close(found, expected, scale), (now_ms, found, expected)


@settings(deadline=None, max_examples=500)
@given(st.data())
def test_instants_at_window_ends_give_what_raw_samples_give(data: st.DataObject) -> None:
    window_ms = data.draw(st.sampled_from([FIVE_MINUTES_MS, HOUR_MS]))
    raw = data.draw(series(window_ms, is_counter=data.draw(st.booleans())))
    lookback_ms = data.draw(st.sampled_from([60_000, FIVE_MINUTES_MS, HOUR_MS, 3 * HOUR_MS]))
    step_ms = window_ms * data.draw(st.sampled_from([0, 2, 3, 5, 8]))
    first_ms = START_MS + window_ms * data.draw(st.integers(0, 5))
    grid = Grid(first_ms, step_ms, lookback_ms, data.draw(st.booleans()))
    until_ms = max(first_ms, START_MS + 14 * window_ms)
    emission = Emission(
        Kind.INSTANT, window_ms, first_ms - lookback_ms - grid.is_closed, until_ms, grid
    )
    rows = window_rows([raw], window_ms)
    (sent,) = samples_of(_emission.emit(only_needed(rows, emission), emission))
    for now_ms in evaluations(grid, until_ms):
        found, expected = (
            promql.select_instant(own, now_ms, lookback_ms, is_closed=grid.is_closed)
            for own in (sent, raw)
        )
        assert found == expected, now_ms


@settings(deadline=None, max_examples=400)
@given(st.data())
def test_ranges_across_seams_to_raw_samples_give_what_raw_samples_give(
    data: st.DataObject,
) -> None:
    name = data.draw(st.sampled_from(["increase", "delta", "rate"]))
    raw = data.draw(series(FIVE_MINUTES_MS, is_counter=name != "delta"))
    range_ms = FIVE_MINUTES_MS * data.draw(st.integers(2, 6))
    step_ms = FIVE_MINUTES_MS * data.draw(st.integers(1, 4))
    grid = Grid(START_MS + range_ms, step_ms, range_ms, data.draw(st.booleans()))
    after_ms = START_MS + FIVE_MINUTES_MS * data.draw(st.integers(0, 6))
    until_ms = after_ms + FIVE_MINUTES_MS * data.draw(st.integers(1, 6))
    emission = Emission(
        KINDS[name],
        FIVE_MINUTES_MS,
        after_ms,
        until_ms,
        grid,
        is_after_edge=True,
        is_until_edge=True,
    )
    inside = [sample for sample in raw if after_ms < sample[0] <= until_ms]
    (sent,) = samples_of(_emission.emit(window_rows([inside], FIVE_MINUTES_MS), emission))
    both = [
        *(sample for sample in raw if sample[0] <= after_ms),
        *sent,
        *(sample for sample in raw if sample[0] > until_ms),
    ]
    function = promql.FUNCTIONS[name]
    for now_ms in evaluations(grid, START_MS + 14 * FIVE_MINUTES_MS):
        found, expected = (
            function(promql.select_range(own, now_ms, range_ms, is_closed=grid.is_closed))
            for own in (both, raw)
        )
        assert is_close(found, expected, 1e9), (now_ms, found, expected)


@pytest.mark.parametrize("jitter_ms", [0, 3, 500])
@pytest.mark.parametrize("kind", [Kind.RATE, Kind.DELTA])
def test_the_middle_of_regular_series_leaves_with_two_samples_per_window(
    kind: Kind, jitter_ms: int
) -> None:
    rng = np.random.default_rng(jitter_ms)
    times = START_MS + np.arange(7_000, 100 * HOUR_MS, 15_000)
    times += rng.integers(-jitter_ms, jitter_ms + 1, len(times))
    raw = [(time_ms, bits_of(float(place))) for place, time_ms in enumerate(times.tolist())]
    grid = Grid(START_MS + 4 * HOUR_MS, HOUR_MS, 4 * HOUR_MS)
    emission = Emission(kind, HOUR_MS, START_MS, START_MS + 100 * HOUR_MS, grid)
    (sent,) = samples_of(_emission.emit(window_rows([raw], HOUR_MS), emission))
    assert len(sent) == 200


# -- the kernel is its twin --

ODD_BITS = [
    0,
    1 << 63,
    NAN_BITS,
    NAN_BITS | 1 << 63,
    0x7FF4_0000_0000_0007,
    bits_of(math.inf),
    bits_of(-math.inf),
    bits_of(1.7976931348623157e308),
    bits_of(-1.7976931348623157e308),
    bits_of(5e-324),
]
COUNT_MAX = 2**31 - 1


def odd_window(random: Random, window_ms: int) -> dict[str, int]:
    """A row that need be no series'; times from its begin, floats as bits."""
    stale_ms = random.choice([0, 0, random.randint(1, window_ms)])
    count = random.choice([0, 1, 2, random.randint(1, 9), 60, COUNT_MAX])
    names = ("sum", "min", "max", "first", "last", "reset_drop")
    if count == 0:
        return dict.fromkeys(("first_timestamp_ms", "last_timestamp_ms", "resets", *names), 0) | {
            "count": 0,
            "stale_timestamp_ms": stale_ms,
        }
    first_ms = random.choice([1, random.randint(1, window_ms)])
    # With the greatest count there are as many samples as ms.
    last_ms_max = min(window_ms, first_ms + 1000) if count == COUNT_MAX else window_ms
    last_ms = random.choice(
        [first_ms, min(first_ms + random.randint(1, 5), last_ms_max), last_ms_max]
        + [random.randint(first_ms, last_ms_max)] * 3
    )
    like_counter, any_real = random.random() < 0.5, random.random() < 0.7
    floats = {
        name: bits_of(float(random.randint(0, 6)))
        if like_counter
        else bits_of(random.gauss(0, 1000))
        if any_real
        else random.choice(ODD_BITS)
        for name in names
    }
    if random.random() < 0.5:
        floats["reset_drop"] = 0
    if random.random() < 0.3:
        floats["max"] = floats["first"]
    return floats | {
        "count": count,
        "first_timestamp_ms": first_ms,
        "last_timestamp_ms": last_ms,
        "resets": random.choice([0, 0, 1, 2, random.randint(1, 9), COUNT_MAX]),
        "stale_timestamp_ms": stale_ms if stale_ms > last_ms else 0,
    }


def odd_rows(random: Random, window_ms: int, start_ms: int, slot_count: int) -> WindowRows:
    offsets, ends, windows = [0], list[int](), list[dict[str, int]]()
    for _ in range(slot_count):
        end_ms = start_ms
        for _ in range(random.randint(0, 9)):
            end_ms += window_ms * random.choice([1, 1, 1, 1, 2, 7])
            ends.append(end_ms)
            windows.append(odd_window(random, window_ms))
        offsets.append(len(ends))
    columns: dict[str, Any] = {}
    for field in fields(WindowRows)[2:]:
        cells = [window[field.name] for window in windows]
        if field.name in {"count", "resets"}:
            columns[field.name] = np.array(cells, np.int32)
        elif field.name.endswith("_ms"):
            begins = [
                end_ms - window_ms if cell else 0 for end_ms, cell in zip(ends, cells, strict=True)
            ]
            columns[field.name] = np.array(cells, np.int64) + np.array(begins, np.int64)
        else:
            columns[field.name] = np.array(cells, np.uint64).view(np.float64)
    return WindowRows(np.array(offsets, np.int64), np.array(ends, np.int64), **columns)


@st.composite
def emissions(draw: st.DrawFn, window_ms: int, start_ms: int) -> Emission:
    around = st.integers(-2 * window_ms, 20 * window_ms)
    after_ms = start_ms + draw(st.just(0) | around)
    step_ms = draw(
        st.sampled_from([0, window_ms, 2 * window_ms, 5 * window_ms])
        | st.integers(max(1, window_ms // 50), 6 * window_ms)
    )
    first_ms = start_ms + draw(st.sampled_from([window_ms, 4 * window_ms]) | around)
    range_ms = draw(
        st.sampled_from([1, 2, window_ms, 4 * window_ms]) | st.integers(1, 5 * window_ms)
    )
    return Emission(
        draw(st.sampled_from(list(Kind))),
        window_ms,
        after_ms,
        after_ms + draw(st.just(40 * window_ms) | st.integers(0, 20 * window_ms)),
        draw(st.none() | st.just(Grid(first_ms, step_ms, range_ms, draw(st.booleans())))),
        draw(st.just(0) | st.integers(max(1, window_ms // 100), 2 * window_ms)),
        draw(st.sampled_from([1, 1, 2, 7, 240])),
        draw(st.booleans()),
        draw(st.booleans()),
    )


STARTS_MS = st.sampled_from([START_MS, 0, -3 * HOUR_MS])
WIDTHS_MS = st.sampled_from([FIVE_MINUTES_MS, HOUR_MS, 20])


@settings(deadline=None, max_examples=1500)
@given(st.data(), STARTS_MS, WIDTHS_MS, st.integers(0, 3), st.integers(0, 2**32))
def test_emit_is_its_twin(
    data: st.DataObject, start_ms: int, window_ms: int, slot_count: int, seed: int
) -> None:
    rows = odd_rows(Random(seed), window_ms, start_ms, slot_count)
    emission = data.draw(emissions(window_ms, start_ms))
    known = data.draw(st.none() | st.sampled_from([-1, 0, 1]))
    counters = None if known is None else np.full(slot_count, known, np.int8)
    if data.draw(st.booleans()):
        rows = only_needed(rows, emission)
    counts = _emission.count_points(rows, emission)
    assert counts.tolist() == twin.count_points(rows, emission).tolist()
    found = _emission.emit(rows, emission, counters)
    event(f"{emission.kind.value} {bool(len(found.values))}")
    assert same(found, twin.emit(rows, emission, counters))
    for sent, count in zip(samples_of(found), counts.tolist(), strict=True):
        assert len(sent) <= count
        assert all(left < right for (left, _), (right, _) in pairwise(sent))
        assert all(emission.after_ms < time_ms <= emission.until_ms for time_ms, _ in sent)


@settings(deadline=None, max_examples=300)
@given(st.data(), st.integers(0, 6), st.integers(0, 2**32), st.integers(1, 50))
def test_parts_are_the_whole(
    data: st.DataObject, slot_count: int, seed: int, points_max: int
) -> None:
    rows = odd_rows(Random(seed), 20, START_MS, slot_count)
    emission = data.draw(emissions(20, START_MS))
    counters = np.zeros(slot_count, np.int8)
    whole = samples_of(_emission.emit(rows, emission, counters))
    found: list[list[Sample]] = []
    for first, part in emit_parts(rows, emission, counters, points_max):
        assert first == len(found)
        own = samples_of(part)
        assert len(own) == 1 or len(part.values) <= points_max
        found += own
    assert found == whole
