"""A miner that draws ahead: its tokens are those that its caller draws with the same numbers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from moesubnet.errors import EngineError, PeerRefused
from moesubnet.mixture.drafting import Drawn
from moesubnet.mixture.law import law_of
from moesubnet.wire.ahead import Ahead
from moesubnet.wire.panel import Panel
from moesubnet.wire.panel_sequence import PanelSequence
from moesubnet.wire.protocol import SequenceStep, StepRequest, StepResponse, StepRows, Want

from .conftest import ALICE, BOB, FakeEngine, step_of, u32

TIMEOUT_S = 60.0
WANTS = [Want("full"), Want("nucleus", 200, 0.6), Want("nucleus", 200, 0.6, committed=True)]


def ahead(count: int, *, temperature: float = 1.0, top_p: float = 1.0, seed: int = 0) -> Ahead:
    return Ahead(temperature, top_p, HOUR_S, np.random.default_rng(seed).random(count))


def asking(count: int, sequence: SequenceStep, **how: Any) -> StepRequest:
    want = how.pop("want", Want("full"))
    return StepRequest((replace(sequence, further=count),), want, ahead(count, **how))


HOUR_S = 3_600.0


@pytest.fixture(autouse=True)
def _nobody_is_in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the machine: only what a test says ends a block."""
    monkeypatch.setattr("moesubnet.wire.ahead.MAX_WITHIN_S", HOUR_S)


async def one_by_one(client: Any, prompt: np.ndarray, request: StepRequest) -> list[int]:
    """The text that its caller draws itself, a step a token."""
    how, text = request.ahead, prompt
    for point in how.points:
        [rows] = (
            await client.step(
                StepRequest((step_of("plain", u32(), text),), request.want), timeout_s=TIMEOUT_S
            )
        ).rows
        law = law_of(rows, -1, None)
        token = Drawn.of(law.logp, law.ids, how.temperature, how.top_p).at_point(point)
        text = np.append(text, np.uint32(token))
    return text[len(prompt) :].tolist()


@pytest.mark.parametrize("want", WANTS)
@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 0.9), (0.0, 1.0)])
async def test_it_draws_what_its_caller_would(
    serve_miner: Callable[..., Any], want: Want, temperature: float, top_p: float
) -> None:
    client = await (await serve_miner(FakeEngine(), stop_ids=(299,))).client(ALICE)
    prompt = u32(5, 6, 7)
    request = asking(
        9, step_of("s", u32(), prompt), want=want, temperature=temperature, top_p=top_p
    )
    [rows] = (await client.step(request, timeout_s=TIMEOUT_S)).rows
    drawn = rows.further.tolist()
    assert len(drawn) == rows.count == 9
    assert drawn == await one_by_one(client, prompt, request)
    assert (rows.bound is not None) == want.committed


class Counting(FakeEngine):
    """Sure of the number of ids before it."""

    def laws(self, ids: np.ndarray, first: int) -> np.ndarray:
        rows = np.full((len(ids) + 1 - first, self.vocab_size), np.float32(-20.0))
        rows[np.arange(len(rows)), np.arange(first, len(ids) + 1)] = -1e-6
        return rows


async def test_a_stop_id_ends_it_and_is_told(serve_miner: Callable[..., Any]) -> None:
    """Else the caller would draw once more where the text should end."""
    engine = Counting()
    client = await (await serve_miner(engine, stop_ids=(5,))).client(ALICE)
    request = asking(9, step_of("s", u32(), u32(0, 1)))
    [rows] = (await client.step(request, timeout_s=TIMEOUT_S)).rows
    assert rows.further.tolist() == [2, 3, 4, 5]
    assert rows.count == len(engine.batches) == 4, "nothing is read after it"


async def test_no_pass_is_begun_that_would_end_too_late(serve_miner: Callable[..., Any]) -> None:
    engine = Counting()
    client = await (await serve_miner(engine)).client(ALICE)
    request = asking(9, step_of("s", u32(), u32(0, 1)))
    hurried = replace(request, ahead=replace(request.ahead, within_s=0.0))
    [rows] = (await client.step(hurried, timeout_s=TIMEOUT_S)).rows
    assert rows.further.tolist() == [2]
    assert rows.count == len(engine.batches) == 1


async def test_the_session_goes_on_from_what_was_kept(serve_miner: Callable[..., Any]) -> None:
    engine = FakeEngine()
    client = await (await serve_miner(engine, stop_ids=(299,))).client(ALICE)
    prompt = u32(5, 6, 7)
    request = asking(6, step_of("s", u32(), prompt))
    [rows] = (await client.step(request, timeout_s=TIMEOUT_S)).rows
    text = np.concatenate([prompt, rows.further])
    for base, new in ((text[:-1], text[-1:]), (text[:5], u32(9)), (prompt, u32(1, 2))):
        step = StepRequest((step_of("s", base, new),), Want("full"))
        [after] = (await client.step(step, timeout_s=TIMEOUT_S)).rows
        law = engine.laws(np.concatenate([base, new]), len(base) + len(new))
        assert np.allclose(after.logprobs, law, atol=5e-3)


