"""Records what a real Prometheus answers to remote reads; see README.md.

.venv/bin/python -m tests.golden.record_reads
"""

import random
import tempfile
from collections.abc import Sequence
from pathlib import Path

import cramjam

from bridge.wire.remote_read_pb2 import LabelMatcher, Query, ReadRequest
from tests.integration.remote import NAN_BITS, STALE_BITS, Labels, Sample, bits_of, make_body
from tests.integration.servers import Prometheus, fetch, find_prometheus

FOLDER = Path(__file__).parent / "read"
START_MS = 1_763_700_000_000
DAY_MS = 86_400_000
Series = tuple[Labels, list[Sample]]


def main() -> None:
    record("now", made_series())
    # Apart from the others: a head from 1970 until now would be compacted at once, two hours at a
    # time.
    times = [-30_000, -15_000, 0, 15_000]
    record("epoch", [(labels("before_1970"), [(at, bits_of(at / 4)) for at in times])])
    record("nothing", [])


def labels(name: str, **others: str) -> Labels:
    return tuple(sorted({"__name__": name, "job": "made", **others}.items()))


def made_series() -> list[Series]:
    rng = random.Random(20)
    return [
        (labels("counter"), counter(rng, 500)),
        (labels("constant"), [(START_MS + i * 15_000, bits_of(1.0)) for i in range(300)]),
        (labels("single"), [(START_MS, bits_of(42.5))]),
        (labels("special"), special()),
        (labels("any_bits"), [(START_MS + i * 15_000, any_bits(rng)) for i in range(200)]),
        (
            labels("mantissas"),
            [(START_MS + i * 5000, bits_of(rng.gauss(0, 1))) for i in range(200)],
        ),
        (labels("low_bits"), low_bits(rng)),
        (labels("steps"), steps()),
        (labels("days"), days(rng)),
        (labels("names", grüße="日本 \U0001f30d", path='/a"b\\c\n'), [(START_MS, bits_of(0.0))]),
    ]


def counter(rng: random.Random, count: int) -> list[Sample]:
    """With jitter, gaps and resets."""
    found, at, value = [], START_MS, 1e6
    for i in range(count):
        found.append((at + rng.choice([0, 0, 0, 1, -1, 2, rng.randrange(-40, 40)]), bits_of(value)))
        at += 15_000 * rng.choice([1] * 40 + [2, 20])
        value = 0.0 if i % 150 == 149 else value + rng.randrange(1000)
    return found


def special() -> list[Sample]:
    bits = [
        *map(
            bits_of, [0.0, -0.0, 1.5, float("inf"), float("-inf"), 5e-324, 1.7976931348623157e308]
        ),
        NAN_BITS,
        0xFFF8000000000000,
        0x7FF4DEADBEEF0001,
        bits_of(2.0),
        bits_of(2.0),
        STALE_BITS,
        bits_of(3.0),
        STALE_BITS,
    ]
    return [(START_MS + i * 60_000, one) for i, one in enumerate(bits)]


def any_bits(rng: random.Random) -> int:
    return rng.getrandbits(64)


def low_bits(rng: random.Random) -> list[Sample]:
    """Changes with more than 31 leading zeros, and with none at all and no trailing ones either."""
    bits = bits_of(1.0)
    found = []
    for i in range(150):
        bits ^= rng.choice([1, 0x8000_0000_0000_0001, 1 << rng.randrange(64), rng.getrandbits(20)])
        found.append((START_MS + i * 1000, bits))
    return found


def steps() -> list[Sample]:
    """Changes of the delta on both sides of every width's bounds."""
    found, at, delta = [(START_MS, bits_of(0.0))], START_MS, 2_000_000
    for width in (14, 17, 20):
        half = 1 << (width - 1)
        for change in (half - 1, half, half + 1):
            for signed in (change, -change):
                delta += signed
                at += delta
                found.append((at, bits_of(float(change))))
    return found


def days(rng: random.Random) -> list[Sample]:
    """Gaps of up to three days in one chunk."""
    found, at = [], START_MS
    for _ in range(40):
        found.append((at, bits_of(float(rng.randrange(9)))))
        at += rng.choice([1, 1000, 60_000, rng.randrange(3 * DAY_MS // 8)])
    return found


def record(name: str, series: Sequence[Series]) -> None:
    """One server that is given the series and asked for all of them in both ways."""
    with tempfile.TemporaryDirectory() as folder:
        server = Prometheus(
            find_prometheus(3),
            "prometheus",
            Path(folder),
            lambda _: {},
            [
                "--web.enable-remote-write-receiver",
                # One chunk may span so much.
                "--storage.tsdb.min-block-duration=30d",
                "--storage.tsdb.max-block-duration=30d",
            ],
        )
        with server:
            push(server.url, series)
            for answer, accepted in (
                ("samples", ReadRequest.SAMPLES),
                ("chunked", ReadRequest.STREAMED_XOR_CHUNKS),
            ):
                (FOLDER / f"{name}.{answer}.bin").write_bytes(ask(server.url, accepted))


def push(url: str, series: Sequence[Series]) -> None:
    """In order of time, since an old sample is refused once there is a newer one."""
    rows = sorted((at, index, bits) for index, (_, rows) in enumerate(series) for at, bits in rows)
    for begin in range(0, len(rows), 500):
        body = make_body(
            1, [(series[index][0], [(at, bits)]) for at, index, bits in rows[begin : begin + 500]]
        )
        reply = body.push(f"{url}/api/v1/write")
        assert reply.status == 204, reply


def ask(url: str, accepted: ReadRequest.ResponseType) -> bytes:
    query = Query(
        start_timestamp_ms=-DAY_MS,
        end_timestamp_ms=START_MS + 40 * DAY_MS,
        matchers=[LabelMatcher(name="job", value="made")],
    )
    request = ReadRequest(
        queries=[query],
        accepted_response_types=[accepted],
    )
    body = bytes(cramjam.snappy.compress_raw(request.SerializeToString()))
    headers = {"Content-Type": "application/x-protobuf", "Content-Encoding": "snappy"}
    reply = fetch("POST", f"{url}/api/v1/read", body, headers)
    assert reply.status == 200, reply
    return reply.body


if __name__ == "__main__":
    main()
