"""Claim: what was said will be said again.

The echo has no model: it holds the text's own tokens likely and nothing else. Shown a token before
it is judged on it, it would be perfect; asked blindly it knows only that texts repeat themselves,
which is a little that no expert beside it says, and is paid more than it adds.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.uint32]
Law = npt.NDArray[np.floating]


class Echo:
    def __init__(self, vocab_size: int, share: float = 0.9) -> None:
        """share: of the mass that goes to tokens of the text."""
        self._vocab_size, self._share = vocab_size, share

    def __call__(self, ids: Ids) -> Law:
        law = np.full(self._vocab_size, (1.0 - self._share) / self._vocab_size)
        if len(ids):
            np.add.at(law, np.asarray(ids, np.intp), self._share / len(ids))
        return np.log(law / law.sum())
