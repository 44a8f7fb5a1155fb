"""What a read sees of the samples that are not in the lake yet.

`bridge.write` makes views, `bridge.read` consumes them; this is the only thing they share.

A part whose position is not above the snapshot's position of the same receiver is in the lake
already and is left out. A reader therefore takes the view first and the snapshot second: a flush
that ends in between moves a part into the snapshot, never out of both.
"""

from dataclasses import dataclass
from typing import Protocol

from bridge.lake.snapshot import LakeFile
from bridge.wire.columns import F64Array, I64Array, U32Array
from bridge.wire.series import SeriesRegistry


@dataclass(frozen=True, slots=True)
class HeadRows:
    """Samples in memory.

    Attributes:
        registry: names the refs.
        blocks: (refs, timestamps_ms, values) of equal length, in order of arrival; not copied,
            rows already published do not change.
    """

    registry: SeriesRegistry
    blocks: tuple[tuple[U32Array, I64Array, F64Array], ...]


@dataclass(frozen=True, slots=True)
class CutFiles:
    """Sorted Parquet files on the local disk that the lake does not have yet.

    Attributes:
        registry: knows every series in the files.
        files: local paths, with the statistics of lake files.
    """

    registry: SeriesRegistry
    files: tuple[LakeFile, ...]


@dataclass(frozen=True, slots=True)
class HeadView:
    """Everything accepted and perhaps not in the lake yet, oldest first.

    Attributes:
        receiver_id: whose positions these are.
        parts: (number of the last WAL record that the part covers, the part).
    """

    receiver_id: str
    parts: tuple[tuple[int, HeadRows | CutFiles], ...]


class HeadSource(Protocol):
    """Whoever holds the head; a process that only reads has none."""

    def view(self) -> HeadView:
        """The head as it is now; cheap."""
