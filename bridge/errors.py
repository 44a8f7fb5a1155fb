"""Errors, named by who must act on them.

`HTTP_STATUS` is the one table that turns them into answers; a test holds it complete.
"""


class PrombridgeError(Exception):
    """Anything that prombridge raises on purpose."""


class RequestRejected(PrombridgeError):
    """The client sent something that will never be accepted: answered 4xx, not retried."""


class CorruptBody(RequestRejected):
    """The body is not what its headers say that it is."""


class TooManySamples(RequestRejected):
    """One write request holds more samples than `write.max-samples-per-request`."""


class BodyTooLarge(RequestRejected):
    """The body, compressed or not, is larger than its limit."""


class UnsupportedMedia(RequestRejected):
    """A content type or encoding that is not spoken here."""


class BodyTimeout(RequestRejected):
    """The client did not finish its body in time."""


class QueryTooLarge(RequestRejected):
    """A read that would cost more than `read.max-query-bytes` or `read.max-samples`."""


class QueryCancelled(PrombridgeError):
    """The client of a read went away; nobody is answered."""


class Overloaded(PrombridgeError):
    """No room now; the same request succeeds later: answered 503 with Retry-After."""

    def __init__(self, message: str, retry_after_s: int = 5) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class StorageUnavailable(Overloaded):
    """The disk or the object store does not take or give data now."""


class StorageRefused(StorageUnavailable):
    """The object store answers, and says no: wrong key, no right, no such bucket.

    At the start that is an error of the configuration; later (a key was rotated, a right taken) it
    is tried again like any other failure, until a person has put it right.
    """


class BeyondEnd(StorageUnavailable):
    """What was asked for begins where the object has ended."""


class RowsFull(PrombridgeError):
    """Rows of one body do not fit into the arrays that were given for them.

    Attributes:
        needed_count: rows that would be enough.
    """

    def __init__(self, needed_count: int) -> None:
        super().__init__(f"{needed_count} rows needed")
        self.needed_count = needed_count


class CorruptionError(PrombridgeError):
    """Bytes on disk are not what was written there."""


class DamagedFile(CorruptionError):
    """A file of the lake, or what came of it, is not what was written.

    Attributes:
        path: of the file.
    """

    def __init__(self, path: str, message: str) -> None:
        super().__init__(message)
        self.path = path


class ConfigError(PrombridgeError):
    """The configuration is wrong; the message names the place and what is allowed."""


class FormatTooNew(PrombridgeError):
    """The lake or the WAL was written by a newer prombridge."""


class ConditionalPutUnsupported(PrombridgeError):
    """The object store ignores put-if-absent: concurrent commits would lose data."""


class AlreadyRunning(PrombridgeError):
    """Another process holds this WAL, or this lake alone."""


HTTP_STATUS: dict[type[PrombridgeError], int] = {
    BodyTooLarge: 413,
    UnsupportedMedia: 415,
    BodyTimeout: 408,
    RequestRejected: 400,
    Overloaded: 503,
    PrombridgeError: 500,
}


def http_status(error: PrombridgeError) -> int:
    """The HTTP status that answers `error`: that of its nearest class in the table."""
    return next(HTTP_STATUS[kind] for kind in type(error).__mro__ if kind in HTTP_STATUS)
