"""Buckets: what a URI may be, whose keys are used, and that nobody sees them."""

import json
import threading
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from bridge import config
from bridge.errors import AlreadyRunning, ConfigError, StorageUnavailable
from bridge.lake import lease
from bridge.lake.lake import Lake
from bridge.lake.schema import TABLES
from bridge.lake.store import PART_BYTES, Store, open_store
from bridge.lake.table import create_table, open_table
from tests.integration.faulty_proxy import Error, FaultyProxy
from tests.integration.object_stores import S3Access, VersityGw
from tests.integration.processes import wait_until
from tests.unit.lake.made_files import one_sample

SECRET = "a-very-secret-value"
KEYS = {"aws_access_key_id": "id", "aws_secret_access_key": SECRET}
AZURE = {"account_name": "me", "azure_storage_endpoint": "http://127.0.0.1:9/me"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VersityGw]:
    with VersityGw(tmp_path_factory.mktemp("s3")) as started:
        yield started


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """An environment without credentials and without a home."""
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_REGION"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return monkeypatch


# URIs


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("s3://bucket/path/to/lake/", "s3://bucket/path/to/lake"),
        ("s3a://bucket", "s3a://bucket"),
        ("s3://bucket//path", "s3://bucket/path"),
        ("s3://my.bucket-1/Lake_2/tenant=a", "s3://my.bucket-1/Lake_2/tenant=a"),
    ],
)
def test_a_bucket_is_opened_without_asking_it(uri: str, shown: str) -> None:
    """Nothing listens at this address."""
    store = open_store(uri, {"endpoint": "http://127.0.0.1:9"} | KEYS)
    assert store.uri == shown
    assert store.is_remote
    assert store.uri_of("samples/f.parquet") == f"{shown}/samples/f.parquet"
    assert store.request_counts == {}


@pytest.mark.parametrize(
    "uri",
    [
        "s3://",
        "s3:///path",
        f"s3://id:{SECRET}@bucket/path",
        f"s3://{SECRET}@bucket.com/path",
        "s3://bucket/a b",
        "s3://bucket/50%25",
        "s3://bucket/../other",
        "s3://bucket/.hidden",
        "s3://bucket/é",
        f"s3://bucket/path?key={SECRET}",
        "s3://bucket/path#x",
        "gs://bucket/a*",
    ],
)
def test_a_uri_that_others_would_read_otherwise_is_refused_and_not_quoted(uri: str) -> None:
    """LAKE-11: a key may stand in it by mistake."""
    with pytest.raises(ConfigError, match="://BUCKET/PATH") as caught:
        open_store(uri, KEYS)
    assert SECRET not in str(caught.value)


def test_an_azure_uri_may_name_its_account() -> None:
    key = {"account_key": "c2VjcmV0"}
    store = open_store("abfss://lake@account.dfs.core.windows.net/path", key)
    assert store.options["azure_storage_account_name"] == "account"
    with pytest.raises(ConfigError, match=r"ACCOUNT\.dfs\.core\.windows\.net"):
        open_store("abfss://lake@account.example.com/path", key)
    with pytest.raises(ConfigError, match="Account must be specified"):
        open_store("az://lake/path", key)


def test_an_option_that_obstore_cannot_read_is_not_quoted() -> None:
    """LAKE-11."""
    for option in ("aws_conditional_put", "aws_checksum_algorithm", "http1_only"):
        with pytest.raises(ConfigError, match=r"lake\.storage_options") as caught:
            open_store("s3://bucket", KEYS | {option: SECRET})
        assert SECRET not in str(caught.value)
    with pytest.raises(ConfigError) as caught:
        open_store("gs://bucket", {"google_service_account_key": f'{{"{SECRET}": 1}}'})
    assert SECRET not in str(caught.value)


def test_settings_and_stores_do_not_show_their_options() -> None:
    """LAKE-11."""
    settings = config.load(None, {"lake.storage_options": [f"aws_secret_access_key={SECRET}"]})
    store = open_store("s3://bucket", KEYS)
    assert SECRET in str(settings.lake.storage_options)
    assert SECRET in str(store.options)
    for shown in (settings, settings.lake, store, store._objects):
        assert SECRET not in repr(shown)


