"""The table: every model's perplexity on text that nothing was trained on, per domain and mixed.

Experts and mixtures are measured by walks over non-overlapping cold windows (`walks.py`), through
the experts' own endpoints; students in this process. "mixed" is exp(mean over domains of the
mean negative log-likelihood).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from moesubnet.distill.walks import Ids, Members, call_groups, walk
from moesubnet.host.progress import OnProgress, Progress, ignore
from moesubnet.mixture.mixing import log_sum_exp
from moesubnet.spec.content import LoadedSpec
from moesubnet.training.trainer import held_out_loss
from moesubnet.types import Hotkey

EVALUATE = "evaluation"
UNIFORM, GATED, STUDENT = "uniform mixture", "gated mixture", "student"
PLAIN_STEPS, PLAIN_CPU = "plain, equal steps", "plain, equal CPU"
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
    clock: Callable[[], float] = time.monotonic,
) -> WalkLosses:
    """Walk through windows (domain → uint32 [M, W]) and add up. Raises PeerUnavailable.

    Where an expert gave no answer, the baseline's law stands in its place.
    """
    domains = list(windows)
    everything = np.concatenate([windows[domain] for domain in domains])
    domain_of = np.repeat(np.arange(len(domains)), [len(windows[domain]) for domain in domains])
    columns = len(members.experts) + 2
    totals = np.zeros((len(domains), columns))
    started_s, done = clock(), 0
    groups = call_groups(len(everything), vocab_size=members.vocab_size, prefill=prefill)
    for index, group in enumerate(groups):
        part = everything[group]
        async with aclosing(walk(members, part, f"{session}.{index}", prefill=prefill)) as turns:
            async for turn in turns:
                by_member = turn.at(part[:, turn.position])
                experts = by_member[:, :-1]
                uniform = log_sum_exp(experts) - math.log(experts.shape[1])
                gated = log_sum_exp(turn.log_w + by_member)
                scores = np.column_stack([experts, uniform, gated])
                np.add.at(totals, domain_of[group], scores)
                done += len(part)
                on_progress(Progress(EVALUATE, done / everything.size, None, clock() - started_s))
    sizes = np.array([windows[domain].size for domain in domains])
    loss = -totals / sizes[:, None]

    def column(index: int) -> Losses:
        return dict(zip(domains, loss[:, index].tolist(), strict=True))

    return WalkLosses(
        experts={hotkey: column(index) for index, hotkey in enumerate(members.experts)},
        uniform_mixture=column(-2),
        gated_mixture=column(-1),
    )


def folder_losses(folder: Path, windows: Mapping[str, Ids], spec: LoadedSpec) -> Losses:
    """The same windows for a model folder, in this process."""
    from transformers import AutoModelForCausalLM

    from moesubnet.training.head import split_model

    split = split_model(AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True))
    start = spec.spec.bos_id
    return {domain: held_out_loss(split, part, start) for domain, part in windows.items()}


def verdicts(rows: Sequence[Row]) -> dict[str, bool]:
    """What the table has to show, on mixed text, and whether it does."""
    mixed = {row.name: row.perplexity["mixed"] for row in rows}
    named = {UNIFORM, GATED, STUDENT, PLAIN_STEPS, PLAIN_CPU}
    best_expert = min(value for name, value in mixed.items() if name not in named)
    return {
        "gated mixture below every expert": mixed[GATED] < best_expert,
        "gated mixture below the uniform mixture": mixed[GATED] < mixed[UNIFORM],
        "student below the best single expert": mixed[STUDENT] < best_expert,
        "student below plain training at equal steps": mixed[STUDENT] < mixed[PLAIN_STEPS],
        "student below plain training at equal CPU-seconds": mixed[STUDENT] < mixed[PLAIN_CPU],
    }
