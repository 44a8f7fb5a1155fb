"""XOR chunks: how Prometheus packs a run of one series.

A chunk is a big-endian uint16, its sample count (at most 65535), then bits, the highest first; the
last byte is filled up with zeros. Times and bits of values are taken modulo 2^64, so that any times
and values at all come back as they were.

    sample  time                              value
    first   zig-zag varint                    64 bits
    second  varint of the delta               code of the change
    others  code of the change of the delta   code of the change

    change of the delta   bits
    0                     0
    -8191 .. 8192         10    and the change in 14 bits
    -65535 .. 65536       110   and the change in 17 bits
    -524287 .. 524288     1110  and the change in 20 bits
    anything else         1111  and the change in 64 bits

    change of the value, bits ^ bits before   bits
    0                                         0
    fits into the window written last         10 and what is in the window
    else                                      11, leading zeros (5 bits, at most 31), width (6 bits,
                                              64 as 0), and what is in that window

Source: prometheus tsdb/chunkenc/xor.go; `tests/golden/read/` has chunks of a real Prometheus.
"""

from bridge.wire.encoded import EncodedSeries

try:
    from bridge.wire._xor import decode_chunk, encode_chunks
except ImportError:
    from bridge.wire.twins.xor import decode_chunk, encode_chunks

__all__ = ["EncodedSeries", "decode_chunk", "encode_chunks"]
