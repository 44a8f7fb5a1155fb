"""One InfluxDB, asked through the official client: a batch goes in, what became of it comes out.

Nothing is raised for what a server or a network does: each of it is an outcome that the sink acts
on. Only an answer that InfluxDB itself has written counts as a verdict on lines; whatever a proxy
in between says (502, 403, a page of HTML with any status) is a server that is not there now, so
that it can cost no data.

Bodies are compressed here: of a body of line protocol isal's gzip at level 1 costs 180 ns a line
and leaves a ninth of it, zlib's 1000 at level 1 and 3600 at level 9, which influxdb-client takes.

The token stands in one header and nowhere else: not in a message, not in a log line. It is read
anew from its file after the server has refused it.

Source: influxdb v2.7 http/write_handler.go; what it answers is written down in docs/influxdb.md.
"""

import email.utils
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeAlias

import urllib3

# The synchronous client alone; `InfluxDBClient` adds threads, batching and retries of its own.
from influxdb_client._sync.api_client import ApiClient
from influxdb_client.configuration import Configuration
from influxdb_client.domain.bucket_retention_rules import BucketRetentionRules
from influxdb_client.domain.post_bucket_request import PostBucketRequest
from influxdb_client.rest import ApiException
from influxdb_client.service.buckets_service import BucketsService
from influxdb_client.service.organizations_service import OrganizationsService
from influxdb_client.service.write_service import WriteService
from isal import igzip_lib

from bridge.errors import ConfigError
from bridge.write.sinks.influxdb.settings import InfluxdbSettings

GZIP_LEVEL = 1
CONNECT_S_MAX = 5.0
RETRY_AFTER_S_MAX = 3600.0
"""A server that asks for more is asked again after an hour: an answer may be a mistake."""
SHOWN_LENGTH = 500
REFUSALS = {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND}
_DROPPED = re.compile(r"\bdropped=(\d+)(?: for database: .*)?$", re.DOTALL)
VERDICTS = {HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY}


