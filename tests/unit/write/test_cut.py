"""Cuts: what is in the files, in which order, and which series are forgotten."""

import errno
from pathlib import Path
from typing import Any

import cramjam
import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest

from bridge.lake.schema import METADATA, SAMPLES, SERIES
from bridge.model.staleness import STALE_BITS
from bridge.wire.decoded import Limits, MetadataEntry
from bridge.wire.series import SeriesRegistry
from bridge.write import cut as cut_module
from bridge.write.cut import Cut, Cutter
from bridge.write.head import Head, Rows
from tests.oracle.bodies import Series, bits, float_of, v2_body

DAY_MS = 86_400_000
MIDNIGHT_MS = 20_700 * DAY_MS


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def fill(head: Head, series: list[Series], position: int) -> None:
    body = bytes(cramjam.snappy.decompress_raw(v2_body(series)))
    block = head.tail(10_000)
    decoded = head.registry.decode_v2(
        body,
        Limits(),
        MIDNIGHT_MS + 400 * DAY_MS,
        None,
        block.refs,
        block.timestamps_ms,
        block.values,
        block.start_timestamps_ms,
        block.reserved,
    )
    assert not decoded.rejections
    block.reserved += decoded.sample_count
    block.has_start |= decoded.has_start
    head.publish(position)
    head.cover(position, position)


def new_head() -> Head:
    return Head("me", lambda: SeriesRegistry((b"replica",), seed=1))


def frozen(head: Head, cutter: Cutter) -> Rows:
    rows = head.freeze(cutter.next_registry)
    assert rows is not None
    return rows


def rows_of(cut: Cut, table: str) -> list[tuple[Any, ...]]:
    paths = [str(file.path) for file in cut.files[table]]
    if not paths:
        return []
    with duckdb.connect() as connection:
        return connection.execute("select * from read_parquet(?)", [paths]).fetchall()


def named(name: str, *samples: tuple[int, float], **labels: str) -> Series:
    return Series({"__name__": name, **labels}, samples)


def test_rows_are_sorted_by_metric_series_and_time(tmp_path: Path) -> None:
    head, cutter = new_head(), Cutter(tmp_path / "cut", 120)
    at = MIDNIGHT_MS + 5
    fill(
        head,
        [
            named("b", (at + 3, 1.0), (at + 1, 2.0), pod="x"),
            named("a", (at + 2, 3.0), pod="y"),
            named("b", (at + 2, 4.0), pod="x"),
            named("a", (at + 1, 5.0), pod="z"),
        ],
        7,
    )
    cut = cutter.cut(frozen(head, cutter))
    assert (cut.position, cut.row_count) == (7, 5)
    rows = rows_of(cut, SAMPLES)
    assert [(row[0], row[1], row[2]) for row in rows] == sorted(row[:3] for row in rows)
    assert sorted(row[3] for row in rows) == [1.0, 2.0, 3.0, 4.0, 5.0]
    labels = {row[1]: row[2] for row in rows_of(cut, SERIES)}
    assert {row[1] for row in rows} == set(labels)
    assert sorted(value["pod"] for value in labels.values()) == ["x", "y", "z"]


def test_a_sample_at_midnight_belongs_to_the_day_that_ends_there(tmp_path: Path) -> None:
    """LAKE-2."""
    head, cutter = new_head(), Cutter(tmp_path / "cut", 120)
    fill(head, [named("a", (MIDNIGHT_MS, 1.0), (MIDNIGHT_MS + 1, 2.0))], 1)
    cut = cutter.cut(frozen(head, cutter))
    assert len(cut.files[SAMPLES]) == 2
    first, second = cut.files[SAMPLES]
    assert first.maxima["timestamp_ms"] == MIDNIGHT_MS
    assert second.minima["timestamp_ms"] == MIDNIGHT_MS + 1
    assert first.partition < second.partition


def test_bits_starts_and_replicas_survive(tmp_path: Path) -> None:
    head, cutter = new_head(), Cutter(tmp_path / "cut", 120)
    stale, payload = float_of(STALE_BITS), float_of(0x7FF8_0000_DEAD_BEEF)
    at = MIDNIGHT_MS + 1
    fill(
        head,
        [
            Series({"__name__": "a", "replica": "r2"}, [(at, stale), (at + 1, -0.0)], 0, 0, [0, 9]),
            Series({"__name__": "a", "replica": "r1"}, [(at, payload), (at + 2, float("-inf"))]),
            Series({"__name__": "a"}, [(at + 3, 1.0)]),
        ],
        1,
    )
    cut = cutter.cut(frozen(head, cutter))
    rows = rows_of(cut, SAMPLES)
    assert len({row[1] for row in rows}) == 1, "replicas share their series"
    found = {(row[2] - at, bits(row[3]), row[4], row[5]) for row in rows}
    assert found == {
        (0, STALE_BITS, None, "r2"),
        (1, bits(-0.0), 9, "r2"),
        (0, bits(payload), None, "r1"),
        (2, bits(float("-inf")), None, "r1"),
        (3, bits(1.0), None, None),
    }
    assert [row[2] for row in rows_of(cut, SERIES)] == [{"__name__": "a"}]


