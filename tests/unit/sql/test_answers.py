import csv
import io
import json

import duckdb
import pyarrow.parquet as pq
import pytest

from bridge.sql.answers import TABLE_ROWS_MAX, Format, write_answer


def answer(statement: str, form: Format, time_zone: str = "UTC") -> bytes:
    out = io.BytesIO()
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = ?", [time_zone])
        reader = connection.sql(statement).to_arrow_reader(1000)
        write_answer(reader, form, out, time_zone=time_zone, width=200)
        return out.getvalue()


def test_csv_is_read_as_it_was() -> None:
    rows = [["a,b", 'say "x"', "", "two\nlines", "plain"]]
    statement = """SELECT 'a,b' AS a, 'say "x"' AS "b,", '' AS c, 'two\nlines' AS d, 'plain' AS e"""
    header, *found = csv.reader(io.StringIO(answer(statement, "csv").decode()))
    assert (header, found) == (["a", "b,", "c", "d", "e"], rows)


def test_csv_tells_null_from_an_empty_text() -> None:
    assert answer("SELECT NULL AS a, '' AS b, 1.5::DOUBLE AS a", "csv") == b'a,b,a\n,"",1.5\n'


def test_json_is_an_array_of_objects() -> None:
    statement = "SELECT i AS n, MAP {'job': 'a\"b'} AS labels, NULL AS x FROM range(2) AS t(i)"
    found = json.loads(answer(statement, "json"))
    assert found == [{"n": n, "labels": {"job": 'a"b'}, "x": None} for n in range(2)]


def test_json_has_no_numbers_that_json_lacks() -> None:
    statement = "SELECT 'nan'::DOUBLE AS a, '-inf'::DOUBLE AS b, 1.5::DOUBLE AS a"
    assert answer(statement, "json") == b'[{"a":null,"b":null,"a_1":1.5}]\n'


@pytest.mark.parametrize(("form", "expected"), [("json", b"[]\n"), ("csv", b"a\n")])
def test_no_rows_are_an_answer_too(form: Format, expected: bytes) -> None:
    assert answer("SELECT 1 AS a WHERE false", form) == expected


def test_parquet_keeps_types_and_all_batches() -> None:
    found = pq.read_table(
        io.BytesIO(answer("SELECT i, make_timestamptz(i) AS t FROM range(5000) AS x(i)", "parquet"))
    )
    assert found.num_rows == 5000
    assert str(found.schema.field("t").type) == "timestamp[us, tz=UTC]"


def test_times_are_shown_in_the_zone_of_the_session() -> None:
    assert b"1970-01-01 01:00:00+01" in answer("SELECT make_timestamptz(0)", "csv", "Europe/Berlin")


def test_a_long_table_says_that_there_is_more() -> None:
    shown = answer(f"SELECT * FROM range({TABLE_ROWS_MAX + 2})", "table").decode()
    assert shown.count("\n") < 60
    assert "there are more" in shown


def test_a_plan_is_shown_as_text() -> None:
    assert b"explain_key" not in answer("EXPLAIN SELECT 1", "table")
