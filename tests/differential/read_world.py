"""Servers with the made days: of each major version one that holds them, one that asks for them.

    made days ──► Prometheus 3, Prometheus 2         the truth of each
              └─► bridge ──► lake ◄── downsample: raw for 20 days, rollups of 5m for 40
    Prometheus 3, Prometheus 2, both empty ──► bridge ──► lake
    the same, with the last three hours of their own

so that the first 20 days are there as rollups of 1h alone, the next 20 as those of 5m too, and the
last 20 also raw.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.differential.read_data import DAY_MS, END_MS, HOUR_MS, START_MS, bodies, made_series
from tests.integration.bridge import Bridge
from tests.integration.downsampling import Downsampler
from tests.integration.made_data import push_all
from tests.integration.servers import (
    Prometheus,
    find_prometheus,
    look_for_prometheus,
    reading_config,
)

MAJORS = (3, 2)
RAW_DAYS, FIVE_MINUTES_DAYS = 20, 40
# Less than the 4 h that `read.seam` is.
LOCAL_HOURS = 3
RAW_AFTER_MS = END_MS - RAW_DAYS * DAY_MS
FIVE_MINUTES_AFTER_MS = END_MS - FIVE_MINUTES_DAYS * DAY_MS
# One head that spans all days, so that no compaction runs meanwhile.
FLAGS = (
    "--web.enable-remote-write-receiver",
    "--storage.tsdb.min-block-duration=80d",
    "--storage.tsdb.max-block-duration=80d",
)


@dataclass(frozen=True)
class Pair:
    """Servers of one version.

    Attributes:
        truth: holds the samples.
        reader: has nothing but `remote_read`.
        seamed_reader: has the last hours itself, and mixes them with what it reads.
    """

    truth: Prometheus
    reader: Prometheus
    seamed_reader: Prometheus


class World:
    """All servers, from start to stop.

    Args:
        folder: of all of them.
        majors: versions of Prometheus; those that are not there are left out.
        is_downsampled: whether there are rollups, and retention has been at work.
    """

    def __init__(
        self, folder: Path, majors: Sequence[int] = MAJORS, *, is_downsampled: bool = True
    ) -> None:
        self._folder = folder
        self._majors = [major for major in majors if look_for_prometheus(major) is not None]
        self._is_downsampled = is_downsampled
        self._stack = ExitStack()
        self._pairs: dict[int, Pair] = {}
        self.bridge = Bridge(folder / "bridge")

    def pair(self, major: int) -> Pair:
        """The servers of a version, or a skip that says how to get them."""
        if major not in self._pairs:
            find_prometheus(major)
        return self._pairs[major]

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._start(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.__exit__(error_type, error, traceback)

    def _start(self, stack: ExitStack) -> None:
        made = made_series()
        sent = list(bodies(made))
        late = list(bodies(made, END_MS - LOCAL_HOURS * HOUR_MS))
        with self.bridge as bridge:
            push_all(sent, bridge.write_url)
            bridge.flush()
        if self._is_downsampled:
            self._downsample()
        self.bridge = stack.enter_context(Bridge(self._folder / "bridge", mode="read"))
        for major in self._majors:
            pair = Pair(
                truth=self._server(major, "truth"),
                reader=self._server(major, "reader", is_reader=True),
                seamed_reader=self._server(major, "seamed", is_reader=True),
            )
            for server, own in (
                (pair.truth, sent),
                (pair.reader, []),
                (pair.seamed_reader, late),
            ):
                stack.enter_context(server)
                push_all(own, f"{server.url}/api/v1/write")
            self._pairs[major] = pair

    def _server(self, major: int, name: str, *, is_reader: bool = False) -> Prometheus:
        def config(_port: int) -> dict[str, Any]:
            if is_reader:
                return reading_config(self.bridge.read_url, {})
            return {"global": {"scrape_interval": "1h"}}

        program, full_name = find_prometheus(major), f"{name}-{major}"
        return Prometheus(program, full_name, self._folder / full_name, config, FLAGS)

    def _downsample(self) -> None:
        flags = (f"--retention.raw={RAW_DAYS}d", f"--retention.5m={FIVE_MINUTES_DAYS}d")
        Downsampler(self._folder, self.bridge.lake, flags).once(now_ms=END_MS + HOUR_MS)
        for table, first_ms in (
            ("samples", RAW_AFTER_MS),
            ("samples_5m", FIVE_MINUTES_AFTER_MS),
            ("samples_1h", START_MS),
        ):
            found_ms = self._first_ms(table)
            assert first_ms < found_ms <= first_ms + HOUR_MS, (table, found_ms)

    def _first_ms(self, table: str) -> int:
        """The time of the first row in a table."""
        column = "timestamp_ms" if table == "samples" else "window_end_ms"
        actions = self.bridge.lake.table(table).get_add_actions(flatten=True)
        return int(min(actions.column(f"min.{column}").to_pylist()))
