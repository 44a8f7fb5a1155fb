from collections.abc import Sequence

from typing_extensions import Buffer

from bridge.wire.columns import F64Array, I64Array
from bridge.wire.encoded import EncodedSeries

def encode_frames(
    label_bytes: Sequence[Buffer], chunks: Sequence[Buffer], query_index: int
) -> bytes:
    """One frame per series, one after another.

    Args:
        label_bytes: `ChunkedSeries.labels` of each series, protobuf field and all.
        chunks: `ChunkedSeries.chunks` of each, the same way (see `encode_chunks`).
        query_index: which query is answered, from 0.

    Raises:
        ValueError: not as many of the one as of the other, or a negative index.
    """

def encode_samples(offsets: I64Array, timestamps_ms: I64Array, values: F64Array) -> EncodedSeries:
    """`TimeSeries.samples` of each series, protobuf field and all.

    Args:
        offsets: (series + 1,) int64, ascending; rows of series i are offsets[i]:offsets[i + 1].
        timestamps_ms: (rows,) int64, Unix ms.
        values: (rows,) float64; the bits are kept.

    Raises:
        ValueError: of the above something is not so.
    """

def encode_read_response(results: Sequence[Sequence[tuple[Buffer, Buffer]]]) -> bytes:
    """A ReadResponse as one snappy block.

    Args:
        results: of each query, of each series: `TimeSeries.labels` and `TimeSeries.samples`,
            protobuf field and all.

    Raises:
        ValueError: it has 4 GiB or more before compression.
    """
