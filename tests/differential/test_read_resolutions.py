"""What a Prometheus answers through the bridge out of rollups, beside one that has every sample.

`read_data` makes sixty days, `read_world` brings them to the servers, `read_sites` has when and
`read_cases` what they are asked, and how far the answers may be off. Where the design says exact
that is not at all; no series and no step may be missing or come on top, but where a case says so.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from operator import attrgetter

import pytest

from tests.differential.comparing import EXACT, Bound, Verdict, judge
from tests.differential.read_cases import CASES, Case, apply
from tests.differential.read_sites import PARTS, SITES, TO_THE_END, Site
from tests.differential.read_world import MAJORS, Pair, World
from tests.integration.promql import Answer, query

# Whichever test is the first starts all servers.
pytestmark = pytest.mark.timeout(600)

# Of the points in the part of 1h rollups, by 5 m, of series with holes of a few minutes.
UNSEEN_HOLES_RATIO_MAX = 0.005
# Of the marks, all expressions over the three long ranges; Prometheus 2 and 3 alike.
EXACT_MARKS_MIN = 255
MARKS = [(case, site) for site in SITES if site.is_mark for case in CASES]


class Suite:
    """Asks both servers of a pair, everything once."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._truths: dict[tuple[int, str, Site], Answer] = {}
        self._verdicts: dict[tuple[int, Case, Site], Verdict] = {}

    def pair(self, major: int) -> Pair:
        """Both servers, or a skip."""
        return self._world.pair(major)

    def truth(self, major: int, text: str, site: Site) -> Answer:
        """What the server says that has the samples."""
        key = (major, apply(text, site), site)
        if key not in self._truths:
            self._truths[key] = query(self.pair(major).truth.url, key[1], site.when)
        return self._truths[key]

    def verdict(self, major: int, case: Case, site: Site) -> Verdict:
        """How far the reader is off; where a case has no bound, measured by equality."""
        key = (major, case, site)
        if key not in self._verdicts:
            found = query(self.pair(major).reader.url, apply(case.text, site), site.when)
            self._verdicts[key] = self.judge(major, case, site, found)
        return self._verdicts[key]

    def judge(self, major: int, case: Case, site: Site, found: Answer) -> Verdict:
        """The verdict on any answer."""
        expected = self.truth(major, case.text, site)
        bound = case.bound(site) or EXACT
        return judge(expected, found, bound, lambda text: self.truth(major, text, site))


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    with World(tmp_path_factory.mktemp("world")) as world:
        yield Suite(world)


VERSIONS = pytest.mark.parametrize("major", MAJORS, ids=[f"{major}.x" for major in MAJORS])
EACH_CASE = pytest.mark.parametrize("case", CASES, ids=[case.text for case in CASES])


@VERSIONS
@EACH_CASE
def test_an_answer_is_within_its_bounds(suite: Suite, case: Case, major: int) -> None:
    lines = []
    for site in SITES:
        if case.bound(site) is not None:
            verdict = suite.verdict(major, case, site)
            lines += [f"{site.name}: {line}" for line in verdict.faults]
    assert not lines, f"{apply(case.text, SITES[0])}\n" + "\n".join(lines)


@VERSIONS
def test_most_marks_are_exact(suite: Suite, major: int) -> None:
    verdicts = {(case.text, site.name): suite.verdict(major, case, site) for case, site in MARKS}
    beyond = [place for place, verdict in verdicts.items() if not verdict.is_within]
    exact_count = sum(verdict.is_exact for verdict in verdicts.values())
    print(  # noqa: T201 - for whoever runs it with -s
        f"Prometheus {major}.x: of {len(MARKS)} marks {len(MARKS) - len(beyond)} within their "
        f"bound, {exact_count} exactly"
    )
    assert not beyond
    assert exact_count >= EXACT_MARKS_MIN


@VERSIONS
@pytest.mark.parametrize("level", PARTS)
@pytest.mark.parametrize(
    "text",
    ["BROKEN_GAUGE", "BROKEN_COUNTER", "rate(BROKEN_COUNTER[5m])", "rate(BROKEN_COUNTER[6h])"],
)
def test_series_are_there_when_they_were_but_for_holes_inside_a_window(
    suite: Suite, text: str, level: str, major: int
) -> None:
    site = PARTS[level]
    found = query(suite.pair(major).reader.url, apply(text, site), site.when)
    verdict = suite.judge(major, Case(text, "", rough=Bound(math.inf)), site, found)
    off_count = verdict.missing_count + verdict.extra_count
    # A window of 5m is no longer than the lookback, and no range is as short as a hole of it.
    ratio_max = UNSEEN_HOLES_RATIO_MAX if level == "1h" and "6h" not in text else 0.0
    assert off_count <= ratio_max * verdict.errors.size, verdict.faults


@VERSIONS
def test_samples_of_their_own_at_the_end_change_nothing_for_readers(
    suite: Suite, major: int
) -> None:
    reader = suite.pair(major).seamed_reader
    faults = []
    for case in CASES:
        if case.fine == EXACT:
            found = query(reader.url, apply(case.text, TO_THE_END), TO_THE_END.when)
            verdict = suite.judge(major, case, TO_THE_END, found)
            faults += [f"{case.text}: {line}" for line in verdict.faults]
    assert not faults, "\n".join(faults)


