"""Whom its seniors explain is not heard: a model registered often is heard once."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesubnet.mixture.gate import (
    WeightedSheet,
    fit,
    initial_features,
    uniform_gate,
    update_features,
)
from moesubnet.mixture.law import Law, mix
from moesubnet.mixture.mixing import Walk, members_of
from moesubnet.mixture.standing import agreed_standing
from moesubnet.types import Hotkey

HOTKEYS = tuple(Hotkey(f"expert{i}") for i in range(3))
TEXT = np.tile(np.arange(10), 4)


def copies(count):
    return [Hotkey(f"expert1-copy{i:02}") for i in range(count)]


def with_copies(sheet, count):
    """The same sheet, had expert1 been registered `count` times more, later."""
    columns = [0, *[1] * (count + 1), 2]
    whole = 1_000_000
    return replace(
        sheet,
        hotkeys=tuple(sorted([*sheet.hotkeys, *copies(count)])),
        uids=tuple(range(len(columns))),
        age_millis=(5_000, 5_000, *[1_000] * count, 5_000),
        took_100us=sheet.took_100us[:, columns],
        apart=sheet.apart[:, columns],
        log_q=sheet.log_q[:, [*columns, -1]],
        log_w=sheet.log_w[:, [*columns, -1]],
        receipts=(bytes(32),) * len(columns),
        usage_loss_ppm=(0,) * len(columns),
        feedback_ppm=(0,) * len(columns),
        reliability_ppm=(1_000_000,) * len(columns),
        ema_before=(None,) * len(columns),
        ema_after=(5,) * len(columns),
        novelty_before=(None,) * len(columns),
        novelty_after=(0,) * len(columns),
        since=(None,) * len(columns),
        standing_ppm=(whole, whole, *[0] * count, whole),
        row_u16=(65_535,) * len(columns),
    )


@pytest.fixture(scope="module")
def gates(make_sheet):
    """Fitted gates by how many copies of expert1 were registered."""
    sheet = make_sheet(HOTKEYS, domains=True)
    return {k: fit([WeightedSheet(with_copies(sheet, k), 10**9)]) for k in (0, 1, 20)}


def mixtures(gate, hotkeys, laws, text, silent=()):
    """log m before each token of `text`, and the last weights by hotkey."""
    members = members_of(hotkeys)
    rows = np.stack([laws[name.split("-")[0]] for name in members])
    here = np.array([name not in silent for name in members])
    walk, out = Walk(gate, members), []
    for token in text:
        weights = walk.log_weights(here)[0]
        out.append(mix(weights, list(map(Law, rows))).law.logp)
        walk.observe(np.array([token]), rows[None, :, token], blind=here)
    return np.array(out), dict(zip(members, np.exp(weights), strict=True))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_copies_together_take_two_percent_however_many(gates, seed):
    rng = np.random.default_rng(seed)
    features = update_features(initial_features(), rng.integers(0, 30, 20))
    plain = np.exp(gates[0].log_prior(features, members_of(HOTKEYS)))
    for count in (1, 20):
        members = members_of([*HOTKEYS, *copies(count)])
        prior = dict(zip(members, np.exp(gates[count].log_prior(features, members)), strict=True))
        assert sum(prior.values()) == pytest.approx(1.0)
        assert sum(prior[copy] for copy in copies(count)) == pytest.approx(0.02)
        assert prior["baseline"] == pytest.approx(plain[-1])
        left = (1 - 0.02 - plain[-1]) / (1 - plain[-1])
        for name, before in zip(HOTKEYS, plain, strict=False):
            assert prior[name] == pytest.approx(left * before)


def test_a_copy_takes_over_where_its_source_is_silent(gates):
    laws = {name: np.log(np.full(8, 1 / 8)) for name in (*HOTKEYS, "baseline")}
    laws["expert1"] = np.log(np.where(np.arange(8) == 3, 0.93, 0.01))
    text = np.full(12, 3)
    _, weights = mixtures(gates[20], [*HOTKEYS, *copies(20)], laws, text, silent=["expert1"])
    assert weights["expert1"] == 0
    assert sum(weights[copy] for copy in copies(20)) > 0.9


@pytest.mark.parametrize("fresh", [1, 20, 200])
def test_fresh_hotkeys_together_take_two_percent(gates, fresh):
    features = update_features(initial_features(), TEXT)
    before = np.exp(gates[0].log_prior(features, members_of(HOTKEYS)))
    members = members_of([*HOTKEYS, *(Hotkey(f"fresh{i}") for i in range(fresh))])
    after = np.exp(gates[0].log_prior(features, members))
    assert after.sum() == pytest.approx(1.0)
    assert after[3:-1].sum() == pytest.approx(0.02)
    assert np.abs(after[[0, 1, 2, -1]] - before).sum() == pytest.approx(0.02)


@given(st.lists(st.integers(0, 1_000_000), min_size=3, max_size=3), st.integers(0, 3))
def test_a_prior_is_whole_and_continuous_in_standing(standing, fresh):
    gate = replace(uniform_gate(HOTKEYS), standing_ppm=tuple(standing))
    members = members_of([*HOTKEYS, *(Hotkey(f"fresh{i}") for i in range(fresh))])
    prior = np.exp(gate.log_prior(initial_features(), members))
    assert prior.sum() == pytest.approx(1.0)
    if any(ppm > 100_000 for ppm in standing):
        more = replace(gate, standing_ppm=tuple(min(ppm + 100, 1_000_000) for ppm in standing))
        again = np.exp(more.log_prior(initial_features(), members))
        np.testing.assert_allclose(again, prior, atol=0.002)


def test_who_has_no_standing_leaves_the_fit_as_it_is(make_sheet):
    sheet = make_sheet(HOTKEYS, domains=True)
    plain = fit([WeightedSheet(sheet, 1)])
    crowded = fit([WeightedSheet(with_copies(sheet, 20), 1)])
    np.testing.assert_array_equal(crowded.theta[:, [0, 1, -1]], plain.theta)
    assert crowded.standing_ppm == (1_000_000, 1_000_000, *[0] * 20, 1_000_000)


def test_the_stake_behind_the_newest_sheets_says_who_stands(make_sheet):
    plain = make_sheet(HOTKEYS, epoch=3)
    explained = replace(plain, standing_ppm=(1_000_000, 0, 1_000_000))

    def said(*sheets):
        return agreed_standing(
            [
                (replace(sheet, validator=Hotkey(name), epoch=epoch), stake)
                for name, sheet, epoch, stake in sheets
            ],
            HOTKEYS,
        )

    assert said(("a", plain, 3, 6), ("b", explained, 3, 4)) == [1_000_000, 600_000, 1_000_000]
    # Twenty old sheets of one validator are one vote, and the newest speaks.
    old = [("a", plain, epoch, 4) for epoch in range(20)]
    assert said(*old, ("a", explained, 20, 4), ("b", plain, 20, 6))[1] == 600_000
    # An expert that the newest sheet does not have stays what the last sheet with it said.
    alone = make_sheet(HOTKEYS[:1], epoch=9)
    assert said(("a", explained, 3, 4), ("a", alone, 9, 4))[1] == 0
    assert uniform_gate(HOTKEYS).standing_ppm == (1_000_000,) * 3
    # No more than half of the stake says, of those that have a sheet since it came.
    assert said(("a", plain, 3, 5), ("b", explained, 3, 6))[1] == 0
    assert said(("a", plain, 3, 5), ("b", explained, 3, 5))[1] == 500_000
    assert said(("a", plain, 3, 4), ("b", alone, 3, 5))[1] == 0
    assert said(("a", plain, 3, 4), ("b", alone, 2, 5))[1] == 1_000_000


@pytest.mark.parametrize("is_hidden", [True, False])
def test_a_small_validator_makes_nobody_heard_that_others_cannot_hear(make_sheet, is_hidden):
    """In its sheets a friend of its is always right and all others are wrong. The friend shows its
    card to that one alone, or is there and not asked by others."""
    names = (*HOTKEYS, Hotkey("friend"))

    def honest(epoch):
        known = HOTKEYS if is_hidden else names
        sheet = make_sheet(known, epoch=epoch, seed=epoch, walk_count=8, domains=True)
        if is_hidden:
            return sheet
        log_q = np.where(np.arange(5) == 3, np.int32(-(2**31)), sheet.log_q)
        return replace(sheet, log_q=log_q, standing_ppm=(1_000_000, 1_000_000, 1_000_000, 0))

    def lie(epoch):
        sheet = make_sheet(names, epoch=epoch, seed=50 + epoch, walk_count=8, domains=True)
        log_q = np.where(np.arange(5) == 3, 0, np.int32(-30_000_000))
        log_q = np.where(np.arange(5) == 4, sheet.log_q, log_q).astype(np.int32)
        standing = (0, 0, 0, 1_000_000)
        return replace(sheet, validator=Hotkey("liar"), log_q=log_q, standing_ppm=standing)

    heard = [WeightedSheet(honest(epoch), 80) for epoch in range(3)]
    gate = fit(heard + [WeightedSheet(lie(epoch), 20) for epoch in range(3)])
    members = members_of(names)
    for text in (TEXT, TEXT[:0]):
        features = update_features(initial_features(), text)
        prior = dict(zip(members, np.exp(gate.log_prior(features, members)), strict=True))
        assert prior["friend"] <= 0.0201
