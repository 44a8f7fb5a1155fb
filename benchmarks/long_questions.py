"""What is asked of a year, and by whom: a bridge, or a Prometheus that has nothing but the bridge.

Wall-clock of one question at a time, CPU of the whole bridge from the question to the answer, in
ticks of 10 ms. Samples are those that the bridge says to have sent; bytes are counted here.
"""

import http.client
import json
import math
import re
import statistics
import time
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

import cramjam

from benchmarks.contestants import Server
from benchmarks.long_lake import METRIC, LongHistory
from benchmarks.report import Row
from bridge.wire.remote_read_pb2 import LabelMatcher, Query, ReadHints, ReadRequest

STEP_MS = 12 * 3_600_000
LOOKBACK_MS = 300_000
TIMEOUT_S = 900.0
PIECE_BYTES = 1 << 20
COUNTED_S_MAX = 10.0
EQUAL_RATIO = 1e-9
"""Sums of windows are added in another order than samples."""

Values = dict[tuple[tuple[str, str], ...], dict[float, float]]
"""Of an answer: by labels and by time."""


@dataclass(frozen=True, slots=True)
class Question:
    """An expression and what Prometheus 3 hints for it.

    Attributes:
        text: PromQL.
        func: nearest function or aggregation.
        range_ms: of its range vector; 0 for a plain selector.
        grouping: of an aggregation by labels.
    """

    text: str
    func: str = ""
    range_ms: int = 0
    grouping: tuple[str, ...] = ()

    def read_body(self, history: LongHistory) -> bytes:
        """The request that Prometheus 3 sends; its ranges are open on the left."""
        start_ms = history.start_ms + STEP_MS - (self.range_ms or LOOKBACK_MS) + 1
        query = Query(
            start_timestamp_ms=start_ms,
            end_timestamp_ms=history.end_ms,
            matchers=[LabelMatcher(name="__name__", value=METRIC)],
            hints=ReadHints(
                step_ms=STEP_MS,
                func=self.func,
                start_ms=start_ms,
                end_ms=history.end_ms,
                grouping=self.grouping,
                by=bool(self.grouping),
                range_ms=self.range_ms,
            ),
        )
        accepted = [ReadRequest.STREAMED_XOR_CHUNKS, ReadRequest.SAMPLES]
        request = ReadRequest(queries=[query], accepted_response_types=accepted)
        return bytes(cramjam.snappy.compress_raw(request.SerializeToString()))


QUESTIONS = (
    Question(f"sum by (job) ({METRIC})", "sum", grouping=("job",)),
    Question(METRIC),
    Question(f"rate({METRIC}[1h])", "rate", 3_600_000),
    Question(f"max_over_time({METRIC}[12h])", "max_over_time", STEP_MS),
)


@dataclass(frozen=True, slots=True)
class Asked:
    """What one question cost.

    Attributes:
        wall_ms: until the last byte.
        cpu_ms: of the bridge.
        sample_count: that the bridge sent.
        body_bytes: of the answer of whoever was asked.
        spans: parts of the query by the resolution that answered them.
        answer: what Prometheus said; None of the bridge.
    """

    wall_ms: float
    cpu_ms: float
    sample_count: int
    body_bytes: int
    spans: Mapping[str, int]
    answer: bytes | None = None


