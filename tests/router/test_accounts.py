"""Budgets are exact whatever runs at once, dies or comes late."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesubnet.router.accounts import (
    Account,
    Cost,
    Limits,
    Refusal,
    hold,
    price_rao,
    settle,
    settle_late,
)

NOW_S = 1_800_000_000

some = st.integers(0, 50)
maybe = st.none() | some
limits = st.builds(
    Limits,
    budget_rao=maybe,
    budget_tokens=maybe,
    period_s=st.none() | st.integers(1, 300),
    requests_per_minute=maybe,
    tokens_per_minute=maybe,
    parallel=st.none() | st.integers(0, 3),
)
requests = st.lists(
    st.tuples(some, some, st.floats(0, 1), st.integers(0, 90), st.booleans()), max_size=40
)


@given(limits, requests)
def test_spent_held_and_free_are_the_budget_at_every_moment(
    limits: Limits, requests: list[tuple[int, int, float, int, bool]]
) -> None:
    account, now_s = Account(limits, NOW_S), NOW_S
    running: list[tuple[Cost, int]] = []
    for tokens, rao, share, pause_s, finishes in requests:
        now_s += pause_s
        outcome = hold(account, Cost(tokens, rao), now_s)
        if isinstance(outcome, Refusal):
            assert outcome.retry_after_s is None or outcome.retry_after_s > 0
        else:
            account = outcome
            running.append((Cost(tokens, rao), now_s))
        if finishes and running:
            held, begun_s = running.pop(0)
            used = Cost(int(held.tokens * share), int(held.rao * share))
            account = settle(account, held, used, now_s, begun_s=begun_s)
        assert account.running == len(running)
        assert account.held_rao == sum(held.rao for held, _ in running)
        assert account.held_tokens == sum(held.tokens for held, _ in running)
        assert min(account.spent_rao, account.spent_tokens, account.window_tokens) >= 0
        if limits.budget_rao is not None:
            assert account.spent_rao + account.held_rao + account.free_rao == limits.budget_rao
        if limits.parallel is not None:
            assert account.running <= limits.parallel
        if limits.requests_per_minute is not None:
            assert account.window_requests <= limits.requests_per_minute


def test_twenty_requests_at_once_on_a_budget_for_one_pay_once() -> None:
    account = Account(Limits(budget_rao=100), NOW_S)
    began = 0
    for _ in range(20):
        outcome = hold(account, Cost(rao=100), NOW_S)
        if isinstance(outcome, Account):
            account, began = outcome, began + 1
        else:
            assert (outcome.reason, outcome.free, outcome.retry_after_s) == ("budget_rao", 0, None)
    assert began == 1


def test_what_was_not_used_is_free_again() -> None:
    account = Account(Limits(budget_tokens=100, tokens_per_minute=100), NOW_S)
    held = hold(account, Cost(tokens=100), NOW_S)
    assert isinstance(held, Account)
    after = settle(held, Cost(tokens=100), Cost(tokens=10), NOW_S, begun_s=NOW_S)
    assert (after.free_tokens, after.window_tokens, after.running) == (90, 10, 0)


def test_a_budget_is_refilled_at_the_end_of_its_period_and_not_by_waiting_longer() -> None:
    account = replace(
        Account(Limits(budget_rao=10, period_s=3600), NOW_S), spent_rao=10, held_rao=0
    )
    refused = hold(account, Cost(rao=1), NOW_S + 600)
    assert isinstance(refused, Refusal)
    assert refused.retry_after_s == 3000
    later = account.at(NOW_S + 10 * 3600 + 5)
    assert (later.spent_rao, later.period_from_s) == (0, NOW_S + 10 * 3600)


def test_a_request_that_never_fits_is_not_told_to_come_again() -> None:
    account = Account(Limits(tokens_per_minute=10), NOW_S)
    refused = hold(account, Cost(tokens=11), NOW_S)
    assert refused == Refusal("tokens", 10, 10, None)


def test_a_late_settlement_takes_what_the_budget_still_has() -> None:
    account = replace(Account(Limits(budget_rao=10), NOW_S), spent_rao=4, held_rao=3)
    after, paid = settle_late(account, Cost(tokens=7, rao=9), NOW_S)
    assert paid == Cost(tokens=7, rao=3)
    assert (after.spent_rao, after.free_rao, after.spent_tokens) == (7, 0, 7)


@pytest.mark.parametrize(("tokens", "price", "rao"), [(0, 5, 0), (1, 1, 1), (1_000_000, 7, 7)])
def test_prices_are_rounded_up_to_a_rao(tokens: int, price: int, rao: int) -> None:
    assert price_rao(tokens, price) == rao
