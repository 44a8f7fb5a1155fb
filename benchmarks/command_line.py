"""The options that the measuring commands share."""

import argparse
import signal
from collections.abc import Sequence
from pathlib import Path

from benchmarks.fleet import DEFAULT_DATA


def command_line(document: str, profiles: Sequence[str]) -> argparse.ArgumentParser:
    """A parser for workloads, servers and results.

    Args:
        document: of the command's module.
        profiles: workloads that are measured if none is named.
    """
    # A `with` block stops the servers then, as it does after Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    parser = argparse.ArgumentParser(description=document.splitlines()[0])
    parser.add_argument("profile", nargs="*", default=profiles, help="default: %(default)s")
    parser.add_argument(
        "--servers", default="prombridge,prometheus3", help="in this order; default: %(default)s"
    )
    parser.add_argument("--repeats", "-n", type=int, default=1)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA, help="where bodies are cached")
    parser.add_argument("--work", type=Path, help="where servers store, on a real disk")
    parser.add_argument("--results", type=Path, help="JSON lines are appended here")
    parser.add_argument(
        "--bridge-flag", action="append", default=[], help="as `prombridge serve` takes them"
    )
    return parser
