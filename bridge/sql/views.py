"""The views as SQL: what a connection shows of a pinned lake.

    lake.samples …   every row and column of the files, and its times as TIMESTAMPTZ
    samples …        the same without stale markers, which are no samples

A file's times are BIGINT Unix ms. A filter on either form of the time rules out whole branches
(`bridge.sql.branches`), because each states its bounds in both. The views for people stand in
views.sql.
"""

from collections.abc import Iterable, Sequence
from importlib import resources

import pyarrow as pa

from bridge.lake.schema import TableSchema
from bridge.sql.branches import Branch

TIMES = {
    "timestamp_ms": "time",
    "start_timestamp_ms": "start_time",
    "window_end_ms": "time",
    "first_timestamp_ms": "first_time",
    "last_timestamp_ms": "last_time",
    "stale_timestamp_ms": "stale_time",
    "seen_ms": "seen",
}
"""By column, what its TIMESTAMPTZ is called."""

TIME_MS_MIN, TIME_MS_MAX = -62_135_596_800_000, 253_402_300_799_999
"""Years 1 to 9999. A TIMESTAMPTZ is int64 us, and what lies outside of these would overflow."""

_DATED = f"BETWEEN {TIME_MS_MIN} AND {TIME_MS_MAX}"

_TYPES = {
    pa.string(): "VARCHAR",
    pa.int64(): "BIGINT",
    pa.int32(): "INTEGER",
    pa.float64(): "DOUBLE",
    pa.map_(pa.string(), pa.string()): "MAP(VARCHAR, VARCHAR)",
}


def view_of_branches(schema: TableSchema, branches: Sequence[Branch]) -> str:
    """Statement that makes `lake.<table>` of local files."""
    parts = [_branch(schema, branch) for branch in branches] or [_nothing(schema)]
    return f"CREATE VIEW lake.{schema.name} AS\n" + "\nUNION ALL\n".join(parts)


def view_of_relation(schema: TableSchema, relation: str) -> str:
    """Statement that makes `lake.<table>` of a relation that has the times already."""
    return f"CREATE VIEW lake.{schema.name} AS SELECT * FROM {relation}"  # noqa: S608


def public_views() -> str:
    """Statements that make the views which people ask, and the macros."""
    return resources.files(__package__).joinpath("views.sql").read_text()


def quoted(text: str) -> str:
    """A text as a literal of SQL."""
    return "'" + text.replace("'", "''") + "'"


def listed(texts: Iterable[str]) -> str:
    """Texts as a literal list of SQL."""
    return "[" + ", ".join(map(quoted, texts)) + "]"


def _branch(schema: TableSchema, branch: Branch) -> str:
    is_dated = branch.time_ms_min >= TIME_MS_MIN and branch.time_ms_max <= TIME_MS_MAX
    columns, bounds = [], []
    for field in schema.columns:
        moment = _moment(field.name, is_dated=is_dated and field.name == schema.time_column)
        columns.append(field.name)
        if field.name in TIMES:
            columns.append(f"{moment} AS {TIMES[field.name]}")
        if field.name == schema.time_column and branch.is_bounded:
            low, high = f"{branch.time_ms_min}::BIGINT", f"{branch.time_ms_max}::BIGINT"
            bounds.append(f"{field.name} BETWEEN {low} AND {high}")
            if is_dated:
                low, high = _moment(low, is_dated=True), _moment(high, is_dated=True)
                bounds.append(f"{moment} BETWEEN {low} AND {high}")
    files = f"read_parquet({listed(file.path for file in branch.files)}, hive_partitioning = false)"
    return f"SELECT {', '.join(columns)} FROM {files} WHERE {' AND '.join(bounds) or 'true'}"  # noqa: S608


def _moment(millis: str, *, is_dated: bool) -> str:
    """A time in ms as TIMESTAMPTZ; NULL for what no date can name."""
    moment = f"make_timestamptz({millis} * 1000)"
    return moment if is_dated else f"CASE WHEN {millis} {_DATED} THEN {moment} END"


def _nothing(schema: TableSchema) -> str:
    columns = []
    for field in schema.columns:
        columns.append(f"NULL::{_TYPES[field.type]} AS {field.name}")
        if field.name in TIMES:
            columns.append(f"NULL::TIMESTAMPTZ AS {TIMES[field.name]}")
    return f"SELECT {', '.join(columns)} WHERE false"
