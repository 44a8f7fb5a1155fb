"""What a downsampling costs beside Thanos' compactor, which does it with the same samples.

    tests/servers/build.sh thanos
    python -m benchmarks.downsample [weeks 15s linear hours day] [-n 3] [--work FOLDER]

    weeks    290 series x 20 days at a scrape a minute: 8.4 M samples
    15s      87 series x 20 days at a scrape every 15 s: 10 M
    linear   1, 10 and 30 M samples of 20 days at a scrape a minute
    hours    290 and 1042 series x 21 days in flush files of an hour, blocks of 2 h
    day      one day of 20833 series, 30 M samples, in 24 files: memory under downsample.memory

`prombridge downsample --once` runs on a lake of flush files, `thanos compact --no-wait` on a
bucket in a folder with one block (`history.py`). Both make 5m and 1h. Ours also compacts the raw
samples, which Thanos does in `hours` alone: else its block is one already. There it makes larger
blocks of 20 days, 14 of which come to 1h, and leaves the last day for later. `stages.py` tells what
our parts take.

CPU seconds are user and system time of the process and of all that it started, from start to end;
`at rest` is a run that finds nothing to do, so the difference is the work. The peak is that of the
largest process, by the kernel (VmHWM), looked at every 20 ms. A row of Thanos is what it counts as
a sample of the level: a window of a series with all that it keeps of it.
"""

import argparse
import ctypes
import json
import os
import resource
import shutil
import statistics
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable

from benchmarks.contestants import REPOSITORY
from benchmarks.fleet import DAY_MS, DEFAULT_DATA
from benchmarks.history import BLOCK_HOURS, START_MS, History, make_blocks, make_lake
from benchmarks.meter import disk_bytes
from benchmarks.report import record
from bridge.lake.schema import SAMPLES, SAMPLES_1H, SAMPLES_5M

LOOK_S = 0.02
PR_SET_CHILD_SUBREAPER = 36
TICKS = os.sysconf("SC_CLK_TCK")
LEVELS = {"raw": SAMPLES, "5m": SAMPLES_5M, "1h": SAMPLES_1H}
CASES = {
    "weeks": [History(290)],
    "15s": [History(87, interval_ms=15_000)],
    "linear": [History(35), History(347), History(1042)],
    "hours": [History(290, 21, flush_count=24), History(1042, 21, flush_count=24)],
    "day": [History(20_833, 1, flush_count=24)],
}
ALONE = "day"
"""Too short for Thanos."""
RESOLUTIONS = {0: "raw", 300_000: "5m", 3_600_000: "1h"}


@dataclass(frozen=True, slots=True)
class Used:
    """What a command used.

    Attributes:
        cpu_s: user and system time of all its processes.
        first_cpu_s: of the process that was started, about: the coordinator.
        rss_mib: peak memory of the largest process.
        total_rss_mib: peak of the sum.
    """

    cpu_s: float
    first_cpu_s: float
    rss_mib: float
    total_rss_mib: float


