"""The command line: `prombridge serve`, `downsample`, `sql`, `check-config`."""

import argparse
import importlib.metadata
import sys
from collections.abc import Collection, Sequence
from pathlib import Path

from bridge import config
from bridge.errors import PrombridgeError
from bridge.model.options import parse_instant_ms
from bridge.sql import command as sql_command
from bridge.telemetry import configure_logging

_EPILOG = """\
Every option stands in the configuration file under the same name, with underscores:

  --lake.flush-interval=60s        lake:
                                     flush_interval: 60s

A flag wins over the file. Durations: 500ms, 60s, 5m, 1h30m, 30d. Sizes: 64KiB, 128MiB, 8GiB.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Returns:
        the exit code: 0 fine, 1 it failed, 2 the command line is wrong.
    """
    parser = _parser()
    parsed, unknown = parser.parse_known_args(arguments)
    if unknown:
        # By their names alone: a value may be a secret that was meant for another option (LAKE-11).
        names = [text.partition("=")[0] for text in unknown if text.startswith("-")]
        parser.error(f"unknown arguments: {', '.join(names) or len(unknown)}")
    try:
        if parsed.command == "check-config":
            config.load(parsed.file, {})
            print(f"{parsed.file} is valid")  # noqa: T201 - the answer of the command
            return 0
        given = vars(parsed)
        flags = {
            item.place: given[item.place]
            for item in config.options()
            if given.get(item.place) is not None
        }
        settings = config.load(given["config.file"], flags)
        if parsed.command == "sql":
            configure_logging("warn", settings.log.format)
            return sql_command.run(settings.lake, given)
        if parsed.command == "downsample":
            from downsample.process import run_downsample  # noqa: PLC0415

            configure_logging(settings.log.level, settings.log.format)
            return run_downsample(
                settings.lake,
                settings.downsample,
                settings.retention,
                is_once=parsed.once,
                is_dry_run=parsed.dry_run,
                now_ms=None if parsed.now is None else parse_instant_ms(parsed.now),
            )
        # Only what a command needs: workers of `downsample` import this module once more.
        from bridge.app import serve  # noqa: PLC0415

        return serve(settings)
    except PrombridgeError as error:
        print(f"prombridge: {error}", file=sys.stderr)  # noqa: T201 - before logs are set up
        return 1


def _parser() -> argparse.ArgumentParser:
    version = importlib.metadata.version("prombridge")
    parser = argparse.ArgumentParser(
        prog="prombridge",
        description="The long-term memory of Prometheus: takes remote write, keeps it as Parquet "
        "in a Delta lake, answers remote read.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"prombridge {version}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    serve_parser = commands.add_parser(
        "serve",
        help="receive remote write, keep it, answer remote read",
        description="Receives remote write, keeps it, answers remote read.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _add_options(serve_parser)
    downsample_parser = commands.add_parser(
        "downsample",
        help="roll up, compact, and let go of what is old",
        description="Makes rollups of 5m and 1h, compacts, and applies retention, until it is "
        "stopped. It takes the options of serve, and heeds lake, downsample, retention and log.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    downsample_parser.add_argument(
        "--once", action="store_true", help="do all that is due, then exit"
    )
    downsample_parser.add_argument(
        "--dry-run", action="store_true", help="print what is due, change nothing"
    )
    downsample_parser.add_argument(
        "--now", metavar="TIME", help="where the clock begins: RFC 3339 or Unix seconds"
    )
    _add_options(downsample_parser)
    sql_parser = commands.add_parser(
        "sql",
        help="ask the lake in SQL",
        description="Runs SQL over the lake: one statement, those of a pipe, or a shell.",
        epilog=sql_command.EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    sql_command.add_arguments(sql_parser)
    _add_options(sql_parser, only={"lake"})
    check_parser = commands.add_parser(
        "check-config",
        help="check a configuration file",
        description="Checks a configuration file: prints nothing but its name if it is valid, "
        "else the place that is wrong and what is allowed there.",
    )
    check_parser.add_argument("file", type=Path, metavar="FILE")
    return parser


def _add_options(parser: argparse.ArgumentParser, only: Collection[str] = ()) -> None:
    """The configuration file, and a flag for each of its options, or for those of some sections."""
    parser.add_argument(
        "--config.file",
        type=Path,
        metavar="FILE",
        help="configuration file in YAML; none by default",
    )
    groups = {
        section: parser.add_argument_group(f"{section}: {(kind.__doc__ or '').strip()}")
        for section, kind in config.sections()
        if not only or section in only
    }
    for item in config.options():
        if only and item.section not in only:
            continue
        shown = item.default_text or "none"
        group = groups[item.section] if item.section else parser
        group.add_argument(
            item.flag,
            dest=item.place,
            action="append" if item.is_repeatable else "store",
            metavar="KEY=VALUE" if item.is_repeatable else item.key.upper(),
            help=f"{item.text} Default: {shown}.".replace("%", "%%"),
        )
