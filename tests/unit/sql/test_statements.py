import duckdb
import pytest

from bridge.sql.statements import (
    StatementCancelled,
    StatementFailed,
    failures,
    is_empty,
    is_whole,
    one_line,
    run,
    split,
)


@pytest.mark.parametrize(
    "text",
    ["SELECT 1;", "SELECT ';';\n", "SELECT 1; -- done", "SELECT $$it's;$$;", 'SELECT 1 AS "a;";'],
)
def test_a_semicolon_ends_a_statement(text: str) -> None:
    assert is_whole(text)


@pytest.mark.parametrize(
    "text",
    [
        "SELECT 1",
        "SELECT ';",
        "SELECT 1 -- ;",
        "SELECT /* ;",
        "SELECT $$ ;",
        'SELECT "a;',
        "SELECT 1 /* ; */",
    ],
)
def test_a_semicolon_inside_of_something_ends_nothing(text: str) -> None:
    assert not is_whole(text)


@pytest.mark.parametrize(
    ("text", "expected"), [("", True), (" ;; -- x\n", True), ("/* a */", True), ("'x'", False)]
)
def test_comments_alone_are_nothing(text: str, expected: bool) -> None:
    assert is_empty(text) is expected


def test_statements_run_one_after_the_other() -> None:
    found = []
    with duckdb.connect() as connection:
        for statement in split(connection, "CREATE TABLE t (a INT); SHOW TABLES; SELECT 2 AS b"):
            reader = run(connection, statement, 10)
            if reader is not None:
                found += reader.read_all().to_pylist()
                reader.close()
    assert found == [{"name": "t"}, {"b": 2}]


def test_an_error_is_one_line_with_its_place() -> None:
    with (
        duckdb.connect() as connection,
        pytest.raises(StatementFailed, match=r'^Parser Error: .* "selec" LINE 1: selec 1$'),
    ):
        split(connection, "selec 1")


def test_our_own_error_is_found_under_those_who_quote_it() -> None:
    text = (
        "Invalid Input Error: reading failed. Detail: Python exception: Traceback (most recent call"
        ' last):\n  File "x.py", line 1, in read\nbridge.errors.StorageUnavailable: it is away\n'
    )
    assert one_line(duckdb.Error(text)) == "it is away"


def test_an_interrupt_is_no_failure() -> None:
    with pytest.raises(StatementCancelled), failures():
        raise RuntimeError("Query interrupted")
    with pytest.raises(StatementCancelled), failures():
        raise KeyboardInterrupt
