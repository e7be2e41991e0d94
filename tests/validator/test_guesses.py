"""Drafts in walks: a router's blocks, of which only what was blind is an item."""

from __future__ import annotations

import dataclasses
from random import Random

import numpy as np
import pytest

from moesubnet.mixture.gate import uniform_gate
from moesubnet.mixture.sheet import LOG_Q_UNANSWERED, Sheet
from moesubnet.types import Hotkey
from moesubnet.validator.audit import audit
from moesubnet.validator.guesses import MOST_LOST, Guesses
from moesubnet.validator.shapes import Ahead, Shapes
from moesubnet.validator.weighed import Weighed
from moesubnet.wire.step import MAX_FURTHER
from tests.sheets import closed

V = 300


def counts_on(ids):
    """Says that the next token is the last one's successor."""
    law = np.full(V, np.log(0.2 / (V - 1)))
    law[(int(ids[-1]) + 1) % V] = np.log(0.8)
    return law


def numbers(seed, tokens=120, jump=0.15):
    """A text that counts on and sometimes jumps."""
    rng = np.random.default_rng(seed)
    steps = np.where(rng.random(tokens) < jump, rng.integers(2, 200, tokens), 1)
    return (np.cumsum(steps) % V).astype(np.uint32)


@pytest.fixture
async def walked(measure, start_expert, laws, monkeypatch):
    """Sixteen walks, of which the counting expert is the heaviest; experts, batches, sheet."""
    monkeypatch.setattr("moesubnet.wire.patience.LEAST_S", 3_600.0)  # nobody is late
    monkeypatch.setattr("moesubnet.validator.walks.PATIENCE_S", 3_600.0)
    counting = await start_expert("//Counting", counts_on)
    other = await start_expert("//Other", lambda ids: np.log(laws[0]))
    documents = {bytes([k]) * 32: numbers(k) for k in range(16)}
    measurement, state, chain, _ = await measure([counting, other], documents)
    measurement._shapes = Shapes(
        tuple((n, 0.1) for n in range(14, 24)),
        tuple((n, 0.1) for n in range(20, 30)),
        blind=2,
        limit=60,
        asked=(1.0, 1.0, 1.0),
        ahead=((MAX_FURTHER, 1.0),),
    )
    metagraph = await chain.metagraph(1)
    batches = await measurement.open_batches(metagraph, 16)
    for batch in batches:
        await measurement.run([batch])
    sheet, receipts = closed(
        state.open_batches(),
        metagraph,
        Hotkey(chain.neurons[0].hotkey),
    )
    alone = [batch for batch in batches if len(batch.walks) == 1]
    return counting, other, alone, state.open_batches(), sheet, receipts


def of_session(expert, session):
    steps = [sequence for request in expert.requests for sequence in request.sequences]
    return [step for step in steps if step.session == session]


async def test_a_walk_has_blocks_of_what_its_heaviest_expert_would_say(walked):
    counting, other, alone, *_ = walked
    assert len(alone) > 3
    asked = [step for batch in alone for step in of_session(counting, batch.sessions[0])]
    told = [step for batch in alone for step in of_session(other, batch.sessions[0])]
    blocks = [step for step in asked if step.base_len and len(step.append_ids) > 1]
    assert blocks
    assert all(step.rows == len(step.append_ids) for step in blocks)
    assert all((np.diff(step.append_ids[1:].astype(int)) % V == 1).all() for step in blocks)
    assert any(step.further for step in asked)
    assert not any(step.further for step in told)
    assert [len(s.append_ids) for s in asked] == [len(s.append_ids) for s in told]


async def test_only_what_was_blind_is_an_item(walked):
    counting, _, alone, stored, sheet, _ = walked
    steps_of = {batch.sessions[0]: batch.steps for batch in stored}
    kept = rejected = 0
    for batch in alone:
        items = [step.position for step in steps_of[batch.sessions[0]]]
        text, blind = batch.walks[0], []
        for step in of_session(counting, batch.sessions[0]):
            ids = np.concatenate([text[: step.base_len], step.append_ids])
            if np.array_equal(ids, text[: len(ids)]):
                blind.append(len(ids))
                kept += len(step.append_ids) > 1 and step.base_len > 0
            else:
                rejected += 1
        assert items == blind == sorted(set(blind))
        assert sum(np.diff([batch.first, *items, len(text)]) > 1) <= kept + MOST_LOST + 1
    assert kept
    assert rejected
    assert Sheet.from_bytes(sheet.to_bytes()).sha256 == sheet.sha256
    assert np.all(sheet.log_q > LOG_Q_UNANSWERED)


