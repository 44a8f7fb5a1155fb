"""Windows of a rollup as samples that give an engine the right answer, compiled where possible.

An engine that takes what leaves for raw samples computes what it would have computed from them. The
kinds, and which columns each needs: `kinds.py`; what leaves and why: `twins/emission.py`.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from bridge.lake.grouped import GroupedRows
from bridge.lake.window_rows import WindowRows
from bridge.read.kinds import Emission, Grid, Kind, columns_of

try:
    from bridge.read._emission import Emitter, count_points, emit
except ImportError:
    from bridge.read.twins.emission import (  # type: ignore[assignment]  # a twin
        Emitter,
        count_points,
        emit,
    )

__all__ = [
    "Emission",
    "Emitter",
    "Grid",
    "Kind",
    "columns_of",
    "count_points",
    "emit",
    "emit_parts",
]


def emit_parts(
    rows: WindowRows,
    emission: Emission,
    counters: NDArray[np.int8] | None,
    points_max: int,
) -> Iterator[tuple[int, GroupedRows]]:
    """The samples that leave, a few slots at a time, with the first of them.

    Args:
        rows: of all slots.
        emission: how they leave.
        counters: (slots,) int8, 1 for a counter, 0 for none, -1 if that is not known.
        points_max: at least 1; so many samples a part has at most, or one slot.
    """
    emitter = Emitter(rows, emission)
    ends = np.cumsum(emitter.counts)
    begin, slot_count = 0, len(ends)
    while begin < slot_count:
        before = int(ends[begin - 1]) if begin else 0
        end = max(begin + 1, int(np.searchsorted(ends, before + points_max, side="right")))
        yield begin, emitter.emit(begin, end, counters)
        begin = end
