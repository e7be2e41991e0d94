"""Measuring experts: one batch of walks, from fresh text to stored scores."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import AsyncGenerator, Collection, Coroutine, Mapping, Sequence
from dataclasses import replace
from random import SystemRandom
from typing import Protocol

import numpy as np

from moesubnet.errors import PeerError, PoolSpent
from moesubnet.mixture.baseline import Unigram
from moesubnet.mixture.gate import Gate
from moesubnet.mixture.gate_sync import GateSync
from moesubnet.mixture.sheet import LOG_Q_UNANSWERED, sheet_seed
from moesubnet.mixture.sheet_cache import walks_in_parts
from moesubnet.types import Hotkey, Metagraph, Neuron, Uid
from moesubnet.validator.before import Again, Kept, beside_then, texts_to_ask
from moesubnet.validator.checkbook import TABLES, Checkbook
from moesubnet.validator.checks import Claim, Verdict
from moesubnet.validator.choices import Scored
from moesubnet.validator.drafted import Heard, compare
from moesubnet.validator.pool import TextPool
from moesubnet.validator.probes import walk_batch
from moesubnet.validator.receipts import SALT_BYTES, session_name
from moesubnet.validator.records import Batch, Step, Window
from moesubnet.validator.serve import Metrics
from moesubnet.validator.shapes import Shapes
from moesubnet.validator.state import State
from moesubnet.validator.twice import ask_twice
from moesubnet.validator.walks import Slots, Told
from moesubnet.validator.watching import Watcher
from moesubnet.wire.panel import Asked, Panel
from moesubnet.wire.protocol import ExpertCard, want_for
from moesubnet.wire.relay import asks_directly, through
from moesubnet.wire.routers import Drawing
from moesubnet.wire.said import otherwise
from moesubnet.wire.usage import Usage

DEADLINE_S = 5.0  # for one expert's answer to one step of a walk, as a router's by default

log = logging.getLogger(__name__)


class Experts(Protocol):
    """Who can be asked: `wire.roster.Roster` over HTTP, or who stands in for it in an economy."""

    @property
    def clients(self) -> Mapping[Hotkey, Asked]: ...

    @property
    def cards(self) -> Mapping[Hotkey, ExpertCard]: ...

    async def refresh(self, metagraph: Metagraph) -> None:
        """Meet who is new on the metagraph, forget who left."""
        ...


class Measurement:
    """Draws text, walks experts through it and stores what they said."""

    def __init__(
        self,
        state: State,
        own_hotkey: Hotkey,
        pool: TextPool,
        tokenizer_sha256: str,
        baseline: Unigram,
        experts: Experts,
        gates: GateSync,
        metrics: Metrics,
        shapes: Shapes,
        routers: Drawing | None = None,
        book: Checkbook | None = None,
        watcher: Watcher | None = None,
    ) -> None:
        """shapes: of walks, as long as routers say nothing of users. routers: through whom walks
        go, while there are any. book: of prefixes asked twice. watcher: of others' sheets."""
        self._state = state
        self._own_hotkey = own_hotkey
        self._pool = pool
        self._tokenizer_sha256 = tokenizer_sha256
        self._baseline = baseline
        self._experts = experts
        self._gates = gates
        self._metrics = metrics
        self._shapes = self._as_users = shapes
        self._routers = routers
        self._book = book
        self._watcher = watcher
        self._watched_epoch = -1
        self._lies: dict[Hotkey, str | None] = {}  # on experts' cards, as they were told
        self._passed_over: set[bytes] = set()  # sheets, with their text
        self.contradicted: set[bytes] = set()  # sheets of others, as found in this epoch
        self._gate_epoch = self._sheet_epoch = -1
        self.watched: Mapping[Hotkey, Sequence[int]] = {}  # as `cuckoos.watched` says
        self._closing: set[asyncio.Task[None]] = set()  # held, or they could vanish half done
        self.usage: list[tuple[Usage, int]] = []  # by routers, of the epoch before; their stakes

    @property
    def gate(self) -> Gate:
        return self._gates.gate

    @property
    def vocab_size(self) -> int:
        return len(self._baseline.logp)

    async def open_batches(
        self, metagraph: Metagraph, walks: int, sheet_epoch: int | None = None
    ) -> list[Batch]:
        """Fresh text for the experts that serve now, walks of one shape in one batch; none while
        there are no experts. sheet_epoch: whose sheet they are for; the metagraph's by default.

        The first of an epoch fits the gate on what was revealed. Raises PoolSpent, ChainError.
        """
        self._sheet_epoch = metagraph.epoch_index if sheet_epoch is None else sheet_epoch
        if metagraph.epoch_index != self._gate_epoch:
            self._gates.grain = self._pool.grain
            if self._watcher is not None:
                await self._watcher.note_votes(metagraph.netuid)
            await self._gates.refresh(metagraph)
            await self._pass_over_known()
            self._gate_epoch = metagraph.epoch_index
            self._as_users = self._shapes.as_users(self.usage)
            self.usage = []
            self.contradicted = set()
        await self._experts.refresh(metagraph)
        self._metagraph = metagraph
        self._note_claims()
        if self._routers is not None:
            await self._routers.refresh(metagraph, self._experts.clients.keys())
        scored = {hotkey for hotkey, score in self._state.scores().items() if score > 0}
        known = scored | self._experts.clients.keys()
        hotkeys = sorted(known & metagraph.by_hotkey.keys())
        self._metrics.experts.set(len(hotkeys))
        if not hotkeys:
            return []
        started = self._state.walks_started(self._sheet_epoch)
        seed = sheet_seed(self._state.previous_sha256(), self._sheet_epoch)
        used = self._state.used_starts(self._tokenizer_sha256)
        lots = SystemRandom()
        chats = self._as_users.chats(self._as_users.draw(walks, lots), lots)
        conversing = self._as_users.conversing(chats, lots)
        seed += started.to_bytes(8, "little")
        batches = self._start(hotkeys, self._pool.draw_chats(chats, conversing, used, seed))
        self._metrics.walks.inc(sum(len(batch.walks) for batch in batches))
        used = self._state.used_starts(self._tokenizer_sha256)
        self._metrics.text_tokens_left.set(self._pool.free_windows(used) * self._pool.window)
        self._metrics.conversations_left.set(len(self._pool.conversations.free(used)))
        return batches

    def _start(self, hotkeys: Sequence[Hotkey], chats: Sequence[Sequence[Window]]) -> list[Batch]:
        """Chats of one turn and one shape are one batch; of others each turn is one."""

        def start(windows: Sequence[Window]) -> Batch:
            sha256, validator = self._tokenizer_sha256, self._own_hotkey
            epoch = self._sheet_epoch
            return self._state.start_batch(epoch, hotkeys, windows, sha256, validator=validator)

        alike: dict[tuple[int, int, int], list[Window]] = {}
        batches: list[Batch] = []
        for first, *later in chats:
            if not later:
                shape = first.first, len(first.ids), first.unscored
                alike.setdefault(shape, []).append(first)
                continue
            batches.append(start([first]))
            for window in later:
                batches.append(replace(start([window]), follows=batches[-1].id))
        return batches + [start(group) for group in alike.values()]

    def convicted(self) -> set[Hotkey]:
        """Who contradicts its own signed answers, for anybody to see."""
        return self._book.convicted() if self._book is not None else set()

    def show_verdicts(self) -> None:
        """In the metrics: how many experts each check calls what."""
        if self._book is None:
            return
        for check in TABLES:
            records = self._book.records(check).values()
            for verdict in Verdict:
                count = sum(record.verdict == verdict for record in records)
                self._metrics.verdicts.labels(check, verdict).set(count)

    def changed(self, epoch: int) -> set[Hotkey]:
        """Who is another expert in this epoch than it was before."""
        return self._book.changed_in(epoch) if self._book is not None else set()

    def again(self) -> list[Again]:
        """What seniors answered before others came, beside what these say."""
        return self._book.before.again() if self._book is not None else []

    def begins_anew(self, hotkeys: Collection[Hotkey]) -> None:
        """What they answered before was another's."""
        if self._book is not None:
            self._book.before.forget(hotkeys)

    def _note_claims(self) -> None:
        if self._book is not None:
            self._book.note_claims(
                {
                    hotkey: self._claim(self._metagraph.by_hotkey[hotkey], card)
                    for hotkey, card in self._experts.cards.items()
                }
            )

    def _claim(self, neuron: Neuron, card: ExpertCard) -> Claim:
        """An expert is open where the chain says so too."""
        lie = otherwise(card, neuron, self._metagraph)
        if lie != self._lies.get(neuron.hotkey):
            log.info("expert %s: %s", neuron.hotkey, lie or "its card and the chain agree")
        self._lies[neuron.hotkey] = lie
        url = card.weights_url if lie is None else None
        return Claim(self._sheet_epoch, card.model_commitment, url)

    async def _pass_over_known(self) -> None:
        """Text that was asked before, or stands in anybody's revealed sheet, is used: its labels
        are known, whoever has it a second time."""
        new = [i.sheet for i in self._gates.sheets if i.sheet.sha256 not in self._passed_over]
        self._passed_over = {item.sheet.sha256 for item in self._gates.sheets}
        found, parts = 0, walks_in_parts(new)
        while (published := await asyncio.to_thread(next, parts, None)) is not None:
            used = self._state.used_starts(self._tokenizer_sha256)
            again = await asyncio.to_thread(self._pool.repeats, used, published)
            self._state.mark_used(again, self._tokenizer_sha256)
            found += len(again)
        if found:
            log.warning("%d pieces of the private text are in it twice, or public", found)

    async def run(self, batches: Sequence[Batch], spread_s: float = 0.0) -> None:
        """Walk batches to their ends, until cancelled, or until their sheet is closed. They, and
        what is asked twice, begin within `spread_s`, when it comes: users do not come together.
        One that fails ends none of the others."""
        slots, lots = Slots(len(batches[0].hotkeys)), SystemRandom()
        chats: dict[int, list[Batch]] = {}  # by the last turn's batch
        for batch in batches:
            chats[batch.id] = [*(chats.pop(batch.follows, []) if batch.follows else []), batch]
        walking = [self._chat(chat, slots, spread_s) for chat in chats.values()]
        walking += self._ask_before(batches[0].hotkeys, slots, spread_s)
        walking += [self._ask_drafted(batches[0].hotkeys, slots, lots.uniform(0.0, spread_s))]
        twice = self._ask_twice(batches[0].sessions[0].encode(), lots.uniform(0.0, spread_s))
        *ends, asked_twice = await asyncio.gather(*walking, twice, return_exceptions=True)
        if failed := [end for end in ends if isinstance(end, Exception)]:
            log.error("%d of %d batches failed", len(failed), len(ends), exc_info=failed[0])
        if isinstance(asked_twice, Exception):
            raise asked_twice
        walks = sum(len(batch.walks) for batch in batches)
        log.info("walked walks=%d experts=%d", walks, len(batches[0].hotkeys))
        if self._routers is not None:
            self.usage = await self._routers.usage(self._metagraph.netuid, self._gate_epoch - 1)
        await self._watch()

    async def _chat(self, turns: Sequence[Batch], slots: Slots, spread_s: float) -> None:
        """One turn after the other, all through one router, with people's pauses."""
        ways: list[Mapping[Hotkey, Asked]] = []
        waits_s = self._as_users.waits_s(len(turns), spread_s, SystemRandom())
        for batch, wait_s in zip(turns, waits_s, strict=True):
            await asyncio.sleep(wait_s)
            ways = ways or self._ways(len(batch.walks))
            await self._walk(batch, slots, ways)

    async def _walk(
        self, batch: Batch, slots: Slots, ways: Sequence[Mapping[Hotkey, Asked]]
    ) -> None:
        """Each position is stored while its labels are on their way, and on disk before the next
        ones are sent: a disk takes as long as a way to another city, and users' texts wait for
        none. (Where a leaf has to show what a label was given, it comes right after.)"""
        lots = SystemRandom()
        ahead = self._as_users.draw_ahead(lots, batch.walks.shape[1] - batch.first)
        scored = self._as_users.draw_choice(lots)
        steps = self._steps(batch, slots, ways, ahead, scored)
        storing: asyncio.Task[bool] | None = None
        try:
            async with contextlib.aclosing(steps):
                async for step in steps:
                    if storing is not None and not await storing:
                        break
                    storing = asyncio.create_task(self._store(batch, step))
            if storing is not None:
                await storing
        finally:
            if storing is not None:  # whoever ends a walk may count what it has
                await asyncio.wait([storing])
            self._forget(batch, ways)

    async def _store(self, batch: Batch, step: Step) -> bool:
        """False: the sheet that it is for was closed."""
        is_stored = await self._state.apart(self._state.add_step, batch, step)
        if is_stored:
            silent = int(np.sum(step.log_q == LOG_Q_UNANSWERED))
            self._metrics.answers.labels("missing").inc(silent)
            self._metrics.answers.labels("valid").inc(step.log_q[:, :-1].size - silent)
        return is_stored

    def _steps(
        self,
        batch: Batch,
        slots: Slots,
        ways: Sequence[Mapping[Hotkey, Asked]],
        ahead: int,
        scored: Scored = Scored.ALONE,
        told: Told | None = None,
    ) -> AsyncGenerator[Step, None]:
        want = want_for(self.vocab_size)
        panels = [Panel(way, base_s=DEADLINE_S, want=want) for way in ways]
        law = self._baseline.law
        return walk_batch(panels, batch, self.gate, law, ways, slots, ahead, scored, told)

    def _forget(self, batch: Batch, ways: Sequence[Mapping[Hotkey, Asked]]) -> None:
        """Tell each expert, in one call and waiting for none, that these walks are over. Not those
        through routers: their sessions are the routers', and we would be naming the probes."""

        async def tell(client: Asked, sessions: Sequence[str]) -> None:
            with contextlib.suppress(PeerError):
                await client.close_sessions(sessions, timeout_s=DEADLINE_S)

        for hotkey in batch.hotkeys:
            asked = zip(batch.sessions, ways, strict=True)
            ours = [name for name, way in asked if asks_directly(way.get(hotkey))]
            client = self._experts.clients.get(hotkey)
            if client is not None and ours:
                task = asyncio.create_task(tell(client, ours))
                self._closing.add(task)
                task.add_done_callback(self._closing.discard)

    async def _watch(self) -> None:
        """Once an epoch, when its first walks are done: nothing waits for an audit."""
        if self._watcher is not None and self._watched_epoch != self._gate_epoch:
            self._watched_epoch = self._gate_epoch
            self.contradicted = await self._watcher.contradicted(
                self._gates.sheets, self._metagraph, self._baseline.law, self._gates.silenced
            )

    def vouched(self, metagraph: Metagraph) -> set[Uid]:
        """Of the validators that are vouched for now."""
        hotkeys = set() if self._watcher is None else self._watcher.vouched(metagraph.epoch_index)
        return {neuron.uid for neuron in metagraph.neurons if neuron.hotkey in hotkeys}

    def _ways(self, count: int) -> list[Mapping[Hotkey, Asked]]:
        """To all experts, one for each walk."""
        experts, lots = self._experts.clients, SystemRandom()
        if self._routers is None:
            return [experts] * count
        return [through(experts, self._routers.draw(lots)) for _ in range(count)]

    async def _ask_twice(self, seed: bytes, after_s: float) -> None:
        """One fresh prefix, by two callers; its text is used up and never published."""
        if self._book is None:
            return
        await asyncio.sleep(after_s)
        with contextlib.suppress(PoolSpent):
            window = self._private_text(seed)
            await ask_twice(
                self._book,
                self._two_ways(),
                window.ids[: window.first + window.unscored],
                epoch=self._sheet_epoch,
                windows_sha256=self._tokenizer_sha256,
                vocab_size=self.vocab_size,
                timeout_s=DEADLINE_S,
            )

    async def _ask_drafted(self, hotkeys: Sequence[Hotkey], slots: Slots, after_s: float) -> None:
        """One fresh text, walked by two callers at once, with drafts and without; as often as
        users' texts have drafts."""
        lots = SystemRandom()
        ahead = self._as_users.draw_ahead(lots)
        if self._book is None or not ahead:
            return
        await asyncio.sleep(after_s)
        with contextlib.suppress(PoolSpent):
            text, ways = self._private_text(secrets.token_bytes(32)), self._two_ways()
            lots.shuffle(ways)
            drafted, blind = heard = Heard(), Heard()
            walks = zip(ways, (ahead, 0), heard, strict=True)
            await asyncio.gather(*(self._quietly(text, hotkeys, slots, *walk) for walk in walks))
            await compare(self._book, text.ids, drafted, blind, self.vocab_size, lots)

    def _private_text(self, seed: bytes) -> Window:
        """Never published. Raises PoolSpent."""
        used, lots = self._state.used_starts(self._tokenizer_sha256), SystemRandom()
        chats = [self._as_users.draw(1, lots)]
        conversing = self._as_users.conversing(chats, lots)
        [[window]] = self._pool.draw_chats(chats, conversing, used, seed)
        spent = [(window.document, start) for start in window.starts]
        self._state.mark_used(spent, self._tokenizer_sha256)
        return window

    def _ask_before(
        self, hotkeys: Sequence[Hotkey], slots: Slots, spread_s: float
    ) -> list[Coroutine[None, None, None]]:
        """Texts of their own for those with a place, and such texts once more, of all."""
        if self._book is None:
            return []
        before, sha256, lots = self._book.before, self._tokenizer_sha256, SystemRandom()
        placed = self.watched.keys() & self._experts.clients.keys()
        lacking = before.lacking(placed, self._sheet_epoch, sha256, lots)
        again = texts_to_ask(before, {h: self.watched[h] for h in placed}, sha256, lots)
        return [
            *(self._ask_alone(hotkey, slots, lots.uniform(0.0, spread_s)) for hotkey in lacking),
            *(self._ask_again(text, hotkeys, slots, lots.uniform(0.0, spread_s)) for text in again),
        ]

    async def _ask_alone(self, hotkey: Hotkey, slots: Slots, after_s: float) -> None:
        """Past all routers: none of them may know the text when it is asked again."""
        assert self._book is not None
        await asyncio.sleep(after_s)
        epoch, sha256 = self._sheet_epoch, self._tokenizer_sha256
        client = self._experts.clients.get(hotkey)
        if client is None:
            return
        with contextlib.suppress(PoolSpent):
            window = self._private_text(secrets.token_bytes(32))
            way = {hotkey: client}
            steps = await self._quietly(window, [hotkey], slots, way, ahead=0)
            self._book.before.keep(Kept.of(hotkey, epoch, window, steps), sha256)

    async def _ask_again(
        self, text: Kept, hotkeys: Sequence[Hotkey], slots: Slots, after_s: float
    ) -> None:
        assert self._book is not None
        await asyncio.sleep(after_s)
        epoch, gate, [way] = self._sheet_epoch, self.gate, self._ways(1)
        ahead = self._as_users.draw_ahead(SystemRandom(), len(text.ids) - text.first)
        steps = await self._quietly(text, hotkeys, slots, way, ahead)
        found = await asyncio.to_thread(beside_then, text, hotkeys, steps, gate, epoch)
        if found is not None:
            self._book.before.note(found)

    async def _quietly(
        self,
        text: Window | Kept,
        hotkeys: Sequence[Hotkey],
        slots: Slots,
        way: Mapping[Hotkey, Asked],
        ahead: int,
        told: Told | None = None,
    ) -> list[Step]:
        """A walk as all others, that is in no sheet. ahead: tokens that are drafted at most."""
        session = session_name(self._own_hotkey, secrets.token_bytes(SALT_BYTES))
        walks, unscored = text.ids[None], text.unscored
        batch = Batch(-1, tuple(hotkeys), walks, text.first, (session,), (), unscored=unscored)
        steps = self._steps(batch, slots, [way], ahead, told=told)
        try:
            async with contextlib.aclosing(steps):
                return [step async for step in steps]
        finally:
            self._forget(batch, [way])

    def _two_ways(self) -> list[Mapping[Hotkey, Asked]]:
        """By two senders, ourselves among them where there is one router only."""
        relays = self._routers.draw(SystemRandom()) if self._routers is not None else []
        experts = self._experts.clients
        return [through(experts, relays[:1]), through(experts, relays[1:])]
