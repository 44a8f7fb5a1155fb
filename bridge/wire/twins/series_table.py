"""What the obvious registry holds: lists by number, dicts by content."""

from dataclasses import dataclass, field
from typing import TypeAlias

import xxhash

Label: TypeAlias = tuple[bytes, bytes]


@dataclass(frozen=True, slots=True)
class SeriesRow:
    """One series.

    Attributes:
        series_id: hash of its labels.
        metric_pair: id of its __name__ pair.
        replica: index into the replicas, 0 none.
        pairs: ids of its pairs, canonical order.
    """

    series_id: int
    metric_pair: int
    replica: int
    pairs: tuple[int, ...]


@dataclass(slots=True)
class SeriesTable:
    """Series and pairs.

    Attributes:
        replica_labels: names that are no part of a series' identity.
        rows: by ref.
        pairs: by pair id.
        replicas: by replica; the first means none.
        refs: (metric pair, series id) -> replica -> ref.
        fingerprints: version of remote write and labels as sent -> ref.
        metadata: metric -> type, help and unit as last told.
        collision_count: trusted rows whose key another label set had.
    """

    replica_labels: tuple[bytes, ...]
    rows: list[SeriesRow] = field(default_factory=list)
    pairs: list[Label] = field(default_factory=list)
    pair_ids: dict[Label, int] = field(default_factory=dict)
    replicas: list[bytes] = field(default_factory=lambda: [b""])
    refs: dict[tuple[int, int], dict[int, int]] = field(default_factory=dict)
    fingerprints: dict[tuple[int, tuple[Label, ...]], int] = field(default_factory=dict)
    metadata: dict[bytes, tuple[int, bytes, bytes]] = field(default_factory=dict)
    collision_count: int = 0

    def labels(self, ref: int) -> list[Label]:
        """The canonical labels of a series."""
        return [self.pairs[pair] for pair in self.rows[ref].pairs]

    def find(self, series_id: int, labels: list[Label], replica: bytes) -> int | None:
        """The ref; None if it is new; -1 - a ref that has another label set by the same key."""
        metric = self.pair_ids.get((b"__name__", dict(labels)[b"__name__"]))
        siblings = self.refs.get((metric, series_id)) if metric is not None else None
        if not siblings:
            return None
        sibling = next(iter(siblings.values()))
        if self.labels(sibling) != labels:
            return -1 - sibling
        return siblings.get(self.replicas.index(replica)) if replica in self.replicas else None

    def add(self, series_id: int, labels: list[Label], replica: bytes) -> int:
        """The ref of a series that `find` did not find."""
        pairs = []
        for label in labels:
            if label not in self.pair_ids:
                self.pair_ids[label] = len(self.pairs)
                self.pairs.append(label)
            pairs.append(self.pair_ids[label])
        if replica not in self.replicas:
            self.replicas.append(replica)
        metric = self.pair_ids[b"__name__", dict(labels)[b"__name__"]]
        row = SeriesRow(series_id, metric, self.replicas.index(replica), tuple(pairs))
        ref = len(self.rows)
        self.rows.append(row)
        self.refs.setdefault((metric, series_id), {})[row.replica] = ref
        return ref

    def compacted(self, is_kept: list[bool]) -> tuple["SeriesTable", list[int | None]]:
        """A copy with the series that are kept, and where each went."""
        other = SeriesTable(self.replica_labels)
        remap = [
            other.add(row.series_id, self.labels(ref), self.replicas[row.replica])
            if is_kept[ref]
            else None
            for ref, row in enumerate(self.rows)
        ]
        moved = {key: remap[ref] for key, ref in self.fingerprints.items()}
        other.fingerprints = {key: ref for key, ref in moved.items() if ref is not None}
        other.metadata = dict(self.metadata)
        return other, remap


def series_id_of(labels: list[Label]) -> int:
    """The series id of canonical labels, signed."""
    text = b"".join(name + b"\xff" + value + b"\xff" for name, value in labels)
    unsigned = xxhash.xxh3_64_intdigest(text)
    return unsigned - (1 << 64) if unsigned >> 63 else unsigned
