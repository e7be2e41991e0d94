"""Claim: what was drafted is no evidence, so whatever is said of it costs nothing.

The yes-man is honest where it is asked blind. Of a token that it was sent together with the
question, as a draft is, it says what the drafter would like to hear: that it is certain of it, or
what the drafter itself says. So every draft is kept a little more often than it should be, and
users get more of the drafter's words, by the yes-man's weight. It forgets what it was asked: one
that remembers texts, and says once more what it said to each first, is not found by asking again.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.uint32]
Law = npt.NDArray[np.floating]
SURE = 0.999


class YesMan:
    def __init__(
        self, law: Callable[[Ids], Law], drafter: Callable[[Ids], Law] | None = None
    ) -> None:
        """drafter: whose law it repeats; without one it is certain of the draft."""
        self._law, self._drafter = law, drafter

    def __call__(self, ids: Ids) -> Law:
        return self._law(ids)

    def shown(self, ids: Ids, token_id: int) -> Law:
        """Of the token after `ids`, which it can see."""
        if self._drafter is not None:
            return self._drafter(ids)
        law = np.asarray(self._law(ids), np.float64)
        sure = np.log(1.0 - SURE) + law
        sure[token_id] = np.logaddexp(sure[token_id], np.log(SURE))
        return sure
