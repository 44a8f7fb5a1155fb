"""One WAL record: a write request as it was received, framed so that damage cannot hide.

    offset  bytes  field
         0      4  magic "PBR1"
         4      4  payload length, u32
         8      4  length of the refused ranges at the payload's start, u32
        12      8  record number, u64: previous + 1, never used twice
        20      8  receive time, Unix ms, i64
        28      8  samples of all records up to and with this one, refused ones left out, u64
        36      1  format: 1 remote write 1.0, 2 remote write 2.0
        37      3  zero
        40      4  CRC32C of the payload, u32
        44      4  CRC32C of bytes 0..43, u32
        48      -  payload: refused ranges (u32 pairs: first sample ordinal, count), then the
                   snappy body

All little endian. Records stand one behind another; where a group ends, zeros fill the block of
4096 bytes, so that what was made safe is never written to again and the log can bypass the page
cache. Zeros that begin a block are damage. The refused ranges are what admission left out, so that
a replay keeps exactly what was acknowledged, whatever the settings or the registry are by then. The
total is what sinks account by: what lies between two records is known without reading it.

Invariants:
    WAL-1  a header is believed only with its own CRC: a damaged length is never followed.
    WAL-2  damage costs the records that it touches: the next magic with a good header CRC is
           where reading goes on.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from bridge.wire.crc32c import crc32c

_HEADER = struct.Struct("<4sIIQqQB3xI")
_CRC = struct.Struct("<I")
HEADER_BYTES = _HEADER.size + _CRC.size
MAGIC = b"PBR1"
BLOCK_BYTES = 4096
_CUT_OFF = "cut off"


@dataclass(frozen=True, slots=True)
class Record:
    """A write request.

    Attributes:
        number: its place in the log.
        receive_ms: when it came, Unix ms.
        sample_total: samples of all records up to and with this one, in the life of the log.
        format: 1 or 2, the remote-write version of the body.
        refused: pairs of u32 (first ordinal, count), as bytes.
        body: snappy block, as received.
    """

    number: int
    receive_ms: int
    sample_total: int
    format: int
    refused: bytes
    body: bytes | memoryview


@dataclass(frozen=True, slots=True)
class Damage:
    """Bytes that are no record.

    Attributes:
        offset: where they begin.
        length: how many; up to the next good header, or to the end.
        is_tail: whether nothing good follows.
        reason: what is wrong with them.
    """

    offset: int
    length: int
    is_tail: bool
    reason: str

    @property
    def is_cut_off(self) -> bool:
        """Whether it begins with a good header, of a record longer than what there is."""
        return self.reason == _CUT_OFF


def encode_header(record: Record) -> bytes:
    """The 48 bytes that stand before `record.refused` and `record.body`."""
    head = _HEADER.pack(
        MAGIC,
        len(record.refused) + len(record.body),
        len(record.refused),
        record.number,
        record.receive_ms,
        record.sample_total,
        record.format,
        crc32c(record.body, crc32c(record.refused)),
    )
    return head + _CRC.pack(crc32c(head))


def _decode_header(data: memoryview, offset: int) -> tuple[int, ...] | None:
    """(payload length, refused length, number, time, total, format, payload CRC), or None."""
    if offset + HEADER_BYTES > len(data):
        return None
    head = data[offset : offset + _HEADER.size]
    magic, *fields = _HEADER.unpack(head)
    (crc,) = _CRC.unpack_from(data, offset + _HEADER.size)
    if magic != MAGIC or crc32c(head) != crc:
        return None
    return tuple(fields)


def decode_records(data: memoryview, offset: int) -> Iterator[Record | Damage]:
    """Records from `offset` on, and what lies between them where something is damaged.

    Args:
        data: a segment's bytes; bodies are slices of it.
        offset: where the first record begins.
    """
    raw = data.obj
    while offset < len(data):
        if padding := _padding(data, offset):
            offset += padding
            continue
        header = _decode_header(data, offset)
        reason = "header"
        if header is not None:
            payload_length, refused_length, number, receive_ms, total, fmt, payload_crc = header
            start = offset + HEADER_BYTES
            payload = data[start : start + payload_length]
            if len(payload) < payload_length:
                reason = _CUT_OFF
            elif refused_length > payload_length or crc32c(payload) != payload_crc:
                reason = "payload checksum"
            else:
                refused = bytes(payload[:refused_length])
                yield Record(number, receive_ms, total, fmt, refused, payload[refused_length:])
                offset = start + payload_length
                continue
        following = _find_header(raw, data, offset + 1)
        end = len(data) if following is None else following
        yield Damage(offset, end - offset, following is None, reason)
        offset = end


def _padding(data: memoryview, offset: int) -> int:
    """How many zeros fill the block that `offset` lies in; 0 if it begins one or is no padding."""
    end = min(-(-offset // BLOCK_BYTES) * BLOCK_BYTES, len(data))
    return end - offset if data[offset:end] == bytes(end - offset) else 0


def _find_header(raw: object, data: memoryview, offset: int) -> int | None:
    """Where the next good header begins."""
    assert hasattr(raw, "find"), "segments are bytes or mmap"
    while (offset := raw.find(MAGIC, offset)) >= 0:
        if _decode_header(data, offset) is not None:
            return offset
        offset += 1
    return None
