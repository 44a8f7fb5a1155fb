"""Which series are counters, by metadata and by name."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bridge.lake.footers import FooterCache
from bridge.lake.parquet import write_metadata
from bridge.lake.selection import Selection
from bridge.lake.snapshot import Snapshot
from bridge.read.metric_types import MetricTypes
from tests.oracle.lake_files import FileLake, table_files

COUNTER, GAUGE, UNKNOWN = 1, 0, -1


def selection_of(*metrics: str) -> Selection:
    """Two series of each metric."""
    empty = Selection.join([])
    return replace(
        empty,
        metrics=list(metrics),
        metric_offsets=np.arange(len(metrics) + 1, dtype=np.int64) * 2,
    )


def snapshot_of(folder: Path, *files: list[tuple[str, str, int]]) -> Snapshot:
    made = [
        write_metadata(
            folder / f"{number}.parquet",
            [(metric, kind, "help", "", seen_ms) for metric, kind, seen_ms in rows],
        )
        for number, rows in enumerate(files)
    ]
    return replace(FileLake(folder).snapshot(), metadata=table_files(made))


@pytest.mark.parametrize(
    ("metric", "kind"),
    [
        ("requests", COUNTER),
        ("load", GAUGE),
        ("weird_total", GAUGE),  # metadata outweighs the name
        ("spans_total", COUNTER),  # OpenMetrics names the family
        ("duration_bucket", COUNTER),
        ("duration_count", COUNTER),
        ("duration_sum", COUNTER),
        ("quantiles", UNKNOWN),
        ("quantiles_count", COUNTER),
        ("unknown_total", COUNTER),
        ("unknown_bucket", COUNTER),
        ("unknown_sum", UNKNOWN),
        ("unknown", UNKNOWN),
    ],
)
def test_by_metadata_then_by_name(tmp_path: Path, metric: str, kind: int) -> None:
    snapshot = snapshot_of(
        tmp_path,
        [
            ("duration", "histogram", 1),
            ("load", "gauge", 1),
            ("quantiles", "summary", 1),
            ("requests", "counter", 1),
            ("spans", "counter", 1),
            ("weird_total", "gauge", 1),
        ],
    )
    types = MetricTypes(FooterCache(1 << 20))
    assert types.of(snapshot, selection_of(metric), lambda: None).tolist() == [kind, kind]


def test_the_newest_type_counts_whatever_file_it_is_in(tmp_path: Path) -> None:
    old, new = [("x", "gauge", 1)], [("x", "counter", 2)]
    types = MetricTypes(FooterCache(1 << 20))
    for number, files in enumerate(([old, new], [new, old])):
        folder = tmp_path / str(number)
        folder.mkdir()
        snapshot = snapshot_of(folder, *files)
        assert types.of(snapshot, selection_of("x"), lambda: None).tolist() == [COUNTER, COUNTER]
    assert types.of(snapshot, selection_of("x", "y"), lambda: None).tolist() == [1, 1, -1, -1]
