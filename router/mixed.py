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
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence

import numpy as np

from moesubnet.errors import NobodyAnswers
from moesubnet.mixture.choosing import BLIND_PROMPT_TOKENS, choose
from moesubnet.mixture.draft_length import MAX_DRAFT, entropy_nats
from moesubnet.mixture.drafting import Block, Draft
from moesubnet.mixture.law import Law
from moesubnet.router import asking
from moesubnet.router.drafting import Drafting
from moesubnet.router.model import ALONE, Drawing, Forecast, TokenIds
from moesubnet.router.offer import Offer
from moesubnet.router.returning import Returning
from moesubnet.router.turns import GoesOn
from moesubnet.router.weighing import Heard, Posterior
from moesubnet.spec.byte_unit import open_head
from moesubnet.types import Hotkey
from moesubnet.wire.ahead import Ahead
from moesubnet.wire.client import ExpertClient
from moesubnet.wire.panel_sequence import PanelSequence
from moesubnet.wire.protocol import Proof

BLOCK_TOKENS = 32  # after so many new tokens it is seen anew who is asked
SPARED_MASS = 0.01  # of weight, of those together who are not asked
ATTEMPTS = 3  # when every expert fails at once, the fault may be ours or momentary


class MixtureModel(Offer):
    """Opens one session per stream over whoever serves at that moment."""

    def open(self) -> MixtureSession:
        if not self.serving():
            raise NobodyAnswers("no expert serves this subnet's spec now")
        return MixtureSession(self)


