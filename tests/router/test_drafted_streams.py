"""The mixture with a student that drafts: over real miners on real sockets, with laws we know."""

# ruff: noqa: F811  # fixtures of another module, as arguments

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from moesubnet.engine.drafting import draft as draft_with
from moesubnet.errors import EngineError, NobodyAnswers
from moesubnet.mixture.draft_length import MOST_LOST_DRAFTS, entropy_nats
from moesubnet.mixture.drafting import Draft, Drawn, next_token
from moesubnet.mixture.gate import uniform_gate
from moesubnet.mixture.guessing import GuessPace
from moesubnet.mixture.law import Law, mix
from moesubnet.mixture.mixing import Walk, members_of
from moesubnet.router.mixed import MixtureSession
from moesubnet.router.model import ALONE, Drawing
from moesubnet.router.student import StudentModel
from moesubnet.units import Grain
from tests.conftest import TINY_CONTEXT, TINY_VOCAB

from .test_mixed_streams import LawEngine, network, open_model  # noqa: F401  # the fixtures

FEW = np.array([5, 6, 7])


def some(ids: np.ndarray, salt: int) -> np.ndarray:
    """A law of mostly three tokens, of the text's own."""
    rng = np.random.default_rng([salt, *ids.tolist()])
    law = np.full(TINY_VOCAB, 0.01 / TINY_VOCAB)
    law[FEW] += 0.99 * rng.dirichlet(np.full(3, 0.7))
    return np.log(law / law.sum()).astype(np.float32)


class StudentProcess:
    """What `EngineProcess` is to the router, in this process."""

    vocab_size = TINY_VOCAB

    def __init__(self, law) -> None:
        self.engine = LawEngine(law)
        self.drafted: list[int] = []
        self.fails = self.hangs = False

    async def rows(self, batch, want):
        await self._may_fail()
        return self.engine.rows(batch, want)

    async def draft(self, query, asked, want):
        await self._may_fail()
        self.drafted.append(asked.count)
        return draft_with(self.engine, [query], [asked], want)[0]

    async def _may_fail(self) -> None:
        if self.hangs:
            await asyncio.sleep(60.0)
        if self.fails:
            raise EngineError("the engine's process died")

    def forget(self, session: str) -> None:
        self.engine.forget(session)


class FarAway(GuessPace):
    """Drafts pay, however quick the tests are."""

    first_drafted_s = 0.001

    def took(self, drafted: int, seconds: float) -> None:
        pass


def student_of(law) -> StudentModel:
    student = StudentModel(StudentProcess(law))
    student.pace = FarAway()
    return student


async def write(session: MixtureSession, prompt, tokens: int, seed=0, temperature=1.0):
    """The text, and the forecast of each of its tokens."""
    rng, text, forecasts = np.random.default_rng(seed), list(prompt), []
    forecast = await session.start(np.array(prompt, np.uint32), Drawing(temperature, 1.0, tokens))
    for left in range(tokens - 1, -1, -1):
        forecasts.append(forecast)
        m = forecast.mixture
        drawn = Drawn.of(m.log_drawn, m.law.ids, temperature, 1.0)
        text.append(next_token(drawn, forecast.drafts, rng))
        if left:
            forecast = await session.append(text[-1], Drawing(temperature, 1.0, left))
    return text, forecasts


@pytest.fixture
async def drafted(network, open_model):
    """A model with two experts and a student, whose laws are the texts' own."""
    laws = {
        await network.mine(name, lambda ids, salt=salt: some(ids, salt)): salt
        for salt, name in enumerate(("one", "two"))
    }
    model = await open_model()
    model.student = student_of(lambda ids: some(ids, 0))
    return model, laws


async def test_each_law_is_the_undrafted_one_under_the_same_evidence(drafted) -> None:
    """Whatever was drafted, kept and rolled back, a token's law is the mixture of what the
    members say of it, weighed by the tokens that nobody had drafted."""
    model, salts = drafted
    members = members_of(salts)
    text, forecasts = await write(model.open(), [9, 5, 6, 7], 24)

    student = model.student.beside(model.baseline.law)
    walk = Walk(uniform_gate(), members)
    walk.show(np.array([text[:2]]))
    counted = 0
    for end in range(2, len(text)):
        said = [some(np.array(text[:end]), salts[m]) for m in members[:-1]]
        # It lists nearly all of its law; the rest is in the baseline's proportions.
        [its] = await student.laws(np.array(text[:end], np.uint32), end)
        said.append(its.logp)
        if end >= 4:
            expected = mix(walk.log_weights()[0], [Law(row) for row in said])
            found = forecasts[end - 4].mixture.law
            assert np.abs(np.exp(found.logp) - np.exp(expected.law.logp)).sum() < 0.005
        token, drafts = np.array([text[end]]), end >= 4 and forecasts[end - 4].drafts
        if drafts:
            walk.show(token[None])
        else:
            counted += end >= 4
            walk.observe(token, np.array([[row[text[end]] for row in said]]))
    assert 0 < counted < 20  # both kinds came


