"""What a year in one query costs: a dashboard asks for 1000 series at a step of 12 h.

    python -m benchmarks.long_reads -n 3 [--raw] [--data FOLDER] [--results RESULTS.jsonl]

Each expression goes as a range query to an empty Prometheus that has nothing but `remote_read`, and
the read request that it sends goes to the bridge alone as well, to tell their times apart.

    cold    a bridge that was started just now, nothing of its lake in the page cache
    warm    the same question again

The lakes (`long_lake.py`) are made the first time: three minutes and 4 GB. With `--raw` the same is
asked of the one with the same samples and no rollups, once and cold, and the answers of both
Prometheus servers are compared: that takes a quarter of an hour and 8 GiB of memory.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from benchmarks.contestants import Server, find, running
from benchmarks.fleet import DEFAULT_DATA
from benchmarks.long_lake import LongHistory, LongLakes, count_files, make_lakes
from benchmarks.long_questions import (
    QUESTIONS,
    TIMEOUT_S,
    Asked,
    Asker,
    Question,
    Values,
    compare,
    values_of,
)
from benchmarks.meter import MIB
from benchmarks.report import Row, record
from bridge.lake.schema import SAMPLES, SAMPLES_1H

WARM_COUNT = 5
IDLE_S_MAX = 60.0
BRIDGE, PROMETHEUS = "bridge", "prometheus3"
RAW_FLAGS = (
    "--read.max-samples=4000000000",
    "--read.max-query-bytes=4095MiB",
    "--read.timeout=15m",
)
"""A year of raw samples is ten times what one query may have."""


class LongReads:
    """Asks the lakes of one history."""

    def __init__(self, history: LongHistory, work: Path | None, flags: Sequence[str]) -> None:
        self._history = history
        self._work = work
        self._flags = flags

    def ask(
        self, lake: Path, question: Question, who: str, warm_count: int
    ) -> Iterator[tuple[str, Asked]]:
        """What a question costs cold, then warm."""
        with (
            tempfile.TemporaryDirectory(prefix="prombridge-long-", dir=self._work) as work,
            self._running_bridge(lake, Path(work)) as bridge,
            _running_reader(who, bridge, Path(work)) as prometheus,
        ):
            bridge.meter.wait_idle(IDLE_S_MAX)
            asker = Asker(bridge, prometheus)
            forget(lake)
            for number in range(1 + warm_count):
                yield "warm" if number else "cold", asker.ask(question, self._history)

    @contextmanager
    def _running_bridge(self, lake: Path, work: Path) -> Iterator[Server]:
        # Of an option that is given twice the last one counts.
        flags = ["--mode=read", f"--lake.uri={lake}", *self._flags]
        (contestant,) = find(["prombridge"], flags)
        with running(contestant, work / "bridge") as server:
            yield server


def forget(lake: Path) -> None:
    """Takes a lake out of the page cache."""
    os.sync()
    for path in lake.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)


@contextmanager
def _running_reader(who: str, bridge: Server, work: Path) -> Iterator[Server | None]:
    """A Prometheus without any samples of its own; None where the bridge is asked itself."""
    if who == BRIDGE:
        yield None
        return
    (contestant,) = find([who])
    config = work / "reading.yml"
    remote = {
        "url": f"{bridge.url}/api/v1/read",
        "read_recent": True,
        "remote_timeout": f"{TIMEOUT_S:.0f}s",
    }
    config.write_text(json.dumps({"remote_read": [remote]}))

    def command(port: int, folder: Path) -> list[str]:
        flags = contestant.command(port, folder)
        kept = [flag for flag in flags if not flag.startswith("--config.file=")]
        return [*kept, f"--config.file={config}", f"--query.timeout={TIMEOUT_S:.0f}s"]

    with running(replace(contestant, command=command), work / "prometheus") as server:
        yield server


def measure(options: argparse.Namespace, lakes: LongLakes) -> Iterator[tuple[Row, bytes | None]]:
    """All measurements, those of Prometheus with its answer."""
    ours = LongReads(lakes.history, options.work, options.bridge_flag)
    raw = LongReads(lakes.history, options.work, [*options.bridge_flag, *RAW_FLAGS])
    runs = [("rollups", ours, lakes.lake, WARM_COUNT)] * options.repeats
    if options.raw:
        runs.append(("raw", raw, lakes.raw, 0))
    for kind, reads, lake, warm_count in runs:
        for question in QUESTIONS:
            for who in (BRIDGE, PROMETHEUS):
                for state, asked in reads.ask(lake, question, who, warm_count):
                    row = {
                        "benchmark": "long_reads",
                        "history": lakes.history.name,
                        "expression": question.text,
                        "lake": kind,
                        "who": who,
                        "state": state,
                        "wall_ms": asked.wall_ms,
                        "cpu_ms": asked.cpu_ms,
                        "samples": asked.sample_count,
                        "bytes": asked.body_bytes,
                        "spans": asked.spans,
                    }
                    yield row, asked.answer


def show(rows: Sequence[Row], lakes: LongLakes) -> None:
    """Medians."""
    in_raw, in_lake = count_files(lakes.raw), count_files(lakes.lake)
    raw_count, window_count = in_raw[SAMPLES][1], in_lake[SAMPLES_1H][1]
    for name, tables in (("raw", in_raw), ("rollups", in_lake)):
        for table, (files, count, size) in tables.items():
            print(f"{name}: {table} has {files} files, {count} rows, {size / MIB:.0f} MiB")
    print(
        "\n| expression | lake | samples sent | a window of 1h | raw ones for each | bytes | "
        "bridge, ms: cold | warm | its CPU, ms: cold | warm | query, ms: cold | warm |\n"
        "|---|---|" + "--:|" * 10
    )
    for question in QUESTIONS:
        for kind in ("rollups", "raw"):
            wanted = {"expression": question.text, "lake": kind}
            found = [row for row in rows if wanted.items() <= row.items()]
            if not found:
                continue
            sent = _median(found, BRIDGE, "cold", "samples") or 0.0
            cells = [f"{sent:.0f}", f"{sent / window_count:.2f}", f"{raw_count / sent:.0f}"]
            cells += [
                _text(_median(found, who, state, column))
                for who, state, column in (
                    (BRIDGE, "cold", "bytes"),
                    (BRIDGE, "cold", "wall_ms"),
                    (BRIDGE, "warm", "wall_ms"),
                    (BRIDGE, "cold", "cpu_ms"),
                    (BRIDGE, "warm", "cpu_ms"),
                    (PROMETHEUS, "cold", "wall_ms"),
                    (PROMETHEUS, "warm", "wall_ms"),
                )
            ]
            print(f"| `{question.text}` | {kind} | " + " | ".join(cells) + " |")
    for question in QUESTIONS:
        own = {"expression": question.text, "lake": "rollups"}
        spans = {span for row in rows if own.items() <= row.items() for span in row["spans"]}
        print(f"`{question.text}` answered by {', '.join(sorted(spans)) or 'nothing that counts'}")


def _median(rows: Sequence[Row], who: str, state: str, column: str) -> float | None:
    wanted = {"who": who, "state": state}
    found = [row[column] for row in rows if wanted.items() <= row.items()]
    return statistics.median(found) if found else None


def _text(number: float | None) -> str:
    return "" if number is None else f"{number:.0f}"


def main() -> int:
    """Measures, prints tables; 1 if a step is missing beside raw, or there is one too many."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--series", type=int, default=1000)
    parser.add_argument("--months", type=int, default=12)
    parser.add_argument("--repeats", "-n", type=int, default=1)
    parser.add_argument("--raw", action="store_true", help="a lake without rollups beside it")
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA, help="where lakes are cached")
    parser.add_argument("--work", type=Path, help="where servers store, on a real disk")
    parser.add_argument("--results", type=Path, help="JSON lines are appended here")
    parser.add_argument(
        "--bridge-flag", action="append", default=[], help="as `prombridge serve` takes them"
    )
    options = parser.parse_args()
    lakes = make_lakes(options.data, LongHistory(options.series, options.months))
    rows: list[Row] = []
    answers: dict[tuple[str, str], Values] = {}
    for row, answer in measure(options, lakes):
        record(options.results, row)
        rows.append(row)
        if options.raw and answer is not None and row["state"] == "cold":
            answers[row["expression"], row["lake"]] = values_of(answer)
    show(rows, lakes)
    is_right = True
    for question in QUESTIONS if options.raw else ():
        found = compare(answers[question.text, "rollups"], answers[question.text, "raw"])
        is_right = is_right and not (found["missing"] or found["extra"])
        row = {"benchmark": "long_errors", "expression": question.text, **found}
        record(options.results, row)
        print(f"`{question.text}` beside raw: {found}")
    return 0 if is_right else 1


if __name__ == "__main__":
    sys.exit(main())
