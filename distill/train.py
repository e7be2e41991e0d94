"""Training a student from stored targets, and plainly from the same text: the fair opponent.

Both go through the same loop, model, batch shape and first weights. The plain run draws its
windows from anywhere in the text, keeps a slice of it out, tries several schedules, and ends up
with the weights that were best on that slice; the student takes what it is given.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from moesubnet.distill.losses import forward_kl, forward_kl_listed, sampled_cross_entropy
from moesubnet.distill.targets import Targets
from moesubnet.training.dataset import Ids, random_windows
from moesubnet.training.progress import OnProgress, Progress, ignore
from moesubnet.training.trainer import Outcome, Schedule, held_out_loss, next_token_loss, train

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM

BATCH_WINDOWS = 8
JUDGE_EVERY_STEPS = 20


def train_student(
    model: LlamaForCausalLM,
    targets: Targets,
    schedule: Schedule,
    *,
    start_id: int,
    seed: int,
    checkpoint: Path | None = None,
    on_progress: OnProgress = ignore,
    clock: Callable[[], float] = time.process_time,
) -> Outcome:
    """Minimise KL(mixture ‖ student) over the windows of `targets`, in place."""
    import torch

    count = len(targets.ids)

    def batch_loss(model: LlamaForCausalLM, step: int) -> tuple[torch.Tensor, int]:
        epoch, slot = divmod(step, max(1, count // BATCH_WINDOWS))
        order = np.random.default_rng([seed, epoch]).permutation(count)
        picks = order[slot * BATCH_WINDOWS : (slot + 1) * BATCH_WINDOWS]
        ids = targets.ids[picks].astype(np.int64)
        starts = np.full((len(ids), 1), start_id)
        inputs = torch.from_numpy(np.concatenate([starts, ids[:, :-1]], axis=1))
        logits = model(input_ids=inputs, use_cache=False).logits.flatten(0, 1)
        return target_loss(logits, targets, picks), ids.size

    return train(
        model, batch_loss, schedule, checkpoint=checkpoint, on_progress=on_progress, clock=clock
    )


def target_loss(logits: torch.Tensor, targets: Targets, picks: NDArray[np.integer]) -> torch.Tensor:
    """The loss that fits the targets' form. logits: [len(picks) · W, V]."""
    import torch

    def rows(stored: NDArray[np.generic], dtype: type) -> torch.Tensor:
        return torch.from_numpy(stored[picks].astype(dtype)).flatten(0, 1)

    if targets.kind == "full":
        assert targets.log_m is not None
        return forward_kl(logits, rows(targets.log_m, np.float32))
    if targets.kind == "samples":
        assert targets.kept is not None
        return sampled_cross_entropy(logits, rows(targets.kept, np.int64))
    return forward_kl_listed(logits, *map(torch.from_numpy, targets.listed(picks)))


@dataclass(frozen=True, slots=True)
class PlainOutcome:
    """A plain run: all its steps, and after how many it had the weights that it kept."""

    steps: int
    best_step: int
    held_out_loss: float  # of those weights


def plain_cycles(steps: int) -> list[int]:
    """A run's steps as cosine cycles of growing length; Σ = steps."""
    short, middle = steps // 6, steps // 3
    return [short, middle, steps - short - middle]


def train_plain(
    model: LlamaForCausalLM,
    ids: Ids,
    held_out: Ids,
    cycles: Sequence[Schedule],
    *,
    window: int,
    start_id: int,
    seed: int,
    on_progress: OnProgress = ignore,
    clock: Callable[[], float] = time.process_time,
) -> PlainOutcome:
    """Minimise next-token loss over ids uint32 [n], in place.

    On so little text a run overfits, and how early it should have annealed shows only afterwards.
    So it goes through `cycles`, each from the first weights, and ends up with the weights that
    were best on `held_out` uint32 [M, window] in any of them.
    """
    best = PlainOutcome(0, 0, math.inf)
    first_weights = {name: value.clone() for name, value in model.state_dict().items()}
    best_weights = first_weights
    done, judging_s = 0, 0.0

    def batch_loss(model: LlamaForCausalLM, step: int) -> tuple[torch.Tensor, int]:
        rng = np.random.default_rng([seed, step])
        windows = random_windows(ids, BATCH_WINDOWS, window + 1, start_id, rng)
        return next_token_loss(model, windows), windows[:, 1:].size

    def judge(step: int) -> None:
        nonlocal best, best_weights, judging_s
        began_s = clock()
        loss = held_out_loss(model, held_out, start_id)
        if loss < best.held_out_loss:
            best = PlainOutcome(0, done + step, loss)
            best_weights = {name: value.clone() for name, value in model.state_dict().items()}
        judging_s += clock() - began_s

    def after_step(step: int, elapsed_s: float) -> bool:
        if step % JUDGE_EVERY_STEPS == 0:
            judge(step)
        return False

    for index, cycle in enumerate(cycles):

        def tell(progress: Progress, index: int = index) -> None:
            on_progress(replace(progress, fraction=(index + progress.fraction) / len(cycles)))

        model.load_state_dict(first_weights)
        outcome = train(
            model,
            batch_loss,
            cycle,
            on_progress=tell,
            after_step=after_step,
            clock=lambda: clock() - judging_s,  # being judged takes nothing from the budget
        )
        judge(outcome.steps)
        done += outcome.steps
    model.load_state_dict(best_weights)
    return replace(best, steps=done)
