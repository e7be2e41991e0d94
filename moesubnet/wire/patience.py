"""How long an answer may take, by what was asked and by what its expert is known for.

One formula for all who ask. A call's size is the tokens that the expert has to read for it.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict, deque
from collections.abc import Collection, Mapping
from functools import partial
from math import inf

from moesubnet.types import Hotkey
from moesubnet.wire.protocol import StepResponse

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


async def cut_stragglers(
    tasks: Mapping[Hotkey, asyncio.Task[object]],
    weights: Mapping[Hotkey, float],
    patient_until_s: Mapping[Hotkey, float],
    least_patience_s: float = LEAST_PATIENCE_S,
) -> None:
    """Return when all tasks are done, the late ones cancelled.

    Late is who has not answered PATIENCE times as long after the start as it took until the
    answers weighed at least what was still to come, and `least_patience_s` longer. However much
    it weighs, late is also who has taken much longer than it usually does (`patient_until_s`) and
    PATIENCE times as long as those that have answered.
    """
    loop = asyncio.get_running_loop()
    start_s, limit_s = loop.time(), inf
    others_s = inf  # so long we wait for anybody when the others took so long
    look_s = inf  # nobody is late before
    waiting, come, news = dict(tasks), list[Hotkey](), asyncio.Event()
    # Exact: halves are halves, in whatever order they come.
    parts = {hotkey: _exactly(weights.get(hotkey, 0.0)) for hotkey in tasks}
    given, to_come = 0, sum(parts.values())

    def note(hotkey: Hotkey, _: asyncio.Task[object]) -> None:
        come.append(hotkey)
        news.set()

    for hotkey, task in tasks.items():
        task.add_done_callback(partial(note, hotkey))
    while waiting:
        try:
            async with asyncio.timeout_at(None if look_s == inf else look_s):
                await news.wait()
        except TimeoutError:  # what has come by now is taken first, however far behind we are
            for _ in range(TURNS_TO_TAKE):
                await asyncio.sleep(0)
            if not come:
                cut_s = {
                    hotkey: min(limit_s, max(others_s, patient_until_s.get(hotkey, inf)))
                    for hotkey in waiting
                }
                late = [waiting.pop(hotkey) for hotkey, at_s in cut_s.items() if at_s <= look_s]
                for task in late:
                    task.cancel()
                await asyncio.gather(*late, return_exceptions=True)
                look_s = min((cut_s[hotkey] for hotkey in waiting), default=inf)
                if any(hotkey not in patient_until_s for hotkey in waiting):
                    # It waits for a connection: look again, its time may begin.
                    look_s = min(look_s, loop.time() + LEAST_PATIENCE_S)
        news.clear()
        # An answer costs nothing that grows with how many were asked: they come one by one.
        took_s, has_answered = loop.time() - start_s, False
        for hotkey in come:
            if (ended := waiting.pop(hotkey, None)) is not None:
                to_come -= parts[hotkey]
                if isinstance(ended.result(), StepResponse):
                    given += parts[hotkey]
                    has_answered = True
        come.clear()
        if has_answered:
            others_s = start_s + PATIENCE * took_s
            look_s = min(look_s, others_s)
        if limit_s == inf and given > 0 and given >= to_come:
            limit_s = start_s + max(PATIENCE * took_s, took_s + least_patience_s)
            look_s = min(look_s, limit_s)
