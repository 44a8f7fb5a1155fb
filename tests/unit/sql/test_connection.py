"""SQL-1, SQL-2, SQL-3 on a folder; the bucket's way over the same files."""

import math
import re
import struct
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pytest

import bridge.sql
from bridge.errors import ConfigError
from bridge.lake.files import Files
from bridge.lake.lake import Lake
from bridge.lake.schema import DAY_MS, SAMPLES, SERIES, date_of
from bridge.lake.store import open_store
from bridge.model.staleness import STALE_BITS
from bridge.sql.connection import _show_far
from bridge.sql.pinned import parse_moment, pin_tables
from bridge.sql.statements import StatementFailed, run, split
from bridge.sql.views import public_views
from tests.unit.lake.made_files import DAY_START_MS, Row, one_series, write_rows

NAN_BITS = 0x7FF8000000000001
DAYS = 5


def bits(value: float) -> int:
    found: int
    [found] = struct.unpack("<q", struct.pack("<d", value))
    return found


class MadeLake:
    """A folder that grows commit by commit."""

    def __init__(self, folder: Path) -> None:
        self.uri = str(folder / "lake")
        self._folder = folder
        self._count = 0
        self._lake = Lake.open(open_store(self.uri), single_writer=False, refresh_interval_s=5)

    def add(self, rows: Sequence[Row]) -> None:
        self._count += 1
        path = self._folder / f"f-{self._count}.parquet"
        file = write_rows(path, rows, date_of(rows[0][2]))
        self._lake.commit(SAMPLES, [file], receiver_id="made", position=self._count)

    def add_series(self) -> None:
        self._count += 1
        file = one_series(self._folder / f"f-{self._count}.parquet")
        self._lake.commit(SERIES, [file], receiver_id="made", position=self._count)

    def close(self) -> None:
        self._lake.close()


@pytest.fixture
def made(tmp_path: Path) -> Iterator[MadeLake]:
    """Of each of five days a file; `up` has one series, `down` too."""
    lake = MadeLake(tmp_path)
    lake.add_series()
    for day in range(DAYS):
        start_ms = DAY_START_MS - day * DAY_MS
        lake.add(
            [
                (metric, 1, start_ms + hour * 3_600_000, bits(float(hour)), 0, "")
                for metric in ("down", "up")
                for hour in range(1, 25)
            ]
        )
    yield lake
    lake.close()


@pytest.fixture(params=["near", "far"])
def opened(request: pytest.FixtureRequest, made: MadeLake) -> duckdb.DuckDBPyConnection:
    """Both ways to read, over the same files."""
    return open_by(request.param, made.uri)


def open_by(way: str, uri: str) -> duckdb.DuckDBPyConnection:
    if way == "near":
        return bridge.sql.connect(uri)
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'; CREATE SCHEMA lake")
    _show_far(connection, pin_tables(open_store(uri), None), Files())
    connection.execute(public_views())
    return connection


def files_read(connection: duckdb.DuckDBPyConnection, statement: str) -> int:
    [(_, plan)] = connection.execute(f"EXPLAIN ANALYZE {statement}").fetchall()
    return sum(map(int, re.findall(r"Total Files Read: (\d+)", plan)))


@pytest.mark.parametrize(
    ("condition", "count", "file_count"),
    [
        ("true", 5 * 48, 5),
        ("metric = 'up' AND time > '2026-11-20' AND time <= '2026-11-21'", 24, 1),
        ("time > '2026-11-20' AND time <= '2026-11-21'", 48, 1),
        (f"timestamp_ms > {DAY_START_MS}", 48, 1),
        (f"timestamp_ms > to_ms('2026-11-19') AND timestamp_ms <= {DAY_START_MS}", 2 * 48, 2),
        ("time > '2026-11-22 00:00:00.001'", 0, 0),
        ("time BETWEEN '2026-11-20' AND '2026-11-20 12:00:00'", 2 + 24, 2),
        ("metric IN ('up', 'other') AND value >= 24", 5, 5),
    ],
)
def test_a_range_of_time_opens_only_its_files(
    opened: duckdb.DuckDBPyConnection, made: MadeLake, condition: str, count: int, file_count: int
) -> None:
    """SQL-2."""
    statement = f"SELECT count(*) FROM samples WHERE {condition}"
    assert opened.execute(statement).fetchall() == [(count,)]
    if file_count:
        with bridge.sql.connect(made.uri) as near:
            assert files_read(near, statement) == file_count


