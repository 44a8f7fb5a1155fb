"""What one remote-write sample costs between the decompressed body and its row.

    python -m benchmarks.decode [--series 100000] [--memory-series 1000000]

Series have ten labels of 400 bytes in all, 50 series a pod, as a Kubernetes fleet has them; a body
holds 2000 samples, each a TimeSeries of its own. Measured is CPU time of the decoding thread:

    new      every series is registered
    known    every series is there; bodies are read from memory that was just written, as they are
             after decompression
    parse    the rival: the protobuf package (upb, in C) parses the same body into objects, and
             neither looks a series up nor makes a column
    bytes    of the registry by its own account, and of the process

Machines differ: compare the figures of one run.
"""

import argparse
import resource
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from benchmarks.targets import varint
from bridge.wire import remote_write_pb2, remote_write_v2_pb2
from bridge.wire.decoded import Decoded, Limits
from bridge.wire.series import SeriesRegistry
from tests.oracle import raw_protobuf as raw

SAMPLES_PER_BODY = 2000
SERIES_PER_POD = 50
ROUNDS = 5
NOW_MS = 1_790_000_000_000
Labels = list[tuple[bytes, bytes]]


def label_sets(series_count: int) -> Iterator[Labels]:
    """Sorted labels, ten a series."""
    for number in range(series_count):
        pod, metric = divmod(number, SERIES_PER_POD)
        app = b"checkout-billing-engine-%02d" % (pod % 60)
        uid = b"%08x-4f1c-4b7a-9c52-%012x" % (
            pod * 2654435761 % 2**32,
            pod * 11400714819323 % 2**48,
        )
        yield [
            (b"__name__", b"container_network_receive_packets_%03d_total" % metric),
            (b"cluster", b"prod-eu-west-1"),
            (b"container", app),
            (b"image", b"482910337765.dkr.ecr.eu-west-1.amazonaws.com/" + app + b":v4.12.7"),
            (b"instance", b"10.%d.%d.%d:10250" % (pod >> 16 & 255, pod >> 8 & 255, pod & 255)),
            (b"job", b"kubelet-and-cadvisor"),
            (b"namespace", b"checkout-%02d" % (pod % 20)),
            (b"node", b"ip-10-%d-%d-17.eu-west-1.compute.internal" % (pod >> 13, pod >> 5 & 255)),
            (b"pod", app + b"-7d9c6b8f5d-" + uid[:5]),
            (b"uid", uid),
        ]


def body_v1(sets: list[Labels], at_ms: int) -> bytes:
    """A WriteRequest of one sample a series."""
    return b"".join(
        raw.message(
            1, b"".join(raw.label(*pair) for pair in labels) + raw.sample(at_ms, 0x3FF1 << 48)
        )
        for labels in sets
    )


def body_v2(sets: list[Labels], at_ms: int) -> bytes:
    """An io.prometheus.write.v2.Request of one sample a series."""
    symbols = {b"": 0}
    series = []
    for labels in sets:
        refs = [symbols.setdefault(text, len(symbols)) for pair in labels for text in pair]
        packed = raw.message(1, b"".join(map(varint, refs)))
        series.append(raw.message(5, packed + raw.sample(at_ms, 0x3FF1 << 48)))
    return b"".join([*(raw.message(4, text) for text in symbols), *series])


class Rows:
    """Arrays to decode into."""

    def __init__(self) -> None:
        self.refs = np.zeros(SAMPLES_PER_BODY, np.uint32)
        self.timestamps_ms = np.zeros(SAMPLES_PER_BODY, np.int64)
        self.values = np.zeros(SAMPLES_PER_BODY, np.float64)
        self.starts_ms = np.zeros(SAMPLES_PER_BODY, np.int64)

    def decode(self, registry: SeriesRegistry, version: int, body: bytes | memoryview) -> Decoded:
        decode = registry.decode_v1 if version == 1 else registry.decode_v2
        decoded = decode(
            body,
            Limits(),
            NOW_MS,
            None,
            self.refs,
            self.timestamps_ms,
            self.values,
            self.starts_ms,
            0,
        )
        assert decoded.sample_count == decoded.sample_seen
        return decoded


@dataclass
class Cost:
    """CPU seconds over samples."""

    seconds: float = 0.0
    samples: int = 0

    def add(self, seconds: float, samples: int) -> None:
        self.seconds += seconds
        self.samples += samples

    def __str__(self) -> str:
        return f"{self.seconds / max(1, self.samples) * 1e9:8.1f} ns/sample"


def in_bodies(sets: Iterator[Labels]) -> Iterator[list[Labels]]:
    while chunk := list(islice(sets, SAMPLES_PER_BODY)):
        yield chunk


def measure_speed(version: int, series_count: int) -> None:
    registry, rows = SeriesRegistry(seed=time.time_ns()), Rows()
    make = body_v1 if version == 1 else body_v2
    bodies = [make(chunk, NOW_MS) for chunk in in_bodies(label_sets(series_count))]
    buffer = bytearray(max(map(len, bodies)))
    new, parse = Cost(), Cost()
    for body in bodies:
        start = time.process_time()
        decoded = rows.decode(registry, version, body)
        new.add(time.process_time() - start, decoded.sample_count)
        assert decoded.series_added == decoded.sample_count
    known = []
    for _ in range(ROUNDS):
        cost = Cost()
        for body in bodies:
            buffer[: len(body)] = body
            view = memoryview(buffer)[: len(body)]
            start = time.process_time()
            decoded = rows.decode(registry, version, view)
            cost.add(time.process_time() - start, decoded.sample_count)
            assert decoded.series_added == 0
        known.append(cost)
    request = remote_write_pb2.WriteRequest() if version == 1 else remote_write_v2_pb2.Request()
    for body in bodies[:20]:
        start = time.process_time()
        request.ParseFromString(body)
        parse.add(time.process_time() - start, len(request.timeseries))
    best = min(known, key=lambda cost: cost.seconds)
    label_bytes = sum(map(len, registry.label_bytes(np.arange(1000, dtype=np.uint32)))) / 1000
    print(f"v{version}, {series_count} series of {label_bytes:.0f} label bytes on the wire")
    print(f"  new    {new}\n  known  {best}\n  parse  {parse}")


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def measure_memory(series_count: int) -> None:
    registry, rows = SeriesRegistry(seed=time.time_ns()), Rows()
    before = resident_bytes()
    cost, peak = Cost(), 0
    for chunk in in_bodies(label_sets(series_count)):
        body = body_v1(chunk, NOW_MS)
        start = time.process_time()
        decoded = rows.decode(registry, 1, body)
        cost.add(time.process_time() - start, decoded.sample_count)
        peak = max(peak, resident_bytes())
    print(f"{len(registry)} series, {registry.pair_count} pairs")
    print(f"  new    {cost}")
    print(f"  registry {registry.memory_bytes / len(registry):.1f} bytes a series")
    print(f"  process  {(peak - before) / len(registry):.1f} bytes a series at its peak")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--series", type=int, default=100_000)
    parser.add_argument("--memory-series", type=int, default=1_000_000)
    arguments = parser.parse_args()
    print(f"decoder: {SeriesRegistry.__module__}")
    for version in (1, 2):
        measure_speed(version, arguments.series)
    measure_memory(arguments.memory_series)


if __name__ == "__main__":
    main()
