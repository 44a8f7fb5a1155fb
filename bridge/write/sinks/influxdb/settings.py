"""Where the InfluxDB is, and what is written there."""

import json
import urllib.parse
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bridge.errors import ConfigError
from bridge.model.options import Duration, Size, option
from bridge.write.sinks.cursor import DESTINATION_BYTES_MAX

LineMapping = Literal["measurement-per-metric", "field-per-metric"]
Start = Literal["now", "oldest"]

BATCH_LINES_MAX = 1_000_000
"""More lines than one record can have make no batch any larger."""


@dataclass(frozen=True, slots=True)
class InfluxdbSettings:
    """The InfluxDB sink; off without a URL."""

    url: str = option(
        "", "Address of an InfluxDB 2 (or 1.8); without it nothing is written to one."
    )
    org: str = option("", "Organization that the bucket belongs to, its name or id.")
    bucket: str = option("", "Bucket to write to, its name or id.")
    token_file: Path | None = option(
        None,
        "File with a token that may write to the bucket; read again when the server refuses it.",
    )
    batch_lines: int = option(
        20_000,
        "Lines of one request. InfluxDB advises 5000; larger ones cost both sides less.",
    )
    mapping: LineMapping = option(
        "measurement-per-metric",
        "A measurement for each metric, with the field `value`; or one measurement, `prometheus`, "
        "with a field for each metric.",
    )
    create_bucket: bool = option(
        False,
        "Create the bucket where it is missing; the token needs the right to do so.",
    )
    bucket_retention: Duration | None = option(
        None, "Retention of a bucket that is created here; without it, it keeps everything."
    )
    start: Start = option(
        "now",
        "Where a sink that is new begins: with what comes, or with the oldest record in the WAL.",
    )
    timeout: Duration = option(Duration(30), "A request without an answer after this is repeated.")
    dead_letter_path: Path = option(
        Path("data/influxdb-dead-letters.lp"),
        "File for lines that the server refuses, each with the reason; a second one, named `.1`, "
        "holds those before.",
    )
    dead_letter_max_bytes: Size = option(
        Size(64 << 20), "Size of both dead-letter files together; past it the oldest lines go."
    )

    @property
    def is_on(self) -> bool:
        """Whether there is anything to write to."""
        return bool(self.url)

    @property
    def destination(self) -> str:
        """What makes it this sink; with another one it is a new sink."""
        return f"{self.url.rstrip('/')} {self.org} {self.bucket}"

    def __post_init__(self) -> None:
        """Refuses half a destination.

        Raises:
            ConfigError: names the option.
        """
        if not self.url:
            if self.org or self.bucket:
                raise ConfigError("influxdb.url: an org or a bucket is set, but no address")
            return
        parts = urllib.parse.urlsplit(self.url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ConfigError(
                f"influxdb.url: {_shown(self.url)!r} is not an address; write http://HOST:8086"
            )
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ConfigError(
                "influxdb.url: only scheme, host, port and path; the token belongs into "
                "influxdb.token_file"
            )
        for name, value in (("org", self.org), ("bucket", self.bucket)):
            if not value:
                raise ConfigError(f"influxdb.{name}: it has to be set with influxdb.url")
        if len(json.dumps(self.destination)) > DESTINATION_BYTES_MAX:
            raise ConfigError(
                "influxdb.url: with influxdb.org and influxdb.bucket it has more than "
                f"{DESTINATION_BYTES_MAX} bytes"
            )
        if not 1 <= self.batch_lines <= BATCH_LINES_MAX:
            raise ConfigError(
                f"influxdb.batch_lines: {self.batch_lines} is not between 1 and {BATCH_LINES_MAX}"
            )


def _shown(url: str) -> str:
    """The address without anything that may be a secret."""
    return url.rpartition("@")[2].partition("?")[0]
