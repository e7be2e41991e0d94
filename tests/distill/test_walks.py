"""Walking through text: the order of things, and what a failing or lying expert can do."""

from __future__ import annotations

import contextlib
import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from moesubnet.distill.app import panel_over
from moesubnet.distill.evaluate import evaluate_by_walks
from moesubnet.distill.walks import Turn, walk
from moesubnet.engine.transformers_engine import TransformersEngine
from moesubnet.errors import PeerUnavailable
from moesubnet.spec.content import LoadedSpec
from moesubnet.training.model import new_model, save_model, small_config
from moesubnet.types import Hotkey
from moesubnet.wire.protocol import StepRequest, StepResponse

from .conftest import VOCAB, BigramEngine, LocalClient

A, B = Hotkey("a"), Hotkey("b")


async def turns(members, windows, **options) -> list[Turn]:
    return [turn async for turn in walk(members, windows, "t", **options)]


def windows_of(shape: tuple[int, int], vocab: int = VOCAB) -> np.ndarray:
    return np.random.default_rng(0).integers(0, vocab, shape).astype(np.uint32)


async def test_weights_start_equal_and_follow_who_was_right(panel_of):
    windows = windows_of((3, 6))
    members = panel_of(LocalClient(A, BigramEngine(1)), LocalClient(B, BigramEngine(2)))
    path = await turns(members, windows)
    assert [turn.position for turn in path] == list(range(6))
    np.testing.assert_allclose(path[0].log_w, -math.log(3))
    for turn, later in pairwise(path):
        label = windows[:, turn.position]
        gained = turn.at(label)
        expected = 0.95 * (turn.log_w - turn.log_w[:, -1:]) + gained - gained[:, -1:]
        np.testing.assert_allclose(later.log_w - later.log_w[:, -1:], expected, atol=1e-5)


async def test_prefill_gives_honest_experts_the_same_numbers(
    panel_of, tiny_spec: LoadedSpec, tmp_path
):
    clients = []
    for seed, hotkey in enumerate((A, B)):
        model = new_model(small_config(tiny_spec, hidden=24, layers=2, heads=2), seed)
        save_model(model, tiny_spec, tmp_path / hotkey)
        engine = TransformersEngine(str(tmp_path / hotkey), tiny_spec)
        clients.append(LocalClient(hotkey, engine))
    vocab = tiny_spec.spec.vocab_size
    members = panel_of(*clients, vocab_size=vocab)
    windows = windows_of((5, 12), vocab)
    blind = await turns(members, windows)
    asked = clients[0].asked
    members = panel_of(*(LocalClient(c.hotkey, c._engine) for c in clients), vocab_size=vocab)
    prefilled = await turns(members, windows, prefill=True)
    assert (asked, members.panel._clients[A].asked) == (12, 1)
    for one, other in zip(blind, prefilled, strict=True):
        for ours, theirs in zip(one.laws, other.laws, strict=True):
            for law, same in zip(ours, theirs, strict=True):
                np.testing.assert_allclose(law.logp, same.logp, atol=1e-4)
        np.testing.assert_allclose(one.log_w, other.log_w, atol=1e-3)


async def test_an_expert_that_dies_loses_its_weight_and_nobody_elses(panel_of):
    windows = windows_of((4, 8))
    dying = LocalClient(B, BigramEngine(2), fails=lambda n: n > 3)
    path = await turns(panel_of(LocalClient(A, BigramEngine(1)), dying), windows)
    for turn in path:
        weights = np.exp(turn.log_w)
        np.testing.assert_allclose(weights.sum(-1), 1.0)
        assert (weights[:, 1] > 0).all() == (turn.position < 3)
    alone = await turns(panel_of(LocalClient(A, BigramEngine(1))), windows)
    for mine, its in zip(path[-1].laws, alone[-1].laws, strict=True):
        np.testing.assert_array_equal(mine[0].logp, its[0].logp)


async def test_with_nobody_left_the_walk_says_so(panel_of):
    dead = LocalClient(A, BigramEngine(1), fails=lambda n: True)
    with pytest.raises(PeerUnavailable, match="no expert answers"):
        await turns(panel_of(dead), windows_of((2, 3)))


async def test_trusted_experts_that_are_sent_whole_windows_have_minutes(panel_of):
    """Five models of 270 M parameters on two busy cores took longer than 98 s for 15 windows."""

    class Timed(LocalClient):
        async def step(self, request: StepRequest, **more: Any) -> StepResponse:
            given_s.append(more["timeout_s"])
            return await super().step(request)

    for prefill, least_s in ((True, 600.0), (False, 60.0)):
        given_s: list[float] = []
        panel = panel_over({A: Timed(A, BigramEngine(1))}, VOCAB, prefill=prefill)
        members = replace(panel_of(), panel=panel, experts=(A,))
        await turns(members, windows_of((2, 3)), prefill=prefill)
        assert given_s
        assert all(least_s <= each_s < least_s + 1 for each_s in given_s)


@pytest.mark.parametrize("how", ["to its end", "left early", "an expert fails"])
async def test_however_a_walk_ends_its_sessions_are_closed(panel_of, how: str):
    dies = LocalClient(A, BigramEngine(1), fails=lambda n: how == "an expert fails" and n > 3)
    with contextlib.suppress(PeerUnavailable):
        async with contextlib.aclosing(walk(panel_of(dies), windows_of((2, 6)), "t")) as path:
            async for turn in path:
                assert dies._ids or turn.position == 0
                if how == "left early" and turn.position == 3:
                    break
    assert dies.asked > 3
    assert not dies._ids


async def test_the_table_adds_up_what_the_turns_say(panel_of):
    red, blue = windows_of((3, 5)), windows_of((2, 5))[:, ::-1]
    members = panel_of(LocalClient(A, BigramEngine(1)), LocalClient(B, BigramEngine(2)))
    losses = await evaluate_by_walks(members, {"red": red, "blue": blue}, "t")
    for domain, windows in (("red", red), ("blue", blue)):
        nll: dict[str, list[float]] = {"a": [], "uniform": [], "gated": []}
        for turn in await turns(members, windows):
            p = np.exp(turn.at(windows[:, turn.position]))
            nll["a"] += (-np.log(p[:, 0])).tolist()
            nll["uniform"] += (-np.log(p[:, :2].mean(-1))).tolist()
            nll["gated"] += (-np.log((np.exp(turn.log_w) * p).sum(-1))).tolist()
        told = (losses.experts[A], losses.uniform_mixture, losses.gated_mixture)
        for found, expected in zip(told, nll.values(), strict=True):
            # Turn after turn, so the windows of one position stand together.
            by_window = np.reshape(expected, (-1, len(windows))).mean(0)
            assert found[domain] == pytest.approx(by_window, abs=1e-5)
