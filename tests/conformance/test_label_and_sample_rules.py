"""What a remote-write body may hold: one test for each MUST on labels and samples.

Sources: the remote write specifications 1.0 and 2.0-rc.4; where they are silent, what Prometheus
and its compliance suite do. Both decoders, compiled and twin, are held to them.
"""

from collections.abc import Mapping, Sequence

import cramjam
import pytest

from bridge.wire import remote_write_pb2, remote_write_v2_pb2
from bridge.wire.decoded import Limits
from tests.oracle.bodies import Series, float_of, v1_body, v2_body
from tests.oracle.registries import KINDS, RECEIVE_MS, Registry, Written, write

STALE = 0x7FF0_0000_0000_0002
NAN = 0x7FF8_0000_0000_0001
UP = {"__name__": "up"}
GOOD = ((RECEIVE_MS, 1.0),)
VERSIONS = pytest.mark.parametrize("version", [1, 2])


@pytest.fixture(params=KINDS, ids=["compiled", "twin"])
def registry(request: pytest.FixtureRequest) -> Registry:
    made: Registry = request.param()
    return made


def body_of(version: int, series: Sequence[Series]) -> bytes:
    packed = v1_body(series) if version == 1 else v2_body(series)
    return bytes(cramjam.snappy.decompress_raw(packed))


def send(registry: Registry, version: int, *series: Series) -> Written:
    return write(registry, version, body_of(version, series))


def send_labels(registry: Registry, version: int, *sets: Mapping[str, str]) -> Written:
    return send(registry, version, *(Series(labels, GOOD) for labels in sets))


def v1_series(*labels: tuple[bytes, bytes]) -> bytes:
    request = remote_write_pb2.WriteRequest()
    message = request.timeseries.add()
    for name, value in labels:
        message.labels.add(name=name, value=value)
    message.samples.add(timestamp=RECEIVE_MS, value=1.0)
    return request.SerializeToString()


def v2_series(symbols: Sequence[bytes], refs: Sequence[int], **more: int) -> bytes:
    request = remote_write_v2_pb2.Request(symbols=symbols)
    message = request.timeseries.add(labels_refs=refs)
    message.samples.add(timestamp=RECEIVE_MS, value=1.0)
    for name, value in more.items():
        setattr(message.metadata, name, value)
    return request.SerializeToString()


# -- labels ---------------------------------------------------------------------------------------


@VERSIONS
def test_labels_may_come_in_any_order(registry: Registry, version: int) -> None:
    written = send_labels(registry, version, {"b": "2", "a": "1", **UP}, {**UP, "a": "1", "b": "2"})
    assert written.refs == [0, 0]
    assert list(written.rows[0][0]) == [b"__name__", b"a", b"b"]


@VERSIONS
def test_a_label_without_a_value_is_absent(registry: Registry, version: int) -> None:
    assert send_labels(registry, version, {**UP, "a": ""}, UP).refs == [0, 0]


@VERSIONS
@pytest.mark.parametrize("labels", [{}, {"a": "1"}, {"__name__": "", "a": "1"}])
def test_a_series_needs_a_name(registry: Registry, version: int, labels: dict[str, str]) -> None:
    written = send_labels(registry, version, labels, UP)
    assert written.decoded.rejections == {"missing_name": 1}
    assert written.refused == [0]
    assert len(registry) == 1


@VERSIONS
def test_a_label_needs_a_name(registry: Registry, version: int) -> None:
    written = send_labels(registry, version, {**UP, "": "x"}, {**UP, "": ""}, UP)
    assert written.decoded.rejections == {"invalid_name": 2}


@pytest.mark.parametrize("values", [(b"1", b"2"), (b"1", b"1"), (b"1", b""), (b"", b"")])
def test_a_label_name_is_there_once(registry: Registry, values: tuple[bytes, bytes]) -> None:
    body = v1_series((b"__name__", b"up"), (b"a", values[0]), (b"b", b"x"), (b"a", values[1]))
    assert write(registry, 1, body).decoded.rejections == {"duplicate_label": 1}
    symbols = [b"", b"__name__", b"up", b"a", *values]
    body = v2_series(symbols, [1, 2, 3, 4, 3, 5])
    assert write(registry, 2, body).decoded.rejections == {"duplicate_label": 1}
    assert len(registry) == 0


