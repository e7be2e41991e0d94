"""What a request may ask of a law before it is drawn from: offsets on tokens, and a grammar.

    m'(x) ∝ m(x) · e^o(x) · [x is allowed]

A law of listed tokens is bent where it is listed. Too little may be left of it: then there is
nothing to renormalise, and the law whose shape its tail has (the student's, else the baseline's),
which knows every token, is bent and drawn from instead.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from moesubnet.mixture.law import Law, Mixture
from moesubnet.mixture.mixing import Float, Ids, Mask

LEAST_KEPT = 0.01  # of a mixture's mass; below it what is listed tells too little


def bend(mixture: Mixture, ids: Ids, offsets: Float, allowed: Mask | None = None) -> Mixture:
    """The mixture to draw from; its law, which is what is reported, stays what it was.

    ids, offsets: [b], ids ascending and distinct. allowed: [V], at least one; None: all.
    `left_out` becomes the most in total variation between what is drawn and the members' true
    laws, bent; 1 where it is drawn from the tail's shape.
    """
    law, log_drawn = mixture.law, np.asarray(mixture.log_drawn, np.float64)
    bent = _bent(law.ids, log_drawn, ids, offsets, allowed)
    kept = float(np.exp(bent).sum())
    # Σ w_i r_i may truly lie on any token, also on the one that is raised most.
    beyond = mixture.left_out * float(np.exp(offsets.max(initial=0.0)))
    left_out = beyond / (kept + beyond) if beyond else 0.0
    if law.ids is None:
        return replace(mixture, log_drawn=bent, left_out=left_out)
    raised = (offsets > 0.0) & ~np.isin(ids, law.ids, assume_unique=True)
    if raised.any():  # whoever raises a token wants it, so it counts as the tail has it
        law, log_drawn = _listing(law, log_drawn, ids[raised])
        bent = _bent(law.ids, log_drawn, ids, offsets, allowed)
        kept = float(np.exp(bent).sum())
    if kept < LEAST_KEPT and (size := _vocabulary(law, allowed)):
        every = np.arange(size) if allowed is None else np.flatnonzero(allowed[:size])
        base = np.zeros(len(every)) if law.shape is None else law.shape.at(every)
        logp = law.at(every)
        tail = max(0.0, 1.0 - float(np.exp(logp).sum()))
        bent = _bent(every, base, ids, offsets, None)
        return Mixture(Law(logp, every, tail, law.shape), bent, 1.0, is_fallback=True)
    return replace(mixture, law=law, log_drawn=bent, left_out=left_out)


def _bent(
    listed: Ids | None, log_drawn: Float, ids: Ids, offsets: Float, allowed: Mask | None
) -> Float:
    bent = np.array(log_drawn, np.float64)
    if listed is None:
        bent[ids] += offsets
    elif len(ids):
        place = np.minimum(np.searchsorted(listed, ids), len(listed) - 1)
        found = listed[place] == ids
        bent[place[found]] += offsets[found]
    if allowed is not None:
        bent[~(allowed[: len(bent)] if listed is None else allowed[listed])] = -np.inf
    return bent


def _listing(law: Law, log_drawn: Float, ids: Ids) -> tuple[Law, Float]:
    """The same law with some unlisted tokens listed, as its tail has them."""
    assert law.ids is not None
    logp = law.at(ids)
    places = np.searchsorted(law.ids, ids)
    tail = max(0.0, law.tail - float(np.exp(logp).sum()))
    wider = Law(np.insert(law.logp, places, logp), np.insert(law.ids, places, ids), tail, law.shape)
    return wider, np.insert(log_drawn, places, logp)


def _vocabulary(law: Law, allowed: Mask | None) -> int:
    """V; 0 where nobody knows."""
    while law.ids is not None and law.shape is not None:
        law = law.shape
    if law.ids is None:
        return len(law.logp)
    return 0 if allowed is None else len(allowed)
