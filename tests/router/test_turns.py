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
        assert (known.meet(ids, 0.0)[1] is not None) == goes_on


def test_what_is_kept_are_the_newest_prompts():
    known = Prompts(capacity=2)
    old, again, new = (np.array([k, 7], np.uint32) for k in (1, 2, 3))
    for ids in (old, again, again, new):
        assert known.meet(ids, 0.0)[1] is None
    later = [np.array([first, 7, 7], np.uint32) for first in (1, 3, 2)]
    # The first was forgotten, the third pushed out by the other two.
    assert [known.meet(ids, 0.0)[1] for ids in later] == [None, (0.0, 1), None]
    assert len(known._met) == 2


def test_a_pause_is_since_the_longest_of_what_was_said_before_was_answered():
    known, turns = Prompts(), [np.arange(1, n, dtype=np.uint32) for n in (4, 8, 12)]
    first, before = known.meet(turns[0], 10.0)
    assert before is None
    known.answered(first, 13.0, 5)
    second, before = known.meet(turns[1], 20.0)
    assert before == (7.0, 2)  # seven tokens after three and two that were written
    # While the second is written.
    assert known.meet(turns[2], 22.0)[1] == (2.0, 4)
    known.answered(second, 25.0, 30)  # of which the user took some back
    assert known.meet(turns[2], 26.0)[1] == (1.0, 1)
    known.answered(12345, 30.0, 9)  # forgotten meanwhile
    assert len(known._met) == 3
