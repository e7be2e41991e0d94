"""Who earns what, and that anybody gets the same answer from the sheet."""

import dataclasses
import itertools
import math
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesubnet.mixture.gate import uniform_gate
from moesubnet.mixture.law import Law
from moesubnet.mixture.mixing import Walk, members_of
from moesubnet.mixture.sheet import (
    LOG_Q_ABSENT,
    LOG_Q_FLOOR,
    LOG_Q_UNANSWERED,
    LOG_W_NONE,
    MICRO,
    NANO,
    WHOLE,
    Sheet,
    micro_nats,
    sheet_seed,
)
from moesubnet.types import Hotkey
from moesubnet.validator.calibration import calibration
from moesubnet.validator.scoring import ema, recount
from moesubnet.validator.seniors import by_seniority
from moesubnet.validator.value import random_marginals, values_and_bounds
from tests.sheets import synthetic_sheet, taking

VOCAB = 60
PREFIX = 8
STEPS = 12


def terms(rng, items, players):
    """joint, weight: [items, players + 1], the baseline last."""
    weight = rng.exponential(size=(items, players + 1))
    q = rng.uniform(0.001, 1, (items, players + 1))
    q[:, -1] *= 0.2
    return weight * q, weight


def coalition_value(game, members):
    """v(S) + ln q_baseline, item by item, as the definition says it."""
    joint, weight = (part[:, [*members, -1]].sum(axis=1) for part in game)
    return np.log(joint / weight)


def random_marginals_by_hand(game, presence):
    """What the definition says, coalition by coalition."""
    players = game[0].shape[1] - 1
    out = np.zeros((len(game[0]), players))
    for player in range(players):
        others = [p for p in range(players) if p != player]
        for size in range(players):
            for group in itertools.combinations(others, size):
                chance = math.prod(presence[p] if p in group else 1 - presence[p] for p in others)
                gain = coalition_value(game, (*group, player)) - coalition_value(game, group)
                out[:, player] += chance * gain
    return out


@pytest.mark.parametrize("players", [1, 2, 5, 7])
def test_marginals_are_the_mean_over_random_coalitions(players):
    rng = np.random.default_rng(players)
    game = terms(rng, 9, players)
    for presence in (np.full(players, 0.5), rng.uniform(0, 0.5, players), np.zeros(players)):
        np.testing.assert_allclose(
            random_marginals(*game, presence), random_marginals_by_hand(game, presence), atol=2e-5
        )


def test_one_player_s_marginal_is_all_it_adds_and_a_null_player_s_is_zero():
    joint, weight = terms(np.random.default_rng(0), 20, 3)
    alone = random_marginals(joint[:, [0, -1]], weight[:, [0, -1]], np.array([0.5]))
    game = (joint, weight)
    whole = coalition_value(game, [0]) - coalition_value(game, [])
    np.testing.assert_allclose(alone[:, 0], whole, atol=1e-5)
    weight[:, 1] = joint[:, 1] = 0
    assert np.all(random_marginals(*game, np.full(3, 0.5))[:, 1] == 0)


def test_two_players_share_the_whole():
    """With two players Banzhaf is Shapley: the values add up to v(N) − v(∅)."""
    game = terms(np.random.default_rng(1), 30, 2)
    total = random_marginals(*game, np.full(2, 0.5)).sum(axis=1)
    whole = coalition_value(game, [0, 1]) - coalition_value(game, [])
    np.testing.assert_allclose(total, whole, atol=2e-5)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.floats(1, 15))
def test_marginals_hold_over_thirty_orders_of_magnitude(seed, players, spread):
    rng = np.random.default_rng(seed)
    joint, weight = terms(rng, 4, players)
    scale = np.exp(rng.normal(0, spread, weight.shape))
    scale[:, -1] = np.maximum(scale[:, -1], 1e-20 * scale.sum(axis=1))
    game = joint * scale, weight * scale
    presence = rng.uniform(0, 0.5, players)
    np.testing.assert_allclose(
        random_marginals(*game, presence), random_marginals_by_hand(game, presence), atol=5e-5
    )


