"""The one training loop: experts, students and plain baselines all go through it.

A run has a budget in seconds and a minimum of steps, and ends when both are spent; the learning
rate follows a cosine over whichever is further from its end. The batch of step n depends on the
seed and n alone, so a resumed run sees what an unbroken one would have seen.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from moesubnet.spec.content import LoadedSpec
from moesubnet.training.checkpoint import Position, load_checkpoint, save_checkpoint
from moesubnet.training.dataset import Ids
from moesubnet.training.model import new_model, small_config
from moesubnet.training.progress import OnProgress, Progress, ignore

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM

WARMUP_STEPS = 20
CHECKPOINT_EVERY_S = 20.0
FINAL_LR_SHARE = 0.02
PACE_STEPS = 6


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


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a finished run took. `loss`: mean over the last tenth of the steps, nats per token."""

    steps: int
    elapsed_s: float
    tokens: int
    loss: float


def progress_fraction(step: int, elapsed_s: float, schedule: Schedule) -> float:
    """∈ [0, 1]; 1 when the budget is spent and the minimum of steps done."""
    spent = elapsed_s / schedule.budget_s if schedule.budget_s > 0 else 1.0
    stepped = step / schedule.min_steps if schedule.min_steps > 0 else 1.0
    return min(1.0, spent, stepped)


def learning_rate(step: int, fraction: float, peak_lr: float) -> float:
    """Linear warm-up over the first steps, then a cosine down to 2 % of the peak."""
    cosine = FINAL_LR_SHARE + (1 - FINAL_LR_SHARE) * (1 + math.cos(math.pi * fraction)) / 2
    return peak_lr * cosine * min(1.0, (step + 1) / WARMUP_STEPS)


def train(
    model: LlamaForCausalLM,
    batch_loss: Callable[[LlamaForCausalLM, int], tuple[torch.Tensor, int]],
    schedule: Schedule,
    *,
    checkpoint: Path | None = None,
    on_progress: OnProgress = ignore,
    after_step: Callable[[int, float], bool] = lambda step, elapsed_s: False,
    clock: Callable[[], float] = time.monotonic,
) -> Outcome:
    """Train `model` in place.

    batch_loss(model, step) → (scalar loss in nats per token, tokens in the batch).
    after_step(step, elapsed_s) → True ends the run early. `clock` says what a second is: wall
    time, or the process's CPU time. Resumes from `checkpoint` when it exists.
    """
    import torch

    optimizers = new_optimizers(model, schedule)
    position = None
    if checkpoint is not None:
        position = load_checkpoint(checkpoint, model, optimizers, schedule.run)
    step, elapsed_s = (position.step, position.elapsed_s) if position else (0, 0.0)
    started_s = clock() - elapsed_s
    saved_s, tokens, losses = elapsed_s, 0, []
    model.train()
    while (fraction := progress_fraction(step, elapsed_s, schedule)) < 1:
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, fraction, schedule.peak_lr)
        loss, batch_tokens = batch_loss(model, step)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), schedule.max_gradient_norm)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        losses.append(loss.item())
        step, tokens, elapsed_s = step + 1, tokens + batch_tokens, clock() - started_s
        on_progress(
            Progress(
                task=schedule.task,
                fraction=progress_fraction(step, elapsed_s, schedule),
                loss=float(np.mean(losses[-20:])),
                elapsed_s=elapsed_s,
                tokens_per_s=tokens
                / max(1e-9, elapsed_s - (position.elapsed_s if position else 0)),
            )
        )
        if checkpoint is not None and elapsed_s - saved_s >= CHECKPOINT_EVERY_S:
            save_checkpoint(checkpoint, model, optimizers, Position(schedule.run, step, elapsed_s))
            saved_s = elapsed_s
        if after_step(step, elapsed_s):
            break
    model.train(False)
    return Outcome(step, elapsed_s, tokens, float(np.mean(losses[-max(1, len(losses) // 10) :])))


def seconds_per_step(spec: LoadedSpec, batch: int, length: int) -> float:
    """Wall seconds that a training step of batch × length tokens takes here, now, on one thread."""
    import torch

    torch.set_num_threads(1)
    ids = np.zeros((batch, length), np.int64)
    ticks: list[float] = []

    def tick(step: int, elapsed_s: float) -> bool:
        ticks.append(elapsed_s)
        return False

    train(
        new_model(small_config(spec), seed=0),
        lambda model, step: (next_token_loss(model, ids), ids.size),
        Schedule("pace", "pace", 0.0, PACE_STEPS),
        after_step=tick,
    )
    return float(np.median(np.diff(ticks)))


def new_optimizers(
    model: torch.nn.Module, schedule: Schedule
) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
    """Muon for the hidden matrices, AdamW for the embedding and the norms.

    In the same two minutes of one core Muon reaches a third less perplexity than AdamW alone
    (docs/log.md); scaled to AdamW's update size (arXiv 2502.16982), both share one learning rate.
    """
    import torch

    matrices: list[torch.Tensor] = []
    others: list[torch.Tensor] = []
    for name, parameter in model.named_parameters():
        (others if parameter.ndim < 2 or "embed" in name else matrices).append(parameter)
    return (
        torch.optim.Muon(
            matrices,
            lr=schedule.peak_lr,
            weight_decay=schedule.weight_decay,
            adjust_lr_fn="match_rms_adamw",
        ),
        torch.optim.AdamW(others, lr=schedule.peak_lr, betas=(0.9, 0.95), weight_decay=0.0),
    )


def next_token_loss(model: LlamaForCausalLM, windows: NDArray[np.int64]) -> torch.Tensor:
    """Mean −ln p(token | tokens before it) over windows int64 [N, L], positions 1 … L − 1."""
    import torch

    ids = torch.from_numpy(windows)
    logits = model(input_ids=ids[:, :-1], use_cache=False).logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())


def held_out_loss(
    model: LlamaForCausalLM, windows: Ids, start_id: int, *, batch: int = 32
) -> float:
    """Mean nats per token over cold windows uint32 [N, L]: `start_id` stands before each, and
    all L tokens count. NaN for no windows."""
    import torch

    if len(windows) == 0:
        return math.nan
    total = 0.0
    with torch.inference_mode():
        for start in range(0, len(windows), batch):
            part = windows[start : start + batch].astype(np.int64)
            started = np.concatenate([np.full((len(part), 1), start_id), part], axis=1)
            total += next_token_loss(model, started).item() * len(part)
    return total / len(windows)
