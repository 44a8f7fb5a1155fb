"""The file of refused lines: readable, bounded, appended to."""

import os
from pathlib import Path

import pytest

from bridge.write.sinks.influxdb.dead_letters import DeadLetters, Refusal

LINE = b"up,job=a value=1 1790000000000\n"


def test_lines_stand_below_the_time_the_status_and_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "new" / "letters.lp"
    letters = DeadLetters(path, 1 << 20, lambda: 1_790_000_000.5)
    refused = [Refusal(422, "partial write:\n no dropped=1", [LINE, LINE])]
    letters.write([*refused, Refusal(400, "no \ud800", [LINE])])
    assert path.read_bytes() == (
        b"# 2026-09-21T14:13:20Z 422 partial write: no dropped=1\n" + LINE + LINE
        + b"# 2026-09-21T14:13:20Z 400 no \\ud800\n" + LINE
    )  # fmt: skip


def test_both_files_together_stay_within_their_bound_and_the_newest_lines_stay(
    tmp_path: Path,
) -> None:
    path = tmp_path / "letters.lp"
    letters = DeadLetters(path, 10_000, lambda: 0)
    for number in range(1000):
        letters.write([Refusal(400, "no", [b"m v=1 %d\n" % number])])
        size = sum(file.stat().st_size for file in tmp_path.iterdir())
        assert size <= 10_000 + 100
    assert {file.name for file in tmp_path.iterdir()} <= {"letters.lp", "letters.lp.1"}
    kept = (tmp_path / "letters.lp.1").read_text() + (path.read_text() if path.exists() else "")
    assert "m v=1 999\n" in kept
    assert "m v=1 0\n" not in kept


def test_a_disk_that_cannot_take_them_is_an_error_to_the_caller(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"Not a directory|File exists"):
        DeadLetters(tmp_path / "file" / "letters.lp", 1000).write([Refusal(400, "no", [LINE])])


def test_a_batch_larger_than_the_bound_keeps_its_newest_lines_below_their_reason(
    tmp_path: Path,
) -> None:
    path = tmp_path / "letters.lp"
    lines = [b"m v=1 %d\n" % number for number in range(10_000)]
    DeadLetters(path, 10_000, lambda: 0).write([Refusal(400, "no", lines)])
    files = [tmp_path / "letters.lp.1", *([path] if path.exists() else [])]
    contents = [file.read_bytes().splitlines(keepends=True) for file in files]
    assert sum(file.stat().st_size for file in files) <= 10_000 + 100
    assert {head for head, *_ in contents} == {b"# 1970-01-01T00:00:00Z 400 no\n"}
    kept = [line for _, *rest in contents for line in rest]
    assert kept == lines[-len(kept) :]
    assert len(kept) > 300


def test_many_refusals_of_a_batch_are_made_safe_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    refusals = [Refusal(422, f"metric {number}", [LINE]) for number in range(2000)]
    DeadLetters(tmp_path / "letters.lp", 1 << 20).write(refusals)
    assert len(synced) == 1
    assert (tmp_path / "letters.lp").read_bytes().count(LINE) == 2000
