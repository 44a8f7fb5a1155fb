"""The S3 servers of the tests are what the tests take them for."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from obstore.exceptions import AlreadyExistsError, PermissionDeniedError

from tests.integration.object_stores import S3Access, VersityGw

WRITERS = 8


def creators_who_won(access: S3Access, bucket: str, key: str) -> int:
    def create(number: int) -> int:
        try:
            access.objects(bucket).put(key, b"%d" % number, mode="create")
        except AlreadyExistsError:
            return 0
        return 1

    with ThreadPoolExecutor(WRITERS) as pool:
        return sum(pool.map(create, range(WRITERS)))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VersityGw]:
    with VersityGw(tmp_path_factory.mktemp("s3")) as started:
        yield started


def test_of_many_creators_of_one_object_one_wins(server: VersityGw) -> None:
    bucket = server.access.make_bucket()
    wins = [creators_who_won(server.access, bucket, f"race-{race}") for race in range(10)]
    assert wins == [1] * 10


def test_without_conditions_several_creators_win(tmp_path: Path) -> None:
    with VersityGw(tmp_path, honours_conditions=False) as server:
        bucket = server.access.make_bucket()
        assert creators_who_won(server.access, bucket, "race") == WRITERS


def test_requests_are_counted_by_operation(server: VersityGw) -> None:
    bucket = server.access.make_bucket()
    objects = server.access.objects(bucket)
    server.requests()
    objects.put("date=2026-11-21/a b.parquet", b"0123456789")
    assert bytes(objects.get_range("date=2026-11-21/a b.parquet", start=2, length=3)) == b"234"
    with pytest.raises(FileNotFoundError):
        objects.head("none")
    requests = server.requests()
    assert Counter(request.operation for request in requests) == {
        "PutObject": 1,
        "GetObject": 1,
        "HeadObject": 1,
    }
    assert {request.bucket for request in requests} == {bucket}
    assert [request.status for request in requests] == [200, 200, 404]
    assert requests[2].key == "none"
    assert server.requests() == []


def test_buckets_outlive_a_kill(tmp_path: Path) -> None:
    with VersityGw(tmp_path) as server:
        bucket = server.access.make_bucket("kept")
        server.access.objects(bucket).put("key", b"content")
        server.kill()
        server.start()
        assert server.access.keys(bucket) == ["key"]
        with pytest.raises(AlreadyExistsError):
            server.access.objects(bucket).put("key", b"other", mode="create")


def test_a_deleted_bucket_is_gone(server: VersityGw) -> None:
    bucket = server.access.make_bucket()
    server.access.objects(bucket).put("a/b", b"content")
    server.access.delete_bucket(bucket)
    with pytest.raises(FileNotFoundError, match="NoSuchBucket"):
        server.access.objects(bucket).put("a/b", b"content")


def test_a_user_without_rights_is_refused(server: VersityGw) -> None:
    bucket = server.access.make_bucket()
    stranger = server.make_user("stranger", "also no secret")
    with pytest.raises(PermissionDeniedError, match="AccessDenied"):
        stranger.objects(bucket).put("key", b"content")
    unknown = S3Access(server.url, "nobody", "wrong")
    with pytest.raises(PermissionDeniedError, match="InvalidAccessKeyId"):
        unknown.objects(bucket).put("key", b"content")
    wrong = S3Access(server.url, server.access_key, "wrong")
    with pytest.raises(PermissionDeniedError, match="SignatureDoesNotMatch"):
        wrong.objects(bucket).put("key", b"content")
