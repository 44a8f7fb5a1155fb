"""Which lines of a batch a rejection is about: decided here, acted on by the sink.

InfluxDB 2 lists every line that it cannot parse and stores none of the batch (400), or it stores
what it can and says how many it left out, with one example (422). 1.8 does the latter with 400.

Invariants:
    - A line is given up only where the server has named it, has dropped as many lines as it was
      sent, or was sent this line alone. What the text of a reason suggests is only where to cut.
    - Every part that goes again is smaller than what was sent, so it ends; where the one example
      does not explain all that was dropped, at most half of it, so that B bad measurements in a
      batch of n lines cost n log n lines, not B n.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from http import HTTPStatus

from bridge.write.sinks.influxdb.client import Rejected

_UNPARSED = "unable to parse '"
_CONFLICT = re.compile(r'input field "(.*?)" on measurement "(.*?)" is type', re.DOTALL)
_TOO_OLD = re.compile(r"violates a Retention Policy Lower Bound at (\S+?)[,;]? ")


@dataclass(slots=True)
class Verdict:
    """What becomes of the lines of a rejected batch.

    Attributes:
        refused: numbers of lines that are given up, by the server's reason.
        again: numbers of lines that are sent again, part by part.
    """

    refused: dict[str, list[int]] = field(default_factory=dict)
    again: list[list[int]] = field(default_factory=list)


def judge(lines: Sequence[bytes], rejected: Rejected) -> Verdict:
    """What a rejection means.

    Args:
        lines: what was sent, newlines and all.
        rejected: what came back.
    """
    everything = list(range(len(lines)))
    if len(lines) == 1:
        return Verdict({rejected.reason: everything})
    if rejected.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return Verdict(again=_halves(everything))
    if rejected.dropped_count is not None and rejected.dropped_count >= len(lines):
        return Verdict({rejected.reason: everything})
    if refused := _named(lines, rejected.reason):
        gone = {number for numbers in refused.values() for number in numbers}
        rest = [number for number in everything if number not in gone]
        return Verdict(refused, [rest] if rest else [])
    suspects = _suspects(lines, rejected.reason)
    if 0 < len(suspects) < len(lines):
        rest = [number for number in everything if number not in suspects]
        is_explained = len(suspects) >= (rejected.dropped_count or len(lines))
        parts = [rest] if is_explained else _halves(rest)
        return Verdict(again=[sorted(suspects), *filter(None, parts)])
    return Verdict(again=_halves(everything))


def _halves(numbers: list[int]) -> list[list[int]]:
    middle = len(numbers) // 2
    return [numbers[:middle], numbers[middle:]]


def _named(lines: Sequence[bytes], reason: str) -> dict[str, list[int]]:
    """Lines that the server has listed, by what it says about each."""
    if _UNPARSED not in reason:
        return {}
    places: dict[str, list[int]] = {}
    for number, line in enumerate(lines):
        places.setdefault(line.decode(errors="replace").removesuffix("\n"), []).append(number)
    refused: dict[str, list[int]] = {}
    for entry in reason.split("\n"):
        _, mark, text = entry.partition(_UNPARSED)
        # The line itself may hold what ends it.
        end = text.rfind("': ") if mark else -1
        while end >= 0:
            if text[:end] in places:
                refused.setdefault(text[end + 3 :], []).extend(places.pop(text[:end]))
                break
            end = text.rfind("': ", 0, end)
    return refused


def _suspects(lines: Sequence[bytes], reason: str) -> set[int]:
    """Lines that the example in a reason has something in common with."""
    if found := _CONFLICT.search(reason):
        name = re.sub(r"([, ])", r"\\\1", found[2]).encode()
        key = b" " + re.sub(r'([,= "])', r"\\\1", found[1]).encode() + b"="
        heads = (name + b",", name + b" ")
        return {
            number for number, line in enumerate(lines) if line.startswith(heads) and key in line
        }
    if found := _TOO_OLD.search(reason):
        try:
            bound_ms = _unix_ms(found[1])
        except ValueError:  # the name of a measurement that looks like it
            return set()
        return {
            number for number, line in enumerate(lines) if int(line.rpartition(b" ")[2]) < bound_ms
        }
    return set()


def _unix_ms(text: str) -> float:
    """Unix ms of RFC 3339 with up to nine decimals."""
    whole, _, fraction = text.removesuffix("Z").partition(".")
    return (
        datetime.fromisoformat(whole + "+00:00").timestamp() + float(f"0.{fraction or 0}")
    ) * 1e3
