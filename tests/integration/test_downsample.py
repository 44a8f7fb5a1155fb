"""A lake is maintained under its readers and writers: answers stay, and rollups are Prometheus'.

    made days ──► Prometheus A      the truth: what it answers is recorded, then it is stopped
              └─► bridge ──► lake ◄── prombridge downsample, several times, a process of its own
                    ▲ └── a sender goes on
              Prometheus B, which has nothing of its own, asks through the bridge all the while

On a folder, and on a bucket of a real S3 server. Raw samples are kept, so every answer has to be
equal before, while and after; and the rows of 5m and 1h are held against what A itself says of
these windows.
"""

import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.integration.bridge import Bridge, Place
from tests.integration.downsampling import (
    WINDOWS_MS,
    Downsampler,
    Series,
    check_rollups,
    check_samples,
    check_whole,
    file_names,
    joined,
    samples_at_each_version,
    stored_rollups,
    wait_for,
)
from tests.integration.feeder import Feeder
from tests.integration.made_data import (
    Block,
    Fleet,
    Span,
    encode_blocks,
    in_disorder,
    made_blocks,
    push_all,
)
from tests.integration.object_stores import VersityGw
from tests.integration.promql import Evaluation, Recording, Scale, query
from tests.integration.remote import Labels, Sample, bits_of, make_body, read_samples
from tests.integration.servers import (
    RECEIVER_FLAGS,
    Prometheus,
    fetch,
    find_prometheus,
    free_port,
    reading_config,
    wait_until,
)
from tests.oracle.rollup import Row, float_of

DAY_MS = 86_400_000
HOUR_MS = 3_600_000
# From 12:00 over two midnights, the second of which ends a month.
SPAN = Span(Fleet(90, 120.0, 1_717_070_400.0), 1200)
SPAN_DAYS = ("20240530T00-20240531T00", "20240531T00-20240601T00", "20240601T00-20240602T00")
BODIES_PER_FLUSH = 5
PLACES = ("folder", "s3")
PHASES = ("before", "while", "after")
# What is asked during the swaps, by its name, over all that there is.
WATCHED = (
    "count_over_time(http_requests_total[7d])",
    "sum_over_time(queue_length[7d])",
    "count_over_time(temperature_celsius[7d])",
)
# A column of a rollup and the function whose value it is.
FUNCTIONS = {
    "count": "count_over_time",
    "sum": "sum_over_time",
    "min": "min_over_time",
    "max": "max_over_time",
    "first": "first_over_time",
    "last": "last_over_time",
    "resets": "resets",
}
# By labels without the name, and end of a window: numbers as the server printed them.
Told = Mapping[tuple[Labels, int], str]


@dataclass
class Truth:
    """What a Prometheus said that has all of it."""

    blocks: list[Block]
    recording: Recording
    watched: dict[str, dict[Labels, str]] = field(default_factory=dict)
    windows: dict[tuple[str, str, str], Told] = field(default_factory=dict)
    """By table, column and metric."""

    @property
    def metrics(self) -> list[str]:
        """Names of all metrics."""
        return sorted({dict(labels)["__name__"] for block in self.blocks for labels in block})


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Truth:
    blocks = made_blocks(SPAN)
    start_s, end_s = SPAN.start_ms / 1000, SPAN.end_ms / 1000
    middle_s = start_s + 0.6 * (end_s - start_s)
    recording = Recording(
        Scale("10m", "2h", "5m", "34m", middle_s),
        [Evaluation(middle_s), Evaluation(middle_s + 3600.001)],
        [Evaluation(start_s, end_s, 2040.0)],
    )
    server = Prometheus(
        find_prometheus(3),
        "A",
        tmp_path_factory.mktemp("truth"),
        lambda _: {"global": {"scrape_interval": "1h"}},
        RECEIVER_FLAGS,
    )
    truth = Truth(blocks, recording)
    with server:
        push_all(encode_blocks(blocks, [1], {}), f"{server.url}/api/v1/write")
        recording.record(server.url)
        for text in WATCHED:
            truth.watched[text] = watch(server.url, text)
            assert truth.watched[text]
        for metric in truth.metrics:
            for table, window_ms in WINDOWS_MS.items():
                for column, function in FUNCTIONS.items():
                    text = f'{function}({{"{metric}"}}[{window_ms}ms])'
                    told = ask_windows(server.url, text, window_ms)
                    truth.windows[table, column, metric] = told
    return truth


