"""The mixture over real miners on real sockets, whose engines have laws that we know."""

import asyncio
import time
from collections.abc import Callable

import aiohttp
import numpy as np
import pytest
from substrateinterface import Keypair

from moesubnet.errors import EngineError, NobodyAnswers, PeerLate, PeerRefused
from moesubnet.miner.app import build_app as build_miner
from moesubnet.miner.expert import Expert
from moesubnet.mixture.baseline import load_baseline
from moesubnet.mixture.gate import BASELINE_MEMBER, uniform_gate
from moesubnet.mixture.law import Law, mix
from moesubnet.mixture.mixing import Walk, members_of
from moesubnet.router import asking
from moesubnet.router.app import build_app as build_router
from moesubnet.router.experts import BENCH_AFTER_LATE, ExpertBook
from moesubnet.router.mixed import ATTEMPTS, MixtureModel
from moesubnet.router.model import ALONE, Forecast
from moesubnet.router.service import Service
from moesubnet.types import Axon, Coldkey, Hotkey, Metagraph, Neuron
from moesubnet.wire.client import ExpertClient
from moesubnet.wire.listening import serve as listen
from moesubnet.wire.protocol import ExpertCard, StepResponse, Want
from moesubnet.wire.roster import Roster
from moesubnet.wire.strangers import open_http_session
from moesubnet.wire.usage import length_kind
from tests.conftest import TINY_CONTEXT, TINY_VOCAB

ROUTER = Keypair.create_from_uri("//Router")
LawOf = Callable[[np.ndarray], np.ndarray]


def sharp(token_id: int, p: float = 0.9) -> np.ndarray:
    law = np.full(TINY_VOCAB, (1 - p) / (TINY_VOCAB - 1))
    law[token_id] = p
    return np.log(law).astype(np.float32)


def likeliest(forecast: Forecast) -> int:
    return forecast.mixture.likeliest(1)[0][0]


def mass(forecast: Forecast) -> float:
    law = forecast.mixture.law
    return float(np.exp(law.logp, dtype=np.float64).sum() + law.tail)


class LawEngine:
    """An engine whose law is a function of the ids before it."""

    name, vocab_size, context_tokens, commitment = "law", TINY_VOCAB, TINY_CONTEXT, "0" * 64

    def __init__(self, law: LawOf) -> None:
        self.law = law
        self.met: list[np.ndarray] = []
        self.forgotten: list[str] = []

    def rows(self, batch, want):
        self.met += [query.ids for query in batch]
        return [query.answer(self.laws(query), want) for query in batch]

    def laws(self, query):
        positions = range(query.first_law, len(query.ids) + 1)
        return np.stack([self.law(query.ids[:at]) for at in positions])

    def forget(self, session: str) -> None:
        self.forgotten.append(session)


class Network:
    """Miners, and the metagraph that lists them with the router."""

    def __init__(self, spec) -> None:
        self.spec = spec
        self.neurons: list[Neuron] = []
        self.servers: dict[Hotkey, object] = {}
        self.experts: dict[Hotkey, Expert] = {}
        self._add(Hotkey(ROUTER.ss58_address), None, spec.spec.min_caller_stake_rao)

    def _add(self, hotkey: Hotkey, axon: Axon | None, stake_rao: int) -> None:
        uid = len(self.neurons)
        self.neurons.append(
            Neuron(uid, hotkey, Coldkey("c"), axon, stake_rao, *(0,) * 5, True, False, 0, 0)
        )

    def current(self) -> Metagraph:
        key, cold = Hotkey("o"), Coldkey("o")
        return Metagraph(
            1, 1, "0x", 30, 0, 0, 30, key, cold, True, self.spec.sha256, None, tuple(self.neurons)
        )

    async def mine(
        self, name: str, law: LawOf | LawEngine, *, price: int = 0, called: str = ""
    ) -> Hotkey:
        """price: rao per million tokens. called: on its card, by default as its key."""
        signer = Keypair.create_from_uri(f"//{name}")
        hotkey = Hotkey(signer.ss58_address)
        engine = law if isinstance(law, LawEngine) else LawEngine(law)
        expert = Expert(
            engine,
            self.spec,
            self,
            hotkey=hotkey,
            name=called or name,
            price_rao_per_mtoken=price,
        )
        listening = await listen(build_miner(expert, signer, self), "127.0.0.1", 0)
        self.servers[hotkey], self.experts[hotkey] = listening, expert
        self._add(hotkey, Axon("127.0.0.1", listening.port), 0)
        return hotkey

    async def kill(self, hotkey: Hotkey) -> None:
        await self.servers.pop(hotkey).close()