def test_the_bound_is_over_walks_because_tokens_of_a_walk_are_not_independent():
    marginal, walk = np.array([1.0, 3.0, 2.0, 2.0, 4.0, 6.0]), np.array([0, 0, 1, 1, 2, 2])
    columns = np.stack([marginal, np.ones(6)], axis=1)
    value, bound = values_and_bounds(columns, walk)
    np.testing.assert_array_equal(value, [3.0, 1.0])
    np.testing.assert_allclose(bound, [3.0 - 1.2816 * math.sqrt(3.0) / math.sqrt(3), 1.0])
    assert np.all(values_and_bounds(columns[:2], walk[:2])[1] == -math.inf)


def test_ema_takes_the_first_value_whole_and_forgets_slowly():
    assert ema(None, 100) == 100
    assert ema(100, 0) == 70
    assert ema(0, 100) == 30


def test_seniors_are_who_had_something_of_their_own_then_newcomers_then_the_rest():
    sheet = dataclasses.replace(
        taking(economy(dict.fromkeys("abcdef", noise), walks=2), (9, 8, 7, 6, None, 5)),
        age_millis=(9_000, 8_000, 2_000, 2_500, 50_000, 3_000),
        since=(0, None, None, None, None, 1),  # the sheet's own epoch is 1: not before it
        uids=(5, 4, 3, 2, 1, 0),
    )
    assert by_seniority(sheet) == [0, 5, 3, 2, 1, 4]
    both = dataclasses.replace(taking(sheet, (3,) * 6), age_millis=(1,) * 6, since=(None,) * 6)
    assert by_seniority(both) == [5, 4, 3, 2, 1, 0]


def economy(experts, *, walks=32, seed=0, domains=3, ema_before=None, silent=None):
    """A sheet of synthetic experts on text of `domains` kinds.

    experts: name → f(domain laws [D, V], domain, previous id) giving a law [V].
    """
    rng = np.random.default_rng(seed)
    laws = rng.dirichlet(np.full(VOCAB, 0.15), size=domains) * 0.95 + 0.05 / VOCAB
    baseline = laws.mean(axis=0)
    hotkeys = tuple(sorted(Hotkey(name) for name in experts))
    domain = rng.integers(0, domains, walks)
    ids = np.stack([rng.choice(VOCAB, PREFIX + STEPS, p=laws[d]) for d in domain])
    walk = Walk(uniform_gate(), members_of(hotkeys), walks)
    walk.show(ids[:, :PREFIX])
    log_q, log_w, entropy, walk_of, position = [], [], [], [], []
    for step in range(PREFIX, PREFIX + STEPS):
        label = ids[:, step]
        q, nats_of = np.empty((walks, len(hotkeys) + 1)), np.empty((walks, len(hotkeys)))
        for column, name in enumerate(hotkeys):
            for k in range(walks):
                law = np.maximum(experts[name](laws, domain[k], ids[k, step - 1]), 1e-300)
                q[k, column], nats_of[k, column] = law[label[k]], Law(np.log(law)).entropy_nats
        q[:, -1] = baseline[label]
        nats = np.maximum(np.log(np.maximum(q, 1e-300)), LOG_Q_FLOOR)
        answered = np.ones(q.shape, bool)
        if silent is not None:
            answered[:, hotkeys.index(silent)] = rng.random(walks) < 0.5
        log_w.append(micro_nats(walk.log_weights(answered)))
        entropy.append(np.where(answered[:, :-1], np.rint(nats_of * 1e6), 0))
        log_q.append(np.where(answered, micro_nats(nats), LOG_Q_UNANSWERED))
        walk.observe(label, nats, blind=answered)
        walk_of.append(np.arange(walks))
        position.append(np.full(walks, step))
    n, given = len(hotkeys), np.concatenate(log_q)[:, :-1] > LOG_Q_UNANSWERED
    return Sheet(
        netuid=1,
        epoch=1,
        validator=Hotkey("v"),
        spec_sha256=bytes(32),
        gate_sha256=bytes(32),
        previous_sha256=bytes(32),
        seed=sheet_seed(bytes(32), 1),
        hotkeys=hotkeys,
        uids=tuple(range(n)),
        age_millis=(5_000,) * n,
        walks=tuple(row.astype("<u4") for row in ids),
        chosen=np.ones((walks, n), np.uint8),
        apart=np.full((walks, n), WHOLE, np.uint8),
        walk=np.concatenate(walk_of).astype("<u4"),
        position=np.concatenate(position).astype("<u4"),
        senders=(Hotkey("v"),),
        sender=np.zeros((len(log_q) * walks, n), np.uint8),
        log_q=np.concatenate(log_q).astype("<i4"),
        log_w=np.concatenate(log_w).astype("<i4"),
        entropy=np.concatenate(entropy).astype("<i4"),
        took_100us=np.where(given, 10 * np.arange(10, 10 + n), 0).astype("<u2"),
        receipts=(bytes(32),) * n,
        usage_loss_ppm=(0,) * n,
        feedback_ppm=(0,) * n,
        reliability_ppm=(0,) * n,
        ema_before=ema_before or (None,) * n,
        ema_after=(None,) * n,
        novelty_before=(None,) * n,
        novelty_after=(None,) * n,
        since=(None,) * n,
        standing_ppm=(0,) * n,
        row_u16=(0,) * n,
    )


