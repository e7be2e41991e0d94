"""How a model that somebody has is trained on this machine, known before a weight is read."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moesubnet.errors import ConfigError
from moesubnet.host.memory import free_memory_bytes
from moesubnet.spec.content import LoadedSpec
from moesubnet.training.base_model import (
    Precision,
    Size,
    find_base,
    load_base,
    runs_in_bf16,
    size_of,
)
from moesubnet.training.estimate import footprint, in_words
from moesubnet.training.team import device_of_this_process

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Plan:
    """`micro_windows`: how many windows fit at once; `words`: what it takes, for people."""

    folder: Path
    lora_rank: int | None
    size: Size
    bf16: bool
    device: torch.device
    micro_windows: int
    recomputes: bool
    words: str

    def micro_batches(self, batch: int, devices: int) -> int:
        """Into how many parts a step of `batch` windows is cut."""
        return max(-(-batch // self.micro_windows), min(devices, batch))

    def load(self, seed: int) -> Any:
        """The model, ready to be trained. Raises ConfigError without peft."""
        model = load_base(
            self.folder,
            lora_rank=self.lora_rank,
            low_precision=self.bf16,
            seed=seed,
            device=self.device,
        )
        if self.recomputes:
            model.gradient_checkpointing_enable({"use_reentrant": False})
            model.enable_input_require_grads()
        return model


def plan_training(
    base: str,
    spec: LoadedSpec,
    *,
    lora_rank: int | None,
    precision: Precision,
    window: int,
    batch: int,
    processes: int,
) -> Plan:
    """How to train `base` in steps of `batch` windows; each of `processes` holds all of it, where
    they have one memory. Raises ConfigError where it does not fit, EngineError for a model of
    another subnet."""
    from moesubnet.training.head import CHUNK_LOGITS

    folder, device = find_base(base, spec), device_of_this_process()
    bf16 = runs_in_bf16(precision, device)
    size, free = size_of(folder, lora_rank), free_memory_bytes(str(device))
    needs = footprint(
        size,
        bf16=bf16,
        chunk_logits=CHUNK_LOGITS[device.type],
        window=window,
        batch=batch,
        free_bytes=free // (processes if device.type == "cpu" else 1),
        device_type=device.type,
    )
    share = size.trained / size.parameters
    words = (
        f"{base}: {size.parameters / 1e6:,.1f} M parameters, {size.trained / 1e6:,.1f} M "
        f"of them trained ({share:.1%}), in {'bf16' if bf16 else 'float32'} on {device.type}. "
        f"It will take about {in_words(needs.total_bytes)} of memory"
        + (f" in each of {processes} processes" if processes > 1 else "")
        + f"; {in_words(free)} are free."
        + (" Layers are computed twice to save memory." if needs.recomputes else "")
    )
    return Plan(folder, lora_rank, size, bf16, device, needs.micro_windows, needs.recomputes, words)


def check_apart(out: Path, base: Path) -> None:
    """Raises ConfigError where the model that training begins with would be written over."""
    if out.resolve() == base.resolve():
        raise ConfigError(f"--out is the model that is to be read, {base}: give another folder")


def check_disk(out: Path, needed_bytes: int) -> None:
    """Raises ConfigError before hours of work would end on a disk that is full. What stands in
    `out` is replaced, and so is room."""
    disk = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    held = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    if (free := shutil.disk_usage(disk).free + held) < needed_bytes:
        raise ConfigError(
            f"training writes about {in_words(needed_bytes)} to {out}, its own state and what "
            f"comes of it, and {in_words(free)} are free there: give another --out"
        )
