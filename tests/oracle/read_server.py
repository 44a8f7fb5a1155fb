"""A read endpoint on a free port, and a client that sees headers and bytes as they are."""

import asyncio
import io
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aiohttp import ClientSession, web
from prometheus_client import CollectorRegistry

from bridge.lake.head_view import HeadSource
from bridge.read.endpoint import ReadEndpoint
from bridge.read.reader import SnapshotSource
from bridge.read.settings import ReadSettings
from tests.oracle.made_head import REPLICA_LABEL
from tests.oracle.remote_read import (
    CHUNKS,
    Frame,
    Query,
    read_frames,
    read_samples,
    request_body,
)
from tests.oracle.tsdb import Labels, Sample

HEADERS = {
    "Content-Type": "application/x-protobuf",
    "Content-Encoding": "snappy",
    "Accept-Encoding": "snappy",
    "X-Prometheus-Remote-Read-Version": "0.1.0",
}


@dataclass(frozen=True)
class Reply:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()


class ReadServer:
    """An endpoint that is served."""

    def __init__(self, url: str, session: ClientSession, metrics: CollectorRegistry) -> None:
        self.url = url
        self.metrics = metrics
        self._session = session

    async def post(self, body: bytes, headers: Mapping[str, str] = HEADERS) -> Reply:
        async with self._session.post(self.url, data=io.BytesIO(body), headers=headers) as response:
            return Reply(response.status, dict(response.headers), await response.read())

    async def ask(self, queries: Sequence[Query], accepted: Sequence[int] = ()) -> Reply:
        return await self.post(request_body(queries, accepted))

    async def frames(self, *queries: Query) -> list[Frame]:
        reply = await self.ask(queries, [CHUNKS])
        assert reply.status == 200, reply.text
        return read_frames(reply.body)

    async def samples(self, *queries: Query) -> list[list[tuple[Labels, list[Sample]]]]:
        reply = await self.ask(queries)
        assert reply.status == 200, reply.text
        return read_samples(reply.body)


@asynccontextmanager
async def serving(
    lake: SnapshotSource,
    head: HeadSource | None = None,
    settings: ReadSettings | None = None,
    body_timeout_s: float = 30.0,
    clock_s: Callable[[], float] | None = None,
    handler_cancellation: bool = False,
) -> AsyncIterator[ReadServer]:
    """Serves until the block ends."""
    metrics = CollectorRegistry()
    clock: dict[str, Any] = {} if clock_s is None else {"clock_s": clock_s}
    endpoint = ReadEndpoint(
        settings or ReadSettings(),
        lake,
        head,
        replica_labels=[REPLICA_LABEL],
        registry=metrics,
        body_timeout_s=body_timeout_s,
        **clock,
    )
    app = web.Application(client_max_size=0)
    app.router.add_post("/api/v1/read", endpoint.handle)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=handler_cancellation)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0]
    try:
        async with ClientSession(auto_decompress=False) as session:
            yield ReadServer(f"http://{host}:{port}/api/v1/read", session, metrics)
    finally:
        await runner.cleanup()
        await asyncio.to_thread(endpoint.close)
