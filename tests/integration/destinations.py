r"""What stands in the lake and in InfluxDB, asked without the bridge, and how far its sinks are.

Both are read as samples: a label set and a time to the value's bits. InfluxDB cannot hold every
label and not every value, so `as_influxdb_holds` says what should have become of a sample there. It
is written from docs/influxdb.md, apart from the renderer.
"""

import math
import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import duckdb
from deltalake import DeltaTable

from tests.integration.bridge import Bridge
from tests.integration.influxdb import InfluxDb
from tests.integration.remote import STALE_BITS, Labels, Sample, bits_of

SampleKey = tuple[Labels, int]
# The value's bits by series and time.
Samples = Mapping[SampleKey, int]
Mapped = Literal["measurement-per-metric", "field-per-metric"]

REPLICA_LABEL = "__replica__"
RESERVED = {"\0", "time", "_time", "_start", "_stop", "_value", "_field", "_measurement"}
_METRIC = re.compile(r"prombridge_sink_(\w+)\{(.*)\} (\S+)")
_LABEL = re.compile(r'(\w+)="([^"]*)"')
DIFFERENCES_MAX = 10


def flattened(series: Iterable[tuple[Labels, Iterable[Sample]]]) -> dict[SampleKey, int]:
    """Series as sent, without the labels that are none because they are empty."""
    return {
        (tuple(label for label in labels if label[1]), timestamp_ms): bits
        for labels, samples in series
        for timestamp_ms, bits in samples
    }


# In the lake


def lake_rows(lake: Path) -> list[tuple[SampleKey, int]]:
    """Every row of the samples table: DuckDB over the files that Delta names."""

    def files(table: str) -> list[str]:
        return [uri.removeprefix("file://") for uri in DeltaTable(str(lake / table)).file_uris()]

    if not files("samples"):
        return []
    with duckdb.connect() as connection:
        rows = connection.execute(
            "SELECT DISTINCT metric, series_id, labels FROM read_parquet(?)", [files("series")]
        ).fetchall()
        labels_of = {(metric, number): dict(labels) for metric, number, labels in rows}
        rows = connection.execute(
            "SELECT metric, series_id, timestamp_ms, value, replica FROM read_parquet(?)",
            [files("samples")],
        ).fetchall()
    known: dict[tuple[str, int, str], Labels] = {}
    found = []
    for metric, number, timestamp_ms, value, replica in rows:
        series = (metric, number, replica or "")
        if series not in known:
            own = {REPLICA_LABEL: replica} if replica else {}
            known[series] = tuple(sorted({**labels_of[metric, number], **own}.items()))
        found.append(((known[series], timestamp_ms), bits_of(value)))
    return found


# In InfluxDB


def influxdb_samples(server: InfluxDb, bucket: str, mapping: Mapped) -> dict[SampleKey, int]:
    """What Flux finds in a bucket, whatever its time."""
    found: dict[SampleKey, int] = {}
    for row in server.points(bucket):
        timestamp_ms, value = row.pop("_time"), row.pop("_value")
        measurement, name = row.pop("_measurement"), row.pop("_field")
        if mapping == "measurement-per-metric":
            assert name == "value", name
            name = measurement
        else:
            assert measurement == "prometheus", measurement
        key = tuple(sorted({**row, "__name__": name}.items())), timestamp_ms
        assert key not in found, f"{key} is there twice"
        found[key] = bits_of(value)
    return found


def value_of(bits: int) -> float:
    """The float of a 64-bit pattern."""
    value: float = struct.unpack("<d", struct.pack("<Q", bits))[0]
    return value


def count_unwritable(sent_bits: Mapping[int, int]) -> dict[str, int]:
    """How many values InfluxDB cannot hold, by reason.

    Args:
        sent_bits: how often each value was sent.
    """
    counts: dict[str, int] = {}
    for bits, count in sent_bits.items():
        value = value_of(bits)
        if not math.isfinite(value):
            reason = "infinite" if math.isinf(value) else "nan"
            reason = "stale_marker" if bits == STALE_BITS else reason
            counts[reason] = counts.get(reason, 0) + count
    return counts


