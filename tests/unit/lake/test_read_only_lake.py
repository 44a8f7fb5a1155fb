"""A lake that is only read: what it takes for empty, and what for a failure."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from deltalake import DeltaTable
from structlog.testing import capture_logs

from bridge.errors import StorageUnavailable
from bridge.lake import lake as lake_module
from bridge.lake.lake import Lake
from bridge.lake.schema import TABLES, TableSchema
from bridge.lake.store import Store, open_store
from bridge.lake.table import open_table
from tests.unit.lake.made_files import one_sample


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "lake"
    path.mkdir()
    return path


@pytest.fixture
def reader(folder: Path) -> Iterator[Lake]:
    """Looks at every snapshot."""
    store = open_store(str(folder), is_read_only=True)
    lake = Lake(store, refresh_interval_s=0, is_read_only=True)
    yield lake
    lake.close()


def fill(folder: Path) -> None:
    writer = Lake.open(open_store(str(folder)), single_writer=False, refresh_interval_s=5)
    file = one_sample(folder.parent / "f-1.parquet")
    writer.commit("samples", [file], receiver_id="a", position=1)
    writer.close()


def without(*names: str) -> Callable[[Store, TableSchema], DeltaTable | None]:
    """What a look finds while a page stands in place of the listings of some tables."""

    def opened(store: Store, schema: TableSchema) -> DeltaTable | None:
        return None if schema.name in names else open_table(store, schema)

    return opened


def test_an_empty_lake_is_said_once_and_read_as_soon_as_it_is_filled(
    folder: Path, reader: Lake
) -> None:
    with capture_logs() as logged:
        for _ in range(3):
            assert len(reader.snapshot().samples) == 0
    said = [line for line in logged if "nothing in the lake" in line["event"]]
    assert [line["uri"] for line in said] == [str(folder)]
    assert not list(folder.iterdir())
    fill(folder)
    assert len(reader.snapshot().samples) == 1


def test_a_lake_that_is_filled_is_not_called_empty(folder: Path, reader: Lake) -> None:
    fill(folder)
    with capture_logs() as logged:
        assert len(reader.snapshot().samples) == 1
    assert logged == []


@pytest.mark.parametrize("gone", [[*TABLES], ["samples"], ["series"], ["metadata"]])
def test_a_table_that_was_seen_is_not_taken_for_empty(
    folder: Path, reader: Lake, monkeypatch: pytest.MonkeyPatch, gone: list[str]
) -> None:
    fill(folder)
    reader.snapshot()
    with monkeypatch.context() as patch:
        patch.setattr(lake_module, "CHECKPOINT_VERSIONS", 0)  # every look opens it anew
        patch.setattr(lake_module, "open_table", without(*gone))
        for _ in range(2):
            with pytest.raises(StorageUnavailable, match="is gone"):
                reader.snapshot()
    assert len(reader.snapshot().samples) == 1


@pytest.mark.parametrize("gone", ["series", "metadata"])
def test_samples_without_the_tables_that_were_made_before_them_are_no_lake(
    folder: Path, reader: Lake, monkeypatch: pytest.MonkeyPatch, gone: str
) -> None:
    """LAKE-3: a first look that sees a part."""
    fill(folder)
    with monkeypatch.context() as patch:
        patch.setattr(lake_module, "open_table", without(gone))
        with pytest.raises(StorageUnavailable, match=f"{folder}/{gone} is gone"):
            reader.snapshot()
    assert len(reader.snapshot().samples) == 1


def test_tables_that_are_being_made_are_an_empty_lake(
    folder: Path, reader: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(folder)
    monkeypatch.setattr(lake_module, "open_table", without("samples", "metadata"))
    assert len(reader.snapshot().samples) == 0


def test_a_store_that_is_not_the_one_that_was_asked_for_gives_no_snapshot(
    folder: Path, reader: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its pages are listings without objects to both libraries."""
    fill(folder)
    reader.snapshot()

    def answer(_: Store) -> None:
        raise StorageUnavailable("a page")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "check_answers", answer)
        with pytest.raises(StorageUnavailable, match="a page"):
            reader.snapshot()
    reader.snapshot()
