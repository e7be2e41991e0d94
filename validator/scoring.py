"""From a sheet's items to its vote: standing, values, bounds, moving averages, the u16 row.

Pure arithmetic on what a sheet holds, so `recount` is at once how a validator votes and how
anybody checks the vote. M items, n experts, the baseline b. Of a set S of experts, at one item,

    m_S = Σ_{i ∈ S ∪ b} w_i q_i(y) / Σ_{i ∈ S ∪ b} w_i         v(S) = ln m_S − ln q_b(y)   (nats)

1. Seniors. Experts have an order (`by_seniority`). What an expert adds to those before it, and how
   far its words are from what they would have said, give its *standing* t ∈ [0, 1]: 1 for who
   knows something of its own, 0 for whom its seniors explain, be it a copy with noise or a mixture
   of them all (`beside_seniors`).
2. Values. A set that is drawn at random has expert j in it with probability t_j / 2, so those who
   are explained stand in nobody's way, and an expert's worth is t · E[v(S ∪ i) − v(S)] + (1 − t) ·
   (what it adds to its seniors). With t = 1 for all that is the Banzhaf value.
3. Score: the mean over items, if its lower 90 % bound over walks is positive, times reliability.

docs/incentive.md says why, and what was measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from moesubnet.mixture.sheet import (
    LOG_Q_ABSENT,
    LOG_Q_FLOOR,
    LOG_Q_UNANSWERED,
    MICRO,
    NANO,
    Sheet,
)
from moesubnet.units import max_upscale_u16

Float = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.intp]

BOUND_Z = 1.2816  # the normal law's 90 % quantile
EMA_SHARE = 0.3  # of the newest epoch
LOG_W_LEAST = -600.0  # keeps exp(log_w) · q a normal float64
BASE_LEAST = 1e-20  # the baseline's least part of all weight
# What an expert adds counts under the best of these multiples of its weight: a newcomer's prior,
# or an explained expert's, is small for reasons that say nothing about it.
SCALES = (1.0, 4.0, 16.0, 64.0, 256.0)
POWERS = (1.0, 0.5, 0.25, 0.1)  # of weights: who only weighs others more evenly has nothing to say
LOUDER = (0.0, 2.0, 16.0, 128.0)  # who only repeats one senior has nothing to say either
LACKING_LEAST = 1e-3  # nats
NOVELTY_ENOUGH = 0.008  # nats added where it speaks, of each nat that its seniors' mixture lacks
DISTANCE_ENOUGH = 0.5  # mean square, cut to 1, of ln q − ln m
NOVELTY_SHARE = 0.2  # of the newest epoch
SENIOR_STANDING = 0.5  # who has so much once is a senior from then on
GRACE_MILLIS = 3_000  # of an epoch: so long a newcomer comes before those who never added anything
_STEP, _FIRST_NODE, _LAST_NODE = 0.75, -8.0, math.log(18.0)
_CHUNK_VALUES = 2**15


@dataclass(frozen=True)
class Recount:
    """What follows from a sheet's items. Arrays and tuples over its n columns."""

    value_nats: Float  # of this epoch, nats per token
    bound_nats: Float  # its lower 90 % bound
    added_nats: Float  # what it adds to its seniors' mixture
    distance: Float  # how far it is from that mixture, 0 … 1
    reliability_ppm: tuple[int, ...]
    novelty_after: tuple[int | None, ...]  # ppm
    standing_ppm: tuple[int, ...]
    since: tuple[int | None, ...]
    score_nano: tuple[int, ...]  # this epoch's, nano-nats
    ema_after: tuple[int | None, ...]
    row_u16: tuple[int, ...]


