"""Many prompts at once at miners that are slow, on a clock that is not the machine's.

Real router, panel, client, miner and batcher; played are the model's passes and the wire between.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from substrateinterface import Keypair
from virtual_time import VirtualTimeLoop

from moesubnet.engine.base import Query
from moesubnet.errors import NobodyAnswers, Overloaded, PeerRefused, PeerUnavailable, UnknownBase
from moesubnet.miner.batcher import LEAST_CHUNK_TOKENS
from moesubnet.miner.expert import Expert
from moesubnet.mixture.baseline import load_baseline
from moesubnet.mixture.choosing import BLIND_PROMPT_TOKENS
from moesubnet.mixture.gate import FEATURES_DIM, Gate
from moesubnet.mixture.sheet import MICRO
from moesubnet.router import asking
from moesubnet.router.experts import ExpertBook
from moesubnet.router.mixed import ATTEMPTS, MixtureModel
from moesubnet.router.model import Drawing
from moesubnet.types import Axon, Hotkey
from moesubnet.wire.client import ExpertClient
from moesubnet.wire.departures import Parcel
from moesubnet.wire.line import HELD_S
from moesubnet.wire.patience import TOKEN_S
from moesubnet.wire.roster import Met
from tests.conftest import TINY_VOCAB
from tests.miner.conftest import FixedMetagraph, neuron
from tests.played import PASS_S, STREAM_S, Played, Thread
from tests.played import TOKEN_S as PLAYED_TOKEN_S

pytestmark = pytest.mark.usefixtures("impatient")

BASE_S = 5.0  # a router's, by default
CALLER = Keypair.create_from_uri("//Alice")


class Loop(VirtualTimeLoop):
    """Time goes on while an engine works."""

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> asyncio.Future[Any]:
        if executor is None:
            return super().run_in_executor(None, func, *args)
        return asyncio.wrap_future(executor.submit(func, *args), loop=self)


def run(main: Any) -> Any:
    with asyncio.Runner(loop_factory=Loop) as runner:
        return runner.run(main)


class Model(Played):
    """Goes on with what it has read for somebody who gave up waiting."""

    def held(self, query: Query) -> int:
        return self.read.get(query.session, 0)


class Near(ExpertClient):
    """Talks to a miner in the same process. answers: whether it does, by how much it was sent."""

    expert: Expert
    answers: Callable[[int], bool] = staticmethod(lambda _: True)
    refuses = False
    sent = 0

    async def _carry(self, parcels: Sequence[Parcel], come: Callable[[], None]) -> None:
        async def step(parcel: Parcel) -> None:
            self.sent += 1
            if not self.answers(self.sent):
                await asyncio.Event().wait()
            try:
                if self.refuses:
                    raise Overloaded
                body = await self.expert.step(Hotkey(CALLER.ss58_address), parcel.body)
                await self._give([(parcel, (200, body, self.sent, b""))])
            except UnknownBase as error:
                held = json.dumps({"error": "unknown_base", "held_tokens": error.held_tokens})
                await self._give([(parcel, (409, held.encode(), self.sent, b""))])
            except Overloaded:
                parcel.fail(PeerRefused(429, "too_many_requests"))
            come()

        try:
            async with asyncio.timeout(max(parcel.held_s for parcel in parcels)):
                async with asyncio.TaskGroup() as group:
                    for parcel in parcels:
                        group.create_task(step(parcel))
        except TimeoutError:
            raise PeerUnavailable("no answer") from None

    async def close_sessions(self, sessions: Sequence[str], *, timeout_s: float) -> None:
        pass


@dataclass
class House:
    """Miners in a router's own process. `met` is the router's roster."""

    spec: Any
    met: dict[Hotkey, Met] = field(default_factory=dict)

    def mine(self, name: str, engine: Model, **options: Any) -> Near:
        hotkey = Hotkey(Keypair.create_from_uri(f"//{name}").ss58_address)
        engine.vocab_size = TINY_VOCAB
        expert = Expert(engine, self.spec, FixedMetagraph(), hotkey=hotkey, name=name, **options)
        expert._batcher._thread.shutdown()
        expert._batcher._thread = Thread(engine)
        near = Near(
            None,  # type: ignore[arg-type]
            CALLER,
            hotkey,
            Axon("127.0.0.1", 1),
            vocab_size=TINY_VOCAB,
            allow_private=True,
        )
        near.expert = expert
        self.met[hotkey] = Met(neuron(len(self.met), f"//{name}", 0), near, expert.card, 0.0)
        return near

    async def refresh(self, _: Any) -> None:
        pass

    async def model(self, top_k: int, preferred: Hotkey) -> MixtureModel:
        loop = asyncio.get_running_loop()
        book = ExpertBook(self, clock=loop.time)  # type: ignore[arg-type]
        await book.refresh(None)  # type: ignore[arg-type]
        baseline = load_baseline(self.spec)
        ordered = tuple(sorted(self.met))
        theta = np.zeros((FEATURES_DIM + 1, len(ordered)), np.int32)
        least = 1 if top_k == 1 else MICRO
        gate = Gate(ordered, theta, tuple(MICRO if h == preferred else least for h in ordered))
        return MixtureModel(
            book, lambda: gate, baseline, vocab_size=TINY_VOCAB, deadline_s=BASE_S, top_k=top_k
        )


@dataclass(frozen=True)
class Read:
    """times_s: when there was each token. weights: of the last. error: what ended it."""

    times_s: Sequence[float]
    weights: Mapping[str, float]
    ended_s: float
    error: Exception | None = None


async def read(model: MixtureModel, seed: int, text: Coming, tokens: int) -> Read:
    await asyncio.sleep(text.at_s)
    loop, session = asyncio.get_running_loop(), model.open()
    ids = np.random.default_rng(seed).integers(1, TINY_VOCAB, text.prompt).astype(np.uint32)
    times_s: list[float] = []
    weights: Mapping[str, float] = {}
    error = None
    try:
        for token in range(tokens):
            forecast = await (
                session.append(token % 7, Drawing(left=1)) if times_s else session.start(ids)
            )
            times_s.append(loop.time())
            weights = forecast.weights
    except NobodyAnswers as failure:
        error = failure
    finally:
        session.close()
    return Read(times_s, weights, loop.time(), error)


Mine = Callable[[House], Near]


@dataclass(frozen=True)
class Coming:
    """A text: tokens of its prompt, and when it comes."""

    prompt: int
    at_s: float = 0.0


def written(
    spec: Any, mine: Mine, texts: Sequence[Coming], *, tokens: int = 8, top_k: int = 8
) -> tuple[list[Read], Near]:
    """What becomes of the texts, and the miner that `mine` gives; the gate prefers it."""

    async def main() -> tuple[list[Read], Near]:
        house = House(spec)
        near = mine(house)
        model = await house.model(top_k, near.hotkey)
        reading = (read(model, i, text, tokens) for i, text in enumerate(texts))
        return await asyncio.gather(*reading), near

    with asyncio.Runner(loop_factory=Loop) as runner:
        return runner.run(main())


def slow(times: float) -> Model:
    """So many times what SmolLM2-135M takes on a whole CPU."""
    return Model(times * PASS_S, times * STREAM_S, times * PLAYED_TOKEN_S)


SHORT = [Coming(tokens) for tokens in range(36, 67)]
ALL_S = BASE_S + TOKEN_S * sum(text.prompt for text in SHORT)  # that they may take together
RESTS_S = sum(asking.REST_S * 2**attempt for attempt in range(ATTEMPTS - 1))


def calls_of(tokens: int, prompt: int = 40) -> int:
    """How many a text needs: of its prompt, of the blind tokens, and of those written but one."""
    return 1 + min(prompt, BLIND_PROMPT_TOKENS) + tokens - 1


@pytest.mark.parametrize("times", [1.0, 4.0, 10.0])
def test_thirty_two_prompts_at_once_at_one_slow_expert_are_all_answered(
    spec: Any, times: float
) -> None:
    """A long one is among them."""
    engine = slow(times)
    found, near = written(spec, lambda h: h.mine("slow", engine), [Coming(3_500), *SHORT])
    assert [text.error for text in found] == [None] * 32
    assert all(len(text.times_s) == 8 for text in found)
    if times == 1.0:
        assert near.sent == 32 * calls_of(8)  # nothing was asked twice


def test_texts_that_came_first_do_not_wait_until_the_last_has_been_read(spec: Any) -> None:
    found, _ = written(spec, lambda h: h.mine("slow", slow(10.0)), SHORT, tokens=1)
    first_s = sorted(text.times_s[0] for text in found)
    assert first_s[len(first_s) // 2] <= 0.7 * first_s[-1]


@pytest.mark.parametrize("token_s", [0.018, 0.05])
def test_prompts_are_read_in_small_parts_at_a_slow_miner(spec: Any, token_s: float) -> None:
    """Steps come in between. The first passes are too long, as nothing is known yet."""
    engine = Model(token_s=token_s)
    written(spec, lambda h: h.mine("slow", engine), SHORT)
    assert max(engine.prompts[3:]) <= 2 * LEAST_CHUNK_TOKENS


def test_a_long_prompt_is_waited_for_though_short_ones_overtake_it(spec: Any) -> None:
    texts = [Coming(1_000), *SHORT]
    engine = Model(token_s=0.75 * TOKEN_S)
    _, near = written(spec, lambda h: h.mine("slow", engine), texts, tokens=1)
    assert near.sent == 32 * calls_of(1)  # nothing was asked twice


def test_a_step_is_waited_for_while_those_before_it_are_answered(spec: Any) -> None:
    engine = Model(stream_s=0.2)  # 20 at once take four seconds
    texts = [Coming(1)] * 20 + [Coming(1, at_s=0.1)] * 20
    _, near = written(spec, lambda h: h.mine("slow", engine), texts, tokens=2)
    assert near.sent == 40 * calls_of(2, prompt=1)


def test_a_step_is_waited_for_where_a_prompt_may_be_read_before_it(spec: Any) -> None:
    """By an engine that reads prompts in one piece."""
    engine = Model(token_s=TOKEN_S / 2)
    engine.caches = False
    texts = [Coming(1), Coming(1_000, at_s=1.0)]
    _, near = written(spec, lambda h: h.mine("slow", engine), texts, tokens=40)
    assert near.sent == calls_of(40, prompt=1) + calls_of(40)


@pytest.mark.parametrize("texts", [[Coming(40)], SHORT])
def test_an_expert_that_is_frozen_is_given_up(spec: Any, texts: Sequence[Coming]) -> None:
    """After as long as all prompts together may take, each time that it is tried."""

    def mine(house: House) -> Near:
        near = house.mine("frozen", Model())
        near.answers = lambda _: False
        return near

    found, _ = written(spec, mine, texts)
    assert all(isinstance(text.error, NobodyAnswers) for text in found)
    prompts = [text.prompt for text in texts]
    most_s = ATTEMPTS * (BASE_S + TOKEN_S * (sum(prompts) + max(prompts))) + RESTS_S
    assert max(text.ended_s for text in found) <= most_s


def test_who_waits_for_a_frozen_expert_has_no_more_time_when_others_give_up(spec: Any) -> None:
    def mine(house: House) -> Near:
        near = house.mine("frozen", Model())
        near.answers = lambda _: False
        return near

    texts = [Coming(40, at_s=float(at_s)) for at_s in range(12)]
    found, _ = written(spec, mine, texts)
    most_s = ATTEMPTS * (BASE_S + TOKEN_S * 12 * 40) + RESTS_S
    for text, coming in zip(found, texts, strict=True):
        assert text.ended_s <= coming.at_s + most_s


def test_an_expert_that_freezes_among_prompts_is_given_up(spec: Any) -> None:
    """What it answered before gives it no time after."""

    def mine(house: House) -> Near:
        near = house.mine("frozen", Model())
        near.answers = lambda sent: sent <= 10
        return near

    found, _ = written(spec, mine, SHORT)
    assert all(isinstance(text.error, NobodyAnswers) for text in found)
    assert max(text.ended_s for text in found) <= (ATTEMPTS + 1) * ALL_S


def test_a_text_that_an_expert_starves_is_not_held_by_those_that_come_after_it(spec: Any) -> None:
    """It gives no answer to the first prompt, and to all others, one each second."""

    def mine(house: House) -> Near:
        near = house.mine("starving", Model())
        near.answers = lambda sent: sent != 1
        return near

    texts = [Coming(40, at_s=float(at_s)) for at_s in range(60)]
    found, _ = written(spec, mine, texts, tokens=4)
    assert all(text.error is None for text in found)  # at the second try it is answered
    assert found[0].times_s[0] <= 2 * (BASE_S + TOKEN_S * 40) + asking.REST_S


def test_a_slow_expert_among_quick_ones_is_left_out(spec: Any) -> None:
    def quick(house: House) -> Near:
        house.mine("quicker", Model())
        return house.mine("quick", Model())

    def beside(house: House) -> Near:
        house.mine("slow", slow(100.0))
        return quick(house)

    (without, _), (found, _) = (written(spec, mine, SHORT) for mine in (quick, beside))
    assert all(text.error is None for text in found)
    assert found[0].ended_s <= 4 * without[0].ended_s


def test_others_take_over_from_one_that_gets_on_too_slowly(spec: Any) -> None:
    """Where others could answer, nobody is waited for as long as where nobody could."""

    def mine(house: House) -> Near:
        house.mine("quick", Model())
        return house.mine("slow", Model(token_s=0.05))

    found, _ = written(spec, mine, [*SHORT, *SHORT], tokens=1, top_k=1)
    assert not any(text.error for text in found)
    assert HELD_S < max(text.ended_s for text in found) <= HELD_S + BASE_S + ALL_S / 4


def test_prompts_for_which_a_miner_has_no_room_wait_until_it_has(spec: Any) -> None:
    def mine(house: House) -> Near:
        return house.mine("small", slow(4.0), queue_tokens=64)

    found, _ = written(spec, mine, SHORT)
    assert [text.error for text in found] == [None] * len(SHORT)


def test_a_miner_that_refuses_everything_is_not_waited_for(spec: Any) -> None:
    def mine(house: House) -> Near:
        near = house.mine("full", Model())
        near.refuses = True
        return near

    found, _ = written(spec, mine, SHORT)
    assert all(isinstance(text.error, NobodyAnswers) for text in found)
    assert max(text.ended_s for text in found) <= 4 * asking.REST_S
