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
    out = np.empty((rows, width), np.float32)
    step = max(1, _BLOCK_VALUES // width)
    scratch = np.empty((min(step, rows), width), np.float32)
    for begin in range(0, rows, step):
        block = out[begin : begin + step]
        block[:] = logprobs[begin : begin + step]
        top = block.max(axis=1)  # NaN and +inf show here, -inf in the minimum
        if not (bool((top <= 0.0).all()) and np.isfinite(block.min())):
            raise BadDistribution("a log-probability is not finite or is positive")
        powers = scratch[: len(block)]
        np.exp(block, out=powers)
        mass = powers.sum(axis=1)
        _check_mass(mass, most)
        block -= np.log(mass)[:, None]
        np.minimum(block, 0.0, out=block)  # rounding may leave a sure token a hair above one
    return out


def check_listed(
    ids: Ids,
    logprobs: NDArray[np.generic],
    tail_mass: NDArray[np.generic],
    vocab_size: int,
    *,
    distinct: bool,
) -> tuple[Rows, Rows]:
    """[rows, k] listed tokens and [rows] tail → float32 log-probabilities and tail of mass 1.

    Ids may repeat only where `distinct` is false, and then with one log-probability. Raises
    BadDistribution.
    """
    most = 1.0 + MASS_TOLERANCE[logprobs.dtype]
    values = check_scores(logprobs)
    if ids.size and int(ids.max()) >= vocab_size:
        raise BadDistribution("a listed token is outside the vocabulary")
    order = np.argsort(ids, axis=1, kind="stable")
    by_id = np.take_along_axis(values, order, axis=1)
    repeated = _repeats(np.take_along_axis(ids, order, axis=1))
    if distinct and bool(repeated.any()):
        raise BadDistribution("a token is listed twice")
    if bool((repeated[:, 1:] & (by_id[:, 1:] != by_id[:, :-1])).any()):
        raise BadDistribution("a token has two log-probabilities")
    tail = tail_mass.astype(np.float64)
    if not bool(((tail >= 0.0) & (tail <= most)).all()):
        raise BadDistribution("a tail mass is outside [0, 1]")
    mass = np.where(repeated, 0.0, np.exp(by_id, dtype=np.float64)).sum(axis=1) + tail
    _check_mass(mass, most)
    values -= np.log(mass)[:, None].astype(np.float32)
    return np.minimum(values, 0.0, out=values), (tail / mass).astype(np.float32)


def spread(ids: Ids, logprobs: Rows, tail_mass: Rows, vocab_size: int) -> Rows:
    """Listed rows as f32 [rows, vocab_size]: the tail's mass evenly over the unlisted tokens."""
    listed = (~_repeats(np.sort(ids, axis=1))).sum(axis=1)
    with np.errstate(divide="ignore"):
        level = np.log(tail_mass) - np.log(np.maximum(vocab_size - listed, 1))
    rows = np.empty((len(ids), vocab_size), np.float32)
    rows[:] = np.maximum(level, LOWEST)[:, None]
    np.put_along_axis(rows, ids.astype(np.intp), logprobs, axis=1)
    return rows


def nucleus(logprobs: NDArray[np.floating], k: int, mass: float) -> list[NDArray[np.intp]]:
    """For each row [V] the columns, ascending, of the fewest tokens that hold `mass`, at most k."""
    k = min(k, logprobs.shape[1])
    best = np.argpartition(-logprobs, k - 1, axis=1)[:, :k]
    values = np.take_along_axis(logprobs, best, axis=1)
    order = np.argsort(-values, axis=1, kind="stable")
    held = np.exp(np.take_along_axis(values, order, axis=1), dtype=np.float64)
    counts = (np.cumsum(held, axis=1) - held < mass).sum(axis=1)
    ranked = np.take_along_axis(best, order, axis=1)
    return [np.sort(row[:count]) for row, count in zip(ranked, counts, strict=True)]


def draw(logprobs: Rows, count: int, rng: np.random.Generator) -> Ids:
    """u32 [rows, count]: tokens drawn from each row's law, with replacement."""
    edges = np.cumsum(np.exp(logprobs, dtype=np.float64), axis=1)
    points = rng.random((len(edges), count)) * edges[:, -1:]
    drawn = [np.searchsorted(row, x, side="right") for row, x in zip(edges, points, strict=True)]
    return np.array(drawn, np.uint32).reshape(len(edges), count)


def _repeats(sorted_ids: Ids) -> NDArray[np.bool_]:
    """Where a sorted row holds the same id as one place before."""
    repeated = np.zeros(sorted_ids.shape, np.bool_)
    repeated[:, 1:] = sorted_ids[:, 1:] == sorted_ids[:, :-1]
    return repeated


def _check_mass(mass: NDArray[np.floating], most: float) -> None:
    if not bool(((mass > 0.0) & (mass <= most)).all()):
        raise BadDistribution("a row's mass is zero or above one")
