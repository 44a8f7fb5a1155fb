"""The promise of a single writer where there is no lock: an object that is renewed.

    _single-writer = {"owner": receiver id, "token": of this process, "count": of renewals}

    take     nobody's, or this owner's own: write, wait a moment, read back: still ours?
             another's: look twice, 15 s apart; changed: it lives, we end; the same: it is dead
    renew    every 5 s: read; another's or gone: lost; ours: write the next count
    commit   allowed only within 10 s of a renewal, so that nobody can have taken over

The store under it may ignore every condition: it is for such stores that the lease is there. It
needs only that a write is seen by the next read.

Invariant:
    LAKE-6  two single writers do not commit at the same time.

Limits: a commit that begins 10 s after the renewal is over before another takes over at 15 s, if
the store takes it within 5 s. A write that a store holds back for longer and then lets through can
still land under the other's commits; only put-if-absent, which such a store lacks, would stop it.
One read and one write every 5 s are 35,000 a day: on S3 10 cents.

A process that was cut off from its store goes on when it comes back, if the lease is its own still.
If it is gone, another took over in between and ended: what this process knows of the tables is old,
so it ends too, and its next start reads them anew.
"""

import json
import threading
import time
import uuid
from collections.abc import Callable
from typing import Protocol

import structlog

from bridge.errors import AlreadyRunning, StorageUnavailable

log = structlog.get_logger()

LEASE_KEY = "_single-writer"
LEASE_RENEW_S = 5.0
LEASE_VALID_S = 2 * LEASE_RENEW_S
LEASE_DEAD_S = 3 * LEASE_RENEW_S
LEASE_SETTLE_S = 1.0
"""Between writing and reading back: twice as long as the write took, at least this."""


class LeaseObjects(Protocol):
    """Where the lease lies."""

    uri: str

    def read(self, key: str) -> bytes | None:
        """The object, None if it is not there."""

    def write(self, key: str, body: bytes) -> None:
        """Writes it."""

    def delete(self, key: str) -> None:
        """Deletes it."""


