from collections.abc import Sequence

from typing_extensions import Buffer

from bridge.wire.columns import F64Array, I64Array, U8Array, U32Array
from bridge.wire.decoded import LabelRows
from bridge.wire.encoded import EncodedSeries

def encode_prefixes(
    labels: LabelRows,
    replica_ids: U32Array,
    replicas: Sequence[bytes],
    replica_label: bytes,
    measurement: Buffer | None,
) -> EncodedSeries:
    """What a line of each series begins with, up to and with the equals sign of its field.

    Args:
        labels: of n series, `__name__` among them.
        replica_ids: (n,) uint32 indices into `replicas`.
        replicas: values of the replica label; the first is empty and means none.
        replica_label: name of the tag that a replica becomes.
        measurement: where all metrics go, each in a field of its name; None for a measurement for
            each metric, and the field `value`.

    Raises:
        ValueError: offsets do not ascend or lead out of their buffers, a replica that there is
            not, or a series without `__name__`.
    """

def encode_lines(
    prefixes: U8Array,
    starts: I64Array,
    ends: I64Array,
    refs: U32Array,
    timestamps_ms: I64Array,
    values: F64Array,
) -> EncodedSeries:
    """One line, newline and all, for each row.

    Args:
        prefixes: (bytes,) uint8, all prefixes.
        starts: by ref, where its prefix begins.
        ends: by ref, where it ends.
        refs: (n,) uint32.
        timestamps_ms: (n,) int64, Unix ms.
        values: (n,) float64, all finite.

    Raises:
        ValueError: columns of different length, a ref or a prefix that there is not, or a value
            that is not finite.
    """