async def test_a_lost_answer_is_given_again_without_work(serve_miner: Callable[..., Any]) -> None:
    engine = FakeEngine()
    client = await (await serve_miner(engine, stop_ids=(299,))).client(ALICE)
    request = asking(6, step_of("s", u32(), u32(5, 6, 7)))
    once = await client.step(request, timeout_s=TIMEOUT_S)
    passes = len(engine.batches)
    again = await client.step(request, timeout_s=TIMEOUT_S)
    assert again.proof.body == once.proof.body
    assert len(engine.batches) == passes == 6


async def test_texts_that_are_drawn_ahead_share_their_passes(
    serve_miner: Callable[..., Any],
) -> None:
    engine = FakeEngine()
    served = await serve_miner(engine, stop_ids=(299,))
    alice, bob = await served.client(ALICE), await served.client(BOB)
    engine.gate.clear()
    calls = [
        asyncio.ensure_future(
            client.step(asking(8, step_of(name, u32(), u32(5, 6, i))), timeout_s=TIMEOUT_S)
        )
        for i, (client, name) in enumerate([(alice, "a"), (alice, "b"), (bob, "c")])
    ]
    while served.expert._steps.waiting_tokens < 3 * 8:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    engine.gate.set()
    answers = await asyncio.gather(*calls)
    assert all(len(answer.rows[0].further) == 8 for answer in answers)
    assert sum(len(batch) == 3 for batch in engine.batches) >= 6


async def test_work_stops_when_the_caller_leaves(serve_miner: Callable[..., Any]) -> None:
    engine = FakeEngine()
    served = await serve_miner(engine, stop_ids=(299,))
    client = await served.client(ALICE)
    engine.gate.clear()
    call = asyncio.ensure_future(
        client.step(asking(40, step_of("s", u32(), u32(5, 6, 7))), timeout_s=TIMEOUT_S)
    )
    while not engine.batches:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    call.cancel()
    while served.expert._steps.waiting_tokens:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    engine.gate.set()
    await asyncio.sleep(0.2)
    assert len(engine.batches) <= 2


@pytest.mark.parametrize("want", WANTS[:1] + WANTS[2:])
async def test_a_panel_goes_on_with_what_was_drawn(
    serve_miner: Callable[..., Any], want: Want
) -> None:
    """The next steps find their base, and a committed leaf is shown."""
    client = await (await serve_miner(FakeEngine(), stop_ids=(299,))).client(ALICE)
    client.commits = True
    panel = Panel({client.hotkey: client}, base_s=TIMEOUT_S, want=want)
    sequence, text = PanelSequence("s"), [5, 6, 7]
    append = text
    for _ in range(3):
        answers = await panel.advance(
            [sequence], [append], further={client.hotkey: 5}, ahead=ahead(5)
        )
        answer = answers[client.hotkey]
        assert isinstance(answer, StepResponse), answer
        drawn = answer.rows[0].further.tolist()
        assert answer.rows[0].count == len(drawn) == 5
        assert sequence.ids.tolist() == text + drawn[:-1]
        text, append = text + drawn, drawn[-1:]
    unlisted = (
        next(iter(set(range(300)) - set(answer.rows[0].row(-1)[0].tolist())))
        if (want.committed)
        else 0
    )
    sequence.append([unlisted])
    assert not await panel.reveal([sequence])
    assert (sequence.said(client.hotkey) is not None) == want.committed
    if want.committed:
        position, logprob = sequence.said(client.hotkey)
        law = FakeEngine().laws(np.array(sequence.ids[:-1]), position)
        assert logprob == pytest.approx(float(law[0, unlisted]), abs=5e-3)


async def test_an_engine_that_fails_in_the_middle_fails_the_call(
    serve_miner: Callable[..., Any],
) -> None:
    class Failing(FakeEngine):
        def rows(self, batch: Any, want: Want) -> list[StepRows]:
            if len(self.batches) == 3:
                raise EngineError("out of memory")
            return super().rows(batch, want)

    client = await (await serve_miner(Failing(), stop_ids=(299,))).client(ALICE)
    with pytest.raises(PeerRefused) as caught:
        await client.step(asking(8, step_of("s", u32(), u32(5))), timeout_s=TIMEOUT_S)
    assert caught.value.status == 503
