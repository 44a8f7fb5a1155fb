"""What the README and docs/sql.md show works as it stands there, on lakes that a bridge wrote."""

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake

import bridge.sql
from bridge.lake.schema import SAMPLES_5M, TABLES, date_of
from bridge.lake.store import open_store
from bridge.lake.table import create_table
from tests.integration import promql
from tests.integration.bridge import Bridge, Place
from tests.integration.object_stores import VersityGw
from tests.integration.remote import NAN_BITS, STALE_BITS, Labels, Sample, bits_of, make_body
from tests.integration.servers import REPOSITORY, Prometheus, find_prometheus

README = (REPOSITORY / "README.md").read_text()
PAGE = (REPOSITORY / "docs/sql.md").read_text()
[COMMAND] = re.findall(r'```\n(prombridge sql ".*?")\n```', README, re.DOTALL)
[BARE] = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
[FROM_PYTHON] = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
[OVER_ROLLUPS] = re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL)

CPU = "container_cpu_usage_seconds_total"
MINUTE_MS = 60_000
NOW_MS = time.time_ns() // 1_000_000
HOUR_AGO_MS = NOW_MS - 3_600_000
THIS_MONTH = datetime.now(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
LAST_MONTH_MS = int((THIS_MONTH - timedelta(days=10)).timestamp() * 1000)
EXPECTED = [("shop", 2.5), ("search", 0.5)]


@dataclass(frozen=True)
class Lake:
    """Where it lies, and how a process gets in."""

    place: Place
    folder: Path

    def run(self, *arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
        """`prombridge sql` with these arguments."""
        return subprocess.run(
            [sys.executable, "-m", "bridge", "sql", *self.flags(), *arguments],
            cwd=self.folder,
            env=self.environment(),
            input=text,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def flags(self) -> list[str]:
        return [f"--lake.uri={self.place.uri}", f"--lake.cache-path={self.folder / 'sql-cache'}"]

    def environment(self) -> Mapping[str, str]:
        return {**os.environ, **self.place.environment, "XDG_STATE_HOME": str(self.folder)}


def cpu_series() -> Sequence[tuple[Labels, Sequence[Sample]]]:
    """Ten hours, a sample a minute: nine at one rate, one at another, with a restart."""
    made = []
    for namespace, pod, usual, busy in [
        ("shop", "a", 1.0, 1.5),
        ("shop", "b", 0.5, 1.0),
        ("search", "c", 0.25, 0.5),
    ]:
        value, samples = 0.0, []
        for minute in range(601):
            samples.append((LAST_MONTH_MS + minute * MINUTE_MS, bits_of(value)))
            value += 60 * (busy if minute >= 540 else usual)
            # It starts again from zero, in the middle of a window.
            value = 60 * usual if minute == 62 else value
        labels = (("__name__", CPU), ("namespace", namespace), ("pod", pod))
        made.append((labels, samples))
    return made


def durations() -> Sequence[tuple[Labels, Sequence[Sample]]]:
    return [
        (
            (("__name__", "scrape_duration_seconds"), ("instance", instance)),
            [
                (NOW_MS - 3000, NAN_BITS),
                (NOW_MS - 2000, bits_of(value)),
                (NOW_MS - 1000, STALE_BITS),
            ],
        )
        for instance, value in (("a:9100", 0.25), ("b:9100", 0.5))
    ]


def fill(running: Bridge) -> None:
    for series in (cpu_series(), durations(), durations()[:1]):
        assert make_body(1, series).push(running.write_url).status == 204
        running.flush()


@pytest.fixture(scope="module")
def folder_lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    folder = tmp_path_factory.mktemp("folder")
    with Bridge(folder / "data") as running:
        fill(running)
    return Lake(Place(str(folder / "data/lake")), folder)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VersityGw]:
    with VersityGw(tmp_path_factory.mktemp("s3") / "s3") as started:
        yield started


@pytest.fixture(scope="module")
def bucket_lake(server: VersityGw, tmp_path_factory: pytest.TempPathFactory) -> Lake:
    folder = tmp_path_factory.mktemp("bucket")
    access = server.access
    uri = f"s3://{access.make_bucket()}/lake"
    place = Place(uri, access.environment(), access.storage_options())
    with Bridge(folder / "data", lake=place) as running:
        fill(running)
    return Lake(place, folder)


@pytest.fixture(params=["folder", "bucket"])
def lake(request: pytest.FixtureRequest) -> Lake:
    found: Lake = request.getfixturevalue(f"{request.param}_lake")
    return found


def shell_run(text: str, lake: Lake) -> str:
    """A command line as it stands on a page, run where the lake is `data/lake` or said to be."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    flags = "" if lake.place.uri.startswith("/") else " ".join(["", *lake.flags()])
    done = subprocess.run(
        ["sh", "-c", text.replace("prombridge sql", f"prombridge sql{flags}")],
        cwd=lake.folder,
        env={**lake.environment(), "PATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_readme_answers_its_question(lake: Lake) -> None:
    shown = shell_run(COMMAND, lake)
    rows = [tuple(line.strip("│").split("│")) for line in shown.splitlines() if "│" in line]
    found = [(name.strip(), float(p95)) for name, p95 in rows[2:]]
    assert found == EXPECTED


def test_bare_duckdb_answers_the_same(folder_lake: Lake) -> None:
    done = subprocess.run(
        [sys.executable, "-c", BARE],
        cwd=folder_lake.folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stdout.strip() == str(EXPECTED), done.stderr


def test_the_page_answers_from_python(lake: Lake) -> None:
    code = FROM_PYTHON.replace('"data/lake"', f"{lake.place.uri!r}")
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=lake.folder,
        env=lake.environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stdout.strip() == "[('b:9100', 0.5), ('a:9100', 0.25)]", done.stderr


def test_the_page_answers_over_rollups(folder_lake: Lake, tmp_path: Path) -> None:
    """Rollup rows that the macro makes, stored as the table has them."""
    copy = tmp_path / "lake"
    copy.mkdir()
    for name in ("samples", "series", "metadata"):
        (copy / name).symlink_to(Path(folder_lake.place.uri) / name)
    schema = TABLES[SAMPLES_5M]
    with bridge.sql.connect(folder_lake.place.uri) as lake:
        rows = lake.sql(
            f"SELECT *, NULL AS stale_timestamp_ms FROM windows('{CPU}', INTERVAL 5 MINUTE)"
        ).to_arrow_table()
    stored = rows.select(schema.columns.names).cast(schema.columns)
    dates = [date_of(end_ms) for end_ms in stored["window_end_ms"].to_pylist()]
    stored = stored.append_column("date", pa.array(dates).cast(pa.date32()))
    with open_store(str(copy)) as store:
        create_table(store, schema)
    write_deltalake(copy / SAMPLES_5M, stored, mode="append")
    with bridge.sql.connect(str(copy)) as lake:
        assert lake.sql(OVER_ROLLUPS).fetchall() == EXPECTED


def test_rate_is_what_prometheus_computes(folder_lake: Lake, tmp_path: Path) -> None:
    program = find_prometheus(3)
    with Bridge(tmp_path / "read", lake=folder_lake.place, mode="read") as reader:
        config = {"remote_read": [{"url": reader.read_url, "read_recent": True}]}
        with Prometheus(program, "prometheus", tmp_path / "prometheus", lambda _: config) as server:
            when = promql.Evaluation(LAST_MONTH_MS / 1000, (LAST_MONTH_MS + 36_000_000) / 1000, 300)
            answer = promql.query(server.url, f"rate({CPU}[5m])", when)
    expected = {
        (dict(labels)["pod"], round(float(at) * 1000)): float(value)
        for labels, points in answer.series.items()
        for at, value in points
    }
    with bridge.sql.connect(folder_lake.place.uri) as lake:
        found = {
            (pod, end_ms): rate
            for pod, end_ms, rate in lake.sql(
                f"SELECT label(labels, 'pod'), to_ms(time), rate"
                f" FROM rate('{CPU}', INTERVAL 5 MINUTE)"
            ).fetchall()
        }
    assert len(found) == 3 * 120
    assert found == pytest.approx(expected, rel=1e-12)


def test_a_second_process_asks_the_bucket_for_the_log_alone(
    server: VersityGw, bucket_lake: Lake
) -> None:
    statement = f"SELECT count(*) FROM with_labels('samples') WHERE metric = '{CPU}'"
    first = bucket_lake.run("--format=csv", statement)
    assert first.stdout == "count_star()\n1803\n", first.stderr
    server.requests()
    assert bucket_lake.run("--format=csv", statement).stdout == first.stdout
    assert not [one for one in server.requests() if one.key.endswith(".parquet")]


def test_a_process_that_leaves_in_the_middle_of_a_scan_ends_well(bucket_lake: Lake) -> None:
    done = bucket_lake.run("SELECT * FROM samples LIMIT 1")
    assert (done.returncode, done.stderr) == (0, "")


def test_every_format_has_all_rows(lake: Lake) -> None:
    statement = f"SELECT * FROM samples WHERE metric = '{CPU}'"
    csv = lake.run("--format=csv", statement).stdout
    assert len(csv.splitlines()) == 1804
    assert lake.run("--format=json", statement).stdout.count('"metric":') == 1803
    done = lake.run("--format=parquet", "--output=cpu.parquet", statement)
    assert done.returncode == 0, done.stderr
    assert pq.read_table(lake.folder / "cpu.parquet").num_rows == 1803


def test_a_pipe_is_run_statement_by_statement(lake: Lake) -> None:
    done = lake.run("--format=csv", text="SELECT 1 AS a; -- one\nSELECT 2 AS b;\nSELECT nope")
    assert done.stdout == "a\n1\nb\n2\n"
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "nope" in done.stderr


def test_the_shell_outlives_a_query_that_is_cancelled(folder_lake: Lake) -> None:
    main, other = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "bridge", "sql", *folder_lake.flags()],
        env={**folder_lake.environment(), "TERM": "dumb"},
        stdin=other,
        stdout=other,
        stderr=other,
        start_new_session=True,
    ) as shell:
        os.close(other)

        unread = ""

        def expect(text: str) -> None:
            """Reads on until a text; what came along behind it is for the next call."""
            nonlocal unread
            deadline_s = time.monotonic() + 60
            while text not in unread:
                left_s = max(0, deadline_s - time.monotonic())
                assert select.select([main], [], [], left_s)[0], unread
                unread += os.read(main, 65536).decode(errors="replace")
            unread = unread.partition(text)[2]

        def type_in(text: str) -> None:
            os.write(main, text.encode())

        try:
            expect("prombridge> ")
            type_in("SELECT 40\n")
            expect("...> ")
            type_in("+ 2 AS answer;\n")
            expect("42")
            expect("prombridge> ")
            slow = "SELECT sum(a.range * b.range) FROM range(1000000) a, range(9999999) b"
            type_in(f"SELECT 'begun'; {slow};\n")
            expect(" begun ")
            shell.send_signal(signal.SIGINT)
            expect("cancelled")
            expect("prombridge> ")
            type_in("SELEC;\n")
            expect("error: Parser Error")
            type_in(".tables\n")
            expect("samples_distinct")
            type_in(".quit\n")
            assert shell.wait(60) == 0
        finally:
            shell.kill()
    os.close(main)
    history = (folder_lake.folder / "prombridge/sql_history").read_text()
    assert "+ 2 AS answer;" in history