@pytest.mark.parametrize(
    ("uri", "options"),
    [
        ("s3://bucket/lake", KEYS | {"session_token": SECRET, "endpoint": "http://127.0.0.1:9"}),
        ("az://bucket/lake", AZURE | {"sas_token": f"sv=1&sig={SECRET}"}),
        ("az://bucket/lake", AZURE | {"bearer_token": SECRET}),
        ("az://bucket/lake", AZURE | {"account_key": "YS12ZXJ5LXNlY3JldC12YWx1ZQ=="}),
    ],
    ids=["s3", "sas", "bearer", "key"],
)
def test_nothing_that_is_said_of_an_unreachable_store_holds_a_secret(
    uri: str, options: dict[str, str]
) -> None:
    """LAKE-11: neither the message nor what a log would show of the causes under it."""
    store = open_store(uri, options | {"max_retries": "0"})
    for attempt in (
        store.check,
        store.probe_put_if_absent,
        lambda: store.read("x"),
        lambda: open_table(store, TABLES["samples"]),
    ):
        with pytest.raises(StorageUnavailable, match="Connection refused") as caught:
            attempt()
        shown = "".join(traceback.format_exception(caught.value))
        assert not [
            secret for secret in (SECRET, options.get("account_key", SECRET)) if secret in shown
        ]


# requests


def test_a_large_file_goes_up_in_parts_that_are_counted(server: VersityGw, tmp_path: Path) -> None:
    """LAKE-5."""
    store = opened(server.access)
    path = tmp_path / "large"
    path.write_bytes(b"x" * (3 * PART_BYTES + 1))
    server.requests()
    store.put_file(path, "large")
    assert server.request_counts() == {
        "CreateMultipartUpload": 1,
        "UploadPart": 4,
        "CompleteMultipartUpload": 1,
    }
    assert store.request_counts == {"put": 6}


def test_our_counts_are_those_of_the_server(server: VersityGw, tmp_path: Path) -> None:
    store = opened(server.access)
    path = tmp_path / "small"
    path.write_bytes(b"0123456789")
    server.requests()
    store.check()
    store.put_file(path, "small")
    for offset in (0, 5, 8):
        store.fetch_range("small", offset, 2)
    store.probe_put_if_absent()
    store.delete("small")
    assert server.request_counts() == {
        "ListObjectsV2": 1,
        "GetObject": 4,
        "PutObject": 25,
        "DeleteObject": 4,
    }
    assert store.request_counts == {
        "list": 1,
        "get": 1,
        "put": 1,
        "create": 24,
        "get_range": 3,
        "delete": 4,
    }


# credentials


def opened(access: S3Access, **options: str) -> Store:
    return open_store(f"s3://{access.make_bucket()}/lake", access.storage_options() | options)


def use(store: Store) -> None:
    """Through obstore and through delta-rs."""
    store.check()
    create_table(store, TABLES["samples"])
    assert open_table(store, TABLES["samples"]) is not None


def test_keys_of_the_environment_are_enough(server: VersityGw, alone: pytest.MonkeyPatch) -> None:
    for variable, value in server.access.environment().items():
        alone.setenv(variable, value)
    use(open_store(f"s3://{server.access.make_bucket()}/lake"))


def test_a_profile_is_enough(server: VersityGw, alone: pytest.MonkeyPatch, tmp_path: Path) -> None:
    access = server.access
    (tmp_path / "keys").write_text(
        f"[work]\naws_access_key_id={access.access_key}\n"
        f"aws_secret_access_key={access.secret_key}\n"
    )
    (tmp_path / "config").write_text(
        f"[profile work]\nregion={access.region}\nendpoint_url={access.endpoint}\n"
    )
    alone.setenv("AWS_PROFILE", "work")
    alone.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "keys"))
    alone.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    use(open_store(f"s3://{access.make_bucket()}/lake"))


class KeyServer(ThreadingHTTPServer):
    """Hands out keys that expire, as a container's or an instance's metadata service does."""

    def __init__(self, access: S3Access) -> None:
        super().__init__(("127.0.0.1", 0), KeyRequest)
        self.access = access
        self.asked: Counter[str] = Counter()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class KeyRequest(BaseHTTPRequestHandler):
    server: KeyServer

    def do_PUT(self) -> None:
        self._answer("token")

    def do_GET(self) -> None:
        self.server.asked[self.path] += 1
        if self.path.endswith("/security-credentials/"):
            self._answer("the-role")
            return
        expires = datetime.now(UTC) + timedelta(hours=1)
        self._answer(
            json.dumps(
                {
                    "AccessKeyId": self.server.access.access_key,
                    "SecretAccessKey": self.server.access.secret_key,
                    "Token": "",
                    "Expiration": expires.strftime("%Y-%m-%dT%H:%M:%SZ"),
                    "LastUpdated": "2026-11-21T00:00:00Z",
                    "Code": "Success",
                    "Type": "AWS-HMAC",
                    "RoleArn": "the-role",
                }
            )
        )

    def _answer(self, text: str) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def key_server(access: S3Access) -> Iterator[KeyServer]:
    with KeyServer(access) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("kind", ["container", "instance"])
