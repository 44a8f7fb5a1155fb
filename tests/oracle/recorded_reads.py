"""The recorded answers in `tests/golden/read`, taken apart."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cramjam

from bridge.wire.remote_read_pb2 import ChunkedReadResponse, ChunkedSeries, ReadResponse
from tests.oracle.remote_read import _split_frames, bits_of
from tests.oracle.tsdb import Sample

FOLDER = Path(__file__).parents[1] / "golden/read"
NAMES = ("epoch", "nothing", "now")


@dataclass(frozen=True)
class RecordedSeries:
    """One series of both answers.

    Attributes:
        name: its metric.
        chunked: as it was streamed.
        samples: as they came plain.
    """

    name: str
    chunked: ChunkedSeries
    samples: list[Sample]


def chunked_body(name: str) -> bytes:
    return (FOLDER / f"{name}.chunked.bin").read_bytes()


def samples_body(name: str) -> bytes:
    return (FOLDER / f"{name}.samples.bin").read_bytes()


def read_response(name: str) -> ReadResponse:
    return ReadResponse.FromString(bytes(cramjam.snappy.decompress_raw(samples_body(name))))


@cache
def recorded_series(name: str) -> list[RecordedSeries]:
    """In the order of the frames."""
    plain = {
        tuple((label.name, label.value) for label in series.labels): [
            (sample.timestamp, bits_of(sample.value)) for sample in series.samples
        ]
        for result in read_response(name).results
        for series in result.timeseries
    }
    found = []
    for content in _split_frames(chunked_body(name)):
        (series,) = ChunkedReadResponse.FromString(content).chunked_series
        labels = tuple((label.name, label.value) for label in series.labels)
        found.append(RecordedSeries(dict(labels)["__name__"], series, plain[labels]))
    return found
