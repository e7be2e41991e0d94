"""Which prompts are the later turns of chats."""

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
        self._met: OrderedDict[int, None] = OrderedDict()

    def goes_on(self, ids: npt.NDArray[np.uint32]) -> bool:
        """Whether a prompt that was met begins these, which are longer. They are met now."""
        if not len(ids):
            return False
        lots = np.random.PCG64(self._seed).random_raw(len(ids))
        *begins, whole = np.cumsum((ids.astype(np.uint64) + np.uint64(1)) * lots).tolist()
        found = not self._met.keys().isdisjoint(begins)
        self._met[whole] = None
        self._met.move_to_end(whole)
        if len(self._met) > self._capacity:
            self._met.popitem(last=False)
        return found
