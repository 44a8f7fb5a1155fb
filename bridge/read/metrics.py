"""What the read endpoint counts."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from bridge.read.reader import Reader


class ReadMetrics(Collector):
    """Counters of the endpoint, and the state of the reader's caches when it is asked for."""

    def __init__(self, registry: CollectorRegistry, reader: Reader) -> None:
        self._reader = reader
        self.requests = Counter(
            "prombridge_read_requests_total",
            "Remote-read requests by HTTP status; cancelled: the client went away, aborted: the "
            "answer was cut off.",
            ["code"],
            registry=registry,
        )
        self.queries = Counter(
            "prombridge_read_queries_total", "Queries answered.", registry=registry
        )
        self.series = Counter(
            "prombridge_read_series_total", "Series in answers.", registry=registry
        )
        self.samples = Counter(
            "prombridge_read_samples_total", "Samples in answers.", registry=registry
        )
        self.bytes = Counter(
            "prombridge_read_sent_bytes_total", "Bytes of answers.", registry=registry
        )
        self.files = Counter(
            "prombridge_read_files_total", "Files of samples and rollups read.", registry=registry
        )
        self.spans = Counter(
            "prombridge_read_spans_total",
            "Parts of queries by the resolution that answered them, and why that one; a part with "
            "two reasons counts for both.",
            ["resolution", "reason"],
            registry=registry,
        )
        self.duration = Histogram(
            "prombridge_read_request_duration_seconds",
            "From the request's headers to the last byte of its answer.",
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
            registry=registry,
        )
        registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """The caches."""
        hits = CounterMetricFamily(
            "prombridge_read_cache_hits",
            "Lookups that needed no file.",
            labels=["cache"],
        )
        misses = CounterMetricFamily(
            "prombridge_read_cache_misses", "Lookups that read files.", labels=["cache"]
        )
        size = GaugeMetricFamily(
            "prombridge_read_cache_bytes", "What is kept, estimated.", labels=["cache"]
        )
        for name, cache in (("series", self._reader.series), ("footers", self._reader.footers)):
            hits.add_metric([name], cache.hit_count)
            misses.add_metric([name], cache.miss_count)
            size.add_metric([name], cache.memory_bytes)
        yield from (hits, misses, size)
