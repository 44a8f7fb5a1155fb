"""The configuration: one strict YAML file and flags of the same names.

    lake:                     --lake.flush-interval=60s
      flush_interval: 60s

Flags win over the file, the file over the defaults. An unknown key, a missing unit or a missing
file is an error that names the place and what is allowed. Sections and options are the dataclasses
of the parts; this module only assembles and parses.
"""

import dataclasses
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from bridge.errors import ConfigError
from bridge.lake.settings import LakeSettings
from bridge.model.options import (
    Duration,
    KeyValues,
    Size,
    format_duration,
    format_size,
    option,
    parse_duration,
    parse_size,
)
from bridge.read.settings import ReadSettings
from bridge.telemetry import LogFormat, LogLevel
from bridge.write.head import HeadSettings
from bridge.write.ingest import WriteSettings
from bridge.write.sinks.influxdb.settings import InfluxdbSettings
from bridge.write.wal.log import WalSettings
from downsample.settings import (
    DownsampleSettings,
    RetentionSettings,
    RetentionTime,
    format_retention,
    parse_retention,
)


@dataclass(frozen=True, slots=True)
class WebSettings:
    """The HTTP server."""

    listen_address: str = option("127.0.0.1:9201", "Address to listen on; port 0 takes a free one.")
    max_connections: int = option(
        512, "Connections open at once; further ones are closed as they come."
    )
    read_timeout: Duration = option(
        Duration(30), "A request whose body takes longer to arrive is answered 408."
    )


@dataclass(frozen=True, slots=True)
class LogSettings:
    """Logs."""

    level: LogLevel = option("info", "Lowest level that is logged.")
    format: LogFormat = option("logfmt", "Format of the lines.")


