"""Files that cannot be read, remembered in the lake so that they are met once.

`quarantine.json` in the root of the lake names each with the reason and the time. Their spans are
left as they are and everything else goes on. Whoever has mended or removed a file deletes its
entry, or all of them with the file: what is still broken comes back.
"""

import json
from collections.abc import Collection, Mapping

import structlog

from bridge.lake.store import Store

log = structlog.get_logger()

QUARANTINE_KEY = "quarantine.json"


class Quarantine:
    """What is remembered; one maintainer at a time writes it, and of two the last one stays."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def load(self) -> dict[str, dict[str, object]]:
        """Reason and time (`reason`, `since_ms`) by key.

        Raises:
            StorageUnavailable: the store failed.
        """
        body = self._store.read(QUARANTINE_KEY)
        try:
            found = json.loads(body or b"{}")
            return {str(key): dict(entry) for key, entry in found.items()}
        except (ValueError, AttributeError, TypeError):
            log.warning("quarantine.json cannot be read, beginning with none")
            return {}

    def add(self, broken: Mapping[str, str], present: Collection[str], now_ms: int) -> None:
        """Remembers files, each an error in the log, and forgets those that are in no table now.

        Raises:
            StorageUnavailable: the store failed.
        """
        known = {key: entry for key, entry in self.load().items() if key in present}
        for key, reason in broken.items():
            log.error("a file of the lake is put into quarantine", file=key, reason=reason)
            known[key] = {"reason": reason, "since_ms": now_ms}
        self._store.write(QUARANTINE_KEY, json.dumps(known, indent=1, sort_keys=True).encode())
