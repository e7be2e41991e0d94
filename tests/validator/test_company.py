"""Whom a walk asks: as many as a user's text, and whoever is to be told from them."""

from dataclasses import replace
from math import inf
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesubnet.mixture.choosing import TOP_K, choose
from moesubnet.mixture.gate import FEATURES_DIM, SCALE, Gate
from moesubnet.mixture.sheet import LOG_Q_ABSENT, LOG_Q_UNANSWERED, MICRO
from moesubnet.types import Hotkey
from moesubnet.validator.company import ASKED, LIKE_JUNIORS, Known, company, known_by
from moesubnet.validator.seniors import GRACE_MILLIS
from moesubnet.validator.turned import Read
from tests.sheets import closed, synthetic_sheet, taking

NAMES = [Hotkey(f"e{k:02}") for k in range(64)]


@pytest.mark.parametrize("count", [0, 1, TOP_K])
def test_where_a_router_could_ask_everybody_so_does_a_walk(count):
    names = NAMES[:count]
    assert company(Known(dict.fromkeys(names, 1)), names[:1], names, Random(0)) == set(names)


def test_before_anything_is_known_everybody_is_asked():
    assert company(Known(), NAMES[:TOP_K], NAMES, Random(0)) == set(NAMES)


@given(
    times=st.lists(st.none() | st.integers(0, 9) | st.just(inf), min_size=TOP_K + 1, max_size=64),
    chosen=st.sets(st.integers(0, 63), min_size=1, max_size=TOP_K),
    like=st.dictionaries(st.integers(0, 63), st.sets(st.integers(0, 63), max_size=3)),
    seed=st.integers(0, 9),
)
def test_a_walk_asks_the_chosen_who_is_like_them_who_is_new_and_some_who_are_sooner(
    times, chosen, like, seed
):
    serving = NAMES[: len(times)]
    chosen = {NAMES[k % len(times)] for k in chosen}
    answer_ms = {h: ms for h, ms in zip(serving, times, strict=True) if ms is not None}
    known = Known(answer_ms, {NAMES[i]: [NAMES[j] for j in them] for i, them in like.items()})
    asked = company(known, chosen, serving, Random(seed))
    told_from = chosen.union(*(known.like.get(h, ()) for h in chosen)) & set(serving)
    new = set(serving) - answer_ms.keys()
    lots = asked - told_from - new
    assert told_from | new <= asked <= set(serving)
    assert len(lots) <= max(0, ASKED - len(told_from | new))
    took = [answer_ms.get(h, 0) for h in told_from | new]
    slowest = max([0, *(ms for ms in took if ms < inf)])
    assert all(answer_ms[h] <= slowest for h in lots)
    left = {h for h in answer_ms if answer_ms[h] <= slowest} - asked
    assert not left or len(asked) >= ASKED


def test_the_lots_reach_all_who_are_sooner():
    known = Known({h: k for k, h in enumerate(NAMES)})
    walks = [company(known, [NAMES[40]], NAMES, Random(seed)) for seed in range(100)]
    assert set.union(*walks) == set(NAMES[:41])
    assert {len(asked) for asked in walks} == {ASKED}


def sheet_with_a_copy():
    """Of five experts of a domain each; the last says what the first does, and is no newcomer."""
    sheet = synthetic_sheet(["a", "b", "c", "d", "z"], domains=True)
    log_q = sheet.log_q.copy()
    log_q[:, 4] = log_q[:, 0]
    return replace(sheet, log_q=log_q, age_millis=(GRACE_MILLIS + 1,) * 5)


def test_who_speaks_like_another_is_known_and_who_does_not_is_not():
    known = known_by(lambda count: [sheet_with_a_copy()][:count])
    assert known.like["z"] == ["a"]
    assert not known.like["a"]  # which was there before, and answers sooner
    assert known.answer_ms == dict(zip("abcdz", range(10, 15), strict=True))
    far = synthetic_sheet(["a", "b"])
    log_q = far.log_q.copy()
    log_q[:, 1] = log_q[:, 0] - MICRO
    assert not any(known_by(lambda _: [replace(far, log_q=log_q)]).like.values())


def test_what_one_of_two_was_not_asked_or_did_not_answer_makes_them_neither_like_nor_unlike():
    sheet = sheet_with_a_copy()
    for nothing in (LOG_Q_ABSENT, LOG_Q_UNANSWERED):
        log_q = sheet.log_q.copy()
        log_q[16:, 4] = nothing
        log_q[16:, 0] = log_q[16:, 1] - 5 * MICRO
        assert "a" in known_by(lambda _, q=log_q: [replace(sheet, log_q=q)]).like["z"]
        log_q[1:, 4] = nothing
        assert "a" not in known_by(lambda _, q=log_q: [replace(sheet, log_q=q)]).like["z"]


def test_it_is_enough_that_they_speak_alike_where_one_of_them_is_heard():
    sheet = synthetic_sheet(["a", "b"])
    log_q, log_w = sheet.log_q.copy(), sheet.log_w.copy()
    half = len(log_q) // 2
    log_q[:, 1] = log_q[:, 0] - MICRO
    log_q[:half, 1] = log_q[:half, 0]
    log_w[:half, 0], log_w[half:, 1] = 5 * MICRO, 5 * MICRO
    for order in ([0, 1, 2], [1, 0, 2]):
        heard = replace(sheet, log_q=log_q, log_w=log_w[:, order])
        assert known_by(lambda _, s=heard: [s]).like["b"] == ["a"]
    log_w[:half, :2], log_w[half:, :2] = -5 * MICRO, 0  # where they speak alike nobody hears them
    assert not known_by(lambda _: [replace(sheet, log_q=log_q, log_w=log_w)]).like["b"]


