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
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

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
WindowLosses = dict[str, NDArray[np.float64]]  # domain → the same of each of its windows
Margin = tuple[float, float]  # nats per token, standard error


@dataclass(frozen=True, slots=True)
class Row:
    """One model. `loss`: domain → mean nats per token; `error`: its standard error, by windows,
    none of a single one."""

    name: str
    loss: Losses
    error: Losses = field(default_factory=dict)

    @property
    def perplexity(self) -> dict[str, float]:
        """By domain, and `mixed`."""
        mixed = sum(self.loss.values()) / len(self.loss)
        return {name: math.exp(loss) for name, loss in (self.loss | {"mixed": mixed}).items()}


@dataclass(frozen=True, slots=True)
class WalkLosses:
    """What walking through one test text showed."""

    experts: dict[Hotkey, WindowLosses]
    uniform_mixture: WindowLosses
    gated_mixture: WindowLosses


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
    totals = np.zeros((len(everything), len(members.experts) + 2))
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
                totals[group] += np.column_stack([experts, uniform, gated])
                done += len(part)
                on_progress(Progress(EVALUATE, done / everything.size, None, clock() - started_s))
    ends = np.cumsum([len(windows[domain]) for domain in domains])
    parts = np.split(-totals / everything.shape[1], ends[:-1])

    def column(index: int) -> WindowLosses:
        return {domain: part[:, index] for domain, part in zip(domains, parts, strict=True)}

    return WalkLosses(
        experts={hotkey: column(index) for index, hotkey in enumerate(members.experts)},
        uniform_mixture=column(-2),
        gated_mixture=column(-1),
    )


def folder_losses(folder: Path, windows: Mapping[str, Ids], spec: LoadedSpec) -> WindowLosses:
    """The same windows for a model folder, in this process."""
    from transformers import AutoModelForCausalLM

    from moesubnet.training.head import split_model

    split = split_model(AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True))
    start = spec.spec.bos_id
    return {
        domain: np.array([held_out_loss(split, part[i : i + 1], start) for i in range(len(part))])
        for domain, part in windows.items()
    }


def row_of(name: str, losses: WindowLosses) -> Row:
    """Windows are equally long."""
    return Row(
        name,
        {domain: float(part.mean()) for domain, part in losses.items()},
        {domain: float(_error(part)) for domain, part in losses.items() if len(part) > 1},
    )


def verdicts(rows: Sequence[Row]) -> dict[str, bool]:
    """What the table has to show, on mixed text, and whether it does."""
    mixed = {row.name: row.perplexity["mixed"] for row in rows}
    return {claim: mixed[one] < mixed[other] for claim, (one, other) in _claims(mixed).items()}


def margins(models: Mapping[str, WindowLosses]) -> dict[str, Margin]:
    """By how much each claim of `verdicts` holds, over the same windows of both: what is hard to
    forecast is so for both, so this is known better than the perplexities. Without claims whose
    error is not known, of domains with one window."""
    mixed = {
        name: float(np.mean([part.mean() for part in losses.values()]))
        for name, losses in models.items()
    }
    found = {}
    for claim, (one, other) in _claims(mixed).items():
        gains = [models[other][domain] - part for domain, part in models[one].items()]
        if min(map(len, gains)) > 1:
            error = math.hypot(*map(_error, gains)) / len(gains)
            found[claim] = (mixed[other] - mixed[one], error)
    return found


def _claims(mixed: Mapping[str, float]) -> dict[str, tuple[str, str]]:
    """Claim → (who is to be below, whom), by names."""
    named = {UNIFORM, GATED, STUDENT, PLAIN_STEPS, PLAIN_CPU}
    best_expert = min(mixed.keys() - named, key=lambda name: mixed[name])
    return {
        "gated mixture below every expert": (GATED, best_expert),
        "gated mixture below the uniform mixture": (GATED, UNIFORM),
        "student below the best single expert": (STUDENT, best_expert),
        "student below plain training at equal steps": (STUDENT, PLAIN_STEPS),
        "student below plain training at equal CPU-seconds": (STUDENT, PLAIN_CPU),
    }


def _error(values: NDArray[np.float64]) -> float:
    """Standard error of the mean."""
    return float(values.std(ddof=1) / math.sqrt(len(values)))
