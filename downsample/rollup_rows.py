"""Rows of one rollup level, as columns.

A window is open on the left and closed on the right, (end - W, end], and ends at a multiple of W;
its row is what PromQL computes over that range at its end. The samples are those that are no stale
markers; NaN is a sample.

Invariants:
    ROLL-1  every column is what Prometheus answers at the window's end: `count_over_time(x[W])`,
            `sum_over_time` bit by bit, `min_`, `max_`, `first_` and `last_over_time`, `resets`, and
            last - first + reset_drop is what its `increase` extrapolates from.
    ROLL-2  a rank has one row for each window that holds anything, stale markers too, and none for
            others.

Limits:
    Times up to `TIMESTAMP_MS_MAX`, so that the end of every window is an int64.
    `count` and `resets` stop at 2^31 - 1. A window of 1 h has 3.6 million different ms, so merging
    alone could get there, with 596 full windows on top of each other.
    A stale marker at 1970-01-01T00:00:00.000Z sharp is taken for none: its time is 0.
"""

from dataclasses import dataclass
from typing import Final

from bridge.wire.columns import F64Array, I32Array, I64Array

FIVE_MINUTES_MS: Final = 300_000
HOUR_MS: Final = 3_600_000
TIMESTAMP_MS_MAX: Final = 2**63 - 1 - HOUR_MS
NAN_BITS: Final = 0x7FF8_0000_0000_0000
"""The NaN of sums: which bits an addition makes of one depends on the machine."""


@dataclass(frozen=True, slots=True)
class RollupRows:
    """Rows of one level by rank, the windows of a rank ascending; all columns (rows,).

    Where `count` is 0 the window holds stale markers alone: the float columns and the two times are
    0 and mean nothing, they are stored as null.

    Attributes:
        offsets: (ranks + 1,) int64; rows of rank i are offsets[i]:offsets[i + 1].
        window_end_ms: int64, Unix ms, multiples of W, strictly ascending within a rank.
        count: int32, samples.
        sum: float64, compensated (Kahan and Neumaier) in order of time; a NaN is `NAN_BITS`.
        min: float64; NaN only if all samples are, then the last one's bits.
        max: float64; as `min`.
        first: float64, bits untouched.
        last: float64, bits untouched.
        first_timestamp_ms: int64, Unix ms, of `first`.
        last_timestamp_ms: int64, Unix ms, of `last`.
        reset_drop: float64, the sum of the values before each drop, compensated as `sum`. A drop is
            a sample below the one before it in the window, whatever markers are in between.
        resets: int32, how many drops.
        stale_timestamp_ms: int64, Unix ms, of a stale marker with no sample after it in the window;
            0 if there is none.
    """

    offsets: I64Array
    window_end_ms: I64Array
    count: I32Array
    sum: F64Array
    min: F64Array
    max: F64Array
    first: F64Array
    last: F64Array
    first_timestamp_ms: I64Array
    last_timestamp_ms: I64Array
    reset_drop: F64Array
    resets: I32Array
    stale_timestamp_ms: I64Array
