"""Claim: who answers late holds everybody up, and time is what a partner needs.

The slow partner answers honestly, but each answer only after `pause_s`: just before it would be
cut. Walks are asked in lockstep, so with it a walk lasts as long as the partner likes, until the
epoch's sheet is public and `label_looker` can read the rest of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.uint32]
Law = npt.NDArray[np.floating]


class SlowPartner:
    """An honest law, late."""

    def __init__(
        self,
        honest: Callable[[Ids], Law],
        pause_s: float,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._honest = honest
        self._pause_s = pause_s
        self._sleep = sleep

    def __call__(self, ids: Ids) -> Law:
        self._sleep(self._pause_s)
        return self._honest(ids)