def specialist(home):
    def law(laws, domain, last):
        return 0.9 * laws[home] + 0.1 / VOCAB

    return law


def noise(laws, domain, last):
    return np.full(VOCAB, 1 / VOCAB)


def echo(laws, domain, last):
    return np.where(np.arange(VOCAB) == last, 1.0, 0.0)


def liar(laws, domain, last):
    """Claims near-certainty for what it thinks likeliest."""
    law = np.full(VOCAB, 1e-6)
    law[np.argmax(laws[0])] = 1.0
    return law / law.sum()


def knows(laws, domain, previous):
    return laws[domain]


HONEST = {"a": specialist(0), "b": specialist(1), "c": specialist(2)}


@pytest.mark.parametrize("guessed", [0.0, 0.45])
def test_who_asks_beforehand_about_what_may_come_waits_where_nobody_expected_it(guessed):
    """It registered first, and answers sooner wherever the source expected the label before."""
    sheet = synthetic_sheet(["relay", "source"], walk_count=16)
    expected = np.append(0, sheet.log_q[:-1, 1])
    is_hit = expected > np.quantile(expected, 1 - guessed)
    took = np.stack([np.where(is_hit, 50, 150), np.full(len(is_hit), 100)], axis=1)
    sheet = dataclasses.replace(
        sheet, took_100us=took.astype("<u2"), age_millis=(2_000, 1_000), since=(None, None)
    )
    assert by_seniority(sheet) == [1, 0]


def test_honest_specialists_earn_and_noise_echo_and_liar_do_not():
    sheet = economy(HONEST | {"noise": noise, "echo": echo, "liar": liar})
    result = recount(sheet)
    paid = dict(zip(sheet.hotkeys, result.row_u16, strict=True))
    assert all(paid[name] > 0 for name in HONEST)
    assert max(paid.values()) == 65_535
    assert paid["noise"] == paid["echo"] == paid["liar"] == 0
    assert np.all(result.bound_nats <= result.value_nats)


def test_noise_earns_nothing_on_any_text():
    for seed in range(8):
        sheet = economy(HONEST | {"noise": noise}, seed=seed)
        assert recount(sheet).score_nano[sheet.hotkeys.index("noise")] == 0


def copy_of(expert, sigma, seed=0):
    rng = np.random.default_rng(seed)

    def law(laws, domain, previous):
        noisy = expert(laws, domain, previous) * np.exp(sigma * rng.standard_normal(VOCAB))
        return noisy / noisy.sum()

    return law


def paid(experts, **more):
    sheet = economy(experts, walks=64, **more)
    result = recount(sheet)
    return dict(zip(sheet.hotkeys, np.array(result.score_nano) / NANO, strict=True))


