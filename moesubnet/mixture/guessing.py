"""How far an expert is asked to go on by itself, where no student drafts. No I/O, no clock.

Its first guess is read off the law at hand, each further one is a pass of its model. Every other
stream there waits for it, and a batch whose streams guess is parted. So only a text that is alone
there has guesses, and a pass is taken for a round until it is known: by one round after a few, then
after ever more. Whoever shares a pace finds that out for all.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
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
        self.begun = 0  # rounds, by all
        self._unguessed, self._patience = 0, FIRST_TRIED_ROUNDS

    def took(self, drafted: int, seconds: float) -> None:
        super().took(drafted, seconds)
        self._unguessed = 0 if drafted else self._unguessed + 1

    def is_worth_it(self) -> None:
        """To guess, as it seems now: the next trials come soon again."""
        self._patience = FIRST_TRIED_ROUNDS

    def may_try(self) -> bool:
        """Whether it is time to; whoever asks does."""
        if self._unguessed < self._patience:
            return False
        self._unguessed, self._patience = 0, min(2 * self._patience, MOST_TRIED_ROUNDS)
        return True


class Guessing:
    """Of one stream.

    Attributes: length, of its drafts. rounds: in how many there could have been a guess, and
    whether there was one, by kind: 0 is the stream's first, 1 comes after one without, 2 after one
    with. Could: if no other text were there, while there are tokens to guess and no evidence is
    due.
    """

    def __init__(self, shared: GuessPace) -> None:
        self._shared = shared
        self._begun = (0, 0)  # rounds, when its last two were
        self.length = DraftLength(self.round_s)
        self.rounds: Counter[tuple[int, bool]] = Counter()
        self._asked = self._kind = 0

    def further(self, most: int) -> int:
        """A round begins. How many tokens the heaviest expert should go on with, `most` or fewer:
        the first only gives the right to draft the others. None where another text has begun a
        round since its last but one, so that it is beside others: between two rounds none of them
        may have, where it is the last to go and the first that is back."""
        now = self._shared.begun
        is_alone, is_third = 0 < self._begun[0] == now - 1, self._begun[0] > 0
        self._shared.begun = now + 1
        self._begun = self._begun[1], now + 1
        room = min(most, MAX_FURTHER) - 1
        most = room if is_alone else 0
        count = self.length.choose(most, ahead=1) if most > 0 else 0
        if count:
            self._shared.is_worth_it()
        elif most > 0 and self.length.may_draft and self._shared.may_try():
            count = 1
        self._asked = count + 1 if count else 0
        if is_third and room > 0 and self.length.may_draft:
            self.rounds[self._kind, count > 0] += 1
            self._kind = 2 if count else 1
        return self._asked

    def took(self, seconds: float) -> None:
        """Note a round."""
        self._shared.took(max(0, self._asked - 1), seconds)

    def round_s(self, drafted: npt.ArrayLike) -> Float:
        """See `Pace`."""
        return self._shared.round_s(np.maximum(np.asarray(drafted) - 1, 0))
