"""A sender that goes on while things break, and knows what was acknowledged.

No two requests have a sample in common, and none is sent twice: what was answered with 2xx is there
exactly once, what was not answered is there as a whole or not at all.
"""

import http.client
import json
import random
import threading
import time
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from tests.integration.destinations import SampleKey, flattened
from tests.integration.remote import (
    NAN_BITS,
    STALE_BITS,
    WRITE_HEADERS,
    Labels,
    Sample,
    bits_of,
    make_body,
)

SERIES_COUNT = 8
SAMPLES_PER_SERIES = 5
REQUEST_SAMPLES = SERIES_COUNT * SAMPLES_PER_SERIES
BASE_MS = 1_767_225_600_000  # 2026-01-01
STEP_MS = 1000
ANSWER_S_MAX = 20.0
# Within a request the first series ends in these by turns, with every other number in between.
UNWRITABLE_BITS = (NAN_BITS, STALE_BITS, bits_of(float("inf")), bits_of(float("-inf")))


@dataclass(frozen=True)
class Answer:
    """What came of one request: status 0 where there was no answer."""

    number: int
    status: int
    headers: dict[str, str]
    text: str
    seconds: float


def make_series(
    sender: str, number: int, padding_bytes: int = 0
) -> list[tuple[Labels, list[Sample]]]:
    """The series of a sender's request.

    Args:
        padding_bytes: of a label that does not compress, for requests that take room.
    """
    series: list[tuple[Labels, list[Sample]]] = []
    for index in range(SERIES_COUNT):
        padding = random.Random(index).randbytes(padding_bytes // 2).hex()
        labels = (
            ("__name__", f"fed_{index % 3}"),
            *([("padding", padding)] if padding else []),
            ("sender", sender),
            ("series", f"no. {index}, of {SERIES_COUNT}"),
        )
        samples = []
        for place in range(SAMPLES_PER_SERIES):
            position = number * SAMPLES_PER_SERIES + place
            bits = bits_of(position + index / 8)
            if index == 0 and place == SAMPLES_PER_SERIES - 1 and number % 2:
                bits = UNWRITABLE_BITS[number // 2 % len(UNWRITABLE_BITS)]
            samples.append((BASE_MS + position * STEP_MS, bits))
        series.append((labels, samples))
    return series


class Feeder:
    """Sends one request after the other on a thread of its own.

    Args:
        url: of the bridge.
        sender: its name, a label of all that it sends.
        pace_s: between two requests.
        padding_bytes: as in `make_series`.
    """

    def __init__(
        self, url: str, sender: str, *, pace_s: float = 0.02, padding_bytes: int = 0
    ) -> None:
        self._url = urllib.parse.urlsplit(url)
        self._sender = sender
        self._pace_s = pace_s
        self._padding_bytes = padding_bytes
        self._may_send = threading.Event()
        self._is_over = threading.Event()
        self._is_idle = threading.Event()
        self._connection: http.client.HTTPConnection | None = None
        self._thread = threading.Thread(target=self._run, name=f"feeder {sender}", daemon=True)
        self.answers: list[Answer] = []
        """One for each request; only ever grows."""
        self._failure: BaseException | None = None

    @property
    def acknowledged_count(self) -> int:
        """Samples of all requests that were answered with 2xx."""
        return sum(200 <= answer.status < 300 for answer in self.answers.copy()) * REQUEST_SAMPLES

    @property
    def unanswered_count(self) -> int:
        """Samples of all requests without an answer."""
        return sum(answer.status == 0 for answer in self.answers.copy()) * REQUEST_SAMPLES

    @property
    def refused(self) -> list[Answer]:
        """Answers of 3xx and up."""
        return [answer for answer in self.answers.copy() if answer.status >= 300]

    @property
    def slowest_s(self) -> float:
        """The longest wait for an answer."""
        return max((answer.seconds for answer in self.answers.copy()), default=0.0)

    def samples(self, first: int = 0, end: int | None = None) -> dict[SampleKey, int]:
        """What was acknowledged of the requests from number `first` up to `end`."""
        found: dict[SampleKey, int] = {}
        for answer in self.answers[first:end]:
            if 200 <= answer.status < 300:
                found |= self.samples_of(answer.number)
        return found

    def samples_of(self, number: int) -> dict[SampleKey, int]:
        """The samples of one request."""
        return flattened(make_series(self._sender, number, self._padding_bytes))

    def resume(self) -> None:
        """Goes on sending."""
        self._is_idle.clear()
        self._may_send.set()

    def pause(self) -> None:
        """Waits until nothing is under way, and sends nothing any more."""
        self._may_send.clear()
        assert self._is_idle.wait(ANSWER_S_MAX), "the sender does not pause"
        self.check()

    def check(self) -> None:
        """Fails if the sender itself did."""
        if self._failure is not None:
            raise self._failure

    def __enter__(self) -> Self:
        self._thread.start()
        self.resume()
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._is_over.set()
        self._may_send.set()
        self._thread.join(2 * ANSWER_S_MAX)
        assert not self._thread.is_alive()
        if error is None:
            self.check()

    def _run(self) -> None:
        try:
            while not self._is_over.is_set():
                if not self._may_send.is_set():
                    self._hang_up()
                    self._is_idle.set()
                    self._may_send.wait()
                    continue
                answer = self._send(len(self.answers))
                if answer is not None:
                    self.answers.append(answer)
                self._is_over.wait(self._pace_s)
        except BaseException as error:  # noqa: BLE001 - raised again by whoever waits
            self._failure = error
        finally:
            self._hang_up()
            self._is_idle.set()

    def _send(self, number: int) -> Answer | None:
        """One request; None where nobody listens, so that nothing was sent."""
        body = make_body(1 + number % 2, make_series(self._sender, number, self._padding_bytes))
        started_s = time.monotonic()
        status, headers, text = 0, {}, ""
        try:
            if self._connection is None:
                self._connection = http.client.HTTPConnection(
                    self._url.hostname or "", self._url.port, timeout=ANSWER_S_MAX
                )
                self._connection.connect()
            self._connection.request(
                "POST", "/api/v1/write", body.data, WRITE_HEADERS[body.version]
            )
            response = self._connection.getresponse()
            text = response.read().decode(errors="replace")
            status, headers = response.status, dict(response.getheaders())
        except ConnectionRefusedError:
            self._hang_up()
            return None
        except (OSError, http.client.HTTPException):
            self._hang_up()
        return Answer(number, status, headers, text, time.monotonic() - started_s)

    def _hang_up(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def explain(answers: Sequence[Answer]) -> str:
    """The first of them in short."""
    return json.dumps([(one.number, one.status, one.text[:200]) for one in answers[:3]])
