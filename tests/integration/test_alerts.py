"""The alert rules are rules, and speak of metrics that exist."""

import os
import re
import shutil
import subprocess

import pytest

from tests.integration.servers import REPOSITORY, SERVERS

RULES = REPOSITORY / "deploy/alerts/prombridge.yml"


def test_promtool_takes_the_rules() -> None:
    promtool = SERVERS / "promtool"
    path = str(promtool) if promtool.is_file() else shutil.which("promtool")
    if path is None:
        message = "no promtool here: run `make servers`"
        if os.environ.get("PROMBRIDGE_REQUIRE_SERVERS") == "1":
            pytest.fail(message)
        pytest.skip(message)
    run = subprocess.run(
        [path, "check", "rules", RULES], capture_output=True, text=True, check=False, timeout=60
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_the_rules_speak_of_metrics_that_are_documented() -> None:
    used = set(re.findall(r"\bprombridge_[a-z0-9_]+", RULES.read_text()))
    known = set(
        re.findall(r"`(prombridge_[a-z0-9_]+)`", (REPOSITORY / "docs/metrics.md").read_text())
    )
    assert used <= known
