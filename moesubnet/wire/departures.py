"""When steps to one expert leave: together, and without waiting to fill a lane.

A step leaves at once if nothing is under way. Else it waits until something comes back, or a
quarter of what that usually takes, and leaves with whatever waits by then. So a near expert is
asked once a round for all streams, and at a far one nobody waits for long. All times are the
event loop's.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from moesubnet.errors import AuthError, PeerError, PeerUnavailable, WireError
from moesubnet.wire.lanes import MAX_STEPS
from moesubnet.wire.protocol import Proof, StepRequest

MOST_UNDER_WAY = 4
MOST_SEQUENCES = 256  # in one lane
WAITED_PART = 0.25  # of a round, when nothing comes back meanwhile
FIRST_ROUND_S = 0.1  # is what it usually takes, as long as nothing is known
REMEMBERED = 0.8  # of the usual round, from one to the next

Answer = tuple[int, bytes, Proof]  # status, 200 or 409; body; proven


class Parcel:
    """One step and its answer. `on_its_way` is called when it leaves, and its time begins."""

    __slots__ = ("answer", "on_its_way", "request", "timeout_s")

    def __init__(
        self, request: StepRequest, timeout_s: float, on_its_way: Callable[[], None]
    ) -> None:
        self.request = request
        self.timeout_s = timeout_s
        self.on_its_way = on_its_way
        self.answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

    def fail(self, error: Exception) -> None:
        """For whoever still waits for it."""
        if not self.answer.done():
            self.answer.set_exception(error)
            self.answer.exception()  # that nobody waits any more is no error to be logged

    def give(self, answer: Answer) -> None:
        if not self.answer.done():
            self.answer.set_result(answer)


Send = Callable[[Sequence[Parcel], Callable[[], None]], Awaitable[None]]


async def carry(
    send: Send, parcels: Sequence[Parcel], come: Callable[[], None] = lambda: None
) -> None:
    """send: carries parcels to the expert and settles each as its answer comes; calls its second
    argument whenever some have come. What it raises is the answer to all that are left."""
    error: Exception = PeerUnavailable("the answer ended before it was whole")
    try:
        await send(parcels, come)
    except (PeerError, WireError, AuthError) as failure:
        error = failure
    finally:
        for parcel in parcels:
            parcel.fail(error)


class Departures:
    """send: see `carry`."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._waiting: deque[Parcel] = deque()
        self._under_way: set[asyncio.Task[None]] = set()
        self._has_come = False  # something, since the last departure
        self._left_s, self._round_s = 0.0, FIRST_ROUND_S
        self._is_leaving = False
        self._timer: asyncio.TimerHandle | None = None

    async def step(self, parcel: Parcel) -> Answer:
        """Cancelling gives up this parcel alone; a request that nobody waits for is dropped."""
        self._waiting.append(parcel)
        self._look()
        return await parcel.answer

    def _look(self) -> None:
        """Arrange the next departure, if somebody waits: once those who are ready now have come."""
        if not self._waiting or self._is_leaving:
            return
        loop = asyncio.get_running_loop()
        due_s = 0.0
        if self._under_way and not self._has_come and len(self._waiting) < MAX_STEPS:
            due_s = self._left_s + WAITED_PART * self._round_s
        if due_s <= loop.time():
            self._is_leaving = True
            loop.call_soon(self._leave)
        elif self._timer is None or self._timer.cancelled():
            self._timer = loop.call_at(due_s, self._leave)

    def _leave(self) -> None:
        loop = asyncio.get_running_loop()
        self._is_leaving = False
        if self._timer is not None:
            self._timer.cancel()
        if len(self._under_way) >= MOST_UNDER_WAY:
            return  # the next that ends looks again
        if parcels := self._those_who_wait():
            self._has_come, self._left_s = False, loop.time()
            task = loop.create_task(self._carry(parcels, self._left_s))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)
            _watch(parcels, task)
            self._look()

    def _those_who_wait(self) -> list[Parcel]:
        parcels: list[Parcel] = []
        sequences = 0
        while self._waiting and len(parcels) < MAX_STEPS:
            parcel = self._waiting[0]
            if not parcel.answer.done():
                sequences += len(parcel.request.sequences)
                if parcels and sequences > MOST_SEQUENCES:
                    break
                parcels.append(parcel)
            self._waiting.popleft()
        return parcels

    async def _carry(self, parcels: Sequence[Parcel], left_s: float) -> None:
        loop = asyncio.get_running_loop()
        first = True

        def come() -> None:
            nonlocal first
            if first:
                took_s = loop.time() - left_s
                self._round_s = REMEMBERED * self._round_s + (1.0 - REMEMBERED) * took_s
            first, self._has_come = False, True
            self._look()

        try:
            await carry(self._send, parcels, come)
        finally:
            self._has_come = True
            loop.call_soon(self._look)


def _watch(parcels: Sequence[Parcel], task: asyncio.Task[None]) -> None:
    """Begin each parcel's time; drop the request when the last who waited has given up."""
    loop = asyncio.get_running_loop()

    def given_up() -> None:
        if all(parcel.answer.done() for parcel in parcels):
            task.cancel()

    def late(parcel: Parcel) -> None:
        parcel.fail(PeerUnavailable(f"no answer within {parcel.timeout_s:.1f} s"))
        given_up()

    for parcel in parcels:
        parcel.on_its_way()
        timer = loop.call_later(parcel.timeout_s, late, parcel)

        def settled(answer: asyncio.Future[Answer], timer: asyncio.TimerHandle = timer) -> None:
            timer.cancel()
            if answer.cancelled():
                given_up()

        parcel.answer.add_done_callback(settled)
