"""Measuring experts: one batch of walks, from fresh text to stored scores."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from random import SystemRandom

import numpy as np

from moesubnet.mixture.baseline import Unigram
from moesubnet.mixture.gate import Gate
from moesubnet.mixture.gate_sync import GateSync
from moesubnet.mixture.sheet import LOG_Q_UNANSWERED, sheet_seed
from moesubnet.mixture.sheet_cache import walks_in_parts
from moesubnet.types import Hotkey, Metagraph, Neuron, Uid
from moesubnet.validator.asking import Asking, Experts
from moesubnet.validator.before import Again
from moesubnet.validator.checkbook import TABLES, Checkbook
from moesubnet.validator.checks import Claim, Verdict
from moesubnet.validator.company import Known
from moesubnet.validator.pool import TextPool
from moesubnet.validator.records import Batch, Step, Window
from moesubnet.validator.serve import Metrics
from moesubnet.validator.shapes import Shapes
from moesubnet.validator.state import State
from moesubnet.validator.unpublished import Round, Unpublished
from moesubnet.validator.walks import Slots
from moesubnet.validator.watching import Watcher
from moesubnet.wire.asked import Asked
from moesubnet.wire.protocol import ExpertCard
from moesubnet.wire.routers import Drawing
from moesubnet.wire.said import otherwise
from moesubnet.wire.usage import Usage

log = logging.getLogger(__name__)


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
        self._asking = Asking(own_hotkey, baseline, experts, gates, routers)
        self._beside = None
        if book is not None:
            self._beside = Unpublished(self._asking, state, pool, tokenizer_sha256, book)
        self._watcher = watcher
        self._watched_epoch = -1
        self._lies: dict[Hotkey, str | None] = {}  # on experts' cards, as they were told
        self._passed_over: set[bytes] = set()  # sheets, with their text
        self.contradicted: set[bytes] = set()  # sheets of others, as found in this epoch
        self._gate_epoch = self._sheet_epoch = -1
        self.watched: Mapping[Hotkey, Sequence[int]] = {}  # as `cuckoos.watched` says
        self.known = Known()  # by our newest sheets
        self.usage: list[tuple[Usage, int]] = []  # by routers, of the epoch before; their stakes

    @property
    def gate(self) -> Gate:
        return self._asking.gate

    @property
    def vocab_size(self) -> int:
        return self._asking.vocab_size

    async def open_batches(
        self, metagraph: Metagraph, walks: int, sheet_epoch: int | None = None
    ) -> list[Batch]:
        """Fresh text for the experts that serve now, walks of one shape and company in one batch;
        none while there are no experts. sheet_epoch: whose sheet they are for; the metagraph's by
        default.

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
        """Chats of one turn, one shape and one company are one batch; of others each turn is
        one."""

        def whom(window: Window) -> tuple[Hotkey, ...]:
            return self._asking.whom(self.known, hotkeys, window.ids[: window.first])

        def start(windows: Sequence[Window], asked: Sequence[Hotkey]) -> Batch:
            sha256, validator = self._tokenizer_sha256, self._own_hotkey
            epoch = self._sheet_epoch
            return self._state.start_batch(epoch, asked, windows, sha256, validator=validator)

        alike: dict[tuple[tuple[Hotkey, ...], int, int, int], list[Window]] = {}
        batches: list[Batch] = []
        for first, *later in chats:
            if not later:
                kind = whom(first), first.first, len(first.ids), first.unscored
                alike.setdefault(kind, []).append(first)
                continue
            batches.append(start([first], whom(first)))
            for window in later:
                turn = start([window], whom(window))
                batches.append(replace(turn, follows=batches[-1].id))
        return batches + [start(group, asked) for (asked, *_), group in alike.items()]

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
        what is asked beside them, begin within `spread_s`, when it comes: users do not come
        together. One that fails ends none of the others."""
        asked = {hotkey for batch in batches for hotkey in batch.hotkeys}
        hotkeys = sorted(asked | self._experts.clients.keys())
        slots = Slots(max(len(batch.hotkeys) for batch in batches))
        chats: dict[int, list[Batch]] = {}  # by the last turn's batch
        for batch in batches:
            chats[batch.id] = [*(chats.pop(batch.follows, []) if batch.follows else []), batch]
        walking = [self._chat(chat, slots, spread_s) for chat in chats.values()]
        if self._beside is not None:
            walking += self._beside.questions(self.round(hotkeys, slots, spread_s))
        ends = await asyncio.gather(*walking, return_exceptions=True)
        if failed := [end for end in ends if isinstance(end, Exception)]:
            log.error(
                "%d of %d batches failed",
                len(failed),
                len(ends),
                exc_info=failed[0],
            )
        walks = sum(len(batch.walks) for batch in batches)
        log.info("walked walks=%d experts=%d", walks, len(hotkeys))
        if self._routers is not None:
            self.usage = await self._routers.usage(self._metagraph.netuid, self._gate_epoch - 1)
        await self._watch()

    def round(self, hotkeys: Sequence[Hotkey], slots: Slots, spread_s: float = 0.0) -> Round:
        """Of questions beside the sheet that is under way."""
        shapes, watched = self._as_users, self.watched
        return Round(self._sheet_epoch, hotkeys, slots, shapes, watched, self.known, spread_s)

    async def _chat(self, turns: Sequence[Batch], slots: Slots, spread_s: float) -> None:
        """One turn after the other, all through one router, with people's pauses."""
        ways: list[Mapping[Hotkey, Asked]] = []
        waits_s = self._as_users.waits_s(len(turns), spread_s, SystemRandom())
        for batch, wait_s in zip(turns, waits_s, strict=True):
            await asyncio.sleep(wait_s)
            ways = ways or self._asking.ways(len(batch.walks))
            await self._walk(batch, slots, ways)

    async def _walk(
        self, batch: Batch, slots: Slots, ways: Sequence[Mapping[Hotkey, Asked]]
    ) -> None:
        """Each position is stored while its labels are on their way, and on disk before the next
        ones are sent: a disk takes as long as a way to another city, and users' texts wait for
        none. (Where a leaf has to show what a label was given, it comes right after.)"""
        shapes = self._as_users
        ahead, scored = shapes.going_on(), shapes.draw_choice(SystemRandom())
        steps = self._asking.steps(batch, slots, ways, ahead, scored)
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
            self._asking.forget(batch, ways)

    async def _store(self, batch: Batch, step: Step) -> bool:
        """False: the sheet that it is for was closed."""
        is_stored = await self._state.apart(self._state.add_step, batch, step)
        if is_stored:
            silent = int(np.sum(step.log_q == LOG_Q_UNANSWERED))
            self._metrics.answers.labels("missing").inc(silent)
            self._metrics.answers.labels("valid").inc(step.log_q[:, :-1].size - silent)
        return is_stored

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
