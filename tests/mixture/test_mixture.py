"""The mixture's mathematics: weights, blind evidence, walks."""

import copy

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from moesubnet.mixture.gate import BASELINE_MEMBER, FEATURES_DIM, Gate, fit_theta, uniform_gate
from moesubnet.mixture.mixing import (
    GAMMA,
    LOG_P_FLOOR,
    Walk,
    log_weights,
    members_of,
    update_evidence,
)
from moesubnet.types import Hotkey
from moesubnet.units import TOKENS, Grain

VOCAB = 40
logs = st.floats(-60, 0)


def log_laws(rng, *shape, vocab=VOCAB, concentration=0.3):
    return np.log(rng.dirichlet(np.full(vocab, concentration), size=shape) * 0.99 + 0.01 / vocab)


@given(arrays(float, (3, 5), elements=logs), arrays(float, (3, 5), elements=logs))
def test_weights_are_a_distribution_and_ignore_a_common_shift(prior, evidence):
    weights = np.exp(log_weights(prior, evidence))
    np.testing.assert_allclose(weights.sum(-1), 1.0)
    np.testing.assert_allclose(weights, np.exp(log_weights(prior, evidence - 7.0)), atol=1e-12)


def test_dead_members_get_nothing_and_the_rest_keep_their_proportions():
    rng = np.random.default_rng(0)
    prior = rng.normal(size=5)
    full = np.exp(log_weights(prior, np.zeros(5)))
    alive = np.array([True, False, True, False, True])
    left = np.exp(log_weights(prior, np.zeros(5), alive))
    np.testing.assert_array_equal(left[~alive], 0)
    np.testing.assert_allclose(left[alive], full[alive] / full[alive].sum())


def test_evidence_is_the_discounted_sum_of_blind_log_probabilities():
    rng = np.random.default_rng(2)
    steps = -rng.exponential(size=(10, 3))
    evidence = np.zeros(3)
    for log_p in steps:
        evidence = update_evidence(evidence, log_p, blind=True)
    discount = GAMMA ** np.arange(9, -1, -1)
    np.testing.assert_allclose(evidence, discount @ steps)


def test_a_visible_token_or_a_missing_answer_counts_as_the_baseline_did():
    log_p = np.array([0.0, -9.0, -2.0])  # the first claims p = 1 on what it saw
    evidence = update_evidence(np.zeros(3), log_p, blind=np.array([False, True, True]))
    np.testing.assert_allclose(evidence, [-2.0, -9.0, -2.0])
    assert np.ptp(update_evidence(np.zeros(3), log_p, blind=False)) == 0


def test_token_weight_scales_evidence_and_forgetting_alike():
    before, log_p = np.array([-1.0, -2.0]), np.array([-3.0, -4.0])
    greedy = update_evidence(before, log_p, blind=True, token_weight=0.0)
    np.testing.assert_array_equal(greedy, before)
    half = update_evidence(before, log_p, blind=True, token_weight=0.5)
    np.testing.assert_allclose(half, GAMMA**0.5 * before + 0.5 * log_p)


def test_one_absurd_token_is_bounded_and_forgotten():
    evidence = update_evidence(np.zeros(2), np.array([-1e30, -1.0]), blind=True)
    assert evidence[0] == LOG_P_FLOOR
    for _ in range(100):
        evidence = update_evidence(evidence, np.array([-1.0, -1.0]), blind=True)
    assert evidence[1] - evidence[0] < 0.2


def trained_gate(rng, hotkeys):
    features = rng.exponential(size=(60, FEATURES_DIM))
    theta = fit_theta(features, np.log(rng.uniform(0.01, 1, (60, len(hotkeys) + 1))))
    return Gate(hotkeys, theta, (1_000_000,) * len(hotkeys))


