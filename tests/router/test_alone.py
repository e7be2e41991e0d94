"""One expert writes alone and draws ahead: over real miners on real sockets, with laws we know."""
# ruff: noqa: F811  # fixtures of other modules, as arguments

from __future__ import annotations

import asyncio
import json
import threading
from dataclasses import replace
from typing import Any

import aiohttp
import numpy as np
import pytest
from aiohttp import web

from moesubnet.mixture.draft_length import MOST_LOST_DRAFTS
from moesubnet.mixture.law import Law, alone
from moesubnet.router.accounts import price_rao
from moesubnet.router.ahead import RoundTrips
from moesubnet.router.app import build_app
from moesubnet.router.billing import Billing
from moesubnet.router.database import open_database
from moesubnet.router.ledger import Ledger
from moesubnet.router.mixed import MixtureModel, MixtureSession
from moesubnet.router.model import Drawing
from moesubnet.router.service import Service
from moesubnet.wire.listening import serve as listen
from moesubnet.wire.protocol import StepRequest, StepResponse, Want
from moesubnet.wire.usage import length_kind
from tests.conftest import TINY_VOCAB

from .conftest import client
from .test_billing import NOW_S
from .test_drafted_streams import some
from .test_mixed_streams import LawEngine, network, open_model, sharp  # noqa: F401  # fixtures

PROMPT = np.array([9, 5, 6, 7], np.uint32)
HOUR_S = 3_600.0


@pytest.fixture(autouse=True)
def _nobody_is_in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the machine: a block ends by what is asked."""
    monkeypatch.setattr("moesubnet.wire.ahead.MAX_WITHIN_S", HOUR_S)
    monkeypatch.setattr("moesubnet.router.ahead.MAX_WITHIN_S", HOUR_S)
    monkeypatch.setattr("moesubnet.router.writing.LIVE_PATIENCE_S", HOUR_S)
    monkeypatch.setattr("moesubnet.router.writing.PATIENCE_S", HOUR_S)


def broad(ids: np.ndarray) -> np.ndarray:
    """A law of many tokens, of the text's own."""
    law = np.random.default_rng(ids.tolist()).dirichlet(np.full(TINY_VOCAB, 0.05)) + 1e-6
    return np.log(law / law.sum()).astype(np.float32)


def law_of_text(ids: np.ndarray) -> np.ndarray:
    return some(ids, 0)


class Alone:
    """The miner's engine, a model of it alone, and the calls that it got."""

    def __init__(self, engine: LawEngine, model: MixtureModel) -> None:
        self.engine, self.model = engine, model
        [expert] = model.book.known().values()
        self.client, self.hotkey = expert.met.client, expert.met.client.hotkey
        self.asked: list[StepRequest] = []
        self.lie: Any = lambda response: response
        self._step = self.client.step
        self.client.step = self.step

    async def step(self, request: StepRequest, **more: Any) -> StepResponse:
        self.asked.append(request)
        return self.lie(await self._step(request, **more))

    def open(self) -> MixtureSession:
        return self.model.open()


@pytest.fixture
async def one(network, open_model):
    engine = LawEngine(law_of_text)
    await network.mine("one", engine, price=1_000_000)
    found = (await open_model()).mode("mixture:solo")
    return Alone(engine, found[1])


class RowsOf:
    """How many rows an expert answers from now on."""

    def __init__(self, one: Alone) -> None:
        self.rows, one.lie = 0, self

    def __call__(self, response: StepResponse) -> StepResponse:
        self.rows += sum(row.count for row in response.rows)
        return response


async def write(
    session: MixtureSession,
    tokens: int,
    seed: int = 0,
    temperature: float = 1.0,
    top_p: float = 1.0,
    **how: Any,
) -> list[int]:
    """Each token drawn from its forecast, ahead where `how` does not say otherwise."""
    rng, text = np.random.default_rng(seed), []

    def drawing() -> Drawing:
        peek = np.random.default_rng(seed).random(tokens)[len(text) :]
        given = {"points": lambda count: peek[:count], "patience_s": HOUR_S} | how
        return Drawing(temperature, top_p, tokens - len(text), **given)

    forecast = await session.start(PROMPT, replace(drawing(), points=None))
    while True:
        text.append(forecast.mixture.draw(temperature, top_p, rng))
        if len(text) == tokens:
            return text
        forecast = await session.append(text[-1], drawing())