@pytest.fixture
async def network(spec):
    network = Network(spec)
    yield network
    for hotkey in list(network.servers):
        await network.kill(hotkey)


@pytest.fixture
async def open_model(network, spec, monkeypatch):
    monkeypatch.setattr(asking, "REST_S", 0.05)
    async with open_http_session() as http:

        async def start(top_k: int = 8) -> MixtureModel:
            book = ExpertBook(
                Roster(
                    http,
                    ROUTER,
                    spec_sha256=spec.sha256,
                    vocab_size=spec.spec.vocab_size,
                    allow_private=True,
                )
            )
            await book.refresh(network.current())
            return MixtureModel(
                book,
                uniform_gate,
                load_baseline(spec),
                vocab_size=TINY_VOCAB,
                deadline_s=60.0,
                top_k=top_k,
            )

        yield start


async def test_the_law_is_the_posterior_mixture_of_the_experts_laws(network, open_model) -> None:
    """Token by token the router says what the shared mathematics says."""
    laws = {"fives": lambda ids: sharp(5), "echoes": lambda ids: sharp(7, 0.6)}
    hotkeys = {await network.mine(name, law): law for name, law in laws.items()}
    model = await open_model()
    session = model.open()
    prompt = np.array([5, 5, 9, 5], np.uint32)
    forecast = await session.start(prompt)

    members = members_of(hotkeys)
    walk = Walk(uniform_gate(), members)
    rows = np.stack([*(hotkeys[m](prompt) for m in members[:-1]), model.baseline.logp])
    walk.show(prompt[None, :-2])
    for token_id in prompt[-2:]:
        walk.observe(np.array([token_id]), rows[None, :, token_id])
    expected = mix(walk.log_weights()[0], list(map(Law, rows))).law.logp
    assert np.allclose(forecast.mixture.law.logp, expected, atol=2e-2)
    assert list(forecast.weights) == list(members)
    assert max(forecast.weights, key=forecast.weights.get) == next(
        k for k, v in hotkeys.items() if v is laws["fives"]
    )


@pytest.mark.parametrize("want", [Want("full"), Want("top_k", 16)])
async def test_an_empty_prompt_is_a_prompt_also_over_listed_tokens(
    network, open_model, want
) -> None:
    await network.mine("fives", lambda ids: sharp(5 if len(ids) < 2 else 6))
    model = await open_model()
    model.want = want
    session = model.open()
    forecast = await session.start(np.empty(0, np.uint32))
    for token_id in (5, 5, 6):
        assert likeliest(forecast) == token_id
        assert mass(forecast) == pytest.approx(1.0, abs=1e-2)
        ids = forecast.mixture.law.ids
        assert ids is None if want.kind == "full" else len(ids) == want.k
        assert (forecast.mixture.left_out > 0) == (want.kind != "full")
        forecast = await session.append(token_id, ALONE)


async def test_an_expert_that_echoes_what_it_sees_gains_nothing(network, open_model) -> None:
    """It claims the token just shown with certainty; blind evidence never asks it about that."""
    text = np.random.default_rng(0).integers(20, 40, 60).astype(np.uint32)

    def honest(ids: np.ndarray) -> np.ndarray:
        return sharp(int(text[min(len(ids), len(text) - 1)]), 0.5)

    def echo(ids: np.ndarray) -> np.ndarray:
        return sharp(int(ids[-1]) if len(ids) else 0, 1 - 1e-6)

    honest_key, echo_key = await network.mine("honest", honest), await network.mine("echo", echo)
    session = (await open_model()).open()
    forecast = await session.start(text[:20])
    for token_id in text[20:50]:
        forecast = await session.append(int(token_id), ALONE)
        assert forecast.weights.get(echo_key, 0.0) < forecast.weights[honest_key]


class Rememberer(LawEngine):
    """Is sure of the next token of every text that it has met before; else knows nothing."""

    def __init__(self) -> None:
        super().__init__(self.recall)

    def recall(self, ids: np.ndarray) -> np.ndarray:
        for text in self.met:
            if len(text) > len(ids) and np.array_equal(text[: len(ids)], ids):
                return sharp(int(text[len(ids)]), 1 - 1e-6)
        return sharp(0, 1 / TINY_VOCAB)


