"""The longest turns of an event loop: what one callback keeps everybody else waiting for."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Turns:
    """cpu, wall: seconds of the longest turns with what ran, the longest first. CPU is what we
    keep the loop for; wall time has waits for the disk in it, and other processes' turns.
    collecting: CPU seconds of Python's longest collections of garbage, in whatever turn they fell.
    """

    cpu: list[tuple[float, str]] = field(default_factory=list)
    wall: list[tuple[float, str]] = field(default_factory=list)
    collecting: list[tuple[float, str]] = field(default_factory=list)


@contextmanager
def longest_turns(kept: int = 5) -> Iterator[Turns]:
    """Of all loops of this process."""
    turns, run = Turns(), asyncio.Handle._run
    began_s = 0.0

    def note(longest: list[tuple[float, str]], seconds: float, what: object) -> None:
        if len(longest) < kept or seconds > longest[-1][0]:
            longest.append((seconds, _who(what)))
            longest.sort(reverse=True)
            del longest[kept:]

    def timed(handle: asyncio.Handle) -> None:
        wall_s, cpu_s = time.perf_counter(), time.thread_time()
        run(handle)
        cpu_s, wall_s = time.thread_time() - cpu_s, time.perf_counter() - wall_s
        note(turns.cpu, cpu_s, handle)
        note(turns.wall, wall_s, handle)

    def collected(phase: str, info: dict[str, int]) -> None:
        nonlocal began_s
        if phase == "start":
            began_s = time.thread_time()
        else:
            note(turns.collecting, time.thread_time() - began_s, f"generation {info['generation']}")

    if kept:
        asyncio.Handle._run = timed  # type: ignore[method-assign]
        gc.callbacks.append(collected)
    try:
        yield turns
    finally:
        asyncio.Handle._run = run  # type: ignore[method-assign]
        if kept:
            gc.callbacks.remove(collected)


def _who(ran: object) -> str:
    callback = getattr(ran, "_callback", ran)
    owner = getattr(callback, "__self__", None)
    return str(owner.get_coro() if isinstance(owner, asyncio.Task) else callback)[:120]
