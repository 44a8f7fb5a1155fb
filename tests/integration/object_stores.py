"""Real S3 servers: versitygw over a folder, honest about put-if-absent or not.

versitygw is looked for as the Prometheus servers are (`programs`; its variable is
`PROMBRIDGE_TEST_VERSITYGW`). Tests that need no more than *some* S3 server take `s3_access`, which
prefers a running one: `PROMBRIDGE_TEST_S3_ENDPOINT`, with `AWS_ACCESS_KEY_ID`,
`AWS_SECRET_ACCESS_KEY` and, if it is not us-east-1, `AWS_REGION`.

With `honours_conditions=False` it ignores `If-None-Match`, as some real stores do: two creators of
one object both win. That is what `--nometa` does to it; no mock is as wrong as that.

As on AWS, an unknown access key is 403 `InvalidAccessKeyId`, a wrong secret 403
`SignatureDoesNotMatch`, a user without the right 403 `AccessDenied`, no such bucket 404
`NoSuchBucket`.
"""

import http
import os
import re
import subprocess
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Literal, Self

import obstore
from obstore.store import S3Store

from tests.integration.processes import Reply, ServerProcess, fetch
from tests.integration.programs import Wanted, find

VERSITYGW = Wanted(
    what="versitygw",
    variable="PROMBRIDGE_TEST_VERSITYGW",
    name="versitygw",
    name_on_path="versitygw",
    version_pattern=r"Version\s+: v?(\d\S*)",
    image="versity/versitygw:v1.8.0",
    inside="usr/local/bin/versitygw",
)

# client bucket [time] address requester id s3_Operation key uri status …
_ACCESS = re.compile(r"\S+ (\S+) \[[^]]*] \S+ \S+ \S+ s3_(\S+) (.*?) /\S* (\d{3}) ")


@dataclass(frozen=True)
class S3Request:
    """What the server wrote into its access log about one request."""

    operation: str
    """`GetObject`, `PutObject`, `ListObjectsV2`, `UploadPart`, …; a ranged read is a GetObject."""

    bucket: str
    key: str
    """`-` if the request names none."""

    status: int


