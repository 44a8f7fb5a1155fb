"""The series of one query, each once, wherever they were found.

Head and lake each have registries of their own; a series that several of them know is one series,
told by (metric, series_id). Its rank is its place by (metric, series_id), the order of the rows in
the files, so a run of ranks is a run of rows.

    registry A  ref 7 ─┐
    registry B  ref 2 ─┴─> rank 5     metrics[m], series_ids[5], labels from A's ref 7

In a head several refs, one per replica, are one series.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from bridge.wire.columns import I32Array, I64Array, U32Array
from bridge.wire.series import SeriesRegistry

RANK_NONE = -1


@dataclass(frozen=True, slots=True)
class Found:
    """Series of one registry that a query selected.

    Attributes:
        registry: names the refs.
        refs: (n,) uint32, each once.
    """

    registry: SeriesRegistry
    refs: U32Array


class Run(NamedTuple):
    """Rows of one metric, and ranks of its series."""

    row_begin: int
    row_end: int
    rank_begin: int
    rank_end: int


@dataclass(frozen=True, slots=True)
class Selection:
    """Series by rank.

    Attributes:
        metrics: names that occur, ascending by code points.
        metric_offsets: (n_metrics + 1,) int64, ranks of each metric.
        series_ids: (n,) int64, ascending within a metric.
        found: where the series were found.
        ranks: by place in `found`, the rank of each of its refs.
        source_of_rank: (n,) int32 into found.
        ref_of_rank: (n,) uint32, in the registry of its source.
    """

    metrics: list[str]
    metric_offsets: I64Array
    series_ids: I64Array
    found: list[Found]
    ranks: list[I32Array]
    source_of_rank: I32Array
    ref_of_rank: U32Array

    @classmethod
    def join(cls, found: Sequence[Found]) -> "Selection":
        """Everything that was found, each series once."""
        found = [one for one in found if len(one.refs)]
        if not found:
            empty = np.empty(0, np.int64)
            return cls(
                [], np.zeros(1, np.int64), empty, [], [], empty.astype(np.int32),
                empty.astype(np.uint32),
            )  # fmt: skip
        names = [_metric_names(one) for one in found]
        metrics = sorted({name for texts, _ in names for name in texts})
        place = {name: index for index, name in enumerate(metrics)}
        metric = np.concatenate(
            [np.array([place[name] for name in texts], np.int32)[index] for texts, index in names]
        )
        series_ids = np.concatenate([one.registry.series_ids(one.refs) for one in found])
        refs = np.concatenate([one.refs for one in found])
        counts = [len(one.refs) for one in found]
        sources = np.repeat(np.arange(len(found), dtype=np.int32), counts)
        order = np.lexsort((series_ids, metric)) if len(metrics) > 1 else np.argsort(series_ids)
        metric, series_ids = metric[order], series_ids[order]
        is_first = np.ones(len(order), np.bool_)
        is_first[1:] = (metric[1:] != metric[:-1]) | (series_ids[1:] != series_ids[:-1])
        ranks = np.empty(len(order), np.int32)
        ranks[order] = np.cumsum(is_first, dtype=np.int32) - 1
        firsts = order[is_first]
        return cls(
            metrics,
            np.searchsorted(metric[is_first], np.arange(len(metrics) + 1)),
            series_ids[is_first],
            found,
            np.split(ranks, np.cumsum(counts[:-1])),
            sources[firsts],
            refs[firsts],
        )

    def __len__(self) -> int:
        return len(self.series_ids)

    def runs(
        self, metrics: Sequence[str], edges: I32Array, rank_begin: int, rank_end: int
    ) -> list[Run]:
        """Rows of the selected metrics in a row group, with the ranks that they can have.

        Args:
            metrics: of the row group, in the order of its rows.
            edges: (metrics + 1,) int32, first row of each.
            rank_begin: lower ranks are not wanted.
            rank_end: nor are this one and higher ones.
        """
        found = []
        for place, metric in enumerate(metrics):
            index = bisect_left(self.metrics, metric)
            if index < len(self.metrics) and self.metrics[index] == metric:
                first, last = self.metric_offsets[index : index + 2].tolist()
                first, last = max(first, rank_begin), min(last, rank_end)
                begin, end = edges[place : place + 2].tolist()
                if first < last and begin < end:
                    found.append(Run(begin, end, first, last))
        return found

    def rank_of_ref(self, registry: SeriesRegistry) -> I32Array | None:
        """Rank of each ref of a registry, RANK_NONE for those not selected.

        Returns:
            (greatest ref + 1,) int32; refs past the end are not selected. None if none is.
        """
        for one, ranks in zip(self.found, self.ranks, strict=True):
            if one.registry is registry:
                by_ref = np.full(int(one.refs.max()) + 1, RANK_NONE, np.int32)
                by_ref[one.refs] = ranks
                return by_ref
        return None

    def label_bytes(self, ranks: I64Array) -> list[bytes]:
        """Labels of series as protobuf, in the order of `ranks`."""
        return self._texts(ranks, lambda registry, refs: registry.label_bytes(refs))

    def sort_keys(self, ranks: I64Array, stripped: Sequence[bytes]) -> list[bytes]:
        """Bytes that sort as clients that strip these labels sort series."""
        return self._texts(ranks, lambda registry, refs: registry.sort_keys(refs, stripped))

    def _texts(
        self, ranks: I64Array, render: Callable[[SeriesRegistry, U32Array], list[bytes]]
    ) -> list[bytes]:
        if len(self.found) == 1:
            return render(self.found[0].registry, self.ref_of_rank[ranks])
        texts = [b""] * len(ranks)
        sources = self.source_of_rank[ranks]
        for source, one in enumerate(self.found):
            places = np.flatnonzero(sources == source)
            rendered = render(one.registry, self.ref_of_rank[ranks[places]])
            for place, text in zip(places.tolist(), rendered, strict=True):
                texts[place] = text
        return texts


def _metric_names(one: Found) -> tuple[list[str], I64Array]:
    """Distinct metrics of what was found, and each ref's place among them."""
    pair_ids, index = np.unique(one.registry.metric_ids(one.refs), return_inverse=True)
    return [value.decode() for _, value in one.registry.pair_texts(pair_ids)], index
