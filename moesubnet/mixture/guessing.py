"""How far an expert is asked to go on by itself, where no student drafts. No I/O, no clock.

Each token that it guesses is a pass of its model, which every other stream there waits for: what is
worth it for a text alone at a far expert is dear for eight texts at a near one, whose batch parts.
So a guess counts once for each stream, and until it is known what one takes, for no less than a
round. Whoever shares a pace finds that out together: by one round in a few, then in ever more.
"""

from __future__ import annotations

import numpy.typing as npt

from moesubnet.mixture.draft_length import FIRST_ROUND_S, DraftLength, Pace
from moesubnet.mixture.mixing import Float
from moesubnet.wire.step import MAX_FURTHER

FIRST_TRIED_ROUNDS, MOST_TRIED_ROUNDS = 16, 1_024  # without a guess, before one is tried


class GuessPace(Pace):
    """Of all streams that are written beside each other."""

    first_drafted_s = FIRST_ROUND_S

    def __init__(self) -> None:
        super().__init__()
        self.rounds = 0
        self._unguessed, self._patience = 0, FIRST_TRIED_ROUNDS

    def took(self, drafted: int, seconds: float) -> None:
        super().took(drafted, seconds)
        self.rounds += 1
        self._unguessed = 0 if drafted else self._unguessed + 1

    def is_worth_it(self) -> None:
        """To guess, as it seems now: the next trials come soon again."""
        self._patience = FIRST_TRIED_ROUNDS

    def may_try(self) -> bool:
        """Whether it is time to; whoever asked does."""
        if self._unguessed < self._patience:
            return False
        self._unguessed, self._patience = 0, min(2 * self._patience, MOST_TRIED_ROUNDS)
        return True


class Guessing:
    """Of one stream. Attributes: length, of its drafts."""

    def __init__(self, shared: GuessPace) -> None:
        self._shared = shared
        self._seen, self._streams = shared.rounds, 1
        self.length = DraftLength(self)
        self._asked = 0

    def further(self, most: int) -> int:
        """How many tokens the heaviest expert should go on with, `most` or fewer: the first only
        gives the right to draft the others."""
        most = min(most, MAX_FURTHER) - 1
        count = self.length.choose(most, ahead=1) if most > 0 else 0
        if count:
            self._shared.is_worth_it()
        elif most > 0 and self.length.may_draft and self._shared.may_try():
            count = 1
        self._asked = count + 1 if count else 0
        return self._asked

    def took(self, seconds: float) -> None:
        """Note a round. As many as others had meanwhile, so many streams there are."""
        self._shared.took(self._asked, seconds)
        self._streams = max(1, self._shared.rounds - self._seen)
        self._seen = self._shared.rounds

    def round_s(self, drafted: npt.ArrayLike) -> Float:
        """Seconds of a round, and what the others wait longer for it."""
        alone_s = self._shared.round_s(0)
        return alone_s + self._streams * (self._shared.round_s(drafted) - alone_s)