def watch(url: str, text: str) -> dict[Labels, str]:
    answer = query(url, text, Evaluation(SPAN.end_ms / 1000))
    assert not answer.warnings, answer.warnings
    return {labels: samples[0][1] for labels, samples in answer.series.items()}


def ask_windows(url: str, text: str, window_ms: int) -> Told:
    """Evaluated at the end of every window."""
    first = -(-SPAN.start_ms // window_ms)
    last = -(-SPAN.end_ms // window_ms)
    when = Evaluation(first * window_ms / 1000, last * window_ms / 1000, window_ms / 1000)
    answer = query(url, text, when)
    assert not answer.warnings
    return {
        (without_name(labels), round(float(time_s) * 1000)): value
        for labels, samples in answer.series.items()
        for time_s, value in samples
    }


def without_name(labels: Labels) -> Labels:
    return tuple(label for label in labels if label[0] != "__name__")


# Where the lake lies


@dataclass(frozen=True)
class Site:
    """A place, and what lies there."""

    lake: Place
    state: Callable[[], object]


@pytest.fixture(params=PLACES, scope="module")
def site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[], Site]]:
    """Makes places of one kind."""
    folder = tmp_path_factory.mktemp(request.param)

    def on_a_folder() -> Site:
        root = tmp_path_factory.mktemp("lake") / "lake"
        return Site(
            Place(str(root)),
            lambda: sorted(
                (str(path), path.stat().st_size, path.stat().st_mtime_ns)
                for path in root.rglob("*")
                if path.is_file()
            ),
        )

    if request.param == "folder":
        yield on_a_folder
        return
    with VersityGw(folder) as server:

        def in_a_bucket() -> Site:
            bucket = server.access.make_bucket()
            return Site(
                Place(
                    f"s3://{bucket}/lake",
                    server.access.environment(),
                    server.access.storage_options(),
                ),
                lambda: server.access.keys(bucket),
            )

        yield in_a_bucket


# The story


@dataclass
class Story:
    """What was seen."""

    lake: Place
    series: Series
    differences: dict[str, list[str]] = field(default_factory=dict)
    watch_faults: list[str] = field(default_factory=list)
    watch_count: int = 0
    first_version: int = 0
    plan: str = ""
    states: tuple[object, ...] = ()


@pytest.fixture(scope="module")
def story(
    truth: Truth, site: Callable[[], Site], tmp_path_factory: pytest.TempPathFactory
) -> Story:
    folder = tmp_path_factory.mktemp("story")
    place = site()
    lake = place.lake
    # The sender's samples are years younger than the made ones.
    downsampler = Downsampler(folder, lake, ["--retention.raw=0", "--retention.5m=0"])
    with ExitStack() as stack:
        bridge = stack.enter_context(
            Bridge(
                folder / "bridge",
                lake=lake,
                flush_interval="1s",
                # Raw samples are compared, bit by bit; what leaves of rollups is compared by
                # tests/differential/test_read_resolutions.py.
                flags=["--lake.refresh-interval=50ms", "--read.seam=10y"],
            )
        )
        bodies = list(encode_blocks(truth.blocks, [1, 2], {}))
        for first in range(0, len(bodies), BODIES_PER_FLUSH):
            part = bodies[first : first + BODIES_PER_FLUSH]
            push_all(in_disorder(part + bodies[first : first + 1], seed=first), bridge.write_url)
            bridge.flush()
        asked = stack.enter_context(
            Prometheus(
                find_prometheus(3),
                "B",
                folder / "B",
                lambda _: reading_config(bridge.read_url, {}),
            )
        )
        story = Story(lake, {})
        story.differences["before"] = truth.recording.differences(asked.url, slice(0, None, 3))
        before = place.state()
        story.plan = downsampler.once("--dry-run")
        story.states = (before, place.state())
        story.first_version = lake.table("samples").version()
        with Feeder(bridge.write_url, "on and on", pace_s=0.1) as feeder:
            drive_swaps(story, truth, downsampler, asked.url)
        bridge.flush()
        # Those of the sender's day that came after it was done.
        downsampler.once("--downsample.late-interval=1ms")
        story.differences["after"] = truth.recording.differences(asked.url)
    fed: dict[Labels, list[Sample]] = {}
    for (labels, time_ms), bits in feeder.samples().items():
        fed.setdefault(labels, []).append((time_ms, bits))
    assert fed
    story.series = {**joined(truth.blocks), **fed}
    return story