async def test_a_student_saves_round_trips(drafted) -> None:
    model, salts = drafted

    async def answers(first: int) -> list[int]:
        """Of each expert, to four texts: drafts are drawn, so one text may keep few."""
        before = [model.book.known()[key].answers for key in salts]
        for prompt in range(first, first + 4):
            await write(model.open(), [9, 5, 6, prompt], 40)
        after = [model.book.known()[key].answers for key in salts]
        return [now - had for now, had in zip(after, before, strict=True)]

    with_drafts = await answers(10)
    student, model.student = model.student, None
    without = await answers(20)
    # Three to the first token, then one each; after a block one of no weight is not asked.
    assert max(without) == 4 * 42
    assert min(without) >= 4 * 30
    assert max(with_drafts) < 4 * 30
    assert sum(student.engine.drafted) > 4 * 20


async def test_a_drafted_byte_misses_a_part_of_a_tokens_evidence(drafted) -> None:
    """Else bytes would go undrafted after as many bytes as tokens after tokens."""
    model, _ = drafted
    missed = []
    for seed, grain in enumerate((Grain(), Grain("bytes", 4.0))):
        model.gate = lambda grain=grain: uniform_gate(grain=grain)
        session = model.open()
        prompt = np.array([9, *range(5, 20), seed], np.uint32)
        forecast = await session.start(prompt, Drawing(1.0, 1.0, 20))
        while not forecast.drafts:
            forecast = await session.append(5, Drawing(1.0, 1.0, 20))
        before, weights = session._drafting.length._missed_nats, forecast.weights.values()
        await session.append(forecast.drafts[0].token_id, Drawing(1.0, 1.0, 19))
        after = session._drafting.length._missed_nats
        missed.append((after - before) / entropy_nats(list(weights)))
    assert missed == pytest.approx([1.0, 0.25])


async def test_the_first_draft_is_part_of_the_third_call(drafted) -> None:
    model, salts = drafted
    session = model.open()
    forecast = await session.start(np.array([9, 5, 6, 7], np.uint32), Drawing(1.0, 1.0, 20))
    assert forecast.drafts
    assert [model.book.known()[key].answers for key in salts] == [3, 3]


async def test_a_token_drawn_with_drafts_has_the_mixtures_law(drafted) -> None:
    """The second token after the same first one, over many streams, by chi-squared."""
    model, _ = drafted
    counts, expected = np.zeros(3), None
    for seed in range(120):
        session = model.open()
        rng = np.random.default_rng(seed)
        forecast = await session.start(np.array([9], np.uint32), Drawing(1.0, 1.0, 6))
        m = forecast.mixture
        expected = np.exp(m.law.logp[FEW]) if expected is None else expected
        drawn = Drawn.of(m.log_drawn, m.law.ids, 1.0, 1.0)
        token = next_token(drawn, forecast.drafts, rng)
        assert forecast.drafts
        counts += token == FEW
    expected = 120 * expected / expected.sum()
    assert ((counts - expected) ** 2 / expected).sum() < 18.0  # two degrees of freedom


async def test_experts_are_owed_for_lost_drafts_which_are_bounded(drafted) -> None:
    model, salts = drafted
    model.student = student_of(lambda ids: some(ids, 99))  # a poor drafter
    session = model.open()
    text, _ = await write(session, [9, 5, 6, 7], 30)
    for key in salts:
        positions, _ = session.answered()[key]
        assert len(text) - 1 < positions <= 4 + (1 + MOST_LOST_DRAFTS) * 30


async def test_what_a_grammar_forces_in_vain_is_bounded_too(unaided) -> None:
    """As where a bias is against the tokens that usually spell what is forced."""
    model, _ = unaided
    session, tokens, forced = model.open(), 30, Draft(33, is_forced=True)

    def drawing(left: int) -> Drawing:
        return Drawing(left=left, lawful=lambda drafts, most: [*drafts, *[forced] * most][:most])

    await session.start(np.array([9, 5, 6, 7], np.uint32), drawing(tokens))
    for left in range(tokens - 1, 0, -1):
        await session.append(5, drawing(left))
    for positions, _ in session.answered().values():
        assert 4 + 2 * tokens < positions <= 4 + (1 + MOST_LOST_DRAFTS) * tokens


