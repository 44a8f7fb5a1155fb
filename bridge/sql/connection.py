"""A DuckDB connection over a pinned lake.

    folder   views over the files where they lie, in branches (`bridge.sql.branches`)
    bucket   views over pyarrow datasets that read through the cache (`bridge.sql.far_table`)

Invariants:
    SQL-1   a connection sees the version of each table that it was opened at, whatever is committed
            meanwhile.
    SQL-2   a filter on the metric and on a range of time, in ms or as TIMESTAMPTZ, reads nothing of
            files outside of both as far as the log's bounds say, but in a folder one footer a
            branch, and no row group of other metrics.
    SQL-3   no statement changes the lake, and none reads or writes another file.

SQL-3 stands on `enable_external_access = false`, which cannot be taken back. A folder's files are
named to DuckDB one by one, as files that may be opened; it would overwrite such a file only for
`COPY … TO 'that very file' (USE_TMP_FILE false)`. Whoever must not be able to do that gets a folder
that only others may write.

Limits: `memory_limit` is DuckDB's own, past which it spills into `temp_directory`; decoding Parquet
out of a bucket takes that of row groups beside it.
"""

import tempfile
import uuid
from collections.abc import Mapping
from pathlib import Path

import duckdb

from bridge.errors import ConfigError
from bridge.lake.file_cache import FileCache, fetch_from
from bridge.lake.files import Files
from bridge.lake.footers import FooterCache
from bridge.lake.settings import LakeSettings
from bridge.lake.store import Store, open_store
from bridge.sql.branches import group_files
from bridge.sql.far_table import FarTable
from bridge.sql.pinned import Moment, PinnedTable, parse_moment, pin_tables
from bridge.sql.views import (
    listed,
    public_views,
    view_of_branches,
    view_of_relation,
)

FOOTER_BYTES_MAX = 256 << 20
"""Parsed footers of a bucket's files: 20,000 files of a minute take 200 MB."""


def connect(
    uri: str,
    storage_options: Mapping[str, str] | None = None,
    *,
    as_of: Moment | None = None,
    memory_limit: str = "2GiB",
    threads: int | None = None,
    cache_path: Path | str | None = None,
    cache_max_bytes: int | None = None,
) -> duckdb.DuckDBPyConnection:
    """Opens a lake for SQL; nothing is locked or written in it.

    Args:
        uri: as `lake.uri`: a folder, `s3://BUCKET/PATH`, `gs://…`, `az://…`.
        storage_options: as `lake.storage_options`; the environment is used besides.
        as_of: an older version: RFC 3339 or Unix seconds; a datetime without zone is UTC.
        memory_limit: of DuckDB, `4GiB`.
        threads: of DuckDB; all cores if None.
        cache_path: where what was fetched from a bucket is kept; as `lake.cache_path` if None.
        cache_max_bytes: as `lake.cache_max_bytes`.

    Raises:
        ConfigError: there is no lake, a limit is none, or the lake does not reach back so far.
        FormatTooNew: a newer prombridge wrote it.
        StorageUnavailable: the store does not answer.
    """
    moment = None if as_of is None else parse_moment(as_of)
    _check_folder(uri)
    settings = LakeSettings()
    with open_store(uri, storage_options) as store:
        store.check()
        pinned = pin_tables(store, moment)
        connection = _open(memory_limit, threads)
        try:
            if store.is_remote:
                path = settings.cache_path if cache_path is None else Path(cache_path)
                bytes_max = cache_max_bytes or settings.cache_max_bytes
                cache = FileCache(path, bytes_max, fetch_from(store))
                _show_far(connection, pinned, Files(store, cache))
            else:
                _show_local(connection, pinned)
            connection.execute(public_views())
            _shut(connection, pinned, store)
        except BaseException:
            connection.close()
            raise
    return connection


def _check_folder(uri: str) -> None:
    """A store makes the folder that it is to open; a lake that is asked has to be there."""
    path = Path(uri.removeprefix("file://"))
    if "://" not in uri.removeprefix("file://") and not path.is_dir():
        raise ConfigError(f"lake.uri: there is no lake at {path}")


def _open(memory_limit: str, threads: int | None) -> duckdb.DuckDBPyConnection:
    config: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": memory_limit,
        # DuckDB makes it when it spills for the first time, and removes it at the end.
        "temp_directory": f"{tempfile.gettempdir()}/prombridge-sql-{uuid.uuid4().hex}",
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
    }
    if threads is not None:
        config["threads"] = threads
    try:
        connection = duckdb.connect(config=config)
    except duckdb.Error as error:
        raise ConfigError(f"DuckDB takes no such limit: {error}") from None
    # The files never change, so their footers are parsed once.
    connection.execute("SET parquet_metadata_cache = true")
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute("CREATE SCHEMA lake")
    return connection


def _show_local(connection: duckdb.DuckDBPyConnection, pinned: Mapping[str, PinnedTable]) -> None:
    for table in pinned.values():
        connection.execute(view_of_branches(table.schema, group_files(table.files)))


def _show_far(
    connection: duckdb.DuckDBPyConnection, pinned: Mapping[str, PinnedTable], files: Files
) -> None:
    footers = FooterCache(FOOTER_BYTES_MAX, files)
    for name, table in pinned.items():
        far = FarTable(table.schema, table.files, files, footers)
        connection.register(f"_{name}", far)
        connection.execute(view_of_relation(table.schema, f"_{name}"))


def _shut(
    connection: duckdb.DuckDBPyConnection, pinned: Mapping[str, PinnedTable], store: Store
) -> None:
    """From here on nothing but the files of a folder can be opened (SQL-3)."""
    if not store.is_remote:
        paths = [file.path for table in pinned.values() for file in table.files]
        connection.execute(f"SET allowed_paths = {listed(paths)}")
    connection.execute("SET enable_external_access = false")
