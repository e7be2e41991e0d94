"""Several devices as one: `torchrun` or `accelerate launch` before the same command.

Each process holds the whole model, works on its part of every step's micro-batches, and adds up
gradients with the others. So any number of devices does what one would have done.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from moesubnet.errors import ConfigError

if TYPE_CHECKING:
    import torch

BUCKET_VALUES = 1 << 24  # 64 MiB of float32 travel at once


@dataclass(frozen=True, slots=True)
class Team:
    """Who works on a run: this process is number `rank` of `size`."""

    rank: int = 0
    size: int = 1

    def add(self, *values: float) -> list[float]:
        """Each value summed over all devices."""
        if self.size == 1:
            return list(values)
        import torch
        import torch.distributed as dist

        sums = torch.tensor(values, dtype=torch.float64, device=device_of_this_process())
        dist.all_reduce(sums)
        return [float(value) for value in sums.tolist()]

    def add_gradients(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Every gradient becomes the sum of all devices'; one that a device lacks counts as 0."""
        if self.size == 1:
            return
        import torch
        import torch.distributed as dist

        for bucket in _buckets(parameters):
            grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in bucket]
            flat = torch.cat([grad.flatten() for grad in grads])
            dist.all_reduce(flat)
            parts = torch.split(flat, [grad.numel() for grad in grads])
            for parameter, part in zip(bucket, parts, strict=True):
                parameter.grad = part.view_as(parameter)

    def agree(self, elapsed_s: float, stopped: bool) -> tuple[float, bool]:
        """The first device's seconds, and whether any was told to stop."""
        if self.size == 1:
            return elapsed_s, stopped
        first_s, stops = self.add(elapsed_s if self.rank == 0 else 0.0, float(stopped))
        return first_s, stops > 0

    def share(self, text: str) -> str:
        """The first device's text, on all of them."""
        if self.size == 1:
            return text
        import torch.distributed as dist

        box = [text]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def check_same(self, value: float, what: str) -> None:
        """Raises ConfigError on every device when they have not all the same value."""
        total, squares = self.add(value, value * value)
        if self.size * squares != total * total:
            raise ConfigError(f"the devices do not agree on {what}")


ALONE = Team()


def _buckets(
    parameters: Sequence[torch.nn.Parameter],
) -> Iterator[list[torch.nn.Parameter]]:
    """Runs of one dtype, of about BUCKET_VALUES values each."""
    bucket: list[torch.nn.Parameter] = []
    for parameter in parameters:
        full = sum(p.numel() for p in bucket) + parameter.numel() > BUCKET_VALUES
        if bucket and (full or parameter.dtype != bucket[0].dtype):
            yield bucket
            bucket = []
        bucket.append(parameter)
    if bucket:
        yield bucket


def device_of_this_process() -> torch.device:
    """Its own accelerator where there is one, otherwise the CPU."""
    import torch

    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


def launched() -> tuple[int, int]:
    """(rank, size) of the team that the launcher's variables name; (0, 1) without a launcher."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def team_of_this_process(wait: timedelta | None = None) -> Iterator[Team]:
    """The team that a launcher started, or this process alone. Who comes first waits for the
    others, for as long as `wait` says (by default, as torch does)."""
    if launched()[1] == 1:
        yield ALONE
        return
    import torch
    import torch.distributed as dist

    if torch.cuda.is_available():
        torch.cuda.set_device(device_of_this_process())
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo", timeout=wait)
    try:
        yield Team(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()
