"""The alert rules are rules, speak of metrics that exist, and fire when they should."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from bridge.write.sinks.metrics import DROP_REASONS
from tests.integration.servers import REPOSITORY, SERVERS

RULES = REPOSITORY / "deploy/alerts/prombridge.yml"


def run_promtool(*arguments: str | Path) -> None:
    promtool = SERVERS / "promtool"
    path = str(promtool) if promtool.is_file() else shutil.which("promtool")
    if path is None:
        message = "no promtool here: run `make servers`"
        if os.environ.get("PROMBRIDGE_REQUIRE_SERVERS") == "1":
            pytest.fail(message)
        pytest.skip(message)
    run = subprocess.run(
        [path, *arguments], capture_output=True, text=True, check=False, timeout=60
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_promtool_takes_the_rules() -> None:
    run_promtool("check", "rules", RULES)


def test_every_reason_is_there_before_its_first_drop() -> None:
    """`increase()` is blind to a counter that appears with its first value."""
    document = (REPOSITORY / "docs/influxdb.md").read_text()
    rows = re.findall(
        r"^\| ((?:`\w+`(?:, )?)+) \|", document.partition("## The ledger")[2], re.MULTILINE
    )
    documented = [reason for row in rows for reason in re.findall(r"`(\w+)`", row)]
    assert documented == list(DROP_REASONS["influxdb"])
    used = re.findall(r'reason="(\w+)"', RULES.read_text())
    assert set(used) == {"backlog", "rejected"}
    assert set(used) <= set(documented)


@pytest.mark.parametrize(
    ("alert", "reason", "severity", "wait_min"),
    [
        ("PrombridgeSinkDropsItsBacklog", "backlog", "critical", 0),
        ("PrombridgeSinkRejects", "rejected", "info", 15),
    ],
)
def test_the_first_drop_of_a_sink_fires_its_alert(
    tmp_path: Path, alert: str, reason: str, severity: str, wait_min: int
) -> None:
    """All in one step, when InfluxDB answers again; or line by line."""
    labels = {"instance": "bridge:9201", "sink": "influxdb", "reason": reason}
    shown = ",".join(f'{name}="{text}"' for name, text in labels.items())
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    (rule,) = [one for one in group["rules"] if one["alert"] == alert]
    summary = rule["annotations"]["summary"]
    for name, text in labels.items():
        summary = summary.replace("{{ $labels." + name + " }}", text)
    fired = [
        {
            "exp_labels": {**labels, "severity": severity},
            "exp_annotations": {**rule["annotations"], "summary": summary},
        }
    ]
    values = "0x10 5000x40" if not wait_min else "0x10 1+1x40"
    series = f"prombridge_sink_dropped_samples_total{{{shown}}}"
    test = {
        "interval": "1m",
        "input_series": [{"series": series, "values": values}],
        "alert_rule_test": [
            {"eval_time": "10m", "alertname": alert, "exp_alerts": []},
            {"eval_time": f"{12 + wait_min}m", "alertname": alert, "exp_alerts": fired},
        ],
    }
    content = {"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": [test]}
    path = tmp_path / "alerts.yml"
    path.write_text(yaml.safe_dump(content))
    run_promtool("test", "rules", path)


def test_the_rules_speak_of_metrics_that_are_documented() -> None:
    used = set(re.findall(r"\bprombridge_[a-z0-9_]+", RULES.read_text()))
    known = set(
        re.findall(r"`(prombridge_[a-z0-9_]+)`", (REPOSITORY / "docs/metrics.md").read_text())
    )
    assert used <= known
