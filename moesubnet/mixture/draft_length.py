"""How long the next draft should be: what is known of time and of acceptance. No I/O, no clock."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from moesubnet.mixture.mixing import Float

MAX_DRAFT = 28  # tokens or bytes: with what is sent beside it a step of `wire.step.SHORT_TOKENS`
# Under a gate that knows nothing it loses 0.3 to 1.0 % of a mixture's nats (8: 0.3 to 1.1 %, for 1
# to 4 % more tokens a second), without it 1.2 to 2.1 % (benchmarks/results.md, docs/log.md).
MISSED_NATS = 6.0
# As many for each token to be written: a draft of eight loses 1.4 a token where drafts are kept at
# 0.76, and at 100 ms pays. They are owed, so a request has to hold them.
MOST_LOST_DRAFTS = 2
FIRST_KEPT, FIRST_LOST = 1.2, 0.8  # drafts, before any is known
REMEMBERED_DRAFTS, REMEMBERED_ROUNDS = 32, 32
FORGOTTEN_TOKENS = 128  # without drafts: how well they do is found out again, at a cost
FIRST_ROUND_S = 0.05  # before any is known
FIRST_DRAFTED_S = 0.001  # little, so that it is tried and found out
LONGEST = 4.0


def entropy_nats(weights: Sequence[float]) -> float:
    return -math.fsum(w * math.log(w) for w in weights if w > 0.0)


class Pace:
    """How long a round trip takes by the length of its draft, drafting it included: a line, fitted
    to the newest rounds. One for all streams that are drafted for by one drafter."""

    first_drafted_s = FIRST_DRAFTED_S

    def __init__(self) -> None:
        # Σ 1, n, n², s, n·s of the rounds, older ones fading; at first one of nothing
        self._sums = 1.0, 0.0, 0.0, FIRST_ROUND_S, 0.0

    def took(self, drafted: int, seconds: float) -> None:
        """Note a round. One pause counts as a few usual rounds at most."""
        base_s, slope_s = self._line()
        seconds = min(seconds, LONGEST * (base_s + slope_s * drafted))
        left = 1.0 - 1.0 / REMEMBERED_ROUNDS
        count, n, n_squared, all_s, n_seconds = self._sums
        self._sums = (
            left * count + 1.0,
            left * n + drafted,
            left * n_squared + drafted**2,
            left * all_s + seconds,
            left * n_seconds + drafted * seconds,
        )

    def round_s(self, drafted: npt.ArrayLike) -> Float:
        """Seconds that a round with so many drafted tokens takes."""
        base_s, slope_s = self._line()
        return np.asarray(base_s + slope_s * np.asarray(drafted), np.float64)

    def _line(self) -> tuple[float, float]:
        """Seconds of a round, and of each drafted token more."""
        count, n, n_squared, seconds, n_seconds = self._sums
        spread = n_squared - n * n / count
        slope_s = (n_seconds - n * seconds / count + self.first_drafted_s) / (spread + 1.0)
        slope_s = max(slope_s, 0.0)  # a longer draft is never sooner there
        return max((seconds - slope_s * n) / count, 0.0), slope_s


class DraftLength:
    """How many tokens to draft for one stream, chosen anew for every round.

    A draft of n tokens, each kept with probability α where all before it were, gives
    (1 − α^(n+1)) / (1 − α) tokens a round; n is what gives most tokens a second. Without drafts
    what is known of α fades, so that they are tried again; what is little known is tried briefly.
    Drafted tokens are no evidence (`drafting.Block`). What is missed of it is at most the entropy
    of the members' weights a token, less what the gate tells as well (`Walk.unknown`), and once
    that is more than MISSED_NATS a round goes undrafted.
    """

    def __init__(self, round_s: Callable[[npt.ArrayLike], Float]) -> None:
        """round_s: see `Pace`."""
        self._round_s = round_s
        self._kept, self._lost = FIRST_KEPT, FIRST_LOST
        self._missed_nats = 0.0

    @property
    def acceptance(self) -> float:
        """α as it is known now."""
        return self._kept / (self._kept + self._lost)

    @property
    def may_draft(self) -> bool:
        """Whether no evidence is due."""
        return self._missed_nats <= MISSED_NATS

    def choose(self, most: int = MAX_DRAFT, ahead: int = 0) -> int:
        """ahead: how many tokens a drafter has to guess before its draft begins, and is of use."""
        if not self.may_draft:
            return 0
        known = self._kept + self._lost - FIRST_KEPT - FIRST_LOST  # drafts, as they are remembered
        lengths = np.arange(max(min(most, MAX_DRAFT, 2 + int(2 * known)), 0) + 1)
        tokens = 1.0 + self.acceptance**ahead * (np.cumsum(self.acceptance**lengths) - 1.0)
        guessed = np.where(lengths > 0, lengths + ahead, 0)
        return int(np.argmax(tokens / self._round_s(guessed)))

    def drafted(self, missed_nats: float, *, kept: bool) -> None:
        """A drafted token was kept or not. missed_nats: the most that it could have told of the
        members, had it been evidence (`entropy_nats` of their weights times `Walk.unknown`, or a
        part of that where it is a part of a token)."""
        self._missed_nats += missed_nats
        self._fade(REMEMBERED_DRAFTS)
        self._kept, self._lost = self._kept + kept, self._lost + (not kept)

    def counted(self) -> None:
        """A token was evidence."""
        self._missed_nats = 0.0
        self._fade(FORGOTTEN_TOKENS)

    def _fade(self, memory: int) -> None:
        left = 1.0 - 1.0 / memory
        self._kept = left * self._kept + (1.0 - left) * FIRST_KEPT
        self._lost = left * self._lost + (1.0 - left) * FIRST_LOST