@dataclass(frozen=True, slots=True)
class Delivered:
    """The server has stored every line."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """The server has read the lines and does not want some of them.

    Attributes:
        status: 400, 413 or 422.
        reason: what it said.
        dropped_count: lines that it left out while it stored the others; None where it did not say.
    """

    status: int
    reason: str
    dropped_count: int | None = None


@dataclass(frozen=True, slots=True)
class Unavailable:
    """Nothing is known to be stored; the same lines go again later.

    Attributes:
        cause: what happened.
        retry_after_s: what the server asked to wait; 0 without a wish.
        is_refusal: whether a person must act: wrong token, no right, no such bucket.
        lacks_bucket: whether it is the bucket alone that is missing.
    """

    cause: str
    retry_after_s: float = 0.0
    is_refusal: bool = False
    lacks_bucket: bool = False


Outcome: TypeAlias = Delivered | Rejected | Unavailable


class InfluxdbClient:
    """Writes to one bucket; used by one thread.

    Attributes:
        request_counts: writes by what came of them: a status, or `timeout` or `connection`.
    """

    def __init__(self, settings: InfluxdbSettings) -> None:
        """Reads the token; no request is made.

        Raises:
            ConfigError: the token cannot be read or is none.
        """
        self._settings = settings
        self.request_counts: dict[str, int] = {}
        configuration = Configuration()
        configuration.host = settings.url.rstrip("/")
        self._api = ApiClient(configuration, retries=False)
        self._api.user_agent = "prombridge"
        self._writes = WriteService(self._api)
        timeout_ms = int(settings.timeout * 1000)
        self._timeouts_ms = (min(timeout_ms, int(CONNECT_S_MAX * 1000)), timeout_ms)
        self._use_token()

    def push(self, body: bytes) -> Outcome:
        """Writes line protocol with times in ms; an empty body only asks whether one may."""
        code, outcome = self._post(body)
        self.request_counts[code] = self.request_counts.get(code, 0) + 1
        return outcome

    def create_bucket(self) -> str | None:
        """Creates the bucket with its retention.

        Returns:
            why that did not work; None if it did.
        """
        settings = self._settings
        try:
            found = OrganizationsService(self._api).get_orgs(
                org=settings.org, _request_timeout=self._timeouts_ms
            )
            org_id = found.orgs[0].id if found.orgs else settings.org
            retention = settings.bucket_retention
            rules = (
                [BucketRetentionRules(type="expire", every_seconds=int(retention))]
                if retention
                else []
            )
            request = PostBucketRequest(
                org_id=org_id,
                name=settings.bucket,
                retention_rules=rules,
            )
            BucketsService(self._api).post_buckets(request, _request_timeout=self._timeouts_ms)
        except ApiException as error:
            return f"HTTP {error.status}: {_message(error.body) or error.reason}"
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            return _network_cause(error)
        return None

    def close(self) -> None:
        """Closes its connections."""
        self._api.rest_client.pool_manager.clear()

    def _post(self, body: bytes) -> tuple[str, Outcome]:
        settings = self._settings
        headers: dict[str, Any] = {"content_type": "text/plain; charset=utf-8"}
        if body:
            body = igzip_lib.compress(body, GZIP_LEVEL, igzip_lib.COMP_GZIP)
            headers["content_encoding"] = "gzip"
        try:
            self._writes.post_write(
                settings.org,
                settings.bucket,
                body,
                precision="ms",
                _request_timeout=self._timeouts_ms,
                **headers,
            )
        except ApiException as error:
            if not error.status:  # TLS
                return "connection", Unavailable(f"{settings.url}: {error.reason}")
            return str(error.status), self._judge(error.status, error.body, error.headers or {})
        except urllib3.exceptions.TimeoutError as error:
            return "timeout", Unavailable(f"{settings.url}: {_network_cause(error)}")
        except (urllib3.exceptions.HTTPError, OSError, UnicodeDecodeError) as error:
            return "connection", Unavailable(f"{settings.url}: {_network_cause(error)}")
        status = self._api.last_response.status
        if status != HTTPStatus.NO_CONTENT:
            cause = f"{settings.url} answers a write with {status}, which InfluxDB never does"
            return str(status), Unavailable(cause)
        return str(status), Delivered()

    def _judge(self, status: int, body: str | None, headers: Mapping[str, str]) -> Outcome:
        message = _message(body)
        if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            return Rejected(status, message or "the server takes no body as large")
        if status in VERDICTS and message:
            dropped = _DROPPED.search(message)
            return Rejected(status, message, int(dropped[1]) if dropped else None)
        cause = f"{self._settings.url}: HTTP {status}: {(message or body or '')[:SHOWN_LENGTH]}"
        if status not in REFUSALS:
            return Unavailable(cause, _retry_after_s(headers.get("Retry-After", "")))
        if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
            cause += self._refresh_token()
        return Unavailable(
            f"{cause} ({self._hint(status, message)})",
            is_refusal=True,
            lacks_bucket=status == HTTPStatus.NOT_FOUND and message.startswith("bucket "),
        )

    def _hint(self, status: int, message: str) -> str:
        """Which option is wrong."""
        if status == HTTPStatus.UNAUTHORIZED:
            return "influxdb.token_file: the server does not know this token"
        if status == HTTPStatus.FORBIDDEN:
            return f"influxdb.token_file: the token may not write to {self._settings.bucket!r}"
        if message.startswith("organization"):
            return f"influxdb.org: there is no {self._settings.org!r}"
        if message.startswith("bucket"):
            return f"influxdb.bucket: there is no {self._settings.bucket!r}"
        return "influxdb.url: is this an InfluxDB 2?"

    def _refresh_token(self) -> str:
        """Reads the token again; what is wrong with its file now, if anything is."""
        try:
            self._use_token()
        except ConfigError as error:
            return f"; {error}"
        return ""

    def _use_token(self) -> None:
        path = self._settings.token_file
        if path is not None:
            self._api.set_default_header("Authorization", f"Token {_read_token(path)}")


def _read_token(path: Path) -> str:
    try:
        token = path.read_text(encoding="ascii").strip()
    except OSError as error:
        raise ConfigError(f"influxdb.token_file: cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError:
        token = ""
    # Anything else would end up in the message of an exception about a wrong header.
    if not re.fullmatch(r"[!-~]+", token):
        raise ConfigError(f"influxdb.token_file: {path} does not hold one token")
    return token


def _message(body: str | None) -> str:
    """What InfluxDB says in an answer; empty if the answer is not InfluxDB's."""
    try:
        content = json.loads(body or "")
    except (ValueError, RecursionError):
        return ""
    if not isinstance(content, dict):
        return ""
    text = content.get("message") or content.get("error")  # 2 and 1.8
    return text if isinstance(text, str) else ""


def _network_cause(error: Exception) -> str:
    """A line about what failed between here and there."""
    while isinstance(error, urllib3.exceptions.ProtocolError) and len(error.args) > 1:
        inner = error.args[1]
        if not isinstance(inner, Exception):
            break
        error = inner
    return f"{type(error).__name__}: {error}"[:SHOWN_LENGTH]


def _retry_after_s(text: str) -> float:
    """Seconds that `Retry-After` asks for: a number, or a date."""
    if re.fullmatch(r"\d{1,9}(\.\d+)?", text):
        wait_s = float(text)
    else:
        try:
            wait_s = email.utils.parsedate_to_datetime(text).timestamp() - time.time()
        except (ValueError, OverflowError):
            return 0.0
    return min(max(wait_s, 0.0), RETRY_AFTER_S_MAX)
