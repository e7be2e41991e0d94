"""A validator's axon: revealed sheets for everyone, health, and metrics for this machine.

A sheet is served only once its reveal was seen on chain. Nothing here shows a score before.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from moesubnet.errors import Forbidden
from moesubnet.limits import RateLimiter
from moesubnet.nonces import NonceStore
from moesubnet.server import auth_middleware, loopback_only, public
from moesubnet.types import Hotkey, Signer
from moesubnet.validator.state import State

_SHA256 = re.compile(r"[0-9a-f]{64}")


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
        self.experts = Gauge(prefix + "experts", "Experts known", registry=self.registry)
        self.walks = Counter(prefix + "walks", "Walks started", registry=self.registry)
        self.answers = Counter(
            prefix + "answers", "Answers to probes", ["result"], registry=self.registry
        )


def build_app(signer: Signer, state: State, health: Health, metrics: Metrics) -> web.Application:
    """GET /v1/sheet/{sha256}, /healthz, /metrics; everything else is refused."""

    @public
    async def sheet(request: web.Request) -> web.Response:
        name = request.match_info["sha256"]
        body = state.public_sheet(bytes.fromhex(name)) if _SHA256.fullmatch(name) else None
        if body is None:
            raise web.HTTPNotFound
        headers = {"Cache-Control": "public, immutable, max-age=31536000"}
        return web.Response(body=body, content_type="application/msgpack", headers=headers)

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
    app.router.add_get("/v1/sheet/{sha256}", sheet)
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/metrics", metrics_page)
    return app
