"""Settings that could not work are refused."""

from typing import Any

import pytest

from bridge.errors import ConfigError
from bridge.read.settings import ReadSettings


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("samples_per_chunk", 0),
        ("samples_per_chunk", 65_536),
        ("max_concurrent", 0),
        ("max_query_bytes", 1 << 32),
    ],
)
def test_impossible_value_names_its_option(option: str, value: int) -> None:
    impossible: dict[str, Any] = {option: value}
    with pytest.raises(ConfigError, match=f"read.{option}"):
        ReadSettings(**impossible)


def test_bounds_themselves_are_possible() -> None:
    ReadSettings(samples_per_chunk=1)
    ReadSettings(samples_per_chunk=65_535, max_waiting=0)
