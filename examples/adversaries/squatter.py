"""Claim: who came first owns the place.

The squatter registers early with next to nothing: a weak adapter (an expert's law diluted to
`share`, the rest a law that everybody has) in every domain, or a random law under an opaque
commitment. Later it stays weak and lives on its seniority, or it wakes up (`wake`) and answers
what a better, younger expert answers, which then looks like the copy.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.uint32]
Law = npt.NDArray[np.floating]


class Squatter:
    def __init__(
        self,
        common: Callable[[Ids], Law],
        source: Callable[[Ids], Law],
        share: float,
        wakes_as: Callable[[Ids], Law] | None = None,
    ) -> None:
        self._common, self._source, self._share = common, source, share
        self._wakes_as = wakes_as
        self._is_awake = False

    def wake(self) -> None:
        self._is_awake = True

    def __call__(self, ids: Ids) -> Law:
        if self._is_awake and self._wakes_as is not None:
            return self._wakes_as(ids)
        if not self._share:
            return self._common(ids)
        weak = np.logaddexp(
            np.log(self._share) + self._source(ids), np.log1p(-self._share) + self._common(ids)
        )
        return np.asarray(weak)
