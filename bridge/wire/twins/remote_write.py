"""The obvious remote-write decoder, on the protobuf package."""

import itertools
from bisect import bisect_right
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet

from bridge.errors import CorruptBody, RowsFull, TooManySamples
from bridge.wire import remote_write_pb2, remote_write_v2_pb2
from bridge.wire.columns import F64Array, I64Array, U32Array
from bridge.wire.decoded import (
    TIMESTAMP_MS_MAX,
    TIMESTAMP_MS_MIN,
    Decoded,
    Limits,
    MetadataEntry,
)
from bridge.wire.rejections import MESSAGE_COUNT_MAX, describe_rejection
from bridge.wire.twins.series_table import Label, SeriesTable, series_id_of

if TYPE_CHECKING:
    from typing_extensions import Buffer

SYMBOL_COUNT_MAX = 1 << 21
FINGERPRINT_COUNT_MIN = 65_536
METADATA_COUNT_MAX = 262_144

Sample: TypeAlias = tuple[int, float, int]
"""(timestamp_ms, value, start_timestamp_ms)."""

Metadata: TypeAlias = tuple[bytes, int, bytes, bytes]
"""(metric, type, help, unit)."""


@dataclass(slots=True)
class ParsedSeries:
    """One TimeSeries of a body, of either version."""

    labels: list[Label]
    samples: list[Sample]
    histogram_count: int
    exemplar_count: int
    has_bad_ref: bool = False
    metadata: tuple[int, bytes, bytes] | None = None

    @property
    def is_empty(self) -> bool:
        """Whether it holds nothing but labels."""
        return not (self.samples or self.histogram_count or self.exemplar_count)


@dataclass(slots=True)
class ParsedBody:
    """A well-formed body."""

    version: int
    series: list[ParsedSeries]
    metadata: list[Metadata] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Rows:
    """Where rows go."""

    refs: U32Array
    timestamps_ms: I64Array
    values: F64Array
    start_timestamps_ms: I64Array
    offset: int

    def write(self, index: int, ref: int, sample: Sample) -> None:
        """Fills one row."""
        at = self.offset + index
        self.refs[at] = ref
        self.timestamps_ms[at], self.values[at], self.start_timestamps_ms[at] = sample


def parse_v1(body: "Buffer") -> ParsedBody:
    """Takes a 1.0 body apart.

    Raises:
        CorruptBody: it is not well-formed.
    """
    request = _parse(remote_write_pb2.WriteRequest(), body)
    return ParsedBody(
        1,
        [
            ParsedSeries(
                [(label.name, label.value) for label in series.labels],
                [(sample.timestamp, sample.value, 0) for sample in series.samples],
                len(series.histograms),
                len(series.exemplars),
            )
            for series in request.timeseries
        ],
        [
            (entry.metric_family_name, entry.type, entry.help, entry.unit)
            for entry in request.metadata
        ],
    )


def parse_v2(body: "Buffer") -> ParsedBody:
    """Takes a 2.0 body apart.

    Raises:
        CorruptBody: it is not well-formed.
    """
    request = _parse(remote_write_v2_pb2.Request(), body)
    symbols = list(request.symbols)
    if len(symbols) > SYMBOL_COUNT_MAX:
        raise CorruptBody(f"{len(symbols)} symbols, at most {SYMBOL_COUNT_MAX}")
    return ParsedBody(2, [_parse_series_v2(series, symbols) for series in request.timeseries])


def _parse_series_v2(series: Any, symbols: list[bytes]) -> ParsedSeries:
    refs = list(series.labels_refs)
    metadata_refs = (
        [series.metadata.help_ref, series.metadata.unit_ref] if series.HasField("metadata") else []
    )
    parsed = ParsedSeries(
        [
            (symbols[name], symbols[value])
            for name, value in zip(refs[::2], refs[1::2], strict=False)
            if max(name, value) < len(symbols)
        ],
        [
            (sample.timestamp, sample.value, sample.start_timestamp or series.created_timestamp)
            for sample in series.samples
        ],
        len(series.histograms),
        len(series.exemplars),
        len(refs) % 2 == 1 or any(ref >= len(symbols) for ref in refs + metadata_refs),
    )
    if metadata_refs and not parsed.has_bad_ref:
        help_, unit = (symbols[ref] for ref in metadata_refs)
        parsed.metadata = (series.metadata.type, help_, unit)
    return parsed


