"""Results: one JSON line for each measurement, and Markdown tables of their medians.

    python -m benchmarks.report RESULTS.jsonl

prints the tables of all runs in a file; each command prints those of its own run.
"""

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.meter import machine

Row = dict[str, Any]

INGEST = {
    "samples_per_cpu_s": "samples per CPU-s",
    "ratio": "bridge x",
    "samples_per_cpu_s_until_answered": "until the last 2xx",
    "rss_mib": "peak RSS, MiB",
    "bytes_at_rest_per_sample": "B/sample at rest",
    "bytes_of_samples_per_sample": "samples alone",
    "bytes_written_per_sample": "B/sample written",
    "p50_ms": "p50, ms",
    "p99_ms": "p99, ms",
    "samples_per_s": "samples per s",
}
READS = {
    "samples": "samples",
    "cpu_ms": "CPU ms",
    "samples_per_cpu_s": "samples per CPU-s",
    "ratio": "bridge x",
    "bytes": "bytes",
    "p50_ms": "p50, ms",
    "max_ms": "max, ms",
    "rss_mib": "peak RSS, MiB",
}
KEYS = {"ingest": ("profile", "server"), "reads": ("profile", "case", "asked", "server")}
COLUMNS = {"ingest": INGEST, "reads": READS}


def record(path: Path | None, row: Row) -> None:
    """Appends a measurement with its date and kind of machine."""
    if path:
        stamped = {"date": datetime.now(UTC).isoformat("T", "seconds"), "machine": machine(), **row}
        with path.open("a") as file:
            file.write(json.dumps(stamped) + "\n")


def table(benchmark: str, rows: Sequence[Row]) -> str:
    """Markdown: medians over the repeats; `bridge x`: what the bridge does with as much CPU."""
    keys, columns = KEYS[benchmark], COLUMNS[benchmark]
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(str(row[key]) for key in keys), []).append(row)
    medians = {name: _medians(group, columns) for name, group in groups.items()}
    _add_ratios(medians)
    lines = [
        "| " + " | ".join([*keys, "n", *columns.values()]) + " |",
        "|---" * len(keys) + "|---:" * (1 + len(columns)) + "|",
    ]
    questions = list(dict.fromkeys(name[:-1] for name in groups))
    for name in sorted(groups, key=lambda name: questions.index(name[:-1])):
        numbers = [_render(medians[name].get(column)) for column in columns]
        lines.append("| " + " | ".join([*name, str(len(groups[name])), *numbers]) + " |")
    return "\n".join(lines)


def _medians(group: Sequence[Row], columns: Mapping[str, str]) -> dict[str, float]:
    return {
        column: statistics.median(row[column] for row in group)
        for column in columns
        if all(row.get(column) is not None for row in group)
    }


def _add_ratios(medians: dict[tuple[str, ...], dict[str, float]]) -> None:
    """How many times as much the bridge does with a CPU second."""
    for name, own in medians.items():
        bridge = medians.get((*name[:-1], "prombridge"))
        if bridge and "samples_per_cpu_s" in own:
            own["ratio"] = bridge["samples_per_cpu_s"] / own["samples_per_cpu_s"]


def _render(number: float | None) -> str:
    if number is None:
        return ""
    if number >= 1000:
        return f"{number:,.0f}".replace(",", " ")
    return f"{number:.3g}" if number < 100 else f"{number:.0f}"


def main() -> None:
    """Prints the tables of a file of results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path)
    rows = [json.loads(line) for line in parser.parse_args().results.read_text().splitlines()]
    for benchmark in COLUMNS:
        own = [row for row in rows if row["benchmark"] == benchmark]
        if own:
            print(f"{table(benchmark, own)}\n")


if __name__ == "__main__":
    main()
