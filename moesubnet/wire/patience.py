"""How long an answer may take, by what was asked and by what its expert is known for.

One formula for all who ask. A call's size is the tokens that the expert has to read for it.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Mapping
from math import inf

from moesubnet.types import Hotkey

TOKEN_S = 0.02  # a slow reader: a model of 1 B parameters on two cores
UNKNOWN_S = 2.0  # for one token of an expert that has not answered yet
LEAST_S = 0.5  # a moment's pause is no reason to lose the expert that matters
MULTIPLE = 4.0  # of what is usual
SMALL_TOKENS, LARGE_TOKENS = 8, 64  # what tells the time of a call, and that of a token
REMEMBERED = 32  # calls of either kind
LATE_IN_A_ROW = 8
PATIENCE = 2.0  # times as long as half of the weight took, …
TURNS_TO_TAKE = 8  # of the loop, from a socket to whoever waits, and a few more
LEAST_PATIENCE_S = 0.25  # … and at least so much longer: a distant expert is not a slow one
_FINEST = 2**1074  # of it every float is a whole number


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
        call_s = max(LEAST_S, MULTIPLE * _median(calls)) if calls else UNKNOWN_S
        token_s = MULTIPLE * _median(paces) if paces else TOKEN_S
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


def _median(seconds: Collection[float]) -> float:
    ranked, middle = sorted(seconds), len(seconds) // 2
    return (ranked[middle] + ranked[~middle]) / 2


def _exactly(weight: float) -> int:
    """In a unit so small that nothing is rounded."""
    parts, of = weight.as_integer_ratio()
    return parts * (_FINEST // of)


class Awaited:
    """Whose answers one call still waits for, and who of them is late.

    Late is who has not answered PATIENCE times as long after the start as it took until the
    answers weighed at least what was still to come, and `least_patience_s` longer. However much
    it weighs, late is also who has taken much longer than it usually does (`patient_until_s`) and
    PATIENCE times as long as those that have answered. Without weights nobody is late.

    Nobody wakes for a single answer: `over` is done when all have come or are late. Attributes:
    patient_until_s: of those who are on their way.
    """

    def __init__(
        self,
        hotkeys: Iterable[Hotkey],
        weights: Mapping[Hotkey, float] | None,
        least_patience_s: float,
        cut: Callable[[Hotkey], object],
    ) -> None:
        """cut: told who is late."""
        self.loop = asyncio.get_running_loop()
        self.over: asyncio.Future[None] = self.loop.create_future()
        self.patient_until_s: dict[Hotkey, float] = {}
        self._cut, self._is_patient, self._least_s = cut, weights is None, least_patience_s
        # Exact: halves are halves, in whatever order they come.
        self._waiting = {h: _exactly(weights.get(h, 0.0)) if weights else 0 for h in hotkeys}
        self._given, self._to_come = 0, sum(self._waiting.values())
        self._start_s, self._limit_s = self.loop.time(), inf
        self._others_s = inf  # so long we wait for anybody when the others took so long
        self._look_s = inf  # nobody is late before
        self._timer: asyncio.TimerHandle | None = None
        self._end()

    def came(self, hotkey: Hotkey, *, has_answered: bool) -> None:
        """Note that it is waited for no more; nothing where it was late already."""
        part = self._waiting.pop(hotkey, None)
        if part is None or self._end() or self._is_patient:
            return
        took_s = self.loop.time() - self._start_s
        self._to_come -= part
        look_s = self._look_s
        if has_answered:
            self._given += part
            self._others_s = self._start_s + PATIENCE * took_s
            look_s = min(look_s, self._others_s)
        if self._limit_s == inf and self._given > 0 and self._given >= self._to_come:
            self._limit_s = self._start_s + max(PATIENCE * took_s, took_s + self._least_s)
            look_s = min(look_s, self._limit_s)
        self._look_at(look_s)

    def fail(self, error: BaseException) -> None:
        """Whoever waits gets this."""
        if not self.over.done():
            self.over.set_exception(error)

    def _end(self) -> bool:
        """Whether it is over."""
        if not self._waiting and not self.over.done():
            self.over.set_result(None)
        if self.over.done() and self._timer is not None:
            self._timer.cancel()
        return self.over.done()

    def _look_at(self, look_s: float) -> None:
        if look_s < self._look_s or self._timer is None:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = None
            if look_s < inf:
                self._timer = self.loop.call_at(look_s, self._look, len(self._waiting))
        self._look_s = look_s

    def _look(self, waiting: int, turns: int = TURNS_TO_TAKE) -> None:
        """Cut those who are late. What has come by now is taken first, however far behind we are.
        waiting: how many were waited for so many turns ago."""
        if self.over.done():
            return
        if turns:
            self.loop.call_soon(self._look, waiting, turns - 1)
            return
        if len(self._waiting) < waiting:
            self._look(len(self._waiting))
            return
        until_s = self.patient_until_s
        cut_s = {
            hotkey: min(self._limit_s, max(self._others_s, until_s.get(hotkey, inf)))
            for hotkey in self._waiting
        }
        for hotkey in [hotkey for hotkey, at_s in cut_s.items() if at_s <= self._look_s]:
            del self._waiting[hotkey]
            self._cut(hotkey)
        look_s = min((cut_s[hotkey] for hotkey in self._waiting), default=inf)
        if any(hotkey not in until_s for hotkey in self._waiting):
            # It waits for a connection: look again, its time may begin.
            look_s = min(look_s, self.loop.time() + LEAST_PATIENCE_S)
        self._timer = None
        if not self._end():
            self._look_at(look_s)
