"""A sink's place in the log, whatever happens to the file."""

import errno
import os
from pathlib import Path

import pytest

from bridge.errors import CorruptionError
from bridge.write.sinks.cursor import (
    BLOCK_BYTES,
    DESTINATION_BYTES_MAX,
    Cursor,
    load_cursor,
    store_cursor,
)
from bridge.write.sinks.metrics import DROP_REASONS


def cursor_at(position: int) -> Cursor:
    return Cursor(
        position=position,
        sample_total=10 * position,
        delivered=10 * position - 1,
        dropped={"nan": 1},
        attempt_position=position + 1,
        attempt_total=10 * position + 10,
    )


def test_what_was_stored_last_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "sink.cursor"
    assert load_cursor(path) is None
    for position in range(1, 6):
        store_cursor(path, cursor_at(position))
        assert load_cursor(path) == cursor_at(position)
    assert path.stat().st_size == 2 * BLOCK_BYTES


def test_the_largest_cursor_fits_into_its_block(tmp_path: Path) -> None:
    path = tmp_path / "sink.cursor"
    most = (1 << 64) - 1
    dropped = dict.fromkeys(DROP_REASONS["influxdb"], most)
    destination = "x" * (DESTINATION_BYTES_MAX - 2)
    cursor = Cursor(most, most, most, most, dropped, most, most, destination)
    for _ in range(3):
        store_cursor(path, cursor)
        assert load_cursor(path) == cursor
    assert path.stat().st_size == 2 * BLOCK_BYTES


@pytest.mark.parametrize("torn_bytes", [0, 1, 30, 200])
def test_a_torn_write_leaves_the_cursor_before(tmp_path: Path, torn_bytes: int) -> None:
    """SINK-4."""
    path = tmp_path / "sink.cursor"
    for position in range(1, 4):
        store_cursor(path, cursor_at(position))
    content = bytearray(path.read_bytes())
    block = 3 % 2 * BLOCK_BYTES
    content[block + torn_bytes : block + BLOCK_BYTES] = b"\0" * (BLOCK_BYTES - torn_bytes)
    path.write_bytes(content)
    assert load_cursor(path) == cursor_at(2)
    store_cursor(path, cursor_at(9))
    assert load_cursor(path) == cursor_at(9)


def test_a_write_that_fails_leaves_a_cursor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "sink.cursor"
    store_cursor(path, cursor_at(1))

    def failing(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "pwrite", failing)
    with pytest.raises(OSError, match="Input/output"):
        store_cursor(path, cursor_at(2))
    assert load_cursor(path) == cursor_at(1)


def test_a_damaged_cursor_is_named(tmp_path: Path) -> None:
    path = tmp_path / "sink.cursor"
    path.write_bytes(b"x" * 100)
    with pytest.raises(CorruptionError, match=r"sink\.cursor is damaged"):
        load_cursor(path)


def test_a_place_that_is_another_keeps_the_counts() -> None:
    moved = cursor_at(3).rebase(7, 1000)
    assert (moved.position, moved.sample_total, moved.delivered) == (7, 1000, 29)
    assert moved.sample_total - moved.start_total == moved.delivered + sum(moved.dropped.values())
    done = cursor_at(3).succeed()
    assert (done.position, done.sample_total, done.delivered) == (4, 40, 39)
    assert (done.attempt_position, done.attempt_total) == (0, 0)
