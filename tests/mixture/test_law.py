"""Laws as values against vectors of the whole vocabulary."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesubnet.mixture.law import Law, Mixture, apply_sampling, mix, sample
from moesubnet.mixture.mixing import log_weights
from moesubnet.wire.distributions import LOWEST

from .dense import dense, entropy_dense, mix_dense

VOCAB = 40
seeds = st.integers(0, 2**32 - 1)


def full_law(rng, vocab=VOCAB, dtype=np.float32):
    p = rng.dirichlet(np.full(vocab, 0.3)) * 0.99 + 0.01 / vocab
    return Law(np.log(p).astype(dtype))


def listed_law(rng, shape, vocab=VOCAB, k=None):
    k = k or int(rng.integers(1, vocab))
    ids = np.sort(rng.choice(vocab, k, replace=False)).astype(np.uint32)
    p = rng.dirichlet(np.full(k + 1, 0.5)) * 0.99 + 0.01 / (k + 1)
    return Law(np.log(p[:-1]), ids, float(p[-1]), shape)


def members(rng, count, *, baseline="full"):
    """Some listed laws, and last the baseline that shapes their tails. In float64: in float32
    what is left of nearly everything is rounding, and no two ways to add agree on it."""
    base = full_law(rng, dtype=np.float64)
    while baseline == "listed":
        student = listed_law(rng, base)
        if np.exp(dense(student, VOCAB)).min() > 1e-5:  # below 1e-6 it counts as rounding
            base, baseline = student, "done"
    return [*(listed_law(rng, base) for _ in range(count)), base]


def some_weights(rng, count):
    return log_weights(rng.normal(size=count), 3 * rng.normal(size=count))


baselines = st.sampled_from(["full", "listed"])


@given(seeds, baselines)
def test_a_law_is_exact_at_every_token_and_of_mass_one(seed, baseline):
    *laws, _ = members(np.random.default_rng(seed), 3, baseline=baseline)
    for law in laws:
        everything = law.at(np.arange(VOCAB))
        np.testing.assert_allclose(np.exp(everything), np.exp(dense(law, VOCAB)), atol=1e-6)
        assert math.isclose(np.exp(everything).sum(), 1.0, abs_tol=1e-6)
        assert float(law.at(7)) == everything[7]
        assert [law.of(token) for token in range(VOCAB)] == everything.tolist()
        np.testing.assert_array_equal(law.at([[3, 5]]), everything[[[3, 5]]])


@given(seeds, baselines)
def test_the_mixture_is_the_dense_one_listed_or_not(seed, baseline):
    rng = np.random.default_rng(seed)
    laws = members(rng, 4, baseline=baseline)
    log_w = some_weights(rng, 5)
    got = mix(log_w, laws)
    expected = mix_dense(log_w, np.stack([dense(law, VOCAB) for law in laws]))
    np.testing.assert_allclose(np.exp(got.law.at(np.arange(VOCAB))), np.exp(expected), atol=1e-6)
    union = np.unique(np.concatenate([law.ids for law in laws if law.ids is not None]))
    np.testing.assert_array_equal(got.law.ids, union)
    beyond = np.setdiff1d(np.arange(VOCAB), union)
    assert got.law.tail == pytest.approx(np.exp(expected[beyond]).sum(), abs=1e-6)


@given(seeds)
def test_the_mixture_of_full_laws_is_the_dense_one_in_their_precision(seed):
    rng = np.random.default_rng(seed)
    laws = [full_law(rng) for _ in range(6)]
    log_w = some_weights(rng, 6)
    got = mix(log_w, laws)
    expected = mix_dense(log_w, np.stack([law.logp for law in laws]).astype(np.float64))
    assert got.law.ids is None
    assert got.law.logp.dtype == np.float32
    np.testing.assert_allclose(got.law.logp, expected, rtol=1e-6, atol=1e-6)
    assert got.left_out == 0.0
    # One liar cannot veto: m ≥ w_i p_i for every member.
    for w, law in zip(log_w, laws, strict=True):
        assert np.all(got.law.logp >= w + law.logp - 1e-4)


@given(seeds, baselines)
def test_what_is_drawn_is_every_listed_entry_and_nothing_of_any_tail(seed, baseline):
    rng = np.random.default_rng(seed)
    laws = members(rng, 3, baseline=baseline)
    log_w = some_weights(rng, 4)
    got = mix(log_w, laws)
    drawn = np.zeros(VOCAB)
    for w, law in zip(np.exp(log_w), laws, strict=True):
        ids = law.ids if law.ids is not None else got.law.ids
        drawn[ids] += w * np.exp(law.at(ids))
    np.testing.assert_allclose(np.exp(got.log_drawn), drawn[got.law.ids], atol=1e-6)
    tails = [law.tail for law in laws]
    if baseline == "full":
        tails[-1] = 1 - np.exp(laws[-1].at(got.law.ids)).sum()
    assert got.left_out == pytest.approx(float(np.exp(log_w) @ tails), abs=1e-5)


@given(seeds, seeds)
def test_left_out_bounds_the_total_variation_to_the_true_mixture(seed, other):
    """Whatever the members' true laws are on what they did not list."""
    rng = np.random.default_rng(seed)
    laws = members(rng, 3)
    log_w = some_weights(rng, 4)
    got = mix(log_w, laws)
    true = np.exp(np.stack([dense(law, VOCAB) for law in laws]))
    for row, law in zip(true[:-1], laws, strict=False):
        unlisted = np.setdiff1d(np.arange(VOCAB), law.ids)
        row[unlisted] = law.tail * np.random.default_rng(other).dirichlet(
            np.full(len(unlisted), 0.2)
        )
    drawn = np.zeros(VOCAB)
    drawn[got.law.ids] = apply_sampling(got.log_drawn, 1.0, 1.0)
    variation = 0.5 * np.abs(drawn - np.exp(log_w) @ true).sum()
    assert variation <= got.left_out + 1e-5