def recount(sheet: Sheet) -> Recount:
    """Repeat a sheet's vote. An honest sheet's row differs by at most 1 in every u16."""
    n = len(sheet.hotkeys)
    reliability = _reliability(sheet)
    value, bound, added, distance = np.zeros(n), np.full(n, -np.inf), np.zeros(n), np.zeros(n)
    novelty, standing = list(sheet.novelty_before), [0] * n
    if n and len(sheet.walk):
        joint, weight = _terms(sheet)
        beside = beside_seniors(joint, weight, by_seniority(sheet))
        added, distance = beside.added.mean(axis=0), beside.distance
        for i in np.flatnonzero(weight[:, :-1].any(axis=0)).tolist():
            before, now = sheet.novelty_before[i], round(float(beside.novelty[i]) * MICRO)
            novelty[i] = now if before is None else _ema(before, now, NOVELTY_SHARE)
            standing[i] = _standing_ppm(novelty[i] or 0, float(distance[i]))
        t = np.array(standing) / MICRO
        # What a router would not have asked has no part in what users get.
        chosen = np.insert(sheet.chosen[sheet.walk], n, 1, axis=1)
        alone = chosen[:, :-1] * beside.added
        marginal = t * random_marginals(chosen * joint, chosen * weight, t / 2) + (1.0 - t) * alone
        for i in range(n):
            value[i], bound[i] = value_and_bound(marginal[:, i], sheet.walk)
    paid = [bool(bound[i] > 0) for i in range(n)]
    score = tuple(
        round(value[i] * reliability[i] / MICRO * NANO) if paid[i] else 0 for i in range(n)
    )
    # A measurement in which nobody was worth anything says more about it than about them.
    after = tuple(map(ema, sheet.ema_before, score)) if any(paid) else sheet.ema_before
    row = tuple(max_upscale_u16([average or 0 for average in after]))
    since = tuple(
        sheet.epoch if before is None and standing[i] >= SENIOR_STANDING * MICRO else before
        for i, before in enumerate(sheet.since_before)
    )
    return Recount(
        value,
        bound,
        added,
        distance,
        reliability,
        tuple(novelty),
        tuple(standing),
        since,
        score,
        after,
        row,
    )


def ema(before: int | None, score: int) -> int:
    """Moving average in nano-nats; the first value is taken whole."""
    return score if before is None else _ema(before, score, EMA_SHARE)


def _ema(before: int, now: int, share: float) -> int:
    return round(share * now + (1 - share) * before)


def _standing_ppm(novelty_ppm: int, distance: float) -> int:
    known = min(1.0, max(0.0, novelty_ppm / MICRO / NOVELTY_ENOUGH))
    return round(known * min(1.0, distance / DISTANCE_ENOUGH) ** 4 * MICRO)


def by_seniority(sheet: Sheet) -> list[int]:
    """Columns, the most senior first.

    First those who once had something of their own, by the epoch in which they had it first; then
    newcomers; then those who were asked long enough and never had. Within each the older
    registration, then the smaller uid.
    """

    def rank(i: int) -> tuple[int, int, int, int]:
        since, age = sheet.since_before[i], sheet.age_millis[i]
        kind = 0 if since is not None else 1 if age <= GRACE_MILLIS else 2
        return kind, since or 0, -age, sheet.uids[i]

    return sorted(range(len(sheet.uids)), key=rank)


@dataclass(frozen=True)
class Beside:
    """Experts next to their seniors' mixtures. added: [M, n], nats at the weights that they have;
    novelty, distance: [n], see NOVELTY_ENOUGH and DISTANCE_ENOUGH."""

    added: Float
    novelty: Float
    distance: Float


