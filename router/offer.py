"""Whom a mixture may ask, all who serve or one by name, for how much; what a table says of them."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Iterable
from typing import Self

from moesubnet.mixture.baseline import Unigram
from moesubnet.mixture.choosing import not_too_dear
from moesubnet.mixture.gate import Gate
from moesubnet.mixture.guessing import GuessPace
from moesubnet.router.ahead import RoundTrips
from moesubnet.router.experts import ExpertBook
from moesubnet.router.firsts import FirstAnswers
from moesubnet.router.openai_api import ApiError, JsonObject
from moesubnet.router.student import StudentModel
from moesubnet.router.turns import Prompts
from moesubnet.types import Hotkey
from moesubnet.units import u16_fraction
from moesubnet.wire.client import ExpertClient
from moesubnet.wire.patience import Paces
from moesubnet.wire.protocol import want_for

SOLO, EXPERT = "mixture:solo", "expert"  # modes, by their names


class Offer:
    """What a mixture asks and weighs with, and whom; changed by its modes alone."""

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
        self.prompts = Prompts()
        self.closing: set[asyncio.Task[None]] = set()  # held, or they could vanish half done
        self.paces = Paces()
        self.pace = GuessPace()  # of rounds that experts draft for
        self.round_trips = RoundTrips()
        self.student: StudentModel | None = None  # the last member in the baseline's place
        self.is_solo = False  # one expert writes alone
        self.only: Hotkey | None = None  # nobody else is asked
        self.most_rao_per_mtoken: int | None = None  # that all who are asked may cost together

    def mode(self, name: str) -> tuple[str, Self] | None:
        """`mixture:solo` (the gate picks one expert for each text), `expert:HOTKEY` or an expert
        by its card's name, if only one has it; each with its name by hotkey."""
        kind, _, which = name.partition(":")
        known = self.book.known()
        found = [which] if which in known else [h for h in known if known[h].card.name == which]
        solo = copy.copy(self)  # what it shares with us goes on being shared
        solo.is_solo, solo.top_k = True, 1
        if name == SOLO:
            return name, solo
        if kind != EXPERT or len(found) != 1:
            return None
        solo.only = Hotkey(found[0])
        return f"{EXPERT}:{solo.only}", solo

    def modes(self) -> list[str]:
        """The names of all modes at present."""
        return [SOLO, *(f"{EXPERT}:{hotkey}" for hotkey in sorted(self.book.known()))]

    def capped(self, most_rao_per_mtoken: int) -> Self:
        """The same, asking no more experts than cost this together. Raises ApiError 400 where one
        alone costs more."""
        other = copy.copy(self)
        other.most_rao_per_mtoken = most_rao_per_mtoken
        cheapest = min(self.prices(self.serving()).values(), default=0)
        if cheapest > most_rao_per_mtoken:
            text = f"No expert answers for less than {cheapest} rao per million tokens."
            raise ApiError(400, text, code="price_cap_too_low", param="moesubnet")
        return other

    def serving(self) -> dict[Hotkey, ExpertClient]:
        """Who may be asked now; who is too dear by name only."""
        serving = self.book.serving()
        asked = self._payable(self.book.known())
        return {hotkey: client for hotkey, client in serving.items() if hotkey in asked}

    def prices(self, hotkeys: Iterable[Hotkey]) -> dict[Hotkey, int]:
        """What each costs now, in rao per million tokens."""
        known = self.book.known()
        return {h: known[h].card.price_rao_per_mtoken for h in hotkeys if h in known}

    def _payable(self, hotkeys: Iterable[Hotkey]) -> dict[Hotkey, int]:
        """Those of them that may be asked, with their prices."""
        prices = self.prices(hotkeys)
        if self.only is None:
            return not_too_dear(self.gate(), prices)
        return {hotkey: price for hotkey, price in prices.items() if hotkey == self.only}

    def dearest_rao_per_mtoken(self) -> int:
        prices = self._payable(self.book.known()).values()
        dearest = sum(sorted(prices, reverse=True)[: self.top_k])
        return (
            dearest if self.most_rao_per_mtoken is None else min(dearest, self.most_rao_per_mtoken)
        )

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
                "latency_s": expert.latency_s,
                "weight": weights.get(hotkey, 0.0),
                "incentive": u16_fraction(expert.met.neuron.incentive_u16),
                "price_rao_per_mtoken": expert.card.price_rao_per_mtoken,
            }
            for hotkey, expert in sorted(
                self.book.known().items(), key=lambda i: i[1].met.neuron.uid
            )
        ]
