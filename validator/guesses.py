"""What is drafted in a walk: as a router does where no student drafts (router/drafting.py), from
what the walk's heaviest expert would go on with. In which walks, and how far at most, is told
beforehand, as users have it (`shapes`): a validator knows neither who else is at a router nor
what a guess costs there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from moesubnet.mixture.draft_length import DraftLength
from moesubnet.wire.step import MAX_FURTHER

MOST_LOST = 2  # drafts that were not the text's, a walk: who guesses wrong on purpose hides no more


class Guesses:
    """Of one walk of `end` tokens. ahead: tokens that an expert is asked to go on with, at most."""

    def __init__(self, end: int, ahead: int) -> None:
        self._end, self._ahead = end, min(ahead, MAX_FURTHER)
        self._length = DraftLength(lambda drafted: np.ones(np.shape(drafted)))
        self._at, self._tokens = 0, list[int]()
        self._lost = 0

    def drafts(self, position: int, label: int) -> list[int]:
        """To send after a text of `position` tokens, the last of which is `label`, which nobody
        was sent yet."""
        tokens, is_next = self._tokens, self._at == position - 1
        self._tokens = []
        if not tokens or not is_next:
            return []
        is_right = tokens[0] == label
        self._length.drafted(0.0, kept=is_right)
        most = max(0, self._end - position - 1) if self._may_draft else 0
        return tokens[1:][:most] if is_right else []

    def further(self, position: int, drafted: int) -> int:
        """How many tokens the heaviest expert should go on with after the draft."""
        most = min(self._end - position - drafted - 1, self._ahead) - 1
        count = self._length.choose(most, ahead=1) if self._may_draft and most > 0 else 0
        return count + 1 if count else 0

    def heard(self, position: int, tokens: Sequence[int]) -> None:
        """What it would go on with after `position` tokens, drafts included."""
        self._at, self._tokens = position, list(tokens)

    def settle(self, drafted: int, kept: int, missed_nats: float) -> None:
        """A block of drafts is over. missed_nats: what one of them could have told at most."""
        is_rejected = kept < drafted
        for place in range(kept + is_rejected):
            self._length.drafted(missed_nats, kept=place < kept)
        self._lost += is_rejected

    def counted(self) -> None:
        """A label was scored."""
        self._length.counted()

    @property
    def _may_draft(self) -> bool:
        return self._lost < MOST_LOST
