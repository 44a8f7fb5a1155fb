"""Repairs the log of a table in a folder after a power cut.

delta-rs writes a log entry to a file of another name and links it into place, without fsync; we
fsync it then, and only then is the commit reported (LAKE-8). A power cut between the two can leave
an entry, or a checkpoint, that is empty or cut off, and no reader can open the table any more.
Whatever stands from the first torn entry on was never reported, because a report implies an fsync
of every entry before it. So these files are renamed, not deleted, and the flush is repeated from
the WAL.

A running process never makes a torn entry visible, so this is safe while others commit.
"""

import json
from pathlib import Path

import structlog

from bridge.lake.folder_store import FolderStore
from bridge.lake.store import Store

log = structlog.get_logger()

_PARQUET_MAGIC = b"PAR1"


def set_torn_log_aside(store: Store, table: str) -> None:
    """Makes a table readable again; does nothing to a bucket, where every object is whole."""
    folder = store.root / table / "_delta_log" if isinstance(store, FolderStore) else None
    if folder is None or not folder.is_dir():
        return
    torn = _torn_files(folder)
    for path in torn:
        path.rename(path.with_name(f"{path.name}.torn"))
        log.error(
            "torn log entry set aside: a power cut took a commit that was not reported yet",
            table=table,
            entry=path.name,
        )
    store.sync([f"{table}/_delta_log/{path.name}.torn" for path in torn])


def _torn_files(folder: Path) -> list[Path]:
    """Torn checkpoints, and the entries behind the last good one from the first torn one on."""
    checkpoints = sorted(folder.glob("*.checkpoint.parquet"))
    torn = [path for path in checkpoints if not _is_whole_parquet(path)]
    good = [int(path.name[:20]) for path in checkpoints if path not in torn]
    hint = folder / "_last_checkpoint"
    if hint.exists() and (torn or not _is_json(hint.read_bytes())):
        torn.append(hint)
    entries = sorted(
        path
        for path in folder.glob("*.json")
        if path.stem.isdecimal() and int(path.stem) > max(good, default=-1)
    )
    for index, path in enumerate(entries):
        if not _is_json(path.read_bytes()):
            return torn + entries[index:]
    return torn


def _is_whole_parquet(path: Path) -> bool:
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - len(_PARQUET_MAGIC)))
        return size > 12 and file.read() == _PARQUET_MAGIC


def _is_json(text: bytes) -> bool:
    lines = text.splitlines()
    try:
        for line in lines:
            json.loads(line)
    except ValueError:
        return False
    return bool(lines)
