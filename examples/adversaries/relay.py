"""Claim: only validators pay, so only validators need an answer.

The relay passes each question on to the miner that did best on the text so far and returns its
answer; callers that are no validators it leaves without one. It earns as that miner does, and
users get nothing for it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import numpy as np

from adversaries.aggregator import Aggregator, Ids, Law
from moesubnet.types import Hotkey


class Relay(Aggregator):
    def __init__(
        self,
        others: Sequence[Callable[[Ids], Law]],
        validators: Collection[Hotkey] = (),
        *,
        first: int = 0,
    ) -> None:
        super().__init__(others, first=first)
        self._validators = validators

    def answers(self, sender: Hotkey) -> bool:
        """Whether it answers this caller at all."""
        return sender in self._validators

    def __call__(self, ids: Ids) -> Law:
        return self._others[int(np.argmax(self._evidence(ids)))](ids)