@pytest.mark.parametrize("sigma", [0.0, 0.05, 0.2, 0.5, 1.0, 2.0])
def test_copies_together_earn_next_to_nothing_and_take_nothing_whatever_their_noise(sigma):
    alone = paid(HONEST)
    copies = {f"z{k}": copy_of(specialist(0), sigma, k) for k in range(4)}
    together = paid(HONEST | copies)
    assert sum(together[name] for name in copies) < 0.05 * alone["a"]
    for name in HONEST:
        assert together[name] > 0.9 * alone[name]


def test_an_aggregator_earns_next_to_nothing_and_takes_nothing():
    def mixture(laws, domain, previous):
        return np.mean([expert(laws, domain, previous) for expert in HONEST.values()], axis=0)

    alone, together = paid(HONEST), paid(HONEST | {"z": mixture})
    assert together["z"] < 0.05 * alone["a"]
    for name in HONEST:
        assert together[name] > 0.9 * alone[name]


@pytest.mark.parametrize("power", [0.6, 0.8, 1.3, 2.0])
def test_a_sharpened_or_flattened_self_earns_next_to_nothing_and_takes_nothing(power):
    def again(laws, domain, previous):
        law = HONEST["a"](laws, domain, previous) ** power
        return law / law.sum()

    alone, together = paid(HONEST), paid(HONEST | {"z": again})
    assert together["z"] < 0.05 * alone["a"]
    for name in HONEST:
        assert together[name] > 0.9 * alone[name]


def test_who_comes_late_and_is_better_is_paid_for_all_of_it():
    weak = {"b": HONEST["b"], "c": HONEST["c"]} | {"a": copy_of(HONEST["a"], 1.0)}
    first = {"b": HONEST["b"], "c": HONEST["c"]} | {"a": specialist(0)}
    late = paid(weak | {"z": specialist(0)})
    assert late["z"] > 3 * late["a"]
    assert late["z"] > 0.6 * paid(first)["a"]


def mean_of_all(laws, domain, previous):
    return np.mean([expert(laws, domain, previous) for expert in HONEST.values()], axis=0)


@pytest.mark.parametrize(
    "late", [copy_of(HONEST["a"], 0.0), copy_of(HONEST["a"], 0.3), mean_of_all]
)
def test_who_registered_first_but_waits_for_its_sources_is_no_senior(late):
    sheet = dataclasses.replace(
        taking(economy(HONEST | {"z": late}), (20, 22, 24, 40)),
        age_millis=(2_000, 2_000, 2_000, 2_500),
    )
    standing = recount(sheet).standing_ppm
    assert standing[3] < 0.05 * MICRO
    assert min(standing[:3]) > 0.5 * MICRO


def test_of_two_that_say_the_same_the_sooner_is_the_senior():
    sheet = dataclasses.replace(
        taking(economy(HONEST | {"z": copy_of(HONEST["a"], 0.0)}), (20, 22, 24, 19)),
        age_millis=(2_500, 2_500, 2_500, 2_000),
    )
    standing = recount(sheet).standing_ppm
    assert standing[3] > 0.5 * MICRO
    assert standing[0] == 0


ERRORS = np.random.default_rng(7).standard_normal((3, VOCAB))


def model(*errors):
    """The truth, with so much error in each domain."""

    def law(laws, domain, previous):
        wrong = laws[domain] * np.exp(errors[domain] * ERRORS[domain])
        return wrong / wrong.sum()

    return law


BASE = {"base": model(1.2, 1.2, 1.2)}
SIBLINGS = {  # further trainings of it, on a domain each
    "s0": model(0.6, 1.2, 1.2),
    "s1": model(1.2, 0.6, 1.2),
    "s2": model(1.2, 1.2, 0.6),
}


def leaning(own, share):
    """Part of the best response to a uniform prior, of who knows what the others say."""

    def law(laws, domain, previous):
        mine = own(laws, domain, previous)
        others = [HONEST[name](laws, domain, previous) for name in "bc"]
        wanted = np.maximum(3 * mine - sum(others), 0.0)
        return (1 - share) * mine + share * wanted / wanted.sum()

    return law


