"""HTTP/1.1 on a socket, as bytes: heads are looked into, bodies are passed on as they come.

Limits: `HEAD_BYTES_MAX` per head and per line of a chunked body; a body is never held as a whole,
its pieces have at most `PIECE_BYTES`.
"""

import socket
import struct
from collections.abc import Iterator
from contextlib import suppress

HEAD_BYTES_MAX = 1 << 16
PIECE_BYTES = 1 << 16


class Ended(Exception):
    """The connection is over, or is to be."""


class Head:
    """The start line and the headers of a request or of an answer."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.must_close = False
        self.start_line, *lines = raw.decode("latin-1").rstrip("\r\n").split("\r\n")
        pairs = (line.split(":", 1) for line in lines)
        self.headers = {name.strip().lower(): value.strip() for name, value in pairs}

    def length_bytes(self) -> int:
        """The body's declared length; 0 if none is declared."""
        return int(self.headers.get("content-length", "0"))

    def is_chunked(self) -> bool:
        return "chunked" in self.headers.get("transfer-encoding", "").lower()

    def expects_continue(self) -> bool:
        return self.headers.get("expect", "").lower() == "100-continue"

    def wants_close(self) -> bool:
        option = self.headers.get("connection", "").lower()
        is_old = "HTTP/1.0" in self.start_line and option != "keep-alive"
        return self.must_close or is_old or option == "close"

    def status(self) -> int:
        return int(self.start_line.split(" ", 2)[1])

    def is_interim(self) -> bool:
        return 100 <= self.status() < 200

    def ends_with_connection(self, method: str) -> bool:
        """Whether the body of this answer ends where the connection does."""
        is_framed = self.is_chunked() or "content-length" in self.headers
        return not is_framed and not self._has_no_body(method)

    def _has_no_body(self, method: str) -> bool:
        return method == "HEAD" or self.status() in {204, 304}

    def pieces(self, stream: "Stream", *, is_answer_to: str | None = None) -> Iterator[bytes]:
        """The body as it comes, framing included; what is not asked for is not read."""
        if is_answer_to is not None:
            if self._has_no_body(is_answer_to):
                return iter(())
            if self.ends_with_connection(is_answer_to):
                return stream.rest()
        return stream.chunked() if self.is_chunked() else stream.counted(self.length_bytes())


class Stream:
    """A socket that is read in heads and bodies."""

    def __init__(self, connected: socket.socket) -> None:
        self.socket = connected
        self._buffer = bytearray()

    def reset_on_close(self) -> None:
        """Closing will send RST, and drop what is not sent yet."""
        with suppress(OSError):
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def has_buffered(self) -> bool:
        return bool(self._buffer)

    def read_head(self) -> bytes:
        """Up to and with the empty line."""
        return self._read_until(b"\r\n\r\n")

    def counted(self, length_bytes: int) -> Iterator[bytes]:
        """So many bytes."""
        while length_bytes > 0:
            if not self._buffer:
                self._fill()
            piece = self._take(min(length_bytes, len(self._buffer), PIECE_BYTES))
            length_bytes -= len(piece)
            yield piece

    def chunked(self) -> Iterator[bytes]:
        """A chunked body, its framing included."""
        while True:
            line = self._read_until(b"\r\n")
            yield line
            length_bytes = int(line.split(b";", 1)[0], 16)
            if length_bytes == 0:
                break
            yield from self.counted(length_bytes + 2)
        while line != b"\r\n":
            line = self._read_until(b"\r\n")
            yield line

    def rest(self) -> Iterator[bytes]:
        """All until the connection ends."""
        while True:
            if self._buffer:
                yield self._take(len(self._buffer))
            try:
                self._fill()
            except Ended:
                return

    def _read_until(self, mark: bytes) -> bytes:
        while (end := self._buffer.find(mark)) < 0:
            if len(self._buffer) > HEAD_BYTES_MAX:
                raise ValueError(f"a head of more than {HEAD_BYTES_MAX} bytes")
            self._fill()
        return self._take(end + len(mark))

    def _take(self, length_bytes: int) -> bytes:
        taken = bytes(self._buffer[:length_bytes])
        del self._buffer[:length_bytes]
        return taken

    def _fill(self) -> None:
        piece = self.socket.recv(PIECE_BYTES)
        if not piece:
            raise Ended
        self._buffer += piece
