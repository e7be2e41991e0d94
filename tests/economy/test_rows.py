"""Rows of the table of economies, and the experts that they are played with."""

import dataclasses

import numpy as np
import pytest
import record_laws
import torch
from adversaries.cheap_self import round_weights
from cast import Economy
from economy import is_met, judge, paid_since
from simulation import Ledger, Member

from moesubnet.engine.base import Query
from moesubnet.engine.transformers_engine import TransformersEngine
from moesubnet.wire.protocol import Want
from tests.sheets import synthetic_sheet

NAMES = ("base", "one", "other")


@pytest.mark.parametrize(("standing_ppm", "met"), [((10**6, 5 * 10**5), True), ((10**6, 1), False)])
def test_each_sibling_has_to_stand_and_not_their_mean(standing_ppm, met):
    members = [Member(name) for name in NAMES]
    sheet = synthetic_sheet([m.hotkey for m in members], domains=True, walk_count=1)
    stands = dict(zip((m.hotkey for m in members), (10**6, *standing_ppm), strict=True))
    ppm = tuple(stands[hotkey] for hotkey in sheet.hotkeys)
    ledger = Ledger(
        paid_rao=[dict.fromkeys(NAMES, 10**9)] * 6,
        sheets=[dataclasses.replace(sheet, epoch=5, standing_ppm=ppm)],
    )
    economy = Economy("siblings", tuple(members), frozenset(NAMES[1:]), stands=0.5)
    row = judge("siblings", economy, ledger, {}, {})
    assert row["met"] is met
    assert sorted(row["each_stands"]) == sorted(round(p / 10**6, 3) for p in standing_ppm)


def test_an_adapter_makes_a_sibling_of_ordinary_form(tiny_model, tiny_spec, tmp_path, monkeypatch):
    """Near its base, and a model like any other."""
    pytest.importorskip("peft")
    monkeypatch.setattr(record_laws, "BATCH_TOKENS", 2 * tiny_spec.spec.context_tokens)
    recipe = record_laws.Recipe(("python",), 3, parent="all", rank=2)
    text = [tiny_spec.root / "public.jsonl"]
    sibling = record_laws.train_further(tiny_model, text, tiny_spec, "sibling", recipe)
    record_laws.save_model(sibling, tiny_spec, tmp_path / "sibling")

    def law(folder):
        query = Query("s", np.arange(8, dtype=np.uint32), 7)
        engine = TransformersEngine(str(folder), tiny_spec)
        return np.exp(engine.rows([query], Want("full"))[0].logprobs[-1])

    base, its = law(tiny_model), law(tmp_path / "sibling")
    assert 1e-4 < np.abs(base - its).sum() < 1.0


def test_groups_of_weights_are_rounded_closer_than_rows():
    torch.manual_seed(0)
    weights = torch.randn(8, 96) * torch.logspace(-2, 0, 96)
    errors = []
    for group in (None, 32):
        model = torch.nn.Linear(96, 8, bias=False)
        model.weight.data.copy_(weights)
        round_weights(model, 4, group)
        errors.append((model.weight.data - weights).norm().item())
    assert errors[1] < 0.8 * errors[0]


def test_what_is_fair_is_of_the_epochs_that_count():
    found = {"series": {"one": [9.0, 9.0, 1.0, 3.0], "gone": []}}
    assert paid_since(found, 2) == {"one": 2.0, "gone": 0.0}


@pytest.mark.parametrize(
    ("of_fair", "lost", "met"), [(1.04, 0.09, True), (1.07, 0.0, False), (1.0, 0.11, False)]
)
def test_seniors_that_collude_may_gain_little_and_take_little(of_fair, lost, met):
    members = tuple(Member(name) for name in NAMES)
    economy = Economy("c", members, frozenset(NAMES[1:]), "base", most=1.05, like="honest")
    assert is_met(economy, 3.0, of_fair, {"base": -lost}, [1.0, 1.0]) is met
