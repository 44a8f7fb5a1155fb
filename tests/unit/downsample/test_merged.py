import os
import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bridge.lake import parquet
from bridge.lake.merge import HOUR_MS
from downsample import merged, sorted_reader
from downsample.merged import merge_files
from downsample.rows import RawFile, SampleBatch
from downsample.sorted_reader import BrokenFile
from tests.unit.lake.made_files import DAY_START_MS, Row, write_rows

MINUTE_MS = 60_000


def minute_rows(minute: int, series_count: int, replica: str = "") -> list[Row]:
    """One sample of each series."""
    at_ms = DAY_START_MS + minute * MINUTE_MS + 1
    return [
        ("up", series_id, at_ms, max(minute, 0), 0, replica) for series_id in range(series_count)
    ]


def write_minutes(folder: Path, minutes: Sequence[int], series_count: int) -> list[RawFile]:
    files = [RawFile(folder / f"f-{minute}.parquet") for minute in minutes]
    for file, minute in zip(files, minutes, strict=True):
        write_rows(file.path, minute_rows(minute, series_count))
    return files


def merge(
    files: Sequence[RawFile], batch_rows: int = 1 << 20, *, is_merging_replicas: bool = True
) -> list[SampleBatch]:
    return list(
        merge_files(
            files,
            DAY_START_MS,
            DAY_START_MS + HOUR_MS,
            batch_rows=batch_rows,
            is_merging_replicas=is_merging_replicas,
        )
    )


@pytest.fixture
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "SAMPLE_ROWS", 10)
    monkeypatch.setattr(merged, "READ_ROWS_MIN", 10)


@pytest.mark.usefixtures("small_groups")
def test_files_in_any_order_come_out_in_the_order_of_time(tmp_path: Path) -> None:
    files = write_minutes(tmp_path, [3, 1, 2], 25)
    batches = merge(files, 30)
    assert len(batches) > 1
    for batch in batches:
        assert np.diff(batch.offsets).tolist() == [3] * len(batch.series_id_of_rank)
        assert batch.values.view(np.int64).tolist() == [1, 2, 3] * len(batch.series_id_of_rank)
    ids = [series_id for batch in batches for series_id in batch.series_id_of_rank.tolist()]
    assert ids == list(range(25))


@pytest.mark.usefixtures("small_groups")
def test_no_more_is_held_than_a_batch_and_a_piece_of_each_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = write_minutes(tmp_path, range(8), 400)
    batch_rows, held, most = 60, 0, 0

    take = merged._take
    read = sorted_reader.SortedReader.read

    def count_taken(*arguments: object) -> list[merged._Runs]:
        nonlocal held
        taken = take(*arguments)  # type: ignore[arg-type]
        held -= sum(runs.row_count for runs in taken)
        return taken

    def count_read(reader: sorted_reader.SortedReader) -> sorted_reader.Piece | None:
        nonlocal held, most
        piece = read(reader)
        held += 0 if piece is None else len(piece.values)
        most = max(most, held)
        return piece

    monkeypatch.setattr(merged, "_take", count_taken)
    monkeypatch.setattr(sorted_reader.SortedReader, "read", count_read)
    assert sum(len(batch.values) for batch in merge(files, batch_rows)) == 8 * 400
    assert held == 0
    assert most <= batch_rows + (len(files) + 1) * 10


@pytest.mark.usefixtures("small_groups")
def test_series_larger_than_a_batch_stays_whole(tmp_path: Path) -> None:
    rows: list[Row] = [("up", 1, DAY_START_MS + 1 + step, step, 0, "") for step in range(200)]
    rows += [("up", 2, DAY_START_MS + 1, 7, 0, "")]
    files = [RawFile(tmp_path / "f-0.parquet"), RawFile(tmp_path / "f-1.parquet")]
    write_rows(files[0].path, rows[::2])
    write_rows(files[1].path, rows[1::2])
    batches = merge(files, 20)
    assert [batch.series_id_of_rank.tolist() for batch in batches] in ([[1], [2]], [[1, 2]])
    assert batches[0].values.view(np.int64).tolist()[:200] == list(range(200))


def test_what_a_span_does_not_hold_is_left_out_and_mostly_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = write_minutes(tmp_path, [-1, 0, 59, 60, 90], 3)
    read = []
    decode = sorted_reader.SortedReader._decode

    def spy(reader: sorted_reader.SortedReader, groups: object) -> object:
        read.append(reader.path)
        return decode(reader, groups)  # type: ignore[arg-type]

    monkeypatch.setattr(sorted_reader.SortedReader, "_decode", spy)
    (batch,) = merge(files)
    assert batch.values.view(np.int64).tolist() == [0, 59] * 3
    assert sorted(read) == sorted(file.path for file in files[1:3])