@pytest.mark.parametrize("share", [0.1, 0.2, 0.5, 1.0])
def test_who_leans_against_the_others_earns_less_than_who_says_what_it_knows(share):
    """A specialist whose error is to say a little of everything mends that by leaning: 1.5 %."""
    for own, most in ((model(0.4, 1.5, 1.5), 1.0), (HONEST["a"], 1.02)):
        for seed in range(2):
            honest = paid(HONEST | {"a": own}, seed=seed)["a"]
            assert paid(HONEST | {"a": leaning(own, share)}, seed=seed)["a"] < most * honest


@pytest.mark.parametrize("sigma", [0.0, 0.3])
def test_who_says_what_one_other_says_in_that_one_s_walks_takes_next_to_nothing(sigma):
    """An expert of its own making, that waits for the other one. It gains what its own words would
    cost there, where nobody has a gate."""
    noisy = copy_of(HONEST["b"], sigma)

    def leans(laws, domain, previous):
        return (noisy if domain == 1 else HONEST["a"])(laws, domain, previous)

    rest = {name: HONEST[name] for name in "bc"}
    honest, leaning = paid(rest | {"z": HONEST["a"]}), paid(rest | {"z": leans})
    assert leaning["z"] < 1.2 * honest["z"]
    assert leaning["b"] > 0.95 * honest["b"]


def test_siblings_of_one_base_stand_beside_it_unless_they_wait_for_it():
    sheet = dataclasses.replace(economy(BASE | SIBLINGS), since=(0, None, None, None))
    assert recount(sheet).standing_ppm[0] == MICRO
    sooner = recount(taking(sheet, (20, 20, 19, 18)))
    later = recount(taking(sheet, (20, 21, 22, 23)))
    assert min(sooner.standing_ppm) > 0.3 * MICRO
    assert max(later.standing_ppm[1:]) < 0.1 * MICRO
    assert sum(later.score_nano[1:]) < sum(sooner.score_nano[1:])


@pytest.mark.parametrize("sigma", [0.0, 0.2, 0.5, 1.0])
def test_copies_that_need_not_wait_are_no_siblings(sigma):
    copies = {f"z{k}": copy_of(specialist(0), sigma, k) for k in range(3)}
    sheet = dataclasses.replace(economy(HONEST | copies, walks=64), since=(0, 0, 0, *[None] * 3))
    sheet = taking(sheet, (20, 20, 20, 9, 9, 9))
    assert max(recount(sheet).standing_ppm[3:]) < 0.05 * MICRO


def test_a_senior_that_hardly_answers_explains_nobody():
    sheet = economy({"a": specialist(0), "b": specialist(0), "c": specialist(1)})
    log_q, log_w = sheet.log_q.copy(), sheet.log_w.copy()
    log_q[9:, 0], log_w[9:, 0] = LOG_Q_UNANSWERED, LOG_W_NONE
    result = recount(dataclasses.replace(sheet, log_q=log_q, log_w=log_w))
    assert result.standing_ppm[1] > 900_000
    assert recount(sheet).standing_ppm[1] == 0


def test_novelty_is_remembered_and_seniority_kept():
    sheet = dataclasses.replace(
        economy(HONEST), novelty_before=(-20_000, 0, None), since=(None, 0, None)
    )
    result = recount(sheet)
    assert result.since == (1, 0, 1)
    now = recount(economy(HONEST)).novelty_after
    order = by_seniority(sheet)
    assert order[0] == 1
    assert result.novelty_after[2] is not None
    assert -20_000 < result.novelty_after[0] < now[0]
    # Who was never measured keeps what was known.
    silent = np.full(len(sheet.walk), LOG_Q_UNANSWERED, np.int32)
    log_q, log_w = sheet.log_q.copy(), sheet.log_w.copy()
    log_q[:, 0], log_w[:, 0] = silent, LOG_W_NONE
    result = recount(dataclasses.replace(sheet, log_q=log_q, log_w=log_w))
    assert result.novelty_after[0] == -20_000
    assert result.standing_ppm[0] == 0


def tempered(expert, power):
    def law(laws, domain, previous):
        sharp = expert(laws, domain, previous) ** power
        return sharp / sharp.sum()

    return law


