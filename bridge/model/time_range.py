"""Spans of time, open on the left and closed on the right, as PromQL's ranges are.

Remote read speaks of closed ranges; they are converted here, once, where a request is parsed.

    [start, end]  ->  (start - 1, end]

Clients send absurd ends (`/api/v1/series` without a range asks from about -9.22e18 to 9.22e18):
they are clamped to the years that a partition can name, so nothing behind this overflows.
"""

from dataclasses import dataclass
from typing import Self

AFTER_MS_MIN = -62_135_596_800_000
"""0001-01-01T00:00Z; the first sample that there can be comes 1 ms later."""
UNTIL_MS_MAX = 253_402_300_800_000
"""The end of 9999."""


@dataclass(frozen=True, slots=True)
class TimeRange:
    """Timestamps t with after_ms < t <= until_ms.

    Attributes:
        after_ms: Unix ms, excluded.
        until_ms: Unix ms, included; nothing lies in the range if it is not above `after_ms`.
    """

    after_ms: int
    until_ms: int

    @classmethod
    def from_closed(cls, start_ms: int, end_ms: int) -> Self:
        """The range [start_ms, end_ms], clamped to what can be stored."""
        return cls(
            min(max(start_ms - 1, AFTER_MS_MIN), UNTIL_MS_MAX),
            min(max(end_ms, AFTER_MS_MIN), UNTIL_MS_MAX),
        )

    @property
    def is_empty(self) -> bool:
        """Whether no timestamp lies in it."""
        return self.until_ms <= self.after_ms

    def intersect(self, other: "TimeRange") -> "TimeRange":
        """What lies in both; may be empty."""
        return TimeRange(max(self.after_ms, other.after_ms), min(self.until_ms, other.until_ms))

    def widen(self, width_ms: int) -> "TimeRange":
        """The range with its ends moved out to multiples of `width_ms`."""
        return TimeRange(
            self.after_ms // width_ms * width_ms, -(-self.until_ms // width_ms) * width_ms
        )
