"""What is drafted in a walk: as a router does where no student drafts (router/drafting.py), from
what the walk's heaviest expert would go on with. In which walks, and how far at most, is told
beforehand, as users have it (`shapes`): a validator does not know who else is at a router."""

from __future__ import annotations

from collections.abc import Sequence

from moesubnet.mixture.guessing import Guessing, GuessPace
from moesubnet.wire.step import MAX_FURTHER

MOST_LOST = 2  # drafts that were not the text's, a walk: who guesses wrong on purpose hides no more


class Guesses:
    """Of one walk of `end` tokens. pace: of all walks together. ahead: tokens that an expert is
    asked to go on with, at most."""

    def __init__(self, pace: GuessPace, end: int, ahead: int = MAX_FURTHER) -> None:
        self._guessing, self._end, self._ahead = Guessing(pace, is_alone=True), end, ahead
        self._length = self._guessing.length
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
        most = self._end - position - drafted - 1 if self._may_draft else 0
        return self._guessing.further(min(most, self._ahead))

    def heard(self, position: int, tokens: Sequence[int], took_s: float) -> None:
        """What it would go on with after `position` tokens, drafts included."""
        self._at, self._tokens = position, list(tokens)
        self._guessing.took(took_s)

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
