"""What the mixture said about the public text, on disk: shards that are written once, whole.

A shard holds M windows of W tokens: `ids` uint32 [M, W], `label_log_p` float32 [M, W, E + 1] (each
member's log-probability of the token, then the mixture's), `log_w` float32 [M, W, E], and the
targets in one of three forms:

    full       log_m float16 [M, W, V]
    listed     kept uint32 [n], log_m float16 [n]: of each position in turn the fewest tokens that
               hold most of the mixture, `counts` uint32 [M, W] of them; `tail` float32 [M, W] is
               the mass of all others, one bucket
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

from moesubnet.host.paths import disk_errors
from moesubnet.wire.protocol import want_for

Kind = Literal["full", "listed", "samples"]
SAMPLES = 32


@dataclass(frozen=True, slots=True)
class TargetSpec:
    """What a collection depends on. Shards of another one are never mixed in."""

    kind: Kind
    kept: int  # values per position, of `listed` at most
    mass: float  # of the mixture that `listed` tokens hold, if `kept` are enough
    window: int
    windows: int
    written: int  # the last of them, which the mixture writes itself
    prefill: bool
    text_sha256: str
    spec_sha256: str
    gate_sha256: str
    experts: tuple[tuple[str, str], ...]  # (hotkey, model commitment), sorted

    @property
    def sha256(self) -> str:
        return hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()


def target_form(vocab_size: int, *, samples: bool = False) -> tuple[Kind, int, float]:
    """(kind, values kept, mass): everything of a small vocabulary, else the head of the mixture
    as experts give theirs, or labels drawn from it."""
    want = want_for(vocab_size)
    if want.kind == "full":
        return "full", vocab_size, 1.0
    return ("samples", SAMPLES, 1.0) if samples else ("listed", want.k, want.mass)


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
        with disk_errors(temporary):
            save_file(dict(tensors), temporary)
        os.replace(temporary, self.path(shard))

    def kept_mass(self) -> float:
        """Mean mass of the mixture that the targets list; 1 but for `listed`."""
        from safetensors.numpy import load_file

        if self.spec.kind != "listed":
            return 1.0
        tails = np.concatenate([load_file(path)["tail"] for path in self.shards()])
        return 1.0 - float(tails.mean(dtype=np.float64))


@dataclass(frozen=True, slots=True, eq=False)
class Targets:
    """Those of M windows, in memory; see the module's docstring."""

    kind: Kind
    ids: NDArray[np.uint32]
    label_log_p: NDArray[np.float32]
    log_w: NDArray[np.float32]
    log_m: NDArray[np.float16] | None
    kept: NDArray[np.uint32] | None
    tail: NDArray[np.float32] | None = None
    counts: NDArray[np.uint32] | None = None

    @property
    def ends(self) -> NDArray[np.int64]:
        """[M · W + 1]: where each position's listed tokens begin, and their number."""
        assert self.counts is not None
        return np.concatenate(([0], np.cumsum(self.counts, dtype=np.int64)))

    def listed(
        self,
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
        """rows [n], ids [n] and log m [n] of what is listed, where row is the position counted
        through the windows; and the tail of each position [M · W]."""
        assert self.counts is not None
        assert self.kept is not None
        assert self.log_m is not None
        assert self.tail is not None
        rows = np.repeat(np.arange(self.counts.size), self.counts.ravel())
        return rows, self.kept.astype(np.int64), self.log_m.astype(np.float32), self.tail.ravel()
