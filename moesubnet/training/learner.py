"""The loss of a fine-tuned model over packed windows: a micro-batch to learn from, or held out."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from moesubnet.host.progress import OnProgress, Progress
from moesubnet.training.packing import NO_LABEL, Packed
from moesubnet.training.team import Team

if TYPE_CHECKING:
    import torch

    from moesubnet.training.head import Split


class Learner:
    """A model with its chunked loss, in its precision."""

    def __init__(self, model: Any, *, bf16: bool) -> None:
        from moesubnet.training.head import split_model

        self._model = model
        self._split: Split = split_model(model, bf16=bf16)

    def batch_loss(
        self, packed: Packed, batch: int, micro_batches: int, seed: int, model: Any, number: int
    ) -> tuple[torch.Tensor, int]:
        """Micro-batch `number` of the run: every window once an epoch, in an order of its own."""
        step, part = divmod(number, micro_batches)
        epoch, slot = divmod(step, max(1, len(packed) // batch))
        order = np.random.default_rng([seed, epoch]).permutation(len(packed))
        picks = order[slot * batch : (slot + 1) * batch]
        total, count = self._loss(packed[picks[part::micro_batches]])
        # A token counts alike in whatever micro-batch it is.
        mean_count = (packed[picks].labels != NO_LABEL).sum() / micro_batches
        return total / max(1.0, mean_count), count

    def held_out_nats(
        self, held_out: Packed, windows: int, team: Team, task: str, on_progress: OnProgress
    ) -> float:
        """Mean nats per token; each device reads its part."""
        import torch

        started_s, sums = time.monotonic(), [0.0, 0.0]
        self._model.eval()
        starts = range(team.rank * windows, len(held_out), team.size * windows)
        for done, start in enumerate(starts, 1):
            with torch.no_grad():
                total, count = self._loss(held_out[start : start + windows])
            sums = [sums[0] + total.item(), sums[1] + count]
            if team.rank == 0:
                elapsed_s = time.monotonic() - started_s
                on_progress(Progress(task, done / len(starts), None, elapsed_s))
        nats, tokens = team.add(*sums)
        return nats / max(1.0, tokens)

    def seconds_per_window(self, packed: Packed, at_once: int) -> float:
        """Wall seconds where so many are learnt at once, from a few that are thrown away; first
        ones warm up, if they are short."""
        part, took_s = packed[:at_once], 0.0
        self._model.train()
        for _ in range(2):
            started_s = time.monotonic()
            self._loss(part)[0].backward()  # type: ignore[no-untyped-call]
            self._model.zero_grad()
            took_s = time.monotonic() - started_s
            if took_s > 5.0:
                break
        return took_s / len(part)

    def _loss(self, windows: Packed) -> tuple[torch.Tensor, int]:
        """(summed nats, tokens) of a few windows."""
        from torch.nn.functional import cross_entropy

        labels = self._split.tensor(windows.labels).flatten()
        counted = labels != NO_LABEL
        labels = labels[counted]
        hidden = self._split.hidden(windows.ids, position_ids=windows.positions)[counted]
        total = self._split.loss(
            lambda logits, rows: cross_entropy(logits, labels[rows], reduction="sum"), hidden
        )
        return total, len(labels)
