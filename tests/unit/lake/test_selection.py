"""Series from several registries, each once, in the order of the files."""

import numpy as np

from bridge.lake.selection import RANK_NONE, Found, Run, Selection
from bridge.wire.series import SeriesRegistry
from tests.oracle.lake_files import LakeRow, canonical, metric_of, series_id
from tests.oracle.made_head import head_rows, new_registry
from tests.oracle.tsdb import Labels

T = 1_795_219_200_000
SERIES = [
    canonical({"__name__": name, "job": job}) for name in ("b", "a", "c") for job in ("x", "y", "z")
]
ORDERED = sorted(SERIES, key=lambda labels: (metric_of(labels), series_id(labels)))


def registry_of(*series: Labels, replica: str = "") -> SeriesRegistry:
    registry = new_registry()
    rows: list[LakeRow] = [(labels, T + 1, 0, replica) for labels in series]
    head_rows(registry, rows)
    return registry


def all_of(registry: SeriesRegistry) -> Found:
    return Found(registry, np.arange(len(registry), dtype=np.uint32))


def test_ranks_follow_metric_and_id() -> None:
    selection = Selection.join([all_of(registry_of(*SERIES))])
    assert selection.metrics == ["a", "b", "c"]
    assert selection.metric_offsets.tolist() == [0, 3, 6, 9]
    assert selection.series_ids.tolist() == [series_id(labels) for labels in ORDERED]


def test_series_of_several_registries_are_one() -> None:
    one, other = registry_of(*SERIES[:5]), registry_of(*SERIES[3:])
    selection = Selection.join([all_of(one), all_of(other)])
    assert len(selection) == len(SERIES)
    for registry, own in ((one, SERIES[:5]), (other, SERIES[3:])):
        ranks = selection.rank_of_ref(registry)
        assert ranks is not None
        assert ranks.tolist() == [ORDERED.index(labels) for labels in own]


def test_replicas_share_a_rank() -> None:
    registry = new_registry()
    head_rows(registry, [(SERIES[0], T, 0, "r0"), (SERIES[0], T, 0, "r1"), (SERIES[1], T, 0, "")])
    selection = Selection.join([all_of(registry)])
    ranks = selection.rank_of_ref(registry)
    assert ranks is not None
    assert len(selection) == 2
    assert ranks[0] == ranks[1] != ranks[2]


def test_refs_that_were_not_found_have_no_rank() -> None:
    registry = registry_of(*SERIES[:4])
    selection = Selection.join([Found(registry, np.array([2], np.uint32))])
    ranks = selection.rank_of_ref(registry)
    assert ranks is not None
    assert ranks.tolist() == [RANK_NONE, RANK_NONE, 0]
    assert selection.rank_of_ref(new_registry()) is None


def test_labels_come_from_wherever_the_series_was_found() -> None:
    one, other = registry_of(*SERIES[:2]), registry_of(*SERIES[1:])
    selection = Selection.join([all_of(one), all_of(other)])
    alone = Selection.join([all_of(registry_of(*SERIES))])
    ranks = np.array([4, 0, 8, 3])
    assert selection.label_bytes(ranks) == alone.label_bytes(ranks)
    assert selection.sort_keys(ranks, [b"job"]) == alone.sort_keys(ranks, [b"job"])


def test_nothing_found_is_an_empty_selection() -> None:
    empty = Selection.join([Found(new_registry(), np.empty(0, np.uint32))])
    assert len(empty) == 0
    assert empty.metrics == []
    assert empty.label_bytes(np.empty(0, np.int64)) == []


def test_runs_name_rows_and_ranks_of_selected_metrics() -> None:
    selection = Selection.join([all_of(registry_of(*SERIES[:3], *SERIES[6:]))])  # b and c
    edges = np.array([0, 5, 9, 12, 20], np.int32)
    metrics = ["a", "b", "bb", "c"]
    assert selection.runs(metrics, edges, 0, 6) == [Run(5, 9, 0, 3), Run(12, 20, 3, 6)]
    assert selection.runs(metrics, edges, 2, 4) == [Run(5, 9, 2, 3), Run(12, 20, 3, 4)]
    assert selection.runs(metrics, edges, 3, 6) == [Run(12, 20, 3, 6)]
