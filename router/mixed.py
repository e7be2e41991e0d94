"""The mixture as a model: ask the chosen experts in lockstep, mix their laws, draft ahead.

A token that an expert has seen says nothing about how well it would have guessed it, so evidence
counts only for tokens whose law was returned before they were sent (docs/incentive.md). That is
why the last tokens of a prompt are sent one at a time, and what of drafted text counts is settled
by `moesubnet.mixture.drafting`.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping

import numpy as np

from moesubnet.errors import NobodyAnswers
from moesubnet.mixture.baseline import Unigram
from moesubnet.mixture.choosing import choose
from moesubnet.mixture.draft_length import Pace, entropy_nats
from moesubnet.mixture.drafting import Block
from moesubnet.mixture.gate import Gate
from moesubnet.router import asking
from moesubnet.router.drafting import Drafting
from moesubnet.router.experts import ExpertBook
from moesubnet.router.firsts import FirstAnswers
from moesubnet.router.model import ALONE, Drawing, Forecast, TokenIds
from moesubnet.router.openai_api import JsonObject
from moesubnet.router.student import StudentModel
from moesubnet.router.weighing import Heard, Posterior
from moesubnet.types import Hotkey
from moesubnet.units import u16_fraction
from moesubnet.wire.client import ExpertClient
from moesubnet.wire.panel import PanelSequence
from moesubnet.wire.patience import Paces
from moesubnet.wire.protocol import want_for

BLIND_PROMPT_TOKENS = 2  # one round trip each, after the first: three to the first token
MAX_ECHOED_TOKENS = 256  # whose laws are asked for at once
MAX_ECHOED_LOGS = 2**20  # where laws are of the whole vocabulary: 2 MB an answer
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
        self.vocab_size = vocab_size
        self.deadline_s = deadline_s
        self.top_k = top_k
        self.firsts = FirstAnswers()
        self.closing: set[asyncio.Task[None]] = set()  # held, or they could vanish half done
        self.paces = Paces()
        self.pace = Pace()  # of rounds that experts draft for
        self.student: StudentModel | None = None  # the last member in the baseline's place

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
    (`Posterior`), what is drafted (`Drafting`).

    The sequence is the text, then the drafts of a block that is not yet over.
    """

    _heard: Heard
    _forecast: Forecast

    def __init__(self, model: MixtureModel) -> None:
        self._model = model
        self._gate = model.gate()
        self._sequence = PanelSequence(secrets.token_hex(16), np.empty(0, np.uint32))
        self._forked = False
        self._prices: dict[Hotkey, int] = {}
        self._positions: dict[Hotkey, int] = {}  # answered, of the text as it now is
        self._in_vain: Counter[Hotkey] = Counter()  # answered, of drafts that were not kept
        base = model.baseline.law
        student = model.student.beside(base) if model.student else None
        self._drafting = Drafting(student, base, model.pace)
        self._block = Block()
        self.waited_s = 0.0

    async def start(self, prompt_ids: TokenIds, drawing: Drawing = ALONE) -> Forecast:
        self._choose_experts(prompt_ids, self._model.book.serving())
        split = max(0, len(prompt_ids) - BLIND_PROMPT_TOKENS)
        self.posterior.show(prompt_ids[:split])
        if split == len(prompt_ids):
            return await self._round(prompt_ids, drawing)
        await self.extend(prompt_ids[:split])
        for end in range(split + 1, len(prompt_ids) + 1):
            self.posterior.observe(prompt_ids[:end], self._heard, 1.0)
            await self._round(
                prompt_ids[end - 1 : end], drawing if end == len(prompt_ids) else ALONE
            )
        return self._forecast

    async def append(self, token_id: int, drawing: Drawing) -> Forecast:
        """A token that was drafted needs no round trip."""
        block, ids = self._block, np.array([token_id], np.uint32)
        draft, token_weight = block.draft, min(1.0, drawing.temperature)
        rejected = len(block.drafts) - block.kept
        text = self._sequence.ids[: len(self._sequence.ids) - rejected]
        is_kept = block.take(token_id)
        if draft is not None:
            missed = token_weight * entropy_nats(list(self._forecast.weights.values()))
            self._drafting.length.drafted(missed, kept=is_kept)
            self.posterior.show(ids, token_weight)
        else:
            self._drafting.length.counted()
            self.posterior.observe(np.append(text, ids), self._heard, token_weight)
        if is_kept:
            self._forecast = self.posterior.forecast(self._heard, block.kept, block.draft)
            return self._forecast
        self._reject(rejected)
        return await self._round(ids, drawing)

    async def echo(self, prompt_ids: TokenIds) -> AsyncIterator[Forecast]:
        """Members are weighed by their prior: a token that was sent says nothing of whom it was
        sent to."""
        self._choose_experts(prompt_ids, self._model.book.serving())
        size = max(1, min(MAX_ECHOED_TOKENS, MAX_ECHOED_LOGS // self._model.vocab_size))
        for start in range(0, max(len(prompt_ids), 1), size):
            ids = prompt_ids[start : start + size]
            self.posterior.show(ids)
            self.posterior.expose(prompt_ids[: start + size], len(ids))
            heard = await self.extend(ids, laws=len(ids) + (start == 0))
            # Of its own: experts may have been replaced on the way.
            prior = Posterior(self._gate, self._asking.experts, self._model.firsts)
            prior.show(prompt_ids[: start + (start > 0)])
            for position in range(len(heard.laws)):
                self._forecast = prior.forecast(heard, position)
                yield self._forecast
                at = start + (start > 0) + position
                prior.show(prompt_ids[at : at + 1])

    def fork(self) -> MixtureSession:
        """The experts go on from what they hold, under another name."""
        assert not self._block.drafts, "choices that share a draft would be alike"
        other = MixtureSession(self._model)
        other._gate, other._forked, other.waited_s = self._gate, True, self.waited_s
        other._sequence = self._sequence.fork(secrets.token_hex(16))
        other._asking, other.posterior = self._asking, self.posterior.fork()
        other._prices, other._heard = dict(self._prices), self._heard
        other._drafting, other._forecast = self._drafting.fork(), self._forecast
        return other

    def answered(self) -> Mapping[Hotkey, tuple[int, int]]:
        return {
            key: (count + self._in_vain[key], self._prices[key])
            for key, count in self._positions.items()
        }

    def close(self) -> None:
        """Tell the experts that a further choice is over. The first one's session is kept until it
        expires: the next turn of a chat begins with it."""
        self._drafting.close()
        if self._forked:
            task = asyncio.create_task(self._asking.close(self._sequence))
            self._model.closing.add(task)
            task.add_done_callback(self._model.closing.discard)

    async def extend(self, ids: TokenIds, *, laws: int = 1, further: int = 0) -> Heard:
        """Send ids, all in one call, and hear the laws of the last `laws` positions: 1 is that of
        the next token alone, len(ids) + 1 that of each of these ids too. What the posterior makes
        of them is the caller's (`Posterior.show`, `Posterior.observe`). further: how many tokens
        the heaviest expert should go on with.

        When every chosen expert stays silent the others take over. Raises NobodyAnswers.
        """
        silent: set[Hotkey] = set()
        whole = np.append(self._sequence.ids, ids)
        first = len(whole) + 1 - laws
        reading = self._drafting.begin(whole, first)
        for attempt in range(ATTEMPTS):
            since_s, worth = time.monotonic(), self.posterior.worth()
            heard = await self._asking.extend(
                self._sequence,
                ids,
                first,
                worth,
                lambda: self._drafting.bases(reading, laws),
                {max(worth, key=worth.__getitem__): further} if further else {},
            )
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
                self._choose_experts(whole[:first], others)
                self.posterior.show(whole[:first])
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
            base_s=model.deadline_s,
            want=model.want,
            paces=model.paces,
            report=model.book.report,
        )
        known = model.book.known()
        for hotkey in experts:
            self._prices.setdefault(hotkey, known[hotkey].card.price_rao_per_mtoken)

    async def _round(self, ids: TokenIds, drawing: Drawing) -> Forecast:
        """One round trip: send ids that the text goes on with, and a draft after them."""
        since_s = time.monotonic()
        drafts = await self._drafting.drafts(np.append(self._sequence.ids, ids), drawing)
        whole = np.append(ids, np.array([draft.token_id for draft in drafts], np.uint32))
        self.posterior.expose(np.append(self._sequence.ids, whole), len(drafts))
        further = self._drafting.further(drawing, len(drafts))
        heard = await self.extend(whole, laws=len(drafts) + 1, further=further)
        self._drafting.heard(self._sequence.ids, heard.further)
        self._drafting.took(len(drafts), time.monotonic() - since_s)
        self._block = Block(drafts)
        self._model.book.metrics.round_trip()
        self._forecast = self.posterior.forecast(self._heard, 0, self._block.draft)
        return self._forecast

    def _reject(self, drafts: int) -> None:
        """The text goes on otherwise than its last ids, a draft's, did."""
        self._model.book.metrics.drafted(self._block.kept, drafts)
        if not drafts:
            return
        self._drafting.lost(drafts)
        self._sequence.truncate(len(self._sequence.ids) - drafts)
        for hotkey, is_alive in zip(self._asking.experts, self._heard.alive, strict=False):
            if is_alive:
                self._in_vain[hotkey] += drafts
                self._positions[hotkey] -= drafts
