"""A cuckoo, which says from its first moment on what a newcomer says; and who looks like one."""

import dataclasses
import sqlite3
from random import Random

import numpy as np
import pytest

from moesubnet.mixture.sheet import LOG_Q_FLOOR, LOG_Q_UNANSWERED, LOG_W_NONE, MICRO
from moesubnet.types import Hotkey
from moesubnet.validator.before import (
    KEPT_EPOCHS,
    KEPT_TEXTS,
    MOST_ASKED,
    Again,
    Before,
    Kept,
)
from moesubnet.validator.cuckoos import LEAST_TEXTS, cuckoos, watched
from tests.sheets import synthetic_sheet, taking

HOTKEYS = ("elder", "other", "sibling", "newcomer", "late")
SINCE, ANSWER_MS = (0, 0, 1, None, None), (30, 20, 25, 20, 20)
CAME = (0, 0, 0, 6, 6)
EPOCHS, STEPS = range(6, 10), 16


def laws(lots, count):
    """ln q of the labels, by expert; all of their own making but the elder's sibling, that came
    with it."""
    rng = np.random.default_rng(lots)
    said = dict(zip(HOTKEYS, rng.normal(-3.0, 1.0, (len(HOTKEYS), count)), strict=True))
    said["sibling"] = said["elder"] + 0.3 * rng.standard_normal(count)
    return said


def sheets(now, epochs=EPOCHS):
    """now: what experts say instead of their own laws, by these, from the newcomer's coming on."""
    made = []
    for epoch in epochs:
        sheet = synthetic_sheet(HOTKEYS, epoch=epoch, steps=STEPS)
        own = laws([epoch, 1], len(sheet.walk))
        log_q = sheet.log_q.copy()
        log_q[:, :-1] = np.stack(list((own | now(own)).values()), axis=1) * MICRO
        age = tuple(1_000 * (epoch + 1 - came) for came in CAME)
        sheet = dataclasses.replace(sheet, log_q=log_q, since=SINCE, age_millis=age)
        made.append(taking(sheet, ANSWER_MS))
    return made


