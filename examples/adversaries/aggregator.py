"""Claim: who repeats everybody is better than anybody.

The aggregator has no model. It asks the other miners, weighs each by how well it predicted the
text so far, Σ γ^Δ · ln p (as a router does), and answers the mixture. On mixed text that is a
better law than any single expert's, and adds nothing to a mixture of the experts.
`power` sharpens its weights; with `own`, a share of a law of its own is mixed in (a parasite: a
little of its own, and the rest is the others').
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.uint32]
Law = npt.NDArray[np.floating]

MEMORY_TOKENS = 32  # how far back it looks


class Aggregator:
    def __init__(
        self,
        others: Sequence[Callable[[Ids], Law]],
        *,
        gamma: float = 0.95,
        power: float = 1.0,
        own: Callable[[Ids], Law] | None = None,
        share: float = 0.0,
        first: int = 0,
    ) -> None:
        """first: the first position that it can ask about."""
        self._others, self._gamma, self._power, self._first = others, gamma, power, first
        self._own, self._share = own, share
        self._asked: dict[bytes, npt.NDArray[np.float64]] = {}

    def __call__(self, ids: Ids) -> Law:
        law = self.weights(ids) @ np.exp(self.laws(ids))
        if self._own is not None:
            law = (1.0 - self._share) * law + self._share * np.exp(self._own(ids))
        return np.log(np.maximum(law, 1e-30))

    def weights(self, ids: Ids) -> npt.NDArray[np.float64]:
        """Of the others, by how well they predicted the text so far: [others], sum 1."""
        weight = self._power * self._evidence(ids)
        weight = np.exp(weight - weight.max())
        return weight / weight.sum()

    def laws(self, ids: Ids) -> npt.NDArray[np.float64]:
        """Of the others, log-probabilities: [others, V]."""
        return np.stack([np.asarray(law(ids), np.float64) for law in self._others])

    def _evidence(self, ids: Ids) -> npt.NDArray[np.float64]:
        """[others], of the last tokens."""
        evidence = np.zeros(len(self._others))
        for n in range(max(self._first, len(ids) - MEMORY_TOKENS), len(ids)):
            key = np.asarray(ids[: n + 1], "<u4").tobytes()
            if key not in self._asked:
                said = np.array([law(ids[:n])[ids[n]] for law in self._others], np.float64)
                self._asked[key] = np.maximum(said, -30.0)
            evidence = self._gamma * evidence + self._asked[key]
        return evidence
