"""From a sheet's items to its vote: cluster values, bounds, moving averages, the u16 row.

Pure arithmetic on what a sheet holds, so `recount` is at once how a validator votes and how
anybody checks the vote. M items, n experts, C clusters, K coalitions.

    v(S) = mean over items of  ln( Σ_{i ∈ S ∪ baseline} w_i q_i(y) / Σ w_i )  −  ln q_baseline(y)

An expert's score is the Banzhaf value of its cluster (all members of a cluster play together, its
leader is paid), if the lower 90 % bound over walks is positive, times its reliability.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moesubnet.mixture.law import Law, hellinger_squared
from moesubnet.mixture.sheet import LOG_Q_ABSENT, LOG_Q_UNANSWERED, MICRO, NANO, Sheet
from moesubnet.units import max_upscale_u16

Float = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

EXACT_CLUSTERS = 12
SAMPLED_COALITIONS = 512
BOUND_Z = 1.2816  # the normal law's 90 % quantile
EMA_SHARE = 0.3  # of the newest epoch
CLONE_DISTANCE = 0.01  # mean squared Hellinger distance below which two experts are one
LOG_W_LEAST = -600.0  # keeps exp(log_w) · q a normal float64
_CHUNK_VALUES = 2**22


@dataclass(frozen=True)
class Recount:
    """What follows from a sheet's items. Arrays over its n columns; clones have their leader's
    value and bound, and no score."""

    value_nats: Float  # Banzhaf value, nats per token
    bound_nats: Float  # its lower 90 % bound
    reliability_ppm: tuple[int, ...]
    score_nano: tuple[int, ...]  # this epoch's, nano-nats
    ema_after: tuple[int | None, ...]
    row_u16: tuple[int, ...]


def recount(sheet: Sheet) -> Recount:
    """Repeat a sheet's vote. An honest sheet's row differs by at most 1 in every u16."""
    n = len(sheet.hotkeys)
    reliability = _reliability(sheet)
    value, bound = np.zeros(n), np.full(n, -np.inf)
    if n and len(sheet.walk):
        leaders = sorted(set(sheet.leaders))
        marginals = banzhaf(*_cluster_terms(sheet, leaders), sheet.seed)
        for player, leader in enumerate(leaders):
            members = [i for i in range(n) if sheet.leaders[i] == leader]
            value[members], bound[members] = value_and_bound(marginals[:, player], sheet.walk)
    paid = [sheet.leaders[i] == i and bound[i] > 0 for i in range(n)]
    score = tuple(
        round(max(0.0, value[i]) * reliability[i] / MICRO * NANO) if paid[i] else 0
        for i in range(n)
    )
    # A measurement in which nobody was worth anything says more about it than about them.
    after = tuple(map(ema, sheet.ema_before, score)) if any(paid) else sheet.ema_before
    row = tuple(max_upscale_u16([average or 0 for average in after]))
    return Recount(value, bound, reliability, score, after, row)


def ema(before: int | None, score: int) -> int:
    """Moving average in nano-nats; the first value is taken whole."""
    if before is None:
        return score
    return round(EMA_SHARE * score + (1 - EMA_SHARE) * before)


def banzhaf(
    joint: Float, weight: Float, base_joint: Float, base_weight: Float, seed: bytes
) -> Float:
    """Banzhaf marginals of every cluster at every item: float64 [M, C], in nats.

    joint, weight: [M, C], a cluster's Σ w_i q_i(y) and Σ w_i; base_*: [M], the baseline's.
    Exact up to EXACT_CLUSTERS, else the mean over SAMPLED_COALITIONS drawn with `seed`.
    """
    drawn = coalitions(joint.shape[1], seed)
    marginals = np.empty_like(joint)
    step = max(1, _CHUNK_VALUES // len(drawn))
    for begin in range(0, len(joint), step):
        rows = slice(begin, begin + step)
        for player in range(joint.shape[1]):
            others = drawn.copy()
            others[:, player] = False
            top = base_joint[rows, None] + joint[rows] @ others.T
            low = base_weight[rows, None] + weight[rows] @ others.T
            gain = np.log1p(joint[rows, player, None] / top)
            gain -= np.log1p(weight[rows, player, None] / low)
            marginals[rows, player] = gain.mean(axis=1)
    return marginals


def coalitions(players: int, seed: bytes) -> Float:
    """0/1 float64 [K, players]: every coalition, or SAMPLED_COALITIONS out of SHAKE-256(seed)."""
    if players <= EXACT_CLUSTERS:
        every = np.arange(2**players)[:, None] >> np.arange(players) & 1
        return every.astype(np.float64)
    octets = -(-players // 8)
    stream = hashlib.shake_256(seed).digest(SAMPLED_COALITIONS * octets)
    bits = np.unpackbits(
        np.frombuffer(stream, np.uint8).reshape(SAMPLED_COALITIONS, octets), axis=1
    )
    return bits[:, :players].astype(np.float64)


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


def cluster_leaders(
    distance: Float, seniority: Sequence[tuple[int, ...]], threshold: float = CLONE_DISTANCE
) -> tuple[int, ...]:
    """Each column's leader: by seniority, the first leader that it is near to, else itself.

    Who is near to two leaders does not join them: one expert must not make clones of others.
    distance: [n, n] mean squared Hellinger distances, NaN where two were never seen together;
    seniority: the smallest leads.
    """
    leader_of, leaders = list(range(len(seniority))), list[int]()
    for i in sorted(leader_of, key=lambda i: seniority[i]):
        leader_of[i] = next((j for j in leaders if distance[i, j] < threshold), i)
        if leader_of[i] == i:
            leaders.append(i)
    return tuple(leader_of)


class Distances:
    """Squared Hellinger distances of n experts, added up over the laws that they gave together.

    distance: float64 [n, n]; together: int64 [n, n], how many laws went into it.
    """

    def __init__(self, n: int) -> None:
        self.distance, self.together = np.zeros((n, n)), np.zeros((n, n), np.int64)

    def add(self, laws: Mapping[int, Law]) -> None:
        """Laws of one position, by column."""
        if laws:
            pairs = np.ix_(list(laws), list(laws))
            self.distance[pairs] += hellinger_squared(list(laws.values()))
            self.together[pairs] += 1

    @property
    def mean(self) -> Float:
        """[n, n]; NaN where two were never seen together."""
        mean: Float = np.full(self.distance.shape, np.nan)
        np.divide(self.distance, self.together, out=mean, where=self.together > 0)
        return mean


def _cluster_terms(sheet: Sheet, leaders: list[int]) -> tuple[Float, Float, Float, Float]:
    """joint [M, C], weight [M, C], base_joint [M], base_weight [M] of a sheet's items."""
    present = sheet.log_q > LOG_Q_UNANSWERED
    log_w = np.maximum(sheet.log_w / MICRO, LOG_W_LEAST)
    weight = np.where(present, np.exp(log_w), 0.0)
    joint = np.where(present, weight * np.exp(sheet.log_q / MICRO), 0.0)
    member = np.array([[sheet.leaders[i] == c for c in leaders] for i in range(len(sheet.leaders))])
    return joint[:, :-1] @ member, weight[:, :-1] @ member, joint[:, -1], weight[:, -1]


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
