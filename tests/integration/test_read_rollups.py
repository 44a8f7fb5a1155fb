"""Reads of a lake with rollups, over HTTP: late samples, many queries, labels, explanations."""

import json
import time
import urllib.parse
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cramjam
import numpy as np
import pytest

from bridge.wire import remote_read_pb2
from tests.integration.bridge import Bridge
from tests.integration.downsampling import Downsampler
from tests.integration.made_data import push_all
from tests.integration.processes import wait_until
from tests.integration.remote import Labels, WriteBody, bits_of, make_body
from tests.integration.servers import fetch

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS
END_MS = 1_780_272_000_000  # 2026-06-01T00:00Z
DAYS = 4
BEGIN_MS = END_MS - DAYS * DAY_MS
CLUSTERS = ("east", "west")
WEIGHTED_MAX = 1000
"""A tenth of the samples that the averages here are of."""

FLAGS = ("--read.external-labels=cluster,replica", f"--read.max-weighted-samples={WEIGHTED_MAX}")

Point = tuple[int, float]
"""Unix ms and value."""


def labels_of(metric: str, cluster: str) -> Labels:
    return (("__name__", metric), ("cluster", cluster), ("job", "made"))


def made(metric: str, cluster: str) -> list[Point]:
    """A sample a minute: a counter that climbs by 1, or a gauge of whole numbers."""
    count = DAYS * 24 * 60
    base = 1000.0 * CLUSTERS.index(cluster)
    return [
        (
            BEGIN_MS + MINUTE_MS * step,
            base + (step if metric.endswith("_total") else float(step * 7919 % 101)),
        )
        for step in range(1, count + 1)
    ]


def body_of(labels: Labels, samples: Sequence[Point]) -> WriteBody:
    return make_body(1, [(labels, [(time_ms, bits_of(value)) for time_ms, value in samples])])


@dataclass(frozen=True)
class World:
    """The bridge, and what rolls its lake up."""

    bridge: Bridge
    downsampler: Downsampler


@contextmanager
def made_world(
    folder: Path, flags: Sequence[str] = FLAGS, *, is_rolled_up: bool = True
) -> Iterator[World]:
    """A lake of the made days."""
    bodies = [
        body_of(labels_of(metric, cluster), made(metric, cluster))
        for metric in ("jobs_total", "load")
        for cluster in CLUSTERS
    ]
    with Bridge(folder, flags=flags) as bridge:
        push_all(bodies, bridge.write_url)
        bridge.flush()
        downsampler = Downsampler(folder, bridge.lake)
        if is_rolled_up:
            downsampler.once(now_ms=END_MS + HOUR_MS)
        yield World(bridge, downsampler)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with made_world(tmp_path_factory.mktemp("rollups")) as shared:
        yield shared


@dataclass(frozen=True)
class Asked:
    """A query as Prometheus 3 sends it; evaluations from begin_ms to end_ms."""

    metric: str
    func: str
    range_ms: int
    step_ms: int
    matchers: Sequence[tuple[str, str]] = ()
    begin_ms: int = BEGIN_MS + DAY_MS
    end_ms: int = END_MS - DAY_MS


def ask(url: str, *asked: Asked) -> list[dict[Labels, list[Point]]]:
    """One request with all of them; results in their order."""
    request = remote_read_pb2.ReadRequest()
    for one in asked:
        start_ms = one.begin_ms - (one.range_ms or 5 * MINUTE_MS) + 1
        query = request.queries.add(start_timestamp_ms=start_ms, end_timestamp_ms=END_MS)
        for name, value in (("__name__", one.metric), *one.matchers):
            query.matchers.add(type=remote_read_pb2.LabelMatcher.EQ, name=name, value=value)
        query.hints.func, query.hints.step_ms = one.func, one.step_ms
        query.hints.range_ms = one.range_ms
        query.hints.start_ms, query.hints.end_ms = start_ms, one.end_ms
    body = bytes(cramjam.snappy.compress_raw(request.SerializeToString()))
    reply = fetch("POST", url, body, {"Content-Encoding": "snappy"})
    assert reply.status == 200, reply.body
    response = remote_read_pb2.ReadResponse.FromString(
        bytes(cramjam.snappy.decompress_raw(reply.body))
    )
    return [
        {
            tuple((label.name, label.value) for label in series.labels): [
                (sample.timestamp, sample.value) for sample in series.samples
            ]
            for series in result.timeseries
        }
        for result in response.results
    ]