@np.errstate(under="ignore")
def beside_seniors(joint: Float, weight: Float, order: Sequence[int]) -> Beside:
    """joint, weight: [M, n + 1], w_i q_i(y) and w_i, the baseline last; order: of the n columns.

    The seniors' mixture is taken as anybody could improve it who has nothing to say: with the
    power of the weights (POWERS), and with the expert's nearest senior heard so much louder
    (LOUDER), that do best on these items. Novelty is what an expert adds to that one; distance is
    the least to any. Both are means weighted by the expert's part r of the mixture that it joins,
    so what it says where nobody would listen does not count.
    """
    columns = list(order)
    log_w = np.log(np.where(weight > 0, weight, 1.0))
    log_q = np.log(np.where(weight > 0, joint, 1.0)) - log_w
    plain = _among(log_q, log_w, weight > 0, columns)
    x, w = log_q[:, columns], plain.w
    near = _nearest(x, w, w / (plain.low + w))
    best, most = plain, np.full(len(columns), -np.inf)
    log_ms = []
    for power in POWERS:
        terms = _among(log_q, power * log_w, weight > 0, columns)
        for louder in LOUDER:
            joined = _louder(terms, near, louder)
            log_ms.append(np.log(joined.top / joined.low))
            mean = log_ms[-1].mean(axis=0)
            best = _where(mean > most, joined, best)
            most = np.maximum(mean, most)
    gain, part = _gain(best)
    log_m = np.log(best.top / best.low)
    lacking = np.maximum(-(part * log_m).sum(axis=0), LACKING_LEAST)
    novelty = np.clip((part * gain).sum(axis=0) / lacking, -1.0, 1.0)
    distance = np.min(
        [(part * np.where(w > 0, np.minimum((x - m) ** 2, 1.0), 0.0)).sum(axis=0) for m in log_ms],
        axis=0,
    )
    added = np.log1p(plain.j / plain.top) - np.log1p(plain.w / plain.low)
    back = np.argsort(columns)
    return Beside(added[:, back], novelty[back], distance[back])


class _Among(NamedTuple):
    """Experts in their order, each with the mixture of those before it: w q, w, and its Σ of them,
    all [M, n]."""

    j: Float
    w: Float
    top: Float
    low: Float


def _among(log_q: Float, log_w: Float, said: Mask, columns: Sequence[int]) -> _Among:
    w = np.where(said, np.exp(log_w), 0.0)
    j = w * np.exp(log_q)
    top, low = (
        np.cumsum(np.hstack([part[:, -1:], part[:, columns[:-1]]]), axis=1) for part in (j, w)
    )
    return _Among(j[:, columns], w[:, columns], top, low)


def _louder(terms: _Among, near: Indices, factor: float) -> _Among:
    """With each one's nearest senior `factor` times more in its mixture."""
    if not factor:
        return terms
    there = factor * (near >= 0)
    top, low = terms.top + there * terms.j[:, near], terms.low + there * terms.w[:, near]
    return terms._replace(top=top, low=low)


def _where(column: Mask, yes: _Among, no: _Among) -> _Among:
    return _Among(*(np.where(column, a, b) for a, b in zip(yes, no, strict=True)))


def _nearest(log_q: Float, weight: Float, part: Float) -> Indices:
    """The column of the senior whose words are most like each one's, −1 for the first: by
    E_r[(ln q_i − ln q_j)²], where a senior's silence is as far as can be."""
    r = part / np.maximum(part.sum(axis=0), np.finfo(np.float64).tiny)
    square = (r * log_q**2).sum(axis=0)[:, None] - 2 * (r * log_q).T @ log_q + r.T @ log_q**2
    square += LOG_Q_FLOOR**2 * (r.T @ (weight == 0))
    senior = np.tri(len(square), k=-1) > 0
    found = np.argmin(np.where(senior, square, np.inf), axis=1)
    return np.where(senior.any(axis=1), found, -1)


def _gain(terms: _Among) -> tuple[Float, Float]:
    """What each one adds to its mixture at the best of SCALES, and its part of it, which sums to 1
    over the items: [M, n]."""
    gain, part = np.zeros_like(terms.j), np.zeros_like(terms.j)
    most = np.full(terms.j.shape[1], -np.inf)
    for scale in SCALES:
        j, w = scale * terms.j, scale * terms.w
        scaled = np.log1p(j / terms.top) - np.log1p(w / terms.low)
        better = scaled.mean(axis=0) > most
        gain[:, better] = scaled[:, better]
        part[:, better] = (w / (terms.low + w))[:, better]
        most = np.maximum(most, scaled.mean(axis=0))
    return gain, part / np.maximum(part.sum(axis=0), np.finfo(np.float64).tiny)