@pytest.mark.parametrize("want", [Want("full"), Want("nucleus", 64, 0.98, committed=True)])
@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 0.8), (0.0, 1.0)])
async def test_the_text_is_the_one_that_is_asked_token_by_token(
    one, want, temperature, top_p
) -> None:
    """So its law is exactly the expert's, and a seed means what it meant."""
    one.model.want, one.client.commits = want, want.committed
    for seed in range(3):
        one.asked.clear()
        ahead = await write(one.open(), 24, seed, temperature, top_p)
        calls = len(one.asked)
        plain = await write(one.open(), 24, seed, temperature, top_p, points=None)
        assert ahead == plain
        assert calls == 2, "the first token, then all others"
        assert len(one.asked) > 2 * calls  # by how much, is told by the machine: it has guesses
    assert one.client.draws_ahead


async def test_a_token_has_the_experts_law(one) -> None:
    """The third one after the same first two, over many texts, by chi-squared."""
    counts, expected, prefix = np.zeros(3), None, []
    few = [5, 6, 7]
    for seed in range(400):
        text = await write(one.open(), 3, seed)
        prefix = prefix or text[:2]
        if text[:2] != prefix:
            continue
        law = np.exp(law_of_text(np.concatenate([PROMPT, prefix]).astype(np.uint32))[few])
        expected = law / law.sum()
        counts += np.array(few) == text[2]
    assert counts.sum() > 40
    assert ((counts - counts.sum() * expected) ** 2 / (counts.sum() * expected)).sum() < 18.0


async def test_every_law_is_that_of_its_text_after_a_draft_that_is_not_kept(one) -> None:
    """What was drawn after it is rolled back, by both."""
    session, text = one.open(), list(PROMPT)
    forecast = await session.start(PROMPT)
    for left in range(30, 0, -1):
        expected = alone(Law(law_of_text(np.array(text, np.uint32)))).law.logp
        assert np.allclose(forecast.mixture.law.logp, expected, atol=2e-2)
        refuse = forecast.drafts and left % 4 == 0
        token = forecast.drafts[0].token_id if forecast.drafts else 5
        text.append(11 if refuse else token)
        points = np.random.default_rng(left)
        drawing = Drawing(1.0, 1.0, left, points=points.random, is_bent=True, patience_s=HOUR_S)
        forecast = await session.append(text[-1], drawing)
    assert session.answered()[one.hotkey][0] > len(text) - 1


async def test_what_is_owed_is_what_was_answered_and_bounded(one) -> None:
    """Whatever is drawn in vain, never more than is held."""
    answered = RowsOf(one)
    session, tokens = one.open(), 40
    forecast = await session.start(PROMPT)
    for written in range(1, tokens):
        points = np.random.default_rng(written)
        drawing = Drawing(
            1.0, 1.0, tokens - written, points=points.random, is_bent=True, patience_s=HOUR_S
        )
        is_kept = forecast.drafts and written % 4  # every fourth is not
        token = forecast.drafts[0].token_id if is_kept else 11
        forecast = await session.append(token, drawing)
    positions, _ = session.answered()[one.hotkey]
    # The prompt's last law is the first row; each row more is one position more.
    assert positions == len(PROMPT) + answered.rows - 1
    assert tokens + len(PROMPT) < positions <= len(PROMPT) + (1 + MOST_LOST_DRAFTS) * tokens


async def test_where_nothing_is_kept_nothing_is_drawn_ahead(one) -> None:
    session = one.open()
    forecast = await session.start(PROMPT)
    for written in range(1, 30):
        points = np.random.default_rng(written)
        drawing = Drawing(
            1.0, 1.0, 30 - written, points=points.random, is_bent=True, patience_s=HOUR_S
        )
        forecast = await session.append(11 if forecast.drafts else 5, drawing)
    assert sum(request.ahead is not None for request in one.asked) <= 3


