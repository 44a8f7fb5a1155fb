"""Two replicas of a Prometheus scrape the same, one is killed: what is read is one healthy server.

    exporter ◄── A, replica by an external label        ──► bridge ──► lake
             ◄── B, replica by a relabelling at writing ──►   ▲
             ◄── C, the healthy reference                     └── D has nothing but remote_read

The exporter's values are functions of the time, so all three see the same, each at its own
moments. A is the replica that is followed first; it is killed, and comes back after a while. D is
asked before and after the lake is compacted.
"""

import math
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from threading import Thread
from typing import Any

import pytest

from tests.integration.bridge import Bridge
from tests.integration.downsampling import (
    Downsampler,
    check_rollups,
    file_names,
    open_table,
    stored_samples,
)
from tests.integration.promql import Answer, Evaluation, Labels, query
from tests.integration.remote import Sample, read_samples
from tests.integration.servers import Prometheus, find_prometheus, reading_config, wait_until

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
INTERVAL_S = 1.0
# Of the two cores that all servers share; a scrape is as late as that.
JITTER_S = 0.25
# Between two resets of a counter; what is asked begins and ends half-way between them.
PERIOD_S = 6
SLOPE = 10.0
SERIES = ("work_total", "falling_total", "level")
# Scrapes of C before A is killed, while it is away, and after it is back.
ALIVE, AWAY, BACK = 8, 5, 7
PHASES = ("before compaction", "after compaction")