class Decoding:
    """One body on its way into a table."""

    def __init__(
        self,
        table: SeriesTable,
        limits: Limits,
        receive_ms: int,
        refused: U32Array | None,
        rows: Rows,
    ) -> None:
        self.table = table
        self.limits = limits
        self.receive_ms = receive_ms
        self.is_replay = refused is not None
        flat = [] if refused is None else refused.tolist()
        self.replay_starts: list[int] = flat[::2]
        self.replay_counts: list[int] = flat[1::2]
        self.rows = rows
        self.version = 0
        self.ordinals: list[int] = []
        self.metrics_told: set[bytes] = set()
        self.result = Decoded(0, 0, 0, 0, 0, np.empty(0, np.uint32))

    def run(self, body: ParsedBody) -> Decoded:
        """Writes the rows.

        Raises:
            TooManySamples: more than the limit.
            RowsFull: more than fit.
        """
        self.version = body.version
        sample_count = sum(len(one.samples) for one in body.series)
        item_count = sum(max(1, len(one.samples)) for one in body.series)
        if not self.is_replay and item_count > self.limits.sample_count_max:
            raise TooManySamples(
                f"{item_count} samples in one request, at most {self.limits.sample_count_max}"
            )
        if sample_count > len(self.rows.refs) - self.rows.offset:
            raise RowsFull(sample_count)
        for entry in body.metadata:
            self._tell_metadata(*entry)
        before = len(self.table.rows)
        for one in body.series:
            self._take_series(one)
            self.result.sample_seen += len(one.samples)
        self.result.series_added = len(self.table.rows) - before
        self.result.refused = _coalesce(self.ordinals)
        return self.result

    def _take_series(self, one: ParsedSeries) -> None:
        result = self.result
        result.histogram_count += one.histogram_count
        result.exemplar_count += one.exemplar_count
        if one.histogram_count:
            self._reject("histogram_unsupported", one, one.histogram_count)
        if self.version == 1 and one.is_empty:
            return
        ordinals = range(result.sample_seen, result.sample_seen + len(one.samples))
        if ordinals and all(map(self._is_refused_in_replay, ordinals)):
            self.ordinals.extend(ordinals)
            return
        key = (self.version, tuple(one.labels))
        ref = None if one.has_bad_ref else self.table.fingerprints.get(key)
        reason = self._judge_labels(one) if ref is None else ""
        if reason:
            self._reject(reason, one, len(one.samples) or 1)
            self.ordinals.extend(ordinals)
            return
        if one.is_empty:
            self._reject("no_samples", one, 1)
        if one.samples and not self._take_samples(one, ref):
            return
        if one.metadata:
            kind, help_, unit = one.metadata
            self._tell_metadata(dict(one.labels)[b"__name__"], kind, help_, unit)

    def _take_samples(self, one: ParsedSeries, ref: int | None) -> bool:
        """Writes what is good; False if nothing is."""
        kept = []
        for ordinal, sample in enumerate(one.samples, self.result.sample_seen):
            reason = self._judge_sample(sample[0])
            if self._is_refused_in_replay(ordinal):
                self.ordinals.append(ordinal)
            elif reason:
                self._reject(reason, one, 1, sample[0])
                self.ordinals.append(ordinal)
            else:
                kept.append((ordinal, sample))
        if kept and ref is None:
            ref, reason = self._register(one)
            if reason:
                self._reject(reason, one, len(kept))
                self.ordinals.extend(ordinal for ordinal, _ in kept)
        if not kept or ref is None:
            return False
        for _, sample in kept:
            self.rows.write(self.result.sample_count, ref, sample)
            self.result.sample_count += 1
            self.result.has_start |= sample[2] != 0
        return True

    def _judge_labels(self, one: ParsedSeries) -> str:
        reason = ""
        texts = dict(one.labels)
        if one.has_bad_ref:
            reason = "bad_symbol_ref"
        elif not self.is_replay and (
            len(one.labels) > self.limits.label_count_max
            or sum(map(len, itertools.chain(*one.labels))) > self.limits.series_bytes_max
        ):
            reason = "label_limit"
        elif reasons := list(filter(None, map(self._judge_label, one.labels))):
            reason = reasons[0]
        elif len(texts) < len(one.labels):
            reason = "duplicate_label"
        elif not texts.get(b"__name__"):
            reason = "missing_name"
        return reason

    def _judge_label(self, label: Label) -> str:
        name, value = label
        is_long = (
            len(name) > self.limits.label_name_bytes_max
            or len(value) > self.limits.label_value_bytes_max
        )
        if not name:
            return "invalid_name"
        if is_long and not self.is_replay:
            return "label_limit"
        return "" if _is_utf8(name) and _is_utf8(value) else "invalid_utf8"

    def _judge_sample(self, timestamp_ms: int) -> str:
        if not TIMESTAMP_MS_MIN <= timestamp_ms <= TIMESTAMP_MS_MAX:
            return "timestamp_out_of_range"
        is_ahead = timestamp_ms > self.receive_ms + self.limits.future_ms_max
        return "too_far_in_future" if is_ahead and not self.is_replay else ""

    def _register(self, one: ParsedSeries) -> tuple[int | None, str]:
        """The ref of a label set that is not known by its bytes, or the reason against it."""
        table = self.table
        texts = dict(one.labels)
        present = [texts[name] for name in table.replica_labels if texts.get(name)]
        replica = present[0] if present else b""
        labels = sorted(
            (name, value)
            for name, value in one.labels
            if value and name not in table.replica_labels
        )
        series_id = series_id_of(labels)
        ref = table.find(series_id, labels, replica)
        if ref is not None and ref < 0:
            return None, "series_id_collision"
        if ref is None:
            if not self.is_replay and len(table.rows) >= self.limits.series_count_max:
                return None, "series_limit"
            ref = table.add(series_id, labels, replica)
        if len(table.fingerprints) >= max(FINGERPRINT_COUNT_MIN, 4 * len(table.rows)):
            table.fingerprints.clear()
        table.fingerprints[self.version, tuple(one.labels)] = ref
        return ref, ""

    def _tell_metadata(self, metric: bytes, kind: int, help_: bytes, unit: bytes) -> None:
        """Passes metadata on where the metric was last told with another content."""
        content = (kind, help_, unit)
        is_said = metric and _is_utf8(metric) and content != (0, b"", b"")
        if not is_said or metric in self.metrics_told:
            return
        self.metrics_told.add(metric)
        known = self.table.metadata
        if known.get(metric) == content:
            return
        if metric not in known and len(known) >= METADATA_COUNT_MAX:
            known.clear()
        known[metric] = content
        texts = (text.decode(errors="replace") for text in (help_, unit))
        self.result.metadata.append(MetadataEntry(metric.decode(), kind, *texts))

    def _reject(self, reason: str, one: ParsedSeries, count: int, timestamp_ms: int = 0) -> None:
        rejections, messages = self.result.rejections, self.result.messages
        rejections[reason] = rejections.get(reason, 0) + count
        if len(messages) < MESSAGE_COUNT_MAX:
            messages.append(
                describe_rejection(reason, one.labels, self.limits, timestamp_ms, self.receive_ms)
            )

    def _is_refused_in_replay(self, ordinal: int) -> bool:
        found = bisect_right(self.replay_starts, ordinal) - 1
        return found >= 0 and ordinal < self.replay_starts[found] + self.replay_counts[found]


