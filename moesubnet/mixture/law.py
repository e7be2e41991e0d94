"""A law of the next token as a value, and the mixture of several. Pure numpy, no I/O.

A law lists some tokens with their log-probabilities and gives one mass r, its *tail*, to all
others together; the tail has the proportions of another law b, which all members share: the
baseline's. With S the listed tokens,

    p(x) = listed                  x ∈ S
    p(x) = a · b(x)                x ∉ S        a = r / (1 − b(S))

A law that lists every token has no tail, and is then the only vector of the whole vocabulary.
Everything here costs O(members · listed tokens).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from moesubnet.mixture.mixing import Float, Ids, Logs
from moesubnet.wire.distributions import LOWEST, enough, likeliest

if TYPE_CHECKING:
    from moesubnet.wire.rows import StepRows


@dataclass(frozen=True, eq=False)
class Law:
    """logp: [k], natural logarithms, finite. ids: [k], ascending and distinct; None: `logp` is
    of every token in order. tail: the mass of all other tokens together. shape: the law whose
    proportions the tail has; laws that are mixed or compared share it. Together of mass 1."""

    logp: Logs
    ids: Ids | None = None
    tail: float = 0.0
    shape: Law | None = None

    def at(self, tokens: npt.ArrayLike) -> Float:
        """The exact log-probabilities of token ids of any shape, in that shape, as float64."""
        if self.ids is None:
            return np.asarray(self.logp.take(np.asarray(tokens)), np.float64)
        tokens = np.asarray(tokens, self.ids.dtype)
        place = np.minimum(self.ids.searchsorted(tokens), len(self.ids) - 1)
        listed = self.ids.take(place) == tokens
        found = np.asarray(self.logp.take(place), np.float64)
        return found if listed.all() else np.where(listed, found, self._beyond(tokens))

    def of(self, token: int) -> float:
        """As `at`, of one token."""
        if self.ids is None:
            return float(self.logp[token])
        place = int(self.ids.searchsorted(self.ids.dtype.type(token)))
        if place < len(self.ids) and self.ids[place] == token:
            return float(self.logp[place])
        if self.shape is None or self.share == 0.0:
            return LOWEST
        return self.shape.of(token) + math.log(self.share)

    def head(self, k: int, mass: float = 1.0) -> Law:
        """The fewest tokens with that mass, at most k of those listed; the rest joins the tail."""
        best = likeliest(self.logp[None], k)
        best = np.sort(best[enough(np.take_along_axis(self.logp[None], best, 1), mass)])
        if self.ids is not None and len(best) == len(self.ids):
            return self
        ids, logp = np.arange(len(self.logp)) if self.ids is None else self.ids, self.logp[best]
        tail = max(0.0, 1.0 - float(np.exp(logp, dtype=np.float64).sum()))
        return Law(logp, ids[best], tail, self.shape)

    @cached_property
    def share(self) -> float:
        """a: an unlisted token's part of its probability under `shape`; 0 without a tail."""
        if self.shape is None or self.tail <= 0.0:
            return 0.0
        assert self.ids is not None
        return self.tail / _unlisted(self.shape, self.ids)

    @cached_property
    def entropy_nats(self) -> float:
        """−Σ p ln p over all tokens, listed or not."""
        listed = -float((np.exp(self.logp) * self.logp).sum(dtype=np.float64))
        if self.ids is None or self.shape is None or self.share == 0.0:
            return max(listed, 0.0)
        base = self.shape.at(self.ids)
        beyond = max(self.shape.entropy_nats + float(np.sum(np.exp(base) * base)), 0.0)
        return max(listed - self.tail * math.log(self.share) + self.share * beyond, 0.0)

    def _beyond(self, tokens: Ids) -> Float:
        """Log-probabilities of unlisted tokens."""
        if self.shape is None or self.share == 0.0:
            return np.full(tokens.shape, LOWEST)
        return self.shape.at(tokens) + math.log(self.share)


