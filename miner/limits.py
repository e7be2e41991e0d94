"""How much work may wait: in all, and of each caller by its stake."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from moesubnet.errors import Overloaded, StaleMetagraph
from moesubnet.types import Hotkey, MetagraphSource

LEAST_SHARE = 16  # every caller may have at least this part of the queue waiting


def allowed_tokens(stake_rao: int, total_stake_rao: int, capacity_tokens: int) -> int:
    """A caller's part of the queue: by its part of the stake, and never below the least share."""
    by_stake = capacity_tokens * stake_rao // total_stake_rao if total_stake_rao else 0
    return max(by_stake, capacity_tokens // LEAST_SHARE)


class Admission:
    """The bounded queue. Work is counted in tokens to compute, from arrival to answer."""

    def __init__(self, metagraphs: MetagraphSource, capacity_tokens: int) -> None:
        self._metagraphs = metagraphs
        self._capacity_tokens = capacity_tokens
        self._waiting: Counter[Hotkey] = Counter()

    @property
    def waiting_tokens(self) -> int:
        return self._waiting.total()

    @contextmanager
    def enter(self, caller: Hotkey, tokens: int) -> Iterator[None]:
        """Raises Overloaded unless the queue and the caller's part of it have room.

        One request of any size is let in when it is the only one, else it never could be.
        """
        own, total = self._waiting[caller], self._waiting.total()
        if (total and total + tokens > self._capacity_tokens) or (
            own and own + tokens > self._allowed(caller)
        ):
            raise Overloaded("too much is waiting")
        self._waiting[caller] += tokens
        try:
            yield
        finally:
            self._waiting[caller] -= tokens
            if not self._waiting[caller]:
                del self._waiting[caller]

    def _allowed(self, caller: Hotkey) -> int:
        try:
            metagraph = self._metagraphs.current()
        except StaleMetagraph:
            return allowed_tokens(0, 0, self._capacity_tokens)
        neuron = metagraph.by_hotkey.get(caller)
        total_rao = sum(neuron.stake_rao for neuron in metagraph.neurons)
        stake_rao = neuron.stake_rao if neuron else 0
        return allowed_tokens(stake_rao, total_rao, self._capacity_tokens)
