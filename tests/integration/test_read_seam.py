"""A Prometheus with days of its own, and the bridge for what came before: one answer from both.

    made days ──► truth (all of them)
              ├─► local (the last day and a half, as a block) ◄─┐ remote_read, read_recent: false
              └─► bridge (all of them, rolled up) ──────────────┘

Prometheus asks remotely for what is older than its first block, and for the first 4 h of that.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.integration.bridge import Bridge
from tests.integration.downsampling import Downsampler
from tests.integration.made_data import push_all
from tests.integration.promql import Evaluation, query
from tests.integration.remote import Labels, WriteBody, bits_of, make_body
from tests.integration.servers import (
    RECEIVER_FLAGS,
    Program,
    Prometheus,
    fetch,
    find_prometheus,
    reading_config,
)

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS
END_MS = 1_780_272_000_000  # 2026-06-01T00:00Z
BEGIN_MS = END_MS - 5 * DAY_MS
LOCAL_MS = END_MS - 36 * HOUR_MS

EXPRESSIONS = [
    "jobs_total",
    "load",
    "sum by (host) (load)",
    "rate(jobs_total[1h])",
    "rate(jobs_total[6h])",
    "increase(jobs_total[1d])",
    "sum(rate(jobs_total[6h]))",
    "resets(jobs_total[1d])",
    "delta(load[6h])",
    "min_over_time(load[6h])",
    "max_over_time(load[1d])",
    "sum_over_time(load[6h])",
    "avg_over_time(load[1d])",
    "last_over_time(load[6h])",
    "count_over_time(load[6h])",
    "quantile_over_time(0.9, load[6h])",
    "max_over_time(rate(jobs_total[1h])[6h:1h])",
    "load offset 1d",
]


def labels_of(metric: str, number: int) -> Labels:
    return (("__name__", metric), ("host", f"h{number}"))


def bodies(after_ms: int) -> Iterator[WriteBody]:
    """Samples behind a time: counters that reset, gauges, a hole across the begin of the block."""
    for number in range(4):
        for metric in ("jobs_total", "load"):
            samples, value = [], 0.0
            for step in range((END_MS - BEGIN_MS) // MINUTE_MS):
                at_ms = BEGIN_MS + step * MINUTE_MS + 5_000 + 7_000 * number
                reset = step % (701 + 97 * number) == 0
                value = 0.0 if reset else value + step * 7919 % 13
                shown = value if metric == "jobs_total" else float(step * 7919 % 101) - 20
                in_hole = number == 3 and abs(at_ms - LOCAL_MS) < 50 * MINUTE_MS
                if at_ms > after_ms and not in_hole:
                    samples.append((at_ms, bits_of(shown)))
            yield make_body(1, [(labels_of(metric, number), samples)])


@dataclass(frozen=True)
class Pair:
    """The servers that are compared, and what one of them asks."""

    truth: Prometheus
    local: Prometheus
    bridge: Bridge


def started(
    stack: ExitStack,
    program: Program,
    folder: Path,
    config: Mapping[str, Any],
    flags: tuple[str, ...] = (),
) -> Prometheus:
    name = folder.name
    server = Prometheus(program, name, folder, lambda _: config, flags)
    return stack.enter_context(server)


@pytest.fixture(scope="module", params=[3, 2], ids=["3.x", "2.x"])
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pair]:
    program = find_prometheus(request.param)
    folder = tmp_path_factory.mktemp("seam")
    alone = {"global": {"scrape_interval": "1h"}}
    with ExitStack() as stack:
        bridge = stack.enter_context(Bridge(folder / "bridge"))
        push_all(list(bodies(BEGIN_MS)), bridge.write_url)
        bridge.flush()
        Downsampler(folder, bridge.lake).once(now_ms=END_MS + HOUR_MS)
        bridge.restart()  # sees the lake as it is now
        truth = started(stack, program, folder / "truth", alone, RECEIVER_FLAGS)
        push_all(list(bodies(BEGIN_MS)), f"{truth.url}/api/v1/write")
        with ExitStack() as making:
            flags = (*RECEIVER_FLAGS, "--web.enable-admin-api")
            maker = started(making, program, folder / "maker", alone, flags)
            push_all(list(bodies(LOCAL_MS)), f"{maker.url}/api/v1/write")
            reply = fetch("POST", f"{maker.url}/api/v1/admin/tsdb/snapshot", timeout_s=60)
            name = json.loads(reply.body)["data"]["name"]
        local = folder / "local"
        local.mkdir()
        shutil.move(folder / "maker" / "tsdb" / "snapshots" / name, local / "tsdb")
        config = reading_config(bridge.read_url, {})
        config["remote_read"][0]["read_recent"] = False
        yield Pair(truth, started(stack, program, local, config), bridge)


@pytest.mark.parametrize("step_h", [1, 12])
@pytest.mark.parametrize("text", EXPRESSIONS)
def test_both_make_one_answer(pair: Pair, text: str, step_h: int) -> None:
    when = Evaluation(
        (BEGIN_MS + 2 * DAY_MS) / 1000, (END_MS - HOUR_MS * 12) / 1000, step_h * HOUR_MS / 1000
    )
    expected, found = (query(server.url, text, when) for server in (pair.truth, pair.local))
    assert not found.warnings
    assert found.series.keys() == expected.series.keys()
    for labels, points in expected.series.items():
        truth = {at: float(value) for at, value in points}
        got = {at: float(value) for at, value in found.series[labels]}
        assert got.keys() == truth.keys()
        assert got == pytest.approx(truth, rel=1e-9, abs=1e-9), labels


def test_rollups_and_the_seam_answer(pair: Pair) -> None:
    """Else the other test would prove nothing."""
    when = Evaluation((BEGIN_MS + 2 * DAY_MS) / 1000, END_MS / 1000, HOUR_MS / 1000)
    names = [
        f'prombridge_read_spans_total{{reason="{reason}",resolution="{resolution}"}}'
        for reason, resolution in (("hints", "1h"), ("seam", "raw"))
    ]
    before = [pair.bridge.metric(name) for name in names]
    query(pair.local.url, "sum_over_time(load[6h])", when)
    assert [pair.bridge.metric(name) for name in names] == [value + 1 for value in before]
    status = json.loads(fetch("GET", f"{pair.local.url}/api/v1/status/tsdb").body)
    assert status["data"]["headStats"]["numSeries"] == 0, "what is local is a block"
