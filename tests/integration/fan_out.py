"""A bridge that writes into a lake and into an InfluxDB bucket, both its own; and their check."""

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.integration.bridge import NEVER, Bridge, Place
from tests.integration.destinations import (
    Mapped,
    Samples,
    SinkCounts,
    as_influxdb_holds,
    check_equal,
    count_unwritable,
    influxdb_samples,
    lake_rows,
    sink_counts,
    value_of,
)
from tests.integration.influxdb import InfluxDb
from tests.integration.processes import wait_until

# The sink's back-off after the few failures of a fault is at most 8 s; the rest is for a slow
# machine.
SETTLED_S_MAX = 60.0
# Making /metrics takes milliseconds.
LOOK_S = 0.1
# A flush that is asked for every 0.2 s takes 0.1 s; the bounds are for two cores shared by all.
OFTEN = "200ms"

# Of the lake's counts and InfluxDB's.
Condition = Callable[[SinkCounts, SinkCounts], bool]


class FanOut:
    """A bridge with two sinks.

    Args:
        server: where the bucket is.
        folder: of the bridge.
        bucket: a new one if none is given.
        url: of the server as the bridge sees it, if there is something in between.
        token: the bridge's, if it is not the server's first.
        flags: added to the command line.
        lake: if it is not in the folder.
    """

    def __init__(
        self,
        server: InfluxDb,
        folder: Path,
        *,
        bucket: str = "",
        mapping: Mapped = "measurement-per-metric",
        url: str = "",
        token: str = "",
        flush_interval: str = NEVER,
        flags: Sequence[str] = (),
        lake: Place | None = None,
    ) -> None:
        self.server = server
        self.bucket = bucket or server.make_bucket()
        self.mapping: Mapped = mapping
        self.dead_letter_path = folder / "dead-letters.lp"
        self._token_path = folder / "token"
        folder.mkdir(parents=True, exist_ok=True)
        self.use_token(token or server.token)
        self.bridge = Bridge(
            folder,
            flush_interval=flush_interval,
            lake=lake,
            flags=[
                f"--influxdb.url={url or server.url}",
                f"--influxdb.org={server.org}",
                f"--influxdb.bucket={self.bucket}",
                f"--influxdb.token-file={self._token_path}",
                f"--influxdb.mapping={mapping}",
                f"--influxdb.dead-letter-path={self.dead_letter_path}",
                *flags,
            ],
        )
        self.lake_path = self.bridge.lake_path
        self.lake_lag_s_max = 0.0
        self._looked_s = 0.0

    def use_token(self, token: str) -> None:
        """Puts a token where the bridge finds it."""
        self._token_path.write_text(token + "\n")

    def look(self) -> tuple[SinkCounts, SinkCounts]:
        """How far the lake and InfluxDB are; remembers the lake's longest lag."""
        lake, influxdb = sink_counts(self.bridge)
        self.lake_lag_s_max = max(self.lake_lag_s_max, lake.lag_s)
        return lake, influxdb

    def wait_for(self, what: str, is_there: Condition, timeout_s: float = SETTLED_S_MAX) -> None:
        """Looks until the lake's counts and InfluxDB's are as wanted."""

        def is_so() -> bool:
            now_s = time.monotonic()
            if now_s < self._looked_s + LOOK_S:
                return False
            self._looked_s = now_s
            return is_there(*self.look())

        wait_until(is_so, what, timeout_s)

    def wait_settled(self, accepted: int, timeout_s: float = SETTLED_S_MAX) -> SinkCounts:
        """Until the InfluxDB sink has accounted for so many samples, and has nothing to do."""
        self.wait_for(
            f"influxdb has settled {accepted} samples",
            lambda _, counts: counts.pending == 0 and counts.accepted == accepted,
            timeout_s,
        )
        return self.look()[1]

    def check(self, samples: Samples, sent_bits: Counter[int] | None = None) -> None:
        """Both destinations have just these samples, and the bridge has counted them so.

        Args:
            samples: all that were acknowledged.
            sent_bits: how often each value was, where samples were sent twice.
        """
        sent_bits = sent_bits or Counter(samples.values())
        accepted = sent_bits.total()
        influxdb = self.wait_settled(accepted)
        assert influxdb.dropped == count_unwritable(sent_bits)
        assert influxdb.lag_s == 0
        self.bridge.flush()
        lake = self.look()[0]
        assert (lake.delivered, lake.pending, lake.dropped) == (accepted, 0, {})
        self.check_lake(samples, sent_bits)
        self.check_influxdb(samples)
        assert influxdb.delivered == sum(
            count for bits, count in sent_bits.items() if math.isfinite(value_of(bits))
        )

    def check_lake(self, samples: Samples, sent_bits: Counter[int] | None = None) -> None:
        """The lake has just these samples, each as often as it was sent."""
        rows = lake_rows(self.lake_path)
        check_equal(samples, dict(rows), "in the lake")
        assert Counter(bits for _, bits in rows) == (sent_bits or Counter(samples.values()))

    def check_influxdb(self, samples: Samples) -> None:
        """InfluxDB has just these samples, but for what it cannot hold."""
        held = as_influxdb_holds(samples, self.mapping)
        check_equal(held, self.influxdb_samples(), f"in influxdb, {self.mapping}")

    def influxdb_samples(self) -> Samples:
        """What InfluxDB has."""
        return influxdb_samples(self.server, self.bucket, self.mapping)

    @property
    def log(self) -> str:
        """All that the bridge has logged."""
        return self.bridge.log_path.read_text(errors="replace")
