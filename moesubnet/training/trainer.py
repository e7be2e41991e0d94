"""The one training loop: experts, students and plain baselines all go through it.

A run has a budget in seconds and a minimum of steps, and ends when both are spent, or when its
maximum of steps is done; the learning rate follows a cosine over what is left. The batch of step n
depends on the seed and n alone, so a resumed run sees what an unbroken one would have seen, and
several devices what one would have: they share the micro-batches of a step and add up gradients.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from moesubnet.host.progress import OnProgress, Progress, ignore
from moesubnet.training.checkpoint import Position, load_checkpoint, save_checkpoint
from moesubnet.training.dataset import Ids
from moesubnet.training.optimizers import muon_and_adamw
from moesubnet.training.team import ALONE, Team

if TYPE_CHECKING:
    import torch

    from moesubnet.training.head import Split

ModelT = TypeVar("ModelT", bound="torch.nn.Module")

CHECKPOINT_EVERY_S = 20.0
CHECKPOINT_SHARE = 0.05  # of the time, at most, goes into writing them
FINAL_LR_SHARE = 0.02


@dataclass(frozen=True, slots=True)
class Schedule:
    """When a run ends, and how fast it learns. `run` names it in its checkpoints."""

    run: str
    task: str  # what the progress display calls it
    budget_s: float
    min_steps: int
    peak_lr: float = 8e-3
    weight_decay: float = 0.1
    max_gradient_norm: float = 1.0
    warmup_steps: int = 20
    max_steps: int | None = None
    micro_batches: int = 1  # of a step; their mean loss is the step's


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run took, what it was resumed from included. `loss`: mean over the last tenth of
    the steps, nats per token."""

    steps: int
    elapsed_s: float
    tokens: int
    loss: float
    finished: bool = True  # False: it was told to stop, and continues from its checkpoint


def progress_fraction(step: int, elapsed_s: float, schedule: Schedule) -> float:
    """∈ [0, 1]; 1 when the budget is spent and the minimum of steps done, or the maximum."""
    spent = elapsed_s / schedule.budget_s if schedule.budget_s > 0 else 1.0
    stepped = step / schedule.min_steps if schedule.min_steps > 0 else 1.0
    most = step / schedule.max_steps if schedule.max_steps is not None else 0.0
    return min(1.0, max(most, min(spent, stepped)))


def learning_rate(step: int, fraction: float, schedule: Schedule) -> float:
    """Linear warm-up over the first steps, then a cosine down to 2 % of the peak."""
    cosine = FINAL_LR_SHARE + (1 - FINAL_LR_SHARE) * (1 + math.cos(math.pi * fraction)) / 2
    return schedule.peak_lr * cosine * min(1.0, (step + 1) / schedule.warmup_steps)


