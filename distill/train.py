"""Training a student from stored targets, and plainly from the same text: the fair opponent.

Both go through the same loop, model, batch shape and first weights, a student as a fine-tuned
expert does, with another loss (`training/learner.py`). The plain run draws its windows from
anywhere in the text, keeps a slice of it out, tries several schedules, and ends up with the
weights that were best on that slice; the student takes what it is given.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from moesubnet.distill.losses import forward_kl, forward_kl_listed, sampled_cross_entropy
from moesubnet.distill.reading import TargetReader
from moesubnet.distill.targets import Targets
from moesubnet.host.progress import OnProgress, Progress, ignore
from moesubnet.training.dataset import Ids, random_windows
from moesubnet.training.learner import Learner, Picks
from moesubnet.training.optimizers import adamw
from moesubnet.training.team import ALONE, Team
from moesubnet.training.trainer import Outcome, Schedule, held_out_loss, next_token_loss, train

if TYPE_CHECKING:
    import torch

    from moesubnet.training.head import RowsLoss, Split

BATCH_WINDOWS = 8
WEIGHT_DECAY = 0.01  # of a student that begins as a model
JUDGE_EVERY_STEPS = 20


@dataclass(frozen=True, slots=True)
class Pupil:
    """What is trained: a model, split for the loss, who moves its weights (None: as a small model
    from nothing), windows of a step, and how they are cut to fit into memory."""

    model: Any  # a transformers model
    split: Split
    peak_lr: float | None = None
    batch: int = BATCH_WINDOWS
    micro_batches: int = 1

    def optimizers(self) -> list[torch.optim.Optimizer] | None:
        return None if self.peak_lr is None else [adamw(self.model, self.peak_lr, WEIGHT_DECAY)]

    def scheduled(self, schedule: Schedule) -> Schedule:
        schedule = replace(schedule, micro_batches=self.micro_batches)
        if self.peak_lr is None:
            return schedule
        warmup_steps = max(1, min(schedule.warmup_steps, schedule.min_steps // 10))
        return replace(schedule, peak_lr=self.peak_lr, warmup_steps=warmup_steps)


@dataclass(frozen=True, slots=True)
class MixtureLaws:
    """Lessons: the mixture's law at every position of some `windows` of a collection."""

    targets: TargetReader
    windows: NDArray[np.integer]  # of the collection, by number
    start_id: int

    def __len__(self) -> int:
        return len(self.windows)

    def tokens(self, picks: Picks) -> int:
        return len(picks) * self.targets.window

    def loss(self, split: Split, picks: Picks) -> torch.Tensor:
        part = self.targets.take(self.windows[picks])
        starts = np.full((len(part.ids), 1), self.start_id)
        hidden = split.hidden(np.concatenate([starts, part.ids[:, :-1]], axis=1))
        return split.loss(target_loss(part, hidden.device), hidden)


def student_loss(
    pupil: Pupil, laws: MixtureLaws, *, seed: int
) -> Callable[[Any, int], tuple[torch.Tensor, int]]:
    """The micro-batches of each step, as `train` wants them: every window once an epoch."""
    learner = Learner(pupil.model, pupil.split)
    return partial(learner.batch_loss, laws, min(pupil.batch, len(laws)), pupil.micro_batches, seed)


def train_student(
    pupil: Pupil,
    laws: MixtureLaws,
    schedule: Schedule,
    *,
    seed: int,
    checkpoint: Path | None = None,
    on_progress: OnProgress = ignore,
    clock: Callable[[], float] = time.process_time,
    team: Team = ALONE,
) -> Outcome:
    """Minimise KL(mixture ‖ student), in place."""
    return train(
        pupil.model,
        student_loss(pupil, laws, seed=seed),
        pupil.scheduled(schedule),
        checkpoint=checkpoint,
        on_progress=on_progress,
        clock=clock,
        optimizers=pupil.optimizers(),
        team=team,
    )


def target_loss(targets: Targets, device: torch.device) -> RowsLoss:
    """The loss that fits the targets' form, summed over some rows of their [M · W]."""
    import torch

    def rows(stored: NDArray[np.generic] | None, dtype: type) -> torch.Tensor:
        assert stored is not None
        return torch.from_numpy(stored.astype(dtype)).flatten(0, 1).to(device)

    if targets.kind == "full":
        log_m = rows(targets.log_m, np.float32)
        return lambda logits, part: forward_kl(logits, log_m[part]) * len(logits)
    if targets.kind == "samples":
        kept = rows(targets.kept, np.int64)
        return lambda logits, part: sampled_cross_entropy(logits, kept[part]) * len(logits)
    listed = [torch.from_numpy(stored).to(device) for stored in targets.listed()]
    ends = targets.ends

    def listed_loss(logits: torch.Tensor, part: slice) -> torch.Tensor:
        span = slice(ends[part.start], ends[part.stop])
        row, ids, log_m = (values[span] for values in listed[:3])
        loss = forward_kl_listed(logits, row - part.start, ids, log_m, listed[3][part])
        return loss * len(logits)

    return listed_loss


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
    pupil: Pupil,
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
    model, best = pupil.model, PlainOutcome(0, 0, math.inf)
    first_weights = {name: value.clone() for name, value in model.state_dict().items()}
    best_weights = first_weights
    done, judging_s = 0, 0.0

    def batch_loss(model: Any, number: int) -> tuple[torch.Tensor, int]:
        step, part = divmod(number, pupil.micro_batches)
        rng = np.random.default_rng([seed, step])
        windows = random_windows(ids, pupil.batch, window + 1, start_id, rng)
        windows = windows[part :: pupil.micro_batches]
        share = len(windows) * pupil.micro_batches / pupil.batch
        return share * next_token_loss(pupil.split, windows), windows[:, 1:].size

    def judge(step: int) -> None:
        nonlocal best, best_weights, judging_s
        began_s = clock()
        loss = held_out_loss(pupil.split, held_out, start_id)
        if loss < best.held_out_loss:
            best = PlainOutcome(0, done + step, loss)
            best_weights = {name: value.clone() for name, value in model.state_dict().items()}
        judging_s += clock() - began_s

    def after_step(step: int, _: float) -> None:
        if step % JUDGE_EVERY_STEPS == 0:
            judge(step)

    for index, cycle in enumerate(cycles):

        def tell(progress: Progress, index: int = index) -> None:
            on_progress(replace(progress, fraction=(index + progress.fraction) / len(cycles)))

        model.load_state_dict(first_weights)
        outcome = train(
            model,
            batch_loss,
            pupil.scheduled(cycle),
            optimizers=pupil.optimizers(),
            on_progress=tell,
            after_step=after_step,
            clock=lambda: clock() - judging_s,  # being judged takes nothing from the budget
        )
        judge(outcome.steps)
        done += outcome.steps
    model.load_state_dict(best_weights)
    return replace(best, steps=done)
