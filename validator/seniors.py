"""Who was here before, and what an expert has that they do not.

Experts have an order. What an expert adds to those before it (*novelty*), and how far its words
are from what they would have said (*distance*), give its *standing* t ∈ [0, 1]: 1 for who knows
something of its own, 0 for whom its seniors explain, be it a copy with noise or a mixture of them
all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from moesubnet.mixture.sheet import LOG_Q_FLOOR, LOG_Q_UNANSWERED, MICRO, Sheet

Float = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.intp]

# What an expert adds counts under the best of these multiples of its weight: a newcomer's prior,
# or an explained expert's, is small for reasons that say nothing about it.
SCALES = (1.0, 4.0, 16.0, 64.0, 256.0)
# Who only weighs others more evenly, forgets their evidence sooner, or repeats one of them louder
# has nothing to say.
POWERS = (1.0, 0.25)  # of weights
QUICK = 0.5  # instead of a router's memory of 0.95 a token
LOUDER = (0.0, 2.0, 16.0, 128.0)
LOG_W_MOST = 600.0  # of quick weights, either way: exp of it is a normal float64
LACKING_LEAST = 1e-3  # nats
TINY = np.finfo(np.float64).tiny
_CHUNK_VALUES = 2**15  # as many of an array stay in a cache
NOVELTY_ENOUGH = 0.008  # nats added where it speaks, of each nat that its seniors' mixture lacks
DISTANCE_ENOUGH = 0.5  # mean square, cut to 1, of ln q − ln m
# Less is enough of who is near one senior, and no relay of it as it answers no later: as far from
# all mixtures as from that one, which of a sibling (another training of one base) is 0.15 and more.
SIBLING_LEAST = 0.12
SHORT = 0.05  # who mixes a twentieth of others into its own never says less of what they say
WAITS = 0.8  # who answers a fifth of what is unsure before another has not all from that one
SENIOR_STANDING = 0.5  # who has so much once is a senior from then on
GRACE_MILLIS = 3_000  # of an epoch: so long a newcomer comes before those who never added anything


def standing_ppm(novelty_ppm: int, distance: float) -> int:
    known = min(1.0, max(0.0, novelty_ppm / MICRO / NOVELTY_ENOUGH))
    return round(known * min(1.0, distance) ** 4 * MICRO)


def by_seniority(sheet: Sheet) -> list[int]:
    """Columns, the most senior first.

    First those who once had something of their own, by the epoch in which they had it first, then
    the older registration. Then newcomers, then those who were asked long enough and never had;
    of these who waited for fewer of them comes first (who repeats others has to wait for them),
    then the older registration, and who gave no answer last.
    """
    fresh = [i for i, since in enumerate(sheet.since_before) if since is None]
    silent = np.all(sheet.took_100us == 0, axis=0)

    def rank(i: int) -> tuple[int, float, int, int]:
        since, age = sheet.since_before[i], sheet.age_millis[i]
        if since is not None:
            return 0, since, -age, sheet.uids[i]
        waits = math.inf if silent[i] else len(waited_for(sheet, i, fresh))
        return 1 if age <= GRACE_MILLIS else 2, waits, -age, sheet.uids[i]

    return sorted(range(len(sheet.uids)), key=rank)


def waited_for(sheet: Sheet, i: int, others: Sequence[int]) -> list[int]:
    """Those of `others` that came before i wherever they were not sure (`late`), and could not be
    asked beforehand: who repeats another where it guessed right waits for it elsewhere."""
    columns = list(others)
    both = (sheet.log_q[:, [i]] > LOG_Q_UNANSWERED) & (sheet.log_q[:, columns] > LOG_Q_UNANSWERED)
    unsure = both * sheet.unforeseen[:, columns] * sheet.entropy[:, columns] / MICRO
    after = unsure * late(sheet.took_100us[:, [i]], sheet.took_100us[:, columns])
    waited = is_most(after.sum(axis=0), unsure.sum(axis=0))
    return [columns[k] for k in np.flatnonzero(waited)]


@dataclass(frozen=True)
class Beside:
    """Experts next to their seniors' mixtures. added: [M, n], nats at the weights that they have;
    novelty: [n], see NOVELTY_ENOUGH; distance: [n], of what is enough."""

    added: Float
    novelty: Float
    distance: Float


@np.errstate(under="ignore")
def beside_seniors(
    joint: Float,
    weight: Float,
    quick: Float,
    order: Sequence[int],
    entropy: Float,
    took: npt.NDArray[np.integer],
) -> Beside:
    """joint, weight: [M, n + 1], w_i q_i(y) and w_i, the baseline last; quick: log-weights with a
    shorter memory (`quick_log_weights`); order: of the n columns; entropy, took: [M, n], nats of
    its law and when its answer came, 0: none did.

    The seniors' mixture is taken as anybody could improve it who has nothing to say (POWERS,
    QUICK, and with the expert's nearest senior so much louder, LOUDER), and as does them best on
    these items. Novelty is what an expert adds to that one; distance is the least to any, of
    DISTANCE_ENOUGH, or if that is less and it did not wait for its nearest senior (`late`) of
    how far that one is. Both are means weighted by the expert's part r of the mixture that it
    joins, so what it says where nobody would listen does not count.
    """
    rows = [-1, *order]  # arrays from here on: [n + 1, M] or, without the baseline, [n, M]
    said = weight.T[rows] > 0
    log_w = np.log(np.where(said, weight.T[rows], 1.0))
    log_q = np.log(np.where(said, joint.T[rows], 1.0)) - log_w
    q, x = np.exp(log_q), log_q[1:]
    mixtures = [
        _among(q, power * given, said) for given in (log_w, quick.T[rows]) for power in POWERS
    ]
    plain = mixtures[0]
    part = _parts(plain.w / (plain.low + plain.w))
    near = _nearest(x, said[1:], part)
    at_once = max(1, _CHUNK_VALUES // x.shape[1])
    chunks = [np.arange(i, min(i + at_once, len(x))) for i in range(0, len(x), at_once)]
    judged = [_judged(mixtures, x, near, rows) for rows in chunks]
    novelty, distance, sibling = map(np.concatenate, zip(*judged, strict=True))
    alike = said[1:] * said[1:][near] * (1.0 - np.minimum((x - x[near]) ** 2, 1.0))
    unsure, came = entropy.T[rows[1:]], took.T[rows[1:]]
    alike *= part * unsure[near]
    waits = is_most((alike * late(came, came[near])).sum(axis=1), alike.sum(axis=1))
    enough = np.where((near >= 0) & ~waits, sibling, DISTANCE_ENOUGH)
    added = np.log1p(plain.j / plain.top) - np.log1p(plain.w / plain.low)
    back = np.argsort(order)
    return Beside(added[back].T, novelty[back], (distance / enough)[back])


def late(took: npt.NDArray[np.integer], other: npt.NDArray[np.integer]) -> Mask:
    """Where an answer came after another's. Who repeats another has to wait for it, at every item;
    of experts that are as quick each comes after the other half of the time, however much a machine
    holds them up. Items are weighed by how unsure the other one was there, as to say the same
    sooner of what is plain to all shows nothing."""
    after: Mask = (took > other) & (other > 0)
    return after


def is_most(after: Float, whole: Float) -> Mask:
    """Whether so much of a weight is of who waited."""
    most: Mask = after >= WAITS * np.maximum(whole, TINY)
    return most


def _judged(
    mixtures: Sequence[_Among], x: Float, near: Indices, rows: Indices
) -> tuple[Float, Float, Float]:
    """Novelty, distance and the least that is distance enough of the experts in `rows`."""
    best = _Among(*(a[rows] for a in mixtures[0]))
    most = np.full(len(rows), -np.inf)
    log_ms = []
    for terms in mixtures:
        own = _Among(*(a[rows] for a in terms))
        loud_j, loud_w = ((near[rows] >= 0)[:, None] * a[near[rows]] for a in (terms.j, terms.w))
        for factor in LOUDER:
            joined = own._replace(top=own.top + factor * loud_j, low=own.low + factor * loud_w)
            log_ms.append(np.log(joined.top / joined.low))
            mean = log_ms[-1].mean(axis=1)
            better = np.flatnonzero(mean > most)
            most[better] = mean[better]
            for kept, found in zip(best, joined, strict=True):
                kept[better] = found[better]
    gain, part = _gain(best)
    lacking = np.maximum(-(part * np.log(best.top / best.low)).sum(axis=1), LACKING_LEAST)
    novelty = np.clip((part * gain).sum(axis=1) / lacking, -1.0, 1.0)
    distance = np.min([_apart(part, x[rows], log_m) for log_m in log_ms], axis=0)
    sibling = np.clip(_apart(part, x[rows], x[near[rows]]), SIBLING_LEAST, DISTANCE_ENOUGH)
    return novelty, distance, sibling


class BesideMixtures(NamedTuple):
    """An expert next to mixtures of others, over the items that it answered. apart: the least
    distance to any, by its own weight. short: [4], the part of items at which it says less than
    SHORT of what they do without the baseline, nobody louder; and the baseline of the same."""

    apart: Float
    short: Float
    baseline_short: Float


@np.errstate(under="ignore")
def beside_mixtures(
    joint: Float,
    weight: Float,
    quick: Float,
    one: int,
    others: Sequence[int],
    short_of: float = SHORT,
) -> BesideMixtures:
    """Of those mixtures that `beside_seniors` takes. Arrays as there, columns; of an expert that
    answered something. short_of: instead of SHORT."""
    answered = weight[:, one] > 0
    joint, weight, quick = joint[answered], weight[answered], quick[answered]
    said, rows = weight > 0, [weight.shape[1] - 1, *others]
    x = np.log(np.where(said, joint, 1.0)) - np.log(np.where(said, weight, 1.0))
    q, part = np.exp(x), _parts((weight[:, one] / weight.sum(axis=1))[None])
    near = min(others, key=lambda j: float(_apart(part, x[:, one], x[:, j])[0]))
    apart, short = [], []
    for given in (np.log(np.where(said, weight, 1.0)), quick):
        for power in POWERS:
            w = np.where(said, np.exp(power * given), 0.0)
            top, low = (w * q)[:, rows].sum(axis=1), w[:, rows].sum(axis=1)
            m = (w * q)[:, others].sum(axis=1) / np.maximum(w[:, others].sum(axis=1), TINY)
            short.append((q[:, [one, -1]] < short_of * m[:, None]).mean(axis=0))
            for factor in LOUDER:
                louder = factor * w[:, near]
                log_m = np.log((top + louder * q[:, near]) / (low + louder))
                apart.append(float(_apart(part, x[:, one], log_m)[0]))
    return BesideMixtures(np.min(apart), *np.transpose(short))


def quick_log_weights(
    log_q: Float, log_w: Float, walk: npt.NDArray[np.integer], position: npt.NDArray[np.integer]
) -> Float:
    """[M, n + 1] → [M, n + 1]: as `log_w` at a walk's first item; from then on evidence fades by
    QUICK an item. Relative to the baseline, the last column; silence counts as the baseline does,
    so both arrays have its values there."""
    order = np.lexsort((position, walk))
    log_q, log_w = (a[order] - a[order, -1:] for a in (log_q, log_w))
    first = np.append(True, np.diff(walk[order]) != 0)
    nth = np.arange(len(order)) - np.maximum.accumulate(np.where(first, np.arange(len(order)), 0))
    out = np.empty_like(log_w)
    out[first] = log_w[first]
    for n in range(1, nth.max(initial=0) + 1):
        rows = np.flatnonzero(nth == n)
        out[rows] = QUICK * out[rows - 1] + log_q[rows - 1]
    back = np.argsort(order)
    return np.clip(out[back], -LOG_W_MOST, LOG_W_MOST)


class _Among(NamedTuple):
    """Experts in their order, each with the mixture of those before it: w q, w, and its Σ of them,
    all [n, M]."""

    j: Float
    w: Float
    top: Float
    low: Float


def _among(q: Float, log_w: Float, said: Mask) -> _Among:
    """Of [n + 1, M], the baseline first."""
    w = np.where(said, np.exp(log_w), 0.0)
    j = w * q
    top, low = (np.stack(list(accumulate(part[:-1]))) for part in (j, w))
    return _Among(j[1:], w[1:], top, low)


def _nearest(x: Float, said: Mask, r: Float) -> Indices:
    """The row of the senior whose words are most like each one's, −1 for the first: by
    E_r[(ln q_i − ln q_j)²], where a senior's silence is as far as can be."""
    square = (r * x**2).sum(axis=1)[:, None] - 2 * (r * x) @ x.T + r @ (x**2).T
    square += LOG_Q_FLOOR**2 * (r @ (~said).T.astype(np.float64))
    senior = np.tri(len(square), k=-1) > 0
    found = np.argmin(np.where(senior, square, np.inf), axis=1)
    return np.where(senior.any(axis=1), found, -1)


def _gain(terms: _Among) -> tuple[Float, Float]:
    """What each one adds to its mixture at the best of SCALES, and its part of it, which sums to 1
    over the items: [n, M]."""
    gain, part = np.zeros_like(terms.j), np.zeros_like(terms.j)
    most = np.full(len(terms.j), -np.inf)
    for scale in SCALES:
        j, w = scale * terms.j, scale * terms.w
        more, louder = j / terms.top, w / terms.low
        scaled = np.log1p((more - louder) / (1.0 + louder))  # ln (1 + more) − ln (1 + louder)
        mean = scaled.mean(axis=1)
        better = np.flatnonzero(mean > most)
        gain[better] = scaled[better]
        part[better] = (w / (terms.low + w))[better]
        most[better] = mean[better]
    return gain, _parts(part)


def _apart(part: Float, one: Float, other: Float) -> Float:
    """[n], of log-probabilities [n, M]."""
    distance: Float = (part * np.minimum((one - other) ** 2, 1.0)).sum(axis=1)
    return distance


def _parts(part: Float) -> Float:
    """Each row's parts of its own sum; of nothing nothing."""
    total: Float = np.maximum(part.sum(axis=1, keepdims=True), TINY)
    return part / total