def as_influxdb_holds(samples: Samples, mapping: Mapped) -> dict[SampleKey, int]:
    """What InfluxDB should have of these samples."""
    known: dict[Labels, Labels] = {}
    held: dict[SampleKey, int] = {}
    for (labels, timestamp_ms), bits in samples.items():
        if not math.isfinite(value_of(bits)):
            continue
        if labels not in known:
            known[labels] = _held_labels(labels, mapping)
        held[known[labels], timestamp_ms] = bits
    return held


def _held_labels(labels: Labels, mapping: Mapped) -> Labels:
    held = {}
    for name, text in labels:
        if name == "__name__":
            is_field = mapping == "field-per-metric"
            metric = f"exported_{text}" if is_field and text == "time" else text
            metric = re.sub(r'\\(?=[,= "])', r"\\_", metric)
            is_skipped = metric.startswith(("#", "\t", "\0"))
            held[name] = _held_text("\\" + metric if is_skipped else metric)
            continue
        own = f"exported_{name}" if name in RESERVED else name
        held[_held_text(own.replace("\\ ", "\\_ "))] = _held_text(text.replace("\\ ", "\\_ "))
    return tuple(sorted(held.items()))


def _held_text(text: str) -> str:
    held = (text + "_" if text.endswith("\\") else text).replace("\n", "\\n")
    return held.replace("\r", "")  # held, but Flux' CSV leaves it out


# Beside each other


def differences(expected: Samples, found: Samples) -> list[str]:
    """What is missing, what is extra, and what has another value."""
    lines = [f"missing: {key}" for key in sorted(expected.keys() - found.keys())]
    lines += [f"extra: {key}" for key in sorted(found.keys() - expected.keys())]
    lines += [
        f"{key}: {value_of(found[key])!r} instead of {value_of(bits)!r}"
        for key, bits in expected.items()
        if found.get(key, bits) != bits
    ]
    return lines


def check_equal(expected: Samples, found: Samples, where: str) -> None:
    """Fails with the first differences."""
    lines = differences(expected, found)
    assert not lines, f"{len(lines)} differences {where}:\n" + "\n".join(lines[:DIFFERENCES_MAX])


# How far the sinks are


@dataclass(frozen=True)
class SinkCounts:
    """What `/metrics` tells about one sink at one moment."""

    delivered: int = 0
    pending: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    requests: Mapping[str, int] = field(default_factory=dict)
    lag_s: float = 0.0
    lag_bytes: int = 0
    is_up: bool = False

    @property
    def accepted(self) -> int:
        """What the sink has to account for."""
        return self.delivered + self.pending + sum(self.dropped.values())

    @property
    def failure_count(self) -> int:
        """Requests that were not answered with 204."""
        return sum(count for code, count in self.requests.items() if code != "204")


def sink_counts(bridge: Bridge) -> tuple[SinkCounts, SinkCounts]:
    """What the bridge says of the lake and of InfluxDB, at one moment."""
    sinks: dict[str, dict[str, dict[str, float]]] = {"lake": {}, "influxdb": {}}
    for line in bridge.metrics_text().splitlines():
        if found := _METRIC.fullmatch(line):
            labels = dict(_LABEL.findall(found[2]))
            values = sinks[labels.pop("sink")].setdefault(found[1], {})
            values["".join(labels.values())] = float(found[3])
    return _counts(sinks["lake"]), _counts(sinks["influxdb"])


def _counts(values: Mapping[str, Mapping[str, float]]) -> SinkCounts:
    def by_label(name: str) -> dict[str, int]:
        return {label: int(value) for label, value in values.get(name, {}).items()}

    def one(name: str) -> float:
        return values[name][""]

    return SinkCounts(
        delivered=int(one("delivered_samples_total")),
        pending=int(one("pending_samples")),
        dropped={
            reason: count for reason, count in by_label("dropped_samples_total").items() if count
        },
        requests=by_label("requests_total"),
        lag_s=one("lag_seconds"),
        lag_bytes=int(one("lag_bytes")),
        is_up=one("up") > 0,
    )