def test_far_files_that_cannot_match_are_not_opened(made: MadeLake) -> None:
    """SQL-2: the others are gone, and nobody notices."""
    connection = open_by("far", made.uri)
    for path in (Path(made.uri) / "samples").rglob("*.parquet"):
        if "2026-11-21" not in str(path):
            path.unlink()
    statement = "SELECT count(*) FROM samples WHERE metric = 'up' AND time > '2026-11-21'"
    assert connection.execute(statement).fetchall() == [(24,)]
    with pytest.raises(duckdb.Error):
        connection.execute("SELECT sum(value) FROM samples").fetchall()


def test_a_file_that_is_gone_is_named(made: MadeLake) -> None:
    connection = open_by("near", made.uri)
    next(Path(made.uri).rglob("date=2026-11-21/*.parquet")).unlink()
    with pytest.raises(StatementFailed, match=r"2026-11-21/.*\.parquet is not there any more"):
        [run(connection, one, 1) for one in split(connection, "SELECT sum(value) FROM samples")]


def test_a_connection_stays_at_its_version(
    opened: duckdb.DuckDBPyConnection, made: MadeLake
) -> None:
    """SQL-1."""
    count = "SELECT count(*) FROM samples"
    before = opened.execute(count).fetchall()
    made.add([("up", 1, DAY_START_MS + 77, bits(1.0), 0, "")])
    assert opened.execute(count).fetchall() == before
    with bridge.sql.connect(made.uri) as fresh:
        assert fresh.execute(count).fetchall() == [(5 * 48 + 1,)]


def test_as_of_is_the_version_of_then(made: MadeLake) -> None:
    """SQL-1."""
    log = sorted((Path(made.uri) / "samples/_delta_log").glob("*.json"))
    # Between a commit and the next one, by the times that delta-rs goes by.
    moment = (log[3].stat().st_mtime + log[4].stat().st_mtime) / 2
    with bridge.sql.connect(made.uri, as_of=moment) as lake:
        assert lake.execute("SELECT count(*) FROM samples").fetchall() == [(3 * 48,)]
    with bridge.sql.connect(made.uri, as_of="2001-01-01T00:00:00Z") as lake:
        assert lake.execute("SELECT count(*) FROM samples").fetchall() == [(0,)]
        assert lake.execute("SELECT count(*) FROM series").fetchall() == [(0,)]


def test_as_of_a_vacuumed_version_is_refused(made: MadeLake) -> None:
    next(Path(made.uri).rglob("date=2026-11-21/*.parquet")).unlink()
    with pytest.raises(ConfigError, match="vacuumed"):
        bridge.sql.connect(made.uri, as_of=datetime.now(UTC))


@pytest.mark.parametrize(
    "statement",
    [
        "COPY (SELECT 1) TO '{lake}/samples/x.parquet'",
        "COPY (SELECT 1) TO '{file}'",
        "COPY (SELECT 1) TO '{folder}/x.csv'",
        "SELECT * FROM read_csv('/etc/hostname')",
        "ATTACH '{folder}/x.db'",
        "INSTALL httpfs",
        "SET enable_external_access = true",
        "DELETE FROM samples",
        "INSERT INTO lake.samples SELECT * FROM lake.samples",
    ],
)
def test_nothing_is_written_and_nothing_else_is_read(
    made: MadeLake, tmp_path: Path, statement: str
) -> None:
    """SQL-3."""
    file = next(Path(made.uri).rglob("date=2026-11-21/*.parquet"))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    with bridge.sql.connect(made.uri) as lake, pytest.raises(duckdb.Error):
        lake.execute(statement.format(lake=made.uri, file=file, folder=tmp_path))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_stale_markers_are_left_out_by_their_bits(made: MadeLake) -> None:
    made.add(
        [
            ("odd", 1, DAY_START_MS + 1, STALE_BITS, 0, ""),
            ("odd", 1, DAY_START_MS + 2, NAN_BITS, 0, ""),
            ("odd", 1, DAY_START_MS + 3, bits(math.inf), 0, ""),
        ]
    )
    for way in ("near", "far"):
        lake = open_by(way, made.uri)
        for relation, expected in (("samples", [2, 3]), ("lake.samples", [1, 2, 3])):
            rows = lake.execute(
                f"SELECT timestamp_ms - {DAY_START_MS} FROM {relation}"
                " WHERE metric = 'odd' ORDER BY 1"
            ).fetchall()
            assert [row[0] for row in rows] == expected


