"""The rollup kernels, slow and obvious: DuckDB runs the statements of `downsample/sql/`.

Ranks stand for series ids, so that the statements read like those over the tables of a lake. Late
rows are merged in Python: what is done with them is told step by step, not as a set.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from importlib import resources
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bridge.wire.columns import F64Array, I64Array
from downsample.rollup_rows import (
    FIVE_MINUTES_MS,
    HOUR_MS,
    NAN_BITS,
    TIMESTAMP_MS_MAX,
    RollupRows,
)

COLUMNS: Mapping[str, type] = {
    "window_end_ms": np.int64,
    "count": np.int32,
    "sum": np.float64,
    "min": np.float64,
    "max": np.float64,
    "first": np.float64,
    "last": np.float64,
    "first_timestamp_ms": np.int64,
    "last_timestamp_ms": np.int64,
    "reset_drop": np.float64,
    "resets": np.int32,
    "stale_timestamp_ms": np.int64,
}
COUNT_MAX = 2**31 - 1


def roll_up(
    offsets: I64Array, timestamps_ms: I64Array, values: F64Array
) -> tuple[RollupRows, RollupRows]:
    """The rows of 5 m and of 1 h."""
    _check_columns(offsets, timestamps_ms, values)
    _check_ascending(offsets, timestamps_ms)
    samples = _table(offsets, {"timestamp_ms": timestamps_ms, "value": values})
    with connect() as connection:
        connection.register("samples", samples)
        fives, hours = (
            _run(connection, "rollup_5m.sql", len(offsets) - 1, {"window_ms": window_ms})
            for window_ms in (FIVE_MINUTES_MS, HOUR_MS)
        )
    return fives, hours


def roll_up_again(rows: RollupRows) -> RollupRows:
    """Rows of 5 m into rows of 1 h."""
    _check_rows(rows)
    columns = {name: getattr(rows, name) for name in COLUMNS}
    table = _table(rows.offsets, columns)
    no_sample = pa.array(table["count"].to_numpy() <= 0)
    no_marker = pa.array(table["stale_timestamp_ms"].to_numpy() == 0)
    for place, name in enumerate(table.column_names):
        null = no_marker if name == "stale_timestamp_ms" else no_sample
        if name in COLUMNS and name not in {"window_end_ms", "count", "resets"}:
            nothing = pa.scalar(None, table.schema.field(name).type)
            column = pc.if_else(null, nothing, table[name])
            table = table.set_column(place, name, column)
    with connect() as connection:
        connection.register("samples_5m", table)
        return _run(connection, "rollup_1h.sql", len(rows.offsets) - 1, {})


def connect() -> duckdb.DuckDBPyConnection:
    """A connection in memory that knows the macro of the statements."""
    connection = duckdb.connect(":memory:", config={"threads": 1})
    connection.execute(read_statement("compensated_sum.sql"))
    return connection


def read_statement(name: str) -> str:
    """The text of a file in `downsample/sql/`."""
    return (resources.files("downsample") / "sql" / name).read_text(encoding="utf-8")


def _table(offsets: I64Array, columns: Mapping[str, Any]) -> pa.Table:
    """The rows that the offsets speak of, keyed as in a lake."""
    ranks = np.repeat(np.arange(len(offsets) - 1, dtype=np.int64), np.diff(offsets))
    used = slice(int(offsets[0]), int(offsets[-1]))
    return pa.table(
        {
            "metric": pa.array(np.zeros(len(ranks), np.int8)).cast(pa.string()),
            "series_id": ranks,
            **{name: column[used] for name, column in columns.items()},
        }
    )


def _run(
    connection: duckdb.DuckDBPyConnection,
    statement: str,
    rank_count: int,
    parameters: Mapping[str, int],
) -> RollupRows:
    """What a statement makes of rows that are registered; nulls become 0."""
    relation = connection.sql(read_statement(statement), params=dict(parameters))
    found = relation.to_arrow_table()
    ranks = found["series_id"].to_numpy()
    return RollupRows(
        np.searchsorted(ranks, np.arange(rank_count + 1)).astype(np.int64),
        **{
            name: _without_nulls(found[name]).astype(kind, copy=False)
            for name, kind in COLUMNS.items()
        },
    )


def _without_nulls(column: pa.ChunkedArray) -> Any:
    zero = pa.scalar(0, column.type)
    return pc.if_else(column.is_null(), zero, column).to_numpy()


# -- late samples --


@dataclass(frozen=True, slots=True)
class _Row:
    """One row of one window; fields as the columns."""

    window_end_ms: int
    count: int
    sum: float
    min: float
    max: float
    first: float
    last: float
    first_timestamp_ms: int
    last_timestamp_ms: int
    reset_drop: float
    resets: int
    stale_timestamp_ms: int


def merge_rollups(old: RollupRows, late: RollupRows) -> RollupRows:
    """Rows of the windows of both."""
    _check_rows(old)
    _check_rows(late)
    if len(old.offsets) != len(late.offsets):
        raise ValueError(f"{len(old.offsets) - 1} ranks and {len(late.offsets) - 1}")
    offsets, merged = [0], []
    for olds, lates in zip(_rows_by_rank(old), _rows_by_rank(late), strict=True):
        for end in sorted(olds.keys() | lates.keys()):
            rows = [rank[end] for rank in (olds, lates) if end in rank]
            merged.append(rows[0] if len(rows) == 1 else _merge(*rows))
        offsets.append(len(merged))
    return RollupRows(
        np.array(offsets, np.int64),
        **{
            name: np.array([getattr(row, name) for row in merged], kind)
            for name, kind in COLUMNS.items()
        },
    )


def _rows_by_rank(rows: RollupRows) -> Iterator[dict[int, _Row]]:
    """For each rank its rows by their windows' ends."""
    columns = [getattr(rows, name).tolist() for name in COLUMNS]
    records = [_cleared(_Row(*record)) for record in zip(*columns, strict=True)]
    for begin, end in zip(rows.offsets[:-1].tolist(), rows.offsets[1:].tolist(), strict=True):
        yield {row.window_end_ms: row for row in records[begin:end]}


