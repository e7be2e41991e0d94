"""Claim: who leans against the others is paid more than who says what it knows.

Value is what a mixture gains, so an expert whose law is p would like the *mixture* to say p, and
answers (p · Σw − Σ wⱼqⱼ) / wᵢ over the others j, cut at zero: the best response where it is heard.
It has to ask the others first. `share` of that, the rest is p.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from adversaries.aggregator import Aggregator, Ids, Law


class OverCorrector:
    def __init__(
        self,
        own: Callable[[Ids], Law],
        others: Sequence[Callable[[Ids], Law]],
        share: float = 1.0,
        *,
        first: int = 0,
    ) -> None:
        """first: the first position that the others can be asked about."""
        self._all, self._share = Aggregator([own, *others], first=first), share

    def __call__(self, ids: Ids) -> Law:
        weights, laws = self._all.weights(ids), np.exp(self._all.laws(ids))
        wanted = np.maximum(laws[0] - weights[1:] @ laws[1:], 0.0)
        if not wanted.any():  # the others say it all
            return np.log(np.maximum(laws[0], 1e-30))
        law = (1.0 - self._share) * laws[0] + self._share * wanted / wanted.sum()
        return np.log(np.maximum(law, 1e-30))
