"""The small tables made smaller: every series of a month once, the newest metadata of each metric.

Rows of `series` are written again by every restart, receiver and month; they are idempotent, so the
first is kept. Two different label sets under one (metric, series_id) are a collision of xxh3-64,
which no reader could tell apart: that is said, and counted.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from bridge.errors import CorruptionError
from bridge.lake.data_file import DataFile
from bridge.lake.parquet import SERIES_ROWS_MAX, SeriesBatch, SeriesWriter, write_metadata
from bridge.wire.decoded import LabelRows

SERIES_ROWS = 16_384
assert SERIES_ROWS <= SERIES_ROWS_MAX

_SERIES = """
SELECT metric, series_id, min(labels) AS labels, count(DISTINCT labels) AS variants
FROM read_parquet($files, hive_partitioning = false)
GROUP BY metric, series_id
ORDER BY metric, series_id
"""
_METADATA = """
SELECT metric, type, help, unit, seen_ms
FROM read_parquet($files, hive_partitioning = false)
QUALIFY row_number() OVER (PARTITION BY metric ORDER BY seen_ms DESC, type, help, unit) = 1
ORDER BY metric
"""


def compact_series(
    files: Sequence[Path],
    path_of: Callable[[int], Path],
    month: str,
    *,
    scratch: Path,
    memory_bytes: int,
) -> tuple[list[DataFile], list[str]]:
    """Writes each series of a month once.

    Args:
        files: local ones, of `series`.
        path_of: where file 0, 1, … is to lie.
        month: `2026-11`.
        scratch: where DuckDB may put what does not fit into memory.
        memory_bytes: of DuckDB.

    Returns:
        the files; and a line for each id that two series share.

    Raises:
        CorruptionError: a file is damaged.
        OSError: the disk is full or failed.
    """
    collisions = []
    with opened(scratch, memory_bytes) as connection, SeriesWriter(path_of, month) as writer:
        found = connection.sql(_SERIES, params={"files": [str(path) for path in files]})
        for table in _tables(found.to_arrow_reader(SERIES_ROWS)):
            for place in np.flatnonzero(np.asarray(table["variants"]) > 1).tolist():
                row = table.slice(place, 1).to_pylist()[0]
                collisions.append(f"{row['metric']} {row['series_id']}: {dict(row['labels'])}")
            writer.write(
                SeriesBatch(
                    table["metric"].to_pylist(),
                    np.asarray(table["series_id"]),
                    _label_rows(table["labels"]),
                )
            )
        return writer.finish(), collisions


def compact_metadata(
    files: Sequence[Path], path: Path, *, scratch: Path, memory_bytes: int
) -> DataFile:
    """Writes the newest metadata of each metric; see `compact_series`."""
    with opened(scratch, memory_bytes) as connection:
        rows = connection.execute(_METADATA, {"files": [str(one) for one in files]}).fetchall()
    return write_metadata(path, rows)


@contextmanager
def opened(scratch: Path, memory_bytes: int) -> Iterator[duckdb.DuckDBPyConnection]:
    """A DuckDB with limits, whose complaints about files are `CorruptionError`."""
    config: dict[str, Any] = {
        "memory_limit": f"{memory_bytes}B",
        "temp_directory": str(scratch),
        "threads": 1,
    }
    with duckdb.connect(":memory:", config=config) as connection:
        try:
            yield connection
        except duckdb.OutOfMemoryException:
            raise
        except duckdb.Error as error:
            raise CorruptionError(f"files of the lake cannot be read: {error}") from error


def _tables(reader: Any) -> Iterator[Any]:
    for batch in reader:
        for begin in range(0, batch.num_rows, SERIES_ROWS):
            yield pa.Table.from_batches([batch.slice(begin, SERIES_ROWS)]).combine_chunks()


def _label_rows(column: Any) -> LabelRows:
    """The buffers of a MAP column."""
    # Taken anew, so that offsets begin at 0 and nothing is null.
    maps = pa.concat_arrays([*column.chunks]).take(pa.array(range(len(column))))
    names, values = maps.keys, maps.items
    return LabelRows(np.asarray(maps.offsets), *_text(names), *_text(values))


def _text(column: Any) -> tuple[Any, bytes]:
    strings = column.cast(pa.string())
    offsets = np.frombuffer(strings.buffers()[1], np.int32, len(strings) + 1, strings.offset * 4)
    text = strings.buffers()[2]
    body = b"" if text is None else text.to_pybytes()
    begin = int(offsets[0])
    return offsets - begin, body[begin : int(offsets[-1])]