@dataclass(frozen=True, eq=False)
class Mixture:
    """Σ_i w_i p_i as a law, and what of it may be drawn.

    log_drawn: float [k], log Σ w_i p_i(x) over those members that list x. It leaves out the
    shares of tails: whoever lists a token must not give it another's tail. left_out = Σ w_i r_i
    is the mass not drawn from, and the most in total variation between what is drawn and the
    mixture of the members' true laws, whatever shape their tails have. (The members' true laws
    and the drawn law both lie above Σ w_i p_i over what is listed, whose mass is 1 − left_out.)
    """

    law: Law
    log_drawn: Logs
    left_out: float
    is_fallback: bool = False  # what is drawn is the tail's shape alone; see `bend`

    def draw(self, temperature: float, top_p: float, rng: np.random.Generator) -> int:
        """One token of what is listed, renormalised once, after temperature and top-p."""
        return self._token(sample(apply_sampling(self.log_drawn, temperature, top_p), rng))

    def draws(self, count: int, rng: np.random.Generator) -> npt.NDArray[np.uint32]:
        """uint32 [count]: tokens drawn at temperature 1, with replacement."""
        edges = np.cumsum(np.exp(self.log_drawn, dtype=np.float64))
        places = np.searchsorted(edges, rng.random(count) * edges[-1], side="right")
        return np.asarray(places if self.law.ids is None else self.law.ids[places], np.uint32)

    def likeliest(self, count: int) -> list[tuple[int, float]]:
        """The listed tokens of most probability with its logarithm; the lower id wins a tie."""
        best = np.argsort(-self.law.logp, kind="stable")[:count].tolist()
        return [(self._token(place), float(self.law.logp[place])) for place in best]

    def _token(self, place: int) -> int:
        return place if self.law.ids is None else int(self.law.ids[place])


def alone(law: Law) -> Mixture:
    """A law as the mixture of nothing else."""
    return Mixture(law, law.logp, law.tail)


def mix(log_w: Logs, laws: Sequence[Law]) -> Mixture:
    """The mixture of `laws` under log-weights [E], logsumexp 0.

    The last is the baseline, the shape of the others' tails. Over the union U of what the members
    list (a baseline that lists everything adds nothing to U, and is listed on all of it)

        m(x) = Σ_{i: x ∈ S_i} w_i p_i(x)  +  b(x) · Σ_{i: x ∉ S_i} w_i a_i            x ∈ U

    where the baseline's own a is 1; outside U the mixture is b(x) · Σ w_i a_i, so it is a law
    with tail (1 − b(U)) · Σ w_i a_i of the same shape, and nothing is approximated.
    """
    base = laws[-1]
    if all(law.ids is None for law in laws):
        told = [(w, law.logp) for w, law in zip(log_w.tolist(), laws, strict=True) if w > -math.inf]
        stacked = np.concatenate([logp for _, logp in told]).reshape(len(told), -1)
        stacked += np.array([w for w, _ in told], stacked.dtype)[:, None]
        top = stacked.max(axis=0)  # finite: somebody has a weight
        np.exp(np.subtract(stacked, top, out=stacked), out=stacked)
        log_m = np.log(stacked.sum(axis=0)) + top
        np.minimum(log_m, 0.0, out=log_m)  # rounding may leave a sure token a hair above one
        return Mixture(Law(log_m), log_m, 0.0)
    weights = np.exp(np.asarray(log_w, np.float64))
    members = [(w, law) for w, law in zip(weights, laws, strict=True) if law.ids is not None and w]
    order, starts, ids = _union([law.ids for _, law in members if law.ids is not None])
    sizes = [len(law.logp) for _, law in members]
    listed = np.concatenate([law.logp for _, law in members])
    named = np.repeat([w for w, _ in members], sizes) * np.exp(listed, dtype=np.float64)
    drawn = np.add.reduceat(named[order], starts)
    shares = np.array([w * (1.0 if law is base else law.share) for w, law in members])
    covered = np.add.reduceat(np.repeat(shares, sizes)[order], starts)
    base_p = np.exp(base.at(ids))
    beyond = shares.sum() - covered
    if base.ids is None:
        drawn = drawn + weights[-1] * base_p
    tail = (shares.sum() + weights[-1] * (base.ids is None)) * max(1.0 - base_p.sum(), 0.0)
    law = Law(_logs(drawn + np.maximum(beyond, 0.0) * base_p), ids, float(tail), base)
    return Mixture(law, _logs(drawn), max(0.0, 1.0 - float(drawn.sum())))


