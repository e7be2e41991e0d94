"""Claim: a label that stands in a published score sheet is a label known.

The looker reads every sheet that it can fetch and remembers its walks. Asked about a text that
begins as one of them, it answers the token that follows there with certainty; else with the law of
an honest model. It earns where a validator goes on asking about a text that it has published in
part: with a partner that answers late (`slow_partner`), walks would last until then.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.uint32]
Law = npt.NDArray[np.floating]

SURE = 0.999


class LabelLooker:
    """A law over what was published and, elsewhere, over an honest one."""

    def __init__(self, honest: Callable[[Ids], Law]) -> None:
        self._honest = honest
        self._next: dict[bytes, int] = {}
        self.found = 0  # how often a label was looked up

    def read(self, walks: Sequence[Ids]) -> None:
        """Remember published walks."""
        for ids in walks:
            for position in range(len(ids)):
                self._next[np.asarray(ids[:position], "<u4").tobytes()] = int(ids[position])

    def __call__(self, ids: Ids) -> Law:
        honest = self._honest(ids)
        label = self._next.get(np.asarray(ids, "<u4").tobytes())
        if label is None:
            return honest
        self.found += 1
        law = np.log1p(-SURE) + honest
        law[label] = np.log(SURE + (1 - SURE) * np.exp(honest[label]))
        return law
