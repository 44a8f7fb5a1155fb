"""Metrics of the process, of its requests to the store and of its cache, read when asked for."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from bridge.compiled import missing_modules
from bridge.lake.file_cache import FileCache
from bridge.lake.lake import Lake
from bridge.lake.store import Store


class ProcessMetrics(Collector):
    """What every mode of the process has."""

    def __init__(
        self, registry: CollectorRegistry, store: Store, lake: Lake, cache: FileCache | None
    ) -> None:
        self._store = store
        self._lake = lake
        self._cache = cache
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
        registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """One family per value."""
        yield GaugeMetricFamily(
            "prombridge_compiled_core",
            "1 with the compiled core, 0 on the slow Python twins.",
            value=int(not missing_modules()),
        )
        yield GaugeMetricFamily(
            "prombridge_lake_connected",
            "1 once the lake has been reached since the start.",
            value=int(self._lake.is_connected),
        )
        requests = CounterMetricFamily(
            "prombridge_store_requests",
            "Requests to the store by kind, without those of the Delta log.",
            labels=["kind"],
        )
        for kind, count in sorted(self._store.request_counts.items()):
            requests.add_metric([kind], count)
        yield requests
        operations = CounterMetricFamily(
            "prombridge_lake_log_operations",
            "Operations on the Delta log by kind; each is several requests to the store.",
            labels=["operation"],
        )
        for kind, count in sorted(self._lake.log_operation_counts().items()):
            operations.add_metric([kind], count)
        yield operations
        if self._cache is not None:
            yield from _cache_metrics(self._cache)


def _cache_metrics(cache: FileCache) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "prombridge_cache_size_bytes", "Bytes that the file cache holds.", value=cache.size_bytes
    )
    counters = {
        "prombridge_cache_hit_bytes": (
            "Bytes that reads found in the file cache.",
            cache.hit_bytes,
        ),
        "prombridge_cache_fetched_bytes": (
            "Bytes that were fetched from the store into the file cache.",
            cache.miss_bytes,
        ),
        "prombridge_cache_evicted_files": (
            "Files that were removed from the file cache for room.",
            cache.evicted_count,
        ),
        "prombridge_cache_damaged_blocks": (
            "Blocks of an earlier run that were not what was written, fetched again.",
            cache.damaged_count,
        ),
        "prombridge_cache_unforeseen_reads": (
            "Reads of what had not been fetched beforehand: a round trip each.",
            cache.unforeseen_count,
        ),
        "prombridge_cache_disk_failures": (
            "Writes that the disk of the file cache did not take, or has no room for.",
            cache.disk_failure_count,
        ),
    }
    for name, (text, value) in counters.items():
        yield CounterMetricFamily(name, text, value=value)