def test_who_lists_a_token_gives_it_no_other_s_tail():
    """A member of hardly any weight cannot raise a token by what others left out."""
    base = Law(np.log(np.full(4, 0.25, np.float32)))
    sure = Law(np.log(np.array([0.6], np.float32)), np.array([0], np.uint32), 0.4, base)
    names = Law(np.log(np.array([0.1, 0.9], np.float32)), np.array([0, 1], np.uint32), 0.0, base)
    got = mix(np.log([1 - 2e-9, 1e-9, 1e-9]), [sure, names, base])
    assert np.exp(got.log_drawn[1]) < 2e-9
    assert np.exp(got.law.at(1)) == pytest.approx(0.4 / 3, rel=1e-5)


def test_dead_members_are_ignored_whatever_they_say():
    rng = np.random.default_rng(1)
    laws = members(rng, 3)
    log_w = np.log([0.5, 0.0 + 1e-300, 0.3, 0.2])
    log_w[1] = -np.inf
    got = mix(log_w, laws)
    without = mix(log_w[[0, 2, 3]], [laws[0], laws[2], laws[3]])
    np.testing.assert_array_equal(got.law.ids, without.law.ids)
    np.testing.assert_array_equal(got.law.logp, without.law.logp)
    full = [full_law(rng), Law(np.full(VOCAB, LOWEST, np.float32)), full_law(rng)]
    np.testing.assert_allclose(
        mix(np.array([0.0, -np.inf, -np.inf]), full).law.logp, full[0].logp, rtol=1e-6
    )


@given(seeds, baselines)
def test_entropies_are_the_dense_ones(seed, baseline):
    rng = np.random.default_rng(seed)
    laws = members(rng, 4, baseline=baseline)
    rows = np.stack([dense(law, VOCAB) for law in laws])
    entropies = [law.entropy_nats for law in laws]
    np.testing.assert_allclose(entropies, entropy_dense(rows), atol=1e-4)
    whole = [full_law(rng) for _ in range(3)]
    rows = np.stack([law.logp for law in whole]).astype(np.float64)
    np.testing.assert_allclose([law.entropy_nats for law in whole], entropy_dense(rows), atol=1e-5)


