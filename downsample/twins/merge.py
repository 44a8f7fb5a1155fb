"""The loops of a merge in numpy: what they mean, not how fast they are."""

import numpy as np
from numpy.typing import NDArray

from bridge.lake.grouped import GroupedRows
from bridge.lake.twins.rows import merge_duplicates
from bridge.wire.columns import F64Array, I32Array, I64Array


def find_runs(codes: I32Array | None, series_ids: I64Array) -> tuple[I64Array, bool]:
    """Where rows of one series begin, and whether they are sorted."""
    metrics = np.zeros(len(series_ids), np.int32) if codes is None else codes
    if len(metrics) != len(series_ids):
        raise ValueError("columns of equal length")
    is_other_metric = metrics[1:] != metrics[:-1]
    is_other = is_other_metric | (series_ids[1:] != series_ids[:-1])
    begins = np.flatnonzero(np.concatenate([[len(series_ids) > 0], is_other]))
    is_sorted = bool((is_other_metric | (series_ids[1:] >= series_ids[:-1])).all())
    return np.append(begins, len(series_ids)).astype(np.int64), is_sorted


def unite_keys(
    metrics: I32Array, ids: I64Array, other_metrics: I32Array, other_ids: I64Array
) -> tuple[I32Array, I64Array]:
    """All keys of two sorted lists, each once, sorted."""
    keys = {*_keys(metrics, ids), *_keys(other_metrics, other_ids)}
    united = sorted(keys)
    return (
        np.array([metric for metric, _ in united], np.int32),
        np.array([series_id for _, series_id in united], np.int64),
    )


def rank_runs(
    metrics: I32Array,
    ids: I64Array,
    begins: I64Array,
    all_metrics: I32Array,
    all_ids: I64Array,
    counts: I64Array,
) -> I32Array:
    """The place of each run's key among all keys; its rows are counted there."""
    if len(begins) != len(ids) + 1 or len(counts) != len(all_ids):
        raise ValueError("columns of equal length")
    place = {key: rank for rank, key in enumerate(_keys(all_metrics, all_ids))}
    ranks = [place.get(key, -1) for key in _keys(metrics, ids)]
    if any(rank <= before for before, rank in zip([-1, *ranks], ranks, strict=False)):
        raise ValueError("a key is unknown, or not behind the one before")
    found = np.array(ranks, np.int32)
    counts[found] += np.diff(begins)
    return found


def place_runs(
    ranks: I32Array,
    begins: I64Array,
    timestamps_ms: I64Array,
    values: F64Array,
    ends: I64Array,
    out_timestamps_ms: I64Array,
    out_values: F64Array,
    order: I64Array | None,
    first_order: int,
) -> None:
    """Copies the rows of runs behind those that their ranks have already."""
    out_bits, bits = out_values.view(np.int64), values.view(np.int64)
    for rank, begin, end in zip(
        ranks.tolist(), begins[:-1].tolist(), begins[1:].tolist(), strict=True
    ):
        if not 0 <= rank < len(ends) or ends[rank] + end - begin > len(out_bits):
            raise ValueError(f"rank {rank} has no place for its rows")
        to = slice(int(ends[rank]), int(ends[rank]) + end - begin)
        out_timestamps_ms[to] = timestamps_ms[begin:end]
        out_bits[to] = bits[begin:end]
        if order is not None:
            order[to] = np.arange(begin, end) + first_order
        ends[rank] = to.stop


def order_of_times(offsets: I64Array, timestamps_ms: I64Array) -> int:
    """0 where the times of each rank ascend strictly, 1 where they ascend, else 2."""
    steps = [
        np.diff(timestamps_ms[begin:end].astype(object))
        for begin, end in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)
    ]
    least = min((step for own in steps for step in own.tolist()), default=1)
    return 0 if least > 0 else 1 if least == 0 else 2


def keep_greatest(
    offsets: I64Array, timestamps_ms: I64Array, values: F64Array
) -> NDArray[np.bool_]:
    """Which row stays of those with one rank and time."""
    keep = np.zeros(len(values), np.bool_)
    merged = merge_duplicates(GroupedRows(offsets, timestamps_ms, values))
    bits = values.view(np.int64)
    for rank in range(len(offsets) - 1):
        stay = slice(int(merged.offsets[rank]), int(merged.offsets[rank + 1]))
        kept = list(
            zip(
                merged.timestamps_ms[stay].tolist(),
                merged.values.view(np.int64)[stay].tolist(),
                strict=True,
            )
        )
        for row in range(int(offsets[rank]), int(offsets[rank + 1])):
            if (key := (int(timestamps_ms[row]), int(bits[row]))) in kept:
                keep[row] = True
                kept.remove(key)
    return keep


def _keys(metrics: I32Array, ids: I64Array) -> list[tuple[int, int]]:
    return list(zip(metrics.tolist(), ids.tolist(), strict=True))
