"""Listening sockets for aiohttp applications that strangers may connect to."""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
from dataclasses import dataclass

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from moesubnet.errors import ConfigError
from moesubnet.wire.limits import address_key, is_fair

IDLE_TIMEOUT_S = 60.0  # also for a header that is never completed, and for who reads nothing
LINGER_S = 2.0  # how long we read and ignore the rest of a refused body
MAX_CONNECTIONS = 1_024
_OWN = {address_key("127.0.0.1"), address_key("::1")}


@dataclass(frozen=True, slots=True)
class Listening:
    """A running server; `port` is the real one."""

    host: str
    port: int
    _runner: web.AppRunner
    _server: asyncio.Server

    async def close(self) -> None:
        """Stop accepting, let running requests end within the grace period, cut the rest."""
        self._server.close()
        await self._runner.cleanup()


async def serve(
    app: web.Application,
    host: str,
    port: int,
    *,
    grace_s: float = 5.0,
) -> Listening:
    """Serve `app`; port 0 picks a free one. ConfigError when the address cannot be bound.

    Of the connections no address (IPv6: a /64) may have more than `is_fair`; this machine's own
    processes may. Bytes that a peer does not take for IDLE_TIMEOUT_S end its connection.
    A handler is cancelled as soon as its caller has left: nobody works for those who are gone.
    """
    logging.getLogger("aiohttp.server").addFilter(_is_ours)
    runner = web.AppRunner(
        app,
        access_log=None,
        keepalive_timeout=IDLE_TIMEOUT_S,
        lingering_time=LINGER_S,
        auto_decompress=False,
        shutdown_timeout=grace_s,
        handler_cancellation=True,
    )
    await runner.setup()
    # A process without descriptors left can serve nobody, and asyncio logs it without end.
    most = min(MAX_CONNECTIONS, resource.getrlimit(resource.RLIMIT_NOFILE)[0] * 3 // 4)
    web_server, loop = runner.server, asyncio.get_running_loop()
    assert web_server is not None

    def refuse_when_crowded(protocol: web.RequestHandler) -> None:
        peer = _peer(protocol)
        free = most - len(web_server.connections)
        same = sum(_peer(other) == peer for other in web_server.connections)
        if free < 0 or not (peer in _OWN or is_fair(same, free)):
            protocol.force_close()

    def accept() -> web.RequestHandler:
        protocol = web_server()
        loop.call_later(0, refuse_when_crowded, protocol)  # once it is connected
        return protocol

    try:
        server = await loop.create_server(accept, host, port)
    except OSError as error:
        await runner.cleanup()
        raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux; accepted sockets inherit it
        for listener in server.sockets:
            milliseconds = round(IDLE_TIMEOUT_S * 1_000)
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
    return Listening(host, server.sockets[0].getsockname()[1], runner, server)


def _peer(protocol: web.RequestHandler) -> str:
    name = protocol.peername
    return address_key(name[0] if isinstance(name, tuple) else None)


def _is_ours(record: logging.LogRecord) -> bool:
    """False for bytes that are no HTTP: aiohttp logs a traceback each, and anyone can send them."""
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))