Mode = Literal["all", "write", "read"]


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that can be set, by section; `mode` stands above the sections."""

    mode: Mode = option(
        "all",
        "What this process does: write takes remote write, read answers remote read, all does "
        "both.",
    )
    web: WebSettings = field(default_factory=WebSettings)
    log: LogSettings = field(default_factory=LogSettings)
    lake: LakeSettings = field(default_factory=LakeSettings)
    wal: WalSettings = field(default_factory=WalSettings)
    head: HeadSettings = field(default_factory=HeadSettings)
    write: WriteSettings = field(default_factory=WriteSettings)
    read: ReadSettings = field(default_factory=ReadSettings)
    influxdb: InfluxdbSettings = field(default_factory=InfluxdbSettings)
    downsample: DownsampleSettings = field(default_factory=DownsampleSettings)
    retention: RetentionSettings = field(default_factory=RetentionSettings)


@dataclass(frozen=True, slots=True)
class Option:
    """One option of one section.

    Attributes:
        section: `lake`; empty above the sections.
        field: of the dataclass, `flush_interval`.
        key: the same, or what the file says instead.
        flag_key: `flush-interval`.
        kind: its type.
        default: its default.
        text: what it does.
    """

    section: str
    field: str
    key: str
    flag_key: str
    kind: Any
    default: Any
    text: str

    @property
    def place(self) -> str:
        """Its place in the file: `lake.flush_interval`."""
        return f"{self.section}.{self.key}".removeprefix(".")

    @property
    def flag(self) -> str:
        """Its flag: `--lake.flush-interval`."""
        return "--" + f"{self.section}.{self.flag_key}".removeprefix(".")

    @property
    def is_repeatable(self) -> bool:
        """Whether its flag may be given several times."""
        return self.kind is KeyValues

    @property
    def default_text(self) -> str:
        """The default as one would write it."""
        return render(self.kind, self.default)

    def parse(self, value: Any, place: str) -> Any:
        """The value that text or YAML means.

        Raises:
            ConfigError: it is none; names `place` and what is allowed.
        """
        try:
            return _parse(self.kind, value)
        except ConfigError as error:
            raise ConfigError(f"{place}: {error}") from error


def sections() -> list[tuple[str, type[Any]]]:
    """Name and dataclass of each section."""
    hints = typing.get_type_hints(Settings)
    return [
        (item.name, hints[item.name])
        for item in dataclasses.fields(Settings)
        if dataclasses.is_dataclass(hints[item.name])
    ]


def options() -> list[Option]:
    """Every option, in the order of the sections."""
    return [
        Option(
            section,
            item.name,
            key := item.metadata["key"] or item.name,
            item.metadata["flag"] or key.replace("_", "-"),
            typing.get_type_hints(kind)[item.name],
            item.default,
            item.metadata["help"],
        )
        for section, kind in [("", Settings), *sections()]
        for item in dataclasses.fields(kind)
        if "help" in item.metadata
    ]


def load(path: Path | None, flags: Mapping[str, str | Sequence[str]]) -> Settings:
    """Settings from a file and flags.

    Args:
        path: the YAML file; None for the defaults.
        flags: by place (`lake.flush_interval`), the text given on the command line.

    Raises:
        ConfigError: names the place and what is allowed.
    """
    document = _read(path) if path else {}
    values: dict[str, dict[str, Any]] = {section: {} for section, _ in [("", None), *sections()]}
    known = {item.place: item for item in options()}
    top = {item.key for item in known.values() if not item.section}
    _check_names(path, document, {*values, *top} - {""}, "section")
    for section, content in document.items():
        if section in top:
            values[""][section] = known[section].parse(content, f"{path}: {section}")
            continue
        if content is None:
            continue
        if not isinstance(content, dict):
            # Never the content itself: it may be a secret in the wrong place.
            raise ConfigError(f"{path}: {section}: expected options, got {type(content).__name__}")
        allowed = {item.key for item in known.values() if item.section == section}
        _check_names(f"{path}: {section}", content, allowed, "option")
        for key, value in content.items():
            place = f"{section}.{key}"
            values[section][known[place].field] = known[place].parse(value, f"{path}: {place}")
    for place, text in flags.items():
        item = known[place]
        values[item.section][item.field] = item.parse(text, item.flag)
    return Settings(
        **values[""], **{section: kind(**values[section]) for section, kind in sections()}
    )


def render(kind: Any, value: Any) -> str:
    """The text that is parsed as this value."""
    formats: dict[Any, Callable[[Any], str]] = {
        Duration: format_duration,
        Size: format_size,
        RetentionTime: format_retention,
    }
    if kind in formats:
        return formats[kind](value)
    if value is None:
        return ""
    if kind is KeyValues:
        return ",".join(key for key, _ in value)  # values may be secrets
    if isinstance(value, tuple):
        return ",".join(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def _read(path: Path) -> dict[str, Any]:
    try:
        document = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {path}: {error.strerror}") from error
    except yaml.MarkedYAMLError as error:
        # Without the line itself, which the text of the error would show: it may hold a secret.
        mark = error.problem_mark
        place = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(f"{path} is not YAML: {error.problem}{place}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not YAML: {type(error).__name__}") from None
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: expected sections, got {type(document).__name__}")
    return document


def _check_names(place: object, content: Mapping[Any, Any], allowed: set[str], noun: str) -> None:
    for name in content:
        if name not in allowed:
            raise ConfigError(
                f"{place}: unknown {noun} {name!r}; allowed are {', '.join(sorted(allowed))}"
            )


def _parse_whole(value: Any) -> int:
    if isinstance(value, bool) or not (
        isinstance(value, int) or (isinstance(value, str) and value.removeprefix("-").isdecimal())
    ):
        raise ConfigError(f"{value!r} is not a whole number")
    if int(value) < 0:
        raise ConfigError(f"{value!r} is negative")
    return int(value)


def _parse_truth(value: Any) -> bool:
    truths = {True: True, False: False, "true": True, "false": False}
    if not isinstance(value, bool | str) or value not in truths:
        raise ConfigError(f"{value!r} is neither true nor false")
    return truths[value]


def _parse_text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ConfigError(f"{value!r} is not a text")
    return value


def _parse_texts(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    if not isinstance(value, list) or not all(isinstance(part, str) for part in value):
        raise ConfigError(f"{value!r} is not a list of texts")
    return tuple(value)


def _parse_pairs(value: Any) -> KeyValues:
    """A mapping, or texts KEY=VALUE; no message shows a value, which may be a secret."""
    if isinstance(value, dict):
        if not all(isinstance(part, str) and part for pair in value.items() for part in pair):
            raise ConfigError("keys and values have to be texts; put quotes around a number")
        return KeyValues(tuple(value.items()))
    if not isinstance(value, list) or not all(isinstance(part, str) for part in value):
        raise ConfigError("expected keys with values")
    pairs = [part.partition("=") for part in value]
    for key, equals, text in pairs:
        if not (key and equals and text):
            raise ConfigError("expected KEY=VALUE")
    return KeyValues(tuple((key, text) for key, _, text in pairs))


def _positive(value: Any) -> Any:
    if value <= 0:
        raise ConfigError("it has to be more than nothing")
    return value


_PARSERS: dict[Any, Callable[[Any], Any]] = {
    Duration: lambda value: _positive(parse_duration(str(value))),
    Size: lambda value: _positive(parse_size(str(value))),
    int: _parse_whole,
    bool: _parse_truth,
    str: _parse_text,
    Path: lambda value: Path(_parse_text(value)),
    Path | None: lambda value: Path(_parse_text(value)),
    Duration | None: lambda value: _positive(parse_duration(str(value))),
    tuple[str, ...]: _parse_texts,
    KeyValues: _parse_pairs,
    RetentionTime: lambda value: parse_retention(str(value)),
}


def _parse(kind: Any, value: Any) -> Any:
    if typing.get_origin(kind) is Literal:
        allowed = typing.get_args(kind)
        if value not in allowed:
            raise ConfigError(f"{value!r} is none of {', '.join(allowed)}")
        return value
    return _PARSERS[kind](value)