def _cleared(row: _Row) -> _Row:
    """Zeros where a row without samples may hold anything; one NaN for all sums."""
    if row.count <= 0:
        zeros = {field.name: 0 for field in fields(_Row)}
        return _Row(
            **zeros
            | {"window_end_ms": row.window_end_ms, "stale_timestamp_ms": row.stale_timestamp_ms}
        )
    return replace(row, sum=_one_nan(row.sum), reset_drop=_one_nan(row.reset_drop))


def _merge(old: _Row, late: _Row) -> _Row:
    stale_ms = _last_marker(old, late)
    if not (old.count and late.count):
        return replace(old if old.count else late, stale_timestamp_ms=stale_ms)
    early, late = (old, late) if old.first_timestamp_ms <= late.first_timestamp_ms else (late, old)
    if early.last_timestamp_ms < late.first_timestamp_ms:
        is_drop = late.first < early.last
        drop = _add(early.reset_drop, early.last if is_drop else 0.0, late.reset_drop)
        resets = early.resets + is_drop + late.resets
    else:
        proofs = [_proven_drops(early, late), _proven_drops(late, early)]
        resets = max(resets for resets, _ in proofs)
        drop = max((drop for resets, drop in proofs if resets), default=0.0)
    by_last = sorted((early, late), key=lambda row: row.last_timestamp_ms)
    return _Row(
        early.window_end_ms,
        min(early.count + late.count, COUNT_MAX),
        _add(early.sum, late.sum),
        late.min if late.min < early.min or math.isnan(early.min) else early.min,
        _greater(early.max, late.max),
        (
            _greater(early.first, late.first)
            if early.first_timestamp_ms == late.first_timestamp_ms
            else early.first
        ),
        (
            _greater(early.last, late.last)
            if early.last_timestamp_ms == late.last_timestamp_ms
            else by_last[-1].last
        ),
        early.first_timestamp_ms,
        by_last[-1].last_timestamp_ms,
        drop,
        min(resets, COUNT_MAX),
        stale_ms,
    )


def _last_marker(*rows: _Row) -> int:
    """The stale marker with no sample after it, or 0."""
    markers = [row.stale_timestamp_ms for row in rows if row.stale_timestamp_ms]
    samples = [row.last_timestamp_ms for row in rows if row.count]
    if not markers or (samples and max(samples) >= max(markers)):
        return 0
    return max(markers)


def _proven_drops(whole: _Row, ends: _Row) -> tuple[int, float]:
    """Number and sum of the drops of one row, and of the other's ends where they lie outside."""
    before = after = 0.0
    resets = whole.resets
    if ends.first_timestamp_ms < whole.first_timestamp_ms and whole.first < ends.first:
        before = ends.first
        resets += 1
    if ends.last_timestamp_ms > whole.last_timestamp_ms and ends.last < whole.last:
        after = whole.last
        resets += 1
    return resets, _add(before, whole.reset_drop, after)


def _add(*numbers: float) -> float:
    """The compensated sum, see `compensated_sum.sql`."""
    total = lost = 0.0
    for number in numbers:
        before, total = total, total + number
        if math.isinf(total):
            lost = 0.0
        elif abs(before) >= abs(number):
            lost += (before - total) + number
        else:
            lost += (number - total) + before
    return total if math.isinf(total) else _one_nan(total + lost)


def _one_nan(number: float) -> float:
    """The number; of all NaN the one that sums have."""
    nan: float = np.uint64(NAN_BITS).view(np.float64).item()
    return nan if math.isnan(number) else number


def _greater(first: float, second: float) -> float:
    return second if second > first or math.isnan(first) else first


# -- preconditions --


def _check_columns(offsets: I64Array, *columns: Any) -> None:
    """Refuses columns of different length and offsets that do not ascend within them."""
    if any(len(column) != len(columns[0]) for column in columns):
        raise ValueError("columns of equal length")
    if not len(offsets) or offsets[0] < 0 or offsets[-1] > len(columns[0]):
        raise ValueError("offsets ascend within the columns")
    if (np.diff(offsets) < 0).any():
        raise ValueError("offsets ascend within the columns")


def _check_ascending(offsets: I64Array, times_ms: I64Array) -> None:
    """Refuses times that do not ascend within a rank, or go too far."""
    for begin, end in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
        own = times_ms[begin:end]
        if (own[1:] <= own[:-1]).any() or (own > TIMESTAMP_MS_MAX).any():
            raise ValueError("times ascend strictly within a rank, up to TIMESTAMP_MS_MAX")


def _check_rows(rows: RollupRows) -> None:
    _check_columns(rows.offsets, *(getattr(rows, name) for name in COLUMNS))
    for begin, end in zip(rows.offsets[:-1].tolist(), rows.offsets[1:].tolist(), strict=True):
        own = rows.window_end_ms[begin:end]
        if (own[1:] <= own[:-1]).any() or (own - HOUR_MS > TIMESTAMP_MS_MAX).any():
            raise ValueError("windows ascend within a rank")