def drive_swaps(story: Story, truth: Truth, downsampler: Downsampler, url: str) -> None:
    """Hours, then hours and a day, then days, while it is asked all the time."""

    def run() -> None:
        downsampler.once(now_ms=SPAN.start_ms + 7 * HOUR_MS)
        downsampler.once(now_ms=SPAN.start_ms + 18 * HOUR_MS)
        downsampler.once()

    lines: list[str] = []
    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(run)
        turn = 0
        while not running.done():
            for text in WATCHED:
                found = watch(url, text)
                story.watch_count += 1
                if found != truth.watched[text]:
                    story.watch_faults.append(f"{text}: {found}, not {truth.watched[text]}")
            lines += truth.recording.differences(url, slice(turn % 100, None, 100))
            turn += 1
        running.result()
    story.differences["while"] = lines


@pytest.mark.parametrize("phase", PHASES)
def test_an_empty_prometheus_answers_what_the_stopped_one_did(story: Story, phase: str) -> None:
    lines = story.differences[phase]
    assert not lines, f"{len(lines)} differences, {phase}:\n" + "\n".join(lines[:30])


def test_no_query_sees_a_row_twice_or_not_at_all_while_files_are_swapped(story: Story) -> None:
    assert story.watch_count > 30
    assert not story.watch_faults, f"{len(story.watch_faults)}: {story.watch_faults[0]}"


def test_no_version_of_the_table_lacks_a_sample(story: Story, truth: Truth) -> None:
    sent = sum(map(len, joined(truth.blocks).values()))
    versions = list(samples_at_each_version(story.lake, story.first_version))
    assert len(versions) > 10
    different = [count for _, _, count in versions]
    # What the sender brings meanwhile comes on top.
    assert different[0] == sent
    assert different == sorted(different)
    surplus = [rows - count for _, rows, count in versions]
    assert surplus[0] > 0
    assert surplus[-1] == 0
    assert surplus == sorted(surplus, reverse=True)


def test_each_sample_is_there_once_in_compacted_files(story: Story) -> None:
    check_samples(story.lake, story.series)
    spans = [name.rsplit("-", 2)[0] for name in file_names(story.lake, "samples")]
    assert spans[:3] == [f"c-{day}" for day in SPAN_DAYS]
    # The sender's; none is there twice.
    assert set(spans[3:]) <= {"c-20251231T00-20260101T00", "c-20260101T00-20260102T00"}
    assert len(set(spans)) == len(spans)


@pytest.mark.parametrize("table", WINDOWS_MS)
def test_rollups_are_what_the_oracle_makes_of_the_samples(story: Story, table: str) -> None:
    check_rollups(story.lake, table, story.series)


@pytest.mark.parametrize("table", WINDOWS_MS)
def test_rollups_are_what_prometheus_computes_at_the_ends_of_windows(
    story: Story, truth: Truth, table: str
) -> None:
    rows_of: dict[str, dict[tuple[Labels, int], Row]] = {}
    for labels, rows in stored_rollups(story.lake, table).items():
        own = rows_of.setdefault(dict(labels)["__name__"], {})
        own.update({(without_name(labels), row.window_end_ms): row for row in rows if row.count})
    compared = 0
    for metric in truth.metrics:
        for column in FUNCTIONS:
            told = {
                key: repr(float(value))
                for key, value in truth.windows[table, column, metric].items()
            }
            found = {key: text_of(row, column) for key, row in rows_of[metric].items()}
            assert found == told, f"{column} of {metric}"
            compared += len(told)
    assert compared > 20_000


