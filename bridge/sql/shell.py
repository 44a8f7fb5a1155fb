"""The shell: reads statements, runs them, shows what they found.

    prombridge> SELECT …
            …>  ;

Ctrl-C gives up the statement that is typed or runs, and stays; Ctrl-D and `.quit` leave. What was
typed is kept in `$XDG_STATE_HOME/prombridge/sql_history`.
"""

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import duckdb

from bridge.errors import PrombridgeError
from bridge.sql.answers import BATCH_ROWS, FORMATS, Format, write_answer
from bridge.sql.statements import (
    StatementCancelled,
    StatementFailed,
    failures,
    is_empty,
    is_whole,
    run,
    split,
)

PROMPT, PROMPT_INSIDE = "prombridge> ", "       ...> "
HISTORY_LINES = 1000
WIDTH_MAX = 10_000
"""Of a table that is not drawn on a terminal: as wide as it is."""

HELP = """\
SELECT …;         run a statement; it ends with a semicolon and may have several lines
.tables           tables, views and macros with their columns and parameters
.format FORMAT    how answers are shown: table, csv, json
.timer on|off     how long statements take
.refresh          look at the newest version of the lake; what you created is gone
.help, .quit

samples, samples_5m, samples_1h have a row a sample or window; series has the labels:
  SELECT label(labels, 'job') AS job, max(value) FROM with_labels('samples')
  WHERE metric = 'up' AND time > now() - INTERVAL 1 HOUR GROUP BY job;
  SELECT * FROM rate('http_requests_total', INTERVAL 5 MINUTE, after := now() - INTERVAL 1 HOUR);
"""

_TABLES = """
    SELECT table_name AS name, string_agg(column_name, ', ' ORDER BY column_index) AS columns
    FROM duckdb_columns()
    WHERE NOT internal AND schema_name = 'main' AND NOT starts_with(table_name, '_')
    GROUP BY ALL
    UNION ALL
    SELECT function_name || '()', array_to_string(parameters, ', ')
    FROM duckdb_functions()
    WHERE NOT internal AND schema_name = 'main'
    ORDER BY ALL
"""


class Session:
    """Runs texts of SQL on a connection and writes what they find."""

    def __init__(
        self,
        connect: Callable[[], duckdb.DuckDBPyConnection],
        out: IO[bytes],
        form: Format = "table",
    ) -> None:
        """Opens the lake.

        Args:
            connect: opens it, again at `refresh`.
            out: of answers.
            form: of answers.

        Raises:
            PrombridgeError: it cannot be opened.
        """
        self.form = form
        self.has_timer = False
        self._connect = connect
        self._out = out
        self._connection = self._open()

    def close(self) -> None:
        """Gives up the connection."""
        self._connection.close()

    def refresh(self) -> None:
        """Looks at the newest version.

        Raises:
            PrombridgeError: it cannot be opened; the old one stays.
        """
        connection = self._open()
        self._connection.close()
        self._connection = connection

    def run(self, text: str) -> None:
        """Runs the statements of a text and writes all answers.

        Raises:
            StatementFailed: one of them failed; those behind it did not run.
            StatementCancelled: likewise.
            OSError: the output takes no more.
        """
        for statement in split(self._connection, text):
            begun_s = time.perf_counter()
            self._run(statement, self._out)
            if self.has_timer:
                taken_s = time.perf_counter() - begun_s
                self._out.write(f"{taken_s:.3f} s\n".encode())
                self._out.flush()

    def run_into(self, text: str, path: Path) -> None:
        """Runs the statements of a text; the answer of the last one becomes a file.

        Raises:
            StatementFailed: one of them failed, or finds nothing; there is no new file.
            StatementCancelled: likewise.
            OSError: the file cannot be written.
        """
        statements = split(self._connection, text)
        if not statements:
            raise StatementFailed("there is no statement")
        *before, last = statements
        for statement in before:
            reader = run(self._connection, statement, BATCH_ROWS)
            if reader is not None:
                reader.close()
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            with part.open("wb") as out:
                if not self._run(last, out):
                    raise StatementFailed("the last statement finds no rows, so there is no file")
            part.rename(path)
        finally:
            part.unlink(missing_ok=True)

    def describe(self) -> None:
        """Writes what there is to ask."""
        self.run(_TABLES)

    def _open(self) -> duckdb.DuckDBPyConnection:
        connection = self._connect()
        if self.form != "parquet":
            # So that a HUGEINT or a BIT is drawn as what it is.
            connection.execute("SET arrow_lossless_conversion = true")
        return connection

    def _run(self, statement: duckdb.Statement, out: IO[bytes]) -> bool:
        reader = run(self._connection, statement, BATCH_ROWS)
        if reader is None:
            return False
        try:
            with failures():
                [time_zone] = _time_zones(reader) or ["UTC"]
                width = shutil.get_terminal_size().columns if out.isatty() else WIDTH_MAX
                write_answer(reader, self.form, out, time_zone=time_zone, width=width)
        finally:
            # What is left of it would keep the connection from the next statement.
            reader.close()
        return True


