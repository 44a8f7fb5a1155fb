"""SQL over a table in a bucket, by a way that may need an interpreter of its own.

    PYTHON benchmarks/duckdb_ways.py WAY < job.json

    dataset     DuckDB over deltalake's pyarrow dataset
    datafusion  deltalake's own SQL, without DuckDB
    copy        whole files, copied once, then DuckDB over the copies
    fsspec      DuckDB over a Python file system; needs fsspec, obstore
    httpfs      DuckDB's extension; needs duckdb-extension-httpfs of DuckDB's version
    delta_scan  the same, which reads the log too; needs duckdb-extension-delta besides
    local       DuckDB over files that lie in a folder

Nothing of the bridge is imported. Started by `benchmarks.store_requests`, which says what the job
is: `table`, its `files` (and `local_files`), `sql` with `{source}` in it, `options` of the S3
server. Waits for a line before each run, so that requests can be counted in between, and answers it
with wall s, CPU s and rows, -1 if it failed. A run that is to be cold begins with nothing open.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import duckdb

Ask = Callable[[str], int]
"""Rows that a statement finds, which has `{source}` where the table is meant."""


def of_duckdb(connection: Any, source: str) -> Ask:
    def ask(sql: str) -> int:
        return int(connection.sql(sql.format(source=source)).to_arrow_table().num_rows)

    return ask


def parquet(files: Sequence[str]) -> str:
    # Not as a parameter: with one, DuckDB 1.5 takes the answer apart in Python, 2 us a row.
    names = ", ".join(f"'{file}'" for file in files)
    return f"read_parquet([{names}], hive_partitioning = false)"


def connect() -> Any:
    connection = duckdb.connect(config={"threads": 1, "memory_limit": "1GB"})
    connection.execute("SET parquet_metadata_cache = true")
    return connection


def open_dataset(job: Any) -> Ask:
    from deltalake import DeltaTable  # noqa: PLC0415

    connection = connect()
    table = DeltaTable(job["table"], storage_options=job["options"])
    connection.register("far", table.to_pyarrow_dataset())
    return of_duckdb(connection, "far")


def open_datafusion(job: Any) -> Ask:
    import pyarrow as pa  # noqa: PLC0415
    from deltalake import DeltaTable, QueryBuilder  # noqa: PLC0415

    table = DeltaTable(job["table"], storage_options=job["options"])
    builder = QueryBuilder().register("far", table)

    def ask(sql: str) -> int:
        return int(pa.table(builder.execute(sql.format(source="far")).read_all()).num_rows)

    return ask


def open_copy(job: Any) -> Ask:
    from deltalake.fs import DeltaStorageHandler  # noqa: PLC0415
    from pyarrow.fs import PyFileSystem  # noqa: PLC0415

    far = PyFileSystem(DeltaStorageHandler(job["table"], job["options"]))
    folder = Path(tempfile.mkdtemp(dir=job["folder"]))

    def copy(file: str) -> str:
        local = folder / Path(file).name
        with far.open_input_file(file.removeprefix(job["table"] + "/")) as source:
            local.write_bytes(source.readall())
        return str(local)

    with ThreadPoolExecutor(8) as pool:
        copies = list(pool.map(copy, job["files"]))
    return of_duckdb(connect(), parquet(copies))


def open_fsspec(job: Any) -> Ask:
    from obstore.fsspec import FsspecStore  # noqa: PLC0415

    connection = connect()
    # Without it DuckDB 2.0.0 reads wrong bytes: its threads move one position under one another.
    connection.execute("SET async_threads = 0")
    options = job["options"]
    connection.register_filesystem(
        FsspecStore(
            "s3",
            endpoint=options["AWS_ENDPOINT_URL"],
            access_key_id=options["AWS_ACCESS_KEY_ID"],
            secret_access_key=options["AWS_SECRET_ACCESS_KEY"],
            region=options["AWS_REGION"],
            client_options={"allow_http": True},
        )
    )
    return of_duckdb(connection, parquet(job["files"]))


def open_httpfs(job: Any) -> Ask:
    connection = connect_extended(job["options"], "httpfs")
    return of_duckdb(connection, parquet(job["files"]))


def open_delta_scan(job: Any) -> Ask:
    connection = connect_extended(job["options"], "httpfs", "delta")
    return of_duckdb(connection, f"delta_scan('{job['table']}')")


def open_local(job: Any) -> Ask:
    return of_duckdb(connect(), parquet(job["local_files"]))


def connect_extended(options: dict[str, str], *extensions: str) -> Any:
    connection = connect()
    for name in extensions:
        connection.execute(f"LOAD '{extension_path(name)}'")
    endpoint = options["AWS_ENDPOINT_URL"].removeprefix("http://")
    connection.execute(
        f"CREATE SECRET (TYPE s3, KEY_ID '{options['AWS_ACCESS_KEY_ID']}', "
        f"SECRET '{options['AWS_SECRET_ACCESS_KEY']}', ENDPOINT '{endpoint}', "
        f"URL_STYLE 'path', USE_SSL false, REGION '{options['AWS_REGION']}')"
    )
    return connection


def extension_path(name: str) -> str:
    """The extension that lies in its package, so that nothing is downloaded."""
    package = __import__(f"duckdb_extension_{name}")
    [path] = [
        os.path.join(folder, file)  # noqa: PTH118
        for folder, _, files in os.walk(package.__path__[0])
        for file in files
        if file.endswith(".duckdb_extension")
    ]
    return path


WAYS: dict[str, Callable[[Any], Ask]] = {
    "dataset": open_dataset,
    "datafusion": open_datafusion,
    "copy": open_copy,
    "fsspec": open_fsspec,
    "httpfs": open_httpfs,
    "delta_scan": open_delta_scan,
    "local": open_local,
}


def main() -> None:
    way = sys.argv[1]
    job = json.loads(sys.stdin.readline())
    ask: Ask | None = None
    for line in sys.stdin:
        is_cold = json.loads(line)
        wall_s, cpu_s = time.perf_counter(), time.process_time()
        try:
            if is_cold or ask is None:
                ask = WAYS[way](job)
            count = ask(job["sql"])
        except duckdb.Error as error:
            print(f"{way}: {error}", file=sys.stderr)
            count = -1
        result = [time.perf_counter() - wall_s, time.process_time() - cpu_s, count]
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
