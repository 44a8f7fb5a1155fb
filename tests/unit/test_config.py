"""The configuration file and the flags."""

from pathlib import Path

import pytest

from bridge import config
from bridge.cli import main
from bridge.errors import ConfigError
from bridge.model.options import Duration, format_duration, format_size, parse_duration, parse_size


def write(folder: Path, text: str) -> Path:
    path = folder / "prombridge.yml"
    path.write_text(text)
    return path


def test_without_a_file_every_option_has_its_default() -> None:
    settings = config.load(None, {})
    assert settings.lake.flush_interval == Duration(60)
    assert settings.wal.path == Path("data/wal")
    assert settings == config.Settings()


def test_flags_win_over_the_file_and_the_file_over_defaults(tmp_path: Path) -> None:
    path = write(tmp_path, "lake:\n  flush_interval: 30s\n  uri: /x\nhead:\n  max_bytes: 1GiB\n")
    settings = config.load(path, {"lake.flush_interval": "5s"})
    assert settings.lake.flush_interval == Duration(5)
    assert settings.lake.uri == "/x"
    assert settings.head.max_bytes == 1 << 30


def test_every_default_is_read_back_from_its_text() -> None:
    for item in config.options():
        assert item.parse(item.default_text, item.flag) == item.default, item.place


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lakes: {}", "unknown section 'lakes'; allowed are head, lake, log"),
        (
            "lake:\n  flush: 1s",
            r"prombridge.yml: lake: unknown option 'flush'; allowed are flush_i",
        ),
        ("lake:\n  flush_interval: 60", r"lake.flush_interval: '60' is not a duration"),
        ("head:\n  max_bytes: 128", r"head.max_bytes: '128' is not a size"),
        ("lake:\n  single_writer: maybe", "lake.single_writer: 'maybe' is neither true nor false"),
        ("log:\n  level: loud", "log.level: 'loud' is none of debug, info, warn, error"),
        ("write:\n  max_labels: many", "write.max_labels: 'many' is not a whole number"),
        ("write:\n  max_labels: -1", "write.max_labels: -1 is negative"),
        ("write:\n  replica_labels: [1]", "write.replica_labels: .* is not a list of texts"),
        ("lake: 7", "lake: expected options, got 7"),
        ("- a", "expected sections, got list"),
        ("a: [", "is not YAML"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config.load(write(tmp_path, text), {})


def test_a_wrong_flag_is_named() -> None:
    with pytest.raises(ConfigError, match=r"--lake.flush-interval: '1 min' is not a duration"):
        config.load(None, {"lake.flush_interval": "1 min"})


def test_a_missing_file_is_named() -> None:
    with pytest.raises(ConfigError, match=r"cannot read the configuration /no/file: No such file"):
        config.load(Path("/no/file"), {})


def test_check_config_tells_valid_from_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, "lake:\n  uri: /somewhere\n")
    assert main(["check-config", str(path)]) == 0
    assert "is valid" in capsys.readouterr().out
    path.write_text("lake:\n  url: /somewhere\n")
    assert main(["check-config", str(path)]) == 1
    assert "lake: unknown option 'url'" in capsys.readouterr().err


def test_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["serve", "--help"])
    text = capsys.readouterr().out
    for item in config.options():
        assert item.flag in text


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out.startswith("prombridge 0.")


@pytest.mark.parametrize("text", ["500ms", "60s", "5m", "1h30m", "30d", "0s"])
def test_durations_are_read_as_prometheus_reads_them(text: str) -> None:
    assert parse_duration(format_duration(parse_duration(text))) == parse_duration(text)


def test_units_mean_what_they_say() -> None:
    assert parse_duration("1h30m") == Duration(5400)
    assert parse_duration("500ms") == Duration(0.5)
    assert parse_size("128MiB") == 128 * 1024 * 1024
    assert parse_size("64MB") == 64_000_000
    assert format_size(parse_size("1GiB")) == "1GiB"
    assert format_size(parse_size("1000B")) == "1000B"