@pytest.mark.parametrize(
    "lie",
    [
        lambda further: (further + 1) % TINY_VOCAB,  # a token that its law and our number are not
        lambda further: further * 0 + 200,  # one that is hardly in it
    ],
)
async def test_a_liar_moves_no_token_and_is_not_asked_again(one, lie) -> None:
    honest = await write(one.open(), 24, points=None)
    one.lie = lambda response: replace(
        response, rows=tuple(replace(row, further=lie(row.further)) for row in response.rows)
    )
    session = one.open()
    assert await write(session, 24, temperature=1.0) == honest
    assert not one.client.draws_ahead
    positions, _ = session.answered()[one.hotkey]
    assert positions <= len(PROMPT) + 23 + 23, "one block at most was in vain"
    one.asked.clear()
    await write(one.open(), 24)
    assert not any(request.ahead for request in one.asked)


async def test_an_expert_that_cannot_is_asked_token_by_token(one) -> None:
    one.client.draws_ahead = False
    plain = await write(one.open(), 12, points=None)
    one.asked.clear()
    assert await write(one.open(), 12) == plain
    assert not any(request.ahead for request in one.asked)


async def test_a_stop_id_ends_a_block_where_it_ends_the_text(network, open_model, spec) -> None:
    stop = spec.spec.stop_ids[0]
    engine = LawEngine(lambda ids: sharp(stop if len(ids) == 8 else 5, 0.999))
    await network.mine("one", engine)
    model = (await open_model()).mode("mixture:solo")[1]
    session = model.open()
    text = await write(session, 5, temperature=0.0)
    assert text == [5, 5, 5, 5, stop]
    assert max(len(ids) for ids in engine.met) == 8, "nothing is read after it"


async def test_the_first_token_waits_for_no_other(one) -> None:
    await write(one.open(), 8)
    assert [request.ahead is None for request in one.asked] == [True, False]


async def test_another_expert_takes_over_in_the_middle_of_a_block(network, open_model) -> None:
    engines = [LawEngine(law_of_text), LawEngine(law_of_text)]
    for name, engine in zip(("one", "two"), engines, strict=True):
        await network.mine(name, engine)
    model = (await open_model()).mode("mixture:solo")[1]
    plain = await write(model.open(), 20, points=None)
    session, rng, text = model.open(), np.random.default_rng(0), []
    points = np.random.default_rng(0).random(20)
    forecast = await session.start(PROMPT)
    for written in range(1, 21):
        text.append(forecast.mixture.draw(1.0, 1.0, rng))
        if written == 12:
            [writer] = forecast.weights
            await network.kill(writer)
        if written < 20:
            drawing = Drawing(
                1.0,
                1.0,
                min(6, 20 - written),
                points=lambda count, at=written: points[at : at + count],
                patience_s=HOUR_S,
            )
            forecast = await session.append(text[-1], drawing)
    assert text == plain
    assert len(session.answered()) == 2


def test_who_is_far_may_draw_for_a_round_trip() -> None:
    trips = RoundTrips()
    assert trips.within_s("a", 0.1) == 0.1
    for _ in range(30):
        trips.took("a", 0.3)
    assert trips.within_s("a", 0.1) == pytest.approx(0.3)
    assert trips.within_s("b", 0.1) == 0.1


# -- through the router's door -------------------------------------------------------------------


@pytest.fixture
async def door(one, spec, tmp_path):
    """(client, service, ledger, secret) of a router over the one expert."""
    ledger = Ledger(open_database(tmp_path / "accounts.sqlite3"))
    billing = Billing(ledger, clock_s=lambda: NOW_S)
    _, secret = ledger.new_key("app", NOW_S)
    service = Service(spec, {"mixture": one.model}, one.model.book.metrics)
    server = await listen(build_app(lambda: service, billing=billing), "127.0.0.1", 0, grace_s=1.0)
    url = f"http://127.0.0.1:{server.port}"
    yield client(url, secret), url, secret, ledger
    await server.close()
    await billing.close()


def calls_of(one: Alone) -> list[int]:
    """Tokens that each call asked to draw."""
    found = [sum(s.further for s in request.sequences) for request in one.asked]
    one.asked.clear()
    return found


