"""Claim: nobody holds what users are told against anybody.

The two-faced miner answers every call in time. Whom a picky one would answer it tells what its
model says, everybody else what costs nothing: the baseline's law, an n-gram cache's, or what it
said of another place. Silence would be counted; an answer to a user is a law like any other, and
an honest specialist's is as bad on text that is not its own.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from adversaries.picky import Picky
from moesubnet.types import Hotkey

Ids = npt.NDArray[np.uint32]
Law = npt.NDArray[np.floating]


class TwoFaced:
    def __init__(self, picky: Picky, cheap: Callable[[Ids], Law]) -> None:
        self._picky, self._cheap = picky, cheap

    def to(self, sender: Hotkey) -> Callable[[Ids], Law]:
        """What it says to a caller."""

        def said(ids: Ids) -> Law:
            law = self._picky if self._picky.answers(sender, ids) else self._cheap
            return law(ids)

        return said

    def __call__(self, ids: Ids) -> Law:
        """What it says to users."""
        return self._cheap(ids)