def test_a_law_without_a_tail_holds_all_else_impossible():
    base = full_law(np.random.default_rng(3))
    law = Law(np.zeros(1, np.float32), np.array([3], np.uint32), 0.0, base)
    assert law.at([2, 3, 4]).tolist() == [LOWEST, 0.0, LOWEST]
    assert law.entropy_nats == 0.0


def test_a_list_of_nearly_all_of_the_baseline_gives_no_token_more_than_the_tail():
    """What is left of the baseline is then rounding; a liar must not gain by it."""
    rest = np.full(999, 1e-12)
    base = Law(np.log(np.concatenate([[1.0], rest])).astype(np.float32))
    law = Law(np.array([-20.0], np.float32), np.array([0], np.uint32), 1 - np.exp(-20.0), base)
    assert np.exp(law.at(np.arange(1, 1000))).sum() <= 1.0


def test_draws_follow_the_law_and_the_first_wins_a_tie():
    rng = np.random.default_rng(4)
    laws = members(rng, 3)
    got = mix(some_weights(rng, 4), laws)
    p = np.exp(got.log_drawn) / np.exp(got.log_drawn).sum()
    for drawn in (got.draws(20_000, rng), [got.draw(1.0, 1.0, rng) for _ in range(20_000)]):
        seen = np.bincount(drawn, minlength=VOCAB)[got.law.ids] / 20_000
        np.testing.assert_allclose(seen, p, atol=0.02)
    tied = Law(np.log(np.full(3, 0.3, np.float32)), np.array([9, 4, 17], np.uint32), 0.1)
    assert Mixture(tied, tied.logp, 0.1).draw(0.0, 1.0, rng) == 9
    assert got.draw(0.0, 1.0, rng) == got.law.ids[np.argmax(got.log_drawn)]
    assert got.likeliest(2)[0] == (
        int(got.law.ids[np.argmax(got.law.logp)]),
        float(got.law.logp.max()),
    )


def test_sampling_at_the_edges():
    log_m = np.stack([full_law(np.random.default_rng(seed)).logp for seed in range(7)])
    np.testing.assert_allclose(apply_sampling(log_m, 1.0, 1.0), np.exp(log_m), rtol=1e-5)
    greedy = apply_sampling(log_m, 0.0, 1.0)
    np.testing.assert_array_equal(greedy.argmax(-1), log_m.argmax(-1))
    np.testing.assert_array_equal(np.count_nonzero(greedy, -1), 1)
    np.testing.assert_array_equal(apply_sampling(log_m, 1.0, 1e-9) > 0, greedy > 0)


@given(seeds, st.floats(0.05, 1.0), st.floats(0.1, 3.0))
def test_top_p_keeps_the_smallest_head_with_enough_mass(seed, top_p, temperature):
    log_m = full_law(np.random.default_rng(seed)).logp
    full = apply_sampling(log_m, temperature, 1.0)
    kept = apply_sampling(log_m, temperature, top_p) > 0
    mass = full[kept].sum()
    assert mass >= top_p - 1e-9
    assert mass - full[kept].min() < top_p + 1e-9
    assert full[kept].min() >= full[~kept].max(initial=0.0)


@pytest.mark.parametrize("temperature", [1e-4, 1e-300, 5e-324])
def test_a_tiny_temperature_is_greedy_and_never_not_a_number(temperature):
    probs = apply_sampling(np.log([0.3, 0.5, 0.2]), temperature, 1.0)
    assert probs.tolist() == [0.0, 1.0, 0.0]


def test_sample_follows_the_law_and_never_draws_an_impossible_token():
    probs = np.array([0.0, 0.25, 0.0, 0.75, 0.0])
    rng = np.random.default_rng(4)
    drawn = np.bincount([sample(probs, rng) for _ in range(4000)], minlength=5)
    assert drawn[[0, 2, 4]].sum() == 0
    assert abs(drawn[3] / 4000 - 0.75) < 0.03