def exposed(now_s: float) -> str:
    """What the exporter shows at a time."""
    return (
        "# TYPE work_total counter\n"
        f"work_total {SLOPE * (now_s % 100_000)!r}\n"
        "# TYPE falling_total counter\n"
        f"falling_total {SLOPE * (now_s % PERIOD_S)!r}\n"
        "# TYPE level gauge\n"
        f"level {math.sin(now_s)!r}\n"
    )


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = exposed(time.time()).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Nothing on the terminal."""


@dataclass
class Story:
    """What C saw, and what D was answered by phase."""

    start_s: float
    end_s: float
    reference: dict[str, Answer]
    answers: dict[str, dict[str, Answer]] = field(default_factory=dict)
    samples: dict[str, dict[Labels, list[Sample]]] = field(default_factory=dict)
    """Of all series, as remote read gives them."""
    replicas: dict[str, Counter[str | None]] = field(default_factory=dict)
    """Rows of each replica in the lake."""
    bridge: Bridge | None = None

    @property
    def range_s(self) -> int:
        """A multiple of PERIOD_S."""
        return round(self.end_s - self.start_s)


def scraping(target: str, write_url: str = "", replica: str = "") -> Mapping[str, Any]:
    """A server of the pair, or without a URL the reference."""
    labels = {"cluster": "ha"}
    write: dict[str, Any] = {
        "url": write_url,
        "queue_config": {"batch_send_deadline": "200ms", "max_backoff": "500ms"},
    }
    if replica == "A":
        labels["prometheus_replica"] = replica
    elif replica:
        write["write_relabel_configs"] = [{"target_label": "__replica__", "replacement": replica}]
    return {
        "global": {
            "scrape_interval": f"{INTERVAL_S:g}s",
            "scrape_timeout": f"{INTERVAL_S:g}s",
            # A server's moments of scraping follow from these, so no two have the same.
            "external_labels": labels if write_url else {**labels, "server": "reference"},
        },
        "scrape_configs": [{"job_name": "made", "static_configs": [{"targets": [target]}]}],
        **({"remote_write": [write]} if write_url else {}),
    }


def scrape_times(server: Prometheus) -> list[float]:
    """When a server scraped, by its own account."""
    answer = query(server.url, "work_total[5m]", Evaluation(time.time()))
    return [float(time_s) for samples in answer.series.values() for time_s, _ in samples]


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    folder = tmp_path_factory.mktemp("replicas")
    program = find_prometheus(3)
    exporter = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=exporter.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    target = f"127.0.0.1:{exporter.server_address[1]}"
    with ExitStack() as stack:
        stack.callback(exporter.server_close)
        stack.callback(thread.join)
        stack.callback(exporter.shutdown)
        bridge = Bridge(folder / "bridge", flags=["--lake.refresh-interval=50ms"])
        stack.enter_context(bridge)

        def server(name: str, write_url: str = "") -> Prometheus:
            return Prometheus(
                program, name, folder / name, lambda _: scraping(target, write_url, name)
            )

        pair = [server("A", bridge.write_url), server("B", bridge.write_url)]
        reference = server("C")
        for one in (*pair, reference):
            stack.enter_context(one)
        story = drive(pair, reference, bridge)
        asked = stack.enter_context(
            Prometheus(
                program,
                "D",
                folder / "D",
                lambda _: reading_config(bridge.read_url, {"cluster": "ha"}),
            )
        )
        look(story, PHASES[0], bridge, asked)
        bridge.flush()
        tomorrow_ms = (time.time_ns() // 1_000_000 // DAY_MS + 1) * DAY_MS
        Downsampler(folder, bridge.lake).once(now_ms=tomorrow_ms + 2 * HOUR_MS)
        bridge.restart()
        look(story, PHASES[1], bridge, asked)
        story.bridge = bridge
    return story


def drive(pair: list[Prometheus], reference: Prometheus, bridge: Bridge) -> Story:
    """Until all is in the bridge; one flush falls into A's absence."""

    def wait_for_scrapes(count: int) -> list[float]:
        return wait_until(
            lambda: times if len(times := scrape_times(reference)) >= count else None,
            f"the reference has {count} scrapes",
            60,
        )

    first, _ = pair
    for one in pair:
        wait_until(partial(scrape_times, one), f"{one.name} scrapes", 30)
    begun = len(scrape_times(reference))
    wait_for_scrapes(begun + ALIVE)
    first.kill()
    wait_for_scrapes(begun + ALIVE + AWAY)
    bridge.flush()
    restarted_s = time.time()
    first.start()
    wait_until(lambda: max(scrape_times(first)) > restarted_s, "A scrapes again", 30)
    again = len(scrape_times(reference))
    times = wait_for_scrapes(again + BACK)
    # They send what they have before they end.
    for one in pair:
        one.stop()
    phase_s = PERIOD_S / 2
    start_s = math.ceil((times[begun] - phase_s) / PERIOD_S) * PERIOD_S + phase_s
    end_s = math.floor((times[-1] - INTERVAL_S - phase_s) / PERIOD_S) * PERIOD_S + phase_s
    assert end_s - start_s >= 2 * PERIOD_S
    story = Story(start_s, end_s, {})
    story.reference = ask(story, reference)
    return story


def expressions(story: Story) -> dict[str, Evaluation]:
    """What is asked of both."""
    whole, end = f"{story.range_s}s", Evaluation(story.end_s)
    steps = Evaluation(story.start_s + 2 * PERIOD_S, story.end_s, 1.0)
    return {
        **{f"{name}[{whole}]": end for name in (*SERIES, "up")},
        **{f"count_over_time({name}[{whole}])": end for name in (*SERIES, "up")},
        f"increase(work_total[{whole}])": end,
        f"increase(falling_total[{whole}])": end,
        f"resets(falling_total[{whole}])": end,
        f"rate(work_total[{2 * PERIOD_S}s])": steps,
    }


def ask(story: Story, server: Prometheus) -> dict[str, Answer]:
    return {text: query(server.url, text, when) for text, when in expressions(story).items()}


def look(story: Story, phase: str, bridge: Bridge, asked: Prometheus) -> None:
    story.answers[phase] = ask(story, asked)
    now_ms = time.time_ns() // 1_000_000
    found = read_samples(
        bridge.read_url, [("__name__", "=~", ".+")], now_ms - DAY_MS, now_ms + DAY_MS
    )
    story.samples[phase] = {labels: list(samples) for labels, samples in found}
    if phase == PHASES[1]:
        names = open_table(bridge.lake, "samples").column("replica").to_pylist()
        story.replicas[phase] = Counter(names)