def test_a_walk_over_many_sequences_is_the_router_s_one_by_one():
    rng = np.random.default_rng(5)
    hotkeys = tuple(Hotkey(f"expert{i}") for i in range(4))
    gate, members = trained_gate(rng, hotkeys), members_of(hotkeys)
    prefix = rng.integers(0, VOCAB, (6, 9))
    ids = rng.integers(0, VOCAB, (6, 12))
    rows = log_laws(rng, 12, 6, 5)
    blind = rng.random((12, 6, 5)) < 0.8
    together = Walk(gate, members, count=6)
    alone = [Walk(gate, members) for _ in range(6)]
    together.show(prefix)
    for n, walk in enumerate(alone):
        for token in prefix[n]:  # token by token or at once is the same
            walk.show(np.array([[token]]))
    for step in range(12):
        weights = together.log_weights()
        one_by_one = np.concatenate([walk.log_weights() for walk in alone])
        np.testing.assert_allclose(weights, one_by_one, rtol=0, atol=1e-12)
        token_p = np.take_along_axis(rows[step], ids[:, step, None, None], -1)[..., 0]
        together.observe(ids[:, step], token_p, blind=blind[step])
        for n, walk in enumerate(alone):
            walk.observe(ids[n : n + 1, step], token_p[n : n + 1], blind=blind[step, n : n + 1])


def test_weights_that_were_asked_for_before_are_those_of_a_walk_that_was_never_asked():
    rng = np.random.default_rng(8)
    hotkeys = tuple(Hotkey(f"expert{i}") for i in range(3))
    asked = Walk(trained_gate(rng, hotkeys), members_of(hotkeys))
    there = np.array([True, False, True, True])
    for move in (
        lambda walk: walk.show(np.array([[3, 5]])),
        lambda walk: walk.observe(np.array([7]), np.array([[-1.0, -2.0, -3.0, -4.0]]), blind=there),
        lambda walk: walk.amend(0, 0, 2, -0.5),
        lambda walk: walk.catch_up(1, [2], {2: -0.1}),
    ):
        move(asked)
        for alive in (True, there, np.ones(4, np.bool_), there):
            fresh = copy.copy(asked)
            fresh._weighed = None
            np.testing.assert_array_equal(asked.log_weights(alive), fresh.log_weights(alive))
        fork = copy.copy(asked)
        fork.show(np.array([[1]]))
        assert not np.array_equal(fork.log_weights(), asked.log_weights())


def test_the_baseline_is_always_the_last_member():
    assert members_of([Hotkey("b"), Hotkey("a")]) == ("a", "b", BASELINE_MEMBER)
    with pytest.raises(ValueError, match="baseline"):
        Walk(uniform_gate(), (Hotkey("a"),))


@pytest.mark.parametrize("echo", ["last token", "every token seen", "visible drafts"])
def test_an_echo_with_p_one_never_outweighs_the_best_honest_expert(echo):
    """Markov text; two honest experts (one knows the chain), an echo, and the unigram.

    All tokens seen, at equal odds, are a poor but real model, which a lucky token may favour for
    a moment: that one is held to its mean weight, the others to every single weight.
    """
    rng = np.random.default_rng(6)
    transition = rng.dirichlet(np.full(VOCAB, 0.2), size=VOCAB) * 0.95 + 0.05 / VOCAB
    np.fill_diagonal(transition, 0.0)
    transition /= transition.sum(axis=1, keepdims=True)
    stationary = np.linalg.matrix_power(transition, 200)[0]
    experts = [Hotkey("echo"), Hotkey("good"), Hotkey("poor")]
    count, prompt = 32, 24
    ids = rng.integers(0, VOCAB, (count, 1))
    for _ in range(prompt + 48):
        nxt = [[rng.choice(VOCAB, p=transition[row[-1]])] for row in ids]
        ids = np.concatenate([ids, nxt], axis=1)
    walk = Walk(uniform_gate(experts), members_of(experts), count)
    walk.show(ids[:, : prompt - 8])
    for t in range(prompt - 8, ids.shape[1]):
        weights = np.exp(walk.log_weights())
        best_honest = weights[:, 1:3].max(axis=1)
        assert weights[:, 0].mean() <= best_honest.mean() + 1e-12
        assert echo == "every token seen" or np.all(weights[:, 0] <= best_honest + 1e-12)
        claim = np.full((count, VOCAB), 1e-9)
        seen_ids = ids[:, :t] if echo == "every token seen" else ids[:, t - 1 : t]
        np.put_along_axis(claim, seen_ids, 1.0, axis=1)
        claim /= claim.sum(axis=1, keepdims=True)
        blind = np.ones((count, 4), bool)
        token_p = np.log(
            np.stack(
                [
                    np.take_along_axis(claim, ids[:, t : t + 1], 1)[:, 0],
                    transition[ids[:, t - 1], ids[:, t]],
                    np.full(count, 1.0 / VOCAB),
                    stationary[ids[:, t]],
                ],
                axis=1,
            )
        )
        if echo == "visible drafts" and t % 2:  # it saw this token as a draft, and says p = 1
            token_p[:, 0], blind[:, 0] = 0.0, False
        walk.observe(ids[:, t], token_p, blind=blind)


