"""One query's answer: series encoded while they are scanned, put in order when all are there.

Slices come in the order of the files (metric, series id), clients want the order of the labels, and
one frame per series; so what is held is the encoded answer, and labels and order come last.

    slice ──> encode ──> (rank, bytes) ... ──> sort by labels ──> frames, or one snappy block

Streamed, a sample takes 1.5 to 3 bytes; as SAMPLES 18, held until the end, since lengths come first
in protobuf.

Invariants:
    READ-4  exactly one frame per series, sorted as the client sees them; a client turns every frame
            into a series of its own and merges the sorted series with its local ones.

Limits: FRAME_BYTES_MAX of a series; PIECE_BYTES of frames are rendered at a time.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from bridge.errors import QueryTooLarge
from bridge.lake.grouped import GroupedRows
from bridge.lake.scan import Slice
from bridge.lake.selection import Selection
from bridge.read.budget import SERIES_BYTES, Budget
from bridge.wire.columns import I32Array, I64Array
from bridge.wire.frames import encode_frames, encode_read_response
from bridge.wire.xor import EncodedSeries

FRAME_BYTES_MAX = 50_000_000
"""Prometheus' default chunked_read_limit: a longer frame fails the whole read at the client."""
FRAME_EXTRA_BYTES = 2 << 20
"""Of a frame, beside the chunks: labels (128 of 9 KiB by the receiver's limits), lengths."""
PIECE_BYTES = 256 << 10
"""Frames rendered between two writes: some hundred microseconds of work, four socket buffers."""

VIEW_BYTES_MIN = 2048
"""Below this a copy of a series' bytes is cheaper than a view of them."""

ENTRY_BYTES = 28
"""Of a series in a slice: its rank, and where its bytes stand."""

Encode = Callable[[GroupedRows], EncodedSeries]


@dataclass(frozen=True, slots=True)
class Places:
    """Where the bytes of series stand; the columns have one entry per series and slice.

    Attributes:
        ranks: (n,) int64.
        pieces: (n,) int32, which slice's bytes.
        begins: (n,) int64, first byte there.
        ends: (n,) int64, the byte behind the last.
    """

    ranks: I64Array
    pieces: I32Array
    begins: I64Array
    ends: I64Array

    @classmethod
    def join(cls, parts: "Sequence[Places]") -> "Places":
        """All entries by rank, those of a rank in the order of the parts."""
        if not parts:
            none = np.empty(0, np.int64)
            return cls(none, none.astype(np.int32), none, none)
        ranks = np.concatenate([part.ranks for part in parts])
        pieces = np.concatenate([part.pieces for part in parts])
        begins = np.concatenate([part.begins for part in parts])
        ends = np.concatenate([part.ends for part in parts])
        if np.any(ranks[1:] < ranks[:-1]):
            order = np.argsort(ranks, kind="stable")
            ranks, pieces, begins, ends = ranks[order], pieces[order], begins[order], ends[order]
        return cls(ranks, pieces, begins, ends)


class AnswerBuilder:
    """Encodes the slices of one query."""

    def __init__(self, selection: Selection, encode: Encode, budget: Budget) -> None:
        self._selection = selection
        self._encode = encode
        self._budget = budget
        self._pieces: list[bytes] = []
        self._places: list[Places] = []

    def add(self, part: Slice) -> None:
        """Encodes a slice.

        Raises:
            QueryTooLarge: the answer is too large with it.
        """
        rows = part.rows
        encoded = self._encode(rows)
        slots = np.flatnonzero(np.diff(rows.offsets))
        self._budget.take(len(rows.timestamps_ms), len(encoded.data) + ENTRY_BYTES * len(slots))
        self._places.append(
            Places(
                slots + part.rank_begin,
                np.full(len(slots), len(self._pieces), np.int32),
                encoded.offsets[slots],
                encoded.offsets[slots + 1],
            )
        )
        self._pieces.append(encoded.data)

    def finish(self, stripped: Sequence[bytes], *, labels_only: bool) -> "Answer":
        """The answer, in the order in which a client sees its series.

        Args:
            stripped: labels that the client takes away before it compares.
            labels_only: all selected series, without samples.

        Raises:
            QueryTooLarge: the labels are too much.
        """
        places = Places.join(self._places)
        counts = np.bincount(places.ranks, minlength=len(self._selection))
        ranks = np.arange(len(self._selection)) if labels_only else np.flatnonzero(counts)
        self._budget.take(0, len(ranks) * SERIES_BYTES)
        keys = self._selection.sort_keys(ranks, stripped)
        ranks = ranks[sorted(range(len(keys)), key=keys.__getitem__)]
        lasts = np.cumsum(counts)
        return Answer(
            self._selection, ranks, self._pieces, places, (lasts - counts)[ranks], lasts[ranks]
        )


