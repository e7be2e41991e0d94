"""Token buckets and shared budgets in bounded memory."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from moesubnet.wire.limits import Backoff, RateLimiter, SharedBudget, Turns


def test_a_burst_then_the_rate() -> None:
    now_s = [0.0]
    limiter = RateLimiter(2.0, 3.0, clock_s=lambda: now_s[0])
    assert [limiter.take("a") for _ in range(4)] == [True, True, True, False]
    assert limiter.take("b")
    now_s[0] = 0.5
    assert [limiter.take("a") for _ in range(2)] == [True, False]
    now_s[0] = 100.0
    assert [limiter.take("a") for _ in range(4)] == [True, True, True, False]


def test_memory_is_bounded_by_forgetting_who_came_longest_ago() -> None:
    limiter = RateLimiter(0.0, 1.0, capacity=10)
    assert limiter.take("victim")
    for i in range(9):
        assert limiter.take(str(i))
        assert not limiter.take("victim")  # coming back keeps its empty bucket
    for i in range(10, 1_000):
        limiter.take(str(i))
    assert len(limiter._buckets) == 10


def test_one_key_has_a_quarter_of_a_budget_and_many_leave_some_to_the_next() -> None:
    budget = SharedBudget(4_096)
    for k in range(5):
        assert not budget.take(f"hog {k}", 4_096 * 3**k // 4 ** (k + 1) + 1)
        assert budget.take(f"hog {k}", 4_096 * 3**k // 4 ** (k + 1))
    assert budget.take("next", 4_096 * 3**5 // 4**6)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 2_000))))
def test_a_budget_is_never_overdrawn_and_comes_back_whole(takes: list[tuple[str, int]]) -> None:
    budget = SharedBudget(4_096)
    taken = [(key, amount) for key, amount in takes if budget.take(key, amount)]
    assert sum(amount for _, amount in taken) <= 4_096
    for key, amount in taken:
        budget.give_back(key, amount)
    assert budget.take("d", 1_024)
    assert len(budget._held) == 1


def test_who_does_not_answer_is_asked_more_and_more_rarely() -> None:
    now_s = [0.0]
    backoff = Backoff(5.0, 20.0, clock_s=lambda: now_s[0])
    asked = []
    while now_s[0] < 100:
        if backoff.is_due("a"):
            asked.append(now_s[0])
            backoff.failed("a")
        now_s[0] += 1
    assert asked == [0, 5, 15, 35, 55, 75, 95]
    assert backoff.is_due("b")
    backoff.answered("a")
    assert backoff.is_due("a")
    backoff.failed("a")
    backoff.keep_only([])
    assert backoff.is_due("a")


@given(st.integers(1, 4), st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=40))
def test_turns_are_never_more_than_the_places_and_go_round(places, comers):
    """Who gives up, waiting or not, takes no place along; who has many waiting waits longest."""

    async def play():
        turns = Turns(places)
        inside, most, entered, go = 0, 0, [], asyncio.Event()

        async def come(key):
            nonlocal inside, most
            async with turns.take(key):
                inside += 1
                most = max(most, inside)
                entered.append(key)
                try:
                    await go.wait()
                finally:
                    inside -= 1

        tasks = [asyncio.create_task(come(key)) for key, _ in comers]
        await asyncio.sleep(0)
        left = [
            (key, task) for (key, stays), task in zip(comers, tasks, strict=True)
            if stays or not task.cancel()
        ]  # fmt: skip
        for _ in range(4):
            await asyncio.sleep(0)
        held = min(places, len(left))
        assert inside == held
        go.set()
        await asyncio.gather(*(task for _, task in left))
        assert most <= places
        assert inside == 0
        assert turns._free == places
        return entered

    asyncio.run(play())


async def test_one_who_has_a_hundred_waiting_does_not_hold_up_another():
    turns, order = Turns(1), []

    async def come(key):
        async with turns.take(key):
            order.append(key)
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        for key in "a" * 100 + "bb":
            group.create_task(come(key))
    assert order[:6].count("b") == 2
