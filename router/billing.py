"""Who is asking, what it may cost, and what it did cost: the ledger for an event loop.

The price of the largest answer is held before the first step; whatever then happens (an answer, a
broken stream, a client that leaves, our own stop) the hold is settled with what was delivered. A
settlement that the database does not take is tried again until it does, and if this process dies
first, the hold lapses and its key has the money back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ParamSpec, TypeVar

from moesubnet.errors import StateUnavailable
from moesubnet.router.accounts import WINDOW_S, Account, Cost, Refusal
from moesubnet.router.keys import Key
from moesubnet.router.ledger import HOLD_S, Hold, Ledger, Usage
from moesubnet.router.openai_api import ApiError, JsonObject
from moesubnet.router.repeats import Answer, Clash, Repeatable
from moesubnet.units import format_rao

P = ParamSpec("P")
T = TypeVar("T")

RENEW_S = HOLD_S / 4
RATE_HEADERS = [
    f"x-ratelimit-{what}-{of}"
    for of in ("requests", "tokens")
    for what in ("limit", "remaining", "reset")
]
HANDS = 4  # threads: as many calls as a PostgreSQL pool takes at once

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Holding:
    """A request while its price is held. answer: to be repeated, once it is whole."""

    account: Account
    answer: Answer | None = None


class Answered(Exception):
    """This request was answered before."""

    def __init__(self, answer: Answer) -> None:
        super().__init__("answered before")
        self.answer = answer


class Billing:
    """Run `run()` as a task beside the server; `close()` settles what is still open."""

    def __init__(self, ledger: Ledger, clock_s: Callable[[], float] = time.time) -> None:
        self._ledger = ledger
        self._clock_s = clock_s
        self._threads = ThreadPoolExecutor(HANDS, thread_name_prefix="accounts")
        self._running: dict[str, Hold] = {}
        self._unsettled: list[tuple[Hold, Usage, Answer | None]] = []
        self._tasks: set[asyncio.Task[Any]] = set()
        self._has_keys = False

    async def has_keys(self) -> bool:
        """Whether callers must show a key. Raises ApiError 503."""
        if not self._has_keys:
            self._has_keys = await self._asked(self._ledger.has_keys)
        return self._has_keys

    async def key_of(self, secret: str) -> Key | None:
        """The valid key behind a secret. Raises ApiError 503."""
        key = await self._asked(self._ledger.key_of, secret)
        return key if key is not None and key.is_valid(self._now_s()) else None

    @contextlib.asynccontextmanager
    async def held(
        self,
        key: Key,
        cost: Cost,
        used: Callable[[], Usage],
        repeatable: Repeatable | None = None,
    ) -> AsyncIterator[Holding]:
        """Hold `cost` while the block runs, then settle with `used()`, but with no more than was
        held.

        repeatable: a request that may have been answered before. Raises Answered if it was;
        ApiError 402 for a budget that is used up, 409 while it is being answered, 422 where its
        name was another's, 429 for a rate, 503.
        """
        holding = self._task(
            self._asked(self._ledger.hold, key.id, cost, self._now_s(), repeatable)
        )
        try:
            outcome, account = await asyncio.shield(holding)
        except asyncio.CancelledError:  # a client that leaves now leaves a hold all the same
            holding.add_done_callback(partial(self._give_back, used()))
            raise
        if isinstance(outcome, Answer):
            raise Answered(outcome)
        if isinstance(outcome, Clash):
            raise _clash(outcome)
        if isinstance(outcome, Refusal):
            raise _refused(outcome, cost, rate_headers(account, self._now_s()))
        self._running[outcome.id] = outcome
        request = Holding(account)
        try:
            yield request
        finally:
            del self._running[outcome.id]  # should what follows fail, the hold lapses
            # Not to be stopped halfway: a client that leaves twice must still pay once.
            settling = self._settle(outcome, _within(used(), cost), request.answer)
            await asyncio.shield(self._task(settling))

    async def describe(self, key: Key) -> JsonObject:
        """What a key may know of itself: GET /v1/key. Raises ApiError 503."""
        days = await self._asked(self._ledger.usage, key.id)
        return describe(key, days, self._now_s())

    async def run(self) -> None:
        """Renew what runs, give back what died, settle what could not be settled."""
        while True:
            await asyncio.sleep(RENEW_S)
            try:
                open_ids = [*self._running, *(held.id for held, *_ in self._unsettled)]
                await self._call(self._ledger.renew, open_ids, self._now_s())
                lapsed = await self._call(self._ledger.give_back_expired, self._now_s())
                await self._settle_again()
            except StateUnavailable as error:
                log.warning("%s; %d settlements wait", error, len(self._unsettled))
                continue
            if lapsed:
                log.info("gave back %d holds of a router that is gone", lapsed)

    async def close(self) -> None:
        while self._tasks:
            await asyncio.wait(self._tasks)
        try:
            await self._settle_again()
        except StateUnavailable as error:
            log.error("%s; %d settlements are lost", error, len(self._unsettled))
        await asyncio.to_thread(self._threads.shutdown)
        self._ledger.close()

    def _now_s(self) -> int:
        return int(self._clock_s())

    async def _settle(self, held: Hold, used: Usage, answer: Answer | None) -> None:
        try:
            await self._call(self._ledger.settle, held, used, self._now_s(), answer)
        except StateUnavailable as error:
            log.warning("%s; a settlement waits", error)
            self._unsettled.append((held, used, answer))

    def _give_back(self, used: Usage, holding: asyncio.Task[tuple[object, Account]]) -> None:
        if not holding.cancelled() and holding.exception() is None:
            outcome, _ = holding.result()
            if isinstance(outcome, Hold):
                self._task(self._settle(outcome, used, None))

    def _task(self, work: Coroutine[None, None, T]) -> asyncio.Task[T]:
        """Held, or it could vanish half done; `close` waits for it."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _settle_again(self) -> None:
        while self._unsettled:
            held, used, answer = self._unsettled[0]
            await self._call(self._ledger.settle, held, used, self._now_s(), answer)
            self._unsettled.pop(0)

    async def _asked(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """For a caller who waits: a database that is away is a 503."""
        try:
            return await self._call(function, *args, **kwargs)
        except StateUnavailable:
            text = "The router's accounts cannot be reached. Please retry shortly."
            raise ApiError(
                503, text, kind="server_error", code="accounts_unavailable", retry_after_s=5.0
            ) from None

    async def _call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, lambda: function(*args, **kwargs))


