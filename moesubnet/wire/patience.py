"""How long an answer may take, by what was asked and by what its expert is known for.

One formula for all who ask. A call's size is the tokens that the expert has to read for it.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from statistics import median

from moesubnet.types import Hotkey

TOKEN_S = 0.02  # a slow reader: a model of 1 B parameters on two cores
UNKNOWN_S = 2.0  # for one token of an expert that has not answered yet
LEAST_S = 0.5  # a moment's pause is no reason to lose the expert that matters
MULTIPLE = 4.0  # of what is usual
SMALL_TOKENS, LARGE_TOKENS = 8, 64  # what tells the time of a call, and that of a token
REMEMBERED = 32  # calls of either kind
LATE_IN_A_ROW = 8


def deadline_s(base_s: float, tokens: int) -> float:
    """The most that anybody waits: `base_s`, and what reading so much may take."""
    return base_s + TOKEN_S * tokens


class Paces:
    """How quickly experts have answered: medians, which a single pause or lie does not move."""

    def __init__(self) -> None:
        self._call_s: defaultdict[Hotkey, deque[float]] = _histories()
        self._token_s: defaultdict[Hotkey, deque[float]] = _histories()
        self._late: Counter[Hotkey] = Counter()  # in a row

    def took(self, hotkey: Hotkey, tokens: int, seconds: float) -> None:
        """Note an answer."""
        self._late.pop(hotkey, None)
        if tokens <= SMALL_TOKENS:
            self._call_s[hotkey].append(seconds)
        elif tokens >= LARGE_TOKENS:
            self._token_s[hotkey].append(seconds / tokens)

    def patience_s(self, hotkey: Hotkey, tokens: int) -> float:
        """After so long an expert that others could do without is frozen rather than busy."""
        calls, paces = self._call_s.get(hotkey), self._token_s.get(hotkey)
        call_s = max(LEAST_S, MULTIPLE * median(calls)) if calls else UNKNOWN_S
        token_s = MULTIPLE * median(paces) if paces else TOKEN_S
        return call_s + token_s * tokens

    def late(self, hotkey: Hotkey) -> None:
        """Note that it was cut off. When nothing else comes it may have become another, slower
        one, so nothing is known of it any more."""
        self._late[hotkey] += 1
        if self._late[hotkey] >= LATE_IN_A_ROW:
            for known in (self._late, self._call_s, self._token_s):
                known.pop(hotkey, None)


def _histories() -> defaultdict[Hotkey, deque[float]]:
    return defaultdict(lambda: deque(maxlen=REMEMBERED))
