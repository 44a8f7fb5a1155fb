"""What the write and the read endpoint do alike: body, media type, refusal."""

import asyncio
from collections.abc import Callable, Mapping

from aiohttp import web
from aiohttp.web_protocol import RequestPayloadError

from bridge.errors import (
    BodyTimeout,
    BodyTooLarge,
    CorruptBody,
    Overloaded,
    PrombridgeError,
    UnsupportedMedia,
    http_status,
)


def parse_content_type(request: web.Request) -> dict[str, str]:
    """Parameters of `application/x-protobuf`; it may be missing, as old senders leave it out.

    Raises:
        UnsupportedMedia: another content type, or an encoding that is not snappy.
    """
    kind, *parameters = request.headers.get("Content-Type", "application/x-protobuf").split(";")
    if kind.strip().lower() != "application/x-protobuf":
        raise UnsupportedMedia(
            f"the content type {kind.strip()!r} is not supported; send application/x-protobuf"
        )
    encoding = request.headers.get("Content-Encoding", "snappy").strip().lower()
    if encoding != "snappy":
        raise UnsupportedMedia(f"the content encoding {encoding!r} is not supported; send snappy")
    pairs = (parameter.partition("=") for parameter in parameters)
    return {name.strip().lower(): value.strip().strip('"') for name, _, value in pairs}


async def read_body(
    request: web.Request,
    size_max: int,
    limit: str,
    timeout_s: float,
    on_bytes: Callable[[int], None] | None = None,
) -> bytes:
    """The whole body.

    Args:
        request: with its headers read.
        size_max: bytes that are taken.
        limit: name of the setting that says so.
        timeout_s: how long it may take.
        on_bytes: told about every part as it comes; may raise.

    Raises:
        BodyTooLarge: it is, or says that it is.
        BodyTimeout: it did not come in time.
        CorruptBody: it ended before its end.
    """
    if (request.content_length or 0) > size_max:
        raise BodyTooLarge(
            f"the body has {request.content_length} bytes, {limit} allows {size_max}"
        )
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(timeout_s):
            while part := await request.content.readany():
                size += len(part)
                if size > size_max:
                    raise BodyTooLarge(f"the body is larger than {limit} allows ({size_max} bytes)")
                if on_bytes:
                    on_bytes(len(part))
                parts.append(part)
    except TimeoutError as error:
        raise BodyTimeout(
            f"the body was not complete after {timeout_s:g} s (web.read-timeout); {size} bytes "
            "had come"
        ) from error
    except (ConnectionError, RequestPayloadError) as error:
        raise CorruptBody(f"the connection ended inside the body, after {size} bytes") from error
    return parts[0] if len(parts) == 1 else b"".join(parts)


def refusal(error: PrombridgeError, headers: Mapping[str, str] | None = None) -> web.Response:
    """The answer to a request that failed: the status of the error, its message, Retry-After."""
    sent = dict(headers or {})
    if isinstance(error, Overloaded):
        sent["Retry-After"] = str(error.retry_after_s)
    return web.Response(status=http_status(error), text=f"{error}\n", headers=sent)
