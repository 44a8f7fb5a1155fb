"""What each compiled loop costs a row or sample, beside its Python twin.

    .venv/bin/python -m benchmarks.kernels [--repeats 5] [name ...]

CPU time of this thread, the best of the repeats, output allocated anew each time. The twin gets a
part of the same input, since it takes a hundred times as long; both have to give the same.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np

from benchmarks.waveforms import draw
from bridge.lake import _rows
from bridge.lake.grouped import GroupedRows
from bridge.lake.twins import rows as rows_twin
from bridge.wire import _crc32c, _frames, _xor
from bridge.wire.columns import F64Array, I32Array, I64Array, U32Array
from bridge.wire.remote_read_pb2 import ChunkedSeries
from bridge.wire.twins import crc32c as crc32c_twin
from bridge.wire.twins import frames as frames_twin
from bridge.wire.twins import xor as xor_twin

START_MS = 1_763_700_000_000
INTERVAL_MS = 15_000
JITTER_MS = 3
"""A third of the scrapes come so much later, as Prometheus' own alignment leaves it."""
SAMPLES_PER_CHUNK = 120
# As in the workloads of this folder, see README.md.
MIX = {
    "constant": 0.30,
    "idle": 0.21,
    "counter": 0.19,
    "gauge": 0.17,
    "centisecond": 0.035,
    "nanosecond": 0.035,
    "noise": 0.05,
    "decimal": 0.01,
}

Columns: TypeAlias = tuple[I64Array, I64Array, F64Array]


@dataclass(frozen=True, slots=True)
class Case:
    """One kernel on one input.

    Attributes:
        name: of both functions.
        unit: what is counted.
        compiled: the loop.
        twin: the same in Python.
        make: arguments for about so many units, and how many they are.
        count: units for the compiled loop.
        twin_count: units for the twin.
    """

    name: str
    unit: str
    compiled: Callable[..., Any]
    twin: Callable[..., Any]
    make: Callable[[int], tuple[tuple[Any, ...], int]]
    count: int
    twin_count: int


