"""Late samples over rollups whose raw samples are gone: counted once.

A sample that stands at the very first or last time of its stored window, with the same value, was
there before: somebody imports again what is in already, and every count would double. That is
refused, unless it is forced. Within a window nobody can tell.
"""

from typing import Any

import numpy as np

from bridge.errors import PrombridgeError
from downsample.rollup import RollupRows, merge_rollups
from downsample.rollup_batches import Merge


class RepeatedImport(PrombridgeError):
    """Late samples are in the stored rollups already."""


def refuse_repeats(*, is_forced: bool) -> Merge:
    """Merges stored and late rows of the same ranks.

    Args:
        is_forced: repeats are merged all the same.

    Returns:
        A function that raises RepeatedImport where a late sample was there before.
    """

    def merge(stored: RollupRows, late: RollupRows) -> RollupRows:
        if not is_forced:
            _check(stored, late)
        return merge_rollups(stored, late)

    return merge


def _check(stored: RollupRows, late: RollupRows) -> None:
    own, other = _keys(stored), _keys(late)
    _, in_stored, in_late = np.intersect1d(own, other, assume_unique=True, return_indices=True)
    for name in ("first", "last"):
        for end in ("first", "last"):
            same = (
                (_at(stored, f"{name}_timestamp_ms", in_stored)
                 == _at(late, f"{end}_timestamp_ms", in_late))
                & (_at(stored, name, in_stored).view(np.uint64)
                   == _at(late, end, in_late).view(np.uint64))
                & (_at(stored, "count", in_stored) > 0)
                & (_at(late, "count", in_late) > 0)
            )  # fmt: skip
            if same.any():
                time_ms = int(_at(late, f"{end}_timestamp_ms", in_late)[same][0])
                raise RepeatedImport(
                    f"{int(same.sum())} samples, the one of {time_ms} ms among them, are in the "
                    "rollups already, and the raw samples that would tell were dropped; an import "
                    "was repeated? (downsample.force_late merges them all the same)"
                )


def _keys(rows: RollupRows) -> Any:
    """(rank, window) of each row, sortable."""
    ranks = np.repeat(np.arange(len(rows.offsets) - 1), np.diff(rows.offsets))
    keys = np.empty(len(ranks), [("rank", np.int64), ("end", np.int64)])
    keys["rank"], keys["end"] = ranks, rows.window_end_ms
    return keys


def _at(rows: RollupRows, name: str, places: Any) -> Any:
    return getattr(rows, name)[places]
