"""`prombridge downsample` as a process of its own, and what it leaves in a lake, in other eyes.

The tables are read by delta-rs and Arrow, without the bridge. What should be in them is said by the
samples that were sent and by the naive oracle: each sample once, and of each series the rows that
`tests.oracle.rollup` makes of it.
"""

import datetime as dt
import math
import subprocess
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tests.integration.bridge import Place, environment_of
from tests.integration.made_data import Block
from tests.integration.processes import REPOSITORY
from tests.integration.remote import Labels, Sample
from tests.oracle.rollup import FIVE_MINUTES_MS, HOUR_MS, Row, float_of, roll_up

WINDOWS_MS = {"samples_5m": FIVE_MINUTES_MS, "samples_1h": HOUR_MS}
RUN_S_MAX = 180.0
FAULTS_MAX = 10
# Of sums that were added up in another order; see the tables' documentation.
SUM_TOLERANCE_RATIO = 1e-12
_SUMS = ("sum", "reset_drop")
Series = Mapping[Labels, Sequence[Sample]]


class Downsampler:
    """The command over one lake.

    Args:
        folder: for its scratch folder.
        lake: which.
        flags: added to the command line.
    """

    def __init__(self, folder: Path, lake: Place, flags: Sequence[str] = ()) -> None:
        self._lake = lake
        self._command = [
            sys.executable,
            "-m",
            "bridge",
            "downsample",
            f"--lake.uri={lake.uri}",
            f"--downsample.scratch-path={folder / 'scratch'}",
            "--log.format=json",
            *flags,
        ]

    def start(self, *arguments: str, now_ms: int | None = None) -> subprocess.Popen[str]:
        """Starts it; its output is to be read by the caller.

        Args:
            arguments: such as `--once`.
            now_ms: where its clock begins; the real one by default.
        """
        now = [] if now_ms is None else [f"--now={instant(now_ms)}"]
        return subprocess.Popen(
            [*self._command, *arguments, *now],
            cwd=REPOSITORY,
            env=environment_of(self._lake),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def once(self, *arguments: str, now_ms: int | None = None, is_blocked: bool = False) -> str:
        """Does all that is due; what it said. Fails where it does, or where nothing is blocked."""
        process = self.start("--once", *arguments, now_ms=now_ms)
        said = wait_for(process)
        assert process.returncode == is_blocked, f"{process.returncode}:\n{said[-4000:]}"
        return said


def wait_for(process: subprocess.Popen[str]) -> str:
    """What a downsampler has said when it has ended; ends it where it takes too long."""
    try:
        said, _ = process.communicate(timeout=RUN_S_MAX)
    except subprocess.TimeoutExpired:
        process.kill()
        said, _ = process.communicate()
        raise AssertionError(f"it ran on after {RUN_S_MAX:g} s:\n{said[-4000:]}") from None
    return said


def instant(time_ms: int) -> str:
    """RFC 3339."""
    return dt.datetime.fromtimestamp(time_ms / 1000, dt.UTC).isoformat(timespec="milliseconds")


def joined(blocks: Iterable[Block]) -> dict[Labels, list[Sample]]:
    """Blocks as one; labels as they are stored, without empty ones."""
    series: dict[Labels, list[Sample]] = {}
    for block in blocks:
        for labels, samples in block.items():
            key = tuple(sorted(label for label in labels if label[1]))
            series.setdefault(key, []).extend(samples)
    return series


# What is in the tables


def open_table(lake: Place, table: str, version: int | None = None) -> Any:
    """A table's rows as Arrow."""
    delta = lake.table(table)
    if version is not None:
        delta.load_as_version(version)
    return pa.table(delta.to_pyarrow_table())


def file_names(lake: Place, table: str) -> list[str]:
    """Names of the files that count, sorted."""
    try:
        uris = lake.table(table).file_uris()
    except FileNotFoundError:
        return []
    return sorted(uri.rpartition("/")[2] for uri in uris)


def labels_by_id(lake: Place) -> dict[tuple[str, int], Labels]:
    """Labels by metric and series id."""
    rows = open_table(lake, "series").select(["metric", "series_id", "labels"]).to_pylist()
    return {(row["metric"], row["series_id"]): tuple(sorted(row["labels"])) for row in rows}


def stored_samples(lake: Place) -> dict[Labels, Counter[Sample]]:
    """How often each sample is there; replicas are taken for one."""
    labels_of = labels_by_id(lake)
    table = open_table(lake, "samples").select(["metric", "series_id", "timestamp_ms", "value"])
    found: dict[Labels, Counter[Sample]] = {}
    for metric, number, time_ms, value in zip(*map(_numbers, table.columns), strict=True):
        found.setdefault(labels_of[metric, number], Counter())[time_ms, value] += 1
    return found


def stored_rollups(lake: Place, name: str) -> dict[Labels, list[Row]]:
    """The rows of each series, by time."""
    labels_of = labels_by_id(lake)
    names = ["metric", "series_id", *(field.name for field in fields(Row))]
    table = open_table(lake, name).select(names)
    found: dict[Labels, list[Row]] = {}
    for metric, number, *own in zip(*map(_numbers, table.columns), strict=True):
        found.setdefault(labels_of[metric, number], []).append(Row(*own))
    for rows in found.values():
        rows.sort(key=lambda row: row.window_end_ms)
    return found


def _numbers(column: Any) -> list[Any]:
    """A column as Python's, floats as their bits."""
    whole = column.combine_chunks()
    if not pa.types.is_float64(whole.type):
        return list(whole.to_pylist())
    bits = pc.fill_null(whole, 0.0).to_numpy(zero_copy_only=False).view("<u8").tolist()
    return [
        pattern if valid else None
        for pattern, valid in zip(bits, whole.is_valid().to_pylist(), strict=True)
    ]


def samples_at_each_version(lake: Place, first: int) -> Iterator[tuple[int, int, int]]:
    """Version, rows, and different rows of `samples`, from a version up to the newest."""
    newest = lake.table("samples").version()
    for version in range(first, newest + 1):
        table = open_table(lake, "samples", version)
        keys = ["metric", "series_id", "timestamp_ms"]
        yield version, table.num_rows, table.group_by(keys).aggregate([]).num_rows


# What should be


def check_whole(lake: Place, series: Series, *, is_merged: bool = False) -> None:
    """Each sample is there once, and the rollups are what the oracle makes of them."""
    check_samples(lake, series)
    for table in WINDOWS_MS:
        check_rollups(lake, table, series, is_merged=is_merged)


def check_samples(lake: Place, series: Series) -> None:
    """Each sample is there, once, and no other."""
    expected = {labels: Counter(samples) for labels, samples in series.items()}
    assert all(count == 1 for own in expected.values() for count in own.values()), "sent twice"
    found = stored_samples(lake)
    _check_keys(expected, found, "samples")
    faults = [
        f"{labels}: {sum((wanted - there).values())} are missing, "
        f"{sum((there - wanted).values())} too many"
        for labels, wanted in expected.items()
        if (there := found[labels]) != wanted
    ]
    _check_none(faults, "samples")


def check_rollups(
    lake: Place,
    table: str,
    series: Series,
    *,
    is_merged: bool = False,
    left_out: Collection[str] = (),
) -> None:
    """The rows of every series.

    Args:
        is_merged: late samples were merged into rows: sums may differ in their last bits.
        left_out: columns that are not looked at: between samples that are gone and late ones
            nobody can tell all resets.
    """
    found = stored_rollups(lake, table)
    expected = {labels: roll_up(own, WINDOWS_MS[table]) for labels, own in series.items()}
    _check_keys(expected, found, table)
    faults = []
    for labels, rows in expected.items():
        by_end = {row.window_end_ms: row for row in found[labels]}
        if len(by_end) != len(found[labels]):
            faults.append(f"{labels}: windows are there twice")
        wanted = {row.window_end_ms: row for row in rows}
        faults += [
            f"{labels}: {by_end.get(end_ms)} instead of {wanted.get(end_ms)}"
            for end_ms in sorted(by_end.keys() | wanted.keys())
            if not _is_same(wanted.get(end_ms), by_end.get(end_ms), left_out, is_merged=is_merged)
        ]
    _check_none(faults, table)


def _is_same(
    expected: Row | None, found: Row | None, left_out: Collection[str], *, is_merged: bool
) -> bool:
    if expected == found:
        return True
    if expected is None or found is None:
        return False
    return all(
        left == right
        or field.name in left_out
        or (is_merged and field.name in _SUMS and _is_near(left, right))
        for field in fields(Row)
        for left, right in [(getattr(expected, field.name), getattr(found, field.name))]
    )


def _is_near(left: int | None, right: int | None) -> bool:
    if left is None or right is None:
        return False
    return math.isclose(float_of(left), float_of(right), rel_tol=SUM_TOLERANCE_RATIO)


def _check_keys(expected: Mapping[Labels, Any], found: Mapping[Labels, Any], table: str) -> None:
    faults = [f"no {labels}" for labels in expected.keys() - found.keys()]
    faults += [f"unknown {labels}" for labels in found.keys() - expected.keys()]
    _check_none(faults, table)


def _check_none(faults: Sequence[str], table: str) -> None:
    assert not faults, f"{table}: {len(faults)} faults:\n" + "\n".join(faults[:FAULTS_MAX])
