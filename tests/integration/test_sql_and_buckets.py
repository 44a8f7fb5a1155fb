"""What docs/sql-and-buckets.md shows works as it stands there, on an S3 server."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.bridge import Bridge, Place
from tests.integration.object_stores import VersityGw
from tests.integration.remote import NAN_BITS, STALE_BITS, bits_of, make_body
from tests.integration.servers import REPOSITORY

PAGE = (REPOSITORY / "docs/sql-and-buckets.md").read_text()
EXAMPLES = dict(re.findall(r"\n## ([^\n]+)\n(?:(?!\n## ).)*?```python\n(.*?)```", PAGE, re.DOTALL))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VersityGw]:
    """One with the lake of the examples in it: two flushes, values that are none among them."""
    folder = tmp_path_factory.mktemp("sql")
    now_ms = time.time_ns() // 1_000_000
    with VersityGw(folder / "s3") as started:
        access = started.access
        access.make_bucket("metrics")
        place = Place("s3://metrics/prombridge", access.environment(), access.storage_options())
        with Bridge(folder / "bridge", lake=place) as bridge:
            for value in (0.25, 0.125):
                series = [
                    (
                        (("__name__", "scrape_duration_seconds"), ("instance", instance)),
                        [
                            (now_ms - 3000, NAN_BITS),
                            (now_ms - 2000, bits_of(value * factor)),
                            (now_ms - 1000, STALE_BITS),
                        ],
                    )
                    for instance, factor in (("a:9100", 1), ("b:9100", 2))
                ]
                assert make_body(1, series).push(bridge.write_url).status == 204
                bridge.flush()
                now_ms += 500
        yield started


def run(server: VersityGw, code: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, **server.access.environment()},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_page_has_its_examples() -> None:
    assert list(EXAMPLES) == ["DuckDB over deltalake", "DuckDB over copies", "Without DuckDB"]


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_example_answers(server: VersityGw, tmp_path: Path, name: str) -> None:
    found = run(server, EXAMPLES[name], tmp_path)
    assert found == "[('b:9100', 0.5), ('a:9100', 0.25)]"


def test_what_was_copied_is_not_fetched_again(server: VersityGw, tmp_path: Path) -> None:
    def data_requests() -> int:
        return sum(request.key.endswith(".parquet") for request in server.requests())

    data_requests()
    first = run(server, EXAMPLES["DuckDB over copies"], tmp_path)
    assert data_requests() > 0
    assert run(server, EXAMPLES["DuckDB over copies"], tmp_path) == first
    assert data_requests() == 0
