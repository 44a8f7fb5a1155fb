"""The loops of a merge, compiled where they can be."""

try:
    from downsample._merge import (
        find_runs,
        keep_greatest,
        order_of_times,
        place_runs,
        rank_runs,
        unite_keys,
    )
except ImportError:
    from downsample.twins.merge import (
        find_runs,
        keep_greatest,
        order_of_times,
        place_runs,
        rank_runs,
        unite_keys,
    )

__all__ = [
    "find_runs",
    "keep_greatest",
    "order_of_times",
    "place_runs",
    "rank_runs",
    "unite_keys",
]