def apply_sampling(log_m: Logs, temperature: float, top_p: float) -> Float:
    """Probabilities after temperature and top-p, float64 [.., k], each summing to 1.

    log_m: [.., k], log-probabilities up to a constant. temperature 0 is greedy (the first wins
    a tie).
    """
    logits: Float = np.asarray(log_m, np.float64)
    if temperature == 0.0:
        greedy = np.zeros_like(logits)
        np.put_along_axis(greedy, np.argmax(logits, axis=-1, keepdims=True), 1.0, axis=-1)
        return greedy
    logits = logits - logits.max(axis=-1, keepdims=True)
    if temperature != 1.0:
        with np.errstate(over="ignore"):  # a tiny temperature sends all but the best to −inf
            logits /= temperature
    probs: Float = np.exp(logits, out=logits)
    probs /= probs.sum(axis=-1, keepdims=True)
    if top_p < 1.0:
        order = np.argsort(-probs, axis=-1, kind="stable")
        ranked = np.take_along_axis(probs, order, axis=-1)
        before = np.cumsum(ranked, axis=-1) - ranked  # the first token is always kept
        np.put_along_axis(probs, order, np.where(before < top_p, ranked, 0.0), axis=-1)
        probs /= np.sum(probs, axis=-1, keepdims=True)
    return probs


def sample(probs: Float, rng: np.random.Generator) -> int:
    """One index into probs [k], by inversion of one uniform number."""
    return sample_at(probs, rng.random())


def sample_at(probs: Float, point: float) -> int:
    """The index at a point in [0, 1) of probs [k], one after the other."""
    cumulative = probs.cumsum()
    drawn = int(cumulative.searchsorted(point * cumulative[-1], side="right"))
    if drawn < len(probs) and probs[drawn] > 0.0:
        return drawn
    return min(drawn, int(np.flatnonzero(probs)[-1]))


def law_of(rows: StepRows, row: int, shape: Law | None) -> Law:
    """One row of an answer, its tail shaped by `shape`."""
    ids, logp, tail = rows.row(row)
    if ids is None:
        return Law(logp)
    is_again = ids[1:] == ids[:-1]
    if is_again.any():  # drawn tokens repeat
        new = np.concatenate(([True], ~is_again))
        ids, logp = ids[new], logp[new]
    return Law(logp, ids, tail, shape)


def _union(
    parts: Sequence[Ids],
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], Ids]:
    """How to add up over the union of ascending ids: the order that sorts their concatenation,
    where each distinct id begins in it, and the distinct ids."""
    joined = np.concatenate(parts)
    order = np.argsort(joined, kind="stable")  # merges what is sorted already
    ranked = joined[order]
    starts = np.flatnonzero(np.concatenate(([True], ranked[1:] != ranked[:-1])))
    return order, starts, ranked[starts]


def _unlisted(shape: Law, ids: Ids) -> float:
    """1 − b(S), kept above what rounding leaves of a sum of float32s."""
    return max(1.0 - float(np.exp(shape.at(ids)).sum()), 1e-6)


def _logs(mass: Float) -> Logs:
    with np.errstate(divide="ignore"):
        return np.minimum(np.maximum(np.log(mass), LOWEST), 0.0).astype(np.float32)