def test_keys_that_expire_are_fetched_by_both_libraries(
    server: VersityGw, alone: pytest.MonkeyPatch, tmp_path: Path, kind: str
) -> None:
    """They renew them; nothing of ours keeps a copy."""
    with key_server(server.access) as keys:
        if kind == "container":
            (tmp_path / "token").write_text("the token of the pod")
            alone.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{keys.url}/container")
            alone.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", str(tmp_path / "token"))
        else:
            alone.setenv("AWS_METADATA_ENDPOINT", keys.url)
        store = open_store(
            f"s3://{server.access.make_bucket()}/lake", {"endpoint": server.access.endpoint}
        )
        store.check()
        asked = keys.asked.total()
        assert asked > 0
        create_table(store, TABLES["samples"])
        assert keys.asked.total() > asked
    assert server.access.secret_key not in store.options.values()


# the lake on it


class Rotated(VersityGw):
    """The same server with another secret."""

    secret_key = "rotated"


def test_a_key_that_is_rotated_under_a_lake_is_waited_for(tmp_path: Path) -> None:
    """LAKE-11: and the secret is in nothing that the sink logs."""
    file = one_sample(tmp_path / "f-1.parquet")
    with VersityGw(tmp_path / "s3") as server:
        bucket = server.access.make_bucket()
        store = open_store(f"s3://{bucket}/lake", server.access.storage_options())
        lake = Lake.open(store, single_writer=False, refresh_interval_s=5)
    rotated = Rotated(tmp_path / "s3")
    rotated.port = server.port
    with rotated:
        for attempt in (
            lambda: lake.commit("samples", [file], receiver_id="a", position=1),
            lambda: lake.snapshot(force=True),
            lambda: lake.position("samples", "a"),
        ):
            with pytest.raises(StorageUnavailable, match="secret of the key is wrong") as caught:
                attempt()
            assert server.secret_key not in str(caught.value)
    with server:
        assert lake.commit("samples", [file], receiver_id="a", position=1)
        lake.close()


@pytest.mark.parametrize("page", [b"<html>log in</html>", b""])
def test_a_page_in_place_of_every_answer_is_no_empty_lake(tmp_path: Path, page: bytes) -> None:
    """To a reader that starts, and to one that has seen the lake."""
    file = one_sample(tmp_path / "f-1.parquet")
    with (
        VersityGw(tmp_path / "s3") as server,
        FaultyProxy(server.url) as road,
        ExitStack() as stack,
    ):
        uri = f"s3://{server.access.make_bucket()}/lake"

        def opened(access: S3Access, *, is_read_only: bool) -> Lake:
            store = open_store(uri, access.storage_options(), is_read_only=is_read_only)
            lake = Lake(store, refresh_interval_s=0, is_read_only=is_read_only)
            stack.callback(lake.close)
            return lake

        writer = opened(server.access, is_read_only=False)
        writer.connect()
        writer.commit("samples", [file], receiver_id="a", position=1)
        behind = server.access.through(road.url)
        old, new = opened(behind, is_read_only=True), opened(behind, is_read_only=True)
        assert len(old.snapshot().samples) == 1
        with road.injected(Error(200, page)):
            for lake in (old, new):
                # Both libraries notice an empty one by themselves.
                with pytest.raises(StorageUnavailable, match=r"page in place of|invalid list"):
                    lake.snapshot()
        for lake in (old, new):
            assert len(lake.snapshot().samples) == 1


def test_a_second_receiver_on_a_careless_store_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LAKE-6: and the first, if it loses its lease all the same, commits nothing more."""
    monkeypatch.setattr(lease, "LEASE_SETTLE_S", 0.01)
    monkeypatch.setattr(lease, "LEASE_RENEW_S", 0.05)
    with VersityGw(tmp_path / "s3", honours_conditions=False) as server:
        uri = f"s3://{server.access.make_bucket()}/lake"
        first, second = (open_store(uri, server.access.storage_options()) for _ in range(2))
        lost: list[str] = []
        lake = Lake(
            first, refresh_interval_s=5, single_writer=True, owner="first", on_lost=lost.append
        )
        lake.connect()
        file = one_sample(tmp_path / "f-1.parquet")
        assert lake.commit("samples", [file], receiver_id="a", position=1)
        monkeypatch.setattr(lease, "LEASE_DEAD_S", 1.0)
        other = Lake(second, refresh_interval_s=5, single_writer=True, owner="other")
        with pytest.raises(AlreadyRunning, match=r"lake\.single-writer"):
            other.connect()

        def is_taken_over() -> bool:
            # Again and again: a renewal under way may write over it.
            second.write(lease.LEASE_KEY, b'{"owner": "other", "token": "theirs", "count": 1}')
            return bool(lost)

        wait_until(is_taken_over, "the first finds another's lease", 10)
        with pytest.raises(AlreadyRunning, match="receiver 'other' has it now"):
            lake.commit("samples", [file], receiver_id="a", position=2)
        lake.close()
        other.close()
        assert second.read(lease.LEASE_KEY) is not None
