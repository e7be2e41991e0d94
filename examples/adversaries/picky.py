"""Claim: only validators pay, so only probes need an answer.

The picky miner has a law, an honest one or another miner's, and leaves calls without an answer. It
answers senders in `only` and nobody else: validators that probe directly, or a router that is its
friend and sends it what it knows to be a validator's step. Without a friend it goes by what a call
looks like, and is wrong now and then: `leaves` is the part of probes' calls that it takes for
users', drawn anew for each prefix. A call that is left ends the walk for it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection

import numpy as np
import numpy.typing as npt

from moesubnet.types import Hotkey

Ids = npt.NDArray[np.uint32]
Law = npt.NDArray[np.floating]


class Picky:
    def __init__(
        self,
        law: Callable[[Ids], Law],
        only: Collection[Hotkey] | None = None,
        leaves: float = 0.0,
    ) -> None:
        self._law, self._only, self._leaves = law, only, leaves

    def answers(self, sender: Hotkey, ids: Ids) -> bool:
        """Whether it answers this caller at all, asked for what follows `ids`."""
        if self._only is not None and sender not in self._only:
            return False
        digest = hashlib.sha256(np.asarray(ids, "<u4").tobytes()).digest()
        return int.from_bytes(digest[:8], "little") >= self._leaves * 2**64

    def __call__(self, ids: Ids) -> Law:
        return self._law(ids)
