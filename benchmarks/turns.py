"""The longest turns of an event loop: what one callback keeps everybody else waiting for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Turns:
    """cpu, wall: seconds of the longest turns with what ran, the longest first. CPU is what we
    keep the loop for; wall time has waits for the disk in it, and other processes' turns."""

    cpu: list[tuple[float, str]] = field(default_factory=list)
    wall: list[tuple[float, str]] = field(default_factory=list)


@contextmanager
def longest_turns(kept: int = 5) -> Iterator[Turns]:
    """Of all loops of this process."""
    turns, run = Turns(), asyncio.Handle._run

    def timed(handle: asyncio.Handle) -> None:
        wall_s, cpu_s = time.perf_counter(), time.thread_time()
        run(handle)
        took = time.thread_time() - cpu_s, time.perf_counter() - wall_s
        for seconds, longest in zip(took, (turns.cpu, turns.wall), strict=True):
            if len(longest) < kept or seconds > longest[-1][0]:
                longest.append((seconds, _who(handle)))
                longest.sort(reverse=True)
                del longest[kept:]

    if kept:
        asyncio.Handle._run = timed  # type: ignore[method-assign]
    try:
        yield turns
    finally:
        asyncio.Handle._run = run  # type: ignore[method-assign]


def _who(handle: asyncio.Handle) -> str:
    callback = getattr(handle, "_callback", None)
    owner = getattr(callback, "__self__", None)
    if isinstance(owner, asyncio.Task):
        return str(owner.get_coro())[:120]
    return str(callback)[:120]
