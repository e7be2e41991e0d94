"""What a training run will take, before it takes it."""

from __future__ import annotations

from dataclasses import dataclass

from moesubnet.errors import ConfigError
from moesubnet.training.base_model import Size

ADAM_VALUES = 4  # of each trained value: itself, its gradient, two moments; all float32
CHUNK_COPIES = 3  # of a chunk of logits: themselves, their softmax, its gradient
TOKEN_COPIES = 1.5  # of what linear layers read and write: norms, activations, residuals
LIBRARIES_BYTES = 700 << 20
MOST_MICRO_TOKENS = {"cpu": 2_048, "cuda": 32_768}  # more at once is not faster
FREE_SHARE = 0.9


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes of a run, and how its steps are cut so that they fit."""

    fixed_bytes: int  # weights, gradients, optimizer, a chunk of logits
    micro_bytes: int  # of one micro-batch
    micro_windows: int
    recomputes: bool  # layers are computed again in the backward pass instead of kept

    @property
    def total_bytes(self) -> int:
        return self.fixed_bytes + self.micro_bytes


def footprint(
    size: Size,
    *,
    bf16: bool,
    chunk_logits: int,
    window: int,
    batch: int,
    free_bytes: int,
    device_type: str,
) -> Footprint:
    """How to train within `free_bytes`: as many of the step's `batch` windows at once as fit, and
    where not even one does, with layers recomputed. Raises ConfigError where nothing fits."""
    is_adapter = size.trained < size.parameters
    frozen_bytes = (2 if bf16 else 4) * (size.parameters if is_adapter else 0)
    copied_bytes = 2 * size.parameters if bf16 and not is_adapter else 0  # autocast's
    fixed = LIBRARIES_BYTES + frozen_bytes + copied_bytes + 4 * ADAM_VALUES * size.trained
    fixed += 4 * CHUNK_COPIES * chunk_logits
    if not is_adapter:
        fixed += 8 * size.head  # its gradient, and a chunk's, before it joins the embedding's
    value_bytes = 2 if bf16 else 4
    fixed += value_bytes * size.rebuilt
    cast_bytes = 4 if bf16 and is_adapter else 0  # adapters read and write float32
    kept = round((TOKEN_COPIES * value_bytes + cast_bytes) * size.token_values * window)
    recomputed = kept // size.layers + value_bytes * size.hidden * size.layers * window
    room = round(FREE_SHARE * free_bytes) - fixed
    for one_window, recomputes in ((kept, False), (recomputed, True)):
        if one_window <= room:
            most = min(batch, room // one_window, MOST_MICRO_TOKENS[device_type] // window)
            return Footprint(fixed, one_window * max(1, most), max(1, most), recomputes)
    raise ConfigError(
        f"training needs about {in_words(fixed + recomputed)} of memory, and "
        f"{in_words(free_bytes)} are free: "
        + (
            "take shorter windows (--window) or a smaller model"
            if is_adapter
            else "train an adapter (--lora 16), or a smaller model"
        )
    )


def disk_bytes(size: Size, *, writes_whole: bool) -> int:
    """What a run has on its disk at most: its state twice, while a new one replaces the old one,
    or once and, at the end, an adapter or the whole model."""
    state = 4 * (ADAM_VALUES - 1) * size.trained  # all but the gradient
    return max(2 * state, state + 4 * (size.parameters if writes_whole else size.trained))


def in_words(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:.1f} GB"


def duration_in_words(seconds: float) -> str:
    for unit, unit_s in (("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * unit_s:
            return f"{seconds / unit_s:.0f} {unit}"
    return f"{seconds:.0f} seconds"


def time_in_words(steps: int, tokens: int, step_s: float, seconds: float | None) -> str:
    """How long `steps` will take, and how far `seconds` will reach."""
    text = f"{steps} steps over {tokens:,} tokens: about {duration_in_words(steps * step_s)} here."
    if seconds is not None and steps * step_s > seconds:
        text += f" --seconds ends it after {seconds / (steps * step_s):.0%} of them."
    return text
