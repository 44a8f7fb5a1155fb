"""A made-up fleet of servers: scraped live as an exporter, or turned into days of remote write.

`Fleet.scrape(step)` is what an exporter would show at the step-th scrape. All of it is a closed
function of the step and of the series, so any part can be computed alone and comes out the same:

    counters       reset when their instance restarts; one instance is down for two scrapes then
    gauges         fractions, negative numbers, a zero with a sign
    histograms     classic buckets, monotone in time and in `le`
    odd values     NaN always and now and then, both infinities, -0, the least and greatest float
    series churn   a version label that changes with a restart, series that come and go
    labels         empty values; values in several scripts, with quotes and line breaks, of 1000
                   characters; and for Prometheus 3 names that only quotes can write

`made_blocks` walks through the steps as a scraper would: a series that is not there any more ends
in a stale marker. What no scraper would do on purpose comes on top: jitter, lost scrapes, and a gap
of hours without a marker.
"""

import math
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from threading import Lock, Thread
from types import TracebackType
from typing import Self

from tests.integration.remote import (
    NAN_BITS,
    STALE_BITS,
    Labels,
    Sample,
    WriteBody,
    bits_of,
    make_body,
)

INSTANCES = (
    ("api", "api-1"),
    ("api", "api-2"),
    ("api", "api-3"),
    ("web", "web-1"),
    ("web", "web-2"),
)
BOUNDS = ("0.05", "0.1", "0.5", "1", "+Inf")
BUCKET_RATIOS = (0.31, 0.62, 0.87, 0.97, 1.0)
SMALLEST = 5e-324
GREATEST = 1.7976931348623157e308
MASK = (1 << 64) - 1


def noise(key: int, step: int) -> float:
    """A number in [0, 1) that looks random: splitmix64 of both."""
    z = (key * 0x9E3779B97F4A7C15 + step * 0xBF58476D1CE4E5B9 + 0x94D049BB133111EB) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return ((z ^ (z >> 31)) >> 11) / (1 << 53)


def label_set(name: str, **labels: str) -> Labels:
    """Labels sorted as Prometheus sorts them: by the bytes of their names."""
    return sort_labels({"__name__": name, **labels})


def sort_labels(labels: Mapping[str, str]) -> Labels:
    """Labels sorted as Prometheus sorts them: by the bytes of their names."""
    return tuple(sorted(labels.items(), key=lambda label: label[0].encode()))


