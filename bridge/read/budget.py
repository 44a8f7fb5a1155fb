"""What one request may still take: time, samples, bytes; and whether anybody waits for it.

The worker asks between row groups and slices, some milliseconds apart.
"""

import threading
from collections.abc import Callable

from bridge.errors import Overloaded, QueryCancelled, QueryTooLarge

SERIES_BYTES = 512
"""What a series of an answer takes beside its samples: its labels, once as sort key and once as
protobuf; 400 bytes are usual."""

ESTIMATE_SLACK = 4
"""How far an estimate may be off: it spreads a file's rows evenly over its series, and metrics that
are scraped less often than others have fewer. What is not refused by it is counted exactly."""


class Budget:
    """The means of one request; used by its worker, cancelled by the event loop."""

    def __init__(
        self,
        samples_max: int,
        bytes_max: int,
        timeout_s: float,
        clock_s: Callable[[], float],
    ) -> None:
        self._samples_max = samples_max
        self._bytes_max = bytes_max
        self._timeout_s = timeout_s
        self._clock_s = clock_s
        self._deadline_s = clock_s() + timeout_s
        self._cancelled = threading.Event()
        self.sample_count = 0
        self.size_bytes = 0

    @property
    def left_s(self) -> float:
        """Time that is left; never negative."""
        return max(0.0, self._deadline_s - self._clock_s())

    def cancel(self) -> None:
        """Says that nobody waits any more."""
        self._cancelled.set()

    def restart(self) -> None:
        """Forgets what was taken, but not the time."""
        self.sample_count = self.size_bytes = 0

    def check(self) -> None:
        """Ends work that nobody waits for.

        Raises:
            QueryCancelled: the client is gone.
            Overloaded: the time is over.
        """
        if self._cancelled.is_set():
            raise QueryCancelled("the client went away")
        if self._clock_s() > self._deadline_s:
            raise Overloaded(
                f"the read took longer than read.timeout allows ({self._timeout_s:g} s)"
            )

    def expect(self, sample_count: float, size_bytes: float) -> None:
        """Refuses what is sure to be too much, before any work is done for it.

        Raises:
            QueryTooLarge: says by how much.
        """
        if sample_count > ESTIMATE_SLACK * self._samples_max or (
            size_bytes > ESTIMATE_SLACK * self._bytes_max
        ):
            self._judge(
                round(self.sample_count + sample_count),
                round(self.size_bytes + size_bytes),
                "would have about",
            )

    def take(self, sample_count: int, size_bytes: int) -> None:
        """Counts what the answer has now.

        Raises:
            QueryTooLarge: it is too much.
        """
        self.sample_count += sample_count
        self.size_bytes += size_bytes
        self._judge(self.sample_count, self.size_bytes, "has more than")

    def _judge(self, sample_count: int, size_bytes: int, verb: str) -> None:
        if sample_count > self._samples_max:
            raise QueryTooLarge(
                f"the answer {verb} {sample_count} samples, "
                f"{sample_count / self._samples_max:.1f} times what read.max-samples allows "
                f"({self._samples_max}); ask for fewer series or a shorter range"
            )
        if size_bytes > self._bytes_max:
            raise QueryTooLarge(
                f"the answer {verb} {size_bytes} bytes, {size_bytes / self._bytes_max:.1f} times "
                f"what read.max-query-bytes allows ({self._bytes_max}); ask for fewer series or a "
                "shorter range"
            )
