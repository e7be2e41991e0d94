"""Weights are shown when no copy of them can take their expert's place."""

import dataclasses

import pytest

from moesubnet.miner.opening import EPOCHS_UNTIL_SEEN, is_senior
from moesubnet.mixture.gate import WeightedSheet
from moesubnet.types import Hotkey, ServedModel
from tests.sheets import synthetic_sheet

from .conftest import metagraph_of, neuron

OWN, SAID = Hotkey("a"), 5  # the epoch in which it said what it serves


def at_epoch(epoch, said=SAID):
    """Ten blocks each; said in the middle of that one."""
    model = ServedModel("0" * 64, False, 10 * said + 5)
    own = dataclasses.replace(neuron(0, "//Own", 0), hotkey=OWN, model=model)
    return dataclasses.replace(
        metagraph_of([own]), epoch_index=epoch, tempo_blocks=10, last_epoch_block=10 * epoch
    )


def sheet(epoch, since, validator="v", stake_rao=10, hotkeys=(OWN, "b")):
    plain = synthetic_sheet(hotkeys, epoch=epoch)
    changed = dataclasses.replace(plain, validator=validator, since=(since, None))
    return WeightedSheet(changed, stake_rao)


def test_who_was_seen_to_know_something_since_it_said_what_it_serves_is_a_senior():
    early = SAID + EPOCHS_UNTIL_SEEN
    assert not is_senior(at_epoch(9), OWN, [])
    assert is_senior(at_epoch(9), OWN, [sheet(early, 6)])
    assert is_senior(at_epoch(9, said=-2), OWN, [sheet(0, 0)])  # since the network began
    assert not is_senior(at_epoch(9), OWN, [sheet(early, None)])
    assert not is_senior(at_epoch(9), OWN, [sheet(early, 6, hotkeys=("c", "b"))])


def test_what_was_known_of_other_weights_or_before_it_changed_is_nothing():
    assert not is_senior(at_epoch(9), OWN, [sheet(SAID + EPOCHS_UNTIL_SEEN - 1, 3)])
    assert not is_senior(at_epoch(9), OWN, [sheet(7, 3), sheet(8, None)])


@pytest.mark.parametrize(("stake_rao", "is_enough"), [(9, False), (10, False), (11, True)])
def test_more_than_half_of_the_stake_has_to_know(stake_rao, is_enough):
    sheets = [sheet(8, 6, "v", stake_rao), sheet(8, None, "other")]
    assert is_senior(at_epoch(9), OWN, sheets) == is_enough
