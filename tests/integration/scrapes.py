"""Scrapes of one big target as remote write: many samples for little work on the sender's side.

Every scrape has the same series and values at a time of its own. It is encoded once; the others are
made from its bytes, in which the timestamp stands as the same number of bytes.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import cramjam
import duckdb

from tests.integration.bridge import Place
from tests.integration.remote import Sample, WriteBody, bits_of, encode_v1, read_samples

METRIC = "scraped"
START_MS = 1_717_070_400_000  # 2024-05-30T12:00:00Z
STEP_MS = 1000


@dataclass(frozen=True)
class Stored:
    """What the lake has of one scrape."""

    row_count: int
    series_count: int
    value_sum: float


class Scrapes:
    """Scrapes by their number, of series that have the label `n`.

    Args:
        series_count: of each scrape; the value of a series is its number.
    """

    def __init__(self, series_count: int) -> None:
        self.series_count = series_count
        series = [
            (
                (("__name__", METRIC), ("job", "scrapes"), ("n", str(number))),
                ((START_MS, bits_of(float(number))),),
            )
            for number in range(series_count)
        ]
        self._first = bytes(cramjam.snappy.decompress_raw(encode_v1(series)))
        self._mark = _timestamp_field(START_MS)
        assert self._first.count(self._mark) == series_count

    @property
    def whole(self) -> Stored:
        """A scrape that is there once."""
        count = self.series_count
        return Stored(count, count, count * (count - 1) / 2)

    def body(self, number: int) -> WriteBody:
        """The request that has this scrape."""
        mark = _timestamp_field(START_MS + number * STEP_MS)
        assert len(mark) == len(self._mark)
        data = cramjam.snappy.compress_raw(self._first.replace(self._mark, mark))
        return WriteBody(1, bytes(data), self.series_count)

    def read(self, url: str, series: int, timeout_s: float = 60.0) -> set[int]:
        """The numbers of all scrapes in which remote read finds this series, with its value.

        Raises:
            AssertionError: the answer is a refusal, or nothing that was ever sent.
        """
        found = read_samples(
            url,
            [("__name__", "=", METRIC), ("n", "=", str(series))],
            START_MS,
            START_MS + 86_400_000,
            timeout_s,
        )
        samples: list[Sample] = [sample for _, samples in found for sample in samples]
        assert len(found) <= 1, found
        numbers = {(timestamp_ms - START_MS) // STEP_MS for timestamp_ms, _ in samples}
        assert len(numbers) == len(samples), "samples are there twice"
        assert {bits for _, bits in samples} <= {bits_of(float(series))}, "another value"
        return numbers


def stored_scrapes(lake: Place, folder: Path) -> Mapping[int, Stored]:
    """What the files that Delta names hold of each scrape: DuckDB over the server's own folder.

    Args:
        lake: asked without any proxy in between.
        folder: in which the server keeps what lies at `lake.uri`.
    """
    files = [
        str(folder / uri.removeprefix(f"{lake.uri}/")) for uri in lake.table("samples").file_uris()
    ]
    if not files:
        return {}
    with duckdb.connect() as connection:
        rows: Iterable[tuple[int, int, int, float]] = connection.execute(
            "SELECT (timestamp_ms - ?) // ?, count(*), count(DISTINCT series_id), sum(value) "
            "FROM read_parquet(?) WHERE metric = ? GROUP BY 1",
            [START_MS, STEP_MS, files, METRIC],
        ).fetchall()
    return {number: Stored(count, series, total) for number, count, series, total in rows}


def _timestamp_field(timestamp_ms: int) -> bytes:
    """Field 2 of a Sample: its tag, and a varint of six bytes from 1971 to 2109."""
    field = bytearray(b"\x10")
    while timestamp_ms > 0x7F:
        field.append(timestamp_ms & 0x7F | 0x80)
        timestamp_ms >>= 7
    field.append(timestamp_ms)
    return bytes(field)
