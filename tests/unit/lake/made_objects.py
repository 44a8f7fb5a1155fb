"""Objects in memory that are fetched, counted, held back and failed as a test wants it."""

import threading
from collections.abc import Callable

from bridge.errors import StorageUnavailable


class MadeObjects:
    """What the cache fetches from.

    Attributes:
        objects: by key.
        requests: (key, offset, length) of every request, in the order of their begins.
        is_away: it answers nothing.
        before: called with every request, before it is answered.
    """

    def __init__(self, **objects: bytes) -> None:
        self.objects = dict(objects)
        self.requests: list[tuple[str, int, int]] = []
        self.is_away = False
        self.before: Callable[[str, int], None] = lambda _key, _offset: None
        self._lock = threading.Lock()

    def fetch(self, key: str, size_bytes: int, one: tuple[int, int]) -> bytes:
        """A range of an object."""
        offset, length = one
        with self._lock:
            self.requests.append((key, offset, length))
        self.before(key, offset)
        if self.is_away:
            raise StorageUnavailable("the store is away")
        if key not in self.objects:
            raise FileNotFoundError(f"{key} is gone")
        return self.objects[key][offset : offset + length]

    def take_requests(self) -> list[tuple[str, int, int]]:
        """Requests since the last call, sorted."""
        with self._lock:
            taken, self.requests = self.requests, []
        return sorted(taken)


def pattern(length: int, seed: int = 0) -> bytes:
    """Bytes of which no two blocks are alike."""
    return b"".join(
        (seed * 1_000_003 + number).to_bytes(8, "little") for number in range(-(-length // 8))
    )[:length]
