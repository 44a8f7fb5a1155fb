import numpy as np
from numpy.typing import NDArray

from bridge.wire.columns import F64Array, I32Array, I64Array

def find_runs(codes: I32Array | None, series_ids: I64Array) -> tuple[I64Array, bool]:
    """Where rows of one series begin.

    Args:
        codes: (rows,) int32, one for each metric; None if there is one metric.
        series_ids: (rows,) int64.

    Returns:
        (runs + 1,) int64, first row of each run and the row count behind; and whether the ids
        ascend within each run of equal codes.

    Raises:
        ValueError: the columns differ in length.
    """

def unite_keys(
    metrics: I32Array, ids: I64Array, other_metrics: I32Array, other_ids: I64Array
) -> tuple[I32Array, I64Array]:
    """All keys of two sorted lists, each once, sorted.

    Args:
        metrics: (n,) int32.
        ids: (n,) int64; (metric, id) strictly ascending.
        other_metrics: (m,) int32.
        other_ids: (m,) int64; as `ids`.

    Raises:
        ValueError: the columns differ in length.
    """

def rank_runs(
    metrics: I32Array,
    ids: I64Array,
    begins: I64Array,
    all_metrics: I32Array,
    all_ids: I64Array,
    counts: I64Array,
) -> I32Array:
    """The place of each run's key among all keys.

    Args:
        metrics: (runs,) int32.
        ids: (runs,) int64; (metric, id) strictly ascending.
        begins: (runs + 1,) int64, first row of each run.
        all_metrics: (ranks,) int32.
        all_ids: (ranks,) int64; (metric, id) strictly ascending.
        counts: (ranks,) int64; the rows of each run are added to its rank.

    Raises:
        ValueError: a key is not among all, or not behind the one before; columns differ in length.
    """

def place_runs(
    ranks: I32Array,
    begins: I64Array,
    timestamps_ms: I64Array,
    values: F64Array,
    ends: I64Array,
    out_timestamps_ms: I64Array,
    out_values: F64Array,
    order: I64Array | None,
    first_order: int,
) -> None:
    """Copies the rows of runs behind those that their ranks have already.

    Args:
        ranks: (runs,) int32.
        begins: (runs + 1,) int64 into the rows.
        timestamps_ms: (rows,) int64.
        values: (rows,) float64.
        ends: (ranks,) int64, where the next row of each rank goes; moved on.
        out_timestamps_ms: (n,) int64, filled.
        out_values: (n,) float64, filled.
        order: (n,) int64, filled with the number of each row; None if that is not wanted.
        first_order: number of row 0.

    Raises:
        ValueError: a rank or a place is out of bounds, or columns differ in length.
    """

def order_of_times(offsets: I64Array, timestamps_ms: I64Array) -> int:
    """How the times of each rank follow each other: 0 ascending strictly, 1 ascending, 2 not.

    Raises:
        ValueError: the offsets do not ascend within the rows.
    """

def keep_greatest(
    offsets: I64Array, timestamps_ms: I64Array, values: F64Array
) -> NDArray[np.bool_]:
    """Which row stays of those with one rank and time: the greatest value, of equal ones the first.

    The order is that of `bridge.lake.rows.merge_duplicates`.

    Args:
        offsets: (ranks + 1,) int64 into the rows.
        timestamps_ms: (rows,) int64, ascending within a rank.
        values: (rows,) float64.

    Raises:
        ValueError: the offsets do not ascend within the rows.
    """
