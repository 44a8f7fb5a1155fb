"""Bodies of read answers, put together of what was encoded series by series.

A streamed answer is frames, one per series:

    varint n | CRC32C of the n bytes, big endian | n bytes of ChunkedReadResponse

Any other is one snappy block of a ReadResponse. Lengths come first in protobuf, so all series must
be there before the first byte is written; but it is compressed piece by piece all the same, and
never exists as a whole: a snappy block is the length of what it holds and then elements, whose
copies reach back only within what they were compressed with, so the elements of pieces that were
compressed one by one make a valid block when they stand one behind another.

Limits:
    1 MiB   compressed at a time (snappy itself looks back 64 KiB at most)
    4 GiB   of a ReadResponse before compression; snappy counts in 32 bits
"""

try:
    from bridge.wire._frames import encode_frames, encode_read_response, encode_samples
except ImportError:
    from bridge.wire.twins.frames import encode_frames, encode_read_response, encode_samples

__all__ = ["encode_frames", "encode_read_response", "encode_samples"]