@VERSIONS
def test_every_expression_has_a_true_answer_somewhere(suite: Suite, major: int) -> None:
    empty = [
        case.text
        for case in CASES
        if not any(suite.truth(major, case.text, site).sample_count for site in SITES)
    ]
    assert not empty


def times(answer: Answer, factor: float) -> Answer:
    """The same answer with all values multiplied."""
    return replace(
        answer,
        series={
            labels: [(time_s, repr(float(value) * factor)) for time_s, value in samples]
            for labels, samples in answer.series.items()
        },
    )


def test_an_irate_over_repeated_samples_is_beyond_every_bound(suite: Suite) -> None:
    """Samples that stand in for others 1 ms apart, where raw ones were a minute apart."""
    cases = [case for case in CASES if case.text.startswith("irate")]
    assert cases
    for case in cases:
        for site in SITES:
            if case.bound(site) is not None:
                wrong = times(suite.truth(3, case.text, site), 60_000.0)
                assert not suite.judge(3, case, site, wrong).is_within, (case.text, site.name)


@EACH_CASE
def test_what_is_far_off_is_beyond_every_bound(suite: Suite, case: Case) -> None:
    for site in filter(attrgetter("is_mark"), SITES):
        truth = suite.truth(3, case.text, site)
        wrong = times(truth, 20.0)
        if wrong != times(truth, 1.0):
            assert not suite.judge(3, case, site, wrong).is_within, site.name


@EACH_CASE
def test_a_series_too_few_or_too_many_is_beyond_every_bound(suite: Suite, case: Case) -> None:
    for site in SITES[::4]:
        truth = suite.truth(3, case.text, site)
        bound = case.bound(site)
        if bound is None or bound.elsewhere or not truth.series:
            continue
        gone = max(truth.series, key=lambda labels: len(truth.series[labels]))
        fewer = {labels: own for labels, own in truth.series.items() if labels != gone}
        more = {**truth.series, (*gone, ("zone", "nowhere")): truth.series[gone]}
        for series in (fewer, more):
            verdict = suite.judge(3, case, site, replace(truth, series=series))
            assert not verdict.is_within, site.name


# The comparison itself


def answer(*values: str, first_s: int = 0, **labels: str) -> Answer:
    samples = [(str(first_s + index), value) for index, value in enumerate(values)]
    return Answer("matrix", {tuple(sorted(labels.items())): samples})


def test_equal_answers_are_exact() -> None:
    same = answer("1", "NaN", "+Inf", "-0.5", a="b")
    verdict = judge(same, same, EXACT)
    assert verdict.is_exact
    assert verdict.is_within
    assert verdict.errors.tolist() == [0.0] * 4


@pytest.mark.parametrize(
    ("expected", "found"),
    [
        (answer("1", "2"), answer("1", "2.00000001")),
        (answer("1", "NaN"), answer("1", "2")),
        (answer("1", "2"), answer("1", "NaN")),
        (answer("1", "+Inf"), answer("1", "-Inf")),
        (answer("1", "+Inf"), answer("1", "2")),
        (answer("1", "2"), answer("1")),
        (answer("1"), answer("1", "2")),
        (answer("1", "2"), answer("1", "2", first_s=1)),
        (answer("1"), answer("1", a="b")),
        (answer("1"), Answer("matrix", {})),
        (answer("1"), Answer("vector", answer("1").series)),
        (answer("1"), replace(answer("1"), warnings=("half is missing",))),
    ],
)
def test_any_difference_is_a_fault(expected: Answer, found: Answer) -> None:
    verdict = judge(expected, found, EXACT)
    assert not verdict.is_exact
    assert not verdict.is_within
    assert verdict.faults


def test_errors_are_measured_by_the_value_or_by_its_series() -> None:
    expected = answer("0", "100", "200", "100")
    assert judge(expected, answer("1", "101", "202", "99"), Bound(0.011)).is_within
    assert not judge(expected, answer("1.2", "101", "202", "99"), Bound(0.011)).is_within
    off = judge(expected, answer("1", "101", "202", "99"), EXACT)
    assert off.errors == pytest.approx([0.01, 0.01, 0.01, 0.01])


def test_a_value_between_others_may_be_as_far_off_as_it_likes() -> None:
    series = {"low": answer("0", "0", "0"), "high": answer("9", "9", "5")}
    bound = Bound(low="low", high="high")
    assert judge(answer("1", "1", "1"), answer("8", "9", "0"), bound, series.__getitem__).is_within
    beyond = judge(answer("1", "1", "1"), answer("8", "9.1", "6"), bound, series.__getitem__)
    assert beyond.fault_count == 2
    assert not beyond.is_exact


def test_a_step_may_be_missing_or_extra_only_elsewhere() -> None:
    bound = Bound(elsewhere="there")
    ask = {"there": answer("1", "1")}.__getitem__
    assert judge(answer("1", "1", "1"), answer("1", first_s=2), bound, ask).is_within
    assert judge(answer("1", first_s=2), answer("1", "1", "1"), bound, ask).is_within
    assert not judge(answer("1", "1", "1"), answer("1", "1"), bound, ask).is_within
    assert not judge(answer("1", "1"), answer("1", "1", "1"), bound, ask).is_within
