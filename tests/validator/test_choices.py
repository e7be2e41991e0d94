"""Walks fork as users' texts do that ask for choices; only the text's own answers count."""

from __future__ import annotations

import dataclasses
from collections import Counter
from random import Random

import numpy as np
import pytest

from moesubnet.mixture.choosing import BLIND_PROMPT_TOKENS
from moesubnet.types import Hotkey
from moesubnet.validator.audit import audit
from moesubnet.validator.choices import Scored
from moesubnet.validator.shapes import Shapes
from moesubnet.wire.usage import Usage
from tests.sheets import closed

ANSWER = 8


@pytest.mark.parametrize("commits", [False, True])
@pytest.mark.parametrize("scored", [Scored.FIRST, Scored.SECOND])
async def test_a_second_choice_goes_on_from_the_same_prompt_and_nothing_of_it_counts(
    measure, start_expert, laws, monkeypatch, scored, commits
):
    experts = [await start_expert(f"//{k}", lambda ids, k=k: np.log(laws[k])) for k in (0, 1)]
    for expert in experts:
        expert.commits = commits
    measurement, state, chain, _ = await measure(experts)
    monkeypatch.setattr(Shapes, "draw_choice", lambda *_: scored)
    measurement._shapes = dataclasses.replace(
        Shapes.public(60), answers=((ANSWER, 1.0),), later=0.0, conversations=0.0
    )
    batches = []
    while sum(len(batch.sessions) == 1 for batch in batches) < 3:
        batches += await measurement.open_batches(await chain.metagraph(1), 4)
    await measurement.run(batches)
    positions = {batch.id: [s.position for s in batch.steps] for batch in state.open_batches()}
    for expert in experts:
        calls: dict[str, list] = {}
        for request in expert.requests:
            calls.setdefault(request.sequences[0].session, []).append(request.sequences[0])
        forks = {steps[0].parent: name for name, steps in calls.items() if steps[0].parent}
        for batch in batches:
            [mine, *more], answer = batch.sessions, batch.first + BLIND_PROMPT_TOKENS
            if more:
                assert not {mine, *more} & {*forks, *forks.values()}
                continue
            other = forks[mine] if scored == Scored.FIRST else calls[mine][0].parent
            second = other if scored == Scored.FIRST else mine
            begun = calls[second][0]
            assert (begun.base_len, len(begun.append_ids)) == (answer, 1)
            assert begun.base_hash == calls[forks_from(forks, second)][3].base_hash
            for name in (mine, other):
                assert calls[name][-1].end == batch.walks.shape[1] - 1
            text = batch.walks[0, answer:-1]
            written = np.concatenate([step.append_ids for step in calls[mine][-ANSWER + 1 :]])
            np.testing.assert_array_equal(written, text)
            least = batch.first if scored == Scored.FIRST else answer + 2
            assert positions[batch.id] == list(range(least, batch.walks.shape[1]))
    sheet, receipts = closed(
        state.open_batches(), await chain.metagraph(1), Hotkey(measurement._own_hotkey)
    )
    found = audit(sheet, receipts, {})
    assert [e.signed for e in found.experts] == [e.answered for e in found.experts]
    assert [e.blind for e in found.experts] == [e.answered for e in found.experts]


def forks_from(forks: dict[str, str], second: str) -> str:
    return next(first for first, other in forks.items() if other == second)


def test_as_many_walks_fork_as_users_texts():
    public, lots = Shapes.public(2_048), Random(0)
    said = Usage(netuid=1, epoch=3, router="r", rows=[], prompts=[10_000], forks=2_000)
    told = public.as_users([(said, 3), (said.model_copy(update={"forks": 2**50}), 2)])
    drawn = Counter(told.draw_choice(lots) for _ in range(10_000))
    forked = drawn[Scored.FIRST] + drawn[Scored.SECOND]
    assert forked / (10_000 + forked) == pytest.approx(0.2, abs=0.01)
    assert drawn[Scored.FIRST] == pytest.approx(drawn[Scored.SECOND], rel=0.1)
    one = dataclasses.replace(public, forks=0.0)
    assert {one.draw_choice(lots) for _ in range(99)} == {Scored.ALONE}
