"""Prompts that one expert was sent and has not answered: what is before one is not its fault.

Nobody is asked how long a queue is, nor believed: we know what we sent. All times are the event
loop's.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from math import inf
from typing import Protocol, TypeVar

from moesubnet.errors import PeerRefused, PeerUnavailable
from moesubnet.wire.patience import TOKEN_S

HELD_S = 30.0  # so long who is slow is waited for while it gets on, and others could answer

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Send(Protocol[T_co]):
    """`asked.Asked.step`, of one request."""

    def __call__(self, *, timeout_s: float, on_its_way: Callable[[], None]) -> Awaitable[T_co]: ...


@dataclass(slots=True, eq=False)
class _Place:
    tokens: int
    alone_s: float  # what it may take where nothing else is there
    limit: asyncio.Timeout
    passed: int = 0  # tokens of what came later that may be read between its own
    last_s: float = inf  # whatever is done


class Line:
    """One expert's prompts, in the order in which they left.

    Each may take as long as all that are there together, and that anew when one before it is done.
    So who is slow is waited for while it gets on; who is frozen is not, nor who answers only what
    came later: of that no more is granted than it has tokens itself.
    """

    def __init__(self) -> None:
        self._places: list[_Place] = []
        self._refused: deque[asyncio.Future[None]] = deque()

    async def send(
        self,
        send: Send[T],
        tokens: int,
        *,
        alone_s: float,
        most_s: float,
        on_its_way: Callable[[], None],
    ) -> T:
        """Raises what `send` raises; PeerUnavailable when it is late, at the latest `most_s` (or
        `alone_s`) after it left. One that is refused (429) while others are there is sent again
        when one of them is done."""
        most_s = max(alone_s, most_s)
        try:
            async with asyncio.timeout(None) as limit:
                place = _Place(tokens, alone_s, limit)

                def leave() -> None:
                    self._enter(place, most_s)
                    on_its_way()

                try:
                    while True:
                        try:
                            return await send(timeout_s=most_s, on_its_way=leave)
                        except PeerRefused as error:
                            if place in self._places:
                                self._places.remove(place)
                            if error.status != 429 or not self._places:
                                raise
                        await self._room()
                finally:
                    self._done(place, gets_on=not limit.expired())
        except TimeoutError:
            raise PeerUnavailable("no answer, and none to what was sent before") from None

    def beside_s(self, alone_s: float) -> float:
        """How long a step may take, as some of these may be read before it."""
        if not self._places:
            return alone_s
        return max(alone_s, min(alone_s + TOKEN_S * self._tokens(), HELD_S))

    def _tokens(self) -> int:
        return sum(place.tokens for place in self._places)

    def _enter(self, place: _Place, most_s: float) -> None:
        now_s = asyncio.get_running_loop().time()
        self._places.append(place)
        place.last_s = min(place.last_s, now_s + most_s)
        self._renew(place, now_s)
        for other in self._places[:-1]:
            passing = min(place.tokens, other.tokens - other.passed)
            other.passed += passing
            if passing and not other.limit.expired():
                until_s = (other.limit.when() or 0.0) + TOKEN_S * passing
                other.limit.reschedule(min(until_s, other.last_s))

    def _done(self, place: _Place, *, gets_on: bool) -> None:
        """gets_on: whether it is not for the expert's silence."""
        if place in self._places:
            at = self._places.index(place)
            del self._places[at]
            for behind in self._places[at:] if gets_on else ():
                self._renew(behind, asyncio.get_running_loop().time())
        while self._refused and self._refused[0].done():
            self._refused.popleft()
        if self._refused:
            self._refused.popleft().set_result(None)

    def _renew(self, place: _Place, now_s: float) -> None:
        others = self._tokens() - place.tokens
        if not place.limit.expired():
            until_s = now_s + place.alone_s + TOKEN_S * others
            place.limit.reschedule(min(until_s, place.last_s))

    async def _room(self) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._refused.append(turn)
        await turn
