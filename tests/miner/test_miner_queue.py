"""Nobody waits for ever, nobody fills the queue for all, and turns are fair."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesubnet.engine.base import Query
from moesubnet.errors import Overloaded, StaleMetagraph
from moesubnet.miner.batcher import Batcher
from moesubnet.miner.limits import Admission, allowed_tokens
from moesubnet.types import Hotkey, Metagraph
from moesubnet.wire.protocol import StepRows, Want

from .conftest import ALICE, BOB, POOR, FakeEngine, FixedMetagraph, u32

FULL = Want("full")
A, B, C = (Hotkey(keypair.ss58_address) for keypair in (ALICE, BOB, POOR))


@given(st.integers(0, 10**18), st.integers(0, 10**18), st.integers(16, 10**6))
def test_a_share_is_by_stake_and_never_nothing(stake: int, others: int, capacity: int) -> None:
    allowed = allowed_tokens(stake, stake + others, capacity)
    assert capacity // 16 <= allowed <= capacity
    if stake > others:
        assert allowed >= capacity // 2


def test_stake_decides_how_much_may_wait() -> None:
    admission = Admission(FixedMetagraph(), 1_000)  # Alice holds 90 % of the stake, Bob 10 %
    with ExitStack() as waiting:
        waiting.enter_context(admission.enter(B, 60))
        waiting.enter_context(admission.enter(B, 39))  # the dust of others rounds it down
        with pytest.raises(Overloaded), admission.enter(B, 1):
            pass
        for _ in range(8):
            waiting.enter_context(admission.enter(A, 100))
        with pytest.raises(Overloaded), admission.enter(C, 200):
            pass
        waiting.enter_context(admission.enter(C, 101))
        assert admission.waiting_tokens == 1_000
    assert admission.waiting_tokens == 0


def test_one_large_request_is_let_in_alone() -> None:
    admission = Admission(FixedMetagraph(), 100)
    with admission.enter(A, 5_000), pytest.raises(Overloaded), admission.enter(B, 1):
        pass


def test_a_stale_metagraph_leaves_everyone_the_least_share() -> None:
    class Stale:
        def current(self) -> Metagraph:
            raise StaleMetagraph("old")

    admission = Admission(Stale(), 160)
    with admission.enter(A, 5), admission.enter(A, 5), pytest.raises(Overloaded):
        with admission.enter(A, 1):
            pass


async def test_callers_take_turns() -> None:
    engine = FakeEngine()
    batcher = Batcher(engine)

    def ask(caller: Hotkey, name: str, sequences: int) -> asyncio.Task[object]:
        queries = [Query(f"{caller}{name}{i}", u32(1), 1) for i in range(sequences)]
        return asyncio.create_task(batcher.rows(caller, queries, FULL))

    engine.gate.clear()
    tasks = [ask(A, "first", 1)]
    await asyncio.sleep(0.05)
    tasks += [ask(A, f"many{i}", 100) for i in range(4)] + [ask(B, "one", 1)]
    await asyncio.sleep(0.05)
    engine.gate.set()
    await asyncio.gather(*tasks)
    assert [len(batch) for batch in engine.batches] == [1, 201, 200]
    assert any(query.session == f"{B}one0" for query in engine.batches[1])
    await batcher.close()


async def test_nothing_is_computed_for_a_caller_who_left_while_waiting() -> None:
    engine = FakeEngine()
    batcher = Batcher(engine)
    engine.gate.clear()
    running = asyncio.create_task(batcher.rows(A, [Query("a", u32(1), 1)], FULL))
    await asyncio.sleep(0.05)
    gone = [asyncio.create_task(batcher.rows(c, [Query(f"{c}", u32(2), 1)], FULL)) for c in (A, B)]
    await asyncio.sleep(0.05)
    for task in gone:
        task.cancel()
    again = asyncio.create_task(batcher.rows(A, [Query(f"{A}", u32(2, 3), 2)], FULL))
    await asyncio.sleep(0.05)
    engine.gate.set()
    await asyncio.gather(running, again)
    assert [[len(query.ids) for query in batch] for batch in engine.batches] == [[1], [2]]
    await batcher.close()


async def test_a_caller_who_has_gone_leaves_the_batch_whole() -> None:
    engine = FakeEngine()
    batcher = Batcher(engine)
    engine.gate.clear()
    gone = asyncio.create_task(batcher.rows(A, [Query("a", u32(1), 1)], FULL))
    stays = asyncio.create_task(batcher.rows(B, [Query("b", u32(2), 1)], FULL))
    await asyncio.sleep(0.05)
    gone.cancel()
    engine.gate.set()
    assert len(await stays) == 1
    await batcher.close()


async def test_what_wants_something_else_is_a_batch_of_its_own_and_keeps_its_turn() -> None:
    engine = FakeEngine()
    batcher = Batcher(engine)

    def ask(caller: Hotkey, name: str, want: Want) -> asyncio.Task[list[StepRows]]:
        return asyncio.create_task(batcher.rows(caller, [Query(name, u32(1), 1)], want))

    engine.gate.clear()
    running = ask(A, "first", FULL)
    await asyncio.sleep(0.05)
    few = Want("top_k", 3)
    tasks = [ask(A, "few", few), ask(B, "whole", FULL), ask(C, "also few", few)]
    await asyncio.sleep(0.05)
    engine.gate.set()
    answers = await asyncio.gather(running, *tasks)
    assert [row.ids is None for (row,) in answers] == [True, False, True, False]
    batches = [[query.session for query in batch] for batch in engine.batches]
    assert batches == [["first"], ["few"], ["whole"], ["also few"]]
    await batcher.close()
