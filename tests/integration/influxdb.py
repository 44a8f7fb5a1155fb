"""A real InfluxDB 2: started, set up, asked, stopped.

influxd is looked for as the Prometheus servers are (`programs`; its variable is
`PROMBRIDGE_TEST_INFLUXD`). Tests that need no more than *some* InfluxDB take `influxdb_api`, which
prefers a running one: `PROMBRIDGE_TEST_INFLUXDB_URL` with `PROMBRIDGE_TEST_INFLUXDB_TOKEN` (of an
operator, or with all rights in the organisation) and `PROMBRIDGE_TEST_INFLUXDB_ORG`. They make
buckets of their own there and leave them.

Stopped with SIGINT: SIGTERM ends it uncleanly. Its answers to writes: 400 names every bad line,
and nothing is stored; 422 for points beyond the retention or of another type, `dropped=N`, and the
rest is stored; 401 wrong token, 403 no right, 404 no such bucket or organisation; an empty body is
204 after all these checks.
"""

import csv
import http
import io
import json
import os
import signal
import urllib.parse
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tests.integration.processes import Reply, ServerProcess, fetch
from tests.integration.programs import Wanted, find

INFLUXD = Wanted(
    what="InfluxDB 2",
    variable="PROMBRIDGE_TEST_INFLUXD",
    name="influxd",
    name_on_path="influxd",
    version_pattern=r"InfluxDB v?(2\.\S+)",
    version_argument="version",
    image="influxdb:2.7.12",
    inside="usr/local/bin/influxd",
)

# An answer may take as long as a query over all that a test has written.
ANSWER_S_MAX = 60.0
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Row = dict[str, Any]


@dataclass
class InfluxApi:
    """The HTTP API of one InfluxDB, as someone who may do everything in one organisation."""

    url: str
    org: str
    token: str

    def make_bucket(self, name: str = "", *, retention_s: int = 0) -> str:
        """Makes a bucket, under a name of its own if none is given; returns the name.

        Args:
            name: of the bucket.
            retention_s: 0 for ever, else at least 3600.
        """
        bucket = name or f"bucket-{uuid.uuid4().hex}"
        rules = [{"type": "expire", "everySeconds": retention_s}] if retention_s else []
        content = {"orgID": self.org_id(), "name": bucket, "retentionRules": rules}
        self._call("POST", "/api/v2/buckets", content)
        return bucket

    def delete_bucket(self, bucket: str) -> None:
        """Deletes a bucket and its points."""
        self._call("DELETE", f"/api/v2/buckets/{self._bucket_id(bucket)}")

    def find_bucket(self, bucket: str) -> dict[str, Any] | None:
        """What the API says about a bucket, `retentionRules` for one; None if there is none."""
        query = urllib.parse.urlencode({"org": self.org, "name": bucket})
        reply = self._fetch("GET", f"/api/v2/buckets?{query}")
        if reply.status == http.HTTPStatus.NOT_FOUND:
            return None
        assert reply.status == http.HTTPStatus.OK, reply
        found: list[dict[str, Any]] = json.loads(reply.body)["buckets"]
        return found[0] if found else None

    def make_token(
        self, bucket: str | None = None, *, may_read: bool = True, may_write: bool = True
    ) -> str:
        """A token for this bucket alone; None for all, which includes making new ones."""
        resource = {"type": "buckets", "orgID": self.org_id()}
        if bucket is not None:
            resource["id"] = self._bucket_id(bucket)
        permissions = [
            {"action": action, "resource": resource}
            for action, is_granted in (("read", may_read), ("write", may_write))
            if is_granted
        ]
        content = {"orgID": self.org_id(), "permissions": permissions}
        made = self._call("POST", "/api/v2/authorizations", content)
        return str(made["token"])

    def revoke_token(self, token: str) -> None:
        """Nothing may be done with this token any more."""
        known = self._call("GET", "/api/v2/authorizations")["authorizations"]
        number = next(entry["id"] for entry in known if entry["token"] == token)
        self._call("DELETE", f"/api/v2/authorizations/{number}")

    def write(self, bucket: str, lines: str | bytes, *, precision: str = "ms") -> None:
        """Writes line protocol, all of which has to be right."""
        query = urllib.parse.urlencode({"org": self.org, "bucket": bucket, "precision": precision})
        body = lines.encode() if isinstance(lines, str) else lines
        reply = self._fetch("POST", f"/api/v2/write?{query}", body)
        assert reply.status == http.HTTPStatus.NO_CONTENT, reply

    def query(self, flux: str) -> list[Row]:
        """The rows that Flux answers, of all tables, in its order.

        Numbers are numbers (float: the bits that are stored), times are Unix milliseconds, absent
        ones None. Columns of the answer's form (`result`, `table`) are left out.
        """
        query = urllib.parse.urlencode({"org": self.org})
        dialect = {"header": True, "annotations": ["datatype"]}
        content = json.dumps({"query": flux, "dialect": dialect}).encode()
        reply = self._fetch("POST", f"/api/v2/query?{query}", content)
        assert reply.status == http.HTTPStatus.OK, reply
        return list(_rows(reply.body.decode()))

    def points(self, bucket: str) -> list[Row]:
        """Every point of a bucket, whatever its time: `_measurement`, tags, `_field`, …"""
        return self.query(
            f"from(bucket: {json.dumps(bucket, ensure_ascii=False)}) "
            "|> range(start: 1677-09-22T00:00:00Z, stop: 2262-04-11T00:00:00Z) "
            '|> drop(columns: ["_start", "_stop"])'
        )

    def org_id(self) -> str:
        """What the API calls the organisation."""
        query = urllib.parse.urlencode({"org": self.org})
        return str(self._call("GET", f"/api/v2/orgs?{query}")["orgs"][0]["id"])

    def _bucket_id(self, bucket: str) -> str:
        found = self.find_bucket(bucket)
        assert found is not None, f"there is no bucket {bucket}"
        return str(found["id"])

    def _call(self, method: str, target: str, content: object = None) -> Any:
        body = b"" if content is None else json.dumps(content).encode()
        reply = self._fetch(method, target, body)
        assert reply.status < http.HTTPStatus.MULTIPLE_CHOICES, reply
        return json.loads(reply.body) if reply.body else None

    def _fetch(self, method: str, target: str, body: bytes = b"") -> Reply:
        headers = {"Authorization": f"Token {self.token}", "Content-Type": "application/json"}
        return fetch(method, f"{self.url}{target}", body, headers, timeout_s=ANSWER_S_MAX)