def test_equal_times_are_merged_in_samples_distinct(made: MadeLake) -> None:
    for value in (bits(1.0), bits(2.0), NAN_BITS, STALE_BITS):
        made.add([("odd", 1, DAY_START_MS + 1, value, 0, "")])
    for way in ("near", "far"):
        lake = open_by(way, made.uri)
        found = lake.execute("SELECT value FROM samples_distinct WHERE metric = 'odd'").fetchall()
        assert found == [(2.0,)]
        assert lake.execute("SELECT count(*) FROM samples WHERE metric = 'odd'").fetchall() == [
            (3,)
        ]


def test_times_that_no_date_can_name_are_null(made: MadeLake) -> None:
    made.add([("odd", 1, -(1 << 62), bits(1.0), 1 << 62, "")])
    for way in ("near", "far"):
        lake = open_by(way, made.uri)
        found = lake.execute(
            "SELECT timestamp_ms, time IS NULL, start_time IS NULL FROM samples"
            " WHERE metric = 'odd'"
        ).fetchall()
        assert found == [(-(1 << 62), True, True)]


def test_labels_are_joined_on_request(opened: duckdb.DuckDBPyConnection) -> None:
    found = opened.execute(
        "SELECT label(labels, 'job'), label(labels, 'none'), labels['none'], count(*)"
        " FROM with_labels('samples') WHERE metric = 'up' GROUP BY ALL"
    ).fetchall()
    assert found == [("node", "", None, DAYS * 24)]


def test_tables_that_are_not_there_are_empty_views(opened: duckdb.DuckDBPyConnection) -> None:
    for name in ("samples_5m", "samples_1h"):
        statement = f"SELECT window_end_ms, count, increase, rate FROM {name} WHERE metric = 'up'"
        assert opened.execute(statement).fetchall() == []
        names = {row[0] for row in opened.execute(f"DESCRIBE {name}").fetchall()}
        assert {"time", "first_time", "last_time", "stale_time", "reset_drop"} <= names


@pytest.mark.parametrize("ms", [-300_001, -300_000, -1, 0, 1, 300_000, 300_001])
def test_windows_are_open_on_the_left_and_closed_on_the_right(
    opened: duckdb.DuckDBPyConnection, ms: int
) -> None:
    [(found,)] = opened.execute(f"SELECT window_end_ms({ms}, INTERVAL 5 MINUTE)").fetchall()
    assert found == math.ceil(ms / 300_000) * 300_000


def test_the_stale_marker_in_the_views_is_the_one_of_the_model() -> None:
    assert f"({STALE_BITS}::BIGINT)::BIT" in public_views()


def test_a_lake_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no lake"):
        bridge.sql.connect(str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="there is no lake"):
        bridge.sql.connect(str(tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("moment", ["yesterday", "1e99", 1e99, math.nan])
def test_what_is_no_moment_is_refused(moment: str | float) -> None:
    with pytest.raises(ConfigError):
        parse_moment(moment)


def test_limits_are_those_that_were_asked_for(made: MadeLake) -> None:
    with bridge.sql.connect(made.uri, memory_limit="512MiB", threads=3) as lake:
        found = lake.execute("SELECT current_setting('memory_limit'), current_setting('threads')")
        assert found.fetchall() == [("512.0 MiB", 3)]
    with pytest.raises(ConfigError):
        bridge.sql.connect(made.uri, memory_limit="much")