def test_an_expert_that_says_more_or_less_than_it_knows_shows_in_its_gap():
    """On text that it knows: there its law is the truth, or the truth sharpened or flattened."""
    experts = {f"a{power}": tempered(knows, power) for power in (0.5, 1.0, 2.0)}
    low, right, high = (
        calibration(economy(experts, walks=64, seed=seed), column)[0]
        for seed in (0,)
        for column in range(3)
    )
    assert low.nats + low.error_nats < 0
    assert abs(right.nats) < 3 * right.error_nats
    assert high.nats - high.error_nats > 0


def test_true_laws_are_called_too_sure_in_one_epoch_of_ten():
    """What an error of 1.2816 standard errors promises."""
    gaps = [calibration(economy({"a": knows}, seed=seed), 0)[0] for seed in range(60)]
    called = sum(gap.nats - gap.error_nats > 0 for gap in gaps)
    assert called <= 13  # 6 expected, standard deviation 2.3


def test_nothing_is_said_of_an_expert_that_never_answered():
    sheet = economy(HONEST, walks=2)
    log_q, log_w = sheet.log_q.copy(), sheet.log_w.copy()
    log_q[:, 1], log_w[:, 1] = LOG_Q_UNANSWERED, LOG_W_NONE
    sheet = dataclasses.replace(sheet, log_q=log_q, log_w=log_w)
    assert all(math.isnan(gap.nats) for gap in calibration(sheet, 1))


def test_silence_costs_value_and_reliability():
    sheet = economy(HONEST, silent="b")
    full, result = recount(economy(HONEST)), recount(sheet)
    assert result.reliability_ppm[0] == 1_000_000
    assert 350_000 < result.reliability_ppm[1] < 650_000
    assert result.score_nano[1] < 0.5 * full.score_nano[1]


def through(answered):
    """Three honest experts' reliability, the second asked through so many senders in turn, of
    whose walks it answers such a part."""
    sheet = economy(HONEST, walks=40)
    sender, part = sheet.walk % len(answered), sheet.walk // len(answered) / (40 / len(answered))
    log_q, columns = sheet.log_q.copy(), sheet.sender.copy()
    log_q[part >= np.array(answered)[sender], 1] = LOG_Q_UNANSWERED
    columns[:, 1] = sender
    senders = tuple(Hotkey(f"s{i}") for i in range(len(answered)))
    return recount(
        dataclasses.replace(sheet, log_q=log_q, sender=columns, senders=senders)
    ).reliability_ppm


@pytest.mark.parametrize("strangers", [2, 3])
def test_who_answers_a_friends_calls_and_nobody_elses_is_worth_nothing(strangers):
    assert through([1, *[0] * strangers]) == (1_000_000, 0, 1_000_000)
    friend, part = 1 / (1 + strangers), 0.25
    mean = friend + (1 - friend) * part
    ppm = through([1, *[part] * strangers])[1]
    assert ppm == pytest.approx(part * 1e6, abs=1e5)  # of mean · ppm not more than that part
    assert ppm < 0.9 * mean * 1e6


@pytest.mark.parametrize("answered", [[1, 0], [1, 1, 0], [1, 1, 1, 0], [0.5]])
def test_what_fewer_than_half_of_senders_miss_counts_once(answered):
    """A foe takes no more than its own walks."""
    assert through(answered)[1] == pytest.approx(np.mean(answered) * 1e6, abs=3e4)


def test_who_was_never_asked_scores_zero_and_fades():
    sheet = economy(HONEST, ema_before=(NANO, NANO, NANO))
    log_q, log_w = sheet.log_q.copy(), sheet.log_w.copy()
    log_q[:, 2], log_w[:, 2] = LOG_Q_ABSENT, LOG_W_NONE
    result = recount(dataclasses.replace(sheet, log_q=log_q, log_w=log_w))
    assert result.reliability_ppm[2] == 0
    assert result.ema_after[2] == 700_000_000


