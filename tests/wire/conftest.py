"""A deterministic fake expert behind a real socket, and a client to ask it with."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import numpy as np
import pytest
from aiohttp import web
from substrateinterface import Keypair

from moesubnet.errors import UnknownBase
from moesubnet.types import Axon, Hotkey
from moesubnet.wire.client import ExpertClient
from moesubnet.wire.listening import Listening, serve
from moesubnet.wire.nonces import NonceStore
from moesubnet.wire.protocol import (
    CloseRequest,
    Ids,
    StepLimits,
    StepRequest,
    StepResponse,
    base_hash,
)
from moesubnet.wire.server import BODY, CALLER, auth_middleware, lane_route
from moesubnet.wire.strangers import open_http_session
from tests.step_answers import answer_to

V = 40
LIMITS = StepLimits(vocab_size=V, context_tokens=256)
ALICE = Keypair.create_from_uri("//Alice")


def law_of(seed: int, ids: Ids) -> np.ndarray:
    """f32 [V]: the fake's law after `ids`; a pure function of every id."""
    digest = hashlib.sha256(bytes([seed]) + ids.tobytes()).digest()
    weights = np.frombuffer((digest * 2)[:V], np.uint8).astype(np.float64) + 1
    return np.log(weights / weights.sum()).astype(np.float32)


@dataclass
class FakeExpert:
    """Holds ids by (caller, session) as a miner does; tests change its manners while it runs."""

    seed: int
    manner: Callable[[StepRequest], Awaitable[bytes | None]] | None = None
    held: dict[tuple[Hotkey, str], Ids] = field(default_factory=dict)
    requests: list[StepRequest] = field(default_factory=list)

    async def step(self, caller: Hotkey, body: bytes) -> bytes:
        asked = StepRequest.from_bytes(body, LIMITS)
        self.requests.append(asked)
        if self.manner is not None and (answer := await self.manner(asked)) is not None:
            return answer
        empty = np.empty(0, np.uint32)
        caches = [self.held.get((caller, s.base_session), empty) for s in asked.sequences]
        known = [
            s.base_len if base_hash(cache[: s.base_len]) == s.base_hash else 0
            for s, cache in zip(asked.sequences, caches, strict=True)
        ]
        if known != [s.base_len for s in asked.sequences]:
            raise UnknownBase(tuple(known))
        rows = []
        for s, cache in zip(asked.sequences, caches, strict=True):
            ids = np.concatenate([cache[: s.base_len], s.append_ids, s.draft_ids])
            self.held[caller, s.session] = ids
            laws = np.stack([law_of(self.seed, ids[:p]) for p in range(s.first_law, s.end + 1)])
            rows.append(answer_to(s, laws, asked.want))
        return StepResponse(tuple(rows)).to_bytes()

    async def close(self, request: web.Request) -> web.Response:
        for name in CloseRequest.model_validate_json(request[BODY]).sessions:
            del self.held[request[CALLER].hotkey, name]
        return web.json_response({})


@dataclass
class Stage:
    """Real servers on loopback and one HTTP session; everything closes with the test."""

    stack: AsyncExitStack

    async def serve(self, app: web.Application) -> Listening:
        listening = await serve(app, "127.0.0.1", 0, grace_s=0.1)
        self.stack.push_async_callback(listening.close)
        return listening

    async def client(self, uri: str, port: int, *, vocab_size: int = V) -> ExpertClient:
        http = await self.stack.enter_async_context(open_http_session())
        hotkey = Hotkey(Keypair.create_from_uri(uri).ss58_address)
        axon = Axon("127.0.0.1", port)
        return ExpertClient(http, ALICE, hotkey, axon, vocab_size=vocab_size, allow_private=True)

    async def expert(self, uri: str, seed: int = 0) -> tuple[FakeExpert, ExpertClient]:
        """A fake expert with the key `uri`, and a client of it."""
        expert, signer = FakeExpert(seed), Keypair.create_from_uri(uri)
        door = auth_middleware(
            signer,
            nonces=NonceStore(),
            callers=lambda _: None,
            max_body_bytes=LIMITS.max_body_bytes,
        )
        app = web.Application(middlewares=[door])
        app.router.add_post("/v1/step", lane_route(signer, expert.step))
        app.router.add_post("/v1/close", expert.close)
        listening = await self.serve(app)
        return expert, await self.client(uri, listening.port)


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    async with AsyncExitStack() as stack:
        yield Stage(stack)
        await asyncio.sleep(0)