def text_of(row: Row, column: str) -> str:
    value = getattr(row, column)
    return repr(float(value) if column in {"count", "resets"} else float_of(value))


def test_a_dry_run_says_what_is_due_and_changes_nothing(story: Story) -> None:
    for day in SPAN_DAYS:
        assert f"due      roll up {day}" in story.plan
    before, after = story.states
    assert before
    assert after == before


# As a service


@pytest.mark.parametrize("moment", ["at work", "at rest"])
def test_it_goes_on_until_a_signal_comes_and_ends_cleanly(
    truth: Truth, tmp_path: Path, moment: str
) -> None:
    port = free_port()
    with Bridge(tmp_path / "bridge") as bridge:
        push_all(encode_blocks(truth.blocks, [1], {}), bridge.write_url)
        bridge.flush()
    process = Downsampler(
        tmp_path,
        bridge.lake,
        ["--downsample.interval=100ms", f"--downsample.listen-address=127.0.0.1:{port}"],
    ).start()

    def metric(name: str) -> float:
        try:
            lines = fetch("GET", f"http://127.0.0.1:{port}/metrics").body.decode().splitlines()
        except OSError:
            return 0.0
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))

    if moment == "at work":
        wait_until(lambda: metric("prombridge_downsample_jobs_due") > 0, "it has a plan", 60)
    else:
        wait_until(
            lambda: (
                metric("prombridge_downsample_jobs_total") >= len(SPAN_DAYS)
                and metric("prombridge_downsample_jobs_due") == 0
            ),
            "all is done",
            60,
        )
    process.send_signal(signal.SIGTERM)
    said = wait_for(process)
    assert process.returncode == 0, said
    assert "Traceback" not in said
    if moment == "at rest":
        check_samples(bridge.lake, joined(truth.blocks))


# By itself


def test_serve_maintains_its_lake_by_itself(
    truth: Truth, site: Callable[[], Site], tmp_path: Path
) -> None:
    lake = site().lake
    half = len(truth.blocks) // 2
    with Bridge(
        tmp_path, lake=lake, flags=["--downsample.interval=1s"], is_downsampling=True
    ) as bridge:
        for block in truth.blocks[:half]:
            push_all(encode_blocks([block], [1], {}), bridge.write_url)
        bridge.flush()

        def is_compacted() -> bool:
            names = file_names(lake, "samples")
            return bool(names) and all(name.startswith("c-") for name in names)

        wait_until(is_compacted, "nothing is left to do", 60)
        check_whole(lake, joined(truth.blocks[:half]))
        assert bridge.metric('prombridge_downsample_jobs_total{kind="RollSpan"}') >= 1
        push_all(encode_blocks(truth.blocks[-1:], [1], {}), bridge.write_url)
        bridge.flush()
        wait_until(is_compacted, "what came later is done too", 60)
    check_whole(lake, joined([*truth.blocks[:half], truth.blocks[-1]]))


# Growing old

FIRST_DAY = 19_875  # 2024-06-01
DAYS = 7
EVERY_MS = 60_000