def values(answer: Answer) -> list[tuple[float, float]]:
    """The samples of its one series."""
    (samples,) = answer.series.values()
    return [(float(time_s), float(value)) for time_s, value in samples]


def value(answer: Answer) -> float:
    ((_, number),) = values(answer)
    return number


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("name", [*SERIES, "up"])
def test_no_gap_is_longer_than_two_intervals_and_no_scrape_is_there_twice(
    story: Story, phase: str, name: str
) -> None:
    text = f"{name}[{story.range_s}s]"
    times = [time_s for time_s, _ in values(story.answers[phase][text])]
    for before, after in pairwise([story.start_s, *times, story.end_s]):
        assert after - before <= 2 * INTERVAL_S + JITTER_S, (name, before, after)
    for before, after in pairwise(times):
        if before // 3600 == after // 3600:  # the rule begins anew with each hour
            assert after - before >= INTERVAL_S / 2 - JITTER_S, (name, before, after)
    expected = len(values(story.reference[text]))
    assert expected - 3 <= len(times) <= expected + 1


@pytest.mark.parametrize("phase", PHASES)
def test_increase_and_resets_are_those_of_the_healthy_server(story: Story, phase: str) -> None:
    found, expected = story.answers[phase], story.reference
    whole = f"[{story.range_s}s])"
    grown = f"increase(work_total{whole}"
    assert value(found[grown]) == pytest.approx(value(expected[grown]), rel=0.03)
    resets = f"resets(falling_total{whole}"
    assert value(found[resets]) == value(expected[resets]) == story.range_s // PERIOD_S
    # What a counter grew between its last scrape and its reset is nobody's.
    lost = SLOPE * (INTERVAL_S + JITTER_S) * (story.range_s // PERIOD_S + 1)
    fallen = f"increase(falling_total{whole}"
    assert abs(value(found[fallen]) - value(expected[fallen])) <= lost


@pytest.mark.parametrize("phase", PHASES)
def test_rate_at_every_second_is_that_of_the_healthy_server(story: Story, phase: str) -> None:
    text = f"rate(work_total[{2 * PERIOD_S}s])"
    found, expected = (values(one[text]) for one in (story.answers[phase], story.reference))
    assert [time_s for time_s, _ in found] == [time_s for time_s, _ in expected]
    # A missed scrape at an end of the range is extrapolated over in part.
    for (time_s, left), (_, right) in zip(found, expected, strict=True):
        assert left == pytest.approx(right, rel=1.5 * INTERVAL_S / (2 * PERIOD_S)), time_s


def test_answers_are_the_same_before_and_after_compaction(story: Story) -> None:
    before, after = (story.answers[phase] for phase in PHASES)
    assert {text: answer.series for text, answer in before.items()} == {
        text: answer.series for text, answer in after.items()
    }
    assert story.samples[PHASES[0]] == story.samples[PHASES[1]]


def test_the_compacted_lake_has_what_is_read_once_with_its_replica(story: Story) -> None:
    assert story.bridge is not None
    lake = story.bridge.lake
    assert all(name.startswith("c-") for name in file_names(lake, "samples"))
    read = story.samples[PHASES[1]]
    assert stored_samples(lake) == {
        tuple(sorted(labels)): Counter(samples) for labels, samples in read.items()
    }
    assert story.replicas[PHASES[1]].keys() == {"A", "B"}


@pytest.mark.parametrize("table", ["samples_5m", "samples_1h"])
def test_rollups_are_made_of_the_merged_samples(story: Story, table: str) -> None:
    assert story.bridge is not None
    series = {tuple(sorted(labels)): own for labels, own in story.samples[PHASES[1]].items()}
    check_rollups(story.bridge.lake, table, series)
