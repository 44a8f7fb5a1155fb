import pytest

from bridge.lake.schema import DAY_MS, SAMPLES, TABLES
from bridge.lake.stored_file import StoredFile, kind_and_span, stored_files
from bridge.model.time_range import AFTER_MS_MIN, UNTIL_MS_MAX, TimeRange
from tests.unit.lake.made_files import DAY_START_MS

HOUR_MS = 3_600_000
RANDOM = "0123456789abcdef"


@pytest.mark.parametrize(
    ("name", "kind", "span"),
    [
        (
            f"c-20261121T13-20261121T14-{RANDOM}-0.parquet",
            "c",
            TimeRange(DAY_START_MS + 13 * HOUR_MS, DAY_START_MS + 14 * HOUR_MS),
        ),
        (
            f"r-20261121T00-20261122T00-{RANDOM}-12.parquet",
            "r",
            TimeRange(DAY_START_MS, DAY_START_MS + DAY_MS),
        ),
        (
            f"r-20261101T00-20261201T00-{RANDOM}-0.parquet",
            "r",
            TimeRange(DAY_START_MS - 20 * DAY_MS, DAY_START_MS + 10 * DAY_MS),
        ),
        (
            f"c-00010101T00-00010102T00-{RANDOM}-0.parquet",
            "c",
            TimeRange(AFTER_MS_MIN, AFTER_MS_MIN + DAY_MS),
        ),
        (
            f"c-99991231T00-100000101T00-{RANDOM}-0.parquet",
            "c",
            TimeRange(UNTIL_MS_MAX - DAY_MS, UNTIL_MS_MAX),
        ),
        (f"f-17-{RANDOM}-0.parquet", "f", None),
        (f"f-17-{RANDOM}-0.series.parquet", "f", None),
        ("part-00000.snappy.parquet", "f", None),
        (f"c-20261321T13-20261321T14-{RANDOM}-0.parquet", "f", None),  # no such month
        (f"c-20261121T14-20261121T14-{RANDOM}-0.parquet", "f", None),  # an empty span
        (f"c-20261121T13-20261121T14-{RANDOM}-0.parquet.tmp", "f", None),
        (f"c-100000102T00-100000103T00-{RANDOM}-0.parquet", "f", None),
    ],
)
def test_a_name_tells_what_made_a_file_and_what_it_covers(
    name: str, kind: str, span: TimeRange | None
) -> None:
    assert kind_and_span(name) == (kind, span)


def test_a_file_without_statistics_can_hold_anything() -> None:
    actions = {
        "path": ["date=2026-11-21/f-1.parquet"],
        "size_bytes": [7],
        "modification_time": [1000],
        "partition.date": ["2026-11-21"],
    }
    [file] = stored_files(TABLES[SAMPLES], actions)
    assert file == StoredFile(
        table="samples",
        key="samples/date=2026-11-21/f-1.parquet",
        partition="2026-11-21",
        row_count=0,
        size_bytes=7,
        time_min_ms=-(1 << 63),
        time_max_ms=(1 << 63) - 1,
        metric_min="",
        metric_max="\U0010ffff",
        modified_ms=1000,
    )
    assert (file.name, file.kind, file.span) == ("f-1.parquet", "f", None)
    assert stored_files(TABLES[SAMPLES], {}) == []
