"""Who says in another's walks what that one says.

Standing is one number an expert: it asks how much of all that it says is its own. An expert of its
own making may lean on one other wherever that one is better, if it asks it and waits for its
answer. So in each walk an expert stands as far as it is there from each senior that it waited for.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import numpy.typing as npt

from moesubnet.mixture.sheet import U8, WHOLE
from moesubnet.validator.seniors import is_most, late
from moesubnet.validator.value import Float

FAR_ITEMS = 2  # that each walk is taken to have besides its own: few tokens tell little
USUAL_ITEMS = 4  # likewise, of who came first, as in all walks
FAR_ENOUGH = 0.45  # of experts of their own making in one kind of text 0.3 to 0.8


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
    nearest senior j that it waited for there it is min(1, d / FAR_ENOUGH)⁴, with

        d = (FAR_ITEMS + Σ e) / (FAR_ITEMS + items),   e = min((ln q_i − ln q_j − mean)², 1)

    over the walk's items that both answered. The mean (of what is cut to ±1) is taken off, as who
    mixes what a senior says with something else says all of it by so much less; one token weighs
    no more than 1, or a few words of its own would hide the others. It waited for j if its answers
    came after j's (`late`) at WAITS of the walk's items and of USUAL_ITEMS such as it has in all
    walks, each by 1 − e: what is not j's need not be waited for.
    """
    by_walk = np.argsort(walk, kind="stable")
    walk, weight, entropy, took = (
        walk[by_walk],
        weight[by_walk, :-1],
        entropy[by_walk],
        took[by_walk],
    )
    said = weight > 0
    x = np.log(np.where(said, joint[by_walk, :-1], 1.0)) - np.log(np.where(said, weight, 1.0))
    out = np.full((walks, x.shape[1]), WHOLE, np.uint8)
    for place, one in enumerate(order):
        rows = np.flatnonzero(said[:, one])
        seniors = [j for j in order[:place] if np.any(said[rows, j])]
        if not seniors:
            continue
        theirs = np.ix_(rows, np.array(seniors))
        both = said[theirs].astype(np.float64)
        there, begins, of = np.unique(walk[rows], return_index=True, return_inverse=True)
        each = partial(np.add.reduceat, indices=begins, axis=0)  # [walks that it is in, seniors]
        delta, items = x[rows, one][:, None] - x[theirs], each(both)
        mean = each(both * np.clip(delta, -1.0, 1.0)) / np.maximum(items, 1.0)
        far = both * np.minimum((delta - mean[of]) ** 2, 1.0)
        apart = (FAR_ITEMS + each(far)) / (FAR_ITEMS + items)
        alike = (both - far) * entropy[theirs]
        after = alike * late(took[rows, one][:, None], took[theirs])
        usual = USUAL_ITEMS / both.sum(axis=0)
        after, alike = (each(part) + usual * part.sum(axis=0) for part in (after, alike))
        waited = (items > 0) & is_most(after, alike)
        nearest = np.where(waited, np.minimum(apart, FAR_ENOUGH), FAR_ENOUGH).min(axis=1)
        out[there, one] = np.rint((nearest / FAR_ENOUGH) ** 4 * WHOLE)
    return out
