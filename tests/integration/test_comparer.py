"""The comparison of two servers' answers fails where it must; else it would prove nothing."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.integration.promql import (
    EMPTY,
    EXPRESSIONS,
    INSTANT,
    PLAIN,
    SORTED,
    SUMS,
    Answer,
    Evaluation,
    QueryError,
    Recording,
    Scale,
    compare,
    query,
)

A = (("__name__", "x"), ("a", "1"))
B = (("__name__", "x"), ("b", "2"))
SCALE = Scale("5m", "1h", "1m", "7m", 1000.5)


def matrix(samples: dict[Any, list[tuple[str, str]]], *warnings: str) -> Answer:
    return Answer("matrix", samples, list(samples), warnings)


def test_equal_answers_do_not_differ() -> None:
    samples = {A: [("1", "NaN"), ("2", "-0"), ("3", "+Inf")], B: [("1", "0.1")]}
    assert compare(matrix(samples), matrix(samples)) == []


@pytest.mark.parametrize(
    ("expected", "found", "difference"),
    [
        ({A: [("1", "0")]}, {A: [("1", "-0")]}, "0 expected, -0 found"),
        ({A: [("1", "NaN")]}, {A: [("1", "0")]}, "NaN expected, 0 found"),
        ({A: [("1", "1")]}, {A: [("1.001", "1")]}, "1 at 1 expected, 1 at 1.001 found"),
        ({A: [("1", "1"), ("2", "1")]}, {A: [("1", "1")]}, "no further sample found"),
        ({A: [("1", "1")]}, {A: [("1", "1"), ("2", "1")]}, "no further sample expected"),
        ({A: [("1", "1")]}, {B: [("1", "1")]}, "missing: {__name__='x', a='1'}"),
        ({A: [("1", "1")]}, {A: [("1", "1")], B: [("1", "1")]}, "extra: {__name__='x', b='2'}"),
        ({A: [("1", "1")]}, {}, "missing"),
        ({A: [("1", "1")]}, {A: [("1", "1.0000000000000002")]}, "1 expected"),
    ],
)
def test_each_difference_is_told(expected: Any, found: Any, difference: str) -> None:
    lines = compare(matrix(expected), matrix(found))
    assert any(difference in line for line in lines), lines


def test_only_sums_may_differ_and_only_in_the_last_digits() -> None:
    expected = matrix({A: [("1", "1")]})
    assert compare(expected, matrix({A: [("1", "1.0000000000000002")]}), SUMS) == []
    assert compare(expected, matrix({A: [("1", "1.00000000001")]}), SUMS) != []
    assert compare(expected, matrix({A: [("1", "NaN")]}), SUMS) != []


def test_a_warning_is_a_difference() -> None:
    answer = {A: [("1", "1")]}
    assert compare(matrix(answer), matrix(answer, "remote read failed")) == [
        "warning: remote read failed"
    ]


def test_the_order_counts_where_the_expression_sorts() -> None:
    expected = matrix({A: [("1", "1")], B: [("1", "2")]})
    found = matrix({B: [("1", "2")], A: [("1", "1")]})
    assert compare(expected, found, PLAIN) == []
    assert "order" in compare(expected, found, SORTED)[0]


def test_kinds_differ() -> None:
    assert compare(matrix({}), Answer("scalar", {(): [("1", "1")]})) == [
        "a matrix expected, a scalar found"
    ]


def test_the_list_is_long_and_without_repetition() -> None:
    texts = [expression.text for expression in EXPRESSIONS]
    assert len(set(texts)) == len(texts) >= 45
    assert all("SHORT" not in SCALE.apply(text) for text in texts)


class Canned:
    """An HTTP server that gives every query the same answer."""

    def __init__(self) -> None:
        canned = self
        self.status = 200
        self.document: Any = {}

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                body = json.dumps(canned.document).encode()
                self.send_response(canned.status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """Nothing on the terminal."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def give(self, *result: Any, kind: str = "vector") -> None:
        self.document = {"data": {"resultType": kind, "result": list(result)}}


@pytest.fixture
def canned() -> Iterator[Canned]:
    server = Canned()
    thread = threading.Thread(target=server.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.server.shutdown()
    thread.join()
    server.server.server_close()


def test_numbers_are_compared_as_they_were_printed(canned: Canned) -> None:
    canned.give({"metric": {"a": "1"}, "value": [1717070400.123, "1e-09"]})
    answer = query(canned.url, "x", Evaluation(1))
    assert answer.series == {(("a", "1"),): [("1717070400.123", "1e-09")]}


def test_a_label_set_that_comes_twice_is_an_error(canned: Canned) -> None:
    entry = {"metric": {"a": "1"}, "value": [1, "1"]}
    canned.give(entry, entry)
    with pytest.raises(QueryError, match="twice"):
        query(canned.url, "x", Evaluation(1))


def test_an_error_is_told_with_its_query(canned: Canned) -> None:
    canned.status = 422
    with pytest.raises(QueryError, match=r"rate\(x\).*422"):
        query(canned.url, "rate(x)", Evaluation(1))


def test_an_expression_that_gives_nothing_proves_nothing(canned: Canned) -> None:
    canned.give()
    with pytest.raises(AssertionError, match=r"http_requests_total: 0 samples as instant"):
        Recording(SCALE, [Evaluation(1)], []).record(canned.url)


def test_an_expression_that_must_give_nothing_is_held_to_it(canned: Canned) -> None:
    canned.give({"metric": {}, "value": [1, "1"]})
    (empty, *_) = (one for one in EXPRESSIONS if one.traits & EMPTY and not one.traits & INSTANT)
    with pytest.raises(AssertionError) as raised:
        Recording(SCALE, [Evaluation(1)], []).record(canned.url)
    assert f"{empty.text}: 1 samples as instant" in str(raised.value)
