"""Which nonces were seen: replay protection with bounded memory that never forgets too early.

A nonce is its request's unix time in nanoseconds, so age is known without a clock of our own. One
floor says up to which time everything is refused. It starts at the process's start (what an
earlier process saw is unknown) and rises when old nonces are dropped to make room: a flood makes
the window shorter, never the check weaker.
"""

from __future__ import annotations

import heapq
import time

from moesubnet.errors import ConfigError
from moesubnet.types import Hotkey

MAX_AGE_NS = 10_000_000_000
MAX_SKEW_NS = 2_000_000_000
MIN_RETENTION_S = 2 * (MAX_AGE_NS + MAX_SKEW_NS) / 1e9


class NonceStore:
    """The (sender, nonce) pairs of the last `retention_s`, at most `capacity` of them.

    `started_ns`: nonces up to this time are refused; None means now. About 150 bytes a nonce.
    """

    def __init__(
        self,
        retention_s: float = 60.0,
        capacity: int = 131_072,
        started_ns: int | None = None,
    ) -> None:
        if retention_s < MIN_RETENTION_S:
            raise ConfigError(f"retention_s must be at least {MIN_RETENTION_S}: twice the window")
        self._retention_ns = int(retention_s * 1e9)
        self._capacity = capacity
        self._floor_ns = time.time_ns() if started_ns is None else started_ns
        self._by_age: list[tuple[int, Hotkey]] = []
        self._seen: set[tuple[int, Hotkey]] = set()

    def __len__(self) -> int:
        return len(self._seen)

    def add(self, sender: Hotkey, nonce_ns: int, now_ns: int) -> bool:
        """Remember a nonce whose signature verified; False when it may have been seen before."""
        entry = (nonce_ns, sender)
        if nonce_ns <= self._floor_ns or entry in self._seen:
            return False
        heapq.heappush(self._by_age, entry)
        self._seen.add(entry)
        oldest_ns = now_ns - self._retention_ns
        while len(self._by_age) > self._capacity or self._by_age[0][0] < oldest_ns:
            dropped = heapq.heappop(self._by_age)
            self._seen.discard(dropped)
            self._floor_ns = max(self._floor_ns, dropped[0])
        return True