def counter(job: str, first_ms: int, end_ms: int, every_ms: int = EVERY_MS) -> Series:
    """Two counters that are reset now and then; a sample follows from its time."""
    series: dict[Labels, list[Sample]] = {}
    for place, name in enumerate(("load_total", "other_total")):
        labels: Labels = (("__name__", name), ("job", job))
        series[labels] = [
            (time_ms, bits_of(((time_ms // 1000) % (7001 + place)) / 8))
            for time_ms in range(first_ms + every_ms, end_ms + 1, every_ms)
        ]
    return series


def merged(*parts: Series) -> dict[Labels, list[Sample]]:
    series: dict[Labels, list[Sample]] = {}
    for part in parts:
        for labels, samples in part.items():
            series.setdefault(labels, []).extend(samples)
    return series


def within(series: Series, first_day: int, end_day: int) -> Series:
    """The samples of some days."""
    return {
        labels: own
        for labels, samples in series.items()
        if (own := [one for one in samples if first_day * DAY_MS < one[0] <= end_day * DAY_MS])
    }


def send(bridge: Bridge, series: Series) -> None:
    push_all([make_body(2, list(series.items()))], bridge.write_url)
    bridge.flush()


def days_of(lake: Place, table: str) -> list[str]:
    """Beginnings of the spans that are left."""
    return sorted({name.split("-")[1][:8] for name in file_names(lake, table)})


def test_raw_goes_and_rollups_stay_and_late_samples_are_merged_once(
    site: Callable[[], Site], tmp_path: Path
) -> None:
    lake = site().lake
    downsampler = Downsampler(
        tmp_path,
        lake,
        ["--retention.raw=2d", "--retention.5m=4d", "--downsample.late-interval=1ms"],
    )
    begin_ms = FIRST_DAY * DAY_MS
    end_day = FIRST_DAY + DAYS
    now_ms = end_day * DAY_MS + HOUR_MS
    series = counter("a", begin_ms, end_day * DAY_MS)
    with Bridge(tmp_path / "bridge", lake=lake) as bridge:
        for day in range(DAYS):
            send(bridge, within(series, FIRST_DAY + day, FIRST_DAY + day + 1))
        said = downsampler.once(now_ms=now_ms)
        # Each day's rollup is made before anything goes, and the oldest goes first.
        jobs = [line.split('"job": "')[1].split('"')[0] for line in said.splitlines()
                if "maintenance job done" in line]  # fmt: skip
        dropped = [job for job in jobs if job.startswith("drop samples of")]
        assert dropped == [f"drop samples of 2024-06-0{day}" for day in range(1, 6)]
        assert jobs.index(dropped[0]) > max(
            place for place, job in enumerate(jobs) if job.startswith("roll up")
        )
        assert days_of(lake, "samples") == ["20240606", "20240607"]
        assert days_of(lake, "samples_5m") == [f"2024060{day}" for day in range(4, 8)]
        check_samples(lake, within(series, end_day - 2, end_day))
        check_rollups(lake, "samples_5m", within(series, end_day - 4, end_day))
        check_rollups(lake, "samples_1h", series)
        # Half-minutes of a day without raw samples, of one without 5m rows, of one that is whole.
        late = [
            within(counter("a", day * DAY_MS - 30_000, (day + 1) * DAY_MS), day, day + 1)
            for day in (end_day - 3, FIRST_DAY, end_day - 1)
        ]
        for part in late:
            send(bridge, part)
        downsampler.once(now_ms=now_ms)
        series = {labels: sorted(own) for labels, own in merged(series, *late).items()}
        assert not [name for name in file_names(lake, "samples") if name.startswith("f-")]
        check_samples(lake, within(series, end_day - 2, end_day))
        check_rollups(lake, "samples_5m", within(series, end_day - 4, end_day), is_merged=True)
        check_rollups(lake, "samples_1h", series, is_merged=True)
        # The same import again: nobody counts it twice.
        send(bridge, late[0])
        said = downsampler.once(now_ms=now_ms, is_blocked=True)
        assert "quarantine" in said
        check_rollups(lake, "samples_1h", series, is_merged=True)
        send_more_and_read(bridge, downsampler, lake, now_ms, series)


def send_more_and_read(
    bridge: Bridge, downsampler: Downsampler, lake: Place, now_ms: int, series: Series
) -> None:
    """What is in quarantine keeps nothing else from being done; what is left is read."""
    new_day = now_ms // DAY_MS
    more = counter("a", new_day * DAY_MS, (new_day + 1) * DAY_MS)
    send(bridge, more)
    downsampler.once(now_ms=now_ms + DAY_MS, is_blocked=True)
    whole = merged(series, more)
    assert days_of(lake, "samples_5m")[-1] == "20240608"
    check_rollups(lake, "samples_1h", whole, is_merged=True)
    deadline_ms = time.time_ns() // 1_000_000
    found = {
        labels: Counter(samples)
        for labels, samples in read_samples(
            bridge.read_url, [("job", "=", "a")], (new_day - 1) * DAY_MS + 1, deadline_ms
        )
    }
    assert found == {
        labels: Counter(samples)
        for labels, samples in within(whole, new_day - 1, new_day + 1).items()
    }
