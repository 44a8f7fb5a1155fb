"""Settings of the downsampler and of retention."""

from pathlib import Path
from typing import Any

import pytest

from bridge import config
from bridge.errors import ConfigError
from downsample.settings import (
    DownsampleSettings,
    RetentionSettings,
    RetentionTime,
    format_retention,
    parse_retention,
)

DAY_S = 86_400


@pytest.mark.parametrize(
    ("values", "place"),
    [
        ({"workers": 0}, "downsample.workers"),
        ({"engine": "dask"}, "downsample.dask_scheduler"),
        ({"dask_scheduler": "tcp://a:8786"}, "downsample.engine: dask"),
    ],
)
def test_impossible_value_names_its_option(values: dict[str, Any], place: str) -> None:
    with pytest.raises(ConfigError, match=place):
        DownsampleSettings(**values)


@pytest.mark.parametrize(("text", "seconds"), [("0", 0), ("30d", 30 * DAY_S), ("12h", 43_200)])
def test_retention_is_read_back_from_its_text(text: str, seconds: int) -> None:
    retention = RetentionTime(seconds)
    assert parse_retention(text) == retention
    assert parse_retention(format_retention(retention)) == retention


@pytest.mark.parametrize("text", ["", "30", "-1d", "ever"])
def test_what_is_no_retention_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="not a duration"):
        parse_retention(text)


@pytest.mark.parametrize(
    ("raw", "five_m", "one_h", "place"),
    [
        (30, 7, 0, "retention.5m: 7d is less than retention.raw, 30d"),
        (0, 7, 0, "retention.5m"),
        (1, 30, 7, "retention.1h"),
        (1, 0, 7, "retention.1h: 7d is less than retention.5m, 0"),
    ],
)
def test_a_rollup_is_kept_as_long_as_what_it_was_made_from(
    raw: int, five_m: int, one_h: int, place: str
) -> None:
    raw_s, five_m_s, one_h_s = (RetentionTime(days * DAY_S) for days in (raw, five_m, one_h))
    with pytest.raises(ConfigError, match=place):
        RetentionSettings(raw_s, five_m_s, one_h_s)


def test_the_file_and_the_flags_say_5m_and_1h(tmp_path: Path) -> None:
    path = tmp_path / "prombridge.yml"
    path.write_text("retention: {raw: 20d, 5m: 90d, 1h: 0}\n")
    retention = config.load(path, {"retention.1h": "365d"}).retention
    assert retention == RetentionSettings(
        RetentionTime(20 * DAY_S), RetentionTime(90 * DAY_S), RetentionTime(365 * DAY_S)
    )
    flags = {item.flag for item in config.options() if item.section == "retention"}
    assert flags == {"--retention.raw", "--retention.5m", "--retention.1h"}
