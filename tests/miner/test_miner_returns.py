"""A batch of steps waits for the streams that are about to be back, and for nobody else."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesubnet.engine.base import Query
from moesubnet.miner import returns as returns_module
from moesubnet.miner.batcher import Batcher
from moesubnet.miner.returns import Returns
from moesubnet.types import Hotkey
from moesubnet.wire.protocol import Want

from .conftest import ALICE, FakeEngine, u32

BATCH_S = 0.1


def round_of(returns: Returns, session: str, at_s: float, away_s: float) -> float:
    """Answered by a batch of the usual time, then back; when that is."""
    returns.left([session], at_s, BATCH_S)
    returns.came([session], at_s + away_s)
    return at_s + away_s


def test_a_near_caller_is_waited_for_and_a_far_one_is_not() -> None:
    returns = Returns()
    now_s = 0.0
    for _ in range(5):
        now_s = round_of(returns, "near/a", now_s, 0.02)
        now_s = round_of(returns, "far/a", now_s, 0.3)
    returns.left(["near/a"], now_s, BATCH_S)
    assert returns.due_s(now_s) == pytest.approx(now_s + 0.04)
    returns.left(["far/a"], now_s + 0.01, BATCH_S)
    assert returns.due_s(now_s + 0.01) == pytest.approx(now_s + 0.04)
    returns.came(["near/a"], now_s + 0.02)
    assert returns.due_s(now_s + 0.02) == now_s + 0.02


def test_a_stranger_and_a_stream_that_is_over_hold_nobody_up() -> None:
    returns = Returns()
    returns.left(["new/a"], 1.0, BATCH_S)
    assert returns.due_s(1.0) == 1.0
    now_s = round_of(returns, "near/a", 2.0, 0.02)
    returns.left(["near/a"], now_s, BATCH_S)
    returns.forget("near/a")
    assert returns.due_s(now_s) == now_s


def test_texts_that_end_together_do_not_make_their_caller_a_far_one() -> None:
    """The next ones would be written in small batches until the miner had learnt anew."""
    returns, now_s = Returns(), 0.0
    for _ in range(5):
        now_s = round_of(returns, "near/a", now_s, 0.02)
    returns.left([f"near/{place}" for place in range(8)], now_s, BATCH_S)
    now_s += 60.0
    returns.left(["near/next"], now_s, BATCH_S)
    assert now_s + 0.04 < returns.due_s(now_s) <= now_s + BATCH_S


def test_streams_that_never_come_back_are_not_kept_nor_waited_for() -> None:
    returns, now_s = Returns(), 0.0
    for _ in range(5):
        now_s = round_of(returns, "near/a", now_s, 0.02)
    for place in range(1_000):
        returns.left([f"near/{place}"], now_s, BATCH_S)
        now_s += BATCH_S
    assert len(returns._left_s) <= 3
    returns.left(["near/last"], now_s, BATCH_S)
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
            returns.left([session], now_s, took_s)
            assert returns.batch_s <= took_s
        assert now_s <= returns.due_s(now_s) <= now_s + returns.batch_s
        now_s += later_s


async def test_streams_that_were_parted_go_on_together(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, caller = FakeEngine(), Hotkey(ALICE.ss58_address)
    batcher = Batcher(engine)
    # However long the machine takes: nothing here is decided by the clock.
    hour = property(lambda _: 3_600.0, lambda *_: None)
    monkeypatch.setattr(Returns, "batch_s", hour, raising=False)
    monkeypatch.setattr(returns_module, "LATEST", 1e9)

    async def stream(name: str, tokens: int) -> None:
        for length in range(1, tokens + 1):
            query = Query(f"{caller}/{name}", u32(*range(length)), length)
            await batcher.rows(caller, [query], Want("full"), [length - 1])
        batcher.forget(f"{caller}/{name}")

    engine.gate.clear()
    first = asyncio.create_task(stream("first", 3))
    await asyncio.sleep(0.05)
    others = [asyncio.create_task(stream(f"other{i}", 3)) for i in range(3)]
    await asyncio.sleep(0.05)
    engine.gate.set()
    await asyncio.wait_for(asyncio.gather(first, *others), 60.0)
    assert [len(batch) for batch in engine.batches] == [1, 3, 4, 4]
    await batcher.close()


async def test_going_on_in_the_house_is_no_return() -> None:
    engine, caller = FakeEngine(), Hotkey(ALICE.ss58_address)
    batcher = Batcher(engine)
    for length, leaves in ((1, False), (2, False), (3, True)):
        query = Query(f"{caller}/text", u32(*range(length)), length)
        await batcher.rows(caller, [query], Want("full"), [length - 1], leaves=leaves)
        assert list(batcher._returns._left_s) == [query.session] * leaves
    assert not batcher._returns._usual_s
    await batcher.close()
