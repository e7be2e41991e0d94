"""Limits for strangers, by key, in bounded memory: a rate each, and what all of them share."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Collection, Hashable
from contextlib import asynccontextmanager
from functools import lru_cache
from ipaddress import IPv6Address, ip_address


class RateLimiter:
    """`burst` at once, then `rate_per_s`, for each key; remembers the `capacity` latest keys."""

    def __init__(
        self,
        rate_per_s: float,
        burst: float,
        capacity: int = 16_384,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rate_per_s = rate_per_s
        self._burst = burst
        self._capacity = capacity
        self._clock_s = clock_s
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # level, at second

    def take(self, key: str) -> bool:
        """Spend one from the key's bucket; False, and nothing spent, when it holds less."""
        now_s = self._clock_s()
        level, since_s = self._buckets.pop(key, (self._burst, now_s))
        level = min(self._burst, level + (now_s - since_s) * self._rate_per_s)
        allowed = level >= 1.0
        self._buckets[key] = (level - 1.0 if allowed else level, now_s)
        if len(self._buckets) > self._capacity:
            self._buckets.popitem(last=False)
        return allowed


def is_fair(held: int, free: int) -> bool:
    """Whether one of many may hold so much while so much is left: at most a third of it.

    So one alone may hold a quarter of the whole, and k that take all they can leave (3/4)^k of
    it: the dynamic thresholds of Choudhury and Hahne (1998), with factor 1/3.
    """
    return 3 * held <= free


class Backoff:
    """When to ask again whoever did not answer: after `first_s`, then twice as long each time, up
    to `most_s`."""

    def __init__(
        self,
        first_s: float = 5.0,
        most_s: float = 160.0,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._first_s = first_s
        self._most_s = most_s
        self._clock_s = clock_s
        self._waits: dict[Hashable, tuple[float, float]] = {}  # until, for so long

    def is_due(self, key: Hashable) -> bool:
        return self._clock_s() >= self._waits.get(key, (0.0, 0.0))[0]

    def is_new(self, key: Hashable) -> bool:
        """Whether it has not failed since it last answered."""
        return key not in self._waits

    def failed(self, key: Hashable) -> None:
        _, waited_s = self._waits.get(key, (0.0, 0.0))
        wait_s = min(max(self._first_s, 2 * waited_s), self._most_s)
        self._waits[key] = self._clock_s() + wait_s, wait_s

    def keep_only(self, keys: Collection[Hashable]) -> None:
        """Forget all others, so that memory stays bounded."""
        self._waits = {key: wait for key, wait in self._waits.items() if key in keys}

    def answered(self, key: Hashable) -> None:
        self._waits.pop(key, None)


class SharedBudget:
    """`capacity` units that many keys hold at once, each no more than `is_fair`."""

    def __init__(self, capacity: int) -> None:
        self._free = capacity
        self._held: Counter[str] = Counter()

    def take(self, key: str, amount: int) -> bool:
        """Hold `amount` more; False, and nothing taken, when the key's part has no room for it."""
        if not is_fair(self._held[key] + amount, self._free - amount):
            return False
        self._held[key] += amount
        self._free -= amount
        return True

    def give_back(self, key: str, amount: int) -> None:
        self._free += amount
        self._held[key] -= amount
        if not self._held[key]:
            del self._held[key]


class Turns:
    """So many `places` at once. Who waits gets one key by key in turn: nobody waits for all that
    another has waiting."""

    def __init__(self, places: int) -> None:
        self._free = places
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}  # none empty

    @asynccontextmanager
    async def take(self, key: str) -> AsyncIterator[None]:
        if self._free and not self._waiting:
            self._free -= 1
        else:
            place = asyncio.get_running_loop().create_future()
            self._waiting.setdefault(key, deque()).append(place)
            try:
                await place
            except asyncio.CancelledError:
                if not place.cancelled():  # it had just got one
                    self._give_back()
                raise
        try:
            yield
        finally:
            self._give_back()

    def _give_back(self) -> None:
        while self._waiting:
            key = next(iter(self._waiting))
            line = self._waiting.pop(key)
            place = line.popleft()
            if line:
                self._waiting[key] = line  # behind the others
            if not place.done():
                place.set_result(None)
                return
        self._free += 1


@lru_cache(maxsize=4_096)
def address_key(remote: str | None) -> str:
    """An IPv4 address, or the /64 of an IPv6 one: what a stranger cannot change for free."""
    try:
        address = ip_address(remote or "")
    except ValueError:
        return ""
    if isinstance(address, IPv6Address):
        return str(address.ipv4_mapped or int(address) >> 64)
    return str(address)
