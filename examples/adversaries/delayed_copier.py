"""Claim: yesterday's answer is nearly today's.

The copier asks its source before it is asked itself, so it answers with what the source said
`tokens` tokens earlier. It saves the relay's round trip, and the newest tokens, which matter most.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.uint32]
Law = npt.NDArray[np.floating]


class DelayedCopier:
    def __init__(self, source: Callable[[Ids], Law], tokens: int = 1, *, first: int = 0) -> None:
        """first: the first position that the source answers."""
        self._source, self._tokens, self._first = source, tokens, first

    def __call__(self, ids: Ids) -> Law:
        return self._source(ids[: max(self._first, len(ids) - self._tokens)])
