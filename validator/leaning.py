"""Who says in another's walks what that one says.

Standing is one number an expert: it asks how much of all that it says is its own. An expert of its
own making may lean on one other wherever that one is better, if it asks it and waits for its
answer. So in each walk an expert stands as far as it is there from each senior that answers sooner.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from moesubnet.mixture.sheet import U8, WHOLE
from moesubnet.validator.seniors import DISTANCE_ENOUGH
from moesubnet.validator.value import Float

FAR_ITEMS = 2  # that each walk is taken to have besides its own: few tokens tell little


def apart_in_walks(
    joint: Float,
    weight: Float,
    walk: npt.NDArray[np.integer],
    walks: int,
    order: Sequence[int],
    answer_ms: Sequence[int | None],
) -> U8:
    """[walks, n]: the part of its standing that each expert has in each walk, in 255ths.

    joint, weight: [M, n + 1], w_i q_i(y) and w_i; walk: [M], < walks; order: of the n columns, the
    most senior first; answer_ms: [n], as in a sheet. Of the nearest senior j that answers sooner it
    is min(1, d / DISTANCE_ENOUGH)⁴ as in a standing, with

        d = (FAR_ITEMS + Σ (δ − mean δ)²) / (FAR_ITEMS + items),  δ = ln q_i − ln q_j

    over the walk's items that both answered. The mean is taken off, as who mixes what a senior says
    with something else says all of it by so much less.
    """
    said = weight[:, :-1] > 0
    x = np.log(np.where(said, joint[:, :-1], 1.0)) - np.log(np.where(said, weight[:, :-1], 1.0))
    took = np.array([math.inf if ms is None else ms for ms in answer_ms])
    place = np.argsort(order)
    waits = (place[:, None] > place) & (took[:, None] > took)  # [i, j]: i may have asked j
    out = np.full((walks, x.shape[1]), WHOLE, np.uint8)
    if not waits.any():
        return out
    other = np.where(waits, 0.0, math.inf)
    for one in np.unique(walk):
        rows = np.flatnonzero(walk == one)
        there, q = said[rows].astype(np.float64), x[rows]
        items, squares = there.T @ there, q**2
        sums = np.concatenate([q, -there]).T @ np.concatenate([there, q])  # Σ δ
        far = np.concatenate([squares, there, -2.0 * q]).T @ np.concatenate([there, squares, q])
        far -= sums**2 / np.maximum(items, 1.0)  # Σ (δ − mean δ)²
        nearest = ((FAR_ITEMS + np.maximum(far, 0.0)) / (FAR_ITEMS + items) + other).min(axis=1)
        out[one] = np.rint(np.minimum(1.0, nearest / DISTANCE_ENOUGH) ** 4 * WHOLE)
    return out
