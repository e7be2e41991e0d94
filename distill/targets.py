"""What the mixture said about the public text, on disk: shards that are written once, whole.

A shard holds M windows of W tokens: `ids` uint32 [M, W], `label_log_p` float32 [M, W, E + 1] (each
member's log-probability of the token, then the mixture's), `log_w` float32 [M, W, E], and the
targets in one of three forms:

    full       log_m float16 [M, W, V]
    top_k      kept uint32 [M, W, k], log_m float16 [M, W, k]; the rest is one tail bucket
    samples    kept uint32 [M, W, n]: labels drawn from the mixture
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from moesubnet.wire.protocol import Want

Kind = Literal["full", "top_k", "samples"]
FULL_VOCAB_SIZE = 8_192
TOP_K = 256
SAMPLES = 32


@dataclass(frozen=True, slots=True)
class TargetSpec:
    """What a collection depends on. Shards of another one are never mixed in."""

    kind: Kind
    kept: int  # values per position
    window: int
    windows: int
    prefill: bool
    text_sha256: str
    spec_sha256: str
    gate_sha256: str
    experts: tuple[tuple[str, str], ...]  # (hotkey, model commitment), sorted

    @property
    def sha256(self) -> str:
        return hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()


def target_form(vocab_size: int, *, samples: bool = False) -> tuple[Kind, int]:
    """(kind, values kept): everything of a small vocabulary, else the head or drawn labels."""
    if vocab_size <= FULL_VOCAB_SIZE:
        return "full", vocab_size
    return ("samples", SAMPLES) if samples else ("top_k", TOP_K)


def target_want(vocab_size: int) -> Want:
    """What to ask experts for. Labels are drawn from what their heads say of the mixture."""
    return Want("full") if vocab_size <= FULL_VOCAB_SIZE else Want("top_k", TOP_K)


class TargetStore:
    """The shards of one TargetSpec under a folder."""

    def __init__(self, root: Path, spec: TargetSpec) -> None:
        self.root = root
        self.spec = spec
        root.mkdir(parents=True, exist_ok=True)

    def path(self, shard: int) -> Path:
        return self.root / f"{self.spec.sha256[:12]}-{shard:05d}.safetensors"

    def shards(self) -> list[Path]:
        return sorted(self.root.glob(f"{self.spec.sha256[:12]}-*.safetensors"))

    def write(self, shard: int, tensors: Mapping[str, NDArray[Any]]) -> None:
        """Whole or not at all."""
        from safetensors.numpy import save_file

        temporary = self.path(shard).with_suffix(".tmp")
        save_file(dict(tensors), temporary)
        os.replace(temporary, self.path(shard))

    def kept_mass(self) -> float:
        """Mean mass of the mixture that the targets list; 1 but for top_k."""
        from safetensors.numpy import load_file

        if self.spec.kind != "top_k":
            return 1.0
        heads = (load_file(path)["log_m"].astype(np.float32) for path in self.shards())
        means = [(len(log_m), np.exp(log_m).sum(-1).mean()) for log_m in heads]
        return float(sum(n * mean for n, mean in means) / sum(n for n, _ in means))


@dataclass(frozen=True, slots=True, eq=False)
class Targets:
    """All shards of a collection in memory; see the module's docstring. M = all windows."""

    kind: Kind
    ids: NDArray[np.uint32]
    label_log_p: NDArray[np.float32]
    log_w: NDArray[np.float32]
    log_m: NDArray[np.float16] | None
    kept: NDArray[np.uint32] | None

    @classmethod
    def load(cls, store: TargetStore) -> Targets:
        from safetensors.numpy import load_file

        parts = [load_file(path) for path in store.shards()]

        def joined(name: str) -> NDArray[Any]:
            return np.concatenate([part[name] for part in parts])

        kind = store.spec.kind
        return cls(
            kind=kind,
            ids=joined("ids"),
            label_log_p=joined("label_log_p"),
            log_w=joined("log_w"),
            log_m=None if kind == "samples" else joined("log_m"),
            kept=None if kind == "full" else joined("kept"),
        )
