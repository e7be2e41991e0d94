"""What a walk looks like to who is asked: as long as users' calls, from text that is there."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesubnet.mixture.choosing import BLIND_PROMPT_TOKENS
from moesubnet.mixture.sheet import Sheet
from moesubnet.types import Hotkey
from moesubnet.units import Grain
from moesubnet.validator.pool import ONE_WINDOW, WINDOW_TOKENS, TextPool
from moesubnet.validator.shapes import Shape, Shapes
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
    measurement._shapes = Shapes.public(60)
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
    assert len({prompt for (_, prompt), *_ in asked.values()}) > 3
    sheet, _ = closed(
        state.open_batches(),
        metagraph,
        Hotkey(metagraph.neurons[0].hotkey),
    )
    assert Sheet.from_bytes(sheet.to_bytes()).sha256 == sheet.sha256
    assert len(sheet.walks) == 8
    assert len(sheet.walk) > 8 * 2