async def test_everybody_can_check_who_signed_what_after_a_draft(walked):
    *_, sheet, receipts = walked
    assert (receipts.records["rows"] > 1).any()
    assert (receipts.records["further"] > 0).any()
    found = audit(sheet, receipts, {})
    assert found.is_clean
    assert [expert.signed for expert in found.experts] == [len(sheet.walk)] * 2
    records = receipts.records.copy()
    records["further"] += 1
    forged = dataclasses.replace(receipts, records=records)
    assert {expert.signed for expert in audit(sheet, forged, {}).experts} == {0}


async def test_weights_are_those_of_the_router_s_rule(walked):
    """A drafted label, and one in a draft's place, fades evidence and is none."""
    *_, alone, stored, _, _ = walked
    [batch] = [b for b in stored if b.id == alone[0].id]
    [text], items = batch.walks, [step.position for step in batch.steps]
    weighed = Weighed(uniform_gate(), text[: items[0]], batch.hotkeys, batch.hotkeys)
    everybody = np.ones(len(batch.hotkeys) + 1, bool)
    for before, step in zip([None, *batch.steps], batch.steps, strict=False):
        if before is not None:
            weighed.observe(text[before.position], before.log_q[0] / 1e6, everybody)
            weighed.show(text[before.position + 1 : step.position])
        np.testing.assert_allclose(step.log_w[0] / 1e6, weighed.log_weights(everybody), atol=1e-5)


def always(most, lots=None):
    return Guesses(100, 400, Ahead(1.0, 1.0, 1.0, most), lots)


def test_no_expert_is_asked_to_go_on_for_longer_than_the_wire_allows():
    guesses = always(2 * MAX_FURTHER)
    longest = 0
    for position in range(100, 300):
        drafts = guesses.drafts(position, 7)
        guesses.settle(len(drafts), len(drafts), 0.0)
        longest = max(longest, guesses.further(position, len(drafts)))
        guesses.heard(position, [7] * longest)
    assert longest == MAX_FURTHER


@pytest.mark.parametrize("ahead", [2, 5])
def test_a_walk_is_asked_no_further_ahead_than_users_texts_are(ahead):
    guesses, asked = always(ahead), []
    for position in range(100, 300):
        drafts = guesses.drafts(position, 7)
        guesses.settle(len(drafts), len(drafts), 0.0)
        asked.append(guesses.further(position, len(drafts)))
        guesses.heard(position, [7] * asked[-1])
    assert max(asked) == ahead


def test_an_expert_is_asked_as_users_texts_are_from_one_round_to_the_next():
    """Never before it may be, then with a chance for each of three kinds of rounds."""
    kinds = {"first": [], "anew": [], "still": []}
    for seed in range(2_000):
        guesses = Guesses(6, 30, Ahead(0.25, 0.1, 0.5, MAX_FURTHER), Random(seed))
        assert not any(guesses.further(position, 0) for position in range(6))
        kind = "first"
        for position in range(6, 27):  # while there is room for two tokens and the next label
            kinds[kind].append(guesses.further(position, 0) > 0)
            kind = "still" if kinds[kind][-1] else "anew"
        assert guesses.further(28, 0) == 0
    found = {kind: np.mean(asked) for kind, asked in kinds.items()}
    assert found == pytest.approx({"first": 0.25, "anew": 0.1, "still": 0.5}, abs=0.03)


@pytest.mark.parametrize("tokens", [5, 16, 47, 200])
def test_who_guesses_wrong_on_purpose_hides_two_labels_of_a_walk_however_long(tokens):
    """The most that it can: it is asked whenever it may be, its first guess is always right, so
    that the next ones are drafted, and those are wrong."""
    guesses = Guesses(100, 100 + tokens, Ahead(1.0, 1.0, 1.0, MAX_FURTHER))
    hidden, position = 0, 100
    while position < 100 + tokens:
        drafts = guesses.drafts(position, 7)
        further = guesses.further(position, len(drafts))
        guesses.heard(position + len(drafts), [7] + [8] * (further - 1) if further else [])
        if drafts:
            guesses.settle(len(drafts), 0, 0.5)
            hidden += 1
        guesses.counted()
        position += 1
    assert hidden == MOST_LOST
