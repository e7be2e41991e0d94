"""Who is about to be back with a next step, so that a batch need not leave without it.

A pass over eight texts costs little more than one over four, and streams that were once parted
would stay so: each half computes while the other's answers are on their way. All times are the
event loop's.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from moesubnet.engine.base import owner

FORGETTING = 1.05  # a batch, of how quick one was once
REMEMBERED = 0.8  # of a caller's usual time, from one return to the next
LAPSED = 31 / 32  # of it when a stream does not come back at all: most end, and that is no delay
LATEST = 2.0  # usual times, or batches: later is not waited for, nor told from later still


class Returns:
    """Sessions whose answers have left, and how soon their callers usually are back.

    Attributes: batch_s, what a batch of steps takes at least, lately. Two apart cost that twice, so
    nobody is waited for longer, and only those who usually are sooner.
    """

    def __init__(self) -> None:
        self._left_s: OrderedDict[str, float] = OrderedDict()  # the last at the end
        self._usual_s: dict[str, float] = {}  # by owner
        self.batch_s = 0.0

    def left(self, sessions: Iterable[str], now_s: float, took_s: float) -> None:
        """They were answered by a batch that took so long."""
        self.batch_s = min(took_s, FORGETTING * self.batch_s or took_s)
        while self._left_s and next(iter(self._left_s.values())) + LATEST * self.batch_s < now_s:
            session, _ = self._left_s.popitem(last=False)
            self._learn(session, LATEST * self.batch_s, LAPSED)
        for session in sessions:
            self._left_s[session] = now_s
            self._left_s.move_to_end(session)

    def came(self, sessions: Iterable[str], now_s: float) -> None:
        for session in sessions:
            if (left_s := self._left_s.pop(session, None)) is not None:
                self._learn(session, min(now_s - left_s, LATEST * self.batch_s))

    def _learn(self, session: str, took_s: float, kept: float = REMEMBERED) -> None:
        usual_s = self._usual_s.get(owner(session), took_s)
        self._usual_s[owner(session)] = usual_s + (1.0 - kept) * (took_s - usual_s)

    def forget(self, session: str) -> None:
        self._left_s.pop(session, None)

    def due_s(self, now_s: float) -> float:
        """Until when the next batch should wait; nothing in the future where nobody is due."""
        for session, left_s in reversed(self._left_s.items()):
            if left_s + self.batch_s <= now_s:
                break
            usual_s = self._usual_s.get(owner(session), self.batch_s)
            until_s = left_s + min(LATEST * usual_s, self.batch_s)
            if usual_s < self.batch_s and until_s > now_s:
                return until_s
        return now_s
