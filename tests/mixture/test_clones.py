"""A model registered many times is heard as often as one registered once."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesubnet.mixture.clones import agreed_leaders
from moesubnet.mixture.gate import (
    WeightedSheet,
    fit,
    initial_features,
    uniform_gate,
    update_features,
)
from moesubnet.mixture.law import Law, mix
from moesubnet.mixture.mixing import Walk, members_of
from moesubnet.types import Hotkey

HOTKEYS = tuple(Hotkey(f"expert{i}") for i in range(3))
TEXT = np.tile(np.arange(10), 4)


def copies(count):
    return [Hotkey(f"expert1-copy{i:02}") for i in range(count)]


def with_copies(sheet, count):
    """The same sheet, had expert1 been registered `count` times more."""
    columns = [0, *[1] * (count + 1), 2]
    return replace(
        sheet,
        hotkeys=tuple(sorted([*sheet.hotkeys, *copies(count)])),
        uids=tuple(range(len(columns))),
        leaders=tuple(0 if c == 0 else 1 if c == 1 else len(columns) - 1 for c in columns),
        log_q=sheet.log_q[:, [*columns, -1]],
        log_w=sheet.log_w[:, [*columns, -1]],
        receipts=(bytes(32),) * len(columns),
        reliability_ppm=(1_000_000,) * len(columns),
        ema_before=(None,) * len(columns),
        ema_after=(5,) * len(columns),
        row_u16=(65_535,) * len(columns),
    )


@pytest.fixture(scope="module")
def gates(make_sheet):
    """Fitted gates by how many copies of expert1 were registered."""
    sheet = make_sheet(HOTKEYS, domains=True)
    return {k: fit([WeightedSheet(with_copies(sheet, k), 10**9)]) for k in (0, 1, 20)}


def mixtures(gate, hotkeys, laws, text, alive=None):
    """log m before each token of `text`, and the last weights by hotkey."""
    members = members_of(hotkeys)
    rows = np.stack([laws[name.split("-")[0]] for name in members])
    here = np.array([name not in (alive or ()) for name in members])
    walk, out = Walk(gate, members), []
    for token in text:
        weights = walk.log_weights(here)[0]
        out.append(mix(weights, list(map(Law, rows))).law.logp)
        walk.observe(np.array([token]), rows[None, :, token], blind=here)
    return np.array(out), dict(zip(members, np.exp(weights), strict=True))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_splitting_an_expert_into_many_hotkeys_changes_nothing(gates, seed):
    rng = np.random.default_rng(seed)
    laws = {name: np.log(rng.dirichlet(np.ones(8))) for name in (*HOTKEYS, "baseline")}
    text = rng.integers(0, 8, 12)
    plain, weights = mixtures(gates[0], HOTKEYS, laws, text)
    for count in (1, 20):
        split, shared = mixtures(gates[count], [*HOTKEYS, *copies(count)], laws, text)
        np.testing.assert_allclose(split, plain, atol=1e-9)
        for name in ("expert0", "expert2", "baseline"):
            assert shared[name] == pytest.approx(weights[name])
        assert shared["expert1"] == pytest.approx(weights["expert1"] / (count + 1))


def test_copies_that_are_silent_take_nothing_from_the_one_that_answers(gates):
    rng = np.random.default_rng(0)
    laws = {name: np.log(rng.dirichlet(np.ones(8))) for name in (*HOTKEYS, "baseline")}
    text = rng.integers(0, 8, 12)
    plain, _ = mixtures(gates[0], HOTKEYS, laws, text)
    split, _ = mixtures(gates[20], [*HOTKEYS, *copies(20)], laws, text, alive=copies(20))
    np.testing.assert_allclose(split, plain, atol=1e-9)


@pytest.mark.parametrize("fresh", [1, 20, 200])
def test_fresh_hotkeys_together_take_two_percent(gates, fresh):
    features = update_features(initial_features(), TEXT)
    before = np.exp(gates[0].log_prior(features, members_of(HOTKEYS)))
    members = members_of([*HOTKEYS, *(Hotkey(f"fresh{i}") for i in range(fresh))])
    after = np.exp(gates[0].log_prior(features, members))
    assert after.sum() == pytest.approx(1.0)
    assert after[3:-1].sum() == pytest.approx(0.02)
    assert np.abs(after[[0, 1, 2, -1]] - before).sum() == pytest.approx(0.02)


def test_a_copy_of_an_unregistered_leader_inherits_its_place(make_sheet):
    sheet = with_copies(make_sheet(HOTKEYS, domains=True), 2)
    registered = [hotkey for hotkey in sheet.hotkeys if hotkey != "expert1"]
    gate = fit([WeightedSheet(sheet, 1)], registered)
    assert gate.hotkeys == ("expert0", "expert1-copy00", "expert1-copy01", "expert2")
    assert gate.leaders == (0, 1, 1, 3)
    assert np.array_equal(gate.theta[:, 1], gate.theta[:, 2])


def test_a_silent_copy_does_not_speak_for_its_leader(make_sheet):
    sheet = with_copies(make_sheet(HOTKEYS, domains=True), 1)
    silent = sheet.log_q.copy()
    silent[::2, 2] = -(2**31) + 1
    quiet = fit([WeightedSheet(replace(sheet, log_q=silent), 1)])
    assert np.array_equal(quiet.theta, fit([WeightedSheet(sheet, 1)]).theta)


def test_the_stake_behind_the_newest_sheets_says_who_leads(make_sheet):
    plain = make_sheet(HOTKEYS, epoch=3)
    cloned = replace(plain, leaders=(0, 0, 2))

    def said(*sheets):
        return agreed_leaders(
            [
                (replace(sheet, validator=Hotkey(name), epoch=epoch), stake)
                for name, sheet, epoch, stake in sheets
            ],
            HOTKEYS,
        )

    assert said(("a", plain, 3, 5), ("b", cloned, 3, 4)) == [0, 1, 2]
    assert said(("a", plain, 3, 4), ("b", cloned, 3, 5)) == [0, 0, 2]
    # Twenty old sheets of one validator are one vote, and the newest speaks.
    old = [("a", plain, epoch, 4) for epoch in range(20)]
    assert said(*old, ("a", cloned, 20, 4), ("b", plain, 20, 3)) == [0, 0, 2]
    # An expert that the newest sheet does not have stays what the last sheet with it said.
    alone = make_sheet(HOTKEYS[:1], epoch=9)
    assert said(("a", cloned, 3, 4), ("a", alone, 9, 4)) == [0, 0, 2]
    # Two halves that contradict each other still make whole clusters.
    circle = replace(plain, leaders=(1, 1, 2))
    assert said(("a", cloned, 3, 4), ("b", circle, 3, 4)) in ([0, 1, 2], [0, 0, 2], [1, 1, 2])
    assert uniform_gate(HOTKEYS).leaders == (0, 1, 2)
