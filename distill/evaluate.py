"""The table: every model's perplexity on text that nothing was trained on, per domain and mixed.

Experts and mixtures are measured by walks over non-overlapping cold windows (`walks.py`), through
the experts' own endpoints; students in this process. "mixed" is exp(mean over domains of the
mean negative log-likelihood).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from moesubnet.distill.walks import WINDOWS_PER_CALL, Ids, Members, label_log_p, walk
from moesubnet.mixture import log_sum_exp
from moesubnet.training.progress import OnProgress, Progress, ignore
from moesubnet.training.trainer import held_out_loss
from moesubnet.types import Hotkey

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

EVALUATE = "evaluation"
Losses = dict[str, float]  # domain → mean nats per token


@dataclass(frozen=True, slots=True)
class Row:
    """One model. `loss`: domain → mean nats per token."""

    name: str
    loss: Losses

    @property
    def perplexity(self) -> dict[str, float]:
        """By domain, and `mixed`."""
        mixed = sum(self.loss.values()) / len(self.loss)
        return {name: math.exp(loss) for name, loss in (self.loss | {"mixed": mixed}).items()}


@dataclass(frozen=True, slots=True)
class WalkLosses:
    """What walking through one test text showed, each a domain → mean nats per token."""

    experts: dict[Hotkey, Losses]
    uniform_mixture: Losses
    gated_mixture: Losses


async def evaluate_by_walks(
    members: Members,
    windows: Mapping[str, Ids],
    session: str,
    *,
    prefill: bool = False,
    on_progress: OnProgress = ignore,
) -> WalkLosses:
    """Walk through windows (domain → uint32 [M, W]) and add up. Raises PeerUnavailable.

    Where an expert gave no answer, the baseline's law stands in its place.
    """
    domains = list(windows)
    everything = np.concatenate([windows[domain] for domain in domains])
    domain_of = np.repeat(np.arange(len(domains)), [len(windows[domain]) for domain in domains])
    groups = -(-len(everything) // WINDOWS_PER_CALL)
    columns = len(members.experts) + 2
    totals = np.zeros((len(domains), columns))
    done = 0
    for index, (part, kinds) in enumerate(
        zip(np.array_split(everything, groups), np.array_split(domain_of, groups), strict=True)
    ):
        async for turn in walk(members, part, f"{session}.{index}", prefill=prefill):
            by_member = label_log_p(turn.log_p, part[:, turn.position]).astype(np.float64)
            experts = by_member[:, :-1]
            uniform = log_sum_exp(experts) - math.log(experts.shape[1])
            gated = log_sum_exp(turn.log_w + by_member)
            scores = np.column_stack([experts, uniform, gated])
            np.add.at(totals, kinds, scores)
            done += len(part)
            on_progress(Progress(EVALUATE, done / everything.size, None, 0.0))
    sizes = np.array([windows[domain].size for domain in domains])
    loss = -totals / sizes[:, None]

    def column(index: int) -> Losses:
        return dict(zip(domains, loss[:, index].tolist(), strict=True))

    return WalkLosses(
        experts={hotkey: column(index) for index, hotkey in enumerate(members.experts)},
        uniform_mixture=column(-2),
        gated_mixture=column(-1),
    )


def model_losses(model: LlamaForCausalLM, windows: Mapping[str, Ids], start_id: int) -> Losses:
    """The same windows for a model in this process."""
    return {domain: held_out_loss(model, part, start_id) for domain, part in windows.items()}
