"""Checks on what experts say, each with what it can and cannot tell. Pure.

A private expert (a commitment and nothing more) can be asked the same twice: in one moment by two
callers, and again in a later epoch. An open one (its weights can be fetched by their hash) can be
replayed: one prefill of what it answered. None of this says how an answer was made. Figures of
honest pairs, made by benchmarks/check_calibration.py, are in docs/incentive.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from moesubnet.mixture.law import Law

# Of laws in one moment. Of honest pairs the largest was 0.09, float32 against int8 of one model.
TWICE_DISTANCE = 0.15
REPLAY_RATIO = 0.1  # of the median; GRAIL's check of log-probabilities has the same
REPLAY_ROWS = 32  # fewer prove nothing
HEAD_MASS = 0.95  # less than any caller asks for, so rounding leaves nothing of it out
OVER_HONEST = 1e-3  # at most so often is an honest pair over its threshold
OVER_CHEAT = 0.2  # what we want to find soon
ALARM = 1e6  # pairs between two false alarms, at least
OK_PAIRS = 14  # in a row below: a cheat has that by chance in 0.8¹⁴ = 4 %


class Verdict(StrEnum):
    """`unproven` never counts against anybody."""

    OK = "ok"
    CHEAT = "cheat"
    UNPROVEN = "unproven"


def total_variation(one: Law, other: Law) -> float:
    """½ Σ |p − q| in [0, 1]: how differently two callers are served. Of laws that list a part, the
    least that it can be, wherever their tails lie."""
    ids = _common(one, other)
    p, q = np.exp(one.at(ids)), np.exp(other.at(ids))
    return max(_more(p, one, q, other), _more(q, other, p, one))


def _more(p: np.ndarray, one: Law, q: np.ndarray, other: Law) -> float:
    """Σ max(p − q, 0), p and q of what both list: of what one lists alone, the other has its tail
    at most."""
    alone = float(np.exp(one.logp, dtype=np.float64).sum() - p.sum())
    return float(np.maximum(p - q, 0.0).sum()) + max(0.0, alone - other.tail)


def median_ratio(theirs: Law, ours: Law, tokens: int = 32) -> float:
    """The median of |exp(Δ log p) − 1| over the likeliest tokens of our law, which lists those: of
    a replay, by our own prefill. Where theirs lists a part, over those that it lists and those that
    it should have listed (our likeliest that hold HEAD_MASS): at the most that it left them. NaN
    where that says nothing of half of them."""
    best = np.argsort(-ours.logp, kind="stable")[:tokens]
    q = np.exp(ours.logp[best], dtype=np.float64)
    ids = best if ours.ids is None else ours.ids[best]
    p = np.exp(theirs.at(ids))
    if theirs.ids is not None:
        most = min(theirs.tail, float(np.exp(theirs.logp.min())))
        is_listed = np.isin(ids, theirs.ids)
        p = np.where(is_listed, p, np.minimum(q, most))
        counts = is_listed | (np.cumsum(q) - q < HEAD_MASS)
        if np.mean((is_listed | (p < q))[counts]) <= 0.5:
            return math.nan
        p, q = p[counts], q[counts]
    return float(np.median(np.abs(p / q - 1.0)))


def _common(one: Law, other: Law) -> np.ndarray:
    listed = [law.ids for law in (one, other) if law.ids is not None]
    if len(listed) == 2:
        return np.intersect1d(listed[0], listed[1])
    return listed[0] if listed else np.arange(len(one.logp))


@dataclass(frozen=True, slots=True)
class Record:
    """What is known of one expert by pairs of its own answers, or by groups of them replayed.

    suspicion is Shiryaev and Roberts' statistic R ← (1 + R)·L, L the likelihood ratio of a pair
    over the threshold (or below it) between OVER_CHEAT and OVER_HONEST. While the expert is honest
    its mean is the number of pairs, so ALARM is reached once in ALARM pairs at most, and an expert
    that turns after long honesty is found as soon as one that never was.
    """

    pairs: int = 0
    over: int = 0
    below_in_a_row: int = 0
    suspicion: float = 0.0

    def after(self, is_over: bool) -> Record:
        ratio = OVER_CHEAT / OVER_HONEST if is_over else (1 - OVER_CHEAT) / (1 - OVER_HONEST)
        return Record(
            self.pairs + 1,
            self.over + is_over,
            0 if is_over else self.below_in_a_row + 1,
            min((1.0 + self.suspicion) * ratio, 1e12),
        )

    @property
    def verdict(self) -> Verdict:
        if self.suspicion >= ALARM:
            return Verdict.CHEAT
        return Verdict.OK if self.below_in_a_row >= OK_PAIRS else Verdict.UNPROVEN


@dataclass(frozen=True, slots=True)
class Claim:
    """What an expert's card said in an epoch. url: where its weights are; none: private."""

    epoch: int
    commitment: str
    url: str | None


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a replay of an open expert found. epoch: of the answers; ratio: their median."""

    epoch: int
    commitment: str
    rows: int
    ratio: float
    verdict: Verdict


def replay_verdict(ratios: Sequence[float], impostors: Sequence[float]) -> Verdict:
    """Of an open expert's answers against our own prefill of its weights: the median of the rows'
    medians. Fewer than REPLAY_ROWS prove nothing, and a replay between half of the threshold and
    twice of it is another device's rounding or a mild quantisation: nobody can say. Nor can anybody
    where `impostors`, medians of those who never ran the model, would not be called cheats."""
    if len(ratios) < REPLAY_ROWS or not all(map(math.isfinite, ratios)) or not _tells(impostors):
        return Verdict.UNPROVEN
    middle = float(np.median(ratios))
    if middle > 2 * REPLAY_RATIO:
        return Verdict.CHEAT
    return Verdict.OK if middle < REPLAY_RATIO / 2 else Verdict.UNPROVEN


def are_over(ratios: Sequence[float], impostors: Sequence[float]) -> list[bool]:
    """For a `Record` of replays: of each REPLAY_ROWS answers whether their median is a cheat's. Of
    what is left over, and where impostors would pass, nothing."""
    if not _tells(impostors):
        return []
    groups = range(0, len(ratios) - REPLAY_ROWS + 1, REPLAY_ROWS)
    return [float(np.median(ratios[k : k + REPLAY_ROWS])) > 2 * REPLAY_RATIO for k in groups]


def _tells(impostors: Sequence[float]) -> bool:
    return all(middle > 2 * REPLAY_RATIO for middle in impostors)