async def weights_along(session, prompt: np.ndarray, text: np.ndarray) -> list[dict[str, float]]:
    """The weights after the prompt and after each token of `text`."""
    forecasts = [await session.start(prompt)]
    forecasts += [await session.append(int(token_id), ALONE) for token_id in text]
    return [dict(forecast.weights) for forecast in forecasts]


async def test_an_expert_that_meets_a_text_again_gains_nothing(network, open_model) -> None:
    text = np.random.default_rng(1).integers(20, 40, 40).astype(np.uint32)
    honest = await network.mine("honest", lambda ids: sharp(int(text[len(ids)]), 0.5))
    rememberer = await network.mine("rememberer", Rememberer())
    model = await open_model()
    once = await weights_along(model.open(), text[:20], text[20:30])
    again = await weights_along(model.open(), text[:20], text[20:30])
    for first, second in zip(once, again, strict=True):
        assert second == pytest.approx(first, abs=0.0)
    assert all(weights[honest] > weights.get(rememberer, 0.0) for weights in again)
    # Where the text leaves what was met, being sure of the old one costs it.
    session = model.open()
    await weights_along(session, text[:20], text[20:25])
    forecast = await session.append(int(text[25]) ^ 1, ALONE)
    assert forecast.weights[rememberer] < once[6][rememberer] / 100


async def test_choices_read_their_prompt_once_and_share_what_was_blind(network, open_model) -> None:
    text = np.random.default_rng(2).integers(20, 40, 40).astype(np.uint32)
    memory = Rememberer()
    await network.mine("honest", lambda ids: sharp(int(text[len(ids)]), 0.5))
    await network.mine("rememberer", memory)
    model = await open_model()
    session = model.open()
    await session.start(text[:20])
    assert len(memory.met) == 3  # all but two tokens, then one by one
    choices = [session, *(session.fork() for _ in range(3))]
    first, *others = [
        [(await choice.append(int(token_id), ALONE)).weights for token_id in text[20:26]]
        for choice in choices
    ]
    for other in others:
        for mine, yours in zip(first, other, strict=True):
            assert yours == pytest.approx(mine, abs=0.0)
    assert len(memory.met) == 3 + 4 * 6
    for choice in choices:
        choice.close()
    # What was drawn last, experts are not sent.
    counted = model.book.metrics.lengths()
    lengths = {("prompt", length_kind(20)): 4, ("answer", length_kind(7)): 4}
    assert counted == lengths | {("ahead", 0): 4, ("fork", 0): 3}
    await asyncio.gather(*model.closing)
    await session.append(int(text[26]), ALONE)  # kept for the next turn of a chat
    assert len(set(memory.forgotten)) == 3
    turn = model.open()
    await turn.start(text[:30])
    turn.close()
    counted = model.book.metrics.lengths()
    assert counted["more", length_kind(3)] == 1  # 30 tokens after 20 and 7 that were written
    assert sum(n for (part, _), n in counted.items() if part == "later") == 1
    assert sum(n for (part, _), n in counted.items() if part == "prompt") == 4


async def test_a_stream_survives_the_death_and_return_of_experts(network, open_model) -> None:
    keys = [await network.mine(f"e{i}", lambda ids: sharp(5)) for i in range(3)]
    session = (await open_model()).open()
    forecast = await session.start(np.array([5] * 12, np.uint32))
    assert set(keys) < set(forecast.weights)
    for victim in keys[:2]:
        await network.kill(victim)
        forecast = await session.append(5, ALONE)
        assert victim not in forecast.weights
        assert mass(forecast) == pytest.approx(1.0, abs=1e-3)
        assert likeliest(forecast) == 5


class Away(LawEngine):
    """Fails while it is told to."""

    is_away = False

    def rows(self, batch, want):
        if self.is_away:
            raise EngineError("away")
        return super().rows(batch, want)


