"""Matchers as PromQL means them."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.errors import RequestRejected
from bridge.model.matchers import Matcher, MatcherType, metrics_named_by

EQ, NEQ, RE, NRE = MatcherType


def keeps(kind: MatcherType, value: str, have: str) -> bool:
    return Matcher.parse(kind, "job", value).matches(have.encode())


@pytest.mark.parametrize(
    ("pattern", "have", "is_match"),
    [
        ("a", "a", True),
        ("a", "ab", False),
        ("a|b", "b", True),
        ("a|b", "ab", False),
        ("a|", "", True),
        ("", "", True),
        (".*", "two\nlines", True),
        ("a.b", "a\nb", True),
        ("^a$", "a", True),
        ("(?m)^a$", "a\nb", False),
        ("a$", "a\n", False),
        (r"\d+", "123", True),
        (r"\pL+", "éß", True),
        (".", "é", True),
        ("(?i)ABC", "abc", True),
        ("(?-s:a.b)", "a\nb", False),
        (r"\Qa.b\E", "a.b", True),
        (r"\Qa.b\E", "axb", False),
        ("(?P<n>a)b", "ab", True),
        ("[[:alpha:]]+", "abc", True),
    ],
)
def test_expressions_are_anchored_re2_with_dot_for_newline(
    pattern: str, have: str, is_match: bool
) -> None:
    assert keeps(RE, pattern, have) is is_match
    assert keeps(NRE, pattern, have) is not is_match


@pytest.mark.parametrize("pattern", ["a(", "a)(b", "[", "a{1001}", "*", r"\1", "(?=a)", r"\Z"])
def test_invalid_expression_is_named(pattern: str) -> None:
    with pytest.raises(RequestRejected, match=re.escape(repr(pattern))):
        Matcher.parse(RE, "job", pattern)


def test_expression_that_would_take_too_much_memory_is_refused() -> None:
    with pytest.raises(RequestRejected, match="invalid"):
        Matcher.parse(RE, "job", "(" + "[a-z]{500}" * 200 + "){3}")


def test_literals_are_a_set_and_need_no_compiling() -> None:
    pods = [f"pod-{number}" for number in range(4000)]
    matcher = Matcher.parse(RE, "pod", "|".join(pods))
    assert matcher.literals == frozenset(pod.encode() for pod in pods)
    assert matcher.matches(b"pod-17")
    assert not matcher.matches(b"pod-4000")


@pytest.mark.parametrize(
    ("kind", "value", "keeps_absent"),
    [
        (EQ, "", True),
        (EQ, "x", False),
        (NEQ, "x", True),
        (NEQ, "", False),
        (RE, ".*", True),
        (RE, ".+", False),
        (RE, "x|", True),
        (NRE, ".+", True),
        (NRE, ".*", False),
    ],
)
def test_absent_label_counts_as_empty(kind: MatcherType, value: str, keeps_absent: bool) -> None:
    assert Matcher.parse(kind, "job", value).matches_empty is keeps_absent
    assert keeps(kind, value, "") is keeps_absent


@pytest.mark.parametrize(
    ("matchers", "metrics"),
    [
        ([], None),
        ([(EQ, "job", "a")], None),
        ([(EQ, "__name__", "up")], {b"up"}),
        ([(RE, "__name__", "up|down")], {b"up", b"down"}),
        ([(RE, "__name__", "up|down"), (EQ, "__name__", "up")], {b"up"}),
        ([(EQ, "__name__", "up"), (EQ, "__name__", "down")], set()),
        ([(EQ, "__name__", "")], set()),
        ([(RE, "__name__", "up.*")], None),
        ([(NEQ, "__name__", "up")], None),
        ([(NRE, "__name__", "up|down")], None),
    ],
)
def test_metrics_are_read_off_the_matchers(
    matchers: list[tuple[MatcherType, str, str]], metrics: set[bytes] | None
) -> None:
    found = metrics_named_by([Matcher.parse(*matcher) for matcher in matchers])
    assert (None if found is None else set(found)) == metrics


alphabet = st.sampled_from(["a", "b", "é", "\n", ".", "|", "*", "+", "?", "(", ")", "^", "$"])
patterns = st.lists(alphabet, max_size=6).map("".join)
texts = st.lists(st.sampled_from(["a", "b", "é", "\n", "."]), max_size=4).map("".join)


@given(patterns, texts)
def test_what_python_compiles_too_is_matched_alike(pattern: str, text: str) -> None:
    try:
        theirs = re.compile(pattern, re.DOTALL)
    except re.error:
        return
    try:
        ours = Matcher.parse(RE, "job", pattern)
    except RequestRejected:
        return  # RE2 knows no nested repetition
    # Possessive repetition is Python's alone, and its $ matches before a last newline too.
    if not re.search(r"[*+?]\+|\$", pattern):
        assert ours.matches(text.encode()) is (theirs.fullmatch(text) is not None)
