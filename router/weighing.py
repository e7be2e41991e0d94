"""How the members of one stream are weighed: the gate's prior, and what was blind of the text."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moesubnet.mixture.drafting import Draft
from moesubnet.mixture.gate import Gate
from moesubnet.mixture.law import Law, alone, mix
from moesubnet.mixture.mixing import Walk, members_of
from moesubnet.router.firsts import FirstAnswers
from moesubnet.router.model import Forecast, TokenIds
from moesubnet.types import Hotkey
from moesubnet.wire.protocol import Proof


@dataclass(frozen=True, slots=True, eq=False)
class Heard:
    """What one call brought.

    laws: [positions][members], the experts in sorted order, then the baseline, or the student in
    its place, whose law stands in for who said nothing. alive: bool [members], who answered. last:
    what answers call the last one. said: of experts that were bound
    to a law, the last position that its leaf is known of, and the log-probability there. proofs:
    of the answers that came by wire. further: how the expert that was asked to would go on after
    the last position, or what it drew after the last that was asked for, with a law of each.
    unsent: who was not even sent the call, because it rests after a failure.
    """

    laws: Sequence[Sequence[Law]]
    alive: NDArray[np.bool_]
    last: str
    said: Mapping[Hotkey, tuple[int, float]]
    proofs: Mapping[Hotkey, Proof]
    further: Sequence[int] = ()
    unsent: frozenset[Hotkey] = frozenset()


class Posterior:
    """Members are the experts in sorted order, then the baseline."""

    def __init__(
        self,
        gate: Gate,
        experts: Sequence[Hotkey],
        firsts: FirstAnswers,
        *,
        is_solo: bool = False,
    ) -> None:
        """is_solo: the last member has no part in forecasts."""
        self._gate, self._experts, self._firsts, self._is_solo = gate, experts, firsts, is_solo
        self.is_alone = is_solo and len(experts) == 1  # nobody is weighed
        self.walk = Walk(gate, members_of(experts))
        self._counts: dict[int, NDArray[np.bool_]] = {}  # by position: of whom its law counted
        self._said: dict[Hotkey, tuple[int, float]] = {}  # what was last amended

    def fork(self) -> Posterior:
        """That of another stream which goes on from here."""
        other = copy.copy(self)
        other.walk = copy.copy(self.walk)
        other._counts, other._said = {}, {}
        return other

    def anew(self) -> Posterior:
        """Of the same members, before any text."""
        return Posterior(self._gate, self._experts, self._firsts, is_solo=self._is_solo)

    def show(self, ids: TokenIds, token_weight: float = 1.0) -> None:
        """Append ids that are no evidence: who was asked has seen them, or could have."""
        if self.is_alone:
            return
        self.walk.show(ids[None, :], token_weight)

    def expose(self, text_ids: TokenIds, drafted: int) -> None:
        """The last ids are a draft that all are about to see: what they say of these tokens after
        these texts is no evidence, here or in another stream."""
        self._firsts.spoil(text_ids, drafted, self.walk.members)

    def observe(
        self, text_ids: TokenIds, heard: Heard, token_weight: float, away: Collection[Hotkey] = ()
    ) -> None:
        """Append the last of `text_ids`, which nobody was sent yet: members are weighed by how
        they would have guessed it, that is by the last laws that were heard. away: who was
        silent, and is not going to be sent it before it has caught up."""
        token_id, position = int(text_ids[-1]), len(text_ids) - 1
        log_p, blind, counts = self._firsts.settle(
            text_ids,
            self.walk.members,
            np.array([law.of(token_id) for law in heard.laws[-1]]),
            heard.alive,
            away,
        )
        self._counts[position] = counts
        if self.is_alone:
            return
        self.walk.observe(text_ids[-1:], log_p[None], blind=blind, token_weight=token_weight)

    def amend(self, text_ids: TokenIds, said: Mapping[Hotkey, tuple[int, float]]) -> None:
        """Count what experts' leaves showed for a token of the text, or that they showed none."""
        for column, hotkey in enumerate(self.walk.members):
            if hotkey not in said or said[hotkey] == self._said.get(hotkey):
                continue
            self._said[hotkey] = position, log_p = said[hotkey]
            if position in self._counts and self._counts[position][column]:
                self.walk.amend(0, column, position, log_p)
                self._firsts.amend(text_ids[: position + 1], hotkey, log_p)

    def missed(self, hotkey: Hotkey, since: int) -> list[int]:
        """The positions from `since` on of tokens that weighed others and not this expert."""
        return [at for at in self.walk.missed(self.walk.members.index(hotkey)) if at >= since]

    def catch_up(
        self, text_ids: TokenIds, hotkey: Hotkey, said: Mapping[int, float], since: int
    ) -> None:
        """Count what an expert said of some tokens that it had missed, by position, each before
        it was sent that token; all others from `since` on it is sent without having said a word."""
        missed, log_p = self.missed(hotkey, since), {}
        for at in range(since, len(text_ids)):
            value, known, _ = self._firsts.settle(
                text_ids[: at + 1], [hotkey], np.array([said.get(at, 0.0)]), np.array([at in said])
            )
            if known[0] and at in said:
                log_p[at] = float(value[0])
        if log_p:
            self.walk.catch_up(self.walk.members.index(hotkey), missed, log_p)

    def worth(self, but: Collection[Hotkey] = ()) -> dict[Hotkey, float]:
        """Each expert's weight in proportion to that of the heaviest: the baseline, which is
        always there, makes nobody dispensable. but: whose is not asked for."""
        if len(self._experts) == 1:
            return {hotkey: 1.0 for hotkey in self._experts if hotkey not in but}
        log_w = self.walk.log_weights()[0, :-1]
        weights = zip(self.walk.members, np.exp(log_w - log_w.max()).tolist(), strict=False)
        return {hotkey: weight for hotkey, weight in weights if hotkey not in but}

    def needed(self, alive: NDArray[np.bool_]) -> frozenset[Hotkey]:
        """Where all who answered weigh less together than the last member, the silent ones who
        weigh more than it: without them what is written would be hardly anybody's."""
        if self.is_alone or alive.all():
            return frozenset()
        *weights, last = np.exp(self.walk.log_weights()[0]).tolist()
        experts = list(zip(self._experts, weights, alive.tolist(), strict=False))
        if sum(weight for _, weight, is_alive in experts if is_alive) >= last:
            return frozenset()
        return frozenset(key for key, weight, is_alive in experts if weight > last and not is_alive)

    def dispensable(self, mass: float) -> frozenset[Hotkey]:
        """The lightest experts, with no more than `mass` of the weight together; never all."""
        if self.is_alone:
            return frozenset()
        weights = np.exp(self.walk.log_weights()[0, :-1])
        order = np.argsort(weights)[:-1]
        count = int(np.searchsorted(np.cumsum(weights[order]), mass, side="right"))
        return frozenset(self.walk.members[column] for column in order[:count])

    def forecast(self, heard: Heard, position: int = -1, drafts: Sequence[Draft] = ()) -> Forecast:
        """The mixture of the laws of one of the positions that were heard; who gave none has no
        say in it. drafts: from the token there on."""
        if self.is_alone and heard.alive[0]:
            law, writer = heard.laws[position][0], self._experts[0]
            return Forecast(alone(law), {str(writer): 1.0}, drafts)
        alive = heard.alive.copy()
        alive[-1] = not self._is_solo
        log_w = self.walk.log_weights(alive)[0]
        weights = zip([*self._experts, heard.last], np.exp(log_w).tolist(), strict=True)
        shares = {str(name): weight for name, weight in weights if weight > 0}
        return Forecast(mix(log_w, heard.laws[position]), shares, drafts)
