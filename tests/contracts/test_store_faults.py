"""Stores behind a road that breaks: every failure is one that may be repeated until it is done."""

import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest

from bridge.errors import StorageUnavailable
from bridge.lake import lease
from bridge.lake.schema import TABLES
from bridge.lake.store import PART_BYTES, Store, open_store
from bridge.lake.table import open_table
from tests.integration.azurite import AzureAccess
from tests.integration.faulty_proxy import (
    Cut,
    Error,
    Fault,
    FaultyProxy,
    Refuse,
    Reset,
    ResetRequest,
    Stall,
)
from tests.integration.object_stores import S3Access
from tests.integration.processes import wait_until

T = TypeVar("T")

IMPATIENT = {
    "timeout": "500ms",
    "max_retries": "1",
    "backoff_config.init_backoff": "10ms",
    "backoff_config.max_backoff": "20ms",
}
"""The same settings as in production, a 60th as long."""

FAULTS: dict[str, Fault] = {
    "refuses": Refuse(),
    "never answers": Stall(),
    "503": Error(503, b"<Error><Code>SlowDown</Code></Error>"),
    "500": Error(500, b"<Error><Code>InternalError</Code></Error>"),
    "cuts every answer": Cut(),
    "resets every answer": Reset(),
    "resets every request": ResetRequest(),
}


@pytest.fixture(params=["s3", "azure"])
def access(request: pytest.FixtureRequest) -> S3Access | AzureAccess:
    found: S3Access | AzureAccess = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def road(access: S3Access | AzureAccess) -> Iterator[FaultyProxy]:
    with FaultyProxy(access.endpoint) as proxy:
        yield proxy


@pytest.fixture
def behind(access: S3Access | AzureAccess, road: FaultyProxy) -> Store:
    options = access.through(road.url).storage_options() | IMPATIENT
    if isinstance(access, AzureAccess):
        return open_store(f"az://{access.make_container()}/lake", options)
    return open_store(f"s3://{access.make_bucket()}/lake", options)


@pytest.mark.parametrize("fault", FAULTS)
def test_whatever_breaks_is_an_unavailable_store_and_is_gone_with_its_cause(
    behind: Store, road: FaultyProxy, tmp_path: Path, fault: str
) -> None:
    """LAKE-5: each attempt may be repeated until it is done."""
    content = os.urandom(PART_BYTES + 1)
    local = tmp_path / "f-1.parquet"
    local.write_bytes(content)
    behind.put_file(local, "samples/there.parquet")
    attempts: list[Callable[[], object]] = [
        lambda: behind.put_file(local, "samples/f-1.parquet"),
        lambda: behind.write("_object", b"small"),
        lambda: behind.read("samples/there.parquet"),
        lambda: behind.fetch_range("samples/there.parquet", 5000, 1000),
        lambda: behind.delete("samples/there.parquet"),
        behind.check,
        behind.probe_put_if_absent,
        lambda: behind.lock(exclusive=False, owner="a"),
    ]
    for attempt in attempts:
        with road.injected(FAULTS[fault]), pytest.raises(StorageUnavailable, match=behind.uri):
            attempt()
        attempt()
    assert behind.read("samples/f-1.parquet") == content
    assert behind.read("samples/there.parquet") is None


def test_a_road_that_loses_a_part_of_all_requests_is_overcome(
    behind: Store, road: FaultyProxy, tmp_path: Path
) -> None:
    """LAKE-5: no half file is ever seen, and nothing but the whole one at last."""
    contents = [os.urandom(size) for size in (0, 1, 1000, PART_BYTES + 1)]
    road.inject(Error(503), share=0.2)
    road.inject(Reset(), share=0.2)
    road.inject(ResetRequest(), share=0.1)
    for number, content in enumerate(contents):
        key, path = f"samples/{number}.parquet", tmp_path / f"{number}"
        path.write_bytes(content)
        until_done(partial(behind.put_file, path, key))
        assert until_done(partial(behind.read, key)) == content
        for offset in range(0, len(content), 1 + len(content) // 5):
            found = until_done(partial(behind.fetch_range, key, offset, 1))
            assert found == (content[offset : offset + 1], len(content))


def until_done(attempt: Callable[[], T]) -> T:
    for _ in range(200):
        try:
            return attempt()
        except StorageUnavailable:
            continue
    pytest.fail("200 attempts were not enough")


@pytest.mark.parametrize("fault", ["refuses", "never answers", "503"])
def test_delta_rs_gives_up_as_soon_as_we_do(behind: Store, road: FaultyProxy, fault: str) -> None:
    """It is handed the same limits: at most two attempts of 0.5 s each."""
    with road.injected(FAULTS[fault]):
        begun_s = time.monotonic()
        with pytest.raises(StorageUnavailable):
            open_table(behind, TABLES["samples"])
        assert time.monotonic() - begun_s < 5
    if fault == "503":
        assert len([passed for passed in road.requests() if passed.fault]) == 2
    assert open_table(behind, TABLES["samples"]) is None


def test_a_single_writer_sits_out_a_store_that_is_away(
    behind: Store, road: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LAKE-6: it commits nothing meanwhile, and goes on as soon as its lease is renewed."""
    monkeypatch.setattr(lease, "LEASE_SETTLE_S", 0.01)
    monkeypatch.setattr(lease, "LEASE_RENEW_S", 0.05)
    monkeypatch.setattr(lease, "LEASE_VALID_S", 0.1)
    lost: list[str] = []
    with behind:
        behind.lock(exclusive=True, owner="a", on_lost=lost.append)
        with road.injected(Refuse()):
            wait_until(lambda: not is_alone(behind), "the lease is too old", 10)
        wait_until(lambda: is_alone(behind), "the lease is renewed", 10)
        assert lost == []


def is_alone(store: Store) -> bool:
    try:
        store.check_alone()
    except StorageUnavailable:
        return False
    return True
