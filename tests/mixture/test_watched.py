"""Which validators lose their say in the gate, by sheets alone."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesubnet.errors import FrameError
from moesubnet.mixture.gate import WeightedSheet
from moesubnet.mixture.sheet import sheet_seed
from moesubnet.mixture.watched import silenced
from tests.sheets import synthetic_sheet

HOTKEYS = ["a", "b"]


def sheet_of(validator, epoch, *, seed=None, previous=bytes(32), **changes):
    made = synthetic_sheet(HOTKEYS, seed=epoch * 100 + ord(validator[-1]) if seed is None else seed)
    return dataclasses.replace(
        made,
        epoch=epoch,
        validator=validator,
        senders=(validator,),
        previous_sha256=previous,
        seed=sheet_seed(previous, epoch),
        **changes,
    )


def heard(*sheets, stake_rao=100):
    return [WeightedSheet(sheet, stake_rao) for sheet in sheets]


def chain_of(validator, epochs):
    sheets, previous, averages = [], bytes(32), (None, None)
    for epoch in epochs:
        sheet = sheet_of(validator, epoch, previous=previous, ema_before=averages)
        sheets.append(
            dataclasses.replace(sheet, novelty_before=(0, 0) if previous[0] else (None,) * 2)
        )
        previous, averages = sheets[-1].sha256, sheets[-1].ema_after
    return sheets


def test_honest_validators_keep_their_say_also_after_a_lost_vote():
    one, other = chain_of("v1", range(3, 8)), chain_of("v2", range(3, 8))
    lost = sheet_of("v3", 3), sheet_of("v3", 5, ema_before=(77, 78))
    assert silenced(heard(*one, *other, *lost)) == {}


def test_who_does_not_go_on_where_it_ended_is_silenced():
    first = sheet_of("v1", 3)
    liar = sheet_of("v1", 4, previous=first.sha256, ema_before=(6, 5), novelty_before=(0, 0))
    found = silenced(heard(first, liar, *chain_of("v2", range(3, 5))))
    assert list(found) == ["v1"]
    assert "does not follow" in found["v1"]


def test_an_expert_that_is_another_now_begins_anew_and_costs_its_validator_nothing():
    first, second = chain_of("v1", (3, 4))
    anew = dataclasses.replace(second, novelty_before=(None, 0))
    assert silenced(heard(first, anew)) == {}


def test_nobody_is_made_a_senior_afterwards():
    first, second = chain_of("v1", (3, 4))
    early = dataclasses.replace(second, since=(1, None))
    assert list(silenced(heard(first, early))) == ["v1"]
    now = dataclasses.replace(second, since=(4, None))  # it has its standing in this very sheet
    assert silenced(heard(first, now)) == {}
    later = sheet_of("v1", 5, previous=now.sha256, ema_before=(5, 5), novelty_before=(0, 0))
    for since, is_wrong in (((4, None), False), ((3, None), True), ((None, None), True)):
        then = dataclasses.replace(later, since=since)
        assert bool(silenced(heard(now, then))) == is_wrong


def test_who_publishes_its_walks_of_before_measured_nothing():
    source = sheet_of("v1", 3)
    cached = sheet_of("v1", 5, walks=source.walks)
    assert list(silenced(heard(source, cached))) == ["v1"]
    one_after = sheet_of("v1", 4, walks=source.walks)  # nobody could know them yet
    assert silenced(heard(source, one_after)) == {}
    few = sheet_of("v1", 5)
    few = dataclasses.replace(few, walks=(*source.walks[:4], *few.walks[4:]))
    assert silenced(heard(source, few)) == {}


def test_a_forged_history_silences_nobody():
    """Only the newest sheet's hash is on chain: a stranger dates an honest sheet's text back."""
    honest = sheet_of("v1", 5)
    forged = sheet_of("v2", 1, walks=honest.walks)
    newest = sheet_of("v2", 7, previous=forged.sha256)
    assert silenced(heard(honest, forged, newest)) == {}


@given(st.sets(st.sampled_from(["v2", "v3", "v4", "v5", "v6"])))
def test_more_than_half_of_the_others_stake_must_agree(accusers):
    accused = sheet_of("v1", 3)
    sheets = [accused]
    for name in ("v2", "v3", "v4", "v5", "v6"):
        says = (accused.sha256,) if name in accusers else ()
        sheets.append(sheet_of(name, 4, contradicted=says))
    assert ("v1" in silenced(heard(*sheets))) == (len(accusers) > 2)


def test_nobody_can_accuse_twice_or_itself_out_of_anything():
    accused = sheet_of("v1", 3)
    again = [sheet_of("v2", epoch, contradicted=(accused.sha256,)) for epoch in (4, 5, 6)]
    bystanders = [sheet_of(name, 4) for name in ("v3", "v4")]
    assert silenced(heard(accused, *again, *bystanders)) == {}
    stuffed = sheet_of("v1", 4, contradicted=(bytes([2]) * 32, bytes([1]) * 32))
    with pytest.raises(FrameError):
        type(stuffed).from_bytes(stuffed.to_bytes())


def test_the_order_in_which_sheets_are_known_does_not_matter():
    source = sheet_of("v1", 3)
    items = heard(source, sheet_of("v1", 5, walks=source.walks), sheet_of("v3", 4))
    assert silenced(items) == silenced(items[::-1]) != {}
