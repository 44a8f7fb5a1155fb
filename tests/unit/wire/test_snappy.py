"""Snappy blocks: the length is believed only after it was held against a limit."""

import cramjam
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.errors import BodyTooLarge, CorruptBody, RequestRejected
from bridge.wire.snappy import decode_snappy, snappy_length


def block(data: bytes) -> bytes:
    return bytes(cramjam.snappy.compress_raw(data))


@given(st.binary(max_size=2000))
def test_blocks_are_decoded(data: bytes) -> None:
    assert snappy_length(block(data)) == len(data)
    assert decode_snappy(block(data), len(data), "limit") == data


@given(st.binary(max_size=200))
def test_any_bytes_are_decoded_or_refused(data: bytes) -> None:
    try:
        decoded = decode_snappy(data, 10_000, "limit")
    except RequestRejected:
        return
    assert len(decoded) == snappy_length(data)


def test_length_over_the_limit_is_refused_before_it_is_allocated() -> None:
    with pytest.raises(BodyTooLarge, match=r"4294967295 bytes, read\.max allows 1000"):
        decode_snappy(b"\xff\xff\xff\xff\x0f\x00", 1000, "read.max")


@pytest.mark.parametrize("data", [b"", b"\x80", b"\xff\xff\xff\xff\xff\x01", b"\xff" * 4 + b"\x10"])
def test_length_that_does_not_end_or_fit_is_corrupt(data: bytes) -> None:
    with pytest.raises(CorruptBody, match="length"):
        snappy_length(data)


@pytest.mark.parametrize("change", [-1, 1], ids=["shorter", "longer"])
def test_block_that_holds_something_else_than_it_says_is_corrupt(change: int) -> None:
    whole = block(b"abcdefgh" * 10)
    with pytest.raises(CorruptBody):
        decode_snappy(bytes([whole[0] + change]) + whole[1:], 1000, "limit")
