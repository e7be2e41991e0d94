"""Ctrl-C as a request: finish what is half done, keep it, then end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
