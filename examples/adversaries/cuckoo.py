"""Claim: whoever comes next is mine.

The cuckoo earns a place honestly and cheaply (by an n-gram cache, say), so it is senior to all
who come later. From the first moment on in which a better expert is there it says what that one
says, or mixes a part of it into its own: it was never seen apart from it, so it turned into
nobody's echo. What it once answered to a prefix as long as a walk's it answers again. A wary one
takes such a prefix for a test, as texts are used once, and is itself for a while.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.uint32]
Law = npt.NDArray[np.floating]


class Cuckoo:
    def __init__(
        self,
        own: Callable[[Ids], Law],
        next_one: Callable[[Ids], Law],
        *,
        prefix_tokens: int,
        share: float = 1.0,
        is_wary: bool = False,
    ) -> None:
        """share: of the next one's law in what it says."""
        self._own, self._next, self._prefix_tokens = own, next_one, prefix_tokens
        self._share, self._is_wary = share, is_wary
        self._said: dict[bytes, Law] = {}
        self._has_met = self._is_careful = False

    def meet(self) -> None:
        """The next one is there, and nothing was noticed lately."""
        self._has_met, self._is_careful = True, False

    def __call__(self, ids: Ids) -> Law:
        if len(ids) != self._prefix_tokens:
            return self._law(ids)
        known = self._said.get(ids.tobytes())
        if known is None:
            known = self._said[ids.tobytes()] = self._law(ids)
        elif self._is_wary:
            self._is_careful = True
        return known

    def _law(self, ids: Ids) -> Law:
        if not self._has_met or self._is_careful:
            return self._own(ids)
        if self._share == 1.0:
            return self._next(ids)
        parts = np.log1p(-self._share), np.log(self._share)
        return np.logaddexp(parts[0] + self._own(ids), parts[1] + self._next(ids))
