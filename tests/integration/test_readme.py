"""What the README shows works as it stands there."""

import re
import subprocess
import sys
import time
from pathlib import Path

from tests.integration.bridge import Bridge
from tests.integration.remote import WRITE_HEADERS
from tests.integration.servers import REPOSITORY, fetch
from tests.oracle.bodies import Series, v1_body


def test_the_sql_example_answers(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (REPOSITORY / "README.md").read_text(), re.DOTALL)
    now_ms = int(time.time() * 1000)
    series = [
        Series(
            {"__name__": "scrape_duration_seconds", "instance": name},
            [(now_ms - 1000, value), (now_ms, float("nan"))],
        )
        for name, value in [("a:9100", 0.25), ("b:9100", 0.5)]
    ]
    with Bridge(tmp_path / "data") as bridge:
        reply = fetch("POST", bridge.write_url, v1_body(series), WRITE_HEADERS[1])
        assert reply.status == 204
        bridge.flush()
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert run.stdout.strip() == "[('b:9100', 0.5), ('a:9100', 0.25)]"
