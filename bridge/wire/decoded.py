"""What decoding a remote-write body gives, and the limits that it is held to."""

from dataclasses import dataclass, field

from bridge.wire.columns import I32Array, U32Array

TIMESTAMP_MS_MIN = -62_135_596_800_000 + 1
TIMESTAMP_MS_MAX = 253_402_300_800_000
"""Years 1 to 9999 in UTC, days closed on the right: what a DATE partition can name."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may bring.

    Attributes:
        series_count_max: series in the registry; beyond it new ones are refused.
        label_count_max: labels of one series.
        label_name_bytes_max: bytes of a label name.
        label_value_bytes_max: bytes of a label value.
        series_bytes_max: bytes of all label names and values of one series.
        future_ms_max: how far ahead of its receipt a sample may lie.
        sample_count_max: float samples of one request.
    """

    series_count_max: int = 2_000_000
    label_count_max: int = 128
    label_name_bytes_max: int = 1024
    label_value_bytes_max: int = 8192
    series_bytes_max: int = 65_536
    future_ms_max: int = 600_000
    sample_count_max: int = 1_000_000


@dataclass(frozen=True, slots=True)
class MetadataEntry:
    """Type, help and unit of one metric.

    Attributes:
        metric: name of the metric (family name where the sender speaks 1.0).
        type: number of the enum that 1.0 and 2.0 share; 0 unknown.
        help: free text.
        unit: free text.
    """

    metric: str
    type: int
    help: str
    unit: str


@dataclass(slots=True)
class Decoded:
    """One body as columns; its rows stand in the arrays that were passed to decode.

    Attributes:
        sample_count: rows written.
        sample_seen: float samples in the body; their position is their ordinal.
        histogram_count: native histograms in the body; none of them is kept.
        exemplar_count: exemplars in the body; none of them is kept.
        series_added: series that the registry did not know.
        refused: (2 n,) uint32, n coalesced pairs (first ordinal, count) of refused samples.
        rejections: how many were refused by reason.
        messages: at most 10, each names one refused thing.
        metadata: entries that the registry had not seen with this content.
        has_start: whether any start timestamp is set.
    """

    sample_count: int
    sample_seen: int
    histogram_count: int
    exemplar_count: int
    series_added: int
    refused: U32Array
    rejections: dict[str, int] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    metadata: list[MetadataEntry] = field(default_factory=list)
    has_start: bool = False


@dataclass(frozen=True, slots=True)
class LabelRows:
    """Labels of n series as the buffers of an Arrow MAP<string, string> column.

    Attributes:
        label_offsets: (n + 1,) int32 into the pairs.
        name_offsets: (pairs + 1,) int32 into name_bytes.
        name_bytes: all names, one after another.
        value_offsets: (pairs + 1,) int32 into value_bytes.
        value_bytes: all values, one after another.
    """

    label_offsets: I32Array
    name_offsets: I32Array
    name_bytes: bytes
    value_offsets: I32Array
    value_bytes: bytes