async def test_a_whole_answer_comes_with_one_call_and_a_stream_with_two(one, door) -> None:
    api, *_ = door
    how = {"model": "mixture:solo", "prompt": PROMPT.tolist(), "max_tokens": 20, "seed": 3}
    whole = await api.completions.create(**how)
    assert calls_of(one) == [20]
    stream = await api.completions.create(**how, stream=True)
    pieces = [chunk.choices[0].text async for chunk in stream if chunk.choices]
    assert calls_of(one) == [0, 19]
    assert "".join(pieces) == whole.choices[0].text, "a seed gives the same text"
    one.client.draws_ahead = False
    plain = await api.completions.create(**how)
    assert plain.choices[0].text == whole.choices[0].text
    assert len(calls_of(one)) > 10


async def test_what_comes_together_is_sent_together(one, door, monkeypatch) -> None:
    """A piece a token, as ever, but one write a block."""
    api, *_ = door
    written, write = [], web.StreamResponse.write

    async def noted(self: web.StreamResponse, data: bytes) -> None:
        written.append(data.count(b'data: {"id"'))
        await write(self, data)

    monkeypatch.setattr(web.StreamResponse, "write", noted)
    how = {"model": "mixture:solo", "prompt": PROMPT.tolist(), "max_tokens": 20, "seed": 3}
    stream = await api.completions.create(**how, stream=True)
    pieces = [chunk async for chunk in stream]
    assert len(written) <= 4
    assert sum(written) == len(pieces) > 10


async def test_choices_are_their_own(one, door) -> None:
    api, *_ = door
    how = {"model": "mixture:solo", "prompt": PROMPT.tolist(), "max_tokens": 16, "seed": 3, "n": 3}
    found = [choice.text for choice in (await api.completions.create(**how)).choices]
    one.client.draws_ahead = False
    assert found == [choice.text for choice in (await api.completions.create(**how)).choices]
    assert len(set(found)) > 1


@pytest.mark.parametrize(
    "wishes",
    [
        {"frequency_penalty": 1.5},
        {"logit_bias": {"6": -100}},
        {"logit_bias": {"7": 3}, "presence_penalty": -0.5, "temperature": 0.8, "top_p": 0.9},
    ],
)
async def test_a_request_that_bends_the_laws_has_the_same_text(one, door, wishes) -> None:
    """A draft is kept where it is what is drawn anyway."""
    api, *_ = door
    how = {"model": "mixture:solo", "prompt": PROMPT.tolist(), "max_tokens": 30, "seed": 5}
    ahead = await api.completions.create(**how, **wishes)
    calls = len(calls_of(one))
    assert one.client.draws_ahead, "who draws by its own law has told no lie"
    one.client.draws_ahead = False
    plain = await api.completions.create(**how, **wishes)
    assert ahead.choices[0].text == plain.choices[0].text
    assert calls < 30


async def test_a_grammar_has_the_same_text_and_what_it_forces_is_drafted_before(one, door) -> None:
    """The numbers of what is drawn after forced tokens are those of its own places."""
    api, *_ = door
    one.engine.law = lambda ids: broad(ids)
    schema = {
        "type": "object",
        "properties": {
            "name": {"enum": ["the quick fox", "the lazy dog"]},
            "n": {"type": "string"},
        },
        "required": ["name", "n"],
        "additionalProperties": False,
    }
    how = {
        "model": "mixture:solo",
        "messages": [{"role": "user", "content": "x"}],
        "max_tokens": 60,
        "response_format": {
            "type": "json_schema", "json_schema": {"name": "x", "schema": schema},
        },
    }  # fmt: skip
    for seed in range(3):
        one.client.draws_ahead = True
        one.asked.clear()
        ahead = await api.chat.completions.create(**how, seed=seed)
        numbers = np.random.default_rng((seed, 0)).random(60)
        drawing = [(r.sequences[0], r.ahead.points) for r in one.asked if r.ahead]
        for sequence, points in drawing:
            at = sequence.end - ahead.usage.prompt_tokens
            assert points.tolist() == numbers[at : at + len(points)].tolist()
        both = [sequence for sequence, _ in drawing if len(sequence.append_ids) > 1]
        assert one.client.draws_ahead
        one.client.draws_ahead = False
        plain = await api.chat.completions.create(**how, seed=seed)
        assert ahead.choices[0].message.content == plain.choices[0].message.content
        assert both, "forced tokens, and more drawn after them"


