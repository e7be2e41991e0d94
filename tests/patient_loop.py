"""The event loop of the tests: its clock runs while everybody waits, and hardly while they work.

So no deadline, patience or rest of the code under test runs out because the machine is slow, or
because it gave the processor to somebody else for two seconds: what is ready is done before time
passes. Who really waits (sleeps, or asks somebody who does) waits as long as on any other loop.
"""

from __future__ import annotations

import asyncio
import selectors
from time import monotonic

TURN_S = 2e-3  # the most that one turn of the loop takes; not 0: some take turns until it is time


class _Selector(selectors.DefaultSelector):
    """Tells the loop how long it waited."""

    loop: PatientLoop
    left_s: float

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.loop.now_s += min(monotonic() - self.left_s, TURN_S)
        ready = super().select(0)
        if not ready and (timeout is None or timeout > 0):
            begun_s = monotonic()
            ready = super().select(timeout)
            waited_s = monotonic() - begun_s
            self.loop.now_s += waited_s if timeout is None else min(waited_s, timeout)
        self.left_s = monotonic()
        return ready


class PatientLoop(asyncio.SelectorEventLoop):
    """`now_s` is what `time()` says. It is never ahead of `time.monotonic()`."""

    def __init__(self) -> None:
        selector = _Selector()
        selector.loop, selector.left_s = self, monotonic()
        self.now_s = selector.left_s
        super().__init__(selector)

    def time(self) -> float:
        return self.now_s
