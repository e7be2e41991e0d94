"""How an expert comes back to a stream that went on without it.

While it was away others were weighed by tokens that it said nothing of. So before it is asked with
the others again it is weighed too: by what it says of a sample of those tokens, each before it is
sent that token. A round trip each, beside the stream's own.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from moesubnet.errors import PeerResting
from moesubnet.mixture.law import Law, law_of
from moesubnet.router.asking import Asking
from moesubnet.router.model import TokenIds
from moesubnet.router.weighing import Heard, Posterior
from moesubnet.types import Hotkey
from moesubnet.wire.panel_sequence import PanelSequence
from moesubnet.wire.protocol import StepResponse

SAMPLED_TOKENS = 3


@dataclass(frozen=True, slots=True)
class _Asked:
    """said: log-probabilities of tokens by position; none where it failed. since, sent: how much
    of the text it had been sent before, and has been now."""

    said: Mapping[int, float]
    since: int
    sent: int


class Returning:
    """Of one stream. baseline: the shape of tails."""

    def __init__(self, asking: Asking, sequence: PanelSequence, baseline: Law) -> None:
        self._asking, self._sequence, self._baseline = asking, sequence, baseline
        self._silent: set[Hotkey] = set()
        self._sent: dict[Hotkey, int] = {}  # how much of the text each was sent at most
        self._tasks: dict[Hotkey, asyncio.Task[_Asked]] = {}

    def fork(self, sequence: PanelSequence) -> Returning:
        """Of another stream that goes on from here; who is catching up with this one is missed."""
        other = Returning(self._asking, sequence, self._baseline)
        other._silent, other._sent = self._silent | self.away, dict(self._sent)
        return other

    def close(self) -> None:
        """Nobody is awaited any more."""
        for task in self._tasks.values():
            task.cancel()
        self._tasks.clear()

    @property
    def away(self) -> frozenset[Hotkey]:
        """Who is not asked with the others now."""
        return frozenset(self._tasks)

    @property
    def unsent(self) -> frozenset[Hotkey]:
        """Who will not be sent the next token with the others, as far as one can tell."""
        return self.away | self._silent

    def heard(self, asked: Sequence[Hotkey], heard: Heard) -> None:
        """Who answered a call, and how much of the text everybody has seen by now."""
        alive = dict(zip(self._asking.experts, heard.alive.tolist(), strict=False))
        self._silent = {hotkey for hotkey, is_alive in alive.items() if not is_alive}
        for hotkey in set(asked) - heard.unsent:
            self._sent[hotkey] = max(self._sent.get(hotkey, 0), len(self._sequence.ids))

    def welcome(self, posterior: Posterior, text_ids: TokenIds, but: frozenset[Hotkey]) -> None:
        """Take back who has been weighed, and begin to weigh who was silent. `text_ids` is what
        the text will be when the others are asked next. but: who is not missed."""
        for hotkey in [hotkey for hotkey, task in self._tasks.items() if task.done()]:
            asked = self._tasks.pop(hotkey).result()
            self._sent[hotkey] = asked.sent
            if asked.said:  # with the next call it is sent the rest
                posterior.catch_up(text_ids, hotkey, asked.said, asked.since)
                self._sequence.set_held(hotkey, asked.sent)
                self._silent.discard(hotkey)
            else:
                posterior.catch_up(text_ids[: asked.sent], hotkey, {}, asked.since)
        for hotkey in self._silent - but - self.away:
            missed = posterior.missed(hotkey, self._sent.get(hotkey, 0))
            if missed:
                sample = random.SystemRandom().sample(missed, min(len(missed), SAMPLED_TOKENS))
                self._tasks[hotkey] = asyncio.create_task(
                    self._ask(hotkey, text_ids, sorted(sample))
                )

    async def _ask(self, hotkey: Hotkey, text_ids: TokenIds, positions: Sequence[int]) -> _Asked:
        since = sent = self._sent.get(hotkey, 0)
        self._sequence.give_up([hotkey])
        apart = PanelSequence(self._sequence.session, text_ids)  # the same to the expert
        apart.set_held(hotkey, min(self._sequence.held_by(hotkey), since))
        said = {}
        for position in positions:
            apart.ids = text_ids[:position]
            answer = await self._asking.ask(apart, hotkey)
            if not isinstance(answer, PeerResting):
                sent = position
            if not isinstance(answer, StepResponse):
                return _Asked({}, since, sent)
            law = law_of(answer.rows[0], -1, self._baseline)
            said[position] = float(law.at(int(text_ids[position])))
        return _Asked(said, since, sent)
