"""CRC32C: guards WAL records and the frames of a streamed read."""

try:
    from bridge.wire._crc32c import crc32c
except ImportError:
    from bridge.wire.twins.crc32c import crc32c

__all__ = ["crc32c"]
