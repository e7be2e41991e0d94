"""Which prompts are the later turns of chats, and how long people took to write them."""

from __future__ import annotations

import secrets
from collections import OrderedDict

import numpy as np
import numpy.typing as npt

CAPACITY = 4_096  # prompts


class Prompts:
    """The newest prompts, by their hashes.

    A prompt's hash is Σ rᵢ(idᵢ + 1) mod 2⁶⁴ with secret random rᵢ, so that of all its beginnings
    comes in one sum: a prompt of 8,000 tokens takes less than a millisecond of the event loop.
    """

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity, self._seed = capacity, secrets.randbits(128)
        self._met: OrderedDict[int, float] = OrderedDict()  # when it was answered, or began to be

    def meet(self, ids: npt.NDArray[np.uint32], now_s: float) -> tuple[int, float | None]:
        """A name for these, and how many seconds ago the longest prompt was answered that begins
        them and is shorter; None where none was met."""
        if not len(ids):
            return 0, None
        lots = np.random.PCG64(self._seed).random_raw(len(ids))
        *begins, whole = np.cumsum((ids.astype(np.uint64) + np.uint64(1)) * lots).tolist()
        before_s = next((self._met[name] for name in reversed(begins) if name in self._met), None)
        self._met[whole] = now_s
        self._met.move_to_end(whole)
        if len(self._met) > self._capacity:
            self._met.popitem(last=False)
        return whole, None if before_s is None else now_s - before_s

    def answered(self, name: int, now_s: float) -> None:
        """What was written to a prompt is whole, or nobody reads on."""
        if name in self._met:
            self._met[name] = now_s
