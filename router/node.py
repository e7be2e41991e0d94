"""A router's node: what it does for validators, under its hotkey. Its own port, its own door.

Probes that come this way look to a miner like this router's own questions: they leave by the same
client, in the same lanes as users' steps, signed by the same hotkey.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from weakref import WeakKeyDictionary, WeakValueDictionary

from aiohttp import web

from moesubnet import __version__
from moesubnet.errors import AuthError, Forbidden, FrameError, Overloaded, PeerError, WireError
from moesubnet.spec.content import LoadedSpec
from moesubnet.types import Hotkey, MetagraphSource, Signer
from moesubnet.wire.client import ExpertClient
from moesubnet.wire.limits import RateLimiter, SharedBudget, Turns
from moesubnet.wire.nonces import NonceStore
from moesubnet.wire.protocol import RouterCard, StepLimits, StepRequest, max_answer_bytes
from moesubnet.wire.relay import LOST, PLACE_S, RELAY_PATH, UNKNOWN, Brought, Question
from moesubnet.wire.server import CallerPolicy, auth_middleware, lane_route, public

# Of one validator: an epoch's quarter is 16 walks of 17 steps, each to up to 256 experts.
STEPS_PER_S, STEPS_AT_ONCE = 200.0, 131_072.0
RELAYING_BYTES = 2**28  # questions and answers under way for all validators together
MAX_RELAYED_VALUES = 2**18  # rows × values of one answer: a validator may be an expert's friend
MAX_LANE_BYTES = 2**21
MAX_TIMEOUT_S = 60.0
STARTING = 16  # steps for validators that begin between two looks at what else there is to do
PROMPTS = 8  # of the 60 at once to one expert: users seldom wait for validators' long ones


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
    """`GET /v1/router` and `GET /v1/usage/{epoch}` for everyone, `POST /v1/relay` for validators.

    spec, expert: what this router serves and asks now. usage: the signed summary of an epoch.
    """
    relaying = _Relaying(spec, expert)

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

    door = auth_middleware(
        signer,
        nonces=NonceStore(),
        callers=validators_only(metagraphs),
        max_body_bytes=max(MAX_LANE_BYTES, _limits(spec()).max_body_bytes + 4_096),
    )
    app = web.Application(middlewares=[door])
    app.router.add_get("/v1/router", card)
    app.router.add_get("/v1/usage/{epoch:[0-9]{1,12}}", seen)
    app.router.add_post(RELAY_PATH, lane_route(signer, relaying.step))
    return app


class _Relaying:
    """Steps of validators on their way to experts."""

    def __init__(
        self, spec: Callable[[], LoadedSpec], expert: Callable[[Hotkey], ExpertClient | None]
    ) -> None:
        self._spec, self._expert = spec, expert
        self._limiter = RateLimiter(STEPS_PER_S, STEPS_AT_ONCE)
        self._under_way = SharedBudget(RELAYING_BYTES)
        self._starting = Turns(STARTING)
        self._prompts: WeakKeyDictionary[ExpertClient, Turns] = WeakKeyDictionary()
        # A walk's step goes to many experts, and is read once.
        self._read: WeakValueDictionary[bytes, StepRequest] = WeakValueDictionary()

    async def step(self, caller: Hotkey, body: bytes) -> bytes:
        """What the expert answered. Whatever goes wrong with it is one status: a validator believes
        receipts only. Raises FrameError, Overloaded."""
        async with self._starting.take(caller):
            await asyncio.sleep(0)
        question = Question.from_bytes(body)
        client = self._expert(question.expert)
        if client is None:
            return Brought(UNKNOWN).to_bytes()
        step = self._request(question.step)
        vocab_size = self._spec().spec.vocab_size
        most_bytes = len(body) + max_answer_bytes(step, vocab_size)
        if not self._limiter.take(caller) or not self._under_way.take(caller, most_bytes):
            raise Overloaded("this validator asks too much at once")
        timeout_s = min(MAX_TIMEOUT_S, question.timeout_ms / 1_000)
        try:
            async with self._place(caller, client, step):
                status, answer, proof = await client.forward(step, timeout_s=timeout_s)
        except (PeerError, WireError, AuthError):
            return Brought(LOST).to_bytes()
        finally:
            self._under_way.give_back(caller, most_bytes)
        return Brought(status, proof.nonce_ns, proof.receipt, answer).to_bytes()

    @asynccontextmanager
    async def _place(
        self, caller: Hotkey, client: ExpertClient, step: StepRequest
    ) -> AsyncIterator[None]:
        """A prompt's turn. Raises Overloaded where it does not come soon: that is not the expert's
        fault."""
        async with AsyncExitStack() as stack:
            if step.is_prompt:
                turns = self._prompts.setdefault(client, Turns(PROMPTS))
                try:
                    async with asyncio.timeout(PLACE_S):
                        await stack.enter_async_context(turns.take(caller))
                except TimeoutError:
                    raise Overloaded("too many prompts to this expert") from None
            yield

    def _request(self, body: bytes) -> StepRequest:
        """Raises FrameError."""
        key = hashlib.sha256(body).digest()
        step = self._read.get(key)
        if step is None:
            step = StepRequest.from_bytes(body, _limits(self._spec()))
            if step.to_bytes() != body:
                raise FrameError("not the bytes that this router would send")
            self._read[key] = step
        return step


def _limits(spec: LoadedSpec) -> StepLimits:
    vocab_size, context_tokens = spec.spec.vocab_size, spec.spec.context_tokens
    return StepLimits(vocab_size, context_tokens, max_answer_values=MAX_RELAYED_VALUES)
