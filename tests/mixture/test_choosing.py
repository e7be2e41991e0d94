"""Whom routers ask about a text, and validators pay for."""

import inspect

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from moesubnet.mixture.choosing import TOP_K, choose
from moesubnet.mixture.gate import FEATURES_DIM, SCALE, Gate, uniform_gate
from moesubnet.router.cli import run
from moesubnet.types import Hotkey

TEXT = np.array([5, 9, 5], np.uint32)


def gate_with(*mass: float, standing: tuple[int, ...] | None = None) -> Gate:
    """A gate whose experts m0, m1, … have prior mass in these proportions, whatever the text."""
    theta = np.zeros((FEATURES_DIM + 1, len(mass)), np.int32)
    theta[-1] = np.rint(np.log(mass) * SCALE)
    names = tuple(Hotkey(f"m{i}") for i in range(len(mass)))
    return Gate(names, theta, standing or (1_000_000,) * len(mass))


def test_the_chosen_set_is_the_smallest_with_most_of_the_mass() -> None:
    gate = gate_with(0.01, 0.6, 0.02, 0.36, 0.01)
    assert choose(gate, TEXT, gate.hotkeys, 8) == ["m1", "m3"]
    assert choose(gate, TEXT, gate.hotkeys, 1) == ["m1"]
    assert choose(gate, TEXT, ["m0", "m2"], 8) == ["m0", "m2"]
    assert choose(uniform_gate(), TEXT, gate.hotkeys, 8) == list(gate.hotkeys)


def test_newcomers_are_asked_where_places_are_left() -> None:
    gate = gate_with(0.01, 0.6, 0.37)
    known = list(gate.hotkeys)
    assert choose(gate, TEXT, [*known, "x"], 8) == ["m1", "m2", "x"]
    assert choose(gate, TEXT, [*known, "x"], 2) == ["m1", "m2"]


@given(st.integers(0, 2**32 - 1), st.integers(1, 12))
def test_twenty_fresh_hotkeys_take_nobody_s_place(token: int, top_k: int) -> None:
    gate = gate_with(0.05, 0.5, 0.15, 0.3)
    fresh = [Hotkey(f"fresh{i}") for i in range(20)]
    text = np.array([token], np.uint32)
    alone = choose(gate, text, gate.hotkeys, top_k)
    crowded = choose(gate, text, [*gate.hotkeys, *fresh], top_k)
    assert [hotkey for hotkey in crowded if hotkey in gate.hotkeys] == alone
    assert len(crowded) - len(alone) <= max(1, top_k // 4)


def test_the_text_draws_which_newcomers_are_asked() -> None:
    gate = gate_with(1.0)
    fresh = [Hotkey(f"fresh{i}") for i in range(6)]
    asked = {
        hotkey
        for token in range(40)
        for hotkey in choose(gate, np.array([token], np.uint32), ["m0", *fresh], 4)
    }
    assert asked == {"m0", *fresh}


def test_whom_its_seniors_explain_is_asked_where_places_are_left() -> None:
    copies = [Hotkey(f"m{i}") for i in range(2, 12)]
    gate = gate_with(0.4, *[0.6] * 11, standing=(1_000_000, 1_000_000, *[0] * 10))
    for token in range(20):
        chosen = choose(gate, np.array([token], np.uint32), gate.hotkeys, 8)
        assert {"m0", "m1"} < set(chosen)
        assert len(chosen) == 4
        [stand_in] = set(choose(gate, np.array([token], np.uint32), ["m0", *copies], 2)) - {"m0"}
        assert stand_in in copies


def test_validators_measure_with_a_router_s_default() -> None:
    assert inspect.signature(run).parameters["top_k"].default == TOP_K