class InfluxDb(ServerProcess):
    """An InfluxDB server of its own, set up at its first start.

    Args:
        folder: what it stores, and its log.
        retention_check_interval: how often points beyond their bucket's retention are deleted.
        flags: added to the command line.
    """

    ready_path = "/health"
    stop_signal = signal.SIGINT
    org = "prombridge"
    token = "the-token-of-the-tests"

    def __init__(
        self,
        folder: Path,
        *,
        retention_check_interval: str = "5s",
        flags: Sequence[str] = (),
        name: str = "influxdb",
    ) -> None:
        program, self.version = find(INFLUXD)

        def command(port: int) -> list[str]:
            return [
                str(program),
                f"--http-bind-address=127.0.0.1:{port}",
                "--reporting-disabled",
                f"--bolt-path={folder / 'influxd.bolt'}",
                f"--sqlite-path={folder / 'influxd.sqlite'}",
                f"--engine-path={folder / 'engine'}",
                f"--storage-retention-check-interval={retention_check_interval}",
                *flags,
            ]

        # Each of its flags could be a variable of the environment, too.
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("INFLUXD_")
        }
        super().__init__(name, folder, command, self.listens, environment)

    @property
    def api(self) -> InfluxApi:
        """As the operator."""
        return InfluxApi(self.url, self.org, self.token)

    def start(self) -> None:
        """Starts it, waits until it is ready, and sets it up if it never was."""
        super().start()
        setup = f"{self.url}/api/v2/setup"
        if not json.loads(fetch("GET", setup).body)["allowed"]:
            return
        content = {
            "username": "tests",
            "password": "not a secret",
            "org": self.org,
            "bucket": "first",
            "token": self.token,
        }
        reply = fetch("POST", setup, json.dumps(content).encode())
        assert reply.status == http.HTTPStatus.CREATED, reply

    def make_bucket(self, name: str = "", *, retention_s: int = 0) -> str:
        """See `InfluxApi`."""
        return self.api.make_bucket(name, retention_s=retention_s)

    def delete_bucket(self, bucket: str) -> None:
        """See `InfluxApi`."""
        self.api.delete_bucket(bucket)

    def make_token(
        self, bucket: str | None = None, *, may_read: bool = True, may_write: bool = True
    ) -> str:
        """See `InfluxApi`."""
        return self.api.make_token(bucket, may_read=may_read, may_write=may_write)

    def write(self, bucket: str, lines: str | bytes, *, precision: str = "ms") -> None:
        """See `InfluxApi`."""
        self.api.write(bucket, lines, precision=precision)

    def query(self, flux: str) -> list[Row]:
        """See `InfluxApi`."""
        return self.api.query(flux)

    def points(self, bucket: str) -> list[Row]:
        """See `InfluxApi`."""
        return self.api.points(bucket)


@contextmanager
def influxdb_api(folder: Path) -> Iterator[InfluxApi]:
    """Some InfluxDB: the one at the address, else an `InfluxDb`."""
    url = os.environ.get("PROMBRIDGE_TEST_INFLUXDB_URL")
    if url:
        yield InfluxApi(
            url.rstrip("/"),
            os.environ["PROMBRIDGE_TEST_INFLUXDB_ORG"],
            os.environ["PROMBRIDGE_TEST_INFLUXDB_TOKEN"],
        )
        return
    with InfluxDb(folder) as server:
        yield server.api


def _rows(text: str) -> Iterator[Row]:
    """The rows of an annotated CSV: per table its types, its names, its rows, an empty line."""
    types: list[str] = []
    names: list[str] = []
    for line in csv.reader(io.StringIO(text, newline="")):
        if not line:
            types, names = [], []
        elif not types:
            assert line[0] == "#datatype", f"Flux failed in the middle: {line}"
            types = line[3:]
        elif not names:
            names = line[3:]
        else:
            columns = zip(names, types, line[3:], strict=True)
            yield {name: _value(kind, value) for name, kind, value in columns}


def _value(kind: str, text: str) -> Any:
    if kind == "string":
        return text
    if text == "":
        return None
    if kind == "double":
        return float(text)
    if kind in {"long", "unsignedLong"}:
        return int(text)
    if kind == "boolean":
        return text == "true"
    assert kind.startswith("dateTime:"), kind
    timestamp_ms, rest = divmod(datetime.fromisoformat(text) - _EPOCH, timedelta(milliseconds=1))
    assert not rest, f"{text} is no whole millisecond"
    return timestamp_ms
