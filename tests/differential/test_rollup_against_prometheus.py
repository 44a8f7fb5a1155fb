"""A rollup row is what a real Prometheus computes at the window's end (ROLL-1).

A fleet and random series, scraped on the borders of windows and off them, go to a Prometheus by
remote write and to the kernel as columns. Each series has a companion `even` with the same times
that climbs by one a sample: by how much PromQL extrapolates an increase is seen there, so that
`reset_drop` can be held to `increase` without repeating how the servers extrapolate.

Ranges are open on the left since 3.0; before, a range that is 1 ms shorter holds the same samples.
"""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest

from downsample.rollup import RollupRows, roll_up
from tests.integration.made_data import Fleet, Span, made_samples, push_all
from tests.integration.promql import Answer, Evaluation, query
from tests.integration.remote import NAN_BITS, STALE_BITS, Labels, Sample, bits_of, make_body
from tests.integration.servers import RECEIVER_FLAGS, Prometheus, find_prometheus
from tests.oracle.rollup import FIVE_MINUTES_MS, HOUR_MS, Row, float_of, rows_of

START_S = 1_700_000_000 // 3600 * 3600.0
HOURS = 7
FLEET = Span(Fleet(45, 60.0, START_S), HOURS * 60)
RANDOM_COUNT = 60
EVEN_FROM = 1e9
SAMPLES_PER_BODY = 5000
ODD = [
    STALE_BITS,
    STALE_BITS,
    NAN_BITS,
    bits_of(math.inf),
    bits_of(-math.inf),
    bits_of(-0.0),
    0,
    bits_of(1.7976931348623157e308),
    bits_of(5e-324),
]


def random_series(seed: int) -> list[Sample]:
    """Seven hours of one series of a kind that is drawn as well."""
    draw = random.Random(seed)
    step_ms = draw.choice([5_000, 15_000, 30_000, 60_000, 100_000, 290_000, 400_000, 1_900_000])
    is_jittered, odd_ratio = draw.random() < 0.5, draw.choice([0.0, 0.0, 0.02, 0.3])
    kind = draw.choice(["counter", "gauge", "far apart"])
    samples: list[Sample] = []
    time_ms, value = round(START_S * 1000), 0.0
    while True:
        time_ms += draw.randrange(1, 2 * step_ms) if is_jittered else step_ms
        if draw.random() < 0.01:
            time_ms += draw.randrange(HOUR_MS) // step_ms * step_ms
        if time_ms > START_S * 1000 + HOURS * HOUR_MS:
            return samples
        if kind == "counter":
            value = 0.1 * draw.randrange(5) if draw.random() < 0.05 else value + 9.9 * draw.random()
        elif kind == "gauge":
            value = draw.gauss(-1, 3)
        else:
            value = draw.gauss(0, 1) * 10.0 ** draw.randrange(-18, 18)
        is_odd = draw.random() < odd_ratio
        samples.append((time_ms, draw.choice(ODD) if is_odd else bits_of(value)))


def made_ranks() -> list[list[Sample]]:
    fleet = made_samples(FLEET, range(1, FLEET.step_count))
    return [samples for _, samples in sorted(fleet.items())] + [
        random_series(seed) for seed in range(RANDOM_COUNT)
    ]


def labels_of(name: str, rank: int) -> Labels:
    return (("__name__", name), ("n", str(rank)))


def even(samples: list[Sample]) -> list[Sample]:
    return [
        (time_ms, bits if bits == STALE_BITS else bits_of(EVEN_FROM + index))
        for index, (time_ms, bits) in enumerate(samples)
    ]


