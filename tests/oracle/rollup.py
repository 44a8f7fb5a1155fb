"""What a rollup is, naively: a dict of lists, one window at a time, one sample at a time.

Written from the text of the design and from what PromQL says of `…_over_time`, not from the kernel
or its SQL. Values are 64-bit patterns; they become floats only where they are compared or added.
"""

import math
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from itertools import pairwise

from downsample.rollup_rows import RollupRows
from tests.oracle.tsdb import Sample

FIVE_MINUTES_MS = 300_000
HOUR_MS = 3_600_000
STALE_BITS = 0x7FF0_0000_0000_0002
SUM_NAN_BITS = 0x7FF8_0000_0000_0000


@dataclass(frozen=True)
class Row:
    """One row; floats as bits, None for null."""

    window_end_ms: int
    count: int
    sum: int | None
    min: int | None
    max: int | None
    first: int | None
    last: int | None
    first_timestamp_ms: int | None
    last_timestamp_ms: int | None
    reset_drop: int | None
    resets: int
    stale_timestamp_ms: int | None


def roll_up(samples: Iterable[Sample], window_ms: int) -> list[Row]:
    """The rows of one series.

    Args:
        samples: Unix ms and bits, in any order, one at a time.
        window_ms: length of a window.
    """
    windows: dict[int, list[Sample]] = {}
    for time_ms, bits in sorted(samples):
        windows.setdefault(math.ceil(Fraction(time_ms, window_ms)) * window_ms, []).append(
            (time_ms, bits)
        )
    return [roll_up_window(end_ms, own) for end_ms, own in windows.items()]


def roll_up_window(end_ms: int, samples: Sequence[Sample]) -> Row:
    """One row from the samples of its window, which are in order of time."""
    last_ms, last_bits = samples[-1]
    stale_ms = last_ms if last_bits == STALE_BITS else None
    real = [(time_ms, bits) for time_ms, bits in samples if bits != STALE_BITS]
    if not real:
        return Row(end_ms, 0, *(None,) * 8, 0, stale_ms)
    values = [float_of(bits) for _, bits in real]
    drops = [before for before, value in pairwise(values) if value < before]
    return Row(
        window_end_ms=end_ms,
        count=len(real),
        sum=sum_over_time(values),
        min=extreme([bits for _, bits in real], sign=-1),
        max=extreme([bits for _, bits in real], sign=1),
        first=real[0][1],
        last=real[-1][1],
        first_timestamp_ms=real[0][0],
        last_timestamp_ms=real[-1][0],
        reset_drop=sum_over_time(drops),
        resets=len(drops),
        stale_timestamp_ms=stale_ms,
    )


def extreme(patterns: Sequence[int], sign: int) -> int:
    """The first of the least (sign -1) or greatest (1) numbers; the last NaN if all are."""
    numbers = [bits for bits in patterns if not math.isnan(float_of(bits))]
    if not numbers:
        return patterns[-1]
    best = max(sign * float_of(bits) for bits in numbers)
    return next(bits for bits in numbers if sign * float_of(bits) == best)


def sum_over_time(values: Iterable[float]) -> int:
    """Bits of what PromQL's sum_over_time gives: Kahan's sum as Neumaier improved it."""
    total = correction = 0.0
    for value in values:
        new = total + value
        if math.isinf(new):
            correction = 0.0
        elif abs(total) >= abs(value):
            correction += (total - new) + value
        else:
            correction += (value - new) + total
        total = new
    if not math.isinf(total):
        total += correction
    return SUM_NAN_BITS if math.isnan(total) else bits_of(total)


def float_of(bits: int) -> float:
    """The float of a pattern."""
    value: float = struct.unpack("<d", struct.pack("<Q", bits))[0]
    return value


def bits_of(value: float) -> int:
    """The pattern of a float."""
    bits: int = struct.unpack("<Q", struct.pack("<d", value))[0]
    return bits


def rows_of(rows: RollupRows) -> list[list[Row]]:
    """Columns as rows, those of each rank apart."""
    columns = [
        column.view("<u8").tolist() if column.dtype == "<f8" else column.tolist()
        for column in (getattr(rows, field.name) for field in fields(Row))
    ]
    found = [row_of(Row(*record)) for record in zip(*columns, strict=True)]
    return [found[begin:end] for begin, end in pairwise(rows.offsets.tolist())]


def row_of(row: Row) -> Row:
    """The row as a table has it, with its nulls."""
    stale_ms = row.stale_timestamp_ms or None
    if row.count:
        return replace(row, stale_timestamp_ms=stale_ms)
    return Row(row.window_end_ms, 0, *(None,) * 8, row.resets, stale_ms)
