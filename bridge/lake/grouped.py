"""Rows of many series, one series after another."""

from dataclasses import dataclass

from bridge.wire.columns import F64Array, I64Array


@dataclass(frozen=True, slots=True)
class GroupedRows:
    """Rows by slot, each slot's in order of time.

    Attributes:
        offsets: (slots + 1,) int64; rows of slot i are offsets[i]:offsets[i + 1].
        timestamps_ms: (rows,) int64, ascending within a slot.
        values: (rows,) float64, bits untouched.
        order: (rows,) int64, where each row stood in the input; None unless asked for.
    """

    offsets: I64Array
    timestamps_ms: I64Array
    values: F64Array
    order: I64Array | None = None
