"""Which lines a rejection is about; the reasons are those of InfluxDB 2.7.12 and 1.8."""

import random

import pytest

from bridge.write.sinks.influxdb.client import Rejected
from bridge.write.sinks.influxdb.verdicts import judge

LINES = [
    b"up,job=a value=1 1790000000000\n",
    b"up,time=x value=2 1790000000000\n",
    b"up\\ down,job=a value=3 1790000000000\n",
    b"go_threads,job=a value=4 1000\n",
    b"up,job=b value=5 1790000000000\n",
]
CONFLICT = (
    "failure writing points to database: partial write: field type conflict: input field "
    '"value" on measurement "%s" is type float, already exists as type integer dropped=%d'
)
TOO_OLD = (
    "failure writing points to database: partial write: dropped 1 points outside retention policy "
    "of duration 1h0m0s - oldest point go_threads,job=a at 1970-01-01T00:00:01Z dropped because it "
    "violates a Retention Policy Lower Bound at 2020-11-21T14:03:42.352437946Z, newest point "
    "go_threads,job=a at 1970-01-01T00:00:01Z dropped because it violates a Retention Policy Lower "
    "Bound at 2020-11-21T14:03:42.352437946Z dropped=1 for database: ca2f for retention policy: "
    "autogen"
)


def test_lines_that_the_server_names_are_given_up_with_its_words_and_the_others_go_again() -> None:
    reason = (
        "unable to parse 'up,time=x value=2 1790000000000': cannot use reserved tag key \"time\"\n"
        "unable to parse 'go_threads,job=a value=4 1000': it says': this"
    )
    verdict = judge(LINES, Rejected(400, reason))
    assert verdict.refused == {
        'cannot use reserved tag key "time"': [1],
        "it says': this": [3],
    }
    assert verdict.again == [[0, 2, 4]]


def test_a_line_that_holds_the_words_of_the_server_is_told_from_them() -> None:
    line = b"m,a=it's':\\ b value=1 1\n"
    reason = "unable to parse 'm,a=it's':\\ b value=1 1': bad timestamp: x"
    assert judge([LINES[0], line], Rejected(400, reason)).refused == {"bad timestamp: x": [1]}


def test_the_same_line_twice_is_given_up_twice() -> None:
    reason = "unable to parse 'up,time=x value=2 1790000000000': no"
    verdict = judge([LINES[1], LINES[0], LINES[1]], Rejected(400, reason))
    assert verdict.refused == {"no": [0, 2]}
    assert verdict.again == [[1]]


@pytest.mark.parametrize(
    ("measurement", "suspects"), [("up", [0, 1, 4]), ("up down", [2]), ("go_threads", [3])]
)
def test_a_conflict_of_types_cuts_at_the_measurement(measurement: str, suspects: list[int]) -> None:
    verdict = judge(LINES, Rejected(422, CONFLICT % (measurement, 1), 1))
    assert verdict.refused == {}
    assert verdict.again[0] == suspects
    assert sorted(number for part in verdict.again for number in part) == [0, 1, 2, 3, 4]


def test_points_that_are_too_old_are_cut_off_at_the_bound() -> None:
    verdict = judge(LINES, Rejected(422, TOO_OLD, 1))
    assert verdict.again == [[3], [0, 1, 2, 4]]


def test_where_the_example_explains_all_that_was_dropped_the_rest_stays_whole() -> None:
    assert judge(LINES, Rejected(422, CONFLICT % ("up", 3), 3)).again == [[0, 1, 4], [2, 3]]
    assert judge(LINES, Rejected(422, CONFLICT % ("up", 4), 4)).again == [[0, 1, 4], [2], [3]]


@pytest.mark.parametrize("bad_count", [1, 10, 300])
def test_many_metrics_of_another_type_cost_the_others_a_few_more_requests(bad_count: int) -> None:
    """Cut off one by one from all the others they would cost `bad_count` times the batch."""
    draw = random.Random(bad_count)
    lines = [b"m%d,job=a value=1 1790000000000\n" % (number % 1000) for number in range(2000)]
    bad = set(draw.sample(range(1000), bad_count))
    waiting, sent_count, request_count, refused = [list(range(2000))], 0, 0, 0
    while waiting:
        part = waiting.pop()
        sent_count += len(part)
        request_count += 1
        dropped = [number for number in part if number % 1000 in bad]
        if not dropped:
            continue
        reason = CONFLICT % (f"m{draw.choice(dropped) % 1000}", len(dropped))
        verdict = judge([lines[number] for number in part], Rejected(422, reason, len(dropped)))
        refused += sum(map(len, verdict.refused.values()))
        waiting += [[part[place] for place in places] for places in verdict.again]
    assert refused == 2 * bad_count
    # A level of halves sends the batch once; there are 11, and the last ones are mostly settled.
    assert sent_count <= 2000 * (2 + min(bad_count - 1, 11))
    assert request_count <= 1 + 2 * bad_count * (1 if bad_count == 1 else 3.5)


@pytest.mark.parametrize("bound", ["boom", "2020-13-41T00:00:00Z", "2020-11-21T14:03:42.x"])
def test_a_bound_that_is_no_time_is_a_name_that_looks_like_it(bound: str) -> None:
    reason = f"violates a Retention Policy Lower Bound at {bound}, dropped=1"
    assert judge(LINES, Rejected(422, reason, 1)).again == [[0, 1], [2, 3, 4]]


def test_as_many_dropped_as_sent_means_all_of_them() -> None:
    reason = CONFLICT % ("up", 2)
    assert judge([LINES[0], LINES[4]], Rejected(422, reason, 2)).refused == {reason: [0, 1]}


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_line_that_was_refused_alone_is_given_up(status: int) -> None:
    assert judge(LINES[:1], Rejected(status, "no")).refused == {"no": [0]}


@pytest.mark.parametrize(
    "rejected",
    [
        Rejected(413, "too large"),
        Rejected(400, "who knows"),
        Rejected(422, "who knows dropped=2", 2),
        Rejected(422, CONFLICT % ("unheard of", 2), 2),
    ],
)
def test_where_nothing_is_known_the_batch_is_halved(rejected: Rejected) -> None:
    verdict = judge(LINES, rejected)
    assert verdict.refused == {}
    assert verdict.again == [[0, 1], [2, 3, 4]]


@pytest.mark.parametrize("seed", range(20))
def test_whatever_the_server_says_it_ends_with_every_line_settled_once(seed: int) -> None:
    draw = random.Random(seed)
    lines = [b"m%d,a=b value=1 %d\n" % (draw.randrange(4), number) for number in range(50)]
    bad = {number for number in range(50) if draw.random() < 0.1}
    settled: list[int] = []
    waiting = [list(range(50))]
    requests = 0
    while waiting:
        part = waiting.pop()
        requests += 1
        dropped = len(bad & set(part))
        if not dropped:
            settled += part
            continue
        reasons = ["x", CONFLICT % ("m1", dropped), TOO_OLD, "unable to parse 'q': no"]
        said = draw.choice([None, dropped, draw.randint(1, dropped)])
        rejected = Rejected(draw.choice([400, 413, 422]), draw.choice(reasons), said)
        verdict = judge([lines[number] for number in part], rejected)
        for places in verdict.refused.values():
            settled += [part[place] for place in places]
            assert bad.issuperset(part[place] for place in places)
        waiting += [[part[place] for place in places] for places in verdict.again]
        assert all(len(places) < len(part) for places in verdict.again)
    assert sorted(settled) == list(range(50))
    assert requests < 200
