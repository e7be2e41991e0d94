"""What a walk looks like to who is asked: as long as users' calls, from text that is there."""

from __future__ import annotations

import dataclasses
import itertools
from operator import attrgetter
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesubnet.mixture.choosing import BLIND_PROMPT_TOKENS
from moesubnet.mixture.sheet import Sheet
from moesubnet.types import Hotkey
from moesubnet.units import Grain
from moesubnet.validator.pool import ONE_WINDOW, WINDOW_TOKENS, TextPool, turns_of
from moesubnet.validator.records import Window
from moesubnet.validator.shapes import Shape, Shapes
from moesubnet.wire.step import MAX_FURTHER
from moesubnet.wire.usage import Usage, length_kind
from tests.sheets import closed


@given(st.integers(16, 4_096), st.sampled_from([1.0, 4.3]), st.integers(0, 2**32))
def test_a_walk_fits_the_context_and_asks_something(context, token_units, seed):
    shapes = Shapes.public(context, Grain("bytes", token_units))
    for shape in shapes.draw(50, Random(seed)):
        assert shape.prefix >= 1
        assert shape.steps >= round(BLIND_PROMPT_TOKENS * token_units)
        assert shape.units <= min(context - 1, 1_024)


def test_means_are_those_of_what_is_drawn():
    shapes = Shapes.public(200)
    drawn = shapes.draw(40_000, Random(0))
    assert np.mean([s.units for s in drawn]) == pytest.approx(shapes.mean("units"), rel=0.02)
    windows = [-(-s.units // WINDOW_TOKENS) for s in drawn]
    assert np.mean(windows) == pytest.approx(shapes.mean("units", WINDOW_TOKENS), rel=0.02)
    assert 14 < Shapes.public(2_048).mean("steps") < 18  # as many items as a vote needs


def test_long_walks_take_text_that_goes_on_and_share_none(make_documents):
    documents = make_documents(6, tokens=10 * WINDOW_TOKENS + 7)
    pool = TextPool(documents)
    used: dict[bytes, set[int]] = {}
    shapes = [Shape(150, 20), Shape(6, 8), ONE_WINDOW] * 3
    windows = pool.draw(shapes, used, b"seed")
    for window, shape in zip(windows, shapes, strict=True):
        start = window.starts[0]
        assert (window.first, len(window.ids)) == (shape.prefix, shape.units)
        document = documents[window.document]
        np.testing.assert_array_equal(document[start : start + shape.units], window.ids)
        assert window.starts[-1] < start + shape.units <= window.starts[-1] + WINDOW_TOKENS
        taken = used.setdefault(window.document, set())
        assert not taken & set(window.starts)
        taken.update(window.starts)


def test_where_no_text_goes_on_for_so_long_the_prefix_is_shorter(make_documents):
    pool = TextPool(make_documents(2, tokens=2 * WINDOW_TOKENS))
    used = {next(iter(pool._documents)): {0}}
    whole, cut = pool.draw([Shape(150, 20), Shape(150, 20)], used, b"seed")
    assert (whole.first, len(whole.ids)) == (76, 96)
    assert (cut.first, len(cut.ids)) == (28, 48)
    assert pool.draw([Shape(4, 60)], {}, b"seed")[0].first == 4
    assert pool.draw([Shape(4, 94)] * 9, {}, b"seed")[0].first == 48


def test_a_window_inside_a_published_walk_or_in_one_that_was_cut_short_is_known(make_documents):
    (ids,) = make_documents(1, tokens=4 * WINDOW_TOKENS).values()
    pool = TextPool({b"a": ids})
    assert pool.repeats({}, [ids[: 2 * WINDOW_TOKENS - 3]]) == [(b"a", 0), (b"a", 48)]
    assert pool.repeats({}, [ids[48:62]]) == [(b"a", 48)]
    assert pool.repeats({}, [ids[48:53]]) == []  # too little to know it by


async def test_walks_of_many_shapes_are_asked_as_users_are_and_fill_a_sheet(
    measure, start_expert, laws
):
    expert = await start_expert("//Expert", lambda ids: np.log(laws[0]))
    measurement, state, chain, _ = await measure([expert])
    evenly = tuple((tokens, 1 / 33) for tokens in range(8, 41))
    measurement._shapes = dataclasses.replace(Shapes.public(60), prompts=evenly, forks=0.0)
    metagraph = await chain.metagraph(1)
    batches = await measurement.open_batches(metagraph, 8)
    await measurement.run(batches, spread_s=0.05)
    asked = {}
    for request in expert.requests:
        [step] = request.sequences
        asked.setdefault(step.session, []).append((step.base_len, len(step.append_ids)))
    for batch in batches:
        prompt, *ones = asked[batch.sessions[0]]
        assert prompt == (0, batch.first)
        assert ones[:2] == [(batch.first, 1), (batch.first + 1, 1)]  # of the prompt, blind
        assert max(map(sum, ones)) < batch.walks.shape[1]
    assert len({prompt for (_, prompt), *_ in asked.values()}) > 2  # fewer once in 10⁷ runs
    sheet, _ = closed(
        state.open_batches(),
        metagraph,
        Hotkey(metagraph.neurons[0].hotkey),
    )
    assert Sheet.from_bytes(sheet.to_bytes()).sha256 == sheet.sha256
    assert len(sheet.walks) == 8
    assert len(sheet.walk) > 8 * 2


def said(prompts=(), answers=(), stake=1):
    """One router's summary of users whose texts had these lengths."""
    counts = {"prompts": [0] * 24, "answers": [0] * 24}
    for part, lengths in (("prompts", prompts), ("answers", answers)):
        for length in lengths:
            counts[part][length_kind(length)] += 1
    return Usage(netuid=1, epoch=3, router="r", rows=[], **counts), stake


def test_a_length_is_of_the_half_octave_that_it_lies_in():
    assert [length_kind(n) for n in (1, 2, 3, 4, 5, 6, 8, 11, 12, 256, 2**20)] == [
        0, 2, 3, 4, 4, 5, 6, 6, 7, 16, 23,
    ]  # fmt: skip


def test_walks_are_as_long_as_users_texts_once_routers_tell():
    public, rng = Shapes.public(2_048), np.random.default_rng(1)
    prompts, answers = (
        np.maximum(1, rng.lognormal(np.log(middle), 0.5, 20_000)).astype(int).tolist()
        for middle in (60, 16)
    )
    shapes = public.as_users([said(prompts, answers)])
    drawn = shapes.draw(20_000, Random(0))
    mine = [shape.prefix + BLIND_PROMPT_TOKENS for shape in drawn]
    users = [n for n in prompts if 8 <= n < 256]
    assert np.quantile(mine, (0.1, 0.5, 0.9)) == pytest.approx(
        np.quantile(users, (0.1, 0.5, 0.9)), rel=0.1
    )
    written = [shape.steps - BLIND_PROMPT_TOKENS for shape in drawn]
    # A longer answer than any walk's is looked like until it ends.
    users = [min(n, 46) for n in answers if n >= 2]
    assert np.mean(written) == pytest.approx(np.mean(users), rel=0.1)
    assert np.mean([n == 46 for n in written]) == pytest.approx(
        np.mean([n >= 46 for n in answers]), abs=0.02
    )


def test_where_routers_say_nothing_or_hardly_anything_nothing_is_known():
    public = Shapes.public(2_048)
    assert public.as_users([]) is public
    assert public.as_users([said([9] * 50, [3] * 50, stake=0)]) is public
    few = public.as_users([said([9], [3])])
    assert few.mean("units") == pytest.approx(public.mean("units"), rel=0.02)
    one = Shapes.fixed(ONE_WINDOW)
    assert one.as_users([said([9, 500], [3, 500])]) == one


lengths = st.lists(st.integers(1, 5_000), max_size=300)


@given(
    st.lists(st.tuples(lengths, lengths, st.integers(2, 10**15)), min_size=1, max_size=5),
    lengths,
    lengths,
)
def test_routers_with_less_than_half_of_the_stake_move_no_length_past_what_others_say(
    honest, prompts, answers
):
    public, others = Shapes.public(300), [said(*one) for one in honest]
    liar = said(prompts, answers, sum(stake for *_, stake in honest) - 1)
    heard = public.as_users([*others, liar])
    for of in ("prompts", "answers"):
        assert [n for n, _ in getattr(heard, of)] == [n for n, _ in getattr(public, of)]
        below = np.cumsum([p for _, p in getattr(heard, of)])
        assert below[-1] == pytest.approx(1.0)
        alone = [np.cumsum([p for _, p in getattr(public.as_users([one]), of)]) for one in others]
        assert (below <= np.max(alone, axis=0) + 1e-9).all()
        assert (below >= np.min(alone, axis=0) - 1e-9).all()


@given(st.integers(0, 2**32), st.sampled_from([0.0, 0.2, 1.0]), st.integers(0, 24))
def test_a_chat_s_next_turn_is_longer_by_what_people_write_and_no_answer_s_length_is_another(
    seed, later, count
):
    shapes, lots = dataclasses.replace(Shapes.public(2_048), later=later), Random(seed)
    drawn = shapes.draw(count, lots)
    chats = shapes.chats(drawn, lots)
    steps = attrgetter("steps")
    assert sorted(map(steps, itertools.chain(*chats))) == sorted(map(steps, drawn))
    assert {first for first, *_ in chats} <= set(drawn)
    for turns in chats:
        assert turns[-1].units <= shapes.limit
        for before, after in itertools.pairwise(turns):
            assert after.prefix + shapes.blind - before.units in dict(shapes.more)
    if later == 0.0:
        assert len(chats) == count


def test_later_turns_are_as_much_longer_as_routers_say():
    public, lots = Shapes.public(2_048), Random(0)
    assert (public.more[0][0], public.more[-1][0]) == (4, 128)
    router, stake = said([40] * 10_000, [9] * 10_000, stake=3)
    counts = [0] * 8 + [6_000]  # of 16 to 22 tokens
    told = public.as_users([(router.model_copy(update={"more": counts}), stake)])
    more = [
        after.prefix + told.blind - before.units
        for _ in range(300)
        for chat in told.chats(told.draw(8, lots), lots)
        for before, after in itertools.pairwise(chat)
    ]
    assert len(more) > 500
    assert np.mean([16 <= n < 23 for n in more]) > 0.95
    lie = said([40] * 10, [9] * 10, stake=2)[0].model_copy(update={"more": [0] * 4 + [2**50]})
    assert public.as_users([(lie, 2)]).more != public.more
    both = public.as_users([(router.model_copy(update={"more": counts}), stake), (lie, 2)])
    assert both.more == told.more


def test_as_many_walks_go_on_as_users_chats_do():
    public, lots = Shapes.public(2_048), Random(0)

    def part(shapes):
        chats = [shapes.chats(shapes.draw(8, lots), lots) for _ in range(1_000)]
        return 1 - sum(map(len, chats)) / 8_000

    assert part(public) == pytest.approx(0.2, abs=0.03)
    router, stake = said([40] * 10_000, [9] * 10_000, stake=3)
    told = public.as_users([(router.model_copy(update={"more": [0] * 9 + [6_667]}), stake)])
    assert told.later == pytest.approx(0.4, abs=0.01)
    lie = said([40] * 10, [9] * 10, stake=2)[0].model_copy(update={"more": [2**50]})
    assert public.as_users([(router, stake), (lie, 2)]).later < 0.01


def test_a_chat_s_next_turn_comes_as_long_after_the_one_before_as_people_s():
    public, lots = Shapes.public(2_048), Random(0)
    assert public.pauses[0][0] == 1
    router, stake = said([40] * 10_000, [9] * 10_000, stake=3)
    told = public.as_users([(router.model_copy(update={"pauses": [0] * 16 + [10_000]}), stake)])
    waits_s = [told.waits_s(3, 1_000.0, lots) for _ in range(2_000)]
    assert all(len(waits) == 3 and 0.0 <= sum(waits) <= 1_000.0 for waits in waits_s)
    pauses_s = [pause for _, *pauses in waits_s for pause in pauses]
    assert np.mean([25.6 <= pause < 36.3 for pause in pauses_s]) > 0.97  # from 2^8 to 2^8.5 tenths
    first_s = [first for first, *_ in waits_s]
    assert np.quantile(first_s, (0.1, 0.9)) == pytest.approx((94, 850), abs=30)
    # Where time is short, pauses are; nobody can move them alone; one turn has none.
    assert sum(told.waits_s(3, 1.0, lots)) <= 1.0
    assert told.waits_s(2, 0.0, lots) == [0.0, 0.0]
    lie = said([40] * 10, [9] * 10, stake=2)[0].model_copy(update={"pauses": [2**50]})
    assert public.as_users([(router, stake), (lie, 2)]).pauses != public.as_users([(lie, 2)]).pauses
    assert len(told.waits_s(1, 9.0, lots)) == 1


def test_walks_are_drafted_for_as_often_as_users_texts_and_no_further():
    public = Shapes.public(2_048)
    assert public.going_on()[:3] == (0.2, 0.03, 0.7)
    assert Shapes.fixed(ONE_WINDOW).going_on() is None
    router, _ = said([40] * 10_000, [9] * 10_000)
    counts = {"rounds": [10_000] * 3, "asked": [500, 0, 9_000]}
    ahead = [9_000, 0, 950, 0, 0, 50]
    honest = router.model_copy(update={**counts, "ahead": ahead}), 3
    told = public.as_users([honest]).going_on()
    assert told[:3] == pytest.approx((0.05, 0.0, 0.9), abs=0.01)
    assert told.most == 2  # what one in twenty was asked no walk is
    lies = {"rounds": [2**50] * 3, "asked": [2**50] * 3, "ahead": [0] * MAX_FURTHER + [2**50]}
    both = public.as_users([honest, (router.model_copy(update=lies), 2)])
    assert both.going_on() == told
    assert public.as_users([(router.model_copy(update={"asked": [9] * 3}), 1)]).asked == (
        pytest.approx(public.asked)
    )


def test_earlier_turns_are_the_beginning_of_the_last_one_s_text():
    window = Window(b"d", (0, 48), np.arange(90, dtype=np.uint32), 70)
    chat = [Shape(8, 4), Shape(20, 6), Shape(70, 20)]
    first, middle, last = turns_of(window, chat)
    assert (first.first, first.ids.tolist(), first.starts) == (8, list(range(12)), ())
    assert (middle.first, len(middle.ids)) == (20, 26)
    assert last is window
    cut = Window(b"d", (0,), window.ids[:30], 25)  # the text did not go on for so long
    assert [len(turn.ids) for turn in turns_of(cut, chat)] == [12, 30]


async def test_a_chat_s_turns_are_asked_one_after_the_other_of_text_that_is_used_once(
    measure, start_expert, laws
):
    expert = await start_expert("//Expert", lambda ids: np.log(laws[0]))
    measurement, state, chain, _ = await measure([expert])
    measurement._shapes = dataclasses.replace(
        Shapes.public(60),
        prompts=((10, 0.5), (40, 0.5)),
        answers=((4, 1.0),),
        later=1.0,
        more=((12, 1.0),),
        forks=0.0,
    )
    batches = []
    while not any(batch.follows for batch in batches):
        batches += await measurement.open_batches(await chain.metagraph(1), 4)
    await measurement.run(batches)
    sessions = [request.sequences[0].session for request in expert.requests]
    by_id = {batch.id: batch for batch in batches}
    for turn in filter(lambda batch: batch.follows, batches):
        before = by_id[turn.follows]
        [earlier], [later] = before.walks, turn.walks
        np.testing.assert_array_equal(later[: len(earlier)], earlier)
        assert turn.first > len(earlier)
        ended = len(sessions) - sessions[::-1].index(before.sessions[0])
        assert ended <= sessions.index(turn.sessions[0])
    steps = {batch.id: len(batch.steps) for batch in state.open_batches()}
    assert steps == {batch.id: batch.walks.shape[1] - batch.first for batch in batches}
