"""The references say what the code says."""

import re
from pathlib import Path

import pytest

from bridge import config
from bridge.errors import HTTP_STATUS, PrombridgeError, http_status

ROOT = Path(__file__).parents[2]
DOCS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])


def test_every_option_stands_in_the_reference_with_its_default() -> None:
    text = (ROOT / "docs/configuration.md").read_text()
    rows = dict(re.findall(r"^\| `([a-z0-9_.]+)` \| (.+?) \|", text, re.MULTILINE))
    expected = {item.place: f"`{item.default_text or 'none'}`" for item in config.options()}
    assert rows == expected, "run `make docs`"


def test_every_metric_stands_in_the_reference() -> None:
    sources = "".join(
        path.read_text()
        for folder in ("bridge", "downsample")
        for path in (ROOT / folder).rglob("*.py")
    )
    defined = set(re.findall(r'"(prombridge_[a-z0-9_]+)"', sources))
    described = set(
        re.findall(r"`(prombridge_[a-z0-9_]+)`", (ROOT / "docs/metrics.md").read_text())
    )
    assert defined == described


def test_every_invariant_that_is_cited_is_defined_and_guarded() -> None:
    pattern = re.compile(r"\b(?:WAL|LAKE|WRITE|SINK|READ|DOWN|ROLL|SQL)-\d+\b")
    cited = {
        tag
        for folder in ("bridge", "downsample", "tests")
        for path in (ROOT / folder).rglob("*.py")
        for tag in pattern.findall(path.read_text())
    }
    documented = {tag for path in DOCS for tag in pattern.findall(path.read_text())}
    assert cited <= documented
    guarded = {
        tag for path in (ROOT / "tests").rglob("*.py") for tag in pattern.findall(path.read_text())
    }
    assert documented <= guarded, "an invariant without a test that names it"


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_links_between_documents_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\((?!https?://)([^)#]+)", path.read_text()):
        assert (path.parent / target).exists(), f"{path.name} links to {target}"


def all_errors(kind: type[PrombridgeError]) -> list[type[PrombridgeError]]:
    return [kind, *(error for child in kind.__subclasses__() for error in all_errors(child))]


def test_every_error_has_an_http_status() -> None:
    assert set(HTTP_STATUS) <= set(all_errors(PrombridgeError))
    for kind in all_errors(PrombridgeError):
        error = kind.__new__(kind)
        assert http_status(error) in {400, 408, 413, 415, 500, 503}
