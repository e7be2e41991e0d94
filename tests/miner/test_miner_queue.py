"""Nobody waits for ever, nobody fills the queue for all, and turns are fair."""

from __future__ import annotations

import asyncio
import gc
from contextlib import ExitStack
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesubnet.engine.base import Query
from moesubnet.errors import EngineError, Overloaded, StaleMetagraph
from moesubnet.miner import batcher as batcher_module
from moesubnet.miner.batcher import Batcher
from moesubnet.miner.limits import Admission, allowed_tokens
from moesubnet.miner.sessions import Exclusive
from moesubnet.types import Hotkey, Metagraph
from moesubnet.wire.protocol import StepRequest, StepRows, Want, is_short

from .conftest import ALICE, BOB, POOR, FakeEngine, FixedMetagraph, step_of, u32

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


CHUNKS = tuple(
    f"{which}_TOKENS" for which in ("FIRST_CHUNK", "LEAST_CHUNK", "MOST_CHUNK", "LEAST_ALONE")
)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> int:
    """Prompts are read in parts of eight tokens, whatever that takes."""
    for name in CHUNKS:
        monkeypatch.setattr(batcher_module, name, 8)
    return 8


class CachingEngine(FakeEngine):
    """Knows what it has read; refuses a query that skips what it has not."""

    caches = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.read: dict[str, int] = {}
        self.computed: list[int] = []  # inputs of each batch

    def rows(self, batch: list[Query], want: Want) -> list[StepRows]:  # type: ignore[override]
        self.computed.append(0)
        for query in batch:
            base = min(self.read.get(query.session, 0), query.first_law)
            self.read[query.session] = len(query.ids) + 1
            self.computed[-1] += len(query.ids) + 1 - base
        return super().rows(batch, want)


WANTS = [FULL, Want("nucleus", 9, 0.6, committed=True), Want("sampled_n", 3)]


@given(
    st.lists(st.tuples(st.integers(0, 60), st.data()), min_size=1, max_size=4),
    st.sampled_from(WANTS),
)
@settings(max_examples=60, deadline=None)
def test_a_text_that_is_read_in_parts_has_the_same_rows(
    asked: list[tuple[int, Any]], want: Want
) -> None:
    engine = CachingEngine()
    queries, known = [], []
    for index, (length, data) in enumerate(asked):
        ids = np.arange(length, dtype=np.uint32) * (index + 1) % engine.vocab_size
        draft = data.draw(st.integers(0, min(length, 12)))
        first = data.draw(st.integers(0, length))
        queries.append(Query(str(index), ids, first, draft, seed=index))
        known.append(data.draw(st.integers(0, length - draft)))
        engine.read[str(index)] = known[-1] + 1

    async def main() -> list[StepRows]:
        small = dict.fromkeys(CHUNKS, 8)
        with mock.patch.multiple(batcher_module, **small):
            batcher = Batcher(engine)
            answers = await batcher.rows(A, queries, want, known)
        await batcher.close()
        return answers

    for query, rows in zip(queries, asyncio.run(main()), strict=True):
        expected = query.answer(engine.laws(query.ids, query.first_law), want)
        for name in ("first", "logprobs", "ids", "ends", "tail_mass", "draft_logprobs", "whole"):
            np.testing.assert_array_equal(getattr(rows, name), getattr(expected, name), name)
    lefts = [len(q.ids) + 1 - min(k, q.first_law) for q, k in zip(queries, known, strict=True)]
    assert sum(engine.computed) <= sum(lefts)  # nothing is read twice
    if not is_short(lefts):
        assert max(engine.computed) <= 8 + 12 + 1  # a draft is read whole


