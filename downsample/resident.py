"""The coordinator within `serve`: a thread that looks and commits, beside worker processes.

It commits through the store of its process, so that a single writer stays one, and it begins when
the receiver has reached the lake. The work itself is done in other processes, which are nice: what
is left here is a listing of the tables a minute.
"""

import threading
import time
from collections.abc import Callable

import structlog
from prometheus_client import CollectorRegistry

from bridge.errors import PrombridgeError
from bridge.lake.maintenance import MaintenanceLake
from bridge.lake.settings import LakeSettings
from bridge.lake.store import Store
from downsample.coordinator import Coordinator
from downsample.engine import Engine, open_engine
from downsample.metrics import DownsampleMetrics
from downsample.process import keep_running, site_of
from downsample.quarantine import Quarantine
from downsample.settings import DownsampleSettings, RetentionSettings

log = structlog.get_logger()

POLL_S = 1.0


class Resident:
    """One thread's work, and how to end it."""

    def __init__(
        self,
        store: Store,
        lake: LakeSettings,
        downsample: DownsampleSettings,
        retention: RetentionSettings,
        is_connected: Callable[[], bool],
        registry: CollectorRegistry,
    ) -> None:
        """Starts nothing.

        Args:
            store: of this process, locked by it.
            lake: where workers find it.
            downsample: how.
            retention: how long.
            is_connected: whether the lake was reached.
            registry: for the metrics.
        """
        self._store = store
        self._lake = lake
        self._downsample = downsample
        self._retention = retention
        self._is_connected = is_connected
        self._metrics = DownsampleMetrics(registry)
        self._stopped = threading.Event()
        self._coordinator: Coordinator | None = None
        self._engine: Engine | None = None

    def run(self) -> None:
        """Works until `stop`; a fault in here must not cost what is received."""
        while not (self._is_connected() or self._stopped.is_set()):
            self._stopped.wait(POLL_S)
        while not self._stopped.is_set():
            try:
                self._maintain()
            except PrombridgeError as error:
                log.warning("maintenance cannot begin, trying again", cause=str(error))
            except Exception:  # the supervisor
                log.exception("maintenance failed, beginning again")
            self._stopped.wait(self._downsample.interval)

    def stop(self) -> None:
        """Ends it, and its workers; what they did and nobody committed is done again."""
        self._stopped.set()
        if self._coordinator is not None:
            self._coordinator.stopped.set()
        if self._engine is not None:
            self._engine.close()

    def _maintain(self) -> None:
        with MaintenanceLake.open(self._store, is_locked=True) as lake:
            self._engine = open_engine(self._downsample, site_of(self._lake, self._downsample))
            coordinator = Coordinator(
                lake,
                Quarantine(self._store),
                self._engine,
                self._downsample,
                self._retention,
                self._metrics,
            )
            self._coordinator = coordinator
            try:
                if not self._stopped.is_set():
                    keep_running(
                        coordinator, self._downsample.interval, lambda: time.time_ns() // 1_000_000
                    )
            finally:
                self._engine.close()
