"""Snappy blocks: a varint of the decoded length, then literals and copies; no magic, no checksum.

The length is read, and held against a limit, before a byte is allocated for it: a block of ten
bytes can promise 4 GiB.
"""

import cramjam

from bridge.errors import BodyTooLarge, CorruptBody

LENGTH_BYTES_MAX = 5
"""A length is a uint32, 7 bits a byte."""


def snappy_length(block: bytes) -> int:
    """The decoded length that a block promises.

    Raises:
        CorruptBody: there is no such length.
    """
    length = 0
    for index, byte in enumerate(block[:LENGTH_BYTES_MAX]):
        length |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            if length >> 32:
                break
            return length
    raise CorruptBody(
        "the body is not a snappy block: it is empty or its length does not end"
        if len(block) < LENGTH_BYTES_MAX
        else "the body is not a snappy block: its length is over 4 GiB"
    )


def decode_snappy(block: bytes, decoded_bytes_max: int, limit: str) -> bytes:
    """The bytes in a block.

    Args:
        block: all of it.
        decoded_bytes_max: longer is refused.
        limit: name of the setting that says so.

    Raises:
        BodyTooLarge: it promises more.
        CorruptBody: it is not a snappy block, or does not hold what it promises.
    """
    length = snappy_length(block)
    if length > decoded_bytes_max:
        raise BodyTooLarge(
            f"the snappy block claims {length} bytes, {limit} allows {decoded_bytes_max}"
        )
    try:
        return bytes(cramjam.snappy.decompress_raw(block))
    except cramjam.DecompressionError as error:
        raise CorruptBody(f"the body is not a snappy block: {error}") from error
