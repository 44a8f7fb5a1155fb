"""The lease of a single writer, with time that passes when it is told to."""

import json
import threading
from collections.abc import Callable

import pytest

from bridge.errors import AlreadyRunning, StorageUnavailable
from bridge.lake.lease import (
    LEASE_DEAD_S,
    LEASE_KEY,
    LEASE_RENEW_S,
    LEASE_SETTLE_S,
    LEASE_VALID_S,
    Lease,
    check_no_lease,
)


class World:
    """A store without conditions, a clock, and what others do while one waits."""

    uri = "s3://bucket/lake"

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.now_s = 1000.0
        self.waits_s: list[float] = []
        self.meanwhile: list[Callable[[], object]] = []
        self.is_away = False
        self.write_s = 0.0

    def read(self, key: str) -> bytes | None:
        self._answer()
        return self.objects.get(key)

    def write(self, key: str, body: bytes) -> None:
        self._answer()
        self.now_s += self.write_s
        self.objects[key] = body

    def delete(self, key: str) -> None:
        self._answer()
        self.objects.pop(key, None)

    def _answer(self) -> None:
        if self.is_away:
            raise StorageUnavailable("away")

    def wait(self, time_s: float) -> None:
        self.waits_s.append(time_s)
        self.now_s += time_s
        if self.meanwhile:
            self.meanwhile.pop(0)()

    def lease(self, owner: str, on_lost: Callable[[str], None] | None = None) -> Lease:
        return Lease(self, owner, on_lost=on_lost, wait=self.wait, clock=lambda: self.now_s)

    def taken(self, owner: str, on_lost: Callable[[str], None] | None = None) -> Lease:
        lease = self.lease(owner, on_lost)
        lease.take()
        self.waits_s.clear()
        return lease

    @property
    def owner(self) -> str:
        return str(json.loads(self.objects[LEASE_KEY])["owner"])


@pytest.fixture
def world() -> World:
    return World()


def test_a_free_lease_is_taken_after_a_look_back(world: World) -> None:
    world.lease("a").take()
    assert world.owner == "a"
    assert world.waits_s == [LEASE_SETTLE_S]


def test_a_live_lease_of_another_is_respected(world: World) -> None:
    """LAKE-6."""
    other = world.taken("a")
    world.meanwhile = [other.renew]
    with pytest.raises(AlreadyRunning, match=r"receiver 'a'.*lake\.single-writer"):
        world.lease("b").take()
    assert world.waits_s == [LEASE_DEAD_S]
    assert world.owner == "a"
    other.check()


def test_a_dead_lease_is_taken_over(world: World) -> None:
    world.taken("a")
    world.lease("b").take()
    assert world.owner == "b"
    assert world.waits_s == [LEASE_DEAD_S, LEASE_SETTLE_S]


def test_a_lease_given_back_while_one_waits_is_taken(world: World) -> None:
    other = world.taken("a")
    world.meanwhile = [other.release]
    world.lease("b").take()
    assert world.owner == "b"


def test_the_same_owner_takes_over_at_once(world: World) -> None:
    """The lock of its WAL proves that the process before it is gone."""
    world.taken("a")
    world.lease("a").take()
    assert world.waits_s == [LEASE_SETTLE_S]


def test_two_without_a_name_are_not_the_same_owner(world: World) -> None:
    """LAKE-6."""
    other = world.taken("")
    world.meanwhile = [other.renew]
    with pytest.raises(AlreadyRunning):
        world.lease("").take()


def test_of_two_that_take_at_once_one_is_left(world: World) -> None:
    """LAKE-6: both saw no lease; the later write stands."""
    other = world.lease("b")
    world.meanwhile = [other.take]
    with pytest.raises(AlreadyRunning, match="at the same time"):
        world.lease("a").take()
    assert world.owner == "b"
    other.check()


def test_after_a_slow_write_the_look_back_waits_longer(world: World) -> None:
    world.write_s = 3.0
    world.lease("a").take()
    assert world.waits_s == [6.0]


def test_a_lease_that_cannot_be_read_as_one_belongs_to_another(world: World) -> None:
    world.objects[LEASE_KEY] = b"\xff garbage"
    world.lease("a").take()
    assert world.waits_s[0] == LEASE_DEAD_S
    world.objects[LEASE_KEY] = b"[]"
    world.lease("b").take()
    assert world.owner == "b"


