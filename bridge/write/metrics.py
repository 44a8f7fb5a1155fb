"""Metrics of the receiving half that are read off its parts when `/metrics` is asked for."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from bridge.write.head import Head
from bridge.write.ingest import Ingest
from bridge.write.sinks.lake import LakeSink
from bridge.write.wal.log import WriteAheadLog


class WriteMetrics(Collector):
    """State of the WAL, the head and the lake sink."""

    def __init__(
        self,
        registry: CollectorRegistry,
        wal: WriteAheadLog,
        head: Head,
        ingest: Ingest,
        sink: LakeSink,
    ) -> None:
        self._wal = wal
        self._head = head
        self._ingest = ingest
        self._sink = sink
        registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """One family per value."""
        series = self._head.registry
        gauges = {
            "prombridge_head_series": ("Series that the receiver knows.", len(series)),
            "prombridge_head_series_bytes": (
                "Memory of the series' labels and tables.",
                series.memory_bytes,
            ),
            "prombridge_head_samples": (
                "Samples in memory, not yet in a file.",
                self._head.row_count,
            ),
            "prombridge_head_waiting_files_bytes": (
                "Bytes of cut files that the lake does not have yet.",
                self._head.waiting_bytes,
            ),
            "prombridge_head_waiting_cuts": (
                "Spans that are cut and that the lake does not have yet.",
                self._head.waiting_count,
            ),
            "prombridge_wal_size_bytes": ("Size of the WAL.", self._wal.size_bytes),
            "prombridge_wal_segments": ("Segments of the WAL.", self._wal.segment_count),
            "prombridge_wal_last_record": (
                "Number of the last record of the WAL.",
                self._wal.last_number,
            ),
            "prombridge_lake_committed_record": (
                "Number of the last record that the lake covers.",
                self._sink.committed_position,
            ),
        }
        for name, (text, value) in gauges.items():
            yield GaugeMetricFamily(name, text, value=value)
        yield CounterMetricFamily(
            "prombridge_wal_fsyncs", "Calls of fsync on the WAL.", value=self._ingest.fsync_count
        )
        yield CounterMetricFamily(
            "prombridge_wal_fsync_seconds",
            "Time spent in fsync on the WAL.",
            value=self._ingest.fsync_seconds,
        )