class MixtureSession:
    """One stream: who is asked (`choose`), how they are asked (`asking.Asking`), what each weighs
    (`Posterior`), what is drafted (`Drafting`).

    The sequence is the text, then the drafts of a block that is not yet over.
    """

    _heard: Heard
    _forecast: Forecast

    def __init__(self, model: Offer) -> None:
        self._model = model
        self._gate = model.gate()
        self._sequence = PanelSequence(secrets.token_hex(16), np.empty(0, np.uint32))
        self._forked = False
        self._prices: dict[Hotkey, int] = {}
        self._positions: dict[Hotkey, int] = {}  # answered, of the text as it now is
        self._proofs: dict[Hotkey, Proof] = {}  # of each one's last answer
        self._in_vain: Counter[Hotkey] = Counter()  # answered, of drafts that were not kept
        base = model.baseline.law
        # Nobody drafts for one that writes alone but itself.
        student = model.student.beside(base) if model.student and not model.is_solo else None
        self._drafting = Drafting(student, base, model.pace)
        self._block = Block()
        self._unknown = 1.0  # of what the block could tell of the members (`Walk.unknown`)
        self._ahead = 0  # ids of the sequence that are drafts, not or not yet kept
        self._writer: ExpertClient | None = None  # the one that writes alone
        self._is_drawn = False  # the block, by it
        self._prompt_tokens = 0  # once it has begun
        self._prompt = 0  # its name
        self._goes_on: GoesOn | None = None  # with what is before it, a chat's earlier turn
        self._resting: frozenset[Hotkey] = frozenset()  # chosen, but hardly of any weight
        self._waited_for: frozenset[Hotkey] = frozenset()  # in vain
        self._seen_tokens: int | None = None  # length of the text when that was last looked at
        self.waited_s = 0.0
        self._ask({}, is_last=False)

    async def start(self, prompt_ids: TokenIds, drawing: Drawing = ALONE) -> Forecast:
        self._choose_experts(prompt_ids, self._model.serving())
        self._prompt_tokens = len(prompt_ids)
        met = self._model.prompts.meet(prompt_ids, time.monotonic())
        self._prompt, self._goes_on = met
        # Where one writes alone nobody is weighed, and nothing is asked blind.
        blind = 0 if self._model.is_solo else self._gate.grain.units(BLIND_PROMPT_TOKENS)
        # Nor does a turn's head say anything of anybody: over bytes all have one law for it.
        head = open_head(prompt_ids) if self._gate.grain.unit == "bytes" else 0
        body = len(prompt_ids) - head
        split = max(0, body - blind) if blind else len(prompt_ids)
        self.posterior.show(prompt_ids[:split])
        if split == len(prompt_ids):
            return await self._round(prompt_ids, drawing)
        await self.extend(prompt_ids[:split])
        for end in range(split + 1, body + 1):
            self.posterior.observe(prompt_ids[:end], self._heard, 1.0)
            await self._round(
                prompt_ids[end - 1 : end], drawing if end == len(prompt_ids) else ALONE
            )
        if head:
            self.posterior.show(prompt_ids[body:])
            await self._round(prompt_ids[body:], drawing)
        return self._forecast

    async def append(self, token_id: int, drawing: Drawing) -> Forecast:
        """A token that was drafted needs no round trip."""
        block, drafts = self._block, self._block.left
        is_kept = block.take(token_id)
        if is_kept and self._ahead and self.posterior.is_alone:
            self._ahead -= 1
            self._drafting.length.drafted(0.0, kept=True)
            self._forecast = self.posterior.forecast(self._heard, block.kept, block.left)
            return self._forecast
        ids, token_weight = np.array([token_id], np.uint32), min(1.0, drawing.temperature)
        text = np.concatenate((self._sequence.ids[: len(self._sequence.ids) - self._ahead], ids))
        if drafts:
            if not drafts[0].is_forced:
                missed = token_weight * entropy_nats(list(self._forecast.weights.values()))
                missed *= self._unknown
                missed /= self._gate.grain.token_units
                self._drafting.length.drafted(missed, kept=is_kept)
            self.posterior.show(ids, token_weight)
            if not is_kept:
                self.posterior.expose(text, 1)
                if self._writer and self._is_drawn and not drawing.is_bent:
                    self._writer.draws_ahead = False  # it drew what its law and our number do not
        else:
            self._drafting.length.counted()
            away = self._returning.unsent | self._resting
            self.posterior.observe(text, self._heard, token_weight, away)
        if is_kept and self._ahead:
            self._ahead -= 1
            self._forecast = self.posterior.forecast(self._heard, block.kept, block.left)
            return self._forecast
        self._reject()
        return await self._round(ids, drawing)

    async def echo(self, prompt_ids: TokenIds) -> AsyncIterator[Forecast]:
        """Members are weighed by their prior: a token that was sent says nothing of whom it was
        sent to."""
        self._choose_experts(prompt_ids, self._model.serving())
        for first, ids, laws in asking.echo_parts(prompt_ids, self._model.vocab_size):
            self.posterior.show(ids)
            self.posterior.expose(np.append(self._sequence.ids, ids), len(ids))
            heard = await self.extend(ids, laws=laws)
            # Of its own: experts may have been replaced on the way.
            prior = self.posterior.anew()
            prior.show(prompt_ids[:first])
            for position in range(laws):
                self._forecast = prior.forecast(heard, position)
                yield self._forecast
                prior.show(prompt_ids[first + position : first + position + 1])

    def fork(self) -> MixtureSession:
        """The experts go on from what they hold, under another name."""
        assert not self._block.left, "choices that share a draft would be alike"
        other = MixtureSession(self._model)
        other._gate, other._forked, other.waited_s = self._gate, True, self.waited_s
        other._sequence = self._sequence.fork(secrets.token_hex(16))
        other._asking, other.posterior = self._asking, self.posterior.fork()
        other._returning = self._returning.fork(other._sequence)
        other._prices, other._heard = dict(self._prices), self._heard
        other._resting, other._seen_tokens = self._resting, self._seen_tokens
        other._waited_for = self._waited_for
        other._prompt_tokens, other._prompt = self._prompt_tokens, self._prompt
        other._goes_on = self._goes_on
        other._drafting, other._forecast = self._drafting.fork(), self._forecast
        return other

    def answered(self) -> Mapping[Hotkey, tuple[int, int]]:
        return {
            key: (count + self._in_vain[key], self._prices[key])
            for key, count in self._positions.items()
        }

    def proofs(self) -> Mapping[Hotkey, Proof]:
        return self._proofs

    def close(self, *, is_over: bool = False) -> None:
        """Tell the experts that a session is over: a further choice always is, and the first where
        its reader has left. Else that is kept until it expires: the next turn of a chat begins
        with it."""
        self._drafting.close()
        self._returning.close()
        if self._is_drawn:
            self._model.book.metrics.drawn_ahead(self._block.kept, 0)
        if self._prompt_tokens:  # the answer's last token was drawn, and sent to nobody
            answer = len(self._sequence.ids) - self._ahead - self._prompt_tokens + 1
            metrics, drafting = self._model.book.metrics, self._drafting
            tokens = self._prompt_tokens, max(0, answer)
            is_fork = self._forked
            metrics.text_length(*tokens, self._goes_on, is_fork=is_fork, ahead=drafting.ahead)
            metrics.rounds(drafting.rounds)
            self._model.prompts.answered(self._prompt, time.monotonic(), sum(tokens))
        if is_over or self._forked:
            task = asyncio.create_task(self._asking.close(self._sequence))
            self._model.closing.add(task)
            task.add_done_callback(self._model.closing.discard)

    async def extend(
        self, ids: TokenIds, *, laws: int = 1, further: int = 0, ahead: Ahead | None = None
    ) -> Heard:
        """Send ids, all in one call, and hear the laws of the last `laws` positions: 1 is that of
        the next token alone, len(ids) + 1 that of each of these ids too. What the posterior makes
        of them is the caller's (`Posterior.show`, `Posterior.observe`). further: how many tokens
        the heaviest expert should go on with. ahead: how, if it writes alone.

        When every chosen expert stays silent the others take over; when those who answer know
        less of the text than the baseline, one that knows more is waited for. Raises NobodyAnswers.
        """
        whole = np.concatenate((self._sequence.ids, ids))
        reading = self._drafting.begin(whole, len(whole) + 1 - laws)
        try:
            return await self._hear(
                whole, ids, laws, further, ahead, lambda n: self._drafting.bases(reading, n)
            )
        finally:
            if reading is not None:
                reading.cancel()  # it has been read, or nobody will

    async def _hear(
        self,
        whole: TokenIds,
        ids: TokenIds,
        laws: int,
        further: int,
        ahead: Ahead | None,
        bases: Callable[[int], Awaitable[tuple[str, Sequence[Law]]]],
    ) -> Heard:
        """whole: the text with the ids."""
        silent: set[Hotkey] = set()
        first = len(whole) + 1 - laws
        for attempt in range(ATTEMPTS):
            not_asked = self._resting | self._returning.away
            since_s, worth = time.monotonic(), self.posterior.worth(not_asked)
            heard = await self._asking.extend(
                self._sequence,
                ids,
                first,
                worth,
                bases,
                {max(worth, key=worth.__getitem__): further} if further and worth else {},
                not_asked,
                ahead,
            )
            self.waited_s += time.monotonic() - since_s
            ids, further, ahead = ids[:0], 0, None  # the sequence holds them now
            self._heard = heard
            self._proofs.update(heard.proofs)
            self._returning.heard(list(worth), heard)
            self.posterior.amend(self._sequence.ids, heard.said)
            for hotkey, is_alive in zip(self._asking.experts, heard.alive, strict=False):
                if is_alive:
                    self._positions[hotkey] = len(self._sequence.ids)
            if heard.alive[:-1].any():
                needed = self._needed(heard, not_asked)
                if not needed or attempt == ATTEMPTS - 1:
                    self._waited_for |= needed
                    return heard
                await asyncio.sleep(asking.REST_S * 2**attempt)
                continue
            if self._resting:
                self._resting = frozenset()
                continue
            silent.update(self._asking.experts)
            serving = self._model.serving()
            if others := {key: client for key, client in serving.items() if key not in silent}:
                self._choose_experts(whole[:first], others)
                self.posterior.show(whole[:first])
            elif attempt < ATTEMPTS - 1:
                await asyncio.sleep(asking.REST_S * 2**attempt)
        raise NobodyAnswers("none of the experts answers")

    def _needed(self, heard: Heard, not_asked: Collection[Hotkey]) -> frozenset[Hotkey]:
        """Whom to wait for rather than let the baseline write. Who was waited for in vain is not
        again until it has answered."""
        experts = zip(self._asking.experts, heard.alive, strict=False)
        self._waited_for -= {hotkey for hotkey, is_alive in experts if is_alive}
        if self._model.student is not None:  # it is no baseline
            return frozenset()
        return self.posterior.needed(heard.alive) - self._waited_for - set(not_asked)

    def _choose_experts(self, text_ids: TokenIds, clients: Mapping[Hotkey, ExpertClient]) -> None:
        """Begin a posterior over those whom the gate trusts with this text."""
        model = self._model
        prices = model.prices(clients)
        experts = choose(
            self._gate,
            text_ids,
            prices,
            model.top_k,
            prices=prices,
            most_rao_per_mtoken=model.most_rao_per_mtoken,
        )
        if not experts:
            raise NobodyAnswers("no expert answers for the price that the request allows")
        self.posterior = Posterior(self._gate, experts, model.firsts, is_solo=model.is_solo)
        self._resting = frozenset()
        self._returning.close()
        self._ask({hotkey: clients[hotkey] for hotkey in experts}, len(experts) == len(clients))
        self._writer = clients[experts[0]] if model.is_solo else None
        for hotkey in experts:
            self._prices.setdefault(hotkey, prices[hotkey])

    def _ask(self, experts: Mapping[Hotkey, ExpertClient], is_last: bool) -> None:
        """From now on. is_last: whether nobody else could answer."""
        model = self._model
        known = model.book.known()
        self._asking = asking.Asking(
            experts,
            base_s=model.deadline_s,
            want=model.want,
            paces=model.paces,
            lines={hotkey: known[hotkey].line for hotkey in experts},
            is_last=is_last,
            report=model.book.report,
        )
        self._returning = Returning(self._asking, self._sequence, model.baseline.law)

    async def _round(self, ids: TokenIds, drawing: Drawing) -> Forecast:
        """One round trip: send ids that the text goes on with, and a draft after them."""
        since_s = time.monotonic()
        self._spare_those_of_no_weight()
        text_ids = np.concatenate((self._sequence.ids, ids))
        self._returning.welcome(self.posterior, text_ids, self._resting)
        drafts = await self._drafting.drafts(text_ids, drawing)
        if drawing.lawful is not None:
            drafts = drawing.lawful(drafts, min(self._drafting.most(drawing), MAX_DRAFT))
        if drafts:
            drafted = np.array([draft.token_id for draft in drafts], np.uint32)
            ids = np.concatenate((ids, drafted))
            self.posterior.expose(np.concatenate((text_ids, drafted)), len(drafts))
        self._ahead = len(drafts)
        ahead = self._ahead_for(drawing, len(drafts))
        further = len(ahead.points) if ahead else self._drafting.further(drawing, len(drafts))
        heard = await self.extend(ids, laws=len(drafts) + 1, further=further, ahead=ahead)
        took_s = time.monotonic() - since_s
        self._is_drawn = ahead is not None and len(heard.further) > 0
        if ahead is not None and self._is_drawn:
            self._ahead += len(heard.further) - 1  # the last one is in nobody's hands
            drafts = [*drafts, *map(Draft, heard.further)]
            drawn = np.array(heard.further[-1:], np.uint32)
            self.posterior.expose(np.append(self._sequence.ids, drawn), len(heard.further))
            if len(heard.further) < further and took_s > ahead.within_s and self._writer:
                self._model.round_trips.took(self._writer.hotkey, took_s - ahead.within_s)
        else:
            guessed = sum(not draft.is_forced for draft in drafts)
            self._drafting.heard(self._sequence.ids, heard.further)
            self._drafting.took(guessed, took_s)
            if drafts:
                self._unknown = self.posterior.walk.unknown()
        self._block = Block(drafts)
        self._model.book.metrics.round_trip()
        self._forecast = self.posterior.forecast(self._heard, 0, drafts)
        return self._forecast

    def _ahead_for(self, drawing: Drawing, drafted: int) -> Ahead | None:
        """What one that writes alone should draw after a draft."""
        if self._writer is None or not self._writer.draws_ahead:
            return None
        trips = self._model.round_trips
        within_s = trips.within_s(self._writer.hotkey, drawing.patience_s)
        return self._drafting.alone(drawing, drafted, within_s)

    def _spare_those_of_no_weight(self) -> None:
        """Once a block ask, and pay, only as many as hold 99 % of the weight. The others come back
        when the rest of the mixture has lost its lead: they are weighed as if they said what the
        last member says."""
        length = len(self._sequence.ids)
        if self._seen_tokens is None:
            self._seen_tokens = length
        elif length >= self._seen_tokens + BLOCK_TOKENS:
            self._seen_tokens = length
            self._resting = self.posterior.dispensable(SPARED_MASS)

    def _reject(self) -> None:
        """The block is over, and the text goes on otherwise."""
        metrics, kept, lost = self._model.book.metrics, self._block.kept, len(self._block.left)
        if kept or lost:
            (metrics.drawn_ahead if self._is_drawn else metrics.drafted)(kept, lost)
        ahead, self._ahead = self._ahead, 0
        self._block, self._is_drawn = Block(), False
        if not ahead:
            return
        self._drafting.lost(ahead)
        self._sequence.truncate(len(self._sequence.ids) - ahead)
        for hotkey, is_alive in zip(self._asking.experts, self._heard.alive, strict=False):
            if is_alive:
                self._in_vain[hotkey] += ahead
                self._positions[hotkey] -= ahead