@dataclass(frozen=True)
class Told:
    """A Prometheus that has the samples, and the rows that the kernel made of them."""

    url: str
    is_closed: bool
    ranks: list[list[Sample]]
    levels: dict[int, list[list[Row]]]

    def range_of(self, window_ms: int) -> str:
        return f"{window_ms - self.is_closed}ms"

    def ask(self, text: str, window_ms: int) -> Answer:
        """At the end of every window."""
        when = Evaluation(
            START_S + window_ms / 1000, START_S + HOURS * HOUR_MS / 1000, window_ms / 1000
        )
        return query(self.url, text, when)

    def answers(self, text: str, window_ms: int) -> dict[tuple[int, int], str]:
        """By rank and window end."""
        answer = self.ask(text.replace("RANGE", self.range_of(window_ms)), window_ms)
        assert not answer.warnings
        return {
            (int(dict(labels)["n"]), round(float(time_s) * 1000)): value
            for labels, values in answer.series.items()
            for time_s, value in values
        }

    def rows(self, window_ms: int) -> dict[tuple[int, int], Row]:
        """Rows with samples, by the same."""
        return {
            (rank, row.window_end_ms): row
            for rank, rows in enumerate(self.levels[window_ms])
            for row in rows
            if row.count
        }


@pytest.fixture(scope="module", params=[3, 2], ids=["3.x", "2.x"])
def told(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Told]:
    program = find_prometheus(request.param)
    ranks = made_ranks()
    entries = [
        (labels_of(name, rank), samples[first : first + SAMPLES_PER_BODY])
        for rank, own in enumerate(ranks)
        for name, samples in (("made", own), ("even", even(own)))
        for first in range(0, len(samples), SAMPLES_PER_BODY)
    ]
    server = Prometheus(
        program,
        "rollup",
        tmp_path_factory.mktemp("rollup"),
        lambda _: {"global": {"scrape_interval": "1h"}},
        RECEIVER_FLAGS,
    )
    with server:
        push_all((make_body(1, [entry]) for entry in entries), f"{server.url}/api/v1/write")
        fives, hours = (rows_of(level) for level in kernel_levels(ranks))
        yield Told(server.url, program.major == 2, ranks, {FIVE_MINUTES_MS: fives, HOUR_MS: hours})


def kernel_levels(ranks: list[list[Sample]]) -> tuple[RollupRows, RollupRows]:
    samples = [sample for rank in ranks for sample in rank]
    return roll_up(
        np.cumsum([0, *map(len, ranks)]).astype(np.int64),
        np.array([time_ms for time_ms, _ in samples], np.int64),
        np.array([bits for _, bits in samples], np.uint64).view(np.float64),
    )


def text_of(bits: int | None) -> str:
    """A float as `repr` writes it, NaN without its payload."""
    assert bits is not None
    return repr(float_of(bits))


def as_written(found: dict[tuple[int, int], str]) -> dict[tuple[int, int], str]:
    return {key: repr(float(value)) for key, value in found.items()}


LEVELS = pytest.mark.parametrize("window_ms", [FIVE_MINUTES_MS, HOUR_MS], ids=["5m", "1h"])


@LEVELS
@pytest.mark.parametrize("column", ["sum", "min", "max", "last"])
def test_a_column_is_what_prometheus_computes(told: Told, window_ms: int, column: str) -> None:
    found = told.answers(f"{column}_over_time(made[RANGE])", window_ms)
    expected = {key: text_of(getattr(row, column)) for key, row in told.rows(window_ms).items()}
    assert as_written(found) == expected


@LEVELS
def test_counts_and_resets_are_what_prometheus_computes(told: Told, window_ms: int) -> None:
    rows = told.rows(window_ms)
    counts = told.answers("count_over_time(made[RANGE])", window_ms)
    assert {key: int(value) for key, value in counts.items()} == {
        key: row.count for key, row in rows.items()
    }
    resets = told.answers("resets(made[RANGE])", window_ms)
    assert {key: int(value) for key, value in resets.items()} == {
        key: row.resets for key, row in rows.items()
    }
    assert sum(row.resets for row in rows.values()) > 1000


