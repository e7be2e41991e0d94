"""A miner is held to its committed rows by a panel over a real socket."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from moesubnet.errors import BadReveal
from moesubnet.miner.tails import TailTable
from moesubnet.types import Hotkey
from moesubnet.wire.commitment import commit, proof_bytes
from moesubnet.wire.panel import Panel
from moesubnet.wire.panel_sequence import PanelSequence
from moesubnet.wire.protocol import StepRequest, StepResponse, Want
from tests.miner.conftest import ALICE, BOB, MINER, FakeEngine, step_of, u32

V, K = 3_000, 20
WANT = Want("top_k", K, committed=True)
EXPERT = Hotkey(MINER.ss58_address)


async def panel_over(serve_miner: Callable[..., Any]) -> tuple[FakeEngine, Any, Panel]:
    engine = FakeEngine(vocab_size=V)
    served = await serve_miner(engine)
    client = await served.client(ALICE)
    client.commits = True
    return engine, served, Panel({EXPERT: client}, base_s=5.0, want=WANT)


def unlisted(answer: object) -> int:
    assert isinstance(answer, StepResponse), answer
    assert answer.rows[0].ids is not None
    return int(np.setdiff1d(np.arange(V), answer.rows[0].ids[-1])[1_234])


async def test_every_token_of_a_walk_scores_what_the_miner_gave_it(
    serve_miner: Callable[..., Any],
) -> None:
    engine, _, panel = await panel_over(serve_miner)
    sequence = PanelSequence("walk", u32())
    answer = (await panel.advance([sequence], [u32(1, 2)]))[EXPERT]
    for _ in range(3):
        token = unlisted(answer)
        law = engine.laws(sequence.ids, len(sequence.ids))[0]
        answer = (await panel.advance([sequence], [u32(token)]))[EXPERT]
        position, value = sequence.said(EXPERT)  # type: ignore[misc]
        assert position == len(sequence.ids) - 1
        assert value == pytest.approx(float(law[token]), abs=1e-3)
    batches = len(engine.batches)
    law = engine.laws(sequence.ids, len(sequence.ids))[0]
    sequence.append([token := unlisted(answer)])
    assert await panel.reveal([sequence]) == {}
    assert sequence.said(EXPERT)[1] == pytest.approx(float(law[token]), abs=1e-3)  # type: ignore[index]
    assert len(engine.batches) == batches  # the last leaf costs no forward pass
    assert await panel.reveal([sequence]) == {}  # nothing is owed: nobody is asked


async def test_a_listed_token_needs_no_leaf(serve_miner: Callable[..., Any]) -> None:
    _, served, panel = await panel_over(serve_miner)
    sequence = PanelSequence("walk", u32())
    answer = (await panel.advance([sequence], [u32(1)]))[EXPERT]
    assert isinstance(answer, StepResponse)
    await panel.advance([sequence], [u32(int(answer.rows[0].row(-1)[0][0]))])
    assert sequence.said(EXPERT) is None
    assert served.expert._tails.lost == 0


async def test_a_miner_that_lost_the_tail_has_failed_and_withheld_it(
    serve_miner: Callable[..., Any],
) -> None:
    _, served, panel = await panel_over(serve_miner)
    sequence = PanelSequence("walk", u32())
    answer = (await panel.advance([sequence], [u32(1)]))[EXPERT]
    served.expert._tails.forget(Hotkey(ALICE.ss58_address), "walk")
    answer = (await panel.advance([sequence], [u32(unlisted(answer))]))[EXPERT]
    assert isinstance(answer, BadReveal)
    assert sequence.said(EXPERT) == (1, -20.0)
    assert served.expert._tails.lost == 1
    assert isinstance((await panel.advance([sequence], [u32(3)]))[EXPERT], StepResponse)


async def test_a_leaf_that_was_lost_on_the_way_is_asked_again(
    serve_miner: Callable[..., Any],
) -> None:
    engine, served, panel = await panel_over(serve_miner)
    sequence = PanelSequence("walk", u32())
    answer = (await panel.advance([sequence], [u32(1)]))[EXPERT]
    law = engine.laws(sequence.ids, len(sequence.ids))[0]
    token = unlisted(answer)
    sequence.append([token])
    # The step that brings the token is answered, but its answer never reaches the panel.
    step = replace(step_of("walk", u32(1), u32(token)), reveal=(1, token))
    lost = StepRequest((step,), WANT)
    await served.expert.step(Hotkey(ALICE.ss58_address), lost.to_bytes())
    assert await panel.reveal([sequence]) == {}
    assert sequence.said(EXPERT)[1] == pytest.approx(float(law[token]), abs=1e-3)  # type: ignore[index]


def a_tail(seed: int) -> Any:
    logits = np.random.default_rng(seed).normal(0, 3, V)
    law = (logits - np.logaddexp.reduce(logits)).astype(np.float32)
    return commit(law[None], [np.empty(0, np.uint32)])[0]


def test_one_token_of_a_tail_is_shown_and_to_its_caller_alone() -> None:
    alice, bob = Hotkey(ALICE.ss58_address), Hotkey(BOB.ss58_address)
    table, tail, missing = TailTable(V), a_tail(0), bytes(proof_bytes(V))
    table.keep(alice, "s", 7, tail)
    assert table.show(bob, "s", 7, 5) == missing
    assert table.show(alice, "s", 6, 5) == missing
    assert table.show(alice, "s", 7, 5) == tail.open(5)
    assert table.show(alice, "s", 7, 2_000) == missing
    table.keep(alice, "s", 8, a_tail(1))
    assert table.show(alice, "s", 7, 5) == tail.open(5)  # a retry, after the next tail came
    assert table.lost == 3


def test_no_caller_crowds_out_another_s_tail() -> None:
    alice, bob = Hotkey(ALICE.ss58_address), Hotkey(BOB.ss58_address)
    tail = a_tail(0)
    table = TailTable(V, budget_bytes=5 * tail.nbytes)
    table.keep(alice, "mine", 1, tail)
    for i in range(30):
        table.keep(bob, f"{i}", 1, tail)
    assert table.show(alice, "mine", 1, 9) == tail.open(9)
    assert table.show(bob, "0", 1, 9) == bytes(proof_bytes(V))
    assert table.show(bob, "29", 1, 9) == tail.open(9)


async def test_a_law_that_is_none_is_the_engine_s_fault(serve_miner: Callable[..., Any]) -> None:
    engine, _, panel = await panel_over(serve_miner)
    true = engine.laws
    engine.laws = lambda ids, first: true(ids, first) + np.float32(0.01)  # type: ignore[method-assign]
    answer = (await panel.advance([PanelSequence("walk", u32())], [u32(1)]))[EXPERT]
    assert "503" in str(answer) or "engine_unavailable" in str(answer)
