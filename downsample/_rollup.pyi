from bridge.wire.columns import F64Array, I64Array
from downsample.rollup_rows import RollupRows

def roll_up(
    offsets: I64Array, timestamps_ms: I64Array, values: F64Array
) -> tuple[RollupRows, RollupRows]:
    """The rows of 5 m and of 1 h, in one pass; both are sums over the samples themselves.

    Args:
        offsets: (ranks + 1,) int64 into the samples; those outside of them are left out.
        timestamps_ms: (samples,) int64, Unix ms, strictly ascending within a rank: duplicates and
            replicas were merged before. At most `TIMESTAMP_MS_MAX`. Not retained.
        values: (samples,) float64; stale markers are told by their bits. Not retained.

    Raises:
        ValueError: the columns differ in length, or offsets or times do not ascend as they should.
    """

def roll_up_again(rows: RollupRows) -> RollupRows:
    """Rows of 5 m into rows of 1 h, where raw samples are gone.

    Equal to what the samples give but for the last bits of `sum` and `reset_drop`; where their sum
    leaves the range of float64 on its way, the order of additions decides if it comes back.

    Raises:
        ValueError: columns differ in length, or offsets or windows do not ascend as they should.
    """

def merge_rollups(old: RollupRows, late: RollupRows) -> RollupRows:
    """Rows of the windows of both, of the same level and the same ranks.

    Where both have samples in a window, `count`, `sum`, `min` and `max` are those of all, `first`
    and `last` go by their times (of two at one time the greater value), and a stale marker counts
    if no sample of either follows. If the samples of one follow those of the other, a drop at the
    join is added to the drops of both, which is exact. If they are interleaved, it is not known
    what lies between the stored ones: `resets` and `reset_drop` are then the greatest for which
    there is proof, from the drops of one and the ends of the other. A counter's true ones are never
    less: samples in between can only show more drops.

    Raises:
        ValueError: other ranks, columns that differ in length, or offsets or windows that do not
            ascend as they should.
    """
