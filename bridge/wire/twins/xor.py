"""XOR chunks, a bit string at a time (source: prometheus tsdb/chunkenc/xor.go)."""

import struct
from itertools import pairwise

import numpy as np
from typing_extensions import Buffer

from bridge.wire import remote_read_pb2
from bridge.wire.columns import F64Array, I64Array
from bridge.wire.encoded import EncodedSeries
from bridge.wire.twins.columns import check_offsets

COUNT_MAX = 65_535
_MASK = 2**64 - 1
_STEPS = ((14, "10"), (17, "110"), (20, "1110"))


def encode_chunks(
    offsets: I64Array, timestamps_ms: I64Array, values: F64Array, samples_per_chunk: int
) -> EncodedSeries:
    """XOR chunks of many series, as the field `chunks` of ChunkedSeries."""
    if not 1 <= samples_per_chunk <= COUNT_MAX:
        raise ValueError(f"{samples_per_chunk} samples in a chunk, 1 to {COUNT_MAX} are possible")
    check_offsets(offsets, timestamps_ms, values)
    data, ends = b"", [0]
    times, bits = timestamps_ms.tolist(), values.view(np.uint64).tolist()
    bounds = offsets.tolist()
    for first, last in pairwise(bounds):
        message = remote_read_pb2.ChunkedSeries()
        for start in range(first, last, samples_per_chunk):
            end = min(start + samples_per_chunk, last)
            message.chunks.add(
                min_time_ms=times[start],
                max_time_ms=times[end - 1],
                type=1,
                data=encode_chunk(times[start:end], bits[start:end]),
            )
        data += message.SerializeToString(deterministic=True)
        ends.append(len(data))
    return EncodedSeries(data, np.array(ends, np.int64))


def encode_chunk(times: list[int], bits: list[int]) -> bytes:
    """One chunk of 1 to 65535 samples."""
    out = [f"{len(times):016b}", _varint((times[0] << 1 ^ times[0] >> 63) & _MASK)]
    out.append(f"{bits[0]:064b}")
    delta, window = 0, None
    for i in range(1, len(times)):
        step = times[i] - times[i - 1]
        out.append(_varint(step & _MASK) if i == 1 else _double_delta(_signed(step - delta)))
        delta = step
        x = bits[i] ^ bits[i - 1]
        if x == 0:
            out.append("0")
            continue
        text = f"{x:064b}"
        lead, trail = min(31, text.index("1")), 63 - text.rindex("1")
        if window and lead >= window[0] and trail >= window[1]:
            out.append("10" + text[window[0] : 64 - window[1]])
        else:
            window = (lead, trail)
            significant = 64 - lead - trail
            out.append(f"11{lead:05b}{significant % 64:06b}{text[lead : 64 - trail]}")
    text = "".join(out)
    text += "0" * (-len(text) % 8)
    return int(text, 2).to_bytes(len(text) // 8, "big")


def decode_chunk(data: Buffer) -> tuple[I64Array, F64Array]:
    """Times and values of one XOR chunk."""
    raw = bytes(data)
    if len(raw) < 2:
        raise ValueError("an XOR chunk has at least 2 bytes")
    (count,) = struct.unpack_from(">H", raw)
    reader = _Reader("".join(f"{byte:08b}" for byte in raw[2:]))
    times: list[int] = []
    bits: list[int] = []
    delta, window = 0, None
    for i in range(count):
        if i == 0:
            x = reader.varint()
            times.append(_signed(x >> 1 ^ -(x & 1)))
            bits.append(reader.take(64))
            continue
        if i == 1:
            delta = reader.varint()
        else:
            delta += reader.double_delta()
        times.append(_signed(times[-1] + delta))
        x = 0
        if reader.take(1):
            if reader.take(1):
                lead, significant = reader.take(5), reader.take(6) or 64
                if lead + significant > 64:
                    raise ValueError("the XOR chunk is malformed")
                window = (lead, 64 - lead - significant)
            if window is None:
                raise ValueError("the XOR chunk is malformed")
            x = reader.take(64 - window[0] - window[1]) << window[1]
        bits.append(bits[-1] ^ x)
    return np.array(times, np.int64), np.array(bits, np.uint64).view(np.float64)


class _Reader:
    """Bits from the front of a text of 0 and 1."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def take(self, count: int) -> int:
        """The next bits as a number."""
        part = self._text[self._at : self._at + count]
        if len(part) < count:
            raise ValueError("the XOR chunk is truncated")
        self._at += count
        return int(part, 2)

    def varint(self) -> int:
        """Groups of 7 bits, the lowest first, in 10 bytes at most."""
        value = 0
        for shift in range(0, 70, 7):
            byte = self.take(8)
            if shift == 63 and byte > 1:
                break
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise ValueError("the XOR chunk is malformed")

    def double_delta(self) -> int:
        """A signed number in 0, 14, 17, 20 or 64 bits."""
        size = 0
        for size in (0, 14, 17, 20, 64):
            if size == 64 or not self.take(1):
                break
        if size == 0:
            return 0
        value = self.take(size)
        return value - (1 << size) if value > 1 << (size - 1) else value


def _double_delta(value: int) -> str:
    if value == 0:
        return "0"
    for size, prefix in _STEPS:
        if -(2 ** (size - 1)) < value <= 2 ** (size - 1):
            return prefix + f"{value % 2**size:0{size}b}"
    return f"1111{value & _MASK:064b}"


def _varint(value: int) -> str:
    out = ""
    while value > 127:
        out += f"{value & 127 | 128:08b}"
        value >>= 7
    return out + f"{value:08b}"


def _signed(value: int) -> int:
    """The value as a 64-bit integer that wraps around."""
    return (value + 2**63) % 2**64 - 2**63
