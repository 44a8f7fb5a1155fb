"""A time series database too simple to be wrong: a dict of lists, read by looking at all of it."""

import math
import re
import struct
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from bridge.model.staleness import STALE_BITS

Labels = tuple[tuple[str, str], ...]
Sample = tuple[int, int]
"""(timestamp_ms, bits of the value)."""

HOUR_MS = 3_600_000


@dataclass(frozen=True)
class OracleMatcher:
    """A matcher in PromQL's own symbols."""

    name: str
    symbol: str
    value: str

    def keeps(self, labels: Mapping[str, str]) -> bool:
        have = labels.get(self.name, "")
        match self.symbol:
            case "=":
                return have == self.value
            case "!=":
                return have != self.value
            case "=~":
                return re.fullmatch(self.value, have, re.DOTALL) is not None
            case _:
                return re.fullmatch(self.value, have, re.DOTALL) is None


@dataclass
class OracleTsdb:
    """Samples by series and replica."""

    samples: dict[Labels, dict[str, list[Sample]]] = field(default_factory=dict)

    def append(
        self, labels: Mapping[str, str], timestamp_ms: int, bits: int, replica: str = ""
    ) -> None:
        key = tuple(sorted((name, value) for name, value in labels.items() if value))
        self.samples.setdefault(key, {}).setdefault(replica, []).append((timestamp_ms, bits))

    def read(
        self,
        matchers: Iterable[OracleMatcher],
        start_ms: int,
        end_ms: int,
        stripped: Collection[str] = (),
    ) -> list[tuple[Labels, list[Sample]]]:
        """Series with samples in [start_ms, end_ms], sorted without the stripped labels."""
        wanted = list(matchers)
        answer = []
        for labels, by_replica in self.samples.items():
            if all(matcher.keeps(dict(labels)) for matcher in wanted):
                merged = [
                    sample
                    for sample in merge_replicas(by_replica)
                    if start_ms <= sample[0] <= end_ms
                ]
                if merged:
                    answer.append((labels, merged))
        return sorted(answer, key=lambda series: client_order(series[0], stripped))


def client_order(labels: Labels, stripped: Collection[str]) -> list[tuple[bytes, bytes]]:
    """What a client compares: pairs of bytes, without the labels that it takes away."""
    return [(name.encode(), value.encode()) for name, value in labels if name not in stripped]


def value_order(bits: int) -> tuple[int, float, int]:
    """Of two values for one time the one that is greater by this wins."""
    value = struct.unpack("<d", struct.pack("<Q", bits))[0]
    if bits == STALE_BITS:
        return (0, 0.0, 0)
    if math.isnan(value):
        return (1, 0.0, bits)
    return (2, value, 0 if bits >> 63 else 1)


def merge_replicas(by_replica: Mapping[str, Sequence[Sample]]) -> list[Sample]:
    """One list of samples, times ascending, by the rule in docs/remote-read.md."""
    best: dict[str, dict[int, int]] = {}
    for replica, samples in by_replica.items():
        for time, bits in samples:
            have = best.setdefault(replica, {}).get(time)
            if have is None or value_order(bits) > value_order(have):
                best[replica][time] = bits
    hours: dict[int, dict[str, list[int]]] = {}
    for replica, values in best.items():
        for time in sorted(values):
            hours.setdefault((time - 1) // HOUR_MS, {}).setdefault(replica, []).append(time)
    merged = []
    for hour in sorted(hours):
        merged += [(time, best[replica][time]) for time, replica in follow_replicas(hours[hour])]
    return merged


def follow_replicas(times: Mapping[str, Sequence[int]]) -> list[tuple[int, str]]:
    """Times of one hour and the replica that each is taken from."""
    current = min(times)
    taken: list[tuple[int, str]] = []
    while True:
        since = taken[-1][0] if taken else None
        ahead = {
            replica: [time for time in own if since is None or time > since]
            for replica, own in times.items()
        }
        following = ahead[current][0] if ahead[current] else None
        rivals = []
        for replica, own in ahead.items():
            gap = [time for time in own if following is None or time < following]
            while since is not None and len(gap) > 1 and (gap[0] - since) < (gap[1] - gap[0]) / 2:
                del gap[0]
            if replica != current and len(gap) > 1:
                rivals.append((gap[0], replica))
        if rivals:
            current = min(rivals)[1]
            taken.append(min(rivals))
        elif following is None:
            return taken
        else:
            taken.append((following, current))
