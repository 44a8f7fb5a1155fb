"""What an answer asks for, whatever it is."""

import pytest

from bridge.write.sinks.influxdb.client import RETRY_AFTER_S_MAX, _retry_after_s


@pytest.mark.parametrize(
    ("text", "wait_s"),
    [
        ("", 0.0),
        ("7", 7.0),
        ("1.5", 1.5),
        ("-1", 0.0),
        ("1e5", 0.0),
        ("999999999", RETRY_AFTER_S_MAX),
        ("soon", 0.0),
        ("Mon, 01 Jan 2001 00:00:00 GMT", 0.0),
        ("Fri, 01 Jan 9999 00:00:00 GMT", RETRY_AFTER_S_MAX),
        ("Mon, 01 Jan 99999999999999 00:00:00", 0.0),
        ("Mon, 99 Jan 2001 00:00:00 +99999999999999", 0.0),
    ],
)
def test_retry_after_is_a_bounded_wait_whatever_it_says(text: str, wait_s: float) -> None:
    assert _retry_after_s(text) == wait_s