@LEVELS
def test_first_and_last_are_the_samples_that_prometheus_sees(told: Told, window_ms: int) -> None:
    rows = told.rows(window_ms)
    found = {}
    for end_ms in sorted({end_ms for _, end_ms in rows}):
        text = f"made[{told.range_of(window_ms)}]"
        answer = query(told.url, text, Evaluation(end_ms / 1000))
        for labels, samples in answer.series.items():
            key = (int(dict(labels)["n"]), end_ms)
            found[key] = [
                (round(float(time_s) * 1000), repr(float(value)))
                for time_s, value in (samples[0], samples[-1])
            ]
    assert found == {
        key: [
            (row.first_timestamp_ms, text_of(row.first)),
            (row.last_timestamp_ms, text_of(row.last)),
        ]
        for key, row in rows.items()
    }
    if not told.is_closed:  # 2.x has no such function
        firsts = told.answers("first_over_time(made[RANGE])", window_ms)
        assert as_written(firsts) == {key: text_of(row.first) for key, row in rows.items()}


@LEVELS
def test_reset_drop_is_what_increase_adds(told: Told, window_ms: int) -> None:
    increases = told.answers("increase(made[RANGE])", window_ms)
    factors = told.answers("increase(even[RANGE])", window_ms)
    compared = dropped = 0
    for key, row in told.rows(window_ms).items():
        if row.count < 2:
            continue
        first, last, drop = (float_of(bits or 0) for bits in (row.first, row.last, row.reset_drop))
        increase = last - first + drop
        scale = abs(last) + abs(first) + abs(drop)
        if not math.isfinite(scale) or is_cut_at_zero(row, first, increase, window_ms):
            continue
        factor = float(factors[key]) / float(told_span(told, key, row))
        assert math.isclose(
            float(increases[key]), increase * factor, rel_tol=1e-9, abs_tol=1e-9 * scale
        ), (key, row)
        compared += 1
        dropped += row.resets > 0
    assert dropped > 300
    assert compared > dropped + 300


def told_span(told: Told, key: tuple[int, int], row: Row) -> int:
    """By how much the companion climbs from the first to the last sample of a row."""
    rank, _ = key
    times = [time_ms for time_ms, _ in told.ranks[rank]]
    assert row.first_timestamp_ms is not None
    assert row.last_timestamp_ms is not None
    return times.index(row.last_timestamp_ms) - times.index(row.first_timestamp_ms)


def is_cut_at_zero(row: Row, first: float, increase: float, window_ms: int) -> bool:
    """Whether PromQL may extrapolate less to the left, where a counter would be below 0."""
    assert row.first_timestamp_ms is not None
    assert row.last_timestamp_ms is not None
    if first < 0 or increase <= 0:
        return False
    sampled_ms = row.last_timestamp_ms - row.first_timestamp_ms
    to_start_ms = row.first_timestamp_ms - (row.window_end_ms - window_ms)
    return sampled_ms * first / increase <= to_start_ms


def test_a_series_is_stale_at_the_end_of_a_window_that_says_so(told: Told) -> None:
    """Without a marker at its end a sample of the last 5 m is found there, with one it is not."""
    found = told.answers("made", FIVE_MINUTES_MS)
    rows = told.rows(FIVE_MINUTES_MS)
    alive = {key for key, row in rows.items() if row.stale_timestamp_ms is None}
    # 2.x looks back to a sample 5 m before, too, which belongs to the window that ends there.
    assert alive == found.keys() & rows.keys()
    assert len(alive) < len(rows)


def test_windows_of_markers_alone_are_empty_to_prometheus(told: Told) -> None:
    counts = told.answers("count_over_time(made[RANGE])", FIVE_MINUTES_MS)
    empty = {
        (rank, row.window_end_ms)
        for rank, rows in enumerate(told.levels[FIVE_MINUTES_MS])
        for row in rows
        if not row.count
    }
    assert empty
    assert not empty & counts.keys()
