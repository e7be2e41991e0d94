"""Which prompts are the later turns of chats, how much people wrote and how long it took them."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

CAPACITY = 4_096  # prompts


class GoesOn(NamedTuple):
    """pause_s: since what it goes on with was answered. more: units than that and its answer; at
    least 1, as an answer may be shown otherwise afterwards."""

    pause_s: float
    more: int


class Prompts:
    """The newest prompts, by their hashes.

    A prompt's hash is Σ rᵢ(idᵢ + 1) mod 2⁶⁴ with secret random rᵢ, so that of all its beginnings
    comes in one sum: a prompt of 8,000 tokens takes less than a millisecond of the event loop.
    """

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity, self._seed = capacity, secrets.randbits(128)
        # When it was answered, or began to be; how long it is with what was written.
        self._met: OrderedDict[int, tuple[float, int]] = OrderedDict()

    def meet(self, ids: npt.NDArray[np.uint32], now_s: float) -> tuple[int, GoesOn | None]:
        """A name for these, and how they go on with the longest prompt that begins them and is
        shorter; None where none was met."""
        if not len(ids):
            return 0, None
        lots = np.random.PCG64(self._seed).random_raw(len(ids))
        *begins, whole = np.cumsum((ids.astype(np.uint64) + np.uint64(1)) * lots).tolist()
        before = next((self._met[name] for name in reversed(begins) if name in self._met), None)
        self._met[whole] = now_s, len(ids)
        self._met.move_to_end(whole)
        if len(self._met) > self._capacity:
            self._met.popitem(last=False)
        if before is None:
            return whole, None
        since_s, units = before
        return whole, GoesOn(now_s - since_s, max(1, len(ids) - units))

    def answered(self, name: int, now_s: float, units: int) -> None:
        """What was written to a prompt is whole, or nobody reads on: so many units, both."""
        if name in self._met:
            self._met[name] = now_s, units
