"""The compiled registry of series; `bridge.wire.series` says what it does and what bounds it."""

from collections.abc import Sequence

from typing_extensions import Buffer

from bridge.wire.columns import F64Array, I32Array, I64Array, U8Array, U32Array
from bridge.wire.decoded import Decoded, LabelRows, Limits

class SeriesRegistry:
    """Every active series once: labels as ids into one table of (name, value) pairs.

    A ref is the number of a series here, counted from 0; refs never change and nothing is ever
    removed (see `compacted`). One thread decodes; all other methods may be called from any thread
    at any time, a lock inside makes them wait for one another.
    """

    def __init__(self, replica_labels: Sequence[bytes] = (), *, seed: int = 0) -> None:
        """An empty registry.

        Args:
            replica_labels: names that are taken out of a series' labels; the value of the first of
                them that a series has becomes its replica.
            seed: of all hashes that nobody else sees; senders must not know it. 64 bits are used.
        """

    def __len__(self) -> int: ...
    @property
    def memory_bytes(self) -> int:
        """Bytes held, tables and text and scratch."""

    @property
    def symbol_count(self) -> int:
        """Texts held: one for each pair."""

    @property
    def pair_count(self) -> int:
        """Distinct (name, value) pairs; their ids are below this."""

    @property
    def collision_count(self) -> int:
        """Rows that `add_rows` gave to another label set of the same metric and id."""

    def decode_v1(
        self,
        body: Buffer,
        limits: Limits,
        receive_ms: int,
        refused: U32Array | None,
        refs: U32Array,
        timestamps_ms: I64Array,
        values: F64Array,
        start_timestamps_ms: I64Array,
        offset: int,
    ) -> Decoded:
        """Rows of a remote write 1.0 body, written from `offset` on.

        Args:
            body: protobuf, not compressed; not retained.
            limits: what the request may bring; unused in a replay.
            receive_ms: when the request came, Unix ms.
            refused: (2 n,) uint32 in a replay, what the receipt refused, as in Decoded; else None.
            refs: (capacity,) uint32.
            timestamps_ms: (capacity,) int64.
            values: (capacity,) float64; bits are written as they come.
            start_timestamps_ms: (capacity,) int64; an element is written only where it changes, so
                that pages of zeros stay unwritten.
            offset: first row to write.

        Returns:
            What is in rows offset to offset + sample_count, and what is not.

        Raises:
            CorruptBody: not a well-formed body; the message names the byte.
            TooManySamples: more than `limits.sample_count_max`.
            RowsFull: more samples than rows from `offset` on.

        After an exception nothing has been registered, and rows from `offset` on are garbage.
        """

    def decode_v2(
        self,
        body: Buffer,
        limits: Limits,
        receive_ms: int,
        refused: U32Array | None,
        refs: U32Array,
        timestamps_ms: I64Array,
        values: F64Array,
        start_timestamps_ms: I64Array,
        offset: int,
    ) -> Decoded:
        """Rows of a remote write 2.0 body; everything else as in `decode_v1`."""

    def add_rows(
        self,
        series_ids: I64Array,
        label_offsets: I32Array,
        name_offsets: I32Array,
        name_bytes: Buffer,
        value_offsets: I32Array,
        value_bytes: Buffer,
    ) -> U32Array:
        """Refs of rows of the `series` table, registered where they are new.

        The rows are trusted: canonical labels with a `__name__`. Where another label set has the
        same metric and id, the row gets that one's ref and `collision_count` grows.

        Args:
            series_ids: (n,) int64.
            label_offsets: (n + 1,) int32 into the pairs; with the next four the buffers of an Arrow
                MAP<string, string> column.
            name_offsets: (pairs + 1,) int32 into name_bytes.
            name_bytes: all names.
            value_offsets: (pairs + 1,) int32 into value_bytes.
            value_bytes: all values.

        Raises:
            ValueError: offsets do not ascend or lead out of their buffers, or a row has no name.
        """

    def series_ids(self, refs: U32Array | None = None) -> I64Array:
        """(n,) int64 series ids of `refs`, of all series without; a copy."""

    def metric_ids(self, refs: U32Array | None = None) -> U32Array:
        """(n,) uint32 ids of the `__name__` pairs of `refs`, of all series without; a copy."""

    def replica_ids(self, refs: U32Array | None = None) -> U32Array:
        """(n,) uint32 indices into `replicas()`, 0 where there is none; a copy."""

    def replicas(self) -> list[bytes]:
        """Values of the replica labels seen; the first is empty and means none."""

    def select(self, metric_ids: U32Array | None) -> tuple[U32Array, I64Array, U32Array]:
        """Series of some metrics with their pairs.

        Args:
            metric_ids: pair ids of `__name__` pairs; None for all series.

        Returns:
            refs, ascending; (n + 1,) offsets; pair ids, those of series i at offsets[i] to
            offsets[i + 1], in canonical order.
        """

    def find_pair(self, name: bytes, value: bytes) -> int:
        """Id of a pair, or -1."""

    def pair_texts(self, pair_ids: U32Array) -> list[tuple[bytes, bytes]]:
        """(name, value) of pairs."""

    def metric_pairs(self) -> U32Array:
        """Ids of all pairs whose name is `__name__`, ascending."""

    def label_rows(self, refs: U32Array) -> LabelRows:
        """Labels as the buffers of an Arrow MAP<string, string> column.

        Raises:
            OverflowError: names or values pass 2 GiB; ask for fewer.
        """

    def label_lengths(self, refs: U32Array) -> I64Array:
        """(n,) int64, bytes of all names and values of each series: what `label_rows` makes."""

    def label_bytes(self, refs: U32Array) -> list[bytes]:
        """Labels as protobuf, label messages as field 1: what TimeSeries and ChunkedSeries hold."""

    def sort_keys(self, refs: U32Array, stripped: Sequence[bytes]) -> list[bytes]:
        """Bytes that compare as Prometheus compares the label sets that a client sees.

        Args:
            refs: which series.
            stripped: labels that the client takes away before it compares.
        """

    def compacted(self, keep: U8Array) -> tuple[SeriesRegistry, U32Array]:
        """A copy with fewer series.

        Args:
            keep: by ref, 0 to leave the series out; series past its end are kept.

        Returns:
            The copy, and for each old ref the new one or 0xFFFF_FFFF.
        """
