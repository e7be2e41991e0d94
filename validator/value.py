"""What an expert is worth beside the others: expectations over random sets, and a bound on them.

M items, n experts, the baseline b, which is in every set. Of a set S of experts, at one item,

    m_S = Σ_{i ∈ S ∪ b} w_i q_i(y) / Σ_{i ∈ S ∪ b} w_i         v(S) = ln m_S − ln q_b(y)   (nats)
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Float = npt.NDArray[np.float64]

BOUND_Z = 1.2816  # the normal law's 90 % quantile
_STEP, _FIRST_NODE, _LAST_NODE = math.log(2.0), math.exp(-8.0), 18.0
_CHUNK_VALUES = 2**15


def random_marginals(joint: Float, weight: Float, presence: Float) -> Float:
    """E[v(S ∪ i) − v(S)] of every expert i at every item, in nats: float64 [M, n].

    S has each other expert j in it with probability presence[j], independently; presence is [n], or
    [M, n] where it is another at each item.
    """
    gain = mean_log_gain(joint[:, :-1], joint[:, -1], presence)
    return gain - mean_log_gain(weight[:, :-1], weight[:, -1], presence)


@np.errstate(under="ignore")  # what is next to nothing is nothing
def mean_log_gain(x: Float, base: Float, presence: Float) -> Float:
    """E ln(1 + x_i / (base + Σ_{j ∈ S, j ≠ i} x_j)) over random S: [M, n] → [M, n].

    With ln a = ∫ (e^−s − e^−sa) ds / s the expectation is one integral of a product,

        ∫ (1 − e^−s·x_i) e^−s·base ∏_{j ≠ i} (1 − p_j (1 − e^−s·x_j)) ds / s,

    by the trapezoidal rule in ln s, which converges exponentially: within 2e-6 at this step. So it
    takes n steps instead of 2ⁿ coalitions. Each s is twice the one before, so with u = 1 − e^−s·x
    the next u is u (2 − u), to the last bits and without an exponential. base / Σ x must be at
    least 1e-33.
    """
    out, presence = np.empty_like(x), np.broadcast_to(presence, x.shape)
    total = base + x.sum(axis=1)
    alike = np.argsort(base / total)  # need as many steps
    rows_at_once = max(1, _CHUNK_VALUES // max(1, x.shape[1]))
    for begin in range(0, len(x), rows_at_once):
        rows = alike[begin : begin + rows_at_once]
        y, b, p = x[rows] / total[rows, None], base[rows] / total[rows], presence[rows]
        s, last = _FIRST_NODE, _LAST_NODE / b.min()
        gain = y * (_STEP * s / math.expm1(_STEP))  # of all nodes before the first
        silent, there = -np.expm1(-s * y), np.empty_like(y)
        while s < last:
            np.subtract(1.0, np.multiply(p, silent, out=there), out=there)
            part = there.prod(axis=1) * np.exp(-s * b) * _STEP
            np.multiply(np.divide(silent, there, out=there), part[:, None], out=there)
            gain += there
            silent *= np.subtract(2.0, silent, out=there)
            s *= 2.0
        out[rows] = gain
    return out


def values_and_bounds(marginal: Float, walk: npt.NDArray[np.integer]) -> tuple[Float, Float]:
    """[M, n] → means over items [n], and mean − 1.2816 · s / √walks over the walks' means.

    Tokens of a walk depend on each other, so walks are the sample; one walk bounds nothing.
    """
    order = np.argsort(walk, kind="stable")
    begins = np.flatnonzero(np.append(True, np.diff(walk[order]) != 0))
    sums = np.add.reduceat(marginal[order], begins, axis=0)
    value: Float = sums.sum(axis=0) / len(walk)
    if len(begins) < 2:
        return value, np.full(len(value), -np.inf)
    means = sums / np.diff(begins, append=len(walk))[:, None]
    return value, value - BOUND_Z * means.std(axis=0, ddof=1) / math.sqrt(len(begins))


def by_walk(values: Float, walk: npt.NDArray[np.integer]) -> list[Float]:
    """Items' values grouped by walk."""
    order = np.argsort(walk, kind="stable")
    cuts = np.flatnonzero(np.diff(walk[order])) + 1
    return np.split(values[order], cuts)
