"""Which series are counters: by metadata, else by name; what is left is told by its behaviour.

It matters where a plain selector is answered from windows that are wider than what it looks back
over: a counter is taken to climb evenly between the samples that are known, a gauge is not.

Source: metadata as Prometheus sends it: by family for what is scraped as OpenMetrics (`x` of
`x_total`) and for histograms and summaries (`x` of `x_bucket`, `x_count`, `x_sum`).

Limits: a hundred bytes a metric, as many as the metadata has.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bridge.lake.block_file import Check
from bridge.lake.file_cache import Part
from bridge.lake.footers import FooterCache
from bridge.lake.selection import Selection
from bridge.lake.snapshot import LakeFile, Snapshot, TableFiles
from bridge.read.emission import Emission, Kind

_COLUMNS = ["metric", "type", "seen_ms"]
_COUNTER, _GAUGE, _UNKNOWN = 1, 0, -1
_OF_TYPE = {"counter": _COUNTER, "gauge": _GAUGE, "gaugehistogram": _GAUGE}
_OF_FAMILY = {"histogram": _COUNTER, "summary": _COUNTER, "counter": _COUNTER}
_SUFFIXES = ("_total", "_bucket", "_count", "_sum")


def asks_for_types(emission: Emission) -> bool:
    """Whether what leaves of a window depends on the type of its series."""
    grid = emission.grid
    return emission.kind is Kind.INSTANT and (
        grid is None or any(part % emission.window_ms for part in (grid.first_ms, grid.step_ms))
    )


@dataclass(frozen=True, slots=True)
class _Known:
    """What was read of one version of the metadata.

    Attributes:
        table: that version; None before the first.
        paths: its files.
        types: of each metric, when it was seen and its type.
    """

    table: TableFiles | None = None
    paths: frozenset[str] = frozenset()
    types: Mapping[str, tuple[int, str]] = field(default_factory=dict)

    def kind_of(self, metric: str) -> int:
        """1 for a counter, 0 for a gauge, -1 where nothing tells."""
        own = self.types.get(metric)
        if own is not None and own[1] in _OF_TYPE:
            return _OF_TYPE[own[1]]
        for suffix in _SUFFIXES:
            family = self.types.get(metric.removesuffix(suffix))
            if metric.endswith(suffix) and family is not None and family[1] in _OF_FAMILY:
                return _OF_FAMILY[family[1]]
        return _COUNTER if metric.endswith(("_total", "_bucket", "_count")) else _UNKNOWN


class MetricTypes:
    """Types by metric, as the lake's metadata has them; any thread."""

    def __init__(self, footers: FooterCache) -> None:
        self._footers = footers
        self._known = _Known()

    def of(self, snapshot: Snapshot, selection: Selection, check: Check) -> NDArray[np.int8]:
        """By rank: 1 for a counter, 0 for a gauge, -1 where neither metadata nor name tells.

        Args:
            snapshot: of the lake.
            selection: the series.
            check: called between files; raises to end the work.
        """
        known = self._known
        if known.table is not snapshot.metadata:
            # Two that read at once do the same; none waits for another one's store.
            known = self._known = self._read(known, snapshot, check)
        kinds = np.array([known.kind_of(metric) for metric in selection.metrics], np.int8)
        return np.repeat(kinds, np.diff(selection.metric_offsets))

    def _read(self, known: "_Known", snapshot: Snapshot, check: Check) -> "_Known":
        """Takes new files in; of several rows of a metric the newest counts."""
        files = snapshot.metadata_files()
        new = [file for file in files if file.path not in known.paths]
        footers = dict(
            zip([file.path for file in new], self._footers.fetch(new, check), strict=True)
        )

        def part_of(file: LakeFile) -> Part:
            footer = footers[file.path]
            groups = range(len(footer.row_counts))
            return Part(file.path, file.size_bytes, footer.chunk_ranges(list(groups), _COLUMNS))

        types = dict(known.types)
        for file, opened in self._footers.files.in_steps(new, part_of, check):
            check()
            with opened.parquet(file.path, footers[file.path].parsed) as parquet:
                table: Any = parquet.read(columns=_COLUMNS, use_threads=False)
            columns = (table[name].to_pylist() for name in _COLUMNS)
            for metric, kind, seen_ms in zip(*columns, strict=True):
                if seen_ms >= types.get(metric, (seen_ms, ""))[0]:
                    types[metric] = seen_ms, kind
        return _Known(snapshot.metadata, frozenset(file.path for file in files), types)
