"""CRC32C, a bit at a time (source: RFC 3720, appendix B.4)."""

from typing_extensions import Buffer

_POLYNOMIAL = 0x82F6_3B78


def crc32c(data: Buffer, crc: int = 0) -> int:
    """The CRC32C of `data`, going on from `crc`."""
    x = crc ^ 0xFFFF_FFFF
    for byte in bytes(data):
        x ^= byte
        for _ in range(8):
            x = x >> 1 ^ (_POLYNOMIAL if x & 1 else 0)
    return x ^ 0xFFFF_FFFF