async def test_steps_are_answered_between_the_parts_of_a_long_prompt(small_chunks: int) -> None:
    engine = CachingEngine()
    batcher = Batcher(engine)
    engine.gate.clear()
    prompt = asyncio.create_task(batcher.rows(A, [Query("long", u32(*range(60)), 60)], FULL))
    other = asyncio.create_task(batcher.rows(B, [Query("other", u32(*range(40)), 40)], FULL))
    await asyncio.sleep(0.05)

    async def stream(name: str) -> None:
        for length in range(1, 5):
            await batcher.rows(A, [Query(name, u32(*range(length)), length)], FULL, [length - 1])
        assert not prompt.done()
        assert not other.done()

    streams = [asyncio.create_task(stream(name)) for name in ("a", "b", "c")]
    await asyncio.sleep(0.05)
    engine.gate.set()
    await asyncio.gather(*streams)
    assert (await prompt)[0].count == (await other)[0].count == 1
    parts = [[q.session for q in batch] for batch in engine.batches]
    assert parts[:6] == [["long"], ["a", "b", "c"], ["other"], ["a", "b", "c"], ["long"], [*"abc"]]
    await batcher.close()


async def test_on_a_slow_machine_a_part_takes_no_longer_than_a_step_may_wait() -> None:
    batcher = Batcher(CachingEngine())
    batcher._returns.took(2.0)  # so long takes a batch of steps there
    before = batcher._chunk_tokens
    batcher._fit_chunk(4.0, is_alone=False)
    assert batcher._chunk_tokens == before // 2
    batcher._fit_chunk(0.9, is_alone=True)
    assert batcher._chunk_tokens == before // 2
    await batcher.close()


async def test_what_the_engine_holds_is_not_given_in_parts(small_chunks: int) -> None:
    class Holding(CachingEngine):
        def held(self, query: Query) -> int:
            return 55  # of another session that begins alike

    engine = Holding()
    batcher = Batcher(engine)
    await batcher.rows(A, [Query("next turn", u32(*range(60)), 60)], FULL)
    await batcher.rows(A, [Query("longer", u32(*range(99)), 99)], FULL)
    parts = [[len(query.ids) for query in batch] for batch in engine.batches]
    assert parts == [[60], *([length] for length in (62, 70, 78, 86, 94, 99))]
    await batcher.close()


async def test_an_engine_that_keeps_nothing_is_given_texts_whole(small_chunks: int) -> None:
    engine = FakeEngine()
    batcher = Batcher(engine)
    await batcher.rows(A, [Query("long", u32(*range(60)), 60)], FULL)
    assert [[len(query.ids) for query in batch] for batch in engine.batches] == [[60]]
    await batcher.close()


async def test_a_prompt_locks_out_no_step_of_the_same_caller(serve_miner: Any) -> None:
    engine = CachingEngine()
    served = await serve_miner(engine, queue_tokens=160)  # least share: 10 tokens of steps
    client = await served.client(BOB)

    def ask(name: str, ids: np.ndarray) -> asyncio.Task[object]:
        request = StepRequest((step_of(name, u32(), ids),), Want("full"))
        return asyncio.ensure_future(client.step(request, timeout_s=30))

    engine.gate.clear()
    prompts = [ask(f"long{i}", u32(*range(50))) for i in range(2)]
    steps = [ask(f"short{i}", u32(1)) for i in range(5)]
    await asyncio.sleep(0.2)
    engine.gate.set()
    await asyncio.gather(*prompts, *steps)


async def test_a_waiter_that_is_cancelled_twice_leaves_nobody_asleep() -> None:
    exclusive = Exclusive()
    inside = asyncio.Event()

    async def hold() -> None:
        async with exclusive.hold(["s"]):
            inside.set()
            await asyncio.Event().wait()

    async def enter() -> None:
        async with exclusive.hold(["s"]):
            pass

    holder = asyncio.create_task(hold())
    await inside.wait()
    waiters = [asyncio.create_task(enter()) for _ in range(3)]
    await asyncio.sleep(0)
    holder.cancel()
    waiters[0].cancel()
    await asyncio.sleep(0)
    holder.cancel()
    waiters[0].cancel()
    async with asyncio.timeout(5):
        await asyncio.gather(*waiters[1:])


async def test_an_error_that_was_handled_is_not_logged_as_forgotten(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Failing(FakeEngine):
        def rows(self, batch: Any, want: Any) -> Any:
            raise EngineError("no")

    batcher = Batcher(Failing())
    asked = [batcher.rows(caller, [Query(str(caller), u32(1), 1)], FULL) for caller in (A, B)]
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(answer) for answer in answers] == [EngineError, EngineError]
    await batcher.close()
    del answers, asked
    gc.collect()
    assert not caplog.records
