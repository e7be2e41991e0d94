"""A batch or lane waits for the streams that are about to be back, and for nobody else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesubnet.wire.returns import Returns

BATCH_S = 0.1


def answered(returns: Returns, streams: list[str], now_s: float, took_s: float = BATCH_S) -> None:
    returns.took(took_s)
    returns.left(streams, now_s)


def round_of(returns: Returns, session: str, at_s: float, away_s: float) -> float:
    """Answered by a batch of the usual time, then back; when that is."""
    answered(returns, [session], at_s)
    returns.came([session], at_s + away_s)
    return at_s + away_s


def test_a_near_caller_is_waited_for_and_a_far_one_is_not() -> None:
    returns = Returns()
    now_s = 0.0
    for _ in range(5):
        now_s = round_of(returns, "near/a", now_s, 0.02)
        now_s = round_of(returns, "far/a", now_s, 0.3)
    answered(returns, ["near/a"], now_s)
    assert returns.due_s(now_s) == pytest.approx(now_s + 0.04)
    answered(returns, ["far/a"], now_s + 0.01)
    assert returns.due_s(now_s + 0.01) == pytest.approx(now_s + 0.04)
    returns.came(["near/a"], now_s + 0.02)
    assert returns.due_s(now_s + 0.02) == now_s + 0.02


def test_a_stranger_and_a_stream_that_is_over_hold_nobody_up() -> None:
    returns = Returns()
    answered(returns, ["new/a"], 1.0)
    assert returns.due_s(1.0) == 1.0
    now_s = round_of(returns, "near/a", 2.0, 0.02)
    answered(returns, ["near/a"], now_s)
    returns.forget("near/a")
    assert returns.due_s(now_s) == now_s


def test_texts_that_end_together_do_not_make_their_caller_a_far_one() -> None:
    """The next ones would be written in small batches until the miner had learnt anew."""
    returns, now_s = Returns(), 0.0
    for _ in range(5):
        now_s = round_of(returns, "near/a", now_s, 0.02)
    answered(returns, [f"near/{place}" for place in range(8)], now_s)
    now_s += 60.0
    answered(returns, ["near/next"], now_s)
    assert now_s + 0.04 < returns.due_s(now_s) <= now_s + BATCH_S


def test_streams_that_never_come_back_are_not_kept_nor_waited_for() -> None:
    returns, now_s = Returns(), 0.0
    for _ in range(5):
        now_s = round_of(returns, "near/a", now_s, 0.02)
    for place in range(1_000):
        answered(returns, [f"near/{place}"], now_s)
        now_s += BATCH_S
    assert len(returns._left_s) <= 3
    answered(returns, ["near/last"], now_s)
    assert returns.due_s(now_s) == now_s


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a/1", "a/2", "b/1"]),
            st.floats(0.001, 10.0),  # in the batch
            st.floats(0.0, 10.0),  # until the next event
            st.booleans(),
        ),
        max_size=30,
    )
)
def test_no_wait_is_longer_than_a_batch_takes_at_least(
    events: list[tuple[str, float, float, bool]],
) -> None:
    returns, now_s = Returns(), 0.0
    for session, took_s, later_s, is_back in events:
        if is_back:
            returns.came([session], now_s)
        else:
            answered(returns, [session], now_s, took_s)
            assert returns.parted_s <= took_s
        assert now_s <= returns.due_s(now_s) <= now_s + returns.parted_s
        now_s += later_s


def test_only_those_who_were_answered_by_then_are_waited_for() -> None:
    returns, now_s = Returns(), 0.0
    for _ in range(5):
        now_s = round_of(returns, "near/a", now_s, 0.02)
    answered(returns, ["near/a", "near/b"], now_s)
    answered(returns, ["near/c"], now_s + 0.01)
    returns.came(["near/a"], now_s + 0.01)
    assert now_s + 0.03 < returns.due_s(now_s + 0.01, now_s) < now_s + 0.04
    returns.came(["near/b"], now_s + 0.01)
    assert returns.due_s(now_s + 0.01, now_s) == now_s + 0.01  # not for c
