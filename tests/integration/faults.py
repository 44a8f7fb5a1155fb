"""What `FaultyProxy` can do to a request, and to which."""

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlsplit


@dataclass(frozen=True)
class Refuse:
    """Connection refused, and what is open is ended; for all requests alike."""


@dataclass(frozen=True)
class Stall:
    """Reads what comes and never answers; reset once this rule is gone."""


@dataclass(frozen=True)
class Error:
    """Answers this, without asking the server, after it has read the request."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Slow:
    """Passes, late: `latency_s` before each request, bodies at `bytes_per_s` (0: at full speed)."""

    latency_s: float = 0.0
    bytes_per_s: int = 0


@dataclass(frozen=True)
class Cut:
    """The server does its work, but of its answer only a share arrives: then the end (FIN).

    Of an answer without a body, or with `share=0`, nothing arrives.
    """

    share: float = 0.5


@dataclass(frozen=True)
class Reset:
    """As `Cut`, but the connection is reset (RST)."""

    share: float = 0.5


@dataclass(frozen=True)
class ResetRequest:
    """Resets the connection half-way through the request's body; the server learns nothing."""


Fault = Refuse | Stall | Error | Slow | Cut | Reset | ResetRequest


@dataclass(frozen=True)
class Passed:
    """One request that came to the proxy.

    Attributes:
        target: path and query.
        fault: what was done to it, if anything.
    """

    method: str
    target: str
    headers: Mapping[str, str]
    fault: Fault | None

    @property
    def shape(self) -> str:
        """The path with every number and every long hexadecimal as `#`, and the query's names."""
        parts = urlsplit(self.target)
        path = re.sub(r"[0-9a-f]{8}(?:[0-9a-f-]*[0-9a-f])?|\d+", "#", parts.path)
        names = sorted(name for name, _ in parse_qsl(parts.query, keep_blank_values=True))
        return path + (f"?{'&'.join(names)}" if names else "")


class Rule:
    """Which requests a fault befalls."""

    def __init__(
        self, fault: Fault, method: str, path: str, share: float, times: int | None, seed: int
    ) -> None:
        self.fault = fault
        self._method = re.compile(method)
        self._path = re.compile(path)
        self._share = share
        self._left = times
        self._random = random.Random(seed)

    def takes(self, method: str, target: str) -> bool:
        """Whether it befalls this request, the next one; called once for each."""
        if self._left == 0 or not self._method.fullmatch(method) or not self._path.search(target):
            return False
        if self._random.random() >= self._share:
            return False
        if self._left is not None:
            self._left -= 1
        return True
