"""What a key may spend and how fast: pure arithmetic on integers, no clock and no database.

A request *holds* the price of its largest answer before its first step and is *settled* with what
it used, so requests that run at the same time can never spend a budget twice:

    spent + held + free = budget        at every moment, in rao and in tokens alike
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

WINDOW_S = 60

Reason = Literal["budget_rao", "budget_tokens", "requests", "tokens", "parallel"]


@dataclass(frozen=True, slots=True)
class Cost:
    """What a request takes: tokens read and written, and rao."""

    tokens: int = 0
    rao: int = 0


@dataclass(frozen=True, slots=True)
class Limits:
    """None: without limit. Budgets are refilled every `period_s`, or never."""

    budget_rao: int | None = None
    budget_tokens: int | None = None
    period_s: int | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    parallel: int | None = None


@dataclass(frozen=True, slots=True)
class Account:
    """A key's counters. Seconds are Unix time; a window is one minute, a period `period_s`."""

    limits: Limits
    period_from_s: int
    spent_rao: int = 0
    spent_tokens: int = 0
    held_rao: int = 0
    held_tokens: int = 0
    running: int = 0
    window_from_s: int = 0
    window_requests: int = 0
    window_tokens: int = 0

    def at(self, now_s: int) -> Account:
        """The same account with the periods that have ended since left behind."""
        account, period_s = self, self.limits.period_s
        if period_s is not None and now_s >= self.period_from_s + period_s:
            periods = (now_s - self.period_from_s) // period_s
            start_s = self.period_from_s + periods * period_s
            account = replace(account, period_from_s=start_s, spent_rao=0, spent_tokens=0)
        if now_s >= self.window_from_s + WINDOW_S:
            start_s = now_s - now_s % WINDOW_S
            account = replace(account, window_from_s=start_s, window_requests=0, window_tokens=0)
        return account

    @property
    def free_rao(self) -> int | None:
        """What a new request may still hold; None without a budget."""
        budget = self.limits.budget_rao
        return None if budget is None else max(0, budget - self.spent_rao - self.held_rao)

    @property
    def free_tokens(self) -> int | None:
        budget = self.limits.budget_tokens
        return None if budget is None else max(0, budget - self.spent_tokens - self.held_tokens)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request may not begin. retry_after_s: when it may be worth asking again; None for a
    budget that is never refilled, or a request that alone is larger than the limit."""

    reason: Reason
    limit: int
    free: int
    retry_after_s: int | None


def hold(account: Account, cost: Cost, now_s: int) -> Account | Refusal:
    """The account with `cost` held for a request that begins now, or why it may not begin."""
    account = account.at(now_s)
    limits = account.limits
    window_left_s = account.window_from_s + WINDOW_S - now_s
    period_left_s = None
    if limits.period_s is not None:
        period_left_s = account.period_from_s + limits.period_s - now_s
    checks: tuple[tuple[Reason, int | None, int, int, int | None], ...] = (
        ("parallel", limits.parallel, account.running, 1, 1),
        ("requests", limits.requests_per_minute, account.window_requests, 1, window_left_s),
        ("tokens", limits.tokens_per_minute, account.window_tokens, cost.tokens, window_left_s),
        (
            "budget_rao",
            limits.budget_rao,
            account.spent_rao + account.held_rao,
            cost.rao,
            period_left_s,
        ),
        (
            "budget_tokens",
            limits.budget_tokens,
            account.spent_tokens + account.held_tokens,
            cost.tokens,
            period_left_s,
        ),
    )
    for reason, limit, used, wanted, retry_after_s in checks:
        if limit is not None and used + wanted > limit:
            return Refusal(
                reason, limit, max(0, limit - used), retry_after_s if wanted <= limit else None
            )
    return replace(
        account,
        held_rao=account.held_rao + cost.rao,
        held_tokens=account.held_tokens + cost.tokens,
        running=account.running + 1,
        window_requests=account.window_requests + 1,
        window_tokens=account.window_tokens + cost.tokens,
    )


def settle(account: Account, held: Cost, used: Cost, now_s: int, *, begun_s: int) -> Account:
    """The account after a request that held `held` since `begun_s` and used at most that.

    What it used counts in the period in which it ends. Of the minute's tokens the unused are given
    back while that minute lasts.
    """
    account = account.at(now_s)
    unused = held.tokens - used.tokens if begun_s >= account.window_from_s else 0
    return replace(
        account,
        spent_rao=account.spent_rao + used.rao,
        spent_tokens=account.spent_tokens + used.tokens,
        held_rao=account.held_rao - held.rao,
        held_tokens=account.held_tokens - held.tokens,
        running=account.running - 1,
        window_tokens=max(0, account.window_tokens - unused),
    )


def settle_late(account: Account, used: Cost, now_s: int) -> tuple[Account, Cost]:
    """The same for a request whose hold was given back already, because its router seemed dead:
    it pays what the budget still has. Returns what that was."""
    account = account.at(now_s)
    free_rao, free_tokens = account.free_rao, account.free_tokens
    paid = Cost(
        used.tokens if free_tokens is None else min(used.tokens, free_tokens),
        used.rao if free_rao is None else min(used.rao, free_rao),
    )
    spent_rao, spent_tokens = account.spent_rao + paid.rao, account.spent_tokens + paid.tokens
    return replace(account, spent_rao=spent_rao, spent_tokens=spent_tokens), paid


def price_rao(tokens: int, rao_per_mtoken: int) -> int:
    """`tokens` at a price per million, rounded up to a whole rao."""
    return -(-tokens * rao_per_mtoken // 1_000_000)
