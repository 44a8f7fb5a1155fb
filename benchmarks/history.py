"""Days of samples of a fleet, the same ones for both: a lake of flush files, blocks of Prometheus.

    made samples ──┬──(write_samples, commit)──> lake: so many flush files a day
                   └──(OpenMetrics, promtool)──> one TSDB block over all of it, or blocks of 2 h

Series are drawn from the fleet (`targets.py`), so that every kind of value has its share; what they
are called matters little for samples, so both get short names. The days lie in one month and in
one block of 486 h, the longest that promtool cuts, counted from 1970: Thanos makes 5m of blocks of
40 h or more, and 1h of blocks of 10 days or more. Of blocks of 2 h it has to make larger ones
before; its ranges of 14 days begin on the 7th day.
"""

import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from numpy.typing import NDArray

from benchmarks.contestants import REPOSITORY
from benchmarks.fleet import DAY_MS, LATE_MS_MAX, LATE_RATIO, SEED
from benchmarks.targets import Fleet, Profile
from benchmarks.waveforms import draw
from bridge.lake.folder_store import FolderStore
from bridge.lake.lake import Lake
from bridge.lake.parquet import SeriesBatch, write_samples, write_series
from bridge.lake.schema import SAMPLES, SERIES, date_of, month_of
from bridge.wire.decoded import LabelRows

BLOCK_HOURS = 486
START_MS = 1016 * BLOCK_HOURS * 3_600_000
"""2026-05-01, where a block of 486 h begins."""
DAYS_MAX = 20
FLEET_SERIES = 5_000
"""The fleet that fewer series are drawn from: one node more or less would be a mix of its own."""


@dataclass(frozen=True, slots=True)
class History:
    """How much of it.

    Attributes:
        series_count: series.
        day_count: whole days.
        interval_ms: between scrapes.
        flush_count: files of a day in the lake.
    """

    series_count: int
    day_count: int = DAYS_MAX
    interval_ms: int = 60_000
    flush_count: int = 1

    @property
    def scrapes_per_day(self) -> int:
        """Samples of a series in a day."""
        return DAY_MS // self.interval_ms

    @property
    def sample_count(self) -> int:
        """Samples of all series."""
        return self.series_count * self.day_count * self.scrapes_per_day

    @property
    def name(self) -> str:
        """Of its folder, but for the flushes."""
        return f"history-{self.series_count}-x-{self.day_count}d-{self.interval_ms // 1000}s"


class Drawn:
    """The samples.

    Attributes:
        metrics: distinct names, ascending.
        metric_of_rank: (n_series,) int32 into metrics, ascending.
        series_ids: (n_series,) int64, ascending within a metric.
        numbers: (n_series,) what is written as label `n`.
        times_ms: (n_series, n_scrapes) int64, ascending.
        values: (n_series, n_scrapes) float64.
    """

    def __init__(self, history: History) -> None:
        """Draws them, 8 bytes a sample and a few times that for a moment."""
        rng = np.random.default_rng(SEED)
        size = max(history.series_count, FLEET_SERIES)
        fleet = Fleet(Profile(size, 2, history.interval_ms, churn_ratio=0), SEED)
        drawn = rng.choice(len(fleet.labels), history.series_count, replace=False)
        names = [_metric_of(fleet.labels[row]) for row in drawn.tolist()]
        self.numbers = np.arange(history.series_count)
        ids = np.array(
            [xxhash.xxh3_64_intdigest(str(n).encode()) for n in range(len(names))], np.uint64
        ).view(np.int64)
        rows = np.array(sorted(range(len(names)), key=lambda row: (names[row], ids[row])))
        self.metrics = [name for name, _ in groupby(sorted(names))]
        place_of = {name: place for place, name in enumerate(self.metrics)}
        self.metric_of_rank = np.array([place_of[names[row]] for row in rows], np.int32)
        self.series_ids = ids[rows]
        self.numbers = self.numbers[rows]
        kinds = np.array(fleet.kinds)[drawn][rows]
        scrapes = history.day_count * history.scrapes_per_day
        self.values = draw(kinds, scrapes, history.interval_ms / 1000, SEED)
        targets = np.array(fleet.targets)[drawn][rows]
        self._phases_ms = rng.integers(1, history.interval_ms - LATE_MS_MAX, targets.max() + 1)
        self._targets = targets
        self._interval_ms = history.interval_ms

    def times_ms(self, scrapes: range) -> NDArray[np.int64]:
        """(n_series, n_scrapes) of some scrapes; those of a target are late together."""
        grid_ms = START_MS + self._interval_ms * np.arange(scrapes.start, scrapes.stop)
        times = np.empty((len(self._targets), len(scrapes)), np.int64)
        for target in np.unique(self._targets).tolist():
            rng = np.random.default_rng([SEED, target, scrapes.start])
            is_late = rng.random(len(scrapes)) < LATE_RATIO
            late_ms = is_late * rng.integers(1, LATE_MS_MAX + 1, len(scrapes))
            times[self._targets == target] = grid_ms + self._phases_ms[target] + late_ms
        return times

    def parts(self, history: History) -> Iterator[tuple[int, NDArray[np.int64], range]]:
        """Day, times and scrapes of what is flushed together."""
        per_flush = history.scrapes_per_day // history.flush_count
        for day in range(history.day_count):
            first = day * history.scrapes_per_day
            times = self.times_ms(range(first, first + history.scrapes_per_day))
            for flush in range(history.flush_count):
                own = slice(flush * per_flush, (flush + 1) * per_flush)
                scrapes = range(first + own.start, first + own.stop)
                yield day, times[:, own], scrapes


