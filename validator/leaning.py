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

from moesubnet.validator.seniors import DISTANCE_ENOUGH
from moesubnet.validator.value import Float

FAR_ITEMS = 2  # that each walk is taken to have besides its own: few tokens tell little


def apart_in_walks(
    joint: Float,
    weight: Float,
    walk: npt.NDArray[np.integer],
    order: Sequence[int],
    answer_ms: Sequence[int | None],
) -> Float:
    """[M, n]: the part of its standing that each expert has in the walk of each item.

    joint, weight: [M, n + 1], w_i q_i(y) and w_i; order: of the n columns, the most senior first;
    answer_ms: [n], as in a sheet. Of the nearest senior j that answers sooner it is
    min(1, d / DISTANCE_ENOUGH)⁴ as in a standing, with

        d = (FAR_ITEMS + Σ (δ − mean δ)²) / (FAR_ITEMS + items),  δ = ln q_i − ln q_j

    over the walk's items that both answered. The mean is taken off, as who mixes what a senior says
    with something else says all of it by so much less.
    """
    said = weight[:, :-1] > 0
    x = np.log(np.where(said, joint[:, :-1], 1.0)) - np.log(np.where(said, weight[:, :-1], 1.0))
    took = np.array([math.inf if ms is None else ms for ms in answer_ms])
    place = np.argsort(order)
    waits = (place[:, None] > place) & (took[:, None] > took)  # [i, j]: i may have asked j
    out = np.ones_like(x)
    if not waits.any():
        return out
    for one in np.unique(walk):
        rows = np.flatnonzero(walk == one)
        there, q = said[rows].T.astype(np.float64), x[rows].T
        items, sums, squares = there @ there.T, q @ there.T, q**2 @ there.T
        spread = squares + squares.T - 2.0 * q @ q.T - (sums - sums.T) ** 2 / np.maximum(items, 1.0)
        far = (FAR_ITEMS + np.maximum(spread, 0.0)) / (FAR_ITEMS + items)
        nearest = np.where(waits, far, math.inf).min(axis=1)
        out[rows] = np.minimum(1.0, nearest / DISTANCE_ENOUGH) ** 4
    return out
