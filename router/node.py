"""A router's node: what it does for validators, under its hotkey. Its own port, its own door.

Probes that come this way look to a miner like this router's own questions: they leave by the same
client, in the same connections, signed by the same hotkey.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from aiohttp import web

from moesubnet import __version__
from moesubnet.errors import AuthError, Forbidden, FrameError, Overloaded, PeerError, WireError
from moesubnet.spec.content import LoadedSpec
from moesubnet.types import Hotkey, MetagraphSource, Signer
from moesubnet.wire.client import ExpertClient
from moesubnet.wire.frames import CONTENT_TYPE
from moesubnet.wire.limits import RateLimiter, SharedBudget
from moesubnet.wire.nonces import NonceStore
from moesubnet.wire.protocol import RouterCard, StepLimits, StepRequest
from moesubnet.wire.relay import LOST, NONCE, RELAYED_RECEIPT, STATUS
from moesubnet.wire.server import BODY, CALLER, CallerPolicy, auth_middleware, public

STEPS_PER_S, STEPS_AT_ONCE = 200.0, 4_000.0  # of one validator; 32 walks of 16 steps and 8 experts
RELAYING = 256  # steps under way for all validators together, so that users' come first
MAX_RELAYED_VALUES = 2**20  # rows × values of one answer: a validator may be an expert's friend
MAX_TIMEOUT_S = 60.0

_EXPERT = "/v1/relay/{expert:[1-9A-HJ-NP-Za-km-z]{47,48}}"


def validators_only(metagraphs: MetagraphSource) -> CallerPolicy:
    """A policy: who may vote on this subnet, and has stake to vote with."""

    def check(caller: Hotkey) -> None:
        neuron = metagraphs.current().by_hotkey.get(caller)
        if neuron is None or not neuron.validator_permit or neuron.stake_rao <= 0:
            raise Forbidden("only validators with a permit are served here")

    return check


def build_node(
    signer: Signer,
    metagraphs: MetagraphSource,
    spec: Callable[[], LoadedSpec],
    expert: Callable[[Hotkey], ExpertClient | None],
    usage: Callable[[int], bytes | None],
) -> web.Application:
    """`GET /v1/router` and `GET /v1/usage/{epoch}` for everyone, `POST /v1/relay/{expert}` for
    validators.

    spec, expert: what this router serves and asks now. usage: the signed summary of an epoch.
    """
    limiter = RateLimiter(STEPS_PER_S, STEPS_AT_ONCE)
    under_way = SharedBudget(RELAYING)

    @public
    async def card(_: web.Request) -> web.StreamResponse:
        found = RouterCard(
            hotkey=signer.ss58_address, spec_sha256=spec().sha256, version=__version__
        )
        return web.Response(text=found.model_dump_json(), content_type="application/json")

    @public
    async def seen(request: web.Request) -> web.StreamResponse:
        summary = usage(int(request.match_info["epoch"]))
        if summary is None:
            raise web.HTTPNotFound
        return web.Response(body=summary, content_type="application/msgpack")

    async def relay(request: web.Request) -> web.StreamResponse:
        caller = request[CALLER].hotkey
        client = expert(Hotkey(request.match_info["expert"]))
        if client is None:
            raise web.HTTPNotFound
        if not limiter.take(caller) or not under_way.take(caller, 1):
            raise Overloaded("this validator asks too much at once")
        try:
            return await _relayed(client, spec(), request)
        finally:
            under_way.give_back(caller, 1)

    door = auth_middleware(
        signer,
        nonces=NonceStore(),
        callers=validators_only(metagraphs),
        max_body_bytes=_limits(spec()).max_body_bytes,
    )
    app = web.Application(middlewares=[door])
    app.router.add_get("/v1/router", card)
    app.router.add_get("/v1/usage/{epoch:[0-9]{1,12}}", seen)
    app.router.add_post(_EXPERT, relay)
    return app


def _limits(spec: LoadedSpec) -> StepLimits:
    vocab_size, context_tokens = spec.spec.vocab_size, spec.spec.context_tokens
    return StepLimits(vocab_size, context_tokens, max_answer_values=MAX_RELAYED_VALUES)


async def _relayed(
    client: ExpertClient, spec: LoadedSpec, request: web.Request
) -> web.StreamResponse:
    """Whatever goes wrong with the expert is one status: a validator believes receipts only."""
    step = StepRequest.from_bytes(request[BODY], _limits(spec))
    if step.to_bytes() != request[BODY]:
        raise FrameError("not the bytes that this router would send")
    try:
        status, body, proof = await client.forward(step, timeout_s=_timeout_s(request))
    except (PeerError, WireError, AuthError):
        return web.Response(
            status=LOST,
            body=json.dumps({"error": "lost"}).encode(),
            content_type="application/json",
        )
    headers = {
        STATUS: str(status),
        NONCE: str(proof.nonce_ns),
        RELAYED_RECEIPT: "0x" + proof.receipt.hex(),
    }
    return web.Response(body=body, headers=headers, content_type=CONTENT_TYPE)


def _timeout_s(request: web.Request) -> float:
    text = request.query.get("timeout_ms", "")
    if not re.fullmatch(r"[1-9][0-9]{0,5}", text):
        raise FrameError("timeout_ms is not a number of milliseconds")
    return min(MAX_TIMEOUT_S, int(text) / 1_000)
