"""When rollups are made, with what, and how long each resolution is kept.

Memory: `downsample.memory` bounds one worker, so a host needs workers * memory beside the
coordinator, which holds the listing of the tables and no rows.
"""

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NewType

from bridge.errors import ConfigError
from bridge.model.options import Duration, Size, format_duration, option, parse_duration

Engine = Literal["local", "dask"]

MEMORY_MIN = 64 << 20

RetentionTime = NewType("RetentionTime", float)
"""Seconds; 0 stands for ever."""


def parse_retention(text: str) -> RetentionTime:
    """Seconds of `30d`, or 0 of `0`: for ever.

    Raises:
        ConfigError: neither 0 nor a duration with units.
    """
    return RetentionTime(0 if text == "0" else parse_duration(text))


def format_retention(retention: RetentionTime) -> str:
    """The shortest text that `parse_retention` reads as this."""
    return format_duration(Duration(retention)) if retention else "0"


@dataclass(frozen=True, slots=True)
class DownsampleSettings:
    """Rollups and compaction."""

    enabled: bool = option(
        True,
        "Whether `serve` starts it in mode all; `prombridge downsample` runs whatever this says.",
    )
    interval: Duration = option(
        Duration(60), "How often it looks for what is due. A look costs a listing of the tables."
    )
    delay: Duration = option(
        Duration(15 * 60),
        "How long after its end an hour or a day counts as closed: what senders and flushes still "
        "bring later is rolled up again.",
    )
    late_interval: Duration = option(
        Duration(3600),
        "What is rolled up already is rolled up again for late samples after this time at the "
        "earliest.",
    )
    force_late: bool = option(
        False,
        "Merge late samples into rollups whose raw samples were dropped also where they look like "
        "an import of what is in already: every sample then counts twice.",
    )
    engine: Engine = option(
        "local", "Who does the work: processes of this host, or a Dask cluster."
    )
    dask_scheduler: str = option(
        "", "Address of the Dask scheduler, tcp://HOST:8786; only with engine dask."
    )
    workers: int = option(1, "Jobs that run at once.")
    memory: Size = option(Size(1 << 30), "Memory that one job may use.")
    listen_address: str = option(
        "127.0.0.1:9202",
        "Where `prombridge downsample` shows its /metrics; those of `serve` hold them already.",
    )
    scratch_path: Path = option(
        Path("data/scratch"),
        "Where a job keeps the files that it writes, and its copies of a bucket's files.",
    )

    def __post_init__(self) -> None:
        """Refuses what could not work.

        Raises:
            ConfigError: names the option.
        """
        if self.workers < 1:
            raise ConfigError("downsample.workers: 0 jobs at once would do none")
        if self.memory < MEMORY_MIN:
            raise ConfigError("downsample.memory: less than 64MiB is not enough for a job")
        if self.engine == "dask" and not self.dask_scheduler:
            raise ConfigError(
                "downsample.dask_scheduler: engine dask needs the address of a scheduler"
            )
        if self.engine == "local" and self.dask_scheduler:
            raise ConfigError(
                "downsample.dask_scheduler: engine local has no scheduler; did you mean "
                "downsample.engine: dask?"
            )


@dataclass(frozen=True, slots=True)
class RetentionSettings:
    """How long each resolution is kept; 0 is for ever."""

    raw: RetentionTime = option(
        RetentionTime(30 * 86_400),
        "Raw samples: whole days, and only where rollups of 5m and 1h were committed. Keep them "
        "longer than the Prometheus servers keep their own.",
    )
    five_m: RetentionTime = option(
        RetentionTime(180 * 86_400),
        "Rollups of 5m: whole days, and only where those of 1h were committed.",
        key="5m",
    )
    one_h: RetentionTime = option(RetentionTime(0), "Rollups of 1h: whole months.", key="1h")

    def __post_init__(self) -> None:
        """Refuses a coarse resolution that goes before a finer one.

        Raises:
            ConfigError: names the option.
        """
        kept = [("raw", self.raw), ("5m", self.five_m), ("1h", self.one_h)]
        for (finer, finer_s), (coarser, coarser_s) in itertools.pairwise(kept):
            if coarser_s and (not finer_s or coarser_s < finer_s):
                raise ConfigError(
                    f"retention.{coarser}: {format_retention(coarser_s)} is less than "
                    f"retention.{finer}, {format_retention(finer_s)} (0 is for ever): rollups are "
                    "kept at least as long as what they were made from"
                )
