"""Speculative drafting: tokens guessed in advance, whose law is exactly that of the mixture.

Somebody drafts a block d_1 … d_n after the text; the members say their laws m_0 … m_n before and
after each, in one round trip. Then token by token, with m the law that would be drawn from without
a draft and q the one that the draft was drawn from (Leviathan et al., 2211.17192):

    keep d with probability min(1, m(d) / q(d)), else draw from (m − q)₊, normalised

and go on while drafts are kept; after the last one m_n gives one token more, the *bonus*. Whatever
q is, a token's law is m. Who drafts outside our own process could say a q that it did not draw
from: then nothing is said to us, the token is drawn from m, and the draft is kept if it was that.

What counts as evidence: a token that nobody drafted, so also the bonus after a block that was kept
whole. Never a kept draft (its members have seen it: p = 1 on every draft would gain), and never the
token in place of one that was not kept (they know which it is not; p = 0 on every draft would
gain, and the drafter lose). How long the block is has been settled before, by nothing that the
members say in it, so at a counted token nobody expects more than the mixture itself has:
Σ_x m(x) · ln(p(x) / m(x)) ≤ 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from moesubnet.mixture.law import apply_sampling, sample_at
from moesubnet.mixture.mixing import Float, Ids, Logs, Mask


class Numbers(Protocol):
    """A random generator, or whatever else gives uniform numbers in [0, 1)."""

    def random(self) -> float: ...


class Points:
    """The numbers that one text is drawn with, one after the other, which may be known ahead."""

    def __init__(self, seed: int | Sequence[int]) -> None:
        self._rng = np.random.default_rng(seed)
        self._known: list[float] = []  # the next one is the last

    def random(self) -> float:
        if not self._known:
            self.peek(1)
        return self._known.pop()

    def peek(self, count: int) -> Float:
        """The next so many."""
        if count > len(self._known):
            more = self._rng.random(count - len(self._known)).tolist()
            self._known[:0] = reversed(more)
        return np.array(self._known[: -count - 1 : -1])


@dataclass(frozen=True, eq=False)
class Drawn:
    """A law that tokens are drawn from: after temperature, top-p and whatever else.

    probs: float64 [k], sum 1. ids: [k], ascending and distinct; None: of every token in order.
    """

    probs: Float
    ids: Ids | None = None

    @classmethod
    def of(cls, log_p: Logs, ids: Ids | None, temperature: float, top_p: float) -> Drawn:
        """log_p: [k], log-probabilities up to a constant."""
        return cls(apply_sampling(log_p, temperature, top_p), ids)

    def at(self, tokens: Ids) -> Float:
        """The probabilities of some token ids [n]: float64 [n]."""
        if self.ids is None:
            return self.probs[tokens]
        place = np.minimum(np.searchsorted(self.ids, tokens), len(self.ids) - 1)
        return np.where(self.ids[place] == tokens, self.probs[place], 0.0)

    def of_token(self, token_id: int) -> float:
        return float(self.at(np.array([token_id]))[0])

    def as_drawn_as(self, other: Drawn) -> Float:
        """Of each token that this law lists, how likely `other` draws it: float64 [k]."""
        if self.ids is not None:
            return other.at(self.ids)
        if other.ids is None:
            return other.probs
        probs = np.zeros_like(self.probs)
        probs[other.ids] = other.probs
        return probs

    def within(self, allowed: Mask) -> Drawn:
        """The same of the tokens that are allowed [V], one of them at least in this law."""
        probs = np.where(allowed[_places(self)], self.probs, 0.0)
        return replace(self, probs=probs / probs.sum())

    def draw(self, rng: Numbers) -> int:
        return self.at_point(rng.random())

    def at_point(self, point: float) -> int:
        """What is drawn with this number in [0, 1)."""
        place = sample_at(self.probs, point)
        return place if self.ids is None else int(self.ids[place])


def overlap(m: Drawn, q: Drawn) -> float:
    """Σ min(m, q) = 1 − TV(m, q): how likely a draft is kept, before it is drawn. If the drafter
    has the weight w in the mixture that m is of, at temperature 1, then no less than w."""
    return float(np.minimum(m.probs, m.as_drawn_as(q)).sum())


@dataclass(frozen=True, eq=False)
class Draft:
    """A drafted token and the law that it was drawn from.

    drawn_from: None: who drew it may lie. is_forced: by a grammar, so that it is nobody's guess.
    """

    token_id: int
    drawn_from: Drawn | None = None
    is_forced: bool = False

    def kept(self, m: Drawn) -> float:
        """The probability with which it becomes the next token of m."""
        chance = m.of_token(self.token_id)
        if self.drawn_from is None:
            return chance
        drafted = self.drawn_from.of_token(self.token_id)
        return 1.0 if chance >= drafted else chance / drafted

    def instead(self, m: Drawn) -> Drawn:
        """What is drawn from where it is not kept."""
        if self.drawn_from is None:
            left = np.where(_places(m) == self.token_id, 0.0, m.probs)
        else:
            left = np.maximum(m.probs - m.as_drawn_as(self.drawn_from), 0.0)
        total = left.sum()
        return replace(m, probs=left / total) if total > 0.0 else m  # m = q, but for rounding


def next_token(m: Drawn, drafts: Sequence[Draft], rng: Numbers) -> int:
    """One token of m. drafts: the first is of this token. It was kept if the token is the draft's:
    `instead` never gives it.

    Without a law that the draft was drawn from this is a draw from m as if there were none, so
    the same generator gives the same text with drafts and without.
    """
    if drafts and drafts[0].drawn_from is not None:
        if rng.random() < drafts[0].kept(m):
            return drafts[0].token_id
        m = drafts[0].instead(m)
    return m.draw(rng)


@dataclass(slots=True)
class Block:
    """The drafts of one round, one token after another, and how many have been kept."""

    drafts: Sequence[Draft] = ()
    kept: int = 0

    @property
    def left(self) -> Sequence[Draft]:
        """From the next token on. None: nobody drafted it, so that it is evidence."""
        return self.drafts[self.kept :]

    def take(self, token_id: int) -> bool:
        """Whether this next token is the draft, so that the block goes on."""
        is_kept = bool(self.left) and self.left[0].token_id == token_id
        self.kept += is_kept
        return is_kept


def _places(m: Drawn) -> Ids:
    return np.arange(len(m.probs)) if m.ids is None else m.ids
