"""One expert alone, by name or by the gate; who is spared; what prices do."""
# ruff: noqa: F811  # fixtures of another module

from __future__ import annotations

import numpy as np
import openai
import pytest

from moesubnet.errors import NobodyAnswers
from moesubnet.mixture.choosing import choose, not_too_dear
from moesubnet.mixture.gate import FEATURES_DIM, Gate, uniform_gate
from moesubnet.router import mixed
from moesubnet.router.app import build_app
from moesubnet.router.model import ALONE
from moesubnet.router.service import Service
from moesubnet.types import Hotkey
from moesubnet.wire.listening import serve as listen
from tests.conftest import TINY_CONTEXT

from .conftest import client
from .test_mixed_streams import LawEngine, likeliest, network, open_model, sharp  # noqa: F401

TEXT = np.arange(20, 40, dtype=np.uint32)


@pytest.fixture
async def serve_model(spec):
    """`serve_model(model)` → the official client of a router that offers it."""
    servers = []

    async def start(model) -> openai.AsyncOpenAI:
        service = Service(spec, {"mixture": model})
        servers.append(await listen(build_app(lambda: service), "127.0.0.1", 0, grace_s=1.0))
        return client(f"http://127.0.0.1:{servers[-1].port}")

    yield start
    for server in servers:
        await server.close()


async def test_an_expert_is_asked_alone_by_hotkey_or_by_name(
    network,
    open_model,
    serve_model,
) -> None:
    fives, sixes = LawEngine(lambda ids: sharp(5)), LawEngine(lambda ids: sharp(6))
    hotkey, other = await network.mine("fives", fives), await network.mine("sixes", sixes)
    api = await serve_model(await open_model())
    names = [model.id async for model in api.models.list()]
    assert names == [
        "mixture",
        "mixture:solo",
        *(f"expert:{hotkey}" for hotkey in sorted([hotkey, other])),
    ]
    for name in (f"expert:{hotkey}", "expert:fives"):
        answer = await api.completions.create(
            model=name, prompt=[3, 4], max_tokens=3, temperature=0, logprobs=0
        )
        assert answer.model == name
        # Its own law and nothing of the baseline's.
        assert answer.choices[0].logprobs.token_logprobs == pytest.approx(
            [np.log(0.9)] * 3, abs=2e-3
        )
    assert fives.met
    assert not sixes.met
    for wrong in ("expert:nobody", "expert:", "mixture:duo", "expert:" + "x" * 100):
        with pytest.raises(openai.NotFoundError):
            await api.completions.create(model=wrong, prompt="a")


async def test_a_name_that_two_have_is_nobodys(network, open_model, serve_model) -> None:
    for name in ("one", "two"):
        await network.mine(name, lambda ids: sharp(5), called="the best")
    api = await serve_model(await open_model())
    with pytest.raises(openai.NotFoundError):
        await api.models.retrieve("expert:the best")


async def test_solo_asks_one_and_goes_over_to_the_next_if_that_dies(network, open_model) -> None:
    engines = {}
    for name in ("fives", "sixes", "sevens"):
        engine = LawEngine(lambda ids: sharp(5))
        engines[await network.mine(name, engine)] = engine
    _, solo = (await open_model()).mode("mixture:solo")
    session = solo.open()
    forecast = await session.start(TEXT[:4])
    [picked] = forecast.weights
    assert [key for key, engine in engines.items() if engine.met] == [picked]
    assert len(engines[picked].met) == 1, "one round trip to the first token"
    await network.kill(picked)
    forecast = await session.append(5, ALONE)
    [next_one] = forecast.weights
    assert next_one != picked
    assert likeliest(forecast) == 5
    assert set(session.answered()) == {picked, next_one}

    _, named = (await open_model()).mode(f"expert:{next_one}")
    await network.kill(next_one)
    with pytest.raises(NobodyAnswers):
        await named.open().start(TEXT[:4])