def test_series_rows_are_written_once_a_month(tmp_path: Path) -> None:
    head, cutter = new_head(), Cutter(tmp_path / "cut", 120)
    months = []
    for position, day in enumerate([0, 1, 0, 40, 1, 40], start=1):
        fill(head, [named("a", (MIDNIGHT_MS + day * DAY_MS + 1, 1.0))], position)
        cut = cutter.cut(frozen(head, cutter))
        head.cut(position, None)
        months.append([file.partition for file in cut.files[SERIES]])
    assert months == [["2026-09"], [], [], ["2026-10"], [], []]


def test_labels_are_rendered_by_their_bytes_however_long_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bridge.write.cut.SERIES_BATCH_BYTES", 1000)
    head, cutter = new_head(), Cutter(tmp_path / "cut", 120)
    lengths = [10, 2000, 400, 400, 400, 3000]
    series = [
        named("a", (MIDNIGHT_MS, 1.0), text=f"{number}" + "x" * length)
        for number, length in enumerate(lengths)
    ]
    fill(head, series, 1)
    cut = cutter.cut(frozen(head, cutter))
    (file,) = cut.files[SERIES]
    groups = pq.ParquetFile(file.path)
    assert 4 <= groups.num_row_groups <= 6
    assert sorted(len(row[2]["text"]) - 1 for row in rows_of(cut, SERIES)) == sorted(lengths)


def test_metadata_is_written_when_new_and_once_a_day(tmp_path: Path) -> None:
    head, wall = new_head(), Clock()
    cutter = Cutter(tmp_path / "cut", 120, wall_clock_s=wall)

    def metrics_of(entries: list[MetadataEntry], position: int) -> list[tuple[str, str]]:
        head.add_metadata(entries, 5)
        fill(head, [named("x", (MIDNIGHT_MS, 1.0))], position)
        cut = cutter.cut(frozen(head, cutter))
        head.cut(position, None)
        return sorted((row[0], row[1]) for row in rows_of(cut, METADATA))

    a, b = MetadataEntry("a", 1, "h", ""), MetadataEntry("b", 2, "h", "s")
    assert metrics_of([a], 1) == [("a", "counter")]
    assert metrics_of([b], 2) == [("b", "gauge")]
    assert metrics_of([], 3) == []
    wall.now_s += 86_400
    assert metrics_of([], 4) == [("a", "counter"), ("b", "gauge")]


def test_a_failed_cut_leaves_nothing_and_can_be_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head, cutter = new_head(), Cutter(tmp_path / "cut", 120)
    fill(head, [named("a", (MIDNIGHT_MS, 1.0))], 1)
    rows = frozen(head, cutter)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cut_module, "write_series", full)
    with pytest.raises(OSError, match="No space left"):
        cutter.cut(rows)
    assert list((tmp_path / "cut").iterdir()) == []
    monkeypatch.undo()
    cut = cutter.cut(rows)
    assert (len(cut.files[SAMPLES]), len(cut.files[SERIES])) == (1, 1)


def test_what_an_earlier_process_cut_is_thrown_away(tmp_path: Path) -> None:
    (tmp_path / "cut" / "1").mkdir(parents=True)
    (tmp_path / "cut" / "1" / "old.parquet").write_bytes(b"x")
    Cutter(tmp_path / "cut", 120)
    assert list((tmp_path / "cut").iterdir()) == []


def test_silent_series_are_forgotten_and_the_others_keep_their_month(tmp_path: Path) -> None:
    clock = Clock()
    head, cutter = new_head(), Cutter(tmp_path / "cut", 120, clock_s=clock)

    def cut_with(names: list[str], position: int) -> tuple[Cut, list[str]]:
        fill(head, [named(name, (MIDNIGHT_MS + position, 1.0)) for name in names], position)
        cut = cutter.cut(frozen(head, cutter))
        head.cut(position, None)
        return cut, sorted(row[0] for row in rows_of(cut, SERIES))

    everything = [f"m{i}" for i in range(10)]
    assert cut_with(everything, 1)[1] == everything
    clock.now_s += 1000
    assert cut_with(["m1", "m2", "m3"], 2)[1] == []
    clock.now_s += 10
    assert cut_with(["m1", "m2", "new"], 3)[1] == ["new"]
    assert len(head.registry) == 4
    cut, fresh = cut_with(["m1", "m3", "m9", "new"], 4)
    assert fresh == ["m9"], "a forgotten series is registered and written again"
    assert sorted(row[0] for row in rows_of(cut, SAMPLES)) == ["m1", "m3", "m9", "new"]


def test_random_heads_lose_and_invent_nothing(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    head, cutter = new_head(), Cutter(tmp_path / "cut", 120)
    expected: list[tuple[str, int, float]] = []
    for position in range(1, 6):
        series = []
        for _ in range(50):
            name = f"m{rng.integers(8)}"
            samples = [
                (MIDNIGHT_MS + int(rng.integers(-3, 4)) * DAY_MS // 2, float(rng.integers(100)))
                for _ in range(int(rng.integers(1, 5)))
            ]
            series.append(named(name, *samples))
            expected += [(name, *sample) for sample in samples]
        fill(head, series, position)
    cut = cutter.cut(frozen(head, cutter))
    found = [(row[0], row[2], row[3]) for row in rows_of(cut, SAMPLES)]
    assert sorted(found) == sorted(expected)
