"""The obvious registry of series: dicts, lists and the protobuf package."""

import threading
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from bridge.wire import remote_write_pb2
from bridge.wire.columns import F64Array, I32Array, I64Array, U8Array, U32Array
from bridge.wire.decoded import Decoded, LabelRows, Limits
from bridge.wire.twins.remote_write import Decoding, Rows, parse_v1, parse_v2
from bridge.wire.twins.series_table import SeriesRow, SeriesTable

if TYPE_CHECKING:
    from typing_extensions import Buffer

GONE = 0xFFFF_FFFF


class SeriesRegistry:
    """Every active series once; the stub of the compiled one describes the methods."""

    def __init__(self, replica_labels: Sequence[bytes] = (), *, seed: int = 0) -> None:
        self._lock = threading.Lock()
        self._table = SeriesTable(tuple(replica_labels))
        self._seed = seed

    def __len__(self) -> int:
        return len(self._table.rows)

    @property
    def memory_bytes(self) -> int:
        """A guess; the compiled registry knows."""
        return 500 * len(self._table.rows) + 300 * len(self._table.pairs)

    @property
    def symbol_count(self) -> int:
        """Texts held: one for each pair."""
        return len(self._table.pairs)

    @property
    def pair_count(self) -> int:
        """Distinct (name, value) pairs; their ids are below this."""
        return len(self._table.pairs)

    @property
    def collision_count(self) -> int:
        """Rows that `add_rows` gave to another label set of the same metric and id."""
        return self._table.collision_count

    def decode_v1(
        self,
        body: "Buffer",
        limits: Limits,
        receive_ms: int,
        refused: U32Array | None,
        refs: U32Array,
        timestamps_ms: I64Array,
        values: F64Array,
        start_timestamps_ms: I64Array,
        offset: int,
    ) -> Decoded:
        """Rows of a remote write 1.0 body."""
        rows = Rows(refs, timestamps_ms, values, start_timestamps_ms, offset)
        with self._lock:
            decoding = Decoding(self._table, limits, receive_ms, refused, rows)
            return decoding.run(parse_v1(body))

    def decode_v2(
        self,
        body: "Buffer",
        limits: Limits,
        receive_ms: int,
        refused: U32Array | None,
        refs: U32Array,
        timestamps_ms: I64Array,
        values: F64Array,
        start_timestamps_ms: I64Array,
        offset: int,
    ) -> Decoded:
        """Rows of a remote write 2.0 body."""
        rows = Rows(refs, timestamps_ms, values, start_timestamps_ms, offset)
        with self._lock:
            decoding = Decoding(self._table, limits, receive_ms, refused, rows)
            return decoding.run(parse_v2(body))

    def add_rows(
        self,
        series_ids: I64Array,
        label_offsets: I32Array,
        name_offsets: I32Array,
        name_bytes: "Buffer",
        value_offsets: I32Array,
        value_bytes: "Buffer",
    ) -> U32Array:
        """Refs of canonical label sets, registered where they are new."""
        table = self._table
        names = _split(bytes(name_bytes), name_offsets)
        texts = _split(bytes(value_bytes), value_offsets)
        labels = list(zip(names, texts, strict=True))
        refs = np.empty(len(series_ids), np.uint32)
        bounds = pairwise(label_offsets.tolist())
        with self._lock:
            for row, (series_id, (start, end)) in enumerate(
                zip(series_ids.tolist(), bounds, strict=True)
            ):
                own = labels[start:end]
                if b"__name__" not in dict(own):
                    raise ValueError(f"row {row} of {len(series_ids)} has no __name__")
                ref = table.find(series_id, own, b"")
                if ref is None:
                    ref = table.add(series_id, own, b"")
                elif ref < 0:
                    table.collision_count += 1
                    ref = -1 - ref
                refs[row] = ref
        return refs

    def series_ids(self, refs: U32Array | None = None) -> I64Array:
        """Series ids by ref."""
        return np.array([row.series_id for row in self._rows(refs)], np.int64)

    def metric_ids(self, refs: U32Array | None = None) -> U32Array:
        """Pair ids of the __name__ pairs by ref."""
        return np.array([row.metric_pair for row in self._rows(refs)], np.uint32)

    def replica_ids(self, refs: U32Array | None = None) -> U32Array:
        """Indices into `replicas` by ref, 0 none."""
        return np.array([row.replica for row in self._rows(refs)], np.uint32)

    def replicas(self) -> list[bytes]:
        """Values of the replica labels seen; the first is empty and means none."""
        return list(self._table.replicas)

    def select(self, metric_ids: U32Array | None) -> tuple[U32Array, I64Array, U32Array]:
        """Series of these metrics with their pair ids."""
        wanted = None if metric_ids is None else set(metric_ids.tolist())
        with self._lock:
            found = [
                (ref, row.pairs)
                for ref, row in enumerate(self._table.rows)
                if wanted is None or row.metric_pair in wanted
            ]
        return (
            np.array([ref for ref, _ in found], np.uint32),
            np.cumsum([0, *(len(pairs) for _, pairs in found)], dtype=np.int64),
            np.array([pair for _, pairs in found for pair in pairs], np.uint32),
        )

    def find_pair(self, name: bytes, value: bytes) -> int:
        """Id of a pair, or -1."""
        return self._table.pair_ids.get((name, value), -1)

    def pair_texts(self, pair_ids: U32Array) -> list[tuple[bytes, bytes]]:
        """(name, value) of pairs."""
        return [self._table.pairs[pair] for pair in pair_ids.tolist()]

    def metric_pairs(self) -> U32Array:
        """Ids of all pairs whose name is __name__, ascending."""
        pairs = enumerate(list(self._table.pairs))
        return np.array([pair for pair, (name, _) in pairs if name == b"__name__"], np.uint32)

    def label_rows(self, refs: U32Array) -> LabelRows:
        """Labels as the buffers of an Arrow MAP column."""
        sets = [self._table.labels(ref) for ref in refs.tolist()]
        names = [name for labels in sets for name, _ in labels]
        texts = [value for labels in sets for _, value in labels]
        return LabelRows(
            np.cumsum([0, *map(len, sets)], dtype=np.int32),
            np.cumsum([0, *map(len, names)], dtype=np.int32),
            b"".join(names),
            np.cumsum([0, *map(len, texts)], dtype=np.int32),
            b"".join(texts),
        )

    def label_lengths(self, refs: U32Array) -> I64Array:
        """Bytes of all names and values of each series."""
        return np.array(
            [
                sum(len(name) + len(value) for name, value in self._table.labels(ref))
                for ref in refs.tolist()
            ],
            np.int64,
        )

    def label_bytes(self, refs: U32Array) -> list[bytes]:
        """Labels as protobuf, field 1 repeated."""
        return [
            remote_write_pb2.TimeSeries(
                labels=[
                    remote_write_pb2.Label(name=name, value=value)
                    for name, value in self._table.labels(ref)
                ]
            ).SerializeToString()
            for ref in refs.tolist()
        ]

    def sort_keys(self, refs: U32Array, stripped: Sequence[bytes]) -> list[bytes]:
        """Bytes that sort as the client sorts label sets."""
        return [
            b"".join(
                text.replace(b"\0", b"\0\xff") + b"\0\x01"
                for label in self._table.labels(ref)
                if label[0] not in stripped
                for text in label
            )
            for ref in refs.tolist()
        ]

    def compacted(self, keep: U8Array) -> tuple["SeriesRegistry", U32Array]:
        """A copy with fewer series, and where each went."""
        other = SeriesRegistry(self._table.replica_labels, seed=self._seed)
        with self._lock:
            is_kept = [ref >= len(keep) or bool(keep[ref]) for ref in range(len(self._table.rows))]
            other._table, remap = self._table.compacted(is_kept)
        return other, np.array([GONE if ref is None else ref for ref in remap], np.uint32)

    def _rows(self, refs: U32Array | None) -> Iterable[SeriesRow]:
        with self._lock:
            rows = list(self._table.rows)
        return rows if refs is None else [rows[ref] for ref in refs.tolist()]


def _split(text: bytes, offsets: I32Array) -> list[bytes]:
    return [text[start:end] for start, end in pairwise(offsets.tolist())]
