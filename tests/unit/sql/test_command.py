"""The command line and the shell, without a terminal."""

import io
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from bridge.cli import main
from bridge.lake.lake import Lake
from bridge.lake.schema import SAMPLES, SERIES
from bridge.lake.store import open_store
from bridge.sql.connection import connect
from bridge.sql.shell import PROMPT, PROMPT_INSIDE, Session, Shell
from tests.unit.lake.made_files import one_sample, one_series


def add_sample(folder: Path, number: int) -> str:
    uri = str(folder / "lake")
    with_series = number == 1
    lake = Lake.open(open_store(uri), single_writer=False, refresh_interval_s=5)
    path = folder / f"f-{number}"
    if with_series:
        series = one_series(path.with_suffix(".series.parquet"))
        lake.commit(SERIES, [series], receiver_id="made", position=number)
    sample = one_sample(path.with_suffix(".parquet"))
    lake.commit(SAMPLES, [sample], receiver_id="made", position=number)
    lake.close()
    return uri


@pytest.fixture(autouse=True)
def _log_of_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command would send all later log lines to the stderr of this test."""
    monkeypatch.setattr("bridge.cli.configure_logging", lambda *_: None)


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return add_sample(tmp_path, 1)


class Talk:
    """A shell whose words are kept."""

    def __init__(self, uri: str) -> None:
        self.out = io.BytesIO()
        self.said: list[str] = []
        self.session = Session(partial(connect, uri), self.out, "csv")
        self.shell = Shell(self.session, self.said.append)

    def answers(self) -> str:
        text = self.out.getvalue().decode()
        self.out.seek(0)
        self.out.truncate()
        return text


@pytest.fixture
def talk(uri: str) -> Iterator[Talk]:
    made = Talk(uri)
    yield made
    made.session.close()


def test_a_statement_may_have_several_lines(talk: Talk) -> None:
    assert talk.shell.prompt == PROMPT
    assert talk.shell.take("SELECT metric")
    assert talk.shell.prompt == PROMPT_INSIDE
    talk.shell.take("FROM samples; -- all of them")
    assert talk.answers() == "metric\nup\n"
    assert talk.shell.prompt == PROMPT


def test_an_error_is_said_and_the_shell_goes_on(talk: Talk) -> None:
    talk.shell.take("SELEC;")
    talk.shell.take("SELECT 1 AS a;")
    assert talk.answers() == "a\n1\n"
    [said] = talk.said
    assert said.startswith("error: Parser Error")


def test_ctrl_c_forgets_what_was_typed(talk: Talk) -> None:
    lines: Iterator[str | type[BaseException]] = iter(
        ["SELECT", KeyboardInterrupt, "SELECT 2 AS b;", EOFError]
    )

    def ask(prompt: str) -> str:
        line = next(lines)
        if not isinstance(line, str):
            raise line
        return line

    talk.shell.interact(ask)
    assert talk.answers() == "b\n2\n"


def test_the_commands_do_what_they_say(talk: Talk, tmp_path: Path) -> None:
    take = talk.shell.take
    take(".help")
    assert ".refresh" in talk.said.pop()
    take(".tables")
    assert 'samples_distinct,"metric, series_id' in talk.answers()
    take(".format json")
    take("SELECT 1 AS a;")
    assert talk.answers() == '[{"a":1}]\n'
    take(".timer on")
    take("SELECT 1 AS a;")
    assert talk.answers().endswith(" s\n")
    take(".timer off")
    add_sample(tmp_path, 2)
    take("SELECT count(*) AS n FROM samples;")
    take(".refresh")
    take("SELECT count(*) AS n FROM samples;")
    assert talk.answers() == '[{"n":1}]\n[{"n":2}]\n'
    take(".format parquet")
    take(".nonsense")
    assert [text.startswith("error: .") for text in talk.said] == [True, True]
    assert not take(".quit")


def test_a_long_answer_that_is_cut_leaves_room_for_the_next(talk: Talk) -> None:
    talk.session.form = "table"
    talk.shell.take("SELECT * FROM range(1000000); SELECT 42 AS a;")
    assert "42" in talk.answers()
    assert talk.said == []


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["SELECT 1"], 0, ""),
        (["SELECT nope"], 1, "nope"),
        (["--as-of=yesterday", "SELECT 1"], 1, "no instant"),
        (["--memory-limit=7", "SELECT 1"], 1, "not a size"),
        (["--output=/nowhere/x.csv", "SELECT 1"], 1, "cannot be written"),
        (["--output={lake}/x.csv", "SELECT 1"], 1, "lies in the lake"),
        (["--output={folder}/x.csv", "SET threads = 1"], 1, "no rows"),
        (["--output={folder}/x.csv", "-- nothing"], 1, "no statement"),
    ],
)
def test_the_exit_code_tells_whether_it_worked(
    uri: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    filled = [text.format(lake=uri, folder=tmp_path) for text in arguments]
    assert main(["sql", f"--lake.uri={uri}", *filled]) == code
    said = capfd.readouterr().err
    assert message in said
    assert said.count("\n") == (code > 0)
    assert not list(tmp_path.glob("*.part"))
    assert not (tmp_path / "x.csv").exists()


def test_a_wrong_command_line_is_told_apart(uri: str) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["sql", "--format=xml", "SELECT 1"])


def test_the_last_answer_becomes_the_file(uri: str, tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    text = "CREATE TEMP TABLE t AS SELECT 3 AS n; SELECT 1; SELECT * FROM t"
    assert main(["sql", f"--lake.uri={uri}", "--format=csv", f"--output={path}", text]) == 0
    assert path.read_text() == "n\n3\n"
