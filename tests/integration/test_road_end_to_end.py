"""A real Prometheus writes in, one that has nothing else reads it back: equal answers.

Two roads. *Live*: servers scrape an exporter and themselves every second and remote-write, one of
them to a bridge that is killed twice meanwhile; what they answer is recorded, they are stopped, and
empty servers with only `remote_read` are asked the same. *Made*: days of made data go into a
Prometheus in order, and into the bridge in disorder and in part twice.

Each road is driven once, by a fixture that collects the differences; the tests are the claims about
them.
"""

import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.integration.bridge import Bridge
from tests.integration.made_data import (
    Exporter,
    Fleet,
    Span,
    encode_blocks,
    in_disorder,
    made_blocks,
    push_all,
)
from tests.integration.promql import (
    PLAIN,
    UTF8,
    Evaluation,
    Recording,
    Scale,
    Trait,
    fetch_series,
    query,
    show,
)
from tests.integration.remote import STALE_BITS, read_samples
from tests.integration.servers import (
    RECEIVER_FLAGS,
    Program,
    Prometheus,
    fetch,
    find_prometheus,
    look_for_prometheus,
    reading_config,
    wait_until,
)

V2 = "io.prometheus.write.v2.Request"

# Every scrape of the live road takes a second. The evaluations lie between the longest look back of
# an expression (SHORT + LONG + BACK = 17 s) and what may not be delivered yet (BACK ahead, and 2 s
# more).
SCRAPE_COUNT = 30
AHEAD_S = 5.0
LIVE = ("written by 2.x as 1.0", "written by 3.x as 1.0", "written by 3.x as 2.0")
KILLED = "written by 3.x as 2.0 to a bridge that is killed"
# What the bridge has to be told of the readers' external labels.
READER_FLAGS = (
    "--read.external-labels=cluster,__replica__,place",
    "--read.ignore-matchers=place",
)
PHASES = ("from the head", "from the lake", "after a restart")


def left_out(program: Program) -> Trait:
    """What this server cannot be asked."""
    return PLAIN if program.major > 2 else UTF8


def writer_labels(name: str) -> dict[str, str]:
    """The external labels of a writer."""
    return {"cluster": name, "__replica__": "writer"}


def reader_labels(name: str) -> dict[str, str]:
    """Those of its reader: another replica, and one that the writer did not have."""
    return {"cluster": name, "__replica__": "reader", "place": "elsewhere"}


@dataclass
class Road:
    """One server whose answers are the truth, and what its reader answers otherwise, by phase.

    Args:
        series_matcher: the series that `/api/v1/series` must list. The bridge tells them by the
            month, so they must not be ones that begin or end within the month but out of the span.
    """

    name: str
    program: Program
    truth: Prometheus
    reader: Prometheus
    series_matcher: str
    recording: Recording | None = None
    series: set[Any] = field(default_factory=set)
    span_s: tuple[float, float] = (0.0, 0.0)
    differences: dict[str, list[str]] = field(default_factory=dict)

    def record(
        self,
        scale: Scale,
        instants: list[Evaluation],
        ranges: list[Evaluation],
        span_s: tuple[float, float],
    ) -> None:
        """Asks the truth everything, while it still runs."""
        self.recording = Recording(scale, instants, ranges, left_out(self.program))
        self.recording.record(self.truth.url)
        self.span_s = span_s
        self.series, _ = fetch_series(self.truth.url, [self.series_matcher], *span_s)
        assert self.series

    def compare(self, phase: str, part: slice = slice(None)) -> None:
        """Asks the reader the same."""
        assert self.recording is not None
        lines = self.recording.differences(self.reader.url, part)
        series, warnings = fetch_series(self.reader.url, [self.series_matcher], *self.span_s)
        lines += [f"/api/v1/series: warning: {warning}" for warning in warnings]
        lines += [f"/api/v1/series: missing: {show(labels)}" for labels in self.series - series]
        lines += [f"/api/v1/series: extra: {show(labels)}" for labels in series - self.series]
        self.differences[phase] = lines


def check(road: Road, phase: str) -> None:
    """Fails with the first differences."""
    lines = road.differences[phase]
    assert not lines, f"{len(lines)} differences, {phase}:\n" + "\n".join(lines[:30])


# The live road


