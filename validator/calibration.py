"""Whether an expert means what it says: how its labels surprised it, against its own entropy.

A label drawn from the law q surprises it by E[−ln q(y)] = H(q). So the gap

    g = Σ_k a_k (−ln q_k(y_k) − H(q_k)) / Σ_k a_k        (nats per token, over the items k)

is 0 in expectation for laws that are true, positive for laws that claim too much, as those of an
expert that over-corrects for the others, and negative for laws that claim too little. It is the
score test of the family q^β at β = 1, of a temperature that is right. Pure; a fact, not a verdict:
small honest models are not calibrated on text of other kinds (docs/incentive.md).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from moesubnet.mixture.sheet import LOG_Q_UNANSWERED, MICRO, Sheet
from moesubnet.validator.value import BOUND_Z, Float, by_walk


@dataclass(frozen=True, slots=True)
class Gap:
    """g and 1.2816 standard errors of it, over walks; nats per token. NaN: nothing to say."""

    nats: float
    error_nats: float


def calibration(sheet: Sheet, column: int) -> tuple[Gap, Gap]:
    """An expert's gap over all items that it answered, and weighted by its part of the mixture."""
    answered = sheet.log_q[:, column] > LOG_Q_UNANSWERED
    surprise = -(sheet.log_q[answered, column] / MICRO) - sheet.entropy[answered, column] / MICRO
    walk, weight = sheet.walk[answered], np.exp(sheet.log_w[answered, column] / MICRO)
    return _gap(surprise, np.ones(len(walk)), walk), _gap(surprise, weight, walk)


def _gap(surprise: Float, weight: Float, walk: np.ndarray) -> Gap:
    """A ratio estimate: tokens of a walk depend on each other, so walks are the sample."""
    if not len(walk) or not weight.any():
        return Gap(math.nan, math.nan)
    total = math.fsum(weight)
    gap = math.fsum(weight * surprise) / total
    residuals = [math.fsum(part) for part in by_walk(weight * (surprise - gap), walk)]
    if len(residuals) < 2:
        return Gap(gap, math.nan)
    variance = math.fsum(r * r for r in residuals) * len(residuals) / (len(residuals) - 1)
    return Gap(gap, BOUND_Z * math.sqrt(variance) / total)
