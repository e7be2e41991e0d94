"""Claim: whoever comes next is mine.

The cuckoo earns a place honestly and cheaply (by an n-gram cache, say), so it is senior to all
who come later. From the first moment on in which a better expert is there it says what that one
says: it was never seen apart from it, so it turned into nobody's echo. What it once answered to a
prefix as long as a walk's it answers again.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.uint32]
Law = npt.NDArray[np.floating]


class Cuckoo:
    def __init__(
        self, own: Callable[[Ids], Law], next_one: Callable[[Ids], Law], *, prefix_tokens: int
    ) -> None:
        self._own, self._next, self._prefix_tokens = own, next_one, prefix_tokens
        self._said: dict[bytes, Law] = {}
        self._has_met = False

    def meet(self) -> None:
        """The next one is there."""
        self._has_met = True

    def __call__(self, ids: Ids) -> Law:
        law = self._next if self._has_met else self._own
        if len(ids) != self._prefix_tokens:
            return law(ids)
        if ids.tobytes() not in self._said:
            self._said[ids.tobytes()] = law(ids)
        return self._said[ids.tobytes()]