@dataclass(frozen=True)
class S3Access:
    """Where an S3 server is, and as whom it is used."""

    endpoint: str
    access_key: str
    secret_key: str
    region: str = "us-east-1"

    def through(self, endpoint: str) -> Self:
        """The same by another road: a proxy that passes `Host` on, which signatures cover."""
        return replace(self, endpoint=endpoint)

    def storage_options(self) -> dict[str, str]:
        """For delta-rs and for obstore."""
        return {**self.environment(), "aws_conditional_put": "etag"}

    def environment(self) -> dict[str, str]:
        """What a process needs in its environment to be this user of this server."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": self.region,
        }

    def objects(self, bucket: str) -> S3Store:
        """The bucket as obstore sees it, without retries."""
        return S3Store(
            bucket,
            endpoint=self.endpoint,
            access_key_id=self.access_key,
            secret_access_key=self.secret_key,
            region=self.region,
            client_options={"allow_http": True},
            retry_config={"max_retries": 0},
        )

    def make_bucket(self, name: str = "") -> str:
        """Makes a bucket, under a name of its own if none is given; returns the name."""
        bucket = name or f"prombridge-{uuid.uuid4().hex}"
        reply = self._of_bucket("PUT", bucket)
        assert reply.status == http.HTTPStatus.OK, reply
        return bucket

    def delete_bucket(self, bucket: str) -> None:
        """Deletes a bucket and all that is in it."""
        objects = self.objects(bucket)
        for page in objects.list():
            objects.delete([found["path"] for found in page])
        reply = self._of_bucket("DELETE", bucket)
        assert reply.status == http.HTTPStatus.NO_CONTENT, reply

    def keys(self, bucket: str, prefix: str = "") -> list[str]:
        """The keys of all objects there, sorted."""
        pages = self.objects(bucket).list(prefix or None)
        return sorted(found["path"] for page in pages for found in page)

    def _of_bucket(self, method: Literal["PUT", "DELETE"], bucket: str) -> Reply:
        # obstore makes and deletes no buckets, but signs what does.
        url = obstore.sign(self.objects(bucket), method, "", timedelta(hours=1))
        return fetch(method, url)


class VersityGw(ServerProcess):
    """An S3 server over a folder; its buckets are there again after a restart.

    Args:
        folder: its buckets (each a folder in `s3/`), users, access log and log.
        honours_conditions: False to ignore `If-None-Match`.
        flags: added before the backend.
    """

    access_key = "prombridge-tests"
    secret_key = "not a secret"

    def __init__(
        self,
        folder: Path,
        *,
        honours_conditions: bool = True,
        flags: Sequence[str] = (),
        name: str = "versitygw",
    ) -> None:
        program, _ = find(VERSITYGW)
        self._program = program
        self.honours_conditions = honours_conditions
        self.buckets_path = folder / "s3"
        self._users_path = folder / "users"
        self._access_log_path = folder / f"{name}.access.log"
        self._seen_bytes = 0
        # A path that nothing else answers: what is ready there is this server.
        self.ready_path = f"/ready-{uuid.uuid4().hex}"
        self.buckets_path.mkdir(parents=True, exist_ok=True)
        self._users_path.mkdir(exist_ok=True)

        def command(port: int) -> list[str]:
            return [
                str(program),
                f"--port=127.0.0.1:{port}",
                "--keep-alive",
                "--quiet",
                f"--health={self.ready_path}",
                f"--access-log={self._access_log_path}",
                f"--iam-dir={self._users_path}",
                *flags,
                "posix",
                *self._where_attributes_go(folder),
                str(self.buckets_path),
            ]

        environment = {
            **os.environ,
            "ROOT_ACCESS_KEY": self.access_key,
            "ROOT_SECRET_KEY": self.secret_key,
        }
        super().__init__(name, folder, command, environment=environment)

    @property
    def access(self) -> S3Access:
        """As the server's root user."""
        return S3Access(self.url, self.access_key, self.secret_key)

    def make_user(self, access_key: str, secret_key: str) -> S3Access:
        """A user who may do nothing in the buckets of others: 403."""
        subprocess.run(
            [
                str(self._program),
                "admin",
                f"--access={self.access_key}",
                f"--secret={self.secret_key}",
                f"--endpoint-url={self.url}",
                "create-user",
                f"--access={access_key}",
                f"--secret={secret_key}",
                "--role=user",
            ],
            check=True,
            timeout=30,
            capture_output=True,
        )
        return S3Access(self.url, access_key, secret_key)

    def requests(self) -> list[S3Request]:
        """What it answered since the last call, or since the first start."""
        with self._access_log_path.open("rb") as log:
            log.seek(self._seen_bytes)
            text, newline, _ = log.read().rpartition(b"\n")
        self._seen_bytes += len(text) + len(newline)
        found = (_ACCESS.match(line) for line in text.decode().splitlines())
        return [S3Request(line[2], line[1], line[3], int(line[4])) for line in found if line]

    def request_counts(self) -> Counter[str]:
        """How many of each operation it answered since the last call, or since the first start."""
        return Counter(request.operation for request in self.requests())

    def _where_attributes_go(self, folder: Path) -> list[str]:
        """ETags are kept in extended attributes, which not every file system has."""
        if not self.honours_conditions:
            return ["--nometa"]
        try:
            os.setxattr(self.buckets_path, "user.prombridge", b"1")
        except OSError:
            sidecar = folder / "attributes"
            sidecar.mkdir(exist_ok=True)
            return [f"--sidecar={sidecar}"]
        return []


@contextmanager
def s3_access(folder: Path) -> Iterator[S3Access]:
    """Some S3 server that honours conditions: the one at the address, else a versitygw."""
    endpoint = os.environ.get("PROMBRIDGE_TEST_S3_ENDPOINT")
    if endpoint:
        yield S3Access(
            endpoint.rstrip("/"),
            os.environ["AWS_ACCESS_KEY_ID"],
            os.environ["AWS_SECRET_ACCESS_KEY"],
            os.environ.get("AWS_REGION") or "us-east-1",
        )
        return
    with VersityGw(folder) as server:
        yield server.access