def test_sample_at_the_full_hour_belongs_to_the_hour_that_ends(tmp_path: Path) -> None:
    file = RawFile(tmp_path / "f-0.parquet")
    edges = [DAY_START_MS, DAY_START_MS + 1, DAY_START_MS + HOUR_MS, DAY_START_MS + HOUR_MS + 1]
    write_rows(file.path, [("up", 1, at_ms, 0, 0, "") for at_ms in edges])
    (batch,) = merge([file])
    assert batch.timestamps_ms.tolist() == edges[1:3]


def test_start_and_replica_go_with_the_value_that_is_kept(tmp_path: Path) -> None:
    at_ms = DAY_START_MS + 1
    files = [RawFile(tmp_path / "f-0.parquet"), RawFile(tmp_path / "f-1.parquet")]
    write_rows(files[0].path, [("up", 1, at_ms, 5, 111, "a"), ("up", 2, at_ms, 5, 0, "a")])
    write_rows(files[1].path, [("up", 1, at_ms, 9, 222, "a"), ("up", 2, at_ms + 1, 5, 333, "b")])
    (batch,) = merge(files)
    assert batch.start_timestamps_ms is not None
    assert batch.replica_of_row is not None
    assert batch.values.view(np.int64).tolist() == [9, 5]
    assert batch.start_timestamps_ms.tolist() == [222, 0]
    assert [batch.replicas[place] for place in batch.replica_of_row.tolist()] == ["a", "a"]
    (batch,) = merge(files, is_merging_replicas=False)
    assert batch.values.view(np.int64).tolist() == [9, 5, 5]
    assert batch.start_timestamps_ms is not None
    assert batch.start_timestamps_ms.tolist() == [222, 0, 333]


def test_rows_without_start_or_replica_bring_no_columns(tmp_path: Path) -> None:
    (batch,) = merge(write_minutes(tmp_path, [1, 2], 2))
    assert batch.start_timestamps_ms is None
    assert batch.replica_of_row is None
    assert batch.replicas == ("",)


def test_no_files_and_no_rows_give_no_batches(tmp_path: Path) -> None:
    assert merge([]) == []
    assert merge(write_minutes(tmp_path, [70], 2)) == []


def test_footers_beyond_the_limit_are_parsed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merged, "FOOTER_BYTES_MAX", 0)
    (batch,) = merge(write_minutes(tmp_path, [1, 2], 2))
    assert batch.values.view(np.int64).tolist() == [1, 2, 1, 2]


def damage_empty(path: Path) -> None:
    path.write_bytes(b"")


def damage_gone(path: Path) -> None:
    path.unlink()


def damage_torn(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 10)


def damage_text(path: Path) -> None:
    path.write_text("it was a dark and stormy night")


def damage_pages(path: Path) -> None:
    content = bytearray(path.read_bytes())
    begin = pq.read_metadata(path).row_group(0).column(1).dictionary_page_offset
    content[begin + 2 : begin + 40] = b"\xff" * 38
    path.write_bytes(content)


def damage_columns(path: Path) -> None:
    pq.write_table(pq.read_table(path).drop_columns(["value"]), path)


def damage_type(path: Path) -> None:
    table = pq.read_table(path)
    column = table["timestamp_ms"].cast(pa.timestamp("ms"))
    pq.write_table(table.set_column(2, "timestamp_ms", column), path)


def damage_nulls(path: Path) -> None:
    table = pq.read_table(path)
    pq.write_table(table.set_column(3, "value", pa.nulls(len(table), pa.float64())), path)


def damage_order(path: Path) -> None:
    pq.write_table(pq.read_table(path).sort_by([("series_id", "descending")]), path)


def damage_order_of_groups(path: Path) -> None:
    table = pq.read_table(path).sort_by([("series_id", "descending")])
    pq.write_table(table, path, row_group_size=1)


def damage_order_of_metrics(path: Path) -> None:
    table = pq.read_table(path)
    column = pa.array(["b", "a", *["c"] * (len(table) - 2)])
    pq.write_table(table.set_column(0, "metric", column), path)


@pytest.mark.parametrize(
    "damage",
    [
        damage_empty,
        damage_gone,
        damage_torn,
        damage_text,
        damage_pages,
        damage_columns,
        damage_type,
        damage_nulls,
        damage_order,
        damage_order_of_groups,
        damage_order_of_metrics,
    ],
)
def test_broken_file_is_named(tmp_path: Path, damage: object) -> None:
    files = write_minutes(tmp_path, [1, 2, 3], 20)
    assert callable(damage)
    damage(files[1].path)
    with pytest.raises(BrokenFile, match=r"f-2\.parquet: ") as raised:
        merge(files)
    assert raised.value.path == files[1].path
    # It comes back from a worker as what it was.
    copied = pickle.loads(pickle.dumps(raised.value))
    assert (str(copied), copied.path) == (str(raised.value), files[1].path)


def test_a_machine_without_file_handles_breaks_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = write_minutes(tmp_path, [1], 2)

    def refuse(*_: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("downsample.sorted_reader.pa.OSFile", refuse)
    with pytest.raises(OSError, match="Too many open files"):
        merge(files)