class Asker:
    """Asks a bridge, or a Prometheus in front of it."""

    def __init__(self, bridge: Server, prometheus: Server | None) -> None:
        self._bridge = bridge
        self._prometheus = prometheus

    def ask(self, question: Question, history: LongHistory) -> Asked:
        """Asks once.

        Raises:
            ValueError: an error, or a warning that remote data is missing.
        """
        before = _metrics(self._bridge.url)
        cpu_s = self._bridge.meter.cpu_s()
        began_s = time.perf_counter()
        if self._prometheus is None:
            answer, length = None, self._read(question, history)
        else:
            answer = self._query(self._prometheus.url, question, history)
            length = len(answer)
        wall_s = time.perf_counter() - began_s
        cpu_s = self._bridge.meter.cpu_s() - cpu_s
        after = self._counted(before)
        return Asked(
            wall_s * 1000,
            cpu_s * 1000,
            round(_sum(after, "samples_total") - _sum(before, "samples_total")),
            length,
            {
                name.partition("{")[2].rstrip("}"): round(value - before.get(name, 0.0))
                for name, value in after.items()
                if name.startswith("spans_total{") and value > before.get(name, 0.0)
            },
            answer,
        )

    def _read(self, question: Question, history: LongHistory) -> int:
        """Bytes of the bridge's answer, which is not kept: raw, it is gigabytes."""
        connection = _connect(self._bridge.url)
        headers = {
            "Content-Type": "application/x-protobuf",
            "Content-Encoding": "snappy",
            "X-Prometheus-Remote-Read-Version": "0.1.0",
        }
        body = question.read_body(history)
        connection.request("POST", "/api/v1/read", body, headers)
        response = connection.getresponse()
        kind = response.headers.get_content_type()
        length = 0
        buffer = bytearray(PIECE_BYTES)
        while count := response.readinto(buffer):
            length += count
        connection.close()
        if response.status != http.HTTPStatus.OK or kind != "application/x-streamed-protobuf":
            raise ValueError(f"{question.text}: {response.status} {kind} {bytes(buffer[:300])!r}")
        return length

    def _query(self, url: str, question: Question, history: LongHistory) -> bytes:
        asked = urllib.parse.urlencode(
            {
                "query": question.text,
                "start": (history.start_ms + STEP_MS) / 1000,
                "end": history.end_ms / 1000,
                "step": STEP_MS // 1000,
                "timeout": f"{TIMEOUT_S:.0f}s",
            }
        )
        connection = _connect(url)
        connection.request("GET", f"/api/v1/query_range?{asked}")
        answer = connection.getresponse().read()
        connection.close()
        # Warnings stand behind the data: they say that the bridge did not answer.
        if not answer.startswith(b'{"status":"success"') or b'"warnings":' in answer[-2000:]:
            raise ValueError(f"{question.text}: {answer[:200]!r} … {answer[-300:]!r}")
        return answer

    def _counted(self, before: Mapping[str, float]) -> dict[str, float]:
        """The metrics once the answer is in them: the client may have its last byte before."""
        deadline_s = time.monotonic() + COUNTED_S_MAX
        while True:
            found = _metrics(self._bridge.url)
            if _sum(found, "requests_total") > _sum(before, "requests_total"):
                return found
            if time.monotonic() > deadline_s:
                raise ValueError("the bridge does not count the read")
            time.sleep(0.01)


def values_of(answer: bytes) -> Values:
    """A matrix as Prometheus renders it."""
    found: Values = {}
    for series in json.loads(answer)["data"]["result"]:
        labels = tuple(sorted(series["metric"].items()))
        found[labels] = {float(when): float(value) for when, value in series["values"]}
    return found


def compare(ours: Values, raw: Values) -> Row:
    """How far an answer from rollups is from that of raw samples."""
    errors: list[float] = []
    missing = extra = 0
    for labels in ours.keys() | raw.keys():
        own, right = ours.get(labels, {}), raw.get(labels, {})
        missing += len(right.keys() - own.keys())
        extra += len(own.keys() - right.keys())
        errors += [_error(own[when], right[when]) for when in own.keys() & right.keys()]
    return {
        "points": len(errors),
        "missing": missing,
        "extra": extra,
        "unequal": sum(error > EQUAL_RATIO for error in errors),
        "error_median": statistics.median(errors) if errors else math.nan,
        "error_max": max(errors, default=math.nan),
    }


def _error(own: float, right: float) -> float:
    """Relative; equal are also two that are not finite."""
    if own == right or (math.isnan(own) and math.isnan(right)):
        return 0.0
    return abs(own - right) / abs(right) if right else math.inf


def _connect(url: str) -> http.client.HTTPConnection:
    parts = urlsplit(url)
    assert parts.hostname is not None
    return http.client.HTTPConnection(parts.hostname, parts.port, timeout=TIMEOUT_S)


def _metrics(url: str) -> dict[str, float]:
    """What the read endpoint counts, by name and labels."""
    connection = _connect(url)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    lines = re.findall(r"^prombridge_read_([a-z_]+(?:\{.*\})?) (\S+)$", text, re.MULTILINE)
    return {name: float(value) for name, value in lines}


def _sum(metrics: Mapping[str, float], name: str) -> float:
    return sum(value for key, value in metrics.items() if key.partition("{")[0] == name)
