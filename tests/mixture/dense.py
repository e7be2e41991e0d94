"""The oracle of laws: vectors of the whole vocabulary, and the formulas over them."""

import numpy as np

from moesubnet.mixture.mixing import log_sum_exp


def dense(law, vocab):
    """float64 [vocab], log-probabilities by the definition of a law."""
    if law.ids is None:
        return law.logp.astype(np.float64)
    base = np.exp(dense(law.shape, vocab))
    unlisted = np.ones(vocab, bool)
    unlisted[law.ids] = False
    p = np.where(unlisted, law.tail * base / base[unlisted].sum(), 0.0)
    p[law.ids] = np.exp(law.logp.astype(np.float64))
    with np.errstate(divide="ignore"):
        return np.log(p)


def mix_dense(log_w, log_p):
    """log_w [.., E], log_p [.., E, V] → log m [.., V]."""
    return log_sum_exp(np.asarray(log_w)[..., None] + log_p, axis=-2)


def entropy_dense(log_p):
    p = np.exp(log_p)
    return -np.sum(np.where(p > 0, p * np.where(p > 0, log_p, 0.0), 0.0), axis=-1)
