"""Texts of SQL cut into statements, and run one after the other."""

import re
from collections.abc import Sequence
from typing import Any

import duckdb

from bridge.errors import PrombridgeError

_HIDDEN = re.compile(
    r"""'(?:[^']|'')*' | "(?:[^"]|"")*" | (\$\w*\$).*?\1 | --[^\n]* | /\*.*?\*/""",
    re.VERBOSE | re.DOTALL,
)
"""What a semicolon may stand in without ending anything."""

_OPEN = re.compile(r"""['"] | \$\w*\$ | /\*""", re.VERBOSE)

_GONE = re.compile(r'Cannot access file "([^"]+\.parquet)/\*\*/')
"""DuckDB takes a file that it does not find for a folder, in which it may not look."""

_OWN_ERROR = re.compile(r"^(?:bridge\.errors\.)?(\w+): (.*)$")


class StatementFailed(PrombridgeError):
    """A statement that cannot be run, or failed; the message is one line."""


class StatementCancelled(PrombridgeError):
    """A statement was interrupted."""


def is_whole(text: str) -> bool:
    """Whether a text ends with the semicolon of a statement."""
    left = _HIDDEN.sub(" ", text)
    return not _OPEN.search(left) and left.rstrip().endswith(";")


def is_empty(text: str) -> bool:
    """Whether there is nothing in a text but comments and semicolons."""
    return not _HIDDEN.sub(lambda found: " " if _is_comment(found[0]) else "x", text).strip(
        "; \n\t"
    )


def _is_comment(text: str) -> bool:
    return text.startswith(("--", "/*"))


def split(connection: duckdb.DuckDBPyConnection, text: str) -> Sequence[duckdb.Statement]:
    """The statements of a text.

    Raises:
        StatementFailed: it cannot be parsed.
    """
    try:
        return connection.extract_statements(text)
    except duckdb.Error as error:
        raise StatementFailed(one_line(error)) from None


def run(connection: duckdb.DuckDBPyConnection, statement: duckdb.Statement, rows: int) -> Any:
    """Runs a statement.

    Args:
        connection: of `connect`.
        statement: one of `split`.
        rows: of a batch.

    Returns:
        Arrow batches of what it found; None if it is of a kind that finds nothing.

    Raises:
        StatementFailed: it failed.
        StatementCancelled: it was interrupted.
    """
    with failures():
        found = connection.sql(statement)
        if duckdb.ExpectedResultType.QUERY_RESULT not in statement.expected_result_type:
            return None
        return found.to_arrow_reader(rows)


class failures:  # noqa: N801 - reads as a word: with failures():
    """Turns what DuckDB and what it calls raise into our two errors."""

    def __enter__(self) -> None:
        """Nothing yet."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Raises ours in place of what came."""
        if isinstance(error, KeyboardInterrupt):
            raise StatementCancelled("cancelled") from None
        if isinstance(error, duckdb.Error | RuntimeError | ValueError):
            text = str(error)
            if isinstance(error, duckdb.InterruptException) or re.search(
                r"^INTERRUPT|Query interrupted|KeyboardInterrupt", text
            ):
                raise StatementCancelled("cancelled") from None
            raise StatementFailed(one_line(error)) from None


def one_line(error: BaseException) -> str:
    """An error in one line, with what stands at the bottom of it."""
    if gone := _GONE.search(str(error)):
        return f"{gone[1]} is not there any more, the lake has moved on: open it anew (.refresh)"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if any("Traceback (most recent call last)" in line for line in lines):
        # Of ours, raised below DuckDB and pyarrow, which quote the whole way down.
        found = [match for line in lines if (match := _OWN_ERROR.match(line))]
        return found[-1][2] if found else lines[-1]
    hints = [line for line in lines[1:] if line.startswith(("Did you mean", "Candidate"))]
    places = [line for line in lines[1:] if line.startswith("LINE ")]
    return " ".join([*lines[:1], *hints[:1], *places[:1]]) or type(error).__name__
