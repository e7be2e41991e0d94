"""When steps to one neuron leave: together, and without waiting to fill a lane.

A step leaves at once if nothing is under way. Else it waits until something comes back, or a
quarter of what that usually takes, and leaves with whatever waits by then. Nor does it leave
without the streams that have just been answered and are about to be back, as soon as they usually
are. So a near expert is asked once a round for all streams, and at a far one nobody
waits for long. All times are the event loop's.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from math import inf
from typing import Any

from moesubnet.errors import AuthError, PeerError, PeerUnavailable, WireError
from moesubnet.wire.lanes import MAX_STEPS
from moesubnet.wire.protocol import StepRequest
from moesubnet.wire.returns import Returns

MOST_UNDER_WAY = 4
MOST_SEQUENCES = 256  # in one lane
MOST_BYTES = 2**20  # of one that has more than one step
WAITED_PART = 0.25  # of a round, when nothing comes back meanwhile
FIRST_ROUND_S = 0.1  # is what it usually takes, as long as nothing is known
REMEMBERED = 0.8  # of the usual round, from one to the next

Answer = tuple[int, bytes, int, bytes]  # status, 200 or 409; body; nonce and receipt, verified


class Parcel:
    """One step, of which an answer has `most_bytes` at most, and its answer. `on_its_way` is called
    when it leaves, and its time begins. Those with one destination `to` leave together. stream: its
    name there, by which the next step of the same is known. held_s: how long it is waited for at
    most where others' answers keep coming, each within `timeout_s` of the last. request: what the
    body says, where the answer is to be read; else it is an `Answer`."""

    __slots__ = (
        "answer", "body", "held_s", "is_answered", "most_bytes", "on_its_way", "request",
        "sequences", "stream", "timeout_s", "to",
    )  # fmt: skip

    def __init__(
        self,
        body: bytes,
        most_bytes: int,
        timeout_s: float,
        on_its_way: Callable[[], None],
        *,
        stream: str,
        sequences: int = 1,
        to: str = "",
        held_s: float = 0.0,
        request: StepRequest | None = None,
    ) -> None:
        self.body = body
        self.most_bytes = most_bytes
        self.timeout_s = timeout_s
        self.held_s = max(timeout_s, held_s)
        self.on_its_way = on_its_way
        self.sequences = sequences
        self.to = to
        self.stream = f"{to}/{stream}"
        self.request = request
        self.is_answered = False
        self.answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def fail(self, error: Exception) -> None:
        """For whoever still waits for it."""
        if not self.answer.done():
            self.answer.set_exception(error)
            self.answer.exception()  # that nobody waits any more is no error to be logged

    def give(self, answer: object) -> None:
        """An answer, or what is wrong with it."""
        if self.answer.done():
            return
        self.is_answered = True
        if isinstance(answer, Exception):
            self.fail(answer)
        else:
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
    """send: see `carry`. most_under_way: lanes. window_bytes: while answers of so much are awaited,
    nothing leaves. waited_part: of a round, by others' steps at most."""

    _loop: asyncio.AbstractEventLoop  # of whoever has a step; to ask for it costs a system call

    def __init__(
        self,
        send: Send,
        *,
        most_under_way: int = MOST_UNDER_WAY,
        window_bytes: float = inf,
        waited_part: float = WAITED_PART,
    ) -> None:
        self._send, self._waited_part = send, waited_part
        self._most_under_way = most_under_way
        self._window_bytes = window_bytes
        self._waiting: dict[str, deque[Parcel]] = {}  # by destination, none empty
        self._count = 0  # of those who wait
        self._under_way: set[asyncio.Task[None]] = set()
        self._awaited_bytes = 0
        self._has_come = False  # something, since the last departure
        self._came_s = 0.0  # the last
        self._left_s, self._round_s = 0.0, FIRST_ROUND_S
        self._returns = Returns(waited_part * FIRST_ROUND_S)
        self._waits_since_s = 0.0  # of the first of those who wait
        self._is_leaving = False
        self._timer: asyncio.TimerHandle | None = None

    def answered(self, parcels: Iterable[Parcel]) -> None:
        """Note whose streams may be back with a step."""
        come = (parcel.stream for parcel in parcels if parcel.is_answered)
        self._returns.left(come, asyncio.get_running_loop().time())

    def step(self, parcel: Parcel) -> asyncio.Future[Any]:
        """Its answer. Cancelling gives up this parcel alone; a request that nobody waits for is
        dropped."""
        self._loop = parcel.answer.get_loop()
        now_s = self._loop.time()
        self._returns.came([parcel.stream], now_s)
        if not self._count:
            self._waits_since_s = now_s
        self._waiting.setdefault(parcel.to, deque()).append(parcel)
        self._count += 1
        self._look()
        return parcel.answer

    def _look(self) -> None:
        """Arrange the next departure, if somebody waits: once those who are ready now have come."""
        if not self._count or self._is_leaving:
            return
        loop = self._loop
        due_s = now_s = loop.time()
        if self._count < MAX_STEPS:
            due_s = self._returns.due_s(now_s, self._waits_since_s)
            if self._under_way and not self._has_come:
                due_s = max(due_s, self._left_s + self._waited_part * self._round_s)
        if self._timer is not None:
            self._timer.cancel()
        if due_s <= now_s:
            self._is_leaving = True
            loop.call_soon(self._leave)
        else:
            self._timer = loop.call_at(due_s, self._look)

    def _leave(self) -> None:
        loop = self._loop
        self._is_leaving = False
        if (
            len(self._under_way) >= self._most_under_way
            or self._awaited_bytes >= self._window_bytes
        ):
            return  # the next that ends looks again
        if parcels := self._those_who_wait():
            self._has_come, self._left_s = False, loop.time()
            task = loop.create_task(self._carry(parcels, self._left_s))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)
            self._watch(parcels, task, self._left_s)
            self._look()

    def _those_who_wait(self) -> list[Parcel]:
        """A lane, one destination after the other."""
        parcels: list[Parcel] = []
        sequences = size = 0
        while self._waiting and len(parcels) < MAX_STEPS:
            to = next(iter(self._waiting))
            parcel = self._waiting[to][0]
            if not parcel.answer.done():
                sequences += parcel.sequences
                size += len(parcel.body)
                if parcels and (sequences > MOST_SEQUENCES or size > MOST_BYTES):
                    break
                parcels.append(parcel)
            self._waiting[to].popleft()
            self._count -= 1
            if not self._waiting[to]:
                del self._waiting[to]
        return parcels

    async def _carry(self, parcels: Sequence[Parcel], left_s: float) -> None:
        loop = self._loop
        left = list(parcels)

        def come() -> None:
            nonlocal left
            if len(left) == len(parcels):
                took_s = loop.time() - left_s
                self._round_s = REMEMBERED * self._round_s + (1.0 - REMEMBERED) * took_s
                self._returns.parted_s = self._waited_part * self._round_s
            self.answered(left)
            left = [parcel for parcel in left if not parcel.answer.done()]
            self._has_come, self._came_s = True, loop.time()
            self._look()

        try:
            await carry(self._send, parcels, come)
        finally:
            self._has_come = True
            loop.call_soon(self._look)

    def _watch(self, parcels: Sequence[Parcel], task: asyncio.Task[None], left_s: float) -> None:
        """Begin each parcel's time; drop the request when the last who waited has given up."""
        loop = self._loop

        def given_up() -> None:
            if all(parcel.answer.done() for parcel in parcels):
                task.cancel()

        def late(timeout_s: float, held_s: float) -> None:
            until_s = min(self._came_s + timeout_s, left_s + held_s)
            if loop.time() < until_s:
                timers[timeout_s, held_s] = loop.call_at(until_s, late, timeout_s, held_s)
                return
            for parcel in parcels:
                if (parcel.timeout_s, parcel.held_s) == (timeout_s, held_s):
                    parcel.fail(PeerUnavailable(f"no answer within {loop.time() - left_s:.1f} s"))
            given_up()

        timers = {
            times_s: loop.call_at(left_s + times_s[0], late, *times_s)
            for times_s in {(parcel.timeout_s, parcel.held_s) for parcel in parcels}
        }
        left = len(parcels)

        def settled(size: int, answer: asyncio.Future[Answer]) -> None:
            nonlocal left
            left -= 1
            if not left:
                for timer in timers.values():
                    timer.cancel()
            self._awaited_bytes -= size
            self._look()
            if answer.cancelled():
                given_up()

        for parcel in parcels:
            parcel.on_its_way()
            self._awaited_bytes += parcel.most_bytes
            parcel.answer.add_done_callback(partial(settled, parcel.most_bytes))
