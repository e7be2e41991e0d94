"""A senior that turns into another's echo, whatever it remembers; and who only looks like one."""

import dataclasses

import numpy as np
import pytest

from moesubnet.mixture.sheet import LOG_Q_UNANSWERED, MICRO
from moesubnet.validator.turned import EACH_TIME, turned
from tests.sheets import synthetic_sheet, taking

HOTKEYS = ("base", "elder", "newcomer", "sibling", "third", "fourth")
SINCE, ANSWER_MS = (0, 0, 1, 1, 1, 1), (20, 30, 20, 19, 20, 20)
EPOCHS, TURNS = 14, 6


def laws(epoch):
    """ln q of the labels, by expert; all of their own making but a sibling of the base."""
    rng = np.random.default_rng(epoch)
    said = dict(zip(HOTKEYS, rng.normal(-3.0, 1.0, (len(HOTKEYS), 32 * 16)), strict=True))
    said["sibling"] = said["base"] + 0.3 * rng.standard_normal(32 * 16)
    return said


def found(sheets):
    return turned(lambda count: sheets[::-1][:count])


def sheets(change, answer_ms=ANSWER_MS, before=laws):
    """change: what an expert says from TURNS on, by epoch, be it a new one; the sibling is a senior
    by now too."""
    made = []
    for epoch in range(EPOCHS):
        said = before(epoch) | (change(epoch) if epoch >= TURNS else {})
        new = len(said) - len(HOTKEYS)
        sheet = synthetic_sheet(tuple(said), epoch=epoch)
        log_q = sheet.log_q.copy()
        log_q[:, :-1] = np.stack(list(said.values()), axis=1) * MICRO
        since, took = (*SINCE, *[TURNS] * new), (*answer_ms, *[10] * new)
        made.append(taking(dataclasses.replace(sheet, log_q=log_q, since=since), took))
    return made


@pytest.mark.parametrize("sigma", [0.0, 0.4])
def test_a_senior_that_repeats_a_newcomer_has_found(sigma):
    def echo(epoch):
        noise = np.random.default_rng([epoch, 1]).standard_normal(32 * 16)
        return {"elder": laws(epoch)["newcomer"] + sigma * noise}

    assert found(sheets(echo)) == {"elder"}
    # Nor does it help to leave calls.
    partly = sheets(echo)
    for sheet in partly:
        sheet.log_q[::2, 1] = LOG_Q_UNANSWERED
    assert found(partly) == {"elder"}


@pytest.mark.parametrize("guessed", [0.3, 0.6])
def test_whom_a_junior_repeats_by_asking_beforehand_what_may_come_has_not_found(guessed):
    """It answers sooner, and is like the elder wherever that one expected the label before."""

    def guesser(epoch):
        own = laws(epoch)
        likely = np.append(-np.inf, own["elder"][:-1])
        is_hit = likely > np.quantile(likely, 1 - guessed)
        return {"newcomer": np.where(is_hit, own["elder"], own["newcomer"])}

    assert found(sheets(guesser)) == set()


def mixture(epoch):
    """Of all who came after the elder, none of which it is near to by itself."""
    own = laws(epoch)
    return {"elder": np.log(np.mean([np.exp(own[name]) for name in HOTKEYS[2:]], axis=0))}


def test_a_senior_that_mixes_those_who_came_after_it_has_found():
    assert found(sheets(mixture)) == {"elder"}


def specialists(epoch):
    """Each at home in a sixth of the text, and far from everybody elsewhere."""
    said = laws(epoch)
    at_home = np.arange(32 * 16) % len(HOTKEYS)
    return {
        name: np.minimum(nats + 2.5 - 4.0 * (at_home != i), -0.01)
        for i, (name, nats) in enumerate(said.items())
    }


def half(epoch, part=0.2):
    """Of its own and of the others' mixture: nearly as far from them as it was."""
    own = specialists(epoch)
    others = np.log(np.mean([np.exp(own[name]) for name in HOTKEYS[2:]], axis=0))
    mixed = np.logaddexp(own["elder"] + np.log1p(-part), others + np.log(part))
    return own | {"elder": mixed}


@pytest.mark.parametrize("part", [0.1, 0.2, 0.4])
def test_a_senior_that_half_turns_has_found(part):
    made = sheets(lambda epoch: half(epoch, part), before=specialists)
    assert found(made) == {"elder"}
    # Nor does it help to be away every other epoch.
    for sheet in made[TURNS + 1 : -1 : 2]:
        sheet.log_q[:, 1] = LOG_Q_UNANSWERED
    assert found(made) == {"elder"}


def test_whose_juniors_become_worse_has_not_found():
    """Or who wants an expert's place would only have to say nothing for a while."""

    def worse(epoch):
        baseline = synthetic_sheet(HOTKEYS, epoch=epoch).log_q[:, -1] / MICRO
        return specialists(epoch) | dict.fromkeys(HOTKEYS[2:], baseline - 1.0)

    assert "elder" not in found(sheets(worse, before=specialists))


def test_a_confederate_that_comes_when_the_senior_turns_hides_nothing():
    assert found(sheets(lambda epoch: mixture(epoch) | {"late": mixture(epoch)["elder"]})) == {
        "elder"
    }


def test_nobody_else_has():
    assert found(sheets(lambda epoch: {})) == set()
    assert found([]) == set()


def test_who_is_repeated_answers_sooner_and_has_not_found():
    """Nor has a senior whose junior repeats it."""

    def echo(epoch):
        return {"newcomer": laws(epoch)["elder"]}

    assert found(sheets(echo, answer_ms=(20, 20, 30, 19, 30, 30))) == set()


def test_a_base_that_answers_later_than_its_sibling_has_not_found():
    assert found(sheets(lambda epoch: {}, answer_ms=(90, 30, 20, 19, 20, 20))) == set()


def test_one_strange_sheet_is_not_enough():
    def once(epoch):
        return {"elder": laws(epoch)["newcomer"]} if epoch == EPOCHS - 1 else {}

    assert found(sheets(once)) == set()
    assert found(sheets(once)[-2 * EACH_TIME + 1 :]) == set()