def explain(bridge: Bridge, **parameters: str) -> tuple[int, dict[str, Any]]:
    reply = fetch("GET", f"{bridge.read_url}/explain?{urllib.parse.urlencode(parameters)}")
    return reply.status, json.loads(reply.body)


def total(answer: dict[Labels, list[Point]]) -> float:
    return sum(value for samples in answer.values() for _, value in samples)


SUMS = Asked("load", "sum_over_time", 4 * HOUR_MS, HOUR_MS)


def test_windows_leave_instead_of_samples(world: World) -> None:
    (sums,) = ask(world.bridge.read_url, SUMS)
    assert set(sums) == {labels_of("load", cluster) for cluster in CLUSTERS}
    first_ms, last_ms = SUMS.begin_ms - SUMS.range_ms, SUMS.end_ms
    for labels, samples in sums.items():
        real = [
            value
            for time_ms, value in made("load", dict(labels)["cluster"])
            if first_ms < time_ms <= last_ms
        ]
        assert len(samples) == (last_ms - first_ms) // HOUR_MS
        assert sum(value for _, value in samples) == sum(real)


def test_many_queries_of_a_request_are_answered_each_by_its_own_hints(world: World) -> None:
    rates = Asked("jobs_total", "rate", HOUR_MS, HOUR_MS)
    raw = Asked("jobs_total", "quantile_over_time", HOUR_MS, HOUR_MS)
    far = Asked("jobs_total", "", 0, 12 * HOUR_MS)
    nothing = Asked("absent", "rate", HOUR_MS, HOUR_MS)
    counts = [
        sum(map(len, answer.values()))
        for answer in ask(world.bridge.read_url, rates, raw, nothing, far)
    ]
    windows = (rates.end_ms - rates.begin_ms) // HOUR_MS + 1
    samples = (rates.end_ms - rates.begin_ms + HOUR_MS) // MINUTE_MS
    evaluations = (far.end_ms - far.begin_ms) // far.step_ms + 1
    assert counts == [2 * 2 * windows, 2 * samples, 0, 2 * evaluations]


def test_averages_across_levels_are_weighed_alike(world: World) -> None:
    """Also where one sample stands for many, beside the raw samples of the seam."""
    days = Asked("jobs_total", "avg_over_time", DAY_MS, 12 * HOUR_MS, end_ms=END_MS)
    (answer,) = ask(world.bridge.read_url, days)
    assert sum(map(len, answer.values())) < 2 * WEIGHTED_MAX
    for labels, samples in answer.items():
        for at_ms in range(days.begin_ms, days.end_ms + 1, days.step_ms):
            sent, real = (
                [value for time_ms, value in points if at_ms - DAY_MS < time_ms <= at_ms]
                for points in (samples, made("jobs_total", dict(labels)["cluster"]))
            )
            assert sum(sent) / len(sent) == pytest.approx(sum(real) / len(real), rel=0.005)


def test_trends_across_levels_are_weighed_alike(world: World) -> None:
    """A counter that climbs by 1 a minute has that slope wherever a range lies."""
    days = Asked("jobs_total", "deriv", DAY_MS, 12 * HOUR_MS, end_ms=END_MS)
    (answer,) = ask(world.bridge.read_url, days)
    assert sum(map(len, answer.values())) < 2 * WEIGHTED_MAX
    for samples in answer.values():
        for at_ms in range(days.begin_ms, days.end_ms + 1, days.step_ms):
            sent = [point for point in samples if at_ms - DAY_MS < point[0] <= at_ms]
            times, values = np.array(sent).T
            slope, _ = np.polyfit(times - at_ms, values, 1)
            assert slope * MINUTE_MS == pytest.approx(1.0, rel=1e-6)


def test_labels_that_a_reader_adds_pick_its_cluster(world: World) -> None:
    (both,) = ask(world.bridge.read_url, SUMS)
    for cluster in CLUSTERS:
        own = Asked(SUMS.metric, SUMS.func, SUMS.range_ms, SUMS.step_ms, (("cluster", cluster),))
        (answer,) = ask(world.bridge.read_url, own)
        assert answer == {labels_of("load", cluster): both[labels_of("load", cluster)]}


