"""Line protocol, the obvious way: `bytes.replace`, `sorted` and `repr`."""

import math
import re
from collections.abc import Sequence
from decimal import Decimal
from itertools import pairwise

import numpy as np
from typing_extensions import Buffer

from bridge.wire.columns import F64Array, I64Array, U8Array, U32Array
from bridge.wire.decoded import LabelRows
from bridge.wire.encoded import EncodedSeries

RESERVED_TAGS = (b"time", b"_time", b"_start", b"_stop", b"_value", b"_field", b"_measurement")
"""Keys that InfluxDB refuses, or that hide a column of Flux."""
WHOLE_MAX = 1e15


def encode_prefixes(
    labels: LabelRows,
    replica_ids: U32Array,
    replicas: Sequence[bytes],
    replica_label: bytes,
    measurement: Buffer | None,
) -> EncodedSeries:
    """What a line of each series begins with; the stub of the compiled one says more."""
    names = _split(labels.name_bytes, labels.name_offsets.tolist())
    texts = _split(labels.value_bytes, labels.value_offsets.tolist())
    bounds = labels.label_offsets.tolist()
    if len(names) != len(texts) or len(replica_ids) != len(bounds) - 1:
        raise ValueError("columns of different length")
    _check(bounds, len(names))
    data, ends = b"", [0]
    for (first, last), replica in zip(pairwise(bounds), replica_ids.tolist(), strict=True):
        pairs = dict(zip(names[first:last], texts[first:last], strict=True))
        if b"__name__" not in pairs:
            raise ValueError("a series without __name__")
        if replica >= len(replicas):
            raise ValueError(f"replica {replica} of {len(replicas)}")
        metric = pairs.pop(b"__name__")
        tags = list(pairs.items())
        if replica:
            tags.append((replica_label, replicas[replica]))
        data += _prefix(metric, tags, None if measurement is None else bytes(measurement))
        ends.append(len(data))
    return EncodedSeries(data, np.array(ends, np.int64))


def encode_lines(
    prefixes: U8Array,
    starts: I64Array,
    ends: I64Array,
    refs: U32Array,
    timestamps_ms: I64Array,
    values: F64Array,
) -> EncodedSeries:
    """One line for each row."""
    if len(starts) != len(ends) or not len(refs) == len(timestamps_ms) == len(values):
        raise ValueError("columns of different length")
    data, offsets = b"", [0]
    for ref, timestamp_ms, value in zip(
        refs.tolist(), timestamps_ms.tolist(), values.tolist(), strict=True
    ):
        if ref >= len(starts) or not 0 <= starts[ref] <= ends[ref] <= len(prefixes):
            raise ValueError(f"series {ref} has no prefix")
        if not math.isfinite(value):
            raise ValueError(f"{value} cannot be written")
        data += prefixes[starts[ref] : ends[ref]].tobytes()
        data += f"{_number(value)} {timestamp_ms}\n".encode()
        offsets.append(len(data))
    return EncodedSeries(data, np.array(offsets, np.int64))


def _prefix(metric: bytes, tags: list[tuple[bytes, bytes]], measurement: bytes | None) -> bytes:
    written = sorted((_tag(_allowed(name)), _tag(value)) for name, value in tags)
    if measurement is None:
        head, field = _opened(_escape(_parted(metric), b", ")), b"value"
    else:
        key = b"exported_time" if metric == b"time" else metric
        head, field = measurement, _opened(_escape(_parted(key), b',= "'))
    return (
        head + b"".join(b"," + name + b"=" + text for name, text in written) + b" " + field + b"="
    )


def _allowed(name: bytes) -> bytes:
    return b"exported_" + name if name in {*RESERVED_TAGS, b"\0"} else name


def _tag(text: bytes) -> bytes:
    return _escape(text.replace(b"\\ ", b"\\_ "), b",= ")


def _parted(text: bytes) -> bytes:
    r"""Backslashes kept away from what they would escape."""
    return re.sub(rb'\\(?=[,= "])', rb"\\_", text)


def _escape(text: bytes, special: bytes) -> bytes:
    if text.endswith(b"\\"):
        text += b"_"
    for number in special:
        text = text.replace(bytes([number]), b"\\" + bytes([number]))
    return text.replace(b"\n", b"\\n")


def _opened(text: bytes) -> bytes:
    """Nothing that the server skips at the beginning."""
    return b"\\" + text if text[:1] in {b"#", b"\t", b"\0"} else text


def _number(value: float) -> str:
    """The shortest text; digits alone for whole numbers below 1e15, and where that is no longer."""
    if value.is_integer() and abs(value) < WHOLE_MAX:
        return "-0" if not value and math.copysign(1, value) < 0 else str(int(value))
    shortest = Decimal(repr(value)).normalize()
    sign, digits, exponent = shortest.as_tuple()
    assert isinstance(exponent, int)
    text = "".join(map(str, digits))
    power = len(text) - 1 + exponent
    fraction = f".{text[1:]}" if len(text) > 1 else ""
    scientific = f"{'-' * sign}{text[0]}{fraction}e{'+' if power >= 0 else '-'}{abs(power):02}"
    plain = str(int(value)) if value.is_integer() else format(shortest, "f")
    return plain if len(plain) <= len(scientific) else scientific


def _split(text: bytes, offsets: list[int]) -> list[bytes]:
    _check(offsets, len(text))
    return [text[start:end] for start, end in pairwise(offsets)]


def _check(offsets: list[int], end: int) -> None:
    bounds = [0, *offsets, end]
    if not offsets or bounds != sorted(bounds):
        raise ValueError("offsets ascend within their buffer")
