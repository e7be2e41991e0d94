"""Who says in another's walks what that one says.

Standing is one number an expert: it asks how much of all that it says is its own. An expert of its
own making may lean on one other wherever that one is better, if it asks it and waits for its
answer. So in each walk an expert stands as far as it is there from each senior that it waited for.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from moesubnet.mixture.sheet import U8, WHOLE
from moesubnet.validator.seniors import DISTANCE_ENOUGH, WAITS, Mask, late
from moesubnet.validator.value import Float

FAR_ITEMS = 2  # that each walk is taken to have besides its own: few tokens tell little
USUAL_ITEMS = 4  # likewise, of who came first, as in all walks


def apart_in_walks(
    joint: Float,
    weight: Float,
    walk: npt.NDArray[np.integer],
    walks: int,
    order: Sequence[int],
    entropy: Float,
    took: npt.NDArray[np.integer],
) -> U8:
    """[walks, n]: the part of its standing that each expert has in each walk, in 255ths.

    joint, weight: [M, n + 1], w_i q_i(y) and w_i; walk: [M], < walks; order: of the n columns, the
    most senior first; entropy, took: [M, n], nats of its law and when its answer came. Of the
    nearest senior j that it waited for there it is min(1, d / DISTANCE_ENOUGH)⁴ as in a standing,
    with

        d = (FAR_ITEMS + Σ (δ − mean δ)²) / (FAR_ITEMS + items),  δ = ln q_i − ln q_j

    over the walk's items that both answered. The mean is taken off, as who mixes what a senior says
    with something else says all of it by so much less. It waited for j if its answers came after
    j's (`late`) at WAITS of the walk's items and USUAL_ITEMS such as it has in all walks.
    """
    said = weight[:, :-1] > 0
    x = np.log(np.where(said, joint[:, :-1], 1.0)) - np.log(np.where(said, weight[:, :-1], 1.0))
    place = np.argsort(order)
    rows_of = {int(one): np.flatnonzero(walk == one) for one in np.unique(walk)}
    out = np.full((walks, x.shape[1]), WHOLE, np.uint8)
    near = np.zeros((x.shape[1], x.shape[1]), np.bool_)  # [i, j]: i in some walk to its senior j
    for rows in rows_of.values():
        near |= _apart(x[rows], said[rows]) < DISTANCE_ENOUGH
    near &= place[:, None] > place
    usual = np.zeros((2, *near.shape))  # of an item: what of it came late, and all
    for one in np.flatnonzero(near.any(axis=1)).tolist():
        seniors = np.flatnonzero(near[one])
        both = said[:, [one]] & said[:, seniors]
        sums = late(entropy[:, seniors] * both, took[:, [one]], took[:, seniors])
        usual[:, one, seniors] = sums / both.sum(axis=0)
    for k, rows in rows_of.items() if near.any() else ():
        apart = _apart(x[rows], said[rows])
        i, j = np.nonzero(near & (apart < DISTANCE_ENOUGH))
        there, came = said[rows], took[rows]
        came_late, whole = USUAL_ITEMS * usual[:, i, j] + late(
            entropy[rows][:, j] * (there[:, i] & there[:, j]), came[:, i], came[:, j]
        )
        waits = (whole > 0) & (came_late >= WAITS * whole)
        nearest = np.full(x.shape[1], DISTANCE_ENOUGH)
        np.minimum.at(nearest, i[waits], apart[i[waits], j[waits]])
        out[k] = np.rint((nearest / DISTANCE_ENOUGH) ** 4 * WHOLE)
    return out


def _apart(x: Float, said: Mask) -> Float:
    """d of each with each: [n, n], of one walk's log-probabilities [items, n]."""
    there, squares = said.astype(np.float64), x**2
    items = there.T @ there
    sums = np.concatenate([x, -there]).T @ np.concatenate([there, x])  # Σ δ
    far = np.concatenate([squares, there, -2.0 * x]).T @ np.concatenate([there, squares, x])
    far -= sums**2 / np.maximum(items, 1.0)  # Σ (δ − mean δ)²
    apart: Float = (FAR_ITEMS + np.maximum(far, 0.0)) / (FAR_ITEMS + items)
    return apart
