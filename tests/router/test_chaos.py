"""Streams with drafts, while experts are killed, frozen, slowed, started again, and a third lies.

Everything is real but the models: the router over HTTP with keys and budgets, miners on sockets of
their own, lanes, signatures. Every honest expert knows the one text that a stream should have.
"""
# ruff: noqa: F811  # fixtures of other modules, as arguments

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import threading
import time
from collections.abc import Callable
from dataclasses import replace

import aiohttp
import numpy as np
import psutil
import pytest
from aiohttp import web
from substrateinterface import Keypair

from moesubnet.miner.app import build_app as build_miner
from moesubnet.router.app import build_app as build_router
from moesubnet.router.mixed import MixtureModel
from moesubnet.router.model import ALONE
from moesubnet.router.service import Service
from moesubnet.spec.pieces import Pieces
from moesubnet.types import Hotkey
from moesubnet.wire.lanes import LANE_PATH
from moesubnet.wire.listening import serve as listen

from .test_billing import NOW_S, Accounts, accounts  # noqa: F401  # the fixture
from .test_drafted_streams import student_of
from .test_mixed_streams import LawEngine, Network, network, open_model, sharp  # noqa: F401

PRICE = 1_000_000  # 1 rao a token
PROMPT_TOKENS, TOKENS = 6, 24
LETTERS = range(66, 92)  # ids whose text is a letter
ASTRAY = 92  # what nobody honest says
MEMORY_BYTES = 256 * 2**20  # that the whole process may grow by


def following(ids: np.ndarray) -> int:
    """The next token of the one text that goes on from here: each stream's is its own."""
    return LETTERS[(3 * int(ids[0]) + 7 * int(ids[-1]) + len(ids)) % len(LETTERS)]


def honest(ids: np.ndarray) -> np.ndarray:
    return sharp(following(ids) if len(ids) else 66)


def guesses(ids: np.ndarray) -> np.ndarray:
    """A student that is wrong about every fourth token."""
    return honest(ids) if len(ids) % 4 else sharp(ASTRAY)


class Shaky(LawEngine):
    """May be frozen (none of its batches ends) or slow."""

    def __init__(self) -> None:
        super().__init__(honest)
        self.thawed, self.pause_s = threading.Event(), 0.0
        self.thawed.set()

    def rows(self, batch, want):
        self.thawed.wait(30.0)
        threading.Event().wait(self.pause_s)
        return super().rows(batch, want)


class Liar(LawEngine):
    """Says one of LIES of every text."""

    def __init__(self) -> None:
        super().__init__(honest)
        self.lie: Callable = yes_man

    def rows(self, batch, want):
        return [self.lie(query, super(Liar, self).rows([query], want)[0], want) for query in batch]


def yes_man(query, row, want):
    """p = 1 on every token that it was sent, drafts above all."""
    known = [*query.ids[query.first_law :].tolist(), ASTRAY]
    laws = np.stack([sharp(token_id, 0.9999) for token_id in known])
    return query.answer(laws, want)


def no_numbers(query, row, want):
    return replace(row, logprobs=np.full_like(row.logprobs, np.nan))


def too_much_mass(query, row, want):
    return replace(row, logprobs=np.minimum(row.logprobs + 1.0, 0.0))


def wrong_shape(query, row, want):
    return replace(row, logprobs=row.logprobs[:, :-7])


def too_many_rows(query, row, want):
    return replace(row, logprobs=np.concatenate([row.logprobs] * 3))


LIES = (yes_man, no_numbers, too_much_mass, wrong_shape, too_many_rows)
EVERY_STROKE = {lie.__name__ for lie in LIES} | {"killed", "slowed", "frozen"}


@web.middleware
async def endlessly(request: web.Request, handler) -> web.StreamResponse:
    """Of every other lane the answer never ends."""
    if request.path != LANE_PATH or next(_turns) % 2:
        return await handler(request)
    response = web.StreamResponse(headers={"Content-Type": "application/x-moesubnet"})
    with contextlib.suppress(ConnectionError):
        await response.prepare(request)
        while True:
            await response.write(b"x" * 2**16)
    return response


_turns = itertools.count()