@pytest.mark.parametrize(("says", "log_p"), [("yes", -1e-6), ("no", -25.0)])
async def test_who_says_yes_or_no_to_every_draft_weighs_what_an_honest_one_does(
    network, open_model, says, log_p
) -> None:
    class Liar(LawEngine):
        """Sure of every token that it was sent, or that it never comes."""

        def laws(self, query):
            laws = super().laws(query)
            for row, at in enumerate(range(query.first_law, len(query.ids))):
                sent = query.ids[at]
                others = np.log(np.expm1(-log_p)) + log_p - np.log1p(-np.exp(laws[row, sent]))
                laws[row] += others
                laws[row, sent] = log_p
            return laws

    honest = await network.mine("honest", lambda ids: some(ids, 0))
    liar = await network.mine(says, Liar(lambda ids: some(ids, 0)))
    model = await open_model()
    model.student = student_of(lambda ids: some(ids, 3))
    for seed in range(3):
        _, forecasts = await write(model.open(), [9, 5, 6, 7 + seed], 24, seed)
        assert any(forecast.drafts for forecast in forecasts)
        for forecast in forecasts:
            assert forecast.weights[liar] == pytest.approx(forecast.weights[honest])


async def test_what_was_drafted_is_no_evidence_in_another_stream_either(drafted) -> None:
    """An expert that was sent a draft knows what the next stream of the same text may write."""
    model, _ = drafted
    session = model.open()
    prompt = np.array([9, 5, 6, 7], np.uint32)
    first = await session.start(prompt, Drawing(1.0, 1.0, 20))
    assert first.drafts
    other = model.open()
    await other.start(prompt)
    before = other.posterior.walk.log_weights()
    await other.append(first.drafts[0].token_id, Drawing())
    evidence = other.posterior.walk._counted[len(prompt)][2][0]
    assert np.isnan(evidence[:-1]).all()
    assert np.isfinite(before).all()


@pytest.mark.parametrize("how", ["fails", "hangs"])
async def test_a_stream_goes_on_without_a_student_that_is_gone(drafted, monkeypatch, how) -> None:
    monkeypatch.setattr("moesubnet.router.drafting.PATIENCE_S", 0.1)
    model, salts = drafted
    session = model.open()
    text, forecasts = await write(session, [9, 5, 6, 7], 8)
    assert set(forecasts[-1].weights) == {*salts, "student"}
    setattr(model.student.engine, how, True)
    forecast = await asyncio.wait_for(session.append(text[-1], Drawing(1.0, 1.0, 8)), 10.0)
    while forecast.drafts:  # what was drafted before still stands
        forecast = await session.append(forecast.drafts[0].token_id, Drawing(1.0, 1.0, 8))
    forecast = await session.append(5, Drawing(1.0, 1.0, 8))
    assert not forecast.drafts or forecast.drafts[0].drawn_from is None  # an expert's
    assert set(forecast.weights) == {*salts, "baseline"}


@pytest.mark.parametrize("how", ["leaves", "fails"])
async def test_a_stream_that_ends_asks_the_student_nothing_more(
    network, drafted, monkeypatch, impatient, how
) -> None:
    monkeypatch.setattr("moesubnet.router.asking.REST_S", 0.0)
    model, salts = drafted
    session = model.open()
    text, _ = await write(session, [9, 5, 6, 7], 2)
    model.student.engine.hangs = True
    for hotkey in salts if how == "fails" else ():
        await network.kill(hotkey)
    before = asyncio.all_tasks()
    going_on = asyncio.create_task(session.append(text[-1], ALONE))
    if how == "leaves":
        while len(asyncio.all_tasks() - before) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0)
        going_on.cancel()
        with pytest.raises(asyncio.CancelledError):
            await going_on
    else:
        with pytest.raises(NobodyAnswers):
            await going_on
    await asyncio.sleep(0.01)
    assert asyncio.all_tasks() - before == set()


