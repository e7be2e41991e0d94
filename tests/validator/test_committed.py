"""Walks over committed rows: labels that nobody listed score what the expert was bound to."""

import dataclasses

import numpy as np
import pytest

from moesubnet.mixture.sheet import LOG_Q_UNANSWERED, MICRO
from moesubnet.types import Hotkey
from moesubnet.validator import asking
from moesubnet.validator import receipts as proving
from moesubnet.validator.audit import audit
from moesubnet.validator.pool import PREFIX_TOKENS, WINDOW_TOKENS
from moesubnet.validator.receipts import Receipts, unpack_answers
from moesubnet.validator.records import Phase
from moesubnet.wire.protocol import Want
from tests.sheets import closed

STEPS = WINDOW_TOKENS - PREFIX_TOKENS


@pytest.fixture(autouse=True)
def few_listed(monkeypatch):
    """A law lists 3 of 300 tokens, so most labels are in no list."""
    for module in (asking, proving):
        monkeypatch.setattr(module, "want_for", lambda *_, **__: Want("top_k", 3, committed=True))


@pytest.fixture
async def walked(measure, start_expert, laws):
    """`await walked(change)` → batch, state, metagraph, laws by hotkey, experts, baseline."""

    async def walk(change=lambda experts: None):
        known = [0.9 * laws[0] + 0.1 / 300, 0.9 * laws[1] + 0.1 / 300]
        experts = [
            await start_expert(uri, lambda ids, law=law: np.log(law))
            for uri, law in zip(("//A", "//B"), known, strict=True)
        ]
        for expert in experts:
            expert.commits = True
        change(experts)
        measurement, state, chain, _ = await measure(experts)
        metagraph = await chain.metagraph(1)
        [batch] = await measurement.open_batches(metagraph, 4)
        await measurement.run([batch])
        by_hotkey = {e.hotkey: np.log(law) for e, law in zip(experts, known, strict=True)}
        baseline = measurement._baseline.law
        return state.open_batches()[0], state, metagraph, by_hotkey, experts, baseline

    return walk


def log_q(batch):
    """int32 [walks, steps, n + 1]."""
    return np.stack([step.log_q for step in batch.steps], axis=1)


async def test_every_label_scores_what_the_law_gave_it(walked):
    batch, _, _, by_hotkey, experts, _ = await walked()
    assert [step.position for step in batch.steps] == list(range(PREFIX_TOKENS, WINDOW_TOKENS))
    labels = batch.walks[:, PREFIX_TOKENS:]
    for column, hotkey in enumerate(batch.hotkeys):
        exact = np.maximum(by_hotkey[hotkey][labels], -30)
        np.testing.assert_allclose(log_q(batch)[..., column] / MICRO, exact, atol=2e-3)
    asked = [request for expert in experts for request in expert.requests]
    assert max(len(expert.requests) for expert in experts) <= 4 * (STEPS + 1)
    ends = [s for request in asked for s in request.sequences if not s.rows]
    assert all(s.reveal[0] == WINDOW_TOKENS - 1 for s in ends)


async def test_who_withholds_a_leaf_has_the_least_and_is_asked_no_more(walked):
    def change(experts):
        experts[0].withholds = True

    batch, _, _, _, experts, _ = await walked(change)
    column = batch.hotkeys.index(experts[0].hotkey)
    for of_walk in log_q(batch)[..., column]:
        withheld = np.flatnonzero(of_walk == -20 * MICRO)
        assert len(withheld) == 1
        assert np.all(of_walk[withheld[0] + 1 :] == LOG_Q_UNANSWERED)
    assert np.all(log_q(batch)[..., 1 - column] > -20 * MICRO)


async def test_who_does_not_commit_is_scored_by_its_tail(walked):
    def change(experts):
        experts[0].commits = False

    batch, _, _, _, experts, _ = await walked(change)
    column = batch.hotkeys.index(experts[0].hotkey)
    assert not any(request.want.committed for request in experts[0].requests)
    values = log_q(batch)[..., column]
    assert np.all(values > LOG_Q_UNANSWERED)
    assert len(np.unique(values)) <= 4 + WINDOW_TOKENS  # three listed, one even tail


async def test_an_audit_finds_each_leaf_in_the_answer_after_it(walked):
    batch, state, metagraph, _, _, baseline = await walked()
    sheet, receipts = closed(
        [batch],
        metagraph,
        Hotkey(metagraph.neurons[0].hotkey),
    )
    state.close_epoch(sheet, (1, 2), Phase.REVEALED, [batch], receipts.to_bytes())
    receipts = Receipts.from_bytes(state.archive.receipts(sheet.sha256), sheet)
    answers = {
        h: unpack_answers(state.archive.answers(sheet.sha256, h), sheet) for h in sheet.hotkeys
    }
    result = audit(sheet, receipts, answers, baseline)
    assert [e.answered for e in result.experts] == [4 * STEPS] * 2
    assert [e.signed for e in result.experts] == [4 * STEPS] * 2
    assert [e.agreeing for e in result.experts] == [4 * STEPS] * 2
    shown = set((receipts.records["reveal"][:, 0] - 2).tolist())
    items = [
        i for i in range(len(sheet.walk)) if int(sheet.position[i]) in shown - {WINDOW_TOKENS - 1}
    ]
    for better in (-50_000, 50_000):
        lie = sheet.log_q.copy()
        lie[items[0], 0] += better
        lied = audit(dataclasses.replace(sheet, log_q=lie), receipts, answers, baseline)
        assert lied.experts[0].agreeing == 4 * STEPS - 1
