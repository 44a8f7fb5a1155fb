"""The command line: `prombridge serve`, `prombridge check-config`."""

import argparse
import importlib.metadata
import sys
from collections.abc import Sequence
from pathlib import Path

from bridge import config
from bridge.app import serve
from bridge.errors import PrombridgeError

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
            if given[item.place] is not None
        }
        return serve(config.load(given["config.file"], flags))
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
    serve_parser.add_argument(
        "--config.file",
        type=Path,
        metavar="FILE",
        help="configuration file in YAML; none by default",
    )
    groups = {
        section: serve_parser.add_argument_group(f"{section}: {(kind.__doc__ or '').strip()}")
        for section, kind in config.sections()
    }
    for item in config.options():
        shown = item.default_text or "none"
        group = groups[item.section] if item.section else serve_parser
        group.add_argument(
            item.flag,
            dest=item.place,
            action="append" if item.is_repeatable else "store",
            metavar="KEY=VALUE" if item.is_repeatable else item.key.upper(),
            help=f"{item.text} Default: {shown}.".replace("%", "%%"),
        )
    check_parser = commands.add_parser(
        "check-config",
        help="check a configuration file",
        description="Checks a configuration file: prints nothing but its name if it is valid, "
        "else the place that is wrong and what is allowed there.",
    )
    check_parser.add_argument("file", type=Path, metavar="FILE")
    return parser