def series_columns(count: int, per_series: int = 240, kind: str | None = None) -> Columns:
    """Offsets, times and values of realistic series, one after another."""
    rng = np.random.default_rng(count)
    series = max(1, count // per_series)
    kinds = rng.choice(list(MIX), series, p=list(MIX.values())) if kind is None else None
    names = np.full(series, kind) if kinds is None else kinds
    values = draw(names, per_series, INTERVAL_MS / 1000, 1)
    first_ms = START_MS + rng.integers(0, INTERVAL_MS, series)
    times = first_ms[:, None] + np.arange(per_series) * INTERVAL_MS
    times += np.where(rng.random(times.shape) < 0.33, rng.integers(1, JITTER_MS, times.shape), 0)
    offsets = np.arange(series + 1, dtype=np.int64) * per_series
    return offsets, times.ravel().astype(np.int64), values.ravel()


def scraped(count: int, per_series: int = 60) -> tuple[U32Array, I64Array, F64Array]:
    """Rows as a head holds them: scrape by scrape, all series in each."""
    series = max(1, count // per_series)
    refs = np.tile(np.arange(series, dtype=np.uint32), per_series)
    times = START_MS + np.repeat(np.arange(per_series), series) * INTERVAL_MS
    times += np.tile(np.random.default_rng(2).integers(0, INTERVAL_MS, series), per_series)
    return refs, times, np.arange(len(refs), dtype=np.float64)


def shuffled_ranks(count: int) -> I32Array:
    """Ranks that have nothing to do with the order of arrival."""
    return np.random.default_rng(3).permutation(count).astype(np.int32)


def group_arguments(count: int) -> tuple[tuple[Any, ...], int]:
    refs, times, values = scraped(count)
    series = int(refs.max()) + 1
    return (shuffled_ranks(series)[refs], times, values, series), len(refs)


def group_late_arguments(count: int) -> tuple[tuple[Any, ...], int]:
    """The last ten scrapes came first: every slot has to be sorted."""
    (slots, times, values, series), rows = group_arguments(count)
    return (slots, np.roll(times, 10 * series), values, series), rows


def head_arguments(count: int) -> tuple[tuple[Any, ...], int]:
    refs, times, values = scraped(count)
    series = int(refs.max()) + 1
    size = 1 << 20
    blocks = [
        (refs[at : at + size], times[at : at + size], values[at : at + size])
        for at in range(0, len(refs), size)
    ]
    return (blocks, shuffled_ranks(series), series, 0, 2 * START_MS), len(refs)


def slot_arguments(count: int) -> tuple[tuple[Any, ...], int]:
    series = max(1, count // 60)
    ids = np.sort(np.random.default_rng(4).integers(-(2**62), 2**62, series))
    return (np.repeat(ids, 60), ids, shuffled_ranks(series)), 60 * series


def filter_arguments(share: float) -> Callable[[int], tuple[tuple[Any, ...], int]]:
    def arguments(count: int) -> tuple[tuple[Any, ...], int]:
        refs, times, values = scraped(count)
        slot_of_ref = shuffled_ranks(int(refs.max()) + 1)
        slot_of_ref[np.random.default_rng(5).random(len(slot_of_ref)) >= share] = -1
        return (refs, times, values, slot_of_ref, START_MS, 2 * START_MS), len(refs)

    return arguments


def merge_arguments(copies: int) -> Callable[[int], tuple[tuple[Any, ...], int]]:
    def arguments(count: int) -> tuple[tuple[Any, ...], int]:
        offsets, times, values = series_columns(count // copies)
        return (
            GroupedRows(offsets * copies, np.repeat(times, copies), np.repeat(values, copies)),
        ), len(times) * copies

    return arguments


def chunk_arguments(kind: str | None) -> Callable[[int], tuple[tuple[Any, ...], int]]:
    def arguments(count: int) -> tuple[tuple[Any, ...], int]:
        offsets, times, values = series_columns(count, kind=kind)
        return (offsets, times, values, SAMPLES_PER_CHUNK), len(times)

    return arguments


def decode_arguments(count: int) -> tuple[tuple[Any, ...], int]:
    offsets, times, values = series_columns(count, SAMPLES_PER_CHUNK)
    encoded = _xor.encode_chunks(offsets, times, values, SAMPLES_PER_CHUNK)
    chunks = []
    for begin, end in pairwise(encoded.offsets.tolist()):
        field = ChunkedSeries.FromString(encoded.data[begin:end])
        chunks += [chunk.data for chunk in field.chunks]
    return (chunks,), len(times)


def decode_all(decode: Callable[[bytes], Any]) -> Callable[[Sequence[bytes]], list[Any]]:
    return lambda chunks: [decode(chunk) for chunk in chunks]


LABELS = b"".join(
    b"\x0a\x2c\x0a\x0aname%06d\x12\x1evalue%025d" % (index, index) for index in range(10)
)


def frame_arguments(count: int) -> tuple[tuple[Any, ...], int]:
    offsets, times, values = series_columns(count)
    encoded = _xor.encode_chunks(offsets, times, values, SAMPLES_PER_CHUNK)
    views = split(encoded.data, encoded.offsets)
    return ([LABELS] * len(views), views, 0), len(times)


def response_arguments(count: int) -> tuple[tuple[Any, ...], int]:
    offsets, times, values = series_columns(count)
    encoded = _frames.encode_samples(offsets, times, values)
    return ([[(LABELS, view) for view in split(encoded.data, encoded.offsets)]],), len(times)


def split(data: bytes, offsets: I64Array) -> list[memoryview]:
    view = memoryview(data)
    bounds = offsets.tolist()
    return [view[begin:end] for begin, end in pairwise(bounds)]


def samples_arguments(count: int) -> tuple[tuple[Any, ...], int]:
    columns = series_columns(count)
    return columns, len(columns[1])


def byte_arguments(count: int) -> tuple[tuple[Any, ...], int]:
    return (np.random.default_rng(6).bytes(count),), count


M = 1_000_000
CASES = [
    Case("group_rows", "row", _rows.group_rows, rows_twin.group_rows, group_arguments, 6 * M, M),
    Case(
        "group_rows, late",
        "row",
        _rows.group_rows,
        rows_twin.group_rows,
        group_late_arguments,
        6 * M,
        M,
    ),
    Case(
        "sort_head_rows",
        "row",
        _rows.sort_head_rows,
        rows_twin.sort_head_rows,
        head_arguments,
        6 * M,
        M,
    ),
    Case(
        "assign_slots",
        "row",
        _rows.assign_slots,
        rows_twin.assign_slots,
        slot_arguments,
        6 * M,
        M,
    ),
    *(
        Case(
            f"filter_rows, {share:.0%} kept",
            "row",
            _rows.filter_rows,
            rows_twin.filter_rows,
            filter_arguments(share),
            6 * M,
            M,
        )
        for share in (0.001, 0.1, 0.5, 1.0)
    ),
    *(
        Case(
            f"merge_duplicates, {copies} of each",
            "row",
            _rows.merge_duplicates,
            rows_twin.merge_duplicates,
            merge_arguments(copies),
            4 * M,
            M // 5,
        )
        for copies in (1, 2)
    ),
    *(
        Case(
            f"encode_chunks, {kind or 'mixed'}",
            "sample",
            _xor.encode_chunks,
            xor_twin.encode_chunks,
            chunk_arguments(kind),
            2 * M,
            M // 50,
        )
        for kind in (None, "constant", "counter", "gauge", "noise")
    ),
    Case(
        "decode_chunk",
        "sample",
        decode_all(_xor.decode_chunk),
        decode_all(xor_twin.decode_chunk),
        decode_arguments,
        2 * M,
        M // 50,
    ),
    Case(
        "encode_samples",
        "sample",
        _frames.encode_samples,
        frames_twin.encode_samples,
        samples_arguments,
        2 * M,
        M // 10,
    ),
    Case(
        "encode_frames",
        "sample",
        _frames.encode_frames,
        frames_twin.encode_frames,
        frame_arguments,
        2 * M,
        M // 10,
    ),
    Case(
        "encode_read_response",
        "sample",
        _frames.encode_read_response,
        frames_twin.encode_read_response,
        response_arguments,
        2 * M,
        M // 10,
    ),
    Case("crc32c", "byte", _crc32c.crc32c, crc32c_twin.crc32c, byte_arguments, 16 * M, M // 10),
    Case(
        "crc32c_by_table",
        "byte",
        _crc32c.crc32c_by_table,
        crc32c_twin.crc32c,
        byte_arguments,
        16 * M,
        M // 10,
    ),
]


def measure(call: Callable[..., Any], arguments: tuple[Any, ...], repeats: int) -> float:
    """Least CPU time of a call, in ns."""
    best = float("inf")
    for _ in range(repeats):
        began = time.thread_time_ns()
        call(*arguments)
        best = min(best, time.thread_time_ns() - began)
    return best


def is_same(left: Any, right: Any) -> bool:
    """Whether two results are equal, arrays by their bits."""
    if isinstance(left, np.ndarray):
        return bool(left.dtype == right.dtype) and left.tobytes() == right.tobytes()
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(is_same, left, right))
    if is_dataclass(left):
        return all(
            is_same(getattr(left, field.name), getattr(right, field.name)) for field in fields(left)
        )
    return bool(left == right)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", help="kernels; all if none is named")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    print(f"{'kernel':32} {'ns':>8}   {'twin ns':>9} per")
    for case in CASES:
        if options.names and not any(case.name.startswith(name) for name in options.names):
            continue
        arguments, count = case.make(case.count)
        compiled_ns = measure(case.compiled, arguments, options.repeats) / count
        arguments, count = case.make(case.twin_count)
        began = time.thread_time_ns()
        expected = case.twin(*arguments)
        twin_ns = (time.thread_time_ns() - began) / count
        note = "" if is_same(case.compiled(*arguments), expected) else "  DIFFERS"
        print(f"{case.name:32} {compiled_ns:8.2f}   {twin_ns:9.1f} {case.unit}{note}", flush=True)


if __name__ == "__main__":
    main()
