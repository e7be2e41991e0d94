"""The row on chain against the sheet that it names: another vote is seen, an honest one never."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesubnet.chain.client import LastReveal, Votes, WeightCommit
from moesubnet.types import Axon, Coldkey, Hotkey, Metagraph, Neuron
from moesubnet.validator.voted import differs_on_chain
from tests.sheets import synthetic_sheet

TEMPO, EPOCH, BEGUN = 30, 3, 90  # the sheet's
SHEET = replace(
    synthetic_sheet(["5A", "5B", "5C"], domains=True, epoch=EPOCH),
    validator=Hotkey("5V"),
    uids=(0, 1, 2),
)
ROW = [(uid, value) for uid, value in enumerate(SHEET.row_u16) if value]


def neuron(uid, hotkey, *, last_update=BEGUN + 15, registered=5):
    return Neuron(
        uid, Hotkey(hotkey), Coldkey("c"), Axon("127.0.0.1", 1), 10**12,
        0, 0, 0, 0, 0, True, True, last_update, registered,
    )  # fmt: skip


def votes(row, *, commits=(), sheet=SHEET, neurons=None, epoch_index=EPOCH + 2):
    """As the chain shows them when epoch EPOCH + 2 begins; the validator has uid 3."""
    if neurons is None:
        neurons = [neuron(uid, hotkey) for uid, hotkey in enumerate(["5A", "5B", "5C", "5V"])]
    begun = BEGUN + TEMPO * (epoch_index - EPOCH)
    metagraph = Metagraph(
        1, begun, "0x", TEMPO, epoch_index, begun, begun + TEMPO, Hotkey("o"), Coldkey("o"),
        True, None, None, tuple(neurons), None,
    )  # fmt: skip
    waiting = tuple(WeightCommit("0x", e, 0, e + 1) for e in commits)
    reveals = {3: LastReveal(EPOCH, sheet.sha256.hex())}
    return Votes(metagraph, epoch_index, {3: tuple(row)}, {3: waiting} if waiting else {}, reveals)


@given(commits=st.sampled_from([(), (EPOCH + 1,), (EPOCH + 1, EPOCH + 2)]))
def test_the_sheets_own_row_is_the_same(commits):
    assert len(ROW) > 1
    assert differs_on_chain(SHEET, votes(ROW, commits=commits)) == 0


@pytest.mark.parametrize("row", [[(0, 65_535)], ROW[1:], [*ROW[:-1], (ROW[-1][0], 1)], []])
def test_another_row_is_seen(row):
    assert differs_on_chain(SHEET, votes(row)) > 0


def test_a_vote_for_a_hotkey_that_the_sheet_has_not_is_seen():
    neurons = [neuron(uid, hotkey) for uid, hotkey in enumerate(["5A", "5B", "5C", "5V", "5Pet"])]
    assert differs_on_chain(SHEET, votes([*ROW, (4, 7)], neurons=neurons)) == 7


def test_uids_that_a_trim_moved_are_found_by_their_hotkeys():
    neurons = [neuron(uid, hotkey) for uid, hotkey in enumerate(["5C", "5A", "5B", "5V"])]
    moved = [(neurons[(uid + 1) % 3].uid, value) for uid, value in ROW]
    assert differs_on_chain(SHEET, votes(moved, neurons=neurons)) == 0


def test_who_took_a_slot_since_inherits_nothing_and_accuses_nobody():
    for gone in ("5B", "5New"):  # came back, or was replaced
        neurons = [neuron(0, "5A"), neuron(1, gone, registered=BEGUN + 20), neuron(2, "5C")]
        neurons.append(neuron(3, "5V"))
        row = [(uid, value) for uid, value in ROW if uid != 1]
        assert differs_on_chain(SHEET, votes(row, neurons=neurons)) == 0


def test_a_row_that_may_be_of_another_vote_is_not_judged():
    other = [(0, 65_535)]
    plain = [neuron(uid, h, last_update=BEGUN + TEMPO) for uid, h in enumerate("ABC")]
    plain.append(neuron(3, "5V", last_update=BEGUN + TEMPO))
    assert differs_on_chain(SHEET, votes(other, neurons=plain)) is None  # a plain vote since
    assert differs_on_chain(SHEET, votes(other, commits=(EPOCH + 4,))) is None  # maybe, before it
    newer = replace(SHEET, epoch=EPOCH + 1)
    assert differs_on_chain(SHEET, votes(other, sheet=newer)) is None
    gone = votes(other, neurons=[neuron(0, "5A")])
    assert differs_on_chain(SHEET, gone) is None
