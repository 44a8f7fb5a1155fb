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
    parsed = parser.parse_args(arguments)
    try:
        if parsed.command == "check-config":
            config.load(parsed.file, {})
            print(f"{parsed.file} is valid")  # noqa: T201 - the answer of the command
            return 0
        flags = {
            place: text
            for place, text in vars(parsed).items()
            if "." in place and text is not None and place != "config.file"
        }
        return serve(config.load(vars(parsed)["config.file"], flags))
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
        groups[item.section].add_argument(
            item.flag,
            dest=item.place,
            metavar=item.key.upper(),
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
