"""An expert that is another through one router than through the others is told; chance is not."""

import dataclasses

import numpy as np
import pytest

from moesubnet.mixture.sheet import LOG_Q_ABSENT
from moesubnet.validator.explain import explain
from moesubnet.validator.senders import SUSPICIOUS_P, differences
from tests.sheets import synthetic_sheet

EXPERTS = tuple(f"expert{i}" for i in range(6))
ROUTERS = ("ra", "rb", "rc")


def relayed(epoch, friend_nats=0.0, seed=0):
    """A sheet whose walks went through three routers by lot; expert 2 gains through "rb"."""
    sheet = synthetic_sheet(EXPERTS, seed=100 * seed + epoch, epoch=epoch)
    rng = np.random.default_rng(1_000 * seed + epoch)
    by_walk = rng.integers(1, 4, len(sheet.walks))
    sender = np.repeat(by_walk[sheet.walk][:, None], len(EXPERTS), axis=1).astype(np.uint8)
    log_q = sheet.log_q + np.rint(
        1e6 * rng.normal(0.0, 0.5, (len(sheet.walks), len(EXPERTS) + 1))[sheet.walk]
    ).astype("<i4")
    log_q[sender[:, 0] == 2, 2] += round(1e6 * friend_nats)
    return dataclasses.replace(
        sheet, senders=("validator", *ROUTERS), sender=sender, log_q=np.minimum(log_q, 0)
    )


def test_a_router_that_is_a_miner_s_friend_is_named_with_it():
    found = differences([relayed(epoch, friend_nats=0.6) for epoch in range(8)])
    assert [d.hotkey for d in found if d.p <= SUSPICIOUS_P] == ["expert2"]
    [friend] = [d for d in found if d.hotkey == "expert2"]
    assert friend.sender == "rb"
    assert friend.nats == pytest.approx(0.6, abs=0.3)
    assert friend.walks > 40
    newest_first = [relayed(epoch, friend_nats=0.6) for epoch in reversed(range(8))]
    assert f"through rb are {friend.nats:.3f} nats a token better" in explain(
        newest_first, "expert2"
    )
    assert "so by chance" in explain(newest_first, "expert4")


def test_a_friend_is_named_where_a_walk_asks_few():
    """Who was not asked says nothing of who asked."""

    def few(epoch):
        sheet = relayed(epoch, friend_nats=0.8)
        away = np.arange(len(EXPERTS)) > 2
        log_q, sender = sheet.log_q.copy(), sheet.sender.copy()
        log_q[:, :-1][:, away], sender[:, away] = LOG_Q_ABSENT, 0
        return dataclasses.replace(sheet, log_q=log_q, sender=sender)

    found = differences([few(epoch) for epoch in range(8)])
    assert [(d.hotkey, d.sender) for d in found if d.p <= SUSPICIOUS_P] == [("expert2", "rb")]


def test_routers_by_lot_make_no_difference_however_good_each_expert_is():
    """p is of all experts and routers together: under 5 % in 5 % of fair networks."""
    least = [
        min(d.p for d in differences([relayed(e, seed=s) for e in range(2)], draws=200))
        for s in range(60)
    ]
    assert sum(p <= 0.05 for p in least) <= 8  # more than 8 of 60: once in 200
    assert np.mean(least) == pytest.approx(0.5, abs=0.15)


def test_an_expert_that_does_worse_through_one_is_told_as_well():
    found = differences([relayed(epoch, friend_nats=-0.8) for epoch in range(8)])
    [foe] = [d for d in found if d.p <= SUSPICIOUS_P]
    assert (foe.hotkey, foe.sender, foe.nats < -0.4) == ("expert2", "rb", True)


def test_where_nothing_went_two_ways_there_is_nothing_to_tell():
    assert differences([]) == []
    assert differences([synthetic_sheet(EXPERTS)]) == []
    assert differences([synthetic_sheet(EXPERTS, walk_count=0)]) == []


def test_the_same_sheets_say_the_same_and_who_left_or_was_silent_stops_nobody():
    sheets = [relayed(epoch) for epoch in range(3)]
    log_q = sheets[0].log_q.copy()
    log_q[:, 1] = -(2**31) + 1
    sheets[0] = dataclasses.replace(sheets[0], log_q=log_q)
    keep = [c for c in range(6) if c != 4]
    gone = {
        name: tuple(getattr(sheets[1], name)[c] for c in keep)
        for name in ("hotkeys", "uids", "age_millis")
    }
    sheets[1] = dataclasses.replace(
        sheets[1], **gone, sender=sheets[1].sender[:, keep], log_q=sheets[1].log_q[:, [*keep, 6]]
    )
    once, again = differences(sheets, draws=100), differences(sheets, draws=100)
    assert once == again
    assert {d.hotkey for d in once} == set(EXPERTS)
