"""Label matchers as PromQL means them.

A label that a series does not have counts as empty: `{a=""}` and `{a=~".*"}` match series without
`a`, and so does `{a!="x"}`. The metric's name is the ordinary label `__name__`.

Regular expressions are RE2's, match the whole value, and their dot matches newlines. RE2 does not
backtrack, so no expression takes more than linear time; how much memory a compiled one may take is
bounded below. An expression that is nothing but literals (`a|b|c`, which dashboards make of a
variable) is a set and is never compiled.

Limits:
    PATTERN_BYTES_MAX  256 KiB: 4000 pod names of 60 bytes in one alternation.
    PATTERN_MEMORY_MAX 4 MiB for a compiled expression and its automaton; RE2 refuses to compile
                       what needs more and falls back to a slower automaton while matching.
    MATCHER_COUNT_MAX  128 matchers: a selector names each label once or twice, and a series has
                       at most 128 labels by default.

Source: prometheus model/labels/matcher.go and regexp.go.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

import re2

from bridge.errors import RequestRejected

METRIC_NAME = b"__name__"

PATTERN_BYTES_MAX = 256 << 10
PATTERN_MEMORY_MAX = 4 << 20
MATCHER_COUNT_MAX = 128

_META = frozenset(b"\\.+*?()[]{}^$")
"""What makes an expression more than an alternation of literals."""


class MatcherType(IntEnum):
    """How a value is compared; the numbers are those on the wire."""

    EQ = 0
    NEQ = 1
    RE = 2
    NRE = 3

    @property
    def is_negative(self) -> bool:
        """Whether it keeps what its counterpart does not."""
        return self in {MatcherType.NEQ, MatcherType.NRE}

    @property
    def symbol(self) -> str:
        """As PromQL writes it."""
        return ("=", "!=", "=~", "!~")[self]


@dataclass(frozen=True, slots=True)
class Matcher:
    """One condition on one label.

    `is_negative` aside, a value is accepted if it is in `literals`, or, where that is None, if
    `matches_pattern` says so.

    Attributes:
        type: how the value is compared.
        name: of the label, UTF-8.
        value: literal or expression, UTF-8.
        literals: values that EQ and NEQ, or an expression of literals, compare with; None for any
            other expression.
        matches_empty: whether a series without the label is kept.
    """

    type: MatcherType
    name: bytes
    value: bytes
    literals: frozenset[bytes] | None = field(compare=False)
    matches_empty: bool = field(compare=False)
    _matches_pattern: Callable[[bytes], bool] | None = field(compare=False, repr=False)

    @classmethod
    def parse(cls, kind: MatcherType, name: str, value: str) -> "Matcher":
        """A matcher as it came in.

        Raises:
            RequestRejected: the expression is invalid or too large.
        """
        text = value.encode()
        matches = None
        literals: frozenset[bytes] | None
        if kind in {MatcherType.EQ, MatcherType.NEQ}:
            literals = frozenset([text])
        else:
            literals = _literals_of(text, name)
            if literals is None:
                matches = _compile(text, name)
        accepts_empty = b"" in literals if literals is not None else bool(matches and matches(b""))
        return cls(kind, name.encode(), text, literals, accepts_empty != kind.is_negative, matches)

    def matches(self, value: bytes) -> bool:
        """Whether a series with this value of the label is kept; empty for a label it lacks."""
        if self.literals is not None:
            return (value in self.literals) != self.type.is_negative
        assert self._matches_pattern is not None
        return self._matches_pattern(value) != self.type.is_negative

    def __str__(self) -> str:
        value = self.value.decode(errors="replace")
        return f"{self.name.decode(errors='replace')}{self.type.symbol}{value!r}"


def names_metrics(matcher: Matcher) -> bool:
    """Whether a matcher says by name which metrics it keeps."""
    return (
        matcher.name == METRIC_NAME
        and matcher.literals is not None
        and not matcher.type.is_negative
    )


def metrics_named_by(matchers: Sequence[Matcher]) -> frozenset[bytes] | None:
    """The only metrics that series kept by all matchers can have; None if it can be any."""
    named: frozenset[bytes] | None = None
    for matcher in matchers:
        if names_metrics(matcher) and matcher.literals is not None:
            named = matcher.literals if named is None else named & matcher.literals
    return None if named is None else named - {b""}


def _literals_of(pattern: bytes, name: str) -> frozenset[bytes] | None:
    """The values that an expression without meta characters names; None for any other."""
    if len(pattern) > PATTERN_BYTES_MAX:
        raise RequestRejected(
            f"the regular expression for label {name!r} has {len(pattern)} bytes, at most "
            f"{PATTERN_BYTES_MAX} are allowed"
        )
    if not _META.isdisjoint(pattern):
        return None
    return frozenset(pattern.split(b"|"))


def _compile(pattern: bytes, name: str) -> Callable[[bytes], bool]:
    options = re2.Options()
    options.dot_nl = True
    options.never_capture = True
    options.log_errors = False
    options.max_mem = PATTERN_MEMORY_MAX
    try:
        compiled = re2.compile(pattern, options)
    except re2.error as error:
        reason = error.args[0] if error.args else ""
        cause = reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
        shown = pattern[:200].decode(errors="replace")
        raise RequestRejected(
            f"the regular expression {shown!r} for label {name!r} is invalid: {cause}"
        ) from error
    finally:
        # The package keeps the 128 expressions used last, each with its automaton: 512 MiB.
        re2.purge()

    def matches(value: bytes) -> bool:
        return compiled.fullmatch(value) is not None

    return matches
