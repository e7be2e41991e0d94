"""Who is not always there, or not for everybody; and economies as pictures."""

import random

import numpy as np
import pytest
from adversaries.picky import Picky
from adversaries.two_faced import TwoFaced
from cast import AWAY_EPOCHS, Intermittent, Looking
from economy_plots import sheet
from simulation import Friends, Member, asked_by
from virtual_time import run

from moesubnet.errors import PeerUnavailable
from moesubnet.types import Hotkey
from moesubnet.wire.protocol import SequenceStep, StepRequest, base_hash, want_for
from moesubnet.wire.relay import through
from tests.sheets import synthetic_sheet

VOCAB = 40
FRIEND = Member(Friends.NAMES[0]).hotkey
VALIDATOR = Hotkey("v")
TEXT = np.arange(8, dtype=np.uint32)


def flat(ids):
    return np.full(VOCAB, -np.log(VOCAB))


def question(session):
    step = SequenceStep(session, 0, base_hash(TEXT[:0]), TEXT)
    return StepRequest((step,), want_for(VOCAB))


def answered(asked, session="s"):
    try:
        run(asked.step(question(session), timeout_s=5.0))
    except PeerUnavailable:
        return False
    return True


def test_a_routers_friend_answers_through_it_and_nobody_else():
    member = Member("picky", Picky(flat, only=[FRIEND]))
    experts = asked_by(VALIDATOR, [member])
    routers = Friends([member], "picky")
    assert not answered(experts[member.hotkey])
    first = set()
    for lot in range(20):
        way = through(experts, routers.draw(random.Random(lot)))[member.hotkey]
        assert answered(way, f"{lot}") == (way.sender == FRIEND)
        first.add(way.sender)
    assert first == {Member(name).hotkey for name in Friends.NAMES}


def test_the_two_faced_answers_validators_one_thing_and_users_another():
    def sure(ids):
        return np.where(np.arange(VOCAB) == 3, 0.0, -30.0)

    members = [Member("two-faced", TwoFaced(Picky(sure, only=[VALIDATOR]), flat))]
    probe, users = (
        run(asked_by(sender, members)[members[0].hotkey].step(question("s"), timeout_s=5.0))
        for sender in (VALIDATOR, Hotkey("router"))
    )
    assert np.argmax(probe.rows[0].logprobs[-1]) == 3
    assert np.ptp(users.rows[0].logprobs[-1]) == 0.0


def test_the_intermittent_are_away_for_as_long_as_they_are_there():
    law = Intermittent(flat)
    member = Member("honest", law)
    there = []
    for epoch in range(4 * AWAY_EPOCHS):
        law.begin(epoch, [])
        there.append(answered(asked_by(VALIDATOR, [member])[member.hotkey]))
    assert there == ([True] * AWAY_EPOCHS + [False] * AWAY_EPOCHS) * 2


def test_the_looker_reads_what_became_public():
    public = [synthetic_sheet(["e"], domains=True, walk_count=1)]
    [walk] = public[0].walks
    looker = Looking(flat)
    looker.begin(0, [])
    assert np.ptp(looker(walk[:4])) == 0.0
    looker.begin(1, public)
    assert np.argmax(looker(walk[:4])) == walk[4]


@pytest.mark.parametrize("count", [1, 7])
def test_each_economy_has_a_panel(tmp_path, count):
    rows = [
        {
            "economy": f"economy-{k}",
            "claim": "somebody turns",
            "series": {"python": [0.0, 1.0], "bad": [0.0, 2.0], "good": [1.0, 0.5]},
            "looked_at": ["bad"],
            "victim": "good",
            "validators": [],
            "joins": [1],
            "turns": True,
            "met": k % 2 == 0,
        }
        for k in range(count)
    ]
    path = tmp_path / "sheet.svg"
    sheet(rows, path)
    drawn = path.read_text()
    assert all(f'<g id="economy-{k}">' in drawn for k in range(count))
    assert drawn.count("target missed") == count // 2
