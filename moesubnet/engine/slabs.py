"""Keys and values of sequences, kept so that transformers models attend over them in place.

A slab holds the sequences of one pass as rows that all end in the same column, shorter ones
padded on the left. This is how batches of `generate` look, so a model makes its own masks (sliding
windows, chunks, position biases), and the next token of all of them is written into one column:
no copying per step. Only when other sequences go together are rows moved, into a slab of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from transformers.cache_utils import Cache, DummyLayer, DynamicLayer, DynamicSlidingWindowLayer

from moesubnet.engine.plans import Held, Home, Plan, Slab, columns, stays

PROBE_WINDOW = 8


@dataclass(slots=True)
class View:
    """What the next pass reads and writes: rows lo … hi-1, columns cut … end-1 of a slab.

    The last `width` of these columns are the pass's own tokens.
    """

    slab: Slab | None = None
    lo: int = 0
    hi: int = 0
    cut: int = 0
    end: int = 0
    width: int = 0


class SlabLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """One layer of the view. A sliding one shows its window and keeps all, for rolling back."""

    def __init__(self, index: int, view: View, window: int | None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.index, self.view, self.window = index, view, window
        self.is_sliding = window is not None
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """key_states, value_states: [batch, heads, width, dim]."""
        view = self.view
        assert view.slab is not None
        keys, values = (pool[view.lo : view.hi] for pool in view.slab.pairs[self.index])
        keys[:, :, view.end - view.width : view.end] = key_states
        values[:, :, view.end - view.width : view.end] = value_states
        first = view.cut + self.get_mask_sizes(view.width)[1]
        return keys[:, :, first : view.end], values[:, :, first : view.end]

    def get_seq_length(self) -> int:
        return self.view.end - self.view.width - self.view.cut

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """(columns shown, columns left out before them), as `DynamicSlidingWindowLayer` has it."""
        before = self.get_seq_length()
        hidden = 0 if self.window is None else max(before - self.window + 1, 0)
        return before + query_length - hidden, hidden


class SlabPool:
    """The slabs of a model's sequences. Knows no sessions.

    like: the layers of the model's own cache after a pass: attention, full or sliding (see
    `attends`). Attributes: position_bytes, what one token of one sequence takes; bytes, held now.
    """

    def __init__(self, like: Sequence[Any], context_tokens: int) -> None:
        self.view = View()
        self.bytes = 0
        self._context_tokens = context_tokens
        self._like: list[tuple[torch.Tensor, torch.Tensor]] = []
        layers: list[Any] = []
        for layer in like:
            if layer.keys is None:  # it reads another layer's, or attends to nothing
                layers.append(type(layer)())
                continue
            layers.append(SlabLayer(len(self._like), self.view, window_of(layer)))
            self._like.append((layer.keys, layer.values))
        self.cache = Cache(layers=layers)
        self.position_bytes = sum(
            t.shape[1] * t.shape[3] * t.element_size() for pair in self._like for t in pair
        )
        self._slabs: list[Slab] = []

    def bytes_for(self, group: Sequence[Plan]) -> int:
        """What placing these will newly take."""
        if stays(group):
            return 0
        return len(group) * self._capacity(group) * self.position_bytes

    def place(self, group: Sequence[Plan]) -> torch.Tensor | None:
        """Point the view at a pass, moving its rows if need be; bool [batch, columns] of padding.

        Sets each plan's `base` so that all feed the same number of tokens: the model computes
        some again rather than padding between what is held and what is new. A base below 0 is
        padding before the text. None where no row is padded.
        """
        width = max(plan.count for plan in group)
        for plan in group:
            plan.base = len(plan.tokens) - width
        if not stays(group):
            self._move([plan.held for plan in group], self._capacity(group), group)
        homes = [plan.held.home for plan in group if plan.held.home is not None]
        starts = [home.start for home in homes]
        view = self.view
        view.slab, view.lo, view.hi = homes[0].slab, homes[0].row, homes[-1].row + 1
        view.cut, view.end, view.width = min(starts), group[0].end, width
        if all(start == view.cut for start in starts):
            return None
        return torch.arange(view.cut, view.end) >= torch.tensor(starts)[:, None]

    def release(self, held: Held) -> None:
        """Forget a sequence; a plan that wanted to build on it finds it empty."""
        held.tokens = held.tokens[:0]
        self._leave(held)

    def _leave(self, held: Held) -> None:
        home, held.home = held.home, None
        if home is None:
            return
        home.slab.rows[home.row] = None
        if not home.slab.live:
            self._slabs.remove(home.slab)
            self.bytes -= self._bytes(home.slab)

    def repack(self) -> bool:
        """Move what lives in a slab that is less than half alive; False if there is none."""
        for slab in self._slabs:
            if 2 * slab.live < len(slab.rows):
                survivors = [held for held in slab.rows if held is not None]
                self._move(survivors, slab.capacity)
                return True
        return False

    def _capacity(self, group: Sequence[Plan]) -> int:
        return min(columns(max(len(plan.tokens) for plan in group)), self._context_tokens)

    def _move(self, rows: list[Held], capacity: int, group: Sequence[Plan] = ()) -> None:
        """Give `rows` a slab: the pass `group` with what it builds on, else just as they are."""
        like = self._like
        slab = Slab(
            [(_zeros(k, len(rows), capacity), _zeros(v, len(rows), capacity)) for k, v in like],
            list(rows),
            capacity,
        )
        self._slabs.append(slab)
        self.bytes += self._bytes(slab)
        longest = max((len(plan.tokens) for plan in group), default=0)
        homes = []
        for row, held in enumerate(rows):
            source, length = held.home, len(held.tokens)
            start = 0 if source is None else source.start
            if group:
                source, length = group[row].source.home, max(0, group[row].base)
                start = longest - len(group[row].tokens)
            if source is not None and length:
                _copy(source, slab, row, start, length)
            homes.append(Home(slab, row, start))
        for held, home in zip(rows, homes, strict=True):  # after all copies: a source may be here
            self._leave(held)
            held.home = home

    def _bytes(self, slab: Slab) -> int:
        return len(slab.rows) * slab.capacity * self.position_bytes


def window_of(layer: Any) -> int | None:
    return layer.sliding_window if layer.is_sliding else None


def attends(layer: Any) -> bool:
    """Whether a layer of a model's cache is attention, over all or a window, or nothing at all."""
    return type(layer) in (DynamicLayer, DynamicSlidingWindowLayer, DummyLayer)