async def goes_away(
    network, open_model, law: LawOf, drafted: int = 0
) -> tuple[Hotkey, Away, list[Forecast]]:
    """A stream of fives beside an expert that expects them with 0.2, and one that is away for
    twelve of them; the forecasts since it answers again. drafted: so much of the text was drafted
    before, in a stream of others."""
    engine = Away(law)
    await network.mine("steady", lambda ids: sharp(5, 0.2))
    key = await network.mine("away", engine)
    model = await open_model()
    model.firsts.spoil(np.array([5] * 60, np.uint32), drafted, [BASELINE_MEMBER])
    session = model.open()
    await session.start(np.array([5] * 12, np.uint32))
    engine.is_away = True
    for _ in range(12):
        await session.append(5, ALONE)
    engine.is_away, engine.met = False, []
    forecasts = []
    for _ in range(20):
        await asyncio.sleep(0.02)
        forecasts.append(await session.append(5, ALONE))
    return key, engine, forecasts


class Fails(Away):
    """So many calls."""

    left = 0

    def rows(self, batch, want):
        self.left -= 1
        self.is_away = self.left >= 0
        return super().rows(batch, want)


@pytest.mark.parametrize("failures", [1, 2, 10**6])
async def test_who_alone_knows_the_text_is_waited_for_a_while_before_the_baseline_writes(
    network, open_model, failures
) -> None:
    engine = Fails(lambda ids: sharp(5))
    key = await network.mine("knows", engine)
    await network.mine("ignorant", lambda ids: sharp(6, 0.9999))
    session = (await open_model()).open()
    forecast = await session.start(np.array([5] * 12, np.uint32))
    assert forecast.weights[key] > 0.9
    engine.left = failures
    forecast = await session.append(5, ALONE)
    assert failures - engine.left == min(failures + 1, ATTEMPTS)
    if failures < 10**6:
        assert likeliest(forecast) == 5
        assert forecast.weights[key] > 0.9
        return
    assert forecast.weights["baseline"] > 0.9  # it is gone: better this than no answer
    engine.left = failures
    await session.append(5, ALONE)
    assert failures - engine.left <= 1, "who was waited for in vain is not at every token"


async def test_an_expert_that_comes_back_is_weighed_by_what_it_missed(network, open_model) -> None:
    """It is asked about some of the tokens before it is sent them, and only then with the others:
    with about the weight that it would have had."""
    key, engine, forecasts = await goes_away(network, open_model, lambda ids: sharp(5, 0.9))
    # How long it was away is the machine's, and the longer the less it weighs at first.
    assert max(forecast.weights.get(key, 0.0) for forecast in forecasts) > 0.95
    lengths = [len(ids) for ids in engine.met]
    assert 12 < lengths[0] < lengths[1] < lengths[2] < lengths[3]  # three, then all
    assert lengths[2] < lengths[3] - 1


async def test_an_expert_comes_back_to_a_text_that_another_stream_has_drafted(
    network, open_model
) -> None:
    key, _, forecasts = await goes_away(network, open_model, lambda ids: sharp(5, 0.9), 48)
    assert max(forecast.weights.get(key, 0.0) for forecast in forecasts) > 0.95


async def test_who_missed_what_it_would_not_have_known_comes_back_light(
    network, open_model
) -> None:
    key, _, forecasts = await goes_away(
        network, open_model, lambda ids: sharp(5, 0.9 if len(ids) < 12 else 0.001)
    )
    back = next(forecast for forecast in forecasts if key in forecast.weights)
    assert back.weights[key] < 0.01


