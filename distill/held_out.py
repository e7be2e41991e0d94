"""Text of a collection that a student does not learn from, and how likely it finds it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from moesubnet.distill.reading import TargetReader
from moesubnet.training.learner import Picks
from moesubnet.training.packing import unseen
from moesubnet.training.trainer import next_token_loss

if TYPE_CHECKING:
    import torch

    from moesubnet.training.head import Split

HELD_OUT_EVERY, FIRST_HELD_OUT = 20, 5
MAX_HELD_OUT_TOKENS = 8_192

Numbers = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class ColdText:
    """Lessons: every token of the windows uint32 [M, W], each behind `start_id`."""

    ids: NDArray[np.uint32]
    start_id: int

    def __len__(self) -> int:
        return len(self.ids)

    def tokens(self, picks: Picks) -> int:
        return self.ids[picks].size

    def loss(self, split: Split, picks: Picks) -> torch.Tensor:
        ids = self.ids[picks].astype(np.int64)
        started = np.concatenate([np.full((len(ids), 1), self.start_id), ids], axis=1)
        return next_token_loss(split, started) * ids.size


def hold_out(targets: TargetReader, given: int) -> tuple[Numbers, Numbers]:
    """(windows to learn from, windows held out): one in twenty of the first `given`, which are in
    a random order. What half occurs in the rest is left out of the measure."""
    ids = targets.ids()
    chosen = np.arange(FIRST_HELD_OUT, given, HELD_OUT_EVERY)
    chosen = chosen[: max(1, MAX_HELD_OUT_TOKENS // targets.window)]
    rest = np.delete(np.arange(len(ids)), chosen)
    return rest, chosen[unseen(list(ids[chosen]), list(ids[rest]))]


def mixture_nats(targets: TargetReader, windows: Numbers) -> float:
    """Mean nats per token of the mixture, as it was collected: what a student can hope for."""
    return -float(targets.take(windows).label_log_p[..., -1].mean(dtype=np.float64))