def run(command: Sequence[str | Path], log: Path) -> Used:
    """Runs a command to its end, and all that it started to theirs."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with log.open("ab") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
    ticks: dict[int, int] = {}
    peaks: dict[int, int] = {}
    total_max = 0
    while process.poll() is None:
        total = 0
        for pid in _tree(process.pid):
            with suppress(OSError, ValueError, IndexError):
                stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                ticks[pid] = int(stat[11]) + int(stat[12])
                status = Path(f"/proc/{pid}/status").read_text()
                peaks[pid] = _kib(status, "VmHWM")
                total += _kib(status, "VmRSS")
        total_max = max(total_max, total)
        time.sleep(LOOK_S)
    # Whatever it left behind is a child of this process now.
    with suppress(ChildProcessError):
        while True:
            os.wait()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if process.returncode:
        raise SystemExit(f"{command} ended with {process.returncode}:\n{log.read_text()[-3000:]}")
    return Used(
        after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        ticks.get(process.pid, 0) / TICKS,
        max(peaks.values(), default=0) / 1024,
        total_max / 1024,
    )


def run_bridge(history: History, data: Path, work: Path, flags: Sequence[str]) -> dict[str, object]:
    """`prombridge downsample` on a copy of the lake."""
    lake = work / "lake"
    shutil.copytree(make_lake(data, history), lake)
    now_s = (START_MS + (history.day_count + 1) * DAY_MS) // 1000
    command = [
        str(REPOSITORY / ".venv" / "bin" / "prombridge"),
        "downsample",
        "--once",
        f"--now={now_s}",
        f"--lake.uri={lake}",
        f"--downsample.scratch-path={work / 'scratch'}",
        *flags,
    ]
    used = run(command, work / "prombridge.log")
    rows, sizes = _tables(lake)
    if rows["raw"] != history.sample_count or _counted(lake) != [history.sample_count] * 2:
        raise SystemExit(f"{rows} rows of {history.sample_count} samples, counts {_counted(lake)}")
    idle = run(command, work / "prombridge-idle.log")
    return _row("prombridge", history, used, idle, rows, sizes)


def run_thanos(history: History, data: Path, work: Path) -> dict[str, object]:
    """`thanos compact` on a bucket with the block."""
    bucket = work / "bucket"
    thanos = str(REPOSITORY / ".servers" / "thanos")
    # It leaves a note there that the block is uploaded.
    hours = BLOCK_HOURS if history.flush_count == 1 else 2
    shutil.copytree(make_blocks(data, history, hours), work / "blocks")
    config = f"--objstore.config={{type: FILESYSTEM, config: {{directory: {bucket}}}}}"
    run(
        [
            thanos,
            *("tools", "bucket", "upload-blocks", config, '--label=replica="a"'),
            f"--path={work / 'blocks'}",
        ],
        work / "upload.log",
    )
    command = [
        thanos,
        *("compact", config, f"--data-dir={work / 'compact'}", "--http-address=127.0.0.1:0"),
        *("--no-wait", "--consistency-delay=0s", "--delete-delay=0s"),
    ]
    used = run(command, work / "thanos.log")
    idle = run(command, work / "thanos-idle.log")
    rows: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for meta_path in bucket.glob("*/meta.json"):
        meta = json.loads(meta_path.read_text())
        level = RESOLUTIONS[meta["thanos"]["downsample"]["resolution"]]
        rows[level] += meta["stats"]["numSamples"]
        sizes[level] += disk_bytes(meta_path.parent)
    if sizes.keys() != LEVELS.keys() or rows["raw"] != history.sample_count:
        raise SystemExit(f"Thanos made {rows}:\n{(work / 'thanos.log').read_text()[-3000:]}")
    return _row("Thanos", history, used, idle, rows, sizes)


def measure(case: str, options: argparse.Namespace) -> list[dict[str, object]]:
    """All histories of a case, each contestant in turn."""
    found = []
    for repeat in range(options.repeats):
        for history in CASES[case]:
            with tempfile.TemporaryDirectory(dir=options.work, prefix="downsample-") as name:
                made = [run_bridge(history, options.data, Path(name), options.bridge_flag)]
            if case != ALONE and not options.alone:
                with tempfile.TemporaryDirectory(dir=options.work, prefix="downsample-") as name:
                    made.append(run_thanos(history, options.data, Path(name)))
            for row in made:
                row |= {"benchmark": "downsample", "case": case, "repeat": repeat}
                record(options.results, row)
            found += made
    return found


def show(rows: Sequence[dict[str, object]]) -> None:
    """The medians of a case."""
    print(
        "| case | samples | who | CPU, s | at rest | M samples per CPU-s | beyond rest | of the "
        "coordinator, s | peak, MiB | all | B/sample | B/5m row | B/1h row |\n"
        "|---|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|"
    )
    keys = list(dict.fromkeys((row["case"], row["samples"], row["who"]) for row in rows))
    for key in keys:
        own = [row for row in rows if (row["case"], row["samples"], row["who"]) == key]
        cpu_s, idle_s, first_s, rss, total = (
            statistics.median(float(str(row[name])) for row in own)
            for name in ("cpu_s", "idle_cpu_s", "first_cpu_s", "rss_mib", "total_rss_mib")
        )
        samples = int(str(key[1]))
        sizes = [float(str(own[0][f"bytes_per_row_{level}"])) for level in LEVELS]
        print(
            f"| {key[0]} | {samples / 1e6:.1f} M | {key[2]} | {cpu_s:.2f} | {idle_s:.2f} | "
            f"{samples / cpu_s / 1e6:.2f} | {samples / (cpu_s - idle_s) / 1e6:.2f} | "
            f"{first_s:.2f} | {rss:.0f} | {total:.0f} | "
            + " | ".join(f"{size:.2f}" for size in sizes)
            + " |",
            flush=True,
        )


def _row(
    who: str,
    history: History,
    used: Used,
    idle: Used,
    rows: dict[str, int],
    sizes: dict[str, int],
) -> dict[str, object]:
    return {
        "who": who,
        "samples": history.sample_count,
        "cpu_s": used.cpu_s,
        "idle_cpu_s": idle.cpu_s,
        "first_cpu_s": used.first_cpu_s,
        "rss_mib": used.rss_mib,
        "total_rss_mib": used.total_rss_mib,
        **{f"rows_{level}": rows[level] for level in LEVELS},
        **{f"bytes_per_row_{level}": sizes[level] / rows[level] for level in LEVELS},
    }


def _tables(lake: Path) -> tuple[dict[str, int], dict[str, int]]:
    """Rows and bytes of each level, as the log says."""
    rows, sizes = {}, {}
    for level, table in LEVELS.items():
        files = pa.table(DeltaTable(str(lake / table)).get_add_actions(flatten=True))
        rows[level] = sum(files["num_records"].to_pylist())
        sizes[level] = sum(files["size_bytes"].to_pylist())
    return rows, sizes


def _counted(lake: Path) -> list[int]:
    """Samples in the rows of 5m and 1h."""
    counted = []
    for table in (SAMPLES_5M, SAMPLES_1H):
        rows = DeltaTable(str(lake / table)).to_pyarrow_table(columns=["count"])
        counted.append(int(pc.sum(rows["count"]).as_py()))
    return counted


def _tree(pid: int) -> list[int]:
    found = [pid]
    for one in found:
        for path in Path(f"/proc/{one}/task").glob("*/children"):
            with suppress(OSError):
                found += map(int, path.read_text().split())
    return found


def _kib(status: str, name: str) -> int:
    return int(status.partition(f"{name}:")[2].split()[0])


def main() -> None:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("cases", nargs="*", choices=[*CASES, []], default=list(CASES))
    parser.add_argument("--repeats", "-n", type=int, default=1)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA, help="where samples are cached")
    parser.add_argument("--work", type=Path, help="where both store, on a real disk")
    parser.add_argument("--results", type=Path, help="JSON lines are appended here")
    parser.add_argument("--alone", action="store_true", help="without Thanos")
    parser.add_argument(
        "--bridge-flag", action="append", default=[], help="as `prombridge downsample` takes them"
    )
    options = parser.parse_args()
    prctl: Callable[..., int] = ctypes.CDLL(None).prctl
    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    rows = [row for case in options.cases for row in measure(case, options)]
    show(rows)


if __name__ == "__main__":
    main()
