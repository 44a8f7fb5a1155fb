"""What a rollup is: raw samples into windows of 5 m and 1 h, compiled where that can be.

`downsample/sql/` says it in SQL, which `twins/rollup.py` runs; `_rollup.pyx` says it fast.
"""

from downsample.rollup_rows import FIVE_MINUTES_MS, HOUR_MS, TIMESTAMP_MS_MAX, RollupRows

try:
    from downsample._rollup import merge_rollups, roll_up, roll_up_again
except ImportError:
    from downsample.twins.rollup import merge_rollups, roll_up, roll_up_again

__all__ = [
    "FIVE_MINUTES_MS",
    "HOUR_MS",
    "TIMESTAMP_MS_MAX",
    "RollupRows",
    "merge_rollups",
    "roll_up",
    "roll_up_again",
]