async def test_what_is_charged_and_owed_is_exact(one, door) -> None:
    api, _, _, ledger = door
    for tokens, wishes in ((24, {}), (24, {"frequency_penalty": 2.0})):
        spent = ledger.key_named("app").account.spent_rao
        owed = ledger.owed().get(one.hotkey, (0, 0))
        answered = RowsOf(one)
        answer = await api.completions.create(
            model="mixture:solo", prompt=PROMPT.tolist(), max_tokens=tokens, seed=1, **wishes
        )
        assert answer.usage.completion_tokens == tokens
        positions, rao = ledger.owed()[one.hotkey]
        assert positions - owed[0] == len(PROMPT) + answered.rows - 1
        assert rao - owed[1] == price_rao(positions - owed[0], 1_000_000)
        account = ledger.key_named("app").account
        # The last token was drawn, and read by nobody.
        paid = price_rao(min(positions - owed[0], len(PROMPT) + tokens), 1_000_000)
        assert account.spent_rao - spent == paid
        assert account.held_rao == 0


async def test_a_reader_that_leaves_stops_the_work(one, door, network) -> None:
    """In the middle of a block: no further pass is begun for it."""
    _, url, secret, ledger = door
    body = {"model": "mixture:solo", "prompt": PROMPT.tolist(), "max_tokens": 50, "stream": True}
    inside, goes_on, law = threading.Event(), threading.Event(), one.engine.law

    def held(ids: np.ndarray) -> np.ndarray:
        if len(ids) > len(PROMPT) + 5:
            inside.set()
            assert goes_on.wait(60.0)
        return law(ids)

    one.engine.law = held
    headers = {"Authorization": f"Bearer {secret}"}
    async with aiohttp.ClientSession(headers=headers) as http:
        async with http.post(f"{url}/v1/completions", json=body) as response:
            assert (await response.content.readline()).startswith(b"data: ")
            await asyncio.to_thread(inside.wait, 60.0)
    while network.experts[one.hotkey]._steps.waiting_tokens:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    goes_on.set()
    await asyncio.sleep(0.3)
    assert max(len(ids) for ids in one.engine.met) <= len(PROMPT) + 7
    assert ledger.key_named("app").account.held_rao == 0


async def test_who_leaves_between_two_blocks_is_counted_once(one) -> None:
    session, metrics = one.open(), one.model.book.metrics

    def drawing(left: int) -> Drawing:
        points = np.random.default_rng(left).random
        return Drawing(1.0, 1.0, left, points=points, is_bent=True, patience_s=HOUR_S)

    async def never(request: StepRequest, **more: Any) -> StepResponse:
        await asyncio.Event().wait()
        raise AssertionError

    forecast = await session.start(PROMPT, drawing(20))
    forecast = await session.append(forecast.drafts[0].token_id, drawing(19))
    one.client.step = never
    other = (forecast.drafts[0].token_id + 1) % TINY_VOCAB
    coming = asyncio.create_task(session.append(other, drawing(18)))
    await asyncio.sleep(0.01)
    coming.cancel()
    await asyncio.wait([coming])
    session.close()
    assert b'drawn_ahead_tokens_total{outcome="kept"} 1.0' in metrics.text()
    assert metrics.lengths()["answer", length_kind(3)] == 1


async def test_metrics_tell_drawn_tokens_from_drafts(one, door) -> None:
    """What its writer drew was never in doubt, so it is no acceptance."""
    api, url, secret, _ = door
    headers, lines = {"Authorization": f"Bearer {secret}"}, list[str]()
    await api.completions.create(model="mixture:solo", prompt=PROMPT.tolist(), max_tokens=20)
    async with aiohttp.ClientSession(headers=headers) as http:
        async with http.get(f"{url}/v1/moesubnet/live") as response:
            told = json.loads(await response.text())
        async with http.get(f"{url}/metrics") as response:
            lines = (await response.text()).splitlines()
    assert told["drafted_tokens"] == 0
    assert 'moesubnet_router_drawn_ahead_tokens_total{outcome="kept"} 19.0' in lines
    assert "moesubnet_router_round_trips_total 1.0" in lines