def test_explanations(world: World) -> None:
    before = world.bridge.metric('prombridge_read_spans_total{reason="hints",resolution="1h"}')
    ask(world.bridge.read_url, SUMS)
    after = world.bridge.metric('prombridge_read_spans_total{reason="hints",resolution="1h"}')
    assert after == before + 1
    begin_s, end_s = str(SUMS.begin_ms // 1000), str(END_MS // 1000)
    status, answer = explain(
        world.bridge,
        query='load{cluster="east"}[4h]',
        func="sum_over_time",
        start=begin_s,
        end=end_s,
        step="1h",
    )
    assert (status, answer["status"]) == (200, "success")
    data = answer["data"]
    assert data["series"] == 1
    assert [(span["resolution"], span["reasons"]) for span in data["spans"]] == [
        ("1h", ["hints"]),
        ("raw", ["seam"]),
    ]
    hours, minutes = data["spans"]
    assert hours["until"] == minutes["after"] == "2026-05-31T20:00:00.000+00:00"
    assert minutes["until"] == "2026-06-01T00:00:00.000+00:00"
    assert (hours["emission"], minutes["emission"]) == ("sum", "samples")
    assert hours["files"] == 4
    assert minutes["files"] == 1
    assert hours["rows"] == 72
    assert minutes["rows"] > 0
    assert data["files"] == 5
    assert 0 < hours["bytes"] < data["bytes"]
    status, answer = explain(world.bridge, query="load[")
    assert status == 400
    assert (answer["status"], answer["errorType"]) == ("error", "bad_data")
    assert "parse error" in answer["error"]


@pytest.fixture
def own_world(tmp_path: Path) -> Iterator[World]:
    """For a test that changes what is in the lake."""
    with made_world(tmp_path) as own:
        yield own


def test_no_sample_is_missing_or_doubled_while_rollups_are_made(tmp_path: Path) -> None:
    """Sums of whole numbers are the same from raw samples and from windows."""
    flags = (*FLAGS, "--lake.refresh-interval=50ms")
    with made_world(tmp_path, flags, is_rolled_up=False) as world, ThreadPoolExecutor(1) as thread:
        (answer,) = ask(world.bridge.read_url, SUMS)
        before, counts = total(answer), {len(answer[labels_of("load", "east")])}
        running = thread.submit(world.downsampler.once, now_ms=END_MS + HOUR_MS)
        while not running.done():
            (answer,) = ask(world.bridge.read_url, SUMS)
            assert total(answer) == before
            counts.add(len(answer[labels_of("load", "east")]))
        running.result()
        assert len(counts) > 2, "some days from windows, others not yet"


def test_late_samples_are_in_the_answer_at_once_and_once(own_world: World) -> None:
    """READ-8: in the head, in a flush, rolled up again."""
    bridge = own_world.bridge
    (answer,) = ask(bridge.read_url, SUMS)
    before = total(answer)
    late_ms = END_MS - 2 * DAY_MS + 90 * MINUTE_MS + 1
    push_all([body_of(labels_of("load", "east"), [(late_ms, 100_000.0)])], bridge.write_url)
    question = {
        "query": "load[4h]",
        "func": "sum_over_time",
        "start": str(SUMS.begin_ms // 1000),
        "end": str(SUMS.end_ms // 1000),
        "step": "1h",
    }
    for reasons in (["hints", "late", "hints", "seam"],) * 2:
        (answer,) = ask(bridge.read_url, SUMS)
        assert total(answer) == before + 100_000.0
        _, told = explain(bridge, **question)
        assert [span["reasons"][0] for span in told["data"]["spans"]] == reasons
        bridge.flush()
    # What is done is done again some time after it was committed, which is now.
    own_world.downsampler.once(now_ms=round(time.time() * 1000) + 2 * HOUR_MS)

    def is_rolled_up() -> bool | None:
        (answer,) = ask(bridge.read_url, SUMS)
        assert total(answer) == before + 100_000.0
        _, told = explain(bridge, **question)
        reasons = [span["reasons"][0] for span in told["data"]["spans"]]
        return True if reasons == ["hints", "seam"] else None

    wait_until(is_rolled_up, "late samples are rolled up", 60)