def _time_zones(reader: object) -> list[str]:
    """The session's time zone, as the columns of an answer have it."""
    fields = getattr(reader, "schema", [])
    return [field.type.tz for field in fields if getattr(field.type, "tz", None)][:1]


class Shell:
    """Reads lines and hands statements to a session."""

    def __init__(self, session: Session, say: Callable[[str], None]) -> None:
        """Args: `say` takes what is no answer: help and errors."""
        self._session = session
        self._say = say
        self._typed = ""

    @property
    def prompt(self) -> str:
        """What stands before the next line."""
        return PROMPT_INSIDE if self._typed else PROMPT

    def interact(self, ask: Callable[[str], str]) -> None:
        """Until the end of the input, or `.quit`.

        Args:
            ask: gives a line for a prompt; raises EOFError at the end.
        """
        while True:
            try:
                if not self.take(ask(self.prompt)):
                    return
            except EOFError:
                self._say("")
                return
            except KeyboardInterrupt:
                self._typed = ""
                self._say("")

    def take(self, line: str) -> bool:
        """Takes a line and runs what it ends.

        Returns:
            False if that was `.quit`.
        """
        if not self._typed and line.lstrip().startswith("."):
            return self._obey(line.split())
        self._typed += line + "\n"
        if is_empty(self._typed):
            self._typed = ""
        elif is_whole(self._typed):
            text, self._typed = self._typed, ""
            self._guard(lambda: self._session.run(text))
        return True

    def _obey(self, words: list[str]) -> bool:
        match words:
            case [".quit" | ".exit" | ".q"]:
                return False
            case [".help" | ".h"]:
                self._say(HELP)
            case [".tables"]:
                self._guard(self._session.describe)
            case [".refresh"]:
                self._guard(self._session.refresh)
            case [".timer", "on" | "off" as setting]:
                self._session.has_timer = setting == "on"
            case [".format" | ".mode", form] if form in FORMATS and form != "parquet":
                self._session.form = next(known for known in FORMATS if known == form)
            case _:
                self._say(f"error: {' '.join(words)} is no command here; .help lists them")
        return True

    def _guard(self, work: Callable[[], None]) -> None:
        try:
            work()
        except StatementCancelled:
            self._say("cancelled")
        except PrombridgeError as error:
            self._say(f"error: {error}")


@contextlib.contextmanager
def history(path: Path) -> Iterator[None]:
    """Lines can be edited, and those of earlier sessions come back, where readline is there."""
    try:
        import readline  # noqa: PLC0415 - it takes over the terminal when it is imported
    except ImportError:
        yield
        return
    with contextlib.suppress(OSError):
        readline.read_history_file(path)
    readline.set_history_length(HISTORY_LINES)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            readline.write_history_file(path)
            path.chmod(0o600)


def history_path() -> Path:
    """Where what was typed is kept."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state"
    return Path(state) / "prombridge/sql_history"
