"""Both registries, and rows for them to write into."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from bridge.wire import _series
from bridge.wire.columns import U32Array
from bridge.wire.decoded import Decoded, Limits
from bridge.wire.twins import series as twin

Registry = _series.SeriesRegistry | twin.SeriesRegistry
KINDS: tuple[type[_series.SeriesRegistry] | type[twin.SeriesRegistry], ...] = (
    _series.SeriesRegistry,
    twin.SeriesRegistry,
)
RECEIVE_MS = 1_700_000_000_000


@dataclass
class Written:
    """What one body became; rows as (canonical labels, timestamp_ms, value bits, start)."""

    decoded: Decoded
    refs: list[int]
    rows: list[tuple[dict[bytes, bytes], int, int, int]]

    @property
    def refused(self) -> list[int]:
        """Ordinals of the samples that were refused."""
        flat = self.decoded.refused.tolist()
        return [
            ordinal
            for first, count in zip(flat[::2], flat[1::2], strict=True)
            for ordinal in range(first, first + count)
        ]


def labels_of(registry: Registry, refs: Iterable[int]) -> list[dict[bytes, bytes]]:
    """Canonical labels of some series; their order is that of the dict."""
    wanted = np.array(list(refs), np.uint32)
    rows = registry.label_rows(wanted)
    names = _split(rows.name_bytes, rows.name_offsets.tolist())
    values = _split(rows.value_bytes, rows.value_offsets.tolist())
    bounds = rows.label_offsets.tolist()
    return [
        dict(zip(names[start:end], values[start:end], strict=True))
        for start, end in pairwise(bounds)
    ]


def _split(text: bytes, offsets: Sequence[int]) -> list[bytes]:
    return [text[start:end] for start, end in pairwise(offsets)]


def write(
    registry: Registry,
    version: int,
    body: bytes,
    limits: Limits | None = None,
    *,
    receive_ms: int = RECEIVE_MS,
    refused: U32Array | None = None,
    capacity: int = 100_000,
) -> Written:
    """Decodes one body into fresh arrays whose start timestamps are dirty."""
    refs = np.zeros(capacity, np.uint32)
    timestamps_ms = np.zeros(capacity, np.int64)
    values = np.zeros(capacity, np.float64)
    starts_ms = np.full(capacity, 99, np.int64)
    decode = registry.decode_v1 if version == 1 else registry.decode_v2
    decoded = decode(
        body,
        limits or Limits(),
        receive_ms,
        refused,
        refs,
        timestamps_ms,
        values,
        starts_ms,
        0,
    )
    end = decoded.sample_count
    own = refs[:end].tolist()
    rows = list(
        zip(
            labels_of(registry, own),
            timestamps_ms[:end].tolist(),
            values[:end].view(np.uint64).tolist(),
            starts_ms[:end].tolist(),
            strict=True,
        )
    )
    return Written(decoded, own, rows)
