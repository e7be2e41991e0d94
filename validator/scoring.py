"""From a sheet's items to its vote: standing, values, bounds, moving averages, the u16 row.

Pure arithmetic on what a sheet holds, so `recount` is at once how a validator votes and how
anybody checks the vote.

1. Each expert's *standing* t, by what it has that its seniors have not (seniors.py); less in walks
   in which it says what a senior says that it waited for (leaning.py).
2. Values (value.py). A set that is drawn at random has expert j in it with probability t_j / 2, so
   those who are explained stand in nobody's way, and an expert's worth is t · E[v(S ∪ i) − v(S)] +
   (1 − t) · (what it adds to its seniors). With t = 1 for all that is the Banzhaf value.
3. Score: the mean over items, if its lower 90 % bound over walks is positive, times reliability.

docs/incentive.md says why, and what was measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from moesubnet.mixture.sheet import (
    I32,
    LOG_Q_ABSENT,
    LOG_Q_UNANSWERED,
    MICRO,
    NANO,
    U8,
    U32,
    WHOLE,
    Sheet,
)
from moesubnet.types import Hotkey
from moesubnet.units import max_upscale_u16
from moesubnet.validator.leaning import apart_in_walks
from moesubnet.validator.seniors import (
    SENIOR_STANDING,
    beside_seniors,
    by_seniority,
    quick_log_weights,
    standing_ppm,
)
from moesubnet.validator.value import Float, random_marginals, values_and_bounds

EMA_SHARE = 0.3  # of the newest epoch
NOVELTY_SHARE = 0.2
LOG_W_LEAST = -600.0  # keeps exp(log_w) · q a normal float64
BASE_LEAST = 1e-20  # the baseline's least part of all weight


@dataclass(frozen=True)
class Recount:
    """What follows from a sheet's items. Arrays and tuples over its n columns."""

    value_nats: Float  # of this epoch, nats per token
    bound_nats: Float  # its lower 90 % bound
    added_nats: Float  # what it adds to its seniors' mixture
    distance: Float  # how far it is from that mixture, of what is enough
    reliability_ppm: tuple[int, ...]
    novelty_after: tuple[int | None, ...]  # ppm
    standing_ppm: tuple[int, ...]
    apart: U8  # [W, n] as in a sheet
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
    apart = np.full((len(sheet.walks), n), WHOLE, np.uint8)
    if n and len(sheet.walk):
        joint, weight, quick = terms(sheet)
        order, entropy = by_seniority(sheet), sheet.entropy / MICRO
        beside = beside_seniors(joint, weight, quick, order, entropy, sheet.took_100us)
        added, distance = beside.added.mean(axis=0), beside.distance
        for i in np.flatnonzero(weight[:, :-1].any(axis=0)).tolist():
            before, now = sheet.novelty_before[i], round(float(beside.novelty[i]) * MICRO)
            novelty[i] = now if before is None else _ema(before, now, NOVELTY_SHARE)
            standing[i] = standing_ppm(novelty[i] or 0, float(distance[i]))
        apart = apart_in_walks(
            joint, weight, sheet.walk, len(apart), order, entropy, sheet.took_100us
        )
        t = np.rint(standing * (apart / WHOLE))[sheet.walk] / MICRO  # [M, n]
        # What a router would not have asked has no part in what users get.
        chosen = np.insert(sheet.chosen[sheet.walk], n, 1, axis=1)
        alone = chosen[:, :-1] * beside.added
        marginal = t * random_marginals(chosen * joint, chosen * weight, t / 2) + (1.0 - t) * alone
        value, bound = values_and_bounds(marginal, sheet.walk)
    paid = [bool(bound[i] > 0) for i in range(n)]
    score = tuple(
        round(value[i] * reliability[i] / MICRO * (1 + sheet.feedback_ppm[i] / MICRO) * NANO)
        if paid[i]
        else 0
        for i in range(n)
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
        apart,
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


class Items(Protocol):
    """Of a sheet, or asked like them."""

    @property
    def hotkeys(self) -> tuple[Hotkey, ...]: ...
    @property
    def log_q(self) -> I32: ...
    @property
    def log_w(self) -> I32: ...
    @property
    def walk(self) -> U32: ...
    @property
    def position(self) -> U32: ...


def terms(sheet: Items) -> tuple[Float, Float, Float]:
    """joint, weight: [M, n + 1] of a sheet's items, 0 for who gave no answer; quick log-weights."""
    present = sheet.log_q > LOG_Q_UNANSWERED
    weight = np.where(present, np.exp(np.maximum(sheet.log_w / MICRO, LOG_W_LEAST)), 0.0)
    weight[:, -1] = np.maximum(weight[:, -1], BASE_LEAST * weight.sum(axis=1))
    said, weighed = (np.where(present, a, a[:, -1:]) / MICRO for a in (sheet.log_q, sheet.log_w))
    quick = quick_log_weights(said, weighed, sheet.walk, sheet.position)
    return weight * np.where(present, np.exp(said), 0.0), weight, quick


def _reliability(sheet: Sheet) -> tuple[int, ...]:
    """Answered / asked per column, less what routers saw, in millionths; never asked is 0.

    Or its median over senders, if that is less: who answers a friend's calls and nobody else's
    answers no user. Of two senders neither is believed more, so the better one counts there.
    """
    reliability = []
    columns = zip(sheet.log_q[:, :-1].T, sheet.sender.T, sheet.usage_loss_ppm, strict=True)
    for log_q, sender, loss in columns:
        asked = log_q != LOG_Q_ABSENT
        answered = np.bincount(sender[log_q > LOG_Q_UNANSWERED], minlength=len(sheet.senders))
        of = np.bincount(sender[asked], minlength=len(sheet.senders))
        by_sender = np.sort(answered[of > 0] * MICRO // of[of > 0])
        mean = int(answered.sum()) * MICRO // max(1, int(of.sum()))
        ppm = min(mean, int(by_sender[len(by_sender) // 2])) if len(by_sender) else 0
        reliability.append(ppm * (MICRO - loss) // MICRO)
    return tuple(reliability)
