"""Remote-write bodies of a Kubernetes-like fleet: the same for every server and every run.

    python -m benchmarks.fleet 10k-x-600 --data FOLDER

Who is scraped is told in `targets.py`, what they expose in `catalogue.py`, how values move in
`waveforms.py`. A target is scraped at a phase of its own, a few of its scrapes a few ms late.

What is cached under `FOLDER/PROFILE` (made anew if the folder is deleted):

    shard-0 …    snappy-compressed WriteRequests, one after the other
    index.json   what was made, and for each shard the bytes and samples of its requests
    expected.npz some series (all of a small profile) sample by sample, to compare answers with

Invariants:
    All samples of a series are in one shard and in order of time; each is a TimeSeries of its own,
    as Prometheus sends them. Same profile, seed and end: same bytes.
"""

import argparse
import json
import shutil
import struct
import tempfile
import time
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cramjam
import numpy as np
from numpy.typing import NDArray

from benchmarks.targets import Fleet, Profile, varint
from benchmarks.waveforms import draw

STALE_BITS = 0x7FF0000000000002
SAMPLES_PER_REQUEST = 2000
SHARD_COUNT = 8
"""A multiple of the connections, so that each owns whole shards."""
LATE_RATIO = 0.15
LATE_MS_MAX = 8
SEED = 20260
EXPECTED_SAMPLES_MAX = 4_000_000
"""Profiles up to this size keep all their samples for comparison: 16 bytes each, 64 MB."""
EXPECTED_SERIES = 16
BLOCK_MS = 2 * 3_600_000
DAY_MS = 24 * 3_600_000
DEFAULT_DATA = Path(tempfile.gettempdir()) / "prombridge-benchmarks"


PROFILES = {
    "100k-x-60": Profile(100_000, 60),
    "10k-x-600": Profile(10_000, 600),
    "1m-x-5": Profile(1_000_000, 5),
    "reads": Profile(10_000, 61, 60_000, is_one_metric=True, churn_ratio=0),
    "day": Profile(2_000, 1440, 60_000, churn_ratio=0),
    "smoke": Profile(3_000, 40),
}


def scrape_times(profile: Profile, target_count: int, end_ms: int, seed: int) -> NDArray[np.int64]:
    """(target_count, scrape_count) Unix ms, rising along each row, none after `end_ms`."""
    rng = np.random.default_rng(seed)
    shape = (target_count, profile.scrape_count)
    start_ms = end_ms - profile.scrape_count * profile.interval_ms
    phase_ms = rng.integers(0, profile.interval_ms - LATE_MS_MAX, target_count)
    late_ms = rng.integers(1, LATE_MS_MAX + 1, shape) * (rng.random(shape) < LATE_RATIO)
    grid_ms = start_ms + profile.interval_ms * np.arange(profile.scrape_count)
    times: NDArray[np.int64] = grid_ms[None, :] + phase_ms[:, None] + late_ms
    return times


def latest_end_ms(profile: Profile, now_ms: int) -> int:
    """About now, but no block (2 h) or day begins inside a workload that fits into one."""
    end_ms = now_ms - 60_000
    span_ms = profile.scrape_count * profile.interval_ms
    for grid_ms in (BLOCK_MS, DAY_MS):
        begun_ms = end_ms // grid_ms * grid_ms
        if span_ms <= grid_ms and end_ms - span_ms < begun_ms:
            end_ms = begun_ms
    return end_ms


class Samples:
    """Every sample of a fleet, by series and scrape."""

    def __init__(self, fleet: Fleet, profile: Profile, end_ms: int, seed: int) -> None:
        self.labels = fleet.labels
        self.targets = np.array(fleet.targets)
        self.first = np.array(fleet.first)
        self.end = np.array(fleet.end)
        self.times_ms = scrape_times(profile, int(self.targets.max()) + 1, end_ms, seed)
        kinds = np.array(fleet.kinds)
        values = draw(kinds, profile.scrape_count, profile.interval_ms / 1000, seed)
        is_new_counter = (self.first > 0) & np.isin(kinds, ["counter", "centisecond", "nanosecond"])
        for row in np.flatnonzero(is_new_counter):
            # A process that has just begun counts from zero.
            values[row] = np.round(np.maximum(values[row] - values[row, self.first[row]], 0), 9)
        self.bits = values.view(np.uint64)
        ended = np.flatnonzero(self.end < profile.scrape_count)
        self.bits[ended, self.end[ended]] = STALE_BITS

    def live(self, scrape: int) -> NDArray[np.bool_]:
        """Which series have a sample (or the stale marker) at this scrape."""
        alive: NDArray[np.bool_] = (self.first <= scrape) & (scrape <= self.end)
        return alive

    def series(self, row: int) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
        """Times and value bits of one series."""
        span = slice(self.first[row], self.end[row] + 1)
        return self.times_ms[self.targets[row], span], self.bits[row, span]


def encode_requests(samples: Samples, rows: NDArray[np.int64]) -> Iterator[tuple[bytes, int]]:
    """WriteRequests of one shard and their sample counts, scrape by scrape in order of time."""
    rows = rows[np.argsort(samples.times_ms[samples.targets[rows], 0], kind="stable")]
    pieces: list[bytes] = []
    count = 0
    for scrape in range(samples.times_ms.shape[1]):
        live = rows[samples.live(scrape)[rows]]
        times = [b"\x10" + varint(time_ms) for time_ms in samples.times_ms[:, scrape].tolist()]
        targets = samples.targets[live].tolist()
        for row, target, bits in zip(
            live.tolist(), targets, samples.bits[live, scrape].tolist(), strict=True
        ):
            # proto3 leaves a value of zero out.
            sample = (b"\x09" + struct.pack("<Q", bits) if bits else b"") + times[target]
            labels = samples.labels[row]
            length = len(labels) + 2 + len(sample)
            pieces += (b"\x0a", varint(length), labels, b"\x12", varint(len(sample)), sample)
            count += 1
            if count == SAMPLES_PER_REQUEST:
                yield b"".join(pieces), count
                pieces, count = [], 0
    if count:
        yield b"".join(pieces), count