def rate_headers(account: Account, now_s: int) -> dict[str, str]:
    """OpenAI's `x-ratelimit-*` headers of a key's minute."""
    left_s = str(max(0, account.window_from_s + WINDOW_S - now_s))
    headers = {}
    for name, limit, used in (
        ("requests", account.limits.requests_per_minute, account.window_requests),
        ("tokens", account.limits.tokens_per_minute, account.window_tokens),
    ):
        if limit is not None:
            headers[f"x-ratelimit-limit-{name}"] = str(limit)
            headers[f"x-ratelimit-remaining-{name}"] = str(max(0, limit - used))
            headers[f"x-ratelimit-reset-{name}"] = f"{left_s}s"
    return headers


def describe(key: Key, days: Sequence[tuple[int, Usage, int]], now_s: int) -> JsonObject:
    """A key, its budget and its use, for its owner and for the operator; no secret."""
    account = key.account.at(now_s)
    limits = account.limits
    period_s = limits.period_s
    return {
        "id": key.id,
        "name": key.name,
        "models": key.models and list(key.models),
        "created_s": key.created_s,
        "expires_s": key.expires_s,
        "revoked_s": key.revoked_s,
        "budget": {
            "rao": limits.budget_rao,
            "tokens": limits.budget_tokens,
            "free_rao": account.free_rao,
            "free_tokens": account.free_tokens,
            "spent_rao": account.spent_rao,
            "spent_tokens": account.spent_tokens,
            "held_rao": account.held_rao,
            "held_tokens": account.held_tokens,
            "resets_s": None if period_s is None else account.period_from_s + period_s,
        },
        "rates": {
            "requests_per_minute": limits.requests_per_minute,
            "tokens_per_minute": limits.tokens_per_minute,
            "parallel": limits.parallel,
            "running": account.running,
        },
        "usage": [
            {
                "day": time.strftime("%Y-%m-%d", time.gmtime(day * 86_400)),
                "model": used.model,
                "requests": requests,
                "prompt_tokens": used.prompt_tokens,
                "completion_tokens": used.completion_tokens,
                "rao": used.rao,
            }
            for day, used, requests in days
        ],
    }


def _within(used: Usage, cost: Cost) -> Usage:
    """Nobody pays more than was held; what experts are owed beyond it is the router's loss."""
    if used.rao <= cost.rao:
        return used
    return replace(used, rao=cost.rao)


def _clash(clash: Clash) -> ApiError:
    if clash is Clash.RUNNING:
        text = "A request with this Idempotency-Key is being answered. Please retry shortly."
        return ApiError(409, text, code="idempotency_key_in_use", retry_after_s=1.0)
    text = "This Idempotency-Key was used for another request."
    return ApiError(422, text, code="idempotency_key_reused")


def _refused(refusal: Refusal, cost: Cost, rates: Mapping[str, str]) -> ApiError:
    limit, free = refusal.limit, refusal.free
    if refusal.reason in ("budget_rao", "budget_tokens"):
        money = refusal.reason == "budget_rao"
        has, wants = (
            (format_rao(free), format_rao(cost.rao)) if money else (f"{free:,}", f"{cost.tokens:,}")
        )
        what = "" if money else " tokens"
        text = (
            f"This key's budget has {has}{what} left; the largest answer to this request costs "
            f"{wants}{what}. Ask for fewer tokens, or have the budget raised."
        )
        return ApiError(
            402,
            text,
            kind="insufficient_quota",
            code="budget_exceeded",
            retry_after_s=refusal.retry_after_s,
            headers=rates,
        )
    unit = "at once" if refusal.reason == "parallel" else "a minute"
    what = "requests" if refusal.reason in ("parallel", "requests") else "tokens"
    text = f"Rate limit reached for this key: {limit:,} {what} {unit}, {free:,} left."
    if refusal.retry_after_s is None:
        text = f"This request alone needs {cost.tokens:,} tokens; the key's limit is {limit:,}."
    return ApiError(
        429,
        text,
        kind="rate_limit_error",
        code="rate_limit_exceeded",
        retry_after_s=refusal.retry_after_s,
        headers=rates,
    )
