"""Being asked to stop: finish what is half done, keep it, then end."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from types import FrameType


@contextmanager
def first_interrupt() -> Iterator[Callable[[], bool]]:
    """Yields a question: was Ctrl-C pressed? A second one ends the process as ever. Outside the
    main thread nobody can listen, and the answer stays no."""
    asked = False

    def listen(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked = True
        signal.signal(signal.SIGINT, usual)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    usual = signal.signal(signal.SIGINT, listen)
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, usual)


def stop_event() -> asyncio.Event:
    """Set by SIGINT or SIGTERM from now on."""
    stopped = asyncio.Event()
    _on_stop(stopped.set)
    return stopped


async def until_stopped(work: Coroutine[object, object, None]) -> None:
    """Run until the work ends or a signal asks to stop; then cancel it and wait."""
    task = asyncio.create_task(work)
    _on_stop(task.cancel)
    with suppress(asyncio.CancelledError):
        await task


def _on_stop(call: Callable[[], object]) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, call)
