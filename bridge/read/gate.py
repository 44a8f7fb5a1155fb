"""How many reads run at once.

Reads share two or three cores with ingest, whose threads they must not starve: `max_concurrent`
run, `max_waiting` wait in the order of their arrival, further ones are turned away at once.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from prometheus_client import CollectorRegistry, Gauge

from bridge.errors import Overloaded


class Gate:
    """Lets a bounded number of reads in; lives on the event loop."""

    def __init__(self, concurrent_max: int, waiting_max: int, registry: CollectorRegistry) -> None:
        self._turns = asyncio.Semaphore(concurrent_max)
        self._concurrent_max = concurrent_max
        self._waiting_max = waiting_max
        self._waiting_count = 0
        self._running = Gauge("prombridge_read_running", "Reads that run now.", registry=registry)
        self._waiting = Gauge(
            "prombridge_read_waiting", "Reads that wait for their turn.", registry=registry
        )

    @asynccontextmanager
    async def turn(self, timeout_s: float) -> AsyncIterator[None]:
        """Waits for a turn and holds it.

        Raises:
            Overloaded: too many wait already, or the turn did not come in time.
        """
        if self._turns.locked() and self._waiting_count >= self._waiting_max:
            raise Overloaded(
                f"{self._concurrent_max} reads run (read.max-concurrent) and "
                f"{self._waiting_count} wait for their turn (read.max-waiting)"
            )
        self._waiting_count += 1
        self._waiting.set(self._waiting_count)
        try:
            async with asyncio.timeout(timeout_s):
                await self._turns.acquire()
        except TimeoutError as error:
            raise Overloaded(
                f"no turn came in {timeout_s:.1f} s: {self._concurrent_max} reads run "
                "(read.max-concurrent)"
            ) from error
        finally:
            self._waiting_count -= 1
            self._waiting.set(self._waiting_count)
        self._running.inc()
        try:
            yield
        finally:
            self._running.dec()
            self._turns.release()