class Answer:
    """The series of one query, encoded and in order."""

    def __init__(
        self,
        selection: Selection,
        ranks: I64Array,
        pieces: Sequence[bytes],
        places: Places,
        firsts: I64Array,
        lasts: I64Array,
    ) -> None:
        """Takes what was encoded.

        Args:
            selection: knows the labels.
            ranks: (n,) int64, in order.
            pieces: bytes of each slice.
            places: where a series' bytes stand in them.
            firsts: (n,) int64, first place of each series.
            lasts: (n,) int64, the place behind its last.
        """
        self._selection = selection
        self._ranks = ranks
        self._pieces = pieces
        self._places = places
        self._firsts = firsts
        self._lasts = lasts
        before = np.concatenate([np.zeros(1, np.int64), np.cumsum(places.ends - places.begins)])
        self._sizes = before[lasts] - before[firsts]

    @property
    def series_count(self) -> int:
        """Series in the answer."""
        return len(self._ranks)

    def check_frames(self) -> None:
        """Refuses what no client would take.

        Raises:
            QueryTooLarge: a series does not fit in a frame.
        """
        size_max = FRAME_BYTES_MAX - FRAME_EXTRA_BYTES
        if self._sizes.max(initial=0) > size_max:
            place = int(np.argmax(self._sizes))
            labels = self._selection.label_bytes(self._ranks[place : place + 1])[0]
            raise QueryTooLarge(
                f"one series has {int(self._sizes[place])} bytes of chunks, a client takes at "
                f"most {size_max} in a frame; ask for a shorter range of {labels[:200]!r}"
            )

    def frames(self, query_index: int) -> Iterator[bytes]:
        """All frames, PIECE_BYTES of them at a time."""
        sizes = np.cumsum(self._sizes + SERIES_BYTES)
        begin = 0
        while begin < len(self._ranks):
            limit = PIECE_BYTES + (int(sizes[begin - 1]) if begin else 0)
            end = max(begin + 1, int(np.searchsorted(sizes, limit, "right")))
            labels = self._selection.label_bytes(self._ranks[begin:end])
            yield encode_frames(labels, self._series_bytes(begin, end), query_index)
            begin = end

    def series(self) -> Sequence[tuple[bytes, bytes | memoryview]]:
        """Labels and samples of each series."""
        labels = self._selection.label_bytes(self._ranks)
        return list(zip(labels, self._series_bytes(0, len(labels)), strict=True))

    def _series_bytes(self, begin: int, end: int) -> Sequence[bytes | memoryview]:
        """What was encoded of each series in a run of the order."""
        firsts, lasts = self._firsts[begin:end], self._lasts[begin:end]
        if np.all(lasts - firsts == 1):  # one slice had all of each series
            is_short = self._sizes[begin:end].sum() < VIEW_BYTES_MIN * (end - begin)
            whole = self._pieces if is_short else [memoryview(piece) for piece in self._pieces]
            return [whole[piece][start:stop] for piece, start, stop in self._runs(firsts)]
        return [
            b"".join(
                [self._pieces[piece][start:stop] for piece, start, stop in self._runs(entries)]
            )
            for entries in map(slice, firsts.tolist(), lasts.tolist())
        ]

    def _runs(self, entries: "I64Array | slice") -> Iterator[tuple[int, int, int]]:
        """Piece, first byte and the byte behind the last of some entries."""
        places = self._places
        return zip(
            places.pieces[entries].tolist(),
            places.begins[entries].tolist(),
            places.ends[entries].tolist(),
            strict=True,
        )


def render_samples(answers: Sequence[Answer]) -> bytes:
    """All answers as one snappy block."""
    return encode_read_response([answer.series() for answer in answers])
