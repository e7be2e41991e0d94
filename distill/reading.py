"""Stored targets read as they are needed: a few windows at a time, from wherever they lie."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from moesubnet.distill.targets import Targets, TargetStore

_RAGGED = ("kept", "log_m")  # of `listed`: one position's tokens behind the other's


class TargetReader:
    """The windows of all shards of a collection, in order. The files are mapped, not loaded: at
    V = 262,144 ten million tokens' targets take some 15 GB."""

    def __init__(self, store: TargetStore) -> None:
        from safetensors import safe_open

        self._kind = store.spec.kind
        self.window = store.spec.window  # tokens
        self._shards: list[Any] = [safe_open(path, framework="np") for path in store.shards()]
        sizes = [shard.get_slice("ids").get_shape()[0] for shard in self._shards]
        self._ends = np.cumsum(sizes)
        # Where each window's tokens begin, and their number, by shard.
        self._begins = [_begins(shard) for shard in self._shards if self._kind == "listed"]

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def ids(self) -> NDArray[np.uint32]:
        """uint32 [M, W]: the text of all windows."""
        return np.concatenate([shard.get_tensor("ids") for shard in self._shards])

    def take(self, picks: NDArray[np.integer]) -> Targets:
        """The targets of windows `picks`, in that order."""
        shards = np.searchsorted(self._ends, picks, side="right")
        places = picks - np.concatenate([[0], self._ends])[shards]
        where = list(zip(shards.tolist(), places.tolist(), strict=True))

        def gathered(name: str) -> NDArray[Any] | None:
            if not self._shards or name not in self._shards[0].keys():  # noqa: SIM118 (not a dict)
                return None
            ragged = self._kind == "listed" and name in _RAGGED
            spans = (
                self._begins[shard][place : place + 2] if ragged else (place, place + 1)
                for shard, place in where
            )
            return np.concatenate(
                [
                    self._shards[shard].get_slice(name)[int(begin) : int(end)]
                    for (shard, _), (begin, end) in zip(where, spans, strict=True)
                ]
            )

        ids, label_log_p, log_w = (gathered(name) for name in ("ids", "label_log_p", "log_w"))
        assert ids is not None
        assert label_log_p is not None
        assert log_w is not None
        optional = (gathered(name) for name in ("log_m", "kept", "tail", "counts"))
        return Targets(self._kind, ids, label_log_p, log_w, *optional)


def _begins(shard: Any) -> NDArray[np.int64]:
    """int64 [M + 1], from `counts` [M, W]."""
    per_window = shard.get_tensor("counts").sum(axis=1, dtype=np.int64)
    begins: NDArray[np.int64] = np.concatenate([[0], np.cumsum(per_window)])
    return begins
