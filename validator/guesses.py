"""What is drafted in a walk: as a router does where no student drafts (router/drafting.py), from
what the walk's heaviest expert would go on with. A validator knows neither who else is at a router
nor what a guess costs there: in which rounds, and how far at most, is drawn as users have it
(`shapes`)."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random, SystemRandom

import numpy as np

from moesubnet.mixture.draft_length import DraftLength
from moesubnet.validator.shapes import Ahead
from moesubnet.wire.step import MAX_FURTHER

MOST_LOST = 2  # drafts that were not the text's, a walk: who guesses wrong on purpose hides no more


class Guesses:
    """Of one walk of `end` tokens, in which an expert may be asked to go on from `first` on. Nobody
    else may know the lots."""

    def __init__(self, first: int, end: int, ahead: Ahead, lots: Random | None = None) -> None:
        self._first, self._end, self._lots = first, end, lots or SystemRandom()
        self._chance, self._most = ahead.first, min(ahead.most, MAX_FURTHER)
        self._anew, self._still = ahead.anew, ahead.still
        self._spare = MOST_LOST
        self._length = DraftLength(lambda drafted: np.ones(np.shape(drafted)))
        self._at, self._tokens = 0, list[int]()

    def drafts(self, position: int, label: int) -> list[int]:
        """To send after a text of `position` tokens, the last of which is `label`, which nobody
        was sent yet."""
        tokens, is_next = self._tokens, self._at == position - 1
        self._tokens = []
        if not tokens or not is_next:
            return []
        is_right = tokens[0] == label
        self._length.drafted(0.0, kept=is_right)
        most = max(0, self._end - position - 1) if self._spare else 0
        return tokens[1:][:most] if is_right else []

    def further(self, position: int, drafted: int) -> int:
        """How many tokens the heaviest expert should go on with after the draft."""
        most = min(self._end - position - drafted - 1, self._most) - 1
        if position < self._first or most <= 0 or not self._length.may_draft or not self._spare:
            return 0
        is_asked = self._lots.random() < self._chance
        self._chance = self._still if is_asked else self._anew
        count = self._length.choose(most, ahead=1) if is_asked else 0
        return count + 1 if count else 0

    def heard(self, position: int, tokens: Sequence[int]) -> None:
        """What it would go on with after `position` tokens, drafts included."""
        self._at, self._tokens = position, list(tokens)

    def settle(self, drafted: int, kept: int, missed_nats: float) -> None:
        """A block of drafts is over. missed_nats: what one of them could have told at most."""
        is_rejected = kept < drafted
        for place in range(kept + is_rejected):
            self._length.drafted(missed_nats, kept=place < kept)
        self._spare -= is_rejected

    def counted(self) -> None:
        """A label was scored."""
        self._length.counted()