def test_newcomers_and_who_was_not_asked_are_not_known():
    sheet, log_q = sheet_with_a_copy(), sheet_with_a_copy().log_q.copy()
    log_q[:, 2] = LOG_Q_ABSENT
    age, took = [9_000] * 5, [10] * 5
    age[1], took[2] = GRACE_MILLIS, None
    sheet = taking(replace(sheet, log_q=log_q, age_millis=tuple(age)), took)
    assert known_by(lambda _: [sheet]).answer_ms.keys() == {"a", "d", "z"}
    assert known_by(lambda _: []) == Known()
    assert known_by(lambda _: [synthetic_sheet("abc", walk_count=0)]) == Known()


def test_who_seldom_answers_is_taken_for_slow_and_holds_up_no_walk():
    """A hotkey that hangs on every prefix would mark walks for all others by that gap."""
    names = [f"e{k:02}" for k in range(2 * TOP_K)]
    sheet = replace(synthetic_sheet(names, walk_count=10), age_millis=(9_000,) * len(names))
    log_q = sheet.log_q.copy()
    log_q[-16:, 0] = log_q[-17:, 1] = log_q[:, 2] = LOG_Q_UNANSWERED
    took = (1, 1, None, *range(3, len(names)))
    known = known_by(lambda _: [taking(replace(sheet, log_q=log_q), took)])
    assert [known.answer_ms[h] for h in names] == [1, inf, inf, *range(3, len(names))]
    known = Known(known.answer_ms)  # nobody like another
    for seed in range(100):
        assert not {"e01", "e02"} & company(known, names[3:7], names, Random(seed))
    with_it = company(known, names[1:4], names, Random(0))  # by a router's lot it may come back
    assert with_it == {"e00", "e01", "e02", "e03"}


def test_a_swarm_of_copies_makes_no_walk_long():
    names = [f"c{k:02}" for k in range(3 * LIKE_JUNIORS)]
    sheet = synthetic_sheet(["a", *names])
    log_q = sheet.log_q.copy()
    log_q[:, 1:-1] = log_q[:, :1]
    since, took_ms = (1, *(None for _ in names)), (50, *range(1, 1 + len(names)))
    sheet = replace(sheet, log_q=log_q, since=since)
    known = known_by(lambda _: [taking(sheet, took_ms)])
    assert len(known.like["a"]) == LIKE_JUNIORS
    assert all("a" in known.like[name] for name in names)  # a senior is never left out
    slower = (1, *took_ms[1:])
    known = known_by(lambda _: [taking(sheet, slower)])
    assert not known.like["a"]


def test_an_elder_is_judged_beside_others_where_they_were_asked_too():
    sheet = synthetic_sheet(["a", "b", "c"], domains=True, walk_count=32)
    log_q = sheet.log_q.copy()
    log_q[: len(log_q) // 2, 1] = LOG_Q_ABSENT
    part, whole = Read(replace(sheet, log_q=log_q)), Read(sheet)
    half = slice(len(log_q) // 2, None)
    later = replace(
        sheet, log_q=sheet.log_q[half], log_w=sheet.log_w[half], walk=sheet.walk[half],
        position=sheet.position[half],
    )  # fmt: skip
    assert part.has("a", ["b"])
    for found, expected in zip(
        part.beside("a", ["b"]), Read(later).beside("a", ["b"]), strict=True
    ):
        np.testing.assert_allclose(found, expected)
    assert part.nearest("a", ["b", "c"]) == Read(later).nearest("a", ["b", "c"])
    log_q[:-4, 1] = LOG_Q_ABSENT
    assert not Read(replace(sheet, log_q=log_q)).has("a", ["b"])
    assert whole.has("a", ["b", "c"])
    assert not whole.has("a", ["nobody"])


async def test_who_is_slow_and_not_chosen_is_not_asked_and_what_is_chosen_is_a_routers_choice(
    measure, start_expert, laws
):
    experts = [
        await start_expert(f"//E{k}", lambda ids, k=k: np.log(laws[k % 3])) for k in range(10)
    ]
    measurement, state, chain, _ = await measure(experts)
    metagraph = await chain.metagraph(1)
    await measurement.open_batches(metagraph, 1)
    names = tuple(sorted(expert.hotkey for expert in experts))
    slow, good, small = names[:3]
    # Of what has a standing 0.945, 0.03 and, of the slow one, 0.025: it is not chosen, but were it
    # not there, the good one would have 0.95 alone.
    theta = np.zeros((FEATURES_DIM + 1, 10), np.int32)
    theta[-1, 1:3] = np.log(np.array([0.945, 0.03]) / 0.025) * SCALE
    measurement._gates.gate = Gate(names, theta, (*(MICRO,) * 3, *(0,) * 7))
    measurement.known = Known({name: 10_000 if name == slow else 1 for name in names})
    batches = await measurement.open_batches(metagraph, 4)
    await measurement.run(batches)
    for batch in batches:
        assert set(batch.hotkeys) == set(names) - {slow}
    texts = {ids.tobytes() for batch in batches for ids in batch.walks}
    [lazy] = [expert for expert in experts if expert.hotkey == slow]
    assert not any(t.startswith(ids.tobytes()) for t in texts for ids in lazy.sessions.values())
    stored = [batch for batch in state.open_batches() if batch.steps and slow not in batch.hotkeys]
    sheet, _ = closed(stored, metagraph, Hotkey(measurement._own_hotkey))
    assert slow not in sheet.hotkeys
    for ids, chosen in zip(sheet.walks, sheet.chosen, strict=True):
        prefix = ids[: stored[0].first]
        expected = choose(measurement.gate, prefix, names)
        assert {good, small} < set(expected)
        assert [h for h, c in zip(sheet.hotkeys, chosen, strict=True) if c] == expected