@dataclass(frozen=True)
class Fleet:
    """What an exporter of five instances shows.

    Args:
        period: scrapes between two restarts of an instance, about; other events take fractions of
        it. step_s: seconds between two scrapes. start_s: Unix time of the scrape 0. utf8_names:
        also series with names that Prometheus 2.x refuses. signed_zeros: also -0. Prometheus itself
        sends it as 0, in remote write and in SAMPLES alike,
            because its encoder leaves out a field that equals 0.
        order_changes: also a series that changes places with another when external labels in
            between are taken out. Prometheus sorts a SAMPLES answer before it takes them out, so
            one that reads SAMPLES and has local data too shows such series twice, wherever the
            answer comes from.
    """

    period: int
    step_s: float
    start_s: float
    utf8_names: bool = True
    signed_zeros: bool = True
    order_changes: bool = True

    def age(self, instance: int, step: int) -> int:
        """Scrapes since this instance's last start; negative while it is down."""
        # Each with a period of its own, so that they do not restart together.
        period = self.period + 2 * instance
        age = (step + instance * self.period // 3) % period
        # The third one is down for two scrapes before it starts, the others restart between two.
        return age - 2 if instance == 2 else age

    def scrape(self, step: int) -> dict[Labels, float]:
        """The series of one scrape and their values."""
        values: dict[Labels, float] = {}
        for instance, (job, name) in enumerate(INSTANCES):
            age = self.age(instance, step)
            values[label_set("alive", job=job, instance=name)] = float(age >= 0)
            if age >= 0:
                values.update(self._instance(instance, job, name, age, step))
        values.update(self._others(step))
        if self.utf8_names:
            values.update(self._quoted(step))
        return values

    def _instance(
        self, key: int, job: str, name: str, age: int, step: int
    ) -> Iterator[tuple[Labels, float]]:
        own = {"job": job, "instance": name}
        for code_key, (method, code) in enumerate(
            (("GET", "200"), ("GET", "404"), ("GET", "500"), ("POST", "200"))
        ):
            # Never falls while the instance lives: it grows by at least a third of `each` a scrape.
            each = 90.0 / (code_key + 1)
            requests = math.floor(each * (age + 0.3 * noise(10 * key + code_key, step)) + 7)
            yield (
                label_set("http_requests_total", method=method, code=code, **own),
                float(requests),
            )
        started_s = self.start_s + (step - age) * self.step_s
        yield label_set("process_start_time_seconds", **own), started_s
        yield label_set("memory_bytes", **own), 1e8 * (1 + key) + 1e7 * noise(100 + key, step)
        yield label_set("limit_bytes", **own), 3e8 * (1 + key)
        version = f"1.{(step - age) // self.period % 4}.{key}"
        yield label_set("build_info", version=version, **own), 1.0
        if job == "api":
            served = math.floor(40.0 * (age + 0.3 * noise(200 + key, step)))
            for bound, ratio in zip(BOUNDS, BUCKET_RATIOS, strict=True):
                labels = label_set("request_duration_seconds_bucket", le=bound, **own)
                yield labels, float(math.floor(served * ratio))
            yield label_set("request_duration_seconds_sum", **own), served * 0.2173 + key
            yield label_set("request_duration_seconds_count", **own), float(served)

    def _others(self, step: int) -> Iterator[tuple[Labels, float]]:
        for key, queue in enumerate("abcd"):
            # An integer that often stays, and different in each queue.
            length = 4 * math.floor(3 * noise(300 + key, step // (2 + key))) + key
            yield label_set("queue_length", queue=queue), float(length)
        for key, room in enumerate(("attic", "cellar", "hall")):
            wave = math.sin((step + 9 * key) * 6.283 / self.period)
            degrees = 12.5 * key - 3.1 + 11.7 * wave + 0.3 * noise(400 + key, step)
            yield label_set("temperature_celsius", room=room), round(degrees, 3)
        yield label_set("owner", job="api", team="blue"), 1.0
        yield label_set("owner", job="web", team="green"), 2.0
        yield from self._odd(step)
        for key in range(4):
            # There for three quarters of its time, away for the rest, each at another time.
            length = max(4, self.period // (key + 1))
            if (step + key) % length < 3 * length // 4:
                yield label_set("coming_and_going", n=str(key)), float(step)
        yield label_set("empty_label", zone=""), float(step % 7)
        yield label_set("empty_label", zone="z"), float(step % 5)
        yield label_set("bare_metric"), float(step)
        if self.order_changes:
            yield label_set("bare_metric", b="1"), float(-step)
        yield label_set("unicode_value", city="Zürich", note=""), float(step % 11)
        yield label_set("unicode_value", city="東京", note='a "quoted" \\ one'), float(step % 13)
        yield label_set("unicode_value", city="🎈", note="two\nlines\tand a tab"), float(step % 3)
        yield label_set("long_label", text="ab" * 500 + "c"), 0.1 * step

    def _odd(self, step: int) -> Iterator[tuple[Labels, float]]:
        often = noise(500, step) < 0.3
        zero = -0.0 if self.signed_zeros else 0.0
        for kind, value in (
            ("nan", math.nan),
            ("infinity", math.inf),
            ("minus infinity", -math.inf),
            ("negative zero", zero),
            ("smallest", SMALLEST),
            ("greatest", GREATEST),
            ("now and then nan", math.nan if often else float(step)),
            ("now and then infinite", math.inf if often else -float(step)),
            ("zeros of both signs", zero if often else 0.0),
            ("third", step / 3),
        ):
            yield label_set("odd_value", kind=kind), value

    def _quoted(self, step: int) -> Iterator[tuple[Labels, float]]:
        for key, city in enumerate(("Köln", "Kyōto", "Oslo")):
            names = {"__name__": "weather.temperature", "city.name": city}
            yield sort_labels(names), 10.0 * key + noise(600 + key, step)
            names = {"__name__": "weather.rain/total", "größe": "x", "city.name": city, "Z": "1"}
            yield sort_labels(names), float(step * (key + 1))


def render(values: Mapping[Labels, float]) -> str:
    """The text exposition format, with quoted names where they are needed."""

    def quoted(text: str) -> str:
        escaped = text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
        return f'"{escaped}"'

    def is_plain(name: str) -> bool:
        return name.isascii() and name.replace("_", "a").isalnum()

    lines = []
    for labels, value in values.items():
        (name,) = (value for label, value in labels if label == "__name__")
        inner = [] if is_plain(name) else [quoted(name)]
        inner += [
            f"{label if is_plain(label) else quoted(label)}={quoted(value)}"
            for label, value in labels
            if label != "__name__"
        ]
        lines.append(f"{name if is_plain(name) else ''}{{{','.join(inner)}}} {value!r}\n")
    return "".join(lines)


class Exporter:
    """The fleet as an HTTP server.

    Each path counts its own scrapes, so that each Prometheus has a fleet of its own.
    """

    def __init__(self, fleet: Fleet) -> None:
        lock = Lock()
        steps: dict[str, Iterator[int]] = {}

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                with lock:
                    step = next(steps.setdefault(self.path, count()))
                body = render(fleet.scrape(step)).encode()
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; version=1.0.0; escaping=allow-utf-8")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """Nothing on the terminal."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})

    @property
    def target(self) -> str:
        """host:port, as in a scrape configuration."""
        return f"127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@dataclass(frozen=True)
class Span:
    """Made data: how much of it, and when."""

    fleet: Fleet
    step_count: int
    seed: int = 0

    @property
    def start_ms(self) -> int:
        """The time of the scrape 0, without its jitter."""
        return round(self.fleet.start_s * 1000)

    @property
    def step_ms(self) -> int:
        """Between two scrapes."""
        return round(self.fleet.step_s * 1000)

    @property
    def end_ms(self) -> int:
        """The end of the last step."""
        return self.start_ms + self.step_count * self.step_ms

    def time_ms(self, labels: Labels, step: int) -> int:
        """When this series is scraped: half of them at full steps, the rest with a jitter."""
        target = sum(map(ord, dict(labels).get("instance", "")))
        if target % 2 == 0:
            return self.start_ms + step * self.step_ms
        return self.start_ms + round((step + 0.1 * noise(target, step)) * self.step_ms)

    def is_lost(self, labels: Labels, step: int) -> bool:
        """Whether this scrape never arrived: now and then one, of the web job many in a row."""
        job = dict(labels).get("job", "")
        if job == "web" and 0.40 < step / self.step_count < 0.45:
            return True
        return noise(700 + len(job), step) < 0.01


def made_samples(span: Span, steps: range) -> dict[Labels, list[Sample]]:
    """The samples of these steps, as a scraper would have written them."""
    series: dict[Labels, list[Sample]] = {}
    before = span.fleet.scrape(steps.start - 1) if steps.start > 0 else {}
    for step in steps:
        now = span.fleet.scrape(step)
        for labels, value in now.items():
            if not span.is_lost(labels, step):
                bits = NAN_BITS if math.isnan(value) else bits_of(value)
                series.setdefault(labels, []).append((span.time_ms(labels, step), bits))
        for labels in before.keys() - now.keys():
            if span.is_lost(labels, step):
                continue  # ends without a marker: the lookback ends it
            series.setdefault(labels, []).append((span.time_ms(labels, step), STALE_BITS))
        before = now
    return series


# What one request holds of each series, without external labels.
Block = dict[Labels, list[Sample]]


def made_blocks(span: Span, steps_per_block: int = 30) -> list[Block]:
    """The whole span in blocks that follow each other in time."""
    return [
        made_samples(span, range(start, min(start + steps_per_block, span.step_count)))
        for start in range(0, span.step_count, steps_per_block)
    ]


def encode_blocks(
    blocks: Iterable[Block], versions: Sequence[int], external: Mapping[str, str]
) -> Iterator[WriteBody]:
    """Remote-write bodies, one a block, in these versions by turns.

    Half of them have one sample per TimeSeries, as Prometheus itself sends them, the rest all of a
    series in one.
    """
    for number, block in enumerate(blocks):
        series = [
            (sort_labels({**dict(labels), **external}), samples)
            for labels, samples in sorted(block.items())
        ]
        version = versions[number // 2 % len(versions)]
        yield make_body(version, _as_prometheus_sends(series) if number % 2 else series)


def _as_prometheus_sends(
    series: Iterable[tuple[Labels, Sequence[Sample]]],
) -> list[tuple[Labels, Sequence[Sample]]]:
    singles: list[tuple[Labels, Sequence[Sample]]] = [
        (labels, (sample,)) for labels, samples in series for sample in samples
    ]
    return sorted(singles, key=lambda entry: entry[1][0][0])


def push_all(bodies: Iterable[WriteBody], url: str) -> int:
    """Sends the bodies one after the other; the samples sent."""
    sample_count = 0
    for body in bodies:
        reply = body.push(url)
        assert reply.status in {200, 204}, f"{reply.status}: {reply.body.decode(errors='replace')}"
        sample_count += body.sample_count
    return sample_count


def in_disorder(bodies: Iterable[WriteBody], seed: int) -> list[WriteBody]:
    """All bodies in any order, one of seven twice.

    Like what senders send that were cut off for hours, or whose requests were answered too late.
    """
    disordered = list(bodies)
    randomness = random.Random(seed)
    disordered += randomness.sample(disordered, len(disordered) // 7)
    randomness.shuffle(disordered)
    return disordered