def test_commits_go_on_between_renewals_without_asking_the_store(world: World) -> None:
    lease = world.taken("a")
    world.is_away = True
    world.now_s += LEASE_VALID_S - LEASE_SETTLE_S
    lease.check()


def test_no_commit_without_a_renewal_in_time(world: World) -> None:
    """LAKE-6: another may have it since, so it is asked for before."""
    lease = world.taken("a")
    world.now_s += LEASE_VALID_S
    world.is_away = True
    with pytest.raises(StorageUnavailable, match="could not be renewed for 11 s"):
        lease.check()
    world.is_away = False
    lease.check()
    assert json.loads(world.objects[LEASE_KEY])["count"] == 2


def test_a_slow_renewal_counts_from_its_beginning(world: World) -> None:
    lease = world.taken("a")
    world.write_s = LEASE_VALID_S + 1
    lease.renew()
    with pytest.raises(StorageUnavailable):
        lease.check()


def test_a_store_that_was_away_for_an_hour_ends_nothing(world: World) -> None:
    lost: list[str] = []
    lease = world.taken("a", lost.append)
    world.is_away = True
    for _ in range(720):
        world.now_s += LEASE_RENEW_S
        lease.renew()
    world.is_away = False
    lease.renew()
    lease.check()
    assert not lost


@pytest.mark.parametrize("is_released", [False, True])
def test_who_finds_that_another_took_over_ends(world: World, *, is_released: bool) -> None:
    """LAKE-6: also when the other has ended since, because the tables moved on."""
    lost: list[str] = []
    lease = world.taken("a", lost.append)
    other = world.taken("b")
    if is_released:
        other.release()
    world.now_s += LEASE_VALID_S
    with pytest.raises(AlreadyRunning, match="nobody" if is_released else "receiver 'b'"):
        lease.check()
    lease.renew()
    assert len(lost) == 1
    with pytest.raises(AlreadyRunning):
        lease.check()
    assert (LEASE_KEY in world.objects) is not is_released


def test_a_lost_lease_is_not_given_back(world: World) -> None:
    lease = world.taken("a")
    world.taken("b")
    lease.renew()
    lease.release()
    assert world.owner == "b"


def test_giving_back_another_ones_lease_leaves_it(world: World) -> None:
    lease = world.taken("a")
    world.taken("b")
    lease.release()
    assert world.owner == "b"


def test_a_lease_given_back_is_free(world: World) -> None:
    lease = world.taken("a")
    lease.release()
    assert not world.objects
    with pytest.raises(AlreadyRunning, match="given back"):
        lease.check()
    lease.renew()
    assert not world.objects


def test_giving_back_to_a_store_that_is_away_fails_in_silence(world: World) -> None:
    lease = world.taken("a")
    world.is_away = True
    lease.release()
    world.is_away = False
    assert world.owner == "a"


def test_the_thread_renews_until_the_lease_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bridge.lake.lease.LEASE_RENEW_S", 0.001)
    world = World()
    lease = world.taken("a")
    renewed = threading.Event()
    write = world.write

    def note(key: str, body: bytes) -> None:
        write(key, body)
        renewed.set()

    world.write = note  # type: ignore[method-assign]
    lease.start()
    assert renewed.wait(10)
    lease.release()
    assert lease._thread is not None
    lease._thread.join(10)
    assert not lease._thread.is_alive()
    assert not world.objects


def test_without_a_lease_everybody_may_come(world: World) -> None:
    check_no_lease(world, "a", wait=world.wait)
    assert world.waits_s == []


def test_a_live_single_writer_keeps_others_out(world: World) -> None:
    """LAKE-6."""
    other = world.taken("a")
    world.meanwhile = [other.renew]
    with pytest.raises(AlreadyRunning, match=r"that one runs with lake\.single-writer"):
        check_no_lease(world, "b", wait=world.wait)
    assert world.owner == "a"


@pytest.mark.parametrize(("owner", "waits_s"), [("a", []), ("b", [LEASE_DEAD_S])])
def test_a_dead_single_writer_keeps_nobody_out(
    world: World, owner: str, waits_s: list[float]
) -> None:
    """LAKE-6: should it wake up, it finds its lease gone and ends."""
    dead = world.taken("a")
    check_no_lease(world, owner, wait=world.wait)
    assert world.waits_s == waits_s
    assert not world.objects
    world.now_s += LEASE_VALID_S
    with pytest.raises(AlreadyRunning):
        dead.check()