def make_lake(data: Path, history: History) -> Path:
    """A lake with the flush files of a history, made if it is not there yet; not to be changed."""
    folder = data / history.name / f"lake-{history.flush_count}"
    if (folder / "done").exists():
        return folder / "lake"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "cut").mkdir(parents=True)
    drawn = Drawn(history)
    samples = [
        write_samples(
            folder / "cut" / f"f-{number}.parquet",
            date_of(START_MS + day * DAY_MS + 1),
            metrics=drawn.metrics,
            metric_of_rank=drawn.metric_of_rank,
            series_id_of_rank=drawn.series_ids,
            offsets=np.arange(history.series_count + 1, dtype=np.int64) * times.shape[1],
            timestamps_ms=times.ravel(),
            values=drawn.values[:, scrapes.start : scrapes.stop].ravel(),
        )
        for number, (day, times, scrapes) in enumerate(drawn.parts(history))
    ]
    names = [drawn.metrics[place] for place in drawn.metric_of_rank.tolist()]
    batch = SeriesBatch(names, drawn.series_ids, _labels(names, drawn.numbers.tolist()))
    series = write_series(
        folder / "cut" / "f-series.parquet", [batch], partition=month_of(START_MS + 1)
    )
    lake = Lake.open(FolderStore(folder / "lake"), single_writer=False, refresh_interval_s=0)
    try:
        lake.commit(SERIES, [series], receiver_id="benchmark", position=1)
        lake.commit(SAMPLES, samples, receiver_id="benchmark", position=1)
    finally:
        lake.close()
    shutil.rmtree(folder / "cut")
    (folder / "done").touch()
    return folder / "lake"


def make_blocks(data: Path, history: History, hours: int = BLOCK_HOURS) -> Path:
    """A folder with the TSDB blocks of a history, made if it is not there yet; not to be changed.

    Args:
        data: where it is kept.
        history: how much.
        hours: of a block, 2 or BLOCK_HOURS.
    """
    folder = data / history.name / f"blocks-{hours}h"
    if (folder / "done").exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    drawn = Drawn(history)
    text = folder / "samples.txt"
    promtool = [str(REPOSITORY / ".servers" / "promtool"), "tsdb", "create-blocks-from"]
    longest = f"--max-block-duration={hours}h"
    # promtool reads a file as often as it makes blocks of it.
    step = history.day_count if hours > 24 else 1
    for first in range(0, history.day_count, step):
        with text.open("wb") as file:
            for day in range(first, first + step):
                _write_day(file, drawn, history, day)
            file.write(b"# EOF\n")
        subprocess.run(
            [*promtool, "openmetrics", "--quiet", longest, str(text), str(folder)], check=True
        )
    text.unlink()
    metas = [json.loads(path.read_text()) for path in folder.glob("*/meta.json")]
    count = sum(meta["stats"]["numSamples"] for meta in metas)
    if count != history.sample_count or (hours > 24 and len(metas) > 1):
        raise SystemExit(f"{folder}: {len(metas)} blocks of {count} of {history.sample_count}")
    (folder / "done").touch()
    return folder


def _write_day(file: BinaryIO, drawn: Drawn, history: History, day: int) -> None:
    """OpenMetrics, without its end."""
    first = day * history.scrapes_per_day
    times = drawn.times_ms(range(first, first + history.scrapes_per_day))
    for rank, place in enumerate(drawn.metric_of_rank.tolist()):
        values = drawn.values[rank, first : first + history.scrapes_per_day]
        lines = pc.binary_join_element_wise(
            f'{drawn.metrics[place]}{{n="{drawn.numbers[rank]}"}} ',
            pc.cast(pa.array(values), pa.string()),
            " ",
            pc.cast(pa.array(times[rank] // 1000), pa.string()),
            ".",
            pc.utf8_lpad(pc.cast(pa.array(times[rank] % 1000), pa.string()), 3, "0"),
            "\n",
            "",
        )
        file.write(lines.buffers()[2])


def _metric_of(labels: bytes) -> str:
    """`__name__` of protobuf labels; names are shorter than 128 bytes."""
    place = labels.index(b"__name__") + len(b"__name__") + 1
    return labels[place + 1 : place + 1 + labels[place]].decode()


def _labels(names: list[str], numbers: list[int]) -> LabelRows:
    pairs = [pair for name, n in zip(names, numbers, strict=True) for pair in (name, str(n))]
    values = [pair.encode() for pair in pairs]
    keys = [b"__name__", b"n"] * len(names)
    return LabelRows(
        np.arange(0, 2 * len(names) + 1, 2, dtype=np.int32),
        np.cumsum([0, *map(len, keys)], dtype=np.int32),
        b"".join(keys),
        np.cumsum([0, *map(len, values)], dtype=np.int32),
        b"".join(values),
    )
