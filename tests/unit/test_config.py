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
        if item.default_text:
            assert item.parse(item.default_text, item.flag) == item.default, item.place


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "lakes: {}",
            "unknown section 'lakes'; allowed are downsample, head, influxdb, lake, log, mode",
        ),
        ("mode: half", "mode: 'half' is none of all, write, read"),
        ("lake:\n  storage_options: [a]", "lake.storage_options: expected KEY=VALUE"),
        ("lake:\n  storage_options: {a: 1}", "lake.storage_options: keys and values have to be"),
        (
            "lake:\n  flush: 1s",
            r"prombridge.yml: lake: unknown option 'flush'; allowed are cache_max_bytes",
        ),
        ("lake:\n  flush_interval: 60", r"lake.flush_interval: '60' is not a duration"),
        ("head:\n  max_bytes: 128", r"head.max_bytes: '128' is not a size"),
        ("lake:\n  single_writer: maybe", "lake.single_writer: 'maybe' is neither true nor false"),
        ("log:\n  level: loud", "log.level: 'loud' is none of debug, info, warn, error"),
        ("write:\n  max_labels: many", "write.max_labels: 'many' is not a whole number"),
        ("write:\n  max_labels: -1", "write.max_labels: -1 is negative"),
        ("write:\n  replica_labels: [1]", "write.replica_labels: .* is not a list of texts"),
        ("lake: 7", "lake: expected options, got int"),
        ("- a", "expected sections, got list"),
        ("a: [", "is not YAML: expected the node content, .* at line 1, column 5"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config.load(write(tmp_path, text), {})


@pytest.mark.parametrize(
    "text",
    [
        "lake:\n  storage_options:\n    aws_secret_access_key: hunter2: hunter2\n",
        "lake: [hunter2]\n",
        "lake: hunter2\n",
        "web: {hunter2\n",
    ],
)
def test_what_may_be_a_secret_is_in_no_message(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config.load(write(tmp_path, text), {})
    assert "hunter2" not in str(caught.value)


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


def test_an_argument_that_nobody_knows_is_named_without_its_value(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["serve", "--influxdb.token=hunter2", "--lake.storage-options", "a=hunter2"])
    said = capsys.readouterr().err
    assert "unknown arguments: --influxdb.token, --lake.storage-options" in said
    assert "hunter2" not in said


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


def test_storage_options_come_from_a_mapping_or_from_flags_and_are_never_shown(
    tmp_path: Path,
) -> None:
    path = write(tmp_path, "lake:\n  storage_options:\n    AWS_REGION: eu\n")
    assert config.load(path, {}).lake.storage_options == (("AWS_REGION", "eu"),)
    flags = {"lake.storage_options": ["AWS_REGION=x", "AWS_SECRET_ACCESS_KEY=a=b"]}
    settings = config.load(path, flags)
    assert settings.lake.storage_options == (("AWS_REGION", "x"), ("AWS_SECRET_ACCESS_KEY", "a=b"))
    with pytest.raises(ConfigError) as caught:
        config.load(None, {"lake.storage_options": ["secret"]})
    assert "secret" not in str(caught.value)


def test_the_mode_stands_above_the_sections(tmp_path: Path) -> None:
    assert config.load(write(tmp_path, "mode: read\n"), {}).mode == "read"
    assert config.load(None, {"mode": "write"}).mode == "write"