def random_marginals(joint: Float, weight: Float, presence: Float) -> Float:
    """E[v(S ∪ i) − v(S)] of every expert i at every item, in nats: float64 [M, n].

    S has each other expert j in it with probability presence[j], independently.
    """
    gain = mean_log_gain(joint[:, :-1], joint[:, -1], presence)
    return gain - mean_log_gain(weight[:, :-1], weight[:, -1], presence)


@np.errstate(under="ignore")  # what is next to nothing is nothing
def mean_log_gain(x: Float, base: Float, presence: Float) -> Float:
    """E ln(1 + x_i / (base + Σ_{j ∈ S, j ≠ i} x_j)) over random S: [M, n] → [M, n].

    With ln a = ∫ (e^−s − e^−sa) ds / s the expectation is one integral of a product,

        ∫ (1 − e^−s·x_i) e^−s·base ∏_{j ≠ i} (1 − p_j (1 − e^−s·x_j)) ds / s,

    by the trapezoidal rule in ln s, which converges exponentially: within 1e-5 at this step. So it
    takes n steps instead of 2ⁿ coalitions. base / Σ x must be at least 1e-33.
    """
    out = np.empty_like(x)
    rows_at_once = max(1, _CHUNK_VALUES // max(1, x.shape[1]))
    for begin in range(0, len(x), rows_at_once):
        rows = slice(begin, begin + rows_at_once)
        total = base[rows] + x[rows].sum(axis=1)
        y, b = x[rows] / total[:, None], base[rows] / total
        nodes = np.exp(np.arange(_FIRST_NODE, _LAST_NODE - math.log(b.min()) + _STEP, _STEP))
        gain = y * (_STEP * nodes[0] / math.expm1(_STEP))  # of all nodes before the first
        for s in nodes:
            silent = 1.0 - np.exp(-s * y)
            there = 1.0 - presence * silent
            gain += silent / there * (there.prod(axis=1) * np.exp(-s * b) * _STEP)[:, None]
        out[rows] = gain
    return out


def value_and_bound(marginal: Float, walk: npt.NDArray[np.integer]) -> tuple[float, float]:
    """Mean over items [M], and mean − 1.2816 · s / √walks over the walks' means.

    Tokens of a walk depend on each other, so walks are the sample; one walk bounds nothing.
    """
    value = math.fsum(marginal) / len(marginal)
    means = [math.fsum(part) / len(part) for part in by_walk(marginal, walk)]
    if len(means) < 2:
        return value, -math.inf
    centre = math.fsum(means) / len(means)
    variance = math.fsum((x - centre) ** 2 for x in means) / (len(means) - 1)
    return value, value - BOUND_Z * math.sqrt(variance / len(means))


def _terms(sheet: Sheet) -> tuple[Float, Float]:
    """joint, weight: [M, n + 1] of a sheet's items; 0 for who gave no answer."""
    present = sheet.log_q > LOG_Q_UNANSWERED
    weight = np.where(present, np.exp(np.maximum(sheet.log_w / MICRO, LOG_W_LEAST)), 0.0)
    weight[:, -1] = np.maximum(weight[:, -1], BASE_LEAST * weight.sum(axis=1))
    return weight * np.where(present, np.exp(sheet.log_q / MICRO), 0.0), weight


def _reliability(sheet: Sheet) -> tuple[int, ...]:
    """Answered / asked per column, in millionths; never asked is 0."""
    columns = sheet.log_q[:, :-1]
    asked = np.sum(columns != LOG_Q_ABSENT, axis=0)
    answered = np.sum(columns > LOG_Q_UNANSWERED, axis=0)
    return tuple(int(a) * MICRO // int(b) if b else 0 for a, b in zip(answered, asked, strict=True))


def by_walk(values: Float, walk: npt.NDArray[np.integer]) -> list[Float]:
    """Items' values grouped by walk."""
    order = np.argsort(walk, kind="stable")
    cuts = np.flatnonzero(np.diff(walk[order])) + 1
    return np.split(values[order], cuts)
