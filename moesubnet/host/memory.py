"""How much memory is free, and giving back what is not used any more."""

from __future__ import annotations

import ctypes
from pathlib import Path

import psutil


def free_memory_bytes(device: str = "cpu") -> int:
    """Of an accelerator ("cuda:1"); else of this machine, or of the container that we are in, if
    that has less."""
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.mem_get_info(torch.device(device))[0])
    free = int(psutil.virtual_memory().available)
    limit, used = (Path("/sys/fs/cgroup") / f"memory.{name}" for name in ("max", "current"))
    try:
        return min(free, int(limit.read_text()) - int(used.read_text()))
    except (OSError, ValueError):  # no such limit
        return free


def trim_memory() -> None:
    """Give freed memory back to the system. glibc keeps it: after a large batch, hundreds of MB."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
