"""The mixture as a model: ask the chosen experts in lockstep, mix their laws token by token.

A token that an expert has seen says nothing about how well it would have guessed it, so evidence
counts only for tokens whose law was returned before they were sent (docs/incentive.md). That is
why the last tokens of a prompt are sent one at a time.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Mapping

import numpy as np

from moesubnet.errors import NobodyAnswers
from moesubnet.mixture.baseline import Unigram
from moesubnet.mixture.choosing import choose
from moesubnet.mixture.gate import Gate
from moesubnet.router import asking
from moesubnet.router.experts import ExpertBook
from moesubnet.router.firsts import FirstAnswers
from moesubnet.router.model import Forecast, TokenIds
from moesubnet.router.openai_api import JsonObject
from moesubnet.router.weighing import Heard, Posterior
from moesubnet.types import Hotkey
from moesubnet.units import u16_fraction
from moesubnet.wire.client import ExpertClient
from moesubnet.wire.panel import PanelSequence
from moesubnet.wire.patience import Paces
from moesubnet.wire.protocol import want_for

BLIND_PROMPT_TOKENS = 8
ATTEMPTS = 3  # when every expert fails at once, the fault may be ours or momentary


class MixtureModel:
    """Opens one session per stream over whoever serves at that moment."""

    def __init__(
        self,
        book: ExpertBook,
        gate: Callable[[], Gate],
        baseline: Unigram,
        *,
        vocab_size: int,
        deadline_s: float,
        top_k: int,
    ) -> None:
        self.book = book
        self.gate = gate
        self.baseline = baseline
        self.want = want_for(vocab_size)
        self.deadline_s = deadline_s
        self.top_k = top_k
        self.firsts = FirstAnswers()
        self.closing: set[asyncio.Task[None]] = set()  # held, or they could vanish half done
        self.paces = Paces()

    def open(self) -> MixtureSession:
        if not self.book.serving():
            raise NobodyAnswers("no expert serves this subnet's spec now")
        return MixtureSession(self)

    def dearest_rao_per_mtoken(self) -> int:
        known = self.book.known().values()
        prices = sorted((expert.card.price_rao_per_mtoken for expert in known), reverse=True)
        return sum(prices[: self.top_k])

    def table(self) -> list[JsonObject]:
        serving, weights = self.book.serving(), self.book.metrics.weight_by_expert()
        return [
            {
                "uid": expert.met.neuron.uid,
                "hotkey": hotkey,
                "name": expert.card.name,
                "axon": expert.met.client.axon.url,
                "serving": hotkey in serving and expert.failures == 0,
                "answers": expert.answers,
                "failures": expert.failures,
                "late": expert.late,
                "weight": weights.get(hotkey, 0.0),
                "incentive": u16_fraction(expert.met.neuron.incentive_u16),
                "price_rao_per_mtoken": expert.card.price_rao_per_mtoken,
            }
            for hotkey, expert in sorted(
                self.book.known().items(), key=lambda i: i[1].met.neuron.uid
            )
        ]


class MixtureSession:
    """One stream: who is asked (`choose`), how they are asked (`asking.Asking`), what each weighs
    (`Posterior`)."""

    def __init__(self, model: MixtureModel) -> None:
        self._model = model
        self._gate = model.gate()
        self._sequence = PanelSequence(secrets.token_hex(16), np.empty(0, np.uint32))
        self._forked = False
        self._prices: dict[Hotkey, int] = {}
        self._positions: dict[Hotkey, int] = {}  # answered
        self.waited_s = 0.0

    async def start(self, prompt_ids: TokenIds) -> Forecast:
        self._choose_experts(prompt_ids, self._model.book.serving())
        split = max(0, len(prompt_ids) - BLIND_PROMPT_TOKENS)
        seen, blind = prompt_ids[:split], prompt_ids[split:]
        self.posterior.show(seen)
        await self.extend(seen)
        for token_id in blind:
            await self._observe(int(token_id), token_weight=1.0)
        return self.posterior.forecast(self._heard)

    async def append(self, token_id: int, temperature: float) -> Forecast:
        await self._observe(token_id, token_weight=min(1.0, temperature))
        return self.posterior.forecast(self._heard)

    def fork(self) -> MixtureSession:
        """The experts go on from what they hold, under another name."""
        other = MixtureSession(self._model)
        other._gate, other._forked, other.waited_s = self._gate, True, self.waited_s
        other._sequence = self._sequence.fork(secrets.token_hex(16))
        other._asking, other.posterior = self._asking, self.posterior.fork()
        other._prices, other._heard = dict(self._prices), self._heard
        return other

    def answered(self) -> Mapping[Hotkey, tuple[int, int]]:
        return {key: (count, self._prices[key]) for key, count in self._positions.items()}

    def close(self) -> None:
        """Tell the experts that a further choice is over. The first one's session is kept until it
        expires: the next turn of a chat begins with it."""
        if self._forked:
            task = asyncio.create_task(self._asking.close(self._sequence))
            self._model.closing.add(task)
            task.add_done_callback(self._model.closing.discard)

    async def extend(self, ids: TokenIds, *, laws: int = 1) -> Heard:
        """Send ids, all in one call, and hear the laws of the last `laws` positions: 1 is that of
        the next token alone, len(ids) + 1 that of each of these ids too. What the posterior makes
        of them is the caller's (`Posterior.show`, `Posterior.observe`).

        When every chosen expert stays silent the others take over. Raises NobodyAnswers.
        """
        silent: set[Hotkey] = set()
        first = len(self._sequence.ids) + len(ids) + 1 - laws
        for attempt in range(ATTEMPTS):
            since_s = time.monotonic()
            heard = await self._asking.extend(self._sequence, ids, first, self.posterior.worth())
            self.waited_s += time.monotonic() - since_s
            self._heard = heard
            self.posterior.amend(self._sequence.ids, heard.said)
            for hotkey, is_alive in zip(self._asking.experts, heard.alive, strict=False):
                if is_alive:
                    self._positions[hotkey] = len(self._sequence.ids)
            if heard.alive[:-1].any():
                return heard
            ids = ids[:0]  # the sequence holds them now
            silent.update(self._asking.experts)
            serving = self._model.book.serving()
            if others := {key: client for key, client in serving.items() if key not in silent}:
                self._choose_experts(self._sequence.ids, others)
                self.posterior.show(self._sequence.ids)
            elif attempt < ATTEMPTS - 1:
                await asyncio.sleep(asking.REST_S * 2**attempt)
        raise NobodyAnswers("none of the experts answers")

    def _choose_experts(self, text_ids: TokenIds, clients: Mapping[Hotkey, ExpertClient]) -> None:
        """Begin a posterior over those whom the gate trusts with this text."""
        model = self._model
        experts = choose(self._gate, text_ids, clients, model.top_k)
        self.posterior = Posterior(self._gate, experts, model.firsts)
        self._asking = asking.Asking(
            {hotkey: clients[hotkey] for hotkey in experts},
            model.baseline.law,
            base_s=model.deadline_s,
            want=model.want,
            paces=model.paces,
            report=model.book.report,
        )
        known = model.book.known()
        for hotkey in experts:
            self._prices.setdefault(hotkey, known[hotkey].card.price_rao_per_mtoken)

    async def _observe(self, token_id: int, token_weight: float) -> None:
        """Weigh the members by how they would have guessed this token, then send it."""
        ids = np.array([token_id], np.uint32)
        text_ids = np.append(self._sequence.ids, ids)
        self.posterior.observe(text_ids, self._heard, token_weight)
        await self.extend(ids)
