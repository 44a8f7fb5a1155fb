"""`prombridge sql`: one statement, those of a pipe, or a shell."""

import argparse
import os
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from bridge.errors import ConfigError, PrombridgeError
from bridge.lake.settings import LakeSettings
from bridge.model.options import parse_size
from bridge.sql.answers import FORMATS, binary_stdout
from bridge.sql.connection import connect
from bridge.sql.pinned import parse_moment
from bridge.sql.shell import Session, Shell, history, history_path
from bridge.sql.statements import StatementCancelled

EPILOG = """\
  prombridge sql "SELECT count(*) FROM samples WHERE metric = 'up'"
  prombridge sql --format=csv --output=up.csv "SELECT * FROM samples WHERE metric = 'up'"
  prombridge sql < statements.sql

Without a statement, on a terminal, it is a shell; .help there tells more.
"""

CANCELLED = 130
"""As a shell says that a program was ended by Ctrl-C: 128 + SIGINT."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command beside those of the lake."""
    parser.add_argument("statement", nargs="?", metavar="STATEMENT", help="SQL to run")
    parser.add_argument(
        "--format",
        choices=FORMATS,
        default="table",
        help="of the answer; NaN and infinities are null in json. Default: table.",
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="file for the answer of the last statement"
    )
    parser.add_argument(
        "--as-of",
        metavar="TIME",
        help="the lake as it was then: RFC 3339 or Unix seconds; as far back as vacuum lets",
    )
    parser.add_argument(
        "--memory-limit",
        metavar="SIZE",
        default="2GiB",
        help="memory of DuckDB, which writes to the disk beyond it. Default: 2GiB.",
    )
    parser.add_argument(
        "--threads", type=int, metavar="COUNT", help="threads of DuckDB. Default: as many as cores."
    )


def run(lake: LakeSettings, given: Mapping[str, Any]) -> int:
    """Runs the command.

    Args:
        lake: where it lies.
        given: what the arguments say.

    Returns:
        the exit code: 0 fine, 1 a statement failed, 130 it was cancelled.

    Raises:
        PrombridgeError: the lake cannot be opened, or an option is wrong.
    """
    output: Path | None = given["output"]
    if output is not None:
        _check_output(output, lake.uri)
    if given["as_of"] is not None:
        parse_moment(given["as_of"])
    is_typed = given["statement"] is None and sys.stdin.isatty()
    if given["format"] == "parquet" and output is None and sys.stdout.isatty():
        raise ConfigError("--format=parquet is not for a terminal; add --output=FILE")
    if is_typed and output is not None:
        raise ConfigError("--output needs a statement")
    opened = partial(
        connect,
        lake.uri,
        dict(lake.storage_options),
        as_of=given["as_of"],
        memory_limit=f"{parse_size(given['memory_limit'])}B",
        threads=given["threads"],
        cache_path=lake.cache_path,
        cache_max_bytes=lake.cache_max_bytes,
    )
    session = Session(opened, binary_stdout(), given["format"])
    try:
        if is_typed:
            shell = Shell(session, _say)
            _say(f"prombridge {lake.uri}; .help tells more")
            with history(history_path()):
                shell.interact(input)
            return 0
        text = sys.stdin.read() if given["statement"] is None else given["statement"]
        if output is None:
            session.run(text)
        else:
            session.run_into(text, output)
    except BrokenPipeError:
        # `| head` has seen enough; nothing may be flushed into it at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (StatementCancelled, KeyboardInterrupt):
        return CANCELLED
    except OSError as error:
        raise PrombridgeError(f"the answer cannot be written: {error}") from error
    finally:
        session.close()
    return 0


def _say(text: str) -> None:
    print(text, file=sys.stderr)  # noqa: T201 - answers alone go to stdout


def _check_output(output: Path, uri: str) -> None:
    if "://" in uri.removeprefix("file://"):
        return
    if output.resolve().is_relative_to(Path(uri.removeprefix("file://")).resolve()):
        raise ConfigError(f"--output: {output} lies in the lake, which is only read")
