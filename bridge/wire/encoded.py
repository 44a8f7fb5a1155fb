"""Bytes of many series in one buffer."""

from dataclasses import dataclass

from bridge.wire.columns import I64Array


@dataclass(frozen=True, slots=True)
class EncodedSeries:
    """What was encoded of each series.

    Attributes:
        data: one series behind another.
        offsets: (series + 1,) int64; series i is data[offsets[i]:offsets[i + 1]].
    """

    data: bytes
    offsets: I64Array
