"""Stored targets read as they are needed: a few windows at a time, from wherever they lie."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from moesubnet.distill.targets import Targets, TargetStore


class TargetReader:
    """The windows of all shards of a collection, in order. The files are mapped, not loaded: at
    V = 262,144 ten million tokens' targets take 15 GB."""

    def __init__(self, store: TargetStore) -> None:
        from safetensors import safe_open

        self._kind = store.spec.kind
        self._shards: list[Any] = [safe_open(path, framework="np") for path in store.shards()]
        counts = [shard.get_slice("ids").get_shape()[0] for shard in self._shards]
        self._ends = np.cumsum(counts)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def take(self, picks: NDArray[np.integer]) -> Targets:
        """The targets of windows `picks`, in that order."""
        shards = np.searchsorted(self._ends, picks, side="right")
        places = picks - np.concatenate([[0], self._ends])[shards]

        def gathered(name: str) -> NDArray[Any]:
            rows = [
                self._shards[shard].get_slice(name)[place : place + 1]
                for shard, place in zip(shards.tolist(), places.tolist(), strict=True)
            ]
            return np.concatenate(rows)

        return Targets(
            kind=self._kind,
            ids=gathered("ids"),
            label_log_p=gathered("label_log_p"),
            log_w=gathered("log_w"),
            log_m=None if self._kind == "samples" else gathered("log_m"),
            kept=None if self._kind == "full" else gathered("kept"),
        )
