from typing_extensions import Buffer

from bridge.wire.columns import F64Array, I64Array
from bridge.wire.encoded import EncodedSeries

def encode_chunks(
    offsets: I64Array, timestamps_ms: I64Array, values: F64Array, samples_per_chunk: int
) -> EncodedSeries:
    """`ChunkedSeries.chunks` of each series, protobuf field and all.

    Args:
        offsets: (series + 1,) int64, ascending; rows of series i are offsets[i]:offsets[i + 1].
        timestamps_ms: (rows,) int64, Unix ms, ascending within a series, none twice.
        values: (rows,) float64; the bits are kept.
        samples_per_chunk: 1 to 65535; the last chunk of a series may have fewer.

    Returns:
        Nothing for a series without rows.

    Raises:
        ValueError: of the above something is not so (the order of times is not looked at).
    """

def decode_chunk(data: Buffer) -> tuple[I64Array, F64Array]:
    """Times and values of a chunk: what stands in `Chunk.data`.

    Bits after the last sample are not looked at.

    Raises:
        ValueError: the bytes are not a chunk.
    """
