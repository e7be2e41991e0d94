"""JSON-RPC over WebSocket and HTTP POST on one port.

Made for one's own machine: unless it is bound elsewhere on purpose, only requests addressed to a
loopback name are answered, and only pages served from one may make a browser send them.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from aiohttp import WSMsgType, web
from aiohttp.http_exceptions import HttpProcessingError

from moesubnet.chain.devchain.jsonrpc import Json, Methods
from moesubnet.chain.devchain.subscriptions import Session, all_methods
from moesubnet.errors import ConfigError

if TYPE_CHECKING:
    from moesubnet.chain.devchain.service import DevChain

MOST_REQUEST_BYTES = 16 * 1024 * 1024
MOST_CONNECTIONS = 256
# A client that reads slower than it is written to is cut off, not waited for.
_MOST_QUEUED_MESSAGES = 1_024
_SEND_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Server:
    host: str
    port: int

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"ws://{host}:{self.port}"


@contextlib.asynccontextmanager
async def start_server(chain: DevChain, host: str, port: int) -> AsyncIterator[Server]:
    """Serve `chain` until the block ends. Raises ConfigError if the port cannot be had."""
    rpc = _Rpc(chain, local_only=is_loopback(host))
    app = web.Application(client_max_size=MOST_REQUEST_BYTES)
    app.router.add_route("*", "/{path:.*}", rpc.handle)
    log = logging.getLogger("moesubnet.chain.http")
    log.addFilter(_is_ours)
    runner = web.AppRunner(app, access_log=None, logger=log, shutdown_timeout=1.0)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror}") from error
        yield Server(host, runner.addresses[0][1])
    finally:
        await rpc.close()
        await runner.cleanup()


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine's own."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _is_ours(record: logging.LogRecord) -> bool:
    """Not a traceback for bytes that are no HTTP: a stranger's fault, answered with a 400."""
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


def _names_loopback(url: str) -> bool:
    try:
        return is_loopback(urlsplit(url).hostname or "")
    except ValueError:
        return False


# Substrate's own default: pages from loopback, the ecosystem's block explorer, and no page at all.
_TRUSTED_ORIGINS = (None, "https://polkadot.js.org")


class _Rpc:
    def __init__(self, chain: DevChain, *, local_only: bool) -> None:
        self._chain = chain
        self._local_only = local_only
        self._http_methods = Methods(all_methods(chain, None))
        self._sockets: set[web.WebSocketResponse] = set()
        self._posts = 0  # under way

    async def close(self) -> None:
        for socket in tuple(self._sockets):
            await socket.close(code=1001)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        origin = request.headers.get("Origin")
        if self._local_only and not _names_loopback(f"//{request.host}"):
            raise web.HTTPForbidden(text="this chain answers to loopback names only")
        if origin not in _TRUSTED_ORIGINS and not _names_loopback(origin):
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
        if self._posts >= MOST_CONNECTIONS:
            raise web.HTTPServiceUnavailable(text="too many requests at once")
        self._posts += 1
        try:
            answer = await self._http_methods.answer(await request.read())
        except ConnectionError as error:
            raise web.HTTPBadRequest(text="the request was broken off") from error
        finally:
            self._posts -= 1
        text = "" if answer is None else json.dumps(answer)
        return web.Response(text=text, content_type="application/json", headers=cors)

    async def _serve_socket(self, request: web.Request) -> web.WebSocketResponse:
        if len(self._sockets) >= MOST_CONNECTIONS:
            raise web.HTTPServiceUnavailable(text="too many connections")
        socket = web.WebSocketResponse(max_msg_size=MOST_REQUEST_BYTES, compress=False)
        await socket.prepare(request)
        self._sockets.add(socket)
        outgoing: asyncio.Queue[Json] = asyncio.Queue(_MOST_QUEUED_MESSAGES)
        overflow = asyncio.Event()

        def send(message: Json) -> None:
            try:
                outgoing.put_nowait(message)
            except asyncio.QueueFull:
                overflow.set()

        session = Session(self._chain, send)
        tasks = [
            asyncio.create_task(_read(socket, session)),
            asyncio.create_task(_write(socket, outgoing)),
            asyncio.create_task(overflow.wait()),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            session.close()
            self._sockets.discard(socket)
            await socket.close()
        return socket


async def _read(socket: web.WebSocketResponse, session: Session) -> None:
    async for message in socket:
        if message.type not in (WSMsgType.TEXT, WSMsgType.BINARY):
            return
        await session.handle(message.data)


async def _write(socket: web.WebSocketResponse, outgoing: asyncio.Queue[Json]) -> None:
    while True:
        text = json.dumps(await outgoing.get())
        async with asyncio.timeout(_SEND_TIMEOUT_S):
            await socket.send_str(text)
