"""Protobuf by hand, for what no encoder would write."""

import struct


def varint(value: int, padding: int = 0) -> bytes:
    """A varint, `padding` bytes longer than it needs to be."""
    out = bytearray()
    value &= (1 << 64) - 1
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    for _ in range(padding):
        out[-1] |= 0x80
        out.append(0)
    return bytes(out)


def tag(number: int, wire: int, padding: int = 0) -> bytes:
    return varint(number << 3 | wire, padding)


def message(number: int, content: bytes, padding: int = 0) -> bytes:
    """A length-delimited field; its length is `padding` bytes longer than it needs to be."""
    return tag(number, 2) + varint(len(content), padding) + content


def integer(number: int, value: int, padding: int = 0) -> bytes:
    return tag(number, 0) + varint(value, padding)


def double_bits(number: int, bits: int) -> bytes:
    return tag(number, 1) + struct.pack("<Q", bits)


def label(name: bytes, value: bytes) -> bytes:
    """A label of a 1.0 series, as its field 1."""
    return message(1, message(1, name) + message(2, value))


def sample(timestamp_ms: int, bits: int, start_ms: int | None = None) -> bytes:
    """A sample of either version, as field 2 of its series; zeros are left out as proto3 does."""
    content = double_bits(1, bits) if bits else b""
    content += integer(2, timestamp_ms) if timestamp_ms else b""
    return message(2, content + (b"" if start_ms is None else integer(3, start_ms)))
