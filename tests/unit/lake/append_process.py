"""A process of its own that opens a lake and commits single samples, one position after another.

    python append_process.py LAKE CUT RECEIVER FIRST LAST

Prints the position after each commit that was reported. The value of a sample is its position, its
metric the receiver; the series is committed before the samples that need it.
"""

import sys
from pathlib import Path

import structlog

from bridge.lake.lake import Lake
from bridge.lake.store import open_store
from tests.unit.lake.made_files import one_sample, one_series


def say(line: str) -> None:
    """Tells the test."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def append(lake_uri: str, cut: Path, receiver_id: str, first: int, last: int) -> None:
    """Commits the positions from first to last."""
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    lake = Lake.open(open_store(lake_uri), single_writer=False, refresh_interval_s=5)
    say("open")
    sys.stdin.readline()  # all begin at once
    cut.mkdir(exist_ok=True)
    for position in range(first, last + 1):
        stem = f"f-{receiver_id}-{position}-{first}"
        lake.commit(
            "series",
            [one_series(cut / f"{stem}.series.parquet", receiver_id)],
            receiver_id=receiver_id,
            position=position,
        )
        lake.commit(
            "samples",
            [one_sample(cut / f"{stem}.parquet", receiver_id, value=position)],
            receiver_id=receiver_id,
            position=position,
        )
        say(str(position))
    lake.close()


if __name__ == "__main__":
    append(sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
