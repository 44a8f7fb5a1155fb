"""Half a destination is refused at the start."""

from pathlib import Path
from typing import Any

import pytest

from bridge.errors import ConfigError
from bridge.write.sinks.influxdb.client import InfluxdbClient
from bridge.write.sinks.influxdb.settings import InfluxdbSettings

GOOD: dict[str, Any] = {"url": "http://localhost:8086", "org": "o", "bucket": "b"}


def test_without_an_address_nothing_is_on() -> None:
    assert not InfluxdbSettings().is_on
    assert InfluxdbSettings(**GOOD).is_on


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"url": ""}, "influxdb.url"),
        ({"org": ""}, "influxdb.org"),
        ({"bucket": ""}, "influxdb.bucket"),
        ({"url": "localhost:8086"}, "influxdb.url"),
        ({"url": "ftp://localhost"}, "influxdb.url"),
        ({"url": "http://user:secret@localhost:8086"}, "influxdb.url"),
        ({"url": "http://localhost:8086?token=secret"}, "influxdb.url"),
        ({"bucket": "b" * 3000}, "influxdb.url"),
        ({"batch_lines": 0}, "influxdb.batch_lines"),
        ({"batch_lines": 10_000_000}, "influxdb.batch_lines"),
    ],
)
def test_what_cannot_work_is_refused_by_its_name_and_no_secret_is_shown(
    changed: dict[str, Any], named: str
) -> None:
    with pytest.raises(ConfigError, match=named) as caught:
        InfluxdbSettings(**{**GOOD, **changed})
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"", b"  \n", b"two secret\n", b"secret\nsecret", b"secr\xffet"]
)
def test_a_token_file_that_holds_no_token_is_refused_without_showing_it(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "token"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"influxdb\.token_file") as caught:
        InfluxdbClient(InfluxdbSettings(**GOOD, token_file=path))
    assert "secr" not in str(caught.value)


def test_a_missing_token_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"influxdb.token_file.*No such file"):
        InfluxdbClient(InfluxdbSettings(**GOOD, token_file=tmp_path / "none"))
