"""Learning from windows, whatever is to be learnt from them: micro-batches, held out, and pace."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from moesubnet.host.progress import OnProgress, Progress
from moesubnet.training.measured import Measured
from moesubnet.training.packing import NO_LABEL, Packed
from moesubnet.training.team import Team

if TYPE_CHECKING:
    import torch

    from moesubnet.training.head import Split

Picks = NDArray[np.integer]
LEAST_WINDOWS = 2  # that are held out and read however long they take: one has no error


class Lessons(Protocol):
    """Windows to learn from, by their numbers 0 … len − 1."""

    def __len__(self) -> int: ...

    def tokens(self, picks: Picks) -> int:
        """How many tokens of these windows count."""
        ...

    def loss(self, split: Split, picks: Picks) -> torch.Tensor:
        """Summed nats over those tokens."""
        ...


@dataclass(frozen=True, slots=True)
class NextTokens:
    """The text itself: each token's successor in its document."""

    packed: Packed

    def __len__(self) -> int:
        return len(self.packed)

    def tokens(self, picks: Picks) -> int:
        return int((self.packed[picks].labels != NO_LABEL).sum())

    def loss(self, split: Split, picks: Picks) -> torch.Tensor:
        from torch.nn.functional import cross_entropy

        windows = self.packed[picks]
        labels = split.tensor(windows.labels).flatten()
        counted = labels != NO_LABEL
        labels = labels[counted]
        hidden = split.hidden(windows.ids, position_ids=windows.positions)[counted]
        return split.loss(
            lambda logits, rows: cross_entropy(logits, labels[rows], reduction="sum"), hidden
        )


class Learner:
    """A model with its chunked loss, in its precision."""

    def __init__(self, model: Any, split: Split) -> None:
        self._model = model
        self._split = split

    def batch_loss(
        self, lessons: Lessons, batch: int, micro_batches: int, seed: int, model: Any, number: int
    ) -> tuple[torch.Tensor, int]:
        """Micro-batch `number` of the run: every window once an epoch, in an order of its own."""
        step, part = divmod(number, micro_batches)
        epoch, slot = divmod(step, max(1, len(lessons) // batch))
        order = np.random.default_rng([seed, epoch]).permutation(len(lessons))
        picks = order[slot * batch : (slot + 1) * batch]
        total = lessons.loss(self._split, picks[part::micro_batches])
        # A token counts alike in whatever micro-batch it is.
        mean_count = lessons.tokens(picks) / micro_batches
        return total / max(1.0, mean_count), lessons.tokens(picks[part::micro_batches])

    def measure(
        self,
        held_out: Lessons,
        team: Team,
        task: str,
        on_progress: OnProgress,
        *,
        most: int | None = None,
        seconds: float = math.inf,
        clock: Callable[[], float] = time.monotonic,
    ) -> Measured:
        """Of `held_out`, one window a device after another: `most`, or as many as `seconds` let,
        LEAST_WINDOWS at least."""
        import torch

        count = len(held_out) if most is None else min(most, len(held_out))
        nats, tokens, done = [0.0] * count, [0.0] * count, 0
        started_s, elapsed_s = clock(), 0.0
        self._model.eval()
        # As long as one more window ends in time.
        while done < min(count, LEAST_WINDOWS) or (
            done < count and elapsed_s * (done + team.size) <= seconds * done
        ):
            if (number := done + team.rank) < count:
                picks = np.array([number])
                with torch.no_grad():
                    nats[number] = held_out.loss(self._split, picks).item()
                tokens[number] = held_out.tokens(picks)
            done = min(count, done + team.size)
            elapsed_s, _ = team.agree(clock() - started_s, False)
            if team.rank == 0:
                fraction = min(1.0, max(done / count, elapsed_s / max(1e-9, seconds)))
                on_progress(Progress(task, fraction, None, elapsed_s))
        if team.rank == 0 and done < count:
            on_progress(Progress(task, 1.0, None, elapsed_s))
        sums = team.add(*nats[:done], *tokens[:done])
        return Measured(tuple(sums[:done]), tuple(sums[done:]), len(held_out))

    def seconds_per_window(self, lessons: Lessons, at_once: int) -> float:
        """Wall seconds where so many are learnt at once, from a few that are thrown away; first
        ones warm up, if they are short."""
        picks, took_s = np.arange(min(at_once, len(lessons))), 0.0
        self._model.train()
        for _ in range(2):
            started_s = time.monotonic()
            lessons.loss(self._split, picks).backward()  # type: ignore[no-untyped-call]
            self._model.zero_grad()
            took_s = time.monotonic() - started_s
            if took_s > 5.0:
                break
        return took_s / len(picks)
