"""A start on a real bucket: what is wrong with it is found, and said; later it is waited for."""

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bridge.errors import (
    AlreadyRunning,
    ConditionalPutUnsupported,
    StorageRefused,
    StorageUnavailable,
)
from bridge.lake import lease
from bridge.lake.store import open_store
from tests.integration.azurite import AzureAccess
from tests.integration.object_stores import S3Access, VersityGw

# the store that really ignores conditions


@pytest.fixture(scope="module")
def careless(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VersityGw]:
    with VersityGw(tmp_path_factory.mktemp("careless"), honours_conditions=False) as server:
        yield server


def test_a_real_store_that_ignores_put_if_absent_is_refused_at_every_start(
    careless: VersityGw,
) -> None:
    """LAKE-6."""
    bucket = careless.access.make_bucket()
    for _ in range(20):
        store = open_store(f"s3://{bucket}/lake", careless.access.storage_options())
        with pytest.raises(ConditionalPutUnsupported, match=r"lake\.single-writer"):
            store.probe_put_if_absent()
    assert careless.access.keys(bucket) == []


def test_a_real_store_that_honours_put_if_absent_is_taken_at_every_start(s3: S3Access) -> None:
    """LAKE-6."""
    bucket = s3.make_bucket()
    for _ in range(20):
        open_store(f"s3://{bucket}/lake", s3.storage_options()).probe_put_if_absent()
    assert s3.keys(bucket) == []


@pytest.mark.parametrize("exclusive", [True, False])
def test_on_a_careless_store_a_second_receiver_is_refused(
    careless: VersityGw, monkeypatch: pytest.MonkeyPatch, *, exclusive: bool
) -> None:
    """LAKE-6: the promise of the first is held."""
    monkeypatch.setattr(lease, "LEASE_SETTLE_S", 0.01)
    monkeypatch.setattr(lease, "LEASE_RENEW_S", 0.05)
    uri = f"s3://{careless.access.make_bucket()}/lake"
    options = careless.access.storage_options()
    with open_store(uri, options) as first, open_store(uri, options) as second:
        first.lock(exclusive=True, owner="first")
        monkeypatch.setattr(lease, "LEASE_DEAD_S", 1.0)
        with pytest.raises(AlreadyRunning, match=r"receiver 'first'.*lake\.single-writer"):
            second.lock(exclusive=exclusive, owner="second")
        first.check_alone()
        first.close()
        second.lock(exclusive=exclusive, owner="second")
        second.check_alone()


# what is wrong with the way there


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"AWS_ACCESS_KEY_ID": "nobody-there"}, "key is not known"),
        ({"AWS_SECRET_ACCESS_KEY": "another secret"}, "secret of the key is wrong"),
        ({"AWS_REGION": "eu-west-9"}, "region is wrong"),
        ({"bucket": "none-such"}, "no such bucket"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_start_says_which_of_key_secret_region_and_bucket_is_wrong(
    s3: S3Access, wrong: dict[str, str], words: str
) -> None:
    """LAKE-11: and quotes no secret."""
    bucket = wrong.get("bucket") or s3.make_bucket()
    options = s3.storage_options() | {key: wrong[key] for key in wrong if key != "bucket"}
    store = open_store(f"s3://{bucket}/lake", options)
    for ask in (store.check, store.probe_put_if_absent, lambda: store.lock(exclusive=True)):
        with pytest.raises(StorageRefused, match=words) as caught:
            ask()
        assert options["AWS_SECRET_ACCESS_KEY"] not in str(caught.value)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"azure_storage_account_key": "YW5vdGhlciBzZWNyZXQ="}, "key is wrong"),
        ({"container": "none-such"}, "no such container"),
    ],
    ids=["key", "container"],
)
def test_a_start_on_azure_says_which_of_key_and_container_is_wrong(
    azure: AzureAccess, wrong: dict[str, str], words: str
) -> None:
    container = wrong.get("container") or azure.make_container()
    options = azure.storage_options() | {key: wrong[key] for key in wrong if key != "container"}
    store = open_store(f"az://{container}/lake", options)
    for ask in (store.check, store.probe_put_if_absent):
        with pytest.raises(StorageRefused, match=words):
            ask()
    with pytest.raises(StorageUnavailable, match=words):
        store.read("f-1.parquet")


def test_a_user_without_rights_is_told_so(tmp_path: Path) -> None:
    with VersityGw(tmp_path) as server:
        bucket = server.access.make_bucket()
        user = server.make_user("somebody", "their secret")
        with pytest.raises(StorageRefused, match="lacks the right to do this"):
            open_store(f"s3://{bucket}/lake", user.storage_options()).check()


def test_a_right_that_is_taken_away_later_is_waited_for(s3: S3Access, tmp_path: Path) -> None:
    """Once running, no key is wrong for ever: the sinks try again until a person acts."""
    options = s3.storage_options() | {"AWS_SECRET_ACCESS_KEY": "rotated"}
    store = open_store(f"s3://{s3.make_bucket()}/lake", options)
    local = tmp_path / "f-1.parquet"
    local.touch()
    attempts: list[Callable[[], object]] = [
        lambda: store.put_file(local, "f-1.parquet"),
        lambda: store.write("f-1.parquet", b""),
        lambda: store.read("f-1.parquet"),
        lambda: store.fetch_range("f-1.parquet", 0, 1),
        lambda: store.delete("f-1.parquet"),
    ]
    for attempt in attempts:
        with pytest.raises(StorageUnavailable, match="secret of the key is wrong"):
            attempt()


@pytest.mark.parametrize("bucket", ["deleted", "never made"])
def test_in_a_missing_bucket_no_object_is_just_missing(s3: S3Access, bucket: str) -> None:
    """A reader would take an empty answer for an empty lake."""
    name = s3.make_bucket() if bucket == "deleted" else f"none-{uuid.uuid4().hex}"
    if bucket == "deleted":
        s3.delete_bucket(name)
    store = open_store(f"s3://{name}/lake", s3.storage_options())
    for attempt in (
        lambda: store.read("f-1.parquet"),
        lambda: store.fetch_range("f-1.parquet", 0, 1),
    ):
        with pytest.raises(StorageUnavailable, match="no such bucket"):
            attempt()
