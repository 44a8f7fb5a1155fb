"""A process of its own that maintains a lake, as the downsampler does.

    python maintain_process.py LAKE CUT [STEP]

Rolls up whatever is due until its stdin ends and nothing is due, and prints `done` for each pass
and `superseded` for each that another process was ahead of. With a STEP it kills itself after that
step of its first pass.
"""

import os
import signal
import sys
import threading
from pathlib import Path

import structlog

from bridge.lake.maintenance import MaintenanceLake, Superseded
from bridge.lake.store import open_store
from tests.unit.lake.made_maintenance import Maintenance


def say(line: str) -> None:
    """Tells the test."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def maintain(lake_uri: str, cut: Path, last_step: str) -> None:
    """Runs until it is told to end, or kills itself."""
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    cut.mkdir(exist_ok=True)

    def passed(step: str) -> None:
        if step == last_step:
            os.kill(os.getpid(), signal.SIGKILL)

    store = open_store(lake_uri)
    lake = MaintenanceLake.open(open_store(lake_uri))
    maintenance = Maintenance(store, lake, cut, passed)
    say("open")
    sys.stdin.readline()  # all begin at once
    ended = threading.Event()

    def wait_for_the_end() -> None:
        sys.stdin.read()
        ended.set()

    threading.Thread(target=wait_for_the_end, daemon=True).start()
    while True:
        is_last = ended.is_set()
        try:
            is_done = maintenance.run()
        except Superseded:
            say("superseded")
            continue
        if is_done:
            say("done")
        elif is_last:
            break
    lake.close()


if __name__ == "__main__":
    maintain(sys.argv[1], Path(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else "")