@pytest.mark.parametrize("experts", [{"noise": noise}, {"noise": noise, "echo": echo}])
def test_when_nobody_is_worth_anything_the_last_row_stands(experts):
    before = (5 * NANO, 1 * NANO)[: len(experts)]
    sheet = economy(experts, ema_before=before)
    result = recount(sheet)
    assert result.ema_after == before
    assert result.row_u16[0] == 65_535
    empty = dataclasses.replace(
        sheet,
        walk=np.empty(0, "<u4"),
        position=np.empty(0, "<u4"),
        sender=np.empty((0, len(experts)), np.uint8),
        log_q=np.empty((0, len(experts) + 1), "<i4"),
        log_w=np.empty((0, len(experts) + 1), "<i4"),
        entropy=np.empty((0, len(experts)), "<i4"),
    )
    assert recount(empty).row_u16 == result.row_u16
    assert not any(recount(dataclasses.replace(empty, ema_before=(None,) * len(before))).row_u16)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_a_recount_over_the_wire_gives_the_same_row(seed):
    sheet = economy(HONEST | {"noise": noise}, walks=6, seed=seed)
    result = recount(sheet)
    voted = dataclasses.replace(
        sheet,
        reliability_ppm=result.reliability_ppm,
        ema_after=result.ema_after,
        row_u16=result.row_u16,
    )
    again = recount(Sheet.from_bytes(voted.to_bytes()))
    assert max(abs(a - b) for a, b in zip(again.row_u16, voted.row_u16, strict=True)) <= 1
    assert again.ema_after == voted.ema_after


RECOUNT = """
import sys
from pathlib import Path
from moesubnet.mixture.sheet import Sheet
from moesubnet.validator.scoring import recount
vote = recount(Sheet.from_bytes(Path(sys.argv[1]).read_bytes()))
print(vote.score_nano, vote.novelty_after, vote.standing_ppm, vote.since, vote.row_u16)
"""


@pytest.mark.parametrize(
    "processor",
    [
        {"OPENBLAS_CORETYPE": "Prescott", "OPENBLAS_NUM_THREADS": "1"},
        {"NPY_DISABLE_CPU_FEATURES": "X86_V3 X86_V4 AVX512_ICL AVX512_SPR AVX2 FMA3 AVX512F"},
    ],
    ids=["another BLAS kernel", "no wide vectors"],
)
def test_validators_with_the_same_items_agree_bit_for_bit_on_other_processors(processor, tmp_path):
    experts = HONEST | {"x": copy_of(HONEST["a"], 0.3), "y": mean_of_all}
    sheet = economy(experts, seed=1)
    vote = recount(sheet)
    mine = (vote.score_nano, vote.novelty_after, vote.standing_ppm, vote.since, vote.row_u16)
    path = tmp_path / "sheet"
    path.write_bytes(
        dataclasses.replace(sheet, validator=Hotkey("v2"), senders=(Hotkey("v2"),)).to_bytes()
    )
    command = [sys.executable, "-W", "ignore", "-c", RECOUNT, str(path)]
    theirs = subprocess.run(
        command, env=os.environ | processor, stdout=subprocess.PIPE, text=True, check=True
    )
    assert theirs.stdout.strip() == " ".join(map(str, mine))


def test_the_order_of_items_does_not_matter():
    sheet = economy(HONEST)
    order = np.random.default_rng(0).permutation(len(sheet.walk))
    columns = ("walk", "position", "log_q", "log_w", "entropy")
    shuffled = dataclasses.replace(sheet, **{k: getattr(sheet, k)[order] for k in columns})
    assert recount(shuffled).row_u16 == recount(sheet).row_u16


def test_absurd_but_legal_sheets_are_counted_without_a_warning():
    """The smallest weights and probabilities that a sheet may hold."""
    sheet = economy(HONEST, walks=3)
    low = np.full(sheet.log_w.shape, -2_000_000_000, np.int32)
    low[:, 0] = 0
    floor = np.full(sheet.log_q.shape, int(LOG_Q_FLOOR * 1e6), np.int32)
    with np.errstate(all="raise"):
        result = recount(dataclasses.replace(sheet, log_w=low, log_q=floor))
    assert np.all(np.isfinite(result.value_nats))