class Lease:
    """The lease of one process; `take`, then `start`, then `check` before each commit.

    Args:
        store: where it lies.
        owner: who takes it; the same after a restart.
        on_lost: called with the reason by the renewing thread, once.
        wait: seconds.
        clock: seconds that go on while the machine sleeps.
    """

    def __init__(
        self,
        store: LeaseObjects,
        owner: str,
        *,
        on_lost: Callable[[str], None] | None = None,
        wait: Callable[[float], object] = time.sleep,
        clock: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME),
    ) -> None:
        self.owner = owner
        self.token = uuid.uuid4().hex
        self._store = store
        self._on_lost = on_lost
        self._wait = wait
        self._clock = clock
        self._count = 0
        self._renewed_s = -LEASE_VALID_S
        self._lost = ""
        self._is_away = False
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def take(self) -> None:
        """Takes it.

        Raises:
            AlreadyRunning: another process holds it.
            StorageUnavailable: the store failed; take it again.
        """
        found = self._store.read(LEASE_KEY)
        if found is not None and not _is_of(self.owner, found):
            _wait_for_its_end(self._store, found, self._wait, is_single=True)
        begun_s = self._clock()
        self._write()
        self._wait(max(LEASE_SETTLE_S, 2 * (self._clock() - begun_s)))
        if self._found_token() != self.token:
            raise AlreadyRunning(
                f"{self._store.uri}: another process took the lease of the single writer at the "
                "same time; start one of them alone"
            )

    def start(self) -> None:
        """Begins to renew it, in a thread of its own."""
        self._thread = threading.Thread(target=self._renew_always, name="lake-lease", daemon=True)
        self._thread.start()

    def renew(self) -> None:
        """Renews it once; a failure of the store is logged, and tried again at the next time."""
        with self._lock:
            try:
                self._renew()
            except StorageUnavailable as error:
                if not self._is_away:
                    log.warning(
                        "lease of the single writer cannot be renewed, commits wait",
                        lake=self._store.uri,
                        error=str(error),
                    )
                self._is_away = True
            else:
                self._is_away = False

    def check(self) -> None:
        """Before a commit: is it held for sure?

        Raises:
            AlreadyRunning: it is lost.
            StorageUnavailable: it could not be renewed for too long, so it may be lost.
        """
        if not self._lost and self._age_s() > LEASE_VALID_S:
            self.renew()
        if self._lost:
            raise AlreadyRunning(self._lost)
        if self._age_s() > LEASE_VALID_S:
            raise StorageUnavailable(
                f"the lease of the single writer on {self._store.uri} could not be renewed for "
                f"{self._age_s():.0f} s, so another process may have it"
            )

    def release(self) -> None:
        """Gives it back, if it is ours; else the next owner waits until it is dead."""
        self._closing.set()
        with self._lock:
            try:
                if not self._lost and self._found_token() == self.token:
                    self._store.delete(LEASE_KEY)
            except StorageUnavailable as error:
                log.warning(
                    "lease of the single writer cannot be given back, another receiver would wait",
                    lake=self._store.uri,
                    error=str(error),
                )
            self._lost = self._lost or "the lease was given back"

    def _renew_always(self) -> None:
        while not self._closing.wait(LEASE_RENEW_S):
            self.renew()
            if self._lost:
                return

    def _renew(self) -> None:
        if self._lost or self._closing.is_set():
            return
        found = self._store.read(LEASE_KEY)
        if found is None or _field(found, "token") != self.token:
            who = "nobody" if found is None else f"the receiver {_field(found, 'owner')!r}"
            self._lost = (
                f"{self._store.uri}: the lease of the single writer is lost, {who} has it now; "
                "this process was cut off from its store for too long, or two run with "
                "lake.single-writer"
            )
            log.error("lease of the single writer is lost", lake=self._store.uri, found=who)
            if self._on_lost is not None:
                self._on_lost(self._lost)
            return
        self._write()

    def _write(self) -> None:
        begun_s = self._clock()
        self._count += 1
        lease = {"owner": self.owner, "token": self.token, "count": self._count}
        self._store.write(LEASE_KEY, json.dumps(lease).encode())
        # From the beginning on: the other one may have read it as soon as that.
        self._renewed_s = begun_s

    def _found_token(self) -> str | None:
        found = self._store.read(LEASE_KEY)
        return None if found is None else _field(found, "token")

    def _age_s(self) -> float:
        return self._clock() - self._renewed_s


def check_no_lease(
    store: LeaseObjects, owner: str, *, wait: Callable[[float], object] = time.sleep
) -> None:
    """For a process that tolerates others: is there a single writer that does not?

    Raises:
        AlreadyRunning: there is one.
        StorageUnavailable: the store failed.
    """
    found = store.read(LEASE_KEY)
    if found is None:
        return
    if not _is_of(owner, found):
        _wait_for_its_end(store, found, wait, is_single=False)
    # It was ours before a change of lake.single-writer, or is dead; if it is not, its process finds
    # it gone and ends.
    store.delete(LEASE_KEY)


def _wait_for_its_end(
    store: LeaseObjects, found: bytes, wait: Callable[[float], object], *, is_single: bool
) -> None:
    """Returns when the owner of a lease is dead, or has given it back."""
    owner = _field(found, "owner")
    log.info("lease of a single writer found, waiting whether it is renewed", owner=owner)
    wait(LEASE_DEAD_S)
    again = store.read(LEASE_KEY)
    if again is not None and again != found:
        raise AlreadyRunning(
            f"{store.uri} is in use by the receiver {owner!r}, and "
            + (
                "lake.single-writer promises that this one is alone; stop the other first"
                if is_single
                else "that one runs with lake.single-writer, so no other may commit here"
            )
        )
    if again is not None:
        log.warning("lease of a single writer that is dead is taken over", owner=owner)


def _is_of(owner: str, lease: bytes) -> bool:
    """Whether this owner took the lease; who has no name is nobody's successor."""
    return bool(owner) and _field(lease, "owner") == owner


def _field(lease: bytes, name: str) -> str:
    """A field of a lease; empty if it is not one of ours."""
    try:
        return str(json.loads(lease).get(name, ""))
    except (ValueError, AttributeError):
        return ""
