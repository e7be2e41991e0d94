"""Claim: a copy with enough noise is no copy.

The copier asks another miner and answers its law with every log-probability moved by noise of
standard deviation `sigma` (drawn anew for each prefix and seed), a share `flat` of the uniform law
mixed in, and raised to `power`. Nothing of it is its own. Where distances are judged by a
threshold, noise just above it makes the copy an expert, and halves what the copied one is worth.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.uint32]
Law = npt.NDArray[np.floating]


class NoisyCopier:
    def __init__(
        self,
        source: Callable[[Ids], Law],
        sigma: float,
        *,
        flat: float = 0.0,
        power: float = 1.0,
        seed: int = 0,
    ) -> None:
        self._source, self._sigma, self._flat, self._power = source, sigma, flat, power
        self._seed = seed.to_bytes(8, "little")

    def __call__(self, ids: Ids) -> Law:
        law = self._power * np.asarray(self._source(ids), np.float64)
        if self._sigma:
            digest = hashlib.sha256(self._seed + np.asarray(ids, "<u4").tobytes()).digest()
            rng = np.random.default_rng(int.from_bytes(digest[:8], "little"))
            law = law + self._sigma * rng.standard_normal(len(law), np.float32)
        probs = np.exp(law - law.max())
        probs *= (1.0 - self._flat) / probs.sum()
        return np.log(np.maximum(probs + self._flat / len(probs), 1e-30))