def train(
    model: ModelT,
    batch_loss: Callable[[ModelT, int], tuple[torch.Tensor, int]],
    schedule: Schedule,
    *,
    checkpoint: Path | None = None,
    on_progress: OnProgress = ignore,
    after_step: Callable[[int, float], None] = lambda step, elapsed_s: None,
    clock: Callable[[], float] = time.monotonic,
    optimizers: Sequence[torch.optim.Optimizer] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    team: Team = ALONE,
) -> Outcome:
    """Train `model` in place.

    batch_loss(model, n) → (scalar loss in nats per token, its tokens) of micro-batch n, counted
    over all steps. `clock` says what a second is: wall time, or the process's CPU time. Resumes
    from `checkpoint` when it exists; should_stop() → True ends the run with a checkpoint.
    """
    if optimizers is None:
        optimizers = muon_and_adamw(model, schedule.peak_lr, schedule.weight_decay)
    position = None
    if checkpoint is not None:
        position = load_checkpoint(checkpoint, model, optimizers, schedule.run)
    position = position or Position(schedule.run, 0, 0.0)
    step, tokens, began_s = position.step, position.tokens, position.elapsed_s
    team.check_same(step, "the checkpoint: all devices need the same folder")
    elapsed_s, saving_s, saved_s = began_s, 0.0, began_s
    started_s, stopped, losses = clock() - elapsed_s, False, []

    def save() -> None:
        nonlocal saved_s, saving_s
        if checkpoint is not None and team.rank == 0:
            now = Position(schedule.run, step, elapsed_s, tokens)
            save_checkpoint(checkpoint, model, optimizers, now)
            saved_s = clock() - started_s
            saving_s = saved_s - elapsed_s

    model.train()
    while not stopped and (fraction := progress_fraction(step, elapsed_s, schedule)) < 1:
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, fraction, schedule)
        loss, step_tokens = _step(model, batch_loss, step, schedule, optimizers, team)
        losses.append(loss)
        step, tokens = step + 1, tokens + step_tokens
        elapsed_s, stopped = team.agree(clock() - started_s, should_stop())
        on_progress(
            Progress(
                task=schedule.task,
                fraction=progress_fraction(step, elapsed_s, schedule),
                loss=float(np.mean(losses[-20:])),
                elapsed_s=elapsed_s,
                tokens_per_s=(tokens - position.tokens) / max(1e-9, elapsed_s - began_s),
            )
        )
        if elapsed_s - saved_s >= max(CHECKPOINT_EVERY_S, saving_s / CHECKPOINT_SHARE):
            save()
        after_step(step, elapsed_s)
    model.train(False)
    unfinished = stopped and progress_fraction(step, elapsed_s, schedule) < 1
    if unfinished:
        save()
    last = losses[-max(1, len(losses) // 10) :]
    return Outcome(
        step, elapsed_s, tokens, float(np.mean(last)) if last else math.nan, not unfinished
    )


def _step(
    model: ModelT,
    batch_loss: Callable[[ModelT, int], tuple[torch.Tensor, int]],
    step: int,
    schedule: Schedule,
    optimizers: Sequence[torch.optim.Optimizer],
    team: Team,
) -> tuple[float, int]:
    """One step over this device's part of its micro-batches: (loss, tokens) of all of them."""
    import torch

    count, loss_sum, tokens = schedule.micro_batches, 0.0, 0
    for index in range(team.rank, count, team.size):
        loss, micro_tokens = batch_loss(model, step * count + index)
        (loss / count).backward()  # type: ignore[no-untyped-call]
        loss_sum, tokens = loss_sum + loss.item() / count, tokens + micro_tokens
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    team.add_gradients(trained)
    torch.nn.utils.clip_grad_norm_(trained, schedule.max_gradient_norm)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()
    loss_sum, all_tokens = team.add(loss_sum, float(tokens))
    return loss_sum, round(all_tokens)


def seconds_per_step(
    model: ModelT,
    batch_loss: Callable[[ModelT, int], tuple[torch.Tensor, int]],
    *,
    optimizers: Sequence[torch.optim.Optimizer] | None = None,
    steps: int,
    micro_batches: int = 1,
) -> float:
    """Wall seconds that a step takes here, now: the median after the first. Changes the model."""
    ticks: list[float] = []

    schedule = Schedule("pace", "pace", 0.0, steps, micro_batches=micro_batches)
    train(
        model,
        batch_loss,
        schedule,
        optimizers=optimizers,
        after_step=lambda _, elapsed_s: ticks.append(elapsed_s),
    )
    return float(np.median(np.diff(ticks)))


def next_token_loss(split: Split, windows: NDArray[np.int64]) -> torch.Tensor:
    """Mean −ln p(token | tokens before it) over windows int64 [N, L], positions 1 … L − 1."""
    from torch.nn.functional import cross_entropy

    labels = split.tensor(windows[:, 1:]).flatten()
    total = split.loss(
        lambda logits, rows: cross_entropy(logits, labels[rows], reduction="sum"),
        split.hidden(windows[:, :-1]),
    )
    return total / len(labels)


def held_out_loss(split: Split, windows: Ids, start_id: int, *, batch: int = 32) -> float:
    """Mean nats per token over cold windows uint32 [N, L]: `start_id` stands before each, and
    all L tokens count. NaN for no windows."""
    import torch

    if len(windows) == 0:
        return math.nan
    total = 0.0
    with torch.no_grad():
        for start in range(0, len(windows), batch):
            part = windows[start : start + batch].astype(np.int64)
            started = np.concatenate([np.full((len(part), 1), start_id), part], axis=1)
            total += next_token_loss(split, started).item() * len(part)
    return total / len(windows)
