"""Distillation losses: pure functions of logits and targets, each a mean over N positions.

    Σ_i w_i · KL(p_i ‖ s) = KL(m ‖ s) + const        m = Σ_i w_i p_i

so the mixture is the teacher (the weighted sum of *reverse* KLs would train towards the geometric
mean). Forward KL comes in three forms, by how much of m was kept.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import log_softmax

TINY = 1e-7


def forward_kl(logits: Tensor, log_m: Tensor) -> Tensor:
    """KL(m ‖ s). logits, log_m: [N, V]."""
    log_s = log_softmax(logits, dim=-1)
    return (log_m.exp() * (log_m - log_s)).sum(-1).mean()


def forward_kl_listed(
    logits: Tensor, rows: Tensor, ids: Tensor, log_m: Tensor, tail: Tensor
) -> Tensor:
    """KL between coarse laws: the listed tokens and one bucket for all others.

    logits [N, V]; rows, ids int64 [n]: what is listed of which row, each token once; log_m [n];
    tail [N]: the mass of m that is not listed. A lower bound of KL(m ‖ s), equal to it when all
    is listed, whose gradient pulls neither head nor tail out of scale: with a renormalised head
    the student would never learn how much mass lies outside it.
    """
    log_s = logits[rows, ids] - logits.logsumexp(-1)[rows]
    nothing = logits.new_zeros(len(logits))
    head = nothing.index_add(0, rows, log_m.exp() * (log_m - log_s))
    tail_m = tail.clamp_min(TINY)
    tail_s = (1 - nothing.index_add(0, rows, log_s.exp())).clamp_min(TINY)
    return (head + tail_m * (tail_m.log() - tail_s.log())).mean()


def sampled_cross_entropy(logits: Tensor, ids: Tensor) -> Tensor:
    """Cross entropy to labels ids int64 [N, n] drawn from m: unbiased for that to m itself."""
    return (logits.logsumexp(-1, keepdim=True) - logits.gather(-1, ids)).mean()
