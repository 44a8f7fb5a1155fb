"""What a statement found, written as people want it.

    table    boxes, as the duckdb shell draws them; the first 9,999 rows of a long answer, 40 shown
    csv      a header, then a line a row; NULL is empty
    json     an array with an object a row; NaN and infinities, which JSON has not, are null
    parquet  a file

All but the table pass through batch by batch, whatever their size. Values are made text by DuckDB
itself, on a connection of its own, so that every type looks as in a CAST to VARCHAR.
"""

import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Any, Literal

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

Format = Literal["table", "csv", "json", "parquet"]
FORMATS: tuple[Format, ...] = ("table", "csv", "json", "parquet")

BATCH_ROWS = 100_000
"""Of 200 bytes: 20 MB."""
TABLE_ROWS_MAX = 9_999
TABLE_ROWS_SHOWN = 40
EXPLANATION = ["explain_key", "explain_value"]


def write_answer(reader: Any, form: Format, out: IO[bytes], *, time_zone: str, width: int) -> None:
    """Writes the rows of a statement.

    Args:
        reader: Arrow batches, read to their end but for a table.
        form: how.
        out: where to.
        time_zone: in which a TIMESTAMPTZ is shown.
        width: of a table, in characters.

    Raises:
        OSError: `out` takes no more.
        duckdb.Error: the statement fails in its middle.
    """
    if form == "parquet":
        with pq.ParquetWriter(out, reader.schema, compression="zstd") as file:
            for batch in reader:
                file.write_batch(batch)
        return
    with duckdb.connect() as drawing:
        drawing.execute("SET TimeZone = ?", [time_zone])
        if form == "table":
            out.write(_draw(drawing, reader, width).encode())
        elif form == "csv":
            header = ",".join(_quoted(name) for name in reader.schema.names)
            out.write(f"{header}\n".encode())
            for line in _lines(drawing, reader, _csv_line):
                out.write(f"{line}\n".encode())
        else:
            _write_json(_lines(drawing, reader, _json_object), out)
    out.flush()


def _draw(drawing: duckdb.DuckDBPyConnection, reader: Any, width: int) -> str:
    batches, row_count = [], 0
    for batch in reader:
        batches.append(batch)
        row_count += batch.num_rows
        if row_count > TABLE_ROWS_MAX:
            break
    table = pa.Table.from_batches(batches, reader.schema)
    if table.column_names == EXPLANATION:
        return "\n".join(table[1].to_pylist()) + "\n"
    is_cut = row_count > TABLE_ROWS_MAX
    found = drawing.from_arrow(table.slice(0, TABLE_ROWS_MAX))
    with contextlib.redirect_stdout(_Lines()) as drawn:
        found.show(max_width=width, max_rows=TABLE_ROWS_SHOWN)
    text = "".join(drawn.parts).rstrip("\n") + "\n"
    if is_cut:
        text += f"  these are the first {TABLE_ROWS_MAX} rows, there are more\n"
    return text


class _Lines:
    """Takes what is printed; all that `print` and DuckDB ask of a file."""

    def __init__(self) -> None:
        self.parts: list[str] = []

    def write(self, text: str) -> int:
        self.parts.append(text)
        return len(text)

    def flush(self) -> None:
        """Nothing is held back."""


def _lines(
    drawing: duckdb.DuckDBPyConnection, reader: Any, line_of: Callable[[Any], str]
) -> Iterator[str]:
    """A text a row, by an expression over the columns."""
    for batch in reader:
        table = pa.Table.from_batches([batch]).rename_columns(_names(reader.schema))
        rows = drawing.from_arrow(table).project(f"{line_of(table.schema)} AS line")
        yield from rows.to_arrow_table()["line"].to_pylist()


def _csv_line(schema: Any) -> str:
    fields = []
    for field in schema:
        text = f"{_identifier(field.name)}::VARCHAR"
        marks = f"""'"' || replace({text}, '"', '""') || '"'"""
        is_special = f"{text} = '' OR regexp_matches({text}, '[\",\\n\\r]')"
        fields.append(
            f"CASE WHEN {text} IS NULL THEN '' WHEN {is_special} THEN {marks} ELSE {text} END"
        )
    return " || ',' || ".join(fields)


def _json_object(schema: Any) -> str:
    fields = []
    for field in schema:
        column = _identifier(field.name)
        is_number = pa.types.is_floating(field.type)
        value = f"CASE WHEN isfinite({column}) THEN {column} END" if is_number else column
        fields.append(f"{column} := {value}")
    return f"to_json(struct_pack({', '.join(fields)}))::VARCHAR"


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _quoted(text: str) -> str:
    """A text as a field of CSV."""
    if text and not set(text) & set('",\n\r'):
        return text
    return '"' + text.replace('"', '""') + '"'


def _write_json(objects: Iterable[str], out: IO[bytes]) -> None:
    before = "["
    for text in objects:
        out.write(f"{before}{text}".encode())
        before = ",\n"
    out.write(b"[]\n" if before == "[" else b"]\n")


def _names(schema: Any) -> list[str]:
    """Column names, told apart where two are the same."""
    names: list[str] = []
    for name in schema.names:
        number, own = 0, name
        while own in names:
            number += 1
            own = f"{name}_{number}"
        names.append(own)
    return names


def binary_stdout() -> IO[bytes]:
    """Standard output, for bytes, behind what was printed."""
    sys.stdout.flush()
    return sys.stdout.buffer