def scraping_config(
    port: int, exporter: str, name: str, write_url: str, message: str | None
) -> Mapping[str, Any]:
    """A Prometheus that scrapes the exporter and itself every second, and remote-writes."""
    remote_write: dict[str, Any] = {
        "url": write_url,
        # A bridge that was killed is found again soon.
        "queue_config": {"max_backoff": "500ms", "batch_send_deadline": "500ms"},
        "metadata_config": {"send_interval": "3s"},
    }
    if message is not None:
        remote_write["protobuf_message"] = message
    return {
        "global": {
            "scrape_interval": "1s",
            "scrape_timeout": "1s",
            "evaluation_interval": "2s",
            "external_labels": writer_labels(name),
        },
        "scrape_configs": [
            {
                "job_name": "exporter",
                "honor_labels": True,
                "metrics_path": "/" + name.replace(" ", "-"),
                "static_configs": [{"targets": [exporter]}],
            },
            {"job_name": "prometheus", "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]},
        ],
        "remote_write": [remote_write],
    }


def live_road(
    program: Program, name: str, folder: Path, exporter: str, bridge: Bridge, message: str | None
) -> Road:
    """A writer and its reader, not started yet."""

    def write_config(port: int) -> Mapping[str, Any]:
        return scraping_config(port, exporter, name, bridge.write_url, message)

    def read_config(_port: int) -> Mapping[str, Any]:
        config = reading_config(bridge.read_url, reader_labels(name))
        config["global"]["evaluation_interval"] = "2s"
        return config

    stem = name.replace(" ", "-")
    return Road(
        name,
        program,
        Prometheus(program, f"{stem}-A", folder / f"{stem}-A", write_config),
        Prometheus(program, f"{stem}-B", folder / f"{stem}-B", read_config),
        # A Prometheus gets series of its own by being asked.
        '{__name__=~".+", __name__!="build_info", job!="prometheus"}',
    )


def wait_for_scrapes(road: Road, scrape_count: int) -> tuple[float, float]:
    """Waits until the writer has scraped the exporter so often; its first and its last scrape."""

    def scrape_times() -> tuple[float, float] | None:
        answer = query(road.truth.url, 'bare_metric{b=""}[5m]', Evaluation(time.time()))
        for samples in answer.series.values():
            if len(samples) >= scrape_count:
                return float(samples[0][0]), float(samples[-1][0])
        return None

    return wait_until(scrape_times, f"{scrape_count} scrapes by the server: {road.name}", 90)


def is_delivered(road: Road, bridge: Bridge, end_s: float) -> bool:
    """Whether the bridge has as many samples until then as the writer."""
    answer = query(road.truth.url, '{__name__=~".+"}[5m]', Evaluation(end_s))
    matchers = [("cluster", "=", road.name), ("__name__", "=~", ".+")]
    end_ms = round(end_s * 1000)
    sample_count = sum(
        bits != STALE_BITS
        for _, samples in read_samples(bridge.read_url, matchers, end_ms - 300_000, end_ms)
        for _, bits in samples
    )
    return sample_count >= answer.sample_count


def record_live(road: Road, bridge: Bridge) -> None:
    """Records what the writer answers, when the bridge has it all, and stops the writer."""
    first_s, last_s = wait_for_scrapes(road, SCRAPE_COUNT)
    end_s = last_s - AHEAD_S
    start_s = end_s - (SCRAPE_COUNT - 18 - AHEAD_S)
    scale = Scale("4s", "10s", "2s", "3s", start_s + 1.5)
    instants = [Evaluation(end_s), Evaluation(round(start_s + 2.718, 3))]
    road.record(scale, instants, [Evaluation(start_s, end_s, 0.5)], (first_s, end_s))
    wait_until(
        lambda: is_delivered(road, bridge, last_s), f"the bridge has all that was {road.name}", 60
    )
    road.truth.stop()


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Road]:
    """The live roads, driven at the same time and compared in every phase."""
    folder = tmp_path_factory.mktemp("live")
    three = find_prometheus(3)
    two = look_for_prometheus(2)
    fleet = Fleet(period=8, step_s=1.0, start_s=time.time(), signed_zeros=False)
    plain_fleet = Fleet(
        period=8, step_s=1.0, start_s=time.time(), signed_zeros=False, utf8_names=False
    )
    with ExitStack() as stack:
        exporter = stack.enter_context(Exporter(fleet)).target
        plain_exporter = stack.enter_context(Exporter(plain_fleet)).target
        bridge = stack.enter_context(Bridge(folder / "bridge", flags=READER_FLAGS))
        killed_bridge = stack.enter_context(Bridge(folder / "killed", flags=READER_FLAGS))
        roads = [
            live_road(three, LIVE[1], folder, exporter, bridge, "prometheus.WriteRequest"),
            live_road(three, LIVE[2], folder, exporter, bridge, V2),
        ]
        if two is not None:
            roads.append(live_road(two, LIVE[0], folder, plain_exporter, bridge, None))
        killed = live_road(three, KILLED, folder, exporter, killed_bridge, V2)
        for road in (*roads, killed):
            stack.enter_context(road.truth)
        for scrape_count in (6, 13):
            wait_for_scrapes(killed, scrape_count)
            kill_under_writer(killed_bridge, killed)
        for road in roads:
            record_live(road, bridge)
        record_live(killed, killed_bridge)
        for road in (*roads, killed):
            stack.enter_context(road.reader)
        killed.compare(KILLED)
        drive_phases(bridge, roads)
        return {road.name: road for road in (*roads, killed)}


