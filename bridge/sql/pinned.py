"""The tables of a lake at one moment, opened without taking part in it: nothing is locked or made.

    newest      the tables one after the other, in the order in which rows are handed on
    as_of       of each table the last version that was committed by then

As in a snapshot of the bridge, every row is in one of the tables (LAKE-16), and its series in
`series` (LAKE-3). Of an older moment that holds too: who writes commits series before their
samples, and rollups before it removes what they were made of.

Limits: Delta keeps its log for two days and vacuum leaves files that are not needed any more for
one, so `as_of` reaches back a day where anything was compacted or dropped, and to the beginning
where not.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from bridge.errors import ConfigError
from bridge.lake.schema import SNAPSHOT_ORDER, TABLES, TableSchema
from bridge.lake.snapshot import LakeFile, TableFiles
from bridge.lake.store import Store
from bridge.lake.table import open_table
from bridge.model.options import parse_instant_ms

Moment = datetime | str | float


@dataclass(frozen=True, slots=True)
class PinnedTable:
    """One table at one version.

    Attributes:
        schema: of the table.
        version: -1 if there was no table yet.
        files: that make it up.
    """

    schema: TableSchema
    version: int
    files: list[LakeFile]


def pin_tables(store: Store, as_of: datetime | None) -> Mapping[str, PinnedTable]:
    """Every table of a lake, by name; those that are not there are empty.

    Args:
        store: of the lake.
        as_of: with a time zone; None for now.

    Raises:
        ConfigError: there is no lake, or it does not reach back so far.
        FormatTooNew: a newer prombridge wrote it.
        StorageUnavailable: the store failed.
    """
    pinned: dict[str, PinnedTable] = {}
    found_count = 0
    for name in SNAPSHOT_ORDER:
        schema = TABLES[name]
        delta = open_table(store, schema)
        found_count += delta is not None
        try:
            if delta is not None and as_of is not None:
                delta = _at(store, delta, as_of, name)
            files = [] if delta is None else _files_of(store, schema, delta)
        except (DeltaError, OSError) as error:
            attempt = f"reading the table {store.uri_of(name)}"
            raise store.failure(attempt, error) from None
        if as_of is not None and not store.is_remote:
            _check_files(files, as_of)
        pinned[name] = PinnedTable(schema, -1 if delta is None else delta.version(), files)
    if not found_count:
        raise ConfigError(f"lake.uri: there is no lake at {store.uri}")
    return pinned


def parse_moment(moment: Moment) -> datetime:
    """A point in time, with its zone.

    Args:
        moment: RFC 3339 with a zone, or Unix seconds, as number or text; a datetime without a zone
            is UTC.

    Raises:
        ConfigError: it is none.
    """
    if isinstance(moment, str):
        moment = parse_instant_ms(moment) / 1000
    if isinstance(moment, datetime):
        return moment.replace(tzinfo=moment.tzinfo or UTC)
    try:
        return datetime.fromtimestamp(moment, UTC)
    except (ValueError, OverflowError, OSError):
        raise ConfigError(f"as of {moment!r}: no date can name that") from None


def _at(store: Store, delta: DeltaTable, as_of: datetime, name: str) -> DeltaTable | None:
    """The version at a moment; None if the table was made later."""
    delta.load_as_version(as_of)
    # It takes the oldest version that it finds where all are younger.
    entry = store.read(f"{name}/_delta_log/{delta.version():020d}.json")
    committed_ms = _committed_ms(entry or b"")
    if committed_ms is not None and committed_ms <= math.ceil(as_of.timestamp() * 1000):
        return delta
    if delta.version() == 0:
        return None
    raise ConfigError(f"as of {as_of.isoformat()}: the log of {name} does not reach back so far")


def _committed_ms(entry: bytes) -> int | None:
    for line in entry.splitlines():
        action = json.loads(line)
        if "commitInfo" in action:
            return int(action["commitInfo"]["timestamp"])
    return None


def _files_of(store: Store, schema: TableSchema, delta: DeltaTable) -> list[LakeFile]:
    actions: Any = delta.get_add_actions(flatten=True)
    files = TableFiles.from_actions(
        store.uri_of(f"{schema.name}/"), actions, schema.partition, schema.time_column
    )
    return files.pick(np.ones(len(files), np.bool_))


def _check_files(files: list[LakeFile], as_of: datetime) -> None:
    """Says at once what a query would find out in its middle."""
    for file in files:
        if not Path(file.path).exists():
            raise ConfigError(
                f"as of {as_of.isoformat()}: {file.path} is not there any more, it was vacuumed"
            )
