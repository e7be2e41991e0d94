"""A validator's axon: revealed sheets for everyone, health, and metrics for this machine.

A sheet is served only once its reveal was seen on chain. Nothing here shows a score before.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from moesubnet.errors import Forbidden
from moesubnet.types import Hotkey, Signer
from moesubnet.validator.archive import Archive
from moesubnet.validator.state import State
from moesubnet.wire.limits import RateLimiter, SharedBudget, address_key
from moesubnet.wire.nonces import NonceStore
from moesubnet.wire.server import auth_middleware, loopback_only, public

SHEET = "/v1/sheet/{sha256:[0-9a-f]{64}}"
SENDING_BYTES = 2**28  # evidence under way to strangers, who may read nothing of it
SEND_TIMEOUT_S = 60.0


@dataclass
class Health:
    """What a validator says of itself to anyone; the loop keeps it true."""

    block: int = 0
    epoch: int = 0
    problems: dict[str, str] = field(default_factory=dict)  # name → what to do about it


class Metrics:
    """Counts of work done, on a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        prefix = "moesubnet_validator_"
        self.block = Gauge(prefix + "block", "Newest block seen", registry=self.registry)
        self.epoch = Gauge(prefix + "epoch", "Epoch of that block", registry=self.registry)
        self.text_tokens_left = Gauge(
            prefix + "text_tokens_left", "Private text not used yet", registry=self.registry
        )
        self.conversations_left = Gauge(
            prefix + "conversations_left", "Private ones not used yet", registry=self.registry
        )
        self.experts = Gauge(prefix + "experts", "Experts known", registry=self.registry)
        self.verdicts = Gauge(
            prefix + "verdicts",
            "Experts by what the sequential tests say of them",
            ["check", "verdict"],
            registry=self.registry,
        )
        self.walks = Counter(prefix + "walks", "Walks started", registry=self.registry)
        self.answers = Counter(
            prefix + "answers", "Answers to probes", ["result"], registry=self.registry
        )


def build_app(signer: Signer, state: State, health: Health, metrics: Metrics) -> web.Application:
    """GET /v1/sheet/{sha256}, …/receipts, …/answers/{hotkey}, /healthz, /metrics; nothing else."""

    def revealed(request: web.Request) -> bytes:
        digest = bytes.fromhex(request.match_info["sha256"])
        if not state.archive.is_public(digest):
            raise web.HTTPNotFound
        return digest

    async def read(kind: Callable[..., bytes | None], *what: bytes | Hotkey) -> bytes | None:
        """Megabytes: in a thread, with a reader of its own."""

        def reading() -> bytes | None:
            with contextlib.closing(Archive.open(state.archive.path)) as archive:
                return kind(archive, *what)

        return await asyncio.to_thread(reading)

    sending = SharedBudget(SENDING_BYTES)

    async def send(request: web.Request, body: bytes | None) -> web.StreamResponse:
        """What never changes; 404 while it is not public, or not kept any more."""
        if body is None:
            raise web.HTTPNotFound
        key = address_key(request.remote)
        if not sending.take(key, len(body)):
            raise web.HTTPServiceUnavailable
        headers = {"Cache-Control": "public, immutable, max-age=31536000"}
        response = web.Response(body=body, content_type="application/msgpack", headers=headers)
        try:
            async with asyncio.timeout(SEND_TIMEOUT_S):
                await response.prepare(request)
                await response.write_eof()
        except TimeoutError:
            if request.transport is not None:
                request.transport.abort()
        finally:
            sending.give_back(key, len(body))
        return response

    @public
    async def sheet(request: web.Request) -> web.StreamResponse:
        return await send(request, await read(Archive.sheet, revealed(request)))

    @public
    async def receipts(request: web.Request) -> web.StreamResponse:
        return await send(request, await read(Archive.receipts, revealed(request)))

    @public
    async def answers(request: web.Request) -> web.StreamResponse:
        digest, hotkey = revealed(request), Hotkey(request.match_info["hotkey"])
        return await send(request, await read(Archive.answers, digest, hotkey))

    @public
    async def healthz(request: web.Request) -> web.Response:
        body = {"block": health.block, "epoch": health.epoch, "problems": health.problems}
        status = 200 if health.block else 503
        return web.Response(
            body=json.dumps(body).encode(), status=status, content_type="application/json"
        )

    @loopback_only
    async def metrics_page(request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(metrics.registry), content_type="text/plain")

    def nobody(caller: Hotkey) -> None:
        raise Forbidden("a validator answers no signed calls")

    door = auth_middleware(
        signer,
        nonces=NonceStore(),
        callers=nobody,
        max_body_bytes=0,
        public_limiter=RateLimiter(rate_per_s=5.0, burst=100.0),
    )
    app = web.Application(middlewares=[door])
    app.router.add_get(SHEET, sheet)
    app.router.add_get(SHEET + "/receipts", receipts)
    app.router.add_get(SHEET + "/answers/{hotkey:[1-9A-HJ-NP-Za-km-z]{47,48}}", answers)
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/metrics", metrics_page)
    return app
