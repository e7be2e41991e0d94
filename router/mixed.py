"""The mixture as a model: ask the chosen experts in lockstep, mix their laws token by token.

A token that an expert has seen says nothing about how well it would have guessed it, so evidence
counts only for tokens whose law was returned before they were sent (docs/incentive.md). That is
why the last tokens of a prompt are sent one at a time.
"""

from __future__ import annotations

import asyncio
import copy
import hashlib
import secrets
import time
from collections.abc import Callable, Collection, Mapping

import numpy as np
from numpy.typing import NDArray

from moesubnet.mixture.baseline import Unigram
from moesubnet.mixture.gate import NEWCOMER, Gate, initial_features, update_features
from moesubnet.mixture.law import law_of, mix
from moesubnet.mixture.mixing import Walk, log_sum_exp, members_of
from moesubnet.router.experts import ExpertBook
from moesubnet.router.firsts import FirstAnswers
from moesubnet.router.model import Forecast, TokenIds
from moesubnet.router.openai_api import ApiError, JsonObject
from moesubnet.types import Hotkey
from moesubnet.units import u16_fraction
from moesubnet.wire.client import ExpertClient
from moesubnet.wire.panel import Panel, PanelError, PanelSequence
from moesubnet.wire.patience import Paces
from moesubnet.wire.protocol import StepResponse, base_hash, want_for

BLIND_PROMPT_TOKENS = 8
CHOSEN_MASS = 0.95
REST_S = 1.0  # an expert that failed is left alone so long, doubling while it fails
ATTEMPTS = 3  # when every expert fails at once, the fault may be ours or momentary


