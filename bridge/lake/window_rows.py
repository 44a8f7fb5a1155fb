"""Rows of a rollup table, of many series, one series after another."""

from dataclasses import dataclass

from bridge.wire.columns import F64Array, I32Array, I64Array


@dataclass(frozen=True, slots=True)
class WindowRows:
    """Windows by slot, each slot's ascending. What a column means: `downsample.rollup_rows`.

    A column that was not asked for is None. Where `count` is 0 the window holds stale markers alone
    and the other columns are 0, but for `stale_timestamp_ms`.

    Attributes:
        offsets: (slots + 1,) int64; rows of slot i are offsets[i]:offsets[i + 1].
        window_end_ms: (rows,) int64, strictly ascending within a slot.
        count: (rows,) int32, samples in the window.
        sum: (rows,) float64.
        min: (rows,) float64.
        max: (rows,) float64.
        first: (rows,) float64.
        last: (rows,) float64.
        first_timestamp_ms: (rows,) int64.
        last_timestamp_ms: (rows,) int64.
        reset_drop: (rows,) float64.
        resets: (rows,) int32.
        stale_timestamp_ms: (rows,) int64, 0 for none.
    """

    offsets: I64Array
    window_end_ms: I64Array
    count: I32Array | None = None
    sum: F64Array | None = None
    min: F64Array | None = None
    max: F64Array | None = None
    first: F64Array | None = None
    last: F64Array | None = None
    first_timestamp_ms: I64Array | None = None
    last_timestamp_ms: I64Array | None = None
    reset_drop: F64Array | None = None
    resets: I32Array | None = None
    stale_timestamp_ms: I64Array | None = None
