"""Units that settings are given in, and the helper that declares one option.

Settings are frozen dataclasses beside what they configure. A field's name is its key in the YAML
file and, with hyphens, its flag; its type says how its text is read.
"""

import contextlib
import re
from dataclasses import field
from datetime import datetime
from typing import Any, NewType

from bridge.errors import ConfigError
from bridge.model.time_range import AFTER_MS_MIN, UNTIL_MS_MAX

Duration = NewType("Duration", float)
"""Seconds; written as Prometheus writes durations: 500ms, 60s, 5m, 1h30m, 30d."""

Size = NewType("Size", int)
"""Bytes; written with a binary unit: 512KiB, 128MiB, 8GiB, or as 64MB of 1000 * 1000."""

KeyValues = NewType("KeyValues", tuple[tuple[str, str], ...])
"""Pairs of texts: a mapping in the file, KEY=VALUE in a flag that may be repeated."""

_DURATION_UNITS_S = {
    "ms": 0.001,
    "s": 1.0,
    "m": 60.0,
    "h": 3600.0,
    "d": 86400.0,
    "w": 604800.0,
    "y": 31536000.0,
}
_SIZE_UNITS = {
    "B": 1,
    "KB": 1000,
    "MB": 1000**2,
    "GB": 1000**3,
    "TB": 1000**4,
    "KiB": 1024,
    "MiB": 1024**2,
    "GiB": 1024**3,
    "TiB": 1024**4,
}


def option(default: Any, text: str, *, flag: str = "", key: str = "") -> Any:
    """A dataclass field with its default and the sentence that `--help` shows.

    Args:
        default: of the type of the field.
        text: what it does.
        flag: the end of its flag where that is not the key, `storage-option`.
        key: its name in the file where that is not the field's: no identifier begins with a digit.
    """
    return field(default=default, metadata={"help": text, "flag": flag, "key": key})


def parse_duration(text: str) -> Duration:
    """Seconds of `1h30m`.

    Raises:
        ConfigError: not a duration with units.
    """
    parts = re.findall(r"(\d+)(ms|[smhdwy])", text)
    if not parts or "".join(f"{count}{unit}" for count, unit in parts) != text:
        raise ConfigError(
            f"{text!r} is not a duration; write a whole number with a unit: 500ms, 60s, 5m, 1h30m, "
            "30d, 1y"
        )
    return Duration(sum(int(count) * _DURATION_UNITS_S[unit] for count, unit in parts))


def parse_instant_ms(text: str) -> int:
    """Unix ms of `2026-11-21T14:00:00Z`, or of Unix seconds.

    Raises:
        ConfigError: neither.
    """
    instant: float | None = None
    try:
        instant = float(text)
    except ValueError:
        with contextlib.suppress(ValueError):
            moment = datetime.fromisoformat(text)
            instant = moment.timestamp() if moment.tzinfo else None
    # The years that a partition can name; Unix ms by mistake lie behind them.
    if instant is None or not AFTER_MS_MIN < instant * 1000 <= UNTIL_MS_MAX:
        raise ConfigError(
            f"{text!r} is no instant; write RFC 3339 with a zone, 2026-11-21T14:00:00Z, or Unix "
            "seconds"
        )
    return round(instant * 1000)


def format_duration(duration: Duration) -> str:
    """The shortest text that `parse_duration` reads as this duration."""
    left_ms = round(duration * 1000)
    text = ""
    for unit in ("d", "h", "m", "s", "ms"):
        count, left_ms = divmod(left_ms, round(_DURATION_UNITS_S[unit] * 1000))
        text += f"{count}{unit}" if count else ""
    return text or "0s"


def parse_size(text: str) -> Size:
    """Bytes of `128MiB`.

    Raises:
        ConfigError: not a size with a unit.
    """
    match = re.fullmatch(r"(\d+)([A-Za-z]+)", text)
    if not match or match[2] not in _SIZE_UNITS:
        raise ConfigError(
            f"{text!r} is not a size; write a whole number with a unit: 512KiB, 128MiB, 8GiB"
        )
    return Size(int(match[1]) * _SIZE_UNITS[match[2]])


def format_size(size: Size) -> str:
    """The shortest text that `parse_size` reads as this size."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if size and size % _SIZE_UNITS[unit] == 0:
            return f"{size // _SIZE_UNITS[unit]}{unit}"
    return f"{size}B"
