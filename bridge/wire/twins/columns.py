"""What the encoders ask of the columns that they are given."""

from bridge.wire.columns import F64Array, I64Array


def check_offsets(offsets: I64Array, timestamps_ms: I64Array, values: F64Array) -> None:
    """Refuses columns of different length and offsets that do not ascend within them."""
    if len(timestamps_ms) != len(values):
        raise ValueError("columns of equal length")
    bounds = [0, *offsets.tolist(), len(values)]
    if not len(offsets) or bounds != sorted(bounds):
        raise ValueError("offsets ascend within the columns")
