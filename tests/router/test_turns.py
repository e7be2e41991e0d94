"""Which prompts go on with an earlier one, as a chat's next turn does."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from moesubnet.router.turns import Prompts

texts = st.lists(st.integers(0, 2), min_size=1, max_size=6).map(lambda ids: np.array(ids, "<u4"))


@given(st.lists(texts, max_size=30))
def test_a_later_turn_begins_with_the_whole_of_an_earlier_shorter_prompt(prompts):
    known = Prompts()
    for k, ids in enumerate(prompts):
        goes_on = any(
            len(met) < len(ids) and np.array_equal(ids[: len(met)], met) for met in prompts[:k]
        )
        assert known.goes_on(ids) == goes_on


def test_what_is_kept_are_the_newest_prompts():
    known = Prompts(capacity=2)
    old, again, new = (np.array([k, 7], np.uint32) for k in (1, 2, 3))
    for ids in (old, again, again, new):
        assert not known.goes_on(ids)
    assert not known.goes_on(np.array([1, 7, 7], np.uint32))  # the first was forgotten
    assert known.goes_on(np.array([3, 7, 7], np.uint32))
    assert not known.goes_on(np.array([2, 7, 7], np.uint32))  # pushed out by these two
    assert len(known._met) == 2
