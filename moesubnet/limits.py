"""A token bucket for each key, in bounded memory."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable


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

    def take(self, key: str, cost: float = 1.0) -> bool:
        """Spend `cost` from the key's bucket; False, and nothing spent, when it holds less."""
        now_s = self._clock_s()
        level, since_s = self._buckets.pop(key, (self._burst, now_s))
        level = min(self._burst, level + (now_s - since_s) * self._rate_per_s)
        allowed = level >= cost
        self._buckets[key] = (level - cost if allowed else level, now_s)
        if len(self._buckets) > self._capacity:
            self._buckets.popitem(last=False)
        return allowed
