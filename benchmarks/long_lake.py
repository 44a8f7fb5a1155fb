"""A lake of many months, as receivers and the downsampler leave it, and the raw samples of it.

    made samples ──(write_samples, commit)──> raw: a flush file a day, nothing else
                                               │ links to the same files
                                               └──(prombridge downsample --once, twice)──> lake

`lake` has samples_1h in one sorted set a month, samples_5m and raw samples as long as the retention
says (180 and 30 days); `raw` is what a lake without rollups would have to answer from. Both end at
the end of a month that is past, so that they are the same whenever they are made.

One metric, `x`. Half of the series are counters, half gauges, none stays as it is: what rollups
cost is not flattered by constants. About once a month a target restarts: a stale marker, four
scrapes or three hours without samples, then a counter counts from zero. Scrapes jitter as those of
the fleet do.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import xxhash
from deltalake import DeltaTable
from numpy.typing import NDArray

from benchmarks.contestants import REPOSITORY
from benchmarks.fleet import DAY_MS, LATE_MS_MAX, LATE_RATIO, SEED, STALE_BITS
from benchmarks.waveforms import draw
from bridge.lake.data_file import DataFile
from bridge.lake.folder_store import FolderStore
from bridge.lake.lake import Lake
from bridge.lake.parquet import SeriesBatch, write_samples, write_series
from bridge.lake.schema import SAMPLES, SAMPLES_1H, SAMPLES_5M, SERIES
from bridge.wire.decoded import LabelRows

METRIC = "x"
JOB_COUNT = 10
END = date(2026, 5, 1)
KINDS = (
    *("counter", "counter", "centisecond", "nanosecond"),
    *("gauge", "gauge", "decimal", "noise"),
)
COUNTERS = ("counter", "centisecond", "nanosecond")
SECONDS_DECIMALS = 9
RESTARTS_PER_MONTH = 1.0
MISSED_SCRAPES = (4, 4, 4, 180)
"""One restart in four takes so long that windows of both levels stay empty."""
RESTART_ROOM = 300
"""Restarts begin in the first fifth of so many scrapes."""
LATE_INTERVAL_S = 2 * 3600
"""More than the downsampler waits before it merges the months of what it has just written."""


@dataclass(frozen=True, slots=True)
class LongHistory:
    """How much of it.

    Attributes:
        series_count: series.
        month_count: whole months before `END`.
        interval_ms: between scrapes.
    """

    series_count: int = 1000
    month_count: int = 12
    interval_ms: int = 60_000

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"long-{self.series_count}-x-{self.month_count}m-{self.interval_ms // 1000}s"

    @property
    def months(self) -> list[date]:
        """First day of each month and of the one behind them."""
        last = END.year * 12 + END.month - 1
        numbers = range(last - self.month_count, last + 1)
        return [date(number // 12, number % 12 + 1, 1) for number in numbers]

    @property
    def start_ms(self) -> int:
        """Unix ms at which the first day begins."""
        return unix_ms(self.months[0])

    @property
    def end_ms(self) -> int:
        """Unix ms at which the last day ends."""
        return unix_ms(END)


@dataclass(frozen=True, slots=True)
class LongLakes:
    """What was made.

    Attributes:
        history: how much.
        raw: the lake without rollups.
        lake: the one with them.
    """

    history: LongHistory
    raw: Path
    lake: Path


def unix_ms(day: date) -> int:
    """Midnight in UTC."""
    return round(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp() * 1000)


def make_lakes(data: Path, history: LongHistory) -> LongLakes:
    """Both lakes, made if they are not there yet; not to be changed."""
    folder = data / history.name
    lakes = LongLakes(history, folder / "raw", folder / "lake")
    if not (folder / "raw-done").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        _make_raw(folder, history)
        (folder / "raw-done").touch()
    if not (folder / "lake-done").exists():
        shutil.rmtree(lakes.lake, ignore_errors=True)
        _roll_up(lakes)
        (folder / "lake-done").touch()
    return lakes


def count_files(lake: Path) -> dict[str, tuple[int, int, int]]:
    """Files, rows and bytes of each table with samples, as the log says."""
    found = {}
    for table in (SAMPLES, SAMPLES_5M, SAMPLES_1H):
        if (lake / table / "_delta_log").exists():
            files = pa.table(DeltaTable(str(lake / table)).get_add_actions(flatten=True))
            rows, sizes = files["num_records"].to_pylist(), files["size_bytes"].to_pylist()
            found[table] = (len(rows), sum(rows), sum(sizes))
    return found


@dataclass(frozen=True, slots=True)
class _Series:
    """Who is scraped, in the order of the files.

    Attributes:
        ids: (n_series,) int64, ascending.
        labels: of each series.
        kinds: (n_series,) how its values move.
    """

    ids: NDArray[np.int64]
    labels: LabelRows
    kinds: NDArray[np.str_]

    @classmethod
    def make(cls, count: int) -> "_Series":
        """`x{instance="i7", job="j3"}`, each job with its share of each kind."""
        found = []
        for number in range(count):
            job = number // len(KINDS) % JOB_COUNT
            pairs = [("__name__", METRIC), ("instance", f"i{number}"), ("job", f"j{job}")]
            text = b"".join(b"%b\xff%b\xff" % (n.encode(), v.encode()) for n, v in pairs)
            found.append((xxhash.xxh3_64_intdigest(text), pairs, KINDS[number % len(KINDS)]))
        ids = np.array([digest for digest, _, _ in found], np.uint64).view(np.int64)
        order = np.argsort(ids)
        rows = [found[row] for row in order.tolist()]
        return cls(ids[order], _label_rows([pairs for _, pairs, _ in rows]),
                   np.array([kind for _, _, kind in rows]))  # fmt: skip


class _Drawn:
    """Samples, month by month; a counter goes on where it was."""

    def __init__(self, history: LongHistory, kinds: NDArray[np.str_]) -> None:
        self._history = history
        self._kinds = kinds
        self._counters = np.flatnonzero(np.isin(kinds, COUNTERS))
        self._last = np.zeros(len(kinds))
        rng = np.random.default_rng(SEED)
        self._phases_ms = rng.integers(1, history.interval_ms - LATE_MS_MAX, len(kinds))

    def days(
        self,
    ) -> Iterator[tuple[date, NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]]:
        """Each day with offsets, times and values of its samples, series after series."""
        per_day = DAY_MS // self._history.interval_ms
        months = self._history.months
        for first, behind in pairwise(months):
            rng = np.random.default_rng([SEED, first.year, first.month])
            day_count = (behind - first).days
            values, is_missing = self._month(rng, day_count * per_day)
            for number in range(day_count):
                day = first + timedelta(days=number)
                scrapes = slice(number * per_day, (number + 1) * per_day)
                is_there = ~is_missing[:, scrapes]
                times = self._times(rng, unix_ms(day), per_day)
                offsets = np.concatenate([[0], np.cumsum(is_there.sum(axis=1))])
                yield day, offsets, times[is_there], values[:, scrapes][is_there]

    def _month(
        self, rng: np.random.Generator, scrape_count: int
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """(n_series, scrape_count) values, and where there is none."""
        interval_s = self._history.interval_ms / 1000
        values = draw(self._kinds, scrape_count, interval_s, int(rng.integers(1 << 31)))
        jumps = self._last[self._counters] - values[self._counters, 0]
        if self._last.any():
            values[self._counters] = np.round(
                values[self._counters] + jumps[:, None], SECONDS_DECIMALS
            )
        is_missing = np.zeros(values.shape, np.bool_)
        is_counter = np.isin(self._kinds, COUNTERS).tolist()
        places = np.arange(RESTART_ROOM, scrape_count - RESTART_ROOM, RESTART_ROOM)
        for row, count in enumerate(rng.poisson(RESTARTS_PER_MONTH, len(values)).tolist()):
            for place in sorted(rng.choice(places, count, replace=False).tolist()):
                end = place + int(rng.integers(RESTART_ROOM // 5))
                back = end + 1 + int(rng.choice(MISSED_SCRAPES))
                if is_counter[row]:
                    values[row, back:] = np.round(
                        values[row, back:] - values[row, back], SECONDS_DECIMALS
                    )
                values[row, end] = np.uint64(STALE_BITS).view(np.float64)
                is_missing[row, end + 1 : back] = True
        self._last = values[:, -1].copy()
        return values, is_missing

    def _times(self, rng: np.random.Generator, day_ms: int, count: int) -> NDArray[np.int64]:
        shape = (len(self._kinds), count)
        grid_ms = day_ms + self._history.interval_ms * np.arange(count)
        late_ms = rng.integers(1, LATE_MS_MAX + 1, shape) * (rng.random(shape) < LATE_RATIO)
        times: NDArray[np.int64] = grid_ms + self._phases_ms[:, None] + late_ms
        return times


def _make_raw(folder: Path, history: LongHistory) -> None:
    """Flush files, committed a month at a time."""
    series = _Series.make(history.series_count)
    cut = folder / "cut"
    cut.mkdir()
    lake = Lake.open(FolderStore(folder / "raw"), single_writer=False, refresh_interval_s=0)
    waiting: list[DataFile] = []
    position = 0

    def commit(month: str) -> None:
        nonlocal position
        position += 1
        batch = SeriesBatch([METRIC] * len(series.ids), series.ids, series.labels)
        path = cut / f"f-series-{month}.parquet"
        rows = write_series(path, [batch], partition=month)
        lake.commit(SERIES, [rows], receiver_id="benchmark", position=position)
        lake.commit(SAMPLES, waiting, receiver_id="benchmark", position=position)
        waiting.clear()

    try:
        month = history.months[0].isoformat()[:7]
        for day, offsets, times, values in _Drawn(history, series.kinds).days():
            if day.isoformat()[:7] != month:
                commit(month)
                month = day.isoformat()[:7]
            waiting.append(
                write_samples(
                    cut / f"f-{day.isoformat()}.parquet",
                    day.isoformat(),
                    metrics=[METRIC],
                    metric_of_rank=np.zeros(len(series.ids), np.int32),
                    series_id_of_rank=series.ids,
                    offsets=offsets,
                    timestamps_ms=times,
                    values=values,
                )
            )
        commit(month)
    finally:
        lake.close()
    shutil.rmtree(cut)


def _roll_up(lakes: LongLakes) -> None:
    """Everything that is due a day after the end, and the months as soon as they may be merged."""
    shutil.copytree(lakes.raw, lakes.lake, copy_function=_link)
    now_s = (lakes.history.end_ms + DAY_MS) // 1000
    scratch = lakes.lake.with_name("scratch")
    for later_s in (0, LATE_INTERVAL_S):
        subprocess.run(
            [
                REPOSITORY / ".venv" / "bin" / "prombridge",
                "downsample",
                "--once",
                f"--now={now_s + later_s}",
                f"--lake.uri={lakes.lake}",
                f"--downsample.scratch-path={scratch}",
                f"--downsample.workers={os.cpu_count()}",
                "--log.level=warn",
            ],
            check=True,
        )
    shutil.rmtree(scratch, ignore_errors=True)
    # A vacuum deletes what was dropped a day later at the earliest.
    for table in (SAMPLES, SAMPLES_5M, SAMPLES_1H):
        kept = {Path(uri) for uri in DeltaTable(str(lakes.lake / table)).file_uris()}
        for path in set((lakes.lake / table).glob("*=*/*.parquet")) - kept:
            path.unlink()


def _link(source: str, target: str) -> None:
    """A data file is never written again; what belongs to the log might be."""
    if source.endswith(".parquet") and "_delta_log" not in source:
        os.link(source, target)
    else:
        shutil.copy2(source, target)


def _label_rows(series: list[list[tuple[str, str]]]) -> LabelRows:
    names = [name.encode() for pairs in series for name, _ in pairs]
    values = [value.encode() for pairs in series for _, value in pairs]
    return LabelRows(
        np.cumsum([0, *map(len, series)], dtype=np.int32),
        np.cumsum([0, *map(len, names)], dtype=np.int32),
        b"".join(names),
        np.cumsum([0, *map(len, values)], dtype=np.int32),
        b"".join(values),
    )
