"""Walks on their way: whom each still asks, what was sent, what is owed."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from moesubnet.mixture.choosing import BLIND_PROMPT_TOKENS
from moesubnet.mixture.gate import Gate
from moesubnet.mixture.law import Law, law_of
from moesubnet.mixture.sheet import LOG_Q_FLOOR, MAX_TOOK_100US, micro_nats
from moesubnet.types import Hotkey
from moesubnet.validator.choices import Answers, Scored, write
from moesubnet.validator.records import Batch, Step
from moesubnet.validator.weighed import Weighed, score_step
from moesubnet.wire.asked import Asked, PanelError
from moesubnet.wire.panel import Panel
from moesubnet.wire.panel_sequence import PanelSequence
from moesubnet.wire.protocol import Proof, StepResponse
from moesubnet.wire.relay import Relayed

CALLS_AT_ONCE = 512  # past all routers: as many as the HTTP session has connections
RELAYED_AT_ONCE = 1_024  # a round of so many is read well within anybody's patience
PATIENCE_S = 1.0  # at least, after the greater part of the weight: many walks share our one loop

_Answers = Sequence[Mapping[Hotkey, StepResponse | PanelError]]  # of each walk
Told = Callable[[str, npt.NDArray[np.uint32], Answers], None]  # session, all ids sent, answers

log = logging.getLogger(__name__)


class Slots:
    """How many walks may ask so many experts at once, whatever batch they are of."""

    def __init__(self, experts: int) -> None:
        self._direct, self._relayed = (
            asyncio.Semaphore(max(1, calls // experts))
            for calls in (CALLS_AT_ONCE, RELAYED_AT_ONCE)
        )

    def of(self, way: Mapping[Hotkey, Asked]) -> asyncio.Semaphore:
        """For the calls of a walk."""
        is_relayed = any(isinstance(asked, Relayed) and asked.sender for asked in way.values())
        return self._relayed if is_relayed else self._direct


class Walks:
    """Of one batch."""

    def __init__(
        self,
        panels: Sequence[Panel],
        batch: Batch,
        gate: Gate,
        baseline: Law,
        clients: Sequence[Mapping[Hotkey, Asked]],
        slots: Slots,
    ) -> None:
        self.first, self.end = batch.first, batch.walks.shape[1]
        self.answer_from = batch.first + gate.grain.units(BLIND_PROMPT_TOKENS)
        self.text = batch.walks[0]
        self.weighed: list[Weighed] = []  # once the prefix was answered
        self.there = [set(batch.hotkeys) for _ in batch.sessions]  # who has not dropped out
        self.errors: dict[Hotkey, PanelError] = {}  # each one's last
        self._panels, self._batch, self._clients, self._slots = panels, batch, clients, slots
        self._gate, self._baseline = gate, baseline
        self._sequences = [PanelSequence(session) for session in batch.sessions]
        self._sent = 0
        self._unshown: Step | None = None  # until leaves have shown what its labels were given
        self.scored_from = batch.first + batch.unscored
        self._scored = Scored.ALONE
        self._answers: Mapping[Hotkey, StepResponse | PanelError] = {}  # the last, of a lone walk
        self.other: asyncio.Task[None] | None = None  # a lone walk's other choice
        self.told: Told | None = None

    @property
    def go_on(self) -> bool:
        """Whether anybody is left to ask."""
        return any(self.there)

    def fork_as(self, scored: Scored) -> None:
        """Before anything is asked of a lone walk. Of a very short answer the first is scored."""
        is_short = self.end <= self.answer_from + 2
        self._scored = Scored.FIRST if is_short and scored == Scored.SECOND else scored
        if self._scored == Scored.SECOND:
            self._sequences = [PanelSequence(secrets.token_hex(16))]
            self.scored_from = max(self.scored_from, self.answer_from + 2)

    def _fork(self) -> None:
        """Both choices have the prompt, and next their first tokens."""
        is_second, first = self._scored == Scored.SECOND, self._sequences[0]
        second = first.fork(self._batch.sessions[0] if is_second else secrets.token_hex(16))
        mine, other = (second, first) if is_second else (first, second)
        self._sequences, worth, slot = [mine], self.weighed[0].worth(), self._slots

        async def ask(ids: npt.NDArray[np.uint32]) -> Answers:
            async with slot.of(self._clients[0] if self._clients else {}):
                return await self._panels[0].advance(
                    [other],
                    [ids],
                    members=self.there[0],
                    weights=worth,
                    least_patience_s=PATIENCE_S,
                )

        tokens, lots = self.end - self.answer_from - 1, np.random.default_rng(secrets.randbits(128))
        self.other = asyncio.create_task(
            write(self._answers, worth, tokens, self._baseline, ask, lots)
        )
        self.other.add_done_callback(_log_if_failed)

    async def ask(self, position: int, drafts: Sequence[int] = (), further: int = 0) -> _Answers:
        """All for their laws of `position`, and of what follows each draft. further: how many
        tokens the heaviest should go on with."""
        is_forking = self._scored != Scored.ALONE and self.other is None
        if is_forking and position == self.answer_from + 1:
            self._fork()
        drafted = np.array(drafts, np.uint32)
        ids = [np.append(walk[self._sent : position], drafted) for walk in self._batch.walks]
        answers = await asyncio.gather(
            *(self._advance(k, more, position, further) for k, more in enumerate(ids))
        )
        self._sent, self._answers = position + len(drafts), answers[0]
        if self.told is not None:
            sent = np.concatenate([self.text[:position], drafted])
            self.told(self._sequences[0].session, sent, answers[0])
        if not self.weighed:
            self.weighed = [
                Weighed(
                    self._gate,
                    walk[: self.first],
                    self._batch.hotkeys,
                    self.there[k].union(self._not_asked(k)),
                )
                for k, walk in enumerate(self._batch.walks)
            ]
        return answers

    def _not_asked(self, k: int) -> Collection[Hotkey]:
        """Whom a router could choose for the text, too, and this walk does not ask."""
        return self._clients[k].keys() - set(self._batch.hotkeys) if self._clients else ()

    async def _advance(
        self, k: int, ids: npt.NDArray[np.generic], first: int, further: int
    ) -> Mapping[Hotkey, StepResponse | PanelError]:
        async with self._slots.of(self._clients[k] if self._clients else {}):
            worth = self.weighed[k].worth() if self.weighed else None
            left = {h: weight for h, weight in (worth or {}).items() if h in self.there[k]}
            answers = await self._panels[k].advance(
                [self._sequences[k]],
                [ids],
                first=first,
                members=self.there[k],
                weights=worth,
                least_patience_s=PATIENCE_S,
                further={max(left, key=left.__getitem__): further} if left and further else {},
            )
            self.errors.update(await self._panels[k].reveal([self._sequences[k]]))
        failed = {h: a for h, a in answers.items() if not isinstance(a, StepResponse)}
        self.errors.update(failed)
        self.there[k] -= failed.keys()
        return answers

    async def score(self, position: int, answers: _Answers) -> list[Step]:
        """The step, unless leaves have to show first what its labels were given."""
        labels = self._batch.walks[:, position]
        given = _by_expert(answers, self._batch.hotkeys, self._baseline, self._clients)
        step = await asyncio.to_thread(
            score_step, self.weighed, position, labels, given[0], self._baseline, *given[1:]
        )
        pairs = zip(self._sequences, labels, strict=True)
        if any(sequence.unlisted(int(label)) for sequence, label in pairs):
            self._unshown = step
            return []
        return [step]

    def shown(self) -> list[Step]:
        """The step that leaves were owed of, with what they have shown, or that they have not."""
        step, self._unshown = self._unshown, None
        if step is None:
            return []
        return [_shown(step, self.weighed, self._batch.hotkeys, self._sequences)]

    async def shown_at_last(self) -> list[Step]:
        """The same at the end, where no request brings the last labels."""
        if self._unshown is not None:
            labels = self._batch.walks[:, self._sent]
            for sequence, label in zip(self._sequences, labels, strict=True):
                sequence.append([label])
            pairs = zip(self._panels, self._sequences, strict=True)
            for failed in await asyncio.gather(*(panel.reveal([s]) for panel, s in pairs)):
                self.errors.update(failed)
        return self.shown()

    def pass_over(self, position: int, end: int) -> None:
        """What was drafted, or stands in a draft's place, is no position of a lone walk."""
        self.weighed[0].show(self.text[position:end])

    def roll_back(self, length: int) -> None:
        """Of a lone walk, what follows a rejected draft was never there."""
        self._sent = length
        self._sequences[0].truncate(length)