def kill_under_writer(bridge: Bridge, road: Road) -> None:
    """SIGKILL, and starts it again only after the writer has failed to send."""

    def retried_count() -> float:
        text = fetch("GET", f"{road.truth.url}/metrics").body.decode()
        name = "prometheus_remote_storage_samples_retried_total"
        return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))

    before = retried_count()
    bridge.kill()
    wait_until(lambda: retried_count() > before, "the writer sends again", 60)
    bridge.start()


def drive_phases(bridge: Bridge, roads: list[Road]) -> None:
    """Compares from the head, from the lake, and after a restart."""
    assert bridge.lake_row_count() == 0, "something was flushed before it was asked for"
    for road in roads:
        road.compare(PHASES[0])
    bridge.flush()
    assert bridge.lake_row_count() > 0, "the flush left nothing in the lake"
    for road in roads:
        road.compare(PHASES[1])
    bridge.restart()
    for road in roads:
        road.compare(PHASES[2], slice(0, None, 3))


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("name", LIVE)
def test_an_empty_prometheus_answers_what_the_stopped_one_did(
    live: dict[str, Road], name: str, phase: str
) -> None:
    if name not in live:
        find_prometheus(2)
    check(live[name], phase)


def test_a_bridge_killed_while_prometheus_writes_loses_nothing(live: dict[str, Road]) -> None:
    check(live[KILLED], KILLED)


# The made road

# Two days and two midnights, the second of which ends a month, at a scrape a minute.
START_S = 1_717_070_400.0  # 2024-05-30T12:00:00Z
STEP_COUNT = 2880
MADE_PHASES = (
    "half from the head",
    "after a kill",
    "from the lake",
    "with the last third local",
)


@pytest.fixture(scope="module", params=[3, 2], ids=["3.x", "2.x"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Road:
    """The made road of one major version, driven and compared in every phase."""
    program = find_prometheus(request.param)
    folder = tmp_path_factory.mktemp("made")
    is_3 = program.major > 2
    span = Span(Fleet(180, 60.0, START_S, utf8_names=is_3, order_changes=is_3), STEP_COUNT)
    blocks = made_blocks(span)
    labels = writer_labels("made")

    def empty_config(_port: int) -> Mapping[str, Any]:
        return {"global": {"scrape_interval": "1h"}}

    def read_config(_port: int) -> Mapping[str, Any]:
        return reading_config(bridge.read_url, reader_labels("made"))

    with ExitStack() as stack:
        bridge = stack.enter_context(Bridge(folder / "bridge", flags=READER_FLAGS))
        road = Road(
            "made",
            program,
            Prometheus(program, "A", folder / "A", empty_config, RECEIVER_FLAGS),
            Prometheus(program, "B", folder / "B", read_config),
            '{__name__=~".+"}',
        )
        with road.truth:
            push_all(encode_blocks(blocks, [1], {}), f"{road.truth.url}/api/v1/write")
            record_made(road, span)
        bodies = list(encode_blocks(blocks, [1, 2], labels))
        half = len(bodies) // 2
        push_all(in_disorder(bodies[:half], seed=1), bridge.write_url)
        bridge.flush()
        assert bridge.lake_row_count() >= sum(body.sample_count for body in bodies[:half])
        # Some of the first half once more: these samples are both in the head and in the lake.
        push_all(in_disorder(bodies[half - 5 :], seed=2), bridge.write_url)
        stack.enter_context(road.reader)
        road.compare(MADE_PHASES[0])
        bridge.kill_and_start()
        road.compare(MADE_PHASES[1], slice(0, None, 3))
        bridge.flush()
        road.compare(MADE_PHASES[2])
        road.reader.stop()
        road.reader = stack.enter_context(
            Prometheus(program, "C", folder / "C", read_config, RECEIVER_FLAGS)
        )
        late = encode_blocks(blocks[2 * len(blocks) // 3 :], [1], {})
        push_all(late, f"{road.reader.url}/api/v1/write")
        road.compare(MADE_PHASES[3], slice(1, None, 2))
    return road


def record_made(road: Road, span: Span) -> None:
    """Records what the truth answers about the whole span and about two hours of it."""
    start_s, end_s = span.start_ms / 1000, span.end_ms / 1000
    middle_s = start_s + 0.6 * (end_s - start_s)
    road.record(
        Scale("5m", "1h", "150s", "17m", middle_s),
        [
            Evaluation(middle_s),  # on a full minute, where half of the samples are
            Evaluation(middle_s + 3600.001),
            Evaluation(start_s + 0.402 * (end_s - start_s)),  # a few minutes into the long gap
        ],
        [
            Evaluation(start_s, end_s, 1020.0),
            Evaluation(middle_s - 3600, middle_s + 3600, 60.0),
        ],
        (start_s, end_s),
    )


@pytest.mark.parametrize("phase", MADE_PHASES)
def test_days_of_made_data_read_back_equal(made: Road, phase: str) -> None:
    check(made, phase)
