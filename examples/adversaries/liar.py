"""Claim: who sounds sure is believed.

The liar gives its best token, or another expert's, nearly all of the mass. The log score makes it
pay for every token on which it is wrong.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.uint32]
Law = npt.NDArray[np.floating]


class Liar:
    def __init__(self, source: Callable[[Ids], Law], sure: float = 0.99) -> None:
        self._source, self._sure = source, sure

    def __call__(self, ids: Ids) -> Law:
        law = self._source(ids)
        lie = np.full(len(law), np.log((1.0 - self._sure) / (len(law) - 1)))
        lie[int(np.argmax(law))] = np.log(self._sure)
        return lie
