"""Heads for tests: rows decoded into a registry as the receiver does it, cut files, views."""

from collections.abc import Callable, Sequence

import numpy as np

from bridge.lake.data_file import DataFile
from bridge.lake.head_view import CutFiles, HeadRows, HeadView
from bridge.wire import remote_write_pb2
from bridge.wire.decoded import Limits
from bridge.wire.series import SeriesRegistry
from tests.oracle.lake_files import LakeRow

RECEIVER = "receiver-1"
REPLICA_LABEL = "__replica__"
OPEN_POSITION = 2**63 - 1


def new_registry() -> SeriesRegistry:
    """As the receiver has it."""
    return SeriesRegistry((REPLICA_LABEL.encode(),), seed=7)


def head_rows(registry: SeriesRegistry, rows: Sequence[LakeRow], block_rows: int = 5) -> HeadRows:
    """Rows in memory, in blocks."""
    blocks = []
    for begin in range(0, len(rows), block_rows):
        part = rows[begin : begin + block_rows]
        request = remote_write_pb2.WriteRequest()
        for labels, timestamp_ms, _, replica in part:
            message = request.timeseries.add()
            own = [*labels, (REPLICA_LABEL, replica)] if replica else list(labels)
            for name, value in own:
                message.labels.add(name=name.encode(), value=value.encode())
            message.samples.add(timestamp=timestamp_ms, value=1.0)
        refs = np.empty(len(part), np.uint32)
        times = np.empty(len(part), np.int64)
        values = np.empty(len(part), np.float64)
        starts = np.zeros(len(part), np.int64)
        decoded = registry.decode_v1(
            request.SerializeToString(), Limits(), 1 << 60, None, refs, times, values, starts, 0
        )
        assert decoded.sample_count == len(part), decoded.messages
        # The protobuf package does not promise the bits of a NaN.
        bits = np.array([row[2] for row in part], np.uint64)
        blocks.append((refs, times, bits.view(np.float64)))
    return HeadRows(registry, tuple(blocks))


def cut_files(
    registry: SeriesRegistry, rows: Sequence[LakeRow], files: Sequence[DataFile]
) -> CutFiles:
    """Files that wait on the local disk; the registry gets to know their series."""
    head_rows(registry, rows)
    return CutFiles(registry, tuple(file.lake_file() for file in files))


class MadeHead:
    """Gives a view, and lets something happen after it was taken."""

    def __init__(
        self,
        parts: Sequence[tuple[int, HeadRows | CutFiles]],
        then: Callable[[], None] = lambda: None,
    ) -> None:
        self.parts = list(parts)
        self.then = then

    def view(self) -> HeadView:
        """The parts as they are now."""
        view = HeadView(RECEIVER, tuple(self.parts))
        self.then()
        return view
