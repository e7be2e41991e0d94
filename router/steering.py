"""What one choice asks of every law before a token is drawn from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from moesubnet.mixture.bending import bend
from moesubnet.mixture.drafting import Draft
from moesubnet.mixture.law import Mixture
from moesubnet.mixture.mixing import Float, Ids
from moesubnet.router.grammar import Matcher


@dataclass(frozen=True, slots=True)
class Wishes:
    """As a request states them: OpenAI's biases by token id, and penalties for tokens that this
    choice has written already (those of the prompt do not count)."""

    logit_bias: Mapping[int, float] = field(default_factory=dict)
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0


NO_WISHES = Wishes()


class Steering:
    """Follows one choice as it is written."""

    def __init__(self, wishes: Wishes, matcher: Matcher | None = None) -> None:
        """matcher: of the grammar that the text must have, at its beginning."""
        self._wishes, self._matcher = wishes, matcher
        bias = sorted(wishes.logit_bias.items())
        self._ids: Ids = np.array([token_id for token_id, _ in bias], np.int64)
        self._offsets: Float = np.array([offset for _, offset in bias], np.float64)
        self._written: set[int] = set()

    @property
    def is_over(self) -> bool:
        """Whether the grammar wants nothing more."""
        return self._matcher is not None and self._matcher.is_over

    @property
    def bends(self) -> bool:
        """Whether the next tokens may be drawn from other laws than the mixture's."""
        return self._matcher is not None or self._wishes != NO_WISHES

    def shaped(self, mixture: Mixture) -> Mixture:
        """What to draw the next token from."""
        if self._matcher is None and not len(self._ids):
            return mixture
        allowed = None if self._matcher is None else self._matcher.allowed()
        return bend(mixture, self._ids, self._offsets, allowed)

    def lawful(self, drafts: Sequence[Draft], most: int) -> Sequence[Draft]:
        """What the grammar allows of the drafts, each of a law of what it allows alone (for a draw
        that turned out to be allowed is one of that), and where they end the tokens that it
        forces, up to `most` in a row."""
        if self._matcher is None or self._matcher.is_over:
            return drafts
        matcher, kept = self._matcher.fork(), list[Draft]()
        for draft in drafts[: max(most, 0)]:
            if matcher.is_over or not (allowed := matcher.allowed())[draft.token_id]:
                break
            matcher.push(draft.token_id)
            law = draft.drawn_from and draft.drawn_from.within(allowed)
            kept.append(replace(draft, drawn_from=law))
        forced = () if matcher.is_over else matcher.forced()[: max(most - len(kept), 0)]
        return [*kept, *(Draft(token_id, is_forced=True) for token_id in forced)]

    def push(self, token_id: int) -> None:
        """This token was drawn."""
        if self._matcher is not None:
            self._matcher.push(token_id)
        penalty = self._wishes.frequency_penalty
        if token_id not in self._written:
            self._written.add(token_id)
            penalty += self._wishes.presence_penalty
        if penalty == 0.0:
            return
        place = int(np.searchsorted(self._ids, token_id))
        if place == len(self._ids) or self._ids[place] != token_id:
            self._ids = np.insert(self._ids, place, token_id)
            self._offsets = np.insert(self._offsets, place, 0.0)
        self._offsets[place] -= penalty
