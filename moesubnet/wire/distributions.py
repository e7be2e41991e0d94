"""Log-probabilities from strangers: refuse what is no distribution, renormalise what is.

Rows are checked and normalised in blocks that stay in the cache; the cost is numpy's own.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from moesubnet.errors import BadDistribution

# The lowest finite float16 stands for probability zero: exp of it is 0.0 in every precision.
LOWEST = -65504.0
MASS_TOLERANCE = {np.dtype("<f4"): 1e-3, np.dtype("<f2"): 1e-2}
_BLOCK_VALUES = 65_536

Rows = NDArray[np.float32]
Ids = NDArray[np.uint32]


def check_scores(logprobs: NDArray[np.generic]) -> Rows:
    """Single log-probabilities, any shape, as float32; BadDistribution unless finite and ≤ 0."""
    values = logprobs.astype(np.float32)
    if not bool(((values <= 0.0) & np.isfinite(values)).all()):
        raise BadDistribution("a log-probability is not finite or is positive")
    return values


def check_dense(logprobs: NDArray[np.generic]) -> Rows:
    """f16 or f32 [rows, V] → f32 [rows, V], each row's mass now 1.

    Raises BadDistribution for values that are not finite or positive, for mass above
    1 + tolerance, and for rows without any mass.
    """
    rows, width = logprobs.shape
    most = 1.0 + MASS_TOLERANCE[logprobs.dtype]
    step = max(1, _BLOCK_VALUES // width)
    if rows <= step:
        return _normalised(logprobs.astype(np.float32), most)
    out = np.empty((rows, width), np.float32)
    for begin in range(0, rows, step):
        block = logprobs[begin : begin + step].astype(np.float32)
        out[begin : begin + step] = _normalised(block, most)
    return out


def check_listed(
    row: NDArray[np.integer],
    ids: Ids,
    logprobs: NDArray[np.generic],
    tail_mass: NDArray[np.generic],
) -> tuple[Rows, Rows, NDArray[np.float64]]:
    """Tokens listed in ragged rows → float32 log-probabilities [n] and tails [rows], each row's
    mass now 1, and what was taken from its logarithms, log mass [rows].

    row, ids, logprobs: [n], ascending by row and then by id; tail_mass: [rows]. Where an id
    repeats it has one log-probability. Raises BadDistribution.
    """
    most = 1.0 + MASS_TOLERANCE[logprobs.dtype]
    values = check_scores(logprobs)
    listed = np.exp(values, dtype=np.float64)
    repeated = (row[1:] == row[:-1]) & (ids[1:] == ids[:-1])
    if bool(repeated.any()):
        if bool((values[1:] != values[:-1])[repeated].any()):
            raise BadDistribution("a token has two log-probabilities")
        listed[1:][repeated] = 0.0
    tail = tail_mass.astype(np.float64)
    if not bool(((tail >= 0.0) & (tail <= most)).all()):
        raise BadDistribution("a tail mass is outside [0, 1]")
    mass = np.bincount(row, listed, len(tail)) + tail
    _check_mass(mass, most)
    log_mass: NDArray[np.float64] = np.log(mass)
    values -= log_mass[row].astype(np.float32)
    return np.minimum(values, 0.0, out=values), (tail / mass).astype(np.float32), log_mass


def likeliest(logprobs: NDArray[np.floating], k: int) -> NDArray[np.intp]:
    """[rows, k] columns of the k largest of each row [V], the largest first; all of them where
    there are fewer."""
    k = min(k, logprobs.shape[1])
    best = np.argpartition(-logprobs, k - 1, axis=1)[:, :k]
    order = np.argsort(-np.take_along_axis(logprobs, best, axis=1), axis=1, kind="stable")
    return np.take_along_axis(best, order, axis=1)


def enough(ranked: NDArray[np.floating], mass: float) -> NDArray[np.bool_]:
    """Which of each row's log-probabilities [rows, k], the largest first, are the fewest that hold
    `mass`; all of them where they hold less."""
    held = np.exp(ranked, dtype=np.float64)
    kept: NDArray[np.bool_] = np.cumsum(held, axis=1) - held < mass
    return kept


def draw(logprobs: Rows, count: int, seed: int, first: int) -> Ids:
    """u32 [rows, count]: tokens drawn from each row's law, with replacement; the same for the same
    seed and position of a row, `first` being that of row 0."""
    ids = np.empty((len(logprobs), count), np.uint32)
    for position, (law, row) in enumerate(zip(logprobs, ids, strict=True), first):
        edges = np.cumsum(np.exp(law, dtype=np.float64))
        points = np.random.default_rng([seed, position]).random(count) * edges[-1]
        row[:] = np.searchsorted(edges, points, side="right")
    return ids


def _normalised(block: Rows, most: float) -> Rows:
    """In place."""
    # NaN and +inf show in the maximum, -inf in the minimum
    if block.size and not (block.max() <= 0.0 and block.min() > -np.inf):
        raise BadDistribution("a log-probability is not finite or is positive")
    mass = np.add.reduce(np.exp(block), axis=1)
    _check_mass(mass, most)
    block -= np.log(mass)[:, None]
    # Rounding may leave a sure token a hair above one.
    return np.minimum(block, 0.0, out=block)


def _check_mass(mass: NDArray[np.floating], most: float) -> None:
    if not all(0.0 < one <= most for one in mass.tolist()):
        raise BadDistribution("a row's mass is zero or above one")
