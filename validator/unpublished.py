"""What experts are asked beside the sheet: private text that is used up and never published.

A prefix by two callers (`twice`), a text with drafts and without (`drafted`), and texts of an
expert's own, to be asked of all when it is like one that came later (`before`).
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from random import SystemRandom

from moesubnet.errors import PoolSpent
from moesubnet.types import Hotkey
from moesubnet.validator.asking import DEADLINE_S, Asking
from moesubnet.validator.before import Kept, beside_then, texts_to_ask
from moesubnet.validator.checkbook import Checkbook
from moesubnet.validator.company import Known
from moesubnet.validator.drafted import Heard, compare
from moesubnet.validator.pool import TextPool
from moesubnet.validator.records import Window
from moesubnet.validator.shapes import Shapes
from moesubnet.validator.state import State
from moesubnet.validator.twice import ask_twice
from moesubnet.validator.walks import Slots


@dataclass(frozen=True, slots=True)
class Round:
    """What is asked at one time, beside some walks. epoch: of their sheet. shapes: of users'
    texts. watched: as `cuckoos.watched` says. known: of experts. spread_s: within which it
    begins."""

    epoch: int
    hotkeys: Sequence[Hotkey]
    slots: Slots
    shapes: Shapes
    watched: Mapping[Hotkey, Sequence[int]]
    known: Known
    spread_s: float = 0.0

    def begin_s(self) -> float:
        return SystemRandom().uniform(0.0, self.spread_s)


class Unpublished:
    """book: where what comes of it is remembered. windows_sha256: under which text is used."""

    def __init__(
        self, asking: Asking, state: State, pool: TextPool, windows_sha256: str, book: Checkbook
    ) -> None:
        self._asking = asking
        self._state = state
        self._pool = pool
        self._windows_sha256 = windows_sha256
        self._book = book

    def questions(self, now: Round) -> list[Coroutine[None, None, None]]:
        """All that is to be asked, each when its time has come."""
        before, sha256, lots = self._book.before, self._windows_sha256, SystemRandom()
        placed = now.watched.keys() & self._asking.experts.clients.keys()
        lacking = before.lacking(placed, now.epoch, sha256, lots)
        again = texts_to_ask(before, {h: now.watched[h] for h in placed}, sha256, lots)
        return [
            self.ask_twice(now),
            self.ask_drafted(now),
            *(self._ask_alone(now, hotkey) for hotkey in lacking),
            *(self._ask_again(now, text) for text in again),
        ]

    async def ask_twice(self, now: Round) -> None:
        """One fresh prefix, by two callers."""
        await asyncio.sleep(now.begin_s())
        with contextlib.suppress(PoolSpent):
            window = self._text(now.shapes)
            await ask_twice(
                self._book,
                self._asking.two_ways(),
                window.ids[: window.first + window.unscored],
                epoch=now.epoch,
                windows_sha256=self._windows_sha256,
                vocab_size=self._asking.vocab_size,
                timeout_s=DEADLINE_S,
            )

    async def ask_drafted(self, now: Round) -> None:
        """One fresh text, walked by two callers at once, with drafts and without; as often as
        users' texts have them from their beginning on."""
        lots, ahead = SystemRandom(), now.shapes.going_on()
        if ahead is None or lots.random() >= ahead.first:
            return
        ahead = ahead._replace(first=1.0)
        await asyncio.sleep(now.begin_s())
        with contextlib.suppress(PoolSpent):
            text, ways = self._text(now.shapes), self._asking.two_ways()
            lots.shuffle(ways)
            drafted, blind = heard = Heard(), Heard()
            walks = zip(ways, (ahead, None), heard, strict=True)
            whom = self._asking.whom(now.known, now.hotkeys, text.ids[: text.first])
            asked = (self._asking.quietly(text, whom, now.slots, *walk) for walk in walks)
            await asyncio.gather(*asked)
            await compare(self._book, text.ids, drafted, blind, self._asking.vocab_size, lots)

    async def _ask_alone(self, now: Round, hotkey: Hotkey) -> None:
        """Past all routers: none of them may know the text when it is asked again."""
        await asyncio.sleep(now.begin_s())
        client = self._asking.experts.clients.get(hotkey)
        if client is None:
            return
        with contextlib.suppress(PoolSpent):
            window, way = self._text(now.shapes), {hotkey: client}
            steps = await self._asking.quietly(window, [hotkey], now.slots, way, ahead=None)
            kept = Kept.of(hotkey, now.epoch, window, steps)
            self._book.before.keep(kept, self._windows_sha256)

    async def _ask_again(self, now: Round, text: Kept) -> None:
        await asyncio.sleep(now.begin_s())
        gate, [way] = self._asking.gate, self._asking.ways(1)
        ahead = now.shapes.going_on()
        prefix = text.ids[: text.first]
        whom = self._asking.whom(now.known, now.hotkeys, prefix, text.hotkey)
        steps = await self._asking.quietly(text, whom, now.slots, way, ahead)
        found = await asyncio.to_thread(beside_then, text, whom, steps, gate, now.epoch)
        if found is not None:
            self._book.before.note(found)

    def _text(self, shapes: Shapes) -> Window:
        """Raises PoolSpent."""
        used, lots = self._state.used_starts(self._windows_sha256), SystemRandom()
        chats = [shapes.draw(1, lots)]
        conversing, seed = shapes.conversing(chats, lots), secrets.token_bytes(32)
        [[window]] = self._pool.draw_chats(chats, conversing, used, seed)
        spent = [(window.document, start) for start in window.starts]
        self._state.mark_used(spent, self._windows_sha256)
        return window
