"""What every sink shows in `/metrics`, read off its state when it is asked for.

accepted for a sink since it began = delivered + pending + dropped
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from bridge.write.sinks.cursor import Cursor
from bridge.write.wal.log import WriteAheadLog

DROP_REASONS: Mapping[str, tuple[str, ...]] = {
    "influxdb": (
        "stale_marker",
        "nan",
        "infinite",
        "too_long",
        "rejected",
        "backlog",
        "undecodable",
    )
}
"""All reasons by sink, for a counter that begins at 0: `increase()` does not see one that appears
with its first value, and a backlog is lost in one step."""


class SinkState(Protocol):
    """How a sink is doing; all of it may be read from any thread."""

    @property
    def name(self) -> str:
        """Its name, the label `sink`."""

    @property
    def cursor(self) -> Cursor:
        """How far it has come: position and counts of one moment."""

    @property
    def oldest_pending_ms(self) -> int:
        """When the oldest record came that it has not settled, Unix ms; 0 without any."""

    @property
    def last_error(self) -> str | None:
        """Why it does not get on; None while it does."""

    @property
    def request_counts(self) -> Mapping[str, int]:
        """Its requests by what came of them; empty for a sink that counts them elsewhere."""


class SinkMetrics(Collector):
    """The sinks of one log."""

    def __init__(
        self,
        registry: CollectorRegistry,
        wal: WriteAheadLog,
        sinks: Sequence[SinkState],
        wall_clock_s: Callable[[], float] = time.time,
    ) -> None:
        self._wal = wal
        self._sinks = sinks
        self._wall_clock_s = wall_clock_s
        registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """One family per value, one sample per sink."""
        label = ["sink"]
        delivered = CounterMetricFamily(
            "prombridge_sink_delivered_samples_total", "Samples that the sink has.", labels=label
        )
        dropped = CounterMetricFamily(
            "prombridge_sink_dropped_samples_total",
            "Samples that the sink never gets, by reason.",
            labels=["sink", "reason"],
        )
        pending = GaugeMetricFamily(
            "prombridge_sink_pending_samples",
            "Samples that are accepted and neither delivered nor dropped.",
            labels=label,
        )
        lag_s = GaugeMetricFamily(
            "prombridge_sink_lag_seconds",
            "Age of the oldest sample that is not delivered yet; 0 without any.",
            labels=label,
        )
        lag_bytes = GaugeMetricFamily(
            "prombridge_sink_lag_bytes",
            "Bytes of the WAL's segments that hold what is not delivered yet.",
            labels=label,
        )
        requests = CounterMetricFamily(
            "prombridge_sink_requests_total",
            "Requests of the sink, by status or kind of failure.",
            labels=["sink", "code"],
        )
        is_up = GaugeMetricFamily(
            "prombridge_sink_up", "1 while the sink gets on, 0 while it fails.", labels=label
        )
        for sink in self._sinks:
            # The cursor before the total: what is accepted in between is pending, never negative.
            name, cursor = [sink.name], sink.cursor
            delivered.add_metric(name, cursor.delivered)
            reasons = dict.fromkeys(DROP_REASONS.get(sink.name, ()), 0)
            for reason, count in {**reasons, **cursor.dropped}.items():
                dropped.add_metric([sink.name, reason], count)
            # Before the replay has found its end the log may know of less than the cursor.
            pending_count = max(0, self._wal.safe_sample_total - cursor.sample_total)
            pending.add_metric(name, pending_count)
            lag_bytes.add_metric(name, self._wal.bytes_above(cursor.position))
            oldest_ms = sink.oldest_pending_ms
            age_s = self._wall_clock_s() - oldest_ms / 1000 if oldest_ms else 0.0
            lag_s.add_metric(name, max(0.0, age_s))
            for code, count in dict(sink.request_counts).items():
                requests.add_metric([sink.name, code], count)
            is_up.add_metric(name, int(sink.last_error is None))
        yield from (delivered, dropped, pending, lag_s, lag_bytes, requests, is_up)