@VERSIONS
def test_names_and_values_may_be_any_utf8(registry: Registry, version: int) -> None:
    labels = {"__name__": "mit Leerzeichen.und é", "größe/🦔": "a\nb\0c", "0": "\U0010ffff"}
    written = send_labels(registry, version, labels)
    assert {k.decode(): v.decode() for k, v in written.rows[0][0].items()} == labels


@pytest.mark.parametrize(
    "bad", [b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82"]
)
def test_names_and_values_are_utf8(registry: Registry, bad: bytes) -> None:
    for body in (
        v1_series((b"__name__", bad)),
        v1_series((b"__name__", b"up"), (b"a", bad)),
        v1_series((b"__name__", b"up"), (bad, b"x")),
    ):
        assert write(registry, 1, body).decoded.rejections == {"invalid_utf8": 1}
    body = v2_series([b"", b"__name__", b"up", b"a", bad], [1, 2, 3, 4])
    assert write(registry, 2, body).decoded.rejections == {"invalid_utf8": 1}
    assert len(registry) == 0


@VERSIONS
def test_case_counts_in_labels(registry: Registry, version: int) -> None:
    assert send_labels(registry, version, UP, {"__name__": "UP"}).refs == [0, 1]


@VERSIONS
def test_the_same_series_may_come_many_times_in_a_request(registry: Registry, version: int) -> None:
    series = [Series(UP, ((RECEIVE_MS + n, float(n)),)) for n in range(5)]
    written = send(registry, version, *series)
    assert [row[1] for row in written.rows] == [RECEIVE_MS + n for n in range(5)]
    assert written.decoded.series_added == 1


# -- symbols --------------------------------------------------------------------------------------


@pytest.mark.parametrize("refs", [[1, 3], [3, 2], [1, 2, 2**32 - 1, 0], [2**31, 2**31]])
def test_refs_past_the_symbols_are_refused(registry: Registry, refs: list[int]) -> None:
    body = v2_series([b"", b"__name__", b"up"], refs)
    assert write(registry, 2, body).decoded.rejections == {"bad_symbol_ref": 1}
    assert len(registry) == 0


@pytest.mark.parametrize("refs", [[1], [1, 2, 0]])
def test_an_odd_number_of_refs_is_refused(registry: Registry, refs: list[int]) -> None:
    body = v2_series([b"", b"__name__", b"up"], refs)
    assert write(registry, 2, body).decoded.rejections == {"bad_symbol_ref": 1}


@pytest.mark.parametrize("field", ["help_ref", "unit_ref"])
def test_metadata_refs_past_the_symbols_are_refused(registry: Registry, field: str) -> None:
    symbols = [b"", b"__name__", b"up"]
    write(registry, 2, v2_series(symbols, [1, 2]))  # also of a series that is known
    body = v2_series(symbols, [1, 2], type=1, **{field: 3})
    written = write(registry, 2, body)
    assert written.decoded.rejections == {"bad_symbol_ref": 1}
    assert written.decoded.metadata == []


def test_the_first_symbol_need_not_be_empty(registry: Registry) -> None:
    assert write(registry, 2, v2_series([b"__name__", b"up"], [0, 1])).refs == [0]


def test_symbols_may_repeat(registry: Registry) -> None:
    symbols = [b"", b"__name__", b"up", b"__name__", b"up"]
    write(registry, 2, v2_series(symbols, [1, 2]))
    assert write(registry, 2, v2_series(symbols, [3, 4])).refs == [0]


# -- samples --------------------------------------------------------------------------------------


@VERSIONS
def test_stale_markers_and_other_nans_stay_apart(registry: Registry, version: int) -> None:
    samples = tuple((RECEIVE_MS + n, float_of(bits)) for n, bits in enumerate((STALE, NAN)))
    assert [row[2] for row in send(registry, version, Series(UP, samples)).rows] == [STALE, NAN]


@VERSIONS
def test_samples_may_be_late_or_out_of_order(registry: Registry, version: int) -> None:
    times = [RECEIVE_MS, RECEIVE_MS - 10**9, 1, 0, -1, RECEIVE_MS]
    written = send(registry, version, Series(UP, tuple((time, 1.0) for time in times)))
    assert [row[1] for row in written.rows] == times
    assert written.decoded.rejections == {}


@VERSIONS
def test_samples_up_to_ten_minutes_ahead_are_taken(registry: Registry, version: int) -> None:
    times = [RECEIVE_MS + 600_000, RECEIVE_MS + 600_001, RECEIVE_MS]
    written = send(registry, version, Series(UP, tuple((time, 1.0) for time in times)))
    assert [row[1] for row in written.rows] == [times[0], times[2]]
    assert written.decoded.rejections == {"too_far_in_future": 1}
    assert written.refused == [1]


@VERSIONS
def test_good_series_of_a_bad_request_are_kept(registry: Registry, version: int) -> None:
    written = send_labels(registry, version, UP, {"a": "nameless"}, {**UP, "a": "x"})
    assert [row[0] for row in written.rows] == [
        {b"__name__": b"up"},
        {b"__name__": b"up", b"a": b"x"},
    ]
    assert written.refused == [1]


def test_a_v2_series_with_nothing_in_it_is_refused(registry: Registry) -> None:
    assert send(registry, 2, Series(UP)).decoded.rejections == {"no_samples": 1}
    assert len(registry) == 0


def test_a_v1_series_with_nothing_in_it_is_passed_over(registry: Registry) -> None:
    assert send(registry, 1, Series(UP), Series({})).decoded.rejections == {}
    assert len(registry) == 0


@VERSIONS
def test_exemplars_without_samples_are_accepted(registry: Registry, version: int) -> None:
    written = send(registry, version, Series(UP, exemplar_count=2))
    assert (written.decoded.exemplar_count, written.decoded.rejections) == (2, {})


@VERSIONS
def test_labels_of_exemplars_alone_are_judged_too(registry: Registry, version: int) -> None:
    written = send(registry, version, Series({"a": "x"}, exemplar_count=2))
    assert written.decoded.rejections == {"missing_name": 1}


@VERSIONS
def test_histograms_are_counted_and_not_stored(registry: Registry, version: int) -> None:
    written = send(registry, version, Series(UP, GOOD, histogram_count=3))
    assert written.decoded.histogram_count == 3
    assert written.decoded.rejections == {"histogram_unsupported": 3}
    assert written.decoded.sample_count == 1


def test_a_start_timestamp_stands_with_its_sample(registry: Registry) -> None:
    samples = ((RECEIVE_MS, 1.0), (RECEIVE_MS + 1, 2.0))
    written = send(registry, 2, Series(UP, samples, starts_ms=(5,)))
    assert [row[3] for row in written.rows] == [5, 0]


def test_a_created_timestamp_is_the_start_of_samples_without_one(registry: Registry) -> None:
    request = remote_write_v2_pb2.Request(symbols=[b"", b"__name__", b"up"])
    message = request.timeseries.add(labels_refs=[1, 2], created_timestamp=7)
    message.samples.add(timestamp=RECEIVE_MS, start_timestamp=5)
    message.samples.add(timestamp=RECEIVE_MS)
    written = write(registry, 2, request.SerializeToString())
    assert [row[3] for row in written.rows] == [5, 7]


# -- requests -------------------------------------------------------------------------------------


def test_a_request_of_metadata_alone_is_accepted(registry: Registry) -> None:
    request = remote_write_pb2.WriteRequest()
    request.metadata.add(type=1, metric_family_name=b"up", help=b"is it", unit=b"")
    written = write(registry, 1, request.SerializeToString())
    assert written.decoded.rejections == {}
    assert [entry.metric for entry in written.decoded.metadata] == ["up"]


@VERSIONS
def test_an_empty_request_is_accepted(registry: Registry, version: int) -> None:
    written = write(registry, version, b"")
    assert (written.decoded.sample_seen, written.decoded.rejections) == (0, {})


def test_each_version_sees_nothing_in_a_body_of_the_other(registry: Registry) -> None:
    assert write(registry, 1, body_of(2, [Series(UP, GOOD)])).decoded.sample_seen == 0
    assert write(registry, 2, body_of(1, [Series(UP, GOOD)])).decoded.sample_seen == 0


@VERSIONS
def test_the_same_request_again_changes_nothing(registry: Registry, version: int) -> None:
    body = body_of(version, [Series(UP, GOOD), Series({**UP, "a": "x"}, GOOD)])
    first = write(registry, version, body)
    again = write(registry, version, body, Limits(series_count_max=2))
    assert again.rows == first.rows
    assert again.decoded.series_added == 0
