"""Bent laws against vectors of the whole vocabulary."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesubnet.mixture.bending import LEAST_KEPT, bend
from moesubnet.mixture.law import Law, alone, apply_sampling, mix
from moesubnet.mixture.mixing import log_sum_exp

from .dense import dense
from .test_law import VOCAB, full_law, members, some_weights

seeds = st.integers(0, 2**32 - 1)
NO_IDS, NO_OFFSETS = np.empty(0, np.int64), np.empty(0)


def wishes(rng, most=8, *, least=-4.0, highest=4.0):
    ids = np.sort(rng.choice(VOCAB, int(rng.integers(1, most)), replace=False))
    return ids, rng.uniform(least, highest, len(ids))


def bent_dense(log_p, ids, offsets, allowed):
    bent = np.array(log_p, np.float64)
    bent[ids] += offsets
    bent[~allowed] = -np.inf
    return np.exp(bent - log_sum_exp(bent))


def drawn_dense(mixture):
    p = np.zeros(VOCAB)
    p[slice(None) if mixture.law.ids is None else mixture.law.ids] = np.exp(mixture.log_drawn)
    return p / p.sum()


@given(seeds)
def test_a_law_of_every_token_is_bent_exactly_however_little_is_allowed(seed):
    rng = np.random.default_rng(seed)
    law = full_law(rng, dtype=np.float64)
    ids, offsets = wishes(rng, least=-100.0, highest=100.0)
    allowed = rng.random(VOCAB) < 0.2
    allowed[rng.integers(VOCAB)] = True
    got = bend(alone(law), ids, offsets, allowed)
    expected = bent_dense(law.logp, ids, offsets, allowed)
    np.testing.assert_allclose(apply_sampling(got.log_drawn, 1.0, 1.0), expected, atol=1e-9)
    assert not got.is_fallback
    assert got.left_out == 0.0
    assert got.law is law  # what is reported is what the experts said


@given(seeds)
def test_what_is_left_out_bounds_what_listing_changes(seed):
    """Whatever the members' tails truly are: here, the shape's own."""
    rng = np.random.default_rng(seed)
    laws = members(rng, 3)
    mixture = mix(some_weights(rng, 4), laws)
    ids, offsets = wishes(rng)
    allowed = rng.random(VOCAB) < 0.7
    allowed[ids] = True
    got = bend(mixture, ids, offsets, allowed)
    true = bent_dense(mixture.law.at(np.arange(VOCAB)), ids, offsets, allowed)
    variation = 0.5 * np.abs(drawn_dense(got) - true).sum()
    assert variation <= got.left_out + 1e-6


def test_a_raised_token_that_nobody_listed_is_drawn_as_the_tail_has_it() -> None:
    base = Law(np.log(np.full(4, 0.25)))
    law = Law(np.log([0.6, 0.3]), np.array([0, 1]), 0.1, base)
    got = bend(alone(law), np.array([3]), np.array([100.0]))
    assert drawn_of(got) == pytest.approx([0, 0, 0, 1], abs=1e-6)
    np.testing.assert_allclose(np.exp(got.law.at(np.arange(4))), [0.6, 0.3, 0.05, 0.05])


def drawn_of(mixture):
    p = np.zeros(4)
    p[mixture.law.ids] = np.exp(mixture.log_drawn - log_sum_exp(mixture.log_drawn))
    return p


def test_where_too_little_is_left_the_tails_shape_is_drawn_from_alone() -> None:
    base = Law(np.log([0.1, 0.2, 0.3, 0.4]))
    law = Law(np.log([0.897, 0.1, LEAST_KEPT / 4]), np.array([0, 1, 2]), 0.0005, base)
    allowed = np.array([False, False, True, True])
    got = bend(alone(law), NO_IDS, NO_OFFSETS, allowed)
    assert got.is_fallback
    assert got.left_out == 1.0
    assert drawn_of(got) == pytest.approx([0, 0, 3 / 7, 4 / 7])
    np.testing.assert_allclose(got.law.at([2, 3]), dense(law, 4)[2:], atol=1e-6)
    enough = bend(alone(law), NO_IDS, NO_OFFSETS, np.array([False, True, True, True]))
    assert not enough.is_fallback


def test_banned_and_forbidden_tokens_are_not_what_is_left() -> None:
    """A ban of everything listed must not be renormalised away."""
    base = Law(np.log(np.full(4, 0.25)))
    law = Law(np.log([0.6, 0.3]), np.array([0, 1]), 0.1, base)
    got = bend(alone(law), np.array([0, 1]), np.array([-100.0, -100.0]))
    assert drawn_of(got) == pytest.approx([0, 0, 0.5, 0.5])
