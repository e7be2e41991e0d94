"""Claim: who knows much is paid more as many who each know a part.

Part i of k speaks a law on the texts that are its own, and on all others what everybody knows. No
two of them ever say the same of a text, so none is another's copy, and each has a place in the
gate's prior.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.uint32]
Law = npt.NDArray[np.floating]
Part = Callable[[Ids], int]  # whose text it is


def by_lot(parts: int, first: int) -> Part:
    """Drawn by a text's first tokens: nobody can learn which is whose."""

    def lot(ids: Ids) -> int:
        digest = hashlib.sha256(np.asarray(ids[:first], "<u4").tobytes()).digest()
        return int.from_bytes(digest[:8], "little") % parts

    return lot


class Splitter:
    def __init__(
        self,
        law: Callable[[Ids], Law],
        common: Callable[[Ids], Law],
        part: int,
        whose: Part,
    ) -> None:
        self._law, self._common, self._part, self._whose = law, common, part, whose

    def __call__(self, ids: Ids) -> Law:
        return (self._law if self._whose(ids) == self._part else self._common)(ids)
