"""Ranges open on the left and closed on the right."""

import pytest

from bridge.model.time_range import AFTER_MS_MIN, UNTIL_MS_MAX, TimeRange

INT64_MIN, INT64_MAX = -(1 << 63), (1 << 63) - 1


@pytest.mark.parametrize(
    ("start_ms", "end_ms", "expected"),
    [
        (10, 20, TimeRange(9, 20)),
        (10, 10, TimeRange(9, 10)),
        (-5, 0, TimeRange(-6, 0)),
        (INT64_MIN, INT64_MAX, TimeRange(AFTER_MS_MIN, UNTIL_MS_MAX)),
        (INT64_MAX, INT64_MAX, TimeRange(UNTIL_MS_MAX, UNTIL_MS_MAX)),
        (INT64_MIN, INT64_MIN, TimeRange(AFTER_MS_MIN, AFTER_MS_MIN)),
    ],
)
def test_closed_range_is_converted_and_clamped(
    start_ms: int, end_ms: int, expected: TimeRange
) -> None:
    assert TimeRange.from_closed(start_ms, end_ms) == expected


def test_range_is_empty_where_no_millisecond_lies_in_it() -> None:
    assert TimeRange(5, 5).is_empty
    assert TimeRange(6, 5).is_empty
    assert not TimeRange(4, 5).is_empty


def test_intersection_of_disjoint_ranges_is_empty() -> None:
    assert TimeRange(0, 10).intersect(TimeRange(5, 20)) == TimeRange(5, 10)
    assert TimeRange(0, 10).intersect(TimeRange(10, 20)).is_empty
    assert TimeRange(0, 10).intersect(TimeRange(15, 20)).is_empty


def test_ends_are_widened_to_multiples() -> None:
    assert TimeRange(5, 15).widen(10) == TimeRange(0, 20)
    assert TimeRange(10, 20).widen(10) == TimeRange(10, 20)
    assert TimeRange(-5, -1).widen(10) == TimeRange(-10, 0)