def _shown(
    step: Step,
    weighed: Sequence[Weighed],
    hotkeys: Sequence[Hotkey],
    sequences: Sequence[PanelSequence],
) -> Step:
    """A step with what leaves have shown of its labels since, or that they have not. Amends
    `weighed`."""
    log_q = step.log_q.copy()
    for k, sequence in enumerate(sequences):
        for column, hotkey in enumerate(hotkeys):
            said = sequence.said(hotkey)
            if said is not None and said[0] == step.position:
                weighed[k].amend(hotkey, *said)
                log_q[k, column] = micro_nats(np.maximum(said[1], LOG_Q_FLOOR))
    return replace(step, log_q=log_q)


def _by_expert(
    answers: _Answers,
    hotkeys: Sequence[Hotkey],
    baseline: Law,
    clients: Sequence[Mapping[Hotkey, Asked]],
) -> tuple[
    list[list[Law | None]], list[list[Proof | None]], npt.NDArray[np.uint16], list[list[bytes]]
]:
    """What N walks' answers say: laws and proofs [n][N], took_100us [N, n], senders [N][n]."""
    laws = [[_last_law(answer.get(h), baseline) for answer in answers] for h in hotkeys]
    proofs = [[_proof(answer.get(h)) for answer in answers] for h in hotkeys]
    took = [[_took_100us(answer.get(h)) for h in hotkeys] for answer in answers]
    senders = [
        [_sender(answer.get(h), of_walk.get(h)) for h in hotkeys]
        for answer, of_walk in zip(answers, clients, strict=False)
    ]
    return laws, proofs, np.array(took, np.uint16), senders


def _last_law(answer: StepResponse | PanelError | None, baseline: Law) -> Law | None:
    """The law of the next token."""
    return law_of(answer.rows[0], -1, baseline) if isinstance(answer, StepResponse) else None


def _took_100us(answer: StepResponse | PanelError | None) -> int:
    took_s = answer.took_s if isinstance(answer, StepResponse) else None
    return 0 if took_s is None else min(MAX_TOOK_100US, max(1, round(took_s * 1e4)))


def _sender(answer: StepResponse | PanelError | None, client: Asked | None) -> bytes:
    """Whose hotkey asked: of a proven answer the one that it is signed for, though its router may
    have been left since, while a leaf was asked for; of none who asks now. Empty for our own."""
    proof, sender = _proof(answer), client.sender if isinstance(client, Relayed) else None
    return ((proof.sender if proof is not None else sender) or "").encode()


def _proof(answer: StepResponse | PanelError | None) -> Proof | None:
    return answer.proof if isinstance(answer, StepResponse) else None


def _log_if_failed(other: asyncio.Task[None]) -> None:
    if not other.cancelled() and (error := other.exception()) is not None:
        log.error("a walk's other choice failed", exc_info=error)