def _parse(message: Any, body: "Buffer") -> Any:
    """The message of these bytes, all of it well-formed."""
    try:
        message.ParseFromString(bytes(body))
    except DecodeError as error:
        raise CorruptBody(f"malformed protobuf: {error}") from error
    _check_fields(message)
    return message


def _check_fields(message: Message) -> None:
    """Refuses groups, and known fields of another wire type, which the package takes as unknown."""
    known = message.DESCRIPTOR.fields_by_number
    unknown = UnknownFieldSet(message)
    for one in (unknown[number] for number in range(len(unknown))):
        if one.field_number in known or one.wire_type == 3:
            raise CorruptBody(
                f"field {one.field_number} of {message.DESCRIPTOR.name} has wire type "
                f"{one.wire_type}"
            )
    for descriptor, value in message.ListFields():
        if descriptor.message_type is not None:
            for inner in [value] if isinstance(value, Message) else value:
                _check_fields(inner)


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _coalesce(ordinals: list[int]) -> U32Array:
    """Flat (first, count) pairs of ordinals, which come in any order."""
    flat: list[int] = []
    for ordinal in sorted(ordinals):
        if flat and flat[-2] + flat[-1] == ordinal:
            flat[-1] += 1
        else:
            flat += [ordinal, 1]
    return np.array(flat, np.uint32)