async def test_experts_of_no_weight_are_not_asked_and_come_back_when_they_are_needed(
    network,
    open_model,
    monkeypatch,
) -> None:
    """One knows the beginning of a text, the other what comes after."""
    monkeypatch.setattr(mixed, "BLOCK_TOKENS", 8)
    turn, end = 24, TINY_CONTEXT - 1
    text = np.random.default_rng(0).integers(20, 200, end + 1).astype(np.uint32)

    def knows(part: range) -> LawEngine:
        return LawEngine(
            lambda ids: sharp(int(text[len(ids)])) if len(ids) in part else sharp(7, 0.97)
        )

    first, second = knows(range(turn)), knows(range(turn, end + 1))
    a, b = await network.mine("first", first), await network.mine("second", second)
    session = (await open_model()).open()
    forecast = await session.start(text[:4])
    position, left_out = 4, []
    # How soon it weighs most is a matter of round trips beside the stream's, and of the tokens
    # by which it is weighed: a sample of those that it missed.
    while position < turn or forecast.weights.get(b, 0.0) <= 0.9:
        left_out.append(b not in forecast.weights)
        forecast = await session.append(int(text[position]), ALONE)
        position += 1
        assert position < end, "it never came back"
    assert len(second.met) < len(first.met)
    assert sum(left_out[:20]) >= 8
    assert left_out[:4] == [False] * 4
    assert likeliest(forecast) == text[position]
    positions = {key: count for key, (count, _) in session.answered().items()}
    assert positions[b] == position, "who comes back reads what it missed, and is owed for it"
    assert positions[a] <= position


def prices(**named: int) -> dict[Hotkey, int]:
    return {Hotkey(name): price for name, price in named.items()}


def test_the_dear_come_later_and_the_cheap_no_sooner_than_usual() -> None:
    gate, asked = uniform_gate(), prices(a=100, b=100, c=100, d=10**6, e=0)
    order = [choose(gate, TEXT, asked, k, prices=asked) for k in range(1, 6)]
    assert all("d" not in chosen for chosen in order[:4])
    assert "d" in order[4]
    firsts = [choose(gate, TEXT[:n], asked, 1, prices=asked) for n in range(1, 20)]
    assert {"a", "b", "c", "e"} == {hotkey for [hotkey] in firsts}, "the lot decides, not the price"


def test_together_they_cost_no_more_than_the_cap() -> None:
    asked = prices(a=100, b=150, c=250, d=700)
    for cap in (0, 99, 100, 249, 250, 400, 500, 1200):
        chosen = choose(uniform_gate(), TEXT, asked, 8, prices=asked, most_rao_per_mtoken=cap)
        assert sum(asked[hotkey] for hotkey in chosen) <= cap
        assert bool(chosen) == (cap >= 100)


def test_hotkeys_with_nothing_to_say_do_not_say_what_is_usual() -> None:
    """Ten free ones, or dear ones, would make one expert the cheapest, or nobody dear."""
    experts = tuple(prices(a=2_000, b=2_000, c=10))
    gate = Gate(experts, np.zeros((FEATURES_DIM + 1, 3), np.int32), (1_000_000,) * 3)
    for price in (0, 10**15):
        fresh = {Hotkey(f"fresh{i}"): price for i in range(10)}
        asked = prices(a=2_000, b=2_000, c=10) | fresh
        firsts = [choose(gate, TEXT[:n], asked, 1, prices=asked) for n in range(1, 30)]
        assert {"a", "b", "c"} == {hotkey for [hotkey] in firsts}
        assert not_too_dear(gate, prices(d=10**8) | asked).keys() >= set(experts)
        assert "d" not in not_too_dear(gate, prices(d=10**8) | asked)


async def test_a_price_that_no_budget_holds_keeps_nobody_from_the_others(
    network, open_model, serve_model
) -> None:
    for name in ("one", "two"):
        await network.mine(name, LawEngine(lambda ids: sharp(5)), price=1_000)
    bomb = LawEngine(lambda ids: sharp(6))
    await network.mine("bomb", bomb, price=10**15)
    model = await open_model()
    assert model.dearest_rao_per_mtoken() == 2_000
    api = await serve_model(model)
    await api.completions.create(model="mixture", prompt=[3], max_tokens=2)
    assert not bomb.met
    await api.completions.create(model="expert:bomb", prompt=[3], max_tokens=2)
    assert bomb.met


async def test_a_request_caps_its_price(network, open_model, serve_model) -> None:
    cheap, dear = LawEngine(lambda ids: sharp(5)), LawEngine(lambda ids: sharp(6))
    await network.mine("cheap", cheap, price=1_000)
    await network.mine("dear", dear, price=50_000)
    model = await open_model()
    assert model.dearest_rao_per_mtoken() == 51_000
    assert model.capped(20_000).dearest_rao_per_mtoken() == 20_000
    api = await serve_model(model)

    def ask(most: int, name: str = "mixture"):
        extra = {"moesubnet": {"max_rao_per_mtoken": most}}
        return api.completions.create(
            model=name, prompt=[3], max_tokens=2, temperature=0, extra_body=extra
        )

    await ask(20_000)
    assert cheap.met
    assert not dear.met
    await ask(51_000)
    assert dear.met
    for call in (ask(999), ask(20_000, "expert:dear")):
        with pytest.raises(openai.BadRequestError) as caught:
            await call
        assert caught.value.code == "price_cap_too_low"
