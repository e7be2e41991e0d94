"""JSON-RPC over WebSocket and HTTP POST on one port.

Made for one's own machine: unless it is bound elsewhere on purpose, only requests addressed to a
loopback name are answered, and only pages served from one may make a browser send them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from aiohttp import WSMsgType, web

from moesubnet.chain.devchain.jsonrpc import Methods
from moesubnet.chain.devchain.rpc import Queries
from moesubnet.chain.devchain.service import DevChain
from moesubnet.chain.devchain.subscriptions import Session, all_methods
from moesubnet.wire.addresses import is_loopback, names_loopback
from moesubnet.wire.bodies import Bodies
from moesubnet.wire.limits import address_key
from moesubnet.wire.listening import serve

MOST_REQUEST_BYTES = 16 * 1024 * 1024
_MOST_BODIES_BYTES = 16 * MOST_REQUEST_BYTES  # of all posts, from arrival to answer
# A client that reads slower than it is written to is cut off, not waited for.
_MOST_QUEUED_BYTES = 32 * 1024 * 1024
_SEND_TIMEOUT_S = _BODY_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Server:
    host: str
    port: int

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"ws://{host}:{self.port}"


@contextlib.asynccontextmanager
async def serve_chain(
    chain: DevChain, host: str = "127.0.0.1", port: int = 0
) -> AsyncIterator[Server]:
    """Serve `chain` over WebSocket and HTTP on one port until the block ends; 0 picks a free one.

    Raises ConfigError if the port cannot be had.
    """
    rpc = _Rpc(chain, local_only=is_loopback(host))
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", rpc.handle)
    listening = await serve(app, host, port, grace_s=1.0)
    try:
        yield Server(host, listening.port)
    finally:
        await rpc.close()
        await listening.close()


# Substrate's own default: pages from loopback, the ecosystem's block explorer, and no page at all.
_TRUSTED_ORIGINS = (None, "https://polkadot.js.org")


class _Rpc:
    def __init__(self, chain: DevChain, *, local_only: bool) -> None:
        self._chain = chain
        self._local_only = local_only
        self._queries = Queries(chain)
        self._http_methods = Methods(all_methods(self._queries, None))
        self._sockets: set[web.WebSocketResponse] = set()
        self._bodies = Bodies(_MOST_BODIES_BYTES, _BODY_TIMEOUT_S)

    async def close(self) -> None:
        for socket in tuple(self._sockets):
            await socket.close(code=1001)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        origin = request.headers.get("Origin")
        if self._local_only and not names_loopback(f"//{request.host}"):
            raise web.HTTPForbidden(text="this chain answers to loopback names only")
        if origin not in _TRUSTED_ORIGINS and not names_loopback(origin):
            raise web.HTTPForbidden(text="pages from elsewhere may not use this chain")
        cors = {
            "Access-Control-Allow-Origin": origin or "*",
            "Access-Control-Allow-Headers": "content-type",
            "Access-Control-Allow-Methods": "POST",
            "Vary": "Origin",
        }
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await self._serve_socket(request)
        if request.method == "OPTIONS":
            return web.Response(status=204, headers=cors)
        if request.method != "POST":
            raise web.HTTPMethodNotAllowed(request.method, ["POST"])
        sender = address_key(request.remote)
        async with self._bodies.read(request, sender, MOST_REQUEST_BYTES) as body:
            answer = await self._http_methods.answer(body)
        return web.Response(text=answer or "", content_type="application/json", headers=cors)

    async def _serve_socket(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(max_msg_size=MOST_REQUEST_BYTES, compress=False)
        await socket.prepare(request)
        self._sockets.add(socket)
        outbox = _Outbox()
        session = Session(self._chain, self._queries, outbox.put)
        tasks = [
            asyncio.create_task(_read(socket, session, outbox)),
            asyncio.create_task(_write(socket, outbox)),
            asyncio.create_task(outbox.overflow.wait()),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            with contextlib.suppress(ConnectionError, TimeoutError):
                for task in done:
                    task.result()  # any other error is a fault of ours, and logged as one
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            session.close()
            self._sockets.discard(socket)
            await socket.close()
        return socket


class _Outbox:
    """Messages that wait to be written, in order."""

    def __init__(self) -> None:
        self._messages: asyncio.Queue[str] = asyncio.Queue()
        self._bytes = 0
        self.overflow = asyncio.Event()

    def put(self, message: str) -> None:
        self._bytes += len(message)
        if self._bytes > _MOST_QUEUED_BYTES:
            self.overflow.set()
        else:
            self._messages.put_nowait(message)

    async def get(self) -> str:
        return await self._messages.get()

    def written(self, message: str) -> None:
        self._bytes -= len(message)
        self._messages.task_done()

    async def drained(self) -> None:
        await self._messages.join()


async def _read(socket: web.WebSocketResponse, session: Session, outbox: _Outbox) -> None:
    async for message in socket:
        if message.type not in (WSMsgType.TEXT, WSMsgType.BINARY):
            return
        await session.handle(message.data)
        await outbox.drained()  # who asks again before it has read waits


async def _write(socket: web.WebSocketResponse, outbox: _Outbox) -> None:
    while True:
        message = await outbox.get()
        async with asyncio.timeout(_SEND_TIMEOUT_S):
            await socket.send_str(message)
        outbox.written(message)