def choose(gate: Gate, text_ids: TokenIds, serving: Collection[Hotkey], top_k: int) -> list[Hotkey]:
    """Whom to ask about a text, sorted: the experts that hold most of the prior, and a few others.

    The smallest set with 95 % of the mass, at most `top_k`, one hotkey of each cluster of clones:
    its leader, if that serves. Of the places left a quarter of `top_k` goes to hotkeys that no
    sheet has measured yet, of which only this very text can tell, and to clones, in case the
    leader serves validators only. They come by a lot that the text draws, so no hotkey can be
    made to come first.
    """
    salt = base_hash(text_ids)
    lots = {hotkey: hashlib.sha256(salt + hotkey.encode()).digest() for hotkey in serving}
    drawn = sorted(serving, key=lots.__getitem__)
    heads: dict[int, Hotkey] = {}
    for hotkey, cluster in zip(drawn, gate.clusters(drawn).tolist(), strict=True):
        if cluster != NEWCOMER and (cluster not in heads or gate.hotkeys[cluster] == hotkey):
            heads[cluster] = hotkey
    measured = list(heads.values()) or drawn
    features = update_features(initial_features(), text_ids)
    log_prior = gate.log_prior(features, members_of(measured))[:-1]
    share = dict(zip(sorted(measured), np.exp(log_prior - log_sum_exp(log_prior)), strict=True))
    ranked = sorted(measured, key=lambda hotkey: (-share[hotkey], lots[hotkey]))
    enough = np.searchsorted(np.cumsum([share[hotkey] for hotkey in ranked]), CHOSEN_MASS) + 1
    others = [hotkey for hotkey in drawn if hotkey not in measured][: max(1, top_k // 4)]
    return sorted((ranked[:enough] + others)[:top_k])


def unavailable() -> ApiError:
    return ApiError(
        503,
        "No expert can answer right now. Please retry shortly.",
        kind="server_error",
        code="no_expert_available",
        retry_after_s=5.0,
    )


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
            raise unavailable()
        return MixtureSession(self)

    def dearest_rao_per_mtoken(self) -> int:
        known = self.book.known().values()
        prices = sorted((expert.card.price_rao_per_mtoken for expert in known), reverse=True)
        return sum(prices[: self.top_k])

    def table(self) -> list[JsonObject]:
        serving, weights = self.book.serving(), self.book.metrics.weight_by_expert()
        return [
            {
                "uid": expert.uid,
                "hotkey": hotkey,
                "name": expert.card.name,
                "axon": expert.axon.url,
                "serving": hotkey in serving and expert.failures == 0,
                "answers": expert.answers,
                "failures": expert.failures,
                "late": expert.late,
                "weight": weights.get(hotkey, 0.0),
                "incentive": u16_fraction(expert.incentive_u16),
                "price_rao_per_mtoken": expert.card.price_rao_per_mtoken,
            }
            for hotkey, expert in sorted(self.book.known().items(), key=lambda i: i[1].uid)
        ]


class MixtureSession:
    """One stream. Members are the chosen experts in hotkey order, then the baseline."""

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
        self._walk.show(seen[None, :])
        await self._advance(seen)
        for token_id in blind:
            await self._observe(int(token_id), token_weight=1.0)
        return self._forecast()

    async def append(self, token_id: int, temperature: float) -> Forecast:
        await self._observe(token_id, token_weight=min(1.0, temperature))
        return self._forecast()

    def fork(self) -> MixtureSession:
        """The experts go on from what they hold, under another name."""
        other = copy.copy(self)
        other._sequence = self._sequence.fork(secrets.token_hex(16))
        other._forked = True
        other._walk = copy.copy(self._walk)
        other._prices, other._positions = dict(self._prices), {}
        other._alive, other._laws = self._alive.copy(), self._laws.copy()
        other._first, other._said = {}, {}
        return other

    def answered(self) -> Mapping[Hotkey, tuple[int, int]]:
        return {key: (count, self._prices[key]) for key, count in self._positions.items()}

    def close(self) -> None:
        """Tell the experts that a further choice is over. The first one's session is kept until it
        expires: the next turn of a chat begins with it."""
        if self._forked:
            task = asyncio.create_task(self._panel.close([self._sequence]))
            self._model.closing.add(task)
            task.add_done_callback(self._model.closing.discard)

    def _choose_experts(self, text_ids: TokenIds, clients: Mapping[Hotkey, ExpertClient]) -> None:
        """Begin a posterior over those whom the gate trusts with this text."""
        self._experts = choose(self._gate, text_ids, clients, self._model.top_k)
        self._walk = Walk(self._gate, members_of(self._experts))
        self._panel = Panel(
            {hotkey: clients[hotkey] for hotkey in self._experts},
            base_s=self._model.deadline_s,
            want=self._model.want,
            rest_s=REST_S,
            paces=self._model.paces,
        )
        known = self._model.book.known()
        for hotkey in self._experts:
            self._prices.setdefault(hotkey, known[hotkey].card.price_rao_per_mtoken)
        members = len(self._experts) + 1
        self._alive = np.ones(members, bool)  # the baseline, last, always is
        self._laws = [self._model.baseline.law] * members
        self._first: dict[int, NDArray[np.bool_]] = {}  # by position: of whom its law counted
        self._said: dict[Hotkey, tuple[int, float]] = {}  # what was last amended

    async def _observe(self, token_id: int, token_weight: float) -> None:
        """Weigh the members by how they would have guessed this token, then send it."""
        append_ids = np.array([token_id], np.uint32)
        log_p, blind, first = self._model.firsts.settle(
            np.append(self._sequence.ids, append_ids),
            self._walk.members,
            np.array([law.at(token_id) for law in self._laws]),
            self._alive,
        )
        self._walk.observe(append_ids, log_p[None], blind=blind, token_weight=token_weight)
        self._first[len(self._sequence.ids)] = first
        await self._advance(append_ids)

    async def _advance(self, append_ids: TokenIds) -> None:
        """Send ids, collect laws. When every chosen expert stays silent the others take over.

        Raises ApiError 503 when nobody answers.
        """
        silent: set[Hotkey] = set()
        for attempt in range(ATTEMPTS):
            log_w = self._walk.log_weights()[0, :-1]
            worth = np.exp(log_w - log_w.max())  # by the heaviest expert, not by the baseline
            weights = dict(zip(self._experts, worth.tolist(), strict=True))
            since_s = time.monotonic()
            answers = await self._panel.advance([self._sequence], [append_ids], weights=weights)
            self.waited_s += time.monotonic() - since_s
            self._take(answers)
            if self._alive[:-1].any():
                return
            append_ids = np.empty(0, np.uint32)  # the sequence holds them now
            silent.update(self._experts)
            serving = self._model.book.serving()
            if others := {key: client for key, client in serving.items() if key not in silent}:
                self._choose_experts(self._sequence.ids, others)
                self._walk.show(self._sequence.ids[None, :])
            elif attempt < ATTEMPTS - 1:
                await asyncio.sleep(REST_S * 2**attempt)
        raise unavailable()

    def _take(self, answers: Mapping[Hotkey, StepResponse | PanelError]) -> None:
        """Keep the laws that came; who gave none has no say in the next token."""
        for index, hotkey in enumerate(self._experts):
            answer = answers[hotkey]
            self._alive[index] = isinstance(answer, StepResponse)
            if isinstance(answer, StepResponse):
                self._positions[hotkey] = len(self._sequence.ids)
                self._laws[index] = law_of(answer.rows[0], -1, self._laws[-1])
            self._model.book.report(hotkey, answer)
            said = self._sequence.said(hotkey)
            if said is not None and said != self._said.get(hotkey):
                self._said[hotkey] = said
                self._amend(index, hotkey, *said)

    def _amend(self, index: int, hotkey: Hotkey, position: int, log_p: float) -> None:
        """Count what an expert's leaf showed for a token, or that it showed none."""
        if position in self._first and self._first[position][index]:
            self._walk.amend(0, index, position, log_p)
            self._model.firsts.amend(self._sequence.ids[: position + 1], hotkey, log_p)

    def _forecast(self) -> Forecast:
        log_w = self._walk.log_weights(self._alive)[0]
        weights = zip(self._walk.members, np.exp(log_w), strict=True)
        shares = {str(name): float(weight) for name, weight in weights if weight > 0}
        return Forecast(mix(log_w, self._laws), shares)