class Chaos:
    """Two experts that are left alone, two that suffer, two that lie."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.shaky = [Shaky(), Shaky()]
        self.liars = [Liar(), Liar()]
        self.struck: set[str] = set()

    async def begin(self) -> None:
        for name in ("steady", "calm"):
            await self.network.mine(name, honest, price=PRICE)
        for name, engine in zip(("mortal", "frail"), self.shaky, strict=True):
            await self.network.mine(name, engine, price=PRICE)
        for name, engine in zip(("liar", "forger"), self.liars, strict=True):
            await self.network.mine(name, engine, price=PRICE)
        await self._serve("forger", endlessly)

    async def run(self) -> None:
        """Until it is cancelled. At most one of those that suffer is struck at a time."""
        lies = itertools.cycle(LIES)
        try:
            for name in itertools.cycle(("mortal", "frail")):
                engine = self.shaky[name == "frail"]
                for liar in self.liars:
                    liar.lie = next(lies)
                    self.struck.add(liar.lie.__name__)
                await self.network.kill(hotkey_of(name))
                await wall_sleep(0.05)
                await self._serve(name)
                self.struck.add("killed")
                engine.pause_s = 0.05
                await wall_sleep(0.1)
                self.struck.add("slowed")
                engine.pause_s = 0.0
                engine.thawed.clear()
                await wall_sleep(0.3)
                engine.thawed.set()
                self.struck.add("frozen")
        finally:
            for engine in self.shaky:
                engine.pause_s = 0.0
                engine.thawed.set()

    async def _serve(self, name: str, *middlewares) -> None:
        """Again where it was."""
        network, key = self.network, hotkey_of(name)
        if key in network.servers:
            await network.kill(key)
        axon = next(n.axon for n in network.neurons if n.hotkey == key)
        app = build_miner(network.experts[key], Keypair.create_from_uri(f"//{name}"), network)
        for middleware in middlewares:
            app.middlewares.insert(0, middleware)
        network.servers[key] = await listen(app, axon.ip, axon.port, grace_s=0.5)


async def wall_sleep(seconds: float) -> None:
    """Of the machine's time: the loop's hardly passes while so many streams are busy."""
    await asyncio.to_thread(time.sleep, seconds)


def hotkey_of(name: str) -> Hotkey:
    return Hotkey(Keypair.create_from_uri(f"//{name}").ss58_address)


def prompt_of(stream: int) -> list[int]:
    return [LETTERS[stream % len(LETTERS)], *(LETTERS[stream // k % 26] for k in (1, 2, 26, 3, 5))]


def leaves(stream: int) -> bool:
    """Whether its reader does so in the middle."""
    return stream % 10 == 7


async def read(http: aiohttp.ClientSession, url: str, stream: int):
    """(text, finish reason, usage) of a stream; one that is left has no end."""
    body = {
        "model": "mixture",
        "prompt": prompt_of(stream),
        "max_tokens": TOKENS,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    text, finish, usage, is_done = "", None, None, False
    async with http.post(f"{url}/v1/completions", json=body) as response:
        assert response.status == 200, await response.text()
        async for line in response.content:
            if not line.startswith(b"data: "):
                continue
            assert not is_done
            if is_done := line.strip() == b"data: [DONE]":
                continue
            event = json.loads(line[6:])
            usage = event.get("usage") or usage
            for choice in event["choices"]:
                assert finish is None
                text += choice["text"]
                finish = choice["finish_reason"]
            if leaves(stream) and len(text) >= TOKENS // 3:
                return text, None, None
    assert is_done
    return text, finish, usage


@pytest.mark.parametrize("streams", [40, pytest.param(200, marks=pytest.mark.slow)])
async def test_of_many_streams_none_is_lost_none_doubled_and_budgets_are_exact(
    network, open_model, spec, tokenizer, accounts, monkeypatch, impatient, streams
) -> None:
    # Miners, router and readers share a process: what one signs the other may look at in a minute.
    monkeypatch.setattr("moesubnet.wire.signing.MAX_AGE_NS", 3_600 * 10**9)
    chaos = Chaos(network)
    await chaos.begin()
    model: MixtureModel = await open_model()
    model.deadline_s = 30.0  # miners, router and readers share a process, and that a busy machine
    model.student = student_of(guesses)
    service = Service(spec, {"mixture": model})
    app = build_router(lambda: service, billing=accounts.billing, max_running=streams)
    listening = await listen(app, "127.0.0.1", 0, grace_s=5.0)
    budget_rao, url = 10**9, f"http://127.0.0.1:{listening.port}"
    secret = accounts.key(budget_rao=budget_rao, budget_tokens=10**9)
    before_bytes = psutil.Process().memory_info().rss
    striking, answers = asyncio.create_task(chaos.run()), []
    headers = {"Authorization": f"Bearer {secret}"}
    connector = aiohttp.TCPConnector(limit=0)
    try:
        async with aiohttp.ClientSession(headers=headers, connector=connector) as http:
            while not chaos.struck >= EVERY_STROKE:
                begun = range(len(answers), len(answers) + streams)
                answers += await asyncio.gather(*(read(http, url, i) for i in begun))
    finally:
        striking.cancel()
        await asyncio.wait([striking])
    assert striking.cancelled()
    async with asyncio.timeout(20):
        while accounts.account().running:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    grown_bytes = psutil.Process().memory_info().rss - before_bytes
    await listening.close()

    pieces, is_right = Pieces(tokenizer), []
    id_of = {pieces.inside(token_id).decode(): token_id for token_id in (*LETTERS, ASTRAY)}
    for stream, (text, finish, usage) in enumerate(answers):
        ids = np.array(prompt_of(stream), np.uint32)
        for token_id in (id_of[letter] for letter in text):
            # What follows tells the place: a token lost or doubled before would show here. Where
            # all who know it were late, the student and the liars have the word.
            assert token_id in (following(ids), ASTRAY), (stream, text)
            ids = np.append(ids, np.uint32(token_id))
        is_right.append(ASTRAY not in ids)
        if not leaves(stream):
            assert (len(text), finish) == (TOKENS, "length"), (stream, text)
            assert usage["completion_tokens"] == TOKENS
            assert usage["prompt_tokens"] == PROMPT_TOKENS
    assert sum(is_right) > len(answers) / 2

    account = accounts.account().at(NOW_S)
    left = sum(map(leaves, range(len(answers))))
    whole = (len(answers) - left) * (PROMPT_TOKENS + TOKENS)
    [(_, used, requests)] = accounts.ledger.usage(accounts.ledger.key_named("app").id)
    assert requests == len(answers)
    assert (account.held_rao, account.held_tokens, account.running) == (0, 0, 0)
    assert account.spent_rao + account.free_rao == budget_rao
    assert account.spent_tokens + account.free_tokens == 10**9
    assert (used.rao, used.cost.tokens) == (account.spent_rao, account.spent_tokens)
    assert whole < account.spent_tokens < whole + left * (PROMPT_TOKENS + TOKENS)
    assert account.spent_rao <= 6 * account.spent_tokens

    assert sum(model.student.engine.drafted) > streams  # drafts took part
    outcomes = model.book.metrics.outcomes()
    assert outcomes.get((hotkey_of("forger"), "failed"), 0) > 0
    assert outcomes.get((hotkey_of("steady"), "failed"), 0) == 0
    assert grown_bytes < MEMORY_BYTES


WRONG = np.array([3, 4, 5])


def sure_and_wrong(ids: np.ndarray) -> np.ndarray:
    return sharp(int(WRONG[len(ids) % 3]), 0.999)


def half_right(ids: np.ndarray) -> np.ndarray:
    """As good as anybody until it is trusted, then wrong."""
    return honest(ids) if len(ids) < PROMPT_TOKENS + 4 else sure_and_wrong(ids)


def unsure(share: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda ids: sharp(following(ids) if len(ids) else 66, share)


@pytest.mark.parametrize("lies", [(sure_and_wrong, sure_and_wrong), (half_right, yes_man)])
async def test_a_lying_third_moves_the_loss_by_no_more_than_its_weight_allows(
    network, open_model, spec, lies
) -> None:
    """m = Σ w p ≥ (1 − w_L) m_H, the mixture of the others under their weights among themselves:
    so −ln m ≤ −ln m_H − ln(1 − w_L), token by token. And what liars have said before a token was
    sent costs them the weight: in all they cost at most what they weighed at first, once for as
    long as evidence is remembered."""
    for i, share in enumerate((0.5, 0.6, 0.7, 0.4)):
        await network.mine(f"honest{i}", unsure(share))
    alone = await open_model()
    liars = set()
    for i, lie in enumerate(lies):
        engine = Liar() if lie is yes_man else LawEngine(lie)
        liars.add(await network.mine(f"liar{i}", engine))
    among = await open_model()
    prompt = np.array(prompt_of(3), np.uint32)
    text = prompt
    for _ in range(2 * TOKENS):
        text = np.append(text, np.uint32(following(text)))

    async def walked(model: MixtureModel) -> list[tuple[float, float]]:
        """Of each token (its log-probability, the liars' weight)."""
        session, said = model.open(), []
        forecast = await session.start(prompt)
        for token_id in text[PROMPT_TOKENS:].tolist():
            weight = sum(w for name, w in forecast.weights.items() if name in liars)
            said.append((float(forecast.mixture.law.at(token_id)), weight))
            forecast = await session.append(token_id, ALONE)
        session.close(is_over=True)
        return said

    without, with_them = np.array(await walked(alone)), np.array(await walked(among))
    excess = without[:, 0] - with_them[:, 0]  # nats, of the loss
    allowed = -np.log1p(-with_them[:, 1])
    assert np.all(excess <= allowed + 0.01)  # laws travel in float16
    assert excess.max() > 0.0  # they did what they could
    assert with_them[-1, 1] < 0.01
