"""Sessions remember exactly what their caller may build on, in bounded memory."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesubnet.errors import UnknownBase
from moesubnet.miner.sessions import (
    SESSION_OVERHEAD_BYTES,
    AnswerTable,
    Exclusive,
    SessionTable,
)
from moesubnet.types import Hotkey

from .conftest import step_of, u32

ALICE, EVE = Hotkey("alice"), Hotkey("eve")

programs = st.lists(
    st.tuples(
        st.sampled_from([ALICE, EVE]),
        st.sampled_from(["s", "t"]),
        st.sampled_from(["", "s", "t"]),  # the parent
        st.lists(st.integers(0, 2), max_size=6),  # the base that the caller believes in
        st.lists(st.integers(0, 2), max_size=3),
        st.lists(st.integers(0, 2), max_size=3),
    ),
    max_size=40,
)


@settings(max_examples=200, deadline=None)
@given(programs)
def test_a_base_is_known_exactly_when_it_is_a_prefix_of_what_was_sent(
    program: list[tuple[Hotkey, str, str, list[int], list[int], list[int]]],
) -> None:
    table = SessionTable(lambda *_: None)
    truth: dict[tuple[Hotkey, str], tuple[list[int], int]] = {}
    for caller, session, parent, base, append, draft in program:
        sent, firm = truth.get((caller, parent or session), ([], 0))
        steps = [step_of(session, u32(*base), u32(*append), u32(*draft), parent=parent)]
        if sent[: len(base)] == base:
            (ids,) = table.extend(caller, steps)
            assert ids.tolist() == base + append + draft
            table.keep(caller, steps, [ids])
            truth[caller, session] = (ids.tolist(), len(base) + len(append))
        else:
            with pytest.raises(UnknownBase) as error:
                table.extend(caller, steps)
            assert error.value.held_tokens == (firm if len(base) > firm else 0,)


def test_sessions_expire_and_the_engine_is_told() -> None:
    now_s, forgotten = [0.0], []
    table = SessionTable(lambda *of: forgotten.append(of), ttl_s=10, clock_s=lambda: now_s[0])
    table.keep(ALICE, [step_of("old", u32(), u32(1))], [u32(1)])
    now_s[0] = 6
    table.keep(ALICE, [step_of("new", u32(), u32(1))], [u32(1)])
    now_s[0] = 11
    assert table.has_open(ALICE)
    assert forgotten == [(ALICE, "old")]
    now_s[0] = 17
    assert not table.has_open(ALICE)
    assert len(table) == 0


def test_what_a_caller_closes_is_gone_for_it_alone() -> None:
    forgotten: list[tuple[str, str]] = []
    table = SessionTable(lambda *of: forgotten.append(of))
    for caller in (ALICE, EVE):
        steps = [step_of(name, u32(), u32(1, 2)) for name in ("s", "t")]
        table.keep(caller, steps, table.extend(caller, steps))
    table.close(EVE, ["s", "t", "never heard of"])
    assert forgotten == [(EVE, "s"), (EVE, "t")]
    assert not table.has_open(EVE)
    assert len(table) == 2
    table.close(EVE, ["s"])
    table.extend(ALICE, [step_of("s", u32(1, 2), u32(3))])


def test_the_greediest_callers_oldest_sessions_make_room() -> None:
    forgotten: list[tuple[str, str]] = []
    table = SessionTable(
        lambda *of: forgotten.append(of), budget_bytes=10 * (SESSION_OVERHEAD_BYTES + 4)
    )
    table.keep(ALICE, [step_of("mine", u32(), u32(1))], [u32(1)])
    for i in range(50):
        table.keep(EVE, [step_of(str(i), u32(), u32(1))], [u32(1)])
    assert len(table) == 10
    assert forgotten == [(EVE, str(i)) for i in range(41)]
    (ids,) = table.extend(ALICE, [step_of("mine", u32(1), u32(2))])
    assert ids.tolist() == [1, 2]


def test_answers_are_kept_within_their_budget() -> None:
    table = AnswerTable(budget_bytes=100)
    table.keep(ALICE, b"large", bytes(26))
    assert table.get(ALICE, b"large") is None
    for i in range(10):
        table.keep(ALICE, bytes([i]), bytes([i]) * 25)
        table.keep(ALICE, bytes([i]), bytes([i]) * 25)
    assert [i for i in range(10) if table.get(ALICE, bytes([i]))] == [6, 7, 8, 9]
    assert table.get(EVE, bytes([9])) is None


async def test_overlapping_steps_never_run_together_nor_lock_up() -> None:
    exclusive = Exclusive()
    running: set[str] = set()
    done = 0

    async def step(names: list[str]) -> None:
        nonlocal done
        async with exclusive.hold(names):
            assert running.isdisjoint(names)
            running.update(names)
            await asyncio.sleep(0)
            running.difference_update(names)
            done += 1

    rng = np.random.default_rng(0)
    tasks = [
        asyncio.create_task(step(rng.choice(list("abcde"), 3, replace=False).tolist()))
        for _ in range(100)
    ]
    await asyncio.sleep(0)
    tasks[50].cancel()
    await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 10)
    assert done == 99


async def test_who_is_cancelled_twice_wakes_whoever_is_next_and_nobody_else() -> None:
    exclusive = Exclusive()
    woken: list[str] = []

    async def step(name: str, names: list[str]) -> None:
        async with exclusive.hold(names):
            woken.append(name)
            await asyncio.sleep(3600 if name == "holder" else 0)

    holder = asyncio.create_task(step("holder", ["s", "t"]))
    await asyncio.sleep(0)
    first, second, other = (
        asyncio.create_task(step(name, names))
        for name, names in (("first", ["s"]), ("second", ["s"]), ("other", ["t", "u"]))
    )
    await asyncio.sleep(0)
    assert woken == ["holder"]
    holder.cancel()
    await asyncio.sleep(0)  # it has left, and `first` was told that its turn has come
    for _ in range(2):  # but goes before it could take it
        first.cancel()
    await asyncio.wait_for(asyncio.gather(second, other), 5)
    assert sorted(woken[1:]) == ["other", "second"]
    assert first.cancelled()
    assert not exclusive._lines


async def test_a_release_wakes_the_next_one_and_leaves_a_crowd_asleep() -> None:
    exclusive = Exclusive()
    order: list[int] = []

    async def step(place: int) -> None:
        async with exclusive.hold(["s"]):
            order.append(place)
            come = [turn.come.done() for turn in exclusive._lines["s"]][1:]
            assert not any(come)

    await asyncio.wait_for(asyncio.gather(*map(step, range(50))), 5)
    assert order == list(range(50))