async def test_a_block_survives_the_death_of_an_expert_and_of_all_but_others(
    network,
    open_model,
) -> None:
    """With a draft under way the text that the others are asked about is without it."""
    first = await network.mine("one", lambda ids: some(ids, 0))
    model = await open_model(top_k=1)
    model.student = student_of(lambda ids: some(ids, 0))
    session = model.open()
    text, _ = await write(session, [9, 5, 6, 7], 6)
    second = await network.mine("two", lambda ids: some(ids, 1))
    await model.book.refresh(network.current())
    await network.kill(first)
    forecast = await session.append(text[-1], Drawing(1.0, 1.0, 10))
    while first in forecast.weights:
        token = forecast.drafts[0].token_id if forecast.drafts else 5
        text.append(token)
        forecast = await session.append(token, Drawing(1.0, 1.0, 10))
    assert second in forecast.weights
    said = [Law(some(np.array(text), 1)), Law(some(np.array(text), 0))]
    weights = np.log([forecast.weights[second], forecast.weights["student"]])
    expected = mix(weights, said).law
    assert np.abs(np.exp(forecast.mixture.law.logp) - np.exp(expected.logp)).sum() < 0.06


# -- without a student: the heaviest expert drafts ---------------------------------------------


def steady(ids: np.ndarray, salt: int) -> np.ndarray:
    """A law that is surer than `some`."""
    law = np.exp(some(ids, salt)) ** 4
    return np.log(law / law.sum()).astype(np.float32)


@pytest.fixture
async def unaided(network, open_model):
    engines = [LawEngine(lambda ids, salt=salt: steady(ids, salt)) for salt in (0, 1)]
    for name, engine in zip(("one", "two"), engines, strict=True):
        await network.mine(name, engine)
    model = await open_model()
    model.pace = FarAway()
    return model, engines


async def test_the_heaviest_expert_drafts_in_the_call_that_verifies(unaided) -> None:
    """Greedy text is what it is without drafts, in fewer calls; the experts' rows are those of the
    texts as they came to be, whatever was rolled back."""
    model, _ = unaided
    prompt = [9, 5, 6, 7]
    text, forecasts = await write(model.open(), prompt, 30, temperature=0.0)
    assert any(forecast.drafts for forecast in forecasts)
    assert all(d.drawn_from is None for f in forecasts for d in f.drafts)
    calls = max(expert.answers for expert in model.book.known().values())
    plain, session = list(prompt), model.open()
    forecast = await session.start(np.array(prompt, np.uint32))
    for _ in range(30):
        plain.append(forecast.mixture.likeliest(1)[0][0])
        forecast = await session.append(plain[-1], Drawing(0.0))
    assert text == plain
    assert calls < 25


async def test_a_drafting_expert_that_guesses_badly_is_hardly_asked_to(unaided) -> None:
    model, _ = unaided
    for expert in model.book.known().values():
        step = expert.met.client.step

        async def guessing_badly(request, *, step=step, **more):
            response = await step(request, **more)
            rows = [replace(row, further=row.further * 0 + 33) for row in response.rows]
            return replace(response, rows=tuple(rows))

        expert.met.client.step = guessing_badly
    session = model.open()
    _, forecasts = await write(session, [9, 5, 6, 7], 40)
    assert not any(forecast.drafts for forecast in forecasts)
    assert session._drafting.length.acceptance < 0.2


async def test_nothing_is_asked_beyond_the_context(unaided) -> None:
    model, engines = unaided
    prompt = [9] + [5] * 20
    await write(model.open(), prompt, TINY_CONTEXT - 1 - len(prompt), temperature=0.0)
    assert max(len(ids) for engine in engines for ids in engine.met) < TINY_CONTEXT


async def test_who_is_asked_for_nothing_more_goes_on_with_nothing(unaided) -> None:
    model, _ = unaided
    session = model.open()
    await session.start(np.array([9, 5], np.uint32))
    heard = await session.extend(np.array([6], np.uint32))
    assert list(heard.further) == []
    heard = await session.extend(np.array([7], np.uint32), further=3)
    assert len(heard.further) == 3
    laws = [steady(np.array([9, 5, 6, 7]), salt) for salt in (0, 1)]
    assert heard.further[0] in [int(law.argmax()) for law in laws]


async def test_many_streams_draft_at_once(drafted) -> None:
    """Each is written to its end, by the student's drafts."""
    model, _ = drafted
    prompts = [[9, 5, 6, i] for i in range(8)]
    written = await asyncio.gather(
        *(write(model.open(), prompt, 12, seed) for seed, prompt in enumerate(prompts))
    )
    assert all(len(text) == 16 for text, _ in written)
    assert all(any(f.drafts for f in forecasts) for _, forecasts in written)
