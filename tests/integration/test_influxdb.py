"""The InfluxDB of the tests is what the tests take it for."""

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.influxdb import InfluxDb
from tests.integration.processes import fetch


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InfluxDb]:
    with InfluxDb(tmp_path_factory.mktemp("influxdb")) as started:
        yield started


def write_status(server: InfluxDb, token: str, bucket: str, lines: bytes = b"") -> int:
    url = f"{server.url}/api/v2/write?org={server.org}&bucket={bucket}&precision=ms"
    return fetch("POST", url, lines, {"Authorization": f"Token {token}"}).status


def test_points_come_back_bit_by_bit(server: InfluxDb) -> None:
    bucket = server.make_bucket()
    values = [0.1, -0.0, 5e-324, 1.7976931348623157e308, 1e22, 2.0**53 + 2, 1 / 3]
    server.write(bucket, "\n".join(f"m,n={n} value={v!r} {n}" for n, v in enumerate(values)))
    points = sorted(server.points(bucket), key=lambda point: int(point["n"]))
    assert [struct.pack("<d", point["_value"]) for point in points] == [
        struct.pack("<d", value) for value in values
    ]
    assert [point["_time"] for point in points] == list(range(len(values)))


def test_awkward_tags_come_back(server: InfluxDb) -> None:
    bucket = server.make_bucket("with späces")
    server.write(bucket, 'a\\ metric,key\\=1=a\\,b\\ "c"\\=ä i=7i,yes=true 1700000000123')
    assert [point | {"_value": str(point["_value"])} for point in server.points(bucket)] == [
        {
            "_time": 1700000000123,
            "_value": value,
            "_field": field,
            "_measurement": "a metric",
            "key=1": 'a,b "c"=ä',
        }
        for field, value in (("i", "7"), ("yes", "True"))
    ]


def test_points_outlive_a_stop_and_a_kill_on_the_same_port(tmp_path: Path) -> None:
    with InfluxDb(tmp_path) as server:
        port, bucket = server.port, server.make_bucket()
        server.write(bucket, "m value=1 1")
        server.stop()
        with pytest.raises(ConnectionRefusedError):
            fetch("GET", f"{server.url}/health")
        server.start()
        server.write(bucket, "m value=2 2")
        server.kill()
        server.start()
        assert server.port == port
        assert [point["_value"] for point in server.points(bucket)] == [1, 2]


def test_tokens_may_do_what_they_were_made_for(server: InfluxDb) -> None:
    bucket, other = server.make_bucket(), server.make_bucket()
    writing = server.make_token(bucket, may_read=False)
    reading = server.make_token(bucket, may_write=False)
    assert write_status(server, writing, bucket) == 204
    assert write_status(server, writing, other) in {403, 404}
    assert write_status(server, reading, bucket) == 403
    assert write_status(server, "wrong", bucket) == 401
    server.api.revoke_token(writing)
    assert write_status(server, writing, bucket) == 401


def test_a_deleted_bucket_is_gone_and_may_be_made_again(server: InfluxDb) -> None:
    bucket = server.make_bucket(retention_s=3600)
    found = server.api.find_bucket(bucket)
    assert found is not None
    assert [rule["everySeconds"] for rule in found["retentionRules"]] == [3600]
    server.delete_bucket(bucket)
    assert server.api.find_bucket(bucket) is None
    assert write_status(server, server.token, bucket, b"m value=1") == 404
    server.make_bucket(bucket)
    assert write_status(server, server.token, bucket, b"m value=1") == 204


def test_bad_lines_are_refused_and_old_ones_dropped(server: InfluxDb) -> None:
    bucket = server.make_bucket(retention_s=3600)
    assert write_status(server, server.token, bucket, b"m value=1\nm value=\n") == 400
    assert server.points(bucket) == []
    assert write_status(server, server.token, bucket, b"m value=1\nm value=2 1") == 422
    assert [point["_value"] for point in server.points(bucket)] == [1]
