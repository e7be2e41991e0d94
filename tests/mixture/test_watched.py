"""Which validators lose their say in the gate, by sheets alone."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesubnet.errors import FrameError
from moesubnet.mixture.gate import WeightedSheet
from moesubnet.mixture.sheet import WHOLE, sheet_seed
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


def cut_anew(sheet, rng):
    """The same texts, some longer, asked from other places on: one item each."""
    walks = [np.append(w, rng.integers(0, 2_000, 9).astype("<u4")) for w in sheet.walks]
    lengths = rng.integers(34, 57, len(walks))
    return asked_at_last(sheet, [ids[:n] for ids, n in zip(walks, lengths, strict=True)])


def asked_at_last(sheet, walks, scored=1):
    """Of these walks the last `scored` labels are items."""
    n = len(sheet.hotkeys)
    walk = np.repeat(np.arange(len(walks), dtype="<u4"), scored)
    ends = np.array([len(ids) for ids in walks], "<u4")
    position = (ends[walk] - scored + np.tile(np.arange(scored), len(walks))).astype("<u4")
    return dataclasses.replace(
        sheet,
        walks=tuple(walks),
        walk=walk,
        position=position,
        chosen=np.ones((len(walks), n), np.uint8),
        apart=np.full((len(walks), n), WHOLE, np.uint8),
    )


@given(st.integers(0, 2**32))
def test_who_asks_its_text_of_before_from_other_places_on_measured_nothing(seed):
    source = sheet_of("v1", 3)
    again = cut_anew(sheet_of("v1", 5, walks=source.walks), np.random.default_rng(seed))
    assert list(silenced(heard(source, again))) == ["v1"]
    source, again = (dataclasses.replace(s, epoch=e) for s, e in ((source, 5), (again, 3)))
    assert list(silenced(heard(again, source))) == ["v1"]
    shorter = asked_at_last(source, [ids[:33] for ids in source.walks])  # than what was shown then
    assert list(silenced(heard(again, shorter))) == ["v1"]


def test_conversations_under_one_template_are_not_the_same_as_long_as_they_ask_otherwise():
    rng, template = np.random.default_rng(0), np.arange(60, dtype="<u4")

    def talks(epoch, questions, answer=12):
        walks = [
            np.concatenate([template, np.full(9, q), rng.integers(0, 2_000, answer)]).astype("<u4")
            for q in questions
        ]
        return asked_at_last(sheet_of("v1", epoch), walks, answer)

    first = talks(3, range(100, 132))
    assert silenced(heard(first, talks(5, range(200, 232)), talks(6, range(300, 332)))) == {}
    again = talks(5, range(116, 148))  # half of them; what was answered is another text
    assert list(silenced(heard(first, again))) == ["v1"]
    assert silenced(heard(first, talks(5, range(125, 157)))) == {}
    next_turns = [np.append(ids, rng.integers(0, 2_000, 30)).astype("<u4") for ids in first.walks]
    assert list(silenced(heard(first, asked_at_last(sheet_of("v1", 5), next_turns, 9)))) == ["v1"]


def test_short_texts_are_the_same_only_whole():
    short = [np.full(9, k, "<u4") for k in range(32)]
    first = asked_at_last(sheet_of("v1", 3), short, 3)
    longer = asked_at_last(sheet_of("v1", 5), [np.append(ids, ids) for ids in short], 3)
    assert silenced(heard(first, longer)) == {}
    assert list(silenced(heard(first, dataclasses.replace(first, epoch=5)))) == ["v1"]


def test_a_sheet_of_empty_walks_harms_nobody():
    empty = asked_at_last(sheet_of("v1", 3), [np.empty(0, "<u4")] * 4, 0)
    assert list(silenced(heard(empty, dataclasses.replace(empty, epoch=5)))) == ["v1"]
    assert silenced(heard(asked_at_last(sheet_of("v1", 4), []), sheet_of("v1", 5))) == {}


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
