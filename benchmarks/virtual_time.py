"""An event loop whose clock does not wait: when nothing is left to do, it is the next timer's time.

Sleeps, deadlines and block times take no real time, and happen in the order in which they would.
Work in threads is waited for while the clock stands, as if it took no time; where nobody chose
the thread, or `AtOnce`, the work is done at once, as handing it over takes longer.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from typing import Any, TypeVar

T = TypeVar("T")


class _Selector(selectors.DefaultSelector):
    """Instead of waiting for a timer it moves the loop's clock; real events are seen then, and
    while a thread works. (Without threads there are none in between, and each look costs a
    call of the system.)"""

    loop: VirtualTimeLoop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is not None and timeout <= 0:
            return super().select(0) if self.loop.in_threads else []
        if timeout is None or self.loop.in_threads:
            return super().select(None)
        ready = super().select(0)
        if not ready:
            self.loop.now_s += timeout
        return ready


class AtOnce(Executor):
    """Its work is done when it is asked for, here or in the thread that it has to be done in."""

    def __init__(self, thread: Executor | None = None) -> None:
        self._thread = thread

    def do(self, func: Callable[..., T], *args: Any) -> T:
        return func(*args) if self._thread is None else self._thread.submit(func, *args).result()


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """`now_s` is what `time()` says: seconds since the loop was made."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.in_threads = 0  # jobs that a thread is working at
        selector = _Selector()
        selector.loop = self
        super().__init__(selector)

    def time(self) -> float:
        return self.now_s

    def run_in_executor(  # type: ignore[override]
        self, executor: Executor | None, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        if executor is None:
            return self._at_once(func, *args)
        if isinstance(executor, AtOnce):
            return self._at_once(executor.do, func, *args)
        future = super().run_in_executor(executor, func, *args)
        self.in_threads += 1

        def done(_: object) -> None:
            self.in_threads -= 1

        future.add_done_callback(done)
        return future

    def _at_once(self, func: Callable[..., T], *args: Any) -> asyncio.Future[T]:
        future: asyncio.Future[T] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 (the awaiting one's)
            future.set_exception(error)
        return future


def run(main: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run` on virtual time."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main)