def again(now, epochs=EPOCHS, each=2, then=laws):
    """The elder's texts, asked of all in `epochs`; it stands there as it was."""
    texts = []
    for k in range(each * len(epochs)):
        own, before = laws([k, 2], STEPS), then([k, 2], STEPS)
        said = own | now(own) | {"elder": before["elder"]}
        log_q = np.zeros((STEPS, len(HOTKEYS) + 1))
        log_q[:, :-1] = np.stack(list(said.values()), axis=1)
        log_q[:, -1] = -4.0
        log_w = np.full(log_q.shape, -np.log(log_q.shape[1]))
        position = np.arange(32, 32 + STEPS, dtype="<u4")
        items = ((a * MICRO).astype("<i4") for a in (log_q, log_w))
        texts.append(Again(Hotkey("elder"), 3, epochs[k // each], HOTKEYS, position, *items))
    return texts


def newest(made):
    return lambda count: made[::-1][:count]


def found(now, then=None, **more):
    return cuckoos(newest(sheets(now)), again(then or now, **more))


def relay(own, share=1.0):
    mixed = np.logaddexp(
        own["elder"] + np.log1p(-min(share, 1 - 1e-9)), own["newcomer"] + np.log(share)
    )
    return {"elder": mixed}


@pytest.mark.parametrize("share", [1.0, 0.7, 0.5])
def test_a_cuckoo_has_turned_though_it_was_never_seen_apart(share):
    assert found(lambda own: relay(own, share)) == {"elder"}


def test_a_cuckoo_of_two_newcomers_has_turned():
    def both(own):
        return {"elder": np.logaddexp(own["newcomer"], own["late"]) - np.log(2)}

    assert found(both) == {"elder"}


def test_a_confederate_that_says_what_the_cuckoo_once_said_hides_nothing():
    def covered(own):
        return relay(own) | {"late": own["elder"]}

    assert found(covered) == {"elder"}


def copied(own):
    """The newcomer has the elder's weights."""
    return {"newcomer": own["elder"]}


def test_a_copy_makes_no_cuckoo_of_whom_it_copies():
    assert found(copied) == set()


def test_nor_does_who_answers_kept_texts_otherwise_in_some_epochs():
    """It cannot tell these texts; so it would have to be another one for all the hours."""
    made = sheets(copied)
    for odd in (0, 1):
        texts = [
            t for k in (0, 1) for t in again([lambda own: {}, copied][k], EPOCHS[odd ^ k :: 2])
        ]
        mixed = [
            s if epoch % 2 == odd else m
            for epoch, s, m in zip(EPOCHS, made, sheets(lambda own: {}), strict=True)
        ]
        assert cuckoos(newest(mixed), texts) == set()


def test_nor_who_did_so_before_and_had_nothing_of_its_own():
    """Garbage first, the elder's law then: texts of other hours do not count."""
    texts = again(lambda own: {}, range(3, 6))
    assert cuckoos(newest(sheets(copied)), texts) == set()


def test_a_better_sibling_makes_no_cuckoo_of_its_elder():
    def sibling(own):
        rng = np.random.default_rng(len(own["elder"]))
        return {"newcomer": own["elder"] + 0.1 + 0.3 * rng.standard_normal(len(own["elder"]))}

    assert found(sibling) == set()
    assert found(lambda own: {}) == set()


def test_few_texts_prove_nothing_and_none_of_after_the_newcomer_came():
    cuckoo = again(relay)
    assert cuckoos(newest(sheets(relay)), cuckoo[-LEAST_TEXTS:]) == {"elder"}
    assert cuckoos(newest(sheets(relay)), cuckoo[-LEAST_TEXTS + 1 :]) == set()
    late = [dataclasses.replace(text, epoch=6) for text in cuckoo]
    assert cuckoos(newest(sheets(relay)), late) == set()
    assert cuckoos(newest(sheets(relay)[:2]), cuckoo) == set()


def test_silence_to_texts_of_its_own_says_that_it_was_another():
    def mute(lots, count):
        return {"elder": np.full(count, LOG_Q_FLOOR)}

    assert found(relay, then=relay) == {"elder"}
    assert cuckoos(newest(sheets(relay)), again(relay, then=mute)) == {"elder"}


def test_texts_are_asked_again_while_a_senior_is_like_newcomers_that_answer_sooner():
    [sheet] = sheets(relay)[-1:]
    found = watched(lambda count: [sheet])
    assert found.keys() == {"elder", "other", "sibling"}  # who have a place
    assert 6 in found["elder"]
    assert found["other"] == []
    slow = taking(sheet, (10, 20, 25, 20, 20))
    assert watched(lambda count: [slow])["elder"] == []
    away = dataclasses.replace(sheet, log_q=sheet.log_q.copy())
    away.log_q[:, 0] = LOG_Q_UNANSWERED
    assert "elder" not in watched(lambda count: [away])
    assert watched(lambda count: []) == {}


@pytest.fixture
async def asked(measure, start_expert, start_node, laws):
    """A senior that is another expert from the newcomer's coming on, and remembers; a router."""
    said, known = {"law": np.log(laws[0])}, {}
    senior = await start_expert(
        "//Senior", lambda ids: known.setdefault(ids.tobytes(), said["law"])
    )
    newcomer = await start_expert("//Newcomer", lambda ids: np.log(laws[1]))
    node = await start_node("Router", [senior, newcomer])
    measurement, _, chain, _ = await measure(
        [senior, newcomer], routers=[(node.signer, node.axon)], twice=True
    )
    node.chain = await chain.metagraph(1)
    undrafted = dataclasses.replace(measurement._shapes, ahead=())
    measurement._shapes = measurement._as_users = undrafted

    async def one_epoch(epoch, cuts, law):
        said["law"] = np.log(law)
        batches = await measurement.open_batches(await chain.metagraph(1), 1, epoch)
        measurement.watched = {senior.hotkey: cuts}
        for expert in (senior, newcomer):
            expert.requests.clear(), expert.callers.clear()
        await measurement.run(batches)
        return batches

    return measurement, one_epoch, senior, newcomer


def sessions(expert):
    """Its whole texts, by session; who asked."""
    read, callers = {}, {}
    for request, caller in zip(expert.requests, expert.callers, strict=True):
        for step in request.sequences:
            read[step.session] = read.get(step.session, b"") + step.append_ids.tobytes()
            callers[step.session] = caller
    return {ids: callers[session] for session, ids in read.items()}


async def test_what_a_senior_said_before_stands_beside_what_all_say_now(asked, laws):
    measurement, one_epoch, senior, newcomer = asked
    before = measurement._book.before
    await one_epoch(0, [], laws[0])
    [text] = [before.take(senior.hotkey, 9, measurement._tokenizer_sha256)]
    before.keep(text, measurement._tokenizer_sha256)
    shown = text.ids[:-1].tobytes()
    # It alone was asked, past the router, which would know the text again.
    assert sessions(senior)[shown] == measurement._own_hotkey
    assert shown not in sessions(newcomer)
    expected = np.log(laws[0])[text.ids[text.first :].astype(int)]
    assert np.allclose(text.log_q / MICRO, expected, atol=0.01)

    batches = await one_epoch(1, [1], laws[1])
    [again] = before.again()
    assert (again.elder, again.epoch, again.again) == (senior.hotkey, 0, 1)
    both = [sessions(expert) for expert in (senior, newcomer)]
    callers = {said[shown] for said in both}
    assert callers == {said[b.walks[0, :-1].tobytes()] for said in both for b in batches}
    columns = [again.hotkeys.index(expert.hotkey) for expert in (senior, newcomer)]
    labels = text.ids[again.position].astype(int)
    for column, law in zip(columns, laws, strict=False):
        assert np.allclose(again.log_q[:, column] / MICRO, np.log(law)[labels], atol=0.01)
    # In no sheet, and asked of nobody once more.
    assert all(
        shown not in ids.tobytes() for b in measurement._state.open_batches() for ids in b.walks
    )
    await one_epoch(2, [1], laws[1])
    assert len(before.again()) == 1
    measurement.begins_anew({senior.hotkey})
    assert before.again() == []


async def test_silence_to_a_text_of_its_own_is_kept(asked, laws):
    measurement, one_epoch, senior, _ = asked
    senior.fails = True
    await one_epoch(0, [], laws[0])
    text = measurement._book.before.take(senior.hotkey, 9, measurement._tokenizer_sha256)
    assert np.all(text.log_q == LOG_Q_UNANSWERED)
    measurement._book.before.keep(text, measurement._tokenizer_sha256)
    senior.fails = False
    await one_epoch(1, [1], laws[1])
    [again] = measurement._book.before.again()
    column = again.hotkeys.index(senior.hotkey)
    assert np.all(again.log_q[:, column] == LOG_Q_FLOOR * MICRO)
    assert np.all(again.log_w[:, column] > LOG_W_NONE)


def test_no_expert_has_more_texts_than_it_may_and_they_go_to_who_lacks_them():
    before, lots = Before(sqlite3.connect(":memory:")), Random(0)
    experts = [Hotkey(f"e{i}") for i in range(10)]
    ids, log_q = np.arange(48, dtype="<u4"), np.zeros(16, "<i4")
    asked = 0
    for epoch in range(200):
        for hotkey in before.lacking(experts, epoch, "w", lots):
            before.keep(Kept(hotkey, epoch, ids, 32, log_q), "w")
            asked += 1
        counts = {h: len(_texts(before, h)) for h in experts}
        assert max(counts.values()) <= KEPT_TEXTS
        assert max(counts.values()) - min(counts.values()) <= 2
    assert asked <= len(experts) * KEPT_TEXTS * (1 + 200 / KEPT_EPOCHS)
    assert len(before.lacking([Hotkey(f"n{i}") for i in range(256)], 200, "w", lots)) == MOST_ASKED
    # Of another tokenizer the ids are another text.
    assert before.take(experts[0], 200, "other") is None
    assert before.take(experts[0], 200 - KEPT_EPOCHS - 1, "w") is None


def _texts(before, hotkey):
    return before._db.execute("SELECT id FROM kept WHERE hotkey = ?", (hotkey,)).fetchall()
