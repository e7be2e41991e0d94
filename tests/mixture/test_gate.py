"""The gate learns which expert knows which text, and everyone learns the same one."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesubnet.errors import FrameError
from moesubnet.mixture.gate import (
    BASELINE_MEMBER,
    COUNT_DECAY,
    FEATURES_DIM,
    FIT_COPIES,
    MEMORY_TOKENS,
    NEWCOMERS_PRIOR,
    Gate,
    WeightedSheet,
    _items_of_each,
    _prefix_features,
    fit,
    fit_theta,
    initial_features,
    uniform_gate,
    update_features,
)
from moesubnet.mixture.mixing import Walk, log_sum_exp, members_of
from moesubnet.types import Hotkey
from moesubnet.units import TOKENS, Grain

HOTKEYS = tuple(Hotkey(f"expert{i}") for i in range(4))


def of_length(length, stake):
    return SimpleNamespace(sheet=SimpleNamespace(items=length), stake_rao=stake)


def gate_of(hotkeys, theta):
    return Gate(hotkeys, theta, (1_000_000,) * len(hotkeys))


def prior(gate, features, members):
    return np.exp(gate.log_prior(features, members))


def test_before_the_first_sheet_everyone_is_equal():
    members = members_of(HOTKEYS)
    np.testing.assert_allclose(prior(uniform_gate(), initial_features(), members), 0.2)
    np.testing.assert_allclose(prior(fit([]), initial_features((3,)), members), 0.2)


def test_a_fitted_gate_finds_the_domain_and_keeps_the_baseline(make_sheet):
    sheet = make_sheet(HOTKEYS, domains=True)
    gate = fit([WeightedSheet(sheet, 10**9)])
    members = members_of(HOTKEYS)
    for domain in range(4):
        ids = np.arange(domain * 10, domain * 10 + 10)
        law = prior(gate, update_features(initial_features(), np.tile(ids, 4)), members)
        assert law[domain] == law.max()
        assert law[domain] > 0.4
        assert law[-1] == pytest.approx(1 / 5)
        assert law.sum() == pytest.approx(1.0)


def test_the_fit_ascends_its_objective_over_uniform_and_generalises(make_sheet):
    train, test = (
        make_sheet(HOTKEYS, domains=True, seed=1),
        make_sheet(HOTKEYS, domains=True, seed=2),
    )
    gate = fit([WeightedSheet(train, 1)])
    gains = []
    for sheet in (train, test):
        total = 0.0
        for k in range(len(sheet.walk)):
            ids = sheet.walks[sheet.walk[k]][: sheet.position[k]]
            features = update_features(initial_features(), ids)
            log_q = sheet.log_q[k] / 1e6
            gated = log_sum_exp(gate.log_prior(features, members_of(HOTKEYS)) + log_q)
            total += gated - log_sum_exp(log_q - np.log(5))
        gains.append(total / len(sheet.walk))
    assert gains[0] > 0.3
    assert gains[1] > 0.2


def test_newcomers_start_at_two_percent_and_absent_ones_leave_their_share(make_sheet):
    gate = fit([WeightedSheet(make_sheet(HOTKEYS, domains=True), 1)])
    newcomer = Hotkey("zz-new")
    law = prior(gate, initial_features(), members_of([*HOTKEYS[:3], newcomer]))
    assert law[3] == pytest.approx(NEWCOMERS_PRIOR)
    assert law[4] == pytest.approx(1 / 4)
    assert law.sum() == pytest.approx(1.0)
    strangers = members_of([newcomer])
    np.testing.assert_allclose(prior(gate, initial_features(), strangers), 0.5)


def test_the_same_sheets_in_any_order_give_the_same_bytes(make_sheet):
    sheets = [WeightedSheet(make_sheet(HOTKEYS, seed=s, epoch=s), 1 + s) for s in range(4)]
    gates = {fit(order).sha256 for order in (sheets, sheets[::-1], sheets[2:] + sheets[:3])}
    assert len(gates) == 1
    assert fit(sheets[:3]).sha256 not in gates


def test_stake_decides_and_the_number_of_items_does_not(make_sheet):
    truth = make_sheet(HOTKEYS, domains=True, seed=1)
    lie = make_sheet(HOTKEYS, domains=True, seed=2, swap=True, walk_count=64)
    gate = fit([WeightedSheet(truth, 10**9), WeightedSheet(lie, 10**7)])
    law = prior(gate, update_features(initial_features(), np.arange(10)), members_of(HOTKEYS))
    assert law.argmax() == 0
    ignored = fit([WeightedSheet(truth, 5), WeightedSheet(lie, 0)])
    assert ignored.sha256 == fit([WeightedSheet(truth, 7)]).sha256


def priors_by_domain(gate):
    members = members_of(HOTKEYS)
    domains = [np.tile(np.arange(10 * d, 10 * d + 10), 4) for d in range(4)]
    return [prior(gate, update_features(initial_features(), ids), members) for ids in domains]


def leave_room_for(monkeypatch, items):
    values = items * (FEATURES_DIM + 1 + FIT_COPIES * 4)
    monkeypatch.setattr("moesubnet.mixture.gate.MAX_FIT_VALUES", values)


def test_a_flood_of_sheets_of_little_stake_crowds_nobody_out(make_sheet, monkeypatch):
    leave_room_for(monkeypatch, 1000)
    truth = WeightedSheet(make_sheet(HOTKEYS, domains=True, seed=1), 10**9)
    flood = [WeightedSheet(make_sheet(HOTKEYS, seed=s, epoch=9), s) for s in range(2, 12)]
    alone, crowded = (priors_by_domain(fit(heard)) for heard in ([truth], [*flood, truth]))
    np.testing.assert_allclose(crowded, alone, atol=2e-3)


def test_the_largest_stake_crowds_nobody_out_by_long_sheets(make_sheet, monkeypatch):
    """A validator with 40 % of the stake, more than any other, fills its sheets with lies."""
    truths = [
        WeightedSheet(make_sheet(HOTKEYS, domains=True, seed=s), stake)
        for s, stake in ((1, 31), (2, 29))
    ]
    lies = make_sheet(HOTKEYS, domains=True, seed=3, swap=True, walk_count=500)
    leave_room_for(monkeypatch, 2_000)
    gate = fit([WeightedSheet(lies, 40), *truths])
    for domain, law in enumerate(priors_by_domain(gate)):
        assert law.argmax() == domain
    assert all(standing == 1_000_000 for standing in gate.standing_ppm)


def test_who_leans_on_another_takes_none_of_its_prior(make_sheet):
    """Expert 0 says of domain 1 what expert 1 says, as a gate alone could not tell."""
    sheet = make_sheet(HOTKEYS, domains=True)
    of_one = np.array([ids[0] // 10 == 1 for ids in sheet.walks])
    log_q, apart = sheet.log_q.copy(), sheet.apart.copy()
    log_q[of_one[sheet.walk], 0] = log_q[of_one[sheet.walk], 1] + 1_000
    apart[of_one, 0] = 0
    alone, unseen, seen = (
        priors_by_domain(fit([WeightedSheet(one, 1)]))
        for one in (
            sheet,
            dataclasses.replace(sheet, log_q=log_q),
            dataclasses.replace(sheet, log_q=log_q, apart=apart),
        )
    )
    assert unseen[1][0] > unseen[1][1]  # it answers as well, and speaks of two domains
    assert seen[1][1] > 0.8 * alone[1][1]
    assert seen[0][0] > 0.9 * alone[0][0]


def test_all_items_count_where_there_is_room(make_sheet, monkeypatch):
    sheets = [WeightedSheet(make_sheet(HOTKEYS, domains=True, seed=s), s) for s in (1, 2, 500)]
    whole = fit(sheets).sha256
    leave_room_for(monkeypatch, sum(len(item.sheet.walk) for item in sheets))
    assert fit(sheets).sha256 == whole


def test_silence_on_hard_items_does_not_raise_the_prior(make_sheet):
    rng = np.random.default_rng(0)
    features = initial_features((400,))
    log_q = np.log(rng.uniform(0.05, 0.5, (400, 1))) + np.zeros((400, 3))
    log_q[:, 2] -= 2.0  # the baseline is worse
    honest = gate_of(HOTKEYS[:2], fit_theta(features, log_q))
    picky = log_q.copy()
    hard = log_q[:, 0] < np.median(log_q[:, 0])
    picky[hard, 0] = log_q[hard, 2]  # unanswered: as the baseline did
    members = members_of(HOTKEYS[:2])
    assert prior(honest, initial_features(), members)[0] == pytest.approx(0.3333, abs=0.01)
    gate = gate_of(HOTKEYS[:2], fit_theta(features, picky))
    law = prior(gate, initial_features(), members)
    assert law[0] < law[1]


@given(st.lists(st.integers(0, 2**32 - 1), max_size=30), st.integers(0, 30))
def test_features_do_not_care_how_the_tokens_were_cut(ids, cut):
    ids = np.array(ids, np.uint32)
    whole = update_features(initial_features(), ids)
    parts = update_features(update_features(initial_features(), ids[:cut]), ids[cut:])
    np.testing.assert_allclose(whole, parts, rtol=1e-12)
    one_by_one = initial_features()
    for token in ids:
        one_by_one = update_features(one_by_one, np.array([token]))
    np.testing.assert_allclose(whole, one_by_one, rtol=1e-12)
    assert np.all(whole >= 0)
    assert whole.sum() <= 50.0 + 1e-9


def test_of_a_long_text_the_newest_tokens_say_it_all():
    ids = np.random.default_rng(0).integers(0, 2**32, 30_000, dtype=np.uint32)
    whole = update_features(initial_features(), ids)
    np.testing.assert_allclose(whole, update_features(initial_features(), ids[-MEMORY_TOKENS:]))
    np.testing.assert_allclose(whole, update_features(whole, ids), rtol=1e-12)
    assert whole.sum() == pytest.approx(1 / (1 - COUNT_DECAY))


@given(
    st.lists(st.tuples(st.integers(1, 9_000), st.integers(1, 10**15)), min_size=1),
    st.integers(1, 10**5),
)
def test_what_a_fit_holds_is_bounded_and_divided_by_stake(sheets, room):
    items = [of_length(length, stake) for length, stake in sheets]
    counts = _items_of_each(items, room)
    total = sum(stake for _, stake in sheets)
    assert sum(counts) == min(room, sum(length for length, _ in sheets))
    for count, (length, stake) in zip(counts, sheets, strict=True):
        assert min(length, room * stake // total) - len(sheets) <= count <= length


def test_gate_bytes_round_trip_and_refuse_anything_else(make_sheet):
    gate = fit([WeightedSheet(make_sheet(HOTKEYS), 1)])
    data = gate.to_bytes()
    again = Gate.from_bytes(data)
    assert again.sha256 == gate.sha256
    assert again.hotkeys == gate.hotkeys
    for bad in (b"", b"\xc1", data[:-1], data + b"\0", b"\x93\x01\x02\x03", b"\x81" * 5000):
        with pytest.raises(FrameError):
            Gate.from_bytes(bad)


def test_the_baseline_member_cannot_be_a_hotkey():
    assert BASELINE_MEMBER == "baseline"
    assert len(BASELINE_MEMBER) < 40  # an SS58 address is 47 or 48 characters


def test_four_units_to_a_token_forget_as_one_token_does() -> None:
    fine = Grain("bytes", 4.0)
    ids = np.arange(60)
    whole = update_features(initial_features(), ids)
    quarters = update_features(initial_features(), np.repeat(ids, 4), fine)
    np.testing.assert_allclose(quarters.sum() / whole.sum(), 4.0, rtol=0.03)
    gate = uniform_gate(HOTKEYS[:1], fine)
    slow, fast = (Walk(g, members_of(HOTKEYS[:1])) for g in (gate, uniform_gate(HOTKEYS[:1])))
    for walk in (slow, fast):
        walk.observe(np.array([1]), np.array([[-1.0, -3.0]]))
    slow.show(np.zeros((1, 40), np.uint32))
    fast.show(np.zeros((1, 10), np.uint32))
    np.testing.assert_allclose(slow.log_weights(), fast.log_weights())


def test_a_sheet_s_items_are_seen_as_a_stream_sees_its_prefix(make_sheet) -> None:
    sheet = make_sheet(HOTKEYS)
    taken = np.arange(1, len(sheet.walk), 3)
    found = _prefix_features(sheet, TOKENS, taken)
    for walk, position, features in zip(
        sheet.walk[taken], sheet.position[taken], found, strict=True
    ):
        prefix = sheet.walks[walk][:position]
        np.testing.assert_allclose(features, update_features(initial_features(), prefix))