async def test_a_stream_that_is_over_waits_for_nobody_to_come_back(
    network, open_model, monkeypatch
) -> None:
    async def never(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(asking.Asking, "ask", never)
    engine = Away(lambda ids: sharp(5))
    await network.mine("steady", lambda ids: sharp(5))
    await network.mine("away", engine)
    before = asyncio.all_tasks()
    session = (await open_model()).open()
    session.close(is_over=True)  # before it has begun
    await session.start(np.array([5] * 12, np.uint32))
    engine.is_away = True
    while not (catching_up := session._returning._tasks):
        await session.append(5, ALONE)
    [task] = catching_up.values()
    session.close()
    with pytest.raises(asyncio.CancelledError):
        await task

    def left() -> list[object]:  # beside open connections, which miners keep for a while
        coroutines = [task.get_coro() for task in asyncio.all_tasks() - before]
        return [each for each in coroutines if each.__qualname__ != "RequestHandler.start"]

    while left():  # the farewell  # noqa: ASYNC110
        await asyncio.sleep(0.01)


async def test_when_all_chosen_experts_die_the_others_take_over(network, open_model) -> None:
    """However sure the gate is, a stream is lost only with the last expert of the subnet."""
    keys = [await network.mine(f"e{i}", lambda ids: sharp(5)) for i in range(3)]
    session = (await open_model(top_k=1)).open()
    forecast = await session.start(np.array([5] * 12, np.uint32))
    for _ in range(2):
        victim = next(iter(forecast.weights))
        assert [key for key in keys if key in forecast.weights] == [victim]
        await network.kill(victim)
        forecast = await session.append(5, ALONE)
        assert victim not in forecast.weights
        assert likeliest(forecast) == 5


async def test_lateness_benches_only_who_is_never_in_time(network, open_model, caplog) -> None:
    caplog.set_level("INFO", "moesubnet.router.experts")
    key = await network.mine("slow", lambda ids: sharp(5))
    await network.mine("quick", lambda ids: sharp(5))
    book = (await open_model()).book
    late, answer = PeerLate("late"), StepResponse(())
    stale = PeerRefused(401, "stale_request")  # we are slow ourselves, or one of two clocks is off
    for _ in range(BENCH_AFTER_LATE - 1):
        book.report(key, late)
    book.report(key, answer)
    for _ in range(BENCH_AFTER_LATE - 1):
        book.report(key, stale)
    assert key in book.serving()
    assert not caplog.records
    for _ in range(2):
        book.report(key, late)
    assert key not in book.serving()
    [said] = caplog.records  # once, and why
    assert "rests" in said.getMessage()
    assert "late" in said.getMessage()


async def test_one_failure_is_counted_once_while_the_expert_rests(
    network, open_model, monkeypatch
) -> None:
    monkeypatch.setattr(asking, "REST_S", 60.0)
    keys = [await network.mine(f"e{i}", lambda ids: sharp(5)) for i in range(2)]
    model = await open_model()
    session = model.open()
    await session.start(np.array([5], np.uint32))
    await network.kill(keys[0])
    for _ in range(5):
        await session.append(5, ALONE)
    assert model.book.known()[keys[0]].failures == 1


async def test_when_every_expert_is_dead_the_stream_fails_loudly(network, open_model) -> None:
    key = await network.mine("only", lambda ids: sharp(5))
    session = (await open_model()).open()
    await session.start(np.array([5, 5], np.uint32))
    await network.kill(key)
    with pytest.raises(NobodyAnswers):
        await session.append(5, ALONE)


async def test_one_call_brings_the_laws_after_each_of_several_ids(network, open_model) -> None:
    """What a block is judged by: the same laws as one id at a time, and evidence of nothing."""
    key = await network.mine("counts", lambda ids: sharp(len(ids) % 7))
    model = await open_model()
    session, alone = model.open(), model.open()
    ids = np.array([5, 9, 5, 30], np.uint32)
    await session.start(ids)
    await alone.start(ids)
    before = model.book.known()[key].answers
    weights = session.posterior.walk.log_weights()
    heard = await session.extend(ids, laws=5)
    assert model.book.known()[key].answers == before + 1
    np.testing.assert_array_equal(session.posterior.walk.log_weights(), weights)
    assert [int(law[0].logp.argmax()) for law in heard.laws] == [4, 5, 6, 0, 1]
    for position, token_id in enumerate(ids):
        forecast = session.posterior.forecast(heard, position + 1)
        session.posterior.show(ids[position : position + 1])
        await alone.append(int(token_id), ALONE)
        assert likeliest(forecast) == (5 + position) % 7
        one = alone._heard.laws[0][0]
        np.testing.assert_array_equal(heard.laws[position + 1][0].logp, one.logp)


async def test_a_hung_expert_is_left_out_long_before_the_deadline(
    network, open_model, impatient
) -> None:
    keys = [await network.mine(f"e{i}", lambda ids: sharp(5)) for i in range(3)]
    model = await open_model()
    model.deadline_s = 600.0

    async def never(*args: object, **more: object) -> None:
        await asyncio.Event().wait()

    hung = model.book.known()[keys[1]]
    hung.met.client.step = never
    forecast = await model.open().start(np.array([5] * 12, np.uint32))
    assert set(forecast.weights) == {keys[0], keys[2], "baseline"}
    assert sum(forecast.weights.values()) == pytest.approx(1.0)
    assert mass(forecast) == pytest.approx(1.0, abs=1e-3)
    assert hung.late > 0
    assert hung.failures == 0


async def test_a_miner_of_another_spec_or_hotkey_is_not_asked(network, open_model) -> None:
    good = await network.mine("good", lambda ids: sharp(5))
    bad = await network.mine("bad", lambda ids: sharp(5))
    # The chain lists, under somebody else's hotkey, the good miner's address.
    liar = network.neurons[1]
    network.neurons[2] = Neuron(
        *(liar.axon if n == "axon" else getattr(network.neurons[2], n) for n in Neuron.__slots__)
    )
    model = await open_model()
    assert set(model.book.known()) == {good}
    assert bad not in model.book.known()


async def test_an_axon_without_a_card_is_asked_more_and_more_rarely(
    network, spec, monkeypatch
) -> None:
    """A miner that starts is found soon, a validator is not asked for a card for ever."""
    good = await network.mine("good", lambda ids: sharp(5))
    network._add(Hotkey("validator"), Axon("127.0.0.1", 9), 0)
    asked: list[Hotkey] = []
    card = ExpertClient.card

    async def counted(self: ExpertClient, **options: float) -> ExpertCard:
        asked.append(self.hotkey)
        return await card(self, **options)

    monkeypatch.setattr(ExpertClient, "card", counted)
    now_s = [0.0]
    async with open_http_session() as http:
        roster = Roster(
            http,
            ROUTER,
            spec_sha256=spec.sha256,
            vocab_size=spec.spec.vocab_size,
            allow_private=True,
            clock_s=lambda: now_s[0],
        )
        for _ in range(120):  # ten minutes
            await roster.refresh(network.current())
            now_s[0] += 5.0
        assert list(roster.met) == [good]
        assert asked.count(good) == 10
        assert asked.count(Hotkey("validator")) == 8
        moved = network.neurons[-1]
        network.neurons.remove(moved)
        network._add(moved.hotkey, Axon("127.0.0.1", 10), 0)
        await roster.refresh(network.current())
        assert asked.count(Hotkey("validator")) == 9


async def test_when_a_client_leaves_its_experts_are_asked_no_more(
    network, open_model, spec
) -> None:
    """Within a second by the clock that runs while others are waited for."""
    asked_s, loop = [], asyncio.get_running_loop()

    def slow(ids: np.ndarray) -> np.ndarray:
        asked_s.append(loop.time())
        time.sleep(0.02)
        return sharp(5)

    engine = LawEngine(slow)
    key = await network.mine("e", engine)
    service = Service(spec, {"mixture": await open_model()})
    app = build_router(lambda: service)
    listening = await listen(app, "127.0.0.1", 0)
    body = {"model": "mixture", "prompt": [5] * 4, "max_tokens": 50, "stream": True, "n": 4}
    async with aiohttp.ClientSession() as http:
        url = f"http://127.0.0.1:{listening.port}/v1/completions"
        async with http.post(url, json=body | {"temperature": 0}) as response:
            for _ in range(8):
                assert await response.content.readline()
    left_s, asked = loop.time(), -1
    while len(engine.met) != asked:
        asked = len(engine.met)
        await asyncio.sleep(0.3)
    assert 0 < asked < 4 * 40
    assert max(asked_s) - left_s < 1.0
    assert engine.forgotten  # and hold nothing of it any more
    assert len(network.experts[key]._sessions) == 0
    # A choice that was written to its end is kept for the next turn.
    async with aiohttp.ClientSession() as http:
        await http.post(url, json={"model": "mixture", "prompt": [5] * 4, "max_tokens": 3})
    while len(network.experts[key]._sessions) != 1:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    await listening.close()


async def test_streams_run_side_by_side_without_mixing_up(network, open_model) -> None:
    def parity(ids: np.ndarray) -> np.ndarray:
        return sharp(5 if len(ids) and ids[0] == 5 else 6)

    await network.mine("parity", parity)
    model = await open_model()

    async def write(first: int) -> list[int]:
        session = model.open()
        forecast = await session.start(np.array([first] * 3, np.uint32))
        written = []
        for _ in range(10):
            written.append(likeliest(forecast))
            forecast = await session.append(written[-1], ALONE)
        return written

    results = await asyncio.gather(*(write(5 + i % 2) for i in range(8)))
    assert results == [[5 + i % 2] * 10 for i in range(8)]
