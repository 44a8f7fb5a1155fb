import pytest

from bridge.wire import _crc32c
from bridge.wire.twins import crc32c as twin

# RFC 3720, appendix B.4: an iSCSI read command.
READ_COMMAND = bytes.fromhex(
    "01c00000 00000000 00000000 00000000 14000000 00000400 00000014 00000018 28000000 00000000"
    "02000000 00000000"
)


@pytest.mark.parametrize("crc32c", [_crc32c.crc32c, _crc32c.crc32c_by_table, twin.crc32c])
def test_the_read_command_of_the_rfc_has_its_sum(crc32c: object) -> None:
    assert crc32c(READ_COMMAND) == 0xD996_3A56  # type: ignore[operator]


@pytest.mark.parametrize("begin", range(9))
def test_bytes_at_any_address_and_of_any_length_have_the_same_sum(begin: int) -> None:
    data = bytes(range(200, 256)) * 2
    for end in range(begin, begin + 40):
        part = memoryview(data)[begin:end]
        expected = twin.crc32c(part)
        assert _crc32c.crc32c(part) == _crc32c.crc32c_by_table(part) == expected
        assert _crc32c.crc32c(bytearray(part)) == expected


def test_bytes_that_do_not_lie_side_by_side_are_refused() -> None:
    with pytest.raises(BufferError):
        _crc32c.crc32c(memoryview(b"abcdef")[::2])