@dataclass(frozen=True, slots=True)
class Expected:
    """Series as they were sent, to compare answers with.

    Attributes:
        labels: protobuf `TimeSeries.labels`, sorted by name.
        offsets: (n_series + 1,) where each series' samples begin.
        timestamps_ms: (n_samples,) int64.
        bits: (n_samples,) uint64, the values bit by bit.
    """

    labels: list[bytes]
    offsets: NDArray[np.int64]
    timestamps_ms: NDArray[np.int64]
    bits: NDArray[np.uint64]


class Workload:
    """A profile's bodies in their folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.index: dict[str, Any] = json.loads((folder / "index.json").read_text())
        self.name: str = self.index["profile"]
        self.sample_count: int = self.index["sample_count"]
        self.start_ms: int = self.index["start_ms"]
        self.end_ms: int = self.index["end_ms"]

    def read_shard(self, shard: int) -> list[tuple[bytes, int]]:
        """Compressed bodies of a shard in order, with their sample counts."""
        data = memoryview((self.folder / f"shard-{shard}").read_bytes())
        requests = self.index["shards"][shard]
        ends = np.cumsum([length for length, _ in requests]).tolist()
        return [
            (bytes(data[end - length : end]), count)
            for end, (length, count) in zip(ends, requests, strict=True)
        ]

    def expected(self) -> Expected:
        """The series that were kept for comparison."""
        with np.load(self.folder / "expected.npz") as arrays:
            text = arrays["labels"].tobytes()
            ends = np.cumsum(arrays["label_bytes"]).tolist()
            labels = [
                text[end - length : end]
                for end, length in zip(ends, arrays["label_bytes"].tolist(), strict=True)
            ]
            return Expected(labels, arrays["offsets"], arrays["timestamps_ms"], arrays["bits"])


def open_workload(data: Path, name: str) -> Workload:
    """The workload of a profile, made if it is not there yet."""
    if name not in PROFILES:
        raise SystemExit(f"unknown profile {name!r}; there are {', '.join(PROFILES)}")
    folder = data / name
    if not (folder / "index.json").exists():
        write_workload(folder, name, latest_end_ms(PROFILES[name], time.time_ns() // 1_000_000))
    return Workload(folder)


def write_workload(folder: Path, name: str, end_ms: int) -> None:
    """Makes a profile's bodies; the index comes last, so that a torn folder is made anew."""
    profile = PROFILES[name]
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    fleet = Fleet(profile, SEED)
    samples = Samples(fleet, profile, end_ms, SEED)
    shard_of = np.array([zlib.crc32(labels) % SHARD_COUNT for labels in fleet.labels])
    shards: list[list[tuple[int, int]]] = []
    decoded_bytes = 0
    for shard in range(SHARD_COUNT):
        requests = []
        with (folder / f"shard-{shard}").open("wb") as file:
            for request, count in encode_requests(samples, np.flatnonzero(shard_of == shard)):
                body = bytes(cramjam.snappy.compress_raw(request))
                file.write(body)
                requests.append((len(body), count))
                decoded_bytes += len(request)
        shards.append(requests)
    sample_count = sum(count for requests in shards for _, count in requests)
    _write_expected(folder / "expected.npz", samples, sample_count)
    label_bytes = sum(len(labels) for labels in fleet.labels)
    index = {
        "profile": name,
        **asdict(profile),
        "seed": SEED,
        "start_ms": int(samples.times_ms.min()),
        "end_ms": int(samples.times_ms.max()),
        "series_in_all": len(fleet.labels),
        "sample_count": sample_count,
        "label_bytes_per_series": round(label_bytes / len(fleet.labels), 1),
        "decoded_bytes_per_sample": round(decoded_bytes / sample_count, 1),
        "body_bytes_per_sample": round(
            sum(length for requests in shards for length, _ in requests) / sample_count, 1
        ),
        "shards": shards,
    }
    (folder / "index.json").write_text(json.dumps(index))


def _write_expected(path: Path, samples: Samples, sample_count: int) -> None:
    """All series of a small workload; of a large one some, those with an end among them."""
    rows = np.arange(len(samples.labels))
    if sample_count > EXPECTED_SAMPLES_MAX:
        ended = np.flatnonzero(samples.end < samples.times_ms.shape[1])[: EXPECTED_SERIES // 4]
        spread = np.linspace(0, len(rows) - 1, EXPECTED_SERIES - len(ended)).astype(np.int64)
        rows = np.union1d(ended, spread)
    kept = [samples.series(row) for row in rows.tolist()]
    labels = [samples.labels[row] for row in rows.tolist()]
    np.savez(
        path,
        labels=np.frombuffer(b"".join(labels), np.uint8),
        label_bytes=np.array([len(text) for text in labels]),
        offsets=np.concatenate([[0], np.cumsum([len(times) for times, _ in kept])]),
        timestamps_ms=np.concatenate([times for times, _ in kept]),
        bits=np.concatenate([bits for _, bits in kept]),
    )


def main() -> None:
    """Makes workloads and tells what is in them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("profile", nargs="+", choices=PROFILES)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA)
    arguments = parser.parse_args()
    for name in arguments.profile:
        index = open_workload(arguments.data, name).index
        print(json.dumps({key: value for key, value in index.items() if key != "shards"}))


if __name__ == "__main__":
    main()