@given(st.integers(0, 70), st.floats(-40, 0), st.floats(0.1, 1.0))
def test_a_value_that_is_shown_late_counts_as_if_it_had_been_known(later, shown, token_weight):
    def walked(value):
        walk = Walk(uniform_gate(), members_of([Hotkey("a")]))
        walk.show(np.array([[1, 2, 3]]))
        log_p = np.array([[value, -5.0]])
        walk.observe(np.array([4]), log_p, blind=True, token_weight=token_weight)
        for _ in range(later):
            walk.observe(np.array([5]), np.array([[-2.0, -5.0]]))
        return walk

    amended = walked(-20.0)
    before = amended.log_weights()
    amended.amend(0, 0, 2, shown)  # a position that was not blind
    np.testing.assert_array_equal(amended.log_weights(), before)
    fork = copy.copy(amended)
    for _ in range(2):  # the same again changes nothing
        amended.amend(0, 0, 3, shown)
    want = walked(shown if later < 64 else -20.0).log_weights()
    np.testing.assert_allclose(amended.log_weights(), want, atol=1e-9)
    np.testing.assert_array_equal(fork.log_weights(), before)


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("grain", [TOKENS, Grain("bytes", 4.0)])
def test_what_is_said_later_of_missed_tokens_counts_as_if_it_had_come_in_time(grain, is_first):
    """Evidence fades by the grain's unit there too. is_first: else another stream of the baseline's
    has met the text."""
    late, in_time = (Walk(uniform_gate(grain=grain), members_of([Hotkey("a")])) for _ in range(2))
    for value in (-1.0, -9.0, -2.0):
        log_p = np.array([[value, -5.0]])
        in_time.observe(np.array([4]), log_p)
        late.observe(np.array([4]), log_p, blind=np.array([[False, is_first]]))
    assert late.missed(0) == [0, 1, 2]
    late.catch_up(0, late.missed(0), {0: -1.0, 1: -9.0, 2: -2.0})
    np.testing.assert_allclose(late.log_weights(), in_time.log_weights(), atol=1e-12)


def test_a_token_that_was_not_blind_is_not_amended():
    walk = Walk(uniform_gate(), members_of([Hotkey("a")]))
    walk.observe(np.array([4]), np.array([[-20.0, -5.0]]), blind=np.array([[False, True]]))
    before = walk.log_weights()
    walk.amend(0, 0, 0, -1.0)
    np.testing.assert_array_equal(walk.log_weights(), before)


def test_the_surer_a_gate_is_of_a_text_the_less_of_it_is_unknown():
    experts = [Hotkey("a"), Hotkey("b"), Hotkey("c")]

    def unknown(bias):
        theta = np.zeros((FEATURES_DIM + 1, 3), np.int32)
        theta[-1, 0] = bias
        return Walk(Gate(tuple(experts), theta, (1_000_000,) * 3), members_of(experts)).unknown()

    assert Walk(uniform_gate(), members_of(experts)).unknown() == pytest.approx(1.0)
    assert unknown(0) == pytest.approx(1.0)
    surer = [unknown(bias) for bias in (2_000, 8_000, 40_000)]
    assert surer == sorted(surer, reverse=True)
    assert 0.0 < surer[-1] < 0.3 < surer[0] < 1.0
    assert Walk(uniform_gate(), members_of([])).unknown() == 0.0
