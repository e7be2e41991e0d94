"""Who is about to be back with a next step, so that a batch or a lane need not leave without it.

A pass over eight texts costs little more than one over four, and streams that were once parted
would stay so: each half computes while the other's answers are on their way. All times are the
event loop's.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from math import inf

FORGETTING = 1.05  # a batch, of how quick one was once
REMEMBERED = 0.8  # of a caller's usual time, from one return to the next
LAPSED = 31 / 32  # of it when a stream does not come back at all: most end, and that is no delay
LATEST = 2.0  # usual times, or batches: later is not waited for, nor told from later still


class Returns:
    """Streams whose answers have left, and how soon their callers usually are back. A stream's name
    begins with its caller's and a `/`.

    Attributes: parted_s, what it costs at most to part streams: a batch's time, say, where two
    apart take twice as long as one. So nobody is waited for longer, and only those who usually are
    sooner.
    """

    def __init__(self, parted_s: float = 0.0) -> None:
        self._left_s: OrderedDict[str, float] = OrderedDict()  # the last at the end
        self._usual_s: dict[str, float] = {}  # by caller
        self.parted_s = parted_s

    def took(self, batch_s: float) -> None:
        """Note a batch: what one takes at least, lately, is what parting costs."""
        self.parted_s = min(batch_s, FORGETTING * self.parted_s or batch_s)

    def left(self, streams: Iterable[str], now_s: float) -> None:
        """They have been answered."""
        while self._left_s and next(iter(self._left_s.values())) + LATEST * self.parted_s < now_s:
            stream, _ = self._left_s.popitem(last=False)
            self._learn(stream, LATEST * self.parted_s, LAPSED)
        for stream in streams:
            self._left_s[stream] = now_s
            self._left_s.move_to_end(stream)

    def came(self, streams: Iterable[str], now_s: float) -> None:
        for stream in streams:
            if (left_s := self._left_s.pop(stream, None)) is not None:
                self._learn(stream, min(now_s - left_s, LATEST * self.parted_s))

    def _learn(self, stream: str, took_s: float, kept: float = REMEMBERED) -> None:
        caller = stream.partition("/")[0]
        usual_s = self._usual_s.get(caller, took_s)
        self._usual_s[caller] = usual_s + (1.0 - kept) * (took_s - usual_s)

    def forget(self, stream: str) -> None:
        self._left_s.pop(stream, None)

    def due_s(self, now_s: float, answered_s: float = inf) -> float:
        """Until when to wait for those who were answered by then; nothing in the future where
        nobody is due."""
        for stream, left_s in reversed(self._left_s.items()):
            if left_s > answered_s:
                continue
            if left_s + self.parted_s <= now_s:
                break
            usual_s = self._usual_s.get(stream.partition("/")[0], self.parted_s)
            until_s = left_s + min(LATEST * usual_s, self.parted_s)
            if usual_s < self.parted_s and until_s > now_s:
                return until_s
        return now_s
