"""Windows that tests make, and what leaves for them."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from bridge.lake.grouped import GroupedRows
from bridge.lake.window_rows import WindowRows
from bridge.read.emission import Emission, Grid, Kind

W = 1000
FIVE = Grid(first_ms=5 * W, step_ms=W, range_ms=5 * W)
CLOSED = Grid(first_ms=5 * W, step_ms=W, range_ms=5 * W, is_closed=True)
Sent = list[tuple[int, float]]
Row = Mapping[str, float]


def emission(kind: Kind, grid: Grid | None = FIVE, **more: Any) -> Emission:
    return Emission(kind, W, 0, 100 * W, grid, **more)


def rows(*slots: Sequence[Row]) -> WindowRows:
    """Windows that say what differs from ten samples from 100 to 900, of 1 to 10."""
    usual: dict[str, float] = {
        "count": 10,
        "sum": 55.0,
        "min": 1.0,
        "max": 10.0,
        "first": 1.0,
        "last": 10.0,
        "first_timestamp_ms": 100,
        "last_timestamp_ms": 900,
        "reset_drop": 0.0,
        "resets": 0,
        "stale_timestamp_ms": 0,
    }
    columns: dict[str, list[float]] = {name: [] for name in ("window_end_ms", *usual)}
    for slot in slots:
        for row in slot:
            begin_ms = row["end"] - W
            for name, value in (usual | dict(row)).items():
                if name == "end":
                    columns["window_end_ms"].append(value)
                elif name.endswith("timestamp_ms") and value:
                    columns[name].append(begin_ms + value)
                else:
                    columns[name].append(value)
    made: dict[str, Any] = {
        name: np.array(column, np.int64 if name.endswith("_ms") else np.float64)
        for name, column in columns.items()
    }
    for name in ("count", "resets"):
        made[name] = made[name].astype(np.int32)
    return WindowRows(np.cumsum([0, *map(len, slots)]).astype(np.int64), **made)


def sent(grouped: GroupedRows) -> Sent:
    return list(zip(grouped.timestamps_ms.tolist(), grouped.values.tolist(), strict=True))


def regular(*ends: int, **more: float) -> list[Row]:
    """Windows whose samples are 100 ms apart and reach from end to end."""
    return [
        {"end": end, "first_timestamp_ms": 100, "last_timestamp_ms": 1000, **more} for end in ends
    ]


def drops(samples: Sent) -> list[float]:
    return [before for (_, before), (_, value) in pairwise(samples) if value < before]
