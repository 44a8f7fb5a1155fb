"""Time, samples and bytes of one request."""

import pytest

from bridge.errors import Overloaded, QueryCancelled, QueryTooLarge
from bridge.read.budget import ESTIMATE_SLACK, Budget


def make(samples_max: int = 100, bytes_max: int = 1000) -> tuple[Budget, list[float]]:
    now = [0.0]
    return Budget(samples_max, bytes_max, 10.0, lambda: now[0]), now


def test_what_is_taken_adds_up_to_the_limit() -> None:
    budget, _ = make()
    budget.take(60, 600)
    budget.take(40, 400)
    with pytest.raises(QueryTooLarge, match=r"101 samples, 1\.0 times .*read\.max-samples"):
        budget.take(1, 0)


def test_bytes_are_limited_as_samples_are() -> None:
    budget, _ = make()
    with pytest.raises(QueryTooLarge, match=r"2500 bytes, 2\.5 times .*read\.max-query-bytes"):
        budget.take(1, 2500)


def test_estimate_refuses_only_what_it_is_sure_of() -> None:
    budget, _ = make()
    budget.expect(100 * ESTIMATE_SLACK, 0)
    with pytest.raises(QueryTooLarge, match=r"about 500 samples, 5\.0 times"):
        budget.expect(500, 0)


def test_retry_begins_with_a_full_budget_but_not_with_new_time() -> None:
    budget, now = make()
    budget.take(100, 1000)
    now[0] = 4.0
    budget.restart()
    budget.take(100, 1000)
    assert budget.left_s == 6.0


def test_check_ends_the_work_when_time_is_over_or_nobody_waits() -> None:
    budget, now = make()
    budget.check()
    now[0] = 10.5
    with pytest.raises(Overloaded, match=r"read\.timeout"):
        budget.check()
    assert budget.left_s == 0.0
    budget.cancel()
    with pytest.raises(QueryCancelled):
        budget.check()