@contextmanager
def short_windows(model: Any, pool: SlabPool) -> Iterator[None]:
    """Sliding windows and chunks of PROBE_WINDOW tokens, in the model and its layers alike.

    So a few tokens go beyond them. Models make their masks from their config at every pass; one
    that does not merely keeps its own window, here and there.
    """
    config = model.config.get_text_config(decoder=True)
    names = ("sliding_window", "attention_chunk_size")
    own = {name: window for name in names if (window := getattr(config, name, None)) is not None}
    layers = [layer for layer in pool.cache.layers if isinstance(layer, SlabLayer)]
    sliding = {layer: layer.window for layer in layers if layer.window}
    try:
        for name in own:
            setattr(config, name, PROBE_WINDOW)
        for layer in sliding:
            layer.window = PROBE_WINDOW
        yield
    finally:
        for name, window in own.items():
            setattr(config, name, window)
        for layer, window in sliding.items():
            layer.window = window


def _copy(source: Home, slab: Slab, row: int, start: int, length: int) -> None:
    begin = source.start
    for old, new in zip(source.slab.pairs, slab.pairs, strict=True):
        for a, b in zip(old, new, strict=True):
            b[row, :, start : start + length] = a[source.row, :, begin : begin + length]


def _zeros(like: torch.Tensor, rows: int, capacity: int) -> torch.Tensor:
    """Zeroed [rows, heads, capacity, dim]. On a CPU, memory is taken only when first written."""
    shape = (rows, like.shape[1], capacity, like.shape[3])
    if like.device.type != "cpu":
        return torch.zeros(shape, dtype=like.dtype, device=like.device)
    # numpy asks for pages that the system zeroes on first touch; torch would touch them all.
    raw = torch.from_numpy(np.zeros(prod(shape) * like.element_size(), dtype=np.uint8))
    return raw.view(like.dtype).view(shape)
