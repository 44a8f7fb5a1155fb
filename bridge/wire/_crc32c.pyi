from typing_extensions import Buffer

def crc32c(data: Buffer, crc: int = 0) -> int:
    """The CRC32C of `data`, going on from `crc`."""

def crc32c_by_table(data: Buffer, crc: int = 0) -> int:
    """The same without the processor's instruction; for tests."""
