"""Who says in another's walks what that one says stands nowhere there."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesubnet.mixture.sheet import WHOLE
from moesubnet.validator.explain import explain, facts
from moesubnet.validator.leaning import FAR_ENOUGH, FAR_ITEMS, USUAL_ITEMS, apart_in_walks
from moesubnet.validator.seniors import WAITS
from tests.sheets import synthetic_sheet

WALKS, STEPS = 4, 16
WALK = np.repeat(np.arange(WALKS), STEPS)


def items(*log_q, walk=WALK):
    """joint and weight of experts' log-probabilities, NaN where one is silent, a baseline last;
    whose walk they are of, and of how many."""
    x = np.stack([*log_q, np.full(len(walk), -8.0)], axis=1)
    weight = np.where(np.isnan(x), 0.0, 0.25)
    return weight * np.exp(np.nan_to_num(x)), weight, walk, int(max(walk)) + 1


def times(*took, unsure=1.0):
    """Nats of laws, and when answers came, of experts that take so long for each."""
    took = np.tile(took, (len(WALK), 1))
    return np.full(took.shape, unsure), took


def two(seed=0):
    """An expert's log-probabilities, and those of another that leans on it in the first walk."""
    rng = np.random.default_rng(seed)
    senior, own = rng.uniform(-8, -1, (2, len(WALK)))
    return senior, np.where(WALK == 0, senior, own)


def test_who_leans_in_a_walk_stands_nowhere_in_it_and_whole_in_its_own():
    stands = apart_in_walks(*items(*two()), [0, 1], *times(10, 20))
    assert stands[0, 1] < 0.01 * WHOLE
    assert np.all(stands[1:, 1] == WHOLE)
    assert np.all(stands[:, 0] == WHOLE)


def test_to_water_down_what_another_says_hides_nothing():
    senior, leaning = two()
    halved = np.where(WALK == 0, leaning + np.log(0.5), leaning)
    stands = apart_in_walks(*items(senior, halved), [0, 1], *times(10, 20))
    assert stands[0, 1] < 0.01 * WHOLE


@pytest.mark.parametrize(
    ("order", "took"),
    [([0, 1], [10, 10]), ([0, 1], [20, 10]), ([1, 0], [10, 20]), ([0, 1], [0, 20])],
    ids=["as soon", "sooner", "the senior", "the other one never answers"],
)
def test_who_did_not_wait_for_a_senior_leans_on_nobody(order, took):
    assert np.all(apart_in_walks(*items(*two()), order, *times(*took)) == WHOLE)


def test_experts_that_are_as_quick_come_after_each_other_half_of_the_time_and_lean_on_nobody():
    """However much their answers are held up: nine of ten of the one's came later."""
    lots = np.random.default_rng(0)
    entropy, took = times(100, 100)
    took = took + lots.exponential(1_000, took.shape).astype(int)
    took[WALK == 0, 1] += 2_000 * (lots.random(STEPS) < 0.3)
    assert np.quantile(took[:, 1], 0.9) > np.quantile(took[:, 0], 0.9)
    assert apart_in_walks(*items(*two()), [0, 1], entropy, took)[0, 1] == WHOLE


def test_to_be_quick_where_the_next_token_is_plain_hides_no_waiting():
    entropy, took = times(10, 20)
    plain = np.arange(len(WALK)) % 2 == 0
    entropy[plain], took[plain, 1] = 0.01, 5  # before the other one
    leans = apart_in_walks(*items(*two()), [0, 1], entropy, took)
    assert leans[0, 1] < 0.01 * WHOLE
    entropy[plain] = 1.0
    assert apart_in_walks(*items(*two()), [0, 1], entropy, took)[0, 1] == WHOLE


def test_it_may_lean_on_any_of_them():
    senior, leaning = two()
    other = np.random.default_rng(1).uniform(-8, -1, len(WALK))
    for experts in ((other, senior, leaning), (senior, other, leaning)):
        stands = apart_in_walks(*items(*experts), [0, 1, 2], *times(10, 11, 20))
        assert stands[0, 2] < 0.01 * WHOLE
        assert np.all(stands[1:, 2] == WHOLE)


def test_two_tokens_tell_nothing():
    senior, leaning = two()
    short = np.where(np.arange(len(WALK)) < 2, 0, 1 + WALK)
    leaning = np.where(short == 0, senior, np.random.default_rng(1).uniform(-8, -1, len(WALK)))
    assert (
        apart_in_walks(*items(senior, leaning, walk=short), [0, 1], *times(10, 20))[0, 1] == WHOLE
    )


def by_hand(joint, weight, walk, walks, order, entropy, took):
    """What the definition says, walk by walk and pair by pair."""
    out = np.ones((walks, len(order)))
    for k in range(walks):
        rows = walk == k
        for place, i in enumerate(order):
            for j in order[:place]:
                both = rows & (weight[:, i] > 0) & (weight[:, j] > 0)
                if not both.any():
                    continue
                everywhere = (weight[:, i] > 0) & (weight[:, j] > 0)
                x = np.log(np.where(weight > 0, joint / np.where(weight > 0, weight, 1), 1))
                delta, late, sums = x[:, i] - x[:, j], took[:, i] > took[:, j], np.zeros(2)
                for one in range(walks):
                    there = everywhere & (walk == one)
                    mean = np.clip(delta[there], -1, 1).mean() if there.any() else 0.0
                    far = np.minimum((delta[there] - mean) ** 2, 1)
                    alike = (1 - far) * entropy[there, j]
                    times = USUAL_ITEMS / everywhere.sum() + (one == k)
                    sums += times * np.array([alike[late[there]].sum(), alike.sum()])
                    if one == k:
                        d = (FAR_ITEMS + far.sum()) / (FAR_ITEMS + there.sum())
                if sums[1] and sums[0] >= WAITS * sums[1]:
                    out[k, i] = min(out[k, i], min(1, d / FAR_ENOUGH) ** 4)
    return out


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_it_is_what_the_definition_says_also_of_the_silent(seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(-4, rng.choice([0.05, 0.5, 2]), (4, len(WALK))) + rng.normal(size=len(WALK))
    x[rng.random(x.shape) < 0.2] = np.nan
    x[0, WALK == 1] = np.nan
    walk = rng.permutation(WALK)
    entropy, took = times(*rng.integers(10, 14, 4))
    entropy, took = entropy * rng.random(took.shape), took + rng.integers(0, 2, took.shape)
    game = (*items(*x, walk=walk), rng.permutation(4).tolist(), entropy, took)
    assert np.allclose(apart_in_walks(*game), WHOLE * by_hand(*game), atol=0.5001)


def test_an_operator_is_told_in_how_many_walks():
    sheet = synthetic_sheet(("expert0", "expert1"), walk_count=4)
    apart = sheet.apart.copy()
    apart[:3, 1] = 0
    leaning = dataclasses.replace(sheet, apart=apart)
    assert "in 3 of 4 it says" in explain([leaning], "expert1")
    assert facts([leaning], "expert1")["stands_in_walks"] == 0.25
    assert "it waited for" not in explain([leaning], "expert0")
