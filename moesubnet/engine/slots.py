"""A static pool of key-value slots, one per session, that transformers models attend over.

A batch whose slots are neighbours reads and writes the pool in place: no concatenation and no
gathering per step, which is most of the cost of stepping many short sequences.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from transformers.cache_utils import Cache, DynamicLayer


@dataclass(slots=True)
class Window:
    """Where the next forward pass reads and writes; shared by all layers.

    slots lo … hi-1, key positions 0 … end-1. `base` is where all rows write when they are even;
    otherwise `positions` [batch, tokens] says it per row (then the caller brings a 4-d mask).
    """

    lo: int = 0
    hi: int = 0
    base: int = 0
    end: int = 0
    positions: torch.Tensor | None = None


class SlotLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """One layer's keys and values [slots, heads, capacity, dim], seen through the window."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, window: Window) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.all_keys, self.all_values, self.window = keys, values, window
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """key_states, value_states: [batch, heads, tokens, dim]."""
        window = self.window
        keys = self.all_keys[window.lo : window.hi]
        values = self.all_values[window.lo : window.hi]
        if window.positions is None:
            keys[:, :, window.base : window.end] = key_states
            values[:, :, window.base : window.end] = value_states
        else:
            rows = torch.arange(len(keys), device=keys.device)[:, None]
            keys[rows, :, window.positions] = key_states.transpose(1, 2)
            values[rows, :, window.positions] = value_states.transpose(1, 2)
        return keys[:, :, : window.end], values[:, :, : window.end]

    def get_seq_length(self) -> int:
        return self.window.base

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.window.base + query_length, 0


class SlotPool:
    """`slots` sequences of up to `capacity` positions. Hands out slots; knows no sessions.

    like: one (keys, values) pair per layer, each [1, heads, any, dim], for shape, dtype and device.
    """

    def __init__(
        self,
        like: Sequence[tuple[torch.Tensor, torch.Tensor]],
        capacity: int,
        budget_bytes: int,
    ) -> None:
        slot_bytes = capacity * sum(
            t.shape[1] * t.shape[3] * t.element_size() for pair in like for t in pair
        )
        self.slots = max(1, budget_bytes // slot_bytes)
        self.window = Window()
        self.free = np.ones(self.slots, dtype=bool)
        shape = (self.slots, capacity)
        self.layers = [
            SlotLayer(_zeros(key, *shape), _zeros(value, *shape), self.window)
            for key, value in like
        ]
        self.cache = Cache(layers=list(self.layers))

    def take(self, count: int) -> list[int]:
        """`count` free slots (the caller made sure that there are), neighbours if possible."""
        lo = self._free_run(count)
        taken = np.flatnonzero(self.free)[:count] if lo is None else np.arange(lo, lo + count)
        self.free[taken] = False
        return [int(slot) for slot in taken]

    def gather(self, slots: Sequence[int], length: int) -> int | None:
        """Move the first `length` positions of `slots` into neighbouring slots.

        Returns the first of the new slots, or None when there is no room side by side.
        """
        lo = self._free_run(len(slots))
        if lo is None:
            return None
        old = torch.tensor(slots)
        for layer in self.layers:
            for pool in (layer.all_keys, layer.all_values):
                pool[lo : lo + len(slots), :, :length] = pool[old, :, :length]
        self.free[slots] = True
        self.free[lo : lo + len(slots)] = False
        return lo

    def _free_run(self, count: int) -> int | None:
        """The first of the lowest `count` neighbouring free slots."""
        ends = np.concatenate(([0], np.cumsum(self.free)))
        starts = np.flatnonzero(ends[count:] - ends[:-count] == count)
        return int(starts[0]) if len(starts) else None


def _zeros(like: torch.Tensor, slots: int, capacity: int) -> torch.Tensor:
    """Zeroed [slots, heads, capacity, dim]. On a CPU, memory is taken only when first written."""
    shape = (slots, like.shape[1], capacity, like.shape[3])
    if like.device.type != "cpu":
        return torch.zeros(shape, dtype=like.dtype, device=like.device)
    # numpy asks for pages that the system zeroes on first touch; torch would touch them all.
    raw = torch.from_numpy(np.zeros(prod(shape) * like.element_size(), dtype=np.uint8))
    return raw.view(like.dtype).view(shape)
